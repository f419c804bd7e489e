//! The run directory, which holds all files of one run.
//!
//! ```text
//! phalanx-runs/            in the directory that the job was started in
//!   mosaic-1/  mosaic-2/   one a run; a resume continues in the same one
//!   latest -> mosaic-2     the one that was begun or resumed last
//!   mosaic.history.jsonl   results of its runs, for later ones (see `history`)
//!   .delivered/            what staged tasks have left in directories (see `store/delivered`)
//! mosaic-2/
//!   journal                events of the run (see `record`)
//!   job.toml               the job file as it was last run
//!   samples.jsonl          progress over time
//!   vitals.jsonl           resource use of ranks and nodes over time
//!   pools.jsonl            what pools had in use over time
//!   measures.jsonl         values that tasks wrote to $PHALANX_METRICS
//!   report.html            written by `phalanx report`
//!   outputs/               captured output of tasks (see `output`)
//!   unreported/            ends that ranks kept when they lost rank 0 (see `unreported`)
//!   launcher               the words that started its ranks, such as `mpirun --oversubscribe`
//!   blocks/                logs of nodes that joined, and the names of their jobs
//!   lock                   held while the run is active (see `lock`)
//!   session-...            mark of the session under way, by which ranks recognise the directory
//! ```
//!
//! Creating the directory reserves its number (`mkdir` succeeds once), so two runs that start
//! together get different numbers.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ended::EndedSessions;
use super::error::RunDirError;
use super::find_run::{newest, numbered};
use super::frame;
use super::lock::{self, Liveness, RunLock};
use super::replay::replay;

/// Directory that holds the run directories, under the current one.
pub const RUNS: &str = "phalanx-runs";

/// Directory under [`RUNS`] with records of what runs have delivered to directories.
const DELIVERED: &str = ".delivered";
/// The command that continues a run of a batch job.
const CONTINUATION: &str = "continue";
/// The words that started its world.
const LAUNCHER: &str = "launcher";
pub(super) const JOURNAL: &str = "journal";
pub(super) const LATEST: &str = "latest";
/// Beginning of the name of a session's mark.
const MARK: &str = "session-";

/// Suffix of a job's name in the names of its simulated runs.
pub const SIMULATED: &str = "-simulated";

/// The directory of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Creates the directory of a new run of `job` under `runs` (usually [`RUNS`]) and points
    /// `latest` to it.
    pub fn create(runs: &Path, job: &str) -> Result<RunDir, RunDirError> {
        fs::create_dir_all(runs).map_err(RunDirError::create(runs))?;
        let job = file_name(job);
        let mut number = numbered(runs, &job)?.last().map_or(1, |last| last.saturating_add(1));
        loop {
            let name = format!("{job}-{number}");
            let path = runs.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    point_latest(runs, &name);
                    return RunDir::at(&path);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(RunDirError::create(&path)(error)),
            }
        }
    }

    /// Creates the directory of a new run at `dir` itself (`--run-dir`). It may exist, but must not
    /// hold a run.
    pub fn create_at(dir: &Path) -> Result<RunDir, RunDirError> {
        if dir.join(JOURNAL).exists() {
            return Err(RunDirError::Occupied { path: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(RunDirError::create(dir))?;
        RunDir::at(dir)
    }

    /// Closes the directory of a new run to those who may not read all of its job files, of which
    /// it will hold a copy. One that holds other files already stays as it is.
    ///
    /// # Errors
    /// If the mode cannot be changed.
    pub fn close_like(&self, job_files: &[PathBuf]) -> Result<(), RunDirError> {
        let mode = |path: &Path| fs::metadata(path).map(|meta| meta.permissions().mode());
        let files = job_files.iter().filter_map(|file| mode(file).ok());
        let readers = files.fold(0o444, |readers, mode| readers & mode);
        // Who may not read a file may neither list the directory nor enter it.
        let denied = [0o040, 0o004].into_iter().filter(|bit| readers & bit == 0);
        let closed: u32 = denied.map(|bit| bit | bit >> 1 | bit >> 2).sum();
        let is_empty = fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        if closed == 0 || !is_empty {
            return Ok(());
        }
        let before = mode(&self.path).map_err(RunDirError::io("read", &self.path))?;
        let after = fs::Permissions::from_mode(before & !closed & 0o7777);
        fs::set_permissions(&self.path, after).map_err(RunDirError::io("close", &self.path))
    }

    /// Opens the directory of an existing run.
    pub fn open(dir: &Path) -> Result<RunDir, RunDirError> {
        if dir.join(JOURNAL).is_file() { RunDir::at(dir) } else { Err(RunDirError::NotARun { path: dir.to_owned() }) }
    }

    /// Marks the directory for the session that began at this time, so that other ranks recognise
    /// it.
    pub fn mark(&self, began_unix_ns: u64) -> Result<(), RunDirError> {
        self.unmark();
        let mark = RunDir::mark_of(&self.path, began_unix_ns);
        fs::File::create(&mark).map(drop).map_err(RunDirError::io("create", &mark))
    }

    /// The mark of a session in the run directory at `path`.
    pub fn mark_of(path: &Path, began_unix_ns: u64) -> PathBuf {
        path.join(format!("{MARK}{began_unix_ns:x}"))
    }

    /// Removes the mark, also that of a session that was killed. One that stays does no harm.
    pub fn unmark(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let is_mark = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(MARK);
        entries.filter(is_mark).for_each(|entry| drop(fs::remove_file(entry.path())));
    }

    /// Lets one run at a time begin among those in `runs`, while the file is open.
    pub fn begin_alone(runs: &Path) -> Option<fs::File> {
        lock::begin_alone(runs)
    }

    /// True if the run was killed before it recorded anything, so that it has nothing to resume or
    /// to show.
    pub fn lacks_record(&self) -> bool {
        let holds_record = || -> io::Result<bool> {
            let file = fs::File::open(self.journal())?;
            let (size, mut start) = (file.metadata()?.len(), Vec::new());
            file.take(frame::START as u64).read_to_end(&mut start)?;
            Ok(frame::holds_record(&start, size))
        };
        holds_record().is_ok_and(|holds| !holds) && self.liveness() == Liveness::Gone
    }

    /// Directory with records of what runs have delivered to directories. Runs that lie beside each
    /// other have one in common.
    pub fn delivered(&self) -> PathBuf {
        let around = self.path.parent().unwrap_or(&self.path);
        let is_runs = around.file_name().is_some_and(|name| name == RUNS);
        if is_runs { around.join(DELIVERED) } else { around.join(RUNS).join(DELIVERED) }
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name: the last part of its path.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Removes the directory of a run that has not begun, so that `--resume` finds the one before.
    /// Removes only what creating it has made: a directory that the user named may hold other
    /// files.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn take_back(self) -> Result<(), RunDirError> {
        self.unmark();
        for file in [self.journal(), self.job_file(), self.path.join(lock::LOCK)] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RunDirError::io("remove", &file)(error));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                return Err(RunDirError::io("remove", &self.path)(error));
            }
            _ => {}
        }
        self.renew_latest()
    }

    /// Deletes the run with all that its directory holds. A run that is live, or of which it is
    /// not known, stays.
    ///
    /// # Errors
    /// If the run is live, or something cannot be removed.
    pub fn delete(&self) -> Result<(), RunDirError> {
        let lock = self.lock()?;
        let journal = self.journal();
        // Without it nobody continues the run. Network file systems keep a directory with an open
        // file, so the lock is released before the rest goes.
        fs::remove_file(&journal).map_err(RunDirError::io("remove", &journal))?;
        drop(lock);
        fs::remove_dir_all(&self.path).map_err(RunDirError::io("remove", &self.path))?;
        self.renew_latest()
    }

    /// Makes it the latest run, if its directory is in `runs`.
    pub fn become_latest(&self, runs: &Path) {
        if self.path.parent().is_some_and(|own| fs::canonicalize(runs).is_ok_and(|runs| runs == own)) {
            point_latest(runs, &self.name());
        }
    }

    /// Points `latest` to another run if it points to this one, which is gone.
    fn renew_latest(&self) -> Result<(), RunDirError> {
        let Some(runs) = self.path.parent() else { return Ok(()) };
        let latest = runs.join(LATEST);
        if latest.read_link().is_ok_and(|to| Some(to.as_os_str()) == self.path.file_name()) {
            match newest(runs)? {
                Some(run) => point_latest(runs, &run.name()),
                None => fs::remove_file(&latest).map_err(RunDirError::io("remove", &latest))?,
            }
        }
        Ok(())
    }

    /// Its journal.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Its copy of the job file.
    pub fn job_file(&self) -> PathBuf {
        self.path.join("job.toml")
    }

    /// Resource use of ranks and nodes over its last session (see `observe::vitals`).
    pub fn vitals(&self) -> PathBuf {
        self.path.join("vitals.jsonl")
    }

    /// What pools had in use over time.
    pub fn pools(&self) -> PathBuf {
        self.path.join("pools.jsonl")
    }

    /// Values that tasks measured (see `observe::measures`).
    pub fn measures(&self) -> PathBuf {
        self.path.join("measures.jsonl")
    }

    /// The address of its page with the token, while it serves one.
    pub fn page(&self) -> PathBuf {
        self.path.join("page")
    }

    /// Progress over its last session (see `observe::samples`).
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.jsonl")
    }

    /// The directory of captured output.
    pub fn outputs(&self) -> PathBuf {
        self.path.join("outputs")
    }

    /// Keeps a copy of the job file.
    pub fn write_job(&self, text: &str) -> Result<(), RunDirError> {
        let path = self.job_file();
        fs::write(&path, text).map_err(RunDirError::io("write", &path))
    }

    /// Keeps the command that continues a run of a batch job: where it is read, the run's own
    /// command would run on the wrong machine. `None` if the run's own command continues it.
    pub fn write_continuation(&self, line: Option<&str>) -> Result<(), RunDirError> {
        let path = self.path.join(CONTINUATION);
        match line {
            Some(line) => fs::write(&path, line).map_err(RunDirError::io("write", &path)),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(RunDirError::io("remove", &path)(error))
                }
                _ => Ok(()),
            },
        }
    }

    /// Keeps the words before `-n` of the command that started the ranks, with which it is started
    /// again.
    pub fn write_launcher(&self, words: &[String]) -> Result<(), RunDirError> {
        let path = self.path.join(LAUNCHER);
        fs::write(&path, words.join("\n")).map_err(RunDirError::io("write", &path))
    }

    /// The words before `-n` of the command that started its ranks.
    pub fn launcher(&self) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.path.join(LAUNCHER)).ok()?;
        Some(text.lines().map(str::to_owned).collect()).filter(|words: &Vec<String>| !words.is_empty())
    }

    /// The command that continues a run of a batch job.
    pub fn continuation(&self) -> Option<String> {
        fs::read_to_string(self.path.join(CONTINUATION)).ok()
    }

    /// Takes the lock, which only one process holds at a time.
    pub fn lock(&self) -> Result<RunLock, RunDirError> {
        lock::take(&self.path)
    }

    /// Whether a process holds the lock.
    pub fn liveness(&self) -> Liveness {
        lock::liveness(&self.path)
    }

    /// The sessions that have certainly ended.
    pub fn ended_sessions(&self) -> EndedSessions {
        let gone = lock::gone_holder(&self.path);
        EndedSessions::of(replay(&self.journal()).ok().as_ref(), gone.as_ref())
    }

    pub(super) fn at(dir: &Path) -> Result<RunDir, RunDirError> {
        let path = fs::canonicalize(dir).map_err(RunDirError::io("find", dir))?;
        Ok(RunDir { path })
    }
}

/// Turns a job's name into a directory name: separators and characters that need quoting become
/// `_`.
pub(super) fn file_name(job: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let name: String = job.chars().map(|c| if plain(c) { c } else { '_' }).take(60).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "job".to_owned() } else { name.to_owned() }
}

/// Points `latest` to a run. The link is a convenience: without it the newest journal is used, so
/// failing here does not fail the run.
fn point_latest(runs: &Path, name: &str) {
    let new = runs.join(format!(".{LATEST}-{name}"));
    let linked = std::os::unix::fs::symlink(name, &new).and_then(|()| fs::rename(&new, runs.join(LATEST)));
    if let Err(error) = linked {
        tracing::warn!("cannot point {} to {name}: {error}", runs.join(LATEST).display());
        // The failure has been logged already; this removes what is left over.
        let _ = fs::remove_file(&new);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::journal::find_run;

    pub(in crate::journal) fn made(runs: &Path, job: &str) -> RunDir {
        let run = RunDir::create(runs, job).unwrap();
        fs::write(run.journal(), b"of another version").unwrap();
        run
    }

    #[test]
    fn the_directory_of_a_private_job_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("job.toml");
        fs::write(&file, "").unwrap();
        let closed = |mode: u32| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let run = RunDir::create(dir.path(), "job").unwrap();
            fs::set_permissions(run.path(), fs::Permissions::from_mode(0o755)).unwrap();
            run.close_like(&[file.clone(), "-".into()]).unwrap();
            fs::metadata(run.path()).unwrap().permissions().mode() & 0o777
        };
        assert_eq!([0o644, 0o640, 0o600, 0o604].map(closed), [0o755, 0o750, 0o700, 0o705]);
        // It held something before.
        let run = RunDir::create_at(dir.path()).unwrap();
        run.close_like(&[file]).unwrap();
        assert!(dir.path().join("job.toml").exists());
    }

    #[test]
    fn runs_that_start_together_get_directories_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        let mut names: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| RunDir::create(&runs, "mosaic").unwrap().name())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        names.sort();
        assert_eq!(names, (1..=8).map(|n| format!("mosaic-{n}")).collect::<Vec<_>>());
        assert!(runs.join(LATEST).read_link().unwrap().to_string_lossy().starts_with("mosaic-"));
        let left_over = find_run::names(&runs).unwrap().into_iter().filter(|name| name.starts_with('.')).count();
        assert_eq!(left_over, 0);
    }

    #[test]
    fn an_explicit_directory_holds_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let run = RunDir::create_at(&path).unwrap();
        RunDir::create_at(&path).unwrap();
        fs::write(run.journal(), b"").unwrap();
        assert!(RunDir::create_at(&path).unwrap_err().to_string().contains("already holds a run"));
    }

    #[test]
    fn a_run_that_is_taken_back_leaves_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        let only = made(&runs, "mosaic");
        only.take_back().unwrap();
        assert_eq!(find_run::names(&runs).unwrap(), Vec::<String>::new());
        let first = made(&runs, "mosaic");
        let second = made(&runs, "mosaic");
        fs::write(second.path().join("mine"), b"").unwrap();
        second.clone().take_back().unwrap();
        assert!(second.path().join("mine").exists() && !second.journal().exists());
        assert_eq!(runs.join(LATEST).read_link().unwrap(), Path::new("mosaic-1"));
        assert_eq!(RunDir::for_resume(&runs, ("mosaic", None), None).unwrap(), first);
    }

    #[test]
    fn a_directory_in_the_way_of_latest_fails_no_run() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(LATEST).join("x")).unwrap();
        assert_eq!(RunDir::create(dir.path(), "job").unwrap().name(), "job-1");
    }

    #[test]
    fn any_job_name_makes_a_plain_directory() {
        assert_eq!(file_name("a b/c"), "a_b_c");
        assert_eq!(file_name("../.."), "_..");
        assert_eq!(file_name("--"), "job");
        assert_eq!(file_name("früh-2"), "früh-2");
    }
}
