//! Which run a resume continues, which one is the latest, and which may run at once.

use crate::support::{Dir, Running, mpirun, phalanx, wait_for};

fn table(name: &str, rest: &str) -> String {
    format!("[job]\nname = 'same'\n[[task]]\nname = '{name}'\n{rest}")
}

/// A copy of a job file has the name of the job in it; a moved one is the same file.
#[test]
fn a_resume_passes_over_runs_of_other_files_with_the_same_job_name() {
    let dir = Dir::new("same-name");
    dir.job("a.toml", &table("a", "command = 'echo a >> ran'\n"));
    dir.job("b.toml", &table("b", "command = 'echo b >> ran'\n"));
    phalanx(&dir).args(["run", "a.toml", "-q"]).run().ok();
    let resume = |file: &str| phalanx(&dir).args(["run", file, "--resume", "-n"]).run().ok();
    resume("b.toml").says("no earlier run of same to resume").says("same-1 is a run of a.toml");
    phalanx(&dir).args(["run", "b.toml", "--resume", "-q"]).run().ok();
    resume("a.toml").says("same-2 is a run of b.toml: same-1 is resumed").says("1 of 1 tasks are complete");
    std::fs::rename(dir.path().join("b.toml"), dir.path().join("c.toml")).expect("it was there");
    resume("c.toml").says("same-2: 1 of 1 tasks are complete");
    let moved = Dir::new("same-name-elsewhere");
    dir.job("b.toml", &table("b", "command = 'echo b >> ran'\n"));
    for file in ["b.toml", "phalanx-runs/same-2/journal"] {
        moved.file(file, "");
        std::fs::copy(dir.path().join(file), moved.path().join(file)).expect("a copy");
    }
    phalanx(&moved).args(["run", "b.toml", "--resume", "-n"]).run().ok().says("same-2: 1 of 1 tasks are complete");
}

/// An imported list of lines has the name of its file.
#[test]
fn imports_of_several_files_are_several_jobs() {
    let dir = Dir::new("imports");
    dir.file("lines.txt", "echo 1\n");
    for (output, name) in [(&["-o", "a.toml"][..], "a"), (&[], "lines"), (&["--name", "n"], "n")] {
        let out = phalanx(&dir).args(["import", "lines", "lines.txt"]).args(output).run().ok();
        let text = if dir.has("a.toml") && name == "a" { dir.read("a.toml") } else { out.stdout().to_owned() };
        assert!(text.contains(&format!("name = \"{name}\"")), "{text}");
    }
}

#[test]
fn a_resumed_run_is_the_latest() {
    let dir = Dir::new("latest");
    dir.job("a.toml", "[[task]]\nname = 'a'\ncommand = 'test -e mended'\n");
    dir.job("b.toml", "[[task]]\nname = 'b'\ncommand = 'true'\n");
    phalanx(&dir).args(["run", "a.toml", "-q"]).run().code(1);
    phalanx(&dir).args(["run", "b.toml", "-q"]).run().ok();
    dir.file("mended", "");
    phalanx(&dir).args(["run", "a.toml", "--resume", "-n"]).run().ok();
    phalanx(&dir).args(["report"]).run().ok().says("b-1");
    phalanx(&dir).args(["run", "a.toml", "--resume", "-q"]).run().ok();
    phalanx(&dir).args(["report", "--task", "a"]).run().ok().says("(session 2) COMPLETED");
}

/// Two runs at once would write the same file: the second is refused, and leaves no directory.
#[test]
fn a_run_beside_a_live_one_that_writes_the_same_files_is_refused() {
    let dir = Dir::new("twins");
    let wait = "until test -e go; do sleep 0.02; done";
    let task = |name: &str, rest: &str| format!("[[task]]\nname = '{name}'\n{rest}command = '{wait}; touch {name}'\n");
    dir.job("job.toml", &(task("x", "outputs = 'x'\n") + &task("y", "outputs = 'y'\n") + &task("z", "")));
    let first = phalanx(&dir).args(["run", "job.toml", "--omit", "y"]).start();
    wait_for("the run to begin", 60, || (phalanx(&dir).args(["status", "job-1"]).run().exit() == 0).then_some(()));
    let refused = phalanx(&dir).args(["run", "job.toml"]).run().code(2);
    refused.says("job-1 is a live run of this job and writes").says("phalanx cancel job-1");
    assert!(!dir.has("phalanx-runs/job-2"));
    dir.job("other.toml", &(task("z", "") + &task("w", "outputs = './x'\n")));
    let other = phalanx(&dir).args(["run", "other.toml"]).run().code(2);
    other.says("job-1 is a live run of job job and writes").says("/x, too");
    let again = phalanx(&dir).args(["run", "job.toml", "--resume"]).run().code(2);
    again.says("is in use by").says("phalanx top");
    let part = phalanx(&dir).args(["run", "job.toml", "--only", "y", "--only", "z"]).start();
    wait_for("another part to run", 60, || (phalanx(&dir).args(["status", "job-2"]).run().exit() == 0).then_some(()));
    dir.file("go", "");
    first.wait().ok();
    part.wait().ok();
}

/// The line that continues a run has the options of its launcher wherever it is shown.
#[test]
fn the_line_to_continue_has_the_options_of_the_launcher() {
    let dir = Dir::new("launcher");
    dir.job("job.toml", "[[task]]\nname = 't'\ncommand = 'false'\n");
    let line = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("To continue: "));
        line.unwrap_or_else(|| panic!("no line to continue with in: {text}")).to_owned()
    };
    let own = line(mpirun(&dir, 3).args(["run", "job.toml"]).run().code(1).stdout());
    assert_eq!(line(phalanx(&dir).args(["report"]).run().ok().stdout()), own);
    assert_eq!(phalanx(&dir).args(["report", "--json"]).run().ok().json()["resume"], own);
}

/// A sweep that shrinks and grows again has what it had completed before.
#[test]
fn a_task_that_comes_back_is_complete() {
    let dir = Dir::new("comes-back");
    let sweep = |values: &str, command: &str| {
        let table = format!(
            "[[task]]\nname = 's'\nmatrix = {{ v = {values} }}\ncommand = '{command}'\n\
             [[task]]\nname = 'all'\nneeds = 's'\ncommand = 'echo all >> ran'\n"
        );
        dir.job("sweep.toml", &table);
        let out = phalanx(&dir).args(["run", "sweep.toml", "--resume"]).run().ok();
        let ran = if dir.has("ran") { dir.read("ran") } else { String::new() };
        dir.file("ran", "");
        let mut ran: Vec<String> = ran.lines().map(str::to_owned).collect();
        ran.sort_unstable();
        (out, ran)
    };
    assert_eq!(sweep("[1, 2, 3]", "echo {v} >> ran").1, ["1", "2", "3", "all"]);
    assert_eq!(sweep("[2]", "echo {v} >> ran").1, ["all"]);
    let (out, ran) = sweep("[1, 2, 3, 4]", "echo {v} >> ran");
    out.says("5 completed");
    assert_eq!(ran, ["4", "all"]);
    let report = phalanx(&dir).args(["report", "--json"]).run().ok().json();
    assert_eq!(report["counts"]["completed"], 5, "{report:#}");
    // They stay complete from then on, and a changed one runs again.
    assert!(sweep("[1, 2, 3, 4]", "echo {v} >> ran").1.is_empty());
    assert_eq!(sweep("[4]", "echo {v} >> ran").1, ["all"]);
    assert_eq!(sweep("[1, 4]", "echo  {v} >> ran").1, ["1", "4", "all"]);
}

/// Of runs that start at the same moment and write the same file one goes on. The others leave
/// nothing behind.
#[test]
fn of_runs_that_start_at_once_one_goes_on() {
    for round in 0..6 {
        let dir = Dir::new("at-once");
        let ranks = if round < 4 { 1 } else { 2 };
        dir.job(
            "job.toml",
            "[[task]]\nname = 'x'\noutputs = 'x'\n\
             command = 'echo >> began; until test -e go; do sleep 0.02; done; touch x'\n",
        );
        let start = |_| {
            let command = if ranks == 1 { phalanx(&dir) } else { mpirun(&dir, ranks) };
            Some(command.args(["run", "job.toml", "--slots", "1"]).start())
        };
        let mut runs: Vec<Option<Running>> = (0..4).map(start).collect();
        wait_for("three to give way", 120, || {
            let live = runs.iter_mut().flatten().filter_map(|run| run.is_running().then_some(())).count();
            (live <= 1).then_some(())
        });
        wait_for("the other to go on", 120, || dir.has("began").then_some(()));
        dir.file("go", "");
        let mut went_on = 0;
        for run in runs.iter_mut().filter_map(Option::take) {
            let end = run.wait();
            match end.exit() {
                0 => went_on += 1,
                _ => drop(end.code(2).says("is a live run of this job and writes")),
            }
        }
        assert_eq!((went_on, dir.read("began").lines().count()), (1, 1), "round {round}");
        let left = std::fs::read_dir(dir.path().join("phalanx-runs")).expect("runs").flatten();
        let left: Vec<String> = left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let of_job: Vec<&String> = left.iter().filter(|name| name.starts_with("job-")).collect();
        assert_eq!(of_job.len(), 1, "{left:?}");
        phalanx(&dir).args(["report", "latest"]).run().ok().says(of_job[0]);
    }
}
