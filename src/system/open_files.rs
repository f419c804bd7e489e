//! The limit on open files of this process.
//!
//! The usual soft limit of 1,024 is enough for some 250 busy slots, while the hard limit is far
//! above it. So the soft limit is raised at the start. Processes that Phalanx starts get the old
//! limit back, because programs that use `select` rely on it.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit with which this process was started, if it has been raised.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => drop(BEFORE.set(limit)),
        Err(error) => tracing::debug!(%error, "cannot raise the limit on open files"),
    }
}

/// The limit for child processes; `None`: that of this process.
pub(crate) fn child_limit() -> Option<libc::rlimit> {
    let Rlimit { current, maximum } = *BEFORE.get()?;
    let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    Some(libc::rlimit { rlim_cur: number(current), rlim_max: number(maximum) })
}

/// Restores the original limit for a child that has just been started.
pub(crate) fn restore_limit(child: u32) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(before)) = (pid, BEFORE.get()) {
        // A child that has ended already needs none.
        let _ = prlimit(Some(pid), Resource::Nofile, *before);
    }
}

/// The present limit of this process.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
