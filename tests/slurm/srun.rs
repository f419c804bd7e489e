//! Worlds that `srun` starts directly, without `mpirun`.

use crate::support::slurm::Slurm;
use crate::support::{Dir, is_open_mpi, phalanx, program};

const JOB: &str = r#"
[[task]]
name = "mark"
array = "0-15"
command = "echo $PHALANX_RANK >> ranks; until [ $(sort -u ranks | wc -l) = 2 ]; do sleep 0.05; done"
"#;

#[test]
fn srun_starts_a_world_or_is_told_how() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("srun");
    dir.job("job.toml", JOB);
    let place = dir.path().to_string_lossy();
    let srun = |mpi: &str| {
        let command = slurm.command("srun").args(["-N", "2", "-n", "2", "--chdir", &place, mpi]);
        command.args([program()]).args(["run", "job.toml", "--slots", "1"]).run()
    };
    // Without MPI each of the two processes would run the whole job.
    let refused = srun("--mpi=none");
    assert_ne!(refused.exit(), 0, "{refused}");
    let refused = refused.says("srun started 2 processes").says("srun --mpi=TYPE");
    assert_eq!(refused.stderr().matches("started 2 processes").count(), 1, "{refused}");
    assert!(!dir.has("ranks") && !dir.has("phalanx-runs"));
    // Debian's Open MPI knows no PMI of Slurm's; MPICH does.
    if !is_open_mpi() {
        srun("--mpi=pmi2").ok();
        assert_eq!(dir.read("ranks").lines().count(), 16);
        let report = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
        assert_eq!((&report["state"], &report["ranks"]), (&"COMPLETED".into(), &2.into()));
    }
}
