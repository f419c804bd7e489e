//! The job of a resumed run: that of its job file, with the tasks that were added to the run by
//! users and by tasks that stay complete. A task that runs again adds its own again.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::recalled::recalled;
use super::resume::{self, RerunChecks, Takeover};
use super::run_files::RunFiles;
use crate::exec::Kernels;
use crate::graph::TaskGraph;
use crate::job::{Addition, GrowingJob, Job, Loaded, text_with};
use crate::journal::{Replay, RunDir, Session};
use crate::model::{Attempt, Shortfalls, TaskId};
use crate::runtime::RunError;
use crate::runtime::job_from_session::grown_job;
use crate::system::file_probe::ANSWER_TIMEOUT;
use crate::workload::graph_of;

/// The last session of a run.
pub(super) struct FormerRun {
    pub(super) loaded: Loaded,
    pub(super) graph: TaskGraph,
    pub(super) additions: Vec<Addition>,
    /// Tasks that completed without a record.
    pub(super) implied: Vec<Attempt>,
}

impl FormerRun {
    /// Reads it; `None` if no session has begun.
    pub(super) fn read(kernels: &Kernels, dir: &RunDir, replay: &Replay) -> Result<Option<FormerRun>, RunError> {
        let Some(last) = replay.last_session() else { return Ok(None) };
        if last.terms.as_ref().is_some_and(|terms| terms.simulated.is_some()) {
            return Err(RunError::Refused(format!(
                "{} is a simulated run: nothing in it has really run; `phalanx simulate --resume` continues it",
                dir.path().display()
            )));
        }
        let unreadable = |_| {
            RunError::Refused(format!(
                "the former job file in {} can no longer be read by this version of Phalanx; start a new run instead",
                dir.path().display()
            ))
        };
        let (loaded, additions) = grown_job(&last.began, &last.additions, kernels).map_err(unreadable)?;
        let graph = graph_of(&loaded).map_err(RunError::Job)?;
        let completed = |task: TaskId| replay.latest(task).filter(|(_, a)| a.outcome.ok()).map(|(_, a)| a.ready);
        let before = |task: TaskId| replay.latest(task).is_some_and(|(at, _)| at.began.session < last.began.session);
        let left_out = |task: TaskId| last.left_out.as_ref().is_some_and(|left_out| left_out.has(task));
        let implied = resume::implied(&graph, &completed, &before, &left_out);
        let added = last.additions_with(&implied);
        if added.len() == last.additions.len() {
            return Ok(Some(FormerRun { loaded, graph, additions, implied }));
        }
        let (loaded, additions) = grown_job(&last.began, &added, kernels).map_err(unreadable)?;
        let graph = graph_of(&loaded).map_err(RunError::Job)?;
        Ok(Some(FormerRun { loaded, graph, additions, implied }))
    }
}

/// A job with what was added to its run, and what of it stays complete.
pub(super) struct ResumedJob {
    pub(super) loaded: Loaded,
    pub(super) graph: TaskGraph,
    /// What the resume takes over.
    pub(super) takeover: Takeover,
    /// Open tasks of which attempts fell short of what they needed.
    pub(super) short: Vec<(TaskId, Shortfalls)>,
    /// Tasks that run again and had added others, by name, and how many they had added.
    pub(super) adders: (Vec<String>, usize),
}

/// The tasks of a job that run again in any case.
pub(super) type ForcedTasks<'a> = &'a dyn Fn(&Loaded) -> Result<Vec<Range<u32>>, RunError>;

/// Finds the job of a resumed run, whose job file is `base` now. `forced`: as of [`takeover`],
/// for the job at hand.
pub(super) fn resumed_job(
    kernels: &Kernels,
    dir: &RunDir,
    replay: &Replay,
    former: &FormerRun,
    base: &Loaded,
    forced: Option<ForcedTasks<'_>>,
) -> Result<ResumedJob, RunError> {
    let mut additions = former.additions.clone();
    // Tasks that run again as what they added does not fit any more.
    let mut again: Vec<String> = Vec::new();
    let (mut adders_again, mut known, mut tasks_with_all) = (Vec::new(), FxHashSet::default(), None);
    loop {
        let (growing, links, misfits) = grown(kernels, base, &additions)?;
        if !misfits.is_empty() {
            additions.retain(|addition| addition.by.as_ref().is_none_or(|by| !misfits.contains(by)));
            again.extend(misfits);
            continue;
        }
        let text = text_with(&base.text, &additions);
        let adders: Vec<Option<TaskId>> =
            additions.iter().map(|addition| growing.find(addition.by.as_deref()?)).collect();
        let mut forced_tasks: Vec<Range<u32>> =
            again.iter().filter_map(|name| growing.find(name)).map(|task| task.0..task.0 + 1).collect();
        let loaded = base.with_job(growing.into_job(links), text);
        let graph = graph_of(&loaded).map_err(RunError::Job)?;
        if let Some(forced) = forced {
            forced_tasks.extend(forced(&loaded)?);
        }
        let forced_tasks = forced.is_some().then_some(forced_tasks.as_slice());
        let tasks_with_all = *tasks_with_all.get_or_insert(loaded.job.task_count());
        let takeover = takeover((kernels, dir, replay), former, (&loaded.job, &graph, &loaded.text), forced_tasks)?;
        let keep: Vec<bool> = additions
            .iter()
            .zip(&adders)
            .map(|(addition, adder)| addition.by.is_none() || adder.is_some_and(|task| takeover.keeps(task)))
            .collect();
        if !keep.contains(&false) {
            let short = replay
                .last_session()
                .map_or_else(Vec::new, |last| resume::shortfalls(&former.loaded.job, last, &loaded.job, &takeover));
            let adders = (adders_again, tasks_with_all - loaded.job.task_count());
            return Ok(ResumedJob { loaded, graph, takeover, short, adders });
        }
        let mut keep = keep.into_iter();
        additions.retain(|addition| {
            let stays = keep.next() == Some(true);
            if let Some(by) = addition.by.as_ref().filter(|_| !stays)
                && known.insert(by.clone())
            {
                adders_again.push(by.clone());
            }
            stays
        });
    }
}

/// The job with these additions, its links, and the tasks whose additions do not fit it.
fn grown(
    kernels: &Kernels,
    base: &Loaded,
    additions: &[Addition],
) -> Result<(GrowingJob, Vec<crate::graph::link::Link>, Vec<String>), RunError> {
    let mut job = base.job.clone();
    let mut links = std::mem::take(&mut job.links);
    let (mut growing, mut misfits) = (GrowingJob::new(job), Vec::new());
    for Addition { by, text } in additions {
        let file = format!("added by {}", by.as_deref().unwrap_or("the user"));
        match (growing.read(Arc::clone(text), &file, kernels), by) {
            (Ok(own), by) => links.extend(growing.add(by.as_deref().and_then(|by| growing.find(by)), own.job)),
            (Err(_), Some(by)) => misfits.push(by.clone()),
            (Err(error), None) => return Err(RunError::Job(error)),
        }
    }
    Ok((growing, links, misfits))
}

/// True if a run of one job may be continued with the other: their names are the same or, where
/// each is made of several files, that of one of them.
fn is_of_same_job(former: &Job, job: &Job) -> bool {
    match (former.parts.as_slice(), job.parts.as_slice()) {
        ([], []) => former.name == job.name,
        (before, now) => now.iter().any(|part| before.iter().any(|other| other.name == part.name)),
    }
}

/// Finds out what a resume takes over from a run. `forced`: the tasks that run again in any case;
/// `None` if files are not to be looked at either.
fn takeover(
    (kernels, dir, replay): (&Kernels, &RunDir, &Replay),
    former: &FormerRun,
    (job, graph, text): (&Job, &TaskGraph, &str),
    forced: Option<&[Range<u32>]>,
) -> Result<Takeover, RunError> {
    let same = *former.loaded.text == *text;
    if !same && !is_of_same_job(&former.loaded.job, job) {
        let file = replay.last_session().map(|last| last.began.job_path.display().to_string()).unwrap_or_default();
        return Err(RunError::Refused(format!(
            "{run} is a run of job {former} ({file}), not of {own}: leave out --run-dir to resume or begin a run of {own}. \
             If it is the same job under another name, give it the former one (`[job]`, then `name = {former:?}`)",
            run = dir.name(),
            former = former.loaded.job.name,
            own = job.name,
        )));
    }
    let implied: FxHashMap<TaskId, &Attempt> = former.implied.iter().map(|attempt| (attempt.task, attempt)).collect();
    let completed = |task: TaskId| implied.contains_key(&task) || replay.completed(task);
    let completion = |task: TaskId| match implied.get(&task) {
        Some(attempt) => replay.last_session().map(|last| (last, *attempt)),
        None => replay.latest(task),
    };
    let files = RunFiles::of(dir, job);
    let looks = forced.is_some();
    let forced = forced.unwrap_or_default();
    let recalled = match same {
        true => FxHashSet::default(),
        false => {
            let was = resume::former_numbers(&former.loaded.job, job);
            let new = (0..).map(TaskId).zip(was).filter(|(_, was)| was.is_none()).map(|(task, _)| task).collect();
            recalled(kernels, replay, (job, graph), new, looks.then_some(&files))
        }
    };
    let not_kept = NotKept { kernels, jobs: (&former.loaded.job, job), sessions: RefCell::default() };
    let checks = RerunChecks {
        forced: &|task| forced.iter().any(|tasks| tasks.contains(&task.0)),
        changed: &|task, was| {
            completion(was).filter(|_| looks).and_then(|(at, attempt)| files.change(task, at, attempt))
        },
        recalled: &|task| recalled.contains(&task),
        lost: &|task, is_wanted| if looks { files.lost(task, is_wanted) } else { Vec::new() },
        may_read_undeclared: &|task| job.may_read_undeclared(task),
        not_kept: &|task, was| {
            let (at, attempt) = completion(was).filter(|_| looks && !same)?;
            not_kept.output((task, was), at, attempt)
        },
        begun: &|was| {
            let is_left_out = |last: &Session| last.left_out.as_ref().is_some_and(|left_out| left_out.has(was));
            let last = replay.last_session();
            let has_now = match replay.latest(was) {
                Some((_, attempt)) => attempt.attempt > 0,
                // A session that was killed does not say what it was running.
                None => last.is_some_and(|last| last.ended.is_none() && !is_left_out(last)),
            };
            has_now || last.is_some_and(|last| resume::has(&last.still_begun, was))
        },
    };
    let former = (&former.loaded.job, &former.graph);
    let mut takeover = resume::takeover(former, &completed, (job, graph), same, &checks);
    if let Some(file) = files.probe.unanswered() {
        tracing::warn!(
            "the file system of {} gives no answer within {ANSWER_TIMEOUT:?}: files of completed tasks are taken to be \
             there and unchanged",
            file.display()
        );
    }
    takeover.missing = files.into_missing();
    Ok(takeover)
}

/// Finds outputs that are kept now, and were not when their tasks ran.
struct NotKept<'a> {
    kernels: &'a Kernels,
    /// That of the last session, and that of the job file now.
    jobs: (&'a Job, &'a Job),
    /// The jobs of earlier sessions.
    sessions: RefCell<FxHashMap<u32, Option<Job>>>,
}

impl NotKept<'_> {
    /// Such an output of a task, given with its number in the last session, which completed with
    /// this attempt.
    fn output(&self, (task, was): (TaskId, TaskId), session: &Session, attempt: &Attempt) -> Option<PathBuf> {
        let (former, job) = self.jobs;
        if !former.has_temporaries(former.group_of(was).0 as usize) {
            return None;
        }
        let (then, now) = (former.task(was).ok()?, job.task(task).ok()?);
        let is_kept = |file: &&PathBuf| !now.temporary.contains(file) && now.outputs.iter().any(|(f, _)| f == *file);
        let file = then.temporary.iter().find(is_kept)?;
        // The session that ran it may have kept the file.
        let mut sessions = self.sessions.borrow_mut();
        let ran = sessions.entry(session.began.session).or_insert_with(|| {
            grown_job(&session.began, &session.additions, self.kernels).ok().map(|(loaded, _)| loaded.job)
        });
        let ran = ran.as_ref().and_then(|ran| ran.task(attempt.task).ok());
        ran.is_none_or(|ran| ran.temporary.contains(file)).then(|| file.clone())
    }
}
