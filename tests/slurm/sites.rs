//! Two Slurms with a controller each: one is full, a partition of it refuses, the other one works,
//! and one dies.

use crate::support::checker::Trace;
use crate::support::slurm::Slurm;
use crate::support::{Dir, phalanx, wait_for};

/// A job with sites at both Slurms; `time` limits how long a task lasts.
fn job(full: &Slurm, works: &Slurm, tasks: &str) -> String {
    let site = |name: &str, price: f64, slurm: &Slurm, more: &str| {
        format!(
            "[[site]]\nname = \"{name}\"\nprovider = \"slurm\"\ncluster = \"{}\"\nnode_hour = {price}\npatience = \"3s\"\n\
             time = \"20m\"\n{more}",
            slurm.configuration_file().display()
        )
    };
    format!(
        "[job]\nname = \"sites\"\n[capacity]\nlisten = \"127.0.0.1\"\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n\
         interval = \"1s\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"\n{}{}{}{tasks}",
        site("dear", 72.0, works, ""),
        site("full", 3.6, full, ""),
        site("refuses", 7.2, full, "partition = \"none\"\n"),
    )
}

/// Two tasks at a time, until the test ends them.
const PAIRS: &str = "[[task]]\nname = \"pair\"\nestimate = \"30s\"\narray = \"1-40\"\n\
                     command = \"echo $PHALANX_RANK >> ranks; test -e end || sleep 1\"\n";

/// A full Slurm and an idle one, of one node each.
fn two(dir: &Dir) -> Option<(Slurm, Slurm, u32)> {
    let (full, works) = (Slurm::start(1)?, Slurm::start(1)?);
    let blocker = full.sbatch(dir, ["--exclusive", "--wrap", "sleep 3600"]);
    full.wait_running(blocker);
    Some((full, works, blocker))
}

/// Waits until a rank beside the first one works.
fn wait_for_work(dir: &Dir) {
    wait_for("work on the other Slurm", 180, || {
        let ranks = dir.has("ranks").then(|| dir.read("ranks"))?;
        ranks.lines().any(|rank| rank != "0").then_some(())
    });
}

#[test]
fn a_run_overflows_to_the_next_slurm_and_leaves_nothing_at_any() {
    let dir = Dir::new("overflow");
    let Some((full, works, blocker)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    let run = full.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("a request at the full Slurm", 120, || (full.squeue().len() == 2).then_some(()));
    wait_for_work(&dir);
    assert_eq!(works.squeue().len(), 1, "a block of the other one");
    wait_for("the request that lost to be withdrawn", 120, || (full.squeue().len() == 1).then_some(()));
    dir.file("end", "");
    run.wait_clean().ok();
    works.wait_empty();
    assert_eq!(full.squeue().iter().map(|job| job.id).collect::<Vec<_>>(), [blocker]);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 40);
    for site in ["full", "refuses", "dear"] {
        assert!(!dir.has(&format!("run/blocks/site-{site}/slurm")), "{site} may have jobs left");
    }
    let explained = phalanx(&dir).args(["explain", "run"]).run().ok();
    explained.says("requested from `full`").says("`full` has not granted it within its patience").says("site `dear`");
}

#[test]
fn jobs_of_a_killed_run_are_cancelled_at_both() {
    let dir = Dir::new("killed-sites");
    let Some((full, works, blocker)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    // Both are full: the run waits in both queues.
    let other = works.sbatch(&dir, ["--exclusive", "--wrap", "sleep 3600"]);
    works.wait_running(other);
    let run = full.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("requests in both queues", 180, || (full.squeue().len() == 2 && works.squeue().len() == 2).then_some(()));
    run.signal(libc::SIGKILL);
    drop(run);
    wait_for("both to be cancelled", 120, || {
        full.program_here(&dir, &["cancel", "run"]).run();
        (full.squeue().len() == 1 && works.squeue().len() == 1).then_some(())
    });
    let left = [full.squeue()[0].id, works.squeue()[0].id];
    assert_eq!(left, [blocker, other]);
}

#[test]
fn a_slurm_that_dies_holds_no_run_up() {
    let dir = Dir::new("dies");
    let Some((mut full, works, _)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    // The run is at home at neither.
    let run = works.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("a request at the full Slurm", 120, || (full.squeue().len() == 2).then_some(()));
    full.lose_controller();
    wait_for_work(&dir);
    dir.file("end", "");
    run.wait().ok();
    works.wait_empty();
    assert_eq!(Trace::of(&dir, "run").completed().len(), 40);
    assert!(dir.has("run/blocks/site-full/slurm"), "its job is remembered");
    assert!(!dir.has("run/blocks/site-dear/slurm"), "nothing is left at the other");
}
