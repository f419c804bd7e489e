//! How near Phalanx comes to what a program without any scheduler reaches on graphs of tiny tasks,
//! in METG(50 %) and in empty tasks a second; see `phalanx::bench` for what these are.
//!
//! Two floors stand beside it, with the same kernel, graphs and shared peak, measured in turns with
//! it in the same run:
//!
//! - a bare loop on two threads: successors in flat arrays, atomic counts of what is missing,
//!   deques to steal from; no order, limits, journal or ranks;
//! - a hand-written MPI program on two ranks: each has half of the points, sends its edge without
//!   waiting, computes what needs no other rank, then waits. It knows the graph beforehand and
//!   schedules nothing.
//!
//! `cargo bench --bench metg [-- TURNS]`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_deque::{Steal, Stealer, Worker};
use mpi::request::WaitGuard;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Source};
use phalanx::bench::curve::{CurveShape, Point, metg_us};
use phalanx::exec::compute_bound::iterate;
use phalanx::graph::link::{Condition, Link, LinkShape};
use phalanx::graph::pattern::{Dependence, Pattern};
use phalanx::graph::{Edge, TaskGraph};
use phalanx::topology::{SlotPlace, Topology, bind_current_thread};

const WIDTH: u32 = 8;
const STEPS: u32 = 1000;
const CORES: u32 = 2;
/// Iterations of the largest tasks, tens of microseconds each.
const TOP: u32 = 14;

/// The word by which this program tells itself that it is one rank of the hand-written MPI program.
const AS_MPI: &str = "--as-mpi-program";

/// Best wall in seconds for each number of iterations.
type Walls = BTreeMap<u64, f64>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = words.iter().position(|word| word == AS_MPI) {
        return mpi_program(words.get(at + 1).map_or(1, |radius| radius.parse().unwrap_or(1)));
    }
    let turns = words.iter().find_map(|word| word.parse().ok()).unwrap_or(3);
    println!("width {WIDTH}, {STEPS} steps, {CORES} cores; best of {turns} turns; METG(50 %) against one peak for all");
    for dependence in [Dependence::Stencil1d, Dependence::Nearest { radix: 5 }] {
        compare(Pattern { dependence, width: WIDTH, steps: STEPS }, turns);
    }
    let peers = peers();
    if !peers.is_empty() {
        println!("\nalso installed here, and not run by this program: {}", peers.join(", "));
    }
}

fn compare(pattern: Pattern, turns: u32) {
    let name = pattern.dependence.name();
    let radius = if pattern.dependence == Dependence::Stencil1d { 1 } else { 2 };
    let graph = Bare::new(pattern);
    let mut peak = 0f64;
    let mut walls: [Walls; 4] = Default::default();
    for _ in 0..turns {
        merge(&mut walls[0], sizes().map(|n| (n, graph.run(n).as_secs_f64())));
        merge(&mut walls[1], phalanx(name, 2, 1, &mut peak));
        merge(&mut walls[2], mpi_floor(radius));
        merge(&mut walls[3], phalanx(name, 1, 2, &mut peak));
    }
    let tasks = pattern.count();
    let points = |walls: &Walls, peak_gflops| -> Vec<Point> {
        let shape = CurveShape { tasks, cores: CORES, peak_gflops };
        walls.iter().map(|(&iterations, &wall)| Point::new(iterations, wall, &shape)).collect()
    };
    // What one of them has reached is no more than what can be reached.
    let peak = walls.iter().flat_map(|walls| points(walls, peak)).map(|point| point.gflops).fold(peak, f64::max);
    println!("\n{name}, peak {peak:.1} GFLOP/s");
    println!("{:<34}{:>10}{:>10}{:>14}{:>10}", "", "METG us", "ratio", "empty M/s", "ratio");
    let figures = walls.each_ref().map(|walls| {
        let empty = walls.get(&0).map_or(f64::NAN, |wall| tasks as f64 / wall / 1e6);
        (metg_us(&points(walls, peak)).unwrap_or(f64::NAN), empty)
    });
    let rows =
        ["bare loop, 2 threads", "phalanx, 1 rank x 2 slots", "MPI by hand, 2 ranks", "phalanx, 2 ranks x 1 slot"];
    for (i, (row, (metg, empty))) in rows.into_iter().zip(figures).enumerate() {
        // Each is compared with the floor above it.
        let floor = figures[i / 2 * 2];
        let [metg_ratio, empty_ratio] = [metg / floor.0, empty / floor.1].map(shown);
        println!("{row:<34}{:>10}{metg_ratio:>10}{:>14}{empty_ratio:>10}", shown(metg), shown(empty));
    }
}

/// A figure; a dash where half of the peak was never reached (on a machine that does something else
/// meanwhile, say).
fn shown(figure: f64) -> String {
    if figure.is_nan() { "-".to_owned() } else { format!("{figure:.2}") }
}

/// Iterations from large to none.
fn sizes() -> impl Iterator<Item = u64> {
    (0..=TOP).rev().map(|k| 1 << k).chain([0])
}

fn merge(best: &mut Walls, found: impl IntoIterator<Item = (u64, f64)>) {
    for (iterations, wall) in found {
        best.entry(iterations).and_modify(|best| *best = best.min(wall)).or_insert(wall);
    }
}

/// One round of `phalanx bench metg`.
fn phalanx(pattern: &str, slots: u32, ranks: u32, peak: &mut f64) -> Walls {
    let program = Path::new(env!("CARGO_BIN_EXE_phalanx"));
    let mut command = if ranks > 1 { mpirun(program, ranks) } else { Command::new(program) };
    let (slots, width, steps) = (slots.to_string(), WIDTH.to_string(), STEPS.to_string());
    command.args(["bench", "metg", "--json", "--rounds", "1", "--pattern", pattern]);
    command.args(["--slots", &slots, "--width", &width, "--steps", &steps]);
    let result: serde_json::Value = serde_json::from_str(&output(command)).expect("one JSON object");
    *peak = peak.max(result["peak_gflops"].as_f64().expect("a peak"));
    let points = result["points"].as_array().expect("points");
    points.iter().map(|p| (p["iterations"].as_u64().unwrap_or(0), p["wall_s"].as_f64().unwrap_or(f64::NAN))).collect()
}

fn mpirun(program: &Path, ranks: u32) -> Command {
    let mut command = Command::new("mpirun");
    // OpenMPI refuses to serve root unless it is told twice.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.args(["-n", &ranks.to_string()]).arg(program);
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("plain text")
}

/// The floor of one process.
struct Bare {
    graph: TaskGraph,
    missing: Vec<AtomicU32>,
    left: AtomicU32,
    places: Vec<SlotPlace>,
}

impl Bare {
    fn new(pattern: Pattern) -> Bare {
        let link = Link { from: 0, to: 0, shape: LinkShape::Pattern(pattern), on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[pattern.count() as u32], &[link]).expect("no pattern has a cycle");
        let missing = (0..graph.task_count()).map(|_| AtomicU32::new(0)).collect();
        Bare { graph, missing, left: AtomicU32::new(0), places: Topology::discover().places(Some(CORES as usize)) }
    }

    fn run(&self, iterations: u64) -> Duration {
        let needs = |task: usize| self.graph.predecessors(task as u32).len() as u32;
        self.missing.iter().enumerate().for_each(|(task, missing)| missing.store(needs(task), Ordering::Relaxed));
        self.left.store(self.graph.task_count() as u32, Ordering::SeqCst);
        let workers: Vec<Worker<u32>> = self.places.iter().map(|_| Worker::new_lifo()).collect();
        let stealers: Vec<Stealer<u32>> = workers.iter().map(Worker::stealer).collect();
        let roots = (0..self.graph.task_count()).filter(|&task| needs(task) == 0);
        roots.for_each(|task| workers[task % workers.len()].push(task as u32));
        let go = AtomicBool::new(false);
        let mut begun = Instant::now();
        std::thread::scope(|scope| {
            for (worker, place) in workers.into_iter().zip(&self.places) {
                let (stealers, go) = (&stealers, &go);
                scope.spawn(move || {
                    // On a machine that forbids pinning the loop floats, as the slots do.
                    let _ = bind_current_thread(&place.cpus);
                    while !go.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    self.work(&worker, stealers, iterations);
                });
            }
            std::thread::sleep(Duration::from_millis(2));
            begun = Instant::now();
            go.store(true, Ordering::Release);
        });
        begun.elapsed()
    }

    fn work(&self, worker: &Worker<u32>, stealers: &[Stealer<u32>], iterations: u64) {
        while self.left.load(Ordering::Acquire) > 0 {
            let steal = || stealers.iter().map(|s| s.steal_batch_and_pop(worker)).find_map(Steal::success);
            let Some(task) = worker.pop().or_else(steal) else { continue };
            black_box(iterate(iterations));
            for next in self.graph.successors(task).map(Edge::node) {
                if self.missing[next as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                    worker.push(next);
                }
            }
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The floor of two ranks: starts this program as them.
fn mpi_floor(radius: u32) -> Walls {
    let mut command = mpirun(&std::env::current_exe().expect("a program has a path"), 2);
    command.args([AS_MPI, &radius.to_string()]);
    let text = output(command);
    let line = |line: &str| {
        let (iterations, wall) = line.split_once(' ')?;
        Some((iterations.parse().ok()?, wall.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// One of the two ranks. Points need those at most `radius` away; every task leaves two words
/// behind, which its successors look at.
fn mpi_program(radius: usize) {
    let universe = mpi::initialize().expect("MPI serves this program");
    let world = universe.world();
    let (rank, half) = (world.rank() as usize, WIDTH as usize / 2);
    let peer = world.process_at_rank(1 - world.rank());
    for iterations in sizes() {
        let mut own = vec![[0u64; 2]; half];
        let mut theirs = vec![0u64; 2 * radius];
        world.barrier();
        let begun = Instant::now();
        for step in 0..u64::from(STEPS) {
            let task = |point: usize| {
                black_box(iterate(iterations));
                [step, (rank * half + point) as u64]
            };
            // The points next to the other rank: the last ones of rank 0, the first ones of rank 1.
            let edge = if rank == 0 { half - radius..half } else { 0..radius };
            let inner = if rank == 0 { 0..half - radius } else { radius..half };
            if step == 0 {
                (0..half).for_each(|point| own[point] = task(point));
                continue;
            }
            let sent: Vec<u64> = own[edge.clone()].concat();
            mpi::request::scope(|scope| {
                let receiving = WaitGuard::from(peer.immediate_receive_into(scope, &mut theirs[..]));
                let sending = WaitGuard::from(peer.immediate_send(scope, &sent[..]));
                inner.for_each(|point| own[point] = task(point));
                drop((receiving, sending));
            });
            assert!(theirs.chunks(2).all(|word| word[0] == step - 1), "the other rank is at another step");
            edge.for_each(|point| own[point] = task(point));
        }
        world.barrier();
        let wall = begun.elapsed();
        black_box(own);
        if rank == 0 {
            println!("{iterations} {}", wall.as_secs_f64());
        }
    }
}

/// Task systems that are installed on this machine.
fn peers() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let header =
        |name: &str| ["/usr/include", "/usr/local/include"].iter().any(|dir| Path::new(dir).join(name).exists());
    let known = [
        ("Taskflow", header("taskflow/taskflow.hpp")),
        ("Charm++", on_path("charmc")),
        ("PaRSEC", on_path("parsec-ptgpp")),
        ("StarPU", on_path("starpu_machine_display")),
        ("HyperQueue", on_path("hq")),
        ("Dask", on_path("dask")),
    ];
    known.into_iter().filter(|(_, found)| *found).map(|(name, _)| name).collect()
}
