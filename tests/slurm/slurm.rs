//! Phalanx under a real Slurm: a cluster of four nodes that the test starts on this machine, and
//! `slurm/phalanx.sbatch` as a user submits it.

use crate::support::slurm::{JobEnd, Slurm};
use crate::support::{Dir, openmpi5_root, phalanx, repository, wait_for};

/// Sixteen tasks that say where they ran, and one that needs them all.
const MARKS: &str = r#"
[job]
name = "marks"

[[task]]
name = "mark"
array = "0-15"
command = "mkdir -p marks && sleep 0.2 && echo $PHALANX_RANK >> marks/{index}"

[[task]]
name = "count"
needs = ["mark"]
command = "ls marks | wc -l > count"
"#;

/// Far more work than fits into a minute, until there is a file `hurry`.
const LONG: &str = r#"
[job]
name = "long"

[[task]]
name = "step"
array = "0-399"
command = "mkdir -p marks; test -e hurry || sleep 1; echo done >> marks/{index}"
"#;

/// Submits `slurm/phalanx.sbatch`: Slurm's options before it, the job file and options of `phalanx
/// run` after it.
fn submit(slurm: &Slurm, dir: &Dir, options: &[&str], job: &[&str]) -> u32 {
    let script = repository().join("slurm/phalanx.sbatch");
    let script = script.to_str().expect("the repository's path is text");
    slurm.sbatch(dir, options.iter().copied().chain([script]).chain(job.iter().copied()))
}

#[track_caller]
fn assert_ended(end: &JobEnd, state: &str, code: i32) {
    assert!(
        end.state == state && end.code == code,
        "expected {state} with exit code {code}, found {} with {}\n{}",
        end.state,
        end.code,
        end.log
    );
}

/// State and number of ranks of the latest run.
fn latest(dir: &Dir) -> (String, u64) {
    let report = phalanx(dir).args(["report", "latest", "--json"]).run().ok().json();
    (report["state"].as_str().unwrap_or_default().to_string(), report["ranks"].as_u64().unwrap_or_default())
}

/// The ranks that wrote the sixteen marks.
fn ranks_in_marks(dir: &Dir) -> Vec<String> {
    let mut ranks: Vec<String> = (0..16).map(|i| dir.read(&format!("marks/{i}")).trim().to_string()).collect();
    ranks.sort();
    ranks.dedup();
    ranks
}

/// Every step wrote its mark, and none wrote it twice.
fn assert_each_step_once(dir: &Dir) {
    for i in 0..400 {
        assert_eq!(dir.read(&format!("marks/{i}")), "done\n", "step[{i}]");
    }
}

#[test]
fn two_nodes_are_two_ranks() {
    let Some(slurm) = Slurm::start(4) else { return };
    let dir = Dir::new("two-nodes");
    // None ends before both ranks have one.
    let meet = "echo $PHALANX_RANK >> ranks; until [ $(sort -u ranks | wc -l) = 2 ]; do sleep 0.05; done";
    dir.job("marks.toml", &MARKS.replace("sleep 0.2", meet));
    let id = submit(&slurm, &dir, &["--nodes=2"], &["marks.toml"]);
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
    assert_eq!(latest(&dir), ("COMPLETED".to_string(), 2));
    assert_eq!(ranks_in_marks(&dir), ["0", "1"]);
    assert_eq!(dir.read("count").trim(), "16");
    slurm.wait_empty();
}

#[test]
fn ranks_per_node_can_be_chosen() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("ranks-per-node");
    dir.job("marks.toml", MARKS);
    let id = submit(&slurm, &dir, &["--nodes=2", "--export=ALL,PHALANX_RANKS_PER_NODE=2"], &["marks.toml"]);
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
    assert_eq!(latest(&dir), ("COMPLETED".to_string(), 4));
}

#[test]
fn the_exit_code_of_the_run_is_that_of_the_job() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("exit-code");
    dir.job("bad.toml", "[[task]]\nname = \"bad\"\ncommand = \"exit 7\"\n");
    let id = submit(&slurm, &dir, &[], &["bad.toml"]);
    assert_ended(&slurm.wait_job(id, 240), "FAILED", 1);
    let id = submit(&slurm, &dir, &[], &["missing.toml"]);
    assert_ended(&slurm.wait_job(id, 240), "FAILED", 2);
}

#[test]
fn a_warning_signal_stops_a_run_that_can_be_resumed() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("signal");
    dir.job("long.toml", LONG);
    let id = submit(&slurm, &dir, &["--nodes=2"], &["long.toml", "--slots", "2"]);
    wait_for("the first marks", 120, || dir.has("marks").then(|| dir.list("marks").len() > 4)?.then_some(()));
    // Slurm tells the batch shell alone, as `--signal=B:USR1@120` would before the end of the
    // allocation.
    slurm.scancel(["--batch", "--signal=USR1", &id.to_string()]);
    assert_ended(&slurm.wait_job(id, 240), "FAILED", 4);
    let done = dir.list("marks").len();
    assert!(done < 400, "the run should have been stopped");

    dir.file("hurry", "");
    let id = submit(&slurm, &dir, &["--nodes=2"], &["long.toml", "--slots", "2", "--resume"]);
    assert_ended(&slurm.wait_job(id, 480), "COMPLETED", 0);
    assert_eq!(latest(&dir).0, "COMPLETED");
    assert_each_step_once(&dir);
}

#[test]
fn a_run_stops_before_the_walltime_and_resumes() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("walltime");
    dir.job("long.toml", LONG);
    // A minute is Slurm's shortest limit; the warning is moved so that some of it remains to work
    // in.
    let options = ["--nodes=2", "--time=1", "--signal=B:USR1@30"];
    let id = submit(&slurm, &dir, &options, &["long.toml", "--slots", "2"]);
    assert_ended(&slurm.wait_job(id, 240), "FAILED", 4);
    assert_ne!(latest(&dir).0, "COMPLETED");

    dir.file("hurry", "");
    let id = submit(&slurm, &dir, &["--nodes=2"], &["long.toml", "--slots", "2", "--resume"]);
    assert_ended(&slurm.wait_job(id, 480), "COMPLETED", 0);
    assert_eq!(latest(&dir).0, "COMPLETED");
    assert_each_step_once(&dir);
}

#[test]
fn a_run_ends_within_the_time_that_its_plan_asks_for() {
    let Some(slurm) = Slurm::start(1) else { return };
    let dir = Dir::new("planned");
    let task = "[job]\nname = \"planned\"\n[[task]]\nname = \"t\"\narray = \"0-9\"\nestimate = \"1s\"\ncommand = \"sleep 1\"\n";
    dir.job("planned.toml", task);
    let planned = phalanx(&dir).args(["plan", "planned.toml", "--ranks", "1", "--json"]).run().ok().json();
    let line = planned["sbatch"].as_str().expect("a line").to_owned();
    // A minute is shorter than the two that Slurm's warning once came before the end.
    assert!(line.contains("--time=0:01:00"), "{line}");
    let options: Vec<&str> = line.split(' ').filter(|word| word.starts_with("--")).collect();
    let id = submit(&slurm, &dir, &options, &["planned.toml", "--slots", "2"]);
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
}

#[test]
fn what_a_user_set_for_mpi_reaches_tasks_on_all_nodes_under_a_policy() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("user-env");
    // None ends before both ranks have one.
    let meet = "env | grep -E '^(OMPI|PMIX|PRTE)_' | sort > env.$PHALANX_RANK; until [ $(ls env.* | wc -l) = 2 ]; do sleep 0.05; done";
    let scaling = "[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n";
    dir.job(
        "users.toml",
        &format!("[[task]]\nname = \"e\"\narray = \"0-1\"\nestimate = \"30s\"\ncommand = \"{meet}\"\n{scaling}"),
    );
    let export = "--export=ALL,OMPI_MCA_rmaps_base_oversubscribe=1,PMIX_MCA_base_verbose=0,OMPI_UNKNOWN=x";
    let id = submit(&slurm, &dir, &["--nodes=2", export], &["users.toml", "--slots", "1"]);
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
    let said = dir.read("env.1");
    assert_eq!(dir.read("env.0"), said);
    for name in ["OMPI_MCA_rmaps_base_oversubscribe=1", "PMIX_MCA_base_verbose=0", "OMPI_UNKNOWN=x", "OMPI_MCA_btl="] {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    for theirs in ["OMPI_COMM_WORLD", "OMPI_MCA_plm", "OMPI_MCA_ras", "OMPI_MCA_orte", "PMIX_RANK"] {
        assert!(!said.contains(theirs), "{theirs} is in {said}");
    }
}

#[test]
fn submit_sends_the_script_and_says_where_the_run_will_be() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("submit");
    dir.job("marks.toml", MARKS);
    let submit = |words: &[&str]| slurm.run_here(&dir, &[&["submit", "marks.toml"], words].concat()).wait();
    let shown = submit(&["--nodes=2", "--dry-run"]).ok();
    assert!(shown.stdout().starts_with("#!/bin/bash") && shown.stdout().contains("--nodes=2"), "{shown}");
    assert!(!dir.has("phalanx-runs") && slurm.squeue().is_empty(), "a dry run submits nothing");

    let said = submit(&["--nodes=2", "--", "--slots", "1"]).ok();
    let id = said.stdout().split_whitespace().nth(1).and_then(|id| id.parse().ok()).expect("a job number");
    said.says("phalanx-runs/marks-1").says("phalanx status marks-1 --watch");
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
    assert_eq!(latest(&dir), ("COMPLETED".to_string(), 2));
    assert_eq!(dir.read("count").trim(), "16");

    submit(&["--partition=nowhere"]).code(1);
    assert!(!dir.has("phalanx-runs/marks-2"), "what Slurm did not take leaves nothing behind");
    let said = submit(&["--resume"]).ok();
    let id = said.stdout().split_whitespace().nth(1).and_then(|id| id.parse().ok()).expect("a job number");
    assert_ended(&slurm.wait_job(id, 240), "COMPLETED", 0);
    submit(&["--", "--run-dir", "x"]).code(2);
}

/// Two tasks, of which the first kills rank 0 at its first attempt and the second each time.
fn deadly(kills: u32) -> String {
    // Rank 0 is the parent of the command's shell. It has long recorded the end of the task before.
    format!(
        "[job]\nname = \"deadly\"\n[[task]]\nname = \"before\"\ncommand = \"echo done >> before\"\n\
         [[task]]\nname = \"deadly\"\nneeds = [\"before\"]\n\
         command = \"echo x >> tries; test $(wc -l < tries) -gt {kills} || {{ sleep 2; kill -KILL $PPID; }}; sleep 1\"\n"
    )
}

#[test]
fn a_run_whose_rank_0_was_killed_is_resumed_within_its_allocation() {
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("restarts");
    dir.job("deadly.toml", &deadly(2));
    let id = submit(&slurm, &dir, &[], &["deadly.toml", "--slots", "1"]);
    let end = slurm.wait_job(id, 240);
    assert_ended(&end, "COMPLETED", 0);
    assert!(end.log.contains("further restarts: 1") && end.log.contains("further restarts: 0"), "{}", end.log);
    assert_eq!((dir.read("before"), dir.read("tries").lines().count()), ("done\n".to_owned(), 3));
    assert_eq!(latest(&dir).0, "COMPLETED");

    // Where each node has a world of its own, the others lose rank 0 and new ones join.
    let dir = Dir::new("restarts-each");
    let meet = "echo $PHALANX_RANK >> met; until [ $(sort -u met | wc -l) -ge 2 ]; do sleep 0.05; done";
    let kill = "test -e killed || { [ $PHALANX_RANK != 0 ] || { touch killed; kill -KILL $PPID; }; sleep 600; }";
    dir.job(
        "each.toml",
        &format!(
            "[[task]]\nname = \"t\"\narray = \"1-2\"\nestimate = \"30s\"\ncommand = \"{meet}; {kill}\"\n\
             [scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n"
        ),
    );
    let id = submit(&slurm, &dir, &["--nodes=2"], &["each.toml", "--slots", "1"]);
    let end = slurm.wait_job(id, 480);
    assert_ended(&end, "COMPLETED", 0);
    assert!(end.log.contains("further restarts: 1"), "{}", end.log);
    slurm.wait_empty();

    let dir = Dir::new("no-restarts");
    dir.job("deadly.toml", &deadly(2));
    let id = submit(&slurm, &dir, &["--export=ALL,PHALANX_RESTARTS=0"], &["deadly.toml", "--slots", "1"]);
    let end = slurm.wait_job(id, 240);
    assert!(end.state == "FAILED" && end.log.contains("To continue"), "{} {}\n{}", end.state, end.code, end.log);
    assert_eq!(dir.read("tries").lines().count(), 1);
}

/// The task of rank 1 kills its rank and, once that has happened, the task of rank 0 does so, too.
#[test]
fn open_mpi_5_goes_on_without_a_rank_and_its_lost_rank_0_is_resumed() {
    let Some(root) = openmpi5_root() else { return };
    let Some(slurm) = Slurm::start(2) else { return };
    let dir = Dir::new("openmpi5");
    let meet = "echo $PHALANX_RANK >> met; until [ $(sort -u met | wc -l) -ge 2 ]; do sleep 0.05; done";
    let one = "test -e one || { [ $PHALANX_RANK = 0 ] || { touch one; kill -KILL $PPID; sleep 600; }; }";
    let zero =
        "until test -e one; do sleep 0.05; done; test -e zero || { sleep 2; touch zero; kill -KILL $PPID; sleep 600; }";
    let command = format!("{meet}; {one}; {zero}");
    dir.job("lost.toml", &format!("[[task]]\nname = \"t\"\narray = \"1-2\"\ncommand = \"{command}\"\n"));
    let root = root.display();
    let export = format!("--export=ALL,LD_LIBRARY_PATH={root}/lib,PHALANX_MPIRUN={root}/bin/mpirun --with-ft ulfm");
    let id = submit(&slurm, &dir, &["--nodes=2", &export], &["lost.toml", "--slots", "1"]);
    let end = slurm.wait_job(id, 480);
    assert_ended(&end, "COMPLETED", 0);
    assert!(end.log.contains("rank 1 is lost") && end.log.contains("further restarts: 1"), "{}", end.log);
    assert!(!end.log.contains("further restarts: 0"), "{}", end.log);
    assert_eq!(latest(&dir), ("COMPLETED".to_string(), 2));
    slurm.wait_empty();
}
