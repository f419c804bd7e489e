//! `graph_operation { graph, operation, args, output, top }`: an operation on a data graph of the
//! job.
//!
//! Tasks with `graph` and `operation` become calls of this kernel (`job/resolve/graphs.rs`). The
//! argument `source` exists only so that a task whose graph is declared differently counts as
//! changed.

use std::path::PathBuf;
use std::sync::Arc;

use toml::Value;

use crate::data::format::GraphFormat;
use crate::data::operations::{Direction, Edges, Operation, pagerank, write_values};
use crate::exec::args::{ArgError, Args, FromArg, unknown};
use crate::exec::graphs::{ContextExchange, report};
use crate::exec::kernel::{Context, Prepared};

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let own = Args::new(args, &["graph", "source", "operation", "args", "output", "top"])?;
    let (graph, name): (String, String) = (own.need("graph")?, own.need("operation")?);
    let output: Option<PathBuf> = own.get("output")?;
    let top: u32 = own.get("top")?.unwrap_or(0);
    let empty = toml::Table::new();
    let operation = operation(&name, args.get("args").and_then(Value::as_table).unwrap_or(&empty))?;
    if output.is_some() && !has_values(&operation) {
        return Err(ArgError::new("output", format!("`{name}` has no value for each vertex; leave `output` out")));
    }
    Ok(Arc::new(move |context| run(context, &graph, &operation, output.as_deref(), top as usize)))
}

fn has_values(operation: &Operation) -> bool {
    !matches!(operation, Operation::Change { .. } | Operation::Save { .. })
}

fn run(
    context: &Context,
    graph: &str,
    operation: &Operation,
    output: Option<&std::path::Path>,
    top: usize,
) -> Result<(), String> {
    let done = || {
        let each = output.is_some() || top > 0;
        let (found, cached) = context.graphs().run(graph, operation, context, each)?;
        let mut exchange = ContextExchange::new(context);
        if let Some(output) = output {
            let path = context.path(output);
            context.rayon().install(|| write_values(&mut exchange, &found.part, &found.answer.values, &path))?;
        }
        report(graph, operation, &found, cached, top, &mut exchange)
    };
    let text = done().map_err(|error: crate::data::DataGraphError| error.to_string())?;
    context.print(&text);
    Ok(())
}

/// The operation of that name with its arguments.
fn operation(name: &str, table: &toml::Table) -> Result<Operation, ArgError> {
    let args = |known: &[&str]| Args::new(table, known);
    Ok(match name {
        "degrees" => {
            let of: Option<String> = args(&["of"])?.get("of")?;
            Operation::Degrees(match of.as_deref() {
                None | Some("out") => Direction::Out,
                Some("in") => Direction::In,
                Some("both") => Direction::Both,
                Some(other) => {
                    return Err(ArgError::new("of", format!("expected \"out\", \"in\" or \"both\", found {other:?}")));
                }
            })
        }
        "bfs" => Operation::Bfs { source: args(&["source"])?.need("source")? },
        "sssp" => {
            let args = args(&["source", "delta"])?;
            let delta: Option<f64> = args.get("delta")?;
            if delta.is_some_and(|delta| delta <= 0.0) {
                return Err(ArgError::new("delta", "expected a number above zero"));
            }
            Operation::Sssp { source: args.need("source")?, delta }
        }
        "components" => args(&[]).map(|_| Operation::Components)?,
        "pagerank" => Operation::PageRank(pagerank_options(&args(&["damping", "tolerance", "iterations", "sinks"])?)?),
        "triangles" => args(&[]).map(|_| Operation::Triangles)?,
        "clustering" => args(&[]).map(|_| Operation::Clustering)?,
        "communities" => Operation::Communities { iterations: args(&["iterations"])?.get("iterations")?.unwrap_or(10) },
        "k_hop" => {
            let args = args(&["source", "sources", "hops"])?;
            let sources = match (args.get::<u64>("source")?, args.get::<IdList>("sources")?) {
                (Some(source), None) => vec![source],
                (None, Some(IdList(sources))) if !sources.is_empty() => sources,
                _ => {
                    return Err(ArgError::new(
                        "source",
                        "expected either `source`, an id, or `sources`, a list of them",
                    ));
                }
            };
            Operation::KHop { sources, hops: args.get("hops")?.unwrap_or(1) }
        }
        "insert_edges" | "delete_edges" => {
            let args = args(&["file", "edges"])?;
            let edges = match (args.get::<PathBuf>("file")?, args.get::<PairList>("edges")?) {
                (Some(file), None) => Edges::File(file),
                (None, Some(PairList(pairs))) => Edges::Listed(pairs),
                _ => {
                    return Err(ArgError::new(
                        "edges",
                        "expected either `edges = [[u, v], ...]` or `file`, a file of lines `u v`",
                    ));
                }
            };
            Operation::Change { insert: name == "insert_edges", edges }
        }
        "save" => {
            let args = args(&["file", "format"])?;
            let format = match args.get::<String>("format")? {
                None => None,
                Some(word) => {
                    let known = GraphFormat::ALL.map(|known| known.0);
                    Some(
                        GraphFormat::named(&word)
                            .ok_or_else(|| ArgError::new("format", unknown("format", &word, &known)))?,
                    )
                }
            };
            let file: PathBuf = args.need("file")?;
            if format.is_none() && GraphFormat::of(&file).is_none() {
                return Err(ArgError::new("file", format!("{}; or give `format`", GraphFormat::unknown_ending())));
            }
            Operation::Save { file, format }
        }
        other => return Err(ArgError::new("operation", unknown("operation", other, &Operation::NAMES))),
    })
}

fn pagerank_options(args: &Args) -> Result<pagerank::Options, ArgError> {
    let usual = pagerank::Options::default();
    let damping: f64 = args.get("damping")?.unwrap_or(usual.damping);
    if !(0.0..1.0).contains(&damping) {
        return Err(ArgError::new("damping", "expected a number from 0 up to, but not including, 1"));
    }
    let tolerance: f64 = args.get("tolerance")?.unwrap_or(usual.tolerance);
    if tolerance < 0.0 {
        return Err(ArgError::new("tolerance", "expected zero or more"));
    }
    let sinks = match args.get::<String>("sinks")?.as_deref() {
        None | Some("spread") => pagerank::Sinks::Spread,
        Some("drop") => pagerank::Sinks::Drop,
        Some(other) => return Err(ArgError::new("sinks", format!("expected \"spread\" or \"drop\", found {other:?}"))),
    };
    let iterations: u32 = args.get("iterations")?.unwrap_or(usual.iterations);
    Ok(pagerank::Options { damping, tolerance, iterations, sinks })
}

/// A list of ids.
struct IdList(Vec<u64>);

impl FromArg for IdList {
    const EXPECTED: &'static str = "a list of ids";

    fn from_arg(value: &Value) -> Option<IdList> {
        value.as_array()?.iter().map(u64::from_arg).collect::<Option<_>>().map(IdList)
    }
}

/// A list of pairs of ids.
struct PairList(Vec<(u64, u64)>);

impl FromArg for PairList {
    const EXPECTED: &'static str = "a list of pairs of ids, [[u, v], ...] (edges with weights go through `file`, a file of \
                                    lines `u v weight`)";

    fn from_arg(value: &Value) -> Option<PairList> {
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [u, v] => Some((u64::from_arg(u)?, u64::from_arg(v)?)),
            _ => None,
        };
        value.as_array()?.iter().map(pair).collect::<Option<_>>().map(PairList)
    }
}
