//! The words that every part of Phalanx shares: tasks, ranks, times, states and attempts.
//!
//! Plain data only. Nothing here reads a clock, opens a file or knows how a task is run, so the pure core
//! (`graph`, `schedule`) and the edges (`pool`, `exec`, `journal`, `observe`) can both speak in these terms.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Dense number of a task within its job: `0..job.task_count()`, in the order of the job file.
///
/// Numbers at and above the job's task count belong to *joins*: nodes of the task graph that stand for
/// "all of an array" and are never run (see `graph`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId(pub u32);

/// Number of a rank within the run; rank 0 is the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// A moment of the run: nanoseconds since the run began on rank 0 (virtual or real, the core cannot tell).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The moment the run began.
    pub const ZERO: Time = Time(0);

    /// Seconds since the run began.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `d`, saturating.
    pub fn after(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This moment minus `d`, saturating.
    pub fn before(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This moment plus so many seconds, saturating; what is negative or no number adds nothing.
    pub fn after_seconds(self, seconds: f64) -> Time {
        // The cast saturates, and takes what is no number for zero.
        Time(self.0.saturating_add((seconds * 1e9) as u64))
    }
}

/// State of a task, in the words of Slurm's `sacct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Waits for other tasks.
    Pending,
    /// All that it needs is done; waits for a slot.
    Ready,
    /// Is being run.
    Running,
    /// Ended with success.
    Completed,
    /// Ended with a non-zero exit code, a signal, or an error of its kernel.
    Failed,
    /// Stopped because the user or the run's own end asked for it.
    Cancelled,
    /// Stopped at its time limit.
    Timeout,
    /// Stopped because it used more memory than it asked for, or because the system ran out.
    OutOfMemory,
    /// Its rank or node was lost while it ran.
    NodeFail,
    /// Never ran: what it needed did not end as it required.
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

    /// The state as `sacct` spells it, e.g. `OUT_OF_MEMORY`.
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

    /// True for a task that ran and did not succeed (the states that `retries` may run again).
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
    /// The state it ended in.
    pub state: State,
    /// Exit code of a command (0 to 255); `-n` if signal `n` ended it; 0 for a kernel that succeeded, 1 for one that failed.
    pub exit: i32,
}

impl Outcome {
    /// Success.
    pub const OK: Outcome = Outcome { state: State::Completed, exit: 0 };

    /// True if the attempt succeeded.
    pub fn ok(self) -> bool {
        self.state == State::Completed
    }
}

/// What the processes of one attempt used, as the system had counted when they had ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all of them together, in nanoseconds.
    pub cpu_ns: u64,
    /// The most memory that any one of them held, in bytes. Of programs that are smaller than their rank and end within a few hundredths of a
    /// second the system tells only that they held no more than the rank: then it is that.
    pub peak_bytes: u64,
}

/// What a rank with its tasks, and the node that it is on, used, as the system had counted at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// CPU time of the rank and its tasks since it began, in seconds.
    pub cpu_s: f64,
    /// Memory that they hold, in bytes; pages that several share count for each.
    pub memory: u64,
    /// Bytes that they had read from disks since it began, where the kernel counts them.
    pub read: u64,
    /// Bytes that they had caused to be written to disks.
    pub written: u64,
    /// Share of the node's CPUs that is busy, 0 to 1.
    pub node_cpu: f64,
    /// Memory in use on the node, in bytes.
    pub node_memory_used: u64,
    /// Memory of the node, in bytes.
    pub node_memory: u64,
    /// Share of the time of late in which tasks of the node waited for I/O, 0 to 1.
    pub io_stall: f64,
    /// Messages that the rank has sent to others.
    pub messages: u64,
    /// Bytes in them.
    pub message_bytes: u64,
    /// Tasks that it has taken from others.
    pub stolen: u64,
    /// Mean share of the time of late in which its GPUs were busy, 0 to 1.
    pub gpu_busy: f64,
    /// Memory in use on its GPUs, in bytes.
    pub gpu_memory_used: u64,
    /// Memory of its GPUs, in bytes; 0 if it has none that tell.
    pub gpu_memory: u64,
}

/// A value that a task wrote under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u16,
    /// The name.
    pub name: String,
    /// The value.
    pub value: f64,
}

impl Measure {
    /// Bytes of a name.
    const NAME: usize = 64;

    /// True for what a value may be called: letters, digits and `_ . : -`, a letter or `_` first, at most 64 in all.
    pub fn is_name(name: &str) -> bool {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && name.len() <= Self::NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c))
    }
}

/// Why Phalanx itself made an attempt fail: not what a task says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The task.
    pub task: TaskId,
    /// Which attempt at it.
    pub attempt: u16,
    /// In words.
    pub text: String,
}

impl Reason {
    /// Bytes of a text.
    const MOST: usize = 1000;

    /// A reason; a long text is cut.
    pub fn new(task: TaskId, attempt: u16, text: &str) -> Reason {
        let cut = (0..=Self::MOST.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        Reason { task, attempt, text: text[..cut.unwrap_or(0)].to_owned() }
    }
}

/// Which of a task's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One attempt at a task, as it is reported to rank 0, journalled and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt; 0 for a task that was never started (skipped).
    pub attempt: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// True if no further attempt follows: the task's own final state.
    pub last: bool,
    /// Where it ran.
    pub rank: Rank,
    /// Which slot of that rank ran it.
    pub slot: u16,
    /// When all that it needed was done.
    pub ready: Time,
    /// When it was started.
    pub start: Time,
    /// When it ended.
    pub end: Time,
}

/// State of a rank in the run, from the moment it is asked for to the moment it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RankState {
    /// Asked for; nobody has answered yet.
    Requested,
    /// Its node is granted (and billed); it is starting.
    Joining,
    /// Takes part: tasks may start on it.
    Active,
    /// Ends what it runs and takes nothing new, because it is to leave.
    Draining,
    /// Holds no task and sleeps; its node is still billed.
    Parked,
    /// Has left in order; its node is given back.
    Left,
    /// Stopped answering.
    Lost,
    /// Holds no task because tasks kept failing there; its node is still billed.
    Quarantined,
}

impl RankState {
    /// Every state, in the order in which a rank goes through them.
    pub const ALL: [RankState; 7] = [
        RankState::Requested,
        RankState::Joining,
        RankState::Active,
        RankState::Draining,
        RankState::Parked,
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

/// State of a block (one node gained or given back while a run goes on) from the moment it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockState {
    /// The provider has been asked.
    Requested,
    /// The provider has it in its queue.
    Pending,
    /// It has a node, which is billed, and is starting.
    Granted,
    /// Its ranks take part.
    Active,
    /// Its ranks end what they run.
    Draining,
    /// Its ranks are gone, and its node is being given back.
    Releasing,
    /// Its ranks are gone, and its node cannot be given back yet: it is billed on.
    Held,
    /// It is gone.
    Released,
    /// It never came to work.
    Failed,
}

impl BlockState {
    /// True once it is over.
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
