//! What can be dealt at one moment, and what is spoken for.

use std::collections::BTreeMap;

use super::dealer::{PoolDealer, Ticket, lacks};
use super::recall::Recall;
use super::stock::{Holder, Stock};
use super::{SetId, UNLIMITED};
use crate::model::Time;

/// What lies on the table during one deal.
pub(super) struct Table {
    /// Units that can be dealt; negative where more is leased than the capacity.
    pub(super) free: Vec<i64>,
    /// An even share of the capacity among those that use or want the resource, at least 1.
    pub(super) fair: Vec<u32>,
    /// Resources for which a claim ahead waits.
    pub(super) contended: Vec<bool>,
    /// Claims that were served and can use more: holder, set, tasks.
    pub(super) served: BTreeMap<Ticket, (Holder, SetId, u32)>,
    pub(super) recall: Recall,
}

impl Table {
    pub(super) fn new(dealer: &PoolDealer, now: Time) -> Table {
        let free = |stock: &Stock| match &stock.budget {
            Some(budget) => budget.available(now) as i64,
            None if stock.capacity == UNLIMITED => i64::MAX / 2,
            None => i64::from(stock.capacity) - stock.dealt as i64,
        };
        let mut demand: Vec<Vec<Holder>> = dealer
            .stocks
            .iter()
            .map(|stock| stock.grants.iter().filter(|(_, grant)| grant.used > 0).map(|(&holder, _)| holder).collect())
            .collect();
        for waiting in dealer.line.values().filter(|waiting| !waiting.claim.ahead) {
            for need in dealer.table.set(waiting.claim.set) {
                demand[need.0 as usize].push(waiting.holder);
            }
        }
        let free: Vec<i64> = dealer.stocks.iter().map(free).collect();
        let mut recall = Recall::new(dealer.stocks.len());
        for waiting in dealer.line.values() {
            let short =
                || lacks(&dealer.table, &waiting.claim, 1).filter(|lack| i64::from(lack.1) > free[lack.0 as usize]);
            for need in dealer.table.set(waiting.claim.set) {
                // What is given back helps no claim that lacks something else too.
                if short().all(|lack| lack.0 == need.0) {
                    recall.want(need.0, waiting.holder, waiting.claim.level);
                }
            }
        }
        let fair = |(stock, demand): (&Stock, &mut Vec<Holder>)| {
            demand.sort_unstable();
            demand.dedup();
            (stock.capacity / (demand.len() as u32).max(1)).max(1)
        };
        Table {
            free,
            fair: dealer.stocks.iter().zip(&mut demand).map(fair).collect(),
            contended: vec![false; dealer.stocks.len()],
            served: BTreeMap::new(),
            recall,
        }
    }
}
