//! Finds runs in the directory that holds them: by what a user names, the newest, the one that a
//! resume continues.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::RunDirError;
use super::replay::last_began;
use super::rundir::{JOURNAL, LATEST, RunDir, file_name};

/// Largest number of runs in a message.
const LISTED: usize = 5;

impl RunDir {
    /// Finds a run by its directory, its name (`mosaic-3`), `latest`, or a job's name or file (then
    /// the newest run of that job).
    pub fn find(runs: &Path, wanted: &str) -> Result<RunDir, RunDirError> {
        let direct = [PathBuf::from(wanted), runs.join(wanted)];
        if let Some(dir) = direct.iter().find(|dir| dir.join(JOURNAL).is_file()) {
            let run = RunDir::at(dir)?;
            if wanted != LATEST || !run.lacks_record() {
                return Ok(run);
            }
        }
        // A directory that may not be entered would look like one without a journal.
        for journal in direct.iter().map(|dir| dir.join(JOURNAL)) {
            if let Err(error) = fs::metadata(&journal)
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                return Err(RunDirError::io("read", &journal)(error));
            }
        }
        let found = if wanted == LATEST { newest(runs)? } else { newest_of(runs, &job_of(wanted))? };
        if let Some(run) = found {
            return Ok(run);
        }
        if direct[0].is_dir() {
            return Err(RunDirError::NotARun { path: direct[0].clone() });
        }
        Err(RunDirError::NotFound { wanted: wanted.to_owned(), runs: runs.to_owned(), known: listed(runs)? })
    }

    /// All runs under `runs`, most recently written first. Links to directories elsewhere do not
    /// count.
    pub fn all(runs: &Path) -> Result<Vec<RunDir>, RunDirError> {
        let dirs = by_age(runs)?.into_iter().map(|name| runs.join(name));
        let own = dirs.filter(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir()));
        Ok(own.filter_map(|dir| RunDir::open(&dir).ok()).collect())
    }

    /// The runs of a job under `runs` that have a journal, newest first.
    pub fn of_job(runs: &Path, job: &str) -> Result<Vec<RunDir>, RunDirError> {
        Ok(with_journal(runs, &file_name(job))?.collect())
    }

    /// Finds the run that `--resume` continues: `explicit` if given, else the newest run of `job`
    /// that does not [lack a record](RunDir::lacks_record) and is not one of another job file than
    /// `file`, of the same job name.
    pub fn for_resume(
        runs: &Path,
        (job, file): (&str, Option<&Path>),
        explicit: Option<&Path>,
    ) -> Result<RunDir, RunDirError> {
        if let Some(dir) = explicit {
            return RunDir::open(dir);
        }
        let nothing = || RunDirError::NothingToResume { job: job.to_owned(), runs: runs.to_owned() };
        let is_of_file = |run: &RunDir| file.is_none_or(|file| run.other_file(file).is_none());
        let found = with_journal(runs, &file_name(job))?.find(|run| !run.lacks_record() && is_of_file(run));
        found.ok_or_else(nothing)
    }

    /// The runs of `job` that are newer than the newest one of this job file, each with its own.
    ///
    /// # Errors
    /// If the runs cannot be listed.
    pub fn newer_of_other_files(runs: &Path, job: &str, file: &Path) -> Result<Vec<(String, PathBuf)>, RunDirError> {
        let job = file_name(job);
        let runs = with_journal(runs, &job)?.filter(|run| !run.lacks_record());
        Ok(runs.map_while(|run| Some((run.name(), run.other_file(file)?))).collect())
    }

    /// The job file of the run, if it is there and is not this one. One that is not there may have
    /// been moved here; so may the directory have in which the run began.
    fn other_file(&self, file: &Path) -> Option<PathBuf> {
        let began = last_began(&self.journal()).ok()??;
        let file = fs::canonicalize(file).ok()?;
        let is_same = |path: &Path| fs::canonicalize(path).is_ok_and(|path| path == file);
        let theirs = began.dir.join(&began.job_path);
        let is_other = theirs.is_file() && !is_same(&theirs) && !is_same(&began.job_path);
        is_other.then_some(began.job_path)
    }

    /// The names of newer runs of `job` than this one that were killed before they recorded
    /// anything, newest first.
    ///
    /// # Errors
    /// If the runs cannot be listed.
    pub fn skipped_for_resume(&self, runs: &Path, job: &str) -> Result<Vec<String>, RunDirError> {
        let job = file_name(job);
        let newer = with_journal(runs, &job)?.take_while(|run| run != self);
        Ok(newer.filter(RunDir::lacks_record).map(|run| run.name()).collect())
    }

    /// The newest run under `runs` of the same jobs as `job`, the name of several, in another
    /// order.
    ///
    /// # Errors
    /// If the runs cannot be listed.
    pub fn in_other_order(runs: &Path, job: &str) -> Result<Option<String>, RunDirError> {
        let parts = |job: &str| {
            let mut parts: Vec<String> = job.split('+').map(str::to_owned).collect();
            parts.sort_unstable();
            parts
        };
        let wanted = parts(&file_name(job));
        let is_same = |name: &String| name.rsplit_once('-').is_some_and(|(job, _)| parts(job) == wanted);
        Ok(if wanted.len() < 2 { None } else { by_age(runs)?.into_iter().find(is_same) })
    }
}

/// The job that a name or the path of a job file refers to.
fn job_of(wanted: &str) -> String {
    let path = Path::new(wanted);
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let named = fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok()).and_then(|file| {
        let name = file.get("job")?.get("name")?.as_str()?;
        Some(name.to_owned())
    });
    let is_file = path.extension().is_some_and(|ext| ext == "toml");
    let job = named.or_else(|| if is_file { stem() } else { None });
    file_name(&job.unwrap_or_else(|| wanted.to_owned()))
}

/// The numbers of the runs of `job`, ascending.
pub(super) fn numbered(runs: &Path, job: &str) -> Result<Vec<u32>, RunDirError> {
    let mut numbers = Vec::new();
    for name in names(runs)? {
        let number = name.strip_prefix(job).and_then(|rest| rest.strip_prefix('-')).map(str::parse);
        if let Some(Ok(number)) = number {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn names(runs: &Path) -> Result<Vec<String>, RunDirError> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunDirError::io("list", runs)(error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(RunDirError::io("list", runs))
}

/// The newest run of a job that has a record.
fn newest_of(runs: &Path, job: &str) -> Result<Option<RunDir>, RunDirError> {
    Ok(with_journal(runs, job)?.find(|run| !run.lacks_record()))
}

/// The runs of `job` that have a journal, newest first.
fn with_journal<'a>(runs: &'a Path, job: &'a str) -> Result<impl Iterator<Item = RunDir> + 'a, RunDirError> {
    let numbers = numbered(runs, job)?.into_iter().rev();
    Ok(numbers.filter_map(move |number| RunDir::open(&runs.join(format!("{job}-{number}"))).ok()))
}

/// The newest run of any job that has a record.
pub(super) fn newest(runs: &Path) -> Result<Option<RunDir>, RunDirError> {
    let written = by_age(runs)?.into_iter().filter_map(|name| RunDir::open(&runs.join(name)).ok());
    Ok(written.into_iter().find(|run| !run.lacks_record()))
}

fn listed(runs: &Path) -> Result<Vec<String>, RunDirError> {
    let mut names = by_age(runs)?;
    names.truncate(LISTED);
    Ok(names)
}

/// The names of all runs, most recently written first.
fn by_age(runs: &Path) -> Result<Vec<String>, RunDirError> {
    let written = |name: &String| fs::metadata(runs.join(name).join(JOURNAL)).and_then(|meta| meta.modified()).ok();
    let mut names: Vec<_> = names(runs)?
        .into_iter()
        .filter(|name| name != LATEST)
        .filter_map(|name| Some((written(&name)?, name)))
        .collect();
    names.sort_unstable();
    Ok(names.into_iter().rev().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::rundir::tests::made;
    use crate::journal::{RUNS, frame};

    #[test]
    fn a_run_is_found_by_directory_name_latest_job_and_job_file() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        let first = made(&runs, "mosaic");
        let other = made(&runs, "mosaic-1");
        let second = made(&runs, "mosaic");
        let file = dir.path().join("some.toml");
        fs::write(&file, "[job]\nname = \"mosaic\"\n").unwrap();

        let find = |wanted: &str| RunDir::find(&runs, wanted).unwrap();
        assert_eq!(find(&first.path().to_string_lossy()), first);
        assert_eq!(find("mosaic-1"), first);
        assert_eq!(find("mosaic-1-1"), other);
        assert_eq!(find("mosaic"), second);
        assert_eq!(find(&file.to_string_lossy()), second);
        assert_eq!(find("jobs/mosaic.toml"), second);
        assert_eq!(find(LATEST), second);
        fs::remove_file(runs.join(LATEST)).unwrap();
        assert_eq!(find(LATEST).path().parent(), second.path().parent());
        assert_eq!(RunDir::for_resume(&runs, ("mosaic", None), None).unwrap(), second);
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        let none = RunDir::find(&runs, "mosaic").unwrap_err().to_string();
        assert!(none.contains(&format!("there is no {}", runs.display())), "{none}");
        fs::create_dir(&runs).unwrap();
        let none = RunDir::find(&runs, "mosaic").unwrap_err().to_string();
        assert!(none.contains("holds no runs"), "{none}");
        made(&runs, "sweep");
        let other = RunDir::find(&runs, "mosaic").unwrap_err().to_string();
        assert!(other.ends_with("holds sweep-1"), "{other}");
        let resume = RunDir::for_resume(&runs, ("mosaic", None), None).unwrap_err().to_string();
        assert!(resume.contains("no run of job \"mosaic\" to resume"), "{resume}");
        let empty = RunDir::for_resume(&runs, ("x", None), Some(dir.path())).unwrap_err().to_string();
        assert!(empty.contains("is not a run directory"), "{empty}");
    }

    #[test]
    fn a_run_that_was_killed_before_its_first_record_hides_none() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        let first = made(&runs, "k");
        let killed = made(&runs, "k");
        for journal in [&b""[..], &frame::header()[..5], &frame::header(), &[&frame::header()[..], &[0xf5]].concat()] {
            fs::write(killed.journal(), journal).unwrap();
            assert_eq!(RunDir::find(&runs, LATEST).unwrap(), first);
            assert_eq!(RunDir::find(&runs, "k").unwrap(), first);
            assert_eq!(RunDir::for_resume(&runs, ("k", None), None).unwrap(), first);
            assert_eq!(first.skipped_for_resume(&runs, "k").unwrap(), ["k-2"]);
        }
        // One that begins just now is the newest.
        let lock = killed.lock().unwrap();
        assert_eq!(RunDir::for_resume(&runs, ("k", None), None).unwrap(), killed);
        drop(lock);
        fs::write(killed.journal(), b"something else").unwrap();
        assert_eq!(RunDir::for_resume(&runs, ("k", None), None).unwrap(), killed);
    }

    #[test]
    fn several_jobs_are_found_in_another_order() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path(), "prep+use");
        let other = |job: &str| RunDir::in_other_order(dir.path(), job).unwrap();
        assert_eq!(other("use+prep").as_deref(), Some("prep+use-1"));
        assert_eq!((other("use"), other("use+other")), (None, None));
    }
}
