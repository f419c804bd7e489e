//! Operations on data graphs.
//!
//! [`run`] runs one operation on every rank that shares the graph. Its result is a few numbers
//! ([`Fact`]) and, for most operations, a value per vertex ([`VertexValues`]), of which each rank
//! holds those of its own vertices.

pub mod bfs;
mod bits;
pub mod communities;
pub mod components;
pub mod pagerank;
pub mod sssp;
pub mod triangles;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::exchange::{Exchange, gather, largest, pack, sum, unpack};
use super::format::{self, GraphFormat};
use super::part::GraphPart;
use super::rows::EdgeList;
use super::{DataGraphError, Vertex, agree};
use bfs::UNREACHED;

/// The distance that is printed for vertices that a search by edges does not reach (Graphalytics).
pub const UNREACHABLE: u64 = i64::MAX as u64;

/// Which edges of a vertex are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those that leave it.
    Out,
    /// Those that reach it.
    In,
    /// All.
    Both,
}

/// An operation with its arguments. Vertices are named by their ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Degrees.
    Degrees(Direction),
    /// Distances in edges.
    Bfs {
        /// The source vertex.
        source: u64,
    },
    /// Distances by weight.
    Sssp {
        /// The source vertex.
        source: u64,
        /// Width of the buckets; `None`: derived from weights and degrees.
        delta: Option<f64>,
    },
    /// Weakly connected components.
    Components,
    /// PageRank.
    PageRank(pagerank::Options),
    /// Triangles.
    Triangles,
    /// Local clustering coefficients.
    Clustering,
    /// Communities by label propagation.
    Communities {
        /// Number of iterations.
        iterations: u32,
    },
    /// The vertices within a number of edges.
    KHop {
        /// The source vertices.
        sources: Vec<u64>,
        /// Largest number of edges.
        hops: u32,
    },
    /// A batch of changes.
    Change {
        /// True to insert the edges, false to delete them.
        insert: bool,
        /// The edges.
        edges: Edges,
    },
    /// Writes the graph to a file.
    Save {
        /// The file.
        file: PathBuf,
        /// Its format; `None`: from the file's ending.
        format: Option<GraphFormat>,
    },
}

/// Edges of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Edges {
    /// Pairs of ids.
    Listed(Vec<(u64, u64)>),
    /// Lines `u v` or `u v weight` of a file.
    File(PathBuf),
}

/// A number that an operation reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReportedNumber {
    /// A whole number.
    Whole(u64),
    /// A real number.
    Real(f64),
}

/// A name and a number, as in the operation's line of output.
pub type Fact = (&'static str, ReportedNumber);

/// Values of the own vertices of a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum VertexValues {
    /// No values.
    None,
    /// Whole numbers.
    Whole(Vec<u64>),
    /// Real numbers, with at most 17 digits.
    Real(Vec<f64>),
    /// Distances in edges.
    Levels {
        /// [`UNREACHED`] for unreached vertices.
        levels: Vec<u32>,
        /// True to leave out unreached vertices.
        only_reached: bool,
    },
    /// Vertices, shown by their ids.
    Vertices(Vec<Vertex>),
}

/// The result of an operation.
pub struct OperationAnswer {
    /// Numbers of the whole graph, the same on every rank.
    pub facts: Vec<Fact>,
    /// Values of the own vertices.
    pub values: VertexValues,
    /// The new version, for a change.
    pub changed: Option<GraphPart>,
}

impl Operation {
    /// Names of all operations.
    pub const NAMES: [&'static str; 12] = [
        "degrees",
        "bfs",
        "sssp",
        "components",
        "pagerank",
        "triangles",
        "clustering",
        "communities",
        "k_hop",
        "insert_edges",
        "delete_edges",
        "save",
    ];

    /// The operation's name.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Degrees(_) => "degrees",
            Operation::Bfs { .. } => "bfs",
            Operation::Sssp { .. } => "sssp",
            Operation::Components => "components",
            Operation::PageRank(_) => "pagerank",
            Operation::Triangles => "triangles",
            Operation::Clustering => "clustering",
            Operation::Communities { .. } => "communities",
            Operation::KHop { .. } => "k_hop",
            Operation::Change { insert: true, .. } => "insert_edges",
            Operation::Change { insert: false, .. } => "delete_edges",
            Operation::Save { .. } => "save",
        }
    }

    /// True if it makes a new version of the graph.
    pub fn writes(&self) -> bool {
        matches!(self, Operation::Change { .. })
    }
}

fn vertex(part: &GraphPart, id: u64) -> Result<Vertex, DataGraphError> {
    part.ids().vertex(id).ok_or_else(|| DataGraphError::refused(format!("the graph has no vertex {id}")))
}

/// Runs an operation on every rank that shares the graph. `each`: values of single vertices are
/// wanted. Relative file names start from `dir`.
///
/// # Errors
/// If it is stopped, or its arguments do not fit the graph. All ranks get the same error.
pub fn run(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    operation: &Operation,
    dir: &Path,
    each: bool,
) -> Result<OperationAnswer, DataGraphError> {
    let whole = |name, number| (name, ReportedNumber::Whole(number));
    let (facts, values) = match operation {
        Operation::Degrees(direction) => {
            let degrees = degrees(part, *direction);
            let [total] = sum(exchange, [degrees.par_iter().sum::<u64>()])?;
            let [most] = largest(exchange, [degrees.iter().copied().max().unwrap_or(0)])?;
            let mean = total as f64 / f64::from(part.vertices()).max(1.0);
            (vec![whole("largest", most), ("mean", ReportedNumber::Real(mean))], VertexValues::Whole(degrees))
        }
        Operation::Bfs { source } => {
            let found = bfs::bfs(exchange, part, &[vertex(part, *source)?], UNREACHED)?;
            let facts = vec![whole("reached", found.reached), whole("depth", u64::from(found.depth))];
            (facts, VertexValues::Levels { levels: found.levels, only_reached: false })
        }
        Operation::KHop { sources, hops } => {
            let sources = sources.iter().map(|&id| vertex(part, id)).collect::<Result<Vec<_>, _>>()?;
            let found = bfs::bfs(exchange, part, &sources, *hops)?;
            (vec![whole("reached", found.reached)], VertexValues::Levels { levels: found.levels, only_reached: true })
        }
        Operation::Sssp { source, delta } => {
            let found = sssp::sssp(exchange, part, vertex(part, *source)?, *delta)?;
            (vec![whole("reached", found.reached)], VertexValues::Real(found.distances))
        }
        Operation::Components => {
            let found = components::components(exchange, part)?;
            let facts = vec![whole("components", found.count), whole("largest", found.largest)];
            (facts, VertexValues::Vertices(found.labels))
        }
        Operation::PageRank(options) => {
            let found = pagerank::pagerank(exchange, part, options)?;
            let facts = vec![
                whole("iterations", u64::from(found.iterations)),
                ("residual", ReportedNumber::Real(found.residual)),
            ];
            (facts, VertexValues::Real(found.ranks))
        }
        Operation::Triangles => {
            let found = triangles::triangles(exchange, part, each)?;
            (vec![whole("triangles", found.total)], VertexValues::Whole(found.counts))
        }
        Operation::Clustering => {
            let values = triangles::clustering(exchange, part)?;
            // Summed in whole numbers, so that the order does not matter.
            const ONE: f64 = (1u64 << 31) as f64;
            let own = values.par_iter().map(|&value| (value * ONE) as u64).sum::<u64>();
            let [total] = sum(exchange, [own])?;
            let mean = total as f64 / ONE / f64::from(part.vertices()).max(1.0);
            (vec![("mean", ReportedNumber::Real(mean))], VertexValues::Real(values))
        }
        Operation::Communities { iterations } => {
            let found = communities::communities(exchange, part, *iterations)?;
            let facts = vec![
                whole("communities", found.count),
                whole("largest", found.largest),
                whole("iterations", u64::from(found.iterations)),
            ];
            (facts, VertexValues::Vertices(found.labels))
        }
        Operation::Change { insert, edges } => {
            let edges = read_changes(exchange, part, edges, dir)?;
            let (next, count) = part.changed(exchange, edges, *insert)?;
            return Ok(OperationAnswer { changed: Some(next), ..changed(count, *insert) });
        }
        Operation::Save { file, format } => {
            let path = dir.join(file);
            let format = match format {
                Some(format) => *format,
                None => agree(exchange, GraphFormat::need(&path))?,
            };
            format::write::save(exchange, part, &path, format)?;
            (Vec::new(), VertexValues::None)
        }
    };
    Ok(OperationAnswer { facts, values, changed: None })
}

/// Degrees of the own vertices. A loop in an undirected graph counts twice.
pub fn degrees(part: &GraphPart, direction: Direction) -> Vec<u64> {
    let degree = |v: Vertex| {
        let (out, into) = (part.outgoing().degree(v) as u64, part.incoming().degree(v) as u64);
        match direction {
            _ if !part.is_directed() => out + u64::from(part.has_loop(v)),
            Direction::Out => out,
            Direction::In => into,
            Direction::Both => out + into,
        }
    };
    part.own().into_par_iter().map(degree).collect()
}

/// The result of a batch that has changed `count` edges.
pub fn changed(count: u64, insert: bool) -> OperationAnswer {
    let name = if insert { "inserted" } else { "deleted" };
    OperationAnswer { facts: vec![(name, ReportedNumber::Whole(count))], values: VertexValues::None, changed: None }
}

/// The edges of a batch, a piece on each rank. Relative file names start from `dir`.
///
/// # Errors
/// If the file cannot be read, or names a vertex that is not in the graph.
pub fn read_changes(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    edges: &Edges,
    dir: &Path,
) -> Result<EdgeList, DataGraphError> {
    let (pairs, weights) = match edges {
        Edges::Listed(pairs) => {
            let (place, ranks) = (exchange.place(), exchange.ranks());
            let own = pairs.len() * place / ranks..pairs.len() * (place + 1) / ranks;
            (pairs[own].to_vec(), None)
        }
        Edges::File(file) => format::edge_lines(exchange, &dir.join(file), part.is_weighted())?,
    };
    let named = |&(u, v): &(u64, u64)| Ok((vertex(part, u)?, vertex(part, v)?));
    let ends = agree(exchange, pairs.par_iter().map(named).collect::<Result<Vec<_>, _>>())?;
    Ok(EdgeList { ends, weights: part.weights_of(&pairs, weights) })
}

impl VertexValues {
    /// Appends the value of the own vertex at index `at`. Returns false if it is left out.
    fn put(&self, part: &GraphPart, at: usize, text: &mut String) -> bool {
        // Writing to memory cannot fail.
        let _ = match self {
            VertexValues::None => return false,
            VertexValues::Whole(values) => write!(text, "{}", values[at]),
            VertexValues::Real(values) if values[at].is_infinite() => write!(text, "infinity"),
            VertexValues::Real(values) => write!(text, "{:?}", values[at]),
            VertexValues::Vertices(values) => write!(text, "{}", part.ids().id(values[at])),
            VertexValues::Levels { levels, only_reached } => match levels[at] {
                UNREACHED if *only_reached => return false,
                UNREACHED => write!(text, "{UNREACHABLE}"),
                level => write!(text, "{level}"),
            },
        };
        true
    }

    /// The sort key of the value at index `at`: larger keys for larger values. `None` for unreached
    /// vertices.
    fn order(&self, part: &GraphPart, at: usize) -> Option<u64> {
        match self {
            VertexValues::None => None,
            VertexValues::Whole(values) => values.get(at).copied(),
            // Values are not negative, so their bits have the same order.
            VertexValues::Real(values) => Some(values[at]).filter(|value| value.is_finite()).map(f64::to_bits),
            VertexValues::Vertices(values) => Some(part.ids().id(values[at])),
            VertexValues::Levels { levels, .. } => Some(levels[at]).filter(|&level| level != UNREACHED).map(u64::from),
        }
    }
}

/// Writes a line `id value` for each vertex, ascending by id.
///
/// # Errors
/// If the file cannot be written.
pub fn write_values(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    values: &VertexValues,
    path: &Path,
) -> Result<(), DataGraphError> {
    format::write::text(exchange, part, path, String::new(), |part, v, out| {
        let mut text = String::with_capacity(32);
        let _ = write!(text, "{} ", part.ids().id(v));
        if values.put(part, (v - part.own().start) as usize, &mut text) {
            text.push('\n');
            out.extend_from_slice(text.as_bytes());
        }
    })
}

/// The vertices with the largest values over all ranks as lines `id value`; of equal values, the
/// smallest id comes first.
///
/// # Errors
/// If the operation is stopped.
pub fn top(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    values: &VertexValues,
    count: usize,
) -> Result<String, DataGraphError> {
    let own = part.own();
    let key = |&(order, v): &(u64, Vertex)| (std::cmp::Reverse(order), v);
    let has_values =
        !matches!(values, VertexValues::None) && !matches!(values, VertexValues::Whole(all) if all.len() < own.len());
    let all = if has_values { own.len() } else { 0 };
    let mut best: Vec<(u64, Vertex)> =
        (0..all).into_par_iter().filter_map(|at| Some((values.order(part, at)?, own.start + at as Vertex))).collect();
    if best.len() > count && count > 0 {
        best.select_nth_unstable_by_key(count - 1, key);
    }
    best.truncate(count);
    let mut gathered = Vec::new();
    for bytes in gather(exchange, pack(best))? {
        gathered.extend(unpack::<(u64, Vertex)>(&bytes)?);
    }
    gathered.sort_unstable_by_key(key);
    gathered.truncate(count);
    let mut text = String::new();
    for (order, v) in gathered {
        let _ = write!(text, "{} ", part.ids().id(v));
        let _ = match values {
            VertexValues::Real(_) => writeln!(text, "{:?}", f64::from_bits(order)),
            _ => writeln!(text, "{order}"),
        };
    }
    Ok(text)
}
