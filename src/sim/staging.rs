//! Where the files of staged tasks lie in a simulated run, and how long they travel.
//!
//! Which rank sends a temporary output, and when, is decided by the state machine of a real run
//! (`schedule/transfers`). All other files are read on the shared file system, each once per node.
//! Every node sends and receives in the order in which transfers begin; the rate is that of the
//! cluster file. So two transfers that share a node end when they would if they shared its
//! bandwidth. The time of the node's own disk is not counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::cluster::Network;
use crate::model::{CarriedFile, Rank, StageUse, TaskId, Time};
use crate::schedule::transfers::{Granted, Transfers};
use crate::workload::staged_files::{FileNumber, StagedFiles};

/// Number of an attempt at a staged task.
pub(super) type StagedId = u64;

/// The files of the staged tasks of a run.
pub(super) struct Staging {
    files: Arc<StagedFiles>,
    network: Network,
    /// Temporary outputs are copied to the shared file system, too.
    is_shared: bool,
    transfers: Transfers,
    nodes: Vec<NodeFiles>,
    /// The shared file system is busy until then.
    file_system: Time,
    /// How often a temporary output was made.
    versions: FxHashMap<FileNumber, u64>,
    attempts: BTreeMap<StagedId, Staged>,
    next_attempt: StagedId,
    moves: BTreeMap<u32, Move>,
    next_move: u32,
    /// The moves that end at a time that is known since the last call of `take_due`.
    due: Vec<(Time, u32)>,
    /// The attempts that have all their files since the last call of `take_ready`.
    ready: Vec<StagedId>,
    total: StageUse,
}

/// What the node of a rank has.
#[derive(Default)]
struct NodeFiles {
    has: FxHashSet<FileNumber>,
    /// What is on its way there.
    coming: FxHashMap<FileNumber, u32>,
    /// It sends and receives until then.
    sends: Time,
    receives: Time,
    is_gone: bool,
}

/// An attempt at a staged task.
struct Staged {
    rank: Rank,
    task: TaskId,
    /// Its number among the running ones.
    running: usize,
    /// How long its command takes.
    took: Duration,
    began: Time,
    /// Moves that it waits for.
    left: usize,
    is_delivered: bool,
    used: StageUse,
}

/// Files on their way to a node.
struct Move {
    to: Rank,
    files: Vec<FileNumber>,
    /// `None`: they come from the shared file system, or wait for a source.
    source: Option<Rank>,
    /// The first one has caused the move.
    waiters: Vec<StagedId>,
}

impl Staging {
    pub(super) fn new(files: Arc<StagedFiles>, network: Network, is_shared: bool) -> Staging {
        Staging {
            files,
            network,
            is_shared,
            transfers: Transfers::default(),
            nodes: Vec::new(),
            file_system: Time::ZERO,
            versions: FxHashMap::default(),
            attempts: BTreeMap::new(),
            next_attempt: 0,
            moves: BTreeMap::new(),
            next_move: 0,
            due: Vec::new(),
            ready: Vec::new(),
            total: StageUse::default(),
        }
    }

    fn node(&mut self, rank: Rank) -> &mut NodeFiles {
        let number = rank.index();
        if self.nodes.len() <= number {
            self.nodes.resize_with(number + 1, NodeFiles::default);
        }
        &mut self.nodes[number]
    }

    /// An attempt at a task begins: what its node does not have starts to travel. `None` if the
    /// task is not staged.
    pub(super) fn begin(
        &mut self,
        now: Time,
        (rank, task): (Rank, TaskId),
        running: usize,
        took: Duration,
    ) -> Option<StagedId> {
        let files = Arc::clone(&self.files);
        let reads = &files.of_task(task)?.reads;
        let id = self.next_attempt;
        self.next_attempt += 1;
        let (mut used, mut from_disk, mut waits_for) = (StageUse::default(), Vec::new(), Vec::new());
        for &file in reads {
            let (bytes, node) = (files.bytes(file), self.node(rank));
            if node.has.contains(&file) {
                used.local += bytes;
            } else if let Some(coming) = node.coming.get(&file) {
                used.local += bytes;
                waits_for.push(*coming);
            } else if let Some(&version) = self.versions.get(&file) {
                used.fetched += bytes;
                waits_for.push(self.seek(now, (rank, id), file, version));
            } else if bytes > 0 {
                used.read += bytes;
                from_disk.push(file);
            }
        }
        if !from_disk.is_empty() {
            waits_for.push(self.add_move(rank, from_disk, id));
            self.read(now, self.next_move);
        }
        waits_for.sort_unstable();
        waits_for.dedup();
        for number in &waits_for {
            let waiters = self.moves.get_mut(number).map(|moving| &mut moving.waiters);
            waiters.into_iter().filter(|waiters| !waiters.contains(&id)).for_each(|waiters| waiters.push(id));
        }
        let left = waits_for.len();
        self.attempts.insert(id, Staged { rank, task, running, took, began: now, left, is_delivered: false, used });
        if left == 0 {
            self.ready.push(id);
        }
        // A source may have been granted before the attempt was known.
        for number in waits_for {
            let is_sent_for = |moving: &Move| moving.source.is_some() && moving.waiters.first() == Some(&id);
            if self.moves.get(&number).is_some_and(is_sent_for) {
                self.count_received(number);
            }
        }
        Some(id)
    }

    fn add_move(&mut self, to: Rank, files: Vec<FileNumber>, by: StagedId) -> u32 {
        self.next_move += 1;
        let number = self.next_move;
        self.node(to).coming.extend(files.iter().map(|file| (*file, number)));
        self.moves.insert(number, Move { to, files, source: None, waiters: vec![by] });
        number
    }

    fn seek(&mut self, now: Time, (rank, by): (Rank, StagedId), file: FileNumber, version: u64) -> u32 {
        let number = self.add_move(rank, vec![file], by);
        self.seek_again(now, (rank, number), file, version);
        number
    }

    fn seek_again(&mut self, now: Time, by: (Rank, u32), file: FileNumber, version: u64) {
        let nodes = &self.nodes;
        let file = CarriedFile::Held { name: name_of(file), version };
        let granted = self.transfers.seek(now, by, file, false, &|rank| node_of(nodes, rank));
        self.start(now, granted);
    }

    /// Starts the transfers that have a source.
    fn start(&mut self, now: Time, granted: Vec<Granted>) {
        for Granted { id, source, .. } in granted {
            let Some(source) = source else {
                self.read(now, id);
                continue;
            };
            let Some(moving) = self.moves.get_mut(&id) else { continue };
            moving.source = Some(source);
            let (to, took) = (moving.to, self.network.travels(self.bytes_of(id)));
            let sent = occupy(&mut self.node(source).sends, now, took);
            let received = occupy(&mut self.node(to).receives, now, took);
            self.due.push((sent.max(received).after(self.network.latency), id));
            self.count_received(id);
        }
    }

    fn bytes_of(&self, number: u32) -> u64 {
        self.moves.get(&number).map_or(0, |moving| moving.files.iter().map(|file| self.files.bytes(*file)).sum())
    }

    fn count_received(&mut self, number: u32) {
        let bytes = self.bytes_of(number);
        let by = self.moves.get(&number).and_then(|moving| moving.waiters.first());
        if let Some(attempt) = by.and_then(|by| self.attempts.get_mut(by)) {
            attempt.used.received += bytes;
        }
    }

    /// A move comes from the shared file system.
    fn read(&mut self, now: Time, number: u32) {
        let Some(to) = self.moves.get(&number).map(|moving| moving.to) else { return };
        let bytes = self.bytes_of(number);
        let travels = self.network.travels(bytes);
        let received = occupy(&mut self.node(to).receives, now, travels);
        let read = self.use_file_system(now, bytes);
        self.due.push((received.max(read).after(self.network.latency), number));
    }

    fn use_file_system(&mut self, now: Time, bytes: u64) -> Time {
        let took = self.network.file_system.map_or(Duration::ZERO, |rate| time_of(bytes, rate));
        occupy(&mut self.file_system, now, took)
    }

    /// Files have arrived, unless the node is gone or the source was.
    pub(super) fn moved(&mut self, now: Time, number: u32) {
        let Some(Move { to, files, source, waiters }) = self.moves.remove(&number) else { return };
        for file in files {
            let node = self.node(to);
            node.coming.remove(&file);
            node.has.insert(file);
            if let Some(&version) = self.versions.get(&file) {
                self.transfers.hold(to, name_of(file), version);
            }
        }
        for waiter in waiters {
            let Some(attempt) = self.attempts.get_mut(&waiter) else { continue };
            attempt.left -= 1;
            if attempt.left == 0 {
                self.ready.push(waiter);
            }
        }
        if source.is_some() {
            let nodes = &self.nodes;
            let granted = self.transfers.end(now, (to, number), Some(true), &|rank| node_of(nodes, rank));
            self.start(now, granted);
        }
    }

    /// The moves whose end is known now.
    pub(super) fn take_due(&mut self) -> Vec<(Time, u32)> {
        std::mem::take(&mut self.due)
    }

    /// The attempts whose commands start now: their numbers among the running ones, and how long
    /// the commands take.
    pub(super) fn take_ready(&mut self, now: Time) -> Vec<(usize, Duration)> {
        let mut started = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            let Some(attempt) = self.attempts.get_mut(&id) else { continue };
            attempt.used.in_s = now.since(attempt.began).as_secs_f64();
            started.push((attempt.running, attempt.took));
        }
        started
    }

    /// The command of an attempt has succeeded. Returns when its outputs are in their places;
    /// `None` if they were already.
    pub(super) fn deliver(&mut self, now: Time, id: StagedId) -> Option<Time> {
        let attempt = self.attempts.get_mut(&id).filter(|attempt| !attempt.is_delivered)?;
        attempt.is_delivered = true;
        let (rank, task) = (attempt.rank, attempt.task);
        let files = Arc::clone(&self.files);
        let (mut written, mut held) = (0, 0);
        for &file in files.of_task(task).map_or(&[][..], |files| &files.writes) {
            let (bytes, is_temporary) = (files.bytes(file), files.file(file).is_temporary);
            *(if is_temporary { &mut held } else { &mut written }) += bytes;
            self.write(rank, file, is_temporary);
        }
        let bytes = written + if self.is_shared { held } else { 0 };
        let travels = self.network.travels(bytes);
        let at = occupy(&mut self.node(rank).sends, now, travels).max(self.use_file_system(now, bytes));
        let attempt = self.attempts.get_mut(&id)?;
        (attempt.used.written, attempt.used.held) = (written, held);
        attempt.used.out_s = if bytes > 0 { at.since(now).as_secs_f64() } else { 0.0 };
        (bytes > 0).then_some(at)
    }

    /// A file was made on a node: what others have of earlier ones counts no more.
    fn write(&mut self, rank: Rank, file: FileNumber, is_temporary: bool) {
        if self.nodes.iter().any(|node| node.has.contains(&file)) {
            self.nodes.iter_mut().for_each(|node| _ = node.has.remove(&file));
        }
        self.node(rank).has.insert(file);
        if is_temporary {
            let version = self.versions.entry(file).or_default();
            *version += 1;
            self.transfers.hold(rank, name_of(file), *version);
        }
    }

    /// An attempt has ended. Returns what was moved for it.
    pub(super) fn end(&mut self, id: StagedId) -> StageUse {
        let used = self.attempts.remove(&id).map(|attempt| attempt.used).unwrap_or_default();
        self.total.add(&used);
        used
    }

    /// A rank has left or is lost, with what its node had. What it was sending is sought again.
    pub(super) fn lose(&mut self, now: Time, rank: Rank) {
        *self.node(rank) = NodeFiles { is_gone: true, ..NodeFiles::default() };
        self.attempts.retain(|_, attempt| attempt.rank != rank);
        self.moves.retain(|_, moving| moving.to != rank);
        let nodes = &self.nodes;
        let granted = self.transfers.lose(now, rank, &|rank| node_of(nodes, rank));
        self.start(now, granted);
        let cut: Vec<u32> =
            self.moves.iter().filter(|(_, moving)| moving.source == Some(rank)).map(|(number, _)| *number).collect();
        for number in cut {
            let Some(moving) = self.moves.remove(&number) else { continue };
            // The event of the old number is stale.
            self.next_move += 1;
            let number = self.next_move;
            let (to, file) = (moving.to, moving.files[0]);
            self.node(to).coming.insert(file, number);
            self.moves.insert(number, Move { source: None, ..moving });
            let version = self.versions.get(&file).copied().unwrap_or_default();
            self.seek_again(now, (to, number), file, version);
        }
    }

    /// The files of the job.
    pub(super) fn files(&self) -> &Arc<StagedFiles> {
        &self.files
    }

    /// What was moved for all attempts that have ended.
    pub(super) fn total(&self) -> StageUse {
        self.total
    }
}

impl Network {
    /// How long so many bytes travel out of a node, or into it.
    fn travels(&self, bytes: u64) -> Duration {
        time_of(bytes, self.bandwidth)
    }
}

fn time_of(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
}

/// Uses a link that is busy until some time; returns when that ends.
fn occupy(busy: &mut Time, now: Time, took: Duration) -> Time {
    *busy = (*busy).max(now).after(took);
    *busy
}

fn node_of(nodes: &[NodeFiles], rank: Rank) -> Option<u32> {
    nodes.get(rank.index()).is_none_or(|node| !node.is_gone).then_some(rank.0)
}

/// The name by which the transfers of a run know a file.
fn name_of(file: FileNumber) -> [u8; 32] {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&file.to_le_bytes());
    name
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::Kernels;

    const MIB: u64 = 1 << 20;

    /// Task 0 writes 8 MiB that are not kept, and 2 MiB that are; tasks 1 to 12 read both, and
    /// `in`, of 4 MiB. Every link takes a second for a MiB.
    fn staging() -> Staging {
        let text = "[[task]]\nname = 'a'\nstage = 'node'\ncommand = 'x'\noutputs = \
                    [{ file = 'kept', size = '2M' }, { file = 'tmp', keep = false, size = '8M' }]\n\
                    [[task]]\nname = 'b'\narray = '0-11'\nneeds = 'a'\nstage = 'node'\ncommand = 'x'\n\
                    inputs = ['kept', 'tmp', { file = 'in', size = '4M' }]\n";
        let job = crate::job::parse(text, "t.toml", Path::new("/"), &Kernels::builtin()).unwrap().job;
        let network = Network { latency: Duration::ZERO, jitter: Duration::ZERO, bandwidth: MIB, file_system: None };
        Staging::new(Arc::new(StagedFiles::of(&job, &|_| None).unwrap()), network, true)
    }

    /// Passes time until nothing travels; returns when the attempts began their commands.
    fn pass(staging: &mut Staging) -> Vec<(usize, f64)> {
        let (mut open, mut started, mut now) = (BTreeMap::new(), Vec::new(), Time::ZERO);
        loop {
            open.extend(staging.take_due().into_iter().map(|due| (due, ())));
            started.extend(staging.take_ready(now).into_iter().map(|(running, _)| (running, now.seconds())));
            let Some((due, ())) = open.pop_first() else { return started };
            now = due.0;
            staging.moved(now, due.1);
        }
    }

    fn made(staging: &mut Staging) {
        let id = staging.begin(Time::ZERO, (Rank(0), TaskId(0)), 0, Duration::ZERO).unwrap();
        assert_eq!(staging.deliver(Time::ZERO, id), Some(Time(10_000_000_000)), "both go to the file system");
        assert_eq!(staging.deliver(Time::ZERO, id), None);
        let used = staging.end(id);
        assert_eq!((used.written, used.held, used.out_s), (2 * MIB, 8 * MIB, 10.0));
        assert_eq!(pass(staging), [], "nobody waits for it");
        staging.nodes[0].sends = Time::ZERO;
    }

    fn read(staging: &mut Staging, rank: u32, running: usize) -> StagedId {
        let at = (Rank(rank), TaskId(running as u32));
        staging.begin(Time::ZERO, at, running, Duration::ZERO).unwrap()
    }

    #[test]
    fn what_a_node_does_not_have_travels_once() {
        let mut staging = staging();
        made(&mut staging);
        let here = read(&mut staging, 0, 1);
        let there = [2, 3].map(|running| read(&mut staging, 1, running));
        assert_eq!(pass(&mut staging), [(1, 4.0), (2, 14.0), (3, 14.0)]);
        let used = staging.end(here);
        assert_eq!((used.local, used.read, used.fetched), (10 * MIB, 4 * MIB, 0));
        let used = staging.end(there[0]);
        assert_eq!((used.local, used.read, used.fetched, used.received), (0, 6 * MIB, 8 * MIB, 8 * MIB));
        assert_eq!(staging.end(there[1]).local, 14 * MIB, "it comes for another one");
        let again = read(&mut staging, 1, 4);
        assert_eq!((pass(&mut staging).len(), staging.end(again).local), (1, 14 * MIB));
        assert_eq!(staging.total().fetched, 8 * MIB);
    }

    #[test]
    fn many_who_read_a_file_wait_for_the_node_that_has_it_and_then_send_it_too() {
        let mut staging = staging();
        made(&mut staging);
        (1..12).for_each(|rank| _ = read(&mut staging, rank, rank as usize));
        let last = pass(&mut staging).into_iter().map(|(_, at)| at).fold(0.0, f64::max);
        // One after the other they would all have it after 88 s; the eleventh gets it from the
        // first that has it.
        assert_eq!(last, 80.0);
    }

    #[test]
    fn what_a_lost_rank_was_sending_comes_from_elsewhere() {
        let mut staging = staging();
        made(&mut staging);
        let id = read(&mut staging, 1, 1);
        read(&mut staging, 2, 2);
        staging.lose(Time(2_000_000_000), Rank(0));
        staging.lose(Time(2_000_000_000), Rank(2));
        assert_eq!(pass(&mut staging), [(1, 22.0)], "its copy in the run directory");
        assert_eq!(staging.end(id).fetched, 8 * MIB);
        assert!(staging.moves.is_empty() && staging.attempts.is_empty());
    }
}
