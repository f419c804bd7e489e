//! Compares policies, or placements of tasks: the same job, cluster and random draws under
//! each.
//!
//! A policy is on the *front* if no other is both faster and cheaper.

use std::fmt::Write;

use rayon::prelude::*;
use serde::Serialize;

use super::cluster::Cluster;
use super::simulation::{Simulation, SimulationError, SimulationOutcome};
use super::simulator::{Forget, Simulator};
use crate::job::{Cost, Placement, Scaling};
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
        .flat_map(|policy| (0..field.repeats.max(1)).map(move |n| (policy, field.seed.wrapping_add(n))))
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
    Simulation { homes: Some(homes), seed, ..Simulation::new(prepared, cluster, policy, (scaling, cost)) }
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

/// The results of one placement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacementRow {
    /// Its name in the job file.
    pub name: String,
    /// Makespan in seconds.
    pub makespan_s: f64,
    /// Makespan over the greater of the longest chain and work / slots.
    pub stretch: f64,
    /// Balance of the work as it was placed: mean over maximum, 0 to 1.
    pub balance: f64,
    /// Bytes along edges between homes on different ranks.
    pub cut_bytes: u64,
    /// Edges between them: the messages that ends of tasks cause, before they are batched.
    pub cut_edges: u64,
    /// Share of attempts that ran on another rank than their home, by stealing.
    pub away: f64,
    /// Where tasks are staged: bytes of their inputs that nodes did not have.
    pub moved_bytes: Option<f64>,
    /// The bill.
    pub cost: f64,
}

/// Runs a job on `ranks` ranks with each placement; results are means over the seeds.
///
/// # Errors
///
/// If a task fits on none of the ranks.
pub fn compare_placement(field: &Comparison<'_>, ranks: u32) -> Result<Vec<PlacementRow>, SimulationError> {
    Placement::all().map(|(name, placement)| placement_row(field, ranks, name, placement)).collect()
}

fn placement_row(
    field: &Comparison<'_>,
    ranks: u32,
    name: &str,
    placement: Placement,
) -> Result<PlacementRow, SimulationError> {
    let Comparison { cluster, scaling, cost, repeats, .. } = *field;
    let mut job = (*field.prepared.job).clone();
    job.placement = placement;
    let prepared = &field.prepared.with_job(job);
    let homes = Simulator::homes(prepared, cluster, ranks).map_err(SimulationError::Refused)?;
    let seeds: Vec<u64> = (0..repeats.max(1)).map(|n| field.seed.wrapping_add(n)).collect();
    let run = |&seed: &u64| {
        let (ranks, homes) = (Some(ranks), Some(homes.as_slice()));
        let first = Simulation::new(prepared, cluster, "fixed", (scaling, cost));
        Simulation { ranks, homes, seed, ..first }.run(&mut Forget)
    };
    let outcomes: Vec<SimulationOutcome> = seeds.par_iter().map(run).collect::<Result<_, _>>()?;
    let mean = |of: &dyn Fn(&SimulationOutcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
    let bound = |o: &SimulationOutcome| o.floor.critical_path_s.max(o.floor.work_s / cluster.first_speed(ranks));
    let partition = &outcomes[0].ended.partition;
    let tasks = f64::from((prepared.tasks() - prepared.left_out_count()).max(1));
    Ok(PlacementRow {
        name: name.to_owned(),
        makespan_s: mean(&SimulationOutcome::makespan_s),
        stretch: mean(&|o| o.makespan_s() / bound(o).max(1e-9)),
        balance: partition.balance,
        cut_bytes: partition.cut_bytes,
        cut_edges: partition.cut_edges,
        away: mean(&|o| o.ended.away as f64 / tasks),
        moved_bytes: outcomes[0]
            .ended
            .staging
            .map(|_| mean(&|o| o.ended.staging.map_or(0, |used| used.moved()) as f64)),
        cost: mean(&|o| o.bill),
    })
}

/// The rows as a table in Markdown.
pub fn placement_table(rows: &[PlacementRow]) -> String {
    let bytes = if rows.iter().any(|row| row.moved_bytes.is_some()) { "bytes moved" } else { "bytes cut" };
    let mut text = format!(
        "| placement | makespan s | / bound | balance before | edges cut | {bytes} | ran elsewhere | cost |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.2} | {:.2} | {} | {} | {:.0} % | {:.4} |",
            row.name,
            row.makespan_s,
            row.stretch,
            row.balance,
            row.cut_edges,
            row.moved_bytes.map_or_else(|| row.cut_bytes.to_string(), |bytes| format!("{bytes:.0}")),
            row.away * 100.0,
            row.cost
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
