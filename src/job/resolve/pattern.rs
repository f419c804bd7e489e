//! Resolves `pattern` and its fields: tasks that depend on each other by a rule.

use super::drafts::Drafts;
use super::links::Links;
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::graph::pattern::{Dependence, Pattern};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Span};
use crate::job::space::Space;
use crate::job::spec::TaskSpec;

/// Maximum number of edges: more would not fit in memory.
const MAX_PATTERN_EDGES: u64 = 200_000_000;

/// The pattern of a task table with its place; `None` if there is none or it has a mistake.
pub(super) fn resolve(spec: &TaskSpec, findings: &mut Findings) -> Option<(Pattern, Span)> {
    if !spec.typed.contains(&"pattern") {
        refuse_strays(spec, findings);
        return None;
    }
    refuse_other_families(spec, findings);
    let own = &spec.own;
    let typed = own.pattern.as_ref()?;
    for key in ["width", "steps"].iter().filter(|key| !spec.typed.contains(key)) {
        findings.push(
            Diagnostic::error(format!("the pattern has no `{key}`"))
                .at(&typed.span)
                .help("say how large it is: `width = 8` and `steps = 1000`"),
        );
    }
    let mut dependence = typed.value.0;
    set_parameters(&mut dependence, spec, findings);
    let number = |at: i64| u32::try_from(at).unwrap_or(u32::MAX);
    let pattern =
        Pattern { dependence, width: number(own.width.as_ref()?.value.0), steps: number(own.steps.as_ref()?.value.0) };
    check_size(&pattern, &typed.span, findings).then(|| (pattern, typed.span.clone()))
}

/// Places of the fields that are valid only with a pattern.
fn places(spec: &TaskSpec) -> [(&'static str, Option<&Span>); 5] {
    let own = &spec.own;
    [
        ("width", own.width.as_ref().map(|at| &at.span)),
        ("steps", own.steps.as_ref().map(|at| &at.span)),
        ("radix", own.radix.as_ref().map(|at| &at.span)),
        ("fraction", own.fraction.as_ref().map(|at| &at.span)),
        ("seed", own.seed.as_ref().map(|at| &at.span)),
    ]
}

fn refuse_strays(spec: &TaskSpec, findings: &mut Findings) {
    for (key, span) in places(spec) {
        if let Some(span) = span {
            findings.push(
                Diagnostic::error(format!("`{key}` belongs to a `pattern`, and this task has none"))
                    .at(span)
                    .help(format!("add one, such as `pattern = \"stencil_1d\"`, or remove `{key}`")),
            );
        }
    }
}

fn refuse_other_families(spec: &TaskSpec, findings: &mut Findings) {
    let (array, matrix) = (spec.own.array.as_ref().map(|at| &at.span), spec.own.matrix.as_ref().map(|at| &at.span));
    for (key, span) in [("array", array), ("matrix", matrix)] {
        if let Some(span) = span {
            findings.push(
                Diagnostic::error(format!("a task with a `pattern` cannot have `{key}` as well"))
                    .at(span)
                    .help(format!("remove `{key}`; `width` and `steps` say how many tasks there are")),
            );
        }
    }
}

/// Applies `radix`, `fraction` and `seed` to patterns that use them.
fn set_parameters(dependence: &mut Dependence, spec: &TaskSpec, findings: &mut Findings) {
    let (own, name) = (&spec.own, dependence.name());
    let mut unused = |key: &str, span: &Span, right: &str| {
        findings.push(
            Diagnostic::error(format!("the pattern `{name}` has no `{key}`"))
                .at(span)
                .help(format!("remove it; it belongs to {right}")),
        );
    };
    if let Some(At { value, span }) = &own.radix {
        match dependence.radix_mut() {
            Some(radix) => *radix = u32::try_from(value.0).unwrap_or(u32::MAX),
            None => unused("radix", span, "nearest, spread and random_nearest"),
        }
    }
    if let Dependence::RandomNearest { fraction, seed, .. } = dependence {
        *fraction = own.fraction.as_ref().map_or(*fraction, |at| at.value.0);
        *seed = own.seed.as_ref().and_then(|at| u64::try_from(at.value.0).ok()).unwrap_or(*seed);
    } else {
        for (key, span) in places(spec).into_iter().filter(|(key, _)| ["fraction", "seed"].contains(key)) {
            span.into_iter().for_each(|span| unused(key, span, "random_nearest"));
        }
    }
}

fn check_size(pattern: &Pattern, span: &Span, findings: &mut Findings) -> bool {
    let edges = pattern.count().saturating_mul(pattern.most_needs().into());
    if edges > MAX_PATTERN_EDGES {
        findings.push(
            Diagnostic::error(format!("the pattern may have {edges} dependencies, more than {MAX_PATTERN_EDGES}"))
                .at(span)
                .help("make it smaller, or choose a pattern in which a point needs fewer"),
        );
    }
    edges <= MAX_PATTERN_EDGES
}

/// Adds the dependencies of a group that is a pattern.
pub(super) fn link(id: GroupId, drafts: &Drafts, links: &mut Links) {
    let draft = drafts.get(id);
    if let Space::Pattern(pattern) = *draft.body.space()
        && !draft.notes.broken
    {
        let (shape, span) = (LinkShape::Pattern(pattern), draft.notes.space.span());
        links.merge(Link { from: id, to: id, shape, on: Condition::Ok, bytes: 0, span });
    }
}
