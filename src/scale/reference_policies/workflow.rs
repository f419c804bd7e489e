//! Comparison policies that see the graph: Token and Plan (Ilyushkin et al., ICPE 2017).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::{nodes, slots_per_node};
use crate::graph::TaskGraph;
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::policy::{Policy, Target};
use crate::scale::price::{NodeTypeId, Prices};
use crate::scale::remaining::{RemainingTask, Stage};

/// Token: the number of tasks that could run at once within the horizon, found by moving tokens
/// along the graph.
#[derive(Clone, Copy, Debug)]
pub struct TokenPolicy {
    /// Seconds between decisions.
    pub tick: f64,
}

impl Policy for TokenPolicy {
    fn name(&self) -> &str {
        "token"
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let rest = RemainingNodes::of(seen, estimates);
        let (tasks, seconds) = rest.critical_path();
        let horizon = self.tick + estimates.delay(NodeTypeId(0)).q50;
        let depth = if seconds > 0.0 { (horizon * tasks as f64 / seconds).ceil().min(1e6) as usize } else { 0 };
        let most = rest.most_tokens(depth);
        let target = nodes(most as f64 / slots_per_node(seen, prices));
        Target::plain(target, format!("{most} tasks can run at once within {depth} steps"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Plan: packs tasks on processors over the next interval, and requests as many processors as that
/// takes.
#[derive(Clone, Copy, Debug)]
pub struct PlanPolicy {
    /// Seconds between decisions.
    pub tick: f64,
}

impl Policy for PlanPolicy {
    fn name(&self) -> &str {
        "plan"
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let rest = RemainingNodes::of(seen, estimates);
        let horizon = self.tick + estimates.delay(NodeTypeId(0)).q50;
        let processors = rest.pack(horizon);
        let target = nodes(processors as f64 / slots_per_node(seen, prices));
        Target::plain(target, format!("{processors} processors are used within {horizon:.0} s"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// What remains of a graph, by node.
struct RemainingNodes<'a> {
    graph: &'a TaskGraph,
    /// Remaining tasks with their remaining seconds; joins are not included.
    tasks: FxHashMap<u32, f64>,
    eligible: Vec<u32>,
    running: Vec<u32>,
}

impl<'a> RemainingNodes<'a> {
    fn of(seen: &'a Observation<'_>, estimates: &Estimates) -> RemainingNodes<'a> {
        let mut rest = RemainingNodes {
            graph: seen.remaining.graph(),
            tasks: FxHashMap::default(),
            eligible: Vec::new(),
            running: Vec::new(),
        };
        seen.remaining.each(&mut |task: RemainingTask| {
            let seconds = match task.stage {
                Stage::Running(since) => estimates.rest(task.class, task.prior, seen.now.since(since)),
                _ => estimates.task(task.class, task.prior).q50,
            };
            rest.tasks.insert(task.task.0, seconds);
            match task.stage {
                Stage::Ready => rest.eligible.push(task.task.0),
                Stage::Running(_) => rest.running.push(task.task.0),
                Stage::Waiting => {}
            }
        });
        rest
    }

    /// Remaining predecessors of each node that is reached from a remaining task.
    fn waits(&self) -> FxHashMap<u32, u32> {
        let mut waits: FxHashMap<u32, u32> = FxHashMap::default();
        let mut joins: Vec<u32> = Vec::new();
        for &task in self.tasks.keys() {
            for edge in self.graph.successors(task) {
                let count = waits.entry(edge.node()).or_default();
                *count += 1;
                if *count == 1 && self.graph.join(edge.node()).is_some() {
                    joins.push(edge.node());
                }
            }
        }
        for join in joins {
            self.graph.successors(join).for_each(|edge| *waits.entry(edge.node()).or_default() += 1);
        }
        waits
    }

    /// Number of tasks on the longest chain, and its seconds.
    fn critical_path(&self) -> (usize, f64) {
        let mut waits = self.waits();
        let mut longest: FxHashMap<u32, (f64, usize)> = FxHashMap::default();
        let mut open: Vec<u32> = self.eligible.iter().chain(&self.running).copied().collect();
        let mut best = (0.0, 0);
        while let Some(node) = open.pop() {
            let (before, tasks) = longest.get(&node).copied().unwrap_or((0.0, 0));
            let own = self.tasks.get(&node);
            let here = (before + own.copied().unwrap_or(0.0), tasks + usize::from(own.is_some()));
            if here.0 > best.0 {
                best = here;
            }
            self.pass(node, &mut waits, |next, ready| {
                let entry = longest.entry(next).or_insert((0.0, 0));
                if here.0 > entry.0 {
                    *entry = here;
                }
                if ready {
                    open.push(next);
                }
            });
        }
        (best.1, best.0)
    }

    /// Most tokens on the graph over `depth` steps.
    fn most_tokens(&self, depth: usize) -> usize {
        let mut waits = self.waits();
        let mut holding: Vec<u32> = self.eligible.iter().chain(&self.running).copied().collect();
        let mut most = holding.len();
        for _ in 0..depth {
            let mut next_holding = Vec::new();
            let mut open = std::mem::take(&mut holding);
            while let Some(node) = open.pop() {
                self.pass(node, &mut waits, |next, ready| {
                    if ready && self.graph.join(next).is_some() {
                        open.push(next);
                    } else if ready {
                        next_holding.push(next);
                    }
                });
            }
            if next_holding.is_empty() {
                break;
            }
            most = most.max(next_holding.len());
            holding = next_holding;
        }
        most
    }

    /// Packs running and eligible tasks, and what they make eligible, on processors: each on the
    /// one that is free first, or on a new one if that is free only after the horizon. Returns the
    /// processors used.
    fn pack(&self, horizon: f64) -> usize {
        let mut waits = self.waits();
        let mut free: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        // Times as the bits of a positive float, which sort as the float does.
        let mut open: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
        let mut used = 0;
        for &task in self.running.iter().chain(&self.eligible) {
            open.push(Reverse((0.0f64.to_bits(), task)));
        }
        while let Some(Reverse((bits, node))) = open.pop() {
            let at = f64::from_bits(bits);
            if at >= horizon {
                break;
            }
            let mut end = at;
            if let Some(&seconds) = self.tasks.get(&node) {
                let first = free.peek().map(|Reverse(bits)| f64::from_bits(*bits)).filter(|free| *free < horizon);
                let start = match first {
                    Some(first) => {
                        free.pop();
                        first.max(at)
                    }
                    None => {
                        used += 1;
                        at
                    }
                };
                end = start + seconds.max(0.0);
                free.push(Reverse(end.to_bits()));
            }
            self.pass(node, &mut waits, |next, ready| {
                if ready {
                    open.push(Reverse((end.to_bits(), next)));
                }
            });
        }
        used
    }

    /// Counts the end of a node at its successors; calls `each` with every successor and whether
    /// that was its last open predecessor.
    fn pass(&self, node: u32, waits: &mut FxHashMap<u32, u32>, mut each: impl FnMut(u32, bool)) {
        for edge in self.graph.successors(node) {
            let Some(count) = waits.get_mut(&edge.node()) else { continue };
            *count = count.saturating_sub(1);
            each(edge.node(), *count == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::wish;
    use super::*;
    use crate::scale::testing::World;

    #[test]
    fn token_sees_a_wide_phase_only_within_its_horizon() {
        // Chain of 4 tasks of 30 s, then 40 at once; the horizon is 60 + 5 s, so ceil(65 x 5 / 150)
        // = 3 steps.
        let world = World::phases(&[1, 1, 1, 1, 40], 30.0);
        assert_eq!(wish(&mut TokenPolicy { tick: 5.0 }, &world).ranks, 1);
        let world = World::phases(&[1, 1, 1, 40], 30.0);
        assert_eq!(wish(&mut TokenPolicy { tick: 5.0 }, &world).ranks, 10);
    }

    #[test]
    fn plan_packs_short_tasks_on_few_processors() {
        // 40 tasks of 6.5 s: ten on each processor in 65 s.
        assert_eq!(wish(&mut PlanPolicy { tick: 5.0 }, &World::bag(40, 6.5)).ranks, 1);
        // 40 tasks of 100 s: a processor each.
        assert_eq!(wish(&mut PlanPolicy { tick: 5.0 }, &World::bag(40, 100.0)).ranks, 10);
        assert_eq!(wish(&mut PlanPolicy { tick: 5.0 }, &World::chain(100, 10.0)).ranks, 1);
    }
}
