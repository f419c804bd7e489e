//! Which changes of files a resume notices: those of inputs, where a task of an earlier session has
//! read them, and those of outputs, where it has not written them.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Dir, Output, TestCommand, phalanx, program, shell, wait_for};

/// Runs the job in a directory.
fn run_in(dir: &Path, args: &[&str]) -> Output {
    TestCommand::new(program(), dir).args([&["run", "job.toml"], args].concat()).run()
}

fn remove(dir: &Dir, name: &str) {
    std::fs::remove_file(dir.path().join(name)).expect("it was there");
}

#[test]
fn a_copied_or_moved_job_has_inputs_of_its_own() {
    let dir = Dir::new("copied");
    dir.file("p/params", "1");
    dir.file("p/deep/tool.sh", "true\n");
    dir.job(
        "p/job.toml",
        "[[task]]\nname = 't'\narray = '1-3'\ninputs = 'params'\noutputs = 'o{index}'\n\
         command = 'cat params > o{index}'\n\
         [[task]]\nname = 'u'\ndir = 'deep'\ninputs = '../params'\ncommand = 'sh ./tool.sh'\n",
    );
    let [p, q] = ["p", "q"].map(|name| dir.path().join(name));
    run_in(&p, &[]).ok();
    shell(&dir, "cp -a p q").run().ok();
    dir.file("p/params", "22");
    run_in(&q, &["--resume", "-n"]).ok().says("4 of 4 tasks are complete; 0 would run");
    dir.file("q/params", "333");
    let said = run_in(&q, &["--resume", "-n"]).ok();
    said.says("4 would run").says("t[2]: its input params has changed").says("u: its input deep/../params has changed");
    run_in(&q, &["--resume"]).ok();
    assert_eq!((dir.read("q/o3"), dir.read("p/o3")), ("333".into(), "1".into()));
    std::fs::remove_dir_all(p).expect("it was there");
    std::fs::rename(q, dir.path().join("r")).expect("it was there");
    let r = dir.path().join("r");
    run_in(&r, &["--resume", "-n"]).ok().says("4 of 4 tasks are complete; 0 would run");
    dir.file("r/deep/tool.sh", "true # better\n");
    run_in(&r, &["--resume", "-n"]).ok().says("1 would run\n  u: its program deep/./tool.sh has changed");
}

#[test]
fn a_change_while_a_task_runs_is_a_change() {
    for more in ["", "stage = 'node'", "cache = true"] {
        let dir = Dir::new("meanwhile");
        let here = dir.path().display();
        dir.file("in.txt", "1");
        dir.file("step.sh", "true\n");
        dir.job(
            "job.toml",
            &format!(
                "[cache]\nnode_dir = 'node'\n\
                 [[task]]\nname = 'a'\ninputs = 'in.txt'\noutputs = 'a.txt'\n{more}\n\
                 command = 'cat in.txt > a.txt; touch {here}/a; until test -e {here}/go; do sleep 0.05; done'\n\
                 [[task]]\nname = 'b'\n\
                 command = 'sh ./step.sh; touch {here}/b; until test -e {here}/go; do sleep 0.05; done'\n"
            ),
        );
        let running = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).start();
        wait_for("both to read", 120, || (dir.has("a") && dir.has("b")).then_some(()));
        dir.file("in.txt", "22");
        dir.file("step.sh", "true # better\n");
        dir.file("go", "");
        running.wait().ok();
        let said = run_in(dir.path(), &["--resume", "-n"]).ok();
        said.says("a: its input in.txt has changed").says("b: its program step.sh has changed");
        run_in(dir.path(), &["--resume"]).ok();
        assert_eq!(dir.read("a.txt"), "22", "{more}");
        run_in(dir.path(), &["--resume", "-n"]).ok().says("0 would run");
    }
}

#[test]
fn an_output_that_an_attempt_did_not_write_is_not_its_result() {
    let dir = Dir::new("old-output");
    let job = |name: &str, output: &str| {
        let text = format!(
            "[job]\nname = 'w'\n[cache]\nnode_dir = '{}/node'\n\
             [[task]]\nname = 'w'\ncache = true\ninputs = 'in.txt'\noutputs = ['out.txt', 'tree']\n\
             command = 'mkdir -p tree; cat in.txt > tree/{output}; cat in.txt > {output}'\n",
            dir.path().display()
        );
        dir.job(name, &text);
    };
    dir.file("in.txt", "1");
    job("job.toml", "out.txt");
    run_in(dir.path(), &[]).ok();
    dir.file("in.txt", "22");
    // The command writes another file than it declares.
    job("job.toml", "out.tx");
    sleep(Duration::from_millis(100));
    let ran = run_in(dir.path(), &["--resume"]).ok();
    assert!(ran.stderr().contains("did not write its output out.txt"), "{ran}");
    let report = phalanx(&dir).args(["report", "--task", "w"]).run().ok();
    report
        .says("it succeeded, but did not write its output out.txt")
        .says("did not write its output out.txt, which is");
    // Nobody gets it from the cache.
    dir.file("other/in.txt", "22");
    job("other/job.toml", "out.tx");
    run_in(&dir.path().join("other"), &[]).code(1);
    // What is up to date may stay, and what is written is stored.
    job("job.toml", "out.txt");
    run_in(dir.path(), &["--resume"]).ok();
    dir.file("third/in.txt", "22");
    job("third/job.toml", "out.txt");
    run_in(&dir.path().join("third"), &[]).ok().says("1 result taken from the cache");
    assert_eq!((dir.read("third/out.txt"), dir.read("out.txt")), ("22".into(), "22".into()));
}

#[test]
fn an_output_that_is_to_be_kept_again_is_made_again() {
    let dir = Dir::new("kept-again");
    let job = |keep: bool| {
        dir.job(
            "job.toml",
            &format!(
                "[cache]\nnode_dir = 'node'\n\
                 [[task]]\nname = 'make'\nstage = 'node'\ninputs = 'in.txt'\ncommand = 'cat in.txt > mid'\n\
                 outputs = {{ file = 'mid', keep = {keep} }}\n\
                 [[task]]\nname = 'use'\nstage = 'node'\ninputs = 'mid'\noutputs = 'end'\ncommand = 'cp mid end'\n"
            ),
        );
    };
    dir.file("in.txt", "1");
    job(true);
    run_in(dir.path(), &[]).ok();
    job(false);
    run_in(dir.path(), &["--resume", "-n"]).ok().says("0 would run");
    run_in(dir.path(), &["--resume"]).ok();
    // What stands there is of the last attempt, though the last session would not have kept it.
    job(true);
    run_in(dir.path(), &["--resume", "-n"]).ok().says("0 would run");
    job(false);
    dir.file("in.txt", "22");
    run_in(dir.path(), &["--resume"]).ok();
    assert_eq!((dir.read("mid"), dir.read("end")), ("1".into(), "22".into()));
    job(true);
    run_in(dir.path(), &["--resume", "-n"]).ok().says("make: its output mid is to be kept").says("1 would run");
    run_in(dir.path(), &["--resume"]).ok();
    assert_eq!((dir.read("mid"), dir.read("end")), ("22".into(), "22".into()));
    run_in(dir.path(), &["--resume", "-n"]).ok().says("0 would run");
}

#[test]
fn an_output_that_is_gone_is_made_again_unless_it_has_been_read() {
    let dir = Dir::new("gone");
    dir.file("other", "");
    let job = |inputs: &str| {
        dir.job(
            "job.toml",
            &format!(
                "[[task]]\nname = 'scan'\noutputs = 'n.txt'\ncommand = 'echo scan >> ran; echo > n.txt'\n\
                 [[task]]\nname = 'then'\nneeds = 'scan'\n{inputs}\ncommand = 'echo then >> ran'\n"
            ),
        );
    };
    for (inputs, ran, said) in [
        ("inputs = 'other'", "scan\n", "scan: its output n.txt is missing"),
        ("inputs = 'n.txt'", "", "2 of 2 tasks are complete; 0 would run"),
        ("", "", "the output n.txt of scan, which is complete, is missing; no task lists it"),
    ] {
        job(inputs);
        run_in(dir.path(), &[]).ok();
        remove(&dir, "n.txt");
        dir.file("ran", "");
        run_in(dir.path(), &["--resume", "-n"]).ok().says(said);
        run_in(dir.path(), &["--resume"]).ok();
        assert_eq!(dir.read("ran"), ran, "{inputs}");
    }
    run_in(dir.path(), &["--resume"]).ok().says("`--rerun scan` makes it again");
}
