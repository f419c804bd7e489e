//! Finds the processes that commands leave running when they end, and the command that each belongs
//! to.
//!
//! When a process ends, the system passes its children to the nearest ancestor that is a subreaper,
//! which is this process (`PR_SET_CHILD_SUBREAPER`), and there to the main thread. So everything
//! that an ended command has left, however often it forked and whatever sessions it made, is a
//! descendant of the main thread's children, and a command that leaves nothing costs one read of an
//! empty list.
//!
//! An orphan belongs to the command whose session it is in, or else to the attempt that its
//! environment names, or that of a descendant: the monitor of a container has an environment of its
//! own. An orphan with neither belongs to the only running command; while there are
//! several it waits until one is left. Children of Phalanx itself are known by their process ids or
//! by its own session, and what those have left by the mark of `system/own_program`: it lives on.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, waitid};

use super::mark::{Environment, Mark};
use super::process::{Stat, descendants, signal_process};
use crate::system::own_program;

/// An attempt, as named in the environment of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) task: u32,
    pub(super) attempt: u16,
}

/// The orphans of this rank's commands.
pub(super) struct Leftovers {
    /// The children of the main thread, where the kernel lists them.
    list: Option<File>,
    /// The mark of this process's commands.
    mark: Mark,
    session: i32,
    held: Mutex<KnownChildren>,
}

/// The list of children is read again this often at most while it changes.
const MAX_LIST_READS: u32 = 16;

/// An environment is read again this often at most while it is empty, and after this time.
const MAX_ENVIRONMENT_READS: u32 = 3;
const ENVIRONMENT_WAIT: Duration = Duration::from_millis(1);

#[derive(Default)]
struct KnownChildren {
    /// Children that are no orphans: running commands, and helpers.
    own: HashSet<i32>,
    /// How many of them are commands.
    commands: usize,
    /// Orphans that may live on: process id and start time.
    excused: HashSet<(i32, u64)>,
}

impl Leftovers {
    /// Makes this process the subreaper of its commands, which have `mark` in their environment.
    pub(super) fn new(mark: &Mark) -> Leftovers {
        let me = getpid();
        if let Err(error) = rustix::process::set_child_subreaper(Some(me)) {
            tracing::warn!("cannot end processes that commands leave running: {error}");
        }
        let pid = me.as_raw_nonzero().get();
        Leftovers {
            list: File::open(format!("/proc/{pid}/task/{pid}/children")).ok(),
            mark: mark.clone(),
            session: Stat::read(pid).map_or(0, |stat| stat.session),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, KnownChildren> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a child that is no orphan, of whatever thread.
    pub(super) fn note_own(&self, pid: Pid) {
        self.held().own.insert(pid.as_raw_nonzero().get());
    }

    /// A child that was registered so has ended.
    pub(super) fn forget_own(&self, pid: Pid) {
        self.held().own.remove(&pid.as_raw_nonzero().get());
    }

    /// Registers a running command, which is no orphan until the guard is dropped.
    pub(super) fn begin(&self, pid: Pid) -> Guard<'_> {
        let pid = pid.as_raw_nonzero().get();
        let mut held = self.held();
        held.own.insert(pid);
        held.commands += 1;
        Guard { leftovers: self, pid }
    }

    /// Returns the live orphans of a command, and reaps dead ones. Those of which nothing says
    /// whose they are count as left by the only command here once that has ended: while it runs
    /// they may be of an earlier one, and are no reason to end it.
    pub(super) fn of(&self, leader: Pid, owner: Owner, has_ended: bool) -> Vec<(i32, u64)> {
        let orphans = self.orphans();
        if orphans.is_empty() {
            return Vec::new();
        }
        let leader = leader.as_raw_nonzero().get();
        let is_only = has_ended && self.held().commands <= 1;
        let is_of = |orphan: &Stat| match orphan.session == leader {
            true => true,
            false => {
                descendants(orphan.pid).into_iter().find_map(|pid| self.owner_of(pid)).map_or(is_only, |of| of == owner)
            }
        };
        orphans.iter().filter(|orphan| is_of(orphan)).map(|orphan| (orphan.pid, orphan.start)).collect()
    }

    /// Lets these orphans live on.
    pub(super) fn excuse(&self, orphans: Vec<(i32, u64)>) {
        self.held().excused.extend(orphans);
    }

    /// Reaps dead orphans, so that a long command may have many.
    pub(super) fn reap(&self) {
        self.orphans();
    }

    /// Live orphans that may not live on.
    fn orphans(&self) -> Vec<Stat> {
        let children = self.children();
        if children.is_empty() {
            return Vec::new();
        }
        let mut held = self.held();
        let others = children.into_iter().filter(|pid| !held.own.contains(pid));
        let is_orphan = |stat: &Stat| stat.is_child_of_this_process() && stat.session != self.session;
        let orphans = others.filter_map(Stat::read).filter(is_orphan);
        let (dead, alive): (Vec<Stat>, Vec<Stat>) = orphans.partition(|stat| stat.dead);
        for pid in dead.iter().filter_map(|stat| Pid::from_raw(stat.pid)) {
            // An orphan that is about to die is reaped the next time.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
        let is_unexcused = |stat: &Stat| {
            let known = (stat.pid, stat.start);
            let is_new = !held.excused.contains(&known);
            if is_new && is_of_own_program(stat.pid) {
                held.excused.insert(known);
                return false;
            }
            is_new
        };
        alive.into_iter().filter(is_unexcused).collect()
    }

    /// The children of the main thread. The system may leave one out while another that it has just
    /// listed is reaped (`proc_pid_children(5)`), so a list counts when it reads the same twice.
    fn children(&self) -> Vec<i32> {
        let Some(list) = &self.list else { return Vec::new() };
        let mut text = read_all(list);
        if text.is_empty() {
            return Vec::new();
        }
        for _ in 0..MAX_LIST_READS {
            let again = read_all(list);
            if again == text {
                break;
            }
            text = again;
        }
        String::from_utf8_lossy(&text).split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// The attempt that the environment of a process names, if it has our mark.
    fn owner_of(&self, pid: i32) -> Option<Owner> {
        let environment = self.mark.environment_of(pid)?;
        let task = environment.value("PHALANX_TASK_ID")?.parse().ok()?;
        Some(Owner { task, attempt: environment.value("PHALANX_ATTEMPT")?.parse().ok()? })
    }
}

/// True if a program that Phalanx started for itself has left this process.
fn is_of_own_program(pid: i32) -> bool {
    for _ in 0..MAX_ENVIRONMENT_READS {
        let Some(environment) = Environment::of(pid) else { return false };
        if !environment.is_empty() {
            return environment.value(own_program::VARIABLE) == Some(own_program::value());
        }
        std::thread::sleep(ENVIRONMENT_WAIT);
    }
    false
}

/// Reads a file of `/proc` from its beginning.
fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = [0u8; 4096];
    let (mut text, mut at) = (Vec::new(), 0);
    loop {
        match file.read_at(&mut bytes, at) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(n) => {
                text.extend_from_slice(&bytes[..n]);
                at += n as u64;
            }
        }
        // Reading on in a list that has changed meanwhile could split a number. The system
        // returns less than there is room for only at the end.
        if text.len() < bytes.len() {
            break;
        }
    }
    text
}

impl Drop for Leftovers {
    /// Orphans without a known owner must not outlive the run.
    fn drop(&mut self) {
        for orphan in self.orphans() {
            signal_process(orphan.pid, orphan.start, Signal::KILL);
        }
    }
}

/// Keeps a command registered, see [`Leftovers::begin`].
pub(super) struct Guard<'a> {
    leftovers: &'a Leftovers,
    pid: i32,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.leftovers.held();
        held.own.remove(&self.pid);
        held.commands -= 1;
    }
}
