//! `phalanx runs` and `phalanx clean`: the runs in a directory, as a table.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::print::ReportError;
use super::report::write_columns;
use super::run_view::{Parse, RunState, RunView};
use super::style::{Paint, bytes, count};
use crate::journal::{Liveness, RunDir, RunDirError, Session, utc};

/// One run. Its field names are those of `runs --json`, which are stable.
#[derive(Debug, Serialize)]
pub struct ListedRun {
    /// Name of the run.
    pub run: String,
    /// Its directory.
    pub directory: String,
    /// Name of the job, as its run directories have it.
    pub job: String,
    /// State of the run; `NO_RECORD` if it was killed before it recorded anything, `UNREADABLE` if
    /// its journal cannot be read.
    pub state: &'static str,
    /// When its first session began, in UTC.
    pub began: Option<String>,
    /// Number of sessions.
    pub sessions: usize,
    /// Number of tasks.
    pub tasks: u32,
    /// Number of tasks that have completed.
    pub completed: u32,
    /// Number of tasks whose last attempt failed.
    pub failed: u32,
    /// Time since its journal was last written, in seconds.
    pub idle_s: u64,
    /// Where it is.
    #[serde(skip)]
    pub dir: RunDir,
}

impl ListedRun {
    fn of(dir: RunDir, parse: Parse<'_>) -> ListedRun {
        let name = dir.name();
        // The names of tasks do not matter here, and reading large jobs takes long. How many tasks
        // were added is known from their tables alone.
        let count = |session: &Session| match session.additions.is_empty() {
            true => Err(String::new()),
            false => parse(session),
        };
        let view = RunView::load(&dir, &count).ok();
        let job = name.rsplit_once('-').map_or(name.as_str(), |(job, _)| job).to_owned();
        let mut listed = ListedRun {
            directory: dir.path().display().to_string(),
            state: if dir.lacks_record() { "NO_RECORD" } else { "UNREADABLE" },
            began: None,
            sessions: 0,
            tasks: 0,
            completed: 0,
            failed: 0,
            idle_s: idle(&dir).as_secs(),
            job,
            run: name,
            dir,
        };
        if let Some(view) = view {
            listed.state = view.state().name();
            listed.began = Some(utc(view.replay.sessions[0].began.unix_ns));
            listed.sessions = view.replay.sessions.len();
            listed.tasks = view.subject().job.task_count();
            for (_, _, attempt) in view.replay.all_latest() {
                listed.completed += u32::from(attempt.outcome.ok());
                listed.failed += u32::from(attempt.outcome.state.is_failure());
            }
        }
        listed
    }

    /// True if it is certain that nobody runs it.
    fn is_over(&self) -> bool {
        self.state != RunState::Running.name() && self.dir.liveness() == Liveness::Gone
    }
}

/// Time since a run's journal was last written.
fn idle(dir: &RunDir) -> Duration {
    let written = fs::metadata(dir.journal()).and_then(|meta| meta.modified());
    written.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

/// The runs in a directory, those that were written last first. `parse` reads the jobs to which
/// tasks were added.
///
/// # Errors
/// If the directory cannot be listed.
pub fn list_runs(runs: &Path, parse: Parse<'_>) -> Result<Vec<ListedRun>, RunDirError> {
    Ok(RunDir::all(runs)?.into_iter().map(|dir| ListedRun::of(dir, parse)).collect())
}

/// The runs that may be deleted: over, not among the `keep` newest of their job, and not written
/// for this long.
pub fn old_runs(runs: Vec<ListedRun>, keep: usize, older_than: Duration) -> Vec<ListedRun> {
    let mut seen: Vec<String> = Vec::new();
    let mut old = Vec::new();
    for run in runs {
        let newer = seen.iter().filter(|job| **job == run.job).count();
        seen.push(run.job.clone());
        if newer >= keep && run.idle_s >= older_than.as_secs() && run.is_over() {
            old.push(run);
        }
    }
    old
}

/// Writes runs as a table.
///
/// # Errors
/// If the output cannot be written.
pub fn write_runs(out: &mut dyn Write, runs: &[ListedRun], paint: Paint) -> Result<(), ReportError> {
    if runs.is_empty() {
        return Ok(writeln!(out, "no runs here")?);
    }
    let row = |run: &ListedRun| {
        let began = run.began.as_deref().unwrap_or("-").replace('T', " ").trim_end_matches('Z').to_owned();
        let numbers = [run.tasks, run.completed, run.failed].map(count);
        [vec![run.run.clone(), run.job.clone(), run.state.to_owned(), began], numbers.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    write_columns(out, &["run", "job", "state", "begun (UTC)", "tasks", "completed", "failed"], &rows, paint)
}

/// Writes runs as a JSON array.
///
/// # Errors
/// If the output cannot be written.
pub fn write_runs_json(out: &mut dyn Write, runs: &[ListedRun]) -> Result<(), ReportError> {
    serde_json::to_writer_pretty(&mut *out, runs).map_err(ReportError::Json)?;
    Ok(writeln!(out)?)
}

/// Disk space of a directory in bytes, as far as it can be read, in words.
pub fn disk_space(dirs: &[ListedRun]) -> String {
    bytes(dirs.iter().map(|run| size(run.dir.path())).sum())
}

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(one).sum()
}
