//! Nodes from a real Slurm: asked for when a job is wide, given back when it is narrow, and nothing left behind.

mod support;

use std::time::{Duration, Instant};

use support::checker::Trace;
use support::slurm::Slurm;
use support::{Dir, phalanx, repository, wait_for};

/// A wide phase and a narrow one, of tasks of a second.
fn phases(wide: u32, narrow: u32) -> String {
    let mut job = String::from(
        "[job]\nname = \"phases\"\n[capacity]\nprovider = \"slurm\"\ntime = \"10m\"\nlisten = \"127.0.0.1\"\n\
         [scaling]\npolicy = \"hybrid\"\nmax_ranks = 4\ninterval = \"1s\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"\n",
    );
    let mut task = |name: &str, more: &str| {
        job += &format!(
            "[[task]]\nname = \"{name}\"\nkernel = \"sleep\"\nargs = {{ seconds = 1 }}\nestimate = \"1s\"\n{more}"
        );
    };
    task("wide", &format!("array = \"1-{wide}\"\n"));
    task("n0", "needs = [\"wide\"]\n");
    (1..narrow).for_each(|k| task(&format!("n{k}"), &format!("needs = [\"n{}\"]\n", k - 1)));
    job
}

fn submit(slurm: &Slurm, dir: &Dir, job: &str) -> u32 {
    dir.job("job.toml", job);
    let script = repository().join("slurm/phalanx.sbatch");
    let script = script.to_str().expect("the repository's path is text");
    slurm.sbatch(dir, ["--nodes=1", script, "job.toml", "--slots", "1", "--run-dir", "run"])
}

fn running(slurm: &Slurm) -> usize {
    slurm.squeue().iter().filter(|job| job.state == "RUNNING").count()
}

#[test]
fn a_run_grows_over_the_cluster_and_gives_it_back() {
    let Some(slurm) = Slurm::start(4) else { return };
    let dir = Dir::new("grow");
    let id = submit(&slurm, &dir, &phases(60, 20));
    wait_for("the run to grow", 120, || (running(&slurm) > 2).then_some(()));
    wait_for("nodes to be given back while the run goes on", 180, || {
        let idle = slurm.sinfo().iter().filter(|node| node.1 == "idle").count();
        let jobs = slurm.squeue();
        assert!(jobs.iter().any(|job| job.id == id), "the run ended before it gave nodes back");
        (idle >= 3).then_some(())
    });
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert!(slurm.squeue().is_empty(), "{:?}", slurm.squeue());
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 80);
}

#[test]
fn a_cancelled_block_costs_only_what_it_ran() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("scancel");
    let id = submit(&slurm, &dir, &phases(60, 1));
    let block = wait_for("a block", 120, || {
        let jobs = slurm.squeue();
        jobs.iter().find(|job| job.id != id && job.state == "RUNNING").map(|job| job.id)
    });
    wait_for("work on it", 120, || Trace::of(&dir, "run").0.iter().any(|row| row.rank != Some(0)).then_some(()));
    slurm.scancel([block.to_string().as_str()]);
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 61);
    assert!(slurm.squeue().is_empty(), "{:?}", slurm.squeue());
}

#[test]
fn blocks_of_a_killed_run_end_by_themselves() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("killed-run");
    dir.job("job.toml", &phases(400, 1));
    let run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    // One more is asked for than the cluster has.
    wait_for("blocks that work, and one that waits", 120, || {
        (running(&slurm) >= 2 && slurm.squeue().len() > 2).then_some(())
    });
    wait_for("work on them", 120, || Trace::of(&dir, "run").0.iter().any(|row| row.rank != Some(0)).then_some(()));
    run.signal(libc::SIGKILL);
    let begun = Instant::now();
    wait_for("the queue to be empty", 60, || slurm.squeue().is_empty().then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(60));
    phalanx(&dir).args(["report", "run"]).run();
}

#[test]
fn a_full_cluster_keeps_requests_waiting_and_the_run_goes_on() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("full");
    let id = submit(&slurm, &dir, &phases(20, 1));
    wait_for("a request that waits", 120, || {
        slurm.squeue().iter().any(|job| job.id != id && job.state == "PENDING").then_some(())
    });
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert!(slurm.squeue().is_empty(), "{:?}", slurm.squeue());
}
