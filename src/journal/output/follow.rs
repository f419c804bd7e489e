//! Follows the output of one task while it is written, whichever rank runs it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashMap, FxHashSet};

use super::index::{Chunk, ENTRY, IndexEntry};
use super::reader::each_piece;
use super::{OutputError, extension, file};
use crate::journal::RunDir;
use crate::model::{Rank, Stream, TaskId};

/// Reads what a task prints in one session, as far as the files of its ranks can be reached.
#[derive(Debug)]
pub struct OutputFollower {
    run: RunDir,
    session: u32,
    task: TaskId,
    indices: FxHashMap<Rank, ReadIndex>,
}

/// How far the index of a rank was read.
#[derive(Debug, Default)]
struct ReadIndex {
    /// Number of entries before the first that is not written yet.
    whole: u64,
    /// Entries behind that which were read.
    beyond: FxHashSet<u64>,
}

impl OutputFollower {
    /// Starts at the beginning of the session.
    pub fn new(run: &RunDir, session: u32, task: TaskId) -> OutputFollower {
        OutputFollower { run: run.clone(), session, task, indices: FxHashMap::default() }
    }

    /// The file with the standard output of a rank's tasks.
    pub fn file_of(&self, rank: Rank) -> PathBuf {
        file(&self.run, self.session, rank, extension(Stream::Out))
    }

    /// Passes on what was written since the last call: the attempt, the stream and the text.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read_on(&mut self, each: &mut dyn FnMut(u16, Stream, &[u8])) -> Result<(), OutputError> {
        for rank in self.ranks() {
            for chunk in self.new_chunks(rank)? {
                let key = chunk.key;
                let path = file(&self.run, self.session, rank, extension(key.stream));
                let data = File::open(&path).map_err(OutputError::io("open", &path))?;
                let pass_on = &mut |text: &[u8]| {
                    each(key.attempt, key.stream, text);
                    true
                };
                each_piece(&data, &chunk, pass_on).map_err(OutputError::io("read", &path))?;
            }
        }
        Ok(())
    }

    /// The ranks that have run tasks.
    fn ranks(&self) -> Vec<Rank> {
        let path = self.file_of(Rank::ZERO);
        let entries = fs::read_dir(path.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten();
        let rank = |name: &str| name.strip_prefix("rank-")?.strip_suffix(".idx")?.parse().ok().map(Rank);
        let mut ranks: Vec<Rank> = entries.filter_map(|entry| rank(entry.file_name().to_str()?)).collect();
        ranks.sort_unstable();
        ranks
    }

    fn new_chunks(&mut self, rank: Rank) -> Result<Vec<Chunk>, OutputError> {
        let path = file(&self.run, self.session, rank, "idx");
        let index = File::open(&path).map_err(OutputError::io("open", &path))?;
        let length = index.metadata().map_err(OutputError::io("read", &path))?.len();
        let read = self.indices.entry(rank).or_default();
        let (first, end) = (read.whole, length / ENTRY as u64);
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(first)).unwrap_or(0) * ENTRY];
        index.read_exact_at(&mut bytes, first * ENTRY as u64).map_err(OutputError::io("read", &path))?;
        let mut chunks = Vec::new();
        let (entries, _) = bytes.as_chunks::<ENTRY>();
        for (number, bytes) in (first..).zip(entries) {
            // A place of zeros is reserved and may be written later.
            let Some(entry) = IndexEntry::decode(bytes) else { continue };
            if !read.beyond.insert(number) {
                continue;
            }
            if let IndexEntry::Chunk(chunk) = entry
                && chunk.key.task == self.task
            {
                chunks.push(chunk);
            }
        }
        while read.beyond.remove(&read.whole) {
            read.whole += 1;
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::KeepOutput;
    use crate::journal::OutputWriter;

    #[test]
    fn what_is_printed_comes_once_and_from_every_rank() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        let writer = |rank| OutputWriter::create(&run, 2, Rank(rank), KeepOutput::All).unwrap();
        let (zero, one) = (writer(0), writer(1));
        let mut follower = OutputFollower::new(&run, 2, TaskId(3));
        let mut read = || {
            let mut seen = Vec::new();
            let mut each = |attempt: u16, stream, text: &[u8]| {
                seen.push((attempt, stream, String::from_utf8_lossy(text).into_owned()));
            };
            follower.read_on(&mut each).unwrap();
            seen
        };
        assert_eq!(read(), []);
        zero.append(TaskId(3), 1, Stream::Out, b"a").unwrap();
        zero.append(TaskId(4), 1, Stream::Out, b"other").unwrap();
        one.append(TaskId(3), 2, Stream::Err, b"b").unwrap();
        assert_eq!(read(), [(1, Stream::Out, "a".to_owned()), (2, Stream::Err, "b".to_owned())]);
        assert_eq!(read(), []);
        // A place that another thread has reserved, but not written yet.
        let index = file(&run, 2, Rank(1), "idx");
        let whole = fs::read(&index).unwrap();
        fs::write(&index, [&whole[..], &[0; ENTRY], &whole[..]].concat()).unwrap();
        assert_eq!(read(), [(2, Stream::Err, "b".to_owned())]);
        fs::write(&index, [&whole[..], &whole[..], &whole[..]].concat()).unwrap();
        assert_eq!(read().len(), 1);
        assert_eq!(read(), []);
    }
}
