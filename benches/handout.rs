//! What it takes to hand a million tasks out: bytes of the heap and of the wire, and seconds, step
//! by step.
//!
//! `cargo bench --bench handout [-- TASKS]`
//!
//! First the steps one by one, as `tests/handout.rs` holds their bounds, for every kind of graph;
//! then whole runs of ranks that are threads of this process, from the job file to the first task
//! that starts and on to the end, with every frame between ranks counted by what it says.

#[path = "../tests/handout_support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use phalanx::exec::{ArgError, Kernels, Prepared};
use phalanx::fabric::{Fabric, FabricError, local, wire};
use phalanx::model::Rank;
use phalanx::observe::progress::Mode;
use phalanx::runtime::{self, Options};
use phalanx::schedule::protocol::{Load, Message};
use support::{Counting, cases, encoded, forget_peak, hand_out, heap, peak};

#[global_allocator]
static HEAP: Counting = Counting;

fn main() {
    let tasks = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    steps(tasks);
    runs(tasks);
}

/// The steps one by one.
fn steps(tasks: u32) {
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

/// Whole runs.
fn runs(tasks: u32) {
    println!(
        "\nwhole runs, ranks as threads: bytes of the heap per task when the first task starts (all ranks together), and on the wire"
    );
    println!(
        "{:<22}{:>6}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}",
        "job", "ranks", "peak", "resting", "hand-out", "report", "counts", "other", "other %", "seconds"
    );
    let array = format!("array = \"0-{}\"", tasks - 1);
    let of = |words: &str| format!("pattern = \"{words}\nwidth = 1000\nsteps = {}", tasks / 1000);
    let spread = format!("pattern = \"spread\"\nradix = 3\nwidth = {}\nsteps = 10", tasks / 10);
    let near = of("random_nearest\"\nradix = 10\nfraction = 0.17");
    let stencil = of("stencil_1d\"");
    for (name, shape) in
        [("array", array), ("stencil_1d", stencil), ("random_nearest", near), ("spread, ten steps", spread)]
    {
        for ranks in 1..=3 {
            run(name, &shape, ranks, tasks);
        }
    }
}

fn run(name: &str, shape: &str, ranks: u32, tasks: u32) {
    let dir = tempfile::tempdir().expect("a directory for the run");
    let job = dir.path().join("job.toml");
    std::fs::write(&job, format!("[[task]]\nname = \"t\"\n{shape}\nkernel = \"first\"\n")).expect("a job file");
    let wire: Arc<Wire> = Arc::default();
    let started: Arc<Started> = Arc::default();
    let before = heap();
    forget_peak();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for inner in local::world(ranks) {
            let (job, wire, started) = (&job, Arc::clone(&wire), Arc::clone(&started));
            scope.spawn(move || one_rank(job, Counted { inner, wire }, &started));
        }
    });
    let (at, high, now) = started.first.lock().expect("a lock").expect("a task was started");
    let per = |bytes: usize| bytes as f64 / f64::from(tasks);
    let [handout, report, counts, other] = wire.0.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
    let other_share = 100.0 * other as f64 / (handout + report + counts + other).max(1) as f64;
    println!(
        "{name:<22}{ranks:>6}{:>8.1}{:>9.1}{:>9.3}{:>9.2}{:>9.2}{:>9.4}{other_share:>10.2}{:>10.3}",
        per(high - before),
        per(now - before),
        per(handout),
        per(report),
        per(counts),
        per(other),
        at.duration_since(begun).as_secs_f64(),
    );
}

fn one_rank(job: &Path, fabric: Counted, started: &Arc<Started>) {
    let mut kernels = Kernels::builtin();
    let started = Arc::clone(started);
    kernels.register("first", move |_: &toml::Table| -> Result<Prepared, ArgError> {
        let started = Arc::clone(&started);
        Ok(Arc::new(move |_| {
            started.note();
            Ok(())
        }))
    });
    let run_dir = job.parent().map(|dir| dir.join("run"));
    let options = Options { slots: Some(1), progress: Mode::Quiet, run_dir, ..Options::new(job) };
    let finished = runtime::run_in_thread(fabric, &options, kernels).expect("the run begins");
    assert_eq!(finished.exit_code, 0);
}

/// When the first task of a run started, and what lay on the heap then: the most so far, and at
/// that moment.
#[derive(Default)]
struct Started {
    once: AtomicBool,
    first: Mutex<Option<(Instant, usize, usize)>>,
}

impl Started {
    fn note(&self) {
        if !self.once.load(Ordering::Relaxed) && !self.once.swap(true, Ordering::Relaxed) {
            *self.first.lock().expect("a lock") = Some((Instant::now(), peak(), heap()));
        }
    }
}

/// Bytes sent between ranks: hand-out, reports, counts, all other.
#[derive(Default)]
struct Wire([AtomicUsize; 4]);

/// A fabric that counts what is sent by what it says.
struct Counted {
    inner: local::LocalFabric,
    wire: Arc<Wire>,
}

impl Counted {
    /// Which message a frame carries; but for counts, frames of different messages first differ in
    /// the byte after the version.
    fn kind(frame: &[u8]) -> usize {
        let handout = encoded(&Message::HandOut(Box::default()));
        let report = encoded(&Message::Report { attempts: Vec::new(), started: Vec::new(), load: Load::default() });
        match frame.get(3) {
            _ if wire::counts(frame).is_some() => 2,
            kind if kind == handout.get(3) => 0,
            kind if kind == report.get(3) => 1,
            _ => 3,
        }
    }
}

impl Fabric for Counted {
    fn me(&self) -> Rank {
        self.inner.me()
    }

    fn size(&self) -> u32 {
        self.inner.size()
    }

    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
        self.wire.0[Self::kind(frame)].fetch_add(frame.len(), Ordering::Relaxed);
        self.inner.send(to, frame)
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        self.inner.receive(frame)
    }

    fn drained(&mut self) -> bool {
        self.inner.drained()
    }

    fn end_round(&mut self, limit: Duration) -> Result<(), FabricError> {
        self.inner.end_round(limit)
    }

    fn abandon(&mut self) {
        self.inner.abandon();
    }
}
