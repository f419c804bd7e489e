//! How a rank asks others for files: implemented where the messages are (`runtime/rank/file_link`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::ahead::AheadFlags;
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

    /// Fetches a file for a task that has not begun. Others come first until it does.
    ///
    /// # Errors
    /// As [`FileCarrier::fetch`].
    fn fetch_ahead(&self, file: &CarriedFile, to: &Path, flags: &AheadFlags) -> io::Result<u64>;

    /// A task that has begun needs a file, until it has it: if that comes ahead for another task,
    /// it waits for that. The name is that of a temporary output in the stores, or the identity of
    /// a content.
    fn needs(&self, name: &str, is_needed: bool);

    /// A task begins here.
    fn begins(&self, task: TaskId);

    /// The bytes that were fetched ahead for a task that has begun and has all its files.
    fn bytes_ahead(&self, task: TaskId) -> u64;

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
