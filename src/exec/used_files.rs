//! The files that a completed task depended on, as they were when it completed: its declared
//! inputs, and the programs and scripts that its command names by path. A resumed run compares them
//! with what is there then.
//!
//! The content of a file of up to [`MAX_HASHED_BYTES`] is hashed, so that a file that was only
//! touched counts as unchanged. A larger one is recognised by size and time. Each rank hashes a
//! file once, however many of its tasks use it.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::Xxh3;

use super::aside::AttemptDeadline;
use super::control::Control;
use crate::job::{Task, Work};
use crate::model::{FileState, UsedFile};

/// Maximum size in bytes of a file whose content is hashed.
const MAX_HASHED_BYTES: u64 = 8 << 20;
/// How long a task's slot waits for file systems that give no answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of words of a command that are taken for programs.
const MAX_PROGRAMS: usize = 32;
/// Maximum number of hashes that a rank remembers.
const MAX_REMEMBERED: usize = 10_000;

/// Endings of the names of scripts, which interpreters run although they may not be executable.
const SCRIPTS: [&str; 14] = ["sh", "bash", "zsh", "csh", "py", "pl", "rb", "R", "r", "jl", "lua", "awk", "sed", "m"];
/// Where the system keeps its own programs, which jobs do not edit.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys"];

/// Describes the files that tasks used.
#[derive(Debug, Default)]
pub(super) struct UsedFiles {
    hashes: Arc<Hashes>,
}

/// Hashes of files by path, each with size and time of the file.
#[derive(Debug, Default)]
struct Hashes(Mutex<FxHashMap<PathBuf, FileState>>);

/// The state of a file without its hash; `None` for what is no regular file.
fn plain_state(meta: &Metadata) -> Option<FileState> {
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    meta.is_file().then_some(FileState { size: meta.len(), mtime_ns, hash: None })
}

/// The hash of a file's content, if it is small.
fn hash(path: &Path, size: u64) -> Option<u64> {
    if size > MAX_HASHED_BYTES {
        return None;
    }
    let mut file = File::open(path).ok()?.take(MAX_HASHED_BYTES + 1);
    let (mut hasher, mut buffer) = (Xxh3::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Some(hasher.digest()),
            Ok(got) => hasher.update(&buffer[..got]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// How a file differs from what it was, in words: it "has changed" or "is missing". `None` for one
/// that is the same, which includes one that was only touched.
pub(crate) fn change_of(path: &Path, was: &FileState) -> Option<&'static str> {
    let Some(now) = fs::metadata(path).ok().and_then(|meta| plain_state(&meta)) else { return Some("is missing") };
    if now.size == was.size
        && (now.mtime_ns == was.mtime_ns || (was.hash.is_some() && hash(path, now.size) == was.hash))
    {
        return None;
    }
    Some("has changed")
}

impl UsedFiles {
    /// The files that a task has used. Files that cannot be read are left out: nothing can be said
    /// of them later.
    pub(super) fn of(&self, task: &Task, control: &Control) -> Vec<UsedFile> {
        let inputs = task.inputs.iter().map(|(file, _)| (file.clone(), false));
        let programs = programs(&task.work).into_iter().map(|word| (word, true));
        let written = |file: &PathBuf| task.outputs.iter().any(|(output, _)| output == file);
        let files: Vec<(PathBuf, bool)> = inputs.chain(programs.filter(|(file, _)| !written(file))).collect();
        self.states(files, task.dir.clone(), control)
    }

    /// The states of these files in a directory, of which some are programs.
    pub(super) fn states(&self, files: Vec<(PathBuf, bool)>, dir: PathBuf, control: &Control) -> Vec<UsedFile> {
        if files.is_empty() {
            return Vec::new();
        }
        let hashes = Arc::clone(&self.hashes);
        let deadline = AttemptDeadline::begin(control, Some(ANSWER_TIMEOUT));
        let look =
            move |_: &_| files.into_iter().filter_map(|(file, runs)| hashes.state(dir.join(file), runs)).collect();
        deadline.aside("describing its inputs", look).unwrap_or_default()
    }
}

impl Hashes {
    fn state(&self, path: PathBuf, runs: bool) -> Option<UsedFile> {
        let meta = fs::metadata(&path).ok()?;
        let state = plain_state(&meta)?;
        if runs && !is_run(&path, &meta) {
            return None;
        }
        let known = |hashes: &FxHashMap<PathBuf, FileState>| {
            let known = hashes.get(&path).filter(|known| (known.size, known.mtime_ns) == (state.size, state.mtime_ns));
            known.copied()
        };
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = known(&lock());
        let state = remembered.unwrap_or_else(|| FileState { hash: hash(&path, state.size), ..state });
        if remembered.is_none() {
            let mut hashes = lock();
            if hashes.len() >= MAX_REMEMBERED {
                hashes.clear();
            }
            hashes.insert(path.clone(), state);
        }
        Some(UsedFile { path, is_program: runs, state })
    }
}

fn is_script(path: &Path) -> bool {
    path.extension().is_some_and(|ending| SCRIPTS.iter().any(|script| ending == *script))
}

/// The programs and scripts that a task's command names by path, as it names them, and that are
/// there. What the task writes itself is none of them.
pub(super) fn programs_of(task: &Task) -> Vec<PathBuf> {
    let is_written = |file: &PathBuf| task.outputs.iter().any(|(other, _)| other == file);
    let is_program = |file: &PathBuf| {
        let path = task.dir.join(file);
        fs::metadata(&path).is_ok_and(|meta| meta.is_file() && is_run(&path, &meta))
    };
    programs(&task.work).into_iter().filter(|file| !is_written(file) && is_program(file)).collect()
}

/// True if a command names something that may be a program by its path.
pub(super) fn may_name_programs(work: &Work) -> bool {
    !programs(work).is_empty()
}

/// True for a file that a command that names it probably runs.
fn is_run(path: &Path, meta: &Metadata) -> bool {
    meta.permissions().mode() & 0o111 != 0 || is_script(path)
}

/// The words of a command that may name a program or a script by its path.
fn programs(work: &Work) -> Vec<PathBuf> {
    let separates = |c: char| c.is_whitespace() || ";|&<>()\"'`=".contains(c);
    let words: Vec<&str> = match work {
        Work::Command(words) => words.iter().map(String::as_str).collect(),
        Work::Shell(line) => line.split(separates).collect(),
        Work::Kernel { .. } => return Vec::new(),
    };
    let is_path = |word: &&str| {
        let path = Path::new(word);
        !word.starts_with('-')
            && !word.contains(['$', '*', '?', '{', '~', '\n', '\0'])
            && (word.contains('/') || is_script(path))
            && !SYSTEM.iter().any(|system| path.starts_with(system))
    };
    words.into_iter().filter(is_path).take(MAX_PROGRAMS).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_what_a_command_names_by_path() {
        let named = |line: &str| programs(&Work::Shell(line.to_owned()));
        assert_eq!(named("python3 tools/align.py --x=a/b in.fq"), [Path::new("tools/align.py"), Path::new("a/b")]);
        assert_eq!(named("bash step.sh 'x' && ./run>out.txt; /usr/bin/env X"), ["step.sh", "./run"].map(Path::new));
        assert!(named("echo $HOME/x.sh -o/x \"*.sh\" ~/y.sh").is_empty());
        let words = ["./a b", "/bin/sh", "x.R"].map(str::to_owned).to_vec();
        assert_eq!(programs(&Work::Command(words)), ["./a b", "x.R"].map(Path::new));
    }

    #[test]
    fn content_decides_where_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.sh");
        fs::write(&path, "one").unwrap();
        let used = Hashes::default().state(path.clone(), true).unwrap();
        assert!(used.state.hash.is_some());
        let differs = |state: &FileState| change_of(&path, state);
        assert_eq!(differs(&used.state), None);
        let touched = FileState { mtime_ns: 1, ..used.state };
        assert_eq!(differs(&touched), None, "a file that was only touched");
        assert_eq!(differs(&FileState { hash: None, ..touched }), Some("has changed"), "where only the time is known");
        assert_eq!(differs(&FileState { hash: Some(1), ..touched }), Some("has changed"));
        fs::write(&path, "three").unwrap();
        assert_eq!(differs(&used.state), Some("has changed"));
        fs::remove_file(&path).unwrap();
        assert_eq!(differs(&used.state), Some("is missing"));
        assert!(Hashes::default().state(dir.path().to_owned(), false).is_none(), "a directory says nothing");
    }
}
