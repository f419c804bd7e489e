//! The mark in the environment of a rank's commands: which processes belong to this rank.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable that holds the mark: the process id of a rank, and a part that is
/// unique across nodes.
pub(super) const VARIABLE: &str = "PHALANX_PROCESS";

/// The mark of a rank. Commands inherit it, and so does what they start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark(String);

impl Mark {
    /// A mark that no other process uses.
    pub(super) fn new() -> Mark {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Mark(format!("{}-{:08x}-{:x}", std::process::id(), fastrand::u32(..), now.as_secs()))
    }

    /// The mark with the given value.
    pub(super) fn from_value(value: String) -> Mark {
        Mark(value)
    }

    /// The value of [`VARIABLE`].
    pub(super) fn value(&self) -> &str {
        &self.0
    }

    /// The environment of a process if it has this mark. A process that is just starting another
    /// program has an empty environment for a moment.
    pub(super) fn environment_of(&self, pid: i32) -> Option<Environment> {
        let environment = Environment::of(pid)?;
        (environment.value(VARIABLE)? == self.0).then_some(environment)
    }
}

/// The environment that a process was started with.
pub(super) struct Environment(Vec<u8>);

impl Environment {
    /// That of a process, if it can be read.
    pub(super) fn of(pid: i32) -> Option<Environment> {
        Some(Environment(fs::read(format!("/proc/{pid}/environ")).ok()?))
    }

    /// True for that of a process which is just starting another program, and for one that is
    /// empty.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a variable, if it is text.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut entries = self.0.split(|&byte| byte == 0);
        let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()
    }
}
