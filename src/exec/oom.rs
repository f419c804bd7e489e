//! Telling a kill by the system's out-of-memory killer from any other SIGKILL.
//!
//! The kernel counts such kills before it sends the signal. A command that was killed by somebody, while the count has risen since the
//! last look, is taken for one of its victims. Two commands that are killed at the same moment can be mistaken for each
//! other; nothing in the kernel tells them apart after the fact.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The count of kills, and how many of them have been attributed.
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    seen: AtomicU64,
}

impl OomCounter {
    /// Finds the narrowest count that covers the children of this process: its control group's, else the machine's.
    pub(super) fn find() -> OomCounter {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups).into_iter().find(|path| count(path).is_some());
        let seen = AtomicU64::new(file.as_deref().and_then(count).unwrap_or(0));
        OomCounter { file, seen }
    }

    /// True if there was a kill that no earlier call has claimed.
    pub(super) fn claim(&self) -> bool {
        let Some(now) = self.file.as_deref().and_then(count) else { return false };
        let claim = |seen| (seen < now).then_some(seen + 1);
        self.seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).is_ok()
    }
}

fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// From `/proc/self/cgroup`, whose lines are `id:controllers:path`. Inside a container the path may not be visible, but the
/// root of the mount is then the group.
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
    fn each_kill_is_claimed_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "low 0\noom 2\noom_kill 3\n").unwrap();
        let counter = OomCounter { file: Some(file.path().to_owned()), seen: AtomicU64::new(3) };
        assert!(!counter.claim());
        fs::write(file.path(), "oom_kill 4\n").unwrap();
        assert!(counter.claim());
        assert!(!counter.claim());
    }
}
