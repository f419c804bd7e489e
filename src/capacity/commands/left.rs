//! The jobs that a run may have in a queue: a file in the run directory with one JSON line per job.
//!
//! A line is written when the submit line has named the job, and removed when the job is over.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lines::{StateLine, call};
use crate::journal::EndedSessions;

/// Name of the file in the folder of the blocks' logs.
const FILE: &str = "commands";

/// A job that may be in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftJob {
    /// Its id.
    pub(super) id: String,
    /// When its session began, in milliseconds since 1970.
    pub(super) session_ms: u64,
    /// The line that cancels it.
    pub(super) cancel: String,
    /// The line that asks for its state; `None` in files of earlier versions.
    #[serde(default)]
    pub(super) state: Option<StateLine>,
}

/// The file and its content.
pub(super) struct LeftJobs {
    path: PathBuf,
    pub(super) jobs: Vec<LeftJob>,
}

impl LeftJobs {
    /// Reads the file in a folder. A missing file names no job.
    pub(super) fn read(logs: &Path) -> io::Result<LeftJobs> {
        let path = logs.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let job = |line: &str| match serde_json::from_str(line) {
            Ok(job) => Some(job),
            Err(error) => {
                let place = path.display();
                tracing::warn!("{place}: {error} in `{line}`: if this is a job of the run, cancel it by hand");
                None
            }
        };
        Ok(LeftJobs { jobs: text.lines().filter_map(job).collect(), path })
    }

    /// Cancels the jobs of sessions that are certainly over, and forgets those that are cancelled
    /// or known to be over. Returns the ids of the cancelled ones, and the reasons for those that
    /// stay.
    pub(super) fn withdraw(&mut self, ended: &EndedSessions) -> (Vec<String>, Vec<String>) {
        let (mut gone, mut refused, path) = (Vec::new(), Vec::new(), &self.path);
        self.jobs.retain(|job| {
            let LeftJob { id, session_ms, cancel, state } = job;
            if !ended.contains(*session_ms) {
                refused.push(format!(
                    "the session with the job {id} has not written its end, and whether its process still lives can only be seen on its \
                     own node: run `phalanx cancel` there, or `{cancel}` if you know that it is over"
                ));
                return true;
            }
            let Err(why) = call(cancel) else {
                gone.push(id.clone());
                return false;
            };
            // Most systems refuse to cancel what is over, in words of their own.
            let is_over = state.as_ref().is_some_and(StateLine::says_over);
            if !is_over {
                refused.push(format!(
                    "the job {id} may still be there, because {why}: run `{cancel}` once it is possible, or remove the job's line \
                     from {} if you know that it is over",
                    path.display()
                ));
            }
            !is_over
        });
        if let Err(error) = self.write() {
            refused.push(format!("{}: {error}", self.path.display()));
        }
        (gone, refused)
    }

    /// Adds a job.
    pub(super) fn add(&mut self, job: LeftJob) {
        self.jobs.push(job);
        self.keep();
    }

    /// Removes a job.
    pub(super) fn remove(&mut self, id: &str, session_ms: u64) {
        self.jobs.retain(|job| job.id != id || job.session_ms != session_ms);
        self.keep();
    }

    fn keep(&self) {
        if let Err(error) = self.write() {
            tracing::warn!("cannot write down which jobs this run has in the queue: {error}");
        }
    }

    /// Writes the file, or removes it if it would be empty.
    fn write(&self) -> io::Result<()> {
        if self.jobs.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut text = String::new();
        for job in &self.jobs {
            text += &serde_json::to_string(job)?;
            text.push('\n');
        }
        let new = self.path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Holder;

    fn left(id: &str, cancel: &str) -> LeftJob {
        LeftJob { id: id.into(), session_ms: 5000, cancel: cancel.into(), state: None }
    }

    /// All sessions since this one are over.
    fn over() -> EndedSessions {
        EndedSessions::of(None, Some(&Holder { pid: 1, host: "n".into(), since_unix_ns: 5_000_000_000 }))
    }

    #[test]
    fn jobs_are_kept_until_their_session_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut jobs = LeftJobs::read(dir.path()).unwrap();
        jobs.add(left("17", "qdel 17"));
        let mut again = LeftJobs::read(dir.path()).unwrap();
        assert_eq!(again.jobs, jobs.jobs);
        let (gone, refused) = again.withdraw(&EndedSessions::default());
        assert!(gone.is_empty() && refused[0].contains("`qdel 17`"), "{refused:?}");
        again.remove("17", 5000);
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_job_that_cannot_be_cancelled_is_kept_unless_its_state_says_that_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let with = |id: &str, line: &str, ended: Option<&str>| {
            let (line, ended) = (line.to_owned(), ended.map(str::to_owned));
            let state = StateLine { line, waiting: "wait".into(), running: "run".into(), ended };
            LeftJob { state: Some(state), ..left(id, &format!("exit {id}")) }
        };
        let mut jobs = LeftJobs::read(dir.path()).unwrap();
        jobs.add(with("1", "exit 1", None));
        jobs.add(with("2", "echo running", None));
        jobs.add(with("3", "true", None));
        jobs.add(with("4", "echo done", Some("done")));
        jobs.add(with("5", "true", Some("done")));
        jobs.add(with("6", "echo odd", Some("done")));
        jobs.add(left("0", "true"));
        // As earlier versions wrote it.
        let old = r#"{"id":"7","session_ms":5000,"cancel":"exit 7"}"#;
        let file = dir.path().join(FILE);
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + old + "\n").unwrap();
        let (gone, refused) = LeftJobs::read(dir.path()).unwrap().withdraw(&over());
        assert_eq!(gone, ["0"]);
        assert!(refused[0].contains("run `exit 1`") && refused[0].contains(FILE), "{refused:?}");
        let kept = LeftJobs::read(dir.path()).unwrap();
        let kept: Vec<&str> = kept.jobs.iter().map(|job| job.id.as_str()).collect();
        assert_eq!((kept, refused.len()), (vec!["1", "2", "6", "7"], 4));
    }
}
