//! Graphs made here: six families that no recipe of WfCommons has.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::instance::{Group, Workflow};
use super::{log_uniform, normal, rng};

/// The families made here, with their generators.
pub const FAMILIES: [(&str, Generator); 6] = [
    ("fork-join", fork_join),
    ("cholesky", cholesky),
    ("bag", bag),
    ("arrays", arrays),
    ("chains", chains),
    ("layered", layered),
];

/// Makes a workflow of about so many tasks.
pub type Generator = fn(usize, &mut Rng) -> Vec<Group>;

/// About how many tasks an instance has.
pub const SIZES: [usize; 9] = [20, 50, 110, 200, 300, 500, 1000, 2000, 4000];

/// Instances of each family and size.
const INSTANCES: u64 = 3;

/// The workflows made here whose name and family are wanted.
pub fn all(seed: u64, is_wanted: &dyn Fn(&str, &str) -> bool) -> Vec<Workflow> {
    let mut made = Vec::new();
    for (family, generator) in FAMILIES {
        for size in SIZES {
            for number in 1..=INSTANCES {
                let name = format!("{family}-{size}-{number}");
                if !is_wanted(&name, family) {
                    continue;
                }
                let mut rng = rng(&name, seed);
                let mut workflow = Workflow { name, family: family.to_owned(), groups: generator(size, &mut rng) };
                workflow.stretch_to(&mut rng);
                made.push(workflow);
            }
        }
    }
    made
}

/// So many durations around 1.
fn durations(rng: &mut Rng, count: usize, spread: f64) -> Vec<f64> {
    (0..count).map(|_| (spread * normal(rng)).exp()).collect()
}

fn group(name: String, class: &str, seconds: Vec<f64>, needs: Vec<String>) -> Group {
    Group { name, class: class.to_owned(), seconds, needs }
}

/// Wide phases with a merge behind each.
fn fork_join(size: usize, rng: &mut Rng) -> Vec<Group> {
    let phases = rng.usize(1..=6).min(size / 4).max(1);
    let spread = rng.f64() * 0.8;
    let merge = log_uniform(rng, 0.1, 5.0);
    let mut groups = Vec::new();
    for phase in 0..phases {
        let share = size / phases;
        let width = rng.usize(share / 2..=share + share / 2).max(2);
        let before = if phase > 0 { vec![format!("merge{}", phase - 1)] } else { Vec::new() };
        let length = log_uniform(rng, 0.3, 3.0);
        let wide = durations(rng, width, spread).into_iter().map(|s| s * length).collect();
        let class = format!("wide{phase}");
        groups.push(group(class.clone(), &class, wide, before));
        groups.push(group(format!("merge{phase}"), "merge", vec![merge * (0.3 * normal(rng)).exp()], vec![class]));
    }
    groups
}

/// Tiled Cholesky factorisation, whose parallelism grows and shrinks.
fn cholesky(size: usize, rng: &mut Rng) -> Vec<Group> {
    // n tiles a side make about n^3 / 6 tasks.
    let n = ((size as f64 * 6.0).cbrt().round() as u32).max(3);
    let spread = 0.02 + 0.3 * rng.f64();
    let mut groups = Vec::new();
    // The task that wrote each tile last.
    let mut last: BTreeMap<(u32, u32), String> = BTreeMap::new();
    let mut add = |class: &str, tile: (u32, u32), name: String, length: f64, mut needs: Vec<String>| {
        needs.extend(last.insert(tile, name.clone()));
        groups.push(group(name, class, vec![length * (spread * normal(rng)).exp()], needs));
    };
    for k in 0..n {
        let potrf = format!("potrf-{k}");
        add("potrf", (k, k), potrf.clone(), 1.0, Vec::new());
        for i in k + 1..n {
            add("trsm", (i, k), format!("trsm-{k}-{i}"), 3.0, vec![potrf.clone()]);
        }
        for i in k + 1..n {
            add("syrk", (i, i), format!("syrk-{k}-{i}"), 3.0, vec![format!("trsm-{k}-{i}")]);
            for j in k + 1..i {
                let needs = vec![format!("trsm-{k}-{i}"), format!("trsm-{k}-{j}")];
                add("gemm", (i, j), format!("gemm-{k}-{i}-{j}"), 6.0, needs);
            }
        }
    }
    groups
}

/// Independent tasks whose durations have a heavy tail: log-normal, or Pareto.
fn bag(size: usize, rng: &mut Rng) -> Vec<Group> {
    let classes = rng.usize(1..=3);
    let one = |class: usize, rng: &mut Rng| {
        let count = (size / classes).max(2);
        let (length, shape) = (log_uniform(rng, 0.3, 3.0), 1.2 + rng.f64());
        let seconds = match rng.bool() {
            true => durations(rng, count, shape),
            false => (0..count).map(|_| (1.0 - rng.f64()).powf(-1.0 / shape).min(300.0)).collect(),
        };
        let name = format!("bag{class}");
        group(name.clone(), &name, seconds.into_iter().map(|s| s * length).collect(), Vec::new())
    };
    (0..classes).map(|class| one(class, rng)).collect()
}

/// Stages of arrays: an element needs the same element of the stage before, or all of it.
fn arrays(size: usize, rng: &mut Rng) -> Vec<Group> {
    let stages = rng.usize(2..=7).min(size / 2);
    let width = (size / stages).max(2);
    let (spread, barriers) = (rng.f64() * 0.7, rng.f64() * 0.6);
    let one = |stage: usize, rng: &mut Rng| {
        let length = log_uniform(rng, 0.1, 10.0);
        let needs = match (stage, rng.f64() < barriers) {
            (0, _) => Vec::new(),
            (_, true) => vec![format!("stage{}", stage - 1)],
            (_, false) => vec![format!("stage{}[{{index}}]", stage - 1)],
        };
        let seconds = durations(rng, width, spread).into_iter().map(|s| s * length).collect();
        let name = format!("stage{stage}");
        group(name.clone(), &name, seconds, needs)
    };
    (0..stages).map(|stage| one(stage, rng)).collect()
}

/// A few chains side by side, of different lengths.
fn chains(size: usize, rng: &mut Rng) -> Vec<Group> {
    let chains = rng.usize(1..=8);
    let spread = rng.f64();
    let mut groups = Vec::new();
    for chain in 0..chains {
        let share = size / chains;
        // Longer ones say nothing new and take the simulator long.
        let length = rng.usize(share / 2..=share).clamp(2, 120);
        for link in 0..length {
            let needs = if link > 0 { vec![format!("c{chain}-{}", link - 1)] } else { Vec::new() };
            let seconds = durations(rng, 1, spread);
            groups.push(group(format!("c{chain}-{link}"), &format!("kind{}", link % 3), seconds, needs));
        }
    }
    groups
}

/// Levels of random widths; a task needs up to three of the level before.
fn layered(size: usize, rng: &mut Rng) -> Vec<Group> {
    let mean = log_uniform(rng, 2.0, (size as f64 / 3.0).max(3.0)) as usize;
    let classes: Vec<f64> = (0..rng.usize(2..=8)).map(|_| log_uniform(rng, 0.1, 10.0)).collect();
    let spread = rng.f64() * 0.6;
    let mut groups: Vec<Group> = Vec::new();
    let (mut before, mut level) = (0..0, 0);
    while groups.len() < size {
        let width = rng.usize(1..=2 * mean).min(size - groups.len());
        let first = groups.len();
        for _ in 0..width {
            let mut needs: Vec<usize> = match before.is_empty() {
                true => Vec::new(),
                false => (0..rng.usize(1..=3)).map(|_| rng.usize(before.clone())).collect(),
            };
            needs.sort_unstable();
            needs.dedup();
            let needs = needs.into_iter().map(|need| format!("t{need}")).collect();
            // The classes of a level are alike, as the steps of real workflows are.
            let class = if rng.f64() < 0.8 { level % classes.len() } else { rng.usize(0..classes.len()) };
            let seconds = vec![classes[class] * (spread * normal(rng)).exp()];
            groups.push(group(format!("t{}", groups.len()), &format!("kind{class}"), seconds, needs));
        }
        (before, level) = (first..groups.len(), level + 1);
    }
    groups
}
