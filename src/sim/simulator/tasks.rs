//! The life of a task on a rank: it becomes ready, starts when it has its resources, and ends as
//! drawn.
//!
//! Completions that slots of a real run count by themselves (`runtime/rank/executor.rs`) are
//! counted in the same way here.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{On, RunningAttempt, SimulatedEvent, Simulator};
use crate::model::{Attempt, Outcome, Rank, SetAside, State};
use crate::schedule::dependency_counts::{CompletionEffects, DependencyCounts};
use crate::schedule::long_tasks::found_at;
use crate::schedule::protocol::{Lease, Started};
use crate::schedule::resources::Needs;
use crate::schedule::worker;
use crate::sim::pool::Begin;
use crate::workload::fair::family;
use crate::workload::{PreparedJob, requirements};

impl Simulator<'_> {
    /// A task at home became ready.
    pub(super) fn start(&mut self, rank: u32, local: u32) {
        let Some(ledger) = &self.ranks[rank as usize].ledger else { return };
        let lease = Lease::at_home(ledger, local, Rank(rank));
        let needs = if ledger.is_special(local) { self.needs(rank, &lease) } else { None };
        self.push(rank, lease, needs);
    }

    pub(super) fn push(&mut self, rank: u32, lease: Lease, needs: Option<Needs>) {
        if let Some(controller) = &mut self.controller {
            controller.task_ready(lease.task);
        }
        self.ranks[rank as usize].pool.push(lease, needs);
    }

    pub(super) fn needs(&self, rank: u32, lease: &Lease) -> Option<Needs> {
        let PreparedJob { job, pools, fair, .. } = self.prepared;
        let Lease { task, short, .. } = *lease;
        requirements::needs(job, (task, short), self.memory_of(rank), pools.set_of(task), family(job, fair, task))
    }

    /// Bytes of memory of a rank's node.
    pub(super) fn memory_of(&self, rank: u32) -> u64 {
        self.cluster.nodes[self.provider.node(rank).kind.0 as usize].memory
    }

    pub(super) fn begin(&mut self, rank: u32, lease: Lease, on: On) {
        let slowness = self.provider.node(rank).slowness;
        let limits = self.prepared.job.group(lease.task).limits(lease.short, self.memory_of(rank));
        let fate = self.fates.of(self.prepared, (lease.task, lease.attempt), limits, slowness);
        let is_alone = matches!(on, On::Slots(_));
        let running = RunningAttempt { ends: 0, rank, lease, outcome: fate.outcome, start: self.now, on, staged: None };
        let number = self.running.insert(running);
        if !is_alone || !self.stage_in(number, fate.took) {
            self.running[number].ends =
                self.events_due.schedule(self.now.after(fate.took), SimulatedEvent::Ends(number as u32));
        }
        // Which tasks run where matters only to scaling decisions.
        let Some(controller) = &mut self.controller else { return };
        controller.task_waited(self.now.since(lease.ready));
        let (_, told) = found_at(self.now);
        if told < self.now.after(fate.took) {
            self.events_due.schedule(told, SimulatedEvent::Found(number as u32));
        }
    }

    /// The second sample of a slot: reports the task if it is still the one that the first sample
    /// found.
    pub(super) fn found(&mut self, number: u32) {
        let Some(running) = self.running.get(number as usize) else { return };
        let (rank, lease, (first, second)) = (running.rank, running.lease, found_at(running.start));
        if second == self.now {
            let started = Started { task: lease.task, attempt: lease.attempt, start: first };
            self.events += 1;
            self.step(rank, worker::WorkerEvent::Started(vec![started]));
        }
    }

    /// Starts what can start, then reports the load to the worker, unless it was just `told`; or
    /// reports that the rank is quiet.
    pub(super) fn fill(&mut self, rank: u32, told: bool, queue: &mut VecDeque<worker::WorkerEvent>) {
        while let Some(begin) = self.ranks[rank as usize].pool.begin() {
            match begin {
                Begin::Task(lease, grant) => self.begin(rank, lease, On::Slots(grant)),
                Begin::Held { gang } => {
                    queue.push_back(worker::WorkerEvent::Held { gang, aside: SetAside::default() });
                }
            }
        }
        let simulated = &mut self.ranks[rank as usize];
        if let Some(report) = simulated.pool.pool_report() {
            queue.push_back(worker::WorkerEvent::Pools(report));
        }
        let load = simulated.pool.load();
        if simulated.worker.load() != load {
            queue.push_back(worker::WorkerEvent::Load(load));
        } else if !told && simulated.worker.is_stopping() && simulated.pool.is_quiet() {
            queue.push_back(worker::WorkerEvent::Quiet);
        }
        let offered = simulated.worker.offered(load);
        self.count_surplus(rank, offered);
    }

    pub(super) fn end(&mut self, number: u32, entry: u64) {
        if self.running.get(number as usize).is_none_or(|running| running.ends != entry) {
            return;
        }
        if self.stage_out(number) {
            return;
        }
        let Some(ended) = self.running.try_remove(number as usize) else { return };
        let RunningAttempt { rank, lease, outcome, start, on, staged, .. } = ended;
        self.events += 1;
        if let (Some(staging), Some(id)) = (&mut self.staging, staged) {
            self.log.staged(lease.task, lease.attempt, &staging.end(id));
        }
        let slot = match &on {
            On::Slots(grant) => grant.slots[0],
            On::Gang { slot, .. } => *slot,
        };
        let busy = self.now.since(start) * requirements::slots(self.prepared.job.group(lease.task));
        self.busy += busy;
        let limits = self.prepared.job.group(lease.task).limits(lease.short, self.memory_of(rank));
        if let (Some(asked), Some(peak)) = (limits.memory, self.fates.peak(self.prepared, lease.task)) {
            self.memory.count((asked, peak), self.now.since(start), outcome.state);
        }
        self.away += u64::from(lease.home != Rank(rank));
        let simulated = &mut self.ranks[rank as usize];
        simulated.busy += busy;
        simulated.failures += u32::from(outcome.state.is_failure());
        let attempt = lease.ended(outcome, Rank(rank), slot, start, self.now);
        if let Some(controller) = &mut self.controller {
            controller.task_stopped(lease.task);
        }
        match on {
            On::Slots(grant) => simulated.pool.finish(grant, self.now.since(start)),
            On::Gang { gang, .. } => {
                simulated.pool.release(gang);
                return self.step(rank, worker::WorkerEvent::GangEnded { gang, attempt });
            }
        }
        match self.counted_by_slots(rank, &lease, outcome) {
            Some((ledger, local)) => self.complete(rank, &ledger, local, attempt),
            None => self.step(rank, worker::WorkerEvent::Ended { attempt }),
        }
    }

    /// The ledger, and the local number, of a completed first attempt at a task at home: slots
    /// count those by themselves.
    pub(super) fn counted_by_slots(
        &self,
        rank: u32,
        lease: &Lease,
        outcome: Outcome,
    ) -> Option<(Arc<DependencyCounts>, u32)> {
        let simulated = &self.ranks[rank as usize];
        let fast = outcome.ok() && lease.attempt == 1 && lease.home == Rank(rank) && !simulated.frozen;
        let ledger = simulated.ledger.clone().filter(|_| fast)?;
        let local = ledger.local(lease.task)?;
        Some((ledger, local))
    }

    /// What a slot does by itself after a task.
    pub(super) fn complete(&mut self, rank: u32, ledger: &DependencyCounts, local: u32, attempt: Attempt) {
        let mut effects = CompletionEffects::default();
        if !ledger.complete(local, true, self.now, &mut effects) {
            return self.step(rank, worker::WorkerEvent::Ended { attempt });
        }
        let is_special = |&local: &u32| ledger.is_special(local);
        let (special, plain): (Vec<u32>, Vec<u32>) = effects.ready.drain(..).partition(is_special);
        plain.into_iter().for_each(|local| self.start(rank, local));
        if !special.is_empty() {
            self.queue.push_back(worker::WorkerEvent::Special(special));
        }
        self.step(rank, worker::WorkerEvent::Completed { attempts: vec![attempt], effects });
    }

    /// Ends everything that runs on a rank, without its drawn outcome.
    pub(super) fn interrupt(&mut self, rank: u32) {
        let outcome = Outcome { state: State::Cancelled, exit: -libc::SIGTERM, cached: false };
        self.running_on(rank).into_iter().for_each(|number| self.end_now(number, outcome));
    }

    /// Ends the operation of a gang that is led from this rank, as another rank of it is gone.
    pub(super) fn end_broken(&mut self, rank: u32, gang: u32) {
        let is_it = |&number: &usize| matches!(self.running[number].on, On::Gang { gang: of, .. } if of == gang);
        if let Some(number) = self.running_on(rank).into_iter().find(is_it) {
            self.end_now(number, Outcome { state: State::NodeFail, exit: 0, cached: false });
        }
    }

    fn end_now(&mut self, number: usize, outcome: Outcome) {
        let ends = self.events_due.schedule(self.now, SimulatedEvent::Ends(number as u32));
        if let Some(running) = self.running.get_mut(number) {
            (running.outcome, running.ends) = (outcome, ends);
        }
    }

    pub(super) fn running_on(&self, rank: u32) -> Vec<usize> {
        self.running.iter().filter(|(_, running)| running.rank == rank).map(|(number, _)| number).collect()
    }
}
