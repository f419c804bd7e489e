//! The state of the pools as users see it.

use std::cmp::Reverse;
use std::time::Duration;

use super::dealer::{PoolDealer, lacks};
use super::stock::{Holder, PoolState, Stock};
use super::{PoolClaim, ResourceId, UNLIMITED};
use crate::model::Time;

impl PoolDealer {
    /// The state of each resource.
    pub fn states(&self, now: Time) -> Vec<PoolState> {
        let mut waiting = vec![0u32; self.stocks.len()];
        for line in self.line.values() {
            for resource in self.short(&line.claim) {
                waiting[resource as usize] = waiting[resource as usize].saturating_add(line.claim.tasks);
            }
        }
        let state = |(resource, stock): (ResourceId, &Stock)| {
            let mut holders: Vec<(Holder, u32)> =
                stock.grants.iter().map(|(&holder, grant)| (holder, grant.used)).filter(|held| held.1 > 0).collect();
            holders.sort_by_key(|held| (Reverse(held.1), held.0));
            let mut counters = stock.counters;
            counters.at_limit += stock.at_limit.map_or(Duration::ZERO, |since| now.since(since));
            PoolState {
                resource,
                capacity: Some(stock.capacity).filter(|&units| units != UNLIMITED && stock.budget.is_none()),
                used: holders.iter().map(|held| held.1).sum(),
                holders,
                waiting: waiting[resource as usize],
                counters,
            }
        };
        (0..).zip(&self.stocks).map(state).collect()
    }

    /// The resources of which fewer units are left than a task of a claim lacks.
    fn short<'a>(&'a self, claim: &'a PoolClaim) -> impl Iterator<Item = ResourceId> + 'a {
        let left = |stock: &Stock| match stock.budget {
            Some(_) => 0,
            None => u64::from(stock.capacity).saturating_sub(stock.dealt),
        };
        let is_short = move |lack: &(ResourceId, u32)| u64::from(lack.1) > left(&self.stocks[lack.0 as usize]);
        lacks(&self.table, claim, 1).filter(is_short).map(|lack| lack.0)
    }

    /// Notes which resources tasks wait for.
    pub(super) fn account(&mut self, now: Time) {
        let mut waited = vec![false; self.stocks.len()];
        for waiting in self.line.values().filter(|waiting| !waiting.claim.ahead) {
            self.short(&waiting.claim).for_each(|resource| waited[resource as usize] = true);
        }
        for (stock, waited) in self.stocks.iter_mut().zip(waited) {
            match (stock.at_limit, waited) {
                (None, true) => stock.at_limit = Some(now),
                (Some(since), false) => {
                    stock.counters.at_limit += now.since(since);
                    stock.at_limit = None;
                }
                _ => {}
            }
        }
    }
}
