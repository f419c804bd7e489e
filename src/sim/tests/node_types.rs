//! The same jobs on clusters with two types of nodes, and on clusters with one of these types
//! alone.

use std::fmt::Write;
use std::time::Duration;

use super::{prepared, simulation};
use crate::job::{Cost, Scaling};
use crate::sim::{Cluster, Forget, SimulationError};
use crate::workload::PreparedJob;
use fastrand::Rng;

/// The clusters, and what some of the tasks of each phase need.
const CLUSTERS: [(&str, &str); 5] = [
    (include_str!("../../../clusters/small-and-big.toml"), ""),
    (include_str!("../../../clusters/cpu-and-gpu.toml"), "gpus = 1\n"),
    (include_str!("../../../clusters/lean-and-rich.toml"), "memory = \"64G\"\n"),
    (include_str!("../../../clusters/slow-and-fast.toml"), ""),
    (include_str!("../../../clusters/few-and-many.toml"), ""),
];

/// Number of jobs for each cluster.
const JOBS: u64 = 4;

/// A mix is as good as a single type where time x cost is no more than by what is negligible for a
/// policy, and better where it is less by this share.
const AS_GOOD: f64 = 1.02;
const BETTER: f64 = 0.95;

/// Wide and narrow phases one after the other; a few tasks of each have a need of their own.
fn phases(rng: &mut Rng, need: &str) -> String {
    let mut text = String::new();
    for phase in 0..rng.u32(3..7) {
        let width = if rng.bool() { rng.u32(60..300) } else { rng.u32(1..12) };
        let group = |name: &str, tasks: u32, seconds: u32, need: &str| {
            let after = if phase > 0 { format!("needs = [\"p{}\"]\n", phase - 1) } else { String::new() };
            format!(
                "[[task]]\nname = \"{name}{phase}\"\ncommand = \"true\"\narray = \"1-{tasks}\"\nestimate = \"{seconds}s\"\n{after}{need}"
            )
        };
        let _ = write!(text, "{}", group("p", width, rng.u32(20..120), ""));
        if !need.is_empty() {
            let _ = write!(text, "{}", group("s", rng.u32(2..20), rng.u32(20..120), need));
        }
    }
    text
}

/// Time and cost of a run; `None` if a task fits on no node.
fn run(prepared: &PreparedJob, cluster: &Cluster, seed: u64) -> Option<(f64, f64)> {
    let scaling = Scaling { max_ranks: 16, interval: Duration::from_secs(5), ..Scaling::default() };
    let cost = Cost::default();
    match simulation(prepared, cluster, (&scaling, &cost), "hybrid", Some(1), seed).run(&mut Forget) {
        Ok(outcome) if outcome.is_complete() => Some((outcome.makespan_s(), outcome.bill)),
        Ok(outcome) => panic!("seed {seed} on {}: {:?}", cluster.name, outcome.ended.why),
        Err(SimulationError::Refused(_)) => None,
        Err(error) => panic!("seed {seed} on {}: {error}", cluster.name),
    }
}

/// Geometric means of times and costs.
fn mean(runs: &[(f64, f64)]) -> (f64, f64) {
    let of = |value: &dyn Fn(&(f64, f64)) -> f64| {
        (runs.iter().map(|run| value(run).ln()).sum::<f64>() / runs.len() as f64).exp()
    };
    (of(&|run| run.0), of(&|run| run.1))
}

#[test]
fn a_mix_of_types_is_as_good_as_the_best_single_one_and_better_on_most_clusters() {
    let mut ratios = Vec::new();
    let mut lines = "time x cost of the mix, of the best single type 1; (time, cost) of mix and types\n".to_owned();
    for (text, need) in CLUSTERS {
        let cluster = Cluster::parse(text, "cluster.toml").unwrap();
        let single = |kind: usize| Cluster { nodes: vec![cluster.nodes[kind].clone()], ..cluster.clone() };
        let fields = [cluster.clone(), single(0), single(1)];
        let mut runs = [const { Vec::new() }; 3];
        for seed in 1..=JOBS {
            let prepared = prepared(&phases(&mut Rng::with_seed(seed), need));
            for (field, runs) in fields.iter().zip(&mut runs) {
                runs.extend(run(&prepared, field, seed));
            }
        }
        assert_eq!(runs[0].len() as u64, JOBS, "{} runs every job", cluster.name);
        let complete: Vec<(f64, f64)> =
            runs.iter().filter(|runs| runs.len() as u64 == JOBS).map(|runs| mean(runs)).collect();
        let product = |(time, cost): &(f64, f64)| time * cost;
        let best = complete[1..].iter().map(product).fold(f64::INFINITY, f64::min);
        let ratio = product(&complete[0]) / best;
        ratios.push(ratio);
        let _ = writeln!(lines, "{:<14} {ratio:.3} {complete:.2?}\n  {runs:.2?}", cluster.name);
    }
    let better = ratios.iter().filter(|ratio| **ratio < BETTER).count();
    assert!(better >= 3 && ratios.iter().all(|ratio| *ratio <= AS_GOOD), "{lines}");
}
