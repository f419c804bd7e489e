//! The MPI launcher that started this process, if it runs on the same node.

use std::fs;
use std::path::{Path, PathBuf};

/// Beginnings of the names of programs that start a world and were started by its user.
const NAMES: [&str; 5] = ["mpirun", "mpiexec", "orterun", "prterun", "prun"];

/// Number of ancestors that are searched: shells and tools may stand in between.
const MAX_ANCESTORS: usize = 16;

/// What `/proc` says about the launcher.
fn find() -> Option<PathBuf> {
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..MAX_ANCESTORS {
        let about = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(about.join("comm")).ok()?;
        if NAMES.iter().any(|launcher| name.starts_with(launcher)) {
            return Some(about);
        }
        // `PID (NAME) STATE PPID ...`, where the name may hold anything.
        let stat = fs::read_to_string(about.join("stat")).ok()?;
        pid = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|&pid| pid > 1)?;
    }
    None
}

/// The variables that the launcher was started with; `None` if they cannot be read.
pub(crate) fn environment() -> Option<Vec<(String, String)>> {
    variables_of(&find()?)
}

/// The word by which the launcher was called, e.g. `mpirun` or `/opt/mpi/bin/mpiexec`.
pub(crate) fn word() -> Option<String> {
    let line = fs::read(find()?.join("cmdline")).ok()?;
    let word = line.split(|&byte| byte == 0).next().filter(|word| !word.is_empty())?;
    Some(String::from_utf8_lossy(word).into_owned())
}

/// The variables that this process was started with; `None` if they cannot be read.
pub(crate) fn own_environment() -> Option<Vec<(String, String)>> {
    variables_of(Path::new("/proc/self"))
}

fn variables_of(about: &Path) -> Option<Vec<(String, String)>> {
    let bytes = fs::read(about.join("environ")).ok()?;
    let entries = bytes.split(|&byte| byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
    let pairs = entries.filter_map(|entry| entry.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// True if the launcher, which passes on what its ranks print, prints to a terminal.
pub(crate) fn prints_to_terminal() -> bool {
    let stream = find().and_then(|about| fs::read_link(about.join("fd/2")).ok());
    stream.is_some_and(|stream| ["/dev/pts/", "/dev/tty"].iter().any(|tty| stream.to_string_lossy().starts_with(tty)))
}
