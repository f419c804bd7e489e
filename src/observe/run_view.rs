//! A run as reports read it: its journal, the jobs of its sessions, and whether it is live.
//!
//! All times are converted to one clock that began with the first session, so that the sessions of
//! a resumed run are consecutive.

use std::sync::Arc;

use super::job_view::{Nameless, SessionJob};
use super::print::ReportError;
use crate::journal::{
    EndReason, JournalError, JournalReader, Liveness, OutputReader, Replay, RunDir, Session, Tail, unix_now_ns,
};
use crate::model::{Attempt, Rank, TaskId, Time};
use crate::system::file_probe::FileProbe;

/// Loads the job of a session from its records.
pub type Parse<'a> = &'a dyn Fn(&Session) -> Result<SessionJob, String>;

/// State of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Live.
    Running,
    /// Ended, and all tasks completed.
    Completed,
    /// Ended, and some tasks failed.
    Failed,
    /// Stopped because the budget was spent.
    Budget,
    /// It stopped before the end of its allocation.
    Walltime,
    /// Cancelled by the user or a signal.
    Cancelled,
    /// Stopped by an error of Phalanx.
    Error,
    /// Ended without a final record: it was killed, its machine went down, or its journal could not
    /// be written.
    Interrupted,
}

impl RunState {
    /// All states.
    pub const ALL: [RunState; 8] = [
        RunState::Running,
        RunState::Completed,
        RunState::Failed,
        RunState::Budget,
        RunState::Walltime,
        RunState::Cancelled,
        RunState::Error,
        RunState::Interrupted,
    ];

    /// The state in capitals, e.g. `INTERRUPTED`.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Running => "RUNNING",
            RunState::Completed => "COMPLETED",
            RunState::Failed => "FAILED",
            RunState::Budget => "BUDGET",
            RunState::Walltime => "WALLTIME",
            RunState::Cancelled => "CANCELLED",
            RunState::Error => "ERROR",
            RunState::Interrupted => "INTERRUPTED",
        }
    }
}

/// Facts of a session that may be read after its first record: the number of its additions, and
/// what its tasks with `memory = "auto"` ask for at first.
type JobFacts = (usize, Vec<(String, u64)>);

fn facts_of(session: &Session) -> JobFacts {
    (session.additions.len(), session.requests.auto.clone())
}

/// A snapshot of a run, which [`RunView::refresh`] updates.
pub struct RunView {
    /// Its directory.
    pub dir: RunDir,
    /// Its journal.
    pub replay: Replay,
    /// Whether it was live at the snapshot.
    pub liveness: Liveness,
    /// Captured output of its tasks.
    pub outputs: OutputReader,
    /// Checks files that tasks name.
    pub(crate) probe: FileProbe,
    /// The job of each session, and what it was read with.
    subjects: Vec<SessionJob>,
    known: Vec<JobFacts>,
    /// Why jobs of sessions could not be read.
    unreadable: Vec<String>,
    /// Warnings for the reader of a report.
    warnings: Vec<String>,
    /// Time of the snapshot, in nanoseconds since 1970.
    read_unix_ns: u64,
    reader: JournalReader,
}

impl RunView {
    /// Reads a run.
    ///
    /// # Errors
    /// If its journal cannot be read, or does not even hold the beginning of a session.
    pub fn load(dir: &RunDir, parse: Parse<'_>) -> Result<RunView, ReportError> {
        let mut view = RunView {
            dir: dir.clone(),
            liveness: Liveness::Gone,
            outputs: OutputReader::new(dir),
            probe: FileProbe::default(),
            subjects: Vec::new(),
            known: Vec::new(),
            unreadable: Vec::new(),
            warnings: Vec::new(),
            read_unix_ns: 0,
            replay: Replay::default(),
            reader: JournalReader::new(&dir.journal()),
        };
        view.refresh(parse)?;
        if view.replay.sessions.is_empty() {
            return Err(match view.replay.tail {
                Tail::Damaged(error) => ReportError::Journal(error),
                Tail::Clean | Tail::Torn(_) => ReportError::Empty { path: dir.journal() },
            });
        }
        Ok(view)
    }

    /// Reads what was appended since the snapshot. Returns whether anything was.
    ///
    /// # Errors
    /// If its journal can no longer be read.
    pub fn refresh(&mut self, parse: Parse<'_>) -> Result<bool, ReportError> {
        // Liveness first: a run writes its last record before it releases the lock.
        self.liveness = self.dir.liveness();
        let news = self.reader.read_on(&mut self.replay)?;
        self.read_unix_ns = unix_now_ns();
        if news {
            self.outputs = OutputReader::new(&self.dir);
            self.parse_jobs(parse);
        }
        self.warnings.clear();
        self.warn_of_the_tail();
        self.warnings.extend_from_slice(&self.unreadable);
        Ok(news)
    }

    fn warn_of_the_tail(&mut self) {
        match &self.replay.tail {
            Tail::Damaged(error) => self.warnings.push(error.to_string()),
            Tail::Torn(bytes) if self.liveness == Liveness::Gone => {
                self.warnings
                    .push(format!("the last record was cut short when the run was killed ({bytes} bytes ignored)"));
            }
            Tail::Clean | Tail::Torn(_) => {}
        }
    }

    fn parse_jobs(&mut self, parse: Parse<'_>) {
        // Only the last session grows, and its requests may have been read after its first record.
        let stale = self.known.last().zip(self.subjects.len().checked_sub(1));
        if let Some((known, last)) = stale
            && *known != facts_of(&self.replay.sessions[last])
        {
            self.subjects.truncate(last);
            self.known.truncate(last);
        }
        for (index, session) in self.replay.sessions.iter().enumerate().skip(self.subjects.len()) {
            self.known.push(facts_of(session));
            let slots = |of: &Session| of.began.ranks.iter().map(|rank| (rank.rank, rank.slots)).collect::<Vec<_>>();
            let same = |other: &Session| {
                (&other.began.job_text, &other.began.job_path) == (&session.began.job_text, &session.began.job_path)
                    && other.additions == session.additions
                    && other.requests.auto == session.requests.auto
                    && slots(other) == slots(session)
            };
            if let Some(known) = self.replay.sessions[..index].iter().position(same) {
                self.subjects.push(self.subjects[known].clone());
                continue;
            }
            self.subjects.push(parse(session).unwrap_or_else(|error| {
                let number = session.began.session;
                self.unreadable
                    .push(format!("the job of session {number} cannot be read, so its tasks are numbered: {error}"));
                SessionJob { job: Arc::new(Nameless { tasks: tasks_seen(session) }), graph: None }
            }));
        }
    }

    /// Warnings that qualify the rest of a report.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Damage of the journal, if any.
    pub fn damage(&self) -> Option<&JournalError> {
        match &self.replay.tail {
            Tail::Damaged(error) => Some(error),
            Tail::Clean | Tail::Torn(_) => None,
        }
    }

    /// The tasks of a name.
    ///
    /// # Errors
    /// If the job has no such task (any more).
    pub fn find(&self, wanted: &str) -> Result<Vec<TaskId>, ReportError> {
        let missing = match self.subject().job.find(wanted) {
            Ok(tasks) => return Ok(tasks),
            Err(reason) => reason,
        };
        let had = self.sessions().filter(|(_, subject)| subject.job.find(wanted).is_ok()).last();
        Err(ReportError::NoSuchTask(had.map_or(missing, |(session, _)| {
            format!("`{wanted}` is no longer part of the job since session {}", session.began.session + 1)
        })))
    }

    /// The sessions with their jobs, oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = (&Session, &SessionJob)> {
        self.replay.sessions.iter().zip(&self.subjects)
    }

    /// The last session, which defines the states of tasks. (`load` ensures that there is one.)
    pub fn session(&self) -> &Session {
        &self.replay.sessions[self.replay.sessions.len() - 1]
    }

    /// The last session in which a task ran, or the last one if the run goes on or no task ever
    /// ran.
    pub fn working_session(&self) -> &Session {
        if self.state() == RunState::Running {
            return self.session();
        }
        let has_work = |session: &&Session| session.attempts.iter().any(|attempt| attempt.attempt > 0);
        self.replay.sessions.iter().rfind(has_work).unwrap_or_else(|| self.session())
    }

    /// When the work of the run ended, or now while it goes on: seconds since the first session
    /// began.
    pub fn work_end_s(&self) -> f64 {
        let session = self.working_session();
        self.on_run_clock(session, Time(self.wall_ns(session))) as f64 / 1e9
    }

    /// The job of the last session.
    pub fn subject(&self) -> &SessionJob {
        &self.subjects[self.subjects.len() - 1]
    }

    /// Number of tasks of the last session: those of the job without those that are left out.
    pub fn tasks_to_run(&self) -> u32 {
        self.subject().job.task_count().saturating_sub(self.session().left_out_count())
    }

    /// State of the run.
    pub fn state(&self) -> RunState {
        match (&self.session().ended, &self.liveness) {
            (Some(ended), _) => match ended.reason {
                EndReason::Complete => RunState::Completed,
                EndReason::Failures | EndReason::MaxFailures => RunState::Failed,
                EndReason::Budget => RunState::Budget,
                EndReason::Walltime => RunState::Walltime,
                EndReason::Signal(_) => RunState::Cancelled,
                EndReason::Error(_) => RunState::Error,
            },
            (None, Liveness::Gone) => RunState::Interrupted,
            (None, Liveness::Alive(_) | Liveness::Unknown(_)) => RunState::Running,
        }
    }

    /// True if the last session ended without records of the tasks that ran at its end.
    pub(crate) fn broke_off(&self) -> bool {
        matches!(self.state(), RunState::Interrupted | RunState::Error)
    }

    /// Duration of a session, so far or in total, in nanoseconds.
    pub fn wall_ns(&self, session: &Session) -> u64 {
        let heard = session.last_heard().0;
        let is_last = std::ptr::eq(session, self.session());
        if is_last && self.state() == RunState::Running {
            heard.max(self.read_unix_ns.saturating_sub(session.began.unix_ns))
        } else {
            heard
        }
    }

    /// Converts a time of a session to the clock of the run: nanoseconds since the first session
    /// began.
    pub fn on_run_clock(&self, session: &Session, time: Time) -> u64 {
        session.began.unix_ns.saturating_sub(self.replay.sessions[0].began.unix_ns).saturating_add(time.0)
    }

    /// The name of the run for the command line: short if it is in the default directory, else its
    /// path.
    pub fn name(&self) -> String {
        let usual = self.dir.path().parent().is_some_and(|runs| runs.ends_with(crate::journal::RUNS));
        if usual { self.dir.name() } else { self.dir.path().display().to_string() }
    }
}

/// Name of the node that a rank of a session was on.
pub(super) fn node_of(session: &Session, rank: Rank) -> &str {
    let ranks = &session.began.ranks;
    // Ranks are usually listed by number; otherwise the list is searched.
    let direct = ranks.get(rank.index()).filter(|info| info.rank == rank.0);
    let joined = || session.ranks.iter().map(|change| &change.info);
    let found = direct.or_else(|| ranks.iter().chain(joined()).find(|info| info.rank == rank.0));
    found.map_or("unknown", |info| info.node.as_str())
}

/// Run time of an attempt, in nanoseconds.
pub(super) fn run_ns(attempt: &Attempt) -> u64 {
    if attempt.attempt == 0 { 0 } else { attempt.end.0.saturating_sub(attempt.start.0) }
}

fn tasks_seen(session: &Session) -> u32 {
    let highest = session.attempts.iter().map(|attempt| attempt.task.0.saturating_add(1)).max();
    session.graph.map(|graph| graph.tasks).or(highest).unwrap_or(0)
}
