//! Resolves `needs`: `tile`, `tile[3]`, `tile[0-9]`, `tile[{index}]`, `tile[{index}-1]`,
//! `tile[NA3]`, `tile[sample={sample}]`, with an optional condition as a prefix or a separate
//! field.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::ResolveContext;
use super::drafts::{Draft, Drafts, NeedView};
use super::links::Links;
use super::offsets::{self, Offset, OffsetError};
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::job::diagnostic::{Diagnostic, Findings, closest, suggest};
use crate::job::read::Span;
use crate::job::selector::Selector;
use crate::job::template::{Element, Placeholder, StringKind, Template, compile};
use crate::job::units::{IndexSet, shorten};
use crate::job::values::{When, WordValue};

/// Maximum number of edges from one entry of `needs`.
const MAX_EDGES: u64 = 100_000_000;

/// Maximum number of listed pairs per entry, to bound its memory.
const MAX_PAIRS: usize = 16_000_000;

/// The parts of a need.
#[derive(Debug, PartialEq)]
struct Parts<'a> {
    condition: Option<&'a str>,
    name: &'a str,
    bracket: Option<&'a str>,
}

/// Splits `afterany:tile[3]` into its parts.
fn split(text: &str) -> Result<Parts<'_>, String> {
    let (head, bracket) = match text.split_once('[') {
        Some((head, tail)) => {
            let inside = tail.strip_suffix(']').ok_or("the bracket is not closed")?;
            (head, Some(inside))
        }
        None if text.contains(']') => return Err("a bracket closes that was not opened".into()),
        None => (text, None),
    };
    let (condition, name) = match head.split_once(':') {
        Some((condition, name)) => (Some(condition.trim()), name.trim()),
        None => (None, head.trim()),
    };
    if name.is_empty() {
        return Err("it names no task".into());
    }
    if name.contains([',', ' ']) {
        return Err("write several tasks as a list: needs = [\"a\", \"b\"]".into());
    }
    Ok(Parts { condition, name, bracket })
}

/// The name of the task that a need is about, if it can be read.
pub(super) fn name_in(need: &str) -> Option<&str> {
    split(need).ok().map(|parts| parts.name)
}

/// Resolves the needs of a group's tasks.
pub(super) fn resolve_needs(
    to: GroupId,
    drafts: &Drafts,
    by_name: &FxHashMap<&str, GroupId>,
    context: &ResolveContext<'_>,
    links: &mut Links,
    findings: &mut Findings,
) {
    let of_job = context.to.and_then(|to| to.names);
    let mut resolver = NeedsResolver { drafts, by_name, of_job, to, links, findings };
    drafts.get(to).notes.needs.iter().for_each(|need| resolver.need(&need.view(context.text)));
}

struct NeedsResolver<'a> {
    drafts: &'a Drafts,
    by_name: &'a FxHashMap<&'a str, GroupId>,
    /// The tables of the job to which the tasks are added.
    of_job: Option<&'a FxHashMap<Arc<str>, GroupId>>,
    to: GroupId,
    links: &'a mut Links,
    findings: &'a mut Findings,
}

impl<'a> NeedsResolver<'a> {
    fn draft(&self, group: GroupId) -> Draft<'a> {
        self.drafts.get(group)
    }

    fn names_of_job(&self) -> impl Iterator<Item = &'a str> {
        self.of_job.into_iter().flat_map(|names| names.keys().map(|name| &**name))
    }

    fn need(&mut self, need: &NeedView<'_>) {
        let (text, span) = (need.text, &need.span);
        let parts = match split(text) {
            Ok(parts) => parts,
            Err(reason) => {
                let message = format!("{:?} in `needs` cannot be read: {reason}", shorten(text));
                self.findings.push(
                    Diagnostic::error(message)
                        .at(&need.text_span)
                        .help("write \"tile\", \"tile[3]\" or \"afterany:tile\""),
                );
                return;
            }
        };
        let (Some(when), Some(from)) = (self.when(&parts, need), self.find(&parts, &need.text_span)) else { return };
        if self.draft(from).notes.broken || self.draft(self.to).notes.broken {
            return;
        }
        let Some(shapes) = self.shapes(from, when, &parts, &need.text_span) else { return };
        let on = match when {
            When::Ok | When::Corresponding => Condition::Ok,
            When::NotOk => Condition::NotOk,
            When::Any => Condition::Any,
        };
        for shape in shapes {
            let link = Link { from, to: self.to, shape, on, bytes: 0, span: span.clone() };
            if let Some(earlier) = self.links.add_need(link) {
                self.findings.push(
                    Diagnostic::error(format!("this task needs `{}` both to succeed and not to succeed", parts.name))
                        .at(span)
                        .label(&earlier, "against this")
                        .help("to start after either end, write `afterany` once"),
                );
                return;
            }
        }
    }

    fn when(&mut self, parts: &Parts<'_>, need: &NeedView<'_>) -> Option<When> {
        match (parts.condition, need.when) {
            (None, None) => Some(When::Ok),
            (None, Some(when)) => Some(when.value.0),
            (Some(_), Some(when)) => {
                self.findings.push(
                    Diagnostic::error("the condition is given twice")
                        .label(&when.span, "here")
                        .label(&need.text_span, "and here"),
                );
                None
            }
            (Some(word), None) => {
                let found = When::WORDS.iter().find(|(name, ..)| *name == word).map(|(_, when, _)| *when);
                if found.is_none() {
                    let words: Vec<&str> = When::WORDS.iter().map(|(word, ..)| *word).collect();
                    let help = match words.contains(&parts.name) {
                        true => format!("the condition comes first: \"{}:{word}\"", parts.name),
                        false => suggest(word, &words, "conditions"),
                    };
                    let message = format!("unknown condition `{}`", shorten(word));
                    self.findings.push(Diagnostic::error(message).at(&need.text_span).help(help));
                }
                found
            }
        }
    }

    fn find(&mut self, parts: &Parts<'_>, span: &Span) -> Option<GroupId> {
        if let Some(id) = self.by_name.get(parts.name) {
            return Some(*id);
        }
        // Comparing with all names is slow in large files, so skip it when no further advice is
        // shown.
        if self.findings.is_full() {
            return None;
        }
        let name = shorten(parts.name);
        let help = if parts.name.contains('{') {
            "the name of a task contains no placeholder; choose an element in brackets: \"tile[{index}]\"".to_string()
        } else if let Some(meant) = closest(parts.name, self.by_name.keys().copied().chain(self.names_of_job())) {
            format!("did you mean `{meant}`?")
        } else {
            const LISTED: usize = 40;
            let mut of_job: Vec<_> = self.of_job.into_iter().flatten().map(|(name, group)| (*group, &**name)).collect();
            of_job.retain(|(_, name)| !self.by_name.contains_key(name));
            of_job.sort_unstable();
            let mut names: Vec<&str> = self.drafts.iter().take(LISTED).map(|draft| &*draft.group.name).collect();
            names.extend(of_job.iter().take(LISTED).map(|(_, name)| name));
            names.retain(|name| !name.is_empty());
            names.dedup();
            suggest(&name, &names, "tasks")
        };
        self.findings.push(Diagnostic::error(format!("there is no task called `{name}`")).at(span).help(help));
        None
    }

    fn shapes(&mut self, from: GroupId, when: When, parts: &Parts<'_>, span: &Span) -> Option<Vec<LinkShape>> {
        let bracket = match (parts.bracket, when) {
            (None, When::Corresponding) => "{index}",
            (None, _) if from == self.to => return self.refuse_self(span),
            (None, _) => return Some(vec![LinkShape::All]),
            (Some(_), When::Corresponding) => {
                let message = "`aftercorr` already means the element with the same index";
                self.findings
                    .push(Diagnostic::error(message).at(span).help(format!("write \"aftercorr:{}\"", parts.name)));
                return None;
            }
            (Some(bracket), _) => bracket,
        };
        if !self.draft(from).group.indexed {
            self.findings.push(
                Diagnostic::error(format!("`{}` is neither an array nor a matrix, so it has no elements", parts.name))
                    .at(span)
                    .label(&self.draft(from).notes.name.span(), "it is defined here")
                    .help(format!("write \"{}\"", parts.name)),
            );
            return None;
        }
        if !self.draft(self.to).group.indexed {
            return self.fixed(from, bracket, span);
        }
        if bracket.split(',').any(|part| Offset::read(part).is_some()) {
            return self.at_distances(from, bracket, span);
        }
        let template = compile((bracket, span), StringKind::Plain, self.draft(self.to).body.space(), self.findings);
        match template.constant() {
            Some(set) => self.fixed(from, set, span),
            None => self.element_wise(from, &template, span),
        }
    }

    /// Elements at a distance, possibly with others: `tile[{index}-1]`,
    /// `tile[{index}-2,{index}-1]`.
    fn at_distances(&mut self, from: GroupId, bracket: &str, span: &Span) -> Option<Vec<LinkShape>> {
        let mut shapes = Vec::new();
        for part in bracket.split(',') {
            let Some(offset) = Offset::read(part) else {
                let others =
                    self.shapes(from, When::Ok, &Parts { condition: None, name: "", bracket: Some(part) }, span)?;
                shapes.extend(others);
                continue;
            };
            let (source, target) = (self.draft(from), self.draft(self.to));
            let space = target.body.space();
            let template = compile((offset.placeholder, span), StringKind::Plain, space, self.findings);
            let Some(what) = template.sole().filter(|what| *what != Placeholder::Name) else {
                return self.fixed(from, part, span);
            };
            if from == self.to && offset.by == 0 {
                return self.refuse_self(span);
            }
            if space.len() > MAX_PAIRS as u64 {
                return self.refuse_size(span);
            }
            match offsets::pairs((source.body.space(), space), what, offset.by) {
                // No dependency: every element is too close to the end.
                Ok(pairs) if pairs.is_empty() => {}
                Ok(pairs) => shapes.push(LinkShape::Pairs(pairs)),
                Err(problem) => return self.refuse_offset(from, &offset, problem, span),
            }
        }
        Some(shapes)
    }

    fn refuse_offset<T>(&mut self, from: GroupId, offset: &Offset<'_>, problem: OffsetError, span: &Span) -> Option<T> {
        let (source, target) = (self.draft(from), self.draft(self.to));
        let (name, placeholder) = (&source.group.name, offset.placeholder);
        let (message, help) = match problem {
            OffsetError::NotWhole(value) => (
                format!("`{placeholder}` is not always a whole number, so nothing can be added to it: {value}"),
                "number the values along this axis, or write `{index}`".to_string(),
            ),
            OffsetError::Gap { element, wanted } => {
                let own = target.body.space().index(element).unwrap_or(0);
                (
                    format!("`{}[{own}]` needs `{name}` at {wanted}, which does not exist", target.group.name),
                    format!("add or subtract the distance between neighbours, as in `[{placeholder}-10]` for 0-100:10"),
                )
            }
            OffsetError::Value { element, axis } => (
                format!(
                    "`{}[{}]` has a value along `{axis}` that `{name}` does not have",
                    target.group.name,
                    target.body.space().index(element).unwrap_or(0)
                ),
                format!("give `{axis}` the same values in both, or need elements of `{name}` by `{{index}}`"),
            ),
            OffsetError::Axis(axis) => (
                format!("`{name}` also has the axis `{axis}`, so `{placeholder}` does not say which task is meant"),
                format!("give this task the axis `{axis}`, or need elements of `{name}` by `{{index}}`"),
            ),
        };
        let place = source.notes.space.span();
        self.findings.push(Diagnostic::error(message).at(span).label(&place, "its elements are these").help(help));
        None
    }

    fn refuse_self<T>(&mut self, span: &Span) -> Option<T> {
        let name = &self.draft(self.to).group.name;
        self.findings.push(
            Diagnostic::error(format!("`{name}` needs itself, so it could never start"))
                .at(span)
                .help("remove this entry, or name the task that was meant"),
        );
        None
    }

    /// The same elements for every task: `tile[3]`, `tile[0-9]`.
    fn fixed(&mut self, from: GroupId, text: &str, span: &Span) -> Option<Vec<LinkShape>> {
        if text.contains('{') {
            let to = self.draft(self.to).group;
            let help = match to.indexed {
                false => format!("`{}` is neither an array nor a matrix, so it has no `{{index}}`", to.name),
                true if text.contains("{index-") || text.contains("{index+") => {
                    "an offset follows the braces: `{index}-1`, `{index}+1`".to_string()
                }
                true => "the placeholders here are `{index}` and the axes of this task".to_string(),
            };
            let message = format!("`{}` in brackets is unknown", shorten(text));
            self.findings.push(Diagnostic::error(message).at(span).help(help));
            return None;
        }
        let space = self.draft(from).body.space();
        let is_too_much = |count: u64, to: &Draft<'_>| count.saturating_mul(u64::from(to.group.count)) > MAX_EDGES;
        let elements = match Selector::new(space).filter(|_| IndexSet::parse(text).is_err()) {
            Some(selector) => self.by_values(from, &selector, text, span)?,
            None => {
                let set = self.indices(text, span)?;
                if set == space.indices() {
                    return if from == self.to { self.refuse_self(span) } else { Some(vec![LinkShape::All]) };
                }
                if is_too_much(set.len(), &self.draft(self.to)) {
                    return self.refuse_size(span);
                }
                let mut elements = Vec::new();
                for index in set.iter() {
                    match space.element(index) {
                        Some(element) => elements.push(element),
                        None => return self.refuse_index(from, index, None, span),
                    }
                }
                elements
            }
        };
        if is_too_much(elements.len() as u64, &self.draft(self.to)) {
            return self.refuse_size(span);
        }
        match (from == self.to, self.draft(self.to).group.count) {
            // Every element of the group is also one of the tasks that need it.
            (true, _) => self.refuse_self(span),
            (false, 1) => Some(vec![LinkShape::Pairs(elements.into_iter().map(|element| (element, 0)).collect())]),
            (false, _) => Some(elements.into_iter().map(LinkShape::One).collect()),
        }
    }

    /// Elements that depend on the index or axes of the task: `tile[{index}]`.
    fn element_wise(&mut self, from: GroupId, template: &Template, span: &Span) -> Option<Vec<LinkShape>> {
        let (source, target) = (self.draft(from), self.draft(self.to));
        let own_index = template.sole() == Some(Placeholder::Index);
        if own_index && source.body.space().indices() == target.body.space().indices() {
            return if from == self.to { self.refuse_self(span) } else { Some(vec![LinkShape::Each]) };
        }
        let mut pairs = Vec::new();
        let selector = Selector::new(source.body.space());
        for number in 0..target.group.count {
            let element = Element { name: &target.group.name, space: target.body.space(), number };
            let text = template.fill_brackets(element);
            let elements = match selector.as_ref().filter(|_| IndexSet::parse(&text).is_err()) {
                Some(selector) => self.by_values(from, selector, &text, span)?,
                None => {
                    let mut elements = Vec::new();
                    for index in self.indices(&text, span)?.iter() {
                        match source.body.space().element(index) {
                            Some(needed) => elements.push(needed),
                            None => return self.refuse_index(from, index, target.body.space().index(number), span),
                        }
                        if pairs.len() + elements.len() > MAX_PAIRS {
                            return self.refuse_size(span);
                        }
                    }
                    elements
                }
            };
            if from == self.to && elements.contains(&number) {
                return self.refuse_self(span);
            }
            pairs.extend(elements.into_iter().map(|needed| (needed, number)));
            if pairs.len() > MAX_PAIRS {
                return self.refuse_size(span);
            }
        }
        Some(vec![LinkShape::Pairs(pairs)])
    }

    /// Elements of a matrix by their values: `align[NA3]`, `align[sample=NA3]`.
    fn by_values(&mut self, from: GroupId, selector: &Selector<'_>, text: &str, span: &Span) -> Option<Vec<u32>> {
        let found = selector.elements(text);
        found
            .map_err(|reason| {
                let source = self.draft(from);
                let name = &source.group.name;
                let message = format!("`{name}[{}]` does not exist: {reason}", shorten(text));
                let help = match crate::job::scalar::is_identifier(text.trim()) {
                    true => format!("for the value of a placeholder write `[{{{}}}]`", text.trim()),
                    false => "in brackets stand indices or values: [3], [0-9], [{index}], [AXIS=VALUE]".to_string(),
                };
                let place = source.notes.space.span();
                let error = Diagnostic::error(message).at(span).label(&place, "its elements are these").help(help);
                self.findings.push(error);
            })
            .ok()
    }

    fn indices(&mut self, text: &str, span: &Span) -> Option<IndexSet> {
        match IndexSet::parse(text) {
            Ok(set) => Some(set),
            Err(error) => {
                let help = match crate::job::scalar::is_identifier(text.trim()) {
                    true => format!("for the value of a placeholder write `[{{{}}}]`", text.trim()),
                    false => "in brackets stand indices: [3], [0-9] or [{index}]".to_string(),
                };
                self.findings.push(Diagnostic::error(error.to_string()).at(span).help(help));
                None
            }
        }
    }

    fn refuse_index<T>(&mut self, from: GroupId, index: u64, by: Option<u64>, span: &Span) -> Option<T> {
        let (source, target) = (self.draft(from), self.draft(self.to));
        let name = &source.group.name;
        let message = match by {
            Some(own) => format!("`{}[{own}]` needs `{name}[{index}]`, which does not exist", target.group.name),
            None => format!("`{name}` has no element with the index {index}"),
        };
        self.findings.push(
            Diagnostic::error(message)
                .at(span)
                .label(
                    &source.notes.space.span(),
                    format!("its indices are {}", shorten(&source.body.space().indices().to_string())),
                )
                .help(match by {
                    Some(_) => {
                        "element by element, every index here must exist there; values are `[AXIS=VALUE]`".to_string()
                    }
                    None => "indices are those of `array`, or for a matrix count from 0; values are `[AXIS=VALUE]`"
                        .to_string(),
                }),
        );
        None
    }

    fn refuse_size<T>(&mut self, span: &Span) -> Option<T> {
        let message = "this entry stands for too many single dependencies";
        let help = "need the whole array (\"tile\") or the same element (\"tile[{index}]\")";
        self.findings.push(Diagnostic::error(message).at(span).help(help));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_taken_apart() {
        let parts = |condition, name, bracket| Ok(Parts { condition, name, bracket });
        assert_eq!(split("tile"), parts(None, "tile", None));
        assert_eq!(split("afterany:tile[{index}]"), parts(Some("afterany"), "tile", Some("{index}")));
        assert_eq!(split("tile[0-9:2]"), parts(None, "tile", Some("0-9:2")));
        for text in ["", " ", "[3]", "tile[3", "tile]", "a,b", "afterok:", "tile[3]x"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
