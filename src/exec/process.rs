//! Reads from `/proc` about a process and its relatives, and ends all of them.
//!
//! A command's relatives are the members of its session and its descendants: a shell's children are
//! in its session. A process whose parent has died is no descendant any more (see `leftovers`), so
//! a family is remembered from one scan to the next.
//!
//! Invariant: a process is identified by its id *and* its start time, so an id that the system has
//! reused is never signalled. The leader is reaped only after its family has ended, which keeps its
//! process id and that of its group reserved.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal};

/// The fields of `/proc/PID/stat` that `exec` needs.
pub(super) struct Stat {
    pub(super) pid: i32,
    parent: i32,
    pub(super) session: i32,
    /// Start time in clock ticks since boot.
    pub(super) start: u64,
    /// True if it has exited or is about to.
    pub(super) dead: bool,
}

impl Stat {
    /// True if it is a child of this process; a process id from a list may have been reused.
    pub(super) fn is_child_of_this_process(&self) -> bool {
        self.parent == rustix::process::getpid().as_raw_nonzero().get()
    }

    pub(super) fn read(pid: i32) -> Option<Stat> {
        Stat::parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name stands in parentheses and may contain anything, so fields are counted
    /// from the last parenthesis.
    fn parse(pid: i32, bytes: &[u8]) -> Option<Stat> {
        let after = bytes.iter().rposition(|&b| b == b')')? + 1;
        let mut fields = std::str::from_utf8(&bytes[after..]).ok()?.split_ascii_whitespace();
        let dead = matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        // The process group comes in between.
        let session = fields.nth(1)?.parse().ok()?;
        let start = fields.nth(15)?.parse().ok()?;
        Some(Stat { pid, parent, session, start, dead })
    }

    /// All processes of the machine.
    pub(super) fn all() -> Vec<Stat> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|e| Stat::read(e.file_name().to_str()?.parse().ok()?)).collect()
    }
}

/// Signals the process with this id and start time, if it exists. A pidfd is opened before the
/// start time is checked, so that the id cannot be reused before the signal; only kernels before
/// 5.3 have that race.
pub(super) fn signal_process(pid: i32, start: u64, signal: Signal) {
    let Some(number) = Pid::from_raw(pid) else { return };
    let held = pidfd_open(number, PidfdFlags::empty());
    if Stat::read(pid).is_none_or(|stat| stat.start != start) {
        return;
    }
    // An error means that it has already ended.
    let _ = match held {
        Ok(held) => pidfd_send_signal(&held, signal),
        Err(_) => kill_process(number, signal),
    };
}

/// A command's process, its session and its descendants.
pub(super) struct Family {
    leader: Pid,
    /// Process id and start time of each known relative that was alive at the last scan.
    relatives: HashSet<(i32, u64)>,
}

impl Family {
    pub(super) fn new(leader: Pid) -> Family {
        Family { leader, relatives: HashSet::new() }
    }

    /// Scans again. Returns true if a relative other than the leader is alive.
    pub(super) fn look(&mut self) -> bool {
        let leader = self.leader.as_raw_nonzero().get();
        let everyone = Stat::all();
        let mut family = HashSet::from([leader]);
        let known = |p: &Stat| self.relatives.contains(&(p.pid, p.start));
        family.extend(everyone.iter().filter(|p| p.session == leader || known(p)).map(|p| p.pid));
        loop {
            let before = family.len();
            family.extend(everyone.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>());
            if family.len() == before {
                break;
            }
        }
        let relatives = everyone.iter().filter(|p| !p.dead && p.pid != leader && family.contains(&p.pid));
        self.relatives = relatives.map(|p| (p.pid, p.start)).collect();
        !self.relatives.is_empty()
    }

    /// Adds processes (process id and start time) to the relatives: orphans, to which no parent
    /// leads.
    pub(super) fn adopt(&mut self, orphans: Vec<(i32, u64)>) {
        self.relatives.extend(orphans);
    }

    /// Sends TERM to the group; an `mpirun` passes it on to its ranks. A stopped process is
    /// continued, so that it can end.
    pub(super) fn terminate(&mut self) {
        self.look();
        // An error means that the group has ended, as the leader's exit will show.
        let _ = kill_process_group(self.leader, Signal::TERM);
        let _ = kill_process_group(self.leader, Signal::CONT);
    }

    /// Sends TERM to each relative found by the last scan: no leader is left to pass it on.
    pub(super) fn terminate_each(&self) {
        for signal in [Signal::TERM, Signal::CONT] {
            self.signal_each(signal);
        }
    }

    fn signal_each(&self, signal: Signal) {
        for &(pid, start) in &self.relatives {
            signal_process(pid, start, signal);
        }
    }

    /// Kills leader and relatives. Returns when no relative is left, or when the system does not
    /// let them die.
    pub(super) fn kill(&mut self) {
        for round in 0..100u64 {
            let alive = self.look();
            let _ = kill_process_group(self.leader, Signal::KILL);
            if !alive {
                return;
            }
            self.signal_each(Signal::KILL);
            std::thread::sleep(Duration::from_millis(1 + round / 4));
        }
    }
}

/// Returns the memory of a process, of others of its command, and of their descendants in bytes, if
/// it is above `limit`.
///
/// Resident pages are counted once per process that maps them, which is cheap but too much for
/// processes that share memory. Only if that count is above `limit`, the proportional share of each
/// process is read.
pub(super) fn memory_above(leader: Pid, others: &[(i32, u64)], limit: u64) -> Option<u64> {
    let mut family = descendants(leader.as_raw_nonzero().get());
    family.extend(others.iter().flat_map(|&(pid, _)| descendants(pid)));
    let resident: u64 = family.iter().filter_map(|&pid| resident(pid)).sum();
    if resident <= limit {
        return None;
    }
    let share: u64 = family.iter().filter_map(|&pid| proportional(pid).or_else(|| resident_of_living(pid))).sum();
    (share > limit).then_some(share)
}

fn resident_of_living(pid: i32) -> Option<u64> {
    resident(pid).filter(|&bytes| bytes > 0)
}

/// A process and its descendants, from the lists of children that the kernel keeps per thread.
pub(super) fn descendants(leader: i32) -> Vec<i32> {
    let mut family = vec![leader];
    let mut next = 0;
    while let Some(&pid) = family.get(next) {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            // A kernel without these lists yields the leader alone; a thread that has just ended
            // has no children.
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
    }
    family
}

/// Resource use of this process and its descendants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FamilyUse {
    /// CPU time in seconds, including that of descendants that have ended and were waited for.
    pub(crate) cpu_s: f64,
    /// Resident bytes, counted once per process.
    pub(crate) resident: u64,
    /// Those of them that no file holds and no processes share.
    pub(crate) own: u64,
    /// Bytes read from disks.
    pub(crate) read: u64,
    /// Bytes written to disks.
    pub(crate) written: u64,
}

/// Reads the present use of this process and its descendants. Processes that have just ended, or
/// belong to another user, are left out.
pub(crate) fn family_use() -> FamilyUse {
    let mut used = FamilyUse::default();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    for pid in descendants(rustix::process::getpid().as_raw_nonzero().get()) {
        used.cpu_s += ticks_of(pid).unwrap_or(0) as f64 / ticks;
        let (resident, shared) = memory(pid).unwrap_or_default();
        (used.resident, used.own) = (used.resident + resident, used.own + resident.saturating_sub(shared));
        let (read, written) = transferred(pid).unwrap_or_default();
        (used.read, used.written) = (used.read + read, used.written + written);
    }
    used
}

/// CPU time, in clock ticks, of a process and of its children that have ended.
fn ticks_of(pid: i32) -> Option<u64> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = bytes.iter().rposition(|&b| b == b')')? + 1;
    let fields = std::str::from_utf8(&bytes[after..]).ok()?.split_ascii_whitespace();
    fields.skip(11).take(4).map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Bytes that a process has read from and written to disks.
fn transferred(pid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    Some((of("read_bytes:")?, of("write_bytes:")?))
}

/// The largest peak, in bytes, of a process and its descendants so far.
pub(super) fn peak_so_far(leader: Pid) -> u64 {
    let peak = |pid: i32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    descendants(leader.as_raw_nonzero().get()).into_iter().filter_map(peak).max().unwrap_or(0)
}

fn resident(pid: i32) -> Option<u64> {
    memory(pid).map(|(resident, _)| resident)
}

/// Resident bytes of a process, and those of them that belong to files or shared memory.
fn memory(pid: i32) -> Option<(u64, u64)> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm.split_ascii_whitespace().skip(1).map(|word| word.parse::<u64>().ok());
    let size = rustix::param::page_size() as u64;
    Some((pages.next()?? * size, pages.next()?? * size))
}

fn proportional(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let line = b"12 (a) Z (b) S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0";
        let stat = Stat::parse(12, line).unwrap();
        assert_eq!((stat.parent, stat.session, stat.start, stat.dead), (7, 9, 777, false));
        assert!(Stat::parse(12, b"12 (a").is_none());
        assert!(Stat::parse(12, b"12 (a) R 1").is_none());
    }

    #[test]
    fn only_the_process_that_was_seen_is_signalled() {
        let mut child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        let stat = Stat::read(child.id() as i32).unwrap();
        signal_process(stat.pid, stat.start + 1, Signal::KILL);
        assert!(child.try_wait().unwrap().is_none(), "another process had this number");
        signal_process(stat.pid, stat.start, Signal::TERM);
        assert!(!child.wait().unwrap().success());
        signal_process(stat.pid, stat.start, Signal::KILL);
    }

    #[test]
    fn what_we_use_is_seen() {
        let used = family_use();
        assert!(used.resident > 1 << 20 && used.cpu_s >= 0.0, "{used:?}");
        assert!(peak_so_far(rustix::process::getpid()) >= 1 << 20);
    }

    #[test]
    fn our_own_memory_is_seen() {
        let me = rustix::process::getpid();
        assert!(memory_above(me, &[], 1 << 10).is_some());
        assert!(memory_above(me, &[], 1 << 50).is_none());
    }
}
