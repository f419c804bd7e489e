//! Several job files as one run.

use crate::support::checker::Trace;
use crate::support::{Dir, mpirun, phalanx};

/// Two jobs with tasks of the same names, in their own directories and with their own settings.
fn jobs() -> Dir {
    let dir = Dir::new("several");
    std::fs::create_dir_all(dir.path().join("one")).expect("a directory");
    dir.job(
        "one.toml",
        "[job]\ndir = 'one'\nenv = { WHO = 'first' }\nprologue = 'SAID=hello'\n[defaults]\nretries = 1\n\
         [[task]]\nname = 'part'\narray = '0-5'\ncommand = 'echo $SAID $WHO {name} $PHALANX_TASK_NAME > {index}'\n\
         outputs = ['{index}']\n[[task]]\nname = 'all'\nneeds = 'part'\ncommand = 'cat [0-5] > all'\n",
    );
    dir.job(
        "two.toml",
        "[[task]]\nname = 'part'\narray = '0-2'\ncommand = 'echo ${SAID:-silence} ${WHO:-nobody} > two-{index}'\n\
         [[task]]\nname = 'all'\nneeds = 'part'\ncommand = 'test -e mended && cat two-* > two'\n",
    );
    dir
}

#[test]
fn each_job_runs_as_it_does_alone_and_one_resume_continues_all() {
    let dir = jobs();
    let out = mpirun(&dir, 3).args(["run", "one.toml", "two.toml"]).run().code(1);
    out.says("one: 7 completed").says("two: 4: 3 completed, 1 failed").says("two/all");
    assert_eq!(dir.read("one/all"), "hello first part part\n".repeat(6));
    assert_eq!(dir.read("two-1"), "silence nobody\n");
    let report = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
    assert_eq!(report["job"], "one+two");
    assert_eq!(report["jobs"][1]["tasks"]["FAILED"], 1);
    assert_eq!(report["jobs"][0]["tasks"]["COMPLETED"], 7);
    dir.file("mended", "");
    let dry = phalanx(&dir).args(["run", "one.toml", "two.toml", "--resume", "-n"]).run().ok();
    dry.says("10 of 11 tasks are complete; 1 would run").says("two/all: has not completed");
    mpirun(&dir, 2).args(["run", "one.toml", "two.toml", "--resume"]).run().ok().says("two: 4 completed");
    assert_eq!(dir.read("two"), "silence nobody\n".repeat(3));
    phalanx(&dir).args(["report", "one+two-1", "--task", "one/part[3]"]).run().ok().says("COMPLETED");
    phalanx(&dir).args(["analyze", "latest"]).run().ok();
    // The copy of the run directory is a job file, too.
    phalanx(&dir).args(["check", "phalanx-runs/latest/job.toml"]).run().ok().says("one/part");
}

#[test]
fn several_jobs_are_checked_planned_simulated_and_selected_from() {
    let dir = jobs();
    phalanx(&dir).args(["check", "one.toml", "two.toml"]).run().ok().says("9 dependencies in 2 levels");
    let checked = phalanx(&dir).args(["check", "one.toml", "two.toml", "--json"]).run().ok().json();
    assert_eq!(checked["tasks"], 11);
    let plan = phalanx(&dir).args(["plan", "one.toml", "two.toml", "--ranks", "1..2"]).run().ok();
    plan.says("one+two: 11 tasks").says("phalanx submit one.toml two.toml --nodes");
    phalanx(&dir).args(["simulate", "one.toml", "two.toml", "--ranks", "2"]).run().ok().says("one: 7 completed");
    let part = mpirun(&dir, 3).args(["run", "one.toml", "two.toml", "--until", "one/all"]).run().ok();
    part.says("two: none, 4 left out");
    assert!(dir.has("one/all") && !dir.has("two-0"));
}

#[test]
fn files_order_tasks_of_different_job_files() {
    let dir = Dir::new("across");
    dir.job(
        "use.toml",
        "[[task]]\nname = 'use'\narray = '0-1'\ncommand = 'cat raw/{index}.txt > got-{index}'\n\
         inputs = ['raw/{index}.txt', 'absent.txt']\noutputs = 'got-{index}'\n\
         [[task]]\nname = 'sum'\ncommand = 'cat got-* > {name}'\ninputs = ['got-0', 'raw']\n",
    );
    let make =
        "[[task]]\nname = 'make'\narray = '0-2'\ncommand = 'sleep 0.3; mkdir -p raw; echo {index} > raw/{index}.txt'\n";
    dir.job("make.toml", &format!("{make}outputs = 'raw/{{index}}.txt'\n"));
    let check = phalanx(&dir).args(["check", "use.toml", "make.toml"]).run().ok();
    let check = check.says("6 dependencies in 3 levels");
    let said = check.stderr();
    assert!(
        said.contains("use.toml:5:30") && said.contains("absent.txt does not exist, and no task writes it"),
        "{said}"
    );
    assert_eq!(said.matches("warning:").count(), 1, "{said}");
    dir.job("absent.txt", "");
    mpirun(&dir, 2)
        .args(["run", "use.toml", "make.toml"])
        .run()
        .ok()
        .says("use: 3 completed")
        .says("make: 3 completed");
    assert_eq!([dir.read("got-0"), dir.read("got-1")], ["0\n", "1\n"]);

    let both = |files: [&str; 2]| phalanx(&dir).args(["check", files[0], files[1]]).run();
    dir.job("twin.toml", "[[task]]\nname = 'twin'\ncommand = 'true'\noutputs = 'raw/2.txt'\n");
    both(["make.toml", "twin.toml"]).code(2).says("both `make/make[2]` and `twin/twin` write");
    let back = "[[task]]\nname = 'back'\ncommand = 'true'\ninputs = 'got-1'\noutputs = 'raw/1.txt'\n";
    dir.job("back.toml", back);
    both(["use.toml", "back.toml"]).code(2).says("use/use[1]").says("back/back");
    dir.job("gone.toml", &format!("{make}stage = 'node'\noutputs = {{ file = 'raw/{{index}}.txt', keep = false }}\n"));
    both(["use.toml", "gone.toml"]).code(2).says("does not find what `gone/make[0]` writes").says("use.toml:5:");
}

#[test]
fn files_for_standard_output_order_tasks_like_outputs() {
    let dir = Dir::new("stdout-order");
    let make = "[[task]]\nname = 'make'\narray = '0-2'\nstdout = 'out/%x-%a.txt'\nstderr = 'err.txt'\n\
                command = 'sleep 0.3; echo {index}; echo e >&2'\n";
    let read = "[[task]]\nname = 'one'\nstdin = 'out/make-1.txt'\nstdout = 'one.txt'\ncommand = 'cat'\n\
                [[task]]\nname = 'all'\ninputs = ['out', 'err.txt', 'one.txt']\ncommand = 'cat out/*.txt err.txt > all.txt'\n";
    let expect = |dir: &Dir| {
        assert_eq!((dir.read("one.txt").as_str(), dir.read("all.txt").matches('e').count()), ("1\n", 3));
        assert!(dir.read("all.txt").starts_with("0\n1\n2\n"), "{}", dir.read("all.txt"));
        std::fs::remove_file(dir.path().join("all.txt")).unwrap();
    };
    // In the file, what is read stands before what writes it.
    dir.job("job.toml", &format!("{read}{make}"));
    for _ in 0..2 {
        phalanx(&dir).args(["run", "job.toml", "--slots", "8"]).run().ok();
        expect(&dir);
    }
    dir.job("read.toml", read);
    dir.job("make.toml", make);
    std::fs::remove_dir_all(dir.path().join("out")).unwrap();
    mpirun(&dir, 2).args(["run", "read.toml", "make.toml", "--slots", "4"]).run().ok();
    expect(&dir);
}

#[test]
fn what_does_not_fit_together_is_refused_and_all_mistakes_are_shown() {
    let dir = jobs();
    std::fs::create_dir_all(dir.path().join("other")).expect("a directory");
    dir.job("other/two.toml", "[[task]]\nname = 't'\ncommand = 'true'\n");
    let run = |files: &[&str]| phalanx(&dir).args([&["run"], files].concat()).run();
    let out = run(&["two.toml", "other/two.toml"]).code(2);
    out.says("two.toml and other/two.toml are both called `two`").says("name = \"other\"");
    dir.job("bad.toml", "[[task]]\nname = 't'\ncommand = 'x'\nneeds = 'nobody'\n");
    dir.job("worse.toml", "[[task]]\nname = 't'\ncomand = 'x'\n");
    let out = run(&["bad.toml", "one.toml", "worse.toml"]).code(2);
    out.says("bad.toml:4:").says("worse.toml:3:").says("nobody");
    dir.job("dear.toml", "[cost]\nbudget = 4\n[[task]]\nname = 't'\ncommand = 'true'\n");
    dir.job("cheap.toml", "[cost]\nbudget = 1\n[[task]]\nname = 't'\ncommand = 'true'\n");
    run(&["dear.toml", "cheap.toml"]).code(2).says("different `[cost]`");
    run(&["dear.toml", "one.toml", "-n"]).ok();
}

#[test]
fn jobs_of_one_run_get_slot_time_by_their_shares() {
    let dir = Dir::new("job-shares");
    let job = |name: &str, share: &str, tables: &str| {
        dir.job(&format!("{name}.toml"), &format!("[job]\n{share}{tables}"));
    };
    let table = |name: &str, count: u32, seconds: &str| {
        format!("[[task]]\nname = '{name}'\narray = '1-{count}'\nkernel = 'sleep'\nargs = {{ seconds = {seconds} }}\n")
    };
    job("large", "", &(table("short", 300, "0.01") + &table("long", 60, "0.05")));
    job("small", "share = 2\n", &table("only", 150, "0.04"));
    mpirun(&dir, 2).args(["run", "large.toml", "small.toml", "--slots", "2", "--run-dir", "run"]).run().ok();
    let rows = Trace::of(&dir, "run").0;
    let of = |job: &'static str| rows.iter().filter(move |row| row.name.starts_with(job));
    let last = |job| of(job).map(|row| row.start).max().unwrap_or(0);
    // While both have work.
    let until = last("large").min(last("small"));
    let got = |job| -> f64 { of(job).map(|row| row.end.min(until).saturating_sub(row.start) as f64).sum() };
    let share = got("small") / (got("small") + got("large"));
    assert!((share - 2.0 / 3.0).abs() < 0.05, "{share}");
}

#[test]
fn directories_of_logs_and_logs_of_ones_own_order_nothing() {
    let dir = Dir::new("logs-order");
    dir.file("own.log", "");
    // `tidy` logs into the directory that `report` reads, and `work` fails there.
    dir.job(
        "job.toml",
        "[defaults]\nstdout = 'logs/%x.log'\n\
         [[task]]\nname = 'work'\ncommand = 'echo half; false'\n\
         [[task]]\nname = 'report'\nneeds = 'afterany:work'\ninputs = 'logs'\n\
         command = 'cat logs/work.log > report.txt'\n\
         [[task]]\nname = 'tidy'\nneeds = 'report'\ncommand = 'true'\n\
         [[task]]\nname = 'own'\narray = '0-2'\nstdout = 'own.log'\ninputs = 'own.log'\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(1).says("5 completed");
    assert_eq!(dir.read("report.txt"), "half\n");
}
