//! The vocabulary that all parts of Phalanx share: tasks, ranks, times, states and attempts.
//!
//! Plain data. Nothing here reads a clock, opens a file or depends on how a task is executed, so
//! both the pure core (`graph`, `schedule`) and the edges (`pool`, `exec`, `journal`, `observe`)
//! use it.

mod cache_use;
mod carried_file;
mod gangs;
mod labels;
mod stage_use;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cache_use::{CacheHit, CacheMiss, CacheUse, KeyDifference};
pub use carried_file::CarriedFile;
pub use gangs::{GangHost, GangNode, RankRoom, SetAside, ranks_within, share_of};
pub use labels::{Labels, NodeNeed, NodeOffer, Offers, has_labels, labels_of};
pub use stage_use::StageUse;

/// Dense number of a task within its job: `0..job.task_count()`, in the order of the job file.
///
/// Numbers at and above the job's task count belong to *joins*: nodes of the task graph that stand
/// for "all of an array" and are never run (see `graph`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId(pub u32);

/// Number of a rank within the run; rank 0 is the coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rank(pub u32);

impl TaskId {
    /// The number as an index into a table of tasks.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Rank {
    /// The coordinator.
    pub const ZERO: Rank = Rank(0);

    /// The number as an index into a table of ranks.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// A time of the run in nanoseconds since the run began on rank 0, in real or virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The time at which the run began.
    pub const ZERO: Time = Time(0);

    /// Seconds since the run began.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Duration from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `d`, saturating.
    pub fn after(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This time minus `d`, saturating.
    pub fn before(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This time plus `seconds`, saturating. A negative value or NaN adds nothing.
    pub fn after_seconds(self, seconds: f64) -> Time {
        // The cast saturates and converts NaN to zero.
        Time(self.0.saturating_add((seconds * 1e9) as u64))
    }
}

/// State of a task, in the words of Slurm's `sacct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Waits for dependencies.
    Pending,
    /// All dependencies are met; waits for a slot.
    Ready,
    /// Runs on a slot.
    Running,
    /// Ended successfully.
    Completed,
    /// Ended with a non-zero exit code, a signal, or an error of its kernel.
    Failed,
    /// Killed or not started at the request of the user or because the run ended.
    Cancelled,
    /// Killed at its time limit.
    Timeout,
    /// Killed because it exceeded its requested memory, or because the system ran out of memory.
    OutOfMemory,
    /// Its rank or node was lost while it ran.
    NodeFail,
    /// Never ran, because a dependency did not end as the task requires.
    Skipped,
}

impl State {
    /// Every state, in the order in which reports list them.
    pub const ALL: [State; 10] = [
        State::Pending,
        State::Ready,
        State::Running,
        State::Completed,
        State::Failed,
        State::Cancelled,
        State::Timeout,
        State::OutOfMemory,
        State::NodeFail,
        State::Skipped,
    ];

    /// The state as `sacct` prints it, e.g. `OUT_OF_MEMORY`.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "PENDING",
            State::Ready => "READY",
            State::Running => "RUNNING",
            State::Completed => "COMPLETED",
            State::Failed => "FAILED",
            State::Cancelled => "CANCELLED",
            State::Timeout => "TIMEOUT",
            State::OutOfMemory => "OUT_OF_MEMORY",
            State::NodeFail => "NODE_FAIL",
            State::Skipped => "SKIPPED",
        }
    }

    /// True for an attempt that ended because it had too little memory or time.
    pub fn falls_short(self) -> bool {
        matches!(self, State::OutOfMemory | State::Timeout)
    }

    /// True for an attempt that ran and did not succeed (the states that `retries` covers).
    pub fn is_failure(self) -> bool {
        matches!(self, State::Failed | State::Timeout | State::OutOfMemory | State::NodeFail)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How one attempt at a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Final state.
    pub state: State,
    /// Exit code of a command (0 to 255); `-n` if signal `n` killed it; 0 for a successful kernel,
    /// 1 for a failed one.
    pub exit: i32,
    /// True if the task was not run: its outputs and what it printed are those of an equal task,
    /// taken from the result cache. Only completed attempts are.
    #[serde(default)]
    pub cached: bool,
}

impl Outcome {
    /// Success.
    pub const OK: Outcome = Outcome { state: State::Completed, exit: 0, cached: false };

    /// Success without running: the result of an equal task was taken from the cache.
    pub const CACHED: Outcome = Outcome { cached: true, ..Outcome::OK };

    /// True if the attempt succeeded.
    pub fn ok(self) -> bool {
        self.state == State::Completed
    }
}

/// How often the requests of a task were too small: the number of its attempts so far that ended
/// OUT_OF_MEMORY, and TIMEOUT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shortfalls {
    /// Attempts that ended OUT_OF_MEMORY.
    pub memory: u8,
    /// Attempts that ended TIMEOUT.
    pub time: u8,
}

impl Shortfalls {
    /// None yet.
    pub const NONE: Shortfalls = Shortfalls { memory: 0, time: 0 };

    /// The count after a further attempt that ended in this state.
    #[must_use]
    pub fn after(self, state: State) -> Shortfalls {
        Shortfalls {
            memory: self.memory.saturating_add(u8::from(state == State::OutOfMemory)),
            time: self.time.saturating_add(u8::from(state == State::Timeout)),
        }
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Shortfalls) -> Shortfalls {
        Shortfalls { memory: self.memory.saturating_add(other.memory), time: self.time.saturating_add(other.time) }
    }
}

/// Resource usage of the processes of one attempt, as counted by the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Total CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Peak memory in bytes: of the largest single process, or of all processes together where more
    /// was seen (they are looked at every few hundredths of a second at first, later every two
    /// seconds).
    pub peak_bytes: u64,
    /// True if that is only an upper bound: of a process that is smaller than its rank and runs for
    /// less than some hundredths of a second, the system reports the memory of the rank.
    #[serde(default)]
    pub peak_is_bound: bool,
}

impl Usage {
    /// The peak memory in bytes, if it was measured.
    pub fn measured_peak(&self) -> Option<u64> {
        (!self.peak_is_bound).then_some(self.peak_bytes)
    }
}

/// Resource usage of a rank (with its tasks) and of its node at one time, as counted by the
/// operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// CPU time of the rank and its tasks since the rank began, in seconds.
    pub cpu_s: f64,
    /// Memory of the rank and its tasks, in bytes; shared pages count once per process.
    pub memory: u64,
    /// Bytes read from disks since the rank began, where the kernel counts them.
    pub read: u64,
    /// Bytes written to disks since the rank began, where the kernel counts them.
    pub written: u64,
    /// Busy share of the node's CPUs, 0 to 1.
    pub node_cpu: f64,
    /// Memory in use on the node, in bytes.
    pub node_memory_used: u64,
    /// Memory of the node, in bytes.
    pub node_memory: u64,
    /// Recent share of time in which tasks of the node waited for I/O, 0 to 1.
    pub io_stall: f64,
    /// Messages sent to other ranks.
    pub messages: u64,
    /// Bytes in them.
    pub message_bytes: u64,
    /// Tasks stolen from other ranks.
    pub stolen: u64,
    /// Recent mean busy share of the rank's GPUs, 0 to 1.
    pub gpu_busy: f64,
    /// Memory in use on its GPUs, in bytes.
    pub gpu_memory_used: u64,
    /// Memory of its GPUs, in bytes; 0 without a GPU that reports it.
    pub gpu_memory: u64,
    /// Its slots, where their number changes (`[job] slots`).
    pub slots: Option<SlotsNow>,
}

/// The slots of a rank whose number follows what CPUs and memory allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsNow {
    /// Slots that may run tasks.
    pub active: u32,
    /// The least that there are.
    pub least: u32,
    /// The most that there can be.
    pub most: u32,
    /// Why there are as many.
    pub why: SlotReason,
}

/// Why a rank has as many slots as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotReason {
    /// It began with these.
    Start,
    /// All were in use while CPUs idled.
    CpusIdle,
    /// More would have waited for CPUs.
    CpusScarce,
    /// More had no work.
    NoWork,
    /// Memory was scarce.
    MemoryScarce,
    /// Memory is free again.
    MemoryFree,
}

impl SlotReason {
    /// The reason as the end of a sentence.
    pub fn text(self) -> &'static str {
        match self {
            SlotReason::Start => "the run began with these",
            SlotReason::CpusIdle => "all slots were in use and CPUs idle",
            SlotReason::CpusScarce => "CPUs were scarce",
            SlotReason::NoWork => "more had no work",
            SlotReason::MemoryScarce => "memory was scarce",
            SlotReason::MemoryFree => "memory was free again",
        }
    }
}

/// A value that a task wrote to `$PHALANX_METRICS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The task.
    pub task: TaskId,
    /// Number of the attempt.
    pub attempt: u16,
    /// Name of the value, see [`Measure::is_name`].
    pub name: String,
    /// The value.
    pub value: f64,
}

impl Measure {
    /// Maximum length of a name, in bytes.
    const NAME: usize = 64;

    /// True for a valid name: letters, digits and `_ . : -`, beginning with a letter or `_`, at
    /// most 64 bytes.
    pub fn is_name(name: &str) -> bool {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && name.len() <= Self::NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c))
    }
}

/// The reason why Phalanx itself failed an attempt, e.g. a missing output file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The task.
    pub task: TaskId,
    /// Number of the attempt.
    pub attempt: u16,
    /// The reason as text.
    pub text: String,
}

impl Reason {
    /// Maximum length of the text, in bytes.
    const MOST: usize = 1000;

    /// Creates a reason; a long text is truncated.
    pub fn new(task: TaskId, attempt: u16, text: &str) -> Reason {
        let cut = (0..=Self::MOST.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        Reason { task, attempt, text: text[..cut.unwrap_or(0)].to_owned() }
    }
}

/// State of a file, by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification, in nanoseconds since 1970 (UTC).
    pub mtime_ns: i64,
    /// Hash of the content; `None` for a large file.
    pub hash: Option<u64>,
}

/// A file that a task used, as it was when the attempt began that completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedFile {
    /// Its name as the task declares it, relative to the task's directory, which may be moved.
    pub path: PathBuf,
    /// True for a program or script that the command names, false for a declared input.
    pub is_program: bool,
    /// Its state.
    pub state: FileState,
}

/// One of the two output streams of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One attempt at a task, as it is sent to rank 0, journalled and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt; 0 for a task that was never started (skipped).
    pub attempt: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// True if no further attempt follows, so that the outcome is the final state of the task.
    pub last: bool,
    /// Rank that ran it.
    pub rank: Rank,
    /// Slot of that rank.
    pub slot: u16,
    /// Time at which the last dependency was met.
    pub ready: Time,
    /// Time at which it started.
    pub start: Time,
    /// Time at which it ended.
    pub end: Time,
}

impl Attempt {
    /// True if it shows how long its task takes and what it uses: it completed, and its result was
    /// not taken from the cache.
    pub fn shows_duration(&self) -> bool {
        self.outcome.ok() && self.attempt > 0 && !self.outcome.cached
    }
}

/// State of a rank in the run, from the request for it to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RankState {
    /// Requested from the provider; no process has joined yet.
    Requested,
    /// Its node is granted and billed; the rank is starting.
    Joining,
    /// Tasks may start on it.
    Active,
    /// Completes its running tasks and takes no further ones, before it leaves.
    Draining,
    /// Holds no task and sleeps; its node is billed.
    Parked,
    /// Left in order; its node is released.
    Left,
    /// Stopped answering.
    Lost,
    /// Holds no task because tasks kept failing on it; its node is billed.
    Quarantined,
}

impl RankState {
    /// All states, in the order in which a rank passes through them.
    pub const ALL: [RankState; 8] = [
        RankState::Requested,
        RankState::Joining,
        RankState::Active,
        RankState::Draining,
        RankState::Parked,
        RankState::Quarantined,
        RankState::Left,
        RankState::Lost,
    ];

    /// The state in lower case.
    pub fn name(self) -> &'static str {
        match self {
            RankState::Requested => "requested",
            RankState::Joining => "joining",
            RankState::Active => "active",
            RankState::Draining => "draining",
            RankState::Parked => "parked",
            RankState::Quarantined => "quarantined",
            RankState::Left => "left",
            RankState::Lost => "lost",
        }
    }

    /// True while its node is billed.
    pub fn is_billed(self) -> bool {
        use RankState::{Active, Draining, Joining, Parked, Quarantined};
        matches!(self, Joining | Active | Draining | Parked | Quarantined)
    }
}

/// State of a block (a node that is gained and released during the run), from the request for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockState {
    /// Requested from the provider.
    Requested,
    /// In the queue of the provider.
    Pending,
    /// Has a node, which is billed; its ranks are starting.
    Granted,
    /// Its ranks are active.
    Active,
    /// Its ranks are draining.
    Draining,
    /// Its ranks have left; the node is being released.
    Releasing,
    /// Its ranks have left, but the node cannot be released yet and is still billed.
    Held,
    /// Its node is released.
    Released,
    /// It ended without ever becoming active.
    Failed,
}

impl BlockState {
    /// True in a final state.
    pub fn is_over(self) -> bool {
        matches!(self, BlockState::Released | BlockState::Failed)
    }

    /// The state in lower case.
    pub fn name(self) -> &'static str {
        match self {
            BlockState::Requested => "requested",
            BlockState::Pending => "pending",
            BlockState::Granted => "granted",
            BlockState::Active => "active",
            BlockState::Draining => "draining",
            BlockState::Releasing => "releasing",
            BlockState::Held => "held",
            BlockState::Released => "released",
            BlockState::Failed => "failed",
        }
    }
}
/// The sum of some values; unlike that of `Iterator::sum`, the sum of none is not -0.
pub fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}
