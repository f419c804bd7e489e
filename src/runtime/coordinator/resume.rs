//! Which tasks of a resumed run stay complete.
//!
//! A task stays complete if it completed in an earlier session, its content key, the tasks that it
//! needs and the files that it used have not changed, the user does not request that it runs again,
//! and none of its dependencies runs again for such a reason. A task whose declared output is gone
//! runs again, unless all that need it are complete and one of them has read the file, or may have;
//! dependents that are complete stay so. The same holds for an output that was not kept when it ran
//! and is to be kept now. If an operation on a data graph runs, the completed batches of changes to
//! that graph that need it run again too: it would not find the version before them. Tasks are
//! identified by name and index, those of a matrix by the values along its axes: a task that moved
//! in the file, an array that grew, or a matrix with one value more keeps its state.
//!
//! Ranks report ends independently, so a killed run may have recorded that a task completed but not
//! its dependencies. [`implied`] finds these; else they and all their dependents would run again.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::changed_needs::ChangedNeeds;
use crate::graph::link::{Condition, GroupId};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::{Group, Job};
use crate::journal::{KeptRun, RunAgain, Session};
use crate::model::{Attempt, Outcome, Rank, Shortfalls, TaskId, Time};

/// Tasks that completed without a record, because a dependent completed: each as an attempt without
/// a number that ended when its dependent became ready. `completed` tells when each completed task
/// became ready, `before` which tasks were complete when the last session began: nothing follows
/// from those, as their dependencies may have been about to run again. `left_out` tells which tasks
/// it was not to run: others could start although these had not completed.
pub fn implied(
    graph: &TaskGraph,
    completed: &dyn Fn(TaskId) -> Option<Time>,
    before: &dyn Fn(TaskId) -> bool,
    left_out: &dyn Fn(TaskId) -> bool,
) -> Vec<Attempt> {
    let tasks = graph.task_count();
    let known: Vec<Option<Time>> = (0..tasks).map(|task| completed(TaskId(task as u32))).collect();
    let tells = |(task, ready): (usize, &Option<Time>)| ready.filter(|_| !before(TaskId(task as u32)));
    let mut by: Vec<Option<Time>> = known.iter().enumerate().map(tells).collect();
    by.resize(graph.node_count(), None);
    for node in graph.topological().iter().rev() {
        // A join that asks for a failure implies nothing about a single task.
        let Some(ready) = by[node as usize].filter(|_| graph.join(node) != Some(JoinRule::AnyNotOk)) else { continue };
        let is_out = |node: u32| (node as usize) < tasks && left_out(TaskId(node));
        for edge in graph.predecessors(node).filter(|edge| edge.on() == Condition::Ok && !is_out(edge.node())) {
            let before = &mut by[edge.node() as usize];
            *before = Some(before.map_or(ready, |known| known.min(ready)));
        }
    }
    let missing = (0..tasks).filter(|&task| known[task].is_none());
    let attempt = |task: usize, at: Time| Attempt {
        task: TaskId(task as u32),
        attempt: 0,
        outcome: Outcome::OK,
        last: true,
        rank: Rank::ZERO,
        slot: 0,
        ready: at,
        start: at,
        end: at,
    };
    missing.filter_map(|task| Some(attempt(task, by[task]?))).collect()
}

/// What can make a completed task run again although it is defined as before. Each is asked only
/// for tasks that would otherwise stay complete.
pub struct RerunChecks<'a> {
    /// The user requests it.
    pub forced: &'a dyn Fn(TaskId) -> bool,
    /// How a file that it used differs from what it was: of a task, with its number in the old job.
    pub changed: &'a dyn Fn(TaskId, TaskId) -> Option<String>,
    /// The former job does not have the task, which completed before that one.
    pub recalled: &'a dyn Fn(TaskId) -> bool,
    /// The declared outputs that are gone: all of them, or (`false`) those that no task lists among
    /// its inputs.
    pub lost: &'a dyn Fn(TaskId, bool) -> Vec<PathBuf>,
    /// It may read files that it does not list among its inputs.
    pub may_read_undeclared: &'a dyn Fn(TaskId) -> bool,
    /// An output that is to be kept and was not when it ran: of a task, with its number in the old
    /// job.
    pub not_kept: &'a dyn Fn(TaskId, TaskId) -> Option<PathBuf>,
    /// It may have begun without completing, by its number in the old job.
    pub begun: &'a dyn Fn(TaskId) -> bool,
}

/// Why a task of a resumed run runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunReason {
    /// The earlier job did not have it.
    New,
    /// It has not completed.
    Open,
    /// Its definition in the job file has changed: how.
    Definition(Box<str>),
    /// It needs other tasks than when it ran: which.
    OtherNeeds(Box<str>),
    /// The user asks for it.
    Asked,
    /// A file that it used differs: which, and how.
    File(Box<str>),
    /// This declared output is gone.
    Output(PathBuf),
    /// This declared output is to be kept, and was not when it ran.
    NotKept(PathBuf),
    /// This task, which it needs, runs again.
    Needs(TaskId),
}

impl RunReason {
    /// True if the task had completed.
    pub fn had_completed(&self) -> bool {
        !matches!(self, RunReason::New | RunReason::Open)
    }

    /// The reason as the end of a sentence that begins with the task.
    pub fn text(&self, job: &Job) -> String {
        match self {
            RunReason::New => "is new".to_owned(),
            RunReason::Open => "has not completed".to_owned(),
            RunReason::Definition(text) | RunReason::OtherNeeds(text) => text.to_string(),
            RunReason::Asked => "is named by --rerun".to_owned(),
            RunReason::File(text) => text.to_string(),
            RunReason::Output(file) => format!("its output {} is missing", file.display()),
            RunReason::NotKept(file) => {
                format!("its output {} is to be kept, and was not when it ran", file.display())
            }
            RunReason::Needs(task) => format!("needs {}, which runs again", job.task_name(*task)),
        }
    }
}

/// What a resumed run takes over.
#[derive(Debug, Default)]
pub struct Takeover {
    /// The tasks that stay complete. Those that the former job did not have get numbers behind its
    /// tasks.
    pub kept: Vec<KeptRun>,
    /// Those of them that the former job did not have, ascending.
    pub recalled: Vec<TaskId>,
    /// All other tasks, in ascending order, each with one reason.
    pub runs: Vec<(TaskId, RunReason)>,
    /// Those of them that may have begun, but have not completed: what stands of their outputs may
    /// be a part.
    pub begun: Vec<KeptRun>,
    /// Those of them that run only because an output is gone.
    pub remade: Vec<KeptRun>,
    /// Files that tasks which stay complete have read, that are missing, and that no task writes:
    /// the first of them.
    pub missing: Vec<PathBuf>,
    /// Declared outputs of tasks that stay complete, that are gone, and that complete tasks may
    /// have read without declaring it: of each task one.
    pub unread: Vec<(TaskId, PathBuf)>,
}

impl Takeover {
    /// Number of tasks that stay complete.
    pub fn complete(&self) -> u32 {
        self.kept.iter().map(|run| run.count).sum()
    }

    /// True if the task stays complete.
    pub fn keeps(&self, task: TaskId) -> bool {
        has(&self.kept, task)
    }

    /// True if the task may have begun, but has not completed.
    pub fn has_begun(&self, task: TaskId) -> bool {
        has(&self.begun, task)
    }

    /// Why the task runs, if it does.
    pub fn reason(&self, task: TaskId) -> Option<&RunReason> {
        self.runs.binary_search_by_key(&task, |(task, _)| *task).ok().map(|at| &self.runs[at].1)
    }

    /// The tasks that had completed and run again, with the reasons, for the journal; consecutive
    /// tasks with the same reason as one.
    pub fn run_again(&self, job: &Job) -> Vec<RunAgain> {
        let mut reasons: Vec<RunAgain> = Vec::new();
        for (task, reason) in self.runs.iter().filter(|(_, reason)| reason.had_completed()) {
            let (why, is_full) = (reason.text(job), reasons.len() == RunAgain::MAX_RECORDED);
            match reasons.last_mut() {
                Some(last) if last.why == why && last.first.0 + last.count == task.0 => last.count += 1,
                _ if is_full => break,
                _ => reasons.push(RunAgain { first: *task, count: 1, why }),
            }
        }
        reasons
    }

    /// The first tasks that had completed and run again for a reason of their own, with the
    /// reasons, at most `most`, and how many others there are; `None` if there are none.
    pub fn reruns(&self, job: &Job, most: usize) -> Option<String> {
        let is_own = |reason: &RunReason| reason.had_completed() && !matches!(reason, RunReason::Needs(_));
        let mut own = self.runs.iter().filter(|(_, reason)| is_own(reason));
        let mut text = String::new();
        for (task, reason) in own.by_ref().take(most) {
            let comma = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{comma}{}: {}", job.task_name(*task), reason.text(job));
        }
        match own.count() {
            0 => {}
            more => text += &format!("; and {more} more (`--resume --dry-run` lists them)"),
        }
        (!text.is_empty()).then_some(text)
    }
}

/// The tasks of `new` that stay complete, with their numbers in `old`, and why others run.
/// `completed` says which tasks of `old` are complete. Each job comes with its graph.
pub fn takeover(
    (old, old_graph): (&Job, &TaskGraph),
    completed: &dyn Fn(TaskId) -> bool,
    (new, graph): (&Job, &TaskGraph),
    same_text: bool,
    checks: &RerunChecks,
) -> Takeover {
    let mut outdated = HashMap::new();
    loop {
        let old = (old, old_graph);
        let found = takeover_with(old, completed, (new, graph), same_text, checks, &outdated);
        let more = outdated_changes((new, graph), &found);
        if more.is_empty() {
            return found;
        }
        outdated.extend(more);
    }
}

/// The tasks that stay complete although they have changed a data graph and need an operation on it
/// that runs, with that operation.
fn outdated_changes((job, graph): (&Job, &TaskGraph), found: &Takeover) -> Vec<(TaskId, TaskId)> {
    let mut runs = vec![false; graph.task_count()];
    found.runs.iter().for_each(|(task, _)| runs[task.index()] = true);
    let mut outdated = Vec::new();
    for data in &job.graphs {
        let tasks = |changes: bool, runs_now: bool| {
            let groups = job.operations_on(&data.name).filter(|(_, change)| *change || !changes);
            let tasks = groups.flat_map(|(group, _)| group.first.0..group.first.0 + group.count);
            tasks.filter(|task| runs[*task as usize] == runs_now).collect::<HashSet<u32>>()
        };
        let (changes, running) = (tasks(true, false), tasks(false, true));
        if changes.is_empty() || running.is_empty() {
            continue;
        }
        // For each node an operation that runs and that it needs.
        let mut causes: Vec<Option<TaskId>> = vec![None; graph.node_count()];
        for node in graph.topological().iter() {
            let cause = |before: u32| running.contains(&before).then_some(TaskId(before)).or(causes[before as usize]);
            causes[node as usize] = graph.predecessors(node).find_map(|edge| cause(edge.node()));
            outdated
                .extend(causes[node as usize].filter(|_| changes.contains(&node)).map(|cause| (TaskId(node), cause)));
        }
    }
    outdated
}

/// As [`takeover`], where the `outdated` tasks run again because of others.
fn takeover_with(
    (old, old_graph): (&Job, &TaskGraph),
    completed: &dyn Fn(TaskId) -> bool,
    (new, graph): (&Job, &TaskGraph),
    same_text: bool,
    checks: &RerunChecks,
    outdated: &HashMap<TaskId, TaskId>,
) -> Takeover {
    let mut was = former_numbers(old, new);
    // One number apart from the tasks of the former job, so that no run of numbers has both.
    let first_recalled = old.task_count() as u32 + 1;
    let recalled = recall(&mut was, first_recalled, checks.recalled);
    let completed = &|task: TaskId| task.0 >= first_recalled || completed(task);
    let mut changed_needs = (!same_text).then(|| ChangedNeeds::of((old, old_graph), (new, graph), &was));
    let redefined = |task: TaskId, was: TaskId| {
        let is_same =
            same_text || matches!((new.content_key(task), old.content_key(was)), (Ok(now), Ok(then)) if now == then);
        (!is_same).then(|| RunReason::Definition(changed_part(old, was, new, task).into()))
    };
    let mut own_reason = |task: TaskId, was: Option<TaskId>| match was {
        None => Some(RunReason::New),
        Some(was) if !completed(was) => Some(RunReason::Open),
        Some(_) if (checks.forced)(task) => Some(RunReason::Asked),
        Some(_) if outdated.contains_key(&task) => outdated.get(&task).map(|cause| RunReason::Needs(*cause)),
        Some(was) if was.0 >= first_recalled => None,
        Some(was) => redefined(task, was)
            .or_else(|| changed_needs.as_mut()?.of_task(task, was).map(RunReason::OtherNeeds))
            .or_else(|| (checks.changed)(task, was).map(|text| RunReason::File(text.into()))),
    };
    let nodes = graph.node_count();
    // `kept`: ended well and stays so. `stale`: had completed, but must run again.
    let (mut kept, mut stale) = (vec![false; nodes], vec![false; nodes]);
    let mut reasons: Vec<Option<RunReason>> = vec![None; nodes];
    for node in graph.topological().iter() {
        let at = node as usize;
        let is_in_the_way =
            |node: u32, on: Condition| stale[node as usize] || (on == Condition::Ok && !kept[node as usize]);
        // The task itself, also behind a join.
        let cause = |node: u32| match &reasons[node as usize] {
            Some(RunReason::Needs(task)) if graph.join(node).is_some() => *task,
            _ => TaskId(node),
        };
        let needed = graph.predecessors(node).find(|e| is_in_the_way(e.node(), e.on())).map(|e| cause(e.node()));
        match graph.join(node) {
            Some(rule) => {
                let fresh = !graph.predecessors(node).any(|e| stale[e.node() as usize]);
                kept[at] = fresh && (needed.is_none() || rule == JoinRule::AnyNotOk);
                stale[at] = !fresh;
                reasons[at] = needed.map(RunReason::Needs);
            }
            None => {
                // A file is read only if nothing else makes the task run.
                let reason = match needed.filter(|_| was[at].is_some_and(completed)) {
                    Some(needed) => Some(RunReason::Needs(needed)),
                    None => own_reason(TaskId(node), was[at]),
                };
                kept[at] = reason.is_none();
                stale[at] = reason.is_some() && was[at].is_some_and(completed);
                reasons[at] = reason;
            }
        }
    }
    let is_old = |task: TaskId| was[task.index()].filter(|was| was.0 < first_recalled);
    let unread = make_again(graph, checks, &is_old, &mut kept, &mut reasons);
    reasons.truncate(graph.task_count());
    let is_begun = |(reason, was): (&Option<RunReason>, &Option<TaskId>)| {
        matches!(reason, Some(RunReason::Open)) && was.is_some_and(|was| (checks.begun)(was))
    };
    let begun: Vec<bool> = reasons.iter().zip(&was).map(is_begun).collect();
    let is_remade = |reason: &Option<RunReason>| matches!(reason, Some(RunReason::Output(_) | RunReason::NotKept(_)));
    let remade: Vec<bool> = reasons.iter().map(is_remade).collect();
    let reasons = (0..).map(TaskId).zip(reasons);
    Takeover {
        recalled: recalled.into_iter().filter(|task| kept[task.index()]).collect(),
        kept: runs(&kept[..graph.task_count()], &was),
        runs: reasons.filter_map(|(task, reason)| Some((task, reason?))).collect(),
        begun: runs(&begun, &was),
        remade: runs(&remade, &was),
        missing: Vec::new(),
        unread,
    }
}

/// Has the tasks of which outputs are gone run again: in reverse order, as a task that runs again
/// needs its own inputs. `was` gives the number of a task in the former job. Returns what is gone
/// and may have been read.
fn make_again(
    graph: &TaskGraph,
    checks: &RerunChecks,
    was: &dyn Fn(TaskId) -> Option<TaskId>,
    kept: &mut [bool],
    reasons: &mut [Option<RunReason>],
) -> Vec<(TaskId, PathBuf)> {
    let nodes = graph.node_count();
    let is_join = |node: u32| graph.join(node).is_some();
    let may_read = |read_behind: &[bool], next: u32| match is_join(next) {
        true => read_behind[next as usize],
        false => (checks.may_read_undeclared)(TaskId(next)),
    };
    // Whether a node needs one that runs, and whether one that needs it may read what it does not
    // declare.
    let (mut awaited, mut read_behind, mut unread) = (vec![false; nodes], vec![false; nodes], Vec::new());
    for node in graph.topological().iter().rev() {
        let (at, task) = (node as usize, TaskId(node));
        let is_open = |next: u32| if is_join(next) { awaited[next as usize] } else { !kept[next as usize] };
        awaited[at] = graph.successors(node).any(|edge| is_open(edge.node()));
        if is_join(node) {
            read_behind[at] = graph.successors(node).any(|edge| may_read(&read_behind, edge.node()));
            continue;
        }
        if !kept[at] {
            continue;
        }
        let is_wanted = awaited[at] || graph.successors(node).next().is_none();
        let not_kept = was(task).and_then(|was| (checks.not_kept)(task, was)).map(RunReason::NotKept);
        let lost = || (checks.lost)(task, is_wanted).into_iter().next();
        let reason = not_kept.or_else(|| {
            let file = lost()?;
            if !is_wanted && graph.successors(node).any(|edge| may_read(&read_behind, edge.node())) {
                unread.push((task, file));
                return None;
            }
            Some(RunReason::Output(file))
        });
        if reason.is_some() {
            kept[at] = false;
            reasons[at] = reason;
        }
    }
    unread
}

/// True if a task is one of these, which are ascending.
pub(super) fn has(tasks: &[KeptRun], task: TaskId) -> bool {
    let next = tasks.partition_point(|run| run.first <= task);
    tasks[..next].last().is_some_and(|run| task.0 - run.first.0 < run.count)
}

/// Gives recalled tasks former numbers from `first` on, and returns them.
fn recall(was: &mut [Option<TaskId>], first: u32, is_recalled: &dyn Fn(TaskId) -> bool) -> Vec<TaskId> {
    let mut recalled = Vec::new();
    let new = (0..).map(TaskId).zip(was).filter(|(task, was)| was.is_none() && is_recalled(*task));
    for (task, was) in new {
        *was = Some(TaskId(first + recalled.len() as u32));
        recalled.push(task);
    }
    recalled
}

/// How the definition of a task differs from what it was, as the end of a sentence that begins with
/// the task.
fn changed_part(old: &Job, was: TaskId, new: &Job, task: TaskId) -> String {
    let (then, now) = (old.axis_values(was), new.axis_values(task));
    let value = now.iter().find_map(|(name, now)| {
        let (_, then) = then.iter().find(|(other, then)| other == name && then != now)?;
        Some(format!("its value `{name}` was {then}, is {now}"))
    });
    let inputs = || {
        let names = |job: &Job, task| {
            let inputs = job.task(task).map(|task| task.inputs).unwrap_or_default();
            inputs.into_iter().map(|(file, _)| file).collect::<Vec<_>>()
        };
        let (then, now) = (names(old, was), names(new, task));
        let added = now.iter().find(|file| !then.contains(file)).map(|file| ("now declares", file));
        let (what, file) =
            added.or_else(|| Some(("no longer declares", then.iter().find(|file| !now.contains(file))?)))?;
        Some(format!("{what} the input {}", file.display()))
    };
    let parts = || {
        let parts = old.differing_parts(was, new, task);
        let have = if parts.len() == 1 && parts[0] != "arguments" { "has" } else { "have" };
        (!parts.is_empty()).then(|| format!("its {} {have} changed", parts.join(" and its ")))
    };
    let graph = || old.differing_graph(was, new, task).map(|graph| format!("its graph `{graph}` has changed"));
    value
        .or_else(graph)
        .or_else(inputs)
        .or_else(parts)
        .unwrap_or_else(|| "is defined differently than when it ran".to_owned())
}

/// For each task of the new job its number in the old one, if that had it.
pub(super) fn former_numbers(old: &Job, new: &Job) -> Vec<Option<TaskId>> {
    let mut was = Vec::with_capacity(new.task_count());
    let former: HashMap<&str, GroupId> = old.groups.iter().zip(0..).map(|(group, id)| (&*group.name, id)).collect();
    for (group, id) in new.groups.iter().zip(0..) {
        match former.get(&*group.name) {
            Some(&before) => was.extend(new.former_tasks(id, old, before)),
            None => was.extend((0..group.count).map(|_| None)),
        }
    }
    was
}

/// Open tasks of which attempts of earlier sessions fell short of what they needed, if what the
/// task asks for at first has not changed since.
pub fn shortfalls(old: &Job, last: &Session, new: &Job, takeover: &Takeover) -> Vec<(TaskId, Shortfalls)> {
    let known = last.shortfalls();
    if known.is_empty() {
        return Vec::new();
    }
    let was = former_numbers(old, new);
    let asks_the_same = |now: &Group, then: &Group| {
        let is_auto = now.retry.auto_memory && then.retry.auto_memory;
        (is_auto || now.memory == then.memory) && now.time == then.time
    };
    let of = |task: TaskId| {
        let before = was[task.index()]?;
        let short = *known.get(&before)?;
        asks_the_same(new.group(task), old.group(before)).then_some((task, short))
    };
    takeover.runs.iter().filter_map(|(task, _)| of(*task)).collect()
}

fn runs(kept: &[bool], was: &[Option<TaskId>]) -> Vec<KeptRun> {
    let mut runs: Vec<KeptRun> = Vec::new();
    for (task, was) in was.iter().enumerate().filter(|(task, _)| kept[*task]) {
        let (first, Some(was)) = (TaskId(task as u32), *was) else { continue };
        match runs.last_mut() {
            Some(run) if run.first.0 + run.count == first.0 && run.was.0 + run.count == was.0 => run.count += 1,
            _ => runs.push(KeptRun { first, was, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Link, LinkShape};

    #[test]
    fn what_a_completed_task_needed_has_completed() {
        // 0 -> 1 -> 2..=4 -> 5 (all of them), 6 needs that 7 failed, 8 needs the end of 7.
        let link = |from, to, shape, on| Link { from, to, shape, on, bytes: 0, span: 0..1 };
        let links = [
            link(0, 1, LinkShape::All, Condition::Ok),
            link(1, 2, LinkShape::All, Condition::Ok),
            link(2, 3, LinkShape::All, Condition::Ok),
            link(5, 4, LinkShape::All, Condition::NotOk),
            link(5, 6, LinkShape::All, Condition::Any),
        ];
        let graph = TaskGraph::build(&[1, 1, 3, 1, 1, 1, 1], &links).unwrap();
        let of = |completed: &[u32]| {
            let ready = |task: TaskId| completed.contains(&task.0).then_some(Time(u64::from(task.0) * 10));
            implied(&graph, &ready, &|_| false, &|_| false)
        };
        let tasks = |attempts: &[Attempt]| attempts.iter().map(|a| a.task.0).collect::<Vec<_>>();
        assert_eq!(tasks(&of(&[0, 1])), [0; 0]);
        assert_eq!(tasks(&of(&[3])), [0, 1]);
        let all = of(&[2, 5]);
        assert_eq!(tasks(&all), [0, 1, 3, 4]);
        // Each ended before whatever followed it could start.
        assert!(all.iter().all(|a| a.end == Time(if a.task.0 < 2 { 20 } else { 50 })), "{all:?}");
        assert_eq!(tasks(&of(&[6, 8])), [0; 0]);
        // Of a run of 5 alone, which took the outputs of 2 to 4 as they were, nothing follows.
        let alone = implied(&graph, &|task| (task.0 == 5).then_some(Time(1)), &|_| false, &|task| task.0 < 5);
        assert_eq!(tasks(&alone), [0; 0]);
    }

    #[test]
    fn what_is_gone_and_needed_runs_again_and_nothing_else_does() {
        // a -> b[0-2] -> c, where b[1] and c have not completed.
        let text = "[[task]]\nname = 'a'\ncommand = 'x'\n[[task]]\nname = 'b'\narray = '0-2'\nneeds = 'a'\ncommand = 'x'\n\
                    [[task]]\nname = 'c'\nneeds = 'b'\ncommand = 'x'\n";
        let loaded = crate::job::parse(text, "j", std::path::Path::new("/"), &crate::exec::Kernels::builtin()).unwrap();
        let graph = crate::workload::graph_of(&loaded).unwrap();
        let of = |completed: &[u32], lost: &[u32], forced: &[u32]| {
            let has = |list: &[u32], task: TaskId| list.contains(&task.0);
            let checks = RerunChecks {
                forced: &|task| has(forced, task),
                changed: &|_, _| None,
                recalled: &|_| false,
                lost: &|task, is_wanted| (is_wanted && has(lost, task)).then(|| "f".into()).into_iter().collect(),
                may_read_undeclared: &|_| true,
                not_kept: &|_, _| None,
                begun: &|_| false,
            };
            let taken =
                takeover((&loaded.job, &graph), &|task| has(completed, task), (&loaded.job, &graph), true, &checks);
            assert_eq!(taken.complete() as usize + taken.runs.len(), 5);
            taken.kept.iter().flat_map(|run| run.first.0..run.first.0 + run.count).collect::<Vec<_>>()
        };
        assert_eq!(of(&[0, 1, 3], &[], &[]), [0, 1, 3]);
        assert_eq!(of(&[0, 1, 3], &[0], &[]), [1, 3], "b[1] needs it; b[0] and b[2] have had it");
        assert_eq!(of(&[0, 1, 3], &[1], &[]), [0, 3], "c needs all of b");
        assert_eq!(of(&[0, 1, 3], &[0, 1], &[]), [3]);
        assert_eq!(of(&[0, 1, 2, 3, 4], &[0, 1], &[]), [0, 1, 2, 3, 4], "nobody needs it any more");
        assert_eq!(of(&[0, 1, 2, 3, 4], &[4], &[]), [0, 1, 2, 3], "what no task needs is a result");
        assert_eq!(of(&[0, 1, 2, 3, 4], &[0, 1, 4], &[]), [2, 3], "to make it again takes what is gone too");
        assert_eq!(of(&[0, 1, 2, 3, 4], &[], &[2]), [0, 1, 3], "and what needs it");
        assert_eq!(of(&[0, 1, 2, 3, 4], &[], &[0]), [0; 0]);
        assert_eq!(of(&[0, 1, 2, 3, 4], &[0], &[4]), [0, 1, 2, 3], "c needs b, which is there");
    }

    #[test]
    fn an_output_that_is_gone_is_made_again_unless_a_complete_task_has_read_it() {
        // scan -> order -> after, which are complete; what `scan` writes is gone.
        let text = "[[task]]\nname = 'scan'\ncommand = 'x'\n[[task]]\nname = 'order'\nneeds = 'scan'\ncommand = 'x'\n\
                    [[task]]\nname = 'after'\nneeds = 'order'\ncommand = 'x'\n";
        let loaded = crate::job::parse(text, "j", std::path::Path::new("/"), &crate::exec::Kernels::builtin()).unwrap();
        let graph = crate::workload::graph_of(&loaded).unwrap();
        let of = |is_listed: bool, may_read: bool, is_kept_now: bool| {
            let checks = RerunChecks {
                forced: &|_| false,
                changed: &|_, _| None,
                recalled: &|_| false,
                lost: &|task, is_wanted| match task {
                    TaskId(0) if is_wanted || !is_listed => vec!["f".into()],
                    _ => Vec::new(),
                },
                may_read_undeclared: &|task| may_read && task == TaskId(1),
                not_kept: &|task, _| (is_kept_now && task == TaskId(0)).then(|| "f".into()),
                begun: &|_| false,
            };
            let taken = takeover((&loaded.job, &graph), &|_| true, (&loaded.job, &graph), true, &checks);
            let runs: Vec<_> = taken.runs.iter().map(|(task, why)| (task.0, why.text(&loaded.job))).collect();
            (runs, taken.unread.iter().map(|(task, _)| task.0).collect::<Vec<_>>(), taken.remade.len())
        };
        let gone = vec![(0, "its output f is missing".to_owned())];
        assert_eq!(of(true, false, false), (vec![], vec![], 0));
        assert_eq!(of(true, true, false), (vec![], vec![], 0));
        assert_eq!(of(false, true, false), (vec![], vec![0], 0), "`order` may have read it");
        assert_eq!(of(false, false, false), (gone, vec![], 1), "it is there for order alone");
        let kept = vec![(0, "its output f is to be kept, and was not when it ran".to_owned())];
        assert_eq!(of(true, true, true), (kept, vec![], 1));
    }

    #[test]
    fn a_batch_of_changes_runs_again_with_what_must_see_the_graph_before_it() {
        // before -> list -> change -> after; `other` is an operation on another graph.
        let text = "[[graph]]\nname = 'g'\ngenerate = { kind = 'grid', scale = 2 }\n\
                    [[graph]]\nname = 'h'\ngenerate = { kind = 'grid', scale = 2 }\n\
                    [[task]]\nname = 'before'\ngraph = 'g'\noperation = 'components'\n\
                    [[task]]\nname = 'list'\nneeds = ['before', 'other']\ncommand = 'x'\n\
                    [[task]]\nname = 'change'\nneeds = 'list'\ngraph = 'g'\noperation = 'insert_edges'\nargs = { edges = [[0, 3]] }\n\
                    [[task]]\nname = 'after'\nneeds = 'change'\ngraph = 'g'\noperation = 'components'\n\
                    [[task]]\nname = 'other'\ngraph = 'h'\noperation = 'components'\n\
                    [[task]]\nname = 'reader'\nneeds = ['before', 'other']\ncommand = 'x'\n";
        let loaded = crate::job::parse(text, "j", std::path::Path::new("/"), &crate::exec::Kernels::builtin()).unwrap();
        let graph = crate::workload::graph_of(&loaded).unwrap();
        let of = |lost: &[&str], forced: &[&str]| {
            let has = |names: &[&str], task: TaskId| names.contains(&&*loaded.job.task_name(task));
            let checks = RerunChecks {
                forced: &|task| has(forced, task),
                changed: &|_, _| None,
                recalled: &|_| false,
                lost: &|task, is_wanted| (is_wanted && has(lost, task)).then(|| "f".into()).into_iter().collect(),
                may_read_undeclared: &|_| true,
                not_kept: &|_, _| None,
                begun: &|_| false,
            };
            let taken = takeover((&loaded.job, &graph), &|_| true, (&loaded.job, &graph), true, &checks);
            let said = |(task, reason): &(TaskId, RunReason)| {
                format!("{} {}", loaded.job.task_name(*task), reason.text(&loaded.job))
            };
            taken.runs.iter().map(said).collect::<Vec<_>>()
        };
        assert_eq!(of(&["after"], &[]), ["after its output f is missing"], "it needs nothing before the batch");
        assert_eq!(of(&["before"], &[]), [""; 0], "nobody needs it any more");
        let lost = ["change needs before, which runs again", "after needs change, which runs again"];
        let lost = ["before its output f is missing", lost[0], lost[1], "reader is named by --rerun"];
        assert_eq!(of(&["before"], &["reader"]), lost);
        let other = ["other its output f is missing", "reader is named by --rerun"];
        assert_eq!(of(&["other"], &["reader"]), other, "an operation on another graph");
    }

    #[test]
    fn each_task_that_runs_has_a_reason() {
        let text = "[[task]]\nname = 'a'\narray = '0-1'\ncommand = 'x'\n[[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'x'\n\
                    [[task]]\nname = 'c'\nneeds = 'b'\ncommand = 'x'\n[[task]]\nname = 'd'\ncommand = 'x'\n";
        let parse = |text: &str| {
            crate::job::parse(text, "j", std::path::Path::new("/"), &crate::exec::Kernels::builtin()).unwrap()
        };
        let old = parse(text);
        let (old_graph, old) = (crate::workload::graph_of(&old).unwrap(), old.job);
        let loaded = parse(
            &(text.replace("'d'\ncommand = 'x'", "'d'\ncommand = 'y'") + "[[task]]\nname = 'e'\ncommand = 'x'\n"),
        );
        let graph = crate::workload::graph_of(&loaded).unwrap();
        let checks = RerunChecks {
            forced: &|_| false,
            changed: &|_, was| (was.0 == 1).then(|| "its input f has changed".to_owned()),
            recalled: &|_| false,
            lost: &|_, _| Vec::new(),
            may_read_undeclared: &|_| true,
            not_kept: &|_, _| None,
            begun: &|was| was.0 == 3,
        };
        let taken = takeover((&old, &old_graph), &|task| task.0 != 3, (&loaded.job, &graph), false, &checks);
        let said: Vec<String> = taken
            .runs
            .iter()
            .map(|(task, reason)| format!("{} {}", loaded.job.task_name(*task), reason.text(&loaded.job)))
            .collect();
        assert_eq!(
            said,
            [
                "a[1] its input f has changed",
                "b needs a[1], which runs again",
                "c has not completed",
                "d its command has changed",
                "e is new",
            ]
        );
        let with = |has: &dyn Fn(TaskId) -> bool| (0..6).filter(|&task| has(TaskId(task))).collect::<Vec<u32>>();
        assert_eq!((with(&|task| taken.keeps(task)), with(&|task| taken.has_begun(task))), (vec![0], vec![3]));
        assert_eq!(with(&|task| taken.reason(task).is_some_and(RunReason::had_completed)), [1, 2, 4]);
        let recorded = |taken: &Takeover| {
            let again = taken.run_again(&loaded.job).into_iter();
            again.map(|again| format!("{}+{} {}", again.first.0, again.count, again.why)).collect::<Vec<_>>()
        };
        let expected = ["1+1 its input f has changed", "2+1 needs a[1], which runs again"];
        assert_eq!(recorded(&taken)[..2], expected);
        // What comes back stays complete, unless what it needs runs again.
        let back = RerunChecks { recalled: &|task| task.0 == 5, ..checks };
        let with_it = takeover((&old, &old_graph), &|task| task.0 != 3, (&loaded.job, &graph), false, &back);
        assert_eq!((with_it.recalled, with_it.kept.last().map(|run| run.was)), (vec![TaskId(5)], Some(TaskId(6))));
        assert_eq!(with_it.runs, taken.runs[..4]);
        let all = RerunChecks { changed: &|_, _| Some("its input f has changed".into()), ..checks };
        let taken_all = takeover((&old, &old_graph), &|_| true, (&loaded.job, &graph), false, &all);
        assert_eq!(recorded(&taken_all)[0], "0+2 its input f has changed");
        let shown = taken.reruns(&loaded.job, 1).unwrap();
        assert_eq!(shown, "a[1]: its input f has changed; and 1 more (`--resume --dry-run` lists them)");
    }
}
