//! Parts of a job: `--until`, `--only`, `--omit`, and the rest of it later.

use crate::support::{Dir, mpirun, phalanx};

/// Four samples, a table of them, a plot of the table, and a task of its own.
const JOB: &str = "[[task]]\nname = 'align'\nmatrix = { sample = ['NA1', 'NA2', 'NA3', 'NA4'] }\n\
    command = 'echo align {sample} >> ran; echo {sample} > {sample}.bam'\noutputs = ['{sample}.bam']\n\
    [[task]]\nname = 'merge'\nneeds = 'align'\ncommand = 'echo merge >> ran; cat *.bam > all'\noutputs = ['all']\n\
    [[task]]\nname = 'plot'\nneeds = 'merge'\ncommand = 'echo plot >> ran; cp all plot'\n\
    [[task]]\nname = 'logo'\ncommand = 'echo logo >> ran'\n";

fn ran(dir: &Dir) -> Vec<String> {
    let mut lines: Vec<String> =
        if dir.has("ran") { dir.read("ran").lines().map(str::to_owned).collect() } else { Vec::new() };
    lines.sort();
    lines
}

#[test]
fn a_part_runs_and_a_resume_runs_the_rest() {
    let dir = Dir::new("part");
    dir.job("job.toml", JOB);
    let out = mpirun(&dir, 3).args(["run", "job.toml", "--until", "merge", "--omit", "logo"]).run().ok();
    let out = out.says("2 tasks are left out (--until merge --omit logo)").says("5 completed");
    assert!(out.stdout().contains("left out 2 tasks (--until merge --omit logo)"), "{out}");
    assert!(out.stdout().contains("To run the rest: mpirun --oversubscribe -n 3"), "{out}");
    assert_eq!(ran(&dir), ["align NA1", "align NA2", "align NA3", "align NA4", "merge"]);
    let report = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
    assert_eq!(report["counts"]["left_out"], 2);
    assert_eq!(report["counts"]["pending"], 0);
    assert!(!report["resume"].as_str().unwrap_or_default().contains("--until"), "{report}");
    phalanx(&dir).args(["report", "latest", "--task", "plot"]).run().ok().says("left out of the last session");
    let dry = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    dry.says("5 of 7 tasks are complete; 2 would run").says("plot: has not completed");
    mpirun(&dir, 2).args(["run", "job.toml", "--resume"]).run().ok().says("7 completed");
    assert_eq!(ran(&dir), ["align NA1", "align NA2", "align NA3", "align NA4", "logo", "merge", "plot"]);
    phalanx(&dir).args(["analyze", "latest"]).run().ok();
}

#[test]
fn what_runs_alone_needs_what_it_needs() {
    let dir = Dir::new("alone");
    dir.job("job.toml", JOB);
    let refused = phalanx(&dir).args(["run", "job.toml", "--only", "merge"]).run().code(2);
    refused.says("leaves out align[NA1], which merge needs").says("--until merge");
    assert!(!dir.has("phalanx-runs/job-1"));
    // Elements by their values; nothing else runs.
    mpirun(&dir, 3).args(["run", "job.toml", "--only", "align[NA2]", "--only", "align[2-3]"]).run().ok();
    assert_eq!(ran(&dir), ["align NA2", "align NA3", "align NA4"]);
    // Three have completed, the fourth was left out, but its output is there.
    phalanx(&dir).args(["run", "job.toml", "--resume", "--only", "merge"]).run().code(2).says("align[NA1]");
    dir.file("NA1.bam", "by hand\n");
    phalanx(&dir).args(["run", "job.toml", "--resume", "--only", "merge"]).run().ok().says("4 completed");
    assert!(dir.read("all").contains("by hand"));
    // It was not made by the run, so the rest begins there.
    mpirun(&dir, 3).args(["run", "job.toml", "--resume"]).run().ok().says("7 completed");
    let expected = ["align NA1", "align NA2", "align NA3", "align NA4", "logo", "merge", "merge", "plot"];
    assert_eq!(ran(&dir), expected);
    assert!(!dir.read("all").contains("by hand"));
}

#[test]
fn a_part_is_shown_checked_planned_and_simulated() {
    let dir = Dir::new("shown");
    dir.job("job.toml", JOB);
    let dry =
        phalanx(&dir).args(["run", "job.toml", "--dry-run", "--until", "merge", "--omit", "align[NA4]"]).run().ok();
    dry.says("3 of 7 tasks would run, 4 are left out").says("align[NA1]: is needed by merge");
    assert!(!dir.has("ran") && !dir.has("phalanx-runs"));
    phalanx(&dir).args(["check", "job.toml", "--until", "merge"]).run().ok().says("4 dependencies in 2 levels");
    let checked = phalanx(&dir).args(["check", "job.toml", "--json", "--omit", "align"]).run().ok().json();
    assert_eq!((&checked["tasks"], &checked["left_out"]), (&1.into(), &6.into()));
    let plan = phalanx(&dir).args(["plan", "job.toml", "--ranks", "2", "--only", "align"]).run().ok();
    plan.says("job: 4 tasks").says("-- --only align");
    let simulated = phalanx(&dir).args(["simulate", "job.toml", "--ranks", "2", "--omit", "merge"]).run().ok();
    simulated.says("5 completed").says("left out 2 tasks (--omit merge)");
    phalanx(&dir).args(["simulate", "job.toml", "--resume"]).run().ok().says("7 completed");
    for (words, says) in [
        (&["--until", "nobody"][..], "the job has no task `nobody`"),
        (&["--omit", "align[9]"], "has no such index: 9"),
        (&["--only", "logo", "--omit", "logo"], "leaves no task to run"),
    ] {
        for verb in ["run", "check", "plan", "simulate"] {
            phalanx(&dir).args([&[verb, "job.toml"], words].concat()).run().code(2).says(says);
        }
    }
}

#[test]
fn a_task_that_no_rank_can_run_is_no_matter_where_it_is_left_out() {
    let dir = Dir::new("too-wide");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'a'\ncommand = 'true'\n[[task]]\nname = 'b'\ncpus = 4000\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(2).says("`b` fits on no rank");
    mpirun(&dir, 2).args(["run", "job.toml", "--omit", "b"]).run().ok().says("1 completed");
}

#[test]
fn what_a_failed_task_has_left_is_not_taken_and_its_failure_stays_on_record() {
    let dir = Dir::new("part-failed");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'call'\narray = '1-3'\noutputs = 'c-{index}'\n\
         command = 'echo part > c-{index}; test {index} != 2 -o -e mended && echo {index} > c-{index}'\n\
         [[task]]\nname = 'merge'\ninputs = ['c-1', 'c-2', 'c-3']\noutputs = 'm'\ncommand = 'cat c-* > m'\n\
         [[task]]\nname = 'other'\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    let merge =
        |more: &[&str]| phalanx(&dir).args([&["run", "job.toml", "--resume", "--only", "merge"], more].concat()).run();
    let refusal = "leaves out call[2], which merge needs and which has begun and not completed";
    for more in [&["-n"][..], &[]] {
        merge(more).code(2).says(refusal).says("--until merge");
    }
    // A later session that leaves it out hides nothing.
    phalanx(&dir).args(["run", "job.toml", "--resume", "--only", "other", "--rerun", "other"]).run().ok();
    phalanx(&dir).args(["report", "--failed"]).run().ok().says("call[2]: FAILED");
    let runs = phalanx(&dir).args(["runs", "--json"]).run().ok().json();
    assert_eq!((&runs[0]["completed"], &runs[0]["failed"]), (&3.into(), &1.into()), "{runs}");
    let counts = phalanx(&dir).args(["report", "--json"]).run().ok().json()["counts"].clone();
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(["completed", "failed", "left_out", "pending"].map(count), [3, 1, 1, 0], "{counts}");
    merge(&[]).code(2).says(refusal);
    assert!(!dir.has("m"));
    dir.file("mended", "");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("5 completed");
    assert_eq!(dir.read("m"), "1\n2\n3\n");
    phalanx(&dir).args(["report", "--failed"]).run().ok().says("no task of job-1 has failed");
}

#[test]
fn what_must_run_again_is_not_there_and_the_refusal_says_why() {
    let dir = Dir::new("part-again");
    dir.job("job.toml", JOB);
    phalanx(&dir).args(["run", "job.toml", "--until", "merge"]).run().ok();
    std::fs::remove_file(dir.path().join("all")).unwrap();
    let refused = phalanx(&dir).args(["run", "job.toml", "--resume", "--only", "plot"]).run().code(2);
    refused.says("leaves out merge, which plot needs and which must run again (its output all is missing)");
}

#[test]
fn a_part_of_an_output_is_known_as_one_after_further_sessions() {
    let dir = Dir::new("part-sessions");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'first'\ncommand = 'test ! -e broken'\n\
         [[task]]\nname = 'half'\nneeds = 'first'\noutputs = 'h'\ncommand = 'echo part > h; false'\n\
         [[task]]\nname = 'last'\ninputs = 'h'\noutputs = 'l'\ncommand = 'cp h l'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    dir.file("broken", "");
    // Sessions in which `half` does not start.
    for _ in 0..2 {
        phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "first"]).run().code(1);
    }
    let out = phalanx(&dir).args(["run", "job.toml", "--resume", "--only", "last"]).run().code(2);
    out.says("leaves out half, which last needs and which has begun and not completed");
}
