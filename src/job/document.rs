//! Splits the text of a job file into pieces, so that a file with a million `[[task]]` tables never
//! becomes one tree.
//!
//! The parser needs twenty times the memory of the text for its tree. The text is therefore cut at
//! the headers of its tables: runs of `[[task]]` tables are parsed and read piece by piece, and the
//! rest (the *remainder*: `[job]`, `[defaults]`, ...) is parsed as one document. The lexer of the
//! parser finds the headers, so a header inside a string, comment or list is not mistaken for one.
//! Places are mapped back to the whole text.
//!
//! The parser reports the same mistakes for the pieces as for the whole text, except those that
//! relate a piece to another. A text in which such a mistake is possible is kept as one piece.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::{Token, TokenKind};

use super::diagnostic::Diagnostic;
use super::read::Span;

/// Key of the tables that are read piece by piece.
pub(crate) const TABLES: &str = "task";

/// Minimum size of a piece in bytes: it ends with the first table that reaches it. It bounds the
/// memory of the tree of a piece.
const MIN_PIECE_BYTES: usize = 64 << 10;

/// A text and the places at which it is cut.
pub(crate) struct Document<'t> {
    text: &'t str,
    /// Everything except task tables.
    remainder: Vec<Span>,
    /// Runs of task tables, each with its subtables (`[task.env]`).
    pieces: Vec<Span>,
    tables: usize,
}

/// A part of a text for the parser, with the mapping of its places to the whole text.
pub(crate) struct Parsed<'t> {
    pub root: DeTable<'t>,
    pub mistakes: Vec<Diagnostic>,
}

impl<'t> Document<'t> {
    /// Cuts a text into pieces.
    pub(crate) fn cut(text: &'t str) -> Document<'t> {
        Document::cut_into(text, MIN_PIECE_BYTES)
    }

    /// Cuts a text into pieces of at least `least` bytes.
    fn cut_into(text: &'t str, least: usize) -> Document<'t> {
        let document = Document { text, remainder: Vec::new(), pieces: Vec::new(), tables: 0 };
        let mut cutter = TableCutter { document, least, from: 0, in_tables: false };
        let mut headers = Headers { text, tokens: Source::new(text).lex(), open: Vec::new() };
        match headers.all(|at, header| cutter.take(at, header)) {
            Some(()) => cutter.finish(),
            None => Document::whole(text),
        }
    }

    /// The text as one piece, which is its remainder.
    pub(crate) fn whole(text: &'t str) -> Document<'t> {
        Document { text, remainder: std::iter::once(0..text.len()).collect(), pieces: Vec::new(), tables: 0 }
    }

    /// Number of task tables outside of the remainder.
    pub(crate) fn tables(&self) -> usize {
        self.tables
    }

    /// The text of the remainder.
    pub(crate) fn remainder(&self) -> Cow<'t, str> {
        match &self.remainder[..] {
            [only] => Cow::Borrowed(&self.text[only.clone()]),
            parts => Cow::Owned(parts.iter().map(|part| &self.text[part.clone()]).collect()),
        }
    }

    /// Parses the remainder.
    pub(crate) fn parse_remainder<'f>(&self, remainder: &'f str) -> Parsed<'f> {
        parse(remainder, &|at| self.place_in_remainder(at))
    }

    /// Number of pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Parses a piece.
    pub(crate) fn parse_piece(&self, number: usize) -> Parsed<'t> {
        let piece = self.pieces[number].clone();
        let start = piece.start;
        parse(&self.text[piece], &|at| start + at)
    }

    fn place_in_remainder(&self, at: usize) -> usize {
        let mut rest = at;
        for part in &self.remainder {
            if rest < part.len() {
                return part.start + rest;
            }
            rest -= part.len();
        }
        self.remainder.last().map_or(0, |part| part.end)
    }
}

/// A table header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// `[[task]]`
    Task,
    /// `[task.env]` and the like: part of the previous task table.
    InTask,
    /// Any other header.
    Other,
}

/// Finds the headers of a text.
struct Headers<'t, I> {
    text: &'t str,
    tokens: I,
    /// The open brackets.
    open: Vec<TokenKind>,
}

impl<I: Iterator<Item = Token>> Headers<'_, I> {
    /// Passes every header with its position to `each`. `None` if a header is ambiguous or `each`
    /// stops.
    fn all(&mut self, mut each: impl FnMut(usize, Header) -> Option<()>) -> Option<()> {
        let mut begins = true;
        while let Some(token) = self.tokens.next() {
            match token.kind() {
                TokenKind::Whitespace => {}
                TokenKind::Newline => begins = true,
                TokenKind::LeftSquareBracket if begins && self.open.is_empty() => {
                    each(token.span().start(), self.header()?)?;
                }
                kind => {
                    begins = false;
                    self.count(kind);
                }
            }
        }
        Some(())
    }

    fn count(&mut self, kind: TokenKind) {
        let opened_by = match kind {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                self.open.push(kind);
                return;
            }
            TokenKind::RightSquareBracket => TokenKind::LeftSquareBracket,
            TokenKind::RightCurlyBracket => TokenKind::LeftCurlyBracket,
            _ => return,
        };
        if self.open.last() == Some(&opened_by) {
            self.open.pop();
        }
    }

    /// Parses a header after its first bracket, up to the end of its line.
    fn header(&mut self) -> Option<Header> {
        let mut token = self.tokens.next()?;
        let double = token.kind() == TokenKind::LeftSquareBracket;
        if double {
            token = self.tokens.next()?;
        }
        token = self.visible(token)?;
        // A quoted key may spell the same word with escapes.
        let is_task = match token.kind() {
            TokenKind::Atom => &self.text[token.span().start()..token.span().end()] == TABLES,
            TokenKind::BasicString | TokenKind::LiteralString => return None,
            _ => false,
        };
        let next = if is_task { self.tokens.next()? } else { token };
        let next = self.visible(next)?;
        let header = match (is_task, next.kind()) {
            (false, _) => Header::Other,
            (true, TokenKind::RightSquareBracket) if double => Header::Task,
            (true, _) => Header::InTask,
        };
        let mut last = next;
        while !matches!(last.kind(), TokenKind::Newline | TokenKind::Eof) {
            last = self.tokens.next()?;
        }
        Some(header)
    }

    /// This token, or the next one if it is white space.
    fn visible(&mut self, token: Token) -> Option<Token> {
        if token.kind() == TokenKind::Whitespace { self.tokens.next() } else { Some(token) }
    }
}

struct TableCutter<'t> {
    document: Document<'t>,
    /// Minimum size of a piece in bytes.
    least: usize,
    /// Start of the current part.
    from: usize,
    in_tables: bool,
}

impl<'t> TableCutter<'t> {
    /// Processes a header. `None` if the text cannot be cut.
    fn take(&mut self, at: usize, header: Header) -> Option<()> {
        match header {
            Header::Task => {
                self.document.tables += 1;
                if !self.in_tables || at - self.from >= self.least {
                    self.close(at);
                }
                self.in_tables = true;
            }
            Header::InTask if !self.in_tables => return None,
            Header::InTask => {}
            Header::Other => {
                if self.in_tables {
                    self.close(at);
                }
                self.in_tables = false;
            }
        }
        Some(())
    }

    fn close(&mut self, at: usize) {
        let parts = if self.in_tables { &mut self.document.pieces } else { &mut self.document.remainder };
        parts.push(self.from..at);
        self.from = at;
    }

    fn finish(mut self) -> Document<'t> {
        self.close(self.document.text.len());
        self.document
    }
}

fn parse<'t>(text: &'t str, place: &dyn Fn(usize) -> usize) -> Parsed<'t> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let span = |span: Span| moved(span, place);
    let mistakes = errors.iter().map(|error| syntax_error(error, span)).collect();
    let same = place(0) == 0 && place(text.len()) == text.len();
    let root = root.into_inner();
    Parsed { root: if same { root } else { moved_table(root, place) }, mistakes }
}

/// Converts a syntax error of the parser; `moved` maps its place to the whole text.
pub(crate) fn syntax_error(error: &toml::de::Error, moved: impl Fn(Span) -> Span) -> Diagnostic {
    let span = moved(error.span().unwrap_or(0..0));
    let mistake = Diagnostic::error(error.message().replace('\n', ", ")).at(&span);
    // Digits with a hyphen are the beginning of a date of TOML.
    match error.message().contains("date") {
        true => mistake.help("a range of numbers stands in quotes: array = \"1-100\""),
        false => mistake,
    }
}

fn moved(span: Range<usize>, place: &dyn Fn(usize) -> usize) -> Range<usize> {
    let start = place(span.start);
    // The byte after the last one may lie elsewhere in the whole text.
    let end = if span.is_empty() { start } else { place(span.end - 1) + 1 };
    start..end
}

fn moved_table<'t>(table: DeTable<'t>, place: &dyn Fn(usize) -> usize) -> DeTable<'t> {
    let entry = |(key, mut value): (Spanned<Cow<'t, str>>, Spanned<DeValue<'t>>)| {
        move_value(&mut value, place);
        (Spanned::new(moved(key.span(), place), key.into_inner()), value)
    };
    table.into_iter().map(entry).collect()
}

fn move_value(value: &mut Spanned<DeValue<'_>>, place: &dyn Fn(usize) -> usize) {
    let span = moved(value.span(), place);
    let mut inner = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
    match &mut inner {
        DeValue::Array(list) => list.iter_mut().for_each(|entry| move_value(entry, place)),
        DeValue::Table(table) => *table = moved_table(std::mem::take(table), place),
        _ => {}
    }
    *value = Spanned::new(span, inner);
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts a text into the smallest possible pieces.
    pub(in crate::job) fn in_small_pieces(text: &str) -> Document<'_> {
        Document::cut_into(text, 1)
    }

    /// Typical lines of job files, and some that prevent cutting.
    const LINES: &[&str] = &[
        "[[task]]\nname = \"a\"\nkernel = \"noop\"",
        "[[task]] # [[task]]\nname = \"b\"\ncommand = \"x [[task]] y\"",
        "[[ task ]]\nname = 'c'\ncommand = [\"x\",\n  \"[[task]]\",\n[\"y\"]]",
        "[[task]]\nname = \"d\"\ncommand = \"\"\"\n[[task]]\nname = 1\n\"\"\"",
        "[task.env]\nA = \"1\"",
        "[ task . args ]\nms = 1",
        "needs = [\"a\", \"b\"]",
        "needs = [\n  [\n",
        "outputs = [\"f\"]\ninputs = [\"g\"]",
        "cpus = 0",
        "cpu = 2",
        "[job]\nname = \"j\"",
        "[job]\ndir = \"~\"",
        "[defaults]\ncpus = 2\nenv = { B = \"{x}\" }",
        "[[alert]]\nname = \"x\"",
        "[[\"task\"]]\nname = \"q\"",
        "[task]",
        "[[task]",
        "task = 1",
        "x = ]",
        "x = { a = 1",
        "y = \"open",
        "[[",
        "# a comment with [[task]]",
        "",
    ];

    /// All values with their places.
    fn flat(at: &str, value: &DeValue<'_>, span: Span, into: &mut Vec<String>) {
        match value {
            DeValue::Table(table) => {
                for (key, value) in table.iter() {
                    into.push(format!("{at}.{} {:?}", key.get_ref(), key.span()));
                    flat(&format!("{at}.{}", key.get_ref()), value.get_ref(), value.span(), into);
                }
            }
            DeValue::Array(list) => list.iter().for_each(|one| flat(at, one.get_ref(), one.span(), into)),
            other => into.push(format!("{at} = {other:?} {span:?}")),
        }
    }

    fn values(root: &DeTable<'_>) -> Vec<String> {
        let mut into = Vec::new();
        flat("", &DeValue::Table(root.clone()), 0..0, &mut into);
        into.retain(|line| !line.starts_with(".task ("));
        into
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(chosen in prop::collection::vec(0..LINES.len(), 0..12)) {
            let text: String = chosen.iter().map(|&line| format!("{}\n", LINES[line])).collect();
            let cut = in_small_pieces(&text);
            let covered: usize = cut.remainder.iter().chain(&cut.pieces).map(|part| part.len()).sum();
            prop_assert_eq!(covered, text.len());
            let whole = DeTable::parse_recoverable(&text);
            let remainder = cut.remainder();
            let mut parsed = vec![cut.parse_remainder(&remainder)];
            parsed.extend((0..cut.pieces()).map(|piece| cut.parse_piece(piece)));
            let fits = parsed[1..].iter().all(|piece| piece.root.len() == 1 && piece.root.contains_key(TABLES));
            if cut.tables() > 0 && (parsed[0].root.contains_key(TABLES) || !fits) {
                return Ok(());
            }
            let wrong = parsed.iter().any(|piece| !piece.mistakes.is_empty());
            prop_assert_eq!(wrong, !whole.1.is_empty(), "{}", text);
            if !wrong {
                let mut found: Vec<String> = parsed.iter().flat_map(|piece| values(&piece.root)).collect();
                let mut expected = values(whole.0.get_ref());
                found.retain(|line| !line.starts_with(".task "));
                expected.retain(|line| !line.starts_with(".task "));
                found.sort();
                expected.sort();
                prop_assert_eq!(found, expected, "{}", text);
            }
        }
    }

    #[test]
    fn a_file_is_cut_at_its_tables() {
        let text = "[job]\nname = \"j\"\n[[task]]\nname = \"a\"\n[task.env]\nX = 1\n[[task]]\n[cost]\n[[task]]\n";
        let cut = in_small_pieces(text);
        assert_eq!((cut.tables(), cut.pieces(), cut.remainder.len()), (3, 3, 2));
        assert_eq!(cut.remainder(), "[job]\nname = \"j\"\n[cost]\n");
        let one = Document::cut(text);
        assert_eq!((one.tables(), one.pieces()), (3, 2));
        for text in ["[[\"task\"]]\n", "[[task]]\n[job]\n[task.env]\n"] {
            assert_eq!(in_small_pieces(text).tables(), 0, "{text}");
        }
    }
}
