//! `phalanx graph`: generates, converts and describes data graphs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, value_parser};
use serde_json::json;

use super::{complain, print, refuse};
use crate::data::DataGraphError;
use crate::data::exchange::SingleRank;
use crate::data::format::{GraphFormat, write};
use crate::data::generate::{GAP_SEED, GeneratedKind, Generator};
use crate::data::operations::{self, Direction, components};
use crate::data::part::GraphPart;
use crate::data::source::{GraphSource, Origin, WeightSource};
use crate::observe::bytes;
use crate::svg::Picture;

/// Generates, converts and describes data graphs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: GraphVerb,
}

#[derive(Debug, Subcommand)]
enum GraphVerb {
    Generate(GenerateArgs),
    Convert(ConvertArgs),
    Info(InfoArgs),
}

/// Generates a graph from a seed and writes it to a file.
#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// Kind of graph: kron (power law), urand (random) or grid.
    #[arg(value_parser = PossibleValuesParser::new(GeneratedKind::ALL.map(|kind| kind.0)))]
    kind: String,
    /// The graph has 2^S vertices, kron and urand without those after the last one with an edge.
    #[arg(long, value_name = "S", value_parser = value_parser!(u32).range(0..=31))]
    scale: u32,
    /// Edges per vertex, before duplicates and loops are removed.
    #[arg(long, value_name = "D", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    degree: u32,
    /// Seed of the generator; the default is that of the GAP benchmark suite.
    #[arg(long, value_name = "N", default_value_t = GAP_SEED)]
    seed: u32,
    /// Draw integer weights between LOW and HIGH.
    #[arg(long, value_name = "LOW-HIGH", value_parser = range)]
    weights: Option<(u32, u32)>,
    /// Output file; its extension selects the format.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Converts a graph to another format.
///
/// File extensions select the formats: .el .wel .txt .edges .tsv .csv (edge list), .mtx (Matrix
/// Market), .graph .metis (METIS), .gr (DIMACS), .sg .wsg (GAP), .v .e (Graphalytics). Text is read
/// and written compressed if its name ends in .gz or .zst.
#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// Input file.
    from: PathBuf,
    /// Output file.
    to: PathBuf,
    #[command(flatten)]
    reading: ReadArgs,
    /// Format of the output file, if its extension does not name one.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    to_format: Option<String>,
}

/// Describes a graph: vertices, edges, degrees, components, and its memory use on several ranks.
#[derive(Debug, clap::Args)]
struct InfoArgs {
    /// Input file.
    file: PathBuf,
    #[command(flatten)]
    reading: ReadArgs,
    /// Number of ranks to compute the memory use for.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=100_000))]
    ranks: u32,
    /// Write the degree distribution as an SVG picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Options for reading a graph file.
#[derive(Debug, clap::Args)]
struct ReadArgs {
    /// Format of the input file, if its extension does not name one.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    format: Option<String>,
    /// Treat edges as directed, whatever the format says.
    #[arg(long, conflicts_with = "undirected")]
    directed: bool,
    /// Treat edges as undirected, whatever the format says.
    #[arg(long)]
    undirected: bool,
    /// Weights: none, file, or LOW-HIGH to draw integers [default: file if the format has weights].
    #[arg(long, value_name = "WEIGHTS", value_parser = weights)]
    weights: Option<WeightSource>,
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(GraphFormat::ALL.map(|format| format.0))
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let wrong = || "expected two integers such as 1-255".to_owned();
    let (low, high) = text.split_once('-').ok_or_else(wrong)?;
    let (low, high) = (low.parse().map_err(|_| wrong())?, high.parse().map_err(|_| wrong())?);
    if low <= high { Ok((low, high)) } else { Err("the first number is larger than the second".to_owned()) }
}

fn weights(text: &str) -> Result<WeightSource, String> {
    match text {
        "none" => Ok(WeightSource::None),
        "file" => Ok(WeightSource::File),
        other => range(other).map(|(from, to)| WeightSource::Uniform { from, to, seed: 1 }),
    }
}

fn named(word: Option<&String>) -> Option<GraphFormat> {
    word.and_then(|word| GraphFormat::named(word))
}

impl ReadArgs {
    fn load(&self, file: &Path) -> Result<GraphPart, DataGraphError> {
        let directed = match (self.directed, self.undirected) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let origin = Origin::File(file.to_owned(), named(self.format.as_ref()));
        GraphSource { origin, directed, weights: self.weights }.load(&mut SingleRank::unstoppable())
    }
}

pub(super) fn main(args: Args) -> ExitCode {
    let done = match args.what {
        GraphVerb::Generate(args) => generate(&args),
        GraphVerb::Convert(args) => convert(&args),
        GraphVerb::Info(args) => info(&args),
    };
    match done {
        Ok(text) => print(&text),
        Err(error) => refuse(error),
    }
}

/// Writes the graph, and prints a note if the format cannot hold ids, isolated vertices, or what
/// the graph says of direction and weights of edges.
fn save(part: &GraphPart, path: &Path, format: Option<GraphFormat>) -> Result<String, DataGraphError> {
    let format = match format {
        Some(format) => format,
        None => GraphFormat::need(path)?,
    };
    write::save(&mut SingleRank::unstoppable(), part, path, format)?;
    if !write::keeps_ids(part, format) {
        let first = if format == GraphFormat::Gap { 0 } else { 1 };
        complain(format_args!(
            "note: {} files number vertices themselves: the vertices were renumbered {first}, {}, ... in ascending order of their ids",
            format.name(),
            first + 1
        ));
    }
    let isolated = if format == GraphFormat::EdgeList { write::isolated(part) } else { 0 };
    if isolated > 0 {
        complain(format_args!("note: an edge list holds no isolated vertices: {isolated} are left out"));
    }
    for note in write::edge_notes(part, path, format) {
        complain(format_args!("note: {note}"));
    }
    let vertices = u64::from(part.vertices()) - isolated;
    Ok(format!("{}: {vertices} vertices, {} edges\n", path.display(), part.edges()))
}

fn generate(args: &GenerateArgs) -> Result<String, DataGraphError> {
    let kind = GeneratedKind::named(&args.kind).unwrap_or(GeneratedKind::Kron);
    let generator = Generator { kind, scale: args.scale, degree: args.degree, seed: args.seed };
    let weights = args.weights.map(|(from, to)| WeightSource::Uniform { from, to, seed: u64::from(args.seed) });
    // Rejects an unknown output format before the graph is generated.
    GraphFormat::need(&args.output)?;
    let source = GraphSource { origin: Origin::Generated(generator), directed: None, weights };
    save(&source.load(&mut SingleRank::unstoppable())?, &args.output, None)
}

fn convert(args: &ConvertArgs) -> Result<String, DataGraphError> {
    let format = named(args.to_format.as_ref());
    if format.is_none() {
        GraphFormat::need(&args.to)?;
    }
    save(&args.reading.load(&args.from)?, &args.to, format)
}

/// Number of vertices per degree range: bin 0 holds degree 0, bin i holds 2^(i-1) to 2^i - 1.
fn histogram(degrees: &[u64]) -> Vec<u64> {
    let mut bins = Vec::new();
    for &degree in degrees {
        let bin = (u64::BITS - degree.leading_zeros()) as usize;
        if bins.len() <= bin {
            bins.resize(bin + 1, 0);
        }
        bins[bin] += 1;
    }
    bins
}

fn bin_name(bin: usize) -> String {
    match bin {
        0 => "0".to_owned(),
        1 => "1".to_owned(),
        _ => format!("{}-{}", 1u64 << (bin - 1), (1u64 << bin) - 1),
    }
}

fn info(args: &InfoArgs) -> Result<String, DataGraphError> {
    let part = args.reading.load(&args.file)?;
    let found = components::components(&mut SingleRank::unstoppable(), &part)?;
    let degrees = operations::degrees(&part, Direction::Both);
    let most = degrees.iter().copied().max().unwrap_or(0);
    let mean = degrees.iter().sum::<u64>() as f64 / (degrees.len() as f64).max(1.0);
    let isolated = degrees.iter().filter(|&&degree| degree == 0).count();
    let loops = part.own().filter(|&v| part.has_loop(v)).count();
    let bins = histogram(&degrees);
    let memory = part.bytes_on(args.ranks as usize);
    let largest = memory.iter().copied().max().unwrap_or(0);
    if let Some(file) = &args.svg {
        let picture = picture(&args.file, &bins);
        std::fs::write(file, picture)
            .map_err(|error| DataGraphError::refused(format!("{}: cannot write it: {error}", file.display())))?;
    }
    if args.json {
        let bins: Vec<_> = bins.iter().enumerate().map(|(bin, count)| json!([bin_name(bin), count])).collect();
        let object = json!({
            "vertices": part.vertices(), "edges": part.edges(), "directed": part.is_directed(), "weighted": part.is_weighted(),
            "loops": loops, "isolated": isolated, "degree_mean": mean, "degree_max": most, "degrees": bins,
            "components": found.count, "largest_component": found.largest,
            "ranks": args.ranks, "bytes": memory.iter().sum::<u64>(), "bytes_largest_rank": largest,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to memory cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let kind = if part.is_directed() { "directed" } else { "undirected" };
    let weighted = if part.is_weighted() { ", with weights" } else { "" };
    line("vertices", part.vertices().to_string());
    line("edges", format!("{} ({kind}{weighted}; {loops} loops)", part.edges()));
    line("degree", format!("mean {mean:.2}, largest {most}; {isolated} vertices have no edge"));
    line("components", format!("{}; the largest has {} vertices", found.count, found.largest));
    let all = memory.iter().sum::<u64>();
    line(
        "memory",
        match args.ranks {
            1 => format!("{} on one rank", bytes(all)),
            ranks => format!("{} on {ranks} ranks, at most {} on one", bytes(all), bytes(largest)),
        },
    );
    text.push_str("\n      degree    vertices\n");
    let tallest = bins.iter().copied().max().unwrap_or(1).max(1);
    for (bin, &count) in bins.iter().enumerate() {
        let bar = "#".repeat((count * 40).div_ceil(tallest) as usize);
        let _ = writeln!(text, "{:>12} {count:>11} {bar}", bin_name(bin));
    }
    Ok(text)
}

/// Histogram of the degrees as SVG, with logarithmic axes.
fn picture(file: &Path, bins: &[u64]) -> String {
    let (width, height, left, bottom) = (720.0, 400.0, 70.0, 350.0);
    let mut picture = Picture::new(width, height);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    picture.text((width / 2.0, 22.0), "middle", &format!("Degrees of {name}"));
    let tallest = bins.iter().map(|&count| (count as f64 + 1.0).log10()).fold(1.0, f64::max).ceil();
    let at = |count: f64| bottom - (count + 1.0).log10() / tallest * 300.0;
    for power in 0..=tallest as i32 {
        let y = bottom - f64::from(power) / tallest * 300.0;
        picture.line((left, y), (width - 20.0, y), "#ddd", "none");
        picture.text((left - 8.0, y + 4.0), "end", &format!("1e{power}"));
    }
    let step = (width - 20.0 - left) / bins.len().max(1) as f64;
    for (bin, &count) in bins.iter().enumerate() {
        let (x, y) = (left + step * bin as f64, at(count as f64));
        picture.add(format_args!(
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#3465a4\"/>",
            x + step * 0.1,
            step * 0.8,
            bottom - y
        ));
        let smallest = if bin < 2 { bin.to_string() } else { format!("{}", 1u64 << (bin - 1)) };
        picture.text((x + step / 2.0, bottom + 16.0), "middle", &smallest);
    }
    picture.text((width / 2.0, bottom + 36.0), "middle", "degree (lower end of each bin)");
    picture.text((left, 40.0), "start", "vertices");
    picture.finish()
}

#[cfg(test)]
mod tests {
    use super::{bin_name, histogram};

    #[test]
    fn degrees_fall_into_bins_of_powers() {
        assert_eq!(histogram(&[0, 1, 1, 2, 3, 4, 7, 8]), [1, 2, 2, 2, 1]);
        assert_eq!([0, 1, 2, 3].map(bin_name), ["0", "1", "2-3", "4-7"]);
    }
}
