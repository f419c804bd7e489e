//! The lock of a run directory: one run at a time writes there.
//!
//! The lock is `flock` on the file `lock`. The system releases it whenever and however its holder
//! ends, so it never becomes stale, and network file systems extend it to other nodes. The file's
//! text (process, node, since when) is for people.
//!
//! Some parallel file systems are mounted without `flock`. There the lock is the existence of the
//! file `lock.held`, created exclusively and removed at the end. A killed run leaves it behind.
//! Phalanx does not guess whether a holder on another node is alive: the error message names the
//! holder and the file to remove.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::RunDirError;
use super::{unix_now_ns, utc};

pub(super) const LOCK: &str = "lock";
const MARK: &str = "lock.held";

/// A reader that checks whether a run is alive holds the lock for a moment; a run that starts just
/// then retries this often.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A run looks at most this often whether others still begin in the same directory of runs.
const BEGIN_ATTEMPTS: u32 = 3000;
const BEGIN: &str = ".beginning";

/// The lock of a run directory, held until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
    /// The file whose existence is the lock, where there is no `flock`.
    mark: Option<PathBuf>,
    /// The previous holder, if it was on this node, where the lock proves that it is gone.
    predecessor: Option<Holder>,
}

impl RunLock {
    /// The previous holder, if it is certainly gone.
    pub fn gone_predecessor(&self) -> Option<&Holder> {
        self.predecessor.as_ref()
    }
}

/// Whether a process holds a run directory's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// This holder is alive.
    Alive(Holder),
    /// No process holds the lock.
    Gone,
    /// Unknown: the file system has no `flock`, and this holder's mark exists.
    Unknown(Holder),
}

/// The holder of a lock, as far as the lock's file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id; 0 if unknown.
    pub pid: u32,
    /// Name of its node; empty if unknown.
    pub host: String,
    /// When it took the lock, in nanoseconds since 1970; 0 if unknown.
    pub since_unix_ns: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.host.as_str()) {
            (0, _) => write!(f, "another process"),
            (pid, "") => write!(f, "process {pid}"),
            (pid, host) => write!(f, "process {pid} on {host}"),
        }?;
        if self.since_unix_ns == 0 { Ok(()) } else { write!(f, " since {}", utc(self.since_unix_ns)) }
    }
}

impl Holder {
    /// True if it was on this node, whose own locks `flock` sees on every file system.
    fn is_here(&self) -> bool {
        !self.host.is_empty() && self.host == sysinfo::System::host_name().unwrap_or_default()
    }

    fn this() -> Holder {
        let host = sysinfo::System::host_name().unwrap_or_default();
        Holder { pid: std::process::id(), host, since_unix_ns: unix_now_ns() }
    }

    /// Three lines: process, node, since when.
    fn read(path: &Path) -> Holder {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        Holder {
            pid: next().parse().unwrap_or_default(),
            host: next().to_owned(),
            since_unix_ns: next().parse().unwrap_or_default(),
        }
    }

    fn write(&self, file: &mut File) -> io::Result<()> {
        file.set_len(0)?;
        file.write_all(format!("{}\n{}\n{}\n", self.pid, self.host, self.since_unix_ns).as_bytes())
    }
}

type TryLock = fn(&File) -> Result<(), TryLockError>;

/// Takes the lock of a run directory. The error names the present holder.
pub(super) fn take(dir: &Path) -> Result<RunLock, RunDirError> {
    take_by(dir, File::try_lock)
}

fn take_by(dir: &Path, try_lock: TryLock) -> Result<RunLock, RunDirError> {
    let path = dir.join(LOCK);
    // Opened without truncating: the text of another holder must survive the attempt.
    let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
    let mut file = file.map_err(RunDirError::io("open", &path))?;
    for tried in 1.. {
        match try_lock(&file) {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tried == LOCK_ATTEMPTS => {
                return Err(RunDirError::InUse { path: dir.to_owned(), holder: Holder::read(&path) });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY_INTERVAL),
            Err(TryLockError::Error(error)) if unsupported(&error) => return take_mark(dir, file),
            Err(TryLockError::Error(error)) => return Err(RunDirError::io("lock", &path)(error)),
        }
    }
    let predecessor = Some(Holder::read(&path)).filter(Holder::is_here);
    Holder::this().write(&mut file).map_err(RunDirError::io("write", &path))?;
    Ok(RunLock { _file: file, mark: None, predecessor })
}

/// Waits until no other run that lies in `runs` begins, and keeps others from beginning until the
/// file is closed. `None` without such a directory, without `flock`, or if another run does not get
/// on for a minute, as one that is stopped: this one then begins beside it.
pub(super) fn begin_alone(runs: &Path) -> Option<File> {
    let file = OpenOptions::new().append(true).create(true).open(runs.join(BEGIN)).ok()?;
    for tried in 0..BEGIN_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if tried == BEGIN_ATTEMPTS / 20 => {
                tracing::info!("another run is beginning in {}: this one waits for it", runs.display());
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return None,
        }
        std::thread::sleep(LOCK_RETRY_INTERVAL);
    }
    tracing::warn!("another run in {} has not begun for a minute: this one does not wait longer", runs.display());
    None
}

fn take_mark(dir: &Path, file: File) -> Result<RunLock, RunDirError> {
    let mark = dir.join(MARK);
    match OpenOptions::new().write(true).create_new(true).open(&mark) {
        Ok(mut held) => {
            let lock = RunLock { _file: file, mark: Some(mark.clone()), predecessor: None };
            Holder::this().write(&mut held).map_err(RunDirError::io("write", &mark))?;
            Ok(lock)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let holder = Holder::read(&mark);
            Err(RunDirError::Marked { path: dir.to_owned(), mark, holder })
        }
        Err(error) => Err(RunDirError::io("create", &mark)(error)),
    }
}

/// Whether a process holds the lock of a run directory. Changes nothing and needs only read
/// permission.
pub(super) fn liveness(dir: &Path) -> Liveness {
    let mark = dir.join(MARK);
    if mark.exists() {
        return Liveness::Unknown(Holder::read(&mark));
    }
    let path = dir.join(LOCK);
    let Ok(file) = File::open(&path) else { return Liveness::Gone };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Liveness::Alive(Holder::read(&path)),
        Ok(()) | Err(TryLockError::Error(_)) => Liveness::Gone,
    }
}

/// The last holder of a run directory's lock, if it is certainly gone: the lock is free and was
/// last held on this node. Locks of other nodes may be invisible here.
pub(super) fn gone_holder(dir: &Path) -> Option<Holder> {
    let path = dir.join(LOCK);
    let is_free = File::open(&path).is_ok_and(|file| file.try_lock_shared().is_ok());
    let is_certain = is_free && !dir.join(MARK).exists();
    Some(Holder::read(&path)).filter(|holder| is_certain && holder.is_here())
}

/// True if the error means that the file system has no `flock`, rather than that the lock is held.
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ENOLCK | libc::EOPNOTSUPP))
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark
            && let Err(error) = std::fs::remove_file(mark)
        {
            tracing::warn!("cannot remove {}: {error}", mark.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(liveness(dir.path()), Liveness::Gone);
        let lock = take(dir.path()).unwrap();
        let Liveness::Alive(holder) = liveness(dir.path()) else { panic!("not alive") };
        assert_eq!(holder.pid, std::process::id());
        let refused = take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} on ", std::process::id())), "{refused}");
        assert!(refused.contains(" since 20"), "{refused}");
        drop(lock);
        assert_eq!(liveness(dir.path()), Liveness::Gone);
        take(dir.path()).unwrap();
    }

    #[test]
    fn without_flock_a_file_is_the_lock() {
        let none: TryLock = |_| Err(TryLockError::Error(io::Error::from_raw_os_error(libc::ENOSYS)));
        let dir = tempfile::tempdir().unwrap();
        let lock = take_by(dir.path(), none).unwrap();
        assert!(matches!(liveness(dir.path()), Liveness::Unknown(holder) if holder.pid == std::process::id()));
        let refused = take_by(dir.path(), none).unwrap_err().to_string();
        assert!(refused.contains("remove ") && refused.contains(MARK), "{refused}");
        drop(lock);
        take_by(dir.path(), none).unwrap();
    }

    #[test]
    fn only_the_node_of_its_holder_shows_that_a_run_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let is_gone = || gone_holder(dir.path()).is_some();
        assert!(!is_gone(), "nothing is seen here");
        let lock = take(dir.path()).unwrap();
        assert!(lock.gone_predecessor().is_none() && !is_gone());
        drop(lock);
        assert!(is_gone() && take(dir.path()).unwrap().gone_predecessor().is_some());
        std::fs::write(dir.path().join(LOCK), "7\nelsewhere\n1\n").unwrap();
        assert!(!is_gone() && take(dir.path()).unwrap().gone_predecessor().is_none());
        let mark = dir.path().join(MARK);
        take(dir.path()).unwrap();
        std::fs::write(mark, "").unwrap();
        assert!(!is_gone(), "without `flock` nothing is certain");
    }

    #[test]
    fn nonsense_in_the_lock_file_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK), [0xff, 0, b'\n', b'x']).unwrap();
        let _lock = take(dir.path()).unwrap();
        assert!(matches!(liveness(dir.path()), Liveness::Alive(holder) if holder.pid == std::process::id()));
    }
}
