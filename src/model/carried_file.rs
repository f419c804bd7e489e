//! Files that travel between ranks.

use serde::{Deserialize, Serialize};

use super::{Rank, TaskId};

/// What a rank may ask another one for. No path is in it that the other one would follow: it finds
/// the place itself, from the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CarriedFile {
    /// A file or directory that a task reads in its directory.
    Input {
        /// The task.
        task: TaskId,
        /// Its name, as the task has it.
        file: String,
    },
    /// A temporary output (`keep = false`), as the stores of nodes have it.
    Held {
        /// Its name there.
        name: [u8; 32],
        /// Which of those of this name.
        version: u64,
    },
    /// The copy of a temporary output in the run directory.
    Published {
        /// Its name there.
        name: [u8; 32],
        /// Its version.
        version: u64,
    },
    /// What an attempt has left for its place.
    Results {
        /// The rank that ran it.
        rank: Rank,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
    },
}
