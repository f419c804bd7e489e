//! Tasks that ask for labels: features of Slurm's nodes.

use crate::jobs::{blocks, release, submit};
use crate::support::checker::Trace;
use crate::support::slurm::{Setup, Slurm};
use crate::support::{Dir, phalanx, wait_for};

/// Some tasks for any rank, and one for a rank with this label, which the test lets end.
fn job(label: &str) -> String {
    format!(
        "[job]\nname = 'features'\n[capacity]\nprovider = 'slurm'\nlisten = '127.0.0.1'\ntime = '10m'\n\
         [[task]]\nname = 'small'\narray = '1-4'\ncommand = 'true'\n\
         [[task]]\nname = 'big'\nlabels = ['{label}']\n\
         command = 'until test -e end-big; do sleep 0.1; done'\n"
    )
}

#[test]
fn a_node_with_a_feature_is_gained_because_a_task_asks_for_it() {
    let setup = Setup { features: "highmem,ib", ..Setup::default() };
    let Some(slurm) = Slurm::start_with(3, setup) else { return };
    let dir = Dir::new("features");
    // The one with the feature is taken at first, and another is free.
    let holder = slurm.sbatch(&dir, ["--nodelist=n3", "--exclusive", "--wrap=sleep 600"]);
    slurm.wait_running(holder);
    let id = submit(&slurm, &dir, "--nodes=1", &job("highmem"));
    wait_for("the task to wait for such a node", 180, || {
        let explained = phalanx(&dir).args(["explain", "run", "--task", "big"]).run();
        let text = explained.stdout();
        let waits = text.contains("waits for a rank with the label highmem, and none that takes part has it");
        (waits && text.contains("1 node is requested")).then_some(())
    });
    slurm.scancel([holder.to_string().as_str()]);
    wait_for("it to be gained", 180, || {
        let status = phalanx(&dir).args(["status", "run", "--json"]).run().ok().json();
        (status["blocks"][0]["node"] == "n3").then_some(())
    });
    release(&dir, "big");
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(blocks(&dir, "run").len(), 1);
    let ran_on = |dir: &Dir| Trace::of(dir, "run").0.iter().find(|row| row.name == "big").and_then(|row| row.rank);
    assert_eq!(ran_on(&dir), Some(1));
    slurm.wait_empty();

    // A rank that is there has the features of its node.
    let dir = Dir::new("own-features");
    release(&dir, "big");
    let id = submit(&slurm, &dir, "--constraint=highmem", &job("highmem"));
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!((ran_on(&dir), blocks(&dir, "run").len()), (Some(0), 0));

    // No node has it.
    dir.job("other.toml", &job("other"));
    let refused = slurm.run_here(&dir, &["run", "other.toml"]).wait().code(2);
    refused.says("`big` asks for a rank with the label other").says("nodes that it can request highmem, ib");
}

#[test]
fn an_mpi_task_waits_for_a_node_that_the_run_then_gains_and_runs_on_both() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("gang-node");
    let job = "[job]\nname = 'gang'\n[capacity]\nprovider = 'slurm'\nlisten = '127.0.0.1'\ntime = '10m'\n\
         [scaling]\npolicy = 'hybrid'\nmax_ranks = 3\ninterval = '1s'\n\
         [[task]]\nname = 'first'\nestimate = '1s'\ncommand = 'until test -e end-first; do sleep 0.1; done'\n\
         [[task]]\nname = 'wide'\nneeds = 'first'\nestimate = '1s'\nmpi = { ranks = 2, per_node = 1 }\nmemory = '32M'\n\
         command = 'echo $SLURMD_NODENAME $PHALANX_MEM_MB >> ran-on'\n";
    let holder = slurm.sbatch(&dir, ["--nodes=2", "--exclusive", "--wrap=sleep 600"]);
    slurm.wait_running(holder);
    let id = submit(&slurm, &dir, "--nodes=1", job);
    release(&dir, "first");
    wait_for("the task to wait for a node", 180, || {
        let explained = phalanx(&dir).args(["explain", "run", "--task", "wide"]).run();
        let text = explained.stdout();
        let waits = text.contains("it needs 2 MPI ranks of 1 CPU and 32");
        (waits && text.contains("have room for 1 MPI rank; 1 node is requested")).then_some(())
    });
    slurm.scancel([holder.to_string().as_str()]);
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(blocks(&dir, "run").len(), 1);
    let text = dir.read("ran-on");
    let nodes: std::collections::BTreeSet<&str> = text.lines().collect();
    assert_eq!(nodes.len(), 2, "{text}");
    slurm.wait_empty();
}
