//! What results that are not computed twice and files on the node's disk cost, each beside a floor
//! of the same run.
//!
//! `cargo bench --bench data [-- ROUNDS]` runs what is measured and its floor in turns and prints
//! the medians. All files are in `/dev/shm`, so no disk is measured. `benches/nodes.py` measures
//! what goes between nodes.

#[path = "../tests/parts/exec_support.rs"]
mod exec_support;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use exec_support::{Bench, Job, Spec, bench, bench_with, seat, site};
use phalanx::exec::{ArgError, Kernels, Prepared};
use phalanx::job::CacheRules;
use phalanx::model::{Outcome, TaskId};
use phalanx::store::{Store, StoreConfig};

const MIB: usize = 1 << 20;

/// Bytes that are hashed at once.
const HASHED: usize = 256 * MIB;

/// Commands in each turn.
const COMMANDS: u32 = 200;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(11);
    let place = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("TMPDIR", place.path()) };
    println!("{:<44}{:>14}{:>14}{:>10}  target", "", "floor", "Phalanx", "ratio");
    hashing(place.path(), rounds);
    memo(place.path(), rounds);
    kernels(rounds);
    node_level(place.path(), rounds);
    staging(place.path(), rounds);
}

/// Prints a line: the medians of what is measured and of its floor, and of their ratios.
fn line(name: &str, samples: &[(f64, f64)], unit: &str, target: &str) {
    let of = |f: &dyn Fn(&(f64, f64)) -> f64| median(samples.iter().map(f).collect());
    let (floor, ours, ratio) = (of(&|s| s.0), of(&|s| s.1), of(&|s| s.1 / s.0));
    println!("{name:<44}{floor:>9.2} {unit:<4}{ours:>9.2} {unit:<4}{ratio:>10.2}  {target}");
}

/// Runs both in turns, the first one first in every other round.
fn turns(rounds: usize, mut floor: impl FnMut() -> f64, mut ours: impl FnMut() -> f64) -> Vec<(f64, f64)> {
    let round = |round: usize| {
        if round.is_multiple_of(2) {
            let floor = floor();
            (floor, ours())
        } else {
            let ours = ours();
            (floor(), ours)
        }
    };
    (0..rounds).map(round).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn store(place: &Path) -> Store {
    Store::open(&StoreConfig { node: place.join("store"), shared: None, size: 8 << 30, ttl: None, records: None })
}

/// Hashing of a file that no memo knows, beside BLAKE3 over the same bytes in memory.
fn hashing(place: &Path, rounds: usize) {
    let file = place.join("hashed");
    let bytes: Vec<u8> = (0..HASHED).map(|i| ((i * 31) >> 3) as u8).collect();
    fs::write(&file, &bytes).expect("written");
    let rate = |start: Instant| HASHED as f64 / 1e9 / start.elapsed().as_secs_f64();
    let floor = || {
        let start = Instant::now();
        black_box(blake3::hash(&bytes));
        rate(start)
    };
    // A file that has changed this recently is always read.
    let ours = || {
        touch(&file);
        let store = store(place);
        let start = Instant::now();
        black_box(store.content_of(&file).expect("it can be read"));
        rate(start)
    };
    line("hashing a file, one core", &turns(rounds, floor, ours), "GB/s", "1 GB/s");
    let reading = || {
        let (start, mut file) = (Instant::now(), File::open(&file).expect("opened"));
        let mut piece = vec![0; MIB];
        while file.read(&mut piece).expect("read") > 0 {
            black_box(&piece);
        }
        rate(start)
    };
    line("  the same beside plain reading", &turns(rounds, reading, ours), "GB/s", "");
    copying(&file, place, rounds);
    fs::remove_file(&file).expect("removed");
}

/// An input that the node's level has, brought to a task's directory, beside a copy of it.
fn copying(file: &Path, place: &Path, rounds: usize) {
    let (store, to, go_on) = (store(place), place.join("copied"), AtomicBool::new(false));
    let rate = |copy: &dyn Fn()| {
        let start = Instant::now();
        copy();
        let rate = HASHED as f64 / 1e9 / start.elapsed().as_secs_f64();
        fs::remove_file(&to).expect("removed");
        rate
    };
    // What is older than two seconds is known by its times.
    std::thread::sleep(Duration::from_millis(2100));
    let ours = || rate(&|| _ = store.stage_in(file, &to, &go_on).expect("copied"));
    ours();
    let floor = || rate(&|| _ = fs::copy(file, &to).expect("copied"));
    line("bringing an input that the node has, beside cp", &turns(rounds, floor, ours), "GB/s", "");
}

fn touch(file: &Path) {
    File::options()
        .write(true)
        .open(file)
        .and_then(|file| file.set_modified(std::time::SystemTime::now()))
        .expect("touched");
}

/// A file whose digest is remembered, beside asking the system about it.
fn memo(place: &Path, rounds: usize) {
    const CALLS: u32 = 10_000;
    let file = place.join("remembered");
    fs::write(&file, vec![1; MIB]).expect("written");
    std::thread::sleep(Duration::from_millis(2100));
    let store = store(place);
    let us = |start: Instant| start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS);
    store.content_of(&file).expect("it can be read");
    let floor = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| drop(black_box(fs::metadata(&file))));
        us(start)
    };
    let ours = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| drop(black_box(store.content_of(&file))));
        us(start)
    };
    line("digest of an unchanged file (beside stat)", &turns(rounds, floor, ours), "us", "5 us");
}

/// A kernel whose result is in memory, beside the same kernel without cache.
fn kernels(rounds: usize) {
    const CALLS: u32 = 20_000;
    // One that prints, since a result without output and outputs is not kept.
    fn prints(_: &toml::Table) -> Result<Prepared, ArgError> {
        Ok(Arc::new(|context| {
            context.print("1");
            Ok(())
        }))
    }
    let mut known = Kernels::builtin();
    known.register("prints", prints);
    let spec = || Spec::kernel("prints", "");
    let bench = |job| bench_with(job, known.clone(), site());
    let cached =
        || Spec { task: phalanx::job::Task { cache: Some(Arc::new(CacheRules::default())), ..spec().task }, ..spec() };
    let (plain, cached) = (bench(Job::new([spec()])), bench(Job::new([cached()])));
    let us = |bench: &Bench, calls: u32| {
        let start = Instant::now();
        (0..calls).for_each(|_| assert!(black_box(bench.run(0)).ok()));
        start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    us(&cached, 10);
    assert!(cached.run(0).cached, "its result is in memory");
    line("hit of a kernel in memory", &turns(rounds, || us(&plain, CALLS), || us(&cached, CALLS)), "us", "10 us");
}

/// Commands whose results a level has, in a process that has nothing in memory, beside a copy of
/// the output by this process itself. Two slots.
fn node_level(place: &Path, rounds: usize) {
    let dir = place.join("hits");
    fs::create_dir_all(&dir).expect("made");
    let specs = || {
        (0..COMMANDS).map(|number| {
            let mut spec = Spec::shell(&format!("echo {number} > hit-{number}")).dir(&dir);
            spec.task.outputs = vec![(PathBuf::from(format!("hit-{number}")), None)];
            spec.task.cache = Some(Arc::new(CacheRules::default()));
            spec
        })
    };
    both(&bench(Job::new(specs())), true);
    let remove = || (0..COMMANDS).for_each(|number| drop(fs::remove_file(dir.join(format!("hit-{number}")))));
    let source = place.join("source");
    fs::write(&source, "1\n").expect("written");
    let floor = || {
        remove();
        let start = Instant::now();
        for number in 0..COMMANDS {
            let to = dir.join(format!("hit-{number}"));
            fs::copy(&source, to.with_extension("new"))
                .and_then(|_| fs::rename(to.with_extension("new"), to))
                .expect("copied");
        }
        start.elapsed().as_secs_f64() * 1e3 / f64::from(COMMANDS)
    };
    let ours = || {
        remove();
        let fresh = bench(Job::new(specs()));
        let start = Instant::now();
        let hits = both(&fresh, false);
        assert_eq!(hits, COMMANDS, "all are hits");
        2.0 * start.elapsed().as_secs_f64() * 1e3 / f64::from(COMMANDS)
    };
    let samples = turns(rounds, floor, ours);
    line("hit at the node's level, slot time", &samples, "ms", "1.5 ms, 2000 a second on two slots");
}

/// Runs all commands on two slots. Returns how many results were taken from the cache.
fn both(bench: &Bench, is_first: bool) -> u32 {
    let run = |slot: u32| {
        let run = |task: u32| -> Outcome {
            let outcome = bench.runner.run(TaskId(task), &seat(slot as u16));
            assert!(outcome.ok(), "{outcome:?}: {}", bench.sink.err(task));
            outcome
        };
        (slot..COMMANDS).step_by(2).map(run).filter(|outcome| outcome.cached).count() as u32
    };
    // Neither on the main thread: orphans of commands are looked for among its children.
    std::thread::scope(|scope| {
        let slots = [0, 1].map(|slot| scope.spawn(move || run(slot)));
        let hits: u32 = slots.into_iter().map(|slot| slot.join().expect("no panic")).sum();
        if is_first { 0 } else { hits }
    })
}

/// A staged command with one input and one output of 4 KiB, beside the same one that is not staged.
fn staging(place: &Path, rounds: usize) {
    let dir = place.join("staged");
    fs::create_dir_all(&dir).expect("made");
    fs::write(dir.join("in"), vec![7; 4096]).expect("written");
    std::thread::sleep(Duration::from_millis(2100));
    let spec = |is_staged| {
        let mut spec = Spec::command(&["/bin/cp", "in", "out"]).dir(&dir);
        spec.task.inputs = vec![("in".into(), None)];
        spec.task.required = vec!["in".into()];
        spec.task.outputs = vec![("out".into(), None)];
        spec.task.promised = vec!["out".into()];
        spec.task.is_staged = is_staged;
        bench(Job::new([spec]))
    };
    let (plain, staged) = (spec(false), spec(true));
    let ms = |bench: &Bench| {
        let start = Instant::now();
        (0..COMMANDS).for_each(|_| assert!(bench.run(0).ok()));
        start.elapsed().as_secs_f64() * 1e3 / f64::from(COMMANDS)
    };
    ms(&staged);
    let samples = turns(rounds, || ms(&plain), || ms(&staged));
    line("staged command, 4 KiB in and out", &samples, "ms", "1 ms more");
    let more = median(samples.iter().map(|(plain, staged)| staged - plain).collect());
    println!("{:<44}{:>23.2} ms", "  of that more than without staging", more);
}
