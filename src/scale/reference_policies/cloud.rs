//! Comparison policies of systems in use: Kubernetes, Dask, HyperQueue, Parsl, and DPDS for
//! budgets.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::{load, nodes, slots_per_node};
use crate::model::{Rank, RankState, Time};
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::policy::{Policy, Target};
use crate::scale::price::{Account, NodeTypeId, Prices};
use crate::scale::remaining::Stage;

/// Horizontal Pod Autoscaler v2 of Kubernetes: `n' = ceil(n m / m*)` every 15 s, no change within a
/// tolerance of 0.1; up by at most the larger of 100 % and 4, down to the highest recommendation of
/// the last 300 s. The measure is the load per slot (running and queued), its target 1: with CPU
/// alone, which ends at 100 %, it could not see a queue.
#[derive(Clone, Debug, Default)]
pub struct Hpa {
    last: Option<(Time, u32)>,
    recommended: VecDeque<(Time, u32)>,
}

impl Policy for Hpa {
    fn name(&self) -> &str {
        "hpa"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let supply = seen.supply();
        if let Some((_, kept)) = self.last.filter(|(at, _)| seen.now.since(*at).as_secs_f64() < 15.0) {
            return Target::plain(kept, "it decides every 15 s");
        }
        let ratio = load(seen, prices) / f64::from(supply.max(1));
        let wanted = if (ratio - 1.0).abs() <= 0.1 { supply } else { nodes(f64::from(supply.max(1)) * ratio) };
        self.recommended.push_back((seen.now, wanted));
        self.recommended.retain(|(at, _)| seen.now.since(*at).as_secs_f64() < 300.0);
        let target = if wanted > supply {
            wanted.min(supply + supply.max(4))
        } else {
            let highest = self.recommended.iter().map(|r| r.1).max().unwrap_or(wanted);
            highest.min(supply)
        };
        self.last = Some((seen.now, target));
        Target::plain(target, format!("{ratio:.2} times the load aimed at"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Adaptive of dask.distributed: as many threads as end all work at hand in 5 s, at most one per
/// task; twice the workers above 60 % of memory; down after three votes in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dask {
    votes: u32,
}

impl Policy for Dask {
    fn name(&self) -> &str {
        "dask"
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let (mut occupancy, mut at_hand) = (0.0, 0u64);
        seen.remaining.each(&mut |task| {
            occupancy += match task.stage {
                Stage::Running(since) => estimates.rest(task.class, task.prior, seen.now.since(since)),
                Stage::Ready => estimates.task(task.class, task.prior).q50,
                Stage::Waiting => return,
            };
            at_hand += 1;
        });
        let threads = (occupancy / 5.0).ceil().min(at_hand as f64);
        let mut target = nodes(threads / slots_per_node(seen, prices));
        if seen.samples.memory.is_some_and(|m| m > 0.6) {
            target = target.max(2 * seen.ranks_in(RankState::Active));
        }
        let supply = seen.supply();
        self.votes = if target < supply { self.votes + 1 } else { 0 };
        if target < supply && self.votes < 3 {
            return Target::plain(supply, format!("vote {} of 3 for {target}", self.votes));
        }
        Target::plain(target, format!("{occupancy:.0} s of work at hand, to be done in 5 s"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Automatic allocation of HyperQueue: one request at a time while ready tasks do not fit on
/// present and requested workers; a worker ends when it has been idle for 5 minutes.
#[derive(Clone, Debug, Default)]
pub struct HyperQueue {
    idle_since: FxHashMap<Rank, Time>,
}

/// Requests that HyperQueue keeps in the queue.
const MAX_QUEUED_REQUESTS: u32 = 1;

impl Policy for HyperQueue {
    fn name(&self) -> &str {
        "hyperqueue"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let active: Vec<_> = seen.ranks.iter().filter(|r| r.state == RankState::Active).collect();
        self.idle_since.retain(|rank, _| active.iter().any(|r| r.rank == *rank && r.busy_slots == 0));
        for rank in active.iter().filter(|r| r.busy_slots == 0) {
            self.idle_since.entry(rank.rank).or_insert(seen.now);
        }
        let timed_out =
            |rank: &Rank| self.idle_since.get(rank).is_some_and(|since| seen.now.since(*since).as_secs_f64() >= 300.0);
        let idle = active.iter().filter(|r| timed_out(&r.rank)).count() as u32;
        let free: u32 = active.iter().map(|r| r.slots.saturating_sub(r.busy_slots)).sum();
        let requested: u32 = seen.requests.iter().map(|r| r.nodes).sum();
        let coming = f64::from(requested + seen.ranks_in(RankState::Joining)) * slots_per_node(seen, prices);
        let supply = seen.supply();
        if seen.counts.ready as f64 > f64::from(free) + coming && requested < MAX_QUEUED_REQUESTS {
            return Target::plain(
                supply + MAX_QUEUED_REQUESTS - requested,
                format!("{} ready tasks do not fit", seen.counts.ready),
            );
        }
        Target::plain(supply - idle.min(supply), format!("{idle} workers have been idle for 5 minutes"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// The `simple` strategy of Parsl with parallelism 1 and blocks of one node: out while there are
/// fewer slots than tasks, in only when no task remains.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parsl;

impl Policy for Parsl {
    fn name(&self) -> &str {
        "parsl"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let supply = seen.supply();
        let per_block = slots_per_node(seen, prices);
        let tasks = (seen.counts.running + seen.counts.ready) as f64;
        let slots = f64::from(supply) * per_block;
        let target = if tasks == 0.0 {
            0
        } else if slots < tasks {
            supply + nodes((tasks - slots) / per_block)
        } else {
            supply
        };
        Target::plain(target, format!("{tasks:.0} tasks, {slots:.0} slots"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// DPDS (Malawski et al., "Algorithms for cost- and deadline-constrained provisioning for
/// scientific workflow ensembles in IaaS clouds", FGCS 2015): every 10 s one node more above 90 %
/// utilisation while money and time remain; below 70 % half of the nodes that complete a billing
/// unit end; near the budget only as many stay as it pays for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dpds {
    last: Option<Time>,
}

impl Policy for Dpds {
    fn name(&self) -> &str {
        "dpds"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let supply = seen.supply();
        if self.last.is_some_and(|last| seen.now.since(last).as_secs_f64() < 10.0) {
            return Target::plain(supply, "it decides every 10 s");
        }
        self.last = Some(seen.now);
        let busy: u32 = seen.ranks.iter().filter(|r| r.state == RankState::Active).map(|r| r.busy_slots).sum();
        let slots = f64::from(supply) * slots_per_node(seen, prices);
        let utilisation = f64::from(busy) / slots.max(1.0);
        let price = prices.node(NodeTypeId(0)).map_or(0.0, |n| n.bill(n.granularity));
        let left = prices.budget.map_or(f64::INFINITY, |b| b - Account::of(seen, prices).spent());
        let in_time = prices.deadline.is_none_or(|deadline| seen.now < deadline);
        let payable = if price > 0.0 { (left / price).floor().clamp(0.0, 1e9) as u32 } else { u32::MAX };
        let target = if payable < supply {
            payable
        } else if utilisation > 0.9 && payable > supply && in_time {
            supply + 1
        } else if utilisation < 0.7 {
            supply - (completing(seen, prices) / 2).min(supply)
        } else {
            supply
        };
        Target::plain(target, format!("utilisation {:.0} %", utilisation * 100.0))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Nodes whose billing unit ends before the next decision.
fn completing(seen: &Observation<'_>, prices: &Prices) -> u32 {
    let ends_soon = |since: Time| {
        let unit = prices.node(NodeTypeId(0)).map_or(0.0, |n| n.granularity.as_secs_f64());
        unit <= 10.0 || (seen.now.since(since).as_secs_f64() % unit) > unit - 10.0
    };
    let active = seen.ranks.iter().filter(|r| r.state == RankState::Active && r.releasable);
    active.filter(|r| r.billed_since.is_some_and(ends_soon)).count() as u32
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bag, wish};
    use super::*;

    #[test]
    fn hpa_by_hand() {
        // 40 tasks, 2 nodes of 4: 5 times the target, so 10 nodes, but at most 4 more than 2.
        assert_eq!(wish(&mut Hpa::default(), &bag(8, 32, 10.0, 2)).ranks, 6);
        // 40 tasks on 8 nodes: 1.25 times, so ceil(8 x 1.25) = 10.
        assert_eq!(wish(&mut Hpa::default(), &bag(8, 32, 10.0, 8)).ranks, 10);
        // 35 tasks on 8 nodes: 1.09 times is within the tolerance.
        assert_eq!(wish(&mut Hpa::default(), &bag(8, 27, 10.0, 8)).ranks, 8);
    }

    #[test]
    fn hpa_waits_300_s_before_it_shrinks() {
        let mut hpa = Hpa::default();
        let mut world = bag(8, 24, 10.0, 8);
        assert_eq!(wish(&mut hpa, &world).ranks, 8);
        world = bag(4, 0, 10.0, 8);
        for now in [15.0, 150.0, 285.0] {
            world.now = now;
            assert_eq!(wish(&mut hpa, &world).ranks, 8);
        }
        world.now = 301.0;
        assert_eq!(wish(&mut hpa, &world).ranks, 1);
    }

    #[test]
    fn dask_by_hand() {
        // 32 ready tasks of 10 s and 8 running with 10 s to go: 400 s in 5 s are 80 threads, but
        // there are 40 tasks: 10 nodes.
        assert_eq!(wish(&mut Dask::default(), &bag(8, 32, 10.0, 2)).ranks, 10);
        // 40 tasks of 1 s: 8 threads, 2 nodes.
        assert_eq!(wish(&mut Dask::default(), &bag(0, 40, 1.0, 1)).ranks, 2);
        let mut dask = Dask::default();
        let votes: Vec<u32> = (0..3).map(|_| wish(&mut dask, &bag(0, 40, 1.0, 9)).ranks).collect();
        assert_eq!(votes, [9, 9, 2]);
        let mut full = bag(0, 40, 1.0, 3);
        full.samples.memory = Some(0.7);
        assert_eq!(wish(&mut Dask::default(), &full).ranks, 6);
    }

    #[test]
    fn hyperqueue_asks_for_one_at_a_time() {
        let mut policy = HyperQueue::default();
        let mut world = bag(8, 32, 10.0, 2);
        world.ranks.iter_mut().for_each(|r| r.busy_slots = 4);
        assert_eq!(wish(&mut policy, &world).ranks, 3);
        world.request(1, 1);
        assert_eq!(wish(&mut policy, &world).ranks, 3);
        let mut idle = bag(4, 0, 10.0, 3);
        idle.ranks[0].busy_slots = 4;
        assert_eq!(wish(&mut policy, &idle).ranks, 3);
        idle.now = 299.0;
        assert_eq!(wish(&mut policy, &idle).ranks, 3);
        idle.now = 300.0;
        assert_eq!(wish(&mut policy, &idle).ranks, 1);
    }

    #[test]
    fn parsl_keeps_all_until_nothing_remains() {
        assert_eq!(wish(&mut Parsl, &bag(8, 33, 10.0, 2)).ranks, 2 + 9);
        assert_eq!(wish(&mut Parsl, &bag(1, 0, 10.0, 16)).ranks, 16);
        let mut over = bag(1, 0, 10.0, 16);
        over.stages = vec![None];
        assert_eq!(wish(&mut Parsl, &over).ranks, 0);
    }

    #[test]
    fn dpds_steps_up_and_halves() {
        let mut world = bag(8, 32, 10.0, 2);
        world.ranks.iter_mut().for_each(|r| r.busy_slots = 4);
        assert_eq!(wish(&mut Dpds::default(), &world).ranks, 3);
        let mut idle = bag(4, 0, 10.0, 9);
        idle.ranks[0].busy_slots = 4;
        assert_eq!(wish(&mut Dpds::default(), &idle).ranks, 9 - 4, "half of the eight that may go");
    }
}
