//! Parses graphs in text formats, in parallel.

use std::path::Path;

use rayon::prelude::*;

use super::{DataGraphError, GraphFormat};

/// Bytes that one unit of parallel work parses.
const CHUNK_BYTES: usize = 1 << 20;

/// An error, with the offset of its line in the piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    at: usize,
    reason: String,
}

impl Wrong {
    fn new(at: usize, reason: impl Into<String>) -> Wrong {
        Wrong { at, reason: reason.into() }
    }

    /// Adds file and line to the error; `before` bytes of the file precede the piece.
    pub fn at(self, path: &Path, before: u64) -> DataGraphError {
        let line = lines_before(path, before + self.at as u64).map_or(String::new(), |lines| format!(":{}", lines + 1));
        DataGraphError::refused(format!("{}{line}: {}", path.display(), self.reason))
    }
}

/// Number of lines that end before offset `at`.
fn lines_before(path: &Path, at: u64) -> Option<u64> {
    use std::io::Read;
    let file = std::fs::File::open(path).ok()?;
    let reader: Box<dyn Read> = match super::uncompressed(path).1 {
        super::Compression::None => Box::new(file),
        super::Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
        super::Compression::Zstd => Box::new(zstd::Decoder::new(file).ok()?),
    };
    let mut text = reader.take(at);
    let (mut lines, mut chunk) = (0, vec![0; 1 << 16]);
    loop {
        match text.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
            Ok(0) => return Some(lines),
            Ok(count) => lines += chunk[..count].iter().filter(|&&b| b == b'\n').count() as u64,
        }
    }
}

/// The layout of a text, from its first lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `u v [weight]`.
    EdgeList,
    /// Matrix Market.
    Matrix {
        /// Bytes of the header.
        header: usize,
        /// Line of the sizes.
        line: u64,
        /// Vertices.
        count: u64,
        /// Entries.
        entries: u64,
        /// True if entries have values.
        weighted: bool,
        /// True if each entry stands for both directions.
        symmetric: bool,
    },
    /// METIS.
    Metis {
        /// Bytes of the header.
        header: usize,
        /// Line of the header.
        line: u64,
        /// Vertices.
        count: u64,
        /// Edges; each is listed at both ends.
        edges: u64,
        /// Numbers before the neighbours of a line: size and weights of the vertex.
        before: usize,
        /// True if a weight follows each neighbour.
        weighted: bool,
    },
    /// DIMACS.
    Dimacs {
        /// Bytes up to the end of the problem line.
        header: usize,
        /// Line of the problem.
        line: u64,
        /// Vertices.
        count: u64,
        /// Arcs.
        arcs: u64,
    },
}

impl Layout {
    /// Reads the header of a format that has one.
    pub fn read(format: GraphFormat, text: &[u8]) -> Result<Layout, Wrong> {
        match format {
            GraphFormat::MatrixMarket => Layout::matrix(text),
            GraphFormat::Metis => Layout::metis(text),
            GraphFormat::Dimacs => Layout::dimacs(text),
            GraphFormat::EdgeList | GraphFormat::Gap | GraphFormat::Graphalytics => Ok(Layout::EdgeList),
        }
    }

    fn matrix(text: &[u8]) -> Result<Layout, Wrong> {
        let mut lines = TextLines::new(text);
        let (_, banner) = lines.next().unwrap_or_default();
        let banner = String::from_utf8_lossy(banner).to_ascii_lowercase();
        let words: Vec<&str> = banner.split_ascii_whitespace().collect();
        let ["%%matrixmarket", "matrix", kind, field, symmetry] = words[..] else {
            return Err(Wrong::new(0, "a Matrix Market file begins with `%%MatrixMarket matrix coordinate ...`"));
        };
        if kind != "coordinate" {
            return Err(Wrong::new(0, format!("`{kind}` matrices are not supported, only `coordinate` ones")));
        }
        let weighted = match field {
            "pattern" => false,
            "real" | "double" | "integer" => true,
            _ => return Err(Wrong::new(0, format!("entries of type `{field}` cannot be weights"))),
        };
        let symmetric = match symmetry {
            "general" => false,
            "symmetric" => true,
            _ => {
                return Err(Wrong::new(
                    0,
                    format!("`{symmetry}` matrices are not supported, only general and symmetric ones"),
                ));
            }
        };
        for (at, text) in lines.by_ref() {
            let mut tokens = Tokens::new(text);
            if text.first() == Some(&b'%') || tokens.is_empty() {
                continue;
            }
            let mut number = || tokens.number().ok_or_else(|| Wrong::new(at, "expected `rows columns entries`"));
            let (rows, columns, entries) = (number()?, number()?, number()?);
            if rows != columns {
                let reason = format!("a graph needs a square matrix, this one has {rows} rows and {columns} columns");
                return Err(Wrong::new(at, reason));
            }
            let (header, line) = (lines.at, lines.count);
            return Ok(Layout::Matrix { header, line, count: rows, entries, weighted, symmetric });
        }
        Err(Wrong::new(text.len(), "the line with the sizes is missing; is the file cut off?"))
    }

    fn metis(text: &[u8]) -> Result<Layout, Wrong> {
        let mut lines = TextLines::new(text);
        for (at, line) in lines.by_ref() {
            if line.first() == Some(&b'%') {
                continue;
            }
            let mut tokens = Tokens::new(line);
            let mut number = || tokens.number().ok_or_else(|| Wrong::new(at, "expected `vertices edges [format]`"));
            let (count, edges) = (number()?, number()?);
            let format = tokens.number().unwrap_or(0);
            let constraints = tokens.number();
            if format > 111 || format % 10 > 1 || format / 10 % 10 > 1 {
                return Err(Wrong::new(
                    at,
                    format!("`{format}` is not a METIS format code: expected three digits 0 or 1"),
                ));
            }
            let vertex_weights = if format / 10 % 10 == 1 { constraints.unwrap_or(1) } else { 0 };
            let before = (format / 100 + vertex_weights) as usize;
            let (header, weighted) = (lines.at, format % 10 == 1);
            return Ok(Layout::Metis { header, line: lines.count, count, edges, before, weighted });
        }
        Err(Wrong::new(text.len(), "the line `vertices edges` is missing"))
    }

    fn dimacs(text: &[u8]) -> Result<Layout, Wrong> {
        let mut lines = TextLines::new(text);
        for (at, line) in lines.by_ref() {
            let mut tokens = Tokens::new(line);
            match tokens.word() {
                None | Some(b"c") => {}
                Some(b"p") => {
                    let wrong = || Wrong::new(at, "expected `p sp vertices arcs`");
                    if tokens.word() != Some(b"sp") {
                        return Err(wrong());
                    }
                    let (count, arcs) = (tokens.number().ok_or_else(wrong)?, tokens.number().ok_or_else(wrong)?);
                    return Ok(Layout::Dimacs { header: lines.at, line: lines.count, count, arcs });
                }
                Some(_) => return Err(Wrong::new(at, "expected `c` or `p` at the beginning of the line")),
            }
        }
        Err(Wrong::new(text.len(), "the line `p sp vertices arcs` is missing"))
    }

    /// True if edges have weights.
    pub fn has_weights(&self) -> bool {
        match self {
            Layout::EdgeList => false,
            Layout::Matrix { weighted, .. } | Layout::Metis { weighted, .. } => *weighted,
            Layout::Dimacs { .. } => true,
        }
    }

    /// Number of vertices according to the header.
    pub fn vertices(&self) -> Option<u64> {
        match self {
            Layout::EdgeList => None,
            Layout::Matrix { count, .. } | Layout::Metis { count, .. } | Layout::Dimacs { count, .. } => Some(*count),
        }
    }

    /// Number of entries according to the header, and its line.
    pub fn entries(&self) -> Option<(u64, u64)> {
        match self {
            Layout::EdgeList => None,
            Layout::Matrix { entries, line, .. } => Some((*entries, *line)),
            Layout::Metis { edges, line, .. } => Some((edges.saturating_mul(2), *line)),
            Layout::Dimacs { arcs, line, .. } => Some((*arcs, *line)),
        }
    }

    /// True if edges have a direction by default.
    pub fn is_directed(&self) -> bool {
        match self {
            Layout::EdgeList | Layout::Dimacs { .. } => true,
            Layout::Matrix { symmetric, .. } => !symmetric,
            Layout::Metis { .. } => false,
        }
    }

    /// True if each entry stands for both directions.
    pub fn is_symmetric(&self) -> bool {
        matches!(self, Layout::Matrix { symmetric: true, .. })
    }

    fn header(&self) -> usize {
        match self {
            Layout::EdgeList => 0,
            Layout::Matrix { header, .. } | Layout::Metis { header, .. } | Layout::Dimacs { header, .. } => *header,
        }
    }
}

/// The edges in a piece of text.
#[derive(Debug, Default, PartialEq)]
pub struct TextPiece {
    /// Ids of both ends of each edge. METIS: the source is the line's number within the piece.
    pub ends: Vec<(u64, u64)>,
    /// A weight for each edge, if requested.
    pub weights: Option<Vec<f64>>,
    /// METIS: number of lines of neighbours.
    pub rows: u64,
}

/// Parses a piece of text that begins at byte `begin` of the whole, skipping the header.
///
/// # Errors
/// The first error in the piece.
pub fn parse(layout: &Layout, text: &[u8], begin: u64, weights: bool) -> Result<TextPiece, Wrong> {
    let mut start = (layout.header() as u64).saturating_sub(begin) as usize;
    let mut chunks = Vec::new();
    while start < text.len() {
        let end = (start + CHUNK_BYTES).min(text.len());
        let end = text[end..].iter().position(|&b| b == b'\n').map_or(text.len(), |more| end + more + 1);
        chunks.push(start..end);
        start = end;
    }
    let pieces: Vec<TextPiece> = chunks
        .par_iter()
        .map(|range| {
            let chunk = &text[range.clone()];
            let piece = parse_chunk(layout, chunk, weights);
            piece.map_err(|wrong| Wrong { at: wrong.at + range.start, ..wrong })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Result<_, _>>()?;
    let mut whole = TextPiece { weights: weights.then(Vec::new), ..TextPiece::default() };
    whole.ends.reserve_exact(pieces.iter().map(|piece| piece.ends.len()).sum());
    for piece in pieces {
        let before = whole.rows;
        whole.ends.extend(piece.ends.into_iter().map(|(u, v)| (u + before, v)));
        if let (Some(all), Some(more)) = (&mut whole.weights, piece.weights) {
            all.extend(more);
        }
        whole.rows += piece.rows;
    }
    Ok(whole)
}

fn parse_chunk(layout: &Layout, text: &[u8], wants_weights: bool) -> Result<TextPiece, Wrong> {
    let mut piece = TextPiece { weights: wants_weights.then(Vec::new), ..TextPiece::default() };
    for (at, line) in TextLines::new(text) {
        let mut tokens = Tokens::new(line);
        if let Layout::Metis { count, before, weighted, .. } = layout {
            if line.first() != Some(&b'%') {
                piece.rows += 1;
                let source = piece.rows;
                for _ in 0..*before {
                    tokens.word();
                }
                while !tokens.is_empty() {
                    let target = id(&mut tokens, at, line)?;
                    within(target, *count, at)?;
                    let weight = if *weighted { weight(&mut tokens, at, line)? } else { 1.0 };
                    piece.push(source, target, weight);
                }
            }
            continue;
        }
        match tokens.peek() {
            None | Some(b'#' | b'%') => continue,
            Some(b'c') if matches!(layout, Layout::Dimacs { .. }) => continue,
            Some(_) => {}
        }
        if matches!(layout, Layout::Dimacs { .. }) && tokens.word() != Some(b"a") {
            return Err(Wrong::new(at, format!("expected `a u v weight`, found {}", shown(line))));
        }
        let (u, v) = (id(&mut tokens, at, line)?, id(&mut tokens, at, line)?);
        if let Some(count) = layout.vertices() {
            within(u, count, at)?;
            within(v, count, at)?;
        }
        let weight = if wants_weights { weight(&mut tokens, at, line)? } else { 1.0 };
        piece.push(u, v, weight);
    }
    Ok(piece)
}

impl TextPiece {
    fn push(&mut self, u: u64, v: u64, weight: f64) {
        self.ends.push((u, v));
        if let Some(weights) = &mut self.weights {
            weights.push(weight);
        }
    }
}

fn within(id: u64, count: u64, at: usize) -> Result<(), Wrong> {
    if (1..=count).contains(&id) {
        return Ok(());
    }
    Err(Wrong::new(at, format!("vertex {id} is outside of 1 to {count}, the range in the header")))
}

fn shown(line: &[u8]) -> String {
    if line.contains(&0) || std::str::from_utf8(line).is_err() {
        return "bytes that are no text".to_owned();
    }
    let text: String = String::from_utf8_lossy(line).chars().take(60).collect();
    format!("`{}`", text.trim().escape_debug())
}

/// What a line that is no edge probably is, as a remark at the end of a message.
fn guess(line: &[u8]) -> &'static str {
    const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
    if line.starts_with(BYTE_ORDER_MARK) {
        "; remove the byte order mark before it"
    } else if line.contains(&b';') {
        "; columns are separated by blanks, tabs or commas, not by `;`"
    } else if line.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'"') {
        "; if it is a header, put `#` before it"
    } else {
        ""
    }
}

fn id(tokens: &mut Tokens, at: usize, line: &[u8]) -> Result<u64, Wrong> {
    tokens.number().filter(|&id| id < u64::MAX).ok_or_else(|| {
        let limit = u64::MAX - 1;
        let (found, guess) = (shown(line), guess(line));
        let text = format!("expected the ids of two vertices (whole numbers from 0 to {limit}), found {found}{guess}");
        Wrong::new(at, text)
    })
}

fn weight(tokens: &mut Tokens, at: usize, line: &[u8]) -> Result<f64, Wrong> {
    let word = tokens.word().unwrap_or_default();
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
    number
        .filter(|weight| weight.is_finite())
        .ok_or_else(|| Wrong::new(at, format!("expected a weight after the ids, found {}", shown(line))))
}

/// Number of columns of the first line with content.
pub fn columns(text: &[u8]) -> usize {
    let content = |line: &&[u8]| !matches!(Tokens::new(line).peek(), None | Some(b'#' | b'%'));
    let Some(line) = TextLines::new(text).map(|(_, line)| line).find(content) else { return 0 };
    let mut tokens = Tokens::new(line);
    std::iter::from_fn(|| tokens.word()).count()
}

/// Reads the ids of a file of vertices, ascending.
///
/// # Errors
/// If a line is not an id, or an id is listed twice.
pub fn vertices(path: &Path, text: &[u8]) -> Result<Vec<u64>, DataGraphError> {
    let mut ids = Vec::new();
    for (at, line) in TextLines::new(text) {
        let mut tokens = Tokens::new(line);
        if matches!(tokens.peek(), None | Some(b'#' | b'%')) {
            continue;
        }
        match tokens.number().filter(|&id| id < u64::MAX) {
            Some(id) => ids.push(id),
            None => {
                let limit = u64::MAX - 1;
                let text =
                    format!("expected an id (a whole number from 0 to {limit}), found {}{}", shown(line), guess(line));
                return Err(Wrong::new(at, text).at(path, 0));
            }
        }
    }
    ids.par_sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(DataGraphError::refused(format!("{}: vertex {} is listed twice", path.display(), pair[0]))),
        None => Ok(ids),
    }
}

/// Reads from a Graphalytics properties file whether edges have a direction.
pub fn directed_by_properties(path: &Path) -> Option<bool> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split('=').next().is_some_and(|key| key.trim().ends_with(".directed")))?;
    line.split('=').nth(1)?.trim().parse().ok()
}

/// Iterates over the lines of a text, each with its offset.
struct TextLines<'a> {
    text: &'a [u8],
    at: usize,
    /// Number of lines read so far.
    count: u64,
}

impl<'a> TextLines<'a> {
    fn new(text: &'a [u8]) -> TextLines<'a> {
        TextLines { text, at: 0, count: 0 }
    }
}

impl<'a> Iterator for TextLines<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.at += (length + 1).min(rest.len());
        self.count += 1;
        Some((start, &rest[..length]))
    }
}

/// The words of a line, separated by blanks, tabs, commas and carriage returns.
struct Tokens<'a> {
    rest: &'a [u8],
}

fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',' | b'\r')
}

impl<'a> Tokens<'a> {
    fn new(line: &'a [u8]) -> Tokens<'a> {
        let mut tokens = Tokens { rest: line };
        tokens.skip();
        tokens
    }

    #[inline]
    fn skip(&mut self) {
        while let [first, rest @ ..] = self.rest {
            if !is_between(*first) {
                return;
            }
            self.rest = rest;
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn word(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&b| is_between(b)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip();
        (!word.is_empty()).then_some(word)
    }

    /// Parses the next word as a whole number of 64 bits.
    #[inline]
    fn number(&mut self) -> Option<u64> {
        let (mut value, mut length) = (0u64, 0);
        for &byte in self.rest {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                if !is_between(byte) {
                    return None;
                }
                break;
            }
            value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            length += 1;
        }
        if length == 0 {
            return None;
        }
        self.rest = &self.rest[length..];
        self.skip();
        Some(value)
    }
}
