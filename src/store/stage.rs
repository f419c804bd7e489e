//! Files of tasks that run in a directory on the node's disk: brought there through the node's
//! level, and taken from there to their places.
//!
//! A task gets copies (shared blocks where the file system has them), never links: whoever owns a
//! hard link can make it writable, and would then change the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::content::{self, DescribeError, Sink};
use super::disk::{Disk, FetchError};
use super::{Store, keeps_link};

/// Bytes that were brought to a node's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes of them that were read where the files are; the node's level had the others.
    pub read: u64,
}

impl Store {
    /// The directory of the node's level.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn node_dir(&self) -> io::Result<&Path> {
        self.node_disk().map(Disk::root)
    }

    fn node_disk(&self) -> io::Result<&Disk> {
        let unusable = || io::Error::other(self.unusable.clone().unwrap_or_default());
        self.node.as_deref().ok_or_else(unusable)
    }

    /// True if what stands behind a path is no larger than one of so many parts of the maximum size
    /// of the node's level.
    pub fn is_within(&self, path: &Path, parts: u64) -> bool {
        content::rest_after(path, self.size / parts.max(1), 0).is_some()
    }

    /// Number of bytes of all files behind a path.
    pub fn bytes_of(&self, path: &Path) -> u64 {
        content::rest_after(path, u64::MAX, 0).map_or(0, |left| u64::MAX - left)
    }

    /// Puts what stands behind `from` where `to` is, through the node's level: what that has is not
    /// read again. A link at `from` is followed. `is_given_up` asks to stop.
    ///
    /// # Errors
    /// Of reading or writing.
    pub fn stage_in(&self, from: &Path, to: &Path, is_given_up: &AtomicBool) -> io::Result<Staged> {
        let disk = self.node_disk()?;
        let resolved = std::fs::canonicalize(from)?;
        if !self.is_within(&resolved, 1) {
            // It would leave no room for anything else.
            let bytes = content::copy_tree(&resolved, to, is_given_up)?;
            return Ok(Staged { bytes, read: bytes });
        }
        let mut is_again = false;
        loop {
            let read = AtomicU64::new(0);
            let content = content::describe(&resolved, true, &self.memo, &Sink::Store { disk, read: &read })?;
            match content::build(disk, &content, to, is_given_up) {
                Ok(_) => {
                    self.evict_if_due();
                    let bytes = content.bytes();
                    return Ok(Staged { bytes, read: read.into_inner().min(bytes) });
                }
                // A damaged content has been removed, and is read once more.
                Err(FetchError::Missing | FetchError::Damaged) if !is_again => content::remove_tree(to),
                Err(error) => return Err(error.into()),
            }
            is_again = true;
        }
    }

    /// Takes the outputs of a task from the node's disk into the node's level and to their places.
    /// Each is a file on the disk with its place; those that are not there are left out. Returns
    /// the number of bytes.
    ///
    /// # Errors
    /// Of reading or writing, with the file.
    pub fn stage_out(
        &self,
        outputs: &[(PathBuf, PathBuf)],
        is_given_up: &AtomicBool,
    ) -> Result<u64, (PathBuf, io::Error)> {
        let mut bytes = 0;
        for (from, to) in outputs.iter().filter(|(from, _)| !super::is_absent(from)) {
            let follow = !keeps_link(from, outputs.iter().map(|(from, _)| from.as_path()));
            bytes += self.put_out(from, follow, to, is_given_up).map_err(|error| (to.clone(), error))?;
        }
        self.evict_if_due();
        Ok(bytes)
    }

    fn put_out(&self, from: &Path, follow: bool, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        let disk = self.node_disk()?;
        let resolved = if follow { std::fs::canonicalize(from)? } else { from.to_owned() };
        if !self.is_within(&resolved, 1) {
            return content::place_copy(&resolved, to, is_given_up);
        }
        let sink = Sink::Store { disk, read: &AtomicU64::new(0) };
        let content = content::describe(&resolved, false, &self.memo, &sink)?;
        content::place(disk, &content, to, is_given_up)?;
        // What was just written is known, however young it is.
        content::note_placed(disk, &content, to, &self.memo)?;
        Ok(content.bytes())
    }
}

impl From<DescribeError> for io::Error {
    fn from(error: DescribeError) -> io::Error {
        match error {
            DescribeError::Source(error) | DescribeError::Store(error) => error,
        }
    }
}

impl From<FetchError> for io::Error {
    fn from(error: FetchError) -> io::Error {
        match error {
            FetchError::Io(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }
}
