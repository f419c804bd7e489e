//! The allocation that the run was started in, if each of its nodes has a world of its own.
//!
//! The batch script starts rank 0's world on its own node and sets `PHALANX_WORLDS=each`; rank 0
//! starts a world on each other node as a step. One `mpirun` over all nodes would die with the
//! first node that is released.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::super::blocks::BlockId;
use super::super::provider::{Launch, alone};
use crate::job::units::expand_hosts;
use crate::system::open_files;

/// The batch script sets this if each node has a world of its own.
const WORLDS: &str = "PHALANX_WORLDS";

/// An allocation of several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The number of its job.
    pub job: String,
    /// Its nodes without that of rank 0.
    pub others: Vec<String>,
}

impl Allocation {
    /// The allocation of this process, if it has nodes without a world.
    pub fn from_environment() -> Option<Allocation> {
        Allocation::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Allocation> {
        if variable(WORLDS)? != "each" {
            return None;
        }
        let (job, here) = (variable("SLURM_JOB_ID")?, variable("SLURMD_NODENAME")?);
        let mut others = expand_hosts(&variable("SLURM_JOB_NODELIST")?).ok()?;
        others.retain(|node| *node != here);
        (!others.is_empty()).then_some(Allocation { job, others })
    }

    /// Starts a world on one of its nodes; the process is that of the step.
    pub(super) fn start(&self, launch: &Launch, id: BlockId, node: &str, words: &[String]) -> std::io::Result<Child> {
        let log = File::options().create(true).append(true).open(launch.log(id))?;
        let mut command = Command::new("srun");
        command.args(["--jobid", &self.job, "--nodelist", node]).args(STEP).args(words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A launcher signals the whole group of rank 0, and `srun` would pass it on to all that
        // runs in its step, commands included.
        command.process_group(0);
        alone(&mut command).spawn().inspect(|child| open_files::restore_limit(child.id()))
    }
}

/// Options of a step that starts a world on one node, beside the batch script and with all CPUs of
/// the node.
pub(super) const STEP: [&str; 6] =
    ["--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mpi=none", "--input=none"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_without_a_world_are_those_of_the_others() {
        let of = |pairs: &[(&str, &str)]| {
            Allocation::of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let all =
            [(WORLDS, "each"), ("SLURM_JOB_ID", "7"), ("SLURMD_NODENAME", "n2"), ("SLURM_JOB_NODELIST", "n[1-3]")];
        let found = of(&all).unwrap();
        assert_eq!((found.job.as_str(), found.others), ("7", vec!["n1".to_owned(), "n3".to_owned()]));
        assert_eq!(of(&all[1..]), None, "a script that starts one world over all nodes does not say `each`");
        assert_eq!(of(&[all[0], all[1], all[2], ("SLURM_JOB_NODELIST", "n2")]), None);
    }
}
