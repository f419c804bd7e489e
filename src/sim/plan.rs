//! Plans the number of ranks before a run: simulates each number with several seeds, and reports
//! makespan and cost.
//!
//! A planned run has the same number of ranks throughout, as one allocation provides. Queue times
//! are not included. Quantiles are over seeds: they show the effect of the tasks' random variation,
//! not of errors in the job file's estimates.
//!
//! For large jobs only some numbers are simulated, and results between them are interpolated where
//! that is accurate (`refine`).

mod levers;
mod picture;
mod refine;
mod wishes;

use std::time::Duration;

use serde::Serialize;

use super::cluster::Cluster;
use super::simulation::{Floor, SimulationError, SimulationOutcome};
use super::simulator::Simulator;
use crate::job::Cost;
use crate::model::StageUse;
use crate::scale::price::{CapacityNeed, Mix, STOP_MARGIN, cheapest_mix};
use crate::workload::PreparedJob;

pub use levers::{Lever, LeverChange};
pub use picture::svg;
pub use wishes::Verdict;

/// Approximate number of tasks simulated for a plan; small runs get more seeds.
const TASKS_PER_PLAN: u64 = 3_000_000;

/// Approximate number of events simulated for a plan: where ranks wait for long, there are many
/// more of them than tasks.
const EVENTS_PER_PLAN: u64 = 10_000_000;

/// Minimum and maximum number of seeds per number of ranks.
const SEEDS: (u64, u64) = (5, 41);

/// Ratio of makespan and bound above which neither the chain nor the slots alone explain the
/// makespan.
const MAX_RATIO_EXPLAINED: f64 = 1.15;

/// Ratio of makespans with and without limits of arrays, for one seed, above which the limits count
/// as the cause.
const MIN_RATIO_LIMITED: f64 = 1.05;

/// The input of a plan.
#[derive(Clone, Copy)]
pub struct PlanQuestion<'a> {
    /// The job.
    pub prepared: &'a PreparedJob,
    /// The cluster that it runs on.
    pub cluster: &'a Cluster,
    /// Budget and deadline.
    pub cost: &'a Cost,
    /// Numbers of ranks to consider, ascending.
    pub ranks: &'a [u32],
    /// The first seed.
    pub seed: u64,
    /// Weight of time against money, 0 to 1, as an exchange rate between percentages.
    pub time_weight: f64,
}

/// What limits the makespan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The longest chain of tasks: more ranks do not help.
    CriticalPath,
    /// The slots: more ranks help.
    Slots,
    /// The limit of an array: more ranks do not help.
    Limit,
    /// The shape of the graph: the order of its wide and narrow parts.
    Shape,
}

impl Bound {
    /// The limit, given the times of the longest chain and of the work on all slots, and whether
    /// the limits of arrays make the run longer.
    fn of(makespan: f64, chain: f64, slots: f64, is_limited: bool) -> Bound {
        match makespan {
            _ if is_limited => Bound::Limit,
            makespan if makespan > MAX_RATIO_EXPLAINED * chain.max(slots) => Bound::Shape,
            _ if chain > slots => Bound::CriticalPath,
            _ => Bound::Slots,
        }
    }

    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Bound::CriticalPath => "critical path",
            Bound::Slots => "slots",
            Bound::Limit => "limit of an array",
            Bound::Shape => "shape of the graph",
        }
    }
}

/// What a run moves for its staged tasks: bytes by path, as docs/data.md names them, and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PlannedStaging {
    /// Bytes of inputs that are read in the directory of the job.
    pub read_bytes: f64,
    /// Bytes of inputs that the node has.
    pub local_bytes: f64,
    /// Bytes of temporary inputs that come from other nodes.
    pub fetched_bytes: f64,
    /// Bytes of outputs that are written to the directory of the job.
    pub written_bytes: f64,
    /// Time that all tasks together wait for their inputs, in seconds.
    pub in_s: f64,
    /// Time that the outputs of all tasks take, in seconds.
    pub out_s: f64,
}

impl PlannedStaging {
    /// The medians of several runs; `None` if no task is staged.
    fn of(outcomes: &[SimulationOutcome]) -> Option<PlannedStaging> {
        let uses: Vec<StageUse> = outcomes.iter().filter_map(|outcome| outcome.ended.staging).collect();
        let median = |of: &dyn Fn(&StageUse) -> f64| {
            let mut values: Vec<f64> = uses.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        (!uses.is_empty()).then(|| PlannedStaging {
            read_bytes: median(&|used| used.read as f64),
            local_bytes: median(&|used| used.local as f64),
            fetched_bytes: median(&|used| used.fetched as f64),
            written_bytes: median(&|used| used.written as f64),
            in_s: median(&|used| used.in_s),
            out_s: median(&|used| used.out_s),
        })
    }

    /// What lies between two, with this share of the second one.
    fn between(low: &PlannedStaging, high: &PlannedStaging, share: f64) -> PlannedStaging {
        let mix = |of: fn(&PlannedStaging) -> f64| of(low) + share * (of(high) - of(low));
        PlannedStaging {
            read_bytes: mix(|staging| staging.read_bytes),
            local_bytes: mix(|staging| staging.local_bytes),
            fetched_bytes: mix(|staging| staging.fetched_bytes),
            written_bytes: mix(|staging| staging.written_bytes),
            in_s: mix(|staging| staging.in_s),
            out_s: mix(|staging| staging.out_s),
        }
    }
}

/// The prediction for a number of ranks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanCandidate {
    /// Number of ranks, one on each node.
    pub ranks: u32,
    /// Makespan in seconds: median.
    pub makespan_q50_s: f64,
    /// Makespan, q10. Eight of ten cases lie between this and `makespan_q90_s`.
    pub makespan_q10_s: f64,
    /// Makespan, q90.
    pub makespan_q90_s: f64,
    /// Node-seconds held: median.
    pub billed_node_s: f64,
    /// The bill: median.
    pub cost: f64,
    /// The bill: q90.
    pub cost_q90: f64,
    /// Share of the slots' time in which tasks run, 0 to 1.
    pub utilisation: f64,
    /// What limits the makespan.
    pub bound: Bound,
    /// True if no other is both faster and cheaper.
    pub pareto: bool,
    /// True if it meets deadline and budget in nine of ten cases.
    pub feasible: bool,
    /// What is moved for staged tasks: medians; `None` if there are none.
    pub staging: Option<PlannedStaging>,
    /// False if it was not simulated but lies between two that were, and is interpolated.
    pub simulated: bool,
}

/// The candidates and the conclusions from them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// One for each number of ranks, ascending.
    pub candidates: Vec<PlanCandidate>,
    /// The recommended number of ranks: the feasible one with the best trade.
    pub recommended: Option<u32>,
    /// The cheapest nodes with as many slots for the same time, if there are several types of nodes
    /// and these cost less than those of the first type.
    pub mix: Option<Mix>,
    /// Changes of the job file that shorten the run on the recommended number of ranks, largest
    /// saving first.
    pub levers: Vec<Lever>,
    /// Whether deadline and budget can be met.
    pub verdict: Verdict,
    /// Seconds of the longest chain of tasks.
    pub critical_path_s: f64,
    /// Work of all tasks, in seconds summed over slots.
    pub work_s: f64,
    /// Maximum number of seeds per number of ranks; large jobs use fewer where results agree.
    pub seeds: u64,
    /// Why the smallest numbers of ranks asked for are not among the candidates: a task fits on
    /// none of them.
    pub too_few: Option<String>,
}

/// Numbers between two bounds: all if there are few, otherwise in growing steps.
pub fn ranks_between(least: u32, most: u32) -> Vec<u32> {
    const ALL: u32 = 16;
    let mut numbers: Vec<u32> = (least..=most.min(least.saturating_add(ALL - 1))).collect();
    while let Some(&last) = numbers.last().filter(|last| **last < most) {
        // About six numbers for each doubling.
        numbers.push((last + (last / 8).max(1)).min(most));
    }
    numbers
}

/// Makes a plan. Numbers of ranks that cannot run every task are left out.
///
/// # Errors
///
/// If a task fits on none of the ranks.
pub fn plan(question: &PlanQuestion<'_>) -> Result<Plan, SimulationError> {
    let (ranks, too_few) = enough(question)?;
    let question = &PlanQuestion { ranks, ..*question };
    let tasks = u64::from(question.prepared.tasks().max(1)) * question.ranks.len() as u64;
    let mut seeds = TASKS_PER_PLAN / tasks;
    if seeds >= SEEDS.0 {
        let events = refine::Simulations::new(question, 1, false).most_events()? * question.ranks.len() as u64;
        // The smaller numbers of ranks have fewer.
        seeds = seeds.min(2 * EVENTS_PER_PLAN / events.max(1));
    }
    let is_large = seeds < SEEDS.0;
    let seeds = seeds.clamp(SEEDS.0, SEEDS.1);
    let simulations = refine::Simulations::new(question, seeds, is_large);
    let mut candidates = simulations.candidates()?;
    mark_pareto(&mut candidates);
    let mean = |of: fn(&Floor) -> f64| simulations.floors.iter().map(of).sum::<f64>() / seeds as f64;
    let critical_path_s = mean(|floor| floor.critical_path_s);
    let recommended = wishes::best(question, &candidates);
    let chosen = candidates.iter().find(|c| Some(c.ranks) == recommended);
    Ok(Plan {
        mix: chosen.and_then(|c| mix(question, c)),
        levers: chosen.or(candidates.last()).map(|c| levers::levers(question, c)).unwrap_or_default(),
        recommended,
        verdict: Verdict::of(question, &candidates, critical_path_s),
        candidates,
        critical_path_s,
        work_s: mean(|floor| floor.work_s),
        seeds,
        too_few,
    })
}

/// The numbers of ranks that can run every task, and why there are not more.
fn enough<'a>(question: &PlanQuestion<'a>) -> Result<(&'a [u32], Option<String>), SimulationError> {
    let refusal = |&ranks: &u32| Simulator::fits(question.prepared, question.cluster, ranks).err();
    let first = question.ranks.partition_point(|ranks| refusal(ranks).is_some());
    let (few, enough) = question.ranks.split_at(first);
    let why = few.last().and_then(refusal);
    match (enough.is_empty(), why) {
        (true, Some(why)) => Err(SimulationError::Refused(why)),
        (_, why) => Ok((enough, why)),
    }
}

fn candidate(
    question: &PlanQuestion<'_>,
    ranks: u32,
    outcomes: &[SimulationOutcome],
    is_limited: bool,
) -> PlanCandidate {
    let quantile = |of: &dyn Fn(&SimulationOutcome) -> f64, q: f64| {
        let mut values: Vec<f64> = outcomes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        // On average, k of n + 1 further values are below the k-th of n. Round away from the
        // median, so that the prediction is rather too cautious.
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
        bound: Bound::of(makespan_q50_s, chain, slots, is_limited),
        pareto: false,
        feasible: keeps(question, makespan_q90_s, cost_q90, ranks),
        staging: PlannedStaging::of(outcomes),
        simulated: true,
    }
}

/// The cheapest nodes with the capacity of a candidate's nodes.
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

/// True if deadline, budget and hourly budget are met.
fn keeps(question: &PlanQuestion<'_>, makespan_s: f64, bill: f64, ranks: u32) -> bool {
    let hourly = question.cluster.first_price(ranks);
    question.cost.deadline.is_none_or(|deadline| Duration::from_secs_f64(makespan_s) <= deadline)
        && question.cost.budget.is_none_or(|budget| budget_needed(question, ranks, bill) <= budget)
        && question.cost.budget_per_hour.is_none_or(|most| hourly <= most)
}

/// The budget that a run with this bill needs: a part is kept to stop in time.
pub fn budget_needed(question: &PlanQuestion<'_>, ranks: u32, bill: f64) -> f64 {
    bill + question.cluster.first_price(ranks) / 3600.0 * STOP_MARGIN.as_secs_f64()
}

/// Differences below this share count as none: they come from the seeds.
const MIN_DIFFERENCE: f64 = 0.005;

fn mark_pareto(candidates: &mut [PlanCandidate]) {
    let beats = |a: &PlanCandidate, b: &PlanCandidate| {
        let (time, cost) = (a.makespan_q50_s / b.makespan_q50_s.max(1e-9), a.cost / b.cost.max(1e-12));
        time <= 1.0 + MIN_DIFFERENCE
            && cost <= 1.0 + MIN_DIFFERENCE
            && (time < 1.0 - MIN_DIFFERENCE || cost < 1.0 - MIN_DIFFERENCE)
    };
    let pareto: Vec<bool> = candidates.iter().map(|c| !candidates.iter().any(|other| beats(other, c))).collect();
    candidates.iter_mut().zip(pareto).for_each(|(c, pareto)| c.pareto = pareto);
}

#[cfg(test)]
mod tests;
