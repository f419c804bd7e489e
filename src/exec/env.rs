//! The environment that a task sees.
//!
//! Invariant: a task never sees the variables by which our launcher placed this process in its MPI
//! world; a task that is an MPI program would otherwise try to join that world and hang. What a
//! user set in the same families reaches the tasks of all ranks (see `user_env`).
//!
//! The part that all tasks share is computed once per runner; each task adds only its own
//! variables. In order of rising priority: the environment in which Phalanx was started (filtered),
//! what the user set for MPI, the variables that Phalanx sets, the job's, the task's.

use std::ffi::{CStr, CString, OsString};
use std::fmt::{Display, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use rustc_hash::FxHashMap;

use super::command::CommandAttempt;
use super::mark::{self, Mark};
use super::script::LONGEST_WORD;
use super::user_env::{is_of_a_family, user_variables};
use super::{ExecContext, ExecError, Fault, RankContext};
use crate::job::Group;
use crate::system::http_client::ADVISOR_KEY;
use crate::system::own_program;
use crate::topology::{Gpus, is_left_out_here};

/// Slurm variables that a task sees: those that identify the job. All others describe a step or the
/// job's nodes; an `mpirun` inside a task would use them (the old name `SLURM_JOBID` included) to
/// start its ranks on nodes that belong to other tasks.
const SLURM_KEPT: [&str; 19] = [
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_ACCOUNT",
    "SLURM_JOB_USER",
    "SLURM_JOB_UID",
    "SLURM_JOB_GID",
    "SLURM_JOB_QOS",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_CLUSTER_NAME",
    "SLURM_SUBMIT_DIR",
    "SLURM_SUBMIT_HOST",
    "SLURM_RESTART_COUNT",
];

/// Slurm variables that an `mpirun` over several nodes needs, in addition to [`SLURM_KEPT`].
const SLURM_ALLOCATION: [&str; 8] = [
    "SLURM_JOBID",
    "SLURM_NODELIST",
    "SLURM_JOB_NODELIST",
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_TASKS_PER_NODE",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_CONF",
];

/// Variables that Phalanx sets: those of an enclosing run must not be taken for the task's own.
const OURS: [&str; 16] = [
    mark::VARIABLE,
    own_program::VARIABLE,
    "PHALANX_JOB_ID",
    "PHALANX_TASK_ID",
    "PHALANX_TASK_NAME",
    "PHALANX_ARRAY_INDEX",
    "PHALANX_ATTEMPT",
    "PHALANX_RANK",
    "PHALANX_NODE",
    "PHALANX_CPUS",
    "PHALANX_CPU_LIST",
    "PHALANX_NUMA_NODE",
    "PHALANX_MEM_MB",
    "PHALANX_TASK_DIR",
    "PHALANX_METRICS",
    "PHALANX_ADD",
];

/// Variables that a batch script sets for this run: the file for its exit code, and that nodes wait
/// for worlds. They must not reach a run that a task starts.
const THIS_RUN: [&str; 3] = ["PHALANX_CONTINUE", "PHALANX_EXIT_FILE", "PHALANX_WORLDS"];

/// A command of the user that is no task: it runs in the environment that Phalanx was started in,
/// so that an MPI program does not take itself for a rank of this world. `None` without words.
pub(crate) fn user_command(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_hidden(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(user_variables());
    Some(command)
}

/// True for a variable that no task takes over from the environment of its rank.
fn is_hidden(name: &str) -> bool {
    if OURS.contains(&name)
        || THIS_RUN.contains(&name)
        || [ADVISOR_KEY, "OMP_NUM_THREADS", "OMP_PLACES"].contains(&name)
    {
        return true;
    }
    if name.starts_with("SLURM_") {
        return !SLURM_KEPT.contains(&name);
    }
    is_of_a_family(name)
}

/// One `NAME=value`, ready for the system.
struct EnvEntry {
    name: usize,
    text: CString,
}

impl EnvEntry {
    fn new(name: &[u8], value: &[u8]) -> Option<EnvEntry> {
        let mut text = Vec::with_capacity(name.len() + value.len() + 2);
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(value);
        Some(EnvEntry { name: name.len(), text: CString::new(text).ok()? })
    }

    fn name(&self) -> &[u8] {
        &self.text.as_bytes()[..self.name]
    }

    fn value(&self) -> &[u8] {
        &self.text.as_bytes()[self.name + 1..]
    }
}

/// The part of the environment that all tasks of a run share.
pub(super) struct BaseEnv {
    entries: Vec<EnvEntry>,
    by_name: FxHashMap<Vec<u8>, usize>,
    /// See [`SLURM_ALLOCATION`].
    allocation: Vec<(String, String)>,
    /// Names of the job's own variables.
    job: Vec<String>,
    /// Names of what the user set for MPI.
    users: Vec<String>,
    gpus: Gpus,
}

impl BaseEnv {
    /// Builds it from the environment of this process, the site, the job's variables and the mark
    /// of this process.
    pub(super) fn new(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        site: &RankContext,
        job: &[(String, String)],
        mark: &Mark,
    ) -> Result<BaseEnv, ExecError> {
        let names = job.iter().map(|(name, _)| name.clone()).collect();
        let mut base = BaseEnv {
            entries: Vec::new(),
            by_name: FxHashMap::default(),
            allocation: Vec::new(),
            job: names,
            users: site.user_variables.iter().map(|(name, _)| name.clone()).collect(),
            gpus: site.gpus.clone(),
        };
        for (name, value) in vars {
            let (name, value) = (name.into_vec(), value.into_vec());
            let text = String::from_utf8_lossy(&name);
            if SLURM_ALLOCATION.contains(&&*text) {
                base.allocation.push((text.to_string(), String::from_utf8_lossy(&value).into_owned()));
            }
            if !is_hidden(&text) && !is_left_out_here(&text, &value) {
                base.set(&name, &value)?;
            }
        }
        for (name, value) in &site.user_variables {
            base.set(name.as_bytes(), value.as_bytes())?;
        }
        base.set(b"PHALANX_JOB_ID", site.job_id.as_bytes())?;
        base.set(b"PHALANX_NODE", site.node.as_bytes())?;
        base.set(b"PHALANX_RANK", site.rank.0.to_string().as_bytes())?;
        for (name, value) in job {
            base.set(name.as_bytes(), value.as_bytes())?;
        }
        base.set(mark::VARIABLE.as_bytes(), mark.value().as_bytes())?;
        Ok(base)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), ExecError> {
        let entry =
            EnvEntry::new(name, value).ok_or_else(|| ExecError::Nul(String::from_utf8_lossy(name).into_owned()))?;
        match self.by_name.get(name) {
            Some(&at) => self.entries[at] = entry,
            None => {
                self.by_name.insert(name.to_vec(), self.entries.len());
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    /// The part that all tasks share, without variables that are too long for a program.
    pub(super) fn shared(&self) -> TaskEnv<'_> {
        let mut env = TaskEnv { base: self, own: Vec::new(), replaced: Vec::new() };
        env.take_long();
        env
    }

    /// The environment of one attempt at `task`.
    pub(super) fn of_task(&self, attempt: &CommandAttempt) -> Result<TaskEnv<'_>, Fault> {
        let CommandAttempt { task, group, seat, .. } = *attempt;
        let mut env = TaskEnv { base: self, own: Vec::with_capacity(16 + task.env.len()), replaced: Vec::new() };
        for (name, value) in &task.env {
            env.set(name, value)?;
        }
        env.describe_task(attempt)?;
        env.describe_seat(group, seat)?;
        Ok(env)
    }
}

/// The environment of one attempt: its own entries over the shared part.
pub(super) struct TaskEnv<'a> {
    base: &'a BaseEnv,
    own: Vec<EnvEntry>,
    /// Entries of the shared part that its own entries replace.
    replaced: Vec<usize>,
}

impl TaskEnv<'_> {
    fn describe_task(&mut self, attempt: &CommandAttempt) -> Result<(), Fault> {
        let CommandAttempt { task, limits, seat, visible, .. } = *attempt;
        if visible.id {
            self.offer("PHALANX_TASK_ID", task.id.0)?;
        }
        if visible.name {
            self.offer("PHALANX_TASK_NAME", &task.name)?;
        }
        self.offer("PHALANX_TASK_DIR", task.dir.display())?;
        self.offer("PHALANX_ATTEMPT", seat.attempt)?;
        if let Some(index) = task.index.filter(|_| visible.index) {
            self.offer("PHALANX_ARRAY_INDEX", index)?;
        }
        if let Some(bytes) = limits.memory {
            self.offer("PHALANX_MEM_MB", bytes.div_ceil(1 << 20))?;
        }
        Ok(())
    }

    fn describe_seat(&mut self, group: &Group, seat: &ExecContext) -> Result<(), Fault> {
        // If slots may float over more CPUs than the task requested, the task still gets only that
        // number.
        let all = group.cpus * group.mpi.map_or(1, |mpi| mpi.ranks);
        self.offer("PHALANX_CPUS", all)?;
        // Each rank of an MPI task gets its share of the CPUs; the launcher places its threads.
        self.offer("OMP_NUM_THREADS", group.cpus)?;
        if !seat.cpus.is_empty() {
            self.offer("PHALANX_CPU_LIST", cpu_list(seat.cpus))?;
            if group.mpi.is_none() {
                self.offer("OMP_PLACES", omp_places(seat.cpus, group.cpus))?;
            }
        }
        if let Some(numa) = seat.numa {
            self.offer("PHALANX_NUMA_NODE", numa)?;
        }
        // Of a task on several nodes this is the first; its launcher sets it for the others.
        let gpus = match seat.hosts.first() {
            Some(here) => here.gpus.clone(),
            None => self.base.gpus.names(seat.gpus),
        };
        if !gpus.is_empty() {
            self.show_gpus(&gpus)?;
        }
        Ok(())
    }

    /// The variable that shows commands their GPUs.
    pub(super) fn gpu_variable(&self) -> &'static str {
        let variable = self.base.gpus.variable;
        if variable.is_empty() { "CUDA_VISIBLE_DEVICES" } else { variable }
    }

    fn show_gpus(&mut self, names: &[String]) -> Result<(), Fault> {
        let (gpus, variable) = (&self.base.gpus, self.gpu_variable());
        if gpus.counted && variable == "CUDA_VISIBLE_DEVICES" {
            // Phalanx numbers GPUs by bus id; without this variable CUDA puts the fastest first.
            self.offer("CUDA_DEVICE_ORDER", "PCI_BUS_ID")?;
        }
        self.offer(variable, names.join(","))
    }

    /// Sets a variable unless the job or the task has set it. (Only the variables that show GPUs
    /// may also come from the environment of this process.)
    fn offer(&mut self, name: &str, value: impl Display) -> Result<(), Fault> {
        let chosen = self.own.iter().any(|e| e.name() == name.as_bytes()) || self.base.job.iter().any(|n| n == name);
        if chosen { Ok(()) } else { self.set(name, &value.to_string()) }
    }

    /// Sets a variable and replaces any other value.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let entry = EnvEntry::new(name.as_bytes(), value.as_bytes())
            .ok_or_else(|| Fault::new(format!("variable {name} contains a NUL byte, which no environment can hold")))?;
        if let Some(at) = self.own.iter().position(|e| e.name() == name.as_bytes()) {
            self.own[at] = entry;
            return Ok(());
        }
        if let Some(&at) = self.base.by_name.get(name.as_bytes()) {
            self.replaced.push(at);
        }
        self.own.push(entry);
        Ok(())
    }

    /// Removes and returns the variables that are too long for any program to be started with.
    pub(super) fn take_long(&mut self) -> Vec<(String, String)> {
        let is_long = |entry: &EnvEntry| entry.text.as_bytes_with_nul().len() > LONGEST_WORD;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pair = |entry: &EnvEntry| (text(entry.name()), text(entry.value()));
        let shared = self.base.entries.iter().enumerate();
        let long: Vec<usize> =
            shared.filter(|(at, e)| is_long(e) && !self.replaced.contains(at)).map(|(at, _)| at).collect();
        let mut taken: Vec<_> = long.iter().map(|&at| pair(&self.base.entries[at])).collect();
        taken.extend(self.own.iter().filter(|e| is_long(e)).map(pair));
        self.own.retain(|entry| !is_long(entry));
        self.replaced.extend(long);
        taken
    }

    /// Passes on the nodes of our allocation, for an `mpirun` that starts ranks on several of them.
    pub(super) fn show_allocation(&mut self) -> Result<(), Fault> {
        for (name, value) in &self.base.allocation {
            self.set(name, value)?;
        }
        if !self.base.allocation.is_empty() {
            // The launcher's own step must share the nodes with the one that Phalanx runs in.
            self.set("SLURM_OVERLAP", "1")?;
        }
        Ok(())
    }

    /// Names of the variables that the user, the job, the task and Phalanx set, which a launcher
    /// must pass to other nodes. Parameters (`..._MCA_...`) it passes by itself.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let own = self.own.iter().map(|e| String::from_utf8_lossy(e.name()).into_owned());
        let is_shared = |n: &&String| {
            let is_replaced = self.base.by_name.get(n.as_bytes()).is_some_and(|at| self.replaced.contains(at));
            !is_replaced && !self.own.iter().any(|e| e.name() == n.as_bytes())
        };
        let users = self.base.users.iter().filter(|n| !n.contains("_MCA_") && !self.base.job.contains(n));
        let base = users.chain(&self.base.job).filter(is_shared);
        own.chain(base.cloned().collect::<Vec<_>>())
            .chain(["PHALANX_JOB_ID".to_owned()])
            .filter(|n| !n.starts_with("SLURM_"))
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        let own = self.own.iter().find(|e| e.name() == name.as_bytes());
        let shared = || self.base.by_name.get(name.as_bytes()).filter(|at| !self.replaced.contains(at));
        own.or_else(|| shared().map(|&at| &self.base.entries[at])).map(EnvEntry::value)
    }

    /// Name and value of the entries that are the attempt's own.
    pub(super) fn own(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.own.iter().map(|entry| (entry.name(), entry.value()))
    }

    /// All entries `NAME=value`, each name once.
    pub(super) fn entries(&self) -> impl Iterator<Item = &CStr> {
        let shared = self.base.entries.iter().enumerate().filter(|(at, _)| !self.replaced.contains(at));
        shared.map(|(_, e)| e).chain(&self.own).map(|e| e.text.as_c_str())
    }
}

fn joined<T: Copy>(items: &[T], mut write: impl FnMut(&mut String, T) -> std::fmt::Result) -> String {
    let mut text = String::new();
    for (i, &item) in items.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        // Writing to a string does not fail.
        let _ = write(&mut text, item);
    }
    text
}

/// OpenMP places: one per thread. A single place for all threads where CPUs are shared, since
/// OpenMP binds the first thread to the first place, and all tasks would share one CPU.
fn omp_places(cpus: &[u32], threads: u32) -> String {
    match cpus.len() == threads as usize {
        true => joined(cpus, |place, cpu| write!(place, "{{{cpu}}}")),
        false => format!("{{{}}}", joined(cpus, |place, cpu| write!(place, "{cpu}"))),
    }
}

/// CPUs as Linux writes them: `0-3,8`.
fn cpu_list(cpus: &[u32]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let runs: Vec<&[u32]> = sorted.chunk_by(|a, b| a + 1 == *b).collect();
    joined(&runs, |text, run| match *run {
        [first, .., last] => write!(text, "{first}-{last}"),
        [one] => write!(text, "{one}"),
        [] => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_launchers_and_of_enclosing_runs_are_hidden() {
        let hidden = [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_MCA_btl",
            "PMIX_RANK",
            "PMI_RANK",
            "PRTE_X",
            "HYDRA_X",
            "MPI_LOCALRANKID",
            "SLURM_JOBID",
            "SLURM_PROCID",
            "SLURM_STEP_ID",
            "SLURM_STEPID",
            "SLURM_NODELIST",
            "SLURM_NTASKS",
            "SLURM_TASK_PID",
            "SLURM_CPU_BIND",
            "PHALANX_ARRAY_INDEX",
            "OMP_NUM_THREADS",
        ];
        for name in hidden {
            assert!(is_hidden(name), "{name}");
        }
        let shown = [
            "PATH",
            "SLURM_JOB_ID",
            "SLURM_SUBMIT_DIR",
            "SLURM_ARRAY_TASK_ID",
            "PHALANX_MPIRUN",
            "MPICH_OFI_NIC_POLICY",
            "UCX_TLS",
            "MPIEXEC_X",
            "PMIXER",
        ];
        for name in shown {
            assert!(!is_hidden(name), "{name}");
        }
    }

    #[test]
    fn openmp_threads_have_a_cpu_each_or_share_all() {
        assert_eq!(omp_places(&[4, 6], 2), "{4},{6}");
        assert_eq!(omp_places(&[4, 6], 1), "{4,6}");
        assert_eq!(omp_places(&[4, 6], 4), "{4,6}");
    }

    #[test]
    fn cpus_are_listed_as_linux_does() {
        assert_eq!(cpu_list(&[3, 0, 1, 2, 8]), "0-3,8");
        assert_eq!(cpu_list(&[5]), "5");
        assert_eq!(cpu_list(&[1, 2, 4, 5, 1]), "1-2,4-5");
    }
}
