//! Which ranks give units back, and how many.
//!
//! In each deal, the first claim in line for a resource may find fewer units free than it needs.
//! What is missing is asked of the other holders: at once what is idle with them and not kept for
//! an older claim. Of what they use and what they are about to start on, they are asked, a quantum
//! after it was granted:
//!
//! | what else waits for units at the holder | it owes |
//! |---|---|
//! | only less urgent tasks | all that it has |
//! | a more urgent task | nothing: what it gave back would go to that first |
//! | nothing more, or equally urgent tasks | if the claimant has less than its share, what the holder has above an even share; if there are fewer units than ranks that want them, all that it has, so that they go round |
//!
//! Several holders may owe the same unit: the first that has one idle gives it back, and the others
//! are released from their debt.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::stock::{Grant, Holder, QUANTUM, Stock};
use super::{ResourceId, UNLIMITED};
use crate::model::Time;

/// The first claim in line for a resource.
#[derive(Clone, Copy, Debug)]
struct Ask {
    holder: Holder,
    /// Units that it lacks.
    short: u32,
    /// Units that one of its tasks needs.
    amount: u32,
    /// An even share of the capacity, at least 1.
    fair: u32,
    /// Urgency of its tasks.
    level: u8,
}

/// What is asked in one deal.
#[derive(Debug)]
pub(super) struct Recall {
    asks: Vec<Option<Ask>>,
    /// Units that holders keep for claims ahead of the one that asks.
    kept: Vec<BTreeMap<Holder, u32>>,
    /// Urgency of the most urgent claim of each holder.
    wanted: Vec<BTreeMap<Holder, u8>>,
}

/// The debts of a resource.
#[derive(Debug, Default)]
pub(super) struct Debts {
    /// Units that each holder owes.
    pub(super) owed: BTreeMap<Holder, u32>,
    /// When to ask again.
    pub(super) again: Option<Time>,
}

impl Recall {
    pub(super) fn new(resources: usize) -> Recall {
        let (kept, wanted) = (vec![BTreeMap::new(); resources], vec![BTreeMap::new(); resources]);
        Recall { asks: vec![None; resources], kept, wanted }
    }

    /// Notes that a holder claims units for tasks of this urgency.
    pub(super) fn want(&mut self, resource: ResourceId, holder: Holder, level: u8) {
        let wanted = self.wanted[resource as usize].entry(holder).or_default();
        *wanted = level.max(*wanted);
    }

    /// Asks for units for the first claim in line.
    pub(super) fn ask(
        &mut self,
        resource: ResourceId,
        (holder, level): (Holder, u8),
        (short, amount, fair): (u32, u32, u32),
    ) {
        self.asks[resource as usize].get_or_insert(Ask { holder, short, amount, fair, level });
    }

    /// Notes that a holder keeps idle units for a claim; without effect once somebody ahead asks.
    pub(super) fn keep(&mut self, resource: ResourceId, holder: Holder, units: u32) {
        if self.asks[resource as usize].is_none_or(|ask| ask.holder == holder) {
            *self.kept[resource as usize].entry(holder).or_insert(0) += units;
        }
    }

    /// What each holder of a resource owes.
    pub(super) fn debts(
        &self,
        now: Time,
        resource: ResourceId,
        stock: &Stock,
        is_current: &dyn Fn(Holder) -> bool,
    ) -> Debts {
        let mut debts = Debts::default();
        if stock.budget.is_some() {
            return debts;
        }
        let above = match stock.capacity {
            UNLIMITED => 0,
            capacity => stock.dealt.saturating_sub(capacity.into()).min(u32::MAX.into()) as u32,
        };
        let ask = self.asks[resource as usize];
        let others = || {
            let bound = |(_, grant): &(&Holder, &Grant)| grant.until.is_none();
            stock.grants.iter().filter(bound).map(|(holder, grant)| (*holder, grant))
        };
        let needy =
            ask.filter(|ask| stock.grants.get(&ask.holder).map_or(0, |grant| grant.units) < ask.amount.max(ask.fair));
        let spread = needy.is_some_and(|ask| {
            let rich = others().filter(|other| other.0 != ask.holder);
            rich.map(|(_, grant)| u64::from(grant.units.saturating_sub(ask.fair))).sum::<u64>() >= ask.short.into()
        });
        for (holder, grant) in others() {
            let mut owed = above;
            if let Some(ask) = ask.filter(|ask| ask.holder != holder) {
                let kept = self.kept[resource as usize].get(&holder).copied().unwrap_or(0);
                let idle = if is_current(holder) { (grant.units - grant.used).saturating_sub(kept) } else { 0 };
                let wanted =
                    self.wanted[resource as usize].get(&holder).map_or(Ordering::Equal, |own| own.cmp(&ask.level));
                let over = match (wanted, needy) {
                    (Ordering::Less, _) => grant.units,
                    (Ordering::Greater, _) | (_, None) => 0,
                    (_, Some(_)) if spread => grant.units.saturating_sub(ask.fair),
                    (_, Some(_)) => grant.units,
                };
                let is_due = grant.since.after(QUANTUM) <= now;
                if over > 0 && !is_due {
                    let ends = grant.since.after(QUANTUM);
                    debts.again = Some(debts.again.map_or(ends, |again| again.min(ends)));
                }
                let over = if is_due { over } else { 0 };
                owed = owed.max(idle.max(over).min(ask.short));
            }
            if owed > 0 {
                debts.owed.insert(holder, owed.min(grant.units));
            }
        }
        debts
    }
}
