//! The GPUs that this rank may use, how tasks see them, and their present use.
//!
//! Launchers and users select our GPUs through the variables of [`VARIABLES`]. Only if none is set,
//! and no batch system owns the node, all GPUs of the machine are used. A GPU has a *name* in that
//! variable, which commands get, and an *ordinal* among the GPUs that this process sees, which
//! kernels pass to CUDA or HIP.
//!
//! NVIDIA GPUs are queried through NVML, which comes with the driver and is loaded at run
//! time; AMD GPUs through sysfs. A machine without either has no GPUs, which is not an error.

use std::fs;
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use serde::Serialize;

use super::grant::Env;
use super::{Machine, parse_cpus, share};

/// The variables that show GPUs to a process, and the vendor whose libraries read them.
const VARIABLES: [(&str, Option<Maker>); 4] = [
    ("CUDA_VISIBLE_DEVICES", Some(Maker::Nvidia)),
    ("ROCR_VISIBLE_DEVICES", Some(Maker::Amd)),
    ("HIP_VISIBLE_DEVICES", Some(Maker::Amd)),
    ("ZE_AFFINITY_MASK", None),
];

/// Variables of batch systems, which own the nodes of their jobs: GPUs that they do not show are
/// not ours.
const BATCH_VARIABLES: [&str; 8] = [
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "FLUX_JOB_ID",
    "OAR_JOB_ID",
    "COBALT_JOBID",
    "SGE_O_HOST",
    "_CONDOR_JOB_AD",
];

/// Least memory, in bytes, of an AMD GPU for computing: integrated graphics, which use a part of
/// the machine's memory, have less.
const MIN_AMD_MEMORY_BYTES: u64 = 4 << 30;

/// File name of NVML. The name without a number belongs to a development package, which nodes
/// often lack.
const NVML_FILE: &str = "libnvidia-ml.so.1";

/// The vendor of a GPU, which decides how it is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// NVIDIA: queried through NVML.
    Nvidia,
    /// AMD: read from sysfs.
    Amd,
}

/// A GPU of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its vendor.
    pub maker: Maker,
    /// Its number among the GPUs of its vendor, in bus order.
    pub number: u32,
    /// Its model, e.g. `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// Its unique id, if the vendor provides one.
    pub uuid: Option<String>,
    /// Its memory in bytes.
    pub memory: u64,
    /// The domain whose CPUs are nearest to it, if known.
    pub domain: Option<u32>,
    /// Its PCI address, e.g. `0000:3b:00.0`.
    pub address: String,
}

/// A GPU that this rank may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name in the variable.
    pub name: String,
    /// Its number among the GPUs that this process sees.
    pub ordinal: u32,
    /// The device, if known.
    pub device: Option<Device>,
}

/// The GPUs that this rank may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// The variable that shows a task its GPUs.
    pub variable: &'static str,
    /// True if the names were assigned by Phalanx, in bus order.
    pub counted: bool,
    /// The GPUs, by ordinal.
    pub list: Vec<Gpu>,
}

impl Gpus {
    /// Determines this rank's share of the GPUs that a variable shows, else of the machine's.
    pub(super) fn read(machine: &Machine, env: Env<'_>, local_rank: u32, local_size: u32) -> Gpus {
        let (variable, maker, names, counted) = shown(env).unwrap_or_else(|| of_machine(machine, env));
        let device =
            |name: &str| machine.gpus.iter().find(|device| maker == Some(device.maker) && device.is_called(name));
        let gpu = |(at, name): (usize, String)| Gpu { ordinal: at as u32, device: device(&name).cloned(), name };
        let all = names.into_iter().enumerate().map(gpu).collect();
        let list = if given_per_task(env) { all } else { share::gpus(all, local_rank, local_size) };
        Gpus { variable, counted, list }
    }

    /// Gives up GPUs that Phalanx only counted: a rank that was not started together with the other
    /// ranks of the machine cannot know which are theirs.
    pub fn leave_counted(&mut self) {
        if self.counted {
            self.list.clear();
        }
    }

    /// The names of the GPUs with these ordinals, as the variable writes them.
    pub fn names(&self, ordinals: &[u32]) -> Vec<String> {
        let name = |ordinal: &u32| match self.list.iter().find(|gpu| gpu.ordinal == *ordinal) {
            Some(gpu) => gpu.name.clone(),
            None => ordinal.to_string(),
        };
        ordinals.iter().map(name).collect()
    }
}

impl Device {
    /// True if `name` in a variable refers to this GPU.
    fn is_called(&self, name: &str) -> bool {
        // CUDA accepts a prefix of a UUID.
        name.parse() == Ok(self.number)
            || self.uuid.as_ref().is_some_and(|uuid| name.len() > 4 && uuid.starts_with(name))
    }
}

type Shown = (&'static str, Option<Maker>, Vec<String>, bool);

/// The GPUs that a variable shows; `None` if none is set.
fn shown(env: Env<'_>) -> Option<Shown> {
    let said = VARIABLES.iter().find_map(|&(name, maker)| Some((name, maker, env(name)?)));
    let by_slurm = || {
        let list = ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS"].iter().find_map(|name| env(name))?;
        Some(("CUDA_VISIBLE_DEVICES", Some(Maker::Nvidia), list))
    };
    let (variable, maker, list) = said.or_else(by_slurm)?;
    // As in CUDA, the list ends at the first invalid device. `-1`, `NoDevFiles` and the like hide
    // all.
    let is_device = |name: &&str| {
        let number = |name: &str| name.parse::<u32>().is_ok();
        let tile = maker.is_none() && name.split_once('.').is_some_and(|(card, tile)| number(card) && number(tile));
        number(name) || tile || name.starts_with("GPU-") || name.starts_with("MIG-")
    };
    let names = list.split(',').map(str::trim).take_while(is_device).map(String::from).collect();
    Some((variable, maker, names, false))
}

/// All GPUs of the machine, unless a batch system owns it.
fn of_machine(machine: &Machine, env: Env<'_>) -> Shown {
    let maker = machine.gpus.first().map_or(Maker::Nvidia, |device| device.maker);
    let variable = if maker == Maker::Nvidia { VARIABLES[0].0 } else { VARIABLES[1].0 };
    let owned = BATCH_VARIABLES.iter().any(|name| env(name).is_some());
    let ours = machine.gpus.iter().filter(|device| device.maker == maker && !owned);
    (variable, Some(maker), ours.map(|device| device.number.to_string()).collect(), true)
}

/// True if Slurm was asked for GPUs per task and hides those of other tasks.
fn given_per_task(env: Env<'_>) -> bool {
    let per_task =
        env("SLURM_GPUS_PER_TASK").is_some() || env("SLURM_TRES_PER_TASK").is_some_and(|v| v.contains("gpu"));
    per_task && env("SLURM_STEP_ID").is_some() && env("OMPI_COMM_WORLD_LOCAL_RANK").is_none()
}

/// The use of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuUse {
    /// Share of recent time in which it was busy, 0 to 1.
    pub busy: f64,
    /// Bytes of its memory in use.
    pub memory_used: u64,
}

/// Queries GPUs.
pub struct GpuProbe {
    nvml: Option<Nvml>,
    sysfs: PathBuf,
}

impl GpuProbe {
    /// Loads NVML if installed, which takes tens of milliseconds; otherwise next to nothing.
    pub fn new() -> GpuProbe {
        let nvml = Nvml::builder().lib_path(NVML_FILE.as_ref()).init();
        GpuProbe { nvml: nvml.inspect_err(|why| tracing::debug!("no NVIDIA GPUs: {why}")).ok(), sysfs: "/sys".into() }
    }

    /// The GPUs of this machine that the system lets this process see.
    pub(super) fn devices(&self, domain_of: &dyn Fn(u32) -> u32) -> Vec<Device> {
        let mut devices = self.nvidia();
        devices.extend(self.amd());
        for device in &mut devices {
            device.domain = self.domain(&device.address, domain_of);
        }
        devices
    }

    /// The present use of a GPU; `None` if unknown.
    pub fn usage(&self, device: &Device) -> Option<GpuUse> {
        match device.maker {
            Maker::Nvidia => {
                let asked = self.nvml.as_ref()?.device_by_index(device.number).ok()?;
                let busy = f64::from(asked.utilization_rates().ok()?.gpu) / 100.0;
                Some(GpuUse { busy, memory_used: asked.memory_info().ok()?.used })
            }
            Maker::Amd => {
                let card = self.sysfs.join("bus/pci/devices").join(&device.address);
                let busy = number(&card.join("gpu_busy_percent"))? as f64 / 100.0;
                Some(GpuUse { busy, memory_used: number(&card.join("mem_info_vram_used"))? })
            }
        }
    }

    fn nvidia(&self) -> Vec<Device> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let device = |number: u32| {
            let device = nvml.device_by_index(number).ok()?;
            Some(Device {
                maker: Maker::Nvidia,
                number,
                model: device.name().unwrap_or_default(),
                uuid: device.uuid().ok(),
                memory: device.memory_info().map_or(0, |memory| memory.total),
                domain: None,
                address: device.pci_info().map(|pci| sysfs_address(&pci.bus_id)).unwrap_or_default(),
            })
        };
        (0..nvml.device_count().unwrap_or(0)).filter_map(device).collect()
    }

    fn amd(&self) -> Vec<Device> {
        let mut cards: Vec<PathBuf> = fs::read_dir(self.sysfs.join("bus/pci/devices"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        cards.retain(|card| {
            word(&card.join("vendor")).as_deref() == Some("0x1002") && card.join("gpu_busy_percent").exists()
        });
        cards.retain(|card| number_or_none(&card.join("mem_info_vram_total")) >= MIN_AMD_MEMORY_BYTES);
        cards.sort();
        let device = |(number, card): (usize, &PathBuf)| Device {
            maker: Maker::Amd,
            number: number as u32,
            model: word(&card.join("product_name")).unwrap_or_else(|| "AMD GPU".into()),
            uuid: word(&card.join("unique_id")).map(|id| format!("GPU-{id}")),
            memory: number_or_none(&card.join("mem_info_vram_total")),
            domain: None,
            address: card.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        cards.iter().enumerate().map(device).collect()
    }

    /// The domain of the CPUs that are local to a PCI address, if they are all in one domain.
    fn domain(&self, address: &str, domain_of: &dyn Fn(u32) -> u32) -> Option<u32> {
        let cpus = parse_cpus(&word(&self.sysfs.join("bus/pci/devices").join(address).join("local_cpulist"))?)?;
        let first = domain_of(*cpus.first()?);
        cpus.iter().all(|&cpu| domain_of(cpu) == first).then_some(first)
    }
}

impl Default for GpuProbe {
    fn default() -> GpuProbe {
        GpuProbe::new()
    }
}

/// Converts a PCI address: NVML writes eight digits for the domain, sysfs four.
fn sysfs_address(address: &str) -> String {
    let address = address.to_lowercase();
    match address.split_once(':') {
        Some((part, rest)) if part.len() > 4 && part.is_ascii() => format!("{}:{rest}", &part[part.len() - 4..]),
        _ => address,
    }
}

fn word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &Path) -> Option<u64> {
    word(path)?.parse().ok()
}

fn number_or_none(path: &Path) -> u64 {
    number(path).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::Domain;
    use super::*;

    fn device(number: u32, uuid: &str) -> Device {
        let (maker, address) = (Maker::Nvidia, format!("0000:{number:02x}:00.0"));
        Device { maker, number, model: "X".into(), uuid: Some(uuid.into()), memory: 8, domain: Some(number), address }
    }

    fn machine(gpus: Vec<Device>) -> Machine {
        let domains = vec![Domain { id: 0, cpus: (0..8).collect(), memory: None }];
        Machine { node: "n1".into(), packages: 1, domains, cpus: (0..8).collect(), real: true, gpus }
    }

    fn read(vars: &[(&str, &str)], rank: u32, ranks: u32) -> Gpus {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Gpus::read(&machine(vec![device(0, "GPU-aa"), device(1, "GPU-bb")]), &env, rank, ranks)
    }

    fn names(gpus: &Gpus) -> Vec<&str> {
        gpus.list.iter().map(|gpu| gpu.name.as_str()).collect()
    }

    #[test]
    fn what_is_shown_is_divided_and_never_shared() {
        let four = [("CUDA_VISIBLE_DEVICES", "0,1,GPU-ab,3")];
        assert_eq!(names(&read(&four, 1, 2)), ["GPU-ab", "3"]);
        assert_eq!(names(&read(&[("CUDA_VISIBLE_DEVICES", "5")], 0, 2)), ["5"]);
        assert!(read(&[("CUDA_VISIBLE_DEVICES", "5")], 1, 2).list.is_empty());
        for none in ["", "-1", "NoDevFiles"] {
            assert!(read(&[("CUDA_VISIBLE_DEVICES", none)], 0, 1).list.is_empty(), "{none}");
        }
    }

    #[test]
    fn a_task_is_told_the_name_and_a_kernel_the_place_among_those_that_are_seen() {
        let gpus = read(&[("CUDA_VISIBLE_DEVICES", "6,1,GPU-b")], 1, 3);
        assert_eq!((gpus.list[0].ordinal, gpus.names(&[1])), (1, vec!["1".to_owned()]));
        assert_eq!(gpus.list[0].device, Some(device(1, "GPU-bb")));
        let last = read(&[("CUDA_VISIBLE_DEVICES", "6,1,GPU-b")], 2, 3);
        assert_eq!(
            (last.names(&[2]), last.list[0].device.as_ref().map(|d| d.number)),
            (vec!["GPU-b".to_owned()], Some(1))
        );
    }

    #[test]
    fn the_machines_own_are_taken_where_nobody_says_anything_and_no_batch_system_owns_it() {
        let all = read(&[], 0, 1);
        assert_eq!((names(&all), all.variable, all.counted), (vec!["0", "1"], "CUDA_VISIBLE_DEVICES", true));
        assert_eq!(names(&read(&[], 1, 2)), ["1"]);
        assert!(read(&[("SLURM_JOB_ID", "7")], 0, 1).list.is_empty());
        assert_eq!(names(&read(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_GPUS", "1")], 0, 1)), ["1"]);
    }

    #[test]
    fn other_makers_have_variables_of_their_own() {
        let amd = read(&[("ROCR_VISIBLE_DEVICES", "2,3")], 0, 1);
        assert_eq!((amd.variable, names(&amd)), ("ROCR_VISIBLE_DEVICES", vec!["2", "3"]));
        assert!(amd.list.iter().all(|gpu| gpu.device.is_none()), "the machine's are of another maker");
        let intel = read(&[("ZE_AFFINITY_MASK", "0.0,0.1,x")], 0, 1);
        assert_eq!((intel.variable, names(&intel)), ("ZE_AFFINITY_MASK", vec!["0.0", "0.1"]));
    }

    #[test]
    fn amd_tells_in_sysfs() {
        let root = tempfile::tempdir().unwrap();
        let card = root.path().join("bus/pci/devices/0000:c1:00.0");
        fs::create_dir_all(&card).unwrap();
        let files = [
            ("vendor", "0x1002\n"),
            ("gpu_busy_percent", "37\n"),
            ("mem_info_vram_total", "17163091968\n"),
            ("mem_info_vram_used", "250\n"),
            ("unique_id", "18f9\n"),
            ("local_cpulist", "4-7\n"),
        ];
        files.iter().for_each(|(name, text)| fs::write(card.join(name), text).unwrap());
        let probe = GpuProbe { nvml: None, sysfs: root.path().into() };
        let devices = probe.devices(&|cpu| cpu / 4);
        let [device] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((device.maker, device.memory, device.domain), (Maker::Amd, 17_163_091_968, Some(1)));
        assert_eq!((device.address.as_str(), device.uuid.as_deref()), ("0000:c1:00.0", Some("GPU-18f9")));
        assert_eq!(probe.usage(device), Some(GpuUse { busy: 0.37, memory_used: 250 }));
        fs::write(card.join("mem_info_vram_total"), "536870912\n").unwrap();
        assert!(probe.devices(&|_| 0).is_empty(), "a processor's own graphics");
        fs::write(card.join("gpu_busy_percent"), "much").unwrap();
        assert_eq!(probe.usage(device), None);
    }

    #[test]
    fn addresses_are_written_as_the_system_does() {
        assert_eq!(sysfs_address("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(sysfs_address("0000:3b:00.0"), "0000:3b:00.0");
        assert_eq!(sysfs_address("é00000:1"), "é00000:1");
    }
}
