//! The control socket: users and scripts control a running run through a Unix socket in its
//! directory.
//!
//! The socket lies in a folder that only the owner of the run can enter, so every client is the
//! owner. One connection carries one question, a line of JSON, and its answer, a line of JSON. Rank
//! 0 answers within a tenth of a second.

mod client;
mod server;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use client::{ControlError, ask, ask_as};
pub use server::{PendingRequest, Server};

/// The folder of the socket in the run directory.
const FOLDER: &str = "control";

/// The name of the socket in the folder.
const SOCKET: &str = "socket";

/// Largest size of a question or answer in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

fn folder(run: &Path) -> PathBuf {
    run.join(FOLDER)
}

/// A question or command for a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Question {
    /// Report the status.
    Status,
    /// Report what rank 0 knows of these tasks.
    Tasks {
        /// Their name, in the forms of `Cancel`.
        name: String,
    },
    /// Change the number of ranks.
    Scale {
        /// The requested number of ranks.
        to: Scale,
        /// The number may exceed the job's `max_ranks`.
        #[serde(default)]
        force: bool,
    },
    /// Drain a node or a rank.
    Drain {
        /// The node's name, or the rank's number.
        what: String,
    },
    /// Report the pools.
    Pools,
    /// Change how many units of a pool may be in use.
    Limit {
        /// The pool, or the task whose array has a limit.
        pool: String,
        /// Units; 0 starts nothing more, `None` lifts the limit.
        units: Option<u32>,
    },
    /// Start no further tasks, or none of these, until they are resumed.
    Pause {
        /// A task such as `tile[3]`, or all of an array (`tile`); `None`: the whole run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
    },
    /// Start paused tasks again.
    Resume {
        /// A task such as `tile[3]`, or all of an array (`tile`); `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
    },
    /// Add tasks.
    Add {
        /// Their tables, as in a job file.
        text: String,
        /// Name of their file, for messages.
        file: String,
        /// The job, of several, that they belong to; `None`: the first that is open.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        /// Only check them.
        #[serde(default)]
        dry_run: bool,
    },
    /// Let a run end that is open for more tasks.
    Close,
    /// Distribute the remaining work evenly.
    Rebalance,
    /// Cancel the run, or only some of its tasks.
    Cancel {
        /// A task such as `tile[3]`, several (`tile[0-9]`), or all of an array (`tile`); `None`:
        /// the whole run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
    },
}

impl Question {
    /// True for a question that changes nothing.
    pub fn only_reads(&self) -> bool {
        matches!(
            self,
            Question::Status | Question::Tasks { .. } | Question::Pools | Question::Add { dry_run: true, .. }
        )
    }
}

impl std::fmt::Display for Question {
    /// As a user would type it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Question::Status => f.write_str("status"),
            Question::Tasks { name } => write!(f, "explain --task {name}"),
            Question::Scale { to, force } => write!(f, "scale {to}{}", if *force { " --force" } else { "" }),
            Question::Drain { what } => write!(f, "drain {what}"),
            Question::Pools => f.write_str("limit"),
            Question::Limit { pool, units: Some(units) } => write!(f, "limit {pool}={units}"),
            Question::Limit { pool, units: None } => write!(f, "limit {pool}=none"),
            Question::Pause { task } => write!(f, "pause {}", task.as_deref().unwrap_or("the run")),
            Question::Resume { task } => write!(f, "resume {}", task.as_deref().unwrap_or("the run")),
            Question::Add { file, job, dry_run, .. } => {
                write!(f, "add {file}")?;
                job.iter().try_for_each(|job| write!(f, " --job {job}"))?;
                f.write_str(if *dry_run { " --dry-run" } else { "" })
            }
            Question::Close => f.write_str("close"),
            Question::Rebalance => f.write_str("rebalance"),
            Question::Cancel { task: None } => f.write_str("cancel"),
            Question::Cancel { task: Some(task) } => write!(f, "cancel {task}"),
        }
    }
}

/// A number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// This many more.
    More(u32),
    /// This many fewer.
    Fewer(u32),
    /// This many in total.
    To(u32),
    /// As the scaling policy decides.
    Auto,
}

impl std::fmt::Display for Scale {
    /// As a user would type it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scale::More(ranks) => write!(f, "+{ranks}"),
            Scale::Fewer(ranks) => write!(f, "-{ranks}"),
            Scale::To(ranks) => write!(f, "{ranks}"),
            Scale::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Scale {
    type Err = String;

    /// Parses `+2` (more), `-1` (fewer), `6` (in total) or `auto`.
    fn from_str(text: &str) -> Result<Scale, String> {
        if text == "auto" {
            return Ok(Scale::Auto);
        }
        let wrong = |_| format!("`{text}` is not `+2`, `-1`, `6` or `auto`");
        let number = |digits: &str| digits.parse::<u32>().map_err(wrong);
        match text.split_at_checked(1) {
            Some(("+", more)) => number(more).map(Scale::More),
            Some(("-", fewer)) => number(fewer).map(Scale::Fewer),
            _ => number(text).map(Scale::To),
        }
    }
}

/// A question as it is sent over the socket.
#[derive(Serialize, Deserialize)]
struct Asked<Q> {
    /// Who asks, for the journal; `None`: the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(flatten)]
    question: Q,
}

/// The answer of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// True if the command is being carried out.
    pub ok: bool,
    /// A description of the action, or the reason for refusing it.
    pub text: String,
    /// The status, or what is known of tasks, if requested.
    pub status: Option<serde_json::Value>,
}

impl Answer {
    /// Makes a positive answer.
    pub fn done(text: impl Into<String>) -> Answer {
        Answer { ok: true, text: text.into(), status: None }
    }

    /// Makes a negative answer.
    pub fn refused(text: impl Into<String>) -> Answer {
        Answer { ok: false, text: text.into(), status: None }
    }
}

#[cfg(test)]
mod tests;
