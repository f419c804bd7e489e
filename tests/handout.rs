//! What a hand-out may take: bytes of the heap at rank 0 and at home, bytes on the wire.
//!
//! Bytes are the same on every machine, so they are held here; what they take in seconds is for
//! `cargo bench --bench handout`. Alone in its process, because every byte of the process counts.

mod handout_support;

use handout_support::{Counting, Figures, cases, hand_out};

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes of the heap that a task may take on rank 0, its own share included, and at another home.
const MOST: f64 = 64.0;

/// And in an array, whose tasks wait for nothing.
const MOST_IN_ARRAY: f64 = 32.0;

#[test]
fn a_task_takes_few_bytes_wherever_it_is() {
    // As a million: above what METIS partitions, which takes more.
    let tasks = 250_000;
    for case in cases(tasks) {
        let most = if case.name == "array" { MOST_IN_ARRAY } else { MOST };
        for ranks in 1..=3 {
            let figures = hand_out(&case, ranks);
            let name = format!("{} on {ranks} ranks", case.name);
            let per_task = |bytes: usize, tasks: usize| bytes as f64 / tasks.max(1) as f64;
            let rank0 = per_task(figures.rank0_peak, figures.tasks);
            assert!(rank0 <= most, "{name}: {rank0:.1} bytes a task on rank 0");
            for home in &figures.homes[1..] {
                let peak = per_task(home.peak, home.tasks);
                assert!(peak <= most, "{name}: {peak:.1} bytes a task at home");
            }
            check_wire(&name, case.regular, &figures);
        }
    }
}

/// What repeats travels once: a regular graph takes next to nothing, however many tasks it has.
fn check_wire(name: &str, regular: bool, figures: &Figures) {
    let others = figures.homes[1..].iter().map(|home| home.tasks).sum::<usize>() as f64;
    let most = if regular { 0.01 * others + 200.0 } else { 16.0 * others };
    assert!(figures.wire as f64 <= most, "{name}: {} bytes for {others} tasks", figures.wire);
}
