//! The jobs that a run may have in a queue: a file in the run directory with one JSON line per job.
//!
//! A line is written when the submit line has named the job, and removed when the job is over.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lines::call;
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
        Ok(LeftJobs { path, jobs: text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect() })
    }

    /// Cancels the jobs of sessions that are certainly over, and forgets these. Returns their ids,
    /// and the reasons for the others.
    pub(super) fn withdraw(&mut self, ended: &EndedSessions) -> (Vec<String>, Vec<String>) {
        let (mut gone, mut refused) = (Vec::new(), Vec::new());
        self.jobs.retain(|job| {
            let LeftJob { id, session_ms, cancel } = job;
            if !ended.contains(*session_ms) {
                refused.push(format!(
                    "the session with the job {id} has not written its end, and whether its process still lives can only be seen on its \
                     own node: run `phalanx cancel` there, or `{cancel}` if you know that it is over"
                ));
                return true;
            }
            match call(cancel) {
                Ok(()) => gone.push(id.clone()),
                // Most systems refuse to cancel what is over, in words of their own.
                Err(why) => tracing::warn!("the job {id} may be left: {why}"),
            }
            false
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

    #[test]
    fn jobs_are_kept_until_their_session_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut left = LeftJobs::read(dir.path()).unwrap();
        left.add(LeftJob { id: "17".into(), session_ms: 5000, cancel: "qdel 17".into() });
        let mut again = LeftJobs::read(dir.path()).unwrap();
        assert_eq!(again.jobs, left.jobs);
        let (gone, refused) = again.withdraw(&EndedSessions::default());
        assert!(gone.is_empty() && refused[0].contains("`qdel 17`"), "{refused:?}");
        again.remove("17", 5000);
        assert!(!dir.path().join(FILE).exists());
    }
}
