//! A directory of one rank on its node's disk, which goes with the rank.
//!
//! A rank locks its directory for its lifetime, so that a later rank can identify and remove the
//! directories of killed ranks.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A directory that exists for the lifetime of this value.
pub(super) struct RankDir {
    dir: tempfile::TempDir,
    /// The directory itself, locked.
    _lock: File,
}

impl RankDir {
    /// Creates a directory whose name begins with `prefix`, and locks it. Calls `remove` with those
    /// that killed ranks of this node have left; its failures are harmless.
    ///
    /// # Errors
    /// If it cannot be created.
    pub(super) fn create(place: &Path, prefix: &str, remove: &dyn Fn(&Path)) -> io::Result<RankDir> {
        let prefix = with_host(prefix);
        remove_leftovers(place, &prefix, remove);
        loop {
            let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(place)?;
            let lock = match File::open(dir.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                lock => lock?,
            };
            // Without file locks no rank can lock and remove a directory. With them, another rank
            // may have removed the directory between its creation and the lock.
            if lock.lock().is_err() || dir.path().exists() {
                return Ok(RankDir { dir, _lock: lock });
            }
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A prefix with this node's name. Locks on a shared file system may hold on one node only, so each
/// node removes only its own directories.
pub(super) fn with_host(prefix: &str) -> String {
    let host = sysinfo::System::host_name().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    format!("{prefix}{}-", host.chars().map(plain).collect::<String>())
}

/// Removes the directories of killed ranks. Failures are ignored as harmless.
fn remove_leftovers(place: &Path, prefix: &str, remove: &dyn Fn(&Path)) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
        let Ok(dir) = File::options().read(true).custom_flags(flags).open(entry.path()) else { continue };
        let ours = dir.metadata().is_ok_and(|facts| facts.uid() == rustix::process::geteuid().as_raw());
        // The lock is held until the directory is removed: a rank that creates one checks after
        // locking that it still exists.
        if ours && dir.try_lock().is_ok() {
            remove(&entry.path());
        }
    }
}
