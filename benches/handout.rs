//! What it takes to hand a million tasks out: bytes of the heap and of the wire, and seconds, step by step.
//!
//! `cargo bench --bench handout [-- TASKS]`
//!
//! First the steps one by one, as `tests/handout.rs` holds their bounds, for every kind of graph; then whole runs of ranks that are threads of
//! this process, from the job file to the first task that starts and on to the end, with every frame between ranks counted by what
//! it says.

#[path = "../tests/handout_support/mod.rs"]
mod support;

use support::{Counting, cases, hand_out};

#[global_allocator]
static HEAP: Counting = Counting;

fn main() {
    let tasks = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    println!(
        "bytes per task: of the heap (at most 64), of the hand-out on the wire; seconds to the first ready task (at most 2)"
    );
    println!(
        "{:<22}{:>6}{:>8}{:>7}{:>7}{:>7}{:>7}{:>9}{:>7}{:>8}",
        "graph", "ranks", "rank 0", "coord.", "share", "home", "resting", "wire", "cut %", "seconds"
    );
    for case in cases(tasks) {
        for ranks in 1..=3 {
            let figures = hand_out(&case, ranks);
            let per = |bytes: usize, tasks: usize| bytes as f64 / tasks.max(1) as f64;
            let homes = &figures.homes[1..];
            let most = |of: fn(&support::Home) -> usize| homes.iter().map(|h| per(of(h), h.tasks)).fold(0.0, f64::max);
            let seconds: f64 = figures.steps.iter().map(|step| step.1.as_secs_f64()).sum();
            println!(
                "{:<22}{ranks:>6}{:>8.1}{:>7.1}{:>7.1}{:>7.1}{:>7.1}{:>9.4}{:>7.1}{seconds:>8.3}",
                case.name,
                per(figures.rank0_peak, figures.tasks),
                per(figures.coordinator, figures.tasks),
                per(figures.homes[0].resting, figures.homes[0].tasks),
                most(|home| home.peak),
                most(|home| home.resting),
                per(figures.wire, figures.tasks),
                100.0 * per(figures.cut_edges as usize, figures.edges),
            );
            let steps = figures.steps.iter().map(|(name, took)| format!("{name} {:.0}", took.as_secs_f64() * 1e3));
            println!("    ms: {}", steps.collect::<Vec<_>>().join(", "));
        }
    }
}
