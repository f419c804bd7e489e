//! `phalanx bench`: measures Phalanx itself on this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, value_parser};

use super::{complain, launched_rank, print, refuse};
use crate::bench::metg::{self, BenchError, MetgMeasured, MetgPlan};
use crate::bench::{curve, graph, picture};
use crate::data::generate::{GAP_SEED, GeneratedKind, Generator};
use crate::data::source::{GraphSource, Origin, WeightSource};
use crate::graph::pattern::{Dependence, Pattern};
use crate::model::Rank;
use crate::runtime::{RunError, World};

/// Measures Phalanx itself: in one process, or on all ranks started by mpirun.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: BenchVerb,
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    Metg(MetgArgs),
    Graph(GraphArgs),
}

/// Measures operations on a data graph that is generated or read from a file and spread over all
/// ranks.
#[derive(Debug, clap::Args)]
struct GraphArgs {
    /// Kind of graph: kron (power law), urand (random) or grid.
    #[arg(long, value_name = "KIND", default_value = "kron", value_parser = PossibleValuesParser::new(GeneratedKind::ALL.map(|kind| kind.0)))]
    kind: String,
    /// The graph has 2^S vertices, without those after the last one with an edge.
    #[arg(long, value_name = "S", default_value_t = 16, value_parser = value_parser!(u32).range(0..=31))]
    scale: u32,
    /// Edges per vertex, before duplicates and loops are removed.
    #[arg(long, value_name = "D", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    degree: u32,
    /// Read the graph from a file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "scale", "degree"])]
    file: Option<PathBuf>,
    /// Only these operations, separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = PossibleValuesParser::new(graph::measured_operations()))]
    operations: Vec<String>,
    /// Threads of each rank [default: the CPUs that the launcher granted it].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Repetitions of each operation; the fastest is reported.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Finds the smallest task granularity with 50 % efficiency: METG(50 %), as Task Bench defines it.
///
/// Runs a graph of `compute_bound` tasks repeatedly, from large tasks to empty ones, with the
/// journal on.
#[derive(Debug, clap::Args)]
struct MetgArgs {
    /// Dependence pattern.
    #[arg(long, value_name = "P", default_value = "stencil_1d", value_parser = names())]
    pattern: String,
    /// Tasks in each step.
    #[arg(long, value_name = "W", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1_000_000))]
    width: u32,
    /// Number of steps.
    #[arg(long, value_name = "S", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    steps: u32,
    /// Dependencies per task, for nearest, spread and random_nearest [default: 5].
    #[arg(long, value_name = "R", value_parser = value_parser!(u32).range(1..=1_000_000))]
    radix: Option<u32>,
    /// Slots of each rank [default: the CPUs that the launcher granted it].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Repetitions of each task size; the fastest is reported.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the efficiency curve as an SVG picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(Dependence::NAMED.iter().map(|(name, ..)| *name))
}

pub(super) fn main(args: Args) -> ExitCode {
    let args = match args.what {
        BenchVerb::Metg(args) => args,
        BenchVerb::Graph(args) => return graph_bench(&args),
    };
    let plan = match plan(&args) {
        Ok(plan) => plan,
        // Only rank 0 prints the error; see `cli::main`.
        Err(_) if launched_rank().is_some_and(|rank| rank != Rank::ZERO) => return ExitCode::SUCCESS,
        Err(reason) => return refuse(reason),
    };
    match World::join() {
        Ok(mut world) if world.rank() == Rank::ZERO => lead(&mut world, &plan, &args),
        Ok(mut world) => follow(&mut world),
        Err(error) => failed(&error.into()),
    }
}

fn graph_bench(args: &GraphArgs) -> ExitCode {
    let kind = GeneratedKind::named(&args.kind).unwrap_or(GeneratedKind::Kron);
    let (origin, weights) = match &args.file {
        Some(file) => (Origin::File(file.clone(), None), None),
        None => {
            let generator = Generator { kind, scale: args.scale, degree: args.degree, seed: GAP_SEED };
            (Origin::Generated(generator), Some(WeightSource::Uniform { from: 1, to: 255, seed: 1 }))
        }
    };
    let source = GraphSource { origin, directed: None, weights };
    let plan = graph::GraphBenchPlan { source, operations: args.operations.clone(), rounds: args.rounds };
    let mut world = match World::join() {
        Ok(world) => world,
        Err(error) => return failed(&error.into()),
    };
    let mut threads = rayon::ThreadPoolBuilder::new();
    if let Some(slots) = args.slots {
        threads = threads.num_threads(slots as usize);
    }
    let speaks = world.rank() == Rank::ZERO;
    // The thread that initialized MPI makes all MPI calls, so it must be one of the pool's threads.
    let measured = match threads.use_current_thread().build() {
        Ok(pool) => pool.install(|| graph::measure(&mut world, &plan)),
        Err(error) => Err(crate::data::DataGraphError::refused(format!("cannot start threads: {error}"))),
    };
    match measured {
        Ok(measured) if speaks && args.json => print(&format!("{}\n", serde_json::json!(measured))),
        Ok(measured) if speaks => print(&graph_table(&measured)),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) if speaks => refuse(error),
        Err(_) => ExitCode::SUCCESS,
    }
}

fn graph_table(measured: &graph::GraphMeasured) -> String {
    let mut text = format!(
        "{} vertices, {} edges on {} ranks x {} threads: loaded in {:.2} s, {:.1} MiB\n\n{:<14} {:>10} {:>14}  found\n",
        measured.vertices,
        measured.edges,
        measured.ranks,
        measured.threads,
        measured.load_s,
        measured.bytes as f64 / f64::from(1 << 20),
        "operation",
        "seconds",
        "edges/s",
    );
    for timed in &measured.operations {
        let found: Vec<String> = timed.found.iter().map(|(key, value)| format!("{key} {value}")).collect();
        // Writing to memory cannot fail.
        let _ = writeln!(
            text,
            "{:<14} {:>10.5} {:>14.3e}  {}",
            timed.operation,
            timed.seconds,
            timed.edges_per_s,
            found.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "\nmemory bandwidth {:.1} GB/s: enough for an iteration of PageRank in {:.5} s",
        measured.bandwidth / 1e9,
        measured.pagerank_iteration_floor_s
    );
    text
}

fn lead(world: &mut World, plan: &MetgPlan, args: &MetgArgs) -> ExitCode {
    let measured = match metg::lead(world, plan) {
        Ok(measured) => measured,
        Err(error) => return failed(&error),
    };
    if let Some(file) = &args.svg
        && let Err(error) = std::fs::write(file, picture::svg(&measured))
    {
        complain(format_args!("cannot write {}: {error}", file.display()));
        return ExitCode::FAILURE;
    }
    match args.json {
        true => print(&format!("{}\n", serde_json::json!(measured))),
        false => print(&table(&measured, args.svg.as_deref())),
    }
}

/// Executes what rank 0 requests. Rank 0 prints the results; this rank prints only its own errors.
fn follow(world: &mut World) -> ExitCode {
    match metg::follow(world) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.into()),
    }
}

fn failed(error: &BenchError) -> ExitCode {
    match error {
        BenchError::Run(RunError::Job(diagnostics)) => super::check::show(diagnostics),
        error => complain(error),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

fn plan(args: &MetgArgs) -> Result<MetgPlan, String> {
    let named = Dependence::NAMED.iter().find(|(name, ..)| *name == args.pattern);
    let mut dependence = named.map(|(_, dependence, _)| *dependence).ok_or("unknown pattern")?;
    match (args.radix, dependence.radix_mut()) {
        (Some(_), None) => return Err(format!("the pattern {} has no radix: remove --radix", args.pattern)),
        (Some(typed), Some(radix)) => *radix = typed,
        (None, _) => {}
    }
    let pattern = Pattern { dependence, width: args.width, steps: args.steps };
    Ok(MetgPlan { pattern, slots: args.slots, rounds: args.rounds })
}

fn table(measured: &MetgMeasured, svg: Option<&Path>) -> String {
    let MetgMeasured { pattern, width, ranks, slots, peak_gflops, .. } = measured;
    let mut text =
        format!("{pattern}, width {width}, ranks {ranks}, slots {slots} each; peak {peak_gflops:.1} GFLOP/s\n\n");
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "{:>12} {:>16} {:>10} {:>12} {:>10} {:>14}",
        "iterations", "granularity us", "GFLOP/s", "efficiency", "wall ms", "with set-up ms"
    );
    for (point, whole_s) in measured.points.iter().zip(&measured.whole_s) {
        let _ = writeln!(
            text,
            "{:>12} {:>16.3} {:>10.2} {:>10.1} % {:>10.2} {:>14.2}",
            point.iterations,
            point.granularity_us,
            point.gflops,
            point.efficiency * 100.0,
            point.wall_s * 1e3,
            whole_s * 1e3
        );
    }
    match measured.metg_us {
        Some(metg) => drop(writeln!(text, "\nMETG(50 %): {metg:.2} us")),
        None => text += "\nMETG(50 %): no task size reached half of the peak\n",
    }
    for dip in curve::dips(&measured.points) {
        let (granularity, percent) = (dip.granularity_us, dip.efficiency * 100.0);
        let _ = writeln!(text, "  larger tasks are less efficient: {percent:.1} % at {granularity:.2} us");
    }
    let _ = writeln!(text, "empty tasks: {:.0} per second", measured.zero_work_tasks_per_s);
    if let Some(svg) = svg {
        let _ = writeln!(text, "picture: {}", svg.display());
    }
    text
}
