//! Errors that keep a run from beginning or going on. Failures of tasks are not among them.

use std::path::PathBuf;

use thiserror::Error;

use crate::fabric::FabricError;
use crate::fabric::bridge::contact::ContactError;
use crate::fabric::bridge::join::JoinError;
use crate::job::Diagnostics;
use crate::journal::{JournalError, RunDirError};
use crate::system::launch;

/// Why a run cannot start or continue.
#[derive(Debug, Error)]
pub enum RunError {
    /// The job file has mistakes.
    #[error("the job file has mistakes")]
    Job(Diagnostics),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal did not record all that happened.
    #[error(
        "{error}; what the journal of {} does not say runs again: mend that, then continue with --resume", dir.display()
    )]
    Unrecorded {
        /// The run directory.
        dir: PathBuf,
        /// What could not be written.
        error: JournalError,
    },
    /// Ranks cannot communicate.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The contact file cannot be used.
    #[error(transparent)]
    Contact(#[from] ContactError),
    /// The run could not be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A request that is not possible here.
    #[error("{0}")]
    Refused(String),
    /// What is left of the budget pays for no node.
    #[error(
        "the budget is spent: earlier sessions cost {spent:.4} of {budget:.4}, and a node costs at least {least:.4}; \
         raise `budget` in [cost] to go on"
    )]
    Spent {
        /// Cost of earlier sessions.
        spent: f64,
        /// The budget.
        budget: f64,
        /// The least that a node costs.
        least: f64,
    },
    /// Ranks of this world do not answer.
    #[error(
        "ranks {ranks:?} have said nothing for {seconds} s; do all nodes reach each other, and run the same Phalanx?"
    )]
    Missing {
        /// Their numbers.
        ranks: Vec<u32>,
        /// How long rank 0 waited for them.
        seconds: u64,
    },
    /// Ranks of this world were lost before the run began.
    #[error("ranks {ranks:?} were lost before any task was started: start the run again")]
    Lost {
        /// Their numbers.
        ranks: Vec<u32>,
    },
    /// A signal came before anything was started.
    #[error("stopped by signal {0} before any task was started")]
    Interrupted(i32),
    /// This rank had to stop.
    #[error("{0}")]
    Broken(String),
    /// The coordinator of the run is gone.
    #[error("the coordinator is gone: what ran here is ended")]
    Orphaned,
    /// The system refused something that every run needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl RunError {
    /// True if the first process of those that were started together reports this error. The others
    /// exit with 0 and say nothing, because their launcher would otherwise end the first before it
    /// has spoken.
    pub fn is_left_to_first(&self) -> bool {
        matches!(self, RunError::Fabric(FabricError::NoWorld { .. })) && !launch::is_first()
    }

    /// The exit code of Phalanx: 2 for what the user can correct in the job or on the command line,
    /// 3 for a spent budget, 128+n for a signal, else 1.
    pub fn exit_code(&self) -> i32 {
        match self {
            _ if self.is_left_to_first() => 0,
            RunError::Job(_) | RunError::RunDir(_) | RunError::Refused(_) | RunError::Contact(_) => 2,
            RunError::Journal(_)
            | RunError::Unrecorded { .. }
            | RunError::Fabric(_)
            | RunError::Join(_)
            | RunError::Missing { .. }
            | RunError::Lost { .. }
            | RunError::Broken(_)
            | RunError::Orphaned
            | RunError::System { .. } => 1,
            RunError::Spent { .. } => 3,
            RunError::Interrupted(signal) => 128 + signal,
        }
    }
}
