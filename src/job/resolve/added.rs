//! Tasks that are added to a job: only `[[task]]` tables and `[defaults]`, and what they need of
//! the job.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::drafts::{Drafts, Notes};
use super::needs::name_in;
use super::{External, ResolveContext};
use crate::graph::link::GroupId;
use crate::job::body::Body;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::load::AdditionTo;
use crate::job::read::Span;
use crate::job::spec::FileSpec;
use crate::job::{Group, Job};

/// Refuses sections that only a job file may have.
pub(super) fn check_sections(spec: &FileSpec, findings: &mut Findings) {
    let sections: [(&str, Option<&Span>); 10] = [
        ("[job]", spec.job.as_ref().map(|at| &at.span)),
        ("[[graph]]", spec.graph.as_ref().map(|at| &at.span)),
        ("[pools]", spec.pools.as_ref().map(|at| &at.span)),
        ("[scaling]", spec.scaling.as_ref().map(|at| &at.span)),
        ("[cost]", spec.cost.as_ref().map(|at| &at.span)),
        ("[capacity]", spec.capacity.as_ref().map(|at| &at.span)),
        ("[[site]]", spec.site.as_ref().map(|at| &at.span)),
        ("[cache]", spec.cache.as_ref().map(|at| &at.span)),
        ("[advisor]", spec.advisor.as_ref().map(|at| &at.span)),
        ("[[alert]]", spec.alert.as_ref().map(|at| &at.span)),
    ];
    for (name, span) in sections.into_iter().filter_map(|(name, span)| Some((name, span?))) {
        findings.push(
            Diagnostic::error(format!("`{name}` cannot be added to a job that runs"))
                .at(span)
                .help("leave it out: added are `[[task]]` tables, and `[defaults]` for them"),
        );
    }
}

/// Resolves the relations of added tables: to each other, and to those of the job that they name.
pub(super) fn link(
    job: &mut Job,
    drafts: &mut Drafts,
    to: &AdditionTo<'_>,
    context: &ResolveContext<'_>,
    findings: &mut Findings,
) -> External {
    let own = drafts.len();
    let Some(names) = to.names else { return External::default() };
    let is_fair = || to.job.groups.iter().any(|group| group.share.is_some());
    for draft in drafts.iter() {
        let (name, span) = (&draft.group.name, draft.notes.name.span());
        let full_name = to.full_name(name);
        if names.contains_key(&*full_name) {
            findings.push(
                Diagnostic::error(format!("the run has a task `{full_name}` already"))
                    .at(&span)
                    .help("give each added task a name of its own, such as one with `$PHALANX_TASK_ID`"),
            );
        }
        if draft.group.share.is_some() && !is_fair() {
            findings.push(
                Diagnostic::error("no task of the job has a `share`, so added ones cannot have one")
                    .at(&span)
                    .help("give tasks of the job file a `share`, or leave it out here"),
            );
        }
    }
    let own_names: FxHashSet<&str> = drafts.iter().map(|draft| &*draft.group.name).collect();
    let needs = drafts.iter().flat_map(|draft| draft.notes.needs.iter());
    let foreign =
        needs.filter_map(|need| name_in(need.view(context.text).text).filter(|name| !own_names.contains(name)));
    let known = |name| Some((*names.get(&*to.full_name(name))?, Arc::from(name)));
    let mut needed: Vec<(GroupId, Arc<str>)> = foreign.filter_map(known).collect();
    needed.sort_unstable();
    needed.dedup();
    // Tables of the job stand behind those that are added, under the names by which these need them
    // and without their files.
    for (group, name) in &needed {
        let (table, body) = (&to.job.groups[*group as usize], &to.job.bodies[*group as usize]);
        let body = Body { inputs: Box::default(), outputs: Box::default(), ..body.clone() };
        drafts.push((Group { name: Arc::clone(name), ..table.clone() }, body, Notes::elsewhere()));
    }
    let external = super::link(job, drafts, own, context, findings);
    drafts.truncate(own);
    let number = |group: GroupId| match (group as usize).checked_sub(own) {
        Some(at) => needed[at].0,
        None => to.first_group + group,
    };
    for link in &mut job.links {
        (link.from, link.to) = (number(link.from), number(link.to));
    }
    external
}
