//! Mistakes in a job file with their places, collected and reported all at once.
//!
//! Reading a job file never stops at the first mistake. Each mistake is pushed into [`Findings`]
//! with byte ranges of the text. At the end they become [`Diagnostics`], which can be rendered as
//! text or JSON. The first range of a diagnostic is its place, further ranges are what it refers
//! to.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

/// Severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The job cannot run.
    Error,
    /// The job can run, but probably not as intended.
    Warning,
}

/// One mistake: what, where, and how to correct it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Byte ranges in the text, each with a label (may be empty); the first is the place of the
    /// mistake.
    pub spans: Vec<(Range<usize>, String)>,
    /// How to correct it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), spans: Vec::new(), help: None }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// Adds a place.
    pub fn at(self, span: &Range<usize>) -> Diagnostic {
        self.label(span, "")
    }

    /// Adds a place with a label.
    pub fn label(mut self, span: &Range<usize>, label: impl Into<String>) -> Diagnostic {
        self.spans.push((span.clone(), label.into()));
        self
    }

    /// Adds advice how to correct it.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// The mistakes found so far. Equal ones are kept once, e.g. a mistake in `[defaults]` that affects
/// every task.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    items: Vec<Diagnostic>,
    seen: FxHashSet<(String, usize)>,
    errors: usize,
    homes: Option<SectionsOfKey>,
}

/// Returns the sections in which a key is valid.
pub(crate) type SectionsOfKey = fn(&str) -> Vec<&'static str>;

/// Maximum number of mistakes kept, because a file of a million tasks could have as many.
const MAX_KEPT: usize = 100;

impl Findings {
    /// Findings of a kind of file, with the function that returns the valid sections of a key.
    pub(crate) fn in_file_with(homes: SectionsOfKey) -> Findings {
        Findings { homes: Some(homes), ..Findings::default() }
    }

    /// The sections in which a key is valid.
    pub(crate) fn homes_of(&self, key: &str) -> Vec<&'static str> {
        self.homes.map_or_else(Vec::new, |homes| homes(key))
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.is_full() && (diagnostic.severity == Severity::Warning || self.errors > 0) {
            return;
        }
        let place = diagnostic.spans.first().map_or(usize::MAX, |(span, _)| span.start);
        if self.seen.insert((diagnostic.message.clone(), place)) {
            self.errors += usize::from(diagnostic.severity == Severity::Error);
            self.items.push(diagnostic);
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// True if further mistakes are dropped, so that callers can skip computing advice for them.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() >= MAX_KEPT
    }

    /// Returns the findings in the order of the text, errors and warnings together.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.items.sort_by_key(|d| d.spans.first().map_or(0, |(span, _)| span.start));
        self.items
    }
}

/// Diagnostics of one file with its text.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    text: Arc<str>,
    items: Vec<Diagnostic>,
    /// Those of further files.
    others: Vec<Diagnostics>,
}

/// Maximum number rendered: the first ones often cause the others.
const MAX_SHOWN: usize = 50;

impl Diagnostics {
    /// Diagnostics of the file called `file` with this text.
    pub fn new(file: impl Into<String>, text: impl Into<Arc<str>>, items: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { file: file.into(), text: text.into(), items, others: Vec::new() }
    }

    /// Diagnostics of several files.
    pub(crate) fn joined(mut files: Vec<Diagnostics>) -> Diagnostics {
        files.retain(|file| !file.is_empty());
        match files.len() {
            0 => Diagnostics::new("", "", Vec::new()),
            _ => Diagnostics { others: files.split_off(1), ..files.remove(0) },
        }
    }

    /// Each file by itself.
    fn files(&self) -> impl Iterator<Item = &Diagnostics> {
        std::iter::once(self).chain(&self.others)
    }

    /// All diagnostics in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.files().flat_map(|file| &file.items)
    }

    /// Number of diagnostics.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Number of errors among them.
    pub fn errors(&self) -> usize {
        self.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Line and column (from 1, columns in characters) of a diagnostic; `None` if it has no place.
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let is_its = |file: &&Diagnostics| file.items.iter().any(|item| std::ptr::eq(item, diagnostic));
        let file = self.files().find(is_its).unwrap_or(self);
        diagnostic.spans.first().map(|(span, _)| line_and_column(&file.text, span.start))
    }

    /// Renders all of them for a terminal in the style of rustc: place, source line, caret, help.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        let items = self.files().flat_map(|file| file.items.iter().map(move |item| (file, item)));
        for (file, item) in items.take(MAX_SHOWN) {
            text.push_str(&renderer.render(&file.report(item)));
            text.push_str("\n\n");
        }
        if self.len() > MAX_SHOWN {
            text.push_str(&format!("... and {} more\n", self.len() - MAX_SHOWN));
        }
        text
    }

    fn report<'a>(&'a self, item: &'a Diagnostic) -> Vec<Group<'a>> {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(item.message.as_str());
        let mut group = Group::with_title(title);
        for snippet in self.snippets(item) {
            group = group.element(snippet);
        }
        match &item.help {
            Some(help) => group = group.element(Level::HELP.message(help.as_str())),
            None if item.spans.is_empty() && !item.message.contains(&self.file) => {
                group = group.element(Level::NOTE.message(format!("in {}", self.file)))
            }
            None => {}
        }
        vec![group]
    }

    /// One snippet for all places if they are close together, else one per place. The renderer gets
    /// only the lines that are shown, because it would otherwise scan the whole file for each
    /// diagnostic.
    fn snippets<'a>(&'a self, item: &'a Diagnostic) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        const CLOSE: usize = 4096;
        let Some(start) = item.spans.iter().map(|(span, _)| span.start).min() else { return Vec::new() };
        let end = item.spans.iter().map(|(span, _)| span.end).max().unwrap_or(start);
        if end - start <= CLOSE {
            return vec![self.snippet(&item.spans, true)];
        }
        (0..item.spans.len()).map(|i| self.snippet(&item.spans[i..=i], i == 0)).collect()
    }

    fn snippet<'a>(
        &'a self,
        spans: &'a [(Range<usize>, String)],
        primary: bool,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let spans: Vec<(Range<usize>, &str)> =
            spans.iter().map(|(span, label)| (clamp(&self.text, span), label.as_str())).collect();
        let start = spans.iter().map(|(span, _)| span.start).min().unwrap_or(0);
        let end = spans.iter().map(|(span, _)| span.end).max().unwrap_or(start);
        let from = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = self.text[end..].find('\n').map_or(self.text.len(), |at| end + at);
        let annotations = spans.into_iter().enumerate().map(|(i, (span, label))| {
            let kind = if i == 0 && primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(span.start - from..span.end - from);
            if label.is_empty() { annotation } else { annotation.label(label) }
        });
        Snippet::source(&self.text[from..to])
            .line_start(line_and_column(&self.text, from).0)
            .path(self.file.as_str())
            .annotations(annotations)
    }

    /// All of them as a JSON array of objects with `severity, file, line, column, message, help`.
    pub fn to_json(&self) -> Value {
        let items = self.files().flat_map(|file| file.items.iter().map(move |item| (file, item)));
        items
            .map(|(file, item)| {
                let (line, column) = self.position(item).unzip();
                json!({
                    "severity": if item.severity == Severity::Error { "error" } else { "warning" },
                    "file": file.file,
                    "line": line,
                    "column": column,
                    "message": item.message,
                    "help": item.help,
                })
            })
            .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

/// Moves a range inside the text and to character boundaries, and ends it at its first line break,
/// so that a multi-line value is marked on its first line.
fn clamp(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = floor_boundary(text, span.start);
    let end = floor_boundary(text, span.end.max(start));
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end.min(line_end)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// Line and column of a byte, both from 1.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor_boundary(text, at)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.bytes().filter(|b| *b == b'\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The candidate that is most similar to a mistyped word, if any is similar enough.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        // More characters must match than differ: `c` does not mean `a`.
        .filter(|(distance, candidate)| {
            let shorter = candidate.chars().count().min(lower.chars().count());
            *distance <= 1 + shorter / 4 && *distance * 2 <= shorter
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?" if a candidate is similar, else the list of candidates.
pub(crate) fn suggest(word: &str, candidates: &[&str], what: &str) -> String {
    match closest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if candidates.is_empty() => format!("there are no {what}"),
        None => {
            let shown: Vec<String> = candidates.iter().take(40).map(|c| format!("`{c}`")).collect();
            let more = if candidates.len() > shown.len() { ", ..." } else { "" };
            format!("the {what} are {}{more}", shown.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_line_and_column() {
        let text = "a = 1\nérr = 2\n";
        let item = Diagnostic::error("`érr` is wrong").label(&(6..10), "here").help("write `err`");
        let all = Diagnostics::new("j.toml", text, vec![item]);
        let shown = all.render(false);
        assert!(shown.contains("j.toml:2:1"), "{shown}");
        assert!(shown.contains("^^^ here"), "{shown}");
        assert!(shown.contains("write `err`"), "{shown}");
        assert_eq!(all.to_json()[0]["line"], 2);
    }

    #[test]
    fn far_places_and_odd_spans_are_shown() {
        let text = format!("x = 1\n{}y = 2\n", "# filler\n".repeat(2000));
        let end = text.len();
        let item = Diagnostic::warning("w").label(&(0..1), "first").label(&(end - 6..end + 9), "second");
        let shown = Diagnostics::new("j", text, vec![item]).render(true);
        assert!(shown.contains("first") && shown.contains("second") && shown.contains("2002"), "{shown}");
    }

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        assert_eq!(closest("comand", ["command", "kernel"]), Some("command"));
        assert_eq!(closest("CPUS", ["cpus"]), Some("cpus"));
        assert_eq!(closest("banana", ["command", "kernel"]), None);
        assert_eq!(closest("c", ["a", "b"]), None);
        assert_eq!(closest("ac", ["ab"]), Some("ab"));
    }
}
