//! The messages about files: transfers between ranks, and output of ranks that do not see the run
//! directory. They travel as part of [`Message`](super::protocol::Message).

use serde::{Deserialize, Serialize};

use super::prefetch::PrefetchCounts;
use crate::model::{CarriedFile, Outcome, Rank, StageUse, Stream, TaskId, Usage, UsedFile};

/// A message about a transfer of files. The files themselves travel as pieces (`fabric/wire`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FileMessage {
    /// Rank to rank 0: what does a task find in its directory?
    Plan {
        /// The task.
        task: TaskId,
    },
    /// Rank 0 to rank: the answer.
    Planned {
        /// The files, as `exec` encodes them, or why they are not known.
        files: Result<Vec<u8>, String>,
    },
    /// Rank to coordinator: which rank sends this file?
    Seek {
        /// The file.
        file: CarriedFile,
        /// The task that needs it has not begun.
        ahead: bool,
    },
    /// Rank to coordinator: the task has begun that needs what was sought ahead.
    Hurry,
    /// Rank to coordinator: files that came before their tasks had a slot, since the last message.
    CameAhead {
        /// Their numbers.
        counts: PrefetchCounts,
    },
    /// Coordinator to rank: the answer.
    Source {
        /// The rank that has been asked for nothing yet, and may be; `None`: there is none.
        rank: Option<Rank>,
    },
    /// Rank to coordinator: the transfer has ended.
    Ended {
        /// Whether the rank has the file; `None`: it does not need it any more.
        arrived: Option<bool>,
    },
    /// Rank to coordinator: it holds a temporary output, which it may send to others.
    Holds {
        /// Name of the file in the stores.
        name: [u8; 32],
        /// Its version.
        version: u64,
    },
    /// Rank to rank: send this file. The pieces carry the number.
    Get {
        /// The file.
        file: CarriedFile,
    },
    /// Rank to rank: send that many pieces more; 0: none, and end.
    Credit {
        /// Their number.
        pieces: u32,
    },
    /// Rank to rank 0: an attempt has ended; fetch what it has left, and put it in place.
    Take {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
        /// Name of the rank's node, for names of files.
        node: String,
        /// The attempt has succeeded: its outputs are among that.
        completed: bool,
    },
    /// Rank 0 to rank: the answer.
    Taken {
        /// Bytes that were put in place and that are held, or why that failed.
        result: Result<(u64, u64), String>,
    },
    /// Rank to rank 0, before the report of the attempt: what it has left is not to be put in place
    /// any more.
    GiveUp {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
    },
    /// Coordinator to rank 0, and to ranks that receive files from this rank: it has left or is
    /// lost.
    Gone {
        /// The rank.
        rank: Rank,
    },
}

impl FileMessage {
    /// True for messages from a rank to the coordinator, which workers never receive.
    pub(super) fn is_for_coordinator(&self) -> bool {
        matches!(
            self,
            FileMessage::Seek { .. }
                | FileMessage::Hurry
                | FileMessage::CameAhead { .. }
                | FileMessage::Ended { .. }
                | FileMessage::Holds { .. }
        )
    }
}

/// Something to be written to the run directory, about an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u16,
    /// What it is.
    pub what: OutputPart,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OutputPart {
    /// Output of the attempt.
    Bytes(Stream, Vec<u8>),
    /// The end of its output.
    End(Outcome),
    /// Its resource use.
    Usage(Usage),
    /// The files that it has used.
    UsedFiles(Vec<UsedFile>),
    /// What the result cache did, in JSON.
    Cache(String),
    /// What was moved for it.
    Staging(StageUse),
}

impl OutputRecord {
    /// Its share of what may wait to be written, in bytes.
    pub fn weight(&self) -> u64 {
        const RECORD: usize = 64;
        let bytes = match &self.what {
            OutputPart::Bytes(_, bytes) => bytes.len(),
            OutputPart::UsedFiles(files) => files.iter().map(|file| RECORD + file.path.as_os_str().len()).sum(),
            OutputPart::Cache(text) => text.len(),
            OutputPart::End(_) | OutputPart::Usage(_) | OutputPart::Staging(_) => 0,
        };
        (RECORD + bytes) as u64
    }
}
