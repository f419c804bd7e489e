//! The memory that this node's ranks may use together: the minimum of what Slurm, the control
//! groups and the machine allow.

use std::fs;
use std::path::{Path, PathBuf};

use super::grant::Env;

const MIB: u64 = 1 << 20;

/// Bytes granted to all local ranks together.
pub(super) fn granted(cpus: &[u32], env: Env<'_>) -> u64 {
    let number = |name| env(name).and_then(|v| v.trim().parse::<u64>().ok()).filter(|&mb| mb > 0);
    let per_cpu = || number("SLURM_MEM_PER_CPU").map(|mb| mb.saturating_mul(cpus.len() as u64));
    let by_slurm = number("SLURM_MEM_PER_NODE").or_else(per_cpu).map(|mb| mb.saturating_mul(MIB));
    let limits = [by_slurm, by_control_groups(), machine_total()];
    // Without any figure there is no limit; the system would fail an allocation.
    limits.into_iter().flatten().min().unwrap_or(u64::MAX)
}

fn machine_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit on the path from this process's control group to the root.
fn by_control_groups() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().filter_map(limit_files).flatten().filter_map(|file| read_limit(&file)).min()
}

/// The files that may limit memory for one line of `/proc/self/cgroup` (`number:controllers:path`).
fn limit_files(line: &str) -> Option<Vec<PathBuf>> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        c if c.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let inside = Path::new(path.trim_start_matches('/'));
    Some(inside.ancestors().map(|group| Path::new(root).join(group).join(file)).collect())
}

/// Reads a limit; `max` or an absurdly large number means none.
fn read_limit(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()?;
    (bytes < u64::MAX / 4).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_lowers_the_limit_and_zero_means_all() {
        let with = |mb: &'static str| move |name: &str| (name == "SLURM_MEM_PER_NODE").then(|| mb.to_string());
        assert_eq!(granted(&[0], &with("64")), 64 * MIB);
        let all = granted(&[0], &|_| None);
        assert!(all > 64 * MIB);
        assert_eq!(granted(&[0], &with("0")), all);
        let per_cpu = |name: &str| (name == "SLURM_MEM_PER_CPU").then(|| "16".to_string());
        assert_eq!(granted(&[0, 1], &per_cpu), 32 * MIB);
    }

    #[test]
    fn limits_are_looked_for_from_the_group_up_to_the_root() {
        let files = limit_files("0::/slurm/job_1").unwrap();
        assert_eq!(files[0], Path::new("/sys/fs/cgroup/slurm/job_1/memory.max"));
        assert_eq!(files.last().unwrap(), Path::new("/sys/fs/cgroup/memory.max"));
        assert_eq!(limit_files("3:cpuset:/"), None);
        assert_eq!(limit_files("nonsense"), None);
    }
}
