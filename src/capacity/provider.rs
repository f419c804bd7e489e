//! Who gives nodes, as the run sees it: takes requests, says what became of them, and ends blocks. Nothing here waits.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::blocks::{BlockId, Event};
use crate::model::Time;

/// What it takes to start the world of a block.
#[derive(Clone, Debug)]
pub struct Launch {
    /// This program.
    pub program: PathBuf,
    /// The run's contact file.
    pub contact: PathBuf,
    /// Where blocks write what they have to say.
    pub logs: PathBuf,
    /// The run's name.
    pub run: String,
    /// When the run's time began, in nanoseconds since 1970.
    pub began_unix_ns: u64,
}

impl Launch {
    /// The words that a block runs.
    pub fn words(&self, id: BlockId) -> [String; 6] {
        let text = |path: &PathBuf| path.display().to_string();
        let words = ["join", "--contact", &text(&self.contact), "--block", &id.0.to_string()].map(str::to_owned);
        let [join, flag, contact, block, number] = words;
        [text(&self.program), join, flag, contact, block, number]
    }

    /// Where a block writes.
    pub fn log(&self, id: BlockId) -> PathBuf {
        self.logs.join(format!("block-{}.log", id.0))
    }

    /// A moment in seconds since 1970 in the run's time; what was before the run is its beginning.
    pub fn moment(&self, unix_s: u64) -> Time {
        Time(unix_s.saturating_mul(1_000_000_000).saturating_sub(self.began_unix_ns))
    }
}

/// Gives nodes.
pub trait Provider: Send {
    /// Asks for blocks, which nobody needs for longer than `limit`; what comes of it is told by [`Provider::poll`].
    fn request(&mut self, ids: &[BlockId], limit: Option<Duration>);

    /// The ranks of a block have left: its node goes back as soon as its processes are gone.
    fn release(&mut self, id: BlockId);

    /// Ends a block at once, or withdraws its request.
    fn withdraw(&mut self, id: BlockId);

    /// What has happened since the last call.
    fn poll(&mut self) -> Vec<(BlockId, Event)>;

    /// Ends and withdraws all that is left, and returns once nothing is, or after a while.
    fn close(&mut self);
}

/// Takes from a command's environment what would make its process believe that it belongs to this
/// process's world, job or step, and what changes what Slurm's commands print and do.
pub(super) fn alone(command: &mut Command) -> &mut Command {
    alone_but(command, &[])
}

/// The same, but leaves some variables.
pub(super) fn alone_but<'a>(command: &'a mut Command, kept: &[&str]) -> &'a mut Command {
    let goes = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !ALWAYS.contains(&name);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| goes(name) && !kept.contains(&name)) {
            command.env_remove(name);
        }
    }
    command
}

/// Of launchers, and of the commands of Slurm.
const PREFIXES: [&str; 13] = [
    "OMPI_",
    "PMIX_",
    "PMI_",
    "PRTE_",
    "SLURM_",
    "SLURMD_",
    "SALLOC_",
    "SBATCH_",
    "SCANCEL_",
    "SCONTROL_",
    "SINFO_",
    "SQUEUE_",
    "SRUN_",
];

/// Without these Slurm cannot be reached.
const ALWAYS: [&str; 2] = ["SLURM_CONF", "SLURM_JWT"];
