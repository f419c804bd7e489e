//! One process: what a person sees of a run, from the exit code to the report, watched from
//! outside.

use std::collections::BTreeSet;

use crate::support::checker::{HEADER, Trace};
use crate::support::{Dir, Output, phalanx, shell, wait_for};

/// Runs a job that is written to `job.toml`, with further arguments.
fn run(dir: &Dir, toml: &str, args: &[&str]) -> Output {
    dir.job("job.toml", toml);
    phalanx(dir).args(["run", "job.toml"]).args(args).run()
}

fn report(dir: &Dir, args: &[&str]) -> Output {
    phalanx(dir).args(["report", "latest"]).args(args).run().ok()
}

#[test]
fn exit_codes_tell_success_failure_and_mistakes() {
    let dir = Dir::new("exit");
    let good = run(&dir, "[[task]]\nname = 'a'\ncommand = ['true']\n", &[]).code(0);
    assert!(good.stdout().contains("1 completed"), "{good}");
    let bad = run(&dir, "[[task]]\nname = 'a'\ncommand = 'exit 7'\n", &[]).code(1);
    assert!(bad.stdout().contains("exit 7") && bad.stdout().contains("--resume"), "{bad}");

    phalanx(&dir).args(["run", "job.toml", "--coordinator-only"]).run().code(2).says("mpirun");
    let typo = run(&dir, "[[task]]\nname = 'a'\ncomand = 'exit 7'\n", &[]).code(2);
    assert!(typo.stderr().contains("command") && typo.stderr().contains("job.toml"), "{typo}");
    phalanx(&dir).args(["run", "absent.toml"]).run().code(2).says("absent.toml");
    phalanx(&dir).args(["run"]).run().code(2);
    phalanx(&dir).args(["run", "job.toml", "--slots", "0"]).run().code(2).says("--slots");
    phalanx(&dir).args(["report", "no-such-run"]).run().code(2).says("no-such-run");
}

#[test]
fn what_needs_a_failed_task_is_skipped_and_said_to_be() {
    let dir = Dir::new("skipped");
    let job = r#"
        [[task]]
        name = "bad"
        command = "echo the-reason >&2; exit 3"
        [[task]]
        name = "child"
        command = "touch child"
        needs = ["bad"]
        [[task]]
        name = "grandchild"
        command = "touch grandchild"
        needs = ["child"]
        [[task]]
        name = "mend"
        command = "touch mend"
        needs = ["afternotok:bad"]
        [[task]]
        name = "always"
        command = "touch always"
        needs = ["afterany:grandchild"]
        [[task]]
        name = "after-mend"
        command = "touch after-mend"
        needs = ["mend", "always"]
        [[task]]
        name = "fine"
        command = "true"
        [[task]]
        name = "no-need-to-mend"
        command = "touch no-need-to-mend"
        needs = ["afternotok:fine"]
    "#;
    let out = run(&dir, job, &[]).code(1);
    for text in ["bad: FAILED, exit 3", "the-reason", "because bad FAILED", "grandchild"] {
        assert!(out.stdout().contains(text), "{text} is missing\n{out}");
    }
    for (file, there) in [
        ("child", false),
        ("grandchild", false),
        ("mend", true),
        ("always", true),
        ("after-mend", true),
        ("no-need-to-mend", false),
    ] {
        assert_eq!(dir.has(file), there, "{file}");
    }
    let trace = Trace::of(&dir, "latest");
    for (task, state) in [
        ("bad", "FAILED"),
        ("child", "SKIPPED"),
        ("grandchild", "SKIPPED"),
        ("mend", "COMPLETED"),
        ("always", "COMPLETED"),
        ("after-mend", "COMPLETED"),
        ("no-need-to-mend", "SKIPPED"),
    ] {
        assert_eq!(trace.state(task), state, "{task}");
    }
    let json = report(&dir, &["--json"]).json();
    assert_eq!(json["tasks"]["SKIPPED"], 3, "{json}");
    assert_eq!(json["tasks"]["FAILED"], 1, "{json}");
    assert_eq!(json["tasks"]["COMPLETED"], 4, "{json}");
    assert_eq!(json["exit_code"], 1, "{json}");
}

#[test]
fn element_wise_needs_skip_only_their_own_element() {
    let dir = Dir::new("aftercorr");
    let job = r#"
        [[task]]
        name = "make"
        array = "0-7"
        command = "test {index} -ne 5"
        [[task]]
        name = "use"
        array = "0-7"
        command = "true"
        needs = ["make[{index}]"]
        [[task]]
        name = "corr"
        array = "0-7"
        command = "true"
        needs = ["aftercorr:make"]
        [[task]]
        name = "all"
        command = "true"
        needs = ["use"]
        [[task]]
        name = "all-whatever"
        command = "true"
        needs = ["afterany:use"]
    "#;
    run(&dir, job, &[]).code(1);
    let trace = Trace::of(&dir, "latest");
    for index in 0..8 {
        let expected = if index == 5 { "SKIPPED" } else { "COMPLETED" };
        assert_eq!(trace.state(&format!("use[{index}]")), expected);
        assert_eq!(trace.state(&format!("corr[{index}]")), expected);
    }
    assert_eq!(trace.state("all"), "SKIPPED");
    assert_eq!(trace.state("all-whatever"), "COMPLETED");
}

#[test]
fn a_failure_is_tried_again_after_a_growing_wait() {
    let dir = Dir::new("retry");
    let job = r#"
        [[task]]
        name = "third-time"
        command = "echo attempt $PHALANX_ATTEMPT; test $PHALANX_ATTEMPT = 3"
        retries = { count = 5, backoff = "200ms", factor = 3 }
        [[task]]
        name = "never"
        command = "exit 4"
        retries = { count = 1, backoff = "0s" }
        [[task]]
        name = "after"
        command = "true"
        needs = ["third-time"]
    "#;
    run(&dir, job, &[]).code(1);
    let trace = Trace::of(&dir, "latest");
    let tries = trace.attempts("third-time");
    let seen: Vec<(u32, &str)> = tries.iter().map(|row| (row.attempt, &*row.state)).collect();
    assert_eq!(seen, [(1, "FAILED"), (2, "FAILED"), (3, "COMPLETED")]);
    let wait = |n: usize| (tries[n].start - tries[n - 1].end) as f64 / 1e9;
    assert!(wait(1) >= 0.2 && wait(2) >= 0.6, "waited {} and {}", wait(1), wait(2));
    assert_eq!(trace.attempts("never").iter().map(|row| row.attempt).collect::<Vec<_>>(), [1, 2]);
    trace.respects([]);
    assert!(trace.last("after").start >= tries[2].end);
    let text = report(&dir, &["--task", "third-time"]);
    assert!((1..=3).all(|n| text.stdout().contains(&format!("attempt {n}"))), "{text}");
}

#[test]
fn a_time_limit_ends_a_task_and_all_it_started() {
    let dir = Dir::new("timeout");
    let job = r#"
        [[task]]
        name = "slow"
        command = "sleep 600 & sleep 600"
        time = "300ms"
        [[task]]
        name = "in-time"
        command = "true"
        time = "1h"
        [[task]]
        name = "kernel"
        kernel = "sleep"
        args = { seconds = 600 }
        time = "300ms"
        [[task]]
        name = "child"
        command = "true"
        needs = ["slow"]
    "#;
    dir.job("job.toml", job);
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).start().wait_clean().code(1).says("TIMEOUT");
    let trace = Trace::of(&dir, "latest");
    let states = ["slow", "in-time", "kernel", "child"].map(|task| trace.state(task).to_owned());
    assert_eq!(states, ["TIMEOUT", "COMPLETED", "TIMEOUT", "SKIPPED"]);
    assert!(trace.last("slow").seconds() >= 0.3);
}

#[test]
fn a_memory_limit_ends_a_task() {
    let dir = Dir::new("memory");
    let job = r#"
        [[task]]
        name = "greedy"
        # `tail` keeps what it reads until a line ends, and none ever does. The loop lets it live until it has been seen.
        command = "(head -c 300000000 /dev/zero; sleep 600) | tail -n 1 > /dev/null"
        memory = "100M"
        [[task]]
        name = "modest"
        command = "test $PHALANX_MEM_MB = 100"
        memory = "100M"
    "#;
    dir.job("job.toml", job);
    phalanx(&dir).args(["run", "job.toml"]).start().wait_clean().code(1).says("OUT_OF_MEMORY");
    let trace = Trace::of(&dir, "latest");
    assert_eq!((trace.state("greedy"), trace.state("modest")), ("OUT_OF_MEMORY", "COMPLETED"));
    report(&dir, &["--failed"]).says("`memory` allows");
}

/// As the monitor of a container does, one process of the command leaves it with an environment of
/// its own, and starts others with that of the task.
#[test]
fn limits_hold_for_what_leaves_a_command_while_it_runs() {
    let dir = Dir::new("left");
    dir.file("monitor.sh", "xargs -0 sh -c 'exec env \"$@\" sh '$1 sh < $1.env\n");
    dir.file("deaf", "trap '' TERM\necho $$ > pid\nsleep 600\nsleep 600\n");
    dir.file("greedy", "(head -c 300000000 /dev/zero; sleep 600) | tail -n 1 > /dev/null\n");
    let left = |script: &str| {
        format!(
            "env -0 > {script}.env; (env -i PATH=\"$PATH\" setsid sh monitor.sh {script} &); trap '' TERM; sleep 600; sleep 600"
        )
    };
    let (deaf, greedy) = (left("deaf"), left("greedy"));
    let job = format!(
        "[[task]]\nname = 'deaf'\ntime = '3s'\ncommand = \"\"\"{deaf}\"\"\"\n\
         [[task]]\nname = 'greedy'\nmemory = '100M'\ncommand = \"\"\"{greedy}\"\"\"\n\
         [[task]]\nname = 'other'\ntime = '120s'\n\
         command = 'until test -s pid; do sleep 0.1; done; while kill -0 $(cat pid); do sleep 0.1; done'\n"
    );
    dir.job("job.toml", &job);
    phalanx(&dir).args(["run", "job.toml", "--slots", "3", "--keep-going"]).start().wait_clean().code(1);
    let trace = Trace::of(&dir, "latest");
    let states = ["deaf", "greedy", "other"].map(|name| trace.state(name).to_owned());
    assert_eq!(states, ["TIMEOUT", "OUT_OF_MEMORY", "COMPLETED"]);
}

/// What an earlier command has left behind, without a mark, is not held against the only one that
/// still runs.
#[test]
fn no_command_ends_for_the_memory_of_anothers_daemon() {
    let dir = Dir::new("daemon");
    dir.file("daemon.sh", "(head -c 200000000 /dev/zero; touch here/full; sleep 600) | tail -n 1 > /dev/null\n");
    dir.file("here/none", "");
    let job = "[[task]]\nname = 'leaves'\ncommand = '(env -i PATH=$PATH setsid sh daemon.sh &); sleep 0.2'\n\
               [[task]]\nname = 'small'\nmemory = '50M'\n\
               command = 'until test -e here/full; do sleep 0.1; done; sleep 4'\n";
    run(&dir, job, &["--slots", "2"]).ok();
    assert_eq!(Trace::of(&dir, "latest").completed().len(), 2);
}

#[test]
fn an_arrays_limit_is_never_exceeded() {
    let dir = Dir::new("limit");
    let job = r#"
        [[task]]
        name = "few"
        array = "0-29%3"
        kernel = "sleep"
        args = { seconds = 0.1 }
        [[task]]
        name = "many"
        array = "0-29"
        kernel = "sleep"
        args = { seconds = 0.1 }
    "#;
    run(&dir, job, &["--slots", "8"]).ok();
    let trace = Trace::of(&dir, "latest");
    let names: Vec<String> = (0..30).flat_map(|i| [format!("few[{i}]"), format!("many[{i}]")]).collect();
    trace.exactly_once(names.iter().map(String::as_str));
    trace.slots_are_exclusive();
    let at_once = |name: &str| trace.most_at_once(|row| u32::from(row.name == name));
    assert_eq!(at_once("few"), 3);
    assert!(at_once("many") > 3, "the limit of one array held back the other");
    assert!(trace.most_at_once(|_| 1) <= 8);
}

#[test]
fn tasks_of_several_cpus_have_their_slots_to_themselves() {
    let dir = Dir::new("cpus");
    let job = r#"
        [[task]]
        name = "wide"
        array = "0-9"
        command = "test $PHALANX_CPUS = 2 && test $OMP_NUM_THREADS = 2 && sleep 0.02"
        cpus = 2
        [[task]]
        name = "narrow"
        array = "0-39"
        command = "test $PHALANX_CPUS = 1 && sleep 0.01"
        [[task]]
        name = "whole"
        command = "test $PHALANX_CPUS = 4"
        cpus = 4
    "#;
    run(&dir, job, &["--slots", "4"]).ok();
    let trace = Trace::of(&dir, "latest");
    let width = |name: &str| match name {
        "wide" => 2,
        "whole" => 4,
        _ => 1,
    };
    assert!(trace.most_at_once(|row| width(&row.name)) <= 4);
    trace.slots_are_exclusive();
    // A job that cannot run leaves no run behind that a resume would take for the one before.
    let too_wide = "[[task]]\nname = 'w'\ncommand = 'true'\ncpus = 5\n";
    run(&dir, too_wide, &["--slots", "4"]).code(2).says("--slots");
    assert_eq!(dir.list("phalanx-runs"), ["job-1", "job.history.jsonl", "latest"]);
    report(&dir, &[]).says("job-1 COMPLETED");
}

#[test]
fn slots_say_how_many_run_at_once() {
    let dir = Dir::new("slots");
    let job = "[[task]]\nname = 's'\narray = '0-23'\nkernel = 'sleep'\nargs = { seconds = 0.05 }\n";
    for slots in [1, 6] {
        run(&dir, job, &["--slots", &slots.to_string()]).ok();
        let trace = Trace::of(&dir, "latest");
        assert_eq!(trace.most_at_once(|_| 1), slots);
        trace.slots_are_exclusive();
        assert_eq!(report(&dir, &["--json"]).json()["slots"], slots);
    }
}

#[test]
fn too_many_failures_stop_the_run() {
    let dir = Dir::new("failures");
    let job = r#"
        [job]
        max_failures = 3
        [[task]]
        name = "bad"
        array = "0-199"
        command = "sleep 0.05; exit 1"
    "#;
    let failed = |out: &Output| {
        assert_eq!(out.exit(), 1, "{out}");
        report(&dir, &["--json"]).json()["tasks"]["FAILED"].as_u64().expect("a count")
    };
    let stopped = failed(&run(&dir, job, &["--slots", "2"]));
    assert!((3..200).contains(&stopped), "{stopped}");
    report(&dir, &[]).says("max_failures");
    let sooner = failed(&run(&dir, job, &["--slots", "1", "--max-failures", "1"]));
    assert!(sooner < 200, "{sooner}");
    assert_eq!(failed(&run(&dir, job, &["--slots", "2", "--keep-going"])), 200);
}

#[test]
fn a_dry_run_runs_nothing() {
    let dir = Dir::new("dry");
    let out = run(&dir, "[[task]]\nname = 'a'\narray = '0-9'\ncommand = 'touch ran'\n", &["--dry-run"]).ok();
    assert!(out.stdout().contains("10") && !dir.has("ran") && !dir.has("phalanx-runs"), "{out}");
    out.says("\n  a[0]\n      touch ran\n  a[1]\n");
    let job = "[[task]]\nname = 'a'\narray = '0-99'\ncommand = ['sort', 'in {index}']\n\
               [[task]]\nname = 'b'\ncommand = '''set -e\nmake x'''\nmpi = { ranks = 2 }\n\
               [[task]]\nname = 'c'\nkernel = 'sleep'\nargs = { seconds = 1 }\n";
    let some = run(&dir, job, &["--dry-run"]).ok();
    some.says("  a[39]\n      sort 'in 39'\n  and 62 more (-v lists all)\n");
    let all = phalanx(&dir).args(["run", "job.toml", "--dry-run", "-v"]).run().ok();
    all.says("  a[99]\n")
        .says("  b\n      mpirun -n 2 set -e\n      make x\n  c\n      kernel sleep { seconds = 1 }\n");
    let part = phalanx(&dir).args(["run", "job.toml", "--dry-run", "--only", "c"]).run().ok();
    part.says("c: ").says("      kernel sleep { seconds = 1 }\n");
    run(&dir, "[[task]]\nname = 'a'\n", &["--dry-run"]).code(2);
}

#[test]
fn run_directories_are_numbered_or_named() {
    let dir = Dir::new("rundir");
    let job = "[job]\nname = 'j'\n[[task]]\nname = 'a'\ncommand = 'echo $PHALANX_JOB_ID'\n";
    run(&dir, job, &[]).ok();
    run(&dir, job, &[]).ok();
    assert_eq!(dir.list("phalanx-runs"), ["j-1", "j-2", "j.history.jsonl", "latest"]);
    report(&dir, &["--task", "a"]).says("j-2");
    run(&dir, job, &["--run-dir", "deep/mine"]).ok();
    phalanx(&dir).args(["report", "deep/mine", "--task", "a"]).run().ok().says("mine");
    run(&dir, job, &["--run-dir", "deep/mine"]).code(2).says("already holds a run");
    run(&dir, job, &["--run-dir", "not-yet", "--resume"]).ok().says("there is no earlier run of j to resume");
    assert!(dir.has("not-yet/journal"));
}

#[test]
fn two_runs_do_not_share_a_run_directory() {
    let dir = Dir::new("two");
    dir.job("job.toml", "[[task]]\nname = 'a'\ncommand = 'touch started; while ! test -e go; do sleep 0.01; done'\n");
    let first = phalanx(&dir).args(["run", "job.toml", "--run-dir", "d"]).start();
    wait_for("the first run to start its task", 120, || dir.has("started").then_some(()));
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "d"]).run().code(2);
    let second = phalanx(&dir).args(["run", "job.toml", "--run-dir", "d", "--resume"]).run().code(2);
    assert!(second.stderr().contains(&first.ranks()[0].to_string()), "the holder is not named\n{second}");
    // A report does not disturb it, and shows that it is live.
    phalanx(&dir).args(["report", "d"]).run().ok().says("RUNNING");
    dir.file("go", "");
    first.wait().ok();
    Trace::of(&dir, "d").exactly_once(["a"]);
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "d", "--resume"]).run().ok();
}

#[test]
fn reports_show_every_side_of_a_run() {
    let dir = Dir::new("report");
    let job = r#"
        [[task]]
        name = "hello"
        array = "0-49"
        command = "echo out of {index}; echo err of {index} >&2"
        [[task]]
        name = "bad"
        command = "echo last words >&2; exit 9"
        needs = ["hello[7]"]
        [[task]]
        name = "killed"
        command = "kill -9 $$"
        [[task]]
        name = "child"
        command = "true"
        needs = ["bad"]
    "#;
    run(&dir, job, &[]).code(1);
    let tasks = report(&dir, &["--tasks"]);
    assert_eq!(tasks.stdout().lines().next(), Some(HEADER));
    assert_eq!(tasks.stdout().lines().count(), 1 + 53);
    let trace = Trace::parse(tasks.stdout());
    assert_eq!(trace.last("bad").exit, 9);
    assert_eq!(trace.last("killed").exit, -9);
    let child = trace.last("child");
    assert_eq!((&*child.state, child.attempt, child.rank, child.slot), ("SKIPPED", 0, None, None));

    let one = report(&dir, &["--task", "hello[33]"]);
    assert!(one.stdout().contains("out of 33\n") && one.stdout().contains("err of 33\n"), "{one}");
    assert!(!one.stdout().contains("of 34"), "{one}");
    assert_eq!(report(&dir, &["--task", "hello"]).stdout().matches("COMPLETED").count(), 50);
    phalanx(&dir).args(["report", "latest", "--task", "hullo"]).run().code(2).says("hullo");

    let failed = report(&dir, &["--failed"]).says("last words").says("exit 9").says("killed: FAILED");
    assert!(!failed.stdout().contains("hello"), "{failed}");

    let log = report(&dir, &["--joblog"]);
    let lines: Vec<&str> = log.stdout().lines().collect();
    assert_eq!(lines[0], "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand");
    assert_eq!(lines.len(), 1 + 52);
    let bad: Vec<&str> = lines.iter().find(|l| l.starts_with("51\t")).expect("a line of task 51").split('\t').collect();
    assert_eq!((bad[6], bad[7], bad[8]), ("9", "0", "echo last words >&2; exit 9"));
    let killed: Vec<&str> = lines.iter().find(|l| l.starts_with("52\t")).expect("a line of 52").split('\t').collect();
    assert_eq!((killed[6], killed[7]), ("0", "9"));

    let json = report(&dir, &["--json"]).json();
    let promised = "state exit_code tasks ranks slots wall_s work_s critical_path_s utilisation balance bytes_moved \
                    billed_node_s active_node_s cost budget decisions";
    for name in promised.split_whitespace() {
        assert!(json.get(name).is_some(), "{name} is missing in {json}");
    }
    assert_eq!((&json["state"], &json["exit_code"]), (&"FAILED".into(), &1.into()));
    let wall = json["wall_s"].as_f64().expect("a number");
    assert!(wall >= trace.wall(), "{wall} {}", trace.wall());
    let utilisation = json["utilisation"].as_f64().expect("a number");
    assert!(0.0 < utilisation && utilisation <= 1.0, "{utilisation}");
}

#[test]
fn a_task_sees_what_is_promised_and_nothing_of_a_launcher() {
    let dir = Dir::new("env");
    let job = r#"
        [job]
        name = "envs"
        dir = "work"
        env = { OF_JOB = "j", BOTH = "job" }
        prologue = ["export FROM_PROLOGUE=p"]
        [defaults]
        env = { OF_DEFAULTS = "d" }
        [[task]]
        name = "other"
        command = "true"
        [[task]]
        name = "show"
        array = "3-4"
        command = "env"
        memory = "64M"
        env = { OF_TASK = "{index}", BOTH = "task" }
        stdout = "env-{index}"
    "#;
    std::fs::create_dir(dir.path().join("work")).expect("a new directory");
    dir.job("job.toml", job);
    let command =
        phalanx(&dir).args(["run", "job.toml"]).env("FROM_OUTSIDE", "o").env("OMPI_COMM_WORLD_LOCAL_RANK", "0");
    command.env("PMIX_SERVER_TMPDIR", "/tmp").env("SLURM_STEP_ID", "0").env("SLURM_JOB_ID", "77").run().ok();
    let text = dir.read("work/env-4");
    let env: std::collections::HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let work = dir.path().join("work");
    for (name, value) in [
        ("PHALANX_JOB_ID", "envs-1"),
        ("PHALANX_TASK_ID", "2"),
        ("PHALANX_TASK_NAME", "show"),
        ("PHALANX_ARRAY_INDEX", "4"),
        ("PHALANX_ATTEMPT", "1"),
        ("PHALANX_RANK", "0"),
        ("PHALANX_CPUS", "1"),
        ("PHALANX_MEM_MB", "64"),
        ("PHALANX_TASK_DIR", work.to_str().expect("a plain path")),
        ("OMP_NUM_THREADS", "1"),
        ("FROM_OUTSIDE", "o"),
        ("FROM_PROLOGUE", "p"),
        ("OF_JOB", "j"),
        ("OF_TASK", "4"),
        ("OF_DEFAULTS", "d"),
        ("BOTH", "task"),
        ("SLURM_JOB_ID", "77"),
        ("PWD", work.to_str().expect("a plain path")),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name} in\n{text}");
    }
    for name in ["PHALANX_PROCESS", "PHALANX_NODE", "PHALANX_CPU_LIST", "PHALANX_NUMA_NODE", "OMP_PLACES"] {
        assert!(env.get(name).is_some_and(|value| !value.is_empty()), "{name} in\n{text}");
    }
    let hidden =
        |name: &&str| ["PMIX_", "PMI_", "PRTE_"].iter().any(|p| name.starts_with(p)) || name.starts_with("OMPI_COMM");
    let is_own = |name: &&&str| name.contains("_ALLOW_RUN_AS_ROOT");
    let seen = env.keys().filter(|name| hidden(name) || **name == "SLURM_STEP_ID");
    let seen: Vec<&&str> = seen.filter(|name| !is_own(name)).collect();
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn standard_streams_go_where_the_job_file_says() {
    let dir = Dir::new("streams");
    let job = r#"
        [[task]]
        name = "copy"
        array = "1-2"
        command = "cat; echo e-{index} >&2"
        stdin = "in-{index}"
        stdout = "out/%x-%3a.txt"
        stderr = "out/err-{index}"
        [[task]]
        name = "both"
        command = "echo one; echo two >&2; echo three"
        stdout = "together"
        stderr = "together"
        [[task]]
        name = "no-input"
        command = "cat; echo end"
        [[task]]
        name = "failing"
        command = "echo oops >&2; exit 1"
        stderr = "out/%x-%j.err"
    "#;
    dir.file("in-1", "first\n");
    dir.file("in-2", "second\n");
    let out = run(&dir, job, &[]).code(1);
    assert_eq!(dir.read("out/copy-001.txt"), "first\n");
    assert_eq!(dir.read("out/copy-002.txt"), "second\n");
    assert_eq!(dir.read("out/err-2"), "e-2\n");
    assert_eq!(dir.read("together"), "one\ntwo\nthree\n");
    assert_eq!(dir.read("out/failing-job-1.err"), "oops\n");
    // The report knows where they are, and shows the end of a failed task's file.
    let shown = report(&dir, &["--task", "copy[2]"]);
    assert!(shown.stdout().contains("out/copy-002.txt"), "{shown}");
    assert!(out.stdout().contains("| oops") && out.stdout().contains("failing-job-1.err"), "{out}");
    report(&dir, &["--task", "no-input"]).says("end\n");

    let absent = "[[task]]\nname = 'a'\ncommand = 'cat'\nstdin = 'nowhere'\n";
    run(&dir, absent, &[]).code(1).says("nowhere");
}

#[test]
fn output_of_successes_can_be_left_out() {
    let dir = Dir::new("output");
    let job = r#"
        [job]
        output = "failed"
        [[task]]
        name = "good"
        array = "0-19"
        command = "echo good words {index}"
        [[task]]
        name = "bad"
        array = "0-3"
        command = "echo bad words {index}; exit 1"
    "#;
    run(&dir, job, &[]).code(1);
    let good = report(&dir, &["--task", "good[3]"]);
    assert!(!good.stdout().contains("\ngood words 3"), "{good}");
    report(&dir, &["--task", "bad[2]"]).says("\nbad words 2\n");
    let kept = shell(&dir, "grep -rc 'good words' phalanx-runs/latest/outputs | grep -v ':0$' | wc -l").run().ok();
    assert_eq!(kept.stdout().trim(), "0", "output that nobody wants is on the disk\n{kept}");
}

#[test]
fn a_reader_that_has_enough_is_no_mishap() {
    let dir = Dir::new("head");
    run(&dir, "[[task]]\nname = 't'\narray = '0-19999'\nkernel = 'noop'\n", &[]).ok();
    for view in ["", "--tasks", "--joblog", "--json", "--task t"] {
        let out = shell(&dir, &format!("phalanx report latest {view} | head -n 1")).run().ok();
        assert!(out.stderr().is_empty() && out.stdout().lines().count() == 1, "{view}: {out}");
    }
}

#[test]
fn tasks_that_take_no_time_all_run_in_order() {
    let dir = Dir::new("zero");
    let job = r#"
        [[task]]
        name = "first"
        array = "0-499"
        kernel = "sleep"
        args = { seconds = 0 }
        [[task]]
        name = "second"
        array = "0-499"
        kernel = "noop"
        needs = ["first[{index}]"]
        [[task]]
        name = "third"
        kernel = "noop"
        needs = ["second"]
    "#;
    run(&dir, job, &["--slots", "4"]).ok();
    let trace = Trace::of(&dir, "latest");
    let names = |kind: &str| (0..500).map(|i| format!("{kind}[{i}]")).collect::<Vec<_>>();
    let (first, second) = (names("first"), names("second"));
    let all = first.iter().chain(&second).map(String::as_str);
    trace.exactly_once(all.chain(["third"]));
    trace.respects(first.iter().zip(&second).map(|(a, b)| (&**a, &**b)));
    trace.respects(second.iter().map(|a| (&**a, "third")));
    trace.slots_are_exclusive();
}

#[test]
fn arguments_arrive_as_they_were_written() {
    let dir = Dir::new("quotes");
    let words = ["two words", "it's", "\"quoted\"", "$HOME", "*", "", "-n", "tab\there", "new\nline", "é €", "a;b|c&d"];
    dir.file("show args.sh", "#!/bin/sh\nfor word; do printf '<%s>' \"$word\"; done > 'the result'\n");
    let list: Vec<String> = words.iter().map(|word| format!("{:?}", word)).collect();
    let list = list.join(", ").replace("\\'", "'");
    let job = format!(
        "[[task]]\nname = 'list'\ncommand = ['sh', 'show args.sh', {list}]\n\
         [[task]]\nname = 'line'\ncommand = '''printf '<%s>' \"two words\" \"it's\" > \"out 'of' line\"'''\n\
         [[task]]\nname = 'read'\ncommand = ['cat']\nneeds = ['list']\nstdin = 'the result'\nstdout = 'a copy'\n"
    );
    run(&dir, &job, &[]).ok();
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(dir.read("the result"), expected);
    assert_eq!(dir.read("a copy"), expected);
    assert_eq!(dir.read("out 'of' line"), "<two words><it's>");
}

#[test]
fn a_job_in_a_directory_with_a_strange_name() {
    let dir = Dir::new("strange");
    dir.job("odd 'name' \"here\"/my job.toml", "[[task]]\nname = 'a'\ncommand = 'pwd'\n");
    let line =
        "cd odd* && phalanx run 'my job.toml' && phalanx report latest --task a && phalanx run 'my job.toml' --resume";
    shell(&dir, line).run().ok().says("odd 'name' \"here\"");
}

#[test]
fn every_task_of_a_matrix_runs_with_its_own_values() {
    let dir = Dir::new("matrix");
    let job = r#"
        [[task]]
        name = "sim"
        matrix = { alpha = [0.1, 0.25], seed = "0-2", mode = ["fast", "slow"] }
        command = "echo {index} {alpha} {seed:02} {mode} >> all"
    "#;
    run(&dir, job, &[]).ok();
    let seen: BTreeSet<String> = dir.read("all").lines().map(str::to_owned).collect();
    let mut expected = BTreeSet::new();
    for (a, alpha) in ["0.1", "0.25"].iter().enumerate() {
        for seed in 0..3 {
            for (m, mode) in ["fast", "slow"].iter().enumerate() {
                expected.insert(format!("{} {alpha} {seed:02} {mode}", a * 6 + seed * 2 + m));
            }
        }
    }
    assert_eq!(seen, expected);
}

#[test]
fn files_of_other_tasks_are_waited_for() {
    let dir = Dir::new("files");
    let job = r#"
        [[task]]
        name = "use"
        command = "cat a-* > sum"
        inputs = ["a-0", "a-1"]
        outputs = ["sum"]
        [[task]]
        name = "make"
        array = "0-1"
        command = "sleep 0.1; echo {index} > a-{index}"
        outputs = ["a-{index}"]
        [[task]]
        name = "show"
        command = ["cp", "sum", "shown"]
        inputs = ["sum"]
    "#;
    run(&dir, job, &["--slots", "4"]).ok();
    assert_eq!(dir.read("shown"), "0\n1\n");
    Trace::of(&dir, "latest").respects([("make[0]", "use"), ("make[1]", "use"), ("use", "show")]);
}

#[test]
fn priorities_decide_which_of_the_ready_tasks_goes_first() {
    let dir = Dir::new("priority");
    let job = r#"
        [[task]]
        name = "gate"
        kernel = "noop"
        [[task]]
        name = "low"
        array = "0-9"
        kernel = "sleep"
        args = { seconds = 0.002 }
        needs = ["gate"]
        priority = -5
        [[task]]
        name = "high"
        array = "0-9"
        kernel = "sleep"
        args = { seconds = 0.002 }
        needs = ["gate"]
        priority = 5
    "#;
    run(&dir, job, &["--slots", "1"]).ok();
    let trace = Trace::of(&dir, "latest");
    let last_high = trace.0.iter().filter(|row| row.name == "high").map(|row| row.start).max();
    let first_low = trace.0.iter().filter(|row| row.name == "low").map(|row| row.start).min();
    assert!(last_high < first_low, "{last_high:?} {first_low:?}");
}

#[test]
fn the_exit_code_is_also_left_in_a_file() {
    let dir = Dir::new("exit-file");
    dir.job("job.toml", "[[task]]\nname = \"t\"\ncommand = \"test -z \\\"$PHALANX_EXIT_FILE\\\" && exit 9\"\n");
    phalanx(&dir).args(["run", "job.toml"]).env("PHALANX_EXIT_FILE", "code").run().code(1);
    assert_eq!(dir.read("code"), "1\n");
    // That of an earlier run does not stay.
    phalanx(&dir).args(["run", "job.toml", "--nonsense"]).env("PHALANX_EXIT_FILE", "code").run().code(2);
    assert!(!dir.has("code"));
    // The task did not see it, or it would have ended otherwise.
    phalanx(&dir).args(["report", "latest", "--failed"]).run().ok().says("exit 9");
}

#[test]
fn the_commands_of_a_killed_run_are_ended_and_what_they_left_on_purpose_is_not() {
    let dir = Dir::new("warden");
    let stubborn = "trap '' TERM; touch on.1; sleep 600 & wait; sleep 600";
    dir.job("job.toml", &format!("[[task]]\nname = \"a\"\ncommand = \"{stubborn}\"\n[[task]]\nname = \"b\"\ncommand = \"touch on.2; sleep 600\"\n"));
    let mut run = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).start();
    wait_for("both to run", 60, || (dir.has("on.1") && dir.has("on.2")).then_some(()));
    // The files are there before what the shells start next.
    wait_for("all commands to run", 60, || (run.processes().len() >= 5).then_some(()));
    run.signal(libc::SIGKILL);
    wait_for("all to end", 60, || run.processes().is_empty().then_some(()));
    run.kill_all();
    // A run that ends by itself ends nothing.
    dir.job(
        "job.toml",
        "[[task]]\nname = \"daemon\"\nbackground = \"keep\"\ncommand = \"setsid sleep 600 > /dev/null 2>&1 & true\"\n",
    );
    let mut run = phalanx(&dir).args(["run", "job.toml"]).start();
    wait_for("the run to be over", 60, || {
        let all = run.processes();
        (all.len() == 1
            && std::fs::read(format!("/proc/{}/cmdline", all[0])).is_ok_and(|line| line.starts_with(b"sleep")))
        .then_some(())
    });
    run.kill_all();
}

/// A wide task that collects slots keeps them from others: not for a moment longer than it is
/// wanted.
#[test]
fn a_cancelled_task_that_collects_slots_gives_them_back() {
    let dir = Dir::new("collects");
    let job = r#"
        [[task]]
        name = "first"
        priority = 2
        command = "touch first"

        [[task]]
        name = "long"
        priority = 2
        command = "until test -e end; do sleep 0.05; done"

        [[task]]
        name = "wide"
        priority = 1
        cpus = 2
        command = "touch wide"

        [[task]]
        name = "small"
        array = "0-2"
        command = "touch small.{index}"
    "#;
    dir.job("job.toml", job);
    let run = phalanx(&dir).args(["run", "job.toml", "--slots", "2", "--run-dir", "run"]).start();
    wait_for("a slot to fall free", 120, || dir.has("first").then_some(()));
    // Now it may collect, or still be about to: both have to do.
    std::thread::sleep(std::time::Duration::from_millis(300));
    phalanx(&dir).args(["cancel", "run", "wide"]).run().ok();
    wait_for("the others to run", 120, || (0..3).all(|i| dir.has(&format!("small.{i}"))).then_some(()));
    dir.file("end", "");
    run.wait_clean().code(1).says("1 cancelled");
    assert!(!dir.has("wide"));
    // A reader of the job log must not take it for one that succeeded.
    let log = phalanx(&dir).args(["report", "run", "--joblog"]).run().ok();
    assert!(log.stdout().lines().count() == 6 && !log.stdout().contains("touch wide"), "{log}");
}

/// Two tasks whose memory does not fit together: the younger one is requeued before either fails.
#[test]
fn where_memory_is_short_the_youngest_task_is_requeued() {
    let dir = Dir::new("shortage");
    let job = r#"
        [job]
        slots = { min = 2, max = 3 }

        [[task]]
        name = "hold"
        array = "1-2"
        command = "{ head -c 200000000 /dev/zero; until test -e go; do sleep 0.05; done; } | tail -c 200000000 | wc -c > held.{index}"
    "#;
    dir.job("job.toml", job);
    let run = phalanx(&dir).args(["run", "job.toml", "--run-dir", "run"]).env("SLURM_MEM_PER_NODE", "300").start();
    let requeued = || {
        let tasks = dir.has("run/control/socket").then(|| phalanx(&dir).args(["report", "run", "--tasks"]).run())?;
        tasks.stdout().contains("NODE_FAIL").then_some(())
    };
    wait_for("a task to be requeued", 120, requeued);
    let slots = || phalanx(&dir).args(["status", "run", "--json"]).run().ok().json()["ranks"][0].clone();
    wait_for("its slot to be closed", 120, || (slots()["slots_why"] == "memory_scarce").then_some(()));
    dir.file("go", "");
    run.wait().ok().says("tasks    2 completed");
    let tasks = phalanx(&dir).args(["report", "run", "--tasks"]).run().ok();
    let tasks = tasks.stdout();
    assert!(tasks.contains("ended to free memory") && !tasks.contains("OUT_OF_MEMORY"), "{tasks}");
    assert_eq!([1, 2].map(|i| dir.read(&format!("held.{i}")).trim().to_owned()), ["200000000", "200000000"]);
    phalanx(&dir).args(["explain", "run"]).run().ok().says("2 -> 1 slot (memory was scarce)");
}

/// A job may give a number of slots or a range, which `--slots` overrides.
#[test]
fn the_slots_of_a_job_hold_and_a_range_is_shown() {
    let dir = Dir::new("slots");
    let job = |slots: &str| {
        let task = "[[task]]\nname = \"t\"\narray = \"1-6\"\ncommand = \"until test -e go; do sleep 0.05; done\"\n";
        dir.job("job.toml", &format!("[job]\nslots = {slots}\n{task}"));
    };
    job("{ min = 1, max = 3 }");
    let run = phalanx(&dir).args(["run", "job.toml", "--run-dir", "run"]).start();
    let rank = wait_for("a sample of the slots", 120, || {
        let status = dir.has("run/control/socket").then(|| phalanx(&dir).args(["status", "run", "--json"]).run())?;
        let rank = Some(status).filter(|status| status.exit() == 0)?.json()["ranks"][0].clone();
        rank["slots_active"].is_u64().then_some(rank)
    });
    assert!(rank["slots"] == 1 && (1..=3).contains(&rank["slots_active"].as_u64().unwrap()), "{rank:#}");
    dir.file("go", "");
    run.wait().ok();
    let slots = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json()["changing_slots"].clone();
    assert_eq!((&slots["least"], &slots["most"]), (&1.into(), &3.into()), "{slots:#}");
    phalanx(&dir).args(["explain", "run"]).run().ok().says("Slots: 1 to 3 at once");
    // A number stays as it is, and the command line overrides it.
    job("5");
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "five"]).run().ok();
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "two", "--slots", "2"]).run().ok();
    let report = |run: &str| phalanx(&dir).args(["report", run, "--json"]).run().ok().json();
    assert_eq!([report("five")["slots"].clone(), report("two")["slots"].clone()], [5, 2]);
    assert!(report("five")["changing_slots"].is_null());
}
