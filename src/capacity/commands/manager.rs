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

/// A job of the batch system.
struct CommandJob {
    block: BlockId,
    id: String,
    submitted: Instant,
    running: bool,
    /// Its ranks have left, or it was cancelled.
    leaves: bool,
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
        let is_over = match (self.leaves, self.running) {
            (true, _) => since >= VISIBILITY_DELAY,
            (false, true) => false,
            (false, false) => since >= MAX_UNKNOWN_WAIT,
        };
        tracing::debug!("the state of job {} is not known: {why}", self.id);
        (is_over.then_some(BlockEvent::Ended { why, at: None }), is_over)
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
                Ok(ManagerRequest::Release(id)) => self.release(id),
                Ok(ManagerRequest::Withdraw(id)) => self.withdraw(id),
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
        let changes = |job: &CommandJob| if job.running { job.leaves } else { job.submitted.elapsed() < LONG_WAIT };
        if self.jobs.iter().any(changes) { FAST_POLL } else { SLOW_POLL }
    }

    fn report(&self, id: BlockId, event: BlockEvent) {
        // The receiver is gone once the run is over.
        let _ = self.events.send((id, event));
    }

    fn session_ms(&self) -> u64 {
        self.launch.began_unix_ns / 1_000_000
    }

    /// Writes the script of a block: it becomes the block's world.
    fn script(&self, block: BlockId, labels: &Labels) -> std::io::Result<PathBuf> {
        let labels = labels_of(self.lines.labels().iter().chain(labels.iter()).cloned());
        let words: Vec<String> = self.launch.words(block, &labels).iter().map(|word| shell_word(word)).collect();
        let path = self.launch.logs.join(format!("block-{}.sh", block.0));
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
                let (session_ms, cancel) = (self.session_ms(), self.lines.cancel_line(&id));
                self.left.add(LeftJob { id: id.clone(), session_ms, cancel });
                self.report(block, BlockEvent::Accepted(format!("job {id}")));
                let submitted = Instant::now();
                self.jobs.push(CommandJob { block, id, submitted, running: false, leaves: false, unknown: None });
            }
            Err(why) => self.report(block, BlockEvent::Refused(why)),
        }
    }

    fn job_of(&mut self, block: BlockId) -> Option<&mut CommandJob> {
        self.jobs.iter_mut().find(|job| job.block == block)
    }

    /// The ranks of a block have left. Its job ends by itself, unless there is a line for it.
    fn release(&mut self, block: BlockId) {
        let lines = self.lines.clone();
        let Some(job) = self.job_of(block) else { return };
        job.leaves = true;
        if let Err(why) = lines.release(&job.id) {
            tracing::warn!("cannot release job {}: {why}", job.id);
        }
    }

    /// Ends a block at once, or withdraws its request.
    fn withdraw(&mut self, block: BlockId) {
        let lines = self.lines.clone();
        if let Some(job) = self.job_of(block) {
            job.leaves = true;
            cancel(&lines, &job.id);
        }
    }

    /// Asks for the state of each job.
    fn poll(&mut self) {
        let session_ms = self.session_ms();
        let mut over = Vec::new();
        for job in &mut self.jobs {
            let (event, is_over) = job.on_state(self.lines.state(&job.id), Instant::now());
            if let Some(event) = event {
                let _ = self.events.send((job.block, event));
            }
            if is_over {
                // One whose state is not known any more may be in the queue nevertheless.
                if job.unknown.is_some() && !job.leaves {
                    cancel(&self.lines, &job.id);
                }
                over.push(job.id.clone());
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
        for job in &mut self.jobs {
            job.leaves = true;
            if !job.running {
                cancel(&self.lines, &job.id);
            }
        }
        self.wait(begun + EXIT_GRACE);
        self.jobs.iter().for_each(|job| cancel(&self.lines, &job.id));
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

/// Most systems refuse to cancel a job that is over; its state tells whether it is.
fn cancel(lines: &CommandLines, id: &str) {
    if let Err(why) = lines.cancel(id) {
        tracing::debug!("cannot cancel job {id}: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(running: bool, leaves: bool) -> CommandJob {
        let submitted = Instant::now();
        CommandJob { block: BlockId(1), id: "17".into(), submitted, running, leaves, unknown: None }
    }

    #[test]
    fn a_job_is_granted_once_and_ends_once_it_is_known_to() {
        let (mut job, now) = (job(false, false), Instant::now());
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
        let over_after = |mut job: CommandJob, wait: Duration| {
            job.on_state(silence(), later);
            job.on_state(silence(), later + wait).1
        };
        assert!(!over_after(job(true, false), MAX_UNKNOWN_WAIT * 9));
        assert!(over_after(job(true, true), VISIBILITY_DELAY));
        assert!(!over_after(job(false, false), MAX_UNKNOWN_WAIT / 2));
        assert!(over_after(job(false, false), MAX_UNKNOWN_WAIT));
        let mut answered = job(false, false);
        answered.on_state(silence(), later);
        answered.on_state(JobState::Waiting, later);
        assert!(!answered.on_state(silence(), later + MAX_UNKNOWN_WAIT).1, "it was seen meanwhile");
    }
}
