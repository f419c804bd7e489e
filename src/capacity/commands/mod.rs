//! Blocks from any batch system or cloud, through command lines of the job file.
//!
//! One line submits the script of a block, one asks for the state of its job, one cancels it, and
//! one may release it; regular expressions read the job's id and its state (`lines`). Each block is
//! a job of its own with one node. Its script becomes the world of the block, so the job ends with
//! it.
//!
//! | state of a job | its state line | next | the run learns |
//! |---|---|---|---|
//! | waiting | matches `running` | running | granted |
//! | any | matches `ended`; without `ended`: succeeds and matches nothing | over | ended |
//! | waiting | fails, or matches nothing, for `MAX_UNKNOWN_WAIT` | leaving: it is cancelled | ended |
//! | leaving: released or cancelled | matches `running` or `waiting` | leaving; a line that failed is called again | |
//! | leaving, and its line succeeded | fails, or matches nothing, for `VISIBILITY_DELAY` | over | ended |
//! | leaving, and its line failed | fails, or matches nothing | leaving | |
//! | running | fails, or matches nothing | running | |
//!
//! A batch system that gives no answer ends no block that runs: whether its ranks live is known
//! from their link. One that answers neither the line that ends a job nor the state line leaves the
//! job in the file.
//!
//! The lines may take seconds, so a thread calls them (`manager`). Each has a time limit, and at
//! the end of the run all of them together have `CLOSE_LIMIT`. Jobs that may be in the queue are
//! kept in a file in the folder of the blocks' logs, with the line that cancels them: a resume and
//! `phalanx cancel` cancel those of a run that is gone (`left`).

mod left;
mod lines;
mod manager;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use left::LeftJobs;
use lines::CommandLines;
use manager::{Manager, ManagerRequest};

use super::blocks::{BlockEvent, BlockId};
use super::provider::{Launch, Provider};
use crate::job::Capacity;
use crate::journal::EndedSessions;
use crate::model::{Labels, Offers, labels_of};

/// Upper bound on the time that the lines take at the end of a run.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// Less time is never requested for a block.
const MIN_TIME: Duration = Duration::from_secs(60);

/// The time to request for a block with this maximum duration that is needed for at most `needed`.
pub fn requested_time(time: Duration, needed: Option<Duration>) -> Duration {
    needed.map_or(time, |needed| needed.min(time)).max(MIN_TIME)
}

/// The handle of the thread that calls the lines.
pub struct CommandProvider {
    requests: Sender<ManagerRequest>,
    events: Receiver<(BlockId, BlockEvent)>,
    manager: Option<JoinHandle<()>>,
    closes: Arc<OnceLock<Instant>>,
    offers: Offers,
}

/// What blocks of these settings can have: any labels, if the submit line is told them.
pub fn offers(capacity: &Capacity) -> Offers {
    match &capacity.commands {
        Some(commands) if commands.asks_for_labels() => Offers::Unknown,
        _ => Offers::of([labels_of(capacity.labels.iter().cloned())]),
    }
}

impl CommandProvider {
    /// Starts the thread. Jobs that `ended` sessions may have left in the queue are cancelled.
    ///
    /// # Errors
    /// If `[capacity.commands]` cannot be used, the system gives no thread, or the file of the jobs
    /// cannot be read.
    pub fn new(launch: Launch, capacity: &Capacity, ended: &EndedSessions) -> std::io::Result<CommandProvider> {
        let closes = Arc::new(OnceLock::new());
        let lines = CommandLines::new(capacity, Arc::clone(&closes)).map_err(std::io::Error::other)?;
        let mut left = LeftJobs::read(&launch.logs)?;
        let (_, refused) = left.withdraw(ended);
        refused.iter().for_each(|why| tracing::warn!("{why}"));
        let ((requests, receiver), (sender, events)) = (channel(), channel());
        let manager = Manager::new(launch, lines, left, sender);
        let manager = thread::Builder::new().name("capacity".into()).spawn(move || manager.run(&receiver))?;
        Ok(CommandProvider { requests, events, manager: Some(manager), closes, offers: offers(capacity) })
    }

    fn send(&self, request: ManagerRequest) {
        // The manager exits only after `Close`.
        let _ = self.requests.send(request);
    }
}

impl Provider for CommandProvider {
    fn request(&mut self, ids: &[BlockId], labels: &Labels, limit: Option<Duration>) {
        self.send(ManagerRequest::Nodes(ids.to_vec(), Labels::clone(labels), limit));
    }

    fn offers(&self) -> Offers {
        self.offers.clone()
    }

    fn most_blocks(&self) -> Option<u32> {
        None
    }

    fn release(&mut self, id: BlockId) {
        self.send(ManagerRequest::Release(id));
    }

    fn withdraw(&mut self, id: BlockId) {
        self.send(ManagerRequest::Withdraw(id));
    }

    fn poll(&mut self) -> Vec<(BlockId, BlockEvent)> {
        self.events.try_iter().collect()
    }

    fn close(&mut self) {
        // The first end counts.
        let _ = self.closes.set(Instant::now() + CLOSE_LIMIT);
        self.send(ManagerRequest::Close);
        if self.manager.take().is_some_and(|manager| manager.join().is_err()) {
            tracing::error!("the thread that calls the lines of [capacity.commands] failed; jobs may be left");
        }
    }
}

impl Drop for CommandProvider {
    fn drop(&mut self) {
        if self.manager.is_some() {
            self.close();
        }
    }
}

/// Cancels jobs that sessions which are over may have left, according to the file in the folder of
/// the run's block logs. Returns their ids.
///
/// # Errors
/// If a line fails, or a session may still run.
pub fn withdraw_left(logs: &Path, ended: &EndedSessions) -> Result<Vec<String>, String> {
    let mut left = LeftJobs::read(logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let (gone, refused) = left.withdraw(ended);
    if refused.is_empty() { Ok(gone) } else { Err(refused.join("; ")) }
}
