//! Errors of journals and run directories, with messages that say how to fix them.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::frame::BadHeader;
use super::lock::Holder;

/// A journal that cannot be read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation that failed, e.g. `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was removed while the run wrote it.
    #[error("{} was removed: what completes from now on cannot be recorded", path.display())]
    Removed {
        /// The file.
        path: PathBuf,
    },
    /// The file does not begin with a journal's header.
    #[error("{} is not a journal of Phalanx (it has another header)", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The journal has another format version.
    #[error("{} is a journal of format {found}, this Phalanx reads format {}: use the version of Phalanx that wrote it", path.display(), super::frame::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// Bytes in the middle have changed since they were written.
    #[error(
        "{} is damaged at byte {at} (intact again from byte {intact}); everything before it is valid. \
         To continue from there, keep a copy and run `truncate -s {at} {}`: tasks recorded later then run again",
        path.display(), path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Offset of the first frame that is not what was written.
        at: u64,
        /// Offset of the next intact frame.
        intact: u64,
    },
    /// A frame is intact but this version cannot decode its content.
    #[error(
        "{} holds a record at byte {at} that cannot be decoded: {reason}; everything before it is valid. \
         Use the version of Phalanx that wrote it, or keep a copy and run `truncate -s {at} {}`",
        path.display(), path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Offset of its frame.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// The journal is closed because an earlier write failed.
    #[error("nothing more is written to {}: an earlier write failed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// A record is too large for a frame.
    #[error(
        "a record of {bytes} bytes is too large for the journal (at most {}); split the job into several files",
        super::frame::MAX_PAYLOAD
    )]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// A record cannot be encoded.
    #[error("cannot encode a record for the journal: {0}")]
    Encode(#[from] postcard::Error),
}

impl JournalError {
    /// Wraps an I/O error about `path`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        move |source| JournalError::Io { doing, path: path.to_owned(), source }
    }

    /// The error for bytes without the header of a journal of this version.
    pub(super) fn bad_header(bad: BadHeader, path: &Path) -> JournalError {
        let path = path.to_owned();
        match bad {
            BadHeader::Magic => JournalError::NotAJournal { path },
            BadHeader::Version(found) => JournalError::Version { path, found },
        }
    }

    /// The error for a journal that is intact up to `at` and again from `intact`.
    pub(super) fn corrupt(path: &Path, at: u64, intact: u64) -> JournalError {
        JournalError::Corrupt { path: path.to_owned(), at, intact }
    }
}

/// A run directory cannot be created, found or used.
#[derive(Debug, Error)]
pub enum RunDirError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation that failed, e.g. `create`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory of a new run cannot be created.
    #[error("cannot create {}: {source}; start the run in another directory, or name one with --run-dir", path.display())]
    Create {
        /// The directory, absolute.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory for a new run already holds one.
    #[error("{} already holds a run: continue it with --resume, or choose another --run-dir", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// Another process holds the directory's lock.
    #[error("{} is in use by {holder}: wait until that run has ended, watch it with `phalanx top {0}`, or end it with `phalanx cancel {0}`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The holder of its lock.
        holder: Holder,
    },
    /// A process uses or used the directory on a file system without `flock`, where only a lock
    /// file shows it.
    #[error(
        "{} is marked as in use by {holder}, and its file system cannot tell whether that run is still running (it has no flock): \
         if it does not, remove {}",
        path.display(), mark.display()
    )]
    Marked {
        /// The directory.
        path: PathBuf,
        /// The file that marks it.
        mark: PathBuf,
        /// The holder named in the mark.
        holder: Holder,
    },
    /// There is no such run.
    #[error("no run {wanted:?} here: {}", hint(runs, known))]
    NotFound {
        /// The requested name.
        wanted: String,
        /// The directory that was searched.
        runs: PathBuf,
        /// The newest runs that there are.
        known: Vec<String>,
    },
    /// There is no run of this job to resume.
    #[error("no run of job {job:?} to resume in {}: start it without --resume, or name its directory with --run-dir", runs.display())]
    NothingToResume {
        /// The job's name.
        job: String,
        /// The directory that was searched.
        runs: PathBuf,
    },
    /// The directory holds no journal.
    #[error("{} is not a run directory (it has no journal)", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
}

impl RunDirError {
    /// Wraps an I/O error about `path`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
        move |source| RunDirError::Io { doing, path: path.to_owned(), source }
    }

    /// Wraps an I/O error about the directory of a new run.
    pub(crate) fn create(path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
        move |source| RunDirError::Create {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            source,
        }
    }
}

fn hint(runs: &Path, known: &[String]) -> String {
    if known.is_empty() {
        let what = match (runs.is_dir(), std::path::absolute(runs)) {
            (false, Ok(runs)) => format!("there is no {}", runs.display()),
            _ => format!("{} holds no runs", runs.display()),
        };
        format!("{what}; name a run directory, or change to the directory in which the job was started")
    } else {
        format!("{} holds {}", runs.display(), known.join(", "))
    }
}
