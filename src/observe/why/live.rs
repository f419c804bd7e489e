//! What rank 0 of a live run knows of tasks that have not ended, as it answers at the control
//! socket.

use serde::{Deserialize, Serialize};

use crate::control::{Question, ask};
use crate::model::{Rank, TaskId, Time};
use crate::observe::run_view::{RunState, RunView};

/// The answer about some tasks. All times count from the beginning of the session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveTasks {
    /// Time of the answer in seconds.
    pub time_s: f64,
    /// True if nothing more is started.
    pub is_stopping: bool,
    /// The tasks that have not ended, ascending; at most a thousand.
    pub tasks: Vec<LiveTask>,
    /// Those that run, of these and of the tasks that they need. A task that has run for less than
    /// a second may be missing.
    pub running: Vec<LiveRunning>,
    /// The ranks.
    pub ranks: Vec<LiveRank>,
    /// Number of requested nodes that have not arrived.
    pub nodes_coming: u32,
    /// Ready tasks of the run that have not started.
    #[serde(default)]
    pub waiting: Option<u32>,
}

/// A task that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveTask {
    /// Its number.
    pub task: TaskId,
    /// The rank that starts it, unless another steals it.
    pub home: Option<Rank>,
    /// Number of ranks that take part and have the resources for it.
    pub able: u32,
    /// Of an MPI task that the ranks which take part cannot hold together: for how many of its MPI
    /// ranks they have room.
    #[serde(default)]
    pub gang_room: Option<u32>,
    /// Running tasks of its family.
    pub group_running: u32,
    /// Pools that have too few units left for it, in words.
    #[serde(default)]
    pub pools: Vec<String>,
    /// True if it is paused.
    #[serde(default)]
    pub is_paused: bool,
    /// True if it is cancelled.
    #[serde(default)]
    pub is_cancelled: bool,
    /// The limit of its array, and how many of it run.
    #[serde(default)]
    pub limit: Option<(u32, u32)>,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveRunning {
    /// Its number.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u16,
    /// The rank that runs it.
    pub rank: Rank,
    /// The node of the rank.
    pub node: String,
    /// Start of the attempt.
    pub since: Time,
}

/// A rank: what it has, and what running tasks have taken of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveRank {
    /// Its number.
    pub rank: Rank,
    /// Its node.
    pub node: String,
    /// True if it takes tasks.
    pub is_active: bool,
    /// Its slots.
    pub slots: u32,
    /// Slots without work, as last reported.
    pub idle: u32,
    /// Ready tasks there that need nothing but a slot.
    pub ready: u32,
    /// Bytes of memory for tasks.
    pub memory: u64,
    /// GPUs for tasks.
    pub gpus: u32,
    /// Its labels.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Slots taken by tasks that have run for a second or more.
    pub slots_taken: u32,
    /// Bytes of memory taken by them.
    pub memory_taken: u64,
    /// GPUs taken by them.
    pub gpus_taken: u32,
}

impl LiveTasks {
    /// Asks rank 0 about the tasks of a name; `None` if the run is not live, or rank 0 cannot be
    /// reached from here.
    pub fn ask(run: &RunView, name: &str) -> Option<LiveTasks> {
        if run.state() != RunState::Running {
            return None;
        }
        let answer = ask(run.dir.path(), &Question::Tasks { name: name.to_owned() }).ok()?;
        serde_json::from_value(answer.status?).ok()
    }

    /// What is known of a task that has not ended.
    pub(super) fn task(&self, task: TaskId) -> Option<&LiveTask> {
        self.tasks.iter().find(|known| known.task == task)
    }

    /// Where a task runs, if it is known to.
    pub(super) fn running(&self, task: TaskId) -> Option<&LiveRunning> {
        self.running.iter().find(|running| running.task == task)
    }

    /// A rank.
    pub(super) fn rank(&self, rank: Rank) -> Option<&LiveRank> {
        self.ranks.iter().find(|known| known.rank == rank)
    }
}
