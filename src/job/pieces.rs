//! Reads the pieces of a document with several threads.
//!
//! Each of `n` threads reads every n-th piece and waits when it is two pieces ahead. So the amount
//! of unresolved data stays small, and pieces arrive in the order of the text.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::diagnostic::{Diagnostic, Findings};
use super::document::{Document, TABLES};
use super::read::{At, Read};
use super::spec::{TaskSpec, homes_of};

/// Maximum number of threads: more would wait for the thread that resolves the pieces.
const MAX_READERS: usize = 8;

/// Number of pieces that a thread reads ahead.
const AHEAD: usize = 1;

/// The content of a piece.
pub(crate) struct ParsedPiece {
    /// The tables; `None` if the piece contains anything else.
    pub tasks: Option<Vec<At<TaskSpec>>>,
    /// Syntax errors.
    pub syntax: Vec<Diagnostic>,
    pub findings: Vec<Diagnostic>,
}

/// Reads all pieces; `take` receives them in the order of the text and may stop.
pub(crate) fn read_pieces(
    document: &Document<'_>,
    mut take: impl FnMut(ParsedPiece) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let readers = thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS).min(document.pieces());
    if readers <= 1 {
        return (0..document.pieces()).try_for_each(|number| take(read_piece(document, number)));
    }
    thread::scope(|scope| {
        let begin = |first: usize| {
            let (sender, receiver) = sync_channel(AHEAD);
            let numbers = (first..document.pieces()).step_by(readers);
            let read = move || read_some(document, numbers, &sender);
            // If no thread can be created, the pieces are read below.
            let _ = thread::Builder::new().name("read".into()).spawn_scoped(scope, read);
            receiver
        };
        let receivers: Vec<Receiver<ParsedPiece>> = (0..readers).map(begin).collect();
        (0..document.pieces()).try_for_each(|number| {
            take(receivers[number % readers].recv().unwrap_or_else(|_| read_piece(document, number)))
        })
    })
}

fn read_some(document: &Document<'_>, mut numbers: impl Iterator<Item = usize>, sender: &SyncSender<ParsedPiece>) {
    // The receiver may stop early.
    numbers.all(|number| sender.send(read_piece(document, number)).is_ok());
}

fn read_piece(document: &Document<'_>, number: usize) -> ParsedPiece {
    let parsed = document.parse_piece(number);
    let mut findings = Findings::in_file_with(homes_of);
    let list = parsed.root.get(TABLES).filter(|_| parsed.root.len() == 1).and_then(|list| list.get_ref().as_array());
    let mut read = |table| Some(At::new(TaskSpec::read(TABLES, table, &mut findings)?, table.span()));
    let tasks = list.map(|list| list.iter().filter_map(&mut read).collect());
    ParsedPiece { tasks, syntax: parsed.mistakes, findings: findings.finish() }
}
