//! Tells whether another process of this machine is alive, also one that is no child.
//!
//! A process is identified by the machine (with the namespace of its process ids), its id and its
//! start time, so that neither a process with the same id on another node nor a later one is taken
//! for it.

use std::hash::Hasher;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use xxhash_rust::xxh3::Xxh3;

/// Identifies a process among those of its machine: the machine, the process id, the start time.
pub(crate) type ProcessMark = [u64; 3];

/// The mark of this process; all zeros if the system does not tell.
pub(crate) fn own_mark() -> ProcessMark {
    let pid = std::process::id();
    mark_of(pid).unwrap_or_default()
}

/// The mark of the process with this id.
pub(crate) fn mark_of(pid: u32) -> Option<ProcessMark> {
    Some([machine()?, u64::from(pid), start_of(pid)?])
}

/// A number that this machine and this namespace of process ids have for themselves.
fn machine() -> Option<u64> {
    let mut hasher = Xxh3::new();
    hasher.write(&std::fs::read("/proc/sys/kernel/random/boot_id").ok()?);
    hasher.write(std::fs::read_link("/proc/self/ns/pid").ok()?.as_os_str().as_encoded_bytes());
    Some(hasher.finish().max(1))
}

/// Start of a process, in clock ticks since the system was started.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the start is the twentieth field after it.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Handle to another process of this machine.
#[derive(Debug)]
pub(crate) struct ProcessWatch(OwnedFd);

impl ProcessWatch {
    /// The process with this mark. `None` if it is on another machine, is this process itself, has
    /// ended already, or cannot be watched.
    pub(crate) fn open(mark: ProcessMark) -> Option<ProcessWatch> {
        let [_, number, _] = mark;
        let number = u32::try_from(number).ok().filter(|&number| number != std::process::id())?;
        let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Compared after it was opened: from now on the id belongs to no other process.
        (mark_of(number)? == mark).then_some(ProcessWatch(held))
    }

    /// True once the process has ended, whether or not its parent has noticed.
    pub(crate) fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        // An interrupted poll says nothing; the next one does.
        poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_of_another_process_is_seen_before_its_parent_reaps_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mark = mark_of(child.id()).unwrap();
        let watch = ProcessWatch::open(mark).unwrap();
        assert!(!watch.has_ended());
        drop(child.stdin.take());
        while !watch.has_ended() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(watch.has_ended());
        assert!(ProcessWatch::open(mark).is_none());
    }

    #[test]
    fn another_process_with_the_same_id_is_not_taken_for_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let [machine, pid, start] = mark_of(child.id()).unwrap();
        assert!(ProcessWatch::open([machine, pid, start]).is_some());
        assert!(ProcessWatch::open([machine ^ 1, pid, start]).is_none());
        assert!(ProcessWatch::open([machine, pid, start + 1]).is_none());
        assert!(ProcessWatch::open([0; 3]).is_none() && ProcessWatch::open([u64::MAX; 3]).is_none());
        assert!(ProcessWatch::open(own_mark()).is_none(), "this process itself");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
