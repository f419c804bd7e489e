//! The files that a completed task depended on, as they were when its attempt began: its declared
//! inputs, and the programs and scripts that its command names by path. A resumed run compares them
//! with what is there then, so a change while the task runs counts as one. They are described
//! before the attempt, so one that completes while it is asked to end has a record as well.
//!
//! The content of a file of up to [`MAX_HASHED_BYTES`] is hashed, so that a file that was only
//! touched counts as unchanged. A larger one is recognised by size and time. Each rank hashes a
//! file once, however many of its tasks use it.
//!
//! A directory is recognised by the names, sizes and times of what is in it and below it, up to
//! [`MAX_ENTRIES`] entries, else by its own time, which changes when entries come and go. One into
//! which the task itself writes says nothing: it has changed by the time the next task begins.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::Xxh3;

use super::Fault;
use super::aside::AttemptDeadline;
use crate::job::{Task, Work, without_pattern};
use crate::model::{FileState, UsedFile};
use crate::store::HeldFiles;

/// Maximum size in bytes of a file whose content is hashed.
const MAX_HASHED_BYTES: u64 = 8 << 20;
/// Maximum number of entries of a directory that are compared.
const MAX_ENTRIES: usize = 10_000;
/// How long listing them may take when a task begins. A resume lists what was listed then, however
/// long that takes.
pub(super) const MAX_LISTING_TIME: Duration = Duration::from_secs(1);
/// A listing is used again for this many times as long as it took.
const LISTING_REUSE: u32 = 50;
/// How long a task's slot waits for file systems that give no answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
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
struct Hashes {
    files: Mutex<FxHashMap<PathBuf, FileState>>,
    /// Directories, each with the time until which its state counts.
    directories: Mutex<FxHashMap<PathBuf, (FileState, Instant)>>,
}

/// The state of a file without its hash, and of a directory by its own time; `None` for devices and
/// their like.
fn plain_state(meta: &Metadata) -> Option<FileState> {
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    let size = if meta.is_file() { meta.len() } else { 0 };
    (meta.is_file() || meta.is_dir()).then_some(FileState { size, mtime_ns, hash: None })
}

/// A hash of the names, sizes and times of what is in a directory; `None` if that is too much.
pub(super) fn listing(path: &Path, limit: Duration) -> Option<u64> {
    let begin = Instant::now();
    let (mut entries, mut open) = (Vec::new(), vec![path.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).ok()? {
            let path = entry.ok()?.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                open.push(path.clone());
            }
            // What a link leads to counts, without what is in a directory there.
            let meta = if meta.is_symlink() { fs::metadata(&path).unwrap_or(meta) } else { meta };
            let time = if meta.is_dir() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
            entries.push((path, plain_state(&meta).map_or(0, |state| state.size), time));
            if entries.len() > MAX_ENTRIES || begin.elapsed() > limit {
                return None;
            }
        }
    }
    entries.sort_unstable();
    let mut hasher = Xxh3::new();
    for (name, size, (seconds, nanos)) in entries {
        hasher.update(name.strip_prefix(path).unwrap_or(&name).as_os_str().as_encoded_bytes());
        hasher.update(b"\0");
        [size.to_le_bytes(), seconds.to_le_bytes(), nanos.to_le_bytes()].iter().for_each(|part| hasher.update(part));
    }
    Some(hasher.digest())
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
    let meta = fs::metadata(path).ok();
    let is_directory = meta.as_ref().is_some_and(Metadata::is_dir);
    let Some(now) = meta.and_then(|meta| plain_state(&meta)) else { return Some("is missing") };
    if is_directory && was.hash.is_some() {
        let is_same = was.size == 0 && listing(path, Duration::MAX) == was.hash;
        return (!is_same).then_some("has changed");
    }
    if now.size == was.size
        && (now.mtime_ns == was.mtime_ns || (was.hash.is_some() && hash(path, now.size) == was.hash))
    {
        return None;
    }
    Some("has changed")
}

impl UsedFiles {
    /// The files that a task is about to use. Files that cannot be read are left out: nothing can
    /// be said of them later. Fails if the attempt is to end, or a file system gives no answer.
    pub(super) fn of(
        &self,
        task: &Task,
        held: Option<&Arc<HeldFiles>>,
        deadline: &AttemptDeadline,
    ) -> Result<Vec<UsedFile>, Fault> {
        let files = used_by(task);
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let (hashes, dir, held) = (Arc::clone(&self.hashes), task.dir.clone(), held_for(task, held).cloned());
        deadline.aside("describing its inputs", move |_| hashes.states(&dir, files, held.as_deref()))
    }

    /// The files that a task uses, as they are now: for another rank that runs it.
    pub(super) fn seen(&self, task: &Task, held: Option<&HeldFiles>) -> Vec<UsedFile> {
        self.hashes.states(&task.dir, used_by(task), held_for(task, held))
    }
}

/// Where the temporary files are that a task reads: only a staged one does.
fn held_for<T>(task: &Task, held: Option<T>) -> Option<T> {
    held.filter(|_| task.is_staged)
}

impl Hashes {
    /// The states of these files in a directory, of which some are programs. What stands at the
    /// place of a temporary file is of an earlier attempt at its writer, and is not read.
    fn states(&self, dir: &Path, files: Vec<(PathBuf, bool)>, held: Option<&HeldFiles>) -> Vec<UsedFile> {
        let is_held = |file: &Path| held.is_some_and(|held| held.find(&dir.join(file)).is_some());
        let files = files.into_iter().filter(|(file, _)| !is_held(file));
        files.filter_map(|(file, runs)| self.state(dir, file, runs)).collect()
    }

    fn state(&self, dir: &Path, name: PathBuf, runs: bool) -> Option<UsedFile> {
        let path = dir.join(&name);
        let meta = fs::metadata(&path).ok()?;
        let state = plain_state(&meta)?;
        if runs && (meta.is_dir() || !is_run(&path, &meta)) {
            return None;
        }
        if meta.is_dir() {
            return Some(UsedFile { path: name, state: self.directory(&path, state), is_program: false });
        }
        let known = |hashes: &FxHashMap<PathBuf, FileState>| {
            let known = hashes.get(&path).filter(|known| (known.size, known.mtime_ns) == (state.size, state.mtime_ns));
            known.copied()
        };
        let lock = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = known(&lock());
        let state = remembered.unwrap_or_else(|| FileState { hash: hash(&path, state.size), ..state });
        if remembered.is_none() {
            let mut hashes = lock();
            if hashes.len() >= MAX_REMEMBERED {
                hashes.clear();
            }
            hashes.insert(path, state);
        }
        Some(UsedFile { path: name, is_program: runs, state })
    }

    fn directory(&self, path: &Path, plain: FileState) -> FileState {
        let lock = || self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(state, until): &(FileState, Instant)| {
            (state.mtime_ns == plain.mtime_ns && Instant::now() < *until).then_some(*state)
        };
        if let Some(state) = lock().get(path).and_then(known) {
            return state;
        }
        let begin = Instant::now();
        let state = FileState { hash: listing(path, MAX_LISTING_TIME), ..plain };
        let mut directories = lock();
        if directories.len() >= MAX_REMEMBERED {
            directories.clear();
        }
        directories.insert(path.to_owned(), (state, Instant::now() + begin.elapsed() * LISTING_REUSE));
        state
    }
}

/// Waits until the file systems answer of what a command names by path: a process that starts a
/// program behind another look at it is one that no KILL reaches.
pub(super) fn wait_for_programs(task: &Task, deadline: &AttemptDeadline) -> Result<(), Fault> {
    let programs = programs(&task.work);
    if programs.is_empty() {
        return Ok(());
    }
    let dir = task.dir.clone();
    deadline.aside("looking for its programs", move |_| {
        programs.iter().for_each(|program| _ = fs::metadata(dir.join(program)));
    })
}

/// True if a completed task always has a record of the files that it used, though it may be empty.
pub(crate) fn has_record(task: &Task) -> bool {
    used_by(task).iter().any(|(_, runs)| !runs)
}

fn is_script(path: &Path) -> bool {
    path.extension().is_some_and(|ending| SCRIPTS.iter().any(|script| ending == *script))
}

/// The files that a task may use, each with whether it is a program.
fn used_by(task: &Task) -> Vec<(PathBuf, bool)> {
    let is_written_into = |file: &PathBuf| {
        let path = task.dir.join(file);
        let printed = [&task.stdout, &task.stderr].into_iter().flatten().map(|file| without_pattern(file));
        let outputs = task.outputs.iter().map(|(output, _)| output.clone());
        outputs.chain(printed).any(|written| task.dir.join(written).starts_with(&path))
    };
    let inputs = task.inputs.iter().map(|(file, _)| file).filter(|file| !is_written_into(file));
    let inputs = inputs.map(|file| (file.clone(), false));
    let programs = programs(&task.work).into_iter().filter(|file| !is_written(task, file));
    inputs.chain(programs.map(|word| (word, true))).collect()
}

/// True if a task writes a file itself: it is an output, or below a directory that is one. What is
/// below the directory that the task runs in is its own only if it is named.
fn is_written(task: &Task, file: &Path) -> bool {
    let path = task.dir.join(file);
    let mut outputs = task.outputs.iter().map(|(output, _)| task.dir.join(output));
    outputs.any(|output| path.starts_with(&output) && !task.dir.starts_with(&output))
}

/// The programs and scripts that a task's command names by path, as it names them, and that are
/// there. What the task writes itself is none of them.
pub(super) fn programs_of(task: &Task) -> Vec<PathBuf> {
    let is_program = |file: &PathBuf| {
        let path = task.dir.join(file);
        fs::metadata(&path).is_ok_and(|meta| meta.is_file() && is_run(&path, &meta))
    };
    programs(&task.work).into_iter().filter(|file| !is_written(task, file) && is_program(file)).collect()
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
        let used = Hashes::default().state(dir.path(), path.clone(), true).unwrap();
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
    }

    #[test]
    fn a_directory_is_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::create_dir_all(path.join("deep")).unwrap();
        fs::write(path.join("deep/x"), "one").unwrap();
        let was = || Hashes::default().state(dir.path(), path.clone(), false).unwrap().state;
        let state = was();
        assert!(state.hash.is_some());
        assert_eq!((change_of(&path, &state), was()), (None, state));
        assert!(Hashes::default().state(dir.path(), path.clone(), true).is_none(), "it is no program");
        fs::write(path.join("deep/x"), "three").unwrap();
        assert_eq!(change_of(&path, &state), Some("has changed"));
        let state = was();
        fs::write(path.join("new"), "").unwrap();
        assert_eq!(change_of(&path, &state), Some("has changed"));
        let state = was();
        fs::rename(path.join("new"), path.join("newer")).unwrap();
        assert_eq!(change_of(&path, &state), Some("has changed"));
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(change_of(&path, &state), Some("is missing"));
        fs::write(&path, "").unwrap();
        assert_eq!(change_of(&path, &state), Some("has changed"), "a file is no directory");
    }

    #[test]
    fn of_a_large_directory_its_own_time_counts() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MAX_ENTRIES {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let state = Hashes::default().state(dir.path(), PathBuf::new(), false).unwrap().state;
        assert_eq!((state.hash, change_of(dir.path(), &state)), (None, None));
        assert_eq!(change_of(dir.path(), &FileState { mtime_ns: 1, ..state }), Some("has changed"));
    }
}
