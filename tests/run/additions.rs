//! Tasks that add tasks, and runs that wait for more.

use crate::support::{Dir, Output, mpirun, phalanx, wait_for};

/// A task that adds tables, which are in a file beside the job.
fn adder(name: &str, more: &str) -> String {
    format!("[[task]]\nname = '{name}'\n{more}command = 'cat {name}.add > $PHALANX_ADD'\n")
}

/// Three tasks that add two others each, and a task that these need, too.
fn splitting() -> Dir {
    let dir = Dir::new("additions");
    let tables = "[[task]]\nname = \"part%s\"\narray = \"0-1\"\ncommand = \"echo part %s >> parts\"\n\
                  [[task]]\nname = \"merge%s\"\nneeds = [\"part%s\", \"base\"]\ncommand = \"test -e base && echo merged %s >> merged\"\n";
    dir.file("tables", tables);
    dir.job(
        "job.toml",
        "[[task]]\nname = 'split'\narray = '0-2'\nneeds = 'gate'\n\
         command = 'i={index}; printf \"$(cat tables)\" $i $i $i $i $i > $PHALANX_ADD'\n\
         [[task]]\nname = 'gate'\ncommand = 'true'\n\
         [[task]]\nname = 'base'\ncommand = 'touch base'\n\
         [[task]]\nname = 'last'\nneeds = 'split'\ncommand = 'until test -e go; do sleep 0.02; done'\n",
    );
    dir
}

fn lines(dir: &Dir, file: &str) -> Vec<String> {
    let text = if dir.has(file) { dir.read(file) } else { String::new() };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn added_tasks_run_on_one_rank_and_on_three() {
    for ranks in [1, 3] {
        let dir = splitting();
        dir.file("go", "");
        mpirun(&dir, ranks).args(["run", "job.toml"]).run().ok().says("15 completed");
        let parts: Vec<String> = (0..3).flat_map(|i| [format!("part {i}"), format!("part {i}")]).collect();
        assert_eq!(lines(&dir, "parts"), parts);
        assert_eq!(lines(&dir, "merged"), ["merged 0", "merged 1", "merged 2"]);
        let why = phalanx(&dir).args(["explain", "latest", "--task", "merge1"]).run().ok();
        why.says("merge1");
    }
}

#[test]
fn a_killed_run_resumes_with_what_was_added_to_it() {
    let dir = splitting();
    let mut run = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).start();
    wait_for("what was added to end", 60, || (lines(&dir, "merged").len() == 3).then_some(()));
    wait_for("the journal to have its end", 60, || {
        let report = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
        (report["counts"]["completed"] == 14).then_some(())
    });
    run.kill_all();
    dir.file("go", "");
    let dry = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    dry.says("14 of 15 tasks are complete; 1 would run");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("15 completed");
    assert_eq!(lines(&dir, "parts").len(), 6, "nothing ran twice");
    // A task that runs again adds its tasks again, and they run again, too.
    phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "split[1]"]).run().ok().says("15 completed");
    assert_eq!(lines(&dir, "merged"), ["merged 0", "merged 1", "merged 1", "merged 2"]);
}

#[test]
fn a_refused_addition_fails_its_task_and_says_why() {
    let dir = Dir::new("refused");
    let task = |rest: &str| format!("[[task]]\nname = 'x'\ncommand = 'true'\n{rest}");
    for (name, tables) in [
        ("unknown", task("needs = 'nix'\n")),
        ("key", task("nedds = 'unknown'\n")),
        ("taken", task("").replace("'x'", "'unknown'")),
        ("large", task("cpus = 5000\n")),
        ("cycle", task("needs = 'y'\n") + &task("needs = 'x'\n").replace("name = 'x'", "name = 'y'")),
        ("section", task("[scaling]\nmax_ranks = 2\n")),
    ] {
        dir.file(&format!("{name}.add"), &tables);
    }
    let names = ["unknown", "key", "taken", "large", "cycle", "section"];
    dir.job("job.toml", &names.map(|name| adder(name, "")).concat());
    phalanx(&dir).args(["run", "job.toml"]).run().code(1).says("6 failed");
    let failed = phalanx(&dir).args(["report", "latest", "--failed"]).run();
    for told in [
        "there is no task called `nix`",
        "nedds",
        "the run has a task `unknown` already",
        "`x` fits on no rank",
        "tasks wait for each other",
        "`[scaling]` cannot be added",
    ] {
        assert!(failed.stdout().contains(told), "{told}: {}", failed.stdout());
    }
}

#[test]
fn what_a_task_adds_again_or_no_longer_is_told() {
    let dir = Dir::new("added-again");
    dir.file("list", "1 2");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'split'\ninputs = 'list'\n\
         command = 'for i in $(cat list); do printf \"[[task]]\\nname = \\\"part$i\\\"\\ncommand = \\\"true\\\"\\n\"; done > $PHALANX_ADD'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().ok().says("3 completed");
    dir.file("list", "2 3");
    let dry = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    dry.says("split: its input list has changed").says("split adds its tasks again: 2 tasks of the former session");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("3 completed");
    let explain = |task: &str| phalanx(&dir).args(["explain", "latest", "--task", task]).run();
    explain("part2").ok().says("it was added again by split, which ran again (its input list has changed)");
    assert!(!explain("part3").ok().stdout().contains("ran it again"));
    explain("part1").code(2).says("`part1` is no longer part of the job since session 2");
    phalanx(&dir).args(["report", "--task", "part1"]).run().code(2).says("is no longer part of the job");
}

fn open_run(dir: &Dir) {
    dir.job("job.toml", "[job]\nopen = true\n[[task]]\nname = 'a'\ncommand = 'echo a >> done'\n");
    dir.file("more.toml", "[[task]]\nname = 'b'\narray = '0-3'\nneeds = 'a'\ncommand = 'echo b >> done'\n");
}

fn wait_until_done(dir: &Dir, tasks: usize) {
    wait_for("the tasks to end", 60, || (lines(dir, "done").len() == tasks).then_some(()));
}

#[test]
fn an_open_run_waits_for_more_until_it_is_closed() {
    let dir = Dir::new("open");
    open_run(&dir);
    let run = mpirun(&dir, 3).args(["run", "job.toml"]).start();
    wait_until_done(&dir, 1);
    let ask = |words: &[&str]| -> Output { phalanx(&dir).args(words).run() };
    ask(&["add", "latest", "more.toml", "--dry-run"]).ok().says("4 tasks are accepted");
    ask(&["add", "latest", "more.toml"]).ok().says("4 tasks are added");
    wait_until_done(&dir, 5);
    assert!(ask(&["add", "latest", "more.toml"]).code(1).stderr().contains("has a task `b` already"));
    assert_eq!(ask(&["status", "latest", "--json"]).ok().json()["open"], true);
    ask(&["close", "latest"]).ok().says("ends when its tasks have ended");
    run.wait().ok().says("5 completed");
}

#[test]
fn a_killed_open_run_stays_open_and_a_closed_one_closed() {
    let dir = Dir::new("reopened");
    open_run(&dir);
    let mut run = phalanx(&dir).args(["run", "job.toml"]).start();
    wait_until_done(&dir, 1);
    phalanx(&dir).args(["add", "latest", "more.toml"]).run().ok();
    wait_until_done(&dir, 5);
    wait_for("the journal to have all ends", 60, || {
        let report = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
        (report["counts"]["completed"] == 5).then_some(())
    });
    run.kill_all();
    let run = phalanx(&dir).args(["run", "job.toml", "--resume"]).start();
    wait_for("the resumed run to answer", 60, || {
        let closed = phalanx(&dir).args(["close", "latest"]).run();
        closed.stdout().contains("ends when its tasks have ended").then_some(())
    });
    run.wait().ok().says("5 completed");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("5 completed");
    assert_eq!(lines(&dir, "done").len(), 5, "nothing ran twice");
}

/// Ranks sleep while the run waits for tasks, and wake for those that are added.
#[test]
fn a_run_with_a_policy_grows_for_what_is_added() {
    let dir = Dir::new("scaled-additions");
    // The three run at once, or never end.
    dir.file(
        "begin.add",
        "[[task]]\nname = 'wide'\narray = '0-2'\nestimate = '60s'\n\
         command = 'touch on-{index}; until test -e on-0 -a -e on-1 -a -e on-2; do sleep 0.02; done'\n",
    );
    dir.job(
        "job.toml",
        "[job]\nopen = true\n[scaling]\npolicy = 'hybrid'\nmax_ranks = 3\ninterval = '200ms'\n\
         [cost]\nnode_hour = 3.6\nminimum = '0s'\nbudget = 1000\n\
         [[task]]\nname = 'begin'\nestimate = '1s'\n\
         command = 'until test -e go; do sleep 0.02; done; cat begin.add > $PHALANX_ADD'\n",
    );
    dir.file("more.toml", "[[task]]\nname = 'more'\nneeds = 'wide'\nestimate = '1s'\ncommand = 'touch more'\n");
    let run = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "1"]).start();
    wait_for("ranks to sleep", 120, || {
        let status = phalanx(&dir).args(["status", "latest", "--json"]).run();
        let status = Some(status).filter(|status| status.exit() == 0)?.json();
        let asleep = status["ranks"].as_array()?.iter().filter(|rank| rank["state"] == "parked").count();
        (asleep > 0).then_some(())
    });
    dir.file("go", "");
    wait_for("all to run at once", 120, || (0..3).all(|index| dir.has(&format!("on-{index}"))).then_some(()));
    phalanx(&dir).args(["add", "latest", "more.toml"]).run().ok();
    wait_for("what the user added", 120, || dir.has("more").then_some(()));
    phalanx(&dir).args(["close", "latest"]).run().ok();
    run.wait().ok().says("5 completed");
    let explained = phalanx(&dir).args(["explain", "latest", "--json"]).run().ok().json();
    let unparks = explained.as_array().is_some_and(|all| all.iter().any(|it| it["action"].get("unpark").is_some()));
    assert!(unparks, "{explained:#}");
}

/// Of several jobs, tasks are added to that of their adder, or to the one that the user names.
#[test]
fn tasks_are_added_to_one_of_several_jobs() {
    let dir = Dir::new("several-additions");
    let job = |name: &str, more: &str, file: &str| {
        let head = format!("[job]\nname = '{name}'\nenv = {{ WHOSE = '{name}' }}\n{more}");
        let add = "command = 'cat t.add > $PHALANX_ADD; echo $WHOSE >> done'\n";
        dir.job(file, &format!("{head}[[task]]\nname = 't'\n{add}"));
    };
    job("a", "", "a.toml");
    job("b", "open = true\n", "b.toml");
    let table = |name: &str| {
        format!("[[task]]\nname = '{name}'\nneeds = ['t', 'a/t']\ncommand = 'echo $WHOSE {name} >> done'\n")
    };
    dir.file("t.add", &table("own"));
    dir.file("user.toml", &table("user"));
    let mut run = mpirun(&dir, 2).args(["run", "a.toml", "b.toml", "--run-dir", "run"]).start();
    wait_until_done(&dir, 4);
    let add = |words: &[&str]| phalanx(&dir).args(["add", "run", "user.toml"]).args(words).run();
    add(&["--job", "c"]).code(1).says("no job called `c`");
    add(&[]).ok();
    add(&["--job", "a"]).ok();
    wait_until_done(&dir, 6);
    wait_for("the journal to have all ends", 60, || {
        let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
        (report["counts"]["completed"] == 6).then_some(())
    });
    run.kill_all();
    let run = mpirun(&dir, 2).args(["run", "a.toml", "b.toml", "--resume", "--run-dir", "run"]).start();
    wait_for("the resumed run to answer", 60, || {
        let closed = phalanx(&dir).args(["close", "run"]).run();
        closed.stdout().contains("ends when its tasks have ended").then_some(())
    });
    run.wait().ok().says("6 completed");
    assert_eq!(lines(&dir, "done"), ["a", "a own", "a user", "b", "b own", "b user"], "each ran once");
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    let jobs =
        report["jobs"].as_array().map(|jobs| jobs.iter().map(|job| job["task_count"].clone()).collect::<Vec<_>>());
    assert_eq!(jobs, Some(vec![3.into(), 3.into()]), "{report:#}");
}

/// `w` writes a file that nobody keeps, `adder` reads it and adds a task that reads it, too.
fn with_temporary(dir: &Dir, more: &str, adder: &str) {
    let extra = "[[task]]\nname = \"extra\"\nstage = \"node\"\ninputs = \"t\"\noutputs = \"e\"\n\
                 command = \"cat t > e; test -e HERE/go\"\n";
    dir.file("extra", &extra.replace("HERE", &dir.path().display().to_string()));
    let here = dir.path().display();
    dir.job(
        "job.toml",
        &format!(
            "[cache]\nnode_dir = 'node'\n\
             [[task]]\nname = 'w'\nstage = 'node'\noutputs = {{ file = 't', keep = false }}\n\
             command = 'echo w >> {here}/ran; echo 5 > t'\n{more}\
             [[task]]\nname = 'adder'\nstage = 'node'\n{adder}\n\
             command = 'echo adder >> {here}/ran; cat {here}/extra > $PHALANX_ADD'\n"
        ),
    );
}

#[test]
fn a_temporary_file_stays_for_a_task_that_its_last_reader_adds_and_is_made_again_for_it() {
    let dir = Dir::new("added-reader");
    with_temporary(&dir, "", "inputs = 't'");
    phalanx(&dir).args(["run", "job.toml"]).run().code(1).says("2 completed");
    assert!(dir.path().join("node/held").read_dir().unwrap().next().is_some(), "`extra` may still need it");
    std::fs::remove_dir_all(dir.path().join("node/held")).unwrap();
    let dry = phalanx(&dir).args(["run", "job.toml", "--resume", "-n"]).run().ok();
    dry.says("w: its output t is missing").says("1 of 3 tasks are complete; 2 would run");
    dir.file("go", "");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("3 completed");
    assert_eq!((lines(&dir, "ran"), dir.read("e").trim()), (vec!["adder".into(), "w".into(), "w".into()], "5"));
    assert!(dir.path().join("node/held").read_dir().unwrap().next().is_none());
}

#[test]
fn a_task_that_would_not_find_a_temporary_file_is_not_added() {
    let dir = Dir::new("added-late");
    let reader = "[[task]]\nname = 'reader'\nstage = 'node'\ninputs = 't'\ncommand = 'cat t'\n";
    with_temporary(&dir, reader, "needs = 'reader'");
    // Rank 0 may hear of the addition before it hears that `reader` has completed, and then keeps
    // the file.
    let here = dir.path().display();
    let add = format!("cat {here}/extra");
    let removed = format!("until test -z \"$(find {here}/node/held -type f)\"; do sleep 0.02; done; {add}");
    dir.file("job.toml", &dir.read("job.toml").replace(&add, &removed));
    let said = || phalanx(&dir).args(["report", "--failed"]).run().ok();
    phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    said().says("`extra` reads t, which `w` writes with `keep = false` and which is removed");
    let plain = dir.read("extra").replace("stage = \"node\"\n", "");
    dir.file("extra", &plain);
    phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "w"]).run().code(1);
    said().says("`extra` reads t").says("add `stage = \"node\"` to `extra`");
}

/// A task that is added reads a file that a task of the run, which has not ended, writes: it waits
/// for that, also when the run is resumed, and also if a user adds it.
#[test]
fn an_added_task_waits_for_the_task_of_the_run_that_writes_what_it_reads() {
    let dir = Dir::new("ordered-additions");
    let table = |name: &str| {
        format!("[[task]]\nname = '{name}'\ninputs = 'ref.idx'\noutputs = '{name}'\ncommand = 'cp ref.idx {name}'\n")
    };
    dir.file("scatter.add", &table("map"));
    dir.file("more.toml", &table("user"));
    dir.file("ref", "v1");
    dir.job(
        "job.toml",
        &("[[task]]\nname = 'index'\ninputs = 'ref'\noutputs = 'ref.idx'\n\
           command = 'until test -e go; do sleep 0.02; done; cp ref ref.idx'\n"
            .to_owned()
            + &adder("scatter", "inputs = 'ref'\n")),
    );
    for (session, text) in [(1u64, "v1"), (2, "v2")] {
        dir.file("ref", text);
        let arguments: &[&str] = if session > 1 { &["--resume"] } else { &[] };
        let run = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).args(arguments).start();
        wait_for("what is added to be a task of the run", 60, || {
            let listed = phalanx(&dir).args(["runs", "--json"]).run().ok().json();
            let tasks = listed[0]["tasks"].as_u64();
            (listed[0]["sessions"] == session && tasks == Some(2 + session)).then_some(())
        });
        if session == 1 {
            phalanx(&dir).args(["add", "latest", "more.toml"]).run().ok();
        }
        dir.file("go", "");
        run.wait().ok().says("4 completed");
        std::fs::remove_file(dir.path().join("go")).unwrap();
        assert_eq!([dir.read("map"), dir.read("user")], [text, text]);
    }
    let listed = phalanx(&dir).args(["runs", "--json"]).run().ok().json();
    assert_eq!([&listed[0]["tasks"], &listed[0]["completed"]], [4, 4]);
}

/// Tasks of a run cannot wait for added ones: these may not write what those read or write.
#[test]
fn an_addition_that_writes_what_tasks_of_the_run_read_or_write_is_refused() {
    let dir = Dir::new("refused-files");
    let writer = |file: &str| format!("[[task]]\nname = 'w'\noutputs = '{file}'\ncommand = 'touch {file}'\n");
    dir.file("gather.add", &writer("gathered"));
    dir.file("twice.add", &writer("out").replace("'w'", "'t'"));
    dir.file("self.add", &writer("own").replace("'w'", "'s'"));
    dir.file("gathered", "old");
    dir.file("own", "old");
    dir.job(
        "job.toml",
        &(adder("gather", "")
            + &adder("twice", "")
            + &adder("self", "inputs = 'own'\n")
            + "[[task]]\nname = 'collect'\nneeds = 'gather'\ninputs = 'gathered'\ncommand = 'touch collected'\n\
               [[task]]\nname = 'out'\noutputs = 'out'\ncommand = 'touch out'\n"),
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(1).says("2 failed");
    assert!(!dir.has("collected"), "nothing runs on the old file");
    let failed = phalanx(&dir).args(["report", "latest", "--failed"]).run();
    for told in ["`collect` of the run reads", "both `out` of the run and `t` write"] {
        assert!(failed.stdout().contains(told), "{told}: {}", failed.stdout());
    }
}
