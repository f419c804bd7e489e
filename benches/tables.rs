//! What a job file of very many separate `[[task]]` tables takes: seconds and bytes of the heap per
//! table, step by step, and a run up to its first task.
//!
//! `cargo bench --bench tables [-- TABLES]` (200,000 by default)
//!
//! The floor is the TOML parser alone on the same text; it runs on an eighth of the tables and is
//! scaled up, for its tree takes many times the memory. `tests/tables.rs` holds the bytes.

#[path = "../tests/tables_support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use phalanx::exec::{ArgError, Kernels, Prepared};
use phalanx::fabric::Alone;
use phalanx::job;
use phalanx::observe::progress::Mode;
use phalanx::runtime::{self, Options};
use phalanx::workload::{estimate_ns, graph_of};
use support::{Counting, Shape, forget_peak, heap, job_text, peak};
use toml::de::DeTable;

#[global_allocator]
static HEAP: Counting = Counting;

/// The parser sees one in this many tables.
const SCALE: u32 = 8;

fn main() {
    let tables = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200_000);
    println!("{:<10}{:<26}{:>9}{:>10}{:>14}", "shape", "step", "seconds", "x floor", "bytes a table");
    for shape in Shape::ALL {
        let text = job_text(shape, tables);
        let floor = floor(shape, tables);
        steps(shape, &text, tables, floor);
        first_task(shape, &text, tables, floor);
    }
}

fn show(shape: Shape, step: &str, tables: u32, took: Duration, floor: f64, bytes: usize) {
    let (seconds, bytes) = (took.as_secs_f64(), bytes as f64 / f64::from(tables));
    println!("{:<10}{step:<26}{seconds:>9.3}{:>10.2}{bytes:>14.0}", format!("{shape:?}"), seconds / floor);
}

/// Seconds that the parser alone takes for all tables.
fn floor(shape: Shape, tables: u32) -> f64 {
    let few = tables / SCALE;
    let text = job_text(shape, few);
    let (before, begun) = (heap(), Instant::now());
    forget_peak();
    let parsed = DeTable::parse(&text).expect("a good text");
    let took = begun.elapsed() * tables / few;
    show(shape, "parser alone (scaled)", few, took, took.as_secs_f64(), peak() - before);
    drop(parsed);
    took.as_secs_f64()
}

/// The steps one by one.
fn steps(shape: Shape, text: &str, tables: u32, floor: f64) {
    let mut kernels = Kernels::builtin();
    kernels.register("first", |_: &toml::Table| -> Result<Prepared, ArgError> { Ok(Arc::new(|_| Ok(()))) });
    let text: Arc<str> = text.into();
    let before = heap();
    let step = |name: &str, work: &mut dyn FnMut()| {
        forget_peak();
        let begun = Instant::now();
        work();
        show(shape, name, tables, begun.elapsed(), floor, peak() - before);
    };
    let mut loaded = None;
    step("read and resolve", &mut || {
        loaded = job::parse(Arc::clone(&text), "t.toml", "/".as_ref(), &kernels).ok();
    });
    let loaded = loaded.expect("a good job");
    let mut graph = None;
    step("graph", &mut || graph = graph_of(&loaded).ok());
    let graph = graph.expect("a graph");
    step("order", &mut || drop(graph.order(&|task| estimate_ns(&loaded.job, task))));
    show(shape, "resting", tables, Duration::ZERO, floor, heap() - before);
}

/// A run from the file to its first task, which ends it.
fn first_task(shape: Shape, text: &str, tables: u32, floor: f64) {
    let dir = tempfile::tempdir().expect("a directory for the run");
    let job = dir.path().join("job.toml");
    std::fs::write(&job, text).expect("a job file");
    let (once, first) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let mut kernels = Kernels::builtin();
    let note = (Arc::clone(&once), Arc::clone(&first));
    kernels.register("first", move |_: &toml::Table| -> Result<Prepared, ArgError> {
        let (once, first) = note.clone();
        Ok(Arc::new(move |_| {
            if !once.swap(true, Ordering::Relaxed) {
                *first.lock().expect("a lock") = Some((Instant::now(), peak()));
            }
            Err("that is all".into())
        }))
    });
    let options = Options {
        slots: Some(1),
        progress: Mode::Quiet,
        run_dir: Some(dir.path().join("run")),
        max_failures: Some(1),
        ..Options::new(&job)
    };
    let before = heap();
    forget_peak();
    let begun = Instant::now();
    runtime::run_in_thread(Alone, &options, kernels).expect("the run begins");
    let (at, high) = first.lock().expect("a lock").expect("the first task was started");
    show(shape, "run to its first task", tables, at.duration_since(begun), floor, high - before);
    show(shape, "run to its end", tables, begun.elapsed(), floor, peak() - before);
}
