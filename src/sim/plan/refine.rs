//! Which numbers of ranks are simulated, and the interpolation between them.
//!
//! A makespan relative to its bound (the longest chain, or the work on all slots) changes little
//! from one number of ranks to the next, and the bill follows from it. So for a large job the ends
//! and the quarters of the range are simulated, and then the middle of each stretch. If the middle
//! agrees with its ends, numbers between are interpolated; otherwise both halves are refined.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::{Bound, MIN_RATIO_LIMITED, PlanCandidate, PlanQuestion, PlannedStaging, candidate, keeps};
use crate::job::{Cost, Scaling};
use crate::sim::simulation::{Floor, Simulation, SimulationError, SimulationOutcome};
use crate::sim::simulator::{Forget, Simulator};
use crate::workload::PreparedJob;

/// Maximum difference, as a share, between a simulated and an interpolated result: about the
/// variation between seeds.
const MAX_INTERPOLATION_ERROR: f64 = 0.01;

/// Number of stretches into which the range is divided at first.
const FIRST_STRETCHES: usize = 4;

/// Number of seeds per number of ranks of a large job, as long as they agree.
const MIN_SEEDS: usize = 3;

/// The simulations behind a plan.
pub(super) struct Simulations<'a> {
    question: &'a PlanQuestion<'a>,
    /// The job without limits of arrays, if it has any.
    unlimited: Option<PreparedJob>,
    scaling: Scaling,
    cost: Cost,
    /// For each seed, the lower bounds.
    pub floors: Vec<Floor>,
    /// True if the number of simulations is kept small.
    is_large: bool,
    /// Means over seeds: the longest chain, and the work of all tasks.
    chain_s: f64,
    work_s: f64,
}

impl<'a> Simulations<'a> {
    pub fn new(question: &'a PlanQuestion<'a>, seeds: u64, is_large: bool) -> Simulations<'a> {
        let PlanQuestion { prepared, cluster, seed, .. } = *question;
        let floors: Vec<Floor> =
            (0..seeds).into_par_iter().map(|n| Floor::of(prepared, cluster, seed.wrapping_add(n))).collect();
        let mean = |of: fn(&Floor) -> f64| floors.iter().map(of).sum::<f64>() / seeds.max(1) as f64;
        // Without a cap: a plan shows what a run would cost, and the verdict evaluates it.
        let cost = Cost { budget: None, budget_per_hour: None, deadline: None, ..question.cost.clone() };
        let (chain_s, work_s) = (mean(|floor| floor.critical_path_s), mean(|floor| floor.work_s));
        let unlimited = (!prepared.pools.is_empty()).then(|| unlimited(prepared));
        Simulations { question, unlimited, scaling: Scaling::default(), cost, floors, is_large, chain_s, work_s }
    }

    /// Number of events of a simulation with the largest number of ranks.
    pub fn most_events(&self) -> Result<u64, SimulationError> {
        let PlanQuestion { prepared, cluster, ranks, .. } = *self.question;
        let most = ranks.last().copied().unwrap_or(1);
        let homes = Simulator::homes(prepared, cluster, most).map_err(SimulationError::Refused)?;
        Ok(self.run(prepared, most, &homes, 0)?.ended.events)
    }

    /// One candidate for each number of ranks, ascending: all simulated, or some interpolated.
    pub fn candidates(&self) -> Result<Vec<PlanCandidate>, SimulationError> {
        let ranks = self.question.ranks;
        let last = ranks.len().saturating_sub(1);
        let mut known: BTreeMap<usize, PlanCandidate> = BTreeMap::new();
        if !self.is_large || last <= FIRST_STRETCHES {
            self.simulate((0..ranks.len()).collect(), &mut known)?;
            return Ok(known.into_values().collect());
        }
        let mut corners: Vec<usize> = (0..=FIRST_STRETCHES).map(|k| k * last / FIRST_STRETCHES).collect();
        corners.dedup();
        self.simulate(corners.clone(), &mut known)?;
        let mut open: Vec<(usize, usize)> = corners.windows(2).map(|pair| (pair[0], pair[1])).collect();
        while !open.is_empty() {
            open.retain(|(low, high)| high - low > 1);
            let middle = |(low, high): &(usize, usize)| low.midpoint(*high);
            self.simulate(open.iter().map(middle).collect(), &mut known)?;
            let halves = open.iter().flat_map(|stretch| [(stretch.0, middle(stretch)), (middle(stretch), stretch.1)]);
            let is_open = |half: &(usize, usize)| {
                let stretch = open.iter().find(|s| s.0 <= half.0 && half.1 <= s.1);
                stretch.is_some_and(|stretch| {
                    !self.is_even(&known[&stretch.0], &known[&middle(stretch)], &known[&stretch.1])
                })
            };
            open = halves.filter(is_open).collect();
        }
        Ok((0..ranks.len()).filter_map(|at| self.known_or_between(at, &known)).collect())
    }

    /// Simulates some numbers of ranks with all seeds; for a large job with few where they agree.
    fn simulate(&self, numbers: Vec<usize>, known: &mut BTreeMap<usize, PlanCandidate>) -> Result<(), SimulationError> {
        let PlanQuestion { prepared, cluster, ranks, .. } = *self.question;
        // The partitioner must not be called by two threads at once.
        let homes: Vec<Vec<u32>> = numbers
            .iter()
            .map(|&at| Simulator::homes(prepared, cluster, ranks[at]).map_err(SimulationError::Refused))
            .collect::<Result<_, _>>()?;
        let all = self.floors.len();
        let few = if self.is_large { MIN_SEEDS.min(all) } else { all };
        let trials = |of: &[usize], seeds: Range<usize>| -> Result<Vec<(usize, SimulationOutcome)>, SimulationError> {
            let pairs: Vec<(usize, usize)> = of.iter().flat_map(|&k| seeds.clone().map(move |n| (k, n))).collect();
            pairs.into_par_iter().map(|(k, n)| Ok((k, self.run(prepared, ranks[numbers[k]], &homes[k], n)?))).collect()
        };
        let mut outcomes: Vec<Vec<SimulationOutcome>> = vec![Vec::new(); numbers.len()];
        let everything: Vec<usize> = (0..numbers.len()).collect();
        trials(&everything, 0..few)?.into_iter().for_each(|(k, outcome)| outcomes[k].push(outcome));
        let apart: Vec<usize> = everything.into_iter().filter(|&k| !agree(&outcomes[k])).collect();
        trials(&apart, few..all)?.into_iter().for_each(|(k, outcome)| outcomes[k].push(outcome));
        for (k, (&at, outcomes)) in numbers.iter().zip(&outcomes).enumerate() {
            let unlimited =
                self.unlimited.as_ref().map(|prepared| self.run(prepared, ranks[at], &homes[k], 0)).transpose()?;
            let ratio = |unlimited: SimulationOutcome| outcomes[0].makespan_s() / unlimited.makespan_s().max(1e-9);
            let is_limited = unlimited.is_some_and(|unlimited| ratio(unlimited) > MIN_RATIO_LIMITED);
            known.insert(at, candidate(self.question, ranks[at], outcomes, is_limited));
        }
        Ok(())
    }

    /// One run on `ranks` ranks, with the `n`-th seed.
    fn run(
        &self,
        prepared: &PreparedJob,
        ranks: u32,
        homes: &[u32],
        n: usize,
    ) -> Result<SimulationOutcome, SimulationError> {
        let PlanQuestion { cluster, seed, .. } = *self.question;
        let (ranks, homes, seed) = (Some(ranks), Some(homes), seed.wrapping_add(n as u64));
        let floor = Some(self.floors[n]);
        let first = Simulation::new(prepared, cluster, "fixed", (&self.scaling, &self.cost));
        Simulation { ranks, homes, seed, floor, ..first }.run(&mut Forget)
    }

    /// True if the middle candidate agrees with the interpolation of the others.
    fn is_even(&self, low: &PlanCandidate, middle: &PlanCandidate, high: &PlanCandidate) -> bool {
        let said = self.between(middle.ranks, low, high);
        let is_close = |a: f64, b: f64| (a - b).abs() <= MAX_INTERPOLATION_ERROR * b.abs();
        is_close(said.makespan_q50_s, middle.makespan_q50_s)
            && is_close(said.makespan_q90_s, middle.makespan_q90_s)
            && is_close(said.cost, middle.cost)
    }

    fn known_or_between(&self, at: usize, known: &BTreeMap<usize, PlanCandidate>) -> Option<PlanCandidate> {
        let (before, low) = known.range(..=at).next_back()?;
        match *before == at {
            true => Some(low.clone()),
            false => Some(self.between(self.question.ranks[at], low, known.range(at..).next()?.1)),
        }
    }

    /// Lower bounds of the makespan on `ranks` ranks: the longest chain, and the work on all slots.
    fn bounds(&self, ranks: u32) -> (f64, f64) {
        (self.chain_s, self.work_s / self.question.cluster.first_speed(ranks).max(1e-9))
    }

    /// Interpolates a candidate between two others, in results relative to the bounds.
    fn between(&self, ranks: u32, low: &PlanCandidate, high: &PlanCandidate) -> PlanCandidate {
        let place = |ranks: u32| f64::from(ranks).ln();
        let share = (place(ranks) - place(low.ranks)) / (place(high.ranks) - place(low.ranks)).max(1e-9);
        let mix = |of: &dyn Fn(&PlanCandidate) -> f64| of(low) + share * (of(high) - of(low));
        let bound = |ranks: u32| {
            let (chain, slots) = self.bounds(ranks);
            chain.max(slots).max(1e-9)
        };
        let makespan = |of: fn(&PlanCandidate) -> f64| bound(ranks) * mix(&|c| of(c) / bound(c.ranks));
        let makespan_q50_s = makespan(|c| c.makespan_q50_s);
        // Bills and node-seconds are proportional to nodes and makespan, except for rounding.
        let price = |ranks: u32| self.question.cluster.first_price(ranks).max(1e-12);
        let bill = |of: fn(&PlanCandidate) -> f64| {
            price(ranks) * makespan_q50_s * mix(&|c| of(c) / (price(c.ranks) * c.makespan_q50_s.max(1e-9)))
        };
        let (makespan_q90_s, cost_q90) = (makespan(|c| c.makespan_q90_s), bill(|c| c.cost_q90));
        let held = mix(&|c| c.billed_node_s / (f64::from(c.ranks) * c.makespan_q50_s.max(1e-9)));
        let (chain, slots) = self.bounds(ranks);
        PlanCandidate {
            ranks,
            makespan_q50_s,
            makespan_q10_s: makespan(|c| c.makespan_q10_s),
            makespan_q90_s,
            billed_node_s: held * f64::from(ranks) * makespan_q50_s,
            cost: bill(|c| c.cost),
            cost_q90,
            utilisation: mix(&|c| c.utilisation),
            bound: Bound::of(makespan_q50_s, chain, slots, low.bound == Bound::Limit),
            pareto: false,
            feasible: keeps(self.question, makespan_q90_s, cost_q90, ranks),
            staging: low.staging.zip(high.staging).map(|(low, high)| PlannedStaging::between(&low, &high, share)),
            simulated: false,
        }
    }
}

/// The job without pools and limits of arrays.
fn unlimited(prepared: &PreparedJob) -> PreparedJob {
    let mut job = (*prepared.job).clone();
    job.groups.iter_mut().for_each(|group| group.limit = None);
    job.pools.iter_mut().for_each(|pool| (pool.capacity, pool.rate) = (None, None));
    prepared.with_job(job)
}

/// True if makespans and bills differ so little that further seeds would add nothing.
fn agree(outcomes: &[SimulationOutcome]) -> bool {
    let is_close = |of: &dyn Fn(&SimulationOutcome) -> f64| {
        let values = || outcomes.iter().map(of);
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        most - least <= MAX_INTERPOLATION_ERROR * most
    };
    is_close(&SimulationOutcome::makespan_s) && is_close(&|outcome| outcome.bill)
}
