//! The interface of what gives nodes: takes requests, reports events, and ends blocks. No call
//! waits, except for [`Provider::close`].

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::blocks::{BlockEvent, BlockId};
use crate::model::{Labels, Offers, Time};
use crate::system::http_client::ADVISOR_KEY;
use crate::system::own_program;

/// What it takes to start the world of a block.
#[derive(Clone, Debug)]
pub struct Launch {
    /// This program.
    pub program: PathBuf,
    /// The run's contact file.
    pub contact: PathBuf,
    /// Folder of the blocks' output.
    pub logs: PathBuf,
    /// The run's name.
    pub run: String,
    /// When the run's time began, in nanoseconds since 1970.
    pub began_unix_ns: u64,
    /// Slots of a rank there, if the job says.
    pub slots: Option<u32>,
}

impl Launch {
    /// The command line of a block whose ranks have these labels.
    pub fn words(&self, id: BlockId, labels: &[String]) -> Vec<String> {
        let text = |path: &PathBuf| path.display().to_string();
        let (program, contact) = (text(&self.program), text(&self.contact));
        let (session, number) = (self.session_ms().to_string(), id.0.to_string());
        let mut words = [&program, "join", "--contact", &contact, "--session", &session, "--block", &number]
            .map(str::to_owned)
            .to_vec();
        words.extend(self.slots.iter().flat_map(|slots| ["--slots".to_owned(), slots.to_string()]));
        if !labels.is_empty() {
            words.extend(["--labels".to_owned(), labels.join(",")]);
        }
        words
    }

    /// When the run's time began, in milliseconds since 1970: numbers of blocks are those of one
    /// session.
    pub fn session_ms(&self) -> u64 {
        self.began_unix_ns / 1_000_000
    }

    /// File of a block's output.
    pub fn log(&self, id: BlockId) -> PathBuf {
        self.logs.join(format!("block-{}.log", id.0))
    }

    /// Converts seconds since 1970 to the run's time; a moment before the run is its beginning.
    pub fn moment(&self, unix_s: u64) -> Time {
        Time(unix_s.saturating_mul(1_000_000_000).saturating_sub(self.began_unix_ns))
    }
}

/// Gives nodes to a run.
pub trait Provider: Send {
    /// Requests blocks with these labels, which are needed for at most `limit`.
    /// [`Provider::poll`] reports the outcome.
    fn request(&mut self, ids: &[BlockId], labels: &Labels, limit: Option<Duration>);

    /// The nodes that it can give, by their labels.
    fn offers(&self) -> Offers;

    /// Number of blocks that it can hold at a time, if known.
    fn most_blocks(&self) -> Option<u32>;

    /// When a job that is submitted now would start, by the batch system's own latest estimate.
    fn expected_start(&self) -> Option<Time> {
        None
    }

    /// Releases the node of a block whose ranks have left, as soon as its processes are gone.
    fn release(&mut self, id: BlockId);

    /// Ends a block at once, or withdraws its request.
    fn withdraw(&mut self, id: BlockId);

    /// Events since the last call.
    fn poll(&mut self) -> Vec<(BlockId, BlockEvent)>;

    /// Ends and withdraws all blocks, and returns when that is done or a limit has passed.
    fn close(&mut self);
}

/// Removes from a command's environment the variables that tie a process to this process's world,
/// job or step, those that change what Slurm's commands print and do, and the key of rank 0; marks
/// it as no task.
pub(super) fn alone(command: &mut Command) -> &mut Command {
    alone_but(command, &[])
}

/// The same, but keeps some variables.
pub(super) fn alone_but<'a>(command: &'a mut Command, kept: &[&str]) -> &'a mut Command {
    let goes = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !ALWAYS.contains(&name);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| goes(name) && !kept.contains(&name)) {
            command.env_remove(name);
        }
    }
    own_program::mark(command.env_remove(ADVISOR_KEY))
}

/// The variable with the labels of a rank: those of rank 0 say nothing about a block.
pub(super) const LABELS: &str = "PHALANX_LABELS";

/// Prefixes of the variables of launchers and of Slurm's commands.
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

/// Variables without which Slurm cannot be reached.
const ALWAYS: [&str; 2] = ["SLURM_CONF", "SLURM_JWT"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_advisor_reaches_no_provider() {
        let mut command = Command::new("sbatch");
        alone_but(&mut command, &["SBATCH_PARTITION"]);
        assert!(command.get_envs().any(|(name, value)| name == ADVISOR_KEY && value.is_none()));
    }
}
