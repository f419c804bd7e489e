//! The pools of a simulated world: what ranks do with their tasks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Execution, Life, World};
use crate::model::{Attempt, GangNode, Outcome, Rank, SetAside, Shortfalls, State, TaskId, Time, has_labels};
use crate::schedule::dependency_counts::{CompletionEffects, DependencyCounts};
use crate::schedule::gang::Shape;
use crate::schedule::pools::shares::{PoolShares, Reserved};
use crate::schedule::pools::{PoolClaim, PoolReport, SetId};
use crate::schedule::protocol::{Lease, Load, Started, Stop, is_among};
use crate::schedule::resources::Needs;
use crate::schedule::tests::job::{Job, labels_of_slots};
use crate::schedule::worker::{self, Facts};

/// A task in a pool: task, home as the pool knows it, attempt, when it was ready, and the attempts
/// that fell short.
pub(super) type Item = (u32, u32, u16, u64, Shortfalls);

/// How long a task takes to fail on a rank that fails all of them.
const FAILS_WITHIN_NS: u64 = 5_000;

/// The start of an attempt that ends because a rank that executes it too is gone.
const BROKEN: u64 = u64::MAX - 1;

/// A rank's pool: a queue in order of urgency, slots, and slots held for gangs.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) slots: u32,
    pub(super) ready: BTreeSet<(Reverse<u8>, u64, Item)>,
    pub(super) idle: u32,
    pub(super) running: u32,
    /// Gangs that wait for slots: number, slots, task to lead.
    pub(super) holds: VecDeque<(u32, u32, Option<Lease>)>,
    pub(super) held: BTreeMap<u32, (u32, Option<Lease>)>,
    pub(super) stopped: bool,
    /// Starts nothing because rank 0 is silent.
    pub(super) suspended: bool,
    /// Slots count nothing by themselves.
    pub(super) frozen: bool,
    /// Tasks that end as CANCELLED.
    pub(super) cancelled: BTreeSet<u32>,
    /// Tasks that do not start, as ranges.
    pub(super) paused: Vec<(u32, u32)>,
    /// Leases of pools.
    pub(super) shares: PoolShares,
    /// Idle slots when they were last reported.
    pub(super) reported_idle: u32,
    /// Completions of slots that have not been reported yet.
    pub(super) outbox: Vec<worker::WorkerEvent>,
}

impl World {
    pub(super) fn act(
        &mut self,
        rank: usize,
        action: worker::WorkerAction,
        events: &mut VecDeque<worker::WorkerEvent>,
    ) {
        let me = Rank(rank as u32);
        match action {
            worker::WorkerAction::Send { to, message } => self.send(me, to, message),
            worker::WorkerAction::TakeUp => self.pools[rank].frozen = false,
            worker::WorkerAction::PoolOrders(orders) => self.pools[rank].shares.carry_out(&orders),
            worker::WorkerAction::LearnShares(_) => {}
            worker::WorkerAction::Start(locals) => {
                assert!(!self.pools[rank].frozen, "rank {rank} starts tasks of a ledger that it does not have yet");
                let ledger = self.workers[rank].ledger().expect("open").clone();
                for local in locals {
                    let urgency = ledger.urgency(local);
                    self.push(
                        rank,
                        urgency,
                        (ledger.task(local).0, me.0, 1, ledger.ready_at(local).0, Shortfalls::NONE),
                    );
                }
            }
            worker::WorkerAction::StartLease(l) => {
                self.push(rank, l.urgency, (l.task.0, l.home.0, l.attempt, l.ready.0, l.short))
            }
            worker::WorkerAction::Surrender { to, max } => {
                let job = Arc::clone(&self.job);
                let leases = self.take_out(rank, max as usize, 0, |item| may_leave(&job, item));
                events.push_back(worker::WorkerEvent::Surrendered { to, leases });
            }
            worker::WorkerAction::Freeze { keep } => {
                self.pools[rank].frozen = true;
                let waiting = self.take_out(rank, usize::MAX, keep as usize, |_| true);
                self.flush(rank, events);
                events.push_back(worker::WorkerEvent::Frozen { waiting });
            }
            worker::WorkerAction::Hold { gang, host, lease, leads } => {
                assert_eq!(host.rank, me);
                self.pools[rank].holds.push_back((gang, host.slots, leads.then_some(lease)));
            }
            worker::WorkerAction::Launch { gang, hosts, ranks, .. } => {
                self.launch(rank, gang, (&hosts, &ranks), events)
            }
            worker::WorkerAction::Share { gang, lease, ranks } => {
                assert!(ranks.contains(&me) && ranks[0] != me, "{gang}: {ranks:?}");
                assert!(self.pools[rank].held.contains_key(&gang), "a share without slots");
                assert!(matches!(self.job.gangs[&lease.task.0], Shape::Everywhere { .. }));
                self.shares.insert((gang, rank));
                self.shared[0] += 1;
            }
            worker::WorkerAction::MemberLost { gang, .. } => self.end_broken(rank, gang),
            worker::WorkerAction::Release { gang } => {
                if self.shares.remove(&(gang, rank)) {
                    self.pools[rank].outbox.push(worker::WorkerEvent::ShareEnded { gang });
                }
                let pool = &mut self.pools[rank];
                pool.holds.retain(|h| h.0 != gang);
                pool.idle += pool.held.remove(&gang).map_or(0, |h| h.0);
            }
            worker::WorkerAction::Suspend => self.pools[rank].suspended = true,
            worker::WorkerAction::Resume => self.pools[rank].suspended = false,
            worker::WorkerAction::Halt => self.pools[rank].stopped = true,
            worker::WorkerAction::Stop(how) => {
                self.pools[rank].stopped = true;
                self.pools[rank].suspended = false;
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            worker::WorkerAction::Cancel(tasks) => {
                self.pools[rank].cancelled.extend(tasks.iter().flat_map(|tasks| tasks.0..tasks.1));
                let cancelled = self.pools[rank].cancelled.clone();
                for lease in self.take_out(rank, usize::MAX, 0, |item| cancelled.contains(&item.0)) {
                    let attempt = lease.cancelled(me, Time(self.now));
                    self.pools[rank].outbox.push(worker::WorkerEvent::Ended { attempt });
                }
            }
            worker::WorkerAction::Pause(tasks) => {
                self.pools[rank].paused = tasks;
                self.pools[rank].shares.note_change();
            }
            worker::WorkerAction::Exit => self.exit(rank),
        }
    }

    pub(super) fn exit(&mut self, rank: usize) {
        if self.life[rank] == Life::Alive && self.finished.is_none() {
            let pool = &self.pools[rank];
            let shares = self.shares.iter().any(|share| share.1 == rank);
            let empty =
                !shares && pool.running == 0 && pool.ready.is_empty() && pool.held.is_empty() && pool.outbox.is_empty();
            assert!(empty, "rank {rank} is ordered to leave with something left");
        }
        self.life[rank] = Life::Left;
        let ends = std::mem::take(&mut self.ends);
        self.ends = ends.into_iter().filter(|Reverse(end)| end.1 as usize != rank).collect();
    }

    /// Takes up to `most` items out of a pool, leaving the given number of the most urgent.
    pub(super) fn take_out(
        &mut self,
        rank: usize,
        most: usize,
        keep: usize,
        which: impl Fn(&Item) -> bool,
    ) -> Vec<Lease> {
        let pool = &mut self.pools[rank];
        let chosen: Vec<_> = pool.ready.iter().filter(|r| which(&r.2)).skip(keep).take(most).copied().collect();
        pool.ready.retain(|r| !chosen.contains(r));
        pool.shares.note_change();
        chosen.into_iter().map(|(Reverse(urgency), _, item)| lease_of(urgency, &item)).collect()
    }

    /// Reports completions of slots to the machine.
    pub(super) fn flush(&mut self, rank: usize, events: &mut VecDeque<worker::WorkerEvent>) {
        events.extend(self.pools[rank].outbox.drain(..));
    }

    pub(super) fn push(&mut self, rank: usize, urgency: u8, item: Item) {
        assert!(self.pools[rank].slots > 0, "rank {rank} has no slots");
        self.sequence += 1;
        self.pools[rank].shares.note_change();
        self.pools[rank].ready.insert((Reverse(urgency), self.sequence, item));
    }

    /// Running tasks end now, as CANCELLED (an attempt of duration zero marks them).
    pub(super) fn interrupt(&mut self, rank: usize) {
        let all: Vec<_> = self.ends.drain().collect();
        for Reverse((at, r, item, started)) in all {
            let (at, started) = if r as usize == rank { (self.now, u64::MAX) } else { (at, started) };
            self.ends.push(Reverse((at, r, item, started)));
        }
    }

    /// An operation ends that this rank leads, as another rank of it is gone: an attempt that has
    /// the duration of the end of time marks that.
    fn end_broken(&mut self, rank: usize, gang: u32) {
        let Some(Some(lease)) = self.pools[rank].held.get(&gang).map(|held| held.1) else { return };
        let all: Vec<_> = self.ends.drain().collect();
        for Reverse((at, r, item, started)) in all {
            let is_it = r as usize == rank && item.0 == lease.task.0 && started != u64::MAX;
            let (at, started) = if is_it { (self.now, BROKEN) } else { (at, started) };
            self.ends.push(Reverse((at, r, item, started)));
        }
    }

    /// Slots of a rank for an operation.
    fn share_of(&self, gang: u32, rank: usize) -> u32 {
        let lease = self.pools.iter().filter_map(|pool| pool.held.get(&gang)?.1).next();
        let shape = lease.map(|lease| &self.job.gangs[&lease.task.0]);
        let Some(&Shape::Everywhere { cpus }) = shape else { panic!("{gang} is no operation: {shape:?}") };
        self.pools[rank].slots.min(cpus)
    }

    pub(super) fn launch(
        &mut self,
        rank: usize,
        gang: u32,
        (hosts, ranks): (&[GangNode], &[Rank]),
        events: &mut VecDeque<worker::WorkerEvent>,
    ) {
        let held: u32 = self.pools.iter().filter_map(|p| p.held.get(&gang)).map(|h| h.0).sum();
        // A rank that has been given up may still receive what was sent before, when the others
        // have been released already.
        if self.life[rank] != Life::DeclaredLost {
            let asked = match ranks {
                [] => hosts.iter().map(|host| host.mpi_ranks).sum::<u32>(),
                ranks => ranks.iter().map(|r| self.share_of(gang, r.index())).sum(),
            };
            assert_eq!(held, asked, "all slots are held");
        }
        let lease = self.pools[rank].held[&gang].1.expect("the leader has the task");
        let labels = self.job.gang_labels(lease.task.0);
        let hosts = self.pools.iter().filter(|pool| pool.held.contains_key(&gang));
        assert!(hosts.into_iter().all(|pool| has_labels(&labels_of_slots(pool.slots), &labels)), "{gang}: {labels:?}");
        let item = (lease.task.0, lease.home.0, lease.attempt, lease.ready.0, lease.short);
        self.begin(rank, item, events);
    }

    pub(super) fn begin(&mut self, rank: usize, item: Item, events: &mut VecDeque<worker::WorkerEvent>) {
        let (task, attempt) = (TaskId(item.0), item.2);
        if self.trace {
            eprintln!("{:>9} rank {rank} begins {item:?}", self.now);
        }
        assert!(!self.is_cut_off(rank), "rank {rank} does not hear rank 0 and starts {task:?}");
        if self.life[rank] == Life::Alive {
            assert_eq!(self.coordinator.final_state(task), None, "{task:?} is known to have ended and starts again");
            assert!(!self.journalled.contains(&(task, attempt)), "{task:?}, attempt {attempt}, is known to have ended");
            let slots = self.pools[rank].slots;
            assert!(self.job.gangs.contains_key(&task.0) || self.job.needs[task.index()] <= slots);
            assert!(has_labels(&labels_of_slots(slots), &self.job.gang_labels(task.0)), "{task:?} on rank {rank}");
        }
        self.check_shortfalls(task, attempt, item.4);
        assert!(self.life[rank] != Life::Alive || !is_among(task, &self.pools[rank].paused), "{task:?} is paused");
        let in_gang = self.pools[rank].held.values().any(|held| held.1.is_some_and(|lead| lead.task == task));
        self.check_use(rank, task.0, in_gang);
        let is_sick = self.sick.contains(&rank);
        let took = if is_sick { FAILS_WITHIN_NS } else { self.job.duration[task.index()] };
        self.ends.push(Reverse((self.now + took, rank as u32, item, self.now)));
        self.pools[rank].running += 1;
        if self.rng.bool() {
            events.push_back(worker::WorkerEvent::Started(vec![Started { task, attempt, start: Time(self.now) }]));
        }
    }

    /// Starts what fits, then reports the load to the worker.
    pub(super) fn fill(&mut self, rank: usize, events: &mut VecDeque<worker::WorkerEvent>) {
        while let Some(&(gang, slots, lead)) = self.pools[rank].holds.front() {
            if self.pools[rank].idle < slots || self.pools[rank].stopped || self.pools[rank].suspended {
                break;
            }
            let pool = &mut self.pools[rank];
            pool.holds.pop_front();
            pool.idle -= slots;
            pool.held.insert(gang, (slots, lead));
            events.push_back(worker::WorkerEvent::Held { gang, aside: SetAside::default() });
        }
        let starts = |pool: &Pool| !pool.stopped && !pool.suspended;
        while starts(&self.pools[rank]) && self.pools[rank].idle > 0 && self.pools[rank].holds.is_empty() {
            let Some((_, _, item)) = self.take_next(rank) else { break };
            self.pools[rank].idle -= 1;
            self.begin(rank, item, events);
        }
        self.report_pools(rank, events);
        // While other tasks run, an outbox may be flushed with a later completion.
        if self.pools[rank].running == 0 || self.rng.bool() {
            self.flush(rank, events);
        }
        let job = &self.job;
        let pool = &self.pools[rank];
        let movable = pool.ready.iter().filter(|r| may_leave(job, &r.2)).count() as u32;
        // Slots that are set aside are busy, as in the real pool.
        let held: u32 = pool.held.values().map(|h| h.0).sum();
        let waits = pool.ready.len() as u32 - movable;
        let load =
            Load { idle: pool.idle, ready: movable, busy: pool.running + held, running: pool.running, held: waits };
        let quiet = pool.stopped && load.busy == 0;
        events.push_back(worker::WorkerEvent::Load(load));
        if quiet {
            events.push_back(worker::WorkerEvent::Quiet);
        }
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.workers[rank].step(Time(self.now), event, &mut actions);
            for action in actions {
                self.act(rank, action, events);
            }
        }
    }

    fn unpaused(&self, rank: usize) -> impl Iterator<Item = &(Reverse<u8>, u64, Item)> {
        let pool = &self.pools[rank];
        pool.ready.iter().filter(|ready| !is_among(TaskId(ready.2.0), &pool.paused))
    }

    fn set_of(&self, item: &Item) -> SetId {
        self.job.pools.set_of(TaskId(item.0))
    }

    /// Takes the first task that has the units it needs; those before it keep theirs.
    fn take_next(&mut self, rank: usize) -> Option<(Reverse<u8>, u64, Item)> {
        let pool = &self.pools[rank];
        let mut reserved = Reserved::default();
        let next = pool.ready.iter().filter(|r| !is_among(TaskId(r.2.0), &pool.paused)).find(|ready| {
            let set = self.set_of(&ready.2);
            let fits = pool.shares.fits(set, &reserved);
            if !fits {
                pool.shares.reserve(set, 1, &mut reserved);
            }
            fits
        });
        let next = *next?;
        let set = self.set_of(&next.2);
        let pool = &mut self.pools[rank];
        pool.ready.remove(&next);
        pool.shares.start(set);
        Some(next)
    }

    /// As `AdmissionQueue::pool_report` does, task by task.
    fn report_pools(&mut self, rank: usize, events: &mut VecDeque<worker::WorkerEvent>) {
        let pool = &self.pools[rank];
        let starts = !pool.stopped && !pool.suspended && pool.holds.is_empty();
        let idle = if starts { pool.idle } else { 0 };
        let (ahead, slots) = if idle == 0 { (true, pool.slots) } else { (false, idle) };
        let waiting: Vec<(u8, SetId)> =
            self.unpaused(rank).map(|r| (r.0.0, self.set_of(&r.2))).filter(|waits| waits.1 != 0).collect();
        if self.job.pools.is_empty() || !(pool.shares.is_changed() || idle != pool.reported_idle) {
            return;
        }
        let mut reserved = Reserved::default();
        let mut claims: Vec<PoolClaim> = Vec::new();
        for &(level, set) in waiting.iter().take(slots as usize).filter(|_| starts) {
            let Some(kept) = pool.shares.reserve(set, 1, &mut reserved) else { continue };
            if !claims.iter().any(|claim| claim.set == set) {
                claims.push(PoolClaim { set, tasks: 1, level, ahead, kept });
            }
        }
        let pool = &mut self.pools[rank];
        pool.reported_idle = idle;
        let report: PoolReport = pool.shares.report(claims, waiting.into_iter().map(|(_, set)| (set, 1)));
        events.push_back(worker::WorkerEvent::Pools(report));
    }

    /// An attempt knows of all earlier ones that rank 0 knows to have fallen short, and of no
    /// others than those that ran.
    fn check_shortfalls(&self, task: TaskId, attempt: u16, short: Shortfalls) {
        let known = |a: &&Attempt| a.outcome.state == State::OutOfMemory && a.task == task && a.attempt < attempt;
        let least = self.journal.iter().filter(known).count();
        let ran = |run: &&Execution| !run.ok && run.task == task && run.attempt < attempt;
        let most = self.executed.iter().filter(ran).count();
        assert!((least..=most).contains(&short.memory.into()), "{task:?}, attempt {attempt}: {short:?} {least} {most}");
    }

    pub(super) fn end_task(&mut self) {
        let Some(Reverse((_, rank, (task, home, attempt, ready, short), started))) = self.ends.pop() else { return };
        let (task, home, rank) = (TaskId(task), Rank(home), rank as usize);
        self.known.remove(&(Rank(rank as u32), task, attempt));
        let interrupted = started >= BROKEN;
        let lost = |a: &&Attempt| a.task == task && a.outcome.state == State::NodeFail && a.attempt < attempt;
        let signalled = self.signalled.iter().filter(|end| end.0 == task && end.1 < attempt).count();
        let before =
            self.journal.iter().filter(lost).filter(|a| !self.signalled.contains(&(a.task, a.attempt))).count();
        let before = (signalled + before) as u16;
        let outcome = match interrupted || self.pools[rank].cancelled.contains(&task.0) {
            true if started == BROKEN => Outcome { state: State::NodeFail, exit: 0, cached: false },
            true => Outcome { state: State::Cancelled, exit: -15, cached: false },
            false if self.signals && self.rng.u32(0..50) == 0 => {
                Outcome { state: State::NodeFail, exit: -15, cached: false }
            }
            false if self.sick.contains(&rank) => Outcome { state: State::Failed, exit: 1, cached: false },
            false => self.job.outcome(task, attempt - before),
        };
        if outcome.ok() {
            let answered = self.answered(Rank(rank as u32)).filter(|&at| at > self.now);
            if let Some(at) = answered.filter(|_| self.growing.is_some()) {
                // The answer of rank 0 comes no sooner.
                let item = (task.0, home.0, attempt, ready, short);
                return self.ends.push(Reverse((at, rank as u32, item, started)));
            }
            if !self.offers(Rank(rank as u32), task, attempt) {
                return;
            }
        }
        // The report may be lost: then the next attempt has the same number.
        match outcome.state {
            State::NodeFail => {
                self.shared[1] += u32::from(started == BROKEN);
                self.signalled.insert((task, attempt));
            }
            _ => {
                self.signalled.remove(&(task, attempt));
            }
        }
        let start = if interrupted { self.now } else { started };
        if !interrupted {
            self.executed.push(Execution { task, attempt, ok: outcome.ok(), rank, start, end: self.now });
        }
        let pool = &mut self.pools[rank];
        pool.running -= 1;
        let gang = pool.held.iter().find(|h| h.1.1.is_some_and(|l| l.task == task)).map(|h| *h.0);
        match gang {
            Some(_) => drop(self.gang_units.remove(&task.0)),
            None => pool.shares.end(self.job.pools.set_of(task)),
        }
        pool.idle += gang.and_then(|gang| pool.held.remove(&gang)).map_or(1, |(slots, _)| slots);
        let record = Attempt {
            task,
            attempt,
            outcome,
            last: outcome.ok(),
            rank: Rank(rank as u32),
            slot: 0,
            ready: Time(ready),
            start: Time(start),
            end: Time(self.now),
        };
        if let Some(gang) = gang {
            return self.leave(rank, worker::WorkerEvent::GangEnded { gang, attempt: record });
        }
        let fast = outcome.ok() && attempt == 1 && home.index() == rank && !self.pools[rank].frozen;
        let ledger = self.workers[rank].ledger().expect("open").clone();
        match ledger.local(task).filter(|_| fast) {
            Some(local) => self.complete_fast(rank, &ledger, local, record),
            None => self.leave(rank, worker::WorkerEvent::Ended { attempt: record }),
        }
    }

    /// Posts a slot's completion to the machine, which processes it now or later.
    pub(super) fn leave(&mut self, rank: usize, word: worker::WorkerEvent) {
        let is_failure = matches!(&word, worker::WorkerEvent::Ended { attempt } | worker::WorkerEvent::GangEnded { attempt, .. } if attempt.outcome.state.is_failure());
        self.pools[rank].outbox.push(word);
        let mut events = VecDeque::new();
        if is_failure && self.job.max_failures.is_some() {
            // A slot starts nothing else before the worker has received a failure that counts.
            self.flush(rank, &mut events);
            while let Some(event) = events.pop_front() {
                let mut actions = Vec::new();
                self.workers[rank].step(Time(self.now), event, &mut actions);
                actions.into_iter().for_each(|action| self.act(rank, action, &mut events));
            }
        }
        self.fill(rank, &mut events);
    }

    /// What a pool thread does by itself: count, start what became ready, leave the rest to the
    /// machine.
    pub(super) fn complete_fast(&mut self, rank: usize, ledger: &DependencyCounts, local: u32, attempt: Attempt) {
        let mut effects = CompletionEffects::default();
        assert!(ledger.complete(local, true, Time(self.now), &mut effects), "counted once");
        assert!(!ledger.complete(local, true, Time(self.now), &mut CompletionEffects::default()), "and not again");
        let ready = std::mem::take(&mut effects.ready);
        self.pools[rank].outbox.push(worker::WorkerEvent::Completed { attempts: vec![attempt], effects });
        self.leave(rank, worker::WorkerEvent::Special(ready));
    }
}

fn lease_of(urgency: u8, &(task, home, attempt, ready, short): &Item) -> Lease {
    Lease { task: TaskId(task), home: Rank(home), attempt, urgency, ready: Time(ready), short }
}

/// True for a task that another rank may take.
fn may_leave(job: &Job, item: &Item) -> bool {
    let needs = (!job.movable[item.0 as usize]).then_some(Needs::SLOT);
    lease_of(0, item).needs(&job.retry(TaskId(item.0)), needs).is_none()
}
