//! The files that a task names: opens them before it starts, and checks its outputs when it has
//! ended. No operation here outlasts the attempt's time limit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Fault;
use super::aside::AttemptDeadline;
use super::control::timespec;
use super::old_outputs::OldOutputs;
use crate::job::Task;

/// Interval between two checks for the other end of a FIFO, or for a file on a shared file system.
const FILE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The device number of the controlling terminal, /dev/tty: (5, 0) on Linux.
const CONTROLLING_TERMINAL: u64 = 5 << 8;

/// Opening must not block, and no terminal must become the controlling one.
const OPEN_FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;

/// The files that a task names for standard input, output and error.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<File>,
    pub(super) out: [Option<File>; 2],
}

/// Opens the files that a task names, and creates those for output with their directories. Both
/// outputs may be the same file.
pub(super) fn open(
    deadline: &AttemptDeadline,
    stdin: Option<PathBuf>,
    out: Option<PathBuf>,
    err: Option<PathBuf>,
) -> Result<Streams, Fault> {
    if stdin.is_none() && out.is_none() && err.is_none() {
        return Ok(Streams::default());
    }
    let names = [&stdin, &out, &err].into_iter().flatten().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let doing = format!("opening {}", names.join(", "));
    deadline.aside(&doing, move |is_given_up| {
        let stdin = stdin.map(|path| open_input(&path, is_given_up)).transpose()?;
        let first = out.as_deref().map(|path| create(path, is_given_up)).transpose()?;
        let second = match &first {
            Some(file) if out == err => Some(file.try_clone().map_err(|e| Fault::refused("cannot open stderr", &e))?),
            _ => err.as_deref().map(|path| create(path, is_given_up)).transpose()?,
        };
        Ok(Streams { stdin, out: [first, second] })
    })?
}

fn open_input(path: &Path, is_given_up: &AtomicBool) -> Result<File, Fault> {
    let open = || -> io::Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(path)?;
        let facts = file.metadata()?;
        refuse_terminal(&facts)?;
        if facts.file_type().is_fifo() {
            // Opening for reading does not block; a blocking `open` would return once the FIFO is
            // open for writing.
            let mut fds = [PollFd::new(&file, PollFlags::IN)];
            let is_waiting = |polled| matches!(polled, Ok(0) | Err(Errno::INTR));
            while is_waiting(poll(&mut fds, Some(&timespec(FILE_POLL_INTERVAL)))) && !is_given_up.load(Relaxed) {}
        }
        wait_again(&file)?;
        Ok(file)
    };
    open().map_err(|e| Fault::refused(format!("cannot read stdin from {}", path.display()), &e))
}

/// Opens an output file for appending, so that processes that share it do not overwrite each other.
fn create(path: &Path, is_given_up: &AtomicBool) -> Result<File, Fault> {
    let make = || -> io::Result<File> {
        let parent = path.parent().map(PathBuf::from).unwrap_or_default();
        if !parent.as_os_str().is_empty() {
            std::fs::create_dir_all(&parent)?;
        }
        let file = loop {
            match OpenOptions::new().create(true).append(true).custom_flags(OPEN_FLAGS).open(path) {
                // A FIFO without a reader yet.
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) && is_fifo(path) && !is_given_up.load(Relaxed) => {
                    std::thread::sleep(FILE_POLL_INTERVAL);
                }
                file => break file?,
            }
        };
        let facts = file.metadata()?;
        refuse_terminal(&facts)?;
        // A device such as /dev/null cannot be truncated.
        if facts.is_file() {
            file.set_len(0)?;
        }
        wait_again(&file)?;
        Ok(file)
    };
    make().map_err(|e| Fault::refused(format!("cannot create the output file {}", path.display()), &e))
}

fn is_fifo(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.file_type().is_fifo())
}

/// Rejects terminals: a task has none, although this process may have one.
fn refuse_terminal(facts: &std::fs::Metadata) -> io::Result<()> {
    match facts.file_type().is_char_device() && facts.rdev() == CONTROLLING_TERMINAL {
        true => Err(io::Error::other("a task has no terminal")),
        false => Ok(()),
    }
}

/// Makes reads and writes blocking again; only opening must not block.
fn wait_again(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file.as_fd())?;
    Ok(rustix::fs::fcntl_setfl(file.as_fd(), flags - OFlags::NONBLOCK)?)
}

/// Makes the directories of declared outputs. Of one that cannot be made the command says why, if
/// it needs it. Returns the outputs that are there already; of a staged task none, which begins
/// without them.
pub(super) fn make_places(deadline: &AttemptDeadline, task: &Task) -> Result<OldOutputs, Fault> {
    let parents = task.outputs.iter().filter_map(|(file, _)| file.parent());
    let mut places: Vec<PathBuf> =
        parents.filter(|parent| !parent.as_os_str().is_empty()).map(|parent| task.dir.join(parent)).collect();
    places.dedup();
    let old = (!task.is_staged && !task.outputs.is_empty()).then(|| task.clone());
    if places.is_empty() && old.is_none() {
        return Ok(OldOutputs::default());
    }
    deadline.aside("making the directories of its outputs", move |_| {
        let old = old.as_ref().map(OldOutputs::of).unwrap_or_default();
        for place in places {
            let _ = std::fs::create_dir_all(place);
        }
        old
    })
}

/// The outputs of a task that its attempt, which has completed, has left as they were.
pub(super) fn untouched(deadline: &AttemptDeadline, old: OldOutputs) -> Vec<PathBuf> {
    if old.is_empty() {
        return Vec::new();
    }
    // Without an answer nothing is known of them.
    deadline.untimed().aside("checking its outputs", move |_| old.untouched()).unwrap_or_default()
}

/// Returns the first of the declared files that does not exist. On shared file systems the check
/// is repeated for up to `wait`, since a node's view of a directory may be seconds old.
pub(super) fn first_missing(
    deadline: &AttemptDeadline,
    dir: &Path,
    promised: &[PathBuf],
    wait: Duration,
) -> Result<Option<PathBuf>, Fault> {
    if promised.is_empty() {
        return Ok(None);
    }
    let files: Vec<PathBuf> = promised.iter().map(|file| dir.join(file)).collect();
    let found = deadline.aside("checking for its declared files", move |is_given_up| {
        let until = Instant::now().checked_add(wait);
        files.into_iter().position(|file| !is_there(&file, until, is_given_up))
    })?;
    Ok(found.map(|at| promised[at].clone()))
}

pub(super) fn is_there(file: &Path, until: Option<Instant>, is_given_up: &AtomicBool) -> bool {
    loop {
        if file.exists() {
            return true;
        }
        let is_over = until.is_some_and(|until| Instant::now() >= until);
        let parent = file.parent().unwrap_or(Path::new("/"));
        if is_over || is_given_up.load(Relaxed) || !is_shared(parent) {
            return false;
        }
        // Listing the directory makes a network file system query its server again.
        let _ = std::fs::read_dir(parent).map(Iterator::count);
        std::thread::sleep(FILE_POLL_INTERVAL);
    }
}

/// True unless the file system is known to belong to this node alone.
fn is_shared(dir: &Path) -> bool {
    // ext, XFS, Btrfs, tmpfs, ramfs, overlayfs, ZFS, F2FS.
    const LOCAL: [u64; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010];
    // Of a missing directory it is that of the nearest one around it.
    let facts = dir.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok());
    facts.is_none_or(|facts| !LOCAL.contains(&(facts.f_type as u64 & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::control::Control;
    use crate::model::{State, TaskId};

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        (dir, path)
    }

    #[test]
    fn a_fifo_without_another_end_holds_nothing_up() {
        // A FIFO for each: a thread that was given up keeps its end open for a moment.
        let [(_a, for_in), (_b, for_out), (_c, path)] = [fifo(), fifo(), fifo()];
        let control = Control::new().unwrap();
        let _running = control.begin(TaskId(0));
        for (stdin, out) in [(Some(for_in), None), (None, Some(for_out))] {
            let deadline = AttemptDeadline::begin(&control, Some(Duration::from_millis(30)));
            let fault = open(&deadline, stdin, out, None).err().unwrap();
            assert_eq!(fault.state, State::Timeout);
            assert!(fault.text.contains("opening") && fault.text.contains("fifo"), "{}", fault.text);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                control.request(None, crate::exec::TaskStop::Terminate);
            });
            let deadline = AttemptDeadline::begin(&control, None);
            assert_eq!(open(&deadline, Some(path.clone()), None, None).err().unwrap().state, State::Cancelled);
        });
    }

    #[test]
    fn a_fifo_joins_two_tasks() {
        use std::io::{Read, Write};
        let (_dir, path) = fifo();
        let controls = [Control::new().unwrap(), Control::new().unwrap()];
        let read = std::thread::scope(|scope| {
            let (control, from) = (&controls[0], path.clone());
            let reader = scope.spawn(move || {
                let mut file =
                    open(&AttemptDeadline::begin(control, None), Some(from), None, None).unwrap().stdin.unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            });
            let [out, _] = open(&AttemptDeadline::begin(&controls[1], None), None, Some(path), None).unwrap().out;
            out.unwrap().write_all(b"through").unwrap();
            reader.join().unwrap()
        });
        assert_eq!(read, "through");
    }

    #[test]
    fn promised_files_are_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::new().unwrap();
        let deadline = AttemptDeadline::begin(&control, None);
        let (one, two) = (PathBuf::from("one"), PathBuf::from("sub/two"));
        let missing = |files: &[PathBuf]| first_missing(&deadline, dir.path(), files, Duration::ZERO).unwrap();
        assert_eq!(missing(&[]), None);
        assert_eq!(missing(&[one.clone(), two.clone()]), Some(one.clone()));
        std::fs::write(dir.path().join("one"), "").unwrap();
        assert_eq!(missing(&[one, two.clone()]), Some(two));
    }
}
