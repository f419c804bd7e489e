//! The resources of this process: the machine as hwloc sees it, and the part that the launcher
//! granted.
//!
//! Everything is read once, at the start and before any thread is pinned, and copied into plain
//! data. Later, hwloc is used only to bind threads. hwloc shows every CPU of the node; the CPUs to
//! *use* are always restricted to the affinity mask that this process inherited, see [`Grant`].

mod bind;
mod cpulist;
mod gpus;
mod grant;
mod hwloc;
mod memory;
mod places;
mod share;
pub mod show;

use serde::Serialize;

pub use bind::{BindError, bind_current_thread, bind_to_lent};
pub use cpulist::{format_cpus, parse_cpus};
pub use gpus::{Device, Gpu, GpuProbe, GpuUse, Gpus, Maker};
pub use grant::Grant;
pub(crate) use hwloc::is_left_out_here;
pub use hwloc::{hwloc_version, leave_out_plugins};
pub use places::SlotPlace;

/// The machine and the grant, read together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// The machine that this process runs on.
    pub machine: Machine,
    /// What the launcher granted of it.
    pub grant: Grant,
}

/// A node as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The node's name: Slurm's where Slurm gives one, else the host name.
    pub node: String,
    /// Physical packages (sockets).
    pub packages: u32,
    /// Its domains, in hwloc's order; never empty.
    pub domains: Vec<Domain>,
    /// All its CPUs that the system allows any process to use, in ascending order.
    pub cpus: Vec<u32>,
    /// False if hwloc describes another machine (`HWLOC_SYNTHETIC`, `HWLOC_XMLFILE`).
    pub real: bool,
    /// Its GPUs, as far as the system shows them to this process.
    pub gpus: Vec<Device>,
}

/// CPUs that share their nearest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Number of the NUMA node (the lowest, if several are equally near).
    pub id: u32,
    /// Its CPUs, in hwloc's logical order: hardware threads of one core are neighbours.
    pub cpus: Vec<u32>,
    /// Its memory in bytes, if hwloc knows it.
    pub memory: Option<u64>,
}

/// The labels of this process: these, and those in the environment variable `PHALANX_LABELS`,
/// separated by commas. Ascending, each once.
pub fn labels(given: &[String]) -> Vec<String> {
    let of_environment = std::env::var("PHALANX_LABELS").unwrap_or_default();
    let words = of_environment.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned);
    let mut labels: Vec<String> = words.chain(given.iter().cloned()).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

impl Topology {
    /// Reads the machine and the grant. Takes a few milliseconds, mostly in hwloc (tens on a large
    /// node), so a program may do it in a separate thread at its start, as long as nothing has been
    /// pinned yet.
    pub fn discover() -> Topology {
        let mask = bind::inherited_mask();
        let mut machine = hwloc::read_machine(mask);
        if machine.real {
            machine.gpus = GpuProbe::new().devices(&|cpu| machine.domain_of(cpu));
        }
        let grant = Grant::read(&machine, mask.to_vec(), &|name| std::env::var(name).ok());
        Topology { machine, grant }
    }

    /// The place of each slot; by default one slot per granted CPU. See [`SlotPlace`].
    pub fn places(&self, slots: Option<usize>) -> Vec<SlotPlace> {
        places::places(&self.machine, &self.grant, slots)
    }

    /// Number of slots that [`places`](Topology::places) chooses if none is given.
    pub fn default_slots(&self) -> usize {
        places::default_slots(&self.grant)
    }

    /// Places of further slots, each of which floats over its domain's granted CPUs.
    pub fn floating_places(&self, slots: usize) -> Vec<SlotPlace> {
        places::floating_places(&self.machine, &self.grant, slots)
    }
}

impl Machine {
    /// The id of the domain that holds `cpu`; the first domain's for a CPU that hwloc does not
    /// show.
    pub fn domain_of(&self, cpu: u32) -> u32 {
        let holds = |d: &&Domain| d.cpus.contains(&cpu);
        self.domains.iter().find(holds).or(self.domains.first()).map_or(0, |d| d.id)
    }

    /// The given CPUs by domain and in logical order within each, so that neighbours in the list
    /// are neighbours on the machine. CPUs that hwloc does not show come last.
    fn in_order(&self, cpus: &[u32]) -> Vec<u32> {
        let shown = self.domains.iter().flat_map(|d| d.cpus.iter().copied()).filter(|c| cpus.contains(c));
        let mut ordered: Vec<u32> = shown.collect();
        let hidden: Vec<u32> = cpus.iter().copied().filter(|c| !ordered.contains(c)).collect();
        ordered.extend(hidden);
        ordered
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs the test `name` of this module in a process of its own with these variables.
    fn again(name: &str, vars: &[(&str, &str)]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("topology::tests::{name}"), "--exact", "--ignored", "--nocapture"]);
        let output = command.envs(vars.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn many_domains() {
        again("many_domains_described", &[("HWLOC_SYNTHETIC", "package:2 l3:2 numa:1 core:2 pu:1")]);
    }

    #[test]
    #[ignore = "run by many_domains in a process that hwloc describes another machine to"]
    fn many_domains_described() {
        let topology = Topology::discover();
        let machine = &topology.machine;
        assert_eq!((machine.packages, machine.domains.len(), machine.cpus.len(), machine.real), (2, 4, 8, false));
        assert_eq!(machine.domains.iter().map(|d| d.id).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(machine.domains.iter().all(|d| d.memory.is_some_and(|bytes| bytes > 0)), "{machine:?}");
        let places = topology.places(None);
        assert_eq!(places.iter().map(|p| p.domain).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert!(places.iter().all(|p| p.pinned == topology.grant.mask.contains(&p.cpus[0])));
        let outside = (0..8).find(|cpu| !topology.grant.mask.contains(cpu));
        assert!(outside.is_none_or(|cpu| bind_current_thread(&[cpu]).is_err()));
    }

    #[test]
    fn ranks_of_one_node_divide_it_by_domain() {
        let vars = [
            ("HWLOC_SYNTHETIC", "package:2 numa:2 core:4 pu:2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        again("third_rank_of_four", &vars);
    }

    #[test]
    #[ignore = "run by ranks_of_one_node_divide_it_by_domain in a process of its own"]
    fn third_rank_of_four() {
        let topology = Topology::discover();
        assert_eq!(topology.grant.cpus, topology.machine.domains[2].cpus);
        assert_eq!(topology.grant.launcher, Some("OpenMPI"));
        let four = topology.places(Some(4));
        let cpus: Vec<_> = four.iter().map(|p| p.cpus[0]).collect();
        assert_eq!(cpus, [16, 18, 20, 22], "one hardware thread of each core first");
    }

    #[test]
    fn this_machine_is_read_and_grants_at_least_one_cpu() {
        let topology = Topology::discover();
        assert!(!topology.grant.cpus.is_empty());
        assert!(!topology.machine.domains.is_empty());
        assert!(topology.grant.memory > 0);
        let places = topology.places(None);
        assert!(!places.is_empty());
        assert!(places.iter().all(|p| !p.cpus.is_empty()));
    }
}
