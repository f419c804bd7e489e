//! A simulated run with a run directory: its journal has the records of a real run, so every
//! command that reads a real run can read it.
//!
//! The journal says that the run was simulated, and no real run continues it. Its sessions follow
//! each other in virtual time: a resumed one starts when the one before ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::cluster::Cluster;
use super::simulation::{Before, Simulation, SimulationError, SimulationOutcome};
use super::simulator::{Log, Simulator};
use crate::job::{Cost, Flush, Scaling};
use crate::journal::{
    Began, Ended, GraphFacts, Journal, JournalError, KeptRun, LeftOut, OutputError, RUNS, RankInfo, Record, Replay,
    Requests, RunDir, RunDirError, SIMULATED, Simulated, StageWriter, Terms, replay, unix_now_ns,
};
use crate::model::{StageUse, TaskId};
use crate::scale::Advice;
use crate::workload::PreparedJob;

/// What to simulate, and where to record it.
#[derive(Clone, Copy)]
pub struct RecordRequest<'a> {
    /// The job.
    pub prepared: &'a PreparedJob,
    /// The options that leave tasks out, as a user types them.
    pub selection: &'a str,
    /// The text of the job file.
    pub job_text: &'a Arc<str>,
    /// Path of the job file.
    pub job_path: &'a Path,
    /// The cluster that it runs on.
    pub cluster: &'a Cluster,
    /// The text of the cluster file; empty if there is none.
    pub cluster_text: &'a str,
    /// Name of the scaling policy.
    pub policy: &'a str,
    /// Bounds of scaling.
    pub scaling: &'a Scaling,
    /// Budget and deadline.
    pub cost: &'a Cost,
    /// Number of ranks at the start.
    pub ranks: Option<u32>,
    /// The seed.
    pub seed: u64,
    /// Answers of the advisor in a recorded run, which are given again; without, nobody is asked.
    pub advice: &'a [Advice],
    /// The run directory; `None`: a new one or, to resume, the newest of this job's simulations.
    pub run_dir: Option<&'a Path>,
    /// True to resume a simulated run that has stopped.
    pub resume: bool,
}

/// A recorded simulated run.
#[derive(Debug)]
pub struct Rehearsed {
    /// Its directory.
    pub dir: PathBuf,
    /// The exit code that Phalanx would have had.
    pub exit_code: i32,
    /// Its results.
    pub outcome: SimulationOutcome,
}

/// Why a run was not simulated.
#[derive(Debug, Error)]
pub enum SessionError {
    /// There is nothing to simulate.
    #[error(transparent)]
    Trial(#[from] SimulationError),
    /// The run directory cannot be used.
    #[error(transparent)]
    Dir(#[from] RunDirError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What is noted of attempts cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The run to be resumed does not match.
    #[error("{0}")]
    Resume(String),
}

/// Simulates a run and records it in a run directory.
///
/// # Errors
///
/// If it cannot be simulated or recorded.
pub fn rehearse(request: &RecordRequest<'_>) -> Result<Rehearsed, SessionError> {
    let dir = run_dir(request)?;
    let _lock = dir.lock()?;
    let (mut journal, past) = match request.resume {
        true => (Journal::reopen(&dir.journal(), Flush::Never)?.0, Past::of(request, &replay(&dir.journal())?)?),
        false => (Journal::create(&dir.journal(), Flush::Never)?, Past::nothing()),
    };
    let done = |task: TaskId| past.done.get(task.index()) == Some(&true);
    let simulation = simulation(request, Before { done: &done, spent: past.spent });
    dir.write_job(request.job_text)?;
    open(request, &simulation, &past, &mut journal)?;
    let staged = StageWriter::new(&dir, past.session + 1);
    let mut log = Written { journal: &mut journal, staged, failed: None };
    let run = simulation.run(&mut log);
    let failed = log.failed.take();
    let outcome = match run {
        Ok(outcome) => outcome,
        // A run that cannot start has no events yet.
        Err(error) => {
            drop(journal);
            if !request.resume {
                dir.take_back()?;
            }
            return Err(error.into());
        }
    };
    if let Some(error) = failed {
        return Err(error);
    }
    let (why, tally) = (&outcome.ended.why, &outcome.ended.tally);
    let ended = Ended::of(outcome.ended.time, why, tally);
    let exit_code = ended.exit_code;
    journal.append(&Record::Ended(ended))?;
    Ok(Rehearsed { dir: dir.path().to_owned(), exit_code, outcome })
}

fn simulation<'a>(request: &RecordRequest<'a>, before: Before<'a>) -> Simulation<'a> {
    let RecordRequest { prepared, cluster, policy, scaling, cost, ranks, seed, advice, .. } = *request;
    Simulation { ranks, seed, before, advice, ..Simulation::new(prepared, cluster, policy, (scaling, cost)) }
}

fn run_dir(request: &RecordRequest<'_>) -> Result<RunDir, RunDirError> {
    let (runs, name) = (Path::new(RUNS), format!("{}{SIMULATED}", request.prepared.job.name));
    match (request.run_dir, request.resume) {
        (explicit, true) => RunDir::for_resume(runs, (&name, Some(request.job_path)), explicit),
        (Some(dir), false) => RunDir::create_at(dir),
        (None, false) => RunDir::create(runs, &name),
    }
}

/// The results of earlier sessions.
struct Past {
    session: u32,
    began_unix_ns: u64,
    kept: Vec<KeptRun>,
    done: Vec<bool>,
    spent: f64,
}

impl Past {
    fn nothing() -> Past {
        Past { session: 0, began_unix_ns: unix_now_ns(), kept: Vec::new(), done: Vec::new(), spent: 0.0 }
    }

    fn of(request: &RecordRequest<'_>, replay: &Replay) -> Result<Past, SessionError> {
        let Some(last) = replay.last_session() else { return Ok(Past::nothing()) };
        if last.terms.as_ref().is_none_or(|terms| terms.simulated.is_none()) {
            return Err(SessionError::Resume("this run was a real one: `phalanx run --resume` continues it".into()));
        }
        if *last.began.job_text != **request.job_text {
            let text = "the job file has changed since this run was simulated: simulate it anew";
            return Err(SessionError::Resume(text.into()));
        }
        let done: Vec<bool> = (0..request.prepared.tasks()).map(|task| replay.completed(TaskId(task))).collect();
        Ok(Past {
            session: last.began.session,
            began_unix_ns: last.began.unix_ns.saturating_add(last.last_heard().0),
            kept: runs_of(&done),
            spent: replay.spent(),
            done,
        })
    }
}

/// Runs of consecutive completed tasks.
fn runs_of(done: &[bool]) -> Vec<KeptRun> {
    let mut runs: Vec<KeptRun> = Vec::new();
    for (task, _) in (0..).zip(done).filter(|(_, done)| **done) {
        match runs.last_mut() {
            Some(run) if run.first.0 + run.count == task => run.count += 1,
            _ => runs.push(KeptRun { first: TaskId(task), was: TaskId(task), count: 1 }),
        }
    }
    runs
}

/// Writes the records that start the session.
fn open(
    request: &RecordRequest<'_>,
    simulation: &Simulation<'_>,
    past: &Past,
    journal: &mut Journal,
) -> Result<(), JournalError> {
    let RecordRequest { prepared, cluster, seed, .. } = *request;
    let info = |(rank, node, slots): (u32, String, u32)| RankInfo { rank, node, slots, pid: 0 };
    journal.append(&Record::Began(Began {
        session: past.session + 1,
        unix_ns: past.began_unix_ns,
        phalanx: env!("CARGO_PKG_VERSION").to_owned(),
        job_text: Arc::clone(request.job_text),
        job_path: request.job_path.to_owned(),
        dir: std::env::current_dir().unwrap_or_default(),
        ranks: Simulator::first_ranks(cluster, simulation.first_ranks()).map(info).collect(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        kept: past.kept.clone(),
    }))?;
    journal.append(&Record::Requests(Requests {
        most: cluster.nodes.iter().map(|node| node.memory).max().unwrap_or(0),
        auto: prepared.job.auto_memory.to_vec(),
        short: Vec::new(),
    }))?;
    if !prepared.left_out.is_empty() {
        let mut left_out = prepared.left_out.to_vec();
        left_out.iter_mut().zip(&past.done).for_each(|(out, done)| *out &= !done);
        journal.append(&Record::LeftOut(LeftOut::of(request.selection, &left_out)))?;
    }
    let graph = &prepared.graph;
    journal.append(&Record::Graph(GraphFacts {
        tasks: graph.task_count() as u32,
        joins: (graph.node_count() - graph.task_count()) as u32,
        edges: graph.edge_count() as u64,
        critical_path_ns: prepared.order.critical_path,
        work_ns: prepared.order.work,
        cut_edges: 0,
        cut_bytes: 0,
    }))?;
    let text = request.cluster_text.to_owned();
    journal.append(&Record::Terms(Terms {
        policy: request.policy.to_owned(),
        // The cap that the user has set, for all sessions together.
        prices: cluster.prices(request.cost),
        simulated: Some(Simulated { seed, cluster: cluster.name.clone(), text }),
    }))
}

/// Writes records to a journal; keeps the first error for later, since a simulation cannot stop
/// half way.
struct Written<'a> {
    journal: &'a mut Journal,
    staged: StageWriter,
    failed: Option<SessionError>,
}

impl Log for Written<'_> {
    fn record(&mut self, record: Record) {
        if self.failed.is_none() {
            self.failed = self.journal.append(&record).err().map(SessionError::from);
        }
    }

    fn staged(&mut self, task: TaskId, attempt: u16, used: &StageUse) {
        if self.failed.is_none() {
            self.failed = self.staged.append(task, attempt, used).err().map(SessionError::from);
        }
    }
}
