//! Ranks against makespan and cost, before the run: each number of ranks is simulated with several
//! seeds.
//!
//! What is planned is a run with so many ranks from the beginning to the end, as one allocation
//! gives them. Times in queues are not part of it. Quantiles are over seeds: they say how far the
//! tasks' own scatter reaches, not how wrong the estimates in the job file are.
//!
//! Of large jobs only some numbers are simulated, and the figures of those between are interpolated
//! as long as that is right (`refine`).

mod picture;
mod refine;
mod wishes;

use std::time::Duration;

use serde::Serialize;

use super::cluster::Cluster;
use super::simulation::{Floor, SimulationError, SimulationOutcome};
use crate::job::Cost;
use crate::scale::price::{CapacityNeed, Mix, cheapest_mix};
use crate::workload::PreparedJob;

pub use picture::svg;
pub use wishes::Verdict;

/// About so many tasks are simulated for a plan; more seeds are tried where runs are small.
const EFFORT: u64 = 3_000_000;

/// Least and most seeds for each number of ranks.
const SEEDS: (u64, u64) = (5, 41);

/// A ratio of makespan and bound above which neither the chain nor the slots alone explain it.
const NEAR: f64 = 1.15;

/// What is planned.
#[derive(Clone, Copy)]
pub struct PlanQuestion<'a> {
    /// The job.
    pub scene: &'a PreparedJob,
    /// Where it runs.
    pub cluster: &'a Cluster,
    /// Budget and deadline.
    pub cost: &'a Cost,
    /// Numbers of ranks to look at, ascending.
    pub ranks: &'a [u32],
    /// The first seed.
    pub seed: u64,
    /// What one percent of time is worth in percent of money, as a weight from 0 to 1.
    pub time_weight: f64,
}

/// What stands in the way of an earlier end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The longest chain of tasks: more ranks do not help.
    CriticalPath,
    /// The slots: more ranks help.
    Slots,
    /// The way in which wide and narrow parts of the graph follow each other.
    Shape,
}

impl Bound {
    /// What stands in the way where the longest chain, and the work on all slots, take such times.
    fn of(makespan: f64, chain: f64, slots: f64) -> Bound {
        match makespan {
            makespan if makespan > NEAR * chain.max(slots) => Bound::Shape,
            _ if chain > slots => Bound::CriticalPath,
            _ => Bound::Slots,
        }
    }

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Bound::CriticalPath => "critical path",
            Bound::Slots => "slots",
            Bound::Shape => "shape of the graph",
        }
    }
}

/// What a number of ranks comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanCandidate {
    /// So many ranks, one on each node.
    pub ranks: u32,
    /// Seconds from beginning to end: median.
    pub makespan_q50_s: f64,
    /// The same: one case in ten ends sooner. From here to `makespan_q90_s` lie eight of ten.
    pub makespan_q10_s: f64,
    /// The same in nine of ten cases.
    pub makespan_q90_s: f64,
    /// Node-seconds held: median.
    pub billed_node_s: f64,
    /// The bill: median.
    pub cost: f64,
    /// The same in nine of ten cases.
    pub cost_q90: f64,
    /// Share of the slots' time in which tasks run, 0 to 1.
    pub utilisation: f64,
    /// What stands in the way of an earlier end.
    pub bound: Bound,
    /// True if no other is both faster and cheaper.
    pub pareto: bool,
    /// True if it keeps deadline and budget in nine of ten cases.
    pub feasible: bool,
    /// False if it was not simulated but lies between two that were, and is interpolated.
    pub simulated: bool,
}

/// The trade-offs, and what follows from them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// One for each number of ranks, ascending.
    pub candidates: Vec<PlanCandidate>,
    /// Which of them is recommended: of the feasible ones the best trade.
    pub recommended: Option<u32>,
    /// The cheapest nodes with as many slots for as long, if there are nodes of several types and
    /// these cost less than those of the first type.
    pub mix: Option<Mix>,
    /// What deadline and budget allow.
    pub verdict: Verdict,
    /// Seconds of the longest chain of tasks.
    pub critical_path_s: f64,
    /// Work of all tasks, in seconds summed over slots.
    pub work_s: f64,
    /// Most seeds tried for each number of ranks; of large jobs fewer are where they agree.
    pub seeds: u64,
}

/// Numbers between two bounds: all of them where they are few, else in steps that grow.
pub fn ranks_between(least: u32, most: u32) -> Vec<u32> {
    const ALL: u32 = 16;
    let mut numbers: Vec<u32> = (least..=most.min(least.saturating_add(ALL - 1))).collect();
    while let Some(&last) = numbers.last().filter(|last| **last < most) {
        // About six numbers for each doubling.
        numbers.push((last + (last / 8).max(1)).min(most));
    }
    numbers
}

/// Plans.
///
/// # Errors
/// If a task fits on none of the ranks.
pub fn plan(question: &PlanQuestion<'_>) -> Result<Plan, SimulationError> {
    let each = u64::from(question.scene.tasks().max(1)) * question.ranks.len().max(1) as u64;
    let seeds = (EFFORT / each).clamp(SEEDS.0, SEEDS.1);
    let is_large = EFFORT / each < SEEDS.0;
    let simulations = refine::Simulations::new(question, seeds, is_large);
    let mut candidates = simulations.candidates()?;
    mark_pareto(&mut candidates);
    let mean = |of: fn(&Floor) -> f64| simulations.floors.iter().map(of).sum::<f64>() / seeds as f64;
    let critical_path_s = mean(|floor| floor.critical_path_s);
    let recommended = wishes::best(question, &candidates);
    Ok(Plan {
        mix: candidates.iter().find(|c| Some(c.ranks) == recommended).and_then(|c| mix(question, c)),
        recommended,
        verdict: Verdict::of(question, &candidates, critical_path_s),
        candidates,
        critical_path_s,
        work_s: mean(|floor| floor.work_s),
        seeds,
    })
}

fn candidate(question: &PlanQuestion<'_>, ranks: u32, outcomes: &[SimulationOutcome]) -> PlanCandidate {
    let quantile = |of: &dyn Fn(&SimulationOutcome) -> f64, q: f64| {
        let mut values: Vec<f64> = outcomes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        // The k-th of n values has k of n + 1 further ones below it on average; rounded away from
        // the median, to promise rather too little.
        let at = (values.len() + 1) as f64 * q;
        let at = if q < 0.5 { at.floor() } else { at.ceil() } as usize;
        values.get(at.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0.0)
    };
    let makespan_q50_s = quantile(&SimulationOutcome::makespan_s, 0.5);
    let chain = quantile(&|o| o.floor.critical_path_s, 0.5);
    let slots = quantile(&|o| o.floor.work_s, 0.5) / question.cluster.first_speed(ranks);
    let (makespan_q90_s, cost_q90) = (quantile(&SimulationOutcome::makespan_s, 0.9), quantile(&|o| o.bill, 0.9));
    PlanCandidate {
        ranks,
        makespan_q50_s,
        makespan_q10_s: quantile(&SimulationOutcome::makespan_s, 0.1),
        makespan_q90_s,
        billed_node_s: quantile(&|o| o.billed_node_s, 0.5),
        cost: quantile(&|o| o.bill, 0.5),
        cost_q90,
        utilisation: quantile(&|o| o.utilisation, 0.5),
        bound: Bound::of(makespan_q50_s, chain, slots),
        pareto: false,
        feasible: keeps(question, makespan_q90_s, cost_q90, ranks),
        simulated: true,
    }
}

/// The cheapest nodes that do what a candidate's do.
fn mix(question: &PlanQuestion<'_>, candidate: &PlanCandidate) -> Option<Mix> {
    if question.cluster.nodes.len() < 2 {
        return None;
    }
    let need = CapacityNeed {
        slots: question.cluster.first_speed(candidate.ranks),
        hold: Duration::from_secs_f64(candidate.makespan_q50_s),
        most_nodes: None,
        budget: question.cost.budget,
    };
    let found = cheapest_mix(&need, &question.cluster.prices(question.cost)).ok()?;
    (found.cost < candidate.cost).then_some(found)
}

/// True if deadline, budget and hourly budget are kept.
fn keeps(question: &PlanQuestion<'_>, makespan_s: f64, bill: f64, ranks: u32) -> bool {
    let hourly = question.cluster.first_price(ranks);
    question.cost.deadline.is_none_or(|deadline| Duration::from_secs_f64(makespan_s) <= deadline)
        && question.cost.budget.is_none_or(|budget| bill <= budget)
        && question.cost.budget_per_hour.is_none_or(|most| hourly <= most)
}

/// Differences below this share are none: they come from the seeds.
const SAME: f64 = 0.005;

fn mark_pareto(candidates: &mut [PlanCandidate]) {
    let beats = |a: &PlanCandidate, b: &PlanCandidate| {
        let (time, cost) = (a.makespan_q50_s / b.makespan_q50_s.max(1e-9), a.cost / b.cost.max(1e-12));
        time <= 1.0 + SAME && cost <= 1.0 + SAME && (time < 1.0 - SAME || cost < 1.0 - SAME)
    };
    let pareto: Vec<bool> = candidates.iter().map(|c| !candidates.iter().any(|other| beats(other, c))).collect();
    candidates.iter_mut().zip(pareto).for_each(|(c, pareto)| c.pareto = pareto);
}

#[cfg(test)]
mod tests;
