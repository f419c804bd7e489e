//! The binary format of the GAP benchmark suite. A file holds: whether edges have a direction (a
//! byte), the number of stored edges and the number of vertices (64 bits each), the offsets of the
//! rows (64 bits each), then the neighbours in 32 bits, in `.wsg` files each followed by a weight
//! of 32 bits. For directed graphs the rows of the other direction follow.
//!
//! Each rank reads only the rows of its own range: no number has to be parsed, and no edge sent.
//! The file is read rather than mapped: if another process truncated a mapped file, access would be
//! a fatal signal; and rows are kept in memory in any case.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use super::{Compression, trouble, uncompressed};
use crate::data::exchange::Exchange;
use crate::data::ids::VertexIds;
use crate::data::part::{EvenRanges, GraphPart, RangePartition};
use crate::data::rows::Rows;
use crate::data::source::WeightSource;
use crate::data::{DataGraphError, Vertex, agree};

/// Size of the header in bytes.
const HEADER_BYTES: u64 = 17;

struct GapFile<'a> {
    path: &'a Path,
    file: File,
    directed: bool,
    edges: u64,
    count: u64,
    /// Bytes per neighbour, including its weight.
    each: u64,
}

/// Loads a graph. Each rank reads the rows of its own range.
pub fn load(
    exchange: &mut dyn Exchange,
    path: &Path,
    directed: Option<bool>,
    weights: Option<WeightSource>,
) -> Result<GraphPart, DataGraphError> {
    let file = agree(exchange, GapFile::open(path))?;
    if directed == Some(!file.directed) {
        let is = if file.directed { "directed" } else { "undirected" };
        return Err(DataGraphError::refused(format!("{}: the graph in the file is {is}", path.display())));
    }
    let (ranks, place) = (exchange.ranks(), exchange.place());
    let offsets = agree(exchange, file.offsets(HEADER_BYTES))?;
    let degrees: Vec<u32> = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect();
    let cuts = EvenRanges.cuts(&degrees, ranks);
    drop(degrees);
    let own = cuts[place]..cuts[place + 1];
    let out = agree(exchange, file.rows(HEADER_BYTES, &offsets, own.clone(), weights))?;
    let into = if file.directed {
        let behind = HEADER_BYTES + (file.count + 1) * 8 + file.edges * file.each;
        let offsets = agree(exchange, file.offsets(behind))?;
        Some(agree(exchange, file.rows(behind, &offsets, own, weights))?)
    } else {
        None
    };
    let ids = VertexIds::Dense { first: 0, count: file.count as Vertex };
    GraphPart::from_rows(exchange, ids, cuts, out, into)
}

impl GapFile<'_> {
    fn open(path: &Path) -> Result<GapFile<'_>, DataGraphError> {
        let refuse = |reason: String| DataGraphError::refused(format!("{}: {reason}", path.display()));
        if uncompressed(path).1 != Compression::None {
            return Err(refuse("GAP's binary format is not read compressed: decompress the file first".to_owned()));
        }
        let file = File::open(path).map_err(|error| trouble(path, "open it", &error))?;
        let size = file.metadata().map_err(|error| trouble(path, "read it", &error))?.len();
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)
            .map_err(|_| refuse(format!("{size} bytes are too short for a graph in GAP's format")))?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let (edges, count) = (number(1), number(9));
        if header[0] > 1 || edges > i64::MAX as u64 || count > u64::from(Vertex::MAX - 1) {
            return Err(refuse("this is not a graph in GAP's format: its first 17 bytes are invalid".to_owned()));
        }
        let each = if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("wsg")) { 8 } else { 4 };
        let directed = header[0] == 1;
        let once = u128::from(count + 1) * 8 + u128::from(edges) * u128::from(each);
        let wanted = u128::from(HEADER_BYTES) + once * if directed { 2 } else { 1 };
        if wanted != u128::from(size) {
            let reason = format!(
                "{count} vertices and {edges} stored edges take {wanted} bytes, but the file has {size}; is it cut off, or the ending wrong \
                 (.sg without weights, .wsg with)?"
            );
            return Err(refuse(reason));
        }
        Ok(GapFile { path, file, directed, edges, count, each })
    }

    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, DataGraphError> {
        let mut all = vec![0; bytes];
        self.file.read_exact_at(&mut all, at).map_err(|error| trouble(self.path, "read it", &error))?;
        Ok(all)
    }

    /// Reads the offsets of all rows, and the end of the last.
    fn offsets(&self, at: u64) -> Result<Vec<u64>, DataGraphError> {
        let bytes = self.read(at, (self.count as usize + 1) * 8)?;
        let offsets: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        if offsets.first() != Some(&0) || offsets.last() != Some(&self.edges) || !offsets.is_sorted() {
            let reason = "the offsets of its rows are not ascending: the file is damaged";
            return Err(DataGraphError::refused(format!("{}: {reason}", self.path.display())));
        }
        Ok(offsets)
    }

    /// Reads the rows of a range of vertices.
    fn rows(
        &self,
        at: u64,
        offsets: &[u64],
        own: std::ops::Range<Vertex>,
        weights: Option<WeightSource>,
    ) -> Result<Rows, DataGraphError> {
        let offsets = &offsets[own.start as usize..=own.end as usize];
        let (begin, end) = (offsets[0], offsets[offsets.len() - 1]);
        let start = at + (self.count + 1) * 8 + begin * self.each;
        let bytes = self.read(start, ((end - begin) * self.each) as usize)?;
        let words = bytes.as_chunks::<4>().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let stride = self.each as usize / 4;
        let targets: Vec<Vertex> = (0..(end - begin) as usize).into_par_iter().map(|e| word(e * stride)).collect();
        if let Some(target) = targets.par_iter().find_any(|&&target| u64::from(target) >= self.count) {
            let reason = format!("an edge leads to vertex {target}, but there are {}", self.count);
            return Err(DataGraphError::refused(format!("{}: {reason}", self.path.display())));
        }
        let weights = match (weights, weights.and_then(WeightSource::draw)) {
            (Some(WeightSource::File), _) if stride == 1 => {
                return Err(DataGraphError::refused(format!("{}: a .sg file has no weights", self.path.display())));
            }
            (_, Some(draw)) => {
                let mut all = Vec::with_capacity(targets.len());
                for (row, pair) in offsets.windows(2).enumerate() {
                    let source = u64::from(own.start) + row as u64;
                    let here = &targets[(pair[0] - begin) as usize..(pair[1] - begin) as usize];
                    all.extend(here.iter().map(|&target| draw(source, u64::from(target))));
                }
                Some(all)
            }
            (None | Some(WeightSource::File), None) if stride == 2 => {
                Some((0..targets.len()).into_par_iter().map(|e| f64::from(word(e * 2 + 1) as i32)).collect())
            }
            _ => None,
        };
        Rows::from_offsets(own.start, offsets, targets, weights)
            .ok_or_else(|| DataGraphError::refused(format!("{}: the file is damaged", self.path.display())))
    }
}
