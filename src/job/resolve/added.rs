//! Tasks that are added to a job: only `[[task]]` tables and `[defaults]`, and what they need of
//! the job, by name or through files.

use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::drafts::{Draft, Drafts, Notes};
use super::files::{PathNames, are_whole};
use super::needs::name_in;
use super::{External, ResolveContext};
use crate::graph::link::{Condition, GroupId, Link};
use crate::job::body::{Body, FileTemplate};
use crate::job::declared_files::{Conflict, GrownFiles};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::file_order::{FileMistake, FileTables, MAX_IMPLIED};
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
    let mut by_files = links_by_files(drafts, to, &job.dir, findings);
    for link in &mut by_files {
        // One that no need names has no name here.
        let at = needed.iter().position(|(group, _)| *group == link.from).unwrap_or_else(|| {
            needed.push((link.from, Arc::from("")));
            needed.len() - 1
        });
        link.from = (own + at) as GroupId;
    }
    // Tables of the job stand behind those that are added, under the names by which these need them
    // and without their files.
    for (group, name) in &needed {
        let (table, body) = (&to.job.groups[*group as usize], &to.job.bodies[*group as usize]);
        let body = Body { inputs: Box::default(), outputs: Box::default(), ..body.clone() };
        drafts.push((Group { name: Arc::clone(name), ..table.clone() }, body, Notes::elsewhere()));
    }
    let external = super::link(job, (drafts, own), &by_files, context, findings);
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

/// The dependencies of added tables on those of the job through files, ascending by dependent, with
/// the numbers that tables of the job have there.
fn links_by_files(drafts: &Drafts, to: &AdditionTo<'_>, dir: &Path, findings: &mut Findings) -> Vec<Link> {
    let has_files = |draft: Draft<'_>| {
        let (body, extras) = (draft.body, &draft.body.extras);
        let has_streams = extras.stdin.is_some() || extras.stdout.is_some() || extras.stderr.is_some();
        !body.inputs.is_empty() || !body.outputs.is_empty() || has_streams
    };
    let Some(files) = to.files.filter(|_| are_whole(drafts)) else { return Vec::new() };
    if !drafts.iter().any(has_files) {
        return Vec::new();
    }
    let own = PathNames::of(drafts, dir);
    let files = files.beside(to.job, &own, drafts.len() as GroupId);
    if let Some(has_ended) = to.has_ended {
        let refused = files.conflicts(has_ended).into_iter().map(|conflict| refusal(drafts, conflict));
        refused.for_each(|refusal| findings.push(refusal));
    }
    let mut links = Vec::new();
    for (group, draft) in (0..).zip(drafts.iter()) {
        let span = draft.notes.name.span();
        for file in own.table(group).reads() {
            links.extend(links_of_file(&files, to, (group, &file), &span, findings));
        }
    }
    links
}

/// The dependencies of an added table through one file.
fn links_of_file(
    files: &GrownFiles<'_>,
    to: &AdditionTo<'_>,
    (group, file): (GroupId, &FileTemplate),
    span: &Span,
    findings: &mut Findings,
) -> Vec<Link> {
    let found = match files.links(group, file) {
        Ok(found) => found,
        // It is refused where added tables are compared with each other.
        Err(FileMistake::ReadsOwn(_)) => return Vec::new(),
        Err(FileMistake::TooMany) => {
            let message = format!("this directory implies more than {MAX_IMPLIED} dependencies");
            findings.push(Diagnostic::error(message).at(span).help("list the files themselves under `inputs`"));
            return Vec::new();
        }
    };
    let mut links = Vec::new();
    for (writer, shape) in found {
        let output = to.job.bodies[writer.group as usize].outputs.get(writer.output as usize);
        let size = file.size.or(output.and_then(|output| output.size));
        let (on, bytes) = (Condition::Ok, size.unwrap_or(0));
        links.push(Link { from: writer.group, to: group, shape, on, bytes, span: span.clone() });
    }
    links
}

/// Why an output cannot be added.
fn refusal(drafts: &Drafts, conflict: Conflict) -> Diagnostic {
    let Conflict { output, file, other, reads } = conflict;
    let draft = drafts.get(output.group);
    let own = draft.task_name(output.element);
    let place = draft.notes.outputs().get(output.output as usize).unwrap_or(&draft.notes.name).span();
    match reads {
        false => Diagnostic::error(format!("both `{other}` of the run and `{own}` write {file}"))
            .at(&place)
            .help("let each task write a file of its own"),
        true => Diagnostic::error(format!("`{other}` of the run reads {file}, and does not wait for `{own}`"))
            .at(&place)
            .help(format!(
                "add the task that reads it together with `{own}`: tasks of a run do not wait for added ones"
            )),
    }
}
