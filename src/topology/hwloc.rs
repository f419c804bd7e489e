//! The only file that calls hwloc: reads the machine into plain data, and keeps the topology for
//! binding threads.
//!
//! The `hwloc2` crate is thin and old, so only calls that are known to work are used. A bitmap is
//! cloned before any other use, because the bitmaps of objects alias the topology itself. Names and
//! `Display` of objects are never used, and NUMA nodes are found through the node sets of CPUs
//! because their level has no ordinary depth.

use std::sync::{Mutex, PoisonError};

use hwloc2::{Bitmap, CpuBindError, CpuBindFlags, ObjectType, TopologyObject};
use tracing::warn;

use super::{Domain, Machine};

/// The variable that names plugins that hwloc must not load.
const LEFT_OUT_VARIABLE: &str = "HWLOC_PLUGINS_BLACKLIST";

/// Plugins that search for displays and accelerators, whose libraries (X11, OpenCL, CUDA) take
/// longer to load than reading the machine, and the XML plugin, which hwloc does not need. The
/// plugin for PCI devices stays: Open MPI selects network cards by it.
const LEFT_OUT: &str = "hwloc_gl.so,hwloc_opencl.so,hwloc_cuda.so,hwloc_nvml.so,hwloc_rsmi.so,hwloc_levelzero.so,\
                        hwloc_xml_libxml.so";

/// The topology of this very machine, kept for [`bind`]; `None` until it is read, if that fails, or
/// if it describes another machine.
static LOADED: Mutex<Option<hwloc2::Topology>> = Mutex::new(None);

/// Keeps hwloc, here and inside Open MPI, from loading plugins that neither needs, unless the user
/// has set the variable. Call it before MPI is initialised and a topology is read.
///
/// # Safety
/// As for [`std::env::set_var`]: no other thread may use the environment meanwhile.
pub unsafe fn leave_out_plugins() {
    if std::env::var_os(LEFT_OUT_VARIABLE).is_none() {
        // SAFETY: guaranteed by the caller.
        unsafe { std::env::set_var(LEFT_OUT_VARIABLE, LEFT_OUT) };
    }
}

/// The version of the hwloc library that the program runs with, such as `2.9`.
pub fn hwloc_version() -> String {
    unsafe extern "C" {
        fn hwloc_get_api_version() -> std::ffi::c_uint;
    }
    // SAFETY: the function takes nothing, returns a constant of the library, and exists since
    // hwloc 1.0; the library is linked by the crate `hwloc2`.
    let version = unsafe { hwloc_get_api_version() };
    format!("{}.{}.{}", version >> 16, (version >> 8) & 0xff, version & 0xff)
}

/// True for the variable with the value that [`leave_out_plugins`] sets, which must not reach
/// tasks.
pub(crate) fn is_left_out_here(name: &str, value: &[u8]) -> bool {
    name == LEFT_OUT_VARIABLE && value == LEFT_OUT.as_bytes()
}

/// Reads the machine. If hwloc fails, the CPUs of the inherited mask form one domain, with a
/// warning.
pub(super) fn read_machine(mask: &[u32]) -> Machine {
    let node = node_name();
    let Some(topology) = hwloc2::Topology::new() else {
        warn!("hwloc cannot read this machine; its CPUs are treated as one domain");
        return flat(node, mask);
    };
    let real = !is_described();
    let domains = domains(&topology);
    let mut cpus: Vec<u32> = domains.iter().flat_map(|d| d.cpus.iter().copied()).collect();
    cpus.sort_unstable();
    if cpus.is_empty() {
        warn!("hwloc shows no CPU on this machine; those of the inherited mask are treated as one domain");
        return flat(node, mask);
    }
    let packages = packages(&topology);
    if real {
        *LOADED.lock().unwrap_or_else(PoisonError::into_inner) = Some(topology);
    }
    Machine { node, packages, domains, cpus, real, gpus: Vec::new() }
}

/// Binds the calling thread through hwloc; `None` if no topology of this machine is loaded, else
/// the error as `errno`.
pub(super) fn bind(cpus: &[u32]) -> Option<Result<(), i32>> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let set: Bitmap = cpus.iter().copied().collect();
    let bound = loaded.as_mut()?.set_cpubind(set, CpuBindFlags::CPUBIND_THREAD);
    Some(bound.map_err(|CpuBindError::Generic(errno, _)| errno))
}

/// True if hwloc describes another machine: one of these variables is set, and `HWLOC_THISSYSTEM`
/// does not override it.
fn is_described() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let told_otherwise = std::env::var_os("HWLOC_THISSYSTEM").is_some_and(|v| v == "1");
    (set("HWLOC_SYNTHETIC") || set("HWLOC_XMLFILE")) && !told_otherwise
}

fn flat(node: String, mask: &[u32]) -> Machine {
    let domain = Domain { id: 0, cpus: mask.to_vec(), memory: None };
    Machine { node, packages: 1, domains: vec![domain], cpus: mask.to_vec(), real: true, gpus: Vec::new() }
}

fn node_name() -> String {
    let by_slurm = std::env::var("SLURMD_NODENAME").ok().filter(|name| !name.is_empty());
    by_slurm.or_else(|| sysinfo::System::host_name().ok()).unwrap_or_else(|| "localhost".into())
}

fn packages(topology: &hwloc2::Topology) -> u32 {
    let level = (0..topology.depth()).find(|&d| matches!(topology.type_at_depth(d), ObjectType::Package));
    level.map_or(1, |depth| topology.size_at_depth(depth))
}

/// CPUs grouped by the memory that is nearest to them. The processing units are always the deepest
/// level.
fn domains(topology: &hwloc2::Topology) -> Vec<Domain> {
    let mut domains: Vec<(Vec<u32>, Domain)> = Vec::new();
    for unit in topology.objects_at_depth(topology.depth() - 1) {
        let nodes = nodes_of(unit);
        match domains.iter_mut().find(|(of, _)| *of == nodes) {
            Some((_, domain)) => domain.cpus.push(unit.os_index()),
            None => {
                let id = nodes.first().copied().unwrap_or(0);
                let memory = memory_of(topology, &nodes);
                domains.push((nodes, Domain { id, cpus: vec![unit.os_index()], memory }));
            }
        }
    }
    domains.into_iter().map(|(_, domain)| domain).collect()
}

/// The memory of a domain: the total of the deepest object that has memory and exactly the domain's
/// nodes.
fn memory_of(topology: &hwloc2::Topology, nodes: &[u32]) -> Option<u64> {
    let owner = |object: &&TopologyObject| object.total_memory() > 0 && nodes_of(object) == nodes;
    let levels = (0..topology.depth()).rev();
    levels.flat_map(|d| topology.objects_at_depth(d)).find(owner).map(TopologyObject::total_memory)
}

fn nodes_of(object: &TopologyObject) -> Vec<u32> {
    match object.nodeset() {
        // An infinite set means that all memory is equally near; iterating over it would not end.
        Some(set) if set.last() >= 0 => set.clone().into_iter().collect(),
        _ => Vec::new(),
    }
}
