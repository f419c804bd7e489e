//! What the launcher granted this process: CPUs, memory, GPUs, and its local rank on the node.
//!
//! The inherited affinity mask is binding: a thread *could* pin itself elsewhere, but never may.
//! The mask does not show whether the node's other ranks have the same one, as when the launcher
//! did not bind. Before ranks can communicate this is inferred from the mask alone: a mask as wide
//! as the whole machine or as the launcher's own was not made for us, so all local ranks share it.
//! [`Grant::agree`] replaces the inference by facts once ranks have compared masks.

use std::fs;

use serde::{Serialize, Serializer};

use super::gpus::Gpus;
use super::{Machine, memory, parse_cpus, share};

/// What this process may use of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// The affinity mask that this process inherited, in ascending order.
    pub mask: Vec<u32>,
    /// The CPUs of this rank: the mask, or its share if several ranks have the same mask. Never
    /// empty.
    pub cpus: Vec<u32>,
    /// True if more ranks share the mask than it has CPUs; then `cpus` is the whole mask, and no
    /// rank pins.
    pub crowded: bool,
    /// Number of ranks that share the mask (1 if it is this rank's alone).
    pub sharers: u32,
    /// Number of this rank among those that the same launcher started on this node, from 0.
    pub local_rank: u32,
    /// Number of ranks that the same launcher started on this node.
    pub local_size: u32,
    /// The launcher of this process, e.g. `OpenMPI`; `None` if unknown.
    pub launcher: Option<&'static str>,
    /// Bytes of memory for this rank: the node's grant divided by the local size.
    pub memory: u64,
    /// This rank's GPUs; serialised as their names in the variable.
    #[serde(serialize_with = "names")]
    pub gpus: Gpus,
}

/// Looks up an environment variable.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Launchers and the variables that hold a rank's local rank and local size. Order matters: under
/// Slurm, `mpirun` starts its daemons through `srun`, whose variables then describe the daemons.
const LAUNCHERS: [(&str, &str, &str); 5] = [
    ("OpenMPI", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPICH", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("MVAPICH", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PALS", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("Slurm", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
];

impl Grant {
    /// Reads the grant. `mask` is the inherited mask, read before anything was pinned.
    pub(super) fn read(machine: &Machine, mask: Vec<u32>, env: Env<'_>) -> Grant {
        let (launcher, local_rank, local_size) = local_place(env);
        let usable = usable(machine, &mask);
        let shared = unbound(machine, &mask, parent_mask());
        let (turn, sharers) = if shared { (local_rank, local_size) } else { (0, 1) };
        let part = share::cpus(&machine.in_order(&usable), turn, sharers);
        let memory = memory::granted(&usable, env) / u64::from(local_size);
        let gpus = Gpus::read(machine, env, local_rank, local_size);
        let (cpus, crowded) = (part.cpus, part.crowded);
        Grant { mask, cpus, crowded, sharers, local_rank, local_size, launcher, memory, gpus }
    }

    /// Determines which ranks share CPUs: `masks` holds the mask of every rank on the node, in the
    /// order of their local ranks, including this one. Call it before slots are placed.
    pub fn agree(&mut self, machine: &Machine, masks: &[Vec<u32>]) {
        let same = |mask: &&Vec<u32>| **mask == self.mask;
        let sharers = masks.iter().filter(same).count().max(1) as u32;
        let before = masks.iter().take(self.local_rank as usize).filter(same).count() as u32;
        let part = share::cpus(&machine.in_order(&usable(machine, &self.mask)), before, sharers);
        (self.cpus, self.crowded, self.sharers) = (part.cpus, part.crowded, sharers);
    }
}

fn names<S: Serializer>(gpus: &Gpus, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(gpus.list.iter().map(|gpu| &gpu.name))
}

/// The mask restricted to the CPUs that hwloc shows. If hwloc describes another machine, all its
/// CPUs count, for experiments.
fn usable(machine: &Machine, mask: &[u32]) -> Vec<u32> {
    if !machine.real {
        return machine.cpus.clone();
    }
    let both: Vec<u32> = mask.iter().copied().filter(|c| machine.cpus.contains(c)).collect();
    if both.is_empty() { mask.to_vec() } else { both }
}

fn unbound(machine: &Machine, mask: &[u32], parent: Option<Vec<u32>>) -> bool {
    !machine.real || machine.cpus.iter().all(|cpu| mask.contains(cpu)) || parent.is_some_and(|parent| parent == mask)
}

/// The mask of the parent process.
fn parent_mask() -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{}/status", std::os::unix::process::parent_id())).ok()?;
    parse_cpus(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

fn local_place(env: Env<'_>) -> (Option<&'static str>, u32, u32) {
    for (launcher, rank, size) in LAUNCHERS {
        let rank = env(rank).and_then(|v| v.trim().parse::<u32>().ok());
        let size = env(size).and_then(|v| tasks_on_node(&v, env));
        if let (Some(rank), Some(size)) = (rank, size)
            && rank < size
        {
            return (Some(launcher), rank, size);
        }
    }
    (None, 0, 1)
}

/// Number of ranks on this node: a plain number, or Slurm's list such as `4(x2),1`, read at
/// `SLURM_NODEID`.
fn tasks_on_node(text: &str, env: Env<'_>) -> Option<u32> {
    let mut node = env("SLURM_NODEID").and_then(|v| v.trim().parse::<u32>().ok()).unwrap_or(0);
    for part in text.trim().split(',') {
        let (tasks, repeat) = match part.split_once("(x") {
            Some((tasks, repeat)) => (tasks, repeat.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        if node < repeat {
            return tasks.trim().parse().ok();
        }
        node -= repeat;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::Domain;
    use super::*;

    fn machine() -> Machine {
        let domain = |id: u32| Domain { id, cpus: (4 * id..4 * id + 4).collect(), memory: None };
        let domains = vec![domain(0), domain(1)];
        Machine { node: "n1".into(), packages: 2, domains, cpus: (0..8).collect(), real: true, gpus: vec![] }
    }

    fn grant(mask: Vec<u32>, vars: &[(&str, &str)]) -> Grant {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Grant::read(&machine(), mask, &env)
    }

    #[test]
    fn ranks_that_share_an_unbound_mask_divide_it() {
        let of = |rank| [("OMPI_COMM_WORLD_LOCAL_RANK", rank), ("OMPI_COMM_WORLD_LOCAL_SIZE", "3")];
        let shares: Vec<_> = ["0", "1", "2"].iter().map(|r| grant((0..8).collect(), &of(r)).cpus).collect();
        assert_eq!(shares.concat(), (0..8).collect::<Vec<_>>());
        assert!(shares.iter().all(|s| s.len() == 2 || s.len() == 3));
    }

    #[test]
    fn a_bound_rank_keeps_its_mask() {
        let got = grant(vec![3], &[("OMPI_COMM_WORLD_LOCAL_RANK", "1"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]);
        assert_eq!((got.cpus, got.crowded, got.launcher), (vec![3], false, Some("OpenMPI")));
    }

    #[test]
    fn ranks_that_compared_masks_share_only_with_equals() {
        // Two sockets, two ranks bound to each, dealt round robin.
        let masks = [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![0, 1, 2, 3], vec![4, 5, 6, 7]];
        let mut got = grant(masks[2].clone(), &[("MPI_LOCALRANKID", "2"), ("MPI_LOCALNRANKS", "4")]);
        got.agree(&machine(), &masks);
        assert_eq!((got.cpus, got.sharers), (vec![2, 3], 2));
    }

    #[test]
    fn a_mask_equal_to_the_launchers_was_not_cut_for_us() {
        assert!(unbound(&machine(), &[0, 1], Some(vec![0, 1])));
        assert!(!unbound(&machine(), &[0, 1], Some((0..8).collect())));
        assert!(!unbound(&machine(), &[0, 1], None));
        assert!(unbound(&machine(), &[0, 1, 2, 3, 4, 5, 6, 7], None));
    }

    #[test]
    fn slurm_tells_tasks_per_node_as_a_list() {
        let env = |name: &str| (name == "SLURM_NODEID").then(|| "2".to_string());
        assert_eq!(tasks_on_node("4(x2),1", &env), Some(1));
        assert_eq!(tasks_on_node("4(x3)", &env), Some(4));
        assert_eq!(tasks_on_node("4(x", &env), None);
        assert_eq!(tasks_on_node("4", &env), None);
    }

    #[test]
    fn a_batch_script_is_one_process_whatever_slurm_says_about_tasks() {
        let got = grant((0..8).collect(), &[("SLURM_LOCALID", "0"), ("SLURM_TASKS_PER_NODE", "4")]);
        assert_eq!((got.local_size, got.cpus.len()), (1, 8));
    }

    #[test]
    fn nonsense_from_the_launcher_means_alone() {
        for vars in
            [[("MPI_LOCALRANKID", "7"), ("MPI_LOCALNRANKS", "2")], [("MPI_LOCALRANKID", "x"), ("MPI_LOCALNRANKS", "0")]]
        {
            assert_eq!(grant((0..8).collect(), &vars).local_size, 1);
        }
    }
}
