//! One level of the store on disk: files named by the digest of what they hold, written so that a
//! reader finds a whole file or none.
//!
//! ```text
//! CACHEDIR.TAG          tells backup programs to pass over it
//! objects/ab/cdef...    a content, read-only, named by its digest
//! results/ab/cdef...    what a task left, named by its key (see `result`)
//! latest/ab/cdef...     the key components of the last result of a task of this name
//! tmp/                  files that are being written
//! ```
//!
//! A file is written under `tmp`, and renamed when it is complete. Nothing is synced: after a crash
//! of the machine a file may be empty or cut short, and every reader checks size and digest before
//! it believes one. Readers open by name and do not rely on listings or attributes, which another
//! node of a network file system sees late.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use super::content::share_blocks;
use super::digest::{self, Digest};

/// The kinds of files of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Result,
    Latest,
}

impl Kind {
    pub(super) fn dir(self) -> &'static str {
        match self {
            Kind::Object => "objects",
            Kind::Result => "results",
            Kind::Latest => "latest",
        }
    }
}

/// Pauses before a file is looked for again that should be there, on a file system of several
/// nodes.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(500)];

/// Name and content of the file that marks a level, and keeps others from being taken for one.
const TAG_FILE: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Results of tasks, kept by phalanx.\n";

/// Number of looks at a tag that is incomplete, and the pause after each.
const TAG_LOOKS: u32 = 50;
const TAG_PAUSE: Duration = Duration::from_millis(10);

/// Temporary files older than this were left by a writer that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Number of the next temporary file of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Why a content could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It is not there.
    #[error("it is not in the store")]
    Missing,
    /// It is not what its name says; it was removed.
    #[error("it was damaged")]
    Damaged,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One level.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Whether other nodes write here too.
    is_shared: bool,
    /// Mode of directories, taken from the root of a shared level.
    mode: u32,
    /// Set after the first failed write: nothing more is written.
    is_broken: AtomicBool,
    /// Bytes written by this process.
    written: AtomicU64,
}

impl Disk {
    /// Opens a level, and creates its directory.
    ///
    /// # Errors
    /// If the directory cannot be created, holds other files than those of a level, or is open to
    /// others on a node. One that cannot be written to is no error: what it holds can be read.
    pub(super) fn open(root: &Path, is_shared: bool) -> io::Result<Disk> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        if !is_shared {
            builder.mode(0o700);
        }
        builder.create(root)?;
        if !is_level(root) {
            if fs::read_dir(root)?.next().is_some() && !becomes_level(root) {
                // A tag that may not be read is told as such.
                if let Err(error) = File::open(root.join(TAG_FILE))
                    && error.kind() == ErrorKind::PermissionDenied
                {
                    return Err(io::Error::new(error.kind(), format!("{TAG_FILE} in it: {error}")));
                }
                return Err(io::Error::other(
                    "it holds other files; name an empty directory, or one that does not exist",
                ));
            }
            // A read-only store goes without.
            let _ = fs::write(root.join(TAG_FILE), TAG);
        }
        let disk = Disk::of(root, is_shared)?;
        // Whoever may look into the level reads the tag, whatever the umask of its maker is.
        let _ = fs::set_permissions(root.join(TAG_FILE), Permissions::from_mode(0o444 & disk.mode | 0o600));
        Ok(disk)
    }

    /// Opens a level that exists.
    ///
    /// # Errors
    /// If there is no such directory, or it is no level of a store.
    pub(super) fn existing(root: &Path, is_shared: bool) -> io::Result<Disk> {
        match fs::metadata(root)?.is_dir() && is_level(root) {
            true => Disk::of(root, is_shared),
            false => Err(io::Error::other("it is no cache of phalanx")),
        }
    }

    fn of(root: &Path, is_shared: bool) -> io::Result<Disk> {
        let meta = fs::metadata(root)?;
        let mode = meta.permissions().mode() & 0o3777;
        let me = rustix::process::geteuid().as_raw();
        // Below a directory that all may write to, a link of somebody else may lead anywhere.
        let is_own = |meta: &fs::Metadata| meta.uid() == me;
        let is_all_own = is_own(&meta) && fs::symlink_metadata(root).is_ok_and(|meta| is_own(&meta));
        if !is_shared && !is_all_own {
            return Err(io::Error::other("it belongs to another user; name a directory of your own"));
        }
        if !is_shared && mode & 0o002 != 0 {
            return Err(io::Error::other("all users may write to it; take that right away (chmod o-w)"));
        }
        let (root, is_broken) = (root.to_owned(), AtomicBool::new(false));
        Ok(Disk { root, is_shared, mode, is_broken, written: AtomicU64::new(0) })
    }

    /// The directory of the level.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether other nodes write here too.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Bytes that this process has written here.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// True until a write has failed.
    pub(super) fn is_writable(&self) -> bool {
        !self.is_broken.load(Relaxed)
    }

    /// Where a file of this name is.
    pub(super) fn path(&self, kind: Kind, name: &Digest) -> PathBuf {
        let hex = name.to_string();
        self.root.join(kind.dir()).join(&hex[..2]).join(&hex[2..])
    }

    /// True if a file of this name is there, with this size if one is given.
    pub(super) fn has(&self, kind: Kind, name: &Digest, size: Option<u64>) -> bool {
        fs::metadata(self.path(kind, name)).is_ok_and(|meta| size.is_none_or(|size| meta.len() == size))
    }

    /// True if a content of this size is there and this user may read it: one that another user
    /// keeps private is not.
    pub(super) fn can_read(&self, name: &Digest, size: u64) -> bool {
        let opened = File::open(self.path(Kind::Object, name)).and_then(|file| file.metadata());
        opened.is_ok_and(|meta| meta.len() == size)
    }

    /// Notes that a file was used, so that others are removed before it.
    pub(super) fn touch(&self, kind: Kind, name: &Digest) {
        let touched = File::open(self.path(kind, name)).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::trace!("{}: {error}", self.root.display());
        }
    }

    /// Removes a file. Returns whether it is gone.
    pub(super) fn remove(&self, kind: Kind, name: &Digest) -> bool {
        match fs::remove_file(self.path(kind, name)) {
            Ok(()) => true,
            Err(error) => is_absent(&error),
        }
    }

    /// Reads a small file. `None` if there is none.
    pub(super) fn read(&self, kind: Kind, name: &Digest) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(kind, name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a content that a result names.
    pub(super) fn open_object(&self, name: &Digest) -> Result<File, FetchError> {
        let path = self.path(Kind::Object, name);
        let mut pauses = RETRY_PAUSES.iter().filter(|_| self.is_shared);
        loop {
            match (File::open(&path), pauses.next()) {
                (Ok(file), _) => return Ok(file),
                (Err(error), Some(pause)) if is_absent(&error) => std::thread::sleep(*pause),
                (Err(error), None) if is_absent(&error) => return Err(FetchError::Missing),
                (Err(error), _) => return Err(error.into()),
            }
        }
    }

    /// Copies a content to a writer, and checks it on the way. One that is damaged is removed.
    pub(super) fn copy_object(&self, name: &Digest, size: u64, to: &mut impl Write) -> Result<(), FetchError> {
        self.copy_checked(self.open_object(name)?, name, size, to)
    }

    /// The same into an empty file, which shares the blocks where the file system can.
    pub(super) fn copy_object_to_file(&self, name: &Digest, size: u64, to: &mut File) -> Result<(), FetchError> {
        let from = self.open_object(name)?;
        match share_blocks(&from, to) {
            true => self.copy_checked(from, name, size, &mut io::sink()),
            false => self.copy_checked(from, name, size, to),
        }
    }

    fn copy_checked(&self, mut file: File, name: &Digest, size: u64, to: &mut impl Write) -> Result<(), FetchError> {
        let (found, length) = digest::copy(&mut file, to)?;
        if (found, length) == (*name, size) {
            return Ok(());
        }
        self.condemn(name);
        Err(FetchError::Damaged)
    }

    /// Removes a damaged content, and says so.
    pub(super) fn condemn(&self, name: &Digest) {
        let path = self.path(Kind::Object, name);
        tracing::warn!("{} is damaged; it is removed, and the tasks that made it run again", path.display());
        self.remove(Kind::Object, name);
    }

    /// Writes a small file, in place of one of this name.
    ///
    /// # Errors
    /// If it could not be written; see [`Disk::give_up`].
    pub(super) fn write(&self, kind: Kind, name: &Digest, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.temporary()?;
        file.write(bytes)?;
        file.persist(&self.path(kind, name), 0o444)
    }

    /// Stores what `from` yields, and returns its digest and size. `mode`: permissions of the
    /// source, which decide who may read it here (see [`readers`]).
    ///
    /// # Errors
    /// If it could not be read or written.
    pub(super) fn store_object(&self, from: &mut impl Read, mode: u32) -> io::Result<(Digest, u64)> {
        let mut file = self.temporary()?;
        let (digest, size) = digest::copy(from, &mut file.file)?;
        file.size = size;
        if self.can_read(&digest, size) {
            // The evictor leaves young contents alone: a result that names this one is on its way.
            self.touch(Kind::Object, &digest);
        } else {
            file.persist(&self.path(Kind::Object, &digest), readers(mode))?;
        }
        Ok((digest, size))
    }

    /// Says once that nothing more is written here, and why.
    pub(super) fn give_up(&self, error: &io::Error) {
        if !self.is_broken.swap(true, Relaxed) {
            let place = self.root.display();
            tracing::warn!("results of tasks are no longer stored in {place}: {error}; tasks run as without a cache");
        }
    }

    fn temporary(&self) -> io::Result<Temporary<'_>> {
        let name = format!("{}-{}-{}", host(), std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = self.root.join("tmp").join(name);
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_dir(&self.root.join("tmp"))?;
                create()
            }
            file => file,
        };
        Ok(Temporary { disk: self, file: file?, path, size: 0, is_done: false })
    }

    /// Makes a directory of the level that others may write to if they may write to its root.
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent().filter(|parent| *parent != self.root && !parent.exists()) {
            self.make_dir(parent)?;
        }
        match fs::create_dir(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(self.mode)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The files of a kind: name, size in bytes (of the blocks that it takes), and time of the last
    /// use. What has no valid name is passed over.
    pub(super) fn list(&self, kind: Kind) -> Vec<Listed> {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let mut found = Vec::new();
        for outer in entries(&self.root.join(kind.dir())) {
            let prefix = outer.file_name();
            for inner in entries(&outer.path()) {
                let name = format!("{}{}", prefix.to_string_lossy(), inner.file_name().to_string_lossy());
                let (Some(name), Ok(meta)) = (Digest::from_hex(&name), inner.metadata()) else { continue };
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(Listed { name, bytes: meta.len().max(meta.blocks() * 512), used });
            }
        }
        found
    }

    /// Removes temporary files that nobody writes any more.
    pub(super) fn remove_abandoned(&self) {
        let entries = fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten();
        let old = |meta: fs::Metadata| meta.modified().ok()?.elapsed().ok().filter(|age| *age > ABANDONED);
        let is_ours = |name: &str| {
            let mut parts = name.rsplitn(3, '-');
            (0..2).all(|_| parts.next().is_some_and(|part| part.parse::<u64>().is_ok())) && parts.next().is_some()
        };
        let entries = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours));
        for entry in entries.filter(|entry| entry.metadata().ok().and_then(old).is_some()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file of a level as it was listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) name: Digest,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

/// A file that is being written; it is removed unless it is persisted.
struct Temporary<'a> {
    disk: &'a Disk,
    file: File,
    path: PathBuf,
    size: u64,
    is_done: bool,
}

impl Temporary<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size = bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Gives the file its name, read-only for those of `readers` who may look into the level.
    fn persist(mut self, path: &Path, readers: u32) -> io::Result<()> {
        let mode = 0o444 & (self.disk.mode & readers | 0o400);
        self.file.set_permissions(Permissions::from_mode(mode))?;
        match fs::rename(&self.path, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), |parent| self.disk.make_dir(parent))?;
                fs::rename(&self.path, path)?;
            }
            renamed => renamed?,
        }
        self.is_done = true;
        self.disk.written.fetch_add(self.size, Relaxed);
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// True if a directory is a level of a store.
fn is_level(root: &Path) -> bool {
    fs::read(root.join(TAG_FILE)).is_ok_and(|tag| tag == TAG.as_bytes())
}

/// Who may read a content whose source has these permissions: those to whom its maker has not
/// denied it beyond what the umask denies to all files.
fn readers(mode: u32) -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    let umask = || {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0)
    };
    mode | UMASK.get_or_init(umask)
}

/// True if a directory is a level of a store, or has become one shortly after: another process may
/// be writing its tag.
fn becomes_level(root: &Path) -> bool {
    for _ in 0..TAG_LOOKS {
        if is_level(root) || !root.join(TAG_FILE).exists() {
            break;
        }
        std::thread::sleep(TAG_PAUSE);
    }
    is_level(root)
}

/// The name of this node, for names that differ between nodes.
fn host() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect()
    })
}

/// True for what a file that is gone is answered with, also on a network file system.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_read_only_and_checked_when_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("level"), false).unwrap();
        let (digest, size) = disk.store_object(&mut &b"content"[..], 0o644).unwrap();
        assert_eq!((digest, size), (Digest::of(b"content"), 7));
        let path = disk.path(Kind::Object, &digest);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        let mut read = Vec::new();
        disk.copy_object(&digest, size, &mut read).unwrap();
        assert_eq!(read, b"content");
        for damage in [&b"contend"[..], b"", b"content and more"] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, damage).unwrap();
            assert!(matches!(disk.copy_object(&digest, size, &mut io::sink()), Err(FetchError::Damaged)));
            assert!(matches!(disk.copy_object(&digest, size, &mut io::sink()), Err(FetchError::Missing)));
            disk.store_object(&mut &b"content"[..], 0o644).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("level/tmp")).unwrap().count(), 0, "nothing temporary is left");
    }

    #[test]
    fn directories_of_a_shared_level_have_the_mode_of_its_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o2770)).unwrap();
        let disk = Disk::open(dir.path(), true).unwrap();
        let (digest, _) = disk.store_object(&mut &b"x"[..], 0o644).unwrap();
        let path = disk.path(Kind::Object, &digest);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o3777;
        assert_eq!(mode(path.parent().unwrap()), 0o2770);
        assert_eq!(mode(&dir.path().join("tmp")), 0o2770);
        assert_eq!(mode(&path), 0o440);
        assert_eq!(mode(&dir.path().join(TAG_FILE)), 0o640);
        // What its maker keeps private stays so.
        let (secret, _) = disk.store_object(&mut &b"secret"[..], 0o600 & !readers(0)).unwrap();
        let denied = 0o040 & !readers(0);
        assert_eq!(mode(&disk.path(Kind::Object, &secret)), 0o440 & !denied);
    }

    #[test]
    fn a_directory_with_other_files_is_no_level_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        fs::write(dir.path().join("tmp/mine"), "").unwrap();
        for is_shared in [false, true] {
            assert!(Disk::open(dir.path(), is_shared).unwrap_err().to_string().contains("other files"));
            assert!(Disk::existing(dir.path(), is_shared).unwrap_err().to_string().contains("no cache"));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let level = dir.path().join("level");
        Disk::open(&level, false).unwrap();
        Disk::existing(&level, false).unwrap();
        fs::set_permissions(&level, Permissions::from_mode(0o777)).unwrap();
        assert!(Disk::open(&level, false).unwrap_err().to_string().contains("all users"));
        // A link of our own may lead to a level.
        fs::set_permissions(&level, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&level, dir.path().join("link")).unwrap();
        Disk::open(&dir.path().join("link"), false).unwrap();
    }
}
