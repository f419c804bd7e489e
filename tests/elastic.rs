//! Ranks that join a run under way, are drained, and are lost: with real processes, without Slurm.

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use support::checker::Trace;
use support::{Dir, Running, TestCommand, mpirun, phalanx, wait_for};

/// Waves of tasks, each of which needs all of the wave before.
fn waves(waves: u32, width: u32, seconds: f64) -> String {
    let mut job = String::from("[job]\nname = \"waves\"\n");
    for wave in 0..waves {
        let needs = if wave > 0 { format!("needs = [\"w{}\"]\n", wave - 1) } else { String::new() };
        job += &format!(
            "[[task]]\nname = \"w{wave}\"\narray = \"1-{width}\"\nkernel = \"sleep\"\nargs = {{ seconds = {seconds} }}\n{needs}"
        );
    }
    job
}

fn names(waves: u32, width: u32) -> Vec<String> {
    (0..waves).flat_map(|wave| (1..=width).map(move |index| format!("w{wave}[{index}]"))).collect()
}

/// Starts a run that can be joined, and waits until it can.
fn open_run(dir: &Dir, command: TestCommand, job: &str) -> Running {
    dir.job("job.toml", job);
    let args = ["-v", "run", "job.toml", "--slots", "1", "--run-dir", "run", "--listen", "127.0.0.1"];
    let run = command.args(args).patience(300).start();
    wait_for("the contact file", 60, || dir.has("run/contact").then_some(()));
    run
}

fn join(command: TestCommand) -> Running {
    command.args(["join", "--contact", "run/contact", "--slots", "1"]).patience(300).start()
}

/// The ranks that completed tasks.
fn ranks(trace: &Trace) -> HashSet<u32> {
    trace.0.iter().filter(|row| row.state == "COMPLETED").filter_map(|row| row.rank).collect()
}

/// Waits until a rank has completed a task.
fn wait_for_work(dir: &Dir, rank: u32) {
    wait_for("work of the rank that joined", 120, || ranks(&Trace::of(dir, "run")).contains(&rank).then_some(()));
}

#[test]
fn a_process_joins_a_run_and_works() {
    let dir = Dir::new("join");
    let run = open_run(&dir, phalanx(&dir), &waves(3, 10, 0.3));
    let joined = join(phalanx(&dir));
    run.wait().ok();
    joined.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(names(3, 10).iter().map(String::as_str));
    assert_eq!(ranks(&trace), HashSet::from([0, 1]));
    assert!(!dir.has("run/contact"), "nobody can join a run that is over");
    phalanx(&dir).args(["join", "--contact", "run/contact"]).run().code(2);
}

#[test]
fn worlds_join_a_world() {
    let dir = Dir::new("worlds");
    let run = open_run(&dir, mpirun(&dir, 2), &waves(6, 16, 0.2));
    let joined = [join(mpirun(&dir, 2)), join(phalanx(&dir))];
    run.wait().ok();
    joined.into_iter().for_each(|joined| drop(joined.wait_clean().ok()));
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(names(6, 16).iter().map(String::as_str));
    assert_eq!(ranks(&trace), HashSet::from([0, 1, 2, 3, 4]));
}

#[test]
fn a_killed_rank_costs_only_what_it_ran() {
    let dir = Dir::new("killed");
    let run = open_run(&dir, phalanx(&dir), &waves(4, 8, 0.4));
    let mut joined = join(phalanx(&dir));
    wait_for_work(&dir, 1);
    joined.kill_all();
    run.wait().ok();
    let trace = Trace::of(&dir, "run");
    for task in names(4, 8) {
        let times = trace.attempts(&task).iter().filter(|row| row.state == "COMPLETED").count();
        assert_eq!(times, 1, "{task}");
    }
    for wave in 1..4 {
        trace.respects([(&*format!("w{}[1]", wave - 1), &*format!("w{wave}[1]"))]);
    }
}

#[test]
fn a_rank_whose_coordinator_is_gone_leaves() {
    let dir = Dir::new("orphan");
    let mut run = open_run(&dir, phalanx(&dir), &waves(1, 40, 10.0));
    let joined = join(phalanx(&dir));
    wait_for("the rank to take part", 60, || run.stderr_so_far().contains("takes part").then_some(()));
    let begun = Instant::now();
    run.kill_all();
    joined.wait_clean().code(1).says("coordinator is gone");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_wrong_secret_does_not_disturb_a_run() {
    let dir = Dir::new("secret");
    let run = open_run(&dir, phalanx(&dir), &waves(2, 6, 0.5));
    let contact = dir.read("run/contact");
    let at = contact.find("secret").expect("a contact has a secret") + 9;
    let forged = format!("{}{}{}", &contact[..at], "0".repeat(64), &contact[at + 64..]);
    dir.file("forged", &forged);
    // Others can read it.
    phalanx(&dir).args(["join", "--contact", "forged"]).run().code(2).says("chmod 600");
    support::shell(&dir, "chmod 600 forged").run().ok();
    phalanx(&dir).args(["join", "--contact", "forged"]).run().code(1).says("secret");
    let output = run.wait().ok();
    assert!(output.stderr().contains("refused a connection"), "{output}");
    Trace::of(&dir, "run").exactly_once(names(2, 6).iter().map(String::as_str));
}
