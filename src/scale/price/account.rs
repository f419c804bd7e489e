//! What a run has spent, what it can no longer avoid spending, and how long it can afford its
//! nodes.
//!
//! The budget is a hard cap, enforced by reservation: the bill is always calculated as if every
//! node held, and every node that may still be granted, were kept until the last running task ends.
//! [`Account::stop_by`] is the moment when that bill reaches the budget; nothing may run beyond it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{NodeTypeId, Prices};
use crate::model::Time;
use crate::scale::decision::BudgetAlert;
use crate::scale::observation::{Observation, RankView, RequestView};

/// The nodes of a run at one moment, for billing.
#[derive(Clone, Debug)]
pub struct Account<'a> {
    prices: &'a Prices,
    now: Time,
    settled: f64,
    /// Nodes held: type, granted since, and number of consecutive nodes with the same two values.
    held: Vec<(NodeTypeId, Time, u32)>,
    /// Nodes that may be granted at any moment.
    requested: Vec<(NodeTypeId, u32)>,
    /// Nodes of other sites that were requested instead of those: at most their least bill is due.
    rivals: Vec<NodeTypeId>,
    /// Cost per hour of the nodes that were requested, each with the dearest of its rivals.
    requested_per_hour: f64,
}

impl<'a> Account<'a> {
    /// The account of an observed run.
    pub fn of(seen: &Observation<'_>, prices: &'a Prices) -> Account<'a> {
        Account::new(seen.now, seen.ranks, seen.requests, seen.settled, prices)
    }

    /// The account of these ranks and requests; `settled` is the bill of nodes that the session has
    /// given back. Those of earlier sessions belong to it, too.
    pub fn new(
        now: Time,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
        prices: &'a Prices,
    ) -> Account<'a> {
        let billed = ranks.iter().filter(|r| r.state.is_billed());
        let mut held: Vec<(NodeTypeId, Time, u32)> = Vec::new();
        for (node_type, since) in billed.filter_map(|r| Some((r.node_type, r.billed_since?))) {
            match held.last_mut().filter(|last| (last.0, last.1) == (node_type, since)) {
                Some(last) => last.2 += 1,
                None => held.push((node_type, since, 1)),
            }
        }
        let mut account = Account {
            prices,
            now,
            settled: prices.earlier + settled,
            held,
            requested: requests.iter().map(|r| (r.node_type, r.nodes)).collect(),
            rivals: requests.iter().flat_map(|r| r.rivals.iter().copied()).collect(),
            requested_per_hour: 0.0,
        };
        let dearest =
            |r: &RequestView| r.rivals.iter().fold(account.price(r.node_type), |most, &t| most.max(account.price(t)));
        account.requested_per_hour = requests.iter().map(|r| f64::from(r.nodes) * dearest(r)).sum();
        account
    }

    /// The same account with further nodes requested.
    pub fn with_request(mut self, node_type: NodeTypeId, nodes: u32) -> Account<'a> {
        self.requested.push((node_type, nodes));
        self.requested_per_hour += f64::from(nodes) * self.price(node_type);
        self
    }

    /// The moment of the account.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Bill of the nodes that have been given back.
    pub fn settled(&self) -> f64 {
        self.settled
    }

    /// Bill so far: of the nodes given back, and of those held as if they were given back now.
    pub fn spent(&self) -> f64 {
        self.settled + self.held_until(self.now)
    }

    /// Unavoidable cost beyond [`Account::spent`] if nothing more is started and the last task ends
    /// after `drain`. Requests count with their minimum bill, since they may be granted before they
    /// are withdrawn.
    pub fn committed(&self, drain: Duration) -> f64 {
        let requests: f64 = self.requested.iter().map(|&(t, n)| f64::from(n) * self.node_bill(t, Duration::ZERO)).sum();
        self.held_until(self.now.after(drain)) - self.held_until(self.now) + requests + self.rival_bills()
    }

    /// Total bill if all nodes held, and all requested as if granted now, are kept until `end`.
    pub fn until(&self, end: Time) -> f64 {
        let hold = end.since(self.now);
        let requests: f64 = self.requested.iter().map(|&(t, n)| f64::from(n) * self.node_bill(t, hold)).sum();
        self.settled + self.held_until(end) + requests + self.rival_bills()
    }

    /// The last moment until which everything can be kept within the budget; now if the budget is
    /// already exceeded; `None` without a budget.
    pub fn stop_by(&self) -> Option<Time> {
        let budget = self.prices.budget?;
        // A century bounds the search where nodes cost nothing.
        let (mut fits, mut exceeds) = (self.now, self.now.after(Duration::from_secs(3_155_760_000)));
        if self.until(exceeds) <= budget {
            return Some(exceeds);
        }
        if self.until(fits) > budget {
            return Some(self.now);
        }
        while exceeds.0 - fits.0 > 1_000_000 {
            let middle = Time(fits.0 + (exceeds.0 - fits.0) / 2);
            if self.until(middle) <= budget {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        Some(fits)
    }

    /// Cost per hour of the nodes held and requested. Of rivals one is kept, which may be the
    /// dearest.
    pub fn per_hour(&self) -> f64 {
        let held: f64 = self.held.iter().map(|&(t, _, n)| f64::from(n) * self.price(t)).sum();
        held + self.requested_per_hour
    }

    /// Price of a node for one hour.
    fn price(&self, node_type: NodeTypeId) -> f64 {
        self.prices.node(node_type).map_or(0.0, |n| n.node_hour)
    }

    /// Number of further nodes of a type that may be requested: within the hourly budget and the
    /// limit of the type, and such that the budget pays for all nodes until `end`.
    pub fn affordable(&self, node_type: NodeTypeId, end: Time) -> u32 {
        let Some(node) = self.prices.node(node_type) else { return 0 };
        let mut most = u32::MAX;
        if let Some(limit) = node.limit {
            let has: u32 = self.held.iter().filter(|h| h.0 == node_type).map(|h| h.2).sum();
            let asked: u32 = self.requested.iter().filter(|r| r.0 == node_type).map(|r| r.1).sum();
            let rivals = self.rivals.iter().filter(|rival| **rival == node_type).count() as u32;
            most = limit.saturating_sub(has.saturating_add(asked).saturating_add(rivals));
        }
        let whole =
            |money: f64, each: f64| if each > 0.0 { (money / each + 1e-9).clamp(0.0, 1e9) as u32 } else { u32::MAX };
        if let Some(hourly) = self.prices.budget_per_hour {
            most = most.min(whole(hourly - self.per_hour(), node.node_hour));
        }
        if let Some(budget) = self.prices.budget {
            most = most.min(whole(budget - self.until(end), node.bill(end.since(self.now))));
        }
        most
    }

    fn held_until(&self, end: Time) -> f64 {
        self.held.iter().map(|&(t, since, nodes)| f64::from(nodes) * self.prices.bill(t, since, end)).sum()
    }

    fn rival_bills(&self) -> f64 {
        self.rivals.iter().map(|&rival| self.node_bill(rival, Duration::ZERO)).sum()
    }

    fn node_bill(&self, node_type: NodeTypeId, hold: Duration) -> f64 {
        self.prices.node(node_type).map_or(0.0, |n| n.bill(hold))
    }
}

/// Until when a rank's node is already paid for: giving it back earlier saves nothing.
pub fn paid_until(prices: &Prices, node_type: NodeTypeId, since: Time, now: Time) -> Time {
    prices.node(node_type).map_or(now, |n| since.after(n.charged(now.since(since))))
}

/// Reports once each when 50, 80 and 100 % of the budget are spent.
#[derive(Clone, Debug, Default)]
pub struct Alarm {
    reported_percent: u32,
}

impl Alarm {
    /// The shares reached since the last call.
    pub fn ring(&mut self, account: &Account<'_>) -> Vec<BudgetAlert> {
        let Some(budget) = account.prices.budget.filter(|b| *b > 0.0) else { return Vec::new() };
        let spent = account.spent();
        let reached = |percent: u32| spent >= budget * f64::from(percent) / 100.0 * (1.0 - 1e-9);
        let news: Vec<u32> = [50, 80, 100].into_iter().filter(|&p| p > self.reported_percent && reached(p)).collect();
        self.reported_percent = news.last().copied().unwrap_or(self.reported_percent);
        news.into_iter().map(|percent| BudgetAlert { time: account.now, percent, spent, budget }).collect()
    }
}

/// What a run saved, compared with a fixed maximum and with the theoretical lower bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Savings {
    /// Amount charged.
    pub bill: f64,
    /// What holding the greatest allowed number of nodes from the beginning to the end would have
    /// cost.
    pub static_maximum: f64,
    /// The theoretical lower bound: price x work / slots.
    pub lower_bound: f64,
    /// Cost per completed task.
    pub per_task: f64,
}

impl Savings {
    /// Calculates for nodes of one type: `wall` time of the run, `work` in tasks summed over slots,
    /// `completed` tasks.
    pub fn of(
        prices: &Prices,
        node_type: NodeTypeId,
        bill: f64,
        max_nodes: u32,
        wall: Duration,
        work: Duration,
        completed: u64,
    ) -> Savings {
        let (node_bill, bound) = prices
            .node(node_type)
            .map_or((0.0, 0.0), |n| (n.bill(wall), n.per_second() * work.as_secs_f64() / n.capacity().max(1e-9)));
        Savings {
            bill,
            static_maximum: node_bill * f64::from(max_nodes),
            lower_bound: bound,
            per_task: if completed > 0 { bill / completed as f64 } else { 0.0 },
        }
    }

    /// Share of the static maximum that was not spent, 0 to 1 (negative if it was exceeded).
    pub fn saved(&self) -> f64 {
        if self.static_maximum > 0.0 { 1.0 - self.bill / self.static_maximum } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EarlierSessions, NodeType};
    use super::*;
    use crate::job::Cost;
    use crate::model::RankState;
    use crate::scale::testing::{World, rank};

    fn prices(budget: f64) -> Prices {
        let cost = Cost { node_hour: 3.6, budget: Some(budget), ..Cost::default() };
        Prices::of_job(&cost, 4)
    }

    #[test]
    fn spent_and_committed_by_hand() {
        // Two nodes since 0 and 90 s, now is 100 s, 0.001 a second, at least 60 s: 0.100 + 0.060.
        let prices = prices(1.0);
        let mut world = World::bag(1, 10.0);
        world.ranks = vec![rank(0, RankState::Active, 0.0), rank(1, RankState::Active, 90.0)];
        world.now = 100.0;
        world.request(1, 2);
        world.see(|seen| {
            let account = Account::of(seen, &prices);
            assert!((account.spent() - 0.160).abs() < 1e-9);
            // 20 s more: the first pays 0.020, the second is still within its minimum, the requests
            // pay their minimum.
            assert!((account.committed(Duration::from_secs(20)) - 0.140).abs() < 1e-9);
            assert!((account.until(Time(200_000_000_000)) - (0.2 + 0.11 + 0.2)).abs() < 1e-9);
            assert!((account.per_hour() - 4.0 * 3.6).abs() < 1e-9);
        });
    }

    #[test]
    fn of_rivals_one_is_kept() {
        // Types at 3.6, 7.2 and 36 per hour.
        let mut prices = prices(100.0);
        for node_hour in [7.2, 36.0] {
            prices.nodes.push(NodeType { node_hour, ..prices.nodes[0].clone() });
        }
        prices.budget_per_hour = Some(43.0);
        let mut world = World::bag(1, 10.0);
        world.request(1, 1);
        world.requests[0].rivals = vec![NodeTypeId(1)];
        world.see(|seen| assert!((Account::of(seen, &prices).per_hour() - (3.6 + 7.2)).abs() < 1e-9));
        let dear = |world: &World| world.see(|seen| Account::of(seen, &prices).affordable(NodeTypeId(2), seen.now));
        assert_eq!(dear(&world), 0);
        // In place of both, the dearest can be paid for.
        (world.requests[0].nodes, world.requests[0].rivals) = (0, vec![NodeTypeId(1), NodeTypeId(0)]);
        assert_eq!(dear(&world), 1);
    }

    #[test]
    fn the_stop_lies_where_the_bill_meets_the_budget() {
        let prices = prices(0.5);
        let mut world = World::bag(1, 10.0);
        world.ranks = vec![rank(0, RankState::Active, 0.0), rank(1, RankState::Parked, 0.0)];
        world.see(|seen| {
            let account = Account::of(seen, &prices);
            let by = account.stop_by().unwrap();
            assert!((by.seconds() - 250.0).abs() < 0.01, "{by:?}");
            assert!(account.until(by) <= 0.5);
            // Three more nodes cost 0.3 until 100 s, and the two present ones have cost 0.2.
            assert_eq!(account.affordable(NodeTypeId(0), Time(100_000_000_000)), 3);
        });
    }

    #[test]
    fn a_further_session_continues_the_bill_and_the_deadline() {
        let mut prices = prices(1.0);
        prices.deadline = Some(Time(300_000_000_000));
        let earlier = EarlierSessions { cost: 0.75, passed: Duration::from_secs(100) };
        let prices = prices.continuing(earlier);
        assert_eq!(prices.deadline, Some(Time(200_000_000_000)));
        let late = EarlierSessions { passed: Duration::from_secs(900), ..earlier };
        assert_eq!(prices.clone().continuing(late).deadline, Some(Time::ZERO));
        let mut world = World::bag(1, 10.0);
        world.ranks = vec![rank(0, RankState::Active, 0.0)];
        world.now = 100.0;
        world.see(|seen| {
            let account = Account::of(seen, &prices);
            assert!((account.spent() - 0.85).abs() < 1e-9, "{}", account.spent());
            let by = account.stop_by().unwrap();
            assert!((by.seconds() - 250.0).abs() < 0.01, "{by:?}");
            assert_eq!(Alarm::default().ring(&account).iter().map(|it| it.percent).collect::<Vec<_>>(), [50, 80]);
        });
    }

    #[test]
    fn alarms_ring_once() {
        let prices = prices(0.1);
        let mut world = World::bag(1, 10.0);
        world.ranks = vec![rank(0, RankState::Active, 0.0)];
        let mut alarm = Alarm::default();
        let mut ring = |world: &mut World, now: f64| {
            world.now = now;
            world.see(|seen| alarm.ring(&Account::of(seen, &prices)).iter().map(|a| a.percent).collect::<Vec<_>>())
        };
        assert_eq!(ring(&mut world, 10.0), [50]);
        assert_eq!(ring(&mut world, 70.0), Vec::<u32>::new());
        assert_eq!(ring(&mut world, 200.0), [80, 100]);
        assert_eq!(ring(&mut world, 300.0), Vec::<u32>::new());
    }

    #[test]
    fn savings_by_hand() {
        let prices = prices(1.0);
        let hour = Duration::from_secs(3600);
        let savings = Savings::of(&prices, NodeTypeId(0), 7.2, 4, hour, hour * 4, 100);
        assert!((savings.static_maximum - 14.4).abs() < 1e-9 && (savings.saved() - 0.5).abs() < 1e-9);
        assert!((savings.lower_bound - 3.6).abs() < 1e-9 && (savings.per_task - 0.072).abs() < 1e-9);
    }
}
