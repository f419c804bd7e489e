//! Writes a graph to a file: every rank writes its own rows concurrently, into a new file that
//! replaces the old one at the end. A name that ends in `.gz` or `.zst` is written compressed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Compression, GraphFormat, beside, compressed, properties, trouble, uncompressed};
use crate::data::exchange::{Exchange, gather, pack, unpack};
use crate::data::ids::VertexIds;
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex, agree};

/// Rows that one unit of parallel work formats.
const ROWS_PER_UNIT: usize = 1 << 12;

/// Writes the graph. Formats with their own numbering of vertices lose the ids, see [`keeps_ids`].
///
/// # Errors
/// If the format cannot hold the graph, or the file cannot be written. All ranks get the same
/// error.
pub fn save(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    path: &Path,
    format: GraphFormat,
) -> Result<(), DataGraphError> {
    let refuse = |reason: &str| Err(DataGraphError::refused(format!("{}: {reason}", path.display())));
    match format {
        GraphFormat::Metis if part.is_directed() => refuse("METIS files hold undirected graphs only"),
        GraphFormat::EdgeList if has_ending(path, "wel") && !part.is_weighted() => {
            refuse("a graph without weights needs the ending .el")
        }
        GraphFormat::EdgeList => {
            let weighted = part.is_weighted();
            text(exchange, part, path, String::new(), |part, v, out| edge_lines(part, v, weighted, out))
        }
        GraphFormat::Graphalytics => {
            let ids = part.ids();
            text(exchange, part, &beside(path, "v"), String::new(), |_, v, out| number_line(ids.id(v), out))?;
            let weighted = part.is_weighted();
            text(exchange, part, &beside(path, "e"), String::new(), |part, v, out| {
                edge_lines(part, v, weighted, out);
            })?;
            text(exchange, part, &properties(path), facts(part, path), |_, _, _| ())
        }
        GraphFormat::MatrixMarket => {
            let field = if part.is_weighted() { "real" } else { "pattern" };
            let symmetry = if part.is_directed() { "general" } else { "symmetric" };
            let n = part.vertices();
            let header = format!("%%MatrixMarket matrix coordinate {field} {symmetry}\n{n} {n} {}\n", part.edges());
            text(exchange, part, path, header, |part, v, out| {
                each_edge(part, v, |target, weight| {
                    // Symmetric matrices list only their lower triangle.
                    let (row, column) = if part.is_directed() { (v, target) } else { (target, v) };
                    put(out, format_args!("{} {}", row + 1, column + 1));
                    end_line(part.is_weighted(), weight, out);
                });
            })
        }
        GraphFormat::Dimacs => {
            let [loops] = crate::data::exchange::sum(exchange, [loops(part)])?;
            let arcs = if part.is_directed() { part.edges() } else { 2 * part.edges() - loops };
            let header = format!("p sp {} {arcs}\n", part.vertices());
            text(exchange, part, path, header, |part, v, out| {
                let weights = part.outgoing().row_weights(v);
                for (at, target) in part.outgoing().row(v).iter().enumerate() {
                    put(out, format_args!("a {} {} {}\n", v + 1, target + 1, weights.get(at)));
                }
            })
        }
        GraphFormat::Metis => {
            let [loops] = crate::data::exchange::sum(exchange, [loops(part)])?;
            if loops > 0 {
                return refuse("METIS files hold no loops, but the graph has some");
            }
            let format = if part.is_weighted() { " 001" } else { "" };
            let header = format!("{} {}{format}\n", part.vertices(), part.edges());
            text(exchange, part, path, header, |part, v, out| {
                let weights = part.outgoing().row_weights(v);
                for (at, target) in part.outgoing().row(v).iter().enumerate() {
                    let blank = if at == 0 { "" } else { " " };
                    put(out, format_args!("{blank}{}", target + 1));
                    if part.is_weighted() {
                        put(out, format_args!(" {}", weights.get(at)));
                    }
                }
                out.push(b'\n');
            })
        }
        GraphFormat::Gap => gap(exchange, part, path),
    }
}

/// True if a file in this format preserves the graph's vertex ids.
pub fn keeps_ids(part: &GraphPart, format: GraphFormat) -> bool {
    match format {
        GraphFormat::EdgeList | GraphFormat::Graphalytics => true,
        GraphFormat::Gap => matches!(part.ids(), VertexIds::Dense { first: 0, .. }),
        GraphFormat::MatrixMarket | GraphFormat::Metis | GraphFormat::Dimacs => {
            matches!(part.ids(), VertexIds::Dense { first: 1, .. })
        }
    }
}

/// What a file says of edges otherwise than the graph does, in words: their direction and weights.
pub fn edge_notes(part: &GraphPart, path: &Path, format: GraphFormat) -> Vec<String> {
    let mut notes = Vec::new();
    if format == GraphFormat::EdgeList && !part.is_directed() {
        notes.push(
            "an edge list does not say that edges have no direction: read it with `--undirected`, in a job with \
             `directed = false`"
                .to_owned(),
        );
    }
    if format == GraphFormat::EdgeList && part.is_weighted() && !has_ending(path, "wel") {
        let read = "read the weights with `--weights file`, in a job with `weights = \"file\"`";
        notes.push(format!("only the ending .wel says that the third column are weights: {read}"));
    }
    if format == GraphFormat::Dimacs && !part.is_directed() {
        notes.push(
            "edges of DIMACS files have a direction: each edge is written in both; read it with `--undirected`, in a job \
             with `directed = false`"
                .to_owned(),
        );
    }
    if format == GraphFormat::Dimacs && !part.is_weighted() {
        notes.push("edges of DIMACS files have weights: each is written with weight 1".to_owned());
    }
    notes
}

/// True if a name, without the ending of a compression, has this ending.
fn has_ending(path: &Path, ending: &str) -> bool {
    uncompressed(path).0.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending))
}

/// What an edge list does not hold of a graph, which is on this rank alone: the number of vertices
/// without an edge.
pub fn isolated(part: &GraphPart) -> u64 {
    let is_isolated = |v: &Vertex| part.outgoing().degree(*v) == 0 && part.incoming().degree(*v) == 0;
    part.own().into_par_iter().filter(is_isolated).count() as u64
}

/// The properties of a graph in Graphalytics' format.
fn facts(part: &GraphPart, path: &Path) -> String {
    let name = |file: PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = uncompressed(path).0;
    let graph = plain.file_stem().unwrap_or_default().to_string_lossy();
    let weights = match part.is_weighted() {
        true => format!("graph.{graph}.edge-properties.names = weight\ngraph.{graph}.edge-properties.types = real\n"),
        false => String::new(),
    };
    format!(
        "graph.{graph}.vertex-file = {}\ngraph.{graph}.edge-file = {}\ngraph.{graph}.meta.vertices = {}\n\
         graph.{graph}.meta.edges = {}\ngraph.{graph}.directed = {}\n{weights}",
        name(beside(path, "v")),
        name(beside(path, "e")),
        part.vertices(),
        part.edges(),
        part.is_directed(),
    )
}

fn loops(part: &GraphPart) -> u64 {
    part.own().into_par_iter().filter(|&v| part.has_loop(v)).count() as u64
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

/// Appends a number and a newline.
pub fn number_line(number: u64, out: &mut Vec<u8>) {
    put(out, format_args!("{number}\n"));
}

fn end_line(weighted: bool, weight: f64, out: &mut Vec<u8>) {
    if weighted { put(out, format_args!(" {weight}\n")) } else { out.push(b'\n') }
}

/// Calls `each` with target and weight of every edge of a vertex; undirected edges appear once, at
/// their smaller end.
fn each_edge(part: &GraphPart, vertex: Vertex, mut each: impl FnMut(Vertex, f64)) {
    let weights = part.outgoing().row_weights(vertex);
    for (at, &target) in part.outgoing().row(vertex).iter().enumerate() {
        if part.is_directed() || target >= vertex {
            each(target, weights.get(at));
        }
    }
}

fn edge_lines(part: &GraphPart, vertex: Vertex, weighted: bool, out: &mut Vec<u8>) {
    let ids = part.ids();
    each_edge(part, vertex, |target, weight| {
        put(out, format_args!("{} {}", ids.id(vertex), ids.id(target)));
        end_line(weighted, weight, out);
    });
}

/// Writes a header and then lines for every vertex in ascending order: each rank writes those of
/// its own vertices at their offset in the file.
///
/// # Errors
/// As [`save`].
pub fn text(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    path: &Path,
    header: String,
    line: impl Fn(&GraphPart, Vertex, &mut Vec<u8>) + Sync,
) -> Result<(), DataGraphError> {
    let mut own = if exchange.place() == 0 { header.into_bytes() } else { Vec::new() };
    let blocks: Vec<Vertex> = part.own().step_by(ROWS_PER_UNIT).collect();
    let pieces: Vec<Vec<u8>> = blocks
        .par_iter()
        .map(|&from| {
            let mut out = Vec::new();
            (from..(from.saturating_add(ROWS_PER_UNIT as Vertex)).min(part.own().end))
                .for_each(|v| line(part, v, &mut out));
            out
        })
        .collect();
    own.extend(pieces.into_iter().flatten());
    // An empty file is no compressed one, so the first rank writes a piece in any case.
    let made = match own.is_empty() && exchange.place() > 0 {
        true => Ok(own),
        false => compressed(own, uncompressed(path).1).map_err(|error| trouble(path, "compress it", &error)),
    };
    let own = agree(exchange, made)?;
    let sizes = sizes(exchange, own.len() as u64)?;
    let at: u64 = sizes[..exchange.place()].iter().sum();
    let own = [(at, own)];
    together(exchange, path, sizes.iter().sum(), &own)
}

/// Returns the number of bytes of each rank.
fn sizes(exchange: &mut dyn Exchange, own: u64) -> Result<Vec<u64>, DataGraphError> {
    let all = gather(exchange, pack([own]))?;
    all.iter().map(|bytes| Ok(unpack::<u64>(bytes)?.sum())).collect()
}

/// Writes a file of a given size, of which each rank provides some segments.
fn together(
    exchange: &mut dyn Exchange,
    path: &Path,
    size: u64,
    stretches: &[(u64, Vec<u8>)],
) -> Result<(), DataGraphError> {
    let new = unfinished(path);
    let cannot = |error: std::io::Error| trouble(path, "write it", &error);
    let is_first = exchange.place() == 0;
    let made = if is_first {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        dir.map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| File::create(&new))
            .and_then(|file| file.set_len(size))
            .map_err(cannot)
    } else {
        Ok(())
    };
    agree(exchange, made)?;
    let written = File::options().write(true).open(&new).and_then(|file| {
        stretches.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))?;
        file.sync_data()
    });
    let written = agree(exchange, written.map_err(cannot));
    let done = match &written {
        Ok(()) if is_first => std::fs::rename(&new, path).map_err(cannot),
        Err(_) if is_first => {
            // Removes the incomplete file; the error above says what happened.
            let _ = std::fs::remove_file(&new);
            Ok(())
        }
        _ => Ok(()),
    };
    written?;
    agree(exchange, done)
}

/// The temporary name of a file until it is complete.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

fn gap(exchange: &mut dyn Exchange, part: &GraphPart, path: &Path) -> Result<(), DataGraphError> {
    if uncompressed(path).1 != Compression::None {
        let reason = "GAP's binary format is neither read nor written compressed: leave out .gz or .zst";
        return Err(DataGraphError::refused(format!("{}: {reason}", path.display())));
    }
    let weighted = part.is_weighted();
    if weighted != has_ending(path, "wsg") {
        let reason = if weighted {
            "a graph with weights needs the ending .wsg"
        } else {
            "a graph without weights needs the ending .sg"
        };
        return Err(DataGraphError::refused(format!("{}: {reason}", path.display())));
    }
    let each = if weighted { 8 } else { 4 };
    let count = u64::from(part.vertices());
    let stored = sizes(exchange, part.outgoing().edges())?;
    let edges: u64 = stored.iter().sum();
    let mut stretches = Vec::new();
    let mut base = 17;
    let (is_first, is_last) = (exchange.place() == 0, exchange.place() + 1 == exchange.ranks());
    if is_first {
        let mut header = vec![u8::from(part.is_directed())];
        header.extend(edges.to_le_bytes());
        header.extend(count.to_le_bytes());
        stretches.push((0, header));
    }
    let mut good = true;
    for rows in if part.is_directed() { vec![part.outgoing(), part.incoming()] } else { vec![part.outgoing()] } {
        let before: u64 = sizes(exchange, rows.edges())?[..exchange.place()].iter().sum();
        let own = part.own();
        let mut begin = before;
        let mut offsets = Vec::with_capacity(own.len() * 8 + 8);
        let mut neighbours = Vec::with_capacity((rows.edges() * each) as usize);
        for v in own.clone() {
            offsets.extend(begin.to_le_bytes());
            begin += rows.degree(v) as u64;
            let weights = rows.row_weights(v);
            for (at, target) in rows.row(v).iter().enumerate() {
                neighbours.extend(target.to_le_bytes());
                if weighted {
                    let weight = weights.get(at);
                    good &= weight.fract() == 0.0 && weight.abs() <= f64::from(i32::MAX);
                    neighbours.extend((weight as i32).to_le_bytes());
                }
            }
        }
        if is_last {
            offsets.extend(begin.to_le_bytes());
        }
        stretches.push((base + u64::from(own.start) * 8, offsets));
        stretches.push((base + (count + 1) * 8 + before * each, neighbours));
        base += (count + 1) * 8 + edges * each;
    }
    let reason = "weights of .wsg files are whole numbers of 32 bits; save as .wel or .mtx instead";
    agree(exchange, if good { Ok(()) } else { Err(DataGraphError::refused(format!("{}: {reason}", path.display()))) })?;
    together(exchange, path, base, &stretches)
}
