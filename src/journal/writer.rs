//! Appends records to the journal, with one `write` per record.
//!
//! When [`Journal::append`] returns, the system has the record, so a killed process loses none. The
//! job chooses when records are synced to disk ([`Flush`]); the owner calls [`Journal::tick`]
//! regularly so that this also happens while nothing is appended.
//!
//! The first failure closes the journal: the incomplete record is cut off and every later call is
//! refused. A record therefore never follows a missing one, and a failed sync is never followed by
//! one that succeeds without the pages that the system dropped meanwhile.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::JournalError;
use super::frame::{self, Frames, Rest};
use super::record::Record;
use crate::job::Flush;

/// Largest frame buffer that is kept for the next record, in bytes. `Began` holds the whole job
/// file; no other record is as long.
const MAX_KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A journal that is open for appending. Its run directory must be locked.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last whole record ends.
    end: u64,
    /// True once anything has failed: nothing is written any more.
    failed: bool,
    flush: Flush,
    /// When the oldest unsynced record was appended.
    unsynced: Option<Instant>,
    /// The frame being built; kept for its memory.
    frame: Vec<u8>,
}

impl Journal {
    /// Creates a journal; `path` must not exist.
    pub fn create(path: &Path, flush: Flush) -> Result<Journal, JournalError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let mut journal = Journal::around(file.map_err(JournalError::io("create", path))?, path, 0, flush);
        journal.write_header()?;
        journal.sync_directory()?;
        Ok(journal)
    }

    /// Opens a journal for appending. Cuts off the rest of an interrupted append and returns its
    /// size in bytes. A journal that is damaged in the middle is refused.
    pub fn reopen(path: &Path, flush: Flush) -> Result<(Journal, u64), JournalError> {
        let bytes = std::fs::read(path).map_err(JournalError::io("read", path))?;
        let mut frames = Frames::new(&bytes).map_err(|bad| JournalError::bad_header(bad, path))?;
        while frames.advance().is_some() {}
        if let Rest::Corrupt(intact) = frames.rest() {
            return Err(JournalError::corrupt(path, frames.at() as u64, intact as u64));
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
        Journal { file, path: path.to_owned(), end, failed: false, flush, unsynced: None, frame: Vec::new() }
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The flush rule.
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

    /// Appends a record, and syncs it to disk if the flush rule requires it.
    ///
    /// # Errors
    /// If this record or an earlier one could not be written.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.unless_failed(|journal| journal.append_record(record))
    }

    /// Syncs to disk if the oldest unsynced record has reached the age that the flush rule allows.
    ///
    /// # Errors
    /// As [`append`](Journal::append).
    pub fn tick(&mut self, now: Instant) -> Result<(), JournalError> {
        if self.is_due(now) { self.sync() } else { Ok(()) }
    }

    /// Syncs everything to disk now.
    ///
    /// # Errors
    /// As [`append`](Journal::append).
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.unless_failed(Journal::force)
    }

    /// Syncs to disk what the flush rule requires when nothing more is appended.
    ///
    /// # Errors
    /// As [`append`](Journal::append).
    pub fn close(mut self) -> Result<(), JournalError> {
        self.sync_rest()
    }

    fn sync_rest(&mut self) -> Result<(), JournalError> {
        if self.unsynced.is_some() && self.flush != Flush::Never { self.sync() } else { Ok(()) }
    }

    /// Performs an operation on the file and closes the journal if it fails.
    fn unless_failed(
        &mut self,
        act: impl FnOnce(&mut Journal) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Closed { path: self.path.clone() });
        }
        let result = act(self);
        if result.is_err() {
            self.failed = true;
            self.unsynced = None;
        }
        result
    }

    fn append_record(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut buffer = std::mem::take(&mut self.frame);
        frame::open_frame(&mut buffer);
        let mut buffer = postcard::to_extend(record, buffer)?;
        frame::close_frame(&mut buffer)?;
        let written = self.write(&buffer).and_then(|()| self.ensure_linked());
        buffer.clear();
        buffer.shrink_to(MAX_KEPT_BUFFER_BYTES);
        self.frame = buffer;
        written?;
        let now = Instant::now();
        self.unsynced.get_or_insert(now);
        if self.is_due(now) { self.force() } else { Ok(()) }
    }

    fn is_due(&self, now: Instant) -> bool {
        match (self.flush, self.unsynced) {
            (Flush::Always, Some(_)) => true,
            (Flush::Every(limit), Some(since)) => now.saturating_duration_since(since) >= limit,
            (Flush::Never, _) | (_, None) => false,
        }
    }

    fn force(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(JournalError::io("flush", &self.path))?;
        self.unsynced = None;
        Ok(())
    }

    fn write_header(&mut self) -> Result<(), JournalError> {
        self.write(&frame::header())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if let Err(error) = self.file.write_all(bytes) {
            // If this fails too, readers and a resume find an incomplete record, as after a kill.
            let _ = self.cut();
            return Err(JournalError::io("write", &self.path)(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Fails if the file has been removed: what is written to it then can never be read.
    fn ensure_linked(&self) -> Result<(), JournalError> {
        match self.file.metadata() {
            Ok(metadata) if metadata.nlink() == 0 && metadata.is_file() => {
                Err(JournalError::Removed { path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Cuts off everything behind the last whole record.
    fn cut(&mut self) -> Result<(), JournalError> {
        self.file.set_len(self.end).map_err(JournalError::io("truncate", &self.path))
    }

    /// Syncs the directory, so that the file itself survives a crash and not only its content.
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
        if let Err(error) = self.sync_rest() {
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
    fn a_removed_journal_takes_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, Flush::Never).unwrap();
        journal.append(&began(1)).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        let error = journal.append(&Record::Attempts(vec![attempt(1)])).unwrap_err();
        assert!(error.to_string().contains("was removed"), "{error}");
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
    fn a_journal_that_could_not_write_a_record_writes_nothing_after_it() {
        let mut journal = Journal::full_disk();
        let error = journal.append(&began(1)).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /dev/full: No space left"), "{error}");
        let is_closed = |result| matches!(result, Err(JournalError::Closed { .. }));
        assert!(is_closed(journal.append(&began(1))));
        assert!(is_closed(journal.sync()));
        journal.close().unwrap();
    }

    #[test]
    fn a_journal_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        drop(Journal::create(&path, Flush::Never).unwrap());
        assert!(matches!(Journal::create(&path, Flush::Never), Err(JournalError::Io { .. })));
    }
}
