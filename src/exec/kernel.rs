//! Kernels: functions of this process as tasks.
//!
//! A kernel is prepared from its arguments once, which reports all errors in them, and then called
//! once per task. A kernel shares our process and cannot be killed. It is *asked* to stop through
//! [`Context::cancelled`], which becomes true when the task is cancelled and when its time limit is
//! over. A kernel that returns after its limit ends as TIMEOUT, one that returns after a
//! cancellation as CANCELLED, whatever it returns; one that never polls occupies its slot until it
//! returns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::args::{ArgError, unknown};
use super::control::Control;
use super::graphs::Graphs;
use super::output::Output;
use super::{ExecContext, Peers, RankContext, kernels};
use crate::data::DataGraphError;
use crate::data::part::GraphPart;
use crate::model::Stream;
use crate::model::{Measure, Rank, TaskId};

/// A kernel with its arguments, ready to be called for any number of tasks, from several threads at
/// once. An error is shown to the user and fails the task.
pub type Prepared = Arc<dyn Fn(&Context) -> Result<(), String> + Send + Sync>;

/// A kind of work that a job file can name.
///
/// A function from arguments to a [`Prepared`] kernel is a `Kernel`:
///
/// ```
/// use std::sync::Arc;
/// use phalanx::exec::{ArgError, Args, Kernels, Prepared};
///
/// fn greet(args: &toml::Table) -> Result<Prepared, ArgError> {
///     let name: String = Args::new(args, &["name"])?.need("name")?;
///     Ok(Arc::new(move |context| {
///         context.print(&format!("hello {name} from task {}\n", context.task().0));
///         Ok(())
///     }))
/// }
///
/// let mut kernels = Kernels::builtin();
/// kernels.register("greet", greet);
/// assert!(kernels.get("greet").is_some());
/// ```
pub trait Kernel: Send + Sync {
    /// Checks the arguments and prepares the kernel. Called once per group of tasks if the
    /// arguments hold no placeholder, else once per task.
    fn prepare(&self, args: &toml::Table) -> Result<Prepared, ArgError>;
}

impl<F: Fn(&toml::Table) -> Result<Prepared, ArgError> + Send + Sync> Kernel for F {
    fn prepare(&self, args: &toml::Table) -> Result<Prepared, ArgError> {
        self(args)
    }
}

/// The kernels that tasks can name.
#[derive(Clone)]
pub struct Kernels(BTreeMap<String, Arc<dyn Kernel>>);

impl Kernels {
    /// The built-in kernels.
    pub fn builtin() -> Kernels {
        let mut all = Kernels(BTreeMap::new());
        kernels::register(&mut all);
        all
    }

    /// Adds a kernel; replaces one of the same name.
    pub fn register(&mut self, name: impl Into<String>, kernel: impl Kernel + 'static) {
        self.0.insert(name.into(), Arc::new(kernel));
    }

    /// The kernel of that name.
    pub fn get(&self, name: &str) -> Option<&dyn Kernel> {
        self.0.get(name).map(|kernel| &**kernel)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Finds a kernel and prepares it.
    pub fn prepare(&self, name: &str, args: &toml::Table) -> Result<Prepared, KernelError> {
        let Some(kernel) = self.get(name) else {
            let known: Vec<&str> = self.names().collect();
            return Err(KernelError::Unknown { name: name.to_owned(), hint: unknown("kernel", name, &known) });
        };
        kernel.prepare(args).map_err(|error| KernelError::Args { name: name.to_owned(), error })
    }
}

impl Default for Kernels {
    fn default() -> Kernels {
        Kernels::builtin()
    }
}

/// Why a kernel could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// There is no kernel of that name.
    #[error("kernel `{name}`: {hint}")]
    Unknown {
        /// The name.
        name: String,
        /// A similar name, or the list of known kernels.
        hint: String,
    },
    /// The kernel rejects its arguments.
    #[error("kernel `{name}`: {error}")]
    Args {
        /// The name.
        name: String,
        /// What is wrong with them.
        error: ArgError,
    },
}

/// One call of a kernel: the task and the attempt.
pub(super) struct KernelCall<'a> {
    pub(super) task: TaskId,
    pub(super) name: &'a str,
    /// What precedes names of its job in the run: `JOB/` if the run has several jobs.
    pub(super) job: &'a str,
    pub(super) dir: &'a Path,
    pub(super) seat: &'a ExecContext<'a>,
    pub(super) site: &'a RankContext,
    pub(super) graphs: &'a Graphs,
    pub(super) index: &'a (dyn Fn() -> Option<u64> + Sync),
}

/// The view of a running kernel: its task, its resources, and its output. May be shared with the
/// threads of [`Context::rayon`].
pub struct Context<'a> {
    call: KernelCall<'a>,
    control: &'a Control,
    deadline: Option<Instant>,
    output: &'a Output<'a>,
    /// Tables of tasks that it adds.
    added: Mutex<String>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        call: KernelCall<'a>,
        control: &'a Control,
        deadline: Option<Instant>,
        output: &'a Output<'a>,
    ) -> Self {
        Context { call, control, deadline, output, added: Mutex::default() }
    }

    /// Adds tasks to the run, as a command does by the file that `$PHALANX_ADD` names: `[[task]]`
    /// tables as in a job file. They are checked when the kernel has returned successfully; if they
    /// are refused, the task fails.
    pub fn add_tasks(&self, tables: &str) {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        added.push_str(tables);
        added.push('\n');
    }

    /// The tables of tasks that it adds.
    pub(super) fn into_added(self) -> String {
        self.added.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task's number.
    pub fn task(&self) -> TaskId {
        self.call.task
    }

    /// The name of the task, without index.
    pub fn name(&self) -> &str {
        self.call.name
    }

    /// The value of `{index}`, for a task of an array or matrix.
    pub fn index(&self) -> Option<u64> {
        (self.call.index)()
    }

    /// Records a value that the task measured, as a command does by a line in the file that
    /// `$PHALANX_METRICS` names. A name has at most 64 characters: letters, digits and `_ . : -`,
    /// starting with a letter or `_`. A value must be finite.
    ///
    /// # Errors
    /// If the name or the value is invalid.
    pub fn measure(&self, name: &str, value: f64) -> Result<(), String> {
        if !Measure::is_name(name) || !value.is_finite() {
            return Err(format!(
                "`{name}` = {value} cannot be measured: a name is letters, digits and `_.:-`, a value finite"
            ));
        }
        self.output.measure(name, value);
        Ok(())
    }

    /// 1 for the first attempt.
    pub fn attempt(&self) -> u16 {
        self.call.seat.attempt
    }

    /// The rank that runs it.
    pub fn rank(&self) -> Rank {
        self.call.site.rank
    }

    /// The run, e.g. `mosaic-3`.
    pub fn job_id(&self) -> &str {
        &self.call.site.job_id
    }

    /// Number of the session of the run, from 1.
    pub(super) fn session(&self) -> u32 {
        self.call.site.session
    }

    /// The CPUs of the task; empty if slots are not pinned.
    pub fn cpus(&self) -> &[u32] {
        self.call.seat.cpus
    }

    /// The NUMA node of these CPUs, if they share one.
    pub fn numa(&self) -> Option<u32> {
        self.call.seat.numa
    }

    /// The GPUs of the task, by their ordinals among those that this process sees: the device
    /// numbers of CUDA and HIP. On a machine with different GPU models and no launcher that shows
    /// them, set `CUDA_DEVICE_ORDER=PCI_BUS_ID`, the order in which Phalanx counts them.
    pub fn gpus(&self) -> &[u32] {
        self.call.seat.gpus
    }

    /// The directory to which file names are relative.
    pub fn dir(&self) -> &Path {
        self.call.dir
    }

    /// The present version of a data graph, loaded on this rank if necessary. It holds all rows,
    /// for petgraph's `visit` traits and for [`crate::data::operations`].
    ///
    /// # Errors
    /// If the job declares no graph of that name or has `divide = true` for it, it cannot be
    /// loaded, or the task must stop.
    pub fn graph(&self, name: &str) -> Result<GraphPart, DataGraphError> {
        self.call.graphs.part(&format!("{}{name}", self.call.job), self)
    }

    /// The ranks that execute the operation together, if there are several.
    pub(super) fn peers(&self) -> Option<&'a dyn Peers> {
        self.call.seat.peers
    }

    /// The data graphs of the run.
    pub fn graphs(&self) -> &Graphs {
        self.call.graphs
    }

    /// The path of a file, relative to the task's directory.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.call.dir.join(file)
    }

    /// The thread pool for a kernel of several CPUs.
    pub fn rayon(&self) -> Arc<rayon::ThreadPool> {
        (self.call.seat.rayon)()
    }

    /// True once the kernel should return: it was cancelled, or its time limit is over.
    pub fn cancelled(&self) -> bool {
        self.control.stop().is_some() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sleeps for `time`, less if the kernel is cancelled or its time limit is over. Returns true
    /// if it slept all the time.
    pub fn sleep(&self, time: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return true;
            }
            if self.cancelled() {
                return false;
            }
            let limit = self.deadline.map_or(left, |deadline| deadline.saturating_duration_since(Instant::now()));
            self.control.doze(left.min(limit));
        }
    }

    /// Prints to the task's standard output.
    pub fn print(&self, text: &str) {
        self.output.print(Stream::Out, text.as_bytes());
    }

    /// Prints to the task's standard error.
    pub fn eprint(&self, text: &str) {
        self.output.print(Stream::Err, text.as_bytes());
    }
}
