//! What rank 0 does before it contacts the other ranks: reads the job, opens the run directory, and
//! finds out which tasks are complete.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::join_address::JoinAddress;
use super::provisioner::{self, listen_on};
use super::resume::{self, RerunReasons};
use super::run_history::LoadedHistory;
use crate::exec::Kernels;
use crate::graph::TaskGraph;
use crate::job::{self, Job};
use crate::journal::{EndedSessions, HistoryFile, Holder, Journal, KeptRun, RUNS, Record, RunDir, RunLock, replay};
use crate::model::TaskId;
use crate::runtime::clock::unix_ns;
use crate::runtime::{Options, RunError};
use crate::schedule::protocol::Welcome;
use crate::system::file_probe::{ANSWER_TIMEOUT, FileProbe};
use crate::workload::{PreparedJob, graph_of};

/// A job that is ready to run, with its run directory.
pub(super) struct PreparedRun {
    pub(super) prepared: PreparedJob,
    pub(super) dir: RunDir,
    /// Held until the run is over.
    pub(super) lock: RunLock,
    pub(super) journal: Journal,
    pub(super) kept: Vec<KeptRun>,
    pub(super) welcome: Welcome,
    /// Cost of earlier sessions.
    pub(super) spent: f64,
    /// Earlier sessions that are certainly over.
    pub(super) ended: EndedSessions,
    /// The history of the job.
    pub(super) past: LoadedHistory,
}

impl PreparedRun {
    /// Removes the run directory of a new run that cannot begin. That of a resumed run stays.
    pub(super) fn take_back(self) {
        let PreparedRun { dir, lock, journal, welcome, .. } = self;
        drop(journal);
        drop(lock);
        if welcome.session == 1
            && let Err(error) = dir.take_back()
        {
            tracing::warn!("{error}");
        }
    }

    /// Reads the job and opens its run directory.
    ///
    /// # Errors
    /// If the job has mistakes, or the run directory cannot be used.
    pub(super) fn open(options: &Options, kernels: &Kernels) -> Result<PreparedRun, RunError> {
        let loaded = job::load(&options.job, kernels).map_err(RunError::Job)?;
        let graph = graph_of(&loaded).map_err(RunError::Job)?;
        for report in [&loaded.warnings, &loaded.missing_inputs()] {
            if !report.is_empty() {
                tracing::warn!("the job file could be better\n{}", report.render(false));
            }
        }
        let (text, job_path) = (Arc::clone(&loaded.text), loaded.file().to_owned());
        let mut job = loaded.job;
        // The graph holds them in half the space.
        job.links = Vec::new();
        job.max_failures = match options.keep_going {
            true => None,
            false => options.max_failures.or(job.max_failures),
        };
        provisioner::check(&job.capacity)?;
        let listen = listen_on(options, &job);
        if let Some(listen) = &listen {
            JoinAddress::choose(listen)?;
        }
        let dir = run_dir(options, &job)?;
        let lock = dir.lock()?;
        let began_unix_ns = unix_ns();
        let Opened { journal, session, kept, spent, ended } =
            open_journal(options, kernels, &dir, &job, &graph, &text, lock.gone_predecessor())?;
        let past = LoadedHistory::load(HistoryFile::beside(&dir, &job.name), &mut job, began_unix_ns);
        let prepared = PreparedJob::new(job, Arc::new(graph));
        let base = std::env::current_dir()
            .map_err(|source| RunError::System { what: "find the current directory", source })?;
        let welcome = Welcome {
            max_failures: prepared.job.max_failures,
            job_text: text,
            job_path,
            base_dir: text_of(&base)?,
            run_dir: text_of(&base.join(dir.path()))?,
            run_name: dir.name(),
            session,
            began_unix_ns,
            works: true,
            slots: options.slots,
            masks: Vec::new(),
            open: listen.is_some(),
        };
        Ok(PreparedRun { prepared, dir, lock, journal, kept, welcome, spent, ended, past })
    }
}

/// A path that is sent to other ranks.
fn text_of(path: &Path) -> Result<String, RunError> {
    let refused = || RunError::Refused(format!("{} is not valid UTF-8: run from a directory that is", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(refused)
}

fn run_dir(options: &Options, job: &Job) -> Result<RunDir, RunError> {
    let runs = Path::new(RUNS);
    let found = match (&options.run_dir, options.resume) {
        (explicit, true) => RunDir::for_resume(runs, &job.name, explicit.as_deref()),
        (Some(dir), false) => RunDir::create_at(dir),
        (None, false) => RunDir::create(runs, &job.name),
    };
    Ok(found?)
}

/// The tasks that `--rerun` names.
fn rerun(options: &Options, job: &Job) -> Result<Vec<Range<u32>>, RunError> {
    let find = |name: &String| job.find(name).map_err(|reason| RunError::Refused(format!("--rerun: {reason}")));
    let found: Result<Vec<_>, _> = options.rerun.iter().map(find).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// A journal, and what earlier sessions recorded in it.
struct Opened {
    journal: Journal,
    /// Number of the session that begins.
    session: u32,
    kept: Vec<KeptRun>,
    spent: f64,
    ended: EndedSessions,
}

impl Opened {
    fn new(journal: Journal) -> Opened {
        Opened { journal, session: 1, kept: Vec::new(), spent: 0.0, ended: EndedSessions::default() }
    }
}

/// A new journal, or the former one with the tasks that stay complete. `gone`: the last holder of
/// the run's lock, if it is certainly gone.
fn open_journal(
    options: &Options,
    kernels: &Kernels,
    dir: &RunDir,
    job: &Job,
    graph: &TaskGraph,
    text: &str,
    gone: Option<&Holder>,
) -> Result<Opened, RunError> {
    if !options.resume {
        return Ok(Opened::new(Journal::create(&dir.journal(), job.flush)?));
    }
    let (mut journal, torn) = Journal::reopen(&dir.journal(), job.flush)?;
    if torn > 0 {
        tracing::info!("the last record was cut short when the run was killed; its {torn} bytes are dropped");
    }
    let replay = replay(&dir.journal())?;
    let ended = EndedSessions::of(Some(&replay), gone);
    let Some(last) = replay.last_session() else { return Ok(Opened { ended, ..Opened::new(journal) }) };
    if last.terms.as_ref().is_some_and(|terms| terms.simulated.is_some()) {
        return Err(RunError::Refused(format!(
            "{} is a simulated run: nothing in it has really run; `phalanx simulate --resume` continues it",
            dir.path().display()
        )));
    }
    let began = &last.began;
    let former = job::parse(began.job_text.clone(), &began.job_path.display().to_string(), &began.dir, kernels)
        .map_err(|_| {
            RunError::Refused(format!(
                "the former job file in {} can no longer be read by this version of Phalanx; start a new run instead",
                dir.path().display()
            ))
        })?;
    let same = *began.job_text == *text;
    let completed = |task: TaskId| replay.latest(task).filter(|(_, a)| a.outcome.ok()).map(|(_, a)| a.ready);
    let before = |task: TaskId| replay.latest(task).is_some_and(|(at, _)| at.began.session < began.session);
    let implied = match same {
        true => resume::implied(graph, &completed, &before),
        false => resume::implied(&graph_of(&former).map_err(RunError::Job)?, &completed, &before),
    };
    let also: HashSet<TaskId> = implied.iter().map(|attempt| attempt.task).collect();
    let completed = |task: TaskId| also.contains(&task) || replay.completed(task);
    let forced = rerun(options, job)?;
    let probe = FileProbe::default();
    let is_gone = |file: PathBuf| probe.exists(&file) == Some(false);
    let again = RerunReasons {
        forced: &|task| forced.iter().any(|tasks| tasks.contains(&task.0)),
        lost: &|task| job.task(task).is_ok_and(|task| task.promised.iter().any(|file| is_gone(task.dir.join(file)))),
    };
    let kept = resume::kept(&former.job, &completed, job, graph, same, &again);
    if let Some(file) = probe.unanswered() {
        tracing::warn!(
            "the file system of {} gives no answer within {ANSWER_TIMEOUT:?}: declared outputs of completed tasks are \
             taken to be there",
            file.display()
        );
    }
    if !implied.is_empty() {
        tracing::info!("{} tasks had completed whose records the kill has cut off", implied.len());
        journal.append(&Record::Attempts(implied))?;
    }
    let count: u32 = kept.iter().map(|run| run.count).sum();
    tracing::info!("resuming {}: {count} of {} tasks are complete already", dir.name(), job.task_count());
    Ok(Opened { journal, session: began.session + 1, kept, spent: replay.spent(), ended })
}
