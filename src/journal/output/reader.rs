//! Reading captured output, during a run or after it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::index::{Chunk, ENTRY, IndexEntry};
use super::{OutputError, OutputKey, extension, file};
use crate::journal::RunDir;
use crate::model::{Attempt, Rank, Stream, TaskId, Usage};

/// Buffer size for copying, in bytes.
const COPY_BUFFER_BYTES: usize = 64 << 10;

/// Finds the output of tasks. Each index is read on first use; later output is not seen.
#[derive(Debug)]
pub struct OutputReader {
    run: RunDir,
    /// The indices read so far, by session and rank.
    indices: RefCell<FxHashMap<(u32, Rank), Rc<Index>>>,
}

/// The index of a rank and session.
#[derive(Debug, Default)]
struct Index {
    /// Sorted by key; chunks with the same key in the order in which they were written.
    chunks: Vec<Chunk>,
    used: FxHashMap<(TaskId, u16), Usage>,
    /// True if it holds what is no entry.
    is_damaged: bool,
}

impl OutputReader {
    /// A reader for a run's outputs.
    pub fn new(run: &RunDir) -> OutputReader {
        OutputReader { run: run.clone(), indices: RefCell::default() }
    }

    /// Returns the number of bytes that an attempt printed to a stream.
    pub fn length(&self, session: u32, attempt: &Attempt, stream: Stream) -> Result<u64, OutputError> {
        let index = self.index(session, attempt.rank)?;
        let entries = entries_of(&index, key(attempt, stream));
        Ok(entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.length)))
    }

    /// The file that is missing or damaged, so that what an attempt printed to a stream is lost or
    /// unknown.
    pub fn lost(&self, session: u32, attempt: &Attempt, stream: Stream) -> Result<Option<PathBuf>, OutputError> {
        let index = self.index(session, attempt.rank)?;
        let path = file(&self.run, session, attempt.rank, extension(stream));
        let size = fs::metadata(&path).map_or(0, |meta| meta.len());
        let entries = entries_of(&index, key(attempt, stream));
        if entries.iter().any(|entry| entry.offset.saturating_add(entry.length) > size) {
            return Ok(Some(path));
        }
        let is_known = !entries.is_empty() || size == 0 || !(index.is_damaged || index.chunks.is_empty());
        Ok((!is_known).then(|| file(&self.run, session, attempt.rank, "idx")))
    }

    /// Copies the whole output of an attempt on a stream.
    pub fn copy(&self, session: u32, attempt: &Attempt, stream: Stream, to: &mut dyn Write) -> Result<(), OutputError> {
        let index = self.index(session, attempt.rank)?;
        let entries = entries_of(&index, key(attempt, stream));
        let path = file(&self.run, session, attempt.rank, extension(stream));
        let Some(data) = open(&path)?.filter(|_| !entries.is_empty()) else { return Ok(()) };
        for entry in entries {
            let mut copied = Ok(());
            each_piece(&data, entry, &mut |piece| {
                copied = to.write_all(piece);
                copied.is_ok()
            })
            .map_err(OutputError::io("read", &path))?;
            copied.map_err(OutputError::io("copy", &path))?;
        }
        Ok(())
    }

    /// Returns the last lines that an attempt printed to a stream: at most `lines` lines and
    /// `bytes` bytes.
    pub fn tail(
        &self,
        session: u32,
        attempt: &Attempt,
        stream: Stream,
        lines: usize,
        bytes: usize,
    ) -> Result<Vec<u8>, OutputError> {
        let index = self.index(session, attempt.rank)?;
        let path = file(&self.run, session, attempt.rank, extension(stream));
        let Some(data) = open(&path)? else { return Ok(Vec::new()) };
        let mut tail = Vec::new();
        for entry in entries_of(&index, key(attempt, stream)).iter().rev() {
            let want = usize::try_from(entry.length).unwrap_or(usize::MAX).min(bytes - tail.len());
            let Some(at) = entry.offset.checked_add(entry.length - want as u64) else { continue };
            let mut part = vec![0; want];
            let got = read_at(&data, &mut part, at).map_err(OutputError::io("read", &path))?;
            part.truncate(got);
            part.extend_from_slice(&tail);
            tail = part;
            if tail.len() >= bytes || newlines(&tail) > lines {
                break;
            }
        }
        Ok(last_lines(&tail, lines).to_vec())
    }

    /// Returns the resource use of an attempt; `None` if it was not measured, as for a kernel.
    pub fn used(&self, session: u32, attempt: &Attempt) -> Result<Option<Usage>, OutputError> {
        let index = self.index(session, attempt.rank)?;
        Ok(index.used.get(&(attempt.task, attempt.attempt)).copied())
    }

    fn index(&self, session: u32, rank: Rank) -> Result<Rc<Index>, OutputError> {
        if let Some(index) = self.indices.borrow().get(&(session, rank)) {
            return Ok(index.clone());
        }
        let path = file(&self.run, session, rank, "idx");
        let index = Rc::new(read_index(&path).map_err(OutputError::io("read", &path))?);
        self.indices.borrow_mut().insert((session, rank), index.clone());
        Ok(index)
    }
}

fn key(attempt: &Attempt, stream: Stream) -> OutputKey {
    OutputKey { task: attempt.task, attempt: attempt.attempt, stream }
}

/// Opens a file; a missing one (the rank printed nothing, or the file was removed) is `None`.
fn open(path: &Path) -> Result<Option<File>, OutputError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OutputError::io("open", path)(error)),
    }
}

fn read_index(path: &Path) -> io::Result<Index> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
        Err(error) => return Err(error),
    };
    let mut input = BufReader::with_capacity(COPY_BUFFER_BYTES, file);
    let mut index = Index::default();
    let mut bytes = [0; ENTRY];
    loop {
        match input.read_exact(&mut bytes) {
            Ok(()) => match IndexEntry::decode(&bytes) {
                Some(IndexEntry::Chunk(chunk)) => index.chunks.push(chunk),
                Some(IndexEntry::Used(task, attempt, used)) => {
                    index.used.insert((task, attempt), used);
                }
                None => index.is_damaged |= bytes != [0; ENTRY],
            },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    index.chunks.sort_by_key(|entry| entry.key);
    Ok(index)
}

fn entries_of(index: &Index, key: OutputKey) -> &[Chunk] {
    let index = &index.chunks;
    let from = index.partition_point(|entry| entry.key < key);
    let length = index[from..].partition_point(|entry| entry.key == key);
    &index[from..from + length]
}

/// Reads until `buffer` is full or the file ends.
/// Passes on what an entry refers to, piece by piece, for as long as `each` returns true. The file
/// may hold less: the entry's length is not trusted.
pub(super) fn each_piece(data: &File, entry: &Chunk, each: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    let size = usize::try_from(entry.length).map_or(COPY_BUFFER_BYTES, |length| length.min(COPY_BUFFER_BYTES));
    let mut buffer = vec![0; size];
    let mut done = 0;
    while done < entry.length {
        let want = usize::try_from(entry.length - done).map_or(size, |left| left.min(size));
        let Some(at) = entry.offset.checked_add(done) else { break };
        let got = read_at(data, &mut buffer[..want], at)?;
        if got == 0 || !each(&buffer[..got]) {
            break;
        }
        done += got as u64;
    }
    Ok(())
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], at.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An impossible offset, from an index that Phalanx did not write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// The last `lines` lines of a text.
pub fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1) {
        None => &[],
        Some(skip) => ends.map(|(at, _)| at).nth(skip).map_or(bytes, |at| &bytes[at + 1..]),
    }
}
