//! The nodes that a run was started with go back to Slurm when it needs them no more, and what
//! fails does no harm.

use std::collections::{BTreeSet, HashSet};

use crate::jobs::{self, HELD, Settings, blocks, given_back, idle, phased, release, rows, running, submit, widely};
use crate::support::checker::Trace;
use crate::support::slurm::{Setup, Slurm};
use crate::support::{self, Dir, phalanx, wait_for};
use phalanx::model::BlockState;

/// A Slurm that forbids shrinking.
const FORBIDDEN: Setup = Setup { scheduler: "disable_job_shrink", features: "", partitions: &[], accounting: false };

/// A Slurm that lets a job shrink more than once.
const KEEPS_RECORDS: Setup = Setup { scheduler: "", features: "", partitions: &[], accounting: true };

/// A job whose nodes all come from the allocation that it was started in.
fn own(wide: u32, narrow: u32) -> String {
    phased(Settings { provider: "none", ..Settings::default() }, wide, narrow, 1)
}

/// The same, with phases that the test ends.
fn own_held(wide: u32, narrow: u32) -> String {
    phased(Settings { provider: "none", capacity: "", ..HELD }, wide, narrow, 1)
}

#[test]
fn four_nodes_become_one_in_the_tail() {
    let Some(slurm) = Slurm::start_with(4, KEEPS_RECORDS) else { return };
    let dir = Dir::new("tail");
    let id = submit(&slurm, &dir, "--nodes=4", &own_held(600, 40));
    widely(&dir, 0, 4);
    assert_eq!(idle(&slurm), 0);
    release(&dir, "w0");
    wait_for("three nodes to be idle while the run goes on", 180, || {
        let jobs = slurm.squeue();
        assert!(jobs.iter().any(|job| job.id == id), "the run ended before it gave its nodes back");
        (idle(&slurm) == 3).then_some(())
    });
    given_back(&dir, 3);
    release(&dir, "n0");
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    Trace::of(&dir, "run").exactly_once(jobs::names(600, 40).iter().map(String::as_str));
    let blocks = blocks(&dir, "run");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert_eq!((block.state, block.name), (BlockState::Released, format!("job {id}")));
        assert!(block.ended.is_some());
    }
}

/// Each time that a job shrinks, Slurm begins a new record of it; the next time has to wait for
/// that.
#[test]
fn a_job_shrinks_more_than_once() {
    let Some(slurm) = Slurm::start_with(3, KEEPS_RECORDS) else { return };
    let dir = Dir::new("twice");
    let id = submit(&slurm, &dir, "--nodes=3", &own(600, 1));
    wait_for("work on all nodes", 120, || {
        let ranks: HashSet<_> = rows(&dir).iter().filter_map(|row| row.rank).collect();
        (ranks.len() == 3).then_some(())
    });
    for ranks in [2, 1] {
        phalanx(&dir).args(["scale", "run", &ranks.to_string()]).run().ok();
        wait_for("one node more to be idle", 120, || (idle(&slurm) == 3 - ranks).then_some(()));
        given_back(&dir, 3 - ranks);
    }
    phalanx(&dir).args(["cancel", "run"]).run().ok();
    assert_eq!(slurm.wait_job(id, 240).code, 143);
    let ends: Vec<BlockState> = blocks(&dir, "run").iter().map(|block| block.state).collect();
    assert_eq!(ends, [BlockState::Released; 2]);
}

#[test]
fn a_cluster_that_forbids_shrinking_is_told_and_paid_to_the_end() {
    let Some(slurm) = Slurm::start_with(2, FORBIDDEN) else { return };
    let dir = Dir::new("no-shrink");
    let id = submit(&slurm, &dir, "--nodes=2", &own(10, 20));
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert!(end.log.contains("cannot be given back and is billed on"), "{}", end.log);
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    let [wall, billed] = ["wall_s", "billed_node_s"].map(|name| report[name].as_f64().unwrap_or(f64::NAN));
    assert!((billed - 2.0 * wall).abs() < 3.0, "both nodes are billed to the end: {billed} in {wall} s");
}

#[test]
fn a_fixed_policy_keeps_one_world_over_all_nodes() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("fixed");
    let job = phased(Settings { provider: "none", policy: "fixed", ..Settings::default() }, 8, 2, 1);
    let id = submit(&slurm, &dir, "--nodes=2", &job);
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert!(blocks(&dir, "run").is_empty());
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    assert_eq!(report["ranks"], 2);
}

/// Several nodes a job: all come together, the first goes last.
#[test]
fn nodes_of_one_job_go_one_by_one() {
    let Some(slurm) = Slurm::start_with(4, KEEPS_RECORDS) else { return };
    let dir = Dir::new("several");
    let settings = Settings { capacity: "nodes_per_block = 3\ntime = \"10m\"", ..HELD };
    let id = submit(&slurm, &dir, "--nodes=1", &phased(settings, 600, 40, 1));
    wait_for("a job of three nodes", 180, || {
        slurm.squeue().iter().any(|job| job.id != id && job.nodes == "n[2-4]").then_some(())
    });
    widely(&dir, 0, 4);
    release(&dir, "w0");
    wait_for("nodes to be given back while the run goes on", 180, || {
        assert!(slurm.squeue().iter().any(|job| job.id == id), "the run ended before it gave its nodes back");
        (idle(&slurm) == 3).then_some(())
    });
    release(&dir, "n0");
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    Trace::of(&dir, "run").exactly_once(jobs::names(600, 40).iter().map(String::as_str));
    slurm.wait_empty();
}

#[test]
fn a_node_that_dies_costs_what_it_ran() {
    let Some(mut slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("node-dies");
    let id = submit(&slurm, &dir, "--nodes=1", &phased(HELD, 600, 1, 1));
    widely(&dir, 0, 3);
    let block = slurm.squeue().into_iter().find(|job| job.id != id && job.state == "RUNNING").expect("a block");
    slurm.lose_node(&block.nodes);
    release(&dir, "w0");
    release(&dir, "n0");
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 601);
}

#[test]
fn a_budget_ends_a_run_with_blocks_under_the_cap_and_a_larger_one_goes_on() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("budget");
    // A cent a second and node: four of them are spent soon after the blocks have come.
    let job = |cost| phased(Settings { cost, capacity: "time = \"10m\"", ..Settings::default() }, 100, 1, 1);
    let id = submit(&slurm, &dir, "--nodes=1", &job("budget = 0.6"));
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("FAILED", 3), "{}", end.log);
    slurm.wait_empty();
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().json();
    let cost = report["cost"].as_f64().unwrap_or(f64::NAN);
    assert!(cost <= 0.6, "{cost} were spent of 0.6");
    dir.job("job.toml", &job("budget = 20.0"));
    let script = support::repository().join("slurm/phalanx.sbatch");
    let words =
        ["--nodes=1", script.to_str().expect("text"), "job.toml", "--slots", "1", "--run-dir", "run", "--resume"];
    let end = slurm.wait_job(slurm.sbatch(&dir, words), 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 101);
}

#[test]
fn what_a_dead_run_left_in_the_queue_is_withdrawn_by_whoever_comes() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("dead");
    // The only node is taken, so that requests wait and no process of the run starts and notices.
    let other = slurm.sbatch(&dir, ["--exclusive", "--wrap", "sleep 600"]);
    slurm.wait_running(other);
    let settings = Settings { capacity: "time = \"10m\"", ..Settings::default() };
    dir.job("job.toml", &phased(settings, 200, 1, 1));
    let start = |more: &[&str]| {
        let words = [&["run", "job.toml", "--slots", "1", "--run-dir", "run"], more].concat();
        slurm.run_here(&dir, &words)
    };
    let waiting = || slurm.squeue().iter().filter(|job| job.id != other && job.state == "PENDING").count();
    let mut run = start(&[]);
    wait_for("a request that waits", 120, || (waiting() > 0).then_some(()));
    run.kill_all();
    assert!(waiting() > 0, "nobody has withdrawn it");
    slurm.run_here(&dir, &["cancel", "run"]).wait().ok().says("cancelled");
    wait_for("the queue to be empty", 120, || (waiting() == 0).then_some(()));
    slurm.run_here(&dir, &["cancel", "run"]).wait().code(2).says("has no jobs in the queue");

    let mut run = start(&["--resume"]);
    wait_for("a request that waits", 120, || (waiting() > 0).then_some(()));
    let left: Vec<u32> = slurm.squeue().iter().filter(|job| job.id != other).map(|job| job.id).collect();
    run.kill_all();
    let mut run = start(&["--resume"]);
    wait_for("those of the session before to be gone", 120, || {
        slurm.squeue().iter().all(|job| !left.contains(&job.id)).then_some(())
    });
    run.kill_all();
}

#[test]
fn a_request_of_a_dead_run_has_a_deadline() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("lease");
    let other = slurm.sbatch(&dir, ["--exclusive", "--wrap", "sleep 600"]);
    slurm.wait_running(other);
    let settings = Settings { capacity: "time = \"10m\"", ..Settings::default() };
    dir.job("job.toml", &phased(settings, 200, 1, 1));
    let mut run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    let waiting = wait_for("a request that waits", 120, || slurm.squeue().into_iter().find(|job| job.id != other));
    let record = slurm.command("scontrol").args(["show", "job", "--oneliner", &waiting.id.to_string()]).run();
    assert!(record.stdout().contains("Deadline=2"), "{record}");
    run.kill_all();
    assert_eq!(running(&slurm), 1);
}

/// The processes of the program under test whose command line holds all of these words.
fn processes(slurm: &Slurm, words: &[&str]) -> Vec<u32> {
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        words.iter().all(|word| line.contains(word)) && line.contains("phalanx") && !line.starts_with("srun")
    };
    slurm.processes().into_iter().filter(has).collect()
}

#[test]
fn a_world_that_dies_in_the_own_allocation_gives_its_node_back() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("world-dies");
    let id = submit(&slurm, &dir, "--nodes=3", &own_held(600, 15));
    widely(&dir, 0, 3);
    let worlds = processes(&slurm, &["join", "--block 1 "]);
    assert!(!worlds.is_empty(), "the world of block 1 should be there");
    worlds.into_iter().for_each(|pid| support::send(pid, libc::SIGKILL));
    wait_for("its node to be idle", 120, || (idle(&slurm) >= 1).then_some(()));
    release(&dir, "w0");
    release(&dir, "n0");
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 615);
}

#[test]
fn nothing_is_left_of_a_run_whose_rank_0_is_killed_in_its_allocation() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("rank0-dies");
    let id = submit(&slurm, &dir, "--nodes=3", &own(400, 1));
    wait_for("work on all nodes", 120, || {
        let ranks: HashSet<_> = rows(&dir).iter().filter_map(|row| row.rank).collect();
        (ranks.len() == 3).then_some(())
    });
    let rank0 = processes(&slurm, &[" run job.toml"]);
    let rank0: Vec<u32> = rank0.into_iter().filter(|pid| is_program(*pid)).collect();
    assert_eq!(rank0.len(), 1, "{rank0:?}");
    support::send(rank0[0], libc::SIGKILL);
    slurm.wait_job(id, 240);
    wait_for("all nodes to be idle", 120, || (idle(&slurm) == 3).then_some(()));
    wait_for("its processes to be gone", 120, || processes(&slurm, &["join"]).is_empty().then_some(()));
}

/// True for the program itself, not for a shell or a launcher that has it on its command line.
fn is_program(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "phalanx"))
}

#[test]
fn ranks_leave_a_block_before_its_time_is_up() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("expires");
    let settings = Settings { capacity: "time = \"1m\"", ..Settings::default() };
    let id = submit(&slurm, &dir, "--nodes=1", &phased(settings, 160, 1, 1));
    let end = slurm.wait_job(id, 400);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    let notes = jobs::notes(&dir, "run");
    assert!(notes.iter().any(|note| note.contains("nearly up")), "{notes:#?}");
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(jobs::names(160, 1).iter().map(String::as_str));
    let ends: Vec<BlockState> = blocks(&dir, "run").iter().map(|block| block.state).collect();
    assert!(ends.len() >= 2 && ends.iter().all(|state| state.is_over()), "{ends:?}");
}

#[test]
fn nodes_that_went_back_are_asked_for_again() {
    let Some(slurm) = Slurm::start_with(4, KEEPS_RECORDS) else { return };
    let dir = Dir::new("again");
    let id = submit(&slurm, &dir, "--nodes=4", &phased(HELD, 600, 20, 2));
    let goes_on = || assert!(slurm.squeue().iter().any(|job| job.id == id), "the run is over\n{}", slurm.logs());
    widely(&dir, 0, 4);
    release(&dir, "w0");
    wait_for("three nodes to be idle in the first narrow phase", 180, || {
        goes_on();
        (idle(&slurm) == 3).then_some(())
    });
    release(&dir, "n0");
    wait_for("three jobs more in the second wide phase", 180, || {
        goes_on();
        (running(&slurm) == 4).then_some(())
    });
    ["w1", "n1"].into_iter().for_each(|phase| release(&dir, phase));
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 1240);
    slurm.wait_empty();
}

#[test]
fn tasks_that_need_several_nodes_at_once_get_one_world() {
    let dir = Dir::new("spans");
    let mpi = "[[task]]\nname = \"mpi\"\ncommand = [\"true\"]\nmpi = { ranks = 2, per_node = 1 }\n";
    dir.job("mpi.toml", &format!("{}{mpi}", own(4, 2)));
    dir.job("plain.toml", &own(4, 2));
    let worlds = |job: &str| phalanx(&dir).args(["run", "--worlds", job]).run().ok().stdout().trim().to_owned();
    assert_eq!((worlds("mpi.toml"), worlds("plain.toml")), ("one".to_owned(), "each".to_owned()));
}

#[test]
fn a_warning_stops_all_worlds_of_an_allocation_and_the_run_can_be_resumed() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("warning");
    let id = submit(&slurm, &dir, "--nodes=3", &own_held(600, 1));
    widely(&dir, 0, 3);
    slurm.scancel(["--batch", "--signal=USR1", &id.to_string()]);
    let log = format!("phalanx-{id}.log");
    wait_for("the warning to be heard", 120, || {
        dir.has(&log).then(|| dir.read(&log))?.contains("no further task is started").then_some(())
    });
    ["w0", "n0"].into_iter().for_each(|phase| release(&dir, phase));
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("FAILED", 4), "{}", end.log);
    let script = support::repository().join("slurm/phalanx.sbatch");
    let script = script.to_str().expect("text");
    let words = ["--nodes=3", script, "job.toml", "--slots", "1", "--run-dir", "run", "--resume"];
    let end = slurm.wait_job(slurm.sbatch(&dir, words), 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    Trace::of(&dir, "run").exactly_once(jobs::names(600, 1).iter().map(String::as_str));
}

#[test]
fn a_gained_job_that_cannot_shrink_goes_as_a_whole() {
    let Some(slurm) = Slurm::start_with(3, FORBIDDEN) else { return };
    let dir = Dir::new("whole");
    let settings = Settings { capacity: "nodes_per_block = 2\ntime = \"10m\"", ..HELD };
    let id = submit(&slurm, &dir, "--nodes=1", &phased(settings, 600, 40, 1));
    wait_for("a job of two nodes", 180, || {
        slurm.squeue().iter().any(|job| job.id != id && job.nodes == "n[2-3]").then_some(())
    });
    widely(&dir, 0, 3);
    release(&dir, "w0");
    wait_for("both nodes to be idle while the run goes on", 180, || {
        assert!(slurm.squeue().iter().any(|job| job.id == id), "the run ended before it gave its nodes back");
        (idle(&slurm) == 2).then_some(())
    });
    release(&dir, "n0");
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    Trace::of(&dir, "run").exactly_once(jobs::names(600, 40).iter().map(String::as_str));
}

#[test]
fn a_block_that_is_not_wanted_takes_no_other_from_the_queue_of_a_run_that_lives() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("unwanted");
    let other = slurm.sbatch(&dir, ["--exclusive", "--wrap", "sleep 600"]);
    slurm.wait_running(other);
    dir.job("job.toml", &phased(Settings::default(), 200, 1, 1));
    let mut run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    let waiting = || slurm.squeue().iter().map(|job| job.id).filter(|id| *id != other).collect::<BTreeSet<_>>();
    let before = wait_for("a request that waits", 120, || Some(waiting()).filter(|ids| !ids.is_empty()));
    let name = dir.read("run/blocks/slurm");
    let words = ["join", "--contact", "run/contact", "--block", "99", "--siblings", &name];
    let refused = slurm.run_here(&dir, &words).wait();
    assert!(refused.exit() != 0, "{refused}");
    refused.says("not wanted");
    // The run may have requested more meanwhile.
    assert!(waiting().is_superset(&before), "{before:?}: {:?}", slurm.squeue());
    run.kill_all();
}
