//! `explain --task`: why a task is in its state, in a live run and after it.

use serde_json::Value;

use crate::support::{Dir, mpirun, phalanx, wait_for};

/// Tasks in every state while `gate` waits for the file `go`: 4 slots, one taken by `gate`.
const JOB: &str = r#"
[job]
name = "why"
[[task]]
name = "gate"
command = "echo waiting; while [ ! -e go ]; do sleep 0.05; done"
[[task]]
name = "align"
matrix = { sample = ["NA1", "NA2"], seed = "0-3" }
needs = "gate"
command = "true"
[[task]]
name = "one"
array = "0-2%1"
command = "while [ ! -e go ]; do sleep 0.05; done"
[[task]]
name = "bad"
command = "echo oops >&2; exit 3"
retries = { count = 1, backoff = "1h" }
[[task]]
name = "lost"
command = "echo gone >&2; exit 4"
[[task]]
name = "after"
needs = "lost"
command = "true"
[[task]]
name = "last"
needs = "after"
command = "true"
[[task]]
name = "undo"
needs = "afternotok:gate"
command = "true"
"#;

fn explained(dir: &Dir, task: &str) -> Value {
    phalanx(dir).args(["explain", "--task", task, "--json"]).run().ok().json()["tasks"][0].clone()
}

fn reasons(task: &Value) -> Vec<&str> {
    let all = task["reasons"].as_array().expect("a list of reasons");
    all.iter().map(|reason| reason["reason"].as_str().expect("its kind")).collect()
}

fn says(dir: &Dir, task: &str, texts: &[&str]) {
    let said = phalanx(dir).args(["explain", "--task", task]).run().ok();
    for text in texts {
        assert!(said.stdout().contains(text), "{task}: {text:?} is missing in\n{}", said.stdout());
    }
}

#[test]
fn every_state_of_a_task_has_a_reason() {
    let dir = Dir::new("why");
    dir.job("why.toml", JOB);
    let run = mpirun(&dir, 2).args(["run", "why.toml", "-q", "--slots", "2"]).start();
    wait_for("rank 0 to know of both running tasks, and the journal of the failed ones", 60, || {
        if !dir.has("phalanx-runs/latest/control/socket") {
            return None;
        }
        let of = |task: &str| {
            let answer = phalanx(&dir).args(["explain", "--task", task, "--json"]).run();
            (answer.exit() == 0).then(|| answer.json()["tasks"][0]["state"].as_str().map(str::to_owned))?
        };
        let runs = of("gate")? == "RUNNING" && phalanx(&dir).args(["status"]).run().stdout().contains("one[");
        let failed = of("last")? == "SKIPPED";
        let tried = phalanx(&dir).args(["report", "--tasks"]).run().stdout().contains("bad,,1,FAILED");
        (runs && failed && tried).then_some(())
    });

    let gate = explained(&dir, "gate");
    assert_eq!((&gate["state"], &gate["output"]), (&"RUNNING".into(), &"waiting".into()), "{gate:#}");
    let align = explained(&dir, "align[NA2]");
    assert_eq!(
        (&align["label"], &align["task"], &align["state"]),
        (&"align[NA2,0]".into(), &"align[4]".into(), &"PENDING".into())
    );
    assert_eq!((align["values"].as_str(), reasons(&align)), (Some("sample=NA2, seed=0"), vec!["needs"]));
    assert_eq!((&align["reasons"][0]["task"], &align["reasons"][0]["state"]), (&"gate".into(), &"RUNNING".into()));
    says(
        &dir,
        "align[sample=NA2,seed=3]",
        &["align[NA2,3] (sample=NA2, seed=3)", "which must complete and is RUNNING"],
    );
    says(&dir, "undo", &["waits for gate, which must fail"]);
    let one = phalanx(&dir).args(["explain", "--task", "one", "--json"]).run().ok().json();
    let states: Vec<_> = one["tasks"].as_array().expect("tasks").iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "READY").count(), 2, "{one:#}");
    says(&dir, "one", &["at most 1 task of one at once: 1 runs of 3 that have not ended"]);
    let bad = explained(&dir, "bad");
    assert_eq!(
        (&bad["state"], reasons(&bad), &bad["output"]),
        (&"READY".into(), vec!["retry", "ran_before"], &"oops".into())
    );
    assert!(bad["expected"]["in_s"].as_f64().expect("seconds") > 3000.0, "{bad:#}");
    says(
        &dir,
        "bad",
        &["attempt 2 follows in 59 min", "(the last one)", "attempt 1 ended after", "FAILED, exit", "| oops"],
    );
    says(&dir, "lost", &["FAILED", "no further attempt: the job file gives it no `retries`", "| gone"]);
    says(&dir, "last", &["SKIPPED", "because of after (SKIPPED), which needed lost (FAILED)"]);
    let skipped = phalanx(&dir).args(["report", "--task", "last"]).run().ok();
    assert!(!skipped.stdout().contains("attempt 0"), "{skipped}");
    skipped.says("did not run: SKIPPED at").says("because of after (SKIPPED), which needed lost (FAILED)");
    phalanx(&dir).args(["explain", "--task", "nix"]).run().code(2).says("the job has no task `nix`");
    phalanx(&dir).args(["explain", "--task", "align[NA9]"]).run().code(2).says("has no value \"NA9\"");
    phalanx(&dir).args(["explain", "latest", "3", "--task", "gate"]).run().code(2).says("cannot be used with");

    // Ended by hand: the rest is explained from the journal.
    phalanx(&dir).args(["cancel", "latest", "one"]).run().ok();
    wait_for("the cancelled tasks to end", 60, || {
        let one = phalanx(&dir).args(["explain", "--task", "one[2]", "--json"]).run().ok().json();
        (one["tasks"][0]["state"] == "CANCELLED").then_some(())
    });
    says(&dir, "one[2]", &["asked by the user: cancel one: done"]);
    phalanx(&dir).args(["cancel", "latest"]).run().ok();
    run.wait().code(143);
    says(&dir, "align", &["align[NA1,0] (sample=NA1, seed=0): PENDING", "the run ended first: cancelled by the user"]);
    says(&dir, "bad", &["the run ended first", "| oops"]);
}

#[test]
fn a_resume_says_why_tasks_ran_again() {
    let dir = Dir::new("why-again");
    dir.job(
        "a.toml",
        "[[task]]\nname = 'one'\narray = '0-2'\ninputs = ['in-{index}']\ncommand = 'cat in-{index}'\n\
         [[task]]\nname = 'two'\nneeds = 'one'\ncommand = 'true'\n[[task]]\nname = 'three'\ncommand = 'true'\n",
    );
    (0..3).for_each(|index| _ = dir.file(&format!("in-{index}"), "x"));
    phalanx(&dir).args(["run", "a.toml", "-q"]).run().ok();
    says(&dir, "two", &["COMPLETED", "ran on"]);
    says(&dir, "one", &["COMPLETED"]);
    dir.file("in-1", "y");
    phalanx(&dir).args(["run", "a.toml", "-q", "--resume"]).run().ok();
    says(&dir, "one[1]", &["had completed before session 2, which ran it again: its input in-1 has changed"]);
    says(&dir, "two", &["ran it again: it needs one[1], which runs again", "of `two`"]);
    says(&dir, "three", &["completed in session 1; the resumed run did not run it again"]);
    let kept = explained(&dir, "one[0]");
    assert_eq!((reasons(&kept), &kept["place"]["session"]), (vec!["taken_over"], &1.into()), "{kept:#}");
    // The name stays the same where the number does not.
    dir.job(
        "a.toml",
        "[[task]]\nname = 'new'\ncommand = 'true'\n\
         [[task]]\nname = 'one'\narray = '0-2'\ninputs = ['in-{index}']\ncommand = 'cat in-{index}'\n\
         [[task]]\nname = 'two'\nneeds = 'one'\ncommand = 'true'\n[[task]]\nname = 'three'\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "a.toml", "-q", "--resume"]).run().ok();
    let one = explained(&dir, "one[1]");
    assert_eq!(reasons(&one), ["run_again", "taken_over"], "{one:#}");
}

#[test]
fn what_a_part_of_a_job_leaves_out_says_so() {
    let dir = Dir::new("why-part");
    dir.job("a.toml", "[[task]]\nname = 'a'\ncommand = 'true'\n[[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'true'\n");
    phalanx(&dir).args(["run", "a.toml", "-q", "--until", "a"]).run().ok();
    says(&dir, "b", &["b: LEFT_OUT", "left out of the last session by --until a"]);
    assert_eq!(reasons(&explained(&dir, "b")), ["left_out"]);
    assert_eq!(explained(&dir, "a")["state"], "COMPLETED");
}

/// A job of 21 tasks with 4 slots: one array with a limit, one of two slots that wait for it, and
/// `z` that needs both.
const LIMITED: &str = r#"
[job]
name = "limited"
[cost]
node_hour = 36.0
[pools.db]
capacity = 1
[[task]]
name = "p"
array = "0-15%2"
command = "while [ ! -e go ]; do sleep 0.05; done"
[[task]]
name = "q"
array = "0-2"
pools = { db = 1 }
command = "while [ ! -e go ]; do sleep 0.05; done"
[[task]]
name = "y"
needs = "p[15]"
command = "true"
[[task]]
name = "z"
needs = ["p", "q"]
command = "true"
"#;

#[test]
fn all_views_count_the_same_and_the_numbers_add_up() {
    let dir = Dir::new("why-counts");
    dir.job("limited.toml", LIMITED);
    let run = phalanx(&dir).args(["run", "limited.toml", "-q", "--slots", "4"]).start();
    let status = || phalanx(&dir).args(["status", "--json"]).run();
    // Two of `p` and one of `q` run, 14 and 2 are ready, `y` and `z` are pending.
    let expected = [("running", 3), ("ready", 16), ("pending", 2), ("completed", 0), ("total", 21)];
    let counts = |value: &Value| expected.iter().all(|(state, n)| value[*state].as_u64() == Some(*n));
    wait_for("rank 0 to know the load", 60, || {
        let said = dir.has("phalanx-runs/latest/control/socket").then(status).filter(|said| said.exit() == 0)?;
        (counts(&said.json()["counts"]) && counts(&said.json()["tasks"])).then_some(())
    });
    phalanx(&dir)
        .args(["status"])
        .run()
        .ok()
        .says("0 of 21 completed, 0 failed, 3 running, 16 ready, 2 pending; ")
        .says(" wait for more than a slot: ");
    // The other views read a sample of each second.
    let report = wait_for("a sample of that", 60, || {
        let report = phalanx(&dir).args(["report", "--json"]).run().ok().json();
        counts(&report["counts"]).then_some(report)
    });
    let tasks = &report["tasks"];
    assert_eq!([&tasks["PENDING"], &tasks["READY"], &tasks["RUNNING"]], [&Value::from(2), &16.into(), &3.into()]);
    phalanx(&dir).args(["report"]).run().ok().says("21: 2 pending, 16 ready, 3 running");
    phalanx(&dir).args(["top", "--once"]).run().ok().says("0 of 21 done, 3 running, 16 ready, 2 pending");
    // What is READY for one is ready for all.
    let of = |name: &str| phalanx(&dir).args(["explain", "--task", name, "--json"]).run().ok().json();
    let ready = |name: &str| of(name)["tasks"].as_array().unwrap().iter().filter(|t| t["state"] == "READY").count();
    wait_for("all running tasks to be known by name", 60, || (ready("p") == 14 && ready("q") == 2).then_some(()));
    says(&dir, "p[15]", &["READY", "at most 2 tasks of p at once: 2 run of 16 that have not ended"]);
    // The bill goes on while nothing is decided.
    let spent = |args: &[&str]| phalanx(&dir).args(args).run().ok().json()["cost"].as_f64().unwrap();
    let [before, status, after] = [["report", "--json"], ["status", "--json"], ["report", "--json"]].map(|a| spent(&a));
    assert!(0.0 < before && before <= status + 0.05 && status <= after + 0.05, "{before} {status} {after}");

    // A changed limit is the one that holds.
    phalanx(&dir).args(["limit", "latest", "p=1"]).run().ok();
    says(&dir, "p[14]", &["at most 1 task of p at once: 2 run of"]);
    // What is paused is not expected to start.
    phalanx(&dir).args(["pause", "latest", "q"]).run().ok();
    let paused = wait_for("a paused task", 60, || {
        let all = of("q")["tasks"].as_array().unwrap().clone();
        all.into_iter().find(|task| reasons(task).contains(&"paused"))
    });
    assert!(paused["expected"].is_null() && paused["state"] == "READY", "{paused:#}");
    assert!(counts(&status_counts(&dir)), "paused tasks are ready");

    // Each task is told who cancelled it, and what that means for others.
    phalanx(&dir)
        .args(["cancel", "latest", "p[15]"])
        .run()
        .ok()
        .says("1 task is cancelled and what needs it is skipped");
    wait_for("its end", 60, || (explained(&dir, "p[15]")["state"] == "CANCELLED").then_some(()));
    phalanx(&dir).args(["cancel", "latest", "p[15]"]).run().code(1).says("has ended already");
    let cancelled = explained(&dir, "p[15]");
    assert!(cancelled["place"].is_null() && cancelled["took_s"].is_null(), "it has never run: {cancelled:#}");
    says(&dir, "p[15]", &["asked by the user: cancel p[15]: done"]);
    says(&dir, "z", &["PENDING", "will be skipped: p[15] was CANCELLED"]);
    phalanx(&dir).args(["resume", "latest", "q"]).run().ok();
    dir.file("go", "");
    run.wait().code(1);
    says(&dir, "z", &["SKIPPED"]);
    let tasks = phalanx(&dir).args(["status", "--json"]).run().json()["tasks"].clone();
    let sum =
        ["completed", "failed", "skipped", "cancelled", "running", "ready", "pending"].map(|of| tasks[of].as_u64());
    let sum = sum.into_iter().sum::<Option<u64>>();
    assert_eq!((sum, tasks["held"].as_u64()), (tasks["total"].as_u64(), Some(0)), "{tasks:#}");
}

fn status_counts(dir: &Dir) -> Value {
    phalanx(dir).args(["status", "--json"]).run().ok().json()["counts"].clone()
}

#[test]
fn who_ended_a_run_is_named() {
    let dir = Dir::new("why-end");
    dir.job("a.toml", "[[task]]\nname = 'a'\ncommand = 'sleep 600'\n");
    for (nr, (signal, code, text)) in
        [(None, 143, "cancelled by the user"), (Some(1), 4, "stopped by SIGHUP"), (Some(15), 4, "stopped by SIGTERM")]
            .into_iter()
            .enumerate()
    {
        let run = phalanx(&dir).args(["run", "a.toml", "-q"]).start();
        let name = format!("a-{}", nr + 1);
        await_running_task(&dir, &name);
        match signal {
            None => _ = phalanx(&dir).args(["cancel", &name]).run().ok(),
            Some(signal) => run.signal(signal),
        }
        run.wait().code(code);
        phalanx(&dir).args(["report", &name]).run().ok().says(text);
        let analysis = phalanx(&dir).args(["analyze", &name]).run().ok();
        assert!(!analysis.stdout().contains("failed"), "what was cancelled did not fail: {analysis}");
    }
    let mut run = phalanx(&dir).args(["run", "a.toml", "-q"]).start();
    await_running_task(&dir, "a-4");
    run.kill_all();
    drop(run);
    let said = phalanx(&dir).args(["explain", "a-4", "--task", "a"]).run().ok();
    said.says("PENDING").says("an attempt that ran then has left no record");
}

fn await_running_task(dir: &Dir, run: &str) {
    wait_for("the task to run", 60, || {
        let said = phalanx(dir).args(["status", run, "--json"]).run();
        (said.exit() == 0 && said.json()["counts"]["running"] == 1).then_some(())
    });
}

#[test]
fn each_kind_of_failure_is_shown_once() {
    let dir = Dir::new("why-kinds");
    dir.job(
        "f.toml",
        "[[task]]\nname = 'f'\narray = '0-9'\ncommand = 'echo no input {index} >&2; exit 3'\n\
         [[task]]\nname = 'g'\ncommand = 'echo other >&2; exit 4'\n",
    );
    phalanx(&dir).args(["run", "f.toml", "-q", "--slots", "1"]).run().code(1);
    let said = phalanx(&dir).args(["report"]).run();
    assert_eq!(said.stdout().matches("| no input").count(), 1, "{}", said.stdout());
    assert!(said.stdout().contains("in the same way: f[1], f[2], f[3], f[4] and 5 more"), "{}", said.stdout());
    assert!(said.stdout().contains("| other"), "{}", said.stdout());
    phalanx(&dir).args(["report", "--failed"]).run().ok().says("| no input 9");
}

/// What waits for `go` on each of three ranks, and two MPI tasks: for one the ranks have room once
/// they are free, for the other they have too few GPUs, and the requested node never comes.
const GANGS: &str = r#"
[capacity]
provider = "commands"
listen = "127.0.0.1"
[capacity.commands]
submit = "echo job 17 # {script}"
job_id = '\d+'
state = "[ -e cancelled ] || echo waits {id}"
waiting = "waits"
running = "runs"
cancel = "echo {id} >> cancelled"
[scaling]
policy = "fixed"
max_ranks = 4
[[task]]
name = "busy"
array = "0-2"
command = "touch began-{index}; while [ ! -e go ]; do sleep 0.05; done"
"#;
const MORE_GANGS: &str = r#"
[[task]]
name = "gathers"
mpi = { ranks = 3 }
gpus = 3
command = "touch gathered-$CUDA_VISIBLE_DEVICES"
[[task]]
name = "waits"
mpi = { ranks = 4 }
gpus = 4
command = "true"
"#;

#[test]
fn a_task_on_several_ranks_says_what_it_waits_for() {
    let dir = Dir::new("why-gang");
    dir.job("gangs.toml", GANGS);
    let run =
        mpirun(&dir, 3).args(["run", "gangs.toml", "-q", "--slots", "1"]).env("CUDA_VISIBLE_DEVICES", "4,5,6").start();
    wait_for("the ranks to be busy", 60, || (0..3).all(|task| dir.has(&format!("began-{task}"))).then_some(()));
    // Not before: they might gather ranks that have not begun a task.
    dir.file("more.toml", MORE_GANGS);
    phalanx(&dir).args(["add", "latest", "more.toml"]).run().ok();
    wait_for("a node to be requested", 60, || {
        let waits = explained(&dir, "waits");
        (waits["reasons"][0]["nodes_coming"] == 1).then_some(())
    });
    let text = "waits for further ranks: it needs 4 MPI ranks of 1 CPU and 4 GPUs, and those that take part have \
                room for 3 MPI ranks; 1 node is requested";
    says(&dir, "waits", &[text]);
    says(&dir, "gathers", &["needs 3 MPI ranks of 1 CPU and 3 GPUs on several ranks at once"]);
    dir.file("go", "");
    wait_for("the task that has room to run", 60, || dir.has("gathered-4,5,6").then_some(()));
    wait_for("the other to wait still", 60, || {
        let waits = explained(&dir, "waits");
        (waits["state"] == "READY" && waits["reasons"][0]["room"] == 3).then_some(())
    });
    phalanx(&dir).args(["cancel", "latest"]).run().ok();
    run.wait();
}
