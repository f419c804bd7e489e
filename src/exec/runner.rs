//! Runs a task by its number and returns its outcome.
//!
//! For a kernel that is the same for all tasks of its group, the path allocates nothing, takes no
//! lock and reads no clock, so that tasks of a microsecond remain efficient. All other work is done
//! on a separate path for slower tasks.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Once, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::aside::AttemptDeadline;
use super::attempt::AttemptRun;
use super::cache::{Recorder, TaskCache, Visible};
use super::command::Commands;
use super::control::{Control, TaskStop};
use super::files;
use super::graphs::Graphs;
use super::kernel::{Context, KernelCall, Kernels, Prepared};
use super::output::{Output, OutputSink};
use super::shared_dirs::SharedDirs;
use super::stage::Stages;
use super::used_files::UsedFiles;
use super::{ExecContext, ExecError, Fault, RankContext, TaskSource};
use crate::graph::link::GroupId;
use crate::job::{Group, Task, Work, WrittenFiles};
use crate::model::{Outcome, State, TaskId};

/// Outcome of a task that was stopped before or while it ran, without an exit code of its process.
const CANCELLED: Outcome = Outcome { state: State::Cancelled, exit: 0, cached: false };

/// Set in `stopping` once any task has been cancelled.
const ANY_CANCELLED: u8 = 1 << 7;

/// Runs tasks, one per slot at a time.
pub struct Runner {
    /// The tasks that are known from the start, and the number behind the last of them.
    pub(super) start: TaskTables,
    start_end: u32,
    /// Tasks that were added since, in ascending order.
    added: RwLock<Vec<Arc<TaskTables>>>,
    kernels: Kernels,
    pub(super) site: RankContext,
    pub(super) sink: Arc<dyn OutputSink>,
    pub(super) controls: Arc<[CachePadded<Control>]>,
    /// Starts the watch over starts of commands once.
    pub(super) watch: Once,
    /// The strongest stop of the whole run so far, as the number of a `TaskStop`, and
    /// [`ANY_CANCELLED`]; 0 for none.
    stopping: AtomicU8,
    /// Ranges of cancelled tasks.
    cancelled: RwLock<Vec<Range<u32>>>,
    pub(super) commands: Commands,
    pub(super) used_files: UsedFiles,
    /// Warns once that tasks have left outputs of earlier attempts as they were.
    pub(super) untouched: Once,
    graphs: Graphs,
    pub(super) cache: Arc<TaskCache>,
    pub(super) stages: Stages,
    shared_dirs: Arc<SharedDirs>,
}

/// Groups of tasks.
pub(super) struct TaskTables {
    pub(super) source: Arc<dyn TaskSource>,
    /// Number of the first task of each group.
    firsts: Vec<u32>,
    /// The declared outputs; made when an input is missing.
    pub(super) written: OnceLock<WrittenFiles<TaskId>>,
    /// The plan of each group of several tasks, made at its first task.
    plans: Vec<OnceLock<Box<GroupPlan>>>,
}

impl TaskTables {
    fn new(source: Arc<dyn TaskSource>) -> TaskTables {
        let firsts = source.groups().iter().map(|group| group.first.0).collect();
        let plans = source.groups().iter().map(|_| OnceLock::new()).collect();
        TaskTables { source, firsts, written: OnceLock::new(), plans }
    }
}

/// How the tasks of a group are run.
enum GroupPlan {
    /// All tasks are one kernel with the same arguments, without declared inputs.
    Constant(ReadyKernel),
    /// Each task is expanded separately.
    Each,
}

/// A kernel that can be called.
pub(super) struct ReadyKernel {
    call: Prepared,
    name: String,
    /// What precedes names of its job in the run.
    job: String,
    dir: PathBuf,
    /// Its own files for standard output and standard error.
    files: [Option<PathBuf>; 2],
}

impl Runner {
    /// Makes a runner for the tasks of `source`, and allocates the descriptors for each slot.
    pub fn new(
        source: Arc<dyn TaskSource>,
        kernels: Kernels,
        site: RankContext,
        sink: Arc<dyn OutputSink>,
    ) -> Result<Runner, ExecError> {
        let system = |source| ExecError::System { what: "an event for each slot", source };
        let control = |_| Control::new().map(CachePadded::new).map_err(system);
        let shared_dirs = Arc::new(SharedDirs::new(site.run_dir.as_deref()));
        shared_dirs.add(Arc::clone(&source));
        Ok(Runner {
            controls: (0..site.slots).map(control).collect::<Result<_, _>>()?,
            commands: Commands::new(&site, source.env(), &source.prologues())?,
            used_files: UsedFiles::default(),
            untouched: Once::new(),
            graphs: Graphs::new(source.graphs(), site.graphs.as_deref()),
            cache: Arc::new(TaskCache::new(&*source, &site, Arc::clone(&shared_dirs))),
            stages: Stages::default(),
            shared_dirs,
            stopping: AtomicU8::new(0),
            cancelled: RwLock::default(),
            watch: Once::new(),
            start_end: source.groups().last().map_or(0, |last| last.first.0 + last.count),
            start: TaskTables::new(source),
            added: RwLock::default(),
            kernels,
            site,
            sink,
        })
    }

    /// Further tasks, whose numbers are higher than all before.
    pub fn add(&self, source: Arc<dyn TaskSource>) {
        self.shared_dirs.add(Arc::clone(&source));
        let mut added = self.added.write().unwrap_or_else(PoisonError::into_inner);
        added.push(Arc::new(TaskTables::new(source)));
    }

    #[cold]
    fn added_tables(&self, task: TaskId) -> Option<Arc<TaskTables>> {
        let added = self.added.read().unwrap_or_else(PoisonError::into_inner);
        let upto = added.partition_point(|tables| tables.firsts.first().is_some_and(|&first| first <= task.0));
        upto.checked_sub(1).map(|at| Arc::clone(&added[at]))
    }

    /// Runs one attempt at a task in the calling thread and returns when it has ended.
    ///
    /// Every error becomes a FAILED outcome with a message in the task's standard error.
    pub fn run(&self, task: TaskId, seat: &ExecContext) -> Outcome {
        let mut output = Output::new(&*self.sink, task, seat.attempt);
        let result = match self.controls.get(usize::from(seat.slot)) {
            Some(control) => self.attempt(task, seat, control, &mut output),
            None => Err(Fault::new(format!("slot {} of {} does not exist", seat.slot, self.controls.len()))),
        };
        let outcome = result.unwrap_or_else(|fault| {
            output.report_failure(&fault.text);
            Outcome { state: fault.state, exit: fault.exit, cached: false }
        });
        if output.used() { self.settle(task, &output, outcome) } else { outcome }
    }

    /// Runs this rank's share of an operation on a divided graph that another rank leads. The
    /// leader reports the attempt and has its output; what the share prints is dropped.
    ///
    /// # Errors
    /// Why the share has failed.
    pub fn share(&self, task: TaskId, seat: &ExecContext) -> Result<(), String> {
        let added = if task.0 < self.start_end { None } else { self.added_tables(task) };
        let source = &*added.as_deref().unwrap_or(&self.start).source;
        let Task { work, name, dir, index, .. } = source.task(task)?;
        let Work::Kernel { name: kernel, args } = work else { return Err("it is a command".to_owned()) };
        let kernel = self.kernels.prepare(&kernel, &args).map_err(|error| error.to_string())?;
        let control = Control::new().map_err(|error| format!("the system refuses an event: {error}"))?;
        let recorder = Recorder::new(&*self.sink);
        let output = Output::new(&recorder, task, seat.attempt);
        let index = || index;
        let (graphs, site) = (&self.graphs, &self.site);
        let call = KernelCall { task, name: &name, job: "", dir: &dir, seat, site, graphs, index: &index };
        kernel(&Context::new(call, &control, None, &output))
    }

    /// Cancels tasks. Running ones are stopped: TERM, then KILL after the grace period; kernels are
    /// asked to return. Later starts of these tasks end at once. All end as CANCELLED. Returns how
    /// many were running.
    pub fn cancel(&self, tasks: Range<u32>) -> usize {
        let mut cancelled = self.cancelled.write().unwrap_or_else(PoisonError::into_inner);
        if !cancelled.contains(&tasks) {
            cancelled.push(tasks.clone());
        }
        drop(cancelled);
        self.stopping.fetch_or(ANY_CANCELLED, Ordering::SeqCst);
        let running = self.controls.iter().filter(|control| {
            let task = control.task().filter(|task| tasks.contains(&task.0));
            task.is_some_and(|task| control.request(Some(task), TaskStop::Terminate))
        });
        running.count()
    }

    /// Ends a running command to free its memory: its attempt ends as NODE_FAIL. Returns false if
    /// it does not run.
    pub fn free_memory(&self, task: TaskId) -> bool {
        self.controls.iter().any(|control| control.request_memory(task))
    }

    /// Records a signal that this process has received. Batch systems signal all processes of a
    /// node: commands that end by it have not failed by themselves.
    pub fn signalled(&self, signal: i32) {
        self.commands.signals().note(signal);
    }

    /// True if a task is cancelled or the run is stopping.
    #[cold]
    fn is_stopped(&self, task: TaskId, stopping: u8) -> bool {
        let cancelled = self.cancelled.read().unwrap_or_else(PoisonError::into_inner);
        stopping & !ANY_CANCELLED != 0 || cancelled.iter().any(|tasks| tasks.contains(&task.0))
    }

    /// Stops all running tasks, and every later start at once. They end as CANCELLED.
    pub fn stop_all(&self, stop: TaskStop) {
        self.stopping.fetch_or(stop as u8, Ordering::SeqCst);
        for control in &*self.controls {
            control.request(None, stop);
        }
    }

    /// The task that each slot runs now.
    pub fn running(&self) -> impl Iterator<Item = Option<TaskId>> + '_ {
        self.controls.iter().map(|control| control.task())
    }

    /// The command whose process each slot runs now.
    pub fn commands(&self) -> impl Iterator<Item = Option<TaskId>> + '_ {
        self.controls.iter().map(|control| control.command())
    }

    /// The context that the runner was made with.
    pub fn site(&self) -> &RankContext {
        &self.site
    }

    fn attempt(
        &self,
        id: TaskId,
        seat: &ExecContext,
        control: &Control,
        output: &mut Output,
    ) -> Result<Outcome, Fault> {
        let _running = control.begin(id);
        let stopping = self.stopping.load(Ordering::SeqCst);
        if stopping != 0 && self.is_stopped(id, stopping) {
            return Ok(CANCELLED);
        }
        if id.0 < self.start_end {
            return self.attempt_in(&self.start, id, seat, control, output);
        }
        let added = self.added_tables(id).ok_or_else(|| Fault::new(format!("there is no task {}", id.0)))?;
        self.attempt_in(&added, id, seat, control, output)
    }

    fn attempt_in(
        &self,
        tables: &TaskTables,
        id: TaskId,
        seat: &ExecContext,
        control: &Control,
        output: &mut Output,
    ) -> Result<Outcome, Fault> {
        let source = &*tables.source;
        let g = tables.firsts.partition_point(|&first| first <= id.0).wrapping_sub(1);
        let group = source.groups().get(g).filter(|group| id.0 - group.first.0 < group.count);
        let group = group.ok_or_else(|| Fault::new(format!("there is no task {}", id.0)))?;
        let mut limits = group.limits(seat.short, self.site.memory);
        // Of a task on several ranks only the processes of this node are measured here.
        if let (Some(memory), Some(here)) = (&mut limits.memory, seat.hosts.first()) {
            *memory = here.memory;
        }
        let turn = &AttemptRun {
            id,
            tables,
            source,
            group,
            limits,
            number: g as GroupId,
            seat,
            control,
            away: None,
            left: None,
        };
        if group.count == 1 {
            return self.each(turn, output);
        }
        let plan = match tables.plans[g].get() {
            Some(plan) => plan,
            None => {
                let plan = Box::new(self.plan(source, g, id)?);
                tables.plans[g].get_or_init(|| plan)
            }
        };
        match &**plan {
            GroupPlan::Constant(kernel) => self.kernel(turn, kernel, output, &|| source.index(id)),
            GroupPlan::Each => self.each(turn, output),
        }
    }

    /// Determines from any task of a group whether all its tasks are the same kernel.
    fn plan(&self, source: &dyn TaskSource, g: usize, id: TaskId) -> Result<GroupPlan, Fault> {
        if !source.constant(g as u32) || self.site.is_away {
            return Ok(GroupPlan::Each);
        }
        let task = source.task(id).map_err(Fault::new)?;
        match &task.work {
            Work::Kernel { name, args } if task.inputs.is_empty() && task.cache.is_none() => {
                Ok(GroupPlan::Constant(self.prepare(&source.groups()[g], &task, name, args)?))
            }
            _ => Ok(GroupPlan::Each),
        }
    }

    fn each(&self, turn: &AttemptRun, output: &mut Output) -> Result<Outcome, Fault> {
        let task = turn.source.task(turn.id).map_err(Fault::new)?;
        if self.site.is_away {
            return self.each_away(turn, &task, output);
        }
        self.site.carrier.iter().filter(|_| task.is_staged).for_each(|carrier| carrier.begins(task.id));
        self.each_here(turn, &task, output)
    }

    pub(super) fn each_here(&self, turn: &AttemptRun, task: &Task, output: &mut Output) -> Result<Outcome, Fault> {
        match &task.cache {
            Some(rules) => self.with_cache(turn, task, rules, output),
            None => self.work(turn, task, Visible::ALL, output),
        }
    }

    /// A task, and how long to wait until its files are visible.
    pub(super) fn expanded(&self, task: TaskId) -> Result<(Task, Duration), String> {
        let added = if task.0 < self.start_end { None } else { self.added_tables(task) };
        let tables = added.as_deref().unwrap_or(&self.start);
        let group = tables.firsts.partition_point(|&first| first <= task.0).wrapping_sub(1);
        let is_there = |group: &Group| task.0 - group.first.0 < group.count;
        match tables.source.groups().get(group).is_some_and(is_there) {
            true => Ok((tables.source.task(task)?, tables.source.output_wait(group as GroupId))),
            false => Err(format!("there is no task {}", task.0)),
        }
    }

    /// Removes temporary files that no task reads any more.
    pub fn discard(&self, files: &[(TaskId, u32)]) {
        let Some(held) = self.cache.held() else { return };
        let path = |(task, number): &(TaskId, u32)| {
            let task = self.start.source.task(*task).ok()?;
            Some(task.dir.join(task.temporary.get(*number as usize)?))
        };
        self.stages.discard(held, files.iter().filter_map(path).collect());
    }

    pub(super) fn prepare(
        &self,
        group: &Group,
        task: &Task,
        name: &str,
        args: &toml::Table,
    ) -> Result<ReadyKernel, Fault> {
        let call = self.kernels.prepare(name, args).map_err(|e| Fault::new(e.to_string()))?;
        let job = group.name.strip_suffix(&*task.name).unwrap_or_default().to_owned();
        let files = [task.stdout.clone(), task.stderr.clone()];
        Ok(ReadyKernel { call, name: task.name.clone(), job, dir: task.dir.clone(), files })
    }

    pub(super) fn kernel(
        &self,
        turn: &AttemptRun,
        kernel: &ReadyKernel,
        output: &mut Output,
        index: &(dyn Fn() -> Option<u64> + Sync),
    ) -> Result<Outcome, Fault> {
        let AttemptRun { id, limits, seat, control, .. } = *turn;
        if kernel.files.iter().any(Option::is_some) {
            output.redirect(self.kernel_files(kernel, index(), &AttemptDeadline::begin(control, limits.time))?);
        }
        // A limit beyond the clock's range counts as none.
        let deadline = limits.time.and_then(|limit| Instant::now().checked_add(limit));
        let call = KernelCall {
            task: id,
            name: &kernel.name,
            job: &kernel.job,
            dir: &kernel.dir,
            seat,
            site: &self.site,
            graphs: &self.graphs,
            index,
        };
        let context = Context::new(call, control, deadline, output);
        let result = catch_unwind(AssertUnwindSafe(|| (kernel.call)(&context)));
        let outcome = conclude(control, deadline, limits.time, output, result);
        let added = context.into_added();
        Ok(if outcome.ok() && !added.is_empty() { output.add_tasks(&added, outcome) } else { outcome })
    }

    fn kernel_files(
        &self,
        kernel: &ReadyKernel,
        index: Option<u64>,
        deadline: &AttemptDeadline,
    ) -> Result<[Option<File>; 2], Fault> {
        let names = self.site.file_names(&kernel.name, index);
        let [out, err] = kernel.files.each_ref().map(|file| Some(kernel.dir.join(names.fill(file.as_deref()?))));
        let open = |deadline| files::open(&deadline, None, out.clone(), err.clone());
        Ok(self.commands.retry_while_scarce(deadline, open)?.out)
    }

    /// Finishes the attempt's output: discards what need not be kept, and fails the attempt if the
    /// output could not be written.
    pub(super) fn settle(&self, task: TaskId, output: &Output, outcome: Outcome) -> Outcome {
        output.finish(outcome);
        match output.failure() {
            Some(error) => {
                tracing::error!(task = task.0, %error, "the output of a task could not be kept");
                output.reason(&format!("its output could not be kept: {error}"));
                let state = if outcome.ok() { State::Failed } else { outcome.state };
                Outcome { state, ..outcome }
            }
            None => outcome,
        }
    }
}

/// Derives the outcome from a kernel's return. A stop and the time limit override success, since
/// the kernel may have returned early because of them.
fn conclude(
    control: &Control,
    deadline: Option<Instant>,
    limit: Option<Duration>,
    output: &Output,
    result: std::thread::Result<Result<(), String>>,
) -> Outcome {
    if let Ok(Err(message)) = &result {
        output.report_failure(message);
    }
    if let Err(panic) = &result {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        output.report_failure(&format!("the kernel panicked: {}", text.unwrap_or("no message")));
    }
    if control.stop().is_some() {
        return CANCELLED;
    }
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        output.report_failure(&format!("over its time limit of {:?}", limit.unwrap_or_default()));
        return Outcome { state: State::Timeout, exit: 0, cached: false };
    }
    match result {
        Ok(Ok(())) => Outcome::OK,
        _ => Outcome { state: State::Failed, exit: 1, cached: false },
    }
}
