//! Measures operations on a data graph, on this process alone or on all ranks of the world.
//!
//! Each rank holds its part of the graph and works on it with its own threads; MPI carries the
//! rounds. No scheduler or journal is involved: only the operations themselves are measured.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::data::exchange::{Exchange, largest, sum};
use crate::data::operations::pagerank::{self, Sinks};
use crate::data::operations::{self, Edges, Operation, ReportedNumber};
use crate::data::part::GraphPart;
use crate::data::source::GraphSource;
use crate::data::{DataGraphError, Vertex};

/// Number of sources for searches; as in the GAP benchmark suite they are drawn among vertices with
/// edges.
const SOURCES: usize = 8;

/// Largest number of edges in a batch of insertions.
const MAX_BATCH_EDGES: usize = 1_000_000;

/// Bytes that each rank reads to measure memory bandwidth: more than caches hold.
const STREAM_BYTES: usize = 64 << 20;

/// The measurements to make.
#[derive(Clone, Debug)]
pub struct GraphBenchPlan {
    /// The graph.
    pub source: GraphSource,
    /// Operations by name; empty: all.
    pub operations: Vec<String>,
    /// Number of runs of each; the best counts.
    pub rounds: u32,
}

/// The measurement of one operation.
#[derive(Clone, Debug, Serialize)]
pub struct TimedOperation {
    /// Its name.
    pub operation: &'static str,
    /// Seconds of the fastest round; for searches the mean over sources of the fastest.
    pub seconds: f64,
    /// Edges of the graph per second; for insertions the edges of the batch.
    pub edges_per_s: f64,
    /// Its result.
    pub found: serde_json::Map<String, serde_json::Value>,
}

/// All measurements.
#[derive(Clone, Debug, Serialize)]
pub struct GraphMeasured {
    /// Number of ranks.
    pub ranks: u32,
    /// Threads per rank.
    pub threads: u32,
    /// Number of vertices.
    pub vertices: Vertex,
    /// Number of edges; undirected ones count once.
    pub edges: u64,
    /// Seconds to load and distribute the graph.
    pub load_s: f64,
    /// Memory of the graph on all ranks together, in bytes.
    pub bytes: u64,
    /// Memory bandwidth of all threads of all ranks together, in bytes per second.
    pub bandwidth: f64,
    /// Lower bound of an iteration of PageRank from the bandwidth, in seconds: 4 bytes per edge, 24
    /// per vertex.
    pub pagerank_iteration_floor_s: f64,
    /// The operations.
    pub operations: Vec<TimedOperation>,
}

/// The operations that are measured.
pub fn measured_operations() -> impl Iterator<Item = &'static str> {
    Operation::NAMES.into_iter().filter(|name| !matches!(*name, "save" | "delete_edges"))
}

/// Makes the measurements. Every rank calls it with the same plan, in its own thread pool.
///
/// # Errors
/// If the graph cannot be loaded, or communication fails.
pub fn measure(exchange: &mut dyn Exchange, plan: &GraphBenchPlan) -> Result<GraphMeasured, DataGraphError> {
    let begin = Instant::now();
    let part = plan.source.load(exchange)?;
    sum(exchange, [0])?;
    let load_s = begin.elapsed().as_secs_f64();
    let [bytes, stored] = sum(exchange, [part.bytes(), part.outgoing().edges()])?;
    let sources = sources(exchange, &part)?;
    let bandwidth = bandwidth(exchange)?;
    let touched = 4 * stored + 24 * u64::from(part.vertices());
    let mut timed = Vec::new();
    for name in measured_operations() {
        if plan.operations.is_empty() || plan.operations.iter().any(|wanted| *wanted == name) {
            timed.push(time(exchange, &part, name, &sources, plan.rounds)?);
        }
    }
    Ok(GraphMeasured {
        ranks: exchange.ranks() as u32,
        threads: rayon::current_num_threads() as u32,
        vertices: part.vertices(),
        edges: part.edges(),
        load_s,
        bytes,
        bandwidth,
        pagerank_iteration_floor_s: touched as f64 / bandwidth,
        operations: timed,
    })
}

/// Ids of vertices with edges, the same on all ranks.
fn sources(exchange: &mut dyn Exchange, part: &GraphPart) -> Result<Vec<u64>, DataGraphError> {
    let mut random = fastrand::Rng::with_seed(27_491_095);
    let mut sources = Vec::new();
    for _ in 0..1000 {
        let vertex = random.u32(..part.vertices().max(1));
        let degree = if part.own().contains(&vertex) { part.outgoing().degree(vertex) as u64 } else { 0 };
        let [degree] = sum(exchange, [degree])?;
        if degree > 0 {
            sources.push(part.ids().id(vertex));
        }
        if sources.len() == SOURCES {
            break;
        }
    }
    Ok(sources)
}

/// The operations of a name: one per source for searches.
fn operations_of(part: &GraphPart, name: &str, sources: &[u64]) -> Vec<Operation> {
    let each = |make: fn(u64) -> Operation| sources.iter().map(|&source| make(source)).collect();
    match name {
        "degrees" => vec![Operation::Degrees(operations::Direction::Both)],
        "bfs" => each(|source| Operation::Bfs { source }),
        "sssp" => each(|source| Operation::Sssp { source, delta: None }),
        "components" => vec![Operation::Components],
        // As GAP does it.
        "pagerank" => {
            vec![Operation::PageRank(pagerank::Options { sinks: Sinks::Drop, ..pagerank::Options::default() })]
        }
        "triangles" => vec![Operation::Triangles],
        "clustering" => vec![Operation::Clustering],
        "communities" => vec![Operation::Communities { iterations: 10 }],
        "k_hop" => each(|source| Operation::KHop { sources: vec![source], hops: 1 }),
        _ => {
            let mut random = fastrand::Rng::with_seed(1);
            let mut vertex = || part.ids().id(random.u32(..part.vertices().max(1)));
            let size = if part.vertices() == 0 { 0 } else { MAX_BATCH_EDGES.min(part.edges() as usize) };
            let pairs = (0..size).map(|_| (vertex(), vertex())).collect();
            vec![Operation::Change { insert: true, edges: Edges::Listed(pairs) }]
        }
    }
}

fn time(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    name: &'static str,
    sources: &[u64],
    rounds: u32,
) -> Result<TimedOperation, DataGraphError> {
    let operations = operations_of(part, name, sources);
    let (mut total, mut found) = (Duration::ZERO, serde_json::Map::new());
    let mut edges = part.edges();
    for operation in &operations {
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            // All ranks start together, and the time ends with the last one.
            sum(exchange, [0])?;
            let begin = Instant::now();
            let answer = operations::run(exchange, part, operation, Path::new(""), false)?;
            let [nanoseconds] = largest(exchange, [begin.elapsed().as_nanos() as u64])?;
            best = best.min(Duration::from_nanos(nanoseconds));
            found = answer
                .facts
                .iter()
                .map(|&(key, number)| {
                    let number = match number {
                        ReportedNumber::Whole(number) => number.into(),
                        ReportedNumber::Real(number) => number.into(),
                    };
                    (key.to_owned(), number)
                })
                .collect();
        }
        if let Operation::Change { edges: Edges::Listed(pairs), .. } = operation {
            edges = pairs.len() as u64;
        }
        total += best;
    }
    let seconds = total.as_secs_f64() / operations.len().max(1) as f64;
    Ok(TimedOperation { operation: name, seconds, edges_per_s: edges as f64 / seconds.max(1e-9), found })
}

/// Measures the bytes per second that the threads of all ranks read together; the best of three.
fn bandwidth(exchange: &mut dyn Exchange) -> Result<f64, DataGraphError> {
    use rayon::prelude::*;
    let words: Vec<u64> = (0..(STREAM_BYTES / 8) as u64).into_par_iter().collect();
    let mut best = u64::MAX;
    for _ in 0..3 {
        sum(exchange, [0])?;
        let begin = Instant::now();
        let total: u64 =
            words.par_chunks(1 << 14).map(|chunk| chunk.iter().fold(0u64, |sum, w| sum.wrapping_add(*w))).sum();
        std::hint::black_box(total);
        let [nanoseconds] = largest(exchange, [begin.elapsed().as_nanos() as u64])?;
        best = best.min(nanoseconds);
    }
    Ok(STREAM_BYTES as f64 * exchange.ranks() as f64 / (best.max(1) as f64 / 1e9))
}
