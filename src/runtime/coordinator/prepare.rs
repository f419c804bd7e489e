//! What rank 0 does before it contacts the other ranks: reads the job, opens the run directory, and
//! finds out which tasks are complete.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::auto_memory::auto_memory;
use super::join_address::JoinAddress;
use super::live_twin::check_live_twins;
use super::part_of_job::{check_needs, check_sources, kept_without, left_out};
use super::preview::{UnfinishedRun, unfinished_run};
use super::provisioner::{self, listen_on};
use super::resume::Takeover;
use super::resumed_job::{FormerRun, resumed_job};
use super::run_history::LoadedHistory;
use crate::exec::{BatchWriter, FormerBatches, Kernels, user_variables};
use crate::graph::TaskGraph;
use crate::job::{self, Job, Loaded};
use crate::journal::{
    EndedSessions, HistoryFile, Holder, Journal, KeptRun, LimitChange, RUNS, Record, Replay, RunAgain, RunDir,
    RunDirError, RunLock, Tail, remove_unreported, replay,
};
use crate::model::{Shortfalls, TaskId};
use crate::observe::tell;
use crate::runtime::clock::unix_ns;
use crate::runtime::divided_graphs::divide_graphs;
use crate::runtime::{Options, RunError};
use crate::scale::price::{EarlierSessions, Prices, STOP_MARGIN};
use crate::schedule::protocol::Welcome;
use crate::system::process_watch::own_mark;
use crate::text::{counted, counted_are};
use crate::workload::{PreparedJob, Selected, block_time, graph_of};

/// Maximum number of tasks that a message lists which run again.
const LISTED_RERUNS: usize = 5;

/// A job that is ready to run, with its run directory.
pub(super) struct PreparedRun {
    pub(super) prepared: PreparedJob,
    pub(super) dir: RunDir,
    /// Held until the run is over.
    pub(super) lock: RunLock,
    pub(super) journal: Journal,
    pub(super) kept: Vec<KeptRun>,
    /// Those of them that the job of the former session did not have.
    pub(super) recalled: Vec<TaskId>,
    /// Changes to data graphs that earlier sessions made.
    pub(super) former_batches: FormerBatches,
    /// Tasks that began without completing in earlier sessions, with their numbers in the last.
    pub(super) begun: Vec<KeptRun>,
    /// Why tasks that had completed run again.
    pub(super) run_again: Vec<RunAgain>,
    pub(super) welcome: Welcome,
    /// What earlier sessions have left.
    pub(super) earlier: EarlierSessions,
    /// Earlier sessions that are certainly over.
    pub(super) ended: EndedSessions,
    /// The history of the job.
    pub(super) past: LoadedHistory,
    /// The options that leave tasks out.
    pub(super) selection: String,
    /// Limits of pools that the user changed in earlier sessions: they still hold.
    pub(super) limits: Vec<LimitChange>,
    /// The run, which was open for more tasks, was closed in an earlier session.
    pub(super) is_closed: bool,
    /// Keeps other runs from beginning, until the journal says what this one writes.
    pub(super) alone: Option<File>,
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
        let mut loaded = job::load_all(&options.jobs, kernels).map_err(RunError::Job)?;
        let mut graph = graph_of(&loaded).map_err(RunError::Job)?;
        for report in [&loaded.warnings, &loaded.missing_inputs(), &block_time(&loaded, &graph)] {
            if !report.is_empty() {
                tracing::warn!("the job file could be better\n{}", report.render(false));
            }
        }
        let job_path = loaded.file().to_owned();
        let mut selected = options.selection.of(&loaded.job, &graph).map_err(RunError::Refused)?;
        provisioner::check(&loaded.job.sites)?;
        let listen = listen_on(options, &loaded.job);
        if let Some(listen) = &listen {
            JoinAddress::choose(listen)?;
        }
        let is_new = !options.resume && options.run_dir.is_none();
        if let Some(earlier) = (is_new && options.mention_earlier).then(|| unfinished_run(kernels, &loaded)).flatten() {
            let UnfinishedRun { name, complete, tasks } = earlier;
            tell(&format!("{name} has not completed: `--resume` would save {complete} of {tasks} tasks"));
        }
        let (dir, resumes) = run_dir(options, &loaded)?;
        let lock = dir.lock()?;
        let began_unix_ns = unix_ns();
        let alone = RunDir::begin_alone(Path::new(RUNS));
        let opened = check_live_twins(&dir, &loaded.job, &|task| selected.has(task)).and_then(|()| {
            open_journal(
                options,
                kernels,
                (&dir, resumes),
                (&mut loaded, &mut graph, &mut selected),
                lock.gone_predecessor(),
            )
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                drop(lock);
                if !resumes && let Err(error) = dir.take_back() {
                    tracing::warn!("{error}");
                }
                return Err(error);
            }
        };
        let Opened {
            journal,
            session,
            kept,
            begun,
            recalled,
            former_batches,
            run_again,
            earlier,
            ended,
            limits,
            is_closed,
            short,
        } = opened;
        let (text, mut job) = (Arc::clone(&loaded.text), loaded.job);
        // The graph holds them in half the space.
        job.links = Vec::new();
        job.max_failures = match options.keep_going {
            true => None,
            false => options.max_failures.or(job.max_failures),
        };
        let left_out = left_out(&selected, &kept, graph.task_count());
        let out = left_out.iter().filter(|out| **out).count() as u64;
        if out > 0 && options.mention_earlier {
            let (tasks, words) = (counted_are(out, "task"), selected.words());
            tell(&format!("{tasks} left out ({words}); `--resume` without that runs the rest"));
        }
        let complete: u64 = kept.iter().map(|run| u64::from(run.count)).sum();
        if resumes && complete + out < graph.task_count() as u64 {
            check_budget(&job, earlier.cost)?;
        }
        let past = LoadedHistory::load(HistoryFile::beside(&dir, &job.name), &mut job, began_unix_ns);
        auto_memory(dir.path().parent().unwrap_or(Path::new(RUNS)), &mut job);
        divide_graphs(&mut job);
        let prepared = PreparedJob::of_part(job, Arc::new(graph), left_out);
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
            auto_memory: prepared.job.auto_memory.to_vec(),
            divided_graphs: prepared.job.divided_graphs(),
            short,
            user_variables: user_variables(),
            process: own_mark(),
        };
        let selection = selected.words().to_owned();
        Ok(PreparedRun {
            prepared,
            dir,
            lock,
            journal,
            kept,
            recalled,
            former_batches,
            begun,
            run_again,
            welcome,
            earlier,
            ended,
            past,
            selection,
            limits,
            is_closed,
            alone,
        })
    }
}

/// A path that is sent to other ranks.
fn text_of(path: &Path) -> Result<String, RunError> {
    let refused = || RunError::Refused(format!("{} is not valid UTF-8: run from a directory that is", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(refused)
}

/// The run directory, and whether it has a run that is resumed.
fn run_dir(options: &Options, loaded: &Loaded) -> Result<(RunDir, bool), RunError> {
    let (runs, explicit) = (Path::new(RUNS), options.run_dir.as_deref());
    if options.resume {
        let (found, remark) = to_resume(options, loaded)?;
        if let Some(remark) = remark.filter(|_| options.mention_earlier) {
            tell(&remark);
        }
        if let Some(found) = found {
            return Ok((found, true));
        }
    }
    let created = match explicit {
        Some(dir) => RunDir::create_at(dir),
        None => RunDir::create(runs, &loaded.job.name),
    };
    let created = created?;
    created.close_like(&options.jobs)?;
    Ok((created, false))
}

/// Refuses a session whose first node the rest of the budget does not pay for.
fn check_budget(job: &Job, spent: f64) -> Result<(), RunError> {
    let least = Prices::of_job(&job.cost, 1).nodes.first().map_or(0.0, |node| node.bill(STOP_MARGIN));
    match job.cost.budget {
        Some(budget) if spent + least > budget => Err(RunError::Spent { spent, budget, least }),
        _ => Ok(()),
    }
}

/// The run that `--resume` continues, if there is one, and what its user may not expect about it.
pub(super) fn to_resume(options: &Options, loaded: &Loaded) -> Result<(Option<RunDir>, Option<String>), RunError> {
    let (runs, explicit, job) = (Path::new(RUNS), options.run_dir.as_deref(), &loaded.job);
    let of_others = match (explicit, loaded.path()) {
        (None, Some(file)) => RunDir::newer_of_other_files(runs, &job.name, file)?,
        _ => Vec::new(),
    };
    let of_others = of_others.iter().map(|(run, file)| format!("{run} is a run of {}", file.display()));
    let of_others = of_others.collect::<Vec<_>>().join("; ");
    match RunDir::for_resume(runs, (&job.name, loaded.path()), explicit) {
        Err(RunDirError::NothingToResume { .. } | RunDirError::NotARun { .. }) => {
            let remark = format!("there is no earlier run of {} to resume: all of it runs", job.name);
            let other = RunDir::in_other_order(runs, &job.name)?.filter(|_| explicit.is_none());
            let other = other.map(|run| format!("; {run} is a run of these files in another order: name them in that"));
            let others = if of_others.is_empty() { of_others } else { format!(" ({of_others})") };
            Ok((None, Some(remark + &other.unwrap_or_default() + &others)))
        }
        found => {
            let found = found?;
            let skipped = if explicit.is_none() { found.skipped_for_resume(runs, &job.name)? } else { Vec::new() };
            let killed = (!skipped.is_empty()).then(|| {
                let (skipped, was) = (skipped.join(", "), if skipped.len() > 1 { "were" } else { "was" });
                format!("{skipped} {was} killed before anything was recorded")
            });
            let others = Some(of_others).filter(|others| !others.is_empty());
            let why: Vec<String> = killed.into_iter().chain(others).collect();
            let remark = (!why.is_empty()).then(|| format!("{}: {} is resumed", why.join("; "), found.name()));
            Ok((Some(found), remark))
        }
    }
}

/// The tasks that `--rerun` names. One that the run leaves out is refused: it would not run.
pub(super) fn rerun(options: &Options, loaded: &Loaded) -> Result<Vec<Range<u32>>, RunError> {
    if options.rerun.is_empty() {
        return Ok(Vec::new());
    }
    let (job, graph) = (&loaded.job, graph_of(loaded).map_err(RunError::Job)?);
    let selected = options.selection.of(job, &graph).map_err(RunError::Refused)?;
    let find = |name: &String| {
        let found = job.find(name).map_err(|reason| RunError::Refused(format!("--rerun: {reason}")))?;
        if found.iter().cloned().flatten().any(|task| selected.has(TaskId(task))) {
            return Ok(found);
        }
        let words = selected.words();
        Err(RunError::Refused(format!(
            "`--rerun {name}` names what `{words}` leaves out: choose {name} too (`--until {name}`), or leave out --rerun"
        )))
    };
    let found: Result<Vec<_>, _> = options.rerun.iter().map(find).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// A journal, and what earlier sessions recorded in it.
struct Opened {
    journal: Journal,
    /// Number of the session that begins.
    session: u32,
    kept: Vec<KeptRun>,
    recalled: Vec<TaskId>,
    former_batches: FormerBatches,
    begun: Vec<KeptRun>,
    run_again: Vec<RunAgain>,
    earlier: EarlierSessions,
    ended: EndedSessions,
    limits: Vec<LimitChange>,
    is_closed: bool,
    short: Vec<(TaskId, Shortfalls)>,
}

impl Opened {
    fn new(journal: Journal) -> Opened {
        Opened {
            journal,
            session: 1,
            kept: Vec::new(),
            recalled: Vec::new(),
            former_batches: FormerBatches::default(),
            begun: Vec::new(),
            run_again: Vec::new(),
            earlier: EarlierSessions::default(),
            ended: EndedSessions::default(),
            limits: Vec::new(),
            is_closed: false,
            short: Vec::new(),
        }
    }
}

/// A new journal, or that of the run to be resumed with the tasks that stay complete. `gone`: the
/// last holder of the run's lock, if it is certainly gone.
fn open_journal(
    options: &Options,
    kernels: &Kernels,
    (dir, resumes): (&RunDir, bool),
    (loaded, graph, selected): (&mut Loaded, &mut TaskGraph, &mut Selected),
    gone: Option<&Holder>,
) -> Result<Opened, RunError> {
    let forced = |loaded: &Loaded| rerun(options, loaded);
    if !resumes {
        forced(loaded)?;
        check_needs(selected, (&loaded.job, graph), &Takeover::default())?;
        return Ok(Opened::new(Journal::create(&dir.journal(), loaded.job.flush)?));
    }
    let (mut journal, torn) = Journal::reopen(&dir.journal(), loaded.job.flush)?;
    if torn > 0 {
        tracing::info!("the last record was cut short when the run was killed; its {torn} bytes are dropped");
    }
    let mut replay = replay(&dir.journal())?;
    // What would be appended behind a record that cannot be read, nobody would read.
    if let Tail::Damaged(error) = std::mem::take(&mut replay.tail) {
        return Err(error.into());
    }
    let ended = EndedSessions::of(Some(&replay), gone);
    let former = FormerRun::read(kernels, dir, &replay)?;
    let (Some(last), Some(former)) = (replay.last_session(), former) else {
        return Ok(Opened { ended, ..Opened::new(journal) });
    };
    let resumed = resumed_job(kernels, dir, &replay, &former, loaded, Some(&forced))?;
    if !former.additions.is_empty() {
        *selected = options.selection.of(&resumed.loaded.job, &resumed.graph).map_err(RunError::Refused)?;
    }
    (*loaded, *graph) = (resumed.loaded, resumed.graph);
    let (job, takeover) = (&loaded.job, resumed.takeover);
    check_needs(selected, (job, graph), &takeover)?;
    check_sources(selected, (job, graph), &takeover)?;
    let unrecorded = replay.unrecorded();
    if !unrecorded.is_empty() {
        let ends = counted(unrecorded.len() as u64, "attempt");
        tracing::info!("{ends} had ended whose records the kill has cut off: other ranks have kept them");
        journal.append(&Record::Attempts(unrecorded.to_vec()))?;
        journal.sync()?;
    }
    remove_unreported(dir.path());
    let implied = former.implied;
    if !implied.is_empty() {
        tracing::info!("{} had completed whose records the kill has cut off", counted(implied.len() as u64, "task"));
        journal.append(&Record::Attempts(implied))?;
    }
    let complete = takeover.complete();
    tracing::info!("resuming {}: {complete} of {} tasks are complete already", dir.name(), job.task_count());
    if let Some(reruns) = takeover.reruns(job, LISTED_RERUNS).filter(|_| options.mention_earlier) {
        tell(&format!("run again: {reruns}"));
    }
    // A task that runs only to make a file again repeats its change, which others have seen.
    let standing = [takeover.kept.as_slice(), &takeover.remade].concat();
    let stays = |writer: BatchWriter| stays_complete(writer, &replay, &standing);
    let graphs = job.graphs.iter().map(|graph| graph.name.as_str());
    let former_batches =
        FormerBatches::find(dir.path(), graphs, &stays).map_err(|error| RunError::Refused(error.to_string()))?;
    kept_without(job, &takeover).iter().for_each(|text| tracing::warn!("{text}"));
    Ok(Opened {
        session: last.began.session + 1,
        run_again: takeover.run_again(job),
        kept: takeover.kept,
        recalled: takeover.recalled,
        former_batches,
        begun: takeover.begun,
        earlier: EarlierSessions {
            cost: replay.spent(),
            passed: Duration::from_nanos(unix_ns().saturating_sub(replay.sessions[0].began.unix_ns)),
        },
        ended,
        limits: last_limits(&replay),
        is_closed: replay.sessions.iter().any(|session| session.is_closed),
        short: resumed.short,
        ..Opened::new(journal)
    })
}

/// True if the task that wrote a batch has stayed complete since, and stays so: `kept` tells which
/// tasks of the last session do.
fn stays_complete(writer: BatchWriter, replay: &Replay, kept: &[KeptRun]) -> bool {
    let now = |was: TaskId, kept: &[KeptRun]| {
        let run = kept.iter().find(|run| (run.was.0..run.was.0 + run.count).contains(&was.0))?;
        Some(TaskId(run.first.0 + (was.0 - run.was.0)))
    };
    let later = replay.sessions.iter().filter(|session| session.began.session > writer.session);
    let all = later.map(|session| session.began.kept.as_slice()).chain([kept]);
    all.into_iter().try_fold(writer.task, now).is_some()
}

/// The last change of each pool's limit in all sessions.
fn last_limits(replay: &Replay) -> Vec<LimitChange> {
    let mut last: Vec<LimitChange> = Vec::new();
    for change in replay.sessions.iter().flat_map(|session| &session.limits) {
        last.retain(|other| other.pool != change.pool);
        last.push(change.clone());
    }
    last
}
