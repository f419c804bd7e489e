//! How a rank asks others for files: implemented where the messages are (`runtime/rank/file_link`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::model::{CarriedFile, TaskId};

/// Carries files between this rank and others. All calls wait; the flag ends them early.
pub trait FileCarrier: fmt::Debug + Send + Sync {
    /// Asks rank 0 what a task finds in its directory (see
    /// [`Runner::files_for`](super::Runner::files_for)).
    ///
    /// # Errors
    /// If rank 0 does not know it, or cannot be asked.
    fn plan(&self, task: TaskId, is_given_up: &AtomicBool) -> io::Result<Vec<u8>>;

    /// Fetches a file or directory to a place where nothing is. Returns its number of bytes. After
    /// an error some of it may be there.
    ///
    /// # Errors
    /// If no rank sends it, or it cannot be written.
    fn fetch(&self, file: &CarriedFile, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64>;

    /// Has rank 0 fetch what an attempt has left, each a name in an archive with its place here,
    /// and put it in place. Returns the bytes that were put in place and those that are held.
    ///
    /// # Errors
    /// If rank 0 could not do so.
    fn hand_in(
        &self,
        attempt: (TaskId, u16),
        is_completed: bool,
        results: Vec<(PathBuf, PathBuf)>,
        is_given_up: &AtomicBool,
    ) -> io::Result<(u64, u64)>;

    /// Rank 0 is to put in place no more of what an attempt has left. A call for it that goes on is
    /// to be given up before.
    fn give_up(&self, attempt: (TaskId, u16));

    /// This rank holds a version of a temporary output, which it may send to others.
    fn hold(&self, name: [u8; 32], version: u64);
}
