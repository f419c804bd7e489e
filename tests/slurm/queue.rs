//! What a run has in the queue: all of it is known, nothing of it stays, and no other process
//! touches it.

use std::path::Path;

use crate::jobs::{HELD, Settings, blocks, phased, phases, release, running, widely};
use crate::support::checker::Trace;
use crate::support::slurm::{Setup, Slurm};
use crate::support::{Dir, phalanx, wait_for};

/// Waits until a job of the queue waits; its number.
#[track_caller]
fn waiting(slurm: &Slurm) -> u32 {
    wait_for("a request that waits", 120, || {
        slurm.squeue().into_iter().find(|job| job.state == "PENDING").map(|job| job.id)
    })
}

#[test]
fn what_the_user_sets_for_slurms_commands_hides_no_job() {
    let dir = Dir::new("hostile");
    let Some((slurm, holder)) = Slurm::start_with_holder(2, &dir) else { return };
    dir.job("job.toml", &phased(HELD, 600, 1, 1));
    let command = slurm.program_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]).patience(600);
    let hostile = [
        ("SQUEUE_FORMAT", "%j"),
        ("SQUEUE_STATES", "COMPLETED"),
        ("SQUEUE_USERS", "nobody"),
        ("SQUEUE_PARTITION", "none"),
        ("SQUEUE_NAMES", "none"),
        ("SCANCEL_INTERACTIVE", "1"),
        ("SCANCEL_STATE", "SUSPENDED"),
        ("SCANCEL_NAME", "none"),
        ("SLURM_TIME_FORMAT", "%c"),
        ("SBATCH_ARRAY_INX", "1-2"),
        ("SBATCH_WAIT", "1"),
        ("SBATCH_JOB_NAME", "mine"),
    ];
    let run = hostile.into_iter().fold(command, |command, (name, value)| command.env(name, value)).start();
    widely(&dir, 0, 3);
    // One of the nodes that it still waits for gets another name, and can never start.
    let id = waiting(&slurm).to_string();
    for what in [["hold", &id], ["update", &format!("JobId={id}")]] {
        let name: &[&str] = if what[0] == "update" { &["JobName=other"] } else { &[] };
        slurm.command("scontrol").args(what).args(name).run().ok();
    }
    assert_eq!(slurm.squeue().len(), 4, "each request is one job");
    slurm.scancel([holder.to_string().as_str()]);
    release(&dir, "w0");
    release(&dir, "n0");
    let output = run.wait().ok();
    slurm.wait_empty();
    assert!(!output.stderr().contains("no longer in the queue"), "{output}");
    assert!(!dir.has("run/blocks/slurm"), "nothing is left to be withdrawn");
    assert_eq!(Trace::of(&dir, "run").completed().len(), 601);
}

#[test]
fn who_cannot_see_that_a_run_is_over_cancels_nothing_of_it() {
    let dir = Dir::new("unseen");
    let Some((slurm, holder)) = Slurm::start_with_holder(1, &dir) else { return };
    dir.job("job.toml", &phases(400, 1));
    let run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("a block that works", 120, || (running(&slurm) == 2).then_some(()));
    let id = waiting(&slurm);
    let names = dir.read("run/blocks/slurm");
    let name = names.split_whitespace().next().expect("the name of its jobs");
    let waits = || assert!(slurm.squeue().iter().any(|job| job.id == id), "the request of a live run is cancelled");
    let join = |contact: &Path| {
        let contact = contact.to_string_lossy();
        let words = ["join", "--contact", &contact, "--block", "77", "--siblings", name];
        let output = slurm.program_here(&dir, &words).run();
        assert_ne!(output.exit(), 0, "{output}");
        waits();
    };
    // The directory is not there; or it is, and the lock of its holder is not seen.
    join(Path::new("/nowhere/contact"));
    dir.file("unseen/journal", "");
    dir.file("unseen/lock", "1\nanother-node\n1\n");
    join(&dir.path().join("unseen/contact"));
    std::fs::copy(dir.path().join("run/journal"), dir.path().join("unseen/journal")).expect("a journal");
    join(&dir.path().join("unseen/contact"));
    dir.file("unseen/blocks/slurm", &names);
    slurm.program_here(&dir, &["cancel", "unseen"]).run().code(1).says("scancel --name");
    waits();
    // Once it has written its end, anybody may take from the queue what it left there.
    slurm.command("scontrol").args(["hold", &id.to_string()]).run().ok();
    slurm.scancel([holder.to_string().as_str()]);
    run.signal(libc::SIGKILL);
    // Until the kernel has ended it, its lock says that it lives.
    run.wait();
    slurm.program_here(&dir, &["cancel", "run"]).run().ok().says(name);
    slurm.wait_empty();
    phalanx(&dir).args(["report", "run"]).run();
}

#[test]
fn jobs_are_followed_on_the_cluster_that_took_them() {
    let Some(slurm) = Slurm::start_with(2, Setup { accounting: true, ..Setup::default() }) else { return };
    let dir = Dir::new("cluster");
    let capacity = "time = \"10m\"\nextra = [\"--clusters=phalanx\"]";
    dir.job("job.toml", &phased(Settings { capacity, ..HELD }, 600, 1, 1));
    let run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    widely(&dir, 0, 3);
    waiting(&slurm);
    assert!(dir.read("run/blocks/slurm").trim_end().ends_with(" phalanx"), "{}", dir.read("run/blocks/slurm"));
    release(&dir, "w0");
    release(&dir, "n0");
    run.wait().ok();
    assert!(blocks(&dir, "run").iter().any(|block| block.name.ends_with("of cluster phalanx")));
    slurm.wait_empty();
}
