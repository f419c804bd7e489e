//! The journal's writing side: one append, one `write`.
//!
//! A record has been handed to the system when [`Journal::append`] returns, so a killed process loses none. When it is
//! forced to disk is the job's choice ([`Flush`]); the owner calls [`Journal::tick`] now and then to keep that promise
//! while nothing is appended. An append that fails leaves the file as it was, so that a full disk damages nothing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::JournalError;
use super::frame::{self, Frames, Rest};
use super::record::Record;
use super::replay;
use crate::job::Flush;

/// Bytes of memory that are kept for the next frame: how a session begins holds the whole job file,
/// and no other record is as long.
const MOST_KEPT: usize = 1 << 20;

/// A journal that is open for appending. Its run directory must be locked.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last whole record ends.
    end: u64,
    /// True if something may lie behind `end`: a write that failed, which could not be taken back yet.
    torn: bool,
    flush: Flush,
    /// When the oldest record was appended that has not been forced to disk.
    unsynced: Option<Instant>,
    /// The frame being built; kept for its memory.
    frame: Vec<u8>,
}

impl Journal {
    /// Starts a journal; there must be none at `path`.
    pub fn create(path: &Path, flush: Flush) -> Result<Journal, JournalError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let mut journal = Journal::around(file.map_err(JournalError::io("create", path))?, path, 0, flush);
        journal.write_header()?;
        journal.sync_directory()?;
        Ok(journal)
    }

    /// Opens a journal to append further records. What an interrupted append left behind is cut off first, and its size
    /// in bytes is returned. A journal that is damaged in the middle is refused.
    pub fn reopen(path: &Path, flush: Flush) -> Result<(Journal, u64), JournalError> {
        let bytes = std::fs::read(path).map_err(JournalError::io("read", path))?;
        let mut frames = Frames::new(&bytes).map_err(|bad| replay::bad_header(bad, path))?;
        while frames.advance().is_some() {}
        if let Rest::Corrupt(intact) = frames.rest() {
            return Err(replay::corrupt(path, frames.at() as u64, intact as u64));
        }
        let end = frames.at() as u64;
        let file = OpenOptions::new().append(true).open(path).map_err(JournalError::io("open", path))?;
        let mut journal = Journal::around(file, path, end, flush);
        journal.cut()?;
        if end == 0 {
            journal.write_header()?;
        }
        Ok((journal, bytes.len() as u64 - end))
    }

    fn around(file: File, path: &Path, end: u64, flush: Flush) -> Journal {
        Journal { file, path: path.to_owned(), end, torn: false, flush, unsynced: None, frame: Vec::new() }
    }

    /// When records are forced to disk.
    pub(super) fn flush(&self) -> Flush {
        self.flush
    }

    /// A journal on a disk that is full.
    #[cfg(test)]
    pub(super) fn full_disk() -> Journal {
        let path = Path::new("/dev/full");
        let file = OpenOptions::new().append(true).open(path);
        Journal::around(file.unwrap_or_else(|error| panic!("{error}")), path, 0, Flush::Never)
    }

    /// Appends a record, and forces it to disk if the flush rule says so.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut buffer = std::mem::take(&mut self.frame);
        frame::open_frame(&mut buffer);
        let mut buffer = postcard::to_extend(record, buffer)?;
        frame::close_frame(&mut buffer)?;
        let written = self.write(&buffer);
        buffer.clear();
        buffer.shrink_to(MOST_KEPT);
        self.frame = buffer;
        written?;
        let now = Instant::now();
        self.unsynced.get_or_insert(now);
        self.tick(now)
    }

    /// Forces to disk what has waited as long as the flush rule allows.
    pub fn tick(&mut self, now: Instant) -> Result<(), JournalError> {
        let due = match (self.flush, self.unsynced) {
            (Flush::Always, Some(_)) => true,
            (Flush::Every(limit), Some(since)) => now.saturating_duration_since(since) >= limit,
            (Flush::Never, _) | (_, None) => false,
        };
        if due { self.sync() } else { Ok(()) }
    }

    /// Forces everything to disk now.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(JournalError::io("flush", &self.path))?;
        self.unsynced = None;
        Ok(())
    }

    fn write_header(&mut self) -> Result<(), JournalError> {
        self.write(&frame::header())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.torn {
            self.cut()?;
        }
        if let Err(error) = self.file.write_all(bytes) {
            self.torn = true;
            // If this fails too it is tried again before the next write; the caller is to hear of the first trouble.
            let _ = self.cut();
            return Err(JournalError::io("write", &self.path)(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what lies behind the last whole record.
    fn cut(&mut self) -> Result<(), JournalError> {
        self.file.set_len(self.end).map_err(JournalError::io("truncate", &self.path))?;
        self.torn = false;
        Ok(())
    }

    /// Makes sure that the file itself survives, not only what is in it.
    fn sync_directory(&self) -> Result<(), JournalError> {
        if self.flush == Flush::Never {
            return Ok(());
        }
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(JournalError::io("flush", dir))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.unsynced.is_some()
            && self.flush != Flush::Never
            && let Err(error) = self.sync()
        {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replay::tests::{attempt, began};
    use crate::journal::{Tail, replay};
    use std::time::Duration;

    #[test]
    fn a_torn_tail_is_cut_off_before_more_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, Flush::Always).unwrap();
        journal.append(&began(1)).unwrap();
        journal.append(&Record::Attempts(vec![attempt(1)])).unwrap();
        drop(journal);
        let length = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 3).unwrap();

        assert!(matches!(replay(&path).unwrap().tail, Tail::Torn(1..)));
        let (mut journal, ignored) = Journal::reopen(&path, Flush::Never).unwrap();
        assert!(ignored > 0);
        journal.append(&Record::Attempts(vec![attempt(2)])).unwrap();
        let back = replay(&path).unwrap();
        assert!(matches!(back.tail, Tail::Clean));
        assert_eq!(back.sessions[0].attempts, vec![attempt(2)]);
    }

    #[test]
    fn a_journal_killed_within_its_header_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::fs::write(&path, &frame::header()[..5]).unwrap();
        let (mut journal, ignored) = Journal::reopen(&path, Flush::Never).unwrap();
        assert_eq!(ignored, 5);
        journal.append(&began(1)).unwrap();
        assert_eq!(replay(&path).unwrap().sessions.len(), 1);
    }

    fn note(text: u64) -> Record {
        let text = text.to_string();
        Record::Note(crate::journal::Note { time: crate::model::Time(0), level: crate::journal::Level::Info, text })
    }

    #[test]
    fn damage_in_the_middle_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, Flush::Never).unwrap();
        journal.append(&began(1)).unwrap();
        let middle = journal.end;
        journal.append(&note(1)).unwrap();
        journal.append(&note(2)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[middle as usize + 9] ^= 4;
        std::fs::write(&path, bytes).unwrap();

        let error = Journal::reopen(&path, Flush::Never).unwrap_err().to_string();
        assert!(error.contains(&format!("truncate -s {middle} ")), "{error}");
        let back = replay(&path).unwrap();
        assert!(matches!(back.tail, Tail::Damaged(JournalError::Corrupt { at, .. }) if at == middle));
        assert_eq!(back.sessions.len(), 1);
    }

    #[test]
    fn flushing_is_due_only_after_its_interval() {
        let dir = tempfile::tempdir().unwrap();
        let every = Flush::Every(Duration::from_secs(1000));
        let mut journal = Journal::create(&dir.path().join("journal"), every).unwrap();
        journal.append(&began(1)).unwrap();
        journal.append(&note(1)).unwrap();
        let since = journal.unsynced.unwrap();
        journal.tick(since + Duration::from_secs(999)).unwrap();
        assert!(journal.unsynced.is_some());
        journal.tick(since + Duration::from_secs(1000)).unwrap();
        assert!(journal.unsynced.is_none());
    }

    #[test]
    fn a_full_disk_is_an_error_and_nothing_is_written_behind_what_it_tore() {
        let mut journal = Journal::full_disk();
        let error = journal.append(&began(1)).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /dev/full: No space left"), "{error}");
        let error = journal.append(&began(1)).unwrap_err().to_string();
        assert!(error.starts_with("cannot truncate"), "{error}");
    }

    #[test]
    fn a_journal_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        drop(Journal::create(&path, Flush::Never).unwrap());
        assert!(matches!(Journal::create(&path, Flush::Never), Err(JournalError::Io { .. })));
    }
}
