//! Rank 0's side of pools: who holds what, who waits for what, and who gets the next unit.
//!
//! A pure state machine: reports of ranks and changed capacities go in, orders for ranks come out.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::deal_table::Table;
use super::rate::StartBudget;
use super::recall::Recall;
use super::stock::{Grant, Stock};
pub use super::stock::{Holder, PoolCounters, PoolState};
use super::table::{PoolResource, PoolTable, ResourceKind};
use super::{PoolClaim, PoolOrders, PoolReport, ResourceId, SetId, UNLIMITED};
use crate::model::{Rank, TaskId, Time};
use crate::schedule::protocol::Lease;

/// How long after the loss of a rank its lease stays bound: by then its tasks have certainly ended.
/// A rank that only its link has lost notices that after 15 s of silence, and kills its tasks.
pub const LOST_LEASE: Duration = Duration::from_secs(20);

/// Units of a pool without limit that are dealt together.
const UNLIMITED_CHUNK: u32 = 65_536;

/// A claim in line. The order of its key is the order in which claims are served.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) holder: Holder,
    pub(super) claim: PoolClaim,
    /// The task, if it is an MPI task on several ranks.
    gang: Option<Lease>,
}

/// A claim's place in line: those ahead of their slots come last, then the more urgent first, then
/// the older.
pub(super) type Ticket = (bool, Reverse<u8>, u64);

/// What follows from dealing.
#[derive(Debug, Default)]
pub struct Dealt {
    /// Orders for ranks.
    pub orders: BTreeMap<Rank, PoolOrders>,
    /// MPI tasks that have their units now.
    pub gangs: Vec<Lease>,
}

/// The stock of a resource of which nothing has been dealt.
fn stock_of(resource: &PoolResource) -> Stock {
    Stock {
        capacity: match resource.kind {
            ResourceKind::Capacity(units) => units,
            ResourceKind::Rate { .. } => UNLIMITED,
        },
        budget: match resource.kind {
            ResourceKind::Capacity(_) => None,
            ResourceKind::Rate { starts, per_ns } => Some(StartBudget::new(starts, per_ns)),
        },
        grants: BTreeMap::new(),
        dealt: 0,
        counters: PoolCounters::default(),
        at_limit: None,
    }
}

/// Deals units of pools to ranks.
#[derive(Debug, Default)]
pub struct PoolDealer {
    pub(super) table: Arc<PoolTable>,
    pub(super) stocks: Vec<Stock>,
    pub(super) line: BTreeMap<Ticket, Waiting>,
    tickets: u64,
    /// Ticket of each claim.
    places: FxHashMap<(Holder, SetId), Ticket>,
    /// Number of orders sent to each rank, and carried out by it.
    orders: FxHashMap<Rank, (u32, u32)>,
    /// True if dealing may have an effect.
    is_due: bool,
    /// When dealing may have an effect without a further event.
    due_at: Option<Time>,
}

impl PoolDealer {
    /// A dealer that has dealt nothing.
    pub fn new(table: Arc<PoolTable>) -> PoolDealer {
        let stocks = table.resources().iter().map(stock_of).collect();
        PoolDealer { table, stocks, ..PoolDealer::default() }
    }

    /// Replaces the table by one that has grown from it.
    pub fn grow(&mut self, table: Arc<PoolTable>) {
        self.stocks.extend(table.resources()[self.stocks.len()..].iter().map(stock_of));
        self.table = table;
        self.is_due = true;
    }

    /// The pools.
    pub fn table(&self) -> &Arc<PoolTable> {
        &self.table
    }

    /// When [`PoolDealer::deal`] may have an effect without a further event.
    pub fn due(&self) -> Option<Time> {
        self.due_at
    }

    /// Changes the capacity of a resource; [`UNLIMITED`] lifts it.
    pub fn set_capacity(&mut self, resource: ResourceId, units: u32) {
        if let Some(stock) = self.stocks.get_mut(resource as usize).filter(|stock| stock.budget.is_none()) {
            stock.capacity = units;
            self.is_due = true;
        }
    }

    /// The capacity of a resource.
    #[cfg(test)]
    pub fn capacity(&self, resource: ResourceId) -> u32 {
        self.stocks.get(resource as usize).map_or(UNLIMITED, |stock| stock.capacity)
    }

    /// Processes a rank's report. Numbers that do not exist are ignored.
    pub fn report(&mut self, rank: Rank, report: PoolReport) {
        let holder = Holder::Rank(rank);
        for (resource, units) in report.returned {
            let Some(stock) = self.stocks.get_mut(resource as usize) else { continue };
            let Some(grant) = stock.grants.get_mut(&holder) else { continue };
            let units = units.min(grant.units);
            grant.units -= units;
            grant.owed = grant.owed.saturating_sub(units);
            stock.dealt -= u64::from(units);
            stock.counters.hand_overs += u64::from(units);
            if grant.units == 0 {
                stock.grants.remove(&holder);
            }
        }
        for stock in &mut self.stocks {
            if let Some(grant) = stock.grants.get_mut(&holder) {
                grant.used = 0;
            }
        }
        for (resource, used) in report.used {
            let Some(stock) = self.stocks.get_mut(resource as usize) else { continue };
            if let Some(grant) = stock.grants.get_mut(&holder) {
                grant.used = used.min(grant.units);
                let in_use = stock.grants.values().map(|grant| grant.used).sum();
                stock.counters.peak = stock.counters.peak.max(in_use);
            }
        }
        let orders = self.orders.entry(rank).or_default();
        orders.1 = report.seen;
        if orders.0 == report.seen {
            self.replace_claims(holder, report.claims);
        }
        self.is_due = true;
    }

    fn replace_claims(&mut self, holder: Holder, claims: Vec<PoolClaim>) {
        let kept: Vec<SetId> = claims.iter().map(|claim| claim.set).collect();
        self.withdraw(|other, set| other == holder && !kept.contains(&set));
        for claim in claims {
            let is_sound = (1..self.table.set_count()).contains(&(claim.set as usize))
                && claim.kept.len() == self.table.set(claim.set).len()
                && claim.tasks > 0
                && lacks(&self.table, &claim, 1).any(|lack| lack.1 > 0);
            if is_sound {
                self.queue(holder, claim, None);
            }
        }
    }

    /// Queues a claim; one that waits already keeps its place among those of its urgency.
    fn queue(&mut self, holder: Holder, claim: PoolClaim, gang: Option<Lease>) {
        let before = self.places.remove(&(holder, claim.set));
        if let Some(before) = before {
            self.line.remove(&before);
        }
        let number = before.map_or_else(
            || {
                self.tickets += 1;
                self.tickets
            },
            |before| before.2,
        );
        let ticket = (claim.ahead, Reverse(claim.level), number);
        self.places.insert((holder, claim.set), ticket);
        self.line.insert(ticket, Waiting { holder, claim, gang });
    }

    fn withdraw(&mut self, which: impl Fn(Holder, SetId) -> bool) {
        self.places.retain(|&(holder, set), ticket| {
            let goes = which(holder, set);
            if goes {
                self.line.remove(ticket);
            }
            !goes
        });
    }

    /// An MPI task on several ranks is ready. False if it needs no units.
    pub fn gang_ready(&mut self, lease: Lease) -> bool {
        let set = self.table.set_of(lease.task);
        if set != 0 {
            let kept = vec![0; self.table.set(set).len()];
            let claim = PoolClaim { set, tasks: 1, level: lease.urgency, ahead: false, kept };
            self.queue(Holder::Gang(lease.task, lease.attempt), claim, Some(lease));
            self.is_due = true;
        }
        set != 0
    }

    /// Number of MPI tasks on several ranks that wait for units.
    pub fn waiting_gangs(&self) -> u32 {
        self.line.values().filter(|waiting| waiting.gang.is_some()).count() as u32
    }

    /// MPI tasks on several ranks that match wait no more, and give back their units. Returns those
    /// that were waiting for units.
    pub fn withdraw_gangs(&mut self, which: impl Fn(TaskId, u16) -> bool) -> Vec<Lease> {
        let matches = |holder: Holder| matches!(holder, Holder::Gang(task, attempt) if which(task, attempt));
        let waiting: Vec<Lease> =
            self.line.values().filter(|waiting| matches(waiting.holder)).filter_map(|waiting| waiting.gang).collect();
        self.withdraw(|holder, _| matches(holder));
        self.release(matches);
        waiting
    }

    /// A rank has left with nothing running.
    pub fn left(&mut self, rank: Rank) {
        self.withdraw(|holder, _| holder == Holder::Rank(rank));
        self.release(|holder| holder == Holder::Rank(rank));
        self.orders.remove(&rank);
    }

    /// A rank was lost: its units come back when its tasks have certainly ended.
    pub fn lost(&mut self, now: Time, rank: Rank) {
        self.withdraw(|holder, _| holder == Holder::Rank(rank));
        self.bind(now, Holder::Rank(rank));
    }

    /// The rank that leads an MPI task was lost.
    pub fn gang_lost(&mut self, now: Time, task: TaskId, attempt: u16) {
        self.bind(now, Holder::Gang(task, attempt));
    }

    fn bind(&mut self, now: Time, holder: Holder) {
        for stock in &mut self.stocks {
            if let Some(grant) = stock.grants.get_mut(&holder) {
                (grant.used, grant.owed) = (grant.units, 0);
                grant.until = Some(now.after(LOST_LEASE));
            }
        }
        self.is_due = true;
    }

    fn release(&mut self, which: impl Fn(Holder) -> bool) {
        for stock in &mut self.stocks {
            stock.grants.retain(|&holder, grant| {
                let goes = grant.until.is_none() && which(holder);
                stock.dealt -= if goes { u64::from(grant.units) } else { 0 };
                !goes
            });
        }
        self.is_due = true;
    }

    /// Deals what is free, and recalls what others should have. Orders count as sent.
    pub fn deal(&mut self, now: Time) -> Dealt {
        let mut dealt = Dealt::default();
        if !self.is_due && self.due_at.is_none_or(|due| due > now) {
            return dealt;
        }
        (self.is_due, self.due_at) = (false, None);
        self.end_bonds(now);
        let mut table = Table::new(self, now);
        let tickets: Vec<Ticket> = self.line.keys().copied().collect();
        for &ticket in &tickets {
            self.serve(now, ticket, &mut table, &mut dealt);
        }
        // What is left goes to those that can use more than their share.
        for &ticket in &tickets {
            self.serve_more(now, ticket, &mut table, &mut dealt);
        }
        self.collect_debts(now, table.recall, &mut dealt);
        self.account(now);
        for rank in dealt.orders.keys() {
            let orders = self.orders.entry(*rank).or_default();
            orders.0 = orders.0.wrapping_add(1);
        }
        dealt
    }

    /// Deals the first units, for what ranks are at home to: an even share of each pool first. What
    /// is not granted is claimed again by the ranks when their tasks are ready.
    pub fn deal_first(&mut self, claims: BTreeMap<Rank, Vec<PoolClaim>>) -> BTreeMap<Rank, PoolOrders> {
        for (rank, claims) in claims {
            self.report(rank, PoolReport { claims, ..PoolReport::default() });
        }
        let dealt = self.deal(Time::ZERO);
        self.withdraw(|_, _| true);
        self.account(Time::ZERO);
        self.due_at = None;
        dealt.orders
    }

    fn end_bonds(&mut self, now: Time) {
        for stock in &mut self.stocks {
            stock.grants.retain(|_, grant| {
                let ends = grant.until.is_some_and(|until| until <= now);
                stock.dealt -= if ends { u64::from(grant.units) } else { 0 };
                if let Some(until) = grant.until.filter(|_| !ends) {
                    self.due_at = Some(self.due_at.map_or(until, |due| due.min(until)));
                }
                !ends
            });
        }
    }

    /// Serves a claim if everything that it lacks is free; else keeps what is free for it, and
    /// notes what should be recalled.
    fn serve(&mut self, now: Time, ticket: Ticket, table: &mut Table, dealt: &mut Dealt) {
        let Some(waiting) = self.line.get(&ticket) else { return };
        let (holder, set, level) = (waiting.holder, waiting.claim.set, waiting.claim.level);
        let is_current = self.is_current(holder);
        let lacks = |tasks: u32| lacks(&self.table, &waiting.claim, tasks);
        let first: Vec<(ResourceId, u32)> = lacks(1).collect();
        if first.iter().any(|&(resource, units)| units > 0 && table.contended[resource as usize]) {
            return;
        }
        // A start that is dealt ahead of a slot would be used together with a later one.
        let is_rate = |lack: &(ResourceId, u32)| lack.1 > 0 && self.table.is_rate(lack.0);
        if waiting.claim.ahead && first.iter().any(is_rate) {
            return;
        }
        if is_current && first.iter().all(|&(resource, units)| i64::from(units) <= table.free[resource as usize]) {
            let mut tasks = 1;
            let fits = |tasks: u32| {
                lacks(tasks).all(|(resource, units)| {
                    let has = self.units(holder, resource);
                    let at = resource as usize;
                    i64::from(units) <= table.free[at] && (units == 0 || has.saturating_add(units) <= table.fair[at])
                })
            };
            while tasks < waiting.claim.tasks && fits(tasks + 1) {
                tasks += 1;
            }
            let units: Vec<_> = lacks(tasks).collect();
            let left = waiting.claim.tasks - tasks;
            return self.grant(now, ticket, &units, left, table, dealt);
        }
        if waiting.claim.ahead {
            return;
        }
        for &(resource, units) in &first {
            let at = resource as usize;
            let free = i64::from(units).min(table.free[at].max(0));
            table.free[at] -= free;
            let short = units - free as u32;
            if short > 0 {
                table.contended[at] = true;
                let amount = self.table.set(set).iter().find(|need| need.0 == resource).map_or(1, |need| need.1);
                match &self.stocks[at].budget {
                    // A start that is allowed now is kept for a claim ahead.
                    Some(budget) if budget.next() <= now => {}
                    Some(budget) => self.due_at = Some(self.due_at.map_or(budget.next(), |due| due.min(budget.next()))),
                    None => table.recall.ask(resource, (holder, level), (short, amount, table.fair[at])),
                }
            }
        }
        let Some(waiting) = self.line.get(&ticket) else { return };
        for (&(resource, _), &kept) in self.table.set(set).iter().zip(&waiting.claim.kept) {
            table.recall.keep(resource, holder, kept);
        }
    }

    /// Grants a claim that has been served and can use more.
    fn serve_more(&mut self, now: Time, ticket: Ticket, table: &mut Table, dealt: &mut Dealt) {
        let Some((holder, set, left)) = table.served.remove(&ticket) else { return };
        let needs = self.table.set(set).to_vec();
        if needs.iter().any(|need| table.contended[need.0 as usize]) {
            return;
        }
        let fits = |tasks: u32| {
            needs
                .iter()
                .all(|&(resource, amount)| i64::from(amount.saturating_mul(tasks)) <= table.free[resource as usize])
        };
        let tasks = (0..=left).take_while(|&tasks| fits(tasks)).last().unwrap_or(0);
        if tasks > 0 {
            let units: Vec<_> = needs.iter().map(|need| (need.0, need.1.saturating_mul(tasks))).collect();
            self.give(now, holder, &units, table, dealt);
        }
    }

    fn grant(
        &mut self,
        now: Time,
        ticket: Ticket,
        units: &[(ResourceId, u32)],
        left: u32,
        table: &mut Table,
        dealt: &mut Dealt,
    ) {
        let Some(waiting) = self.line.remove(&ticket) else { return };
        self.places.remove(&(waiting.holder, waiting.claim.set));
        self.give(now, waiting.holder, units, table, dealt);
        match waiting.gang {
            Some(lease) => dealt.gangs.push(lease),
            None if left > 0 => {
                table.served.insert(ticket, (waiting.holder, waiting.claim.set, left));
            }
            None => {}
        }
    }

    fn give(&mut self, now: Time, holder: Holder, units: &[(ResourceId, u32)], table: &mut Table, dealt: &mut Dealt) {
        for &(resource, mut units) in units.iter().filter(|granted| granted.1 > 0) {
            let stock = &mut self.stocks[resource as usize];
            if let Some(budget) = &mut stock.budget {
                budget.take(now, units.into());
            } else {
                if stock.capacity == UNLIMITED && matches!(holder, Holder::Rank(_)) {
                    units = units.max(UNLIMITED_CHUNK);
                }
                let used = if matches!(holder, Holder::Gang(..)) { units } else { 0 };
                let fresh = Grant { units: 0, used, owed: 0, since: now, until: None };
                let grant = stock.grants.entry(holder).or_insert(fresh);
                grant.units += units;
                grant.since = now;
                stock.dealt += u64::from(units);
            }
            table.free[resource as usize] -= i64::from(units);
            if let Holder::Rank(rank) = holder {
                let granted = &mut dealt.orders.entry(rank).or_default().granted;
                match granted.iter_mut().find(|known| known.0 == resource) {
                    Some(known) => known.1 += units,
                    None => granted.push((resource, units)),
                }
            }
        }
        // A claim that was served without units is outdated: an order makes its rank report again.
        if let Holder::Rank(rank) = holder {
            dealt.orders.entry(rank).or_default();
        }
    }

    fn collect_debts(&mut self, now: Time, recall: Recall, dealt: &mut Dealt) {
        for (resource, stock) in (0..).zip(&mut self.stocks) {
            let is_current = |holder: Holder| match holder {
                Holder::Rank(rank) => self.orders.get(&rank).is_none_or(|orders| orders.0 == orders.1),
                Holder::Gang(..) => true,
            };
            let due = recall.debts(now, resource, stock, &is_current);
            if let Some(at) = due.again {
                self.due_at = Some(self.due_at.map_or(at, |before| before.min(at)));
            }
            for (holder, grant) in &mut stock.grants {
                let Holder::Rank(rank) = holder else { continue };
                let granted = dealt.orders.get(rank).map_or(&[][..], |orders| &orders.granted);
                let owed = match granted.iter().any(|granted| granted.0 == resource) {
                    // What was just granted is not for others, nor what goes with it.
                    true => 0,
                    false if !granted.is_empty() || !is_current(*holder) => continue,
                    false => due.owed.get(holder).copied().unwrap_or(0),
                };
                if owed != grant.owed && grant.until.is_none() {
                    grant.owed = owed;
                    dealt.orders.entry(*rank).or_default().owed.push((resource, owed));
                }
            }
        }
    }

    fn units(&self, holder: Holder, resource: ResourceId) -> u32 {
        self.stocks[resource as usize].grants.get(&holder).map_or(0, |grant| grant.units)
    }

    /// True unless orders are on their way that the holder's claims do not reflect yet.
    fn is_current(&self, holder: Holder) -> bool {
        match holder {
            Holder::Rank(rank) => self.orders.get(&rank).is_none_or(|orders| orders.0 == orders.1),
            Holder::Gang(..) => true,
        }
    }

    /// Sum of all leases of a resource.
    #[cfg(test)]
    pub fn dealt(&self, resource: ResourceId) -> u64 {
        self.stocks.get(resource as usize).map_or(0, |stock| stock.dealt)
    }
}

/// The units that so many tasks of a claim lack, by resource.
pub(super) fn lacks<'a>(
    table: &'a PoolTable,
    claim: &'a PoolClaim,
    tasks: u32,
) -> impl Iterator<Item = (ResourceId, u32)> + 'a {
    let lack = move |(&(resource, amount), &kept): (&(ResourceId, u32), &u32)| {
        (resource, amount.saturating_mul(tasks).saturating_sub(kept))
    };
    table.set(claim.set).iter().zip(&claim.kept).map(lack)
}
