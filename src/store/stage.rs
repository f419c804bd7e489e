//! Files of tasks that run in a directory on the node's disk: brought there through the node's
//! level, and taken from there to their places.
//!
//! A task gets copies (shared blocks where the file system has them), never links: whoever owns a
//! hard link can make it writable, and would then change the store.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::content::{self, Content, DescribeError, Sink};
use super::delivery::Source;
use super::disk::{Disk, FetchError};
use super::held::FETCH_PAUSE;
use super::{Digest, Store, keeps_link};

/// Directory below the node's level with files that ranks lock while they fetch contents.
const FETCHING: &str = "fetching";

/// What was taken to its places.
#[derive(Debug, Default)]
pub struct StagedOut {
    /// Number of bytes that were written.
    pub bytes: u64,
    /// The directories by their places, each as the task has left it; without a content, if the
    /// node's level does not have it.
    pub directories: Vec<(PathBuf, Option<Content>)>,
}

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
    /// read again, and what it cannot take is copied straight. A link at `from` is followed.
    /// `is_given_up` asks to stop.
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
            let error = match self.stage_through(disk, &resolved, to, is_given_up) {
                Ok(staged) => {
                    self.evict_if_due();
                    return Ok(staged);
                }
                Err(error) => error,
            };
            content::not_given_up(is_given_up)?;
            content::remove_tree(to);
            // A damaged content has been removed, and is read once more.
            if is_again || !matches!(error, FetchError::Missing | FetchError::Damaged) {
                tracing::debug!("{} is copied past the store: {error}", resolved.display());
                let bytes = content::copy_tree(&resolved, to, is_given_up)?;
                return Ok(Staged { bytes, read: bytes });
            }
            is_again = true;
        }
    }

    /// The content behind a path with its modes, for another node. A link at the path is followed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn exact_content_of(&self, path: &Path) -> io::Result<Content> {
        Ok(content::describe(path, true, &self.memo, &Sink::Exact)?)
    }

    /// True if the node's level does not have a content that it could hold.
    pub fn lacks(&self, content: &Content) -> bool {
        let Ok(disk) = self.node_disk() else { return false };
        let mut check = |digest: &Digest, size, _| match disk.can_read(digest, size) {
            true => Ok(()),
            false => Err(FetchError::Missing),
        };
        content.bytes() <= self.size && content::each_object(disk, content, &mut check).is_err()
    }

    /// Puts a content of another node where `to` is: from the node's level if that has it, else as
    /// `fetch` brings it there. What was fetched is checked against its digest, and kept at the
    /// node's level.
    ///
    /// # Errors
    /// Of reading or writing, of `fetch`, and if something else arrives than the content.
    pub fn receive(
        &self,
        content: &Content,
        to: &Path,
        fetch: &dyn Fn(&Path) -> io::Result<u64>,
        is_given_up: &AtomicBool,
    ) -> io::Result<Staged> {
        let disk = self.node_disk()?;
        let bytes = content.bytes();
        let build = || {
            let built = content::build(disk, content, to, is_given_up);
            built.inspect_err(|_| content::remove_tree(to)).is_ok()
        };
        if build() {
            return Ok(Staged { bytes, read: 0 });
        }
        // What several ranks of the node need is fetched once.
        let _lock = self.lock_fetch(disk, content, is_given_up)?;
        if build() {
            return Ok(Staged { bytes, read: 0 });
        }
        let read = fetch(to).inspect_err(|_| content::remove_tree(to))?;
        let described = match self.is_within(to, 1) {
            true => content::describe(to, false, &self.memo, &Sink::Store { disk, read: &AtomicU64::new(0) }),
            false => content::describe(to, false, &self.memo, &Sink::Exact),
        };
        let described = match described {
            // It is there, although it could not be kept.
            Err(DescribeError::Store(_)) => content::describe(to, false, &self.memo, &Sink::Exact),
            described => described,
        };
        if described? != *content {
            content::remove_tree(to);
            return Err(io::Error::other("it changed while it was sent"));
        }
        self.evict_if_due();
        Ok(Staged { bytes, read })
    }

    /// Waits until no other rank of the node fetches a content.
    fn lock_fetch(&self, disk: &Disk, content: &Content, is_given_up: &AtomicBool) -> io::Result<File> {
        let dir = disk.root().join(FETCHING);
        std::fs::create_dir_all(&dir)?;
        let name = Digest::of(content.identity().as_bytes());
        let file = File::options().create(true).truncate(true).write(true).open(dir.join(&name.to_string()[..2]))?;
        while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            content::not_given_up(is_given_up)?;
            std::thread::sleep(FETCH_PAUSE);
        }
        Ok(file)
    }

    fn stage_through(&self, disk: &Disk, from: &Path, to: &Path, stop: &AtomicBool) -> Result<Staged, FetchError> {
        let read = AtomicU64::new(0);
        let content = content::describe(from, true, &self.memo, &Sink::Store { disk, read: &read });
        let content = content.map_err(io::Error::from)?;
        content::build(disk, &content, to, stop)?;
        let bytes = content.bytes();
        Ok(Staged { bytes, read: read.into_inner().min(bytes) })
    }

    /// Takes the outputs of a task from the node's disk into the node's level and to their places;
    /// those that the level cannot take go straight there. Each is a file on the disk with its
    /// place; those that are not there are left out.
    ///
    /// # Errors
    /// Of reading or writing, with the file.
    pub fn stage_out(
        &self,
        outputs: &[(PathBuf, PathBuf)],
        is_given_up: &AtomicBool,
    ) -> Result<StagedOut, (PathBuf, io::Error)> {
        let mut out = StagedOut::default();
        let all: Vec<PathBuf> = outputs.iter().map(|(from, _)| from.clone()).collect();
        for (from, to) in outputs.iter().filter(|(from, _)| !super::is_absent(from)) {
            let put = resolve_output(from, &all).and_then(|from| {
                let is_dir = std::fs::symlink_metadata(&from)?.is_dir();
                let (bytes, content) = self.put_out(&from, to, is_given_up)?;
                out.bytes += bytes;
                out.directories.extend(is_dir.then(|| (to.clone(), content)));
                Ok(())
            });
            put.map_err(|error| (to.clone(), error))?;
        }
        self.evict_if_due();
        Ok(out)
    }

    /// Puts a file, link or directory in place. Returns its content as well, if the node's level
    /// has it.
    fn put_out(&self, from: &Path, to: &Path, is_given_up: &AtomicBool) -> io::Result<(u64, Option<Content>)> {
        if self.is_within(from, 1) {
            match self.put_through(from, to, is_given_up) {
                Ok((bytes, content)) => return Ok((bytes, Some(content))),
                Err(error) => tracing::debug!("{} is copied past the store: {error}", to.display()),
            }
        }
        Ok((self.deliver(Source::Files(from.to_owned()), to, is_given_up)?, None))
    }

    fn put_through(&self, from: &Path, to: &Path, is_given_up: &AtomicBool) -> io::Result<(u64, Content)> {
        let disk = self.node_disk()?;
        let sink = Sink::Store { disk, read: &AtomicU64::new(0) };
        let content = content::describe(from, false, &self.memo, &sink)?;
        self.deliver(Source::Stored(disk, content.clone()), to, is_given_up)?;
        // What was just written is known, however young it is. Without that it is read once more.
        let _ = content::note_placed(disk, &content, to, &self.memo);
        Ok((content.bytes(), content))
    }
}

/// The file that an output is, of several: a relative link to another one is itself, any other link
/// is what it leads to.
///
/// # Errors
/// If a link leads nowhere.
pub(crate) fn resolve_output(path: &Path, outputs: &[PathBuf]) -> io::Result<PathBuf> {
    // An absolute link would lead to what is gone.
    let is_relative = std::fs::read_link(path).is_ok_and(|target| target.is_relative());
    let is_kept = is_relative && keeps_link(path, outputs.iter().map(PathBuf::as_path));
    if is_kept { Ok(path.to_owned()) } else { std::fs::canonicalize(path) }
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
