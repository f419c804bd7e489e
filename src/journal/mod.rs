//! What has happened, on disk: the run directory with its journal and the captured output of tasks.
//!
//! Only rank 0 writes the journal, and every rank writes the output of the tasks that it ran. What is written is never
//! changed again: records and output are appended, and a reader may look at any moment. Whoever was killed has left at
//! most one record cut short, and everything before it counts.
//!
//! Nothing here decides anything; `schedule` does, and hands over what is to be remembered.

mod async_writer;
mod ended;
mod error;
mod frame;
mod history;
mod holding;
mod lock;
mod output;
mod record;
mod replay;
mod rundir;
mod writer;

pub use async_writer::AsyncJournal;
pub use ended::EndedSessions;
pub use error::{JournalError, RunDirError};
pub use frame::Tail;
pub use history::HistoryFile;
pub use holding::{Holding, NodeHolding};
pub use lock::{Holder, Liveness, RunLock};
pub use output::{OutputError, OutputReader, OutputWriter, last_lines};
pub use record::{
    Began, BlockChange, EndReason, Ended, GraphFacts, KeptRun, Level, Note, PastRuns, RankChange, RankInfo, Record,
    Simulated, Terms,
};
pub use replay::{JournalReader, Replay, Session, replay};
pub use rundir::{RUNS, RunDir, SIMULATED};
pub use writer::Journal;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in nanoseconds since 1970 (UTC).
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment in nanoseconds since 1970 as people read it: `2026-03-01T12:00:00Z`.
pub fn utc(unix_ns: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}
