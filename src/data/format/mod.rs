//! Reads and writes graph files.
//!
//! | format | endings | directed by default | ids |
//! |---|---|---|---|
//! | `edge_list` | `.el .wel .txt .edges .tsv .csv` | yes | those that occur |
//! | `matrix_market` | `.mtx` | unless `symmetric` | from 1 |
//! | `metis` | `.graph .metis` | no | from 1 |
//! | `dimacs` | `.gr` | yes | from 1 |
//! | `gap` | `.sg .wsg` | as the file says | from 0 |
//! | `graphalytics` | `.v` and `.e` | as `.properties` says, else yes | those in `.v` |
//!
//! Text files may be compressed (a further ending `.gz` or `.zst`), also those that are written:
//! each rank compresses its own piece. Every rank reads its own piece
//! of a text, cut at line ends. Errors name file, line and reason. An edge that is listed twice is
//! one edge, with the smaller weight; loops stay.

mod gap;
pub mod text;
pub mod write;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustc_hash::FxHashSet;

use super::exchange::{Exchange, gather, largest, pack, sum, unpack};
use super::ids::VertexIds;
use super::part::{GraphPart, OneSided};
use super::rows::EdgeList;
use super::source::WeightSource;
use super::{DataGraphError, Vertex, agree};
use text::{Layout, TextPiece};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFormat {
    /// One line `u v` or `u v weight` per edge; `#` or `%` starts a comment.
    EdgeList,
    /// Matrix Market's coordinate format.
    MatrixMarket,
    /// METIS and Chaco: one line of neighbours per vertex.
    Metis,
    /// DIMACS shortest paths: `a u v weight`.
    Dimacs,
    /// The binary format of the GAP benchmark suite.
    Gap,
    /// LDBC Graphalytics: one file of vertices, one of edges.
    Graphalytics,
}

impl GraphFormat {
    /// All formats, by their names.
    pub const ALL: [(&'static str, GraphFormat); 6] = [
        ("edge_list", GraphFormat::EdgeList),
        ("matrix_market", GraphFormat::MatrixMarket),
        ("metis", GraphFormat::Metis),
        ("dimacs", GraphFormat::Dimacs),
        ("gap", GraphFormat::Gap),
        ("graphalytics", GraphFormat::Graphalytics),
    ];

    /// The format's name.
    pub fn name(self) -> &'static str {
        GraphFormat::ALL.iter().find(|known| known.1 == self).map_or("", |known| known.0)
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<GraphFormat> {
        GraphFormat::ALL.iter().find(|known| known.0 == name).map(|known| known.1)
    }

    /// The endings of file names that stand for the format.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            GraphFormat::EdgeList => &["el", "wel", "txt", "edges", "tsv", "csv"],
            GraphFormat::MatrixMarket => &["mtx"],
            GraphFormat::Metis => &["graph", "metis"],
            GraphFormat::Dimacs => &["gr"],
            GraphFormat::Gap => &["sg", "wsg"],
            GraphFormat::Graphalytics => &["v", "e"],
        }
    }

    /// Detects the format from the ending of a file's name.
    pub fn of(path: &Path) -> Option<GraphFormat> {
        let (bare, _) = uncompressed(path);
        let ending = bare.extension()?.to_str()?.to_ascii_lowercase();
        GraphFormat::ALL.map(|known| known.1).into_iter().find(|format| format.endings().contains(&&*ending))
    }

    /// Says that an ending is unknown, and lists those that are known.
    pub fn unknown_ending() -> String {
        let of = |(name, format): (&str, GraphFormat)| {
            let endings: Vec<String> = format.endings().iter().map(|ending| format!(".{ending}")).collect();
            format!("{} ({name})", endings.join(" "))
        };
        format!("unknown file ending for a graph; known are {}", GraphFormat::ALL.map(of).join(", "))
    }

    /// As [`of`](GraphFormat::of), with an error that lists the known endings.
    ///
    /// # Errors
    /// If the ending is unknown.
    pub fn need(path: &Path) -> Result<GraphFormat, DataGraphError> {
        GraphFormat::of(path).ok_or_else(|| {
            let text = format!("{}: {}; or name the format", path.display(), GraphFormat::unknown_ending());
            DataGraphError::refused(text)
        })
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Strips the ending of a compression from a name.
fn uncompressed(path: &Path) -> (PathBuf, Compression) {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => (path.with_extension(""), Compression::Gzip),
        Some("zst" | "zstd") => (path.with_extension(""), Compression::Zstd),
        _ => (path.to_owned(), Compression::None),
    }
}

/// Compresses a piece of a file. Pieces one after the other are a compressed file, too.
///
/// # Errors
/// If the compressor refuses.
fn compressed(bytes: Vec<u8>, compression: Compression) -> std::io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(bytes),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&bytes)?;
            gzip.finish()
        }
        Compression::Zstd => zstd::encode_all(bytes.as_slice(), zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}

/// The file of this ending beside another, of a graph that consists of several; compressed like
/// that.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let (base, compression) = uncompressed(path);
    let name = base.with_extension(ending);
    match compression {
        Compression::None => name,
        Compression::Gzip => name.with_extension(format!("{ending}.gz")),
        Compression::Zstd => name.with_extension(format!("{ending}.zst")),
    }
}

/// A file that a graph is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    /// Its name.
    pub path: PathBuf,
    /// True if the graph can be read without it.
    pub is_optional: bool,
}

/// The files of the graph that is read from `path`.
pub fn files(path: &Path, format: Option<GraphFormat>) -> Vec<GraphFile> {
    let file = |path: PathBuf, is_optional| GraphFile { path, is_optional };
    match format.or_else(|| GraphFormat::of(path)) {
        Some(GraphFormat::Graphalytics) => {
            vec![file(beside(path, "v"), false), file(beside(path, "e"), false), file(properties(path), true)]
        }
        _ => vec![file(path.to_owned(), false)],
    }
}

/// Makes an error for an operation that failed on a file.
pub(super) fn trouble(path: &Path, what: &str, error: &std::io::Error) -> DataGraphError {
    DataGraphError::refused(format!("{}: cannot {what}: {error}", path.display()))
}

/// One rank's piece of a text, and its byte range in the whole.
struct PieceOfText {
    bytes: Vec<u8>,
    range: Range<u64>,
}

/// Reads the piece number `place` of `ranks` pieces of a text: whole lines.
fn read_piece(path: &Path, place: usize, ranks: usize) -> Result<PieceOfText, DataGraphError> {
    let cannot = |error: std::io::Error| trouble(path, "read it", &error);
    let mut file = File::open(path).map_err(|error| trouble(path, "open it", &error))?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(DataGraphError::refused(format!("{}: this is a directory", path.display())));
    }
    if metadata.is_file() {
        check_compression(path, &file)?;
    }
    let whole = match uncompressed(path).1 {
        Compression::Gzip => {
            let mut whole = Vec::new();
            flate2::read::MultiGzDecoder::new(file).read_to_end(&mut whole).map_err(cannot)?;
            whole
        }
        Compression::Zstd => zstd::decode_all(file).map_err(cannot)?,
        // Only a regular file can be read from an offset.
        Compression::None if !metadata.is_file() => {
            let mut whole = Vec::new();
            file.read_to_end(&mut whole).map_err(cannot)?;
            whole
        }
        Compression::None => {
            let size = metadata.len();
            let start = line_start(&mut file, size * place as u64 / ranks as u64).map_err(cannot)?;
            let end = line_start(&mut file, size * (place as u64 + 1) / ranks as u64).map_err(cannot)?;
            let mut bytes = Vec::with_capacity((end - start) as usize);
            file.seek(SeekFrom::Start(start)).map_err(cannot)?;
            file.take(end - start).read_to_end(&mut bytes).map_err(cannot)?;
            return Ok(PieceOfText { range: start..start + bytes.len() as u64, bytes });
        }
    };
    let cut = |part: usize| {
        let at = whole.len() * part / ranks;
        if at == 0 { 0 } else { at + whole[at - 1..].iter().position(|&b| b == b'\n').unwrap_or(whole.len() - at) }
    };
    let (start, end) = (cut(place).min(whole.len()), cut(place + 1).min(whole.len()));
    Ok(PieceOfText { bytes: whole[start..end].to_vec(), range: start as u64..end as u64 })
}

/// Refuses a file whose content is not compressed as its name says.
fn check_compression(path: &Path, file: &File) -> Result<(), DataGraphError> {
    let mut head = [0; 4];
    let count = file.read_at(&mut head, 0).map_err(|error| trouble(path, "read it", &error))?;
    let found = match &head[..count] {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    };
    let said = uncompressed(path).1;
    let refuse = |text: &str| Err(DataGraphError::refused(format!("{}: {text}", path.display())));
    match (said, found) {
        _ if said == found => Ok(()),
        (_, Compression::Gzip) => refuse("this is a gzip file: a name that ends in .gz says so"),
        (_, Compression::Zstd) => refuse("this is a Zstandard file: a name that ends in .zst says so"),
        (Compression::Gzip, _) => refuse("the name ends in .gz, but this is no gzip file"),
        _ => refuse("the name ends in .zst, but this is no Zstandard file"),
    }
}

/// The first line start at or after offset `at`.
fn line_start(file: &mut File, at: u64) -> std::io::Result<u64> {
    if at == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(at - 1))?;
    let mut chunk = [0; 4096];
    let mut place = at - 1;
    loop {
        let count = match file.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(place);
        }
        if let Some(end) = chunk[..count].iter().position(|&b| b == b'\n') {
            return Ok(place + end as u64 + 1);
        }
        place += count as u64;
    }
}

/// Loads a graph from a file; see [`GraphSource::load`](super::source::GraphSource::load).
///
/// # Errors
/// If the file cannot be read, or communication fails.
pub fn load(
    exchange: &mut dyn Exchange,
    path: &Path,
    format: Option<GraphFormat>,
    directed: Option<bool>,
    weights: Option<WeightSource>,
) -> Result<GraphPart, DataGraphError> {
    let format = match format {
        Some(format) => format,
        None => agree(exchange, GraphFormat::need(path))?,
    };
    if format == GraphFormat::Gap {
        return gap::load(exchange, path, directed, weights);
    }
    let ending = uncompressed(path).0.extension().map(std::ffi::OsStr::to_ascii_lowercase);
    let (mut edges_path, mut listed, mut layout) = (path.to_owned(), None, None);
    let mut directed = directed;
    if format == GraphFormat::Graphalytics {
        let vertices = beside(path, "v");
        edges_path = beside(path, "e");
        let ids = agree(exchange, read_piece(&vertices, 0, 1).and_then(|text| text::vertices(&vertices, &text.bytes)));
        listed = Some(ids?);
        layout = Some(Layout::EdgeList);
        directed = directed.or_else(|| text::directed_by_properties(&properties(path)));
    }
    let (place, ranks) = (exchange.place(), exchange.ranks());
    let text = agree(exchange, read_piece(&edges_path, place, ranks))?;
    let layout = match layout {
        Some(layout) => layout,
        None => agree(exchange, layout_of(format, path))?,
    };
    let wants_weights = match weights {
        Some(WeightSource::File) => true,
        Some(_) => false,
        None => match format {
            GraphFormat::EdgeList => ending.is_some_and(|ending| ending == "wel"),
            GraphFormat::Graphalytics => text::columns(&text.bytes) >= 3,
            _ => layout.has_weights(),
        },
    };
    let [wants_weights] = largest(exchange, [u64::from(wants_weights)])?;
    let parsed = text::parse(&layout, &text.bytes, text.range.start, wants_weights == 1)
        .map_err(|wrong| wrong.at(&edges_path, text.range.start));
    let TextPiece { mut ends, weights: own_weights, rows } = agree(exchange, parsed)?;
    drop(text.bytes);
    if format == GraphFormat::Metis {
        number_rows(exchange, &edges_path, &layout, &mut ends, rows)?;
    }
    let entries = ends.len() as u64;
    if format != GraphFormat::Metis {
        agree_on_count(exchange, &edges_path, &layout, entries)?;
    }
    let ids = match (layout.vertices(), listed) {
        (Some(count), _) => agree(exchange, dense(&edges_path, count))?,
        (None, Some(listed)) => agree(exchange, VertexIds::from_sorted(listed).ok_or_else(|| too_many(path)))?,
        (None, None) => agree_on_ids(exchange, path, &ends)?,
    };
    let numbered: Result<Vec<(Vertex, Vertex)>, DataGraphError> = ends
        .par_iter()
        .map(|&(u, v)| {
            let find = |id| ids.vertex(id).ok_or_else(|| unknown_vertex(&edges_path, id, &ids));
            Ok((find(u)?, find(v)?))
        })
        .collect();
    let numbered = agree(exchange, numbered)?;
    let weights = match weights.and_then(WeightSource::draw) {
        Some(draw) => Some(ends.par_iter().map(|&(u, v)| draw(u, v)).collect()),
        None => own_weights,
    };
    drop(ends);
    let directed = directed.unwrap_or(layout.is_directed());
    let mut edges = EdgeList { ends: numbered, weights };
    // A METIS file lists each edge at both ends.
    if format == GraphFormat::Metis || (directed && layout.is_symmetric()) {
        if layout.is_symmetric() && format != GraphFormat::Metis {
            edges.mirror();
        }
        let part = GraphPart::build_mirrored(exchange, ids, edges, directed)?;
        if format == GraphFormat::Metis {
            // A missing end explains a count that differs, not the other way round.
            check_both_ends(exchange, &edges_path, &part)?;
            agree_on_count(exchange, &edges_path, &layout, entries)?;
        }
        return Ok(part);
    }
    GraphPart::build(exchange, ids, edges, directed)
}

/// Refuses a METIS file in which the line of a vertex names another one whose line does not name
/// it, or with another weight.
fn check_both_ends(exchange: &mut dyn Exchange, path: &Path, part: &GraphPart) -> Result<(), DataGraphError> {
    let reason = |(u, v): (Vertex, Vertex), what: &dyn Fn(u64, u64) -> String| {
        let (path, what) = (path.display(), what(part.ids().id(u), part.ids().id(v)));
        DataGraphError::refused(format!("{path}: {what}: METIS files list each edge at both ends"))
    };
    match part.one_sided(exchange)? {
        None => Ok(()),
        Some(OneSided::Missing(ends)) => Err(reason(ends, &|u, v| {
            format!("the line of vertex {u} names {v}, but that of vertex {v} does not name {u}")
        })),
        Some(OneSided::Unequal(ends)) => Err(reason(ends, &|u, v| {
            format!("the lines of the vertices {u} and {v} give their edge different weights")
        })),
    }
}

/// The file of properties of a graph in Graphalytics' format.
fn properties(path: &Path) -> PathBuf {
    uncompressed(path).0.with_extension("properties")
}

/// Parses the layout from the first lines of a text.
fn layout_of(format: GraphFormat, path: &Path) -> Result<Layout, DataGraphError> {
    if format == GraphFormat::EdgeList {
        return Ok(Layout::EdgeList);
    }
    let head = read_head(path)?;
    Layout::read(format, &head).map_err(|wrong| wrong.at(path, 0))
}

/// Reads the first bytes of a text.
fn read_head(path: &Path) -> Result<Vec<u8>, DataGraphError> {
    const HEAD: u64 = 1 << 20;
    let file = File::open(path).map_err(|error| trouble(path, "open it", &error))?;
    let mut head = Vec::new();
    let read = match uncompressed(path).1 {
        Compression::None => file.take(HEAD).read_to_end(&mut head),
        Compression::Gzip => flate2::read::MultiGzDecoder::new(file).take(HEAD).read_to_end(&mut head),
        Compression::Zstd => zstd::Decoder::new(file).and_then(|text| text.take(HEAD).read_to_end(&mut head)),
    };
    read.map_err(|error| trouble(path, "read it", &error))?;
    Ok(head)
}

/// Numbers the rows of METIS files, which depends on the preceding lines, that other ranks may have
/// read.
fn number_rows(
    exchange: &mut dyn Exchange,
    path: &Path,
    layout: &Layout,
    ends: &mut [(u64, u64)],
    rows: u64,
) -> Result<(), DataGraphError> {
    let mut before = 0;
    let mut all = 0;
    for (r, bytes) in gather(exchange, pack([rows]))?.iter().enumerate() {
        let rows: u64 = unpack::<u64>(bytes)?.sum();
        before += if r < exchange.place() { rows } else { 0 };
        all += rows;
    }
    ends.par_iter_mut().for_each(|(u, _)| *u += before);
    let said = layout.vertices().unwrap_or(0);
    let line = layout.entries().map_or(1, |entries| entries.1);
    if all == said {
        return Ok(());
    }
    let found = format!("{all} lines of neighbours");
    Err(other_count(path, line, (said, "vertices"), all, &found))
}

/// Checks that a file holds as many edges as its header announces.
fn agree_on_count(exchange: &mut dyn Exchange, path: &Path, layout: &Layout, here: u64) -> Result<(), DataGraphError> {
    let [found] = sum(exchange, [here])?;
    match layout.entries() {
        Some((said, line)) if said != found => {
            Err(other_count(path, line, (said, "entries"), found, &found.to_string()))
        }
        _ => Ok(()),
    }
}

/// Makes an error for a file that does not hold as much as its header announces.
fn other_count(path: &Path, line: u64, (said, what): (u64, &str), found: u64, shown: &str) -> DataGraphError {
    let guess = if found < said { "is the file cut off?" } else { "is the header that of another file?" };
    let file = path.display();
    DataGraphError::refused(format!("{file}: line {line} announces {said} {what}, but {shown} follow; {guess}"))
}

fn dense(path: &Path, count: u64) -> Result<VertexIds, DataGraphError> {
    let count = Vertex::try_from(count).ok().filter(|&count| count < Vertex::MAX).ok_or_else(|| too_many(path))?;
    Ok(VertexIds::Dense { first: 1, count })
}

fn too_many(path: &Path) -> DataGraphError {
    DataGraphError::refused(format!("{}: more than {} vertices are not supported", path.display(), Vertex::MAX - 1))
}

fn unknown_vertex(path: &Path, id: u64, ids: &VertexIds) -> DataGraphError {
    let range = match ids {
        VertexIds::Dense { first, count } => {
            format!("ids go from {first} to {}", first + u64::from(*count).saturating_sub(1))
        }
        _ => "it is not in the list of vertices".to_owned(),
    };
    DataGraphError::refused(format!("{}: an edge names vertex {id}, but {range}", path.display()))
}

/// Agrees on the vertices of a graph that lists only edges: the ids that occur.
fn agree_on_ids(exchange: &mut dyn Exchange, path: &Path, ends: &[(u64, u64)]) -> Result<VertexIds, DataGraphError> {
    let highest = ends.par_iter().map(|&(u, v)| u.max(v) + 1).max().unwrap_or(0);
    // An id of 2^64 - 1 would overflow; the parser refuses it.
    let [highest, count] = {
        let [highest] = largest(exchange, [highest])?;
        let [count] = sum(exchange, [ends.len() as u64])?;
        [highest, count]
    };
    let ids: Vec<u64> = if highest <= 64 * count + (1 << 16) {
        // One bit per possible id.
        let words: Vec<std::sync::atomic::AtomicU64> =
            (0..highest.div_ceil(64)).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
        let mark = |id: u64| {
            let (word, bit) = (&words[id as usize / 64], 1 << (id % 64));
            if word.load(std::sync::atomic::Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, std::sync::atomic::Ordering::Relaxed);
            }
        };
        ends.par_iter().for_each(|&(u, v)| {
            mark(u);
            mark(v);
        });
        let mut words: Vec<u64> = words.into_iter().map(std::sync::atomic::AtomicU64::into_inner).collect();
        if exchange.ranks() > 1 {
            for bytes in gather(exchange, pack(words.iter().copied()))? {
                words.iter_mut().zip(unpack::<u64>(&bytes)?).for_each(|(word, more)| *word |= more);
            }
        }
        let bits = |(at, &word): (usize, &u64)| {
            (0..64u64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u64 * 64 + bit)
        };
        words.iter().enumerate().flat_map(bits).collect()
    } else {
        let own: FxHashSet<u64> = ends.iter().flat_map(|&(u, v)| [u, v]).collect();
        let mut all = Vec::new();
        for bytes in gather(exchange, pack(own))? {
            all.extend(unpack::<u64>(&bytes)?);
        }
        all.par_sort_unstable();
        all.dedup();
        all
    };
    VertexIds::from_sorted(ids).ok_or_else(|| too_many(path))
}

/// Pairs of ids, and weights.
type EdgesAndWeights = (Vec<(u64, u64)>, Option<Vec<f64>>);

/// Reads the edges of a file of lines `u v` or `u v weight`, a piece on each rank. Weights are read
/// if `weighted` is set and the file has a third column.
///
/// # Errors
/// If the file cannot be read.
pub fn edge_lines(exchange: &mut dyn Exchange, path: &Path, weighted: bool) -> Result<EdgesAndWeights, DataGraphError> {
    let (place, ranks) = (exchange.place(), exchange.ranks());
    let text = agree(exchange, read_piece(path, place, ranks))?;
    let [third] = largest(exchange, [u64::from(weighted && text::columns(&text.bytes) >= 3)])?;
    let piece = text::parse(&Layout::EdgeList, &text.bytes, text.range.start, third == 1)
        .map_err(|wrong| wrong.at(path, text.range.start));
    let piece = agree(exchange, piece)?;
    Ok((piece.ends, piece.weights))
}

#[cfg(test)]
mod tests;
