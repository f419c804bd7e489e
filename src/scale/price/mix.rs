//! The cheapest nodes for a need, as an integer program: how many of each type provide the slots
//! within the limits and the budget at the least cost.
//!
//! An infeasible need is an error that names the constraint and the nearest feasible mix.

use std::time::Duration;

use microlp::{ComparisonOp, OptimizationDirection, Problem, Variable};
use serde::{Deserialize, Serialize};

use super::{NodeType, NodeTypeId, Prices};

/// Requirements on the nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapacityNeed {
    /// Slots, in slots of the reference node of the estimates (a node twice as fast counts twice).
    pub slots: f64,
    /// How long the nodes will be held.
    pub hold: Duration,
    /// Upper limit on the number of nodes.
    pub most_nodes: Option<u32>,
    /// Upper limit on the cost.
    pub budget: Option<f64>,
}

/// Number of nodes of each type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// Nodes by type; types with none are omitted.
    pub nodes: Vec<(NodeTypeId, u32)>,
    /// Their slots, counted as in [`CapacityNeed::slots`].
    pub slots: f64,
    /// Cost of holding them for the given time.
    pub cost: f64,
}

/// A need that cannot be met.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{wish} cannot be had: {why}; the nearest is {:.0} slots for {:.2}", nearest.slots, nearest.cost)]
pub struct Infeasible {
    /// What was requested.
    pub wish: String,
    /// The constraint that prevents it.
    pub why: String,
    /// The mix with the most slots that is possible.
    pub nearest: Mix,
}

/// Upper limit on nodes per type in the search.
const MAX_NODES: u32 = 1_000_000;

/// Finds the cheapest mix of nodes that meets a need.
///
/// # Errors
/// If limits or budget prevent it, with the mix of the most slots that they allow.
pub fn cheapest_mix(need: &CapacityNeed, prices: &Prices) -> Result<Mix, Infeasible> {
    let program = Program { need, prices };
    if let Some(mix) = program.solve(OptimizationDirection::Minimize, need.budget) {
        return Ok(mix);
    }
    let nearest = program.solve(OptimizationDirection::Maximize, need.budget);
    let nearest = nearest.unwrap_or(Mix { nodes: Vec::new(), slots: 0.0, cost: 0.0 });
    let why = match program.solve(OptimizationDirection::Minimize, None) {
        Some(mix) => format!("it would cost {:.2}, and {:.2} may be spent", mix.cost, need.budget.unwrap_or(0.0)),
        None => "there are not enough nodes".to_owned(),
    };
    let wish = format!("{:.0} slots for {:.0} s", need.slots, need.hold.as_secs_f64());
    Err(Infeasible { wish, why, nearest })
}

/// The integer program: one variable for the number of nodes of each type.
struct Program<'a> {
    need: &'a CapacityNeed,
    prices: &'a Prices,
}

impl Program<'_> {
    /// Minimises the cost of meeting the need, or maximises the slots without it; `None` if there
    /// is no solution.
    fn solve(&self, direction: OptimizationDirection, budget: Option<f64>) -> Option<Mix> {
        let least_cost = matches!(direction, OptimizationDirection::Minimize);
        let mut problem = Problem::new(direction);
        let bill = |node: &NodeType| node.bill(self.need.hold);
        let variables: Vec<Variable> = self
            .prices
            .nodes
            .iter()
            .map(|node| {
                let aim = if least_cost { bill(node) } else { node.capacity() };
                let most =
                    node.limit.unwrap_or(MAX_NODES).min(self.need.most_nodes.unwrap_or(MAX_NODES)).min(MAX_NODES);
                problem.add_integer_var(aim, (0, most as i32))
            })
            .collect();
        let sum = |of: &dyn Fn(&NodeType) -> f64| -> Vec<(Variable, f64)> {
            variables.iter().copied().zip(self.prices.nodes.iter().map(of)).collect()
        };
        if least_cost {
            problem.add_constraint(sum(&NodeType::capacity), ComparisonOp::Ge, self.need.slots);
        }
        if let Some(most) = self.need.most_nodes {
            problem.add_constraint(sum(&|_| 1.0), ComparisonOp::Le, f64::from(most));
        }
        if let Some(budget) = budget {
            problem.add_constraint(sum(&bill), ComparisonOp::Le, budget);
        }
        let solution = problem.solve().ok()?.into_solution().ok()?;
        let counts = variables.iter().map(|&v| solution.var_value(v).round().max(0.0) as u32);
        Some(self.mix(counts.collect()))
    }

    fn mix(&self, counts: Vec<u32>) -> Mix {
        let with = || counts.iter().zip(&self.prices.nodes);
        Mix {
            slots: with().map(|(&n, node)| f64::from(n) * node.capacity()).sum(),
            cost: with().map(|(&n, node)| f64::from(n) * node.bill(self.need.hold)).sum(),
            nodes: (0..).map(NodeTypeId).zip(counts.iter().copied()).filter(|(_, n)| *n > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;

    fn prices() -> Prices {
        let node = |name: &str, slots, node_hour, limit| NodeType {
            name: name.into(),
            slots,
            speed: 1.0,
            node_hour,
            minimum: Duration::ZERO,
            granularity: Duration::from_secs(1),
            limit,
            memory: None,
            gpus: None,
        };
        // Per slot the big node is cheapest, the small one dearest; only one big node is available.
        let nodes = vec![node("small", 4, 1.0, None), node("middle", 8, 1.9, None), node("big", 64, 8.0, Some(1))];
        Prices { nodes, ..Prices::of_job(&Cost::default(), 1) }
    }

    fn need(slots: f64) -> CapacityNeed {
        CapacityNeed { slots, hold: Duration::from_secs(3600), most_nodes: None, budget: None }
    }

    /// All mixes of up to 12 of each type.
    fn by_trying(slots: f64, prices: &Prices) -> f64 {
        let mut best = f64::INFINITY;
        for small in 0..=12u32 {
            for middle in 0..=12u32 {
                for big in 0..=1u32 {
                    let has = small * 4 + middle * 8 + big * 64;
                    let counts = [small, middle, big];
                    let cost = counts.iter().zip(&prices.nodes).map(|(&n, t)| f64::from(n) * t.node_hour).sum();
                    if f64::from(has) >= slots {
                        best = best.min(cost);
                    }
                }
            }
        }
        best
    }

    #[test]
    fn it_is_the_cheapest() {
        let prices = prices();
        for slots in [1.0, 4.0, 12.0, 20.0, 33.0, 60.0, 64.0, 70.0, 90.0] {
            let mix = cheapest_mix(&need(slots), &prices).unwrap();
            assert!(mix.slots >= slots && (mix.cost - by_trying(slots, &prices)).abs() < 1e-6, "{slots}: {mix:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_with_the_nearest() {
        let prices = prices();
        let poor = CapacityNeed { budget: Some(5.0), ..need(64.0) };
        let error = cheapest_mix(&poor, &prices).unwrap_err();
        assert!(error.nearest.cost <= 5.0 && error.nearest.slots >= 20.0, "{error:?}");
        assert!(error.to_string().contains("may be spent"), "{error}");
        let crowded = CapacityNeed { most_nodes: Some(2), ..need(100.0) };
        let error = cheapest_mix(&crowded, &prices).unwrap_err();
        assert_eq!(error.nearest.slots, 72.0, "{error}");
        assert!(error.to_string().contains("not enough nodes"), "{error}");
    }
}
