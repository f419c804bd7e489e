//! The names under which a run may have jobs in the queue: a file in the run directory with one
//! line per session that may have left jobs: their name, the cluster of their site, and the other
//! clusters that it sent jobs to.
//!
//! A line is written before the first submission, and removed when no job of that name is left.

use std::io;
use std::path::PathBuf;

use super::commands::SlurmCommands;
use crate::journal::EndedSessions;

/// The jobs of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionJobs {
    pub(super) name: String,
    /// The cluster of its site; `None`: that of this machine.
    pub(super) home: Option<String>,
    /// Other clusters that it sent jobs to.
    pub(super) clusters: Vec<String>,
}

/// Precedes the cluster of a site in the file.
const HOME_MARK: char = '@';

impl SessionJobs {
    pub(super) fn new(run: &str, began_unix_ns: u64, home: Option<String>) -> SessionJobs {
        SessionJobs { home, ..SessionJobs::named(&format!("phalanx-{run}-{:x}", began_unix_ns / 1_000_000)) }
    }

    pub(super) fn named(name: &str) -> SessionJobs {
        SessionJobs { name: name.to_owned(), home: None, clusters: Vec::new() }
    }

    fn parse(line: &str) -> Option<SessionJobs> {
        let (mut words, mut jobs) = (line.split_whitespace(), SessionJobs::named(""));
        words.next()?.clone_into(&mut jobs.name);
        for word in words {
            match word.strip_prefix(HOME_MARK) {
                Some(home) => jobs.home = Some(home.to_owned()),
                None => jobs.clusters.push(word.to_owned()),
            }
        }
        Some(jobs)
    }

    /// When the session began, in milliseconds since 1970: its name ends with that.
    fn began_unix_ms(&self) -> Option<u64> {
        u64::from_str_radix(self.name.rsplit('-').next()?, 16).ok()
    }

    /// True if their session is certainly over.
    pub(super) fn are_of(&self, ended: &EndedSessions) -> bool {
        self.began_unix_ms().is_some_and(|began| ended.contains(began))
    }

    /// Cancels all of them, or only those that wait.
    pub(super) fn cancel(&self, slurm: &SlurmCommands, only_waiting: bool) -> Result<(), String> {
        let clusters =
            std::iter::once(self.home.as_deref()).chain(self.clusters.iter().map(|name| Some(name.as_str())));
        clusters.into_iter().try_for_each(|cluster| slurm.cancel_named(&self.name, cluster, only_waiting))
    }
}

/// The file and its content.
pub(super) struct NamesFile {
    path: PathBuf,
    pub(super) sessions: Vec<SessionJobs>,
}

impl NamesFile {
    /// Reads the file. A missing file names no session.
    pub(super) fn read(path: PathBuf) -> io::Result<NamesFile> {
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Ok(NamesFile { path, sessions: text.lines().filter_map(SessionJobs::parse).collect() })
    }

    /// Cancels the jobs of sessions that are certainly over, and forgets these. Returns their
    /// names, and the reasons for the others.
    pub(super) fn withdraw(&mut self, slurm: &SlurmCommands, ended: &EndedSessions) -> (Vec<String>, Vec<String>) {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        self.sessions.retain(|jobs| {
            let name = &jobs.name;
            if !jobs.are_of(ended) {
                left.push(format!(
                    "the session with the jobs {name} has not written its end, and whether its process still lives can only be seen on \
                     its own node: run `phalanx cancel` there, or `scancel --name {name}` if you know that it is over"
                ));
                return true;
            }
            match jobs.cancel(slurm, false) {
                Ok(()) => gone.push(name.clone()),
                Err(why) => left.push(format!("the jobs {name} may still be in the queue: {why}")),
            }
            !gone.contains(name)
        });
        (gone, left)
    }

    /// Writes the file, or removes it if it would be empty.
    pub(super) fn write(&self) -> io::Result<()> {
        if self.sessions.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let line = |jobs: &SessionJobs| {
            let home = jobs.home.iter().map(|home| format!("{HOME_MARK}{home}"));
            let words = std::iter::once(jobs.name.clone()).chain(home).chain(jobs.clusters.iter().cloned());
            words.collect::<Vec<_>>().join(" ") + "\n"
        };
        let new = self.path.with_extension("new");
        std::fs::write(&new, self.sessions.iter().map(line).collect::<String>())?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_until_their_session_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slurm");
        let mut file = NamesFile::read(path.clone()).unwrap();
        let mut jobs = SessionJobs::new("a-b-1", 5_000_000_000, Some("/etc/big/slurm.conf".into()));
        assert_eq!((jobs.name.as_str(), jobs.began_unix_ms()), ("phalanx-a-b-1-1388", Some(5000)));
        jobs.clusters.push("big".into());
        file.sessions.push(jobs);
        file.write().unwrap();
        let mut again = NamesFile::read(path.clone()).unwrap();
        assert_eq!(again.sessions, file.sessions);
        // Slurm is not queried for a session that may still run.
        let (gone, left) = again.withdraw(&SlurmCommands::default(), &EndedSessions::default());
        assert!(gone.is_empty() && left[0].contains("scancel --name phalanx-a-b-1-1388"), "{left:?}");
        assert_eq!(again.sessions, file.sessions);
        again.sessions.clear();
        again.write().unwrap();
        assert!(!path.exists());
    }
}
