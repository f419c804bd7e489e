//! Distinguishes a kill by the system's out-of-memory killer from any other SIGKILL.
//!
//! The kernel counts such kills before it sends the signal. If a command was killed and the count
//! has risen since the command was last known to be alive, the command counts as a victim; each
//! kill explains the end of one command at most. A kill of an unrelated process, which no command
//! claims, therefore concerns neither commands that start later nor those that survive it. Two
//! commands that are killed at the same moment can be confused; the kernel offers no way to
//! distinguish them afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a count is reused, so that many short commands need not read it each.
const COUNT_LIFETIME: Duration = Duration::from_millis(10);

/// The count of kills.
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    counted: Mutex<Counted>,
}

struct Counted {
    at: Instant,
    kills: u64,
    claimed: u64,
}

impl Counted {
    fn unclaimed(&self) -> u64 {
        self.kills.saturating_sub(self.claimed)
    }
}

/// A time at which a command was alive, as the number of unclaimed kills so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OomMark(u64);

impl OomCounter {
    /// Finds the narrowest counter that covers the children of this process: its control group's,
    /// else the machine's.
    pub(super) fn find() -> OomCounter {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        OomCounter::of(candidates(&groups).into_iter().find(|path| count(path).is_some()))
    }

    fn of(file: Option<PathBuf>) -> OomCounter {
        let kills = file.as_deref().and_then(count).unwrap_or(0);
        OomCounter { file, counted: Mutex::new(Counted { at: Instant::now(), kills, claimed: 0 }) }
    }

    /// Marks the present, when a command is alive or about to start.
    pub(super) fn mark(&self) -> OomMark {
        let mut counted = self.counted();
        if counted.at.elapsed() >= COUNT_LIFETIME {
            self.count(&mut counted);
        }
        OomMark(counted.unclaimed())
    }

    /// True if there was a kill since `since` that no other command has claimed.
    pub(super) fn claim(&self, since: OomMark) -> bool {
        let mut counted = self.counted();
        self.count(&mut counted);
        let is_victim = counted.unclaimed() > since.0;
        counted.claimed += u64::from(is_victim);
        is_victim
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, counted: &mut Counted) {
        // If the count cannot be read, the last value is kept.
        counted.kills = self.file.as_deref().and_then(count).unwrap_or(counted.kills);
        counted.at = Instant::now();
    }
}

fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// The counter files for the text of `/proc/self/cgroup`, whose lines are `id:controllers:path`.
/// Inside a container the path may not be visible; the root of the mount is then the group.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            let root = Path::new("/sys/fs/cgroup");
            files.extend([root.join(path).join("memory.events"), root.join("memory.events")]);
        } else if controllers.split(',').any(|c| c == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            files.extend([root.join(path).join("memory.oom_control"), root.join("memory.oom_control")]);
        }
    }
    files.push(PathBuf::from("/proc/vmstat"));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_group_is_asked_before_the_machine() {
        let files = candidates("4:cpu,memory:/slurm/job_7\n0::/user.slice\nrubbish\n");
        assert_eq!(files[0], Path::new("/sys/fs/cgroup/memory/slurm/job_7/memory.oom_control"));
        assert_eq!(files[2], Path::new("/sys/fs/cgroup/user.slice/memory.events"));
        assert_eq!(files.last().unwrap(), Path::new("/proc/vmstat"));
    }

    #[test]
    fn each_kill_is_claimed_once_and_by_nobody_who_started_after_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kills = |count: u32| {
            fs::write(file.path(), format!("low 0\noom 2\noom_kill {count}\n")).unwrap();
            std::thread::sleep(COUNT_LIFETIME);
        };
        kills(3);
        let counter = OomCounter::of(Some(file.path().to_owned()));
        let first = counter.mark();
        assert!(!counter.claim(first));
        kills(4);
        assert!(counter.claim(first));
        assert!(!counter.claim(first));
        // Kills of unrelated processes, which no command claims.
        kills(6);
        let later = counter.mark();
        assert!(!counter.claim(later));
        kills(7);
        assert!(counter.claim(later));
        assert!(!counter.claim(later));
    }
}
