//! Blocks from Slurm: further jobs, and the nodes of the job that the run was started in.
//!
//! A request is put to Slurm as batch jobs of up to `nodes_per_block` nodes, one world a node. With one node a job (the default) each starts as soon as
//! any node is free, and giving it back is the end of its job, which asks nothing of Slurm. Of a job of several nodes single ones are given
//! back by shrinking it (`shrink`); so are the nodes of the job that the run itself was started in (`allocation`).
//!
//! Jobs that are gained are batch jobs, not `salloc --no-shell`: a batch job ends when its worlds do, whoever has died, where an allocation without a
//! shell would stay for its whole time limit. The price is that its first node, on which the script runs, goes last.
//!
//! Nothing stays in the queue for a run that is gone. What runs hangs on the run's link. What waits has a *lease*: a deadline that the run
//! renews. The first of a run's jobs to start and find nobody takes the others from the queue, and so does a resume, or `phalanx cancel` of
//! the dead run: the name that all jobs of a run share is kept in the run directory.
//!
//! Slurm's commands may take seconds, so a thread of this folder's own calls them; the run only exchanges words with it.

mod allocation;
mod clerk;
mod commands;
mod shrink;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use allocation::Allocation;
use clerk::{Clerk, Word};

use super::blocks::{BlockId, Event};
use super::provider::{Launch, Provider};
use crate::job::Capacity;

/// In the folder of the blocks' logs: the name of the jobs that may be in the queue.
const NAME_FILE: &str = "slurm";

/// See the module's text.
pub struct Slurm {
    words: Sender<Word>,
    happened: Receiver<(BlockId, Event)>,
    clerk: Option<JoinHandle<()>>,
}

impl Slurm {
    /// Asks for blocks so. What an earlier session may have left in the queue is taken from it.
    ///
    /// # Errors
    /// If the system gives no thread, or the name of the jobs cannot be written down.
    pub fn new(launch: Launch, capacity: Capacity, allocation: Option<Allocation>) -> std::io::Result<Slurm> {
        let file = launch.logs.join(NAME_FILE);
        if let Err(why) = withdraw_named_in(&file) {
            tracing::warn!("what an earlier session may still have in the queue stays there: {why}");
        }
        let name = format!("phalanx-{}-{:x}", launch.run, launch.began_unix_ns / 1_000_000);
        std::fs::write(&file, &name)?;
        let ((words, heard), (told, happened)) = (channel(), channel());
        let clerk = Clerk::new(launch, capacity, allocation, name, told);
        let clerk = thread::Builder::new().name("slurm".into()).spawn(move || {
            // Should something be left, the name stays, so that it can be taken from the queue later.
            if clerk.work(&heard) {
                let _ = std::fs::remove_file(file);
            }
        })?;
        Ok(Slurm { words, happened, clerk: Some(clerk) })
    }

    /// Starts the world of a block on a node that the run has from the start.
    pub fn adopt(&mut self, id: BlockId, node: String) {
        self.say(Word::Adopt(id, node));
    }

    fn say(&self, word: Word) {
        // The clerk only leaves when it is told to.
        let _ = self.words.send(word);
    }
}

impl Provider for Slurm {
    fn request(&mut self, ids: &[BlockId], limit: Option<Duration>) {
        self.say(Word::Request(ids.to_vec(), limit));
    }

    fn release(&mut self, id: BlockId) {
        self.say(Word::Release(id));
    }

    fn withdraw(&mut self, id: BlockId) {
        self.say(Word::Withdraw(id));
    }

    fn poll(&mut self) -> Vec<(BlockId, Event)> {
        self.happened.try_iter().collect()
    }

    fn close(&mut self) {
        self.say(Word::Close);
        if self.clerk.take().is_some_and(|clerk| clerk.join().is_err()) {
            tracing::error!("the thread that speaks to Slurm failed; `squeue` shows whether jobs of this run are left");
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if self.clerk.is_some() {
            self.close();
        }
    }
}

/// For a block whose run is gone: those of the same run that still wait in the queue shall not come.
pub fn withdraw_siblings(name: &str) {
    if let Err(why) = commands::cancel_named(name, true) {
        tracing::warn!("cannot cancel what {name} still has in the queue: {why}");
    }
}

/// Ends the jobs that a run which is gone may have left, by what stands in the folder of its blocks' logs. Returns their name if there may have
/// been any.
///
/// # Errors
/// If Slurm refuses.
pub fn withdraw_abandoned(logs: &Path) -> Result<Option<String>, String> {
    withdraw_named_in(&logs.join(NAME_FILE))
}

fn withdraw_named_in(file: &PathBuf) -> Result<Option<String>, String> {
    let name = match std::fs::read_to_string(file) {
        Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
        _ => return Ok(None),
    };
    commands::cancel_named(&name, false)?;
    std::fs::remove_file(file).map_err(|error| format!("cannot remove {}: {error}", file.display()))?;
    Ok(Some(name))
}
