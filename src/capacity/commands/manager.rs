//! The thread that calls the lines of `[capacity.commands]`: submits jobs, asks for their state,
//! and leaves nothing in the queue.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::super::blocks::{BlockEvent, BlockId, NodeGrant};
use super::super::provider::Launch;
use super::CLOSE_LIMIT;
use super::left::{LeftJob, LeftJobs};
use super::lines::{CommandLines, JobState, Submission};
use crate::model::{Labels, labels_of};
use crate::text::shell_word;

/// Poll interval while a job is about to change state.
const FAST_POLL: Duration = Duration::from_secs(1);

/// Poll interval otherwise. A world that joins or leaves is noticed by its link earlier.
const SLOW_POLL: Duration = Duration::from_secs(10);

/// A job that has waited this long is polled slowly.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// A job may be unknown to its batch system for this long after it was submitted, or when it ends.
pub(super) const VISIBILITY_DELAY: Duration = Duration::from_secs(5);

/// A waiting job may be unknown for this long: the batch system may be restarting.
pub(super) const MAX_UNKNOWN_WAIT: Duration = Duration::from_secs(600);

/// At the end, jobs have this long to end by themselves before they are cancelled.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// A request of the run to the manager.
pub(super) enum ManagerRequest {
    /// Blocks to request with these labels, needed at most this long.
    Nodes(Vec<BlockId>, Labels, Option<Duration>),
    Release(BlockId),
    Withdraw(BlockId),
    Close,
}

/// How a job is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Its ranks have left: its node is released.
    Release,
    Cancel,
}

/// A job of the batch system.
struct CommandJob {
    block: BlockId,
    id: String,
    submitted: Instant,
    running: bool,
    /// How it was last made to end.
    leaves: Option<Exit>,
    /// The line for that has succeeded.
    acknowledged: bool,
    /// Since when its state is not known.
    unknown: Option<Instant>,
}

/// State of the thread.
pub(super) struct Manager {
    launch: Launch,
    lines: CommandLines,
    left: LeftJobs,
    jobs: Vec<CommandJob>,
    events: Sender<(BlockId, BlockEvent)>,
}

impl CommandJob {
    /// What follows from the state of the job: an event, and whether the job is over.
    fn on_state(&mut self, state: JobState, now: Instant) -> (Option<BlockEvent>, bool) {
        let why = match state {
            JobState::Ended(why) => {
                // A job that has just been submitted may be unknown yet.
                let is_new = !self.running && now.duration_since(self.submitted) < VISIBILITY_DELAY;
                return if is_new { (None, false) } else { (Some(BlockEvent::Ended { why, at: None }), true) };
            }
            JobState::Waiting | JobState::Running(_) => {
                self.unknown = None;
                let JobState::Running(node) = state else { return (None, false) };
                if std::mem::replace(&mut self.running, true) {
                    return (None, false);
                }
                let node = node.unwrap_or_else(|| format!("job {}", self.id));
                return (Some(BlockEvent::Granted(NodeGrant { node, ..NodeGrant::default() })), false);
            }
            JobState::Unknown(why) => why,
        };
        let since = now.duration_since(*self.unknown.get_or_insert(now));
        let (limit, is_over) = match (self.leaves, self.running) {
            // Without an answer to that line either, the job may be there as before.
            (Some(_), _) => (self.acknowledged.then_some(VISIBILITY_DELAY), true),
            (None, true) => (None, false),
            (None, false) => (Some(MAX_UNKNOWN_WAIT), false),
        };
        tracing::debug!("the state of job {} is not known: {why}", self.id);
        let is_up = limit.is_some_and(|limit| since >= limit);
        (is_up.then_some(BlockEvent::Ended { why, at: None }), is_up && is_over)
    }

    /// Calls the line that makes the job end.
    fn leave(&mut self, exit: Exit, lines: &CommandLines) {
        let is_new = self.leaves.replace(exit) != Some(exit);
        if is_new {
            (self.acknowledged, self.unknown) = (false, None);
        }
        let (result, verb) = match exit {
            Exit::Release => (lines.release(&self.id), "release"),
            Exit::Cancel => (lines.cancel(&self.id), "cancel"),
        };
        match result {
            Ok(()) => self.acknowledged = true,
            Err(why) if is_new && exit == Exit::Release => tracing::warn!("cannot release job {}: {why}", self.id),
            // Most systems refuse to cancel a job that is over; its state tells whether it is.
            Err(why) => tracing::debug!("cannot {verb} job {}: {why}", self.id),
        }
    }
}

impl Manager {
    pub(super) fn new(
        launch: Launch,
        lines: CommandLines,
        left: LeftJobs,
        events: Sender<(BlockId, BlockEvent)>,
    ) -> Manager {
        Manager { launch, lines, left, jobs: Vec::new(), events }
    }

    /// Handles requests until [`ManagerRequest::Close`], and asks for states between them.
    pub(super) fn run(mut self, requests: &Receiver<ManagerRequest>) {
        let mut next = Instant::now() + FAST_POLL;
        loop {
            match requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(ManagerRequest::Nodes(ids, labels, limit)) => {
                    ids.into_iter().for_each(|id| self.submit(id, &labels, limit));
                }
                Ok(ManagerRequest::Release(id)) => self.leave(id, Exit::Release),
                Ok(ManagerRequest::Withdraw(id)) => self.leave(id, Exit::Cancel),
                Ok(ManagerRequest::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next {
                self.poll();
                next = Instant::now() + SLOW_POLL;
            }
            next = next.min(Instant::now() + self.poll_interval());
        }
    }

    /// The interval until the next poll.
    fn poll_interval(&self) -> Duration {
        let changes =
            |job: &CommandJob| if job.running { job.leaves.is_some() } else { job.submitted.elapsed() < LONG_WAIT };
        if self.jobs.iter().any(changes) { FAST_POLL } else { SLOW_POLL }
    }

    fn report(&self, id: BlockId, event: BlockEvent) {
        // The receiver is gone once the run is over.
        let _ = self.events.send((id, event));
    }

    /// Writes the script of a block: it becomes the block's world.
    fn script(&self, block: BlockId, labels: &Labels) -> std::io::Result<PathBuf> {
        let labels = labels_of(self.lines.labels().iter().chain(labels.iter()).cloned());
        let words: Vec<String> = self.launch.words(block, &labels).iter().map(|word| shell_word(word)).collect();
        // A job that an earlier session has left may still start, and reads the script of that one.
        let path = self.launch.logs.join(format!("{}-block-{}.sh", self.launch.session_ms(), block.0));
        std::fs::write(&path, format!("#!/bin/sh\nexec {}\n", words.join(" ")))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(path)
    }

    fn submit(&mut self, block: BlockId, labels: &Labels, limit: Option<Duration>) {
        let script = match self.script(block, labels) {
            Ok(script) => script,
            Err(error) => return self.report(block, BlockEvent::Refused(format!("cannot write its script: {error}"))),
        };
        let (name, log) = (format!("phalanx-{}-{}", self.launch.run, block.0), self.launch.log(block));
        match self.lines.submit(&Submission { script: &script, name: &name, log: &log, labels, limit }) {
            Ok(id) => {
                let (cancel, state) = (self.lines.cancel_line(&id), Some(self.lines.state_line(&id)));
                self.left.add(LeftJob { id: id.clone(), session_ms: self.launch.session_ms(), cancel, state });
                self.report(block, BlockEvent::Accepted(format!("job {id}")));
                let submitted = Instant::now();
                let (running, leaves, acknowledged, unknown) = (false, None, false, None);
                self.jobs.push(CommandJob { block, id, submitted, running, leaves, acknowledged, unknown });
            }
            Err(why) => self.report(block, BlockEvent::Refused(why)),
        }
    }

    /// Makes the job of a block end. One whose ranks have left ends by itself, unless there is a
    /// line for it.
    fn leave(&mut self, block: BlockId, exit: Exit) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.block == block) {
            job.leave(exit, &self.lines);
        }
    }

    /// Asks for the state of each job.
    fn poll(&mut self) {
        let session_ms = self.launch.session_ms();
        let mut over = Vec::new();
        for job in &mut self.jobs {
            let (event, is_over) = job.on_state(self.lines.state(&job.id), Instant::now());
            match job.leaves {
                _ if is_over => over.push(job.id.clone()),
                // It is given up, but may be in the queue nevertheless.
                None if matches!(event, Some(BlockEvent::Ended { .. })) => job.leave(Exit::Cancel, &self.lines),
                // It is still there.
                Some(exit) if !job.acknowledged && job.unknown.is_none() => job.leave(exit, &self.lines),
                _ => {}
            }
            if let Some(event) = event {
                let _ = self.events.send((job.block, event));
            }
        }
        self.jobs.retain(|job| !over.contains(&job.id));
        over.iter().for_each(|id| self.left.remove(id, session_ms));
    }

    /// Cancels all jobs. Those that are not known to be over stay in the file, so that they can be
    /// cancelled later.
    fn close(mut self) {
        let begun = Instant::now();
        // Running jobs were asked to leave already.
        self.jobs.iter_mut().filter(|job| !job.running).for_each(|job| job.leave(Exit::Cancel, &self.lines));
        self.wait(begun + EXIT_GRACE);
        self.jobs.iter_mut().for_each(|job| job.leave(Exit::Cancel, &self.lines));
        self.wait(begun + CLOSE_LIMIT);
        for job in &self.jobs {
            tracing::error!("job {} may still be there: `phalanx cancel` of this run cancels it", job.id);
        }
    }

    /// Polls while there are jobs, at most until `until`.
    fn wait(&mut self, until: Instant) {
        self.poll();
        while !self.jobs.is_empty() && Instant::now() < until {
            thread::sleep(FAST_POLL.min(until.saturating_duration_since(Instant::now())));
            self.poll();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::job::{Capacity, CommandCapacity};

    fn job(running: bool, leaves: Option<Exit>) -> CommandJob {
        let (block, id, submitted) = (BlockId(1), "17".into(), Instant::now());
        CommandJob { block, id, submitted, running, leaves, acknowledged: leaves.is_some(), unknown: None }
    }

    /// A manager of jobs in a folder that is the batch system: it answers while there is a file
    /// `up`, and its jobs run until there is a file `cancelled`.
    fn manager(dir: &Path) -> (Manager, Receiver<(BlockId, BlockEvent)>) {
        let at = |line: &str| format!("cd {}; [ -e up ] || exit 1; {line}", shell_word(&dir.display().to_string()));
        let commands = CommandCapacity {
            submit: "echo 17 # {script}".into(),
            job_id: r"\d+".into(),
            state: at("[ -e cancelled ] || echo runs {id}"),
            waiting: "waits".into(),
            running: "runs".into(),
            ended: None,
            node: None,
            cancel: at("touch cancelled # {id}"),
            release: None,
        };
        let capacity = Capacity { commands: Some(commands), ..Capacity::default() };
        let lines = CommandLines::new(&capacity, Arc::default()).unwrap();
        let launch = Launch {
            program: "phalanx".into(),
            contact: dir.join("contact"),
            logs: dir.to_owned(),
            run: "r-1".into(),
            began_unix_ns: 5_000_000_000,
            slots: None,
        };
        let (sender, events) = std::sync::mpsc::channel();
        (Manager::new(launch, lines, LeftJobs::read(dir).unwrap(), sender), events)
    }

    #[test]
    fn a_job_is_kept_until_a_batch_system_that_was_away_has_been_told() {
        let (dir, later) = (tempfile::tempdir().unwrap(), Instant::now() + MAX_UNKNOWN_WAIT * 2);
        let (mut manager, events) = manager(dir.path());
        std::fs::write(dir.path().join("up"), "").unwrap();
        manager.submit(BlockId(1), &Labels::default(), None);
        manager.poll();
        std::fs::remove_file(dir.path().join("up")).unwrap();
        manager.poll();
        manager.leave(BlockId(1), Exit::Cancel);
        for now in [later, later + MAX_UNKNOWN_WAIT] {
            assert_eq!(manager.jobs[0].on_state(JobState::Unknown("no answer".into()), now), (None, false));
        }
        manager.poll();
        assert_eq!(LeftJobs::read(dir.path()).unwrap().jobs[0].id, "17");
        std::fs::write(dir.path().join("up"), "").unwrap();
        manager.poll();
        assert!(manager.jobs[0].acknowledged && dir.path().join("cancelled").exists());
        manager.poll();
        assert!(manager.jobs.is_empty() && LeftJobs::read(dir.path()).unwrap().jobs.is_empty());
        assert!(matches!(events.try_iter().last(), Some((BlockId(1), BlockEvent::Ended { .. }))));
    }

    #[test]
    fn a_job_that_waits_in_silence_is_given_up_once_but_kept_until_it_is_cancelled() {
        let (dir, later) = (tempfile::tempdir().unwrap(), Instant::now() + MAX_UNKNOWN_WAIT * 2);
        let (mut manager, events) = manager(dir.path());
        manager.submit(BlockId(1), &Labels::default(), None);
        let silence = || JobState::Unknown("no answer".into());
        assert_eq!(manager.jobs[0].on_state(silence(), later), (None, false));
        let (event, is_over) = manager.jobs[0].on_state(silence(), later + MAX_UNKNOWN_WAIT);
        assert!(matches!(event, Some(BlockEvent::Ended { .. })) && !is_over);
        manager.leave(BlockId(1), Exit::Cancel);
        assert_eq!(manager.jobs[0].on_state(silence(), later + MAX_UNKNOWN_WAIT * 3), (None, false));
        drop((manager, events));
        assert_eq!(LeftJobs::read(dir.path()).unwrap().jobs.len(), 1);
    }

    #[test]
    fn a_job_is_granted_once_and_ends_once_it_is_known_to() {
        let (mut job, now) = (job(false, None), Instant::now());
        let gone = || JobState::Ended("gone".into());
        assert_eq!(job.on_state(gone(), now), (None, false), "it may not be visible yet");
        assert_eq!(job.on_state(JobState::Waiting, now), (None, false));
        let (event, _) = job.on_state(JobState::Running(None), now);
        assert!(matches!(event, Some(BlockEvent::Granted(grant)) if grant.node == "job 17"));
        assert_eq!(job.on_state(JobState::Running(None), now), (None, false));
        assert!(job.on_state(gone(), now).1);
    }

    #[test]
    fn silence_ends_no_block_that_runs() {
        let later = Instant::now() + MAX_UNKNOWN_WAIT * 2;
        let silence = || JobState::Unknown("no answer".into());
        let after = |mut job: CommandJob, wait: Duration| {
            job.on_state(silence(), later);
            let (event, is_over) = job.on_state(silence(), later + wait);
            (event.is_some(), is_over)
        };
        let untold = CommandJob { acknowledged: false, ..job(true, Some(Exit::Release)) };
        assert_eq!(after(job(true, None), MAX_UNKNOWN_WAIT * 9), (false, false));
        assert_eq!(after(job(true, Some(Exit::Release)), VISIBILITY_DELAY), (true, true));
        assert_eq!(after(untold, MAX_UNKNOWN_WAIT * 9), (false, false));
        assert_eq!(after(job(false, None), MAX_UNKNOWN_WAIT / 2), (false, false));
        assert_eq!(after(job(false, None), MAX_UNKNOWN_WAIT), (true, false));
        let mut answered = job(false, None);
        answered.on_state(silence(), later);
        answered.on_state(JobState::Waiting, later);
        assert_eq!(answered.on_state(silence(), later + MAX_UNKNOWN_WAIT), (None, false), "it was seen meanwhile");
    }
}
