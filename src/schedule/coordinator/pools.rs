//! What may start: units of pools are dealt to ranks and to MPI tasks on several ranks, and tasks
//! are paused and resumed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Coordinator, CoordinatorAction};
use crate::model::{Rank, TaskId, Time};
use crate::schedule::part::SPECIAL;
use crate::schedule::pools::dealer::{PoolDealer, PoolState};
use crate::schedule::pools::{PoolClaim, PoolOrders, ResourceId, SetId};
use crate::schedule::protocol::{Lease, Message, add_range, is_among, remove_range};

impl Coordinator {
    /// The pools.
    pub fn pools(&self) -> &PoolDealer {
        &self.pools
    }

    /// Sets the capacity of a resource before the run begins.
    pub fn keep_limit(&mut self, resource: ResourceId, units: u32) {
        self.pools.set_capacity(resource, units);
    }

    /// The first units of each rank, before the run begins: for tasks at home there, ready or not,
    /// as many as it has slots, so that none of them waits for a message. Starts of a rate are not
    /// dealt ahead, since they would lapse.
    pub fn first_units(&mut self) -> BTreeMap<Rank, PoolOrders> {
        let table = Arc::clone(self.pools.table());
        let is_dealt = |set: SetId| table.set(set).iter().all(|&(resource, _)| !table.is_rate(resource));
        let mut claims: BTreeMap<Rank, Vec<PoolClaim>> = BTreeMap::new();
        for &(from, to, set) in table.groups().iter().filter(|group| is_dealt(group.2)) {
            for task in (from as usize..to as usize).filter(|&task| self.finals[task].is_none()) {
                let rank = Rank(self.tasks.home[task]);
                let slots = self.members.member(rank).map_or(0, |member| member.slots);
                let level = self.tasks.urgency[task] & !SPECIAL;
                let claims = claims.entry(rank).or_default();
                // Tasks of one set mostly follow one another.
                match claims.iter_mut().rev().find(|claim| claim.set == set) {
                    Some(claim) => {
                        claim.level = claim.level.max(level);
                        claim.tasks = (claim.tasks + 1).min(slots.max(1));
                    }
                    None => {
                        let kept = vec![0; table.set(set).len()];
                        claims.push(PoolClaim { set, tasks: 1, level, ahead: false, kept });
                    }
                }
            }
        }
        self.pools.deal_first(claims)
    }

    /// The state of each resource of the pools.
    pub fn pool_states(&self, now: Time) -> Vec<PoolState> {
        self.pools.states(now)
    }

    /// Deals units after every event. A run that stops starts nothing more.
    pub(super) fn deal_pools(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if self.stopping.is_some() || self.finished || self.pools.table().is_empty() {
            return;
        }
        let dealt = self.pools.deal(now);
        let send = |(to, orders)| CoordinatorAction::Send { to, message: Message::PoolOrders(orders) };
        actions.extend(dealt.orders.into_iter().map(send));
        for lease in dealt.gangs {
            self.gangs.ready(lease, actions);
        }
    }

    /// An MPI task on several ranks is ready: it waits for its units first.
    pub(super) fn gang_ready(&mut self, lease: Lease, actions: &mut Vec<CoordinatorAction>) {
        if self.gangs.is_paused() {
            return;
        }
        if self.is_paused(lease.task) {
            return self.paused_gangs.push(lease);
        }
        if !self.pools.gang_ready(lease) {
            self.gangs.ready(lease, actions);
        }
    }

    /// True if a task is paused.
    pub fn is_paused(&self, task: TaskId) -> bool {
        is_among(task, &self.paused)
    }

    /// The paused tasks, as ranges (from, to).
    pub fn paused(&self) -> &[(u32, u32)] {
        &self.paused
    }

    /// Pauses tasks or resumes them. All ranks are sent the list, since any of them may have the
    /// tasks; ranks that join later get it with their part.
    pub(super) fn pause(&mut self, tasks: &[Range<u32>], paused: bool, actions: &mut Vec<CoordinatorAction>) {
        if self.finished {
            return;
        }
        for tasks in tasks {
            match paused {
                true => add_range(&mut self.paused, (tasks.start, tasks.end)),
                false => remove_range(&mut self.paused, (tasks.start, tasks.end)),
            }
        }
        self.broadcast(Message::Paused { tasks: self.paused.clone() }, actions);
        // Those whose slots are not set aside yet wait again.
        let gangs = &self.gangs;
        let mut waiting =
            self.pools.withdraw_gangs(|task, attempt| is_among(task, &self.paused) && !gangs.is_running(task, attempt));
        waiting.extend(self.gangs.take_back(|task| is_among(task, &self.paused), actions));
        waiting.append(&mut self.paused_gangs);
        for lease in waiting {
            self.gang_ready(lease, actions);
        }
    }

    /// Frees the units of MPI tasks that do not run: their homes report them again after the
    /// change.
    pub(super) fn abandon_gangs(&mut self, actions: &mut Vec<CoordinatorAction>) {
        self.gangs.abandon(actions);
        self.paused_gangs.clear();
        let gangs = &self.gangs;
        self.pools.withdraw_gangs(|task, attempt| !gangs.is_running(task, attempt));
    }
}
