//! Pools on real ranks: what runs at once is counted by the tasks themselves, in a directory that
//! each enters and leaves. No test measures time.

use serde_json::Value;

use crate::support::{Dir, Output, Running, mpirun, phalanx, wait_for};

/// A command line that notes how many tasks of `pool` are running while it is one of them.
fn inside(pool: &str) -> String {
    format!("touch {pool}/$PHALANX_TASK_ID; ls {pool} | wc -l >> {pool}.seen; sleep 0.03; rm {pool}/$PHALANX_TASK_ID")
}

fn job(dir: &Dir, text: &str, pools: &[&str]) {
    pools.iter().for_each(|pool| std::fs::create_dir(dir.path().join(pool)).expect("a new directory"));
    dir.job("job.toml", text);
}

/// The numbers of tasks of a pool that were seen at once.
fn seen(dir: &Dir, pool: &str) -> Vec<u32> {
    dir.read(&format!("{pool}.seen")).lines().map(|line| line.trim().parse().expect("a number")).collect()
}

#[test]
fn capacities_hold_over_all_ranks_and_tasks_of_two_pools_get_their_turn() {
    let dir = Dir::new(module_path!());
    let [x, y] = ["x", "y"].map(inside);
    let text = format!(
        "[pools.x]\ncapacity = 2\n[pools.y]\ncapacity = 1\n\
         [[task]]\nname = \"x\"\narray = \"0-19\"\ncommand = {x:?}\npools = {{ x = 1 }}\n\
         [[task]]\nname = \"y\"\narray = \"0-9\"\ncommand = {y:?}\npools = {{ y = 1 }}\n\
         [[task]]\nname = \"both\"\narray = \"0-5\"\ncommand = {:?}\npools = {{ x = 1, y = 1 }}\n\
         [[task]]\nname = \"limited\"\narray = \"0-9%1\"\ncommand = {:?}\n\
         [[task]]\nname = \"free\"\narray = \"0-9\"\ncommand = \"true\"\n",
        format!("{x}; {y}"),
        inside("z"),
    );
    job(&dir, &text, &["x", "y", "z"]);
    mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2"]).run().ok();
    for (pool, most, tasks) in [("x", 2, 26), ("y", 1, 16), ("z", 1, 10)] {
        let seen = seen(&dir, pool);
        assert_eq!(seen.len(), tasks, "each task of {pool} has run");
        assert!(seen.iter().all(|&at_once| at_once <= most), "{pool}: {seen:?}");
    }
    let report: Value = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
    let peaks: Vec<(&str, u64)> = report["pools"]
        .as_array()
        .expect("pools")
        .iter()
        .map(|pool| (pool["pool"].as_str().expect("a name"), pool["peak"].as_u64().expect("a number")))
        .collect();
    assert_eq!(peaks.iter().map(|peak| peak.0).collect::<Vec<_>>(), ["x", "y", "limited"]);
    assert!(peaks.iter().all(|&(pool, peak)| peak <= if pool == "x" { 2 } else { 1 }), "{peaks:?}");
    phalanx(&dir).args(["report", "latest"]).run().ok().says("Pools and limits of arrays");
}

fn ask(dir: &Dir, words: &[&str]) -> Output {
    phalanx(dir).args(words).run()
}

/// Waits until this many tasks have begun, and returns the status.
fn status_once(dir: &Dir, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, 120, || {
        let answer = ask(dir, &["status", "latest", "--json"]);
        if answer.exit() != 0 {
            return None;
        }
        Some(answer.json()).filter(|status| holds(status))
    })
}

/// Three ranks whose tasks wait for a file that opens the gate.
fn gated(name: &str) -> (Dir, Running) {
    let dir = Dir::new(name);
    let text = "[pools.gate]\ncapacity = 3\n\
        [[task]]\nname = \"a\"\narray = \"0-11\"\nestimate = \"1s\"\npools = { gate = 1 }\n\
        command = \"touch in.{index}; while [ ! -e open ]; do sleep 0.02; done\"\n\
        [[task]]\nname = \"b\"\narray = \"0-5\"\nneeds = \"a\"\ncommand = \"touch b.{index}\"\n";
    dir.job("job.toml", text);
    let run = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2"]).start();
    (dir, run)
}

fn began(dir: &Dir, prefix: &str) -> usize {
    dir.list(".").iter().filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn a_limit_is_raised_and_lowered_while_the_run_goes_on_and_a_resume_knows_it() {
    let (dir, run) = gated(module_path!());
    let in_use = |units: u64| move |status: &Value| status["pools"][0]["in_use"] == units;
    let status = status_once(&dir, "three tasks to run", in_use(3));
    // A unit is in use before the shell has come so far.
    wait_for("three tasks to begin", 120, || (began(&dir, "in.") >= 3).then_some(()));
    assert_eq!((&status["pools"][0]["capacity"], began(&dir, "in.")), (&3.into(), 3));
    ask(&dir, &["limit", "latest"]).ok().says("3 of 3 in use by rank");
    let said = wait_for("a task to say what it waits for", 120, || {
        let tasks: Vec<String> = (0..12).map(|index| format!("a[{index}]")).collect();
        let said = tasks.iter().map(|task| ask(&dir, &["explain", "latest", "--task", task]).stdout().to_owned());
        said.into_iter().find(|said| said.contains("waits for pool gate: 3 of 3 in use by rank"))
    });
    assert!(!said.contains("expected to start"), "when units of the pool are free is not known: {said}");
    ask(&dir, &["limit", "latest", "gat=5"]).code(1).says("did you mean `gate`?");
    ask(&dir, &["limit", "latest", "gate=5"]).ok().says("at most 5 units");
    status_once(&dir, "five tasks to run", in_use(5));
    ask(&dir, &["limit", "latest", "gate=0"])
        .ok()
        .says("no further task of `gate` is started until its limit is raised");
    ask(&dir, &["status", "latest"]).ok().says("5 of 0 in use");
    dir.file("open", "");
    status_once(&dir, "the five to end", |status| status["tasks"]["completed"] == 5);
    assert_eq!(began(&dir, "in."), 5, "nothing more is started");
    ask(&dir, &["cancel", "latest"]).ok();
    run.wait().code(143);
    let resumed = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2", "--resume"]).start();
    wait_for("the resumed run to know the limit", 120, || {
        resumed.stderr_so_far().contains("`gate` is still paused by its limit of 0").then_some(())
    });
    status_once(&dir, "the resumed run", |status| status["session"] == 2);
    ask(&dir, &["limit", "latest", "gate=none"]).ok().says("no limit any more");
    resumed.wait_clean().ok();
    assert_eq!((began(&dir, "in."), began(&dir, "b.")), (12, 6));
    phalanx(&dir).args(["report", "latest", "--html", "r.html"]).run().ok();
    assert!(dir.read("r.html").contains("limit gate=none"), "the journal has each change");
}

#[test]
fn a_paused_run_starts_nothing_and_a_paused_array_only_none_of_its_tasks() {
    let (dir, run) = gated(module_path!());
    status_once(&dir, "three tasks to run", |status| status["pools"][0]["in_use"] == 3);
    ask(&dir, &["resume", "latest"]).code(1).says("nothing is paused");
    ask(&dir, &["pause", "latest"]).ok().says("the run is paused");
    ask(&dir, &["status", "latest"]).ok().says("paused  the whole run");
    dir.file("open", "");
    status_once(&dir, "the three to end", |status| {
        status["tasks"]["completed"] == 3 && status["running"] == serde_json::json!([])
    });
    assert_eq!(began(&dir, "in."), 3);
    ask(&dir, &["pause", "latest", "c"]).code(1).says("no task `c`");
    ask(&dir, &["resume", "latest", "a"]).ok().says("`a` is resumed");
    status_once(&dir, "all of a to end", |status| status["tasks"]["completed"] == 12);
    assert_eq!(began(&dir, "b."), 0, "b is still paused");
    ask(&dir, &["status", "latest"]).ok().says("paused  b;");
    ask(&dir, &["resume", "latest"]).ok();
    run.wait_clean().ok();
    assert_eq!(began(&dir, "b."), 6);
}

#[test]
fn a_run_that_waits_for_a_pool_is_cancelled_and_ends() {
    let dir = Dir::new(module_path!());
    dir.job(
        "job.toml",
        "[pools.p]\ncapacity = 1\n[[task]]\nname = \"a\"\narray = \"0-9\"\ncommand = \"touch a.{index}; sleep 1000\"\n\
         pools = { p = 1 }\n",
    );
    let run = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2"]).start();
    wait_for("a task to begin", 120, || (began(&dir, "a.") == 1).then_some(()));
    ask(&dir, &["cancel", "latest", "a[0-8]"]).ok();
    ask(&dir, &["cancel", "latest"]).ok();
    run.wait_clean().code(143);
    assert!(began(&dir, "a.") <= 2);
}
