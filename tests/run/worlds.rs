//! Worlds that do not come about: a launcher of another MPI than the program's.

use crate::support::{Dir, TestCommand, phalanx};

const JOB: &str = "[[task]]\nname = \"once\"\ncommand = \"echo x >> ran\"\n";

/// The place that a launcher gives a process whose MPI does not know it.
fn one_of_three(dir: &Dir, variables: [&str; 2], rank: u32) -> TestCommand {
    phalanx(dir).env(variables[0], rank.to_string()).env(variables[1], "3").args(["run", "job.toml"])
}

#[test]
fn processes_that_see_only_themselves_run_nothing() {
    let dir = Dir::new("no-world");
    dir.job("job.toml", JOB);
    // `srun` without MPI: nothing offers MPI to the processes.
    let srun = ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"];
    let first = one_of_three(&dir, srun, 0).run().code(1);
    first.says("srun started 3 processes").says("sees only itself").says("--mpi=TYPE");
    // The others are silent, and do not make the launcher end the first before it has spoken.
    let other = one_of_three(&dir, srun, 1).run().ok();
    assert_eq!((other.stdout(), other.stderr()), ("", ""));
    assert!(!dir.has("ran") && !dir.has("phalanx-runs"));
    // A batch script is no world.
    phalanx(&dir).env("SLURM_PROCID", "0").env("SLURM_NTASKS", "3").args(["run", "job.toml"]).run().ok();
    assert_eq!(dir.read("ran"), "x\n");
}

#[test]
fn the_topology_names_mpi_and_what_started_the_process() {
    let dir = Dir::new("topo-mpi");
    let library = crate::support::mpi_library();
    let alone = phalanx(&dir).args(["topo"]).run().ok();
    assert!(alone.stdout().starts_with(&format!("MPI        {library}, not started by an MPI launcher")), "{alone}");
    let step = phalanx(&dir).env("SLURM_PROCID", "1").env("SLURM_STEP_NUM_TASKS", "2").args(["topo", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(step.run().ok().stdout()).expect("JSON");
    assert_eq!((&shown["mpi"]["launcher"], &shown["mpi"]["rank"]), (&"srun".into(), &1.into()));
    assert_eq!(shown["mpi"]["launched_for_mpi"], false);
    assert_eq!(shown["mpi"]["survives_lost_ranks"], false);
    alone.says("lost rank  ends the run, which --resume continues");
}
