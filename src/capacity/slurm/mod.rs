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
//! the dead run: the name that all jobs of a session share is kept in the run directory (`names`).
//! Each of them does so only where it is certain that the session is over; that it cannot be seen
//! from some node is no such sign.
//!
//! Slurm's commands may take seconds, so a thread of this folder's own calls them; the run only
//! exchanges words with it. None of them is waited for without end, and at the end of the run all
//! of them together have [`CLOSE_LIMIT`].

mod allocation;
mod commands;
mod manager;
mod names;
mod shrink;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use allocation::Allocation;
use commands::SlurmCommands;
use manager::{Clerk, Word};
use names::{NamesFile, SessionJobs};

use super::blocks::{BlockId, Event};
use super::provider::{Launch, Provider};
use crate::job::Capacity;
use crate::journal::EndedSessions;

/// In the folder of the blocks' logs: the names of the jobs that may be in the queue.
const NAME_FILE: &str = "slurm";

/// How long the end of a run waits for Slurm at most.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// See the module's text.
pub struct Slurm {
    words: Sender<Word>,
    happened: Receiver<(BlockId, Event)>,
    clerk: Option<JoinHandle<()>>,
    commands: SlurmCommands,
}

impl Slurm {
    /// Asks for blocks so. What earlier sessions may have left in the queue is taken from it, from
    /// those that have `ended`.
    ///
    /// # Errors
    /// If the system gives no thread, or the name of the jobs cannot be written down.
    pub fn new(
        launch: Launch,
        capacity: Capacity,
        allocation: Option<Allocation>,
        ended: &EndedSessions,
    ) -> std::io::Result<Slurm> {
        let commands = SlurmCommands::default();
        let mut names = NamesFile::read(launch.logs.join(NAME_FILE))?;
        let (_, left) = names.withdraw(&commands, ended);
        left.iter().for_each(|why| tracing::warn!("{why}"));
        names.sessions.push(SessionJobs::new(&launch.run, launch.began_unix_ns));
        names.write()?;
        let ((words, heard), (told, happened)) = (channel(), channel());
        let clerk = Clerk::new(launch, capacity, allocation, names, commands.clone(), told);
        let clerk = thread::Builder::new().name("slurm".into()).spawn(move || clerk.work(&heard))?;
        Ok(Slurm { words, happened, clerk: Some(clerk), commands })
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
        self.commands.close_by(Instant::now() + CLOSE_LIMIT);
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

/// For a block that found nobody to join: if its session is over, those of its jobs that still wait
/// in the queue shall not come.
pub fn withdraw_siblings(name: &str, ended: &EndedSessions) {
    let jobs = SessionJobs::named(name);
    if jobs.are_of(ended)
        && let Err(why) = jobs.cancel(&SlurmCommands::default(), true)
    {
        tracing::warn!("cannot cancel what {name} still has in the queue: {why}");
    }
}

/// Ends the jobs that sessions which are over may have left, by what stands in the folder of the
/// run's block logs. Returns their names.
///
/// # Errors
/// If Slurm refuses, or a session may go on.
pub fn withdraw_abandoned(logs: &Path, ended: &EndedSessions) -> Result<Vec<String>, String> {
    let file = logs.join(NAME_FILE);
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut names = NamesFile::read(file.clone()).map_err(told)?;
    let (gone, left) = names.withdraw(&SlurmCommands::default(), ended);
    if !gone.is_empty() {
        names.write().map_err(told)?;
    }
    if left.is_empty() { Ok(gone) } else { Err(left.join("; ")) }
}
