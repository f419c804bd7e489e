//! Ends of attempts that the other ranks keep when they lose rank 0, because its journal may lack
//! them.
//!
//! ```text
//! unreported/1877a3c2f0e1b00-rank-2     when the session began, and the rank that wrote it
//! ```
//!
//! Each rank appends to a file of its own, in the format of the journal; of the records only
//! attempts count. A rank that is killed while it writes leaves an incomplete last frame, which
//! readers pass over as they do in the journal. A file belongs to the session that its name says;
//! it counts as the end of that session's part of the journal, as long as the session is the last
//! one. A resume copies the ends into the journal and removes the files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::JournalError;
use super::frame::Frames;
use super::record::Record;
use super::writer::Journal;
use crate::job::Flush;
use crate::model::{Attempt, Rank};

/// The folder of these files in a run directory.
const DIR: &str = "unreported";

/// Upper limit on what is read of a file, far above what a rank keeps.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// The file of one rank. It is created when there is something to write.
#[derive(Debug)]
pub struct UnreportedEnds {
    path: PathBuf,
    file: Option<Journal>,
}

impl UnreportedEnds {
    /// The file of a rank in this run directory for the session that began then, in nanoseconds
    /// since 1970.
    pub fn new(dir: &Path, began_unix_ns: u64, rank: Rank) -> UnreportedEnds {
        let name = format!("{}rank-{}", prefix(began_unix_ns), rank.0);
        UnreportedEnds { path: dir.join(DIR).join(name), file: None }
    }

    /// Appends ends, and waits until they are on disk.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, attempts: Vec<Attempt>) -> Result<(), JournalError> {
        if attempts.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&self.path)?),
        };
        file.append(&Record::Attempts(attempts))
    }
}

fn create(path: &Path) -> Result<Journal, JournalError> {
    let dir = path.parent().unwrap_or(path);
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(JournalError::io("create", dir)(error)),
        _ => Journal::create(path, Flush::Always),
    }
}

/// Beginning of the names of a session's files.
fn prefix(began_unix_ns: u64) -> String {
    format!("{began_unix_ns:x}-")
}

/// The files of a session beside the journal, in the order of their names.
fn files(journal: &Path, began_unix_ns: u64) -> Vec<PathBuf> {
    let prefix = prefix(began_unix_ns);
    let entries = fs::read_dir(journal.with_file_name(DIR)).into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let mut files: Vec<PathBuf> = own.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Total size in bytes of a session's files.
pub(super) fn size(journal: &Path, began_unix_ns: u64) -> u64 {
    let sizes = files(journal, began_unix_ns).into_iter().filter_map(|file| fs::metadata(file).ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// The ends in a session's files. What is damaged or cannot be read is passed over: those tasks run
/// again.
pub(super) fn read(journal: &Path, began_unix_ns: u64) -> Vec<Attempt> {
    files(journal, began_unix_ns).iter().flat_map(|file| ends_in(file)).collect()
}

fn ends_in(path: &Path) -> Vec<Attempt> {
    let mut bytes = Vec::new();
    if File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)).is_err() {
        return Vec::new();
    }
    let Ok(mut frames) = Frames::new(&bytes) else { return Vec::new() };
    let records = std::iter::from_fn(|| frames.advance()).map_while(|frame| postcard::from_bytes::<Record>(frame).ok());
    let ends = records.map(|record| if let Record::Attempts(attempts) = record { attempts } else { Vec::new() });
    ends.flatten().collect()
}

/// Removes what ranks have kept in earlier sessions of the run in this directory, once the journal
/// has it.
pub fn remove_unreported(dir: &Path) {
    let dir = dir.join(DIR);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", dir.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::any_attempt;
    use crate::journal::replay::tests::{attempt, began};
    use crate::journal::{JournalReader, Replay, RunDir, replay};
    use crate::model::{Outcome, State, TaskId};

    const SESSION: u64 = 1_700_000_100_000_000_000;

    /// A run directory whose journal holds these records.
    fn run(records: &[Record]) -> (tempfile::TempDir, RunDir, Journal) {
        let parent = tempfile::tempdir().unwrap();
        let dir = RunDir::create_at(&parent.path().join("r")).unwrap();
        let mut journal = Journal::create(&dir.journal(), Flush::Never).unwrap();
        records.iter().for_each(|record| journal.append(record).unwrap());
        (parent, dir, journal)
    }

    fn keep(dir: &RunDir, session: u64, rank: u32, batches: &[Vec<Attempt>]) -> PathBuf {
        let mut file = UnreportedEnds::new(dir.path(), session, Rank(rank));
        batches.iter().for_each(|batch| file.append(batch.clone()).unwrap());
        file.path
    }

    fn tasks(replay: &Replay) -> Vec<u32> {
        replay.last_session().unwrap().attempts.iter().map(|attempt| attempt.task.0).collect()
    }

    #[test]
    fn what_ranks_kept_counts_once_and_only_in_its_session() {
        let (_parent, dir, _) = run(&[began(1), Record::Attempts(vec![attempt(0), attempt(1)])]);
        keep(&dir, SESSION, 1, &[vec![attempt(1), attempt(2)], vec![attempt(3)]]);
        keep(&dir, SESSION, 2, &[vec![attempt(3), attempt(4)]]);
        keep(&dir, SESSION - 1, 2, &[vec![attempt(7)]]);
        let found = replay(&dir.journal()).unwrap();
        assert_eq!(tasks(&found), [0, 1, 2, 3, 4]);
        assert_eq!(found.unrecorded().iter().map(|a| a.task.0).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(found.completed(TaskId(4)) && !found.completed(TaskId(7)));
    }

    #[test]
    fn an_earlier_attempt_does_not_supersede_a_later_one() {
        let failed = Outcome { state: State::Failed, exit: 3, cached: false };
        let first = Attempt { outcome: failed, last: false, ..attempt(0) };
        let second = Attempt { attempt: 2, ..attempt(0) };
        let (_parent, dir, _) = run(&[began(1), Record::Attempts(vec![first, second])]);
        keep(&dir, SESSION, 1, &[vec![first]]);
        let found = replay(&dir.journal()).unwrap();
        assert_eq!((found.attempts(), found.completed(TaskId(0))), (2, true));
    }

    #[test]
    fn once_the_journal_has_them_they_are_passed_over_and_a_later_session_keeps_them() {
        let (_parent, dir, mut journal) = run(&[began(1)]);
        let mut reader = JournalReader::new(&dir.journal());
        let mut grown = Replay::default();
        reader.read_on(&mut grown).unwrap();
        keep(&dir, SESSION, 1, &[vec![attempt(0), attempt(1)]]);
        assert!(reader.read_on(&mut grown).unwrap());
        assert!(!reader.read_on(&mut grown).unwrap(), "nothing is new");
        journal.append(&Record::Attempts(grown.unrecorded().to_vec())).unwrap();
        reader.read_on(&mut grown).unwrap();
        let Record::Began(mut second) = began(2) else { unreachable!() };
        second.kept = vec![crate::journal::KeptRun { first: TaskId(5), was: TaskId(0), count: 2 }];
        journal.append(&Record::Began(second)).unwrap();
        reader.read_on(&mut grown).unwrap();
        for found in [grown, replay(&dir.journal()).unwrap()] {
            assert_eq!((found.attempts(), tasks(&found).len()), (2, 0));
            assert!(found.completed(TaskId(5)) && found.completed(TaskId(6)));
            assert!(found.unrecorded().is_empty());
        }
        remove_unreported(dir.path());
        assert_eq!(size(&dir.journal(), SESSION), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_torn_or_damaged_file_costs_only_what_follows(
            batches in prop::collection::vec(prop::collection::vec(any_attempt(), 1..6), 1..6),
            cut in any::<prop::sample::Index>(),
            flip in any::<Option<prop::sample::Index>>(),
        ) {
            let (_parent, dir, _) = run(&[began(1)]);
            let path = keep(&dir, SESSION, 1, &batches);
            let mut bytes = fs::read(&path).unwrap();
            let mut ends = Vec::new();
            let mut frames = Frames::new(&bytes).unwrap();
            while frames.advance().is_some() {
                ends.push(frames.at());
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let mut intact = bytes.len();
            if let Some(flip) = flip.filter(|_| !bytes.is_empty()) {
                let at = flip.index(bytes.len());
                bytes[at] ^= 0x10;
                intact = if at < crate::journal::frame::HEADER { 0 } else { at };
            }
            fs::write(&path, &bytes).unwrap();
            let whole = ends.iter().filter(|&&end| end <= intact).count();
            prop_assert_eq!(read(&dir.journal(), SESSION), batches[..whole].concat());
        }

        #[test]
        fn any_file_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), headed: bool) {
            let (_parent, dir, _) = run(&[began(1)]);
            let path = keep(&dir, SESSION, 1, &[vec![attempt(1)]]);
            let header = crate::journal::frame::header();
            fs::write(&path, if headed { [&header[..], &bytes].concat() } else { bytes }).unwrap();
            prop_assert_eq!(replay(&dir.journal()).unwrap().attempts(), 0);
        }
    }
}
