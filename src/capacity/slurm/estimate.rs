//! Slurm's own estimate of when a job like those of a site would start, for the choice among sites.
//!
//! A thread of its own asks `sbatch --test-only`, which submits nothing, so that neither requests
//! nor releases wait for the answer. It asks at most every [`INTERVAL`], since Slurm's controller
//! plans its queue for each question; after a failure it waits twice as long, up to
//! [`MAX_INTERVAL`]. Without an answer there is no estimate, and nothing else changes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::commands::SlurmCommands;
use crate::job::{Capacity, ProviderKind};

/// Time from an answer to the next question.
const INTERVAL: Duration = Duration::from_secs(300);

/// Upper bound of the time after a failure.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// Upper bound of one question of a run.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);

/// Asks for the start of a site's jobs beside the run, until it is dropped.
pub(super) struct StartEstimator {
    /// When a job would start, in seconds since 1970.
    latest: Arc<Mutex<Option<u64>>>,
    commands: SlurmCommands,
    /// The thread ends once this is gone.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StartEstimator {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(capacity: Capacity) -> std::io::Result<StartEstimator> {
        let commands = SlurmCommands::of(capacity.cluster.as_deref());
        let (stop, stopped) = channel();
        let latest = Arc::new(Mutex::new(None));
        let (slurm, answers) = (commands.clone(), Arc::clone(&latest));
        let ask = move || {
            let answer = slurm.estimated_start(&capacity, QUESTION_LIMIT);
            let start = answer.inspect_err(|why| tracing::debug!("Slurm estimates no start: {why}")).ok();
            *answers.lock().unwrap_or_else(PoisonError::into_inner) = start;
            start.is_some()
        };
        let thread = thread::Builder::new().name("slurm-estimate".into()).spawn(move || repeat(&stopped, ask))?;
        Ok(StartEstimator { latest, commands, stop: Some(stop), thread: Some(thread) })
    }

    /// When a job that is submitted now would start, in seconds since 1970, by Slurm's latest
    /// answer.
    pub(super) fn latest(&self) -> Option<u64> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StartEstimator {
    fn drop(&mut self) {
        // A question that waits for its answer is ended.
        self.commands.close_by(Instant::now());
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!("the thread that asks Slurm for estimates failed");
        }
    }
}

/// Asks again and again until the sender of `stopped` is gone; `ask` returns false without an
/// answer.
fn repeat(stopped: &Receiver<()>, ask: impl Fn() -> bool) {
    let mut pause = INTERVAL;
    loop {
        pause = if ask() { INTERVAL } else { (2 * pause).min(MAX_INTERVAL) };
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// When a job of these settings would start, in seconds since 1970, if Slurm says so within a
/// limit.
pub fn estimated_start(capacity: &Capacity, limit: Duration) -> Option<u64> {
    if capacity.provider != ProviderKind::Slurm {
        return None;
    }
    SlurmCommands::of(capacity.cluster.as_deref()).estimated_start(capacity, limit).ok()
}

/// Parses what `sbatch --test-only` prints where times are seconds since 1970: `sbatch: Job 7 to
/// start at 1795289398 using 2 processors on nodes n1 in partition all`.
pub(super) fn parse_start(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once(" to start at ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_start_is_found_among_other_messages() {
        let said = "sbatch: warning: something\nsbatch: Job 7 to start at 1795289398 using 2 processors on nodes n1 in partition all\n";
        assert_eq!(parse_start(said), Some(1_795_289_398));
        for said in ["", "allocation failure: Invalid partition", "Job 7 to start at 2026-11-30T21:00:00 using"] {
            assert_eq!(parse_start(said), None, "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(said in "\\PC{0,60}|[0-9 ]{0,9} to start at [0-9T:-]{0,40}") {
            let _ = parse_start(&said);
        }
    }
}
