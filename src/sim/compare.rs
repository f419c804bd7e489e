//! Compares policies, or strategies to assign tasks: the same job, cluster and random draws under
//! each.
//!
//! A policy is on the *front* if no other is both faster and cheaper.

use std::fmt::Write;

use rayon::prelude::*;
use serde::Serialize;

use super::cluster::Cluster;
use super::simulation::{Before, Simulation, SimulationError, SimulationOutcome};
use super::simulator::{Forget, Homes, Simulator};
use crate::graph::partition::Method;
use crate::job::{Cost, Scaling};
use crate::model::TaskId;
use crate::scale::NodeTypeId;
use crate::scale::balance::{BalancedRank, Balancer, Capabilities, Strategy};
use crate::workload::PreparedJob;

/// The common setup of a comparison.
#[derive(Clone, Copy)]
pub struct Comparison<'a> {
    /// The job.
    pub prepared: &'a PreparedJob,
    /// The cluster that it runs on.
    pub cluster: &'a Cluster,
    /// Bounds of scaling.
    pub scaling: &'a Scaling,
    /// Budget and deadline.
    pub cost: &'a Cost,
    /// The first seed.
    pub seed: u64,
    /// Number of seeds per policy; results are means.
    pub repeats: u64,
}

/// The mean results of a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub policy: String,
    /// Makespan in seconds.
    pub makespan_s: f64,
    /// Makespan over the longest chain.
    pub stretch: f64,
    /// The bill.
    pub bill: f64,
    /// Bill over the lower bound for the work.
    pub dearness: f64,
    /// Share of the billed slot-time in which tasks ran.
    pub utilisation: f64,
    /// Maximum number of ranks at once.
    pub peak: f64,
    /// Missing and idle resources over time, percent of the maximum (SPEC accuracy).
    pub accuracy: (f64, f64),
    /// Share of time with resources missing and idle, percent (SPEC time share).
    pub time_share: (f64, f64),
    /// Changes of supply against demand, percent of seconds (SPEC instability).
    pub instability: f64,
    /// True if no other policy is both faster and cheaper.
    pub front: bool,
    /// Number of runs that stopped before completion.
    pub stopped: u64,
}

/// Runs a job under each of the policies.
///
/// # Errors
///
/// If a policy is unknown, or a task fits nowhere.
pub fn compare(field: &Comparison<'_>, policies: &[&str]) -> Result<Vec<Row>, SimulationError> {
    let homes = first_homes(field, policies)?;
    let trials: Vec<(usize, u64)> = (0..policies.len())
        .flat_map(|policy| (0..field.repeats.max(1)).map(move |n| (policy, field.seed + n)))
        .collect();
    let outcomes: Vec<(usize, SimulationOutcome)> = trials
        .into_par_iter()
        .map(|(policy, seed)| Ok((policy, simulation(field, policies[policy], seed, &homes[policy]).run(&mut Forget)?)))
        .collect::<Result<_, SimulationError>>()?;
    let mut rows: Vec<Row> = (0..policies.len())
        .map(|policy| row(&outcomes.iter().filter(|(of, _)| *of == policy).map(|(_, o)| o).collect::<Vec<_>>()))
        .collect();
    mark_front(&mut rows);
    Ok(rows)
}

fn simulation<'a>(field: &Comparison<'a>, policy: &'a str, seed: u64, homes: &'a [u32]) -> Simulation<'a> {
    let Comparison { prepared, cluster, scaling, cost, .. } = *field;
    let before = Before { done: &|_| false, spent: 0.0 };
    Simulation {
        prepared,
        cluster,
        policy,
        scaling,
        cost,
        ranks: None,
        homes: Some(Homes::Known(homes)),
        seed,
        before,
        floor: None,
    }
}

/// The initial homes under each policy, chosen one after another: the partitioner must not be
/// called by two threads at once.
fn first_homes(field: &Comparison<'_>, policies: &[&str]) -> Result<Vec<Vec<u32>>, SimulationError> {
    let homes = |&policy: &&str| {
        let ranks = simulation(field, policy, field.seed, &[]).first_ranks();
        Simulator::homes(field.prepared, field.cluster, ranks).map_err(SimulationError::Refused)
    };
    policies.iter().map(homes).collect()
}

fn row(outcomes: &[&SimulationOutcome]) -> Row {
    let mean = |of: &dyn Fn(&SimulationOutcome) -> f64| {
        outcomes.iter().map(|o| of(o)).sum::<f64>() / outcomes.len().max(1) as f64
    };
    Row {
        policy: outcomes.first().map_or_else(String::new, |o| o.policy.clone()),
        makespan_s: mean(&SimulationOutcome::makespan_s),
        stretch: mean(&SimulationOutcome::stretch),
        bill: mean(&|o| o.bill),
        dearness: mean(&SimulationOutcome::dearness),
        utilisation: mean(&|o| o.utilisation),
        peak: mean(&|o| f64::from(o.peak)),
        accuracy: (mean(&|o| o.elasticity.accuracy_under), mean(&|o| o.elasticity.accuracy_over)),
        time_share: (mean(&|o| o.elasticity.time_under), mean(&|o| o.elasticity.time_over)),
        instability: mean(&|o| o.elasticity.instability_over + o.elasticity.instability_under),
        front: false,
        stopped: outcomes.iter().filter(|o| !o.is_complete()).count() as u64,
    }
}

/// Differences below this share count as none: they are within the variation of a few seeds.
const MIN_DIFFERENCE: f64 = 0.01;

fn mark_front(rows: &mut [Row]) {
    let better = |a: f64, b: f64| a < b * (1.0 - MIN_DIFFERENCE);
    let no_worse = |a: f64, b: f64| a <= b * (1.0 + MIN_DIFFERENCE);
    let beats = |a: &Row, b: &Row| {
        no_worse(a.makespan_s, b.makespan_s)
            && no_worse(a.bill, b.bill)
            && (better(a.makespan_s, b.makespan_s) || better(a.bill, b.bill))
    };
    let front: Vec<bool> =
        rows.iter().map(|row| row.stopped == 0 && !rows.iter().any(|o| o.stopped == 0 && beats(o, row))).collect();
    rows.iter_mut().zip(front).for_each(|(row, front)| row.front = front);
}

/// What the columns of [`table`] mean, for those whose heads do not say it.
pub const LEGEND: &str = "\
/ critical path: makespan over the longest chain of tasks; 1 is the least possible.
/ lower bound: cost over that of the work alone, on the cheapest nodes and without idle time.
missing/idle %: nodes that ready tasks lacked, and nodes without tasks, on average over the run; 100 % is the maximum of ranks.
time missing/idle %: the share of the run in which nodes were missing, and in which some were idle.
instability %: the share of seconds in which the number of nodes rose more than the demand for them.
front: * if no other policy is both faster and cheaper.
";

/// The rows as a table in Markdown, which reads well in a terminal too.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| policy | makespan s | / critical path | cost | / lower bound | slots used | peak ranks | missing/idle % | time missing/idle % | instability % | front |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let front = match (row.front, row.stopped) {
            (_, stopped) if stopped > 0 => "stopped",
            (true, _) => "*",
            _ => "",
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.2} | {:.4} | {:.2} | {:.0} % | {:.0} | {:.1}/{:.1} | {:.0}/{:.0} | {:.1} | {front} |",
            row.policy,
            row.makespan_s,
            row.stretch,
            row.bill,
            row.dearness,
            row.utilisation * 100.0,
            row.peak,
            row.accuracy.0,
            row.accuracy.1,
            row.time_share.0,
            row.time_share.1,
            row.instability,
        );
    }
    text
}

/// The results of one strategy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BalanceRow {
    /// Its name.
    pub name: String,
    /// Makespan in seconds.
    pub makespan_s: f64,
    /// Makespan over the greater of the longest chain and work / slots.
    pub stretch: f64,
    /// Balance of the assigned work before the run: mean over maximum, 0 to 1.
    pub balance: f64,
    /// Bytes along edges between homes on different ranks.
    pub cut_bytes: u64,
    /// Edges between them.
    pub cut_edges: u64,
    /// Share of attempts that ran on another rank than their home, by stealing.
    pub away: f64,
}

/// Runs a job on `ranks` ranks with each way to assign its tasks: by the graph, and by the
/// strategies that use load alone.
///
/// # Errors
///
/// If a task fits on none of the ranks.
pub fn compare_balance(field: &Comparison<'_>, ranks: u32) -> Result<Vec<BalanceRow>, SimulationError> {
    let mut rows = Vec::new();
    for (name, method) in [("graph (bands)", Method::Bands), ("graph (earliest finish)", Method::EarliestFinish)] {
        rows.push(balance_row(field, ranks, name, Homes::Method(method))?);
    }
    for (name, strategy) in Strategy::ALL {
        let dealt = deal(field, ranks, strategy);
        rows.push(balance_row(field, ranks, name, Homes::Assigned(&dealt))?);
    }
    Ok(rows)
}

/// Assigns all tasks in order of their numbers to ranks of known speed, as after an earlier run.
fn deal(field: &Comparison<'_>, ranks: u32, strategy: Strategy) -> Vec<u32> {
    let speeds = Simulator::speeds(field.cluster, ranks, field.seed);
    let balanced_rank = |(kind, speed): (NodeTypeId, f64)| {
        let node = &field.cluster.nodes[kind.0 as usize];
        BalancedRank {
            slots: node.slots,
            speed,
            able: Capabilities { memory: node.memory, gpus: node.gpus, slots: node.slots, labels: Vec::new() },
            success: 1.0,
            latency: 1.0,
            healthy: true,
            ..BalancedRank::default()
        }
    };
    let mut balanced_ranks: Vec<BalancedRank> =
        field.cluster.first_kinds(ranks).zip(speeds).map(balanced_rank).collect();
    let need = |task: u32| {
        let group = field.prepared.job.group(TaskId(task));
        let able =
            Capabilities { memory: group.memory.unwrap_or(0), gpus: group.gpus, slots: group.cpus, labels: Vec::new() };
        (able, field.prepared.estimate(TaskId(task)).as_secs_f64())
    };
    let tasks: Vec<(Capabilities, f64)> = (0..field.prepared.tasks()).map(need).collect();
    let homes = Balancer::new(strategy).deal(&tasks, &mut balanced_ranks);
    // A task that no strategy can place (an MPI task over several ranks) is at home on rank 0.
    homes.into_iter().map(|home| home.map_or(0, |balanced_rank| balanced_rank as u32)).collect()
}

fn balance_row(
    field: &Comparison<'_>,
    ranks: u32,
    name: &str,
    homes: Homes<'_>,
) -> Result<BalanceRow, SimulationError> {
    let Comparison { prepared, cluster, scaling, cost, seed, .. } = *field;
    let before = Before { done: &|_| false, spent: 0.0 };
    let (policy, first, homes) = ("fixed", Some(ranks), Some(homes));
    let fixed = Simulation { prepared, cluster, policy, scaling, cost, ranks: first, homes, seed, before, floor: None };
    let outcome = fixed.run(&mut Forget)?;
    let partition = outcome.ended.partition.clone();
    let bound = outcome.floor.critical_path_s.max(outcome.floor.work_s / cluster.first_speed(ranks));
    Ok(BalanceRow {
        name: name.to_owned(),
        makespan_s: outcome.makespan_s(),
        stretch: outcome.makespan_s() / bound.max(1e-9),
        balance: partition.balance,
        cut_bytes: partition.cut_bytes,
        cut_edges: partition.cut_edges,
        away: outcome.ended.away as f64 / f64::from(prepared.tasks().max(1)),
    })
}

/// The rows as a table in Markdown.
pub fn balance_table(rows: &[BalanceRow]) -> String {
    let mut text = String::from(
        "| tasks dealt | makespan s | / bound | balance before | edges cut | bytes cut | ran elsewhere |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.2} | {:.2} | {} | {} | {:.0} % |",
            row.name,
            row.makespan_s,
            row.stretch,
            row.balance,
            row.cut_edges,
            row.cut_bytes,
            row.away * 100.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let row = |name: &str, makespan_s: f64, bill: f64| Row {
            policy: name.into(),
            makespan_s,
            bill,
            stretch: 1.0,
            dearness: 1.0,
            utilisation: 1.0,
            peak: 1.0,
            accuracy: (0.0, 0.0),
            time_share: (0.0, 0.0),
            instability: 0.0,
            front: false,
            stopped: 0,
        };
        let stopped = Row { stopped: 1, ..row("stopped", 0.1, 0.1) };
        let mut rows = vec![row("fast", 1.0, 9.0), row("beaten", 2.0, 9.0), row("cheap", 5.0, 2.0), stopped];
        mark_front(&mut rows);
        assert_eq!(rows.iter().map(|r| r.front).collect::<Vec<_>>(), [true, false, true, false]);
        assert!(table(&rows).contains("| cheap | 5.0 |"));
    }
}
