//! Policies of other systems and papers, **for comparison only**: the simulator compares them with
//! ours, and no job file can choose them.
//!
//! Each states its source. They are carried out literally, within bounds and budget. Seven are from
//! the survey of Ilyushkin et al., "An Experimental Performance Evaluation of Autoscaling Policies
//! for Complex Workflows" (ICPE 2017), in its terms: `L` is the load, running and queued tasks in
//! units of nodes, `C` the capacity in nodes; one decision per tick.

mod cloud;
mod load;
mod workflow;

use super::observation::Observation;
use super::policy::Policy;
use super::price::{NodeTypeId, Prices};
use crate::job::Scaling;

pub use cloud::{Dask, Dpds, Hpa, HyperQueue, Parsl};
pub use load::{Adapt, ConPaas, Hist, React, Reg};
pub use workflow::{PlanPolicy, TokenPolicy};

/// Names of the comparison policies.
pub const NAMES: [&str; 12] =
    ["react", "adapt", "hist", "reg", "conpaas", "token", "plan", "hpa", "dask", "hyperqueue", "parsl", "dpds"];

/// The comparison policy of a name.
pub fn by_name(name: &str, scaling: &Scaling) -> Option<Box<dyn Policy>> {
    let tick = scaling.interval.as_secs_f64().max(1e-3);
    Some(match name {
        "react" => Box::new(React),
        "adapt" => Box::new(Adapt::new(tick)),
        "hist" => Box::new(Hist::default()),
        "reg" => Box::new(Reg::default()),
        "conpaas" => Box::new(ConPaas::default()),
        "token" => Box::new(TokenPolicy { tick }),
        "plan" => Box::new(PlanPolicy { tick }),
        "hpa" => Box::new(Hpa::default()),
        "dask" => Box::new(Dask::default()),
        "hyperqueue" => Box::new(HyperQueue::default()),
        "parsl" => Box::new(Parsl),
        "dpds" => Box::new(Dpds::default()),
        _ => return None,
    })
}

/// Slots of a node: the mean of those there are, else of the node type that the job grows by.
fn slots_per_node(seen: &Observation<'_>, prices: &Prices) -> f64 {
    let (nodes, slots) =
        seen.ranks.iter().filter(|r| r.state.is_billed()).fold((0u32, 0u32), |(n, s), r| (n + 1, s + r.slots));
    let typical = prices.node(NodeTypeId(0)).map_or(1, |n| n.slots);
    let mean = if nodes > 0 { f64::from(slots) / f64::from(nodes) } else { f64::from(typical) };
    mean.max(1.0)
}

/// `L`: running and queued tasks in units of nodes.
fn load(seen: &Observation<'_>, prices: &Prices) -> f64 {
    (seen.counts.running + seen.counts.ready) as f64 / slots_per_node(seen, prices)
}

/// A number of nodes from a real number: rounded up, not negative.
fn nodes(value: f64) -> u32 {
    // Computed loads such as 3.0000000001 mean 3.
    if value.is_finite() { (value - 1e-9).ceil().clamp(0.0, 1e9) as u32 } else { 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::policy::Target;
    use super::*;
    use crate::job::Cost;
    use crate::model::Time;
    use crate::scale::remaining::Stage;
    use crate::scale::testing::World;

    /// A bag of tasks of which `running` run and `ready` wait.
    pub(crate) fn bag(running: u32, ready: u32, duration: f64, ranks: u32) -> World {
        let mut world = World::bag(running + ready, duration).with_ranks(ranks);
        (0..running as usize).for_each(|k| world.stages[k] = Some(Stage::Running(Time::ZERO)));
        world
    }

    pub(crate) fn wish(policy: &mut dyn Policy, world: &World) -> Target {
        let prices = Prices::of_job(&Cost { node_hour: 36.0, ..Cost::default() }, 4);
        world.see(|seen| policy.decide(seen, &world.estimates(60.0), &prices))
    }

    #[test]
    fn every_name_is_a_policy_and_none_panics() {
        for name in NAMES {
            let mut policy = by_name(name, &Scaling::default()).unwrap();
            assert_eq!(policy.name(), name);
            assert!(!policy.guarded());
            let mut world = bag(4, 60, 10.0, 2);
            for step in 0..80 {
                world.now = f64::from(step) * 15.0;
                if step == 40 {
                    world.stages.iter_mut().for_each(|s| *s = None);
                }
                if step == 60 {
                    world.ranks.clear();
                }
                assert!(wish(policy.as_mut(), &world).ranks < 10_000, "{name}");
            }
        }
        assert!(by_name("hybrid", &Scaling::default()).is_none());
    }
}
