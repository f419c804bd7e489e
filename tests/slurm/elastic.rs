//! Nodes from a real Slurm: requested when a job is wide, given back when it is narrow, and nothing
//! left behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::jobs::{self, HELD, Settings, blocks, idle, phased, phases, release, rows, running, submit, widely};
use crate::support::checker::Trace;
use crate::support::slurm::Slurm;
use crate::support::{Dir, documented_capacity, phalanx, wait_for};
use phalanx::journal::BlockChange;

#[test]
fn a_run_grows_over_the_cluster_and_gives_it_back() {
    let Some(slurm) = Slurm::start(4) else { return };
    let dir = Dir::new("grow");
    let id = submit(&slurm, &dir, "--nodes=1", &phased(HELD, 600, 20, 1));
    wait_for("the run to grow", 180, || (running(&slurm) > 2).then_some(()));
    release(&dir, "w0");
    wait_for("nodes to be given back while the run goes on", 180, || {
        let jobs = slurm.squeue();
        assert!(jobs.iter().any(|job| job.id == id), "the run ended before it gave nodes back");
        (idle(&slurm) >= 3).then_some(())
    });
    release(&dir, "n0");
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    slurm.wait_empty();
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 620);
}

#[test]
fn the_lines_of_the_document_speak_to_slurm() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("lines");
    let capacity = documented_capacity("Slurm").leak();
    let capacity = capacity.trim_start_matches("[capacity]\nprovider = \"commands\"\n");
    let settings = Settings { provider: "commands", capacity, held: false, ..HELD };
    dir.job("job.toml", &phased(settings, 120, 1, 1));
    assert!(dir.read("job.toml").contains("sbatch --parsable"), "{}", dir.read("job.toml"));
    let run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("work on nodes of Slurm", 120, || rows(&dir).iter().any(|row| row.rank != Some(0)).then_some(()));
    run.wait_clean().ok();
    slurm.wait_empty();
    let blocks = blocks(&dir, "run");
    assert!(blocks.iter().any(|block| ["n1", "n2"].contains(&block.node.as_str())), "{blocks:?}");
    assert!(!dir.has("run/blocks/commands"), "{}", dir.read("run/blocks/commands"));
}

#[test]
fn a_cancelled_block_costs_only_what_it_ran() {
    let Some(slurm) = Slurm::start(3) else { return };
    let dir = Dir::new("scancel");
    // What a block runs gets the signal that ends the block, too.
    let id = submit(&slurm, &dir, "--nodes=1", &phased(HELD, 600, 1, 1));
    widely(&dir, 0, 3);
    let block = slurm.squeue().into_iter().find(|job| job.id != id && job.state == "RUNNING").expect("a block").id;
    slurm.scancel([block.to_string().as_str()]);
    wait_for("its block to be missed", 120, || {
        let status = phalanx(&dir).args(["status", "run", "--json"]).run().ok().json();
        let name = format!("job {block}");
        status["blocks"].as_array()?.iter().any(|b| b["name"] == *name && b["state"] != "active").then_some(())
    });
    release(&dir, "w0");
    release(&dir, "n0");
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 601);
    slurm.wait_empty();
}

#[test]
fn blocks_of_a_killed_run_end_by_themselves() {
    let dir = Dir::new("killed-run");
    let Some((slurm, holder)) = Slurm::start_with_holder(2, &dir) else { return };
    dir.job("job.toml", &phases(400, 1));
    let run = slurm.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("blocks that work, and one that waits", 120, || {
        (running(&slurm) > 2 && slurm.squeue().iter().any(|job| job.state == "PENDING")).then_some(())
    });
    wait_for("work on them", 120, || Trace::of(&dir, "run").0.iter().any(|row| row.rank != Some(0)).then_some(()));
    run.signal(libc::SIGKILL);
    slurm.scancel([holder.to_string().as_str()]);
    slurm.wait_empty();
    phalanx(&dir).args(["report", "run"]).run();
}

#[test]
fn a_full_cluster_keeps_requests_waiting_and_the_run_goes_on() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("full");
    let id = submit(&slurm, &dir, "--nodes=1", &phases(60, 1));
    wait_for("a request that waits", 120, || {
        slurm.squeue().iter().any(|job| job.id != id && job.state == "PENDING").then_some(())
    });
    let end = slurm.wait_job(id, 300);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    slurm.wait_empty();
}

/// Follows a job in the queue until it ends: how many nodes were idle while each phase ran, at most
/// and at least.
fn watch(slurm: &Slurm, dir: &Dir, id: u32) -> HashMap<String, (usize, usize)> {
    let mut seen: HashMap<String, (usize, usize)> = HashMap::new();
    let until = Instant::now() + Duration::from_secs(600);
    while slurm.squeue().iter().any(|job| job.id == id) {
        assert!(Instant::now() < until, "the run does not end\n{}", slurm.logs());
        let idle = idle(slurm);
        let seen_so_far = rows(dir);
        let Some(last) = seen_so_far.iter().max_by_key(|row| row.end) else { continue };
        let phase = last.name.trim_start_matches(['n', 'w']).split('-').next().unwrap_or_default();
        let kind = if last.name.starts_with('w') { "wide" } else { "narrow" };
        let (most, least) = seen.entry(format!("{kind} {phase}")).or_insert((idle, idle));
        (*most, *least) = ((*most).max(idle), (*least).min(idle));
        std::thread::sleep(Duration::from_millis(300));
    }
    seen
}

/// How far what was recorded of each block is from what Slurm recorded of its job, in seconds.
/// Slurm has no record of when nodes of the run's own job left it.
fn distance(slurm: &Slurm, dir: &Dir, own: u32) -> Vec<(String, f64)> {
    let own = format!("job {own}");
    let ended = |block: &BlockChange| Some((block.name.clone(), block.granted?, block.ended?)).filter(|b| b.0 != own);
    let began = jobs::began(dir, "run");
    let recorded: Vec<_> = blocks(dir, "run").iter().filter_map(ended).collect();
    let off = |(name, granted, end): (String, phalanx::model::Time, phalanx::model::Time)| {
        let number = name.strip_prefix("job ").and_then(|id| id.parse().ok());
        let (from, to) = number.and_then(|id| slurm.times(id)).expect("Slurm remembers the jobs of the last minutes");
        let (from, to) = (from as f64 - began, to as f64 - began);
        (name, (granted.seconds() - from).abs().max((end.seconds() - to).abs()))
    };
    recorded.into_iter().map(off).collect()
}

#[test]
fn a_phased_job_grows_and_shrinks_with_its_phases_and_the_bill_is_that_of_slurm() {
    let Some(slurm) = Slurm::start(4) else { return };
    let dir = Dir::new("phased");
    let id = submit(&slurm, &dir, "--nodes=1", &phased(Settings { capacity: "", ..HELD }, 600, 20, 2));
    for phase in [0, 1] {
        widely(&dir, phase, 4);
        assert_eq!(idle(&slurm), 0, "all four nodes work");
        release(&dir, &format!("w{phase}"));
        wait_for("three nodes to be idle while the run goes on", 180, || {
            assert!(slurm.squeue().iter().any(|job| job.id == id), "the run is over\n{}", slurm.logs());
            (idle(&slurm) == 3).then_some(())
        });
        release(&dir, &format!("n{phase}"));
    }
    let end = slurm.wait_job(id, 240);
    assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 1240);
    let distance = distance(&slurm, &dir, id);
    assert!(distance.len() >= 6, "{distance:?}");
    assert!(distance.iter().all(|block| block.1 <= 2.0), "{distance:?}");
}

/// Measures what a phased job costs with nodes that come and go, against the same on four nodes
/// from beginning to end: `cargo test --test slurm -- --ignored --nocapture measure`.
#[test]
#[ignore = "measures for eight minutes"]
fn measure_what_coming_and_going_saves() {
    let Some(slurm) = Slurm::start(4) else { return };
    let run = |policy: &'static str, nodes: &str, name: &str| {
        let dir = Dir::new(name);
        let job = phased(Settings { policy, ..Settings::default() }, 120, 40, 2);
        let id = submit(&slurm, &dir, nodes, &job);
        let seen = watch(&slurm, &dir, id);
        let end = slurm.wait_job(id, 60);
        assert_eq!((end.state.as_str(), end.code), ("COMPLETED", 0), "{}", end.log);
        let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
        let [wall, billed, active] =
            ["wall_s", "billed_node_s", "active_node_s"].map(|name| report[name].as_f64().unwrap_or(f64::NAN));
        println!(
            "{policy:8} {nodes}: wall {wall:.1} s, billed {billed:.1} node-s, active {active:.1} node-s, idle nodes by phase {seen:?}"
        );
        if policy != "fixed" {
            println!("off Slurm's records: {:?}", distance(&slurm, &dir, id));
            println!("{}", phalanx(&dir).args(["explain", "run"]).run().stdout());
        }
        (wall, billed)
    };
    let (wall, billed) = run("fixed", "--nodes=4", "static");
    for (nodes, name) in [("--nodes=1", "from-one"), ("--nodes=4", "from-four")] {
        let (elastic_wall, elastic_billed) = run("hybrid", nodes, name);
        println!(
            "hybrid {nodes} against static: {:.1} % fewer node-seconds at {:+.1} % wall time",
            100.0 * (1.0 - elastic_billed / billed),
            100.0 * (elastic_wall / wall - 1.0)
        );
    }
}
