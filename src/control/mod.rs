//! How a person, or a script, speaks to a run under way: a Unix socket in the run directory.
//!
//! The socket lies in a folder that only the owner of the run can enter, so who reaches it is the owner. One connection is one question: a
//! line of JSON, answered by a line of JSON. Rank 0 answers when it looks around, a tenth of a second later at most.

mod client;
mod server;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use client::{ControlError, ask, ask_as};
pub use server::{PendingRequest, Server};

/// The folder that the socket lies in, in the run directory.
const FOLDER: &str = "control";

/// The socket in it.
const SOCKET: &str = "socket";

/// A question or answer is not longer than this.
const LONGEST: u64 = 64 << 20;

fn folder(run: &Path) -> PathBuf {
    run.join(FOLDER)
}

/// What is asked of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Question {
    /// How it stands.
    Status,
    /// More or fewer ranks.
    Scale {
        /// How many.
        to: Scale,
    },
    /// A node or a rank shall leave.
    Drain {
        /// Its name, or the rank's number.
        what: String,
    },
    /// The remaining work shall be shared out evenly.
    Rebalance,
    /// The run shall end, or only some of its tasks.
    Cancel {
        /// A task such as `tile[3]`, or all tasks of an array (`tile`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
    },
}

impl std::fmt::Display for Question {
    /// As one would type it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Question::Status => f.write_str("status"),
            Question::Scale { to: Scale::More(ranks) } => write!(f, "scale +{ranks}"),
            Question::Scale { to: Scale::Fewer(ranks) } => write!(f, "scale -{ranks}"),
            Question::Scale { to: Scale::To(ranks) } => write!(f, "scale {ranks}"),
            Question::Scale { to: Scale::Auto } => f.write_str("scale auto"),
            Question::Drain { what } => write!(f, "drain {what}"),
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
    /// So many more.
    More(u32),
    /// So many fewer.
    Fewer(u32),
    /// So many.
    To(u32),
    /// As the policy decides.
    Auto,
}

impl FromStr for Scale {
    type Err = String;

    /// `+2` more, `-1` fewer, `6` in all, or `auto`.
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

/// A question as it goes over the socket.
#[derive(Serialize, Deserialize)]
struct Asked<Q> {
    /// Who asks, for the journal; the user if nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(flatten)]
    question: Q,
}

/// What a run answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it did what was asked.
    pub ok: bool,
    /// What it did, or why not.
    pub text: String,
    /// How it stands, if that was asked.
    pub status: Option<serde_json::Value>,
}

impl Answer {
    /// It is being done.
    pub fn done(text: impl Into<String>) -> Answer {
        Answer { ok: true, text: text.into(), status: None }
    }

    /// It is not done.
    pub fn refused(text: impl Into<String>) -> Answer {
        Answer { ok: false, text: text.into(), status: None }
    }
}

#[cfg(test)]
mod tests;
