//! The record of a run on disk: the run directory with its journal and the captured output of
//! tasks.
//!
//! Only rank 0 writes the journal, and every rank writes the output of the tasks that it ran, and
//! if it loses rank 0 the ends that the journal may lack (`unreported`). All of these are only
//! appended to, so a reader may read at any time. A killed writer leaves at most one
//! incomplete record, and everything before it is valid.
//!
//! This module takes no decisions; it records those of `schedule` and `scale`.

mod async_writer;
mod ended;
mod error;
mod find_run;
mod frame;
mod history;
mod holding;
mod latest;
mod lock;
mod output;
mod record;
mod replay;
mod rundir;
mod unreported;
mod writer;

pub use async_writer::AsyncJournal;
pub use ended::EndedSessions;
pub use error::{JournalError, RunDirError};
pub use frame::Tail;
pub use history::HistoryFile;
pub use holding::{Holding, NodeHolding};
pub use lock::{Holder, Liveness, RunLock};
pub use output::{
    OutputError, OutputFollower, OutputReader, OutputWriter, StageWriter, UsedFilesReader, cache_uses, last_lines,
    stage_files, stage_uses,
};
pub use record::{
    Began, BlockChange, EndReason, Ended, GraphFacts, KeptRun, LeftOut, Level, LimitChange, Note, Offerer, PastRuns,
    PoolTotals, RankChange, RankInfo, Record, Requests, RunAgain, Simulated, SiteRequest, TaskAddition, Terms,
};
pub use replay::{JournalReader, Replay, Session, last_began, replay};
pub use rundir::{RUNS, RunDir, SIMULATED};
pub use unreported::{UnreportedEnds, remove_unreported};
pub use writer::Journal;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The current time in nanoseconds since 1970 (UTC).
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Formats a time in nanoseconds since 1970: `2026-03-01T12:00:00Z`.
pub fn utc(unix_ns: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}
