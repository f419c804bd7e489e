//! How this process was started: alone, or as one of the processes of a world.
//!
//! Launchers describe the place of a process in its environment. MPI is asked only in a process
//! that a launcher started, and what MPI finds must agree with the launcher: a program that was
//! built with another MPI than its launcher's, or that `srun` started without MPI support, sees
//! only itself, and each process would run the whole job (`fabric::join` refuses that).

use super::launcher;

/// Place of a process among those that its launcher started, by the launcher's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What started the process, e.g. `srun`.
    pub launcher: &'static str,
    /// Number of this process, from 0.
    pub rank: u32,
    /// Number of processes that were started together.
    pub size: u32,
}

/// The launcher of Open MPI.
const OPEN_MPI: &str = "the mpirun of Open MPI";

/// Slurm's launcher.
const SRUN: &str = "srun";

/// Launchers and their variables for the rank and the size of a world. Order matters: under Slurm,
/// `mpirun` starts its daemons through `srun`, whose variables then describe the daemons. A batch
/// script, which is no world, has a `SLURM_PROCID` but no `SLURM_STEP_NUM_TASKS`.
const LAUNCHERS: [(&str, &str, &str); 5] = [
    (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    (SRUN, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("a launcher of the MPICH family", "PMI_RANK", "PMI_SIZE"),
    ("PALS", "PALS_RANKID", "PALS_NRANKS"),
];

/// Variables that show that a launcher offers MPI to this process.
const MPI_MARKS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"];

/// Variables of a daemon-based launcher, beside which those of `srun` describe its daemons.
const HYDRA_MARKS: [&str; 2] = ["PMI_FD", "MPI_LOCALNRANKS"];

/// True if an MPI launcher started this process; only then is MPI initialised.
pub fn is_launched() -> bool {
    MPI_MARKS.iter().any(|name| std::env::var_os(name).is_some())
}

/// The place that the launcher assigned to this process; `None` if no launcher started it.
pub fn place() -> Option<Launch> {
    place_in(&|name| std::env::var(name).ok())
}

fn place_in(env: &dyn Fn(&str) -> Option<String>) -> Option<Launch> {
    let number = |name: &str| env(name)?.trim().parse::<u32>().ok();
    let is_hydra = HYDRA_MARKS.iter().all(|name| env(name).is_some());
    let found = LAUNCHERS
        .iter()
        .filter(|(name, ..)| *name != SRUN || !is_hydra)
        .find_map(|&(launcher, rank, size)| Some(Launch { launcher, rank: number(rank)?, size: number(size)? }));
    found.filter(|found| found.rank < found.size)
}

/// True if the `mpirun` of Open MPI started this process, perhaps from another node.
pub fn is_of_mpirun() -> bool {
    place().is_some_and(|place| place.launcher == OPEN_MPI)
}

/// True in the first process that the launcher started, and in one that was started alone.
pub fn is_first() -> bool {
    place().is_none_or(|place| place.rank == 0)
}

/// The words before `-n` of a command that starts a world: those that started this process as far
/// as they are known, else `PHALANX_MPIRUN`, else `mpirun`.
pub fn command() -> Vec<String> {
    if place().is_some_and(|place| place.launcher == SRUN) {
        // srun names in its variable the kind of MPI that it was asked for.
        let kind = std::env::var("SLURM_MPI_TYPE").ok().map(|kind| format!("--mpi={kind}"));
        return [SRUN.to_owned()].into_iter().chain(kind).collect();
    }
    let chosen = || std::env::var("PHALANX_MPIRUN").ok().filter(|words| !words.trim().is_empty());
    let chosen = || Some(chosen()?.split_whitespace().map(str::to_owned).collect());
    launcher::words().or_else(chosen).unwrap_or_else(|| vec!["mpirun".to_owned()])
}

/// Name and version of the MPI library, in a line, e.g. `Open MPI v4.1.4`.
pub fn library() -> String {
    // MPI may be asked for its version before it is initialised (MPI 3.1, section 8.7).
    let text = ::mpi::environment::library_version().unwrap_or_else(|_| "MPI of unknown version".to_owned());
    let line = text.lines().next().unwrap_or_default().trim_matches(|c: char| c.is_whitespace() || c == '\0');
    // MPICH: `MPICH Version:\t4.0.2`.
    line.replace(" Version:\t", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_by(variables: &str) -> Option<(&'static str, u32, u32)> {
        let value = |name: &str| {
            let pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.filter(|pair| pair.0 == name).map(|pair| pair.1.to_owned()).next()
        };
        place_in(&value).map(|launch| (launch.launcher, launch.rank, launch.size))
    }

    #[test]
    fn each_launcher_is_recognised_by_its_own_variables() {
        let (mpich, hydra) = ("a launcher of the MPICH family", "PMI_FD=6 MPI_LOCALNRANKS=2");
        let daemons = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=3";
        let cases = [
            ("", None),
            ("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4", Some(("the mpirun of Open MPI", 2, 4))),
            (
                &format!("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 {daemons}"),
                Some(("the mpirun of Open MPI", 0, 1)),
            ),
            ("PMI_RANK=1 PMI_SIZE=2", Some((mpich, 1, 2))),
            (&format!("PMI_RANK=0 PMI_SIZE=1 {hydra} {daemons}"), Some((mpich, 0, 1))),
            (&format!("PMI_RANK=5 PMI_SIZE=6 {hydra} {daemons}"), Some((mpich, 5, 6))),
            (daemons, Some(("srun", 1, 3))),
            // A batch script, and nonsense.
            ("SLURM_PROCID=0 SLURM_NTASKS=4", None),
            ("PMI_RANK=x PMI_SIZE=2", None),
            ("PMI_RANK=2 PMI_SIZE=2", None),
        ];
        for (variables, expected) in cases {
            assert_eq!(place_by(variables), expected, "{variables}");
        }
    }
}
