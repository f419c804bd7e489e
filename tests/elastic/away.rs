//! Ranks that do not see the directory of the job: in a mount namespace of their own, with an empty
//! file system where the directory is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::checker::Trace;
use crate::support::{Dir, Output, Running, TestCommand, is_root, launcher, phalanx, program, skip_loudly, wait_for};

/// True where a mount namespace can be made; else says so.
fn can_be_away() -> bool {
    let made = is_root()
        && std::process::Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|o| o.status.success());
    if !made {
        skip_loudly("mount namespaces cannot be made here");
    }
    made
}

/// Starts a run that can be joined, and waits until it can.
fn open_run(dir: &Dir, job: &str) -> Running {
    dir.job("job.toml", job);
    let args = ["-v", "run", "job.toml", "--run-dir", "run", "--slots", "1", "--join-on", "127.0.0.1"];
    let run = phalanx(dir).args(args).patience(300).start();
    wait_for("the contact file", 120, || dir.has("run/contact").then_some(()));
    run
}

/// Runs a job on a rank of another node that does not see the directory; rank 0 runs nothing.
fn run_away(dir: &Dir, elsewhere: &Dir, job: &str) -> Output {
    dir.job("job.toml", job);
    away_command(dir, elsewhere).run()
}

/// The command that runs `job.toml` so.
fn away_command(dir: &Dir, elsewhere: &Dir) -> TestCommand {
    let (program, place) = (program().display().to_string(), dir.path().display().to_string());
    let run = ["run", "job.toml", "--run-dir", "run"];
    let line = format!(
        "hostname away && mount -t tmpfs none {place} && cd / && TMPDIR={} exec {program} {} --slots 2",
        elsewhere.path().display(),
        run.join(" ")
    );
    let here = launcher(dir, 1).args([program.as_str()]).args(run).args(["--coordinator-only"]);
    here.args([":", "-n", "1", "unshare", "-m", "-u", "sh", "-c", &line])
}

/// Joins from a place where the directory is empty; its store is in `elsewhere`.
fn join_from_away(dir: &Dir, elsewhere: &Dir, store: &str) -> Running {
    fs::copy(dir.path().join("run/contact"), elsewhere.path().join("contact")).unwrap();
    let line = format!(
        "mount -t tmpfs none {} && cd / && exec {} -v join --contact {}/contact --slots 2",
        dir.path().display(),
        program().display(),
        elsewhere.path().display()
    );
    let away = elsewhere.path().join(store);
    fs::create_dir_all(&away).unwrap();
    let command = TestCommand::new("unshare", elsewhere.path()).args(["-m", "sh", "-c", &line]);
    command.env("TMPDIR", away).patience(300).start()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_rank_that_does_not_see_the_directory_runs_staged_tasks() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away"), Dir::new("elsewhere"));
    let job = "[[task]]\nname = \"make\"\narray = \"0-3\"\nstage = \"node\"\ninputs = [\"seed\", \"tree\"]\n\
               outputs = [\"made/{index}\", \"empty-{index}\", { file = \"tmp-{index}\", keep = false }]\n\
               stdout = \"seen-%a\"\n\
               command = \"echo said >&2; ls; ./tool.sh {index}; : > empty-{index}; cat seed tree/link > tmp-{index}\"\n\
               [[task]]\nname = \"sum\"\nstage = \"node\"\ninputs = [\"made\", \"tmp-0\", \"tmp-3\"]\noutputs = \"total\"\n\
               needs = \"make\"\ncommand = \"cat made/*/x tmp-0 tmp-3 > total\"\n\
               [[task]]\nname = \"nested\"\nstage = \"node\"\noutputs = [\"all\", \"all/first\"]\n\
               command = \"echo 1 > all/first; echo 2 > all/second\"\n";
    dir.file("seed", "5\n");
    fs::create_dir(dir.path().join("tree")).unwrap();
    dir.file("tree/leaf", "leaf\n");
    std::os::unix::fs::symlink("leaf", dir.path().join("tree/link")).unwrap();
    fs::create_dir(dir.path().join("made")).unwrap();
    dir.file(
        "tool.sh",
        "#!/bin/sh\nmkdir made/$1; echo $(cat seed) $1 > made/$1/x; chmod 750 made/$1/x; ln -s x made/$1/link\n",
    );
    fs::set_permissions(dir.path().join("tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = run_away(&dir, &elsewhere, job).ok();
    assert_eq!(dir.read("total"), "5 0\n5 1\n5 2\n5 3\n5\nleaf\n5\nleaf\n", "{ran}");
    let made = dir.path().join("made/2");
    assert_eq!(fs::metadata(made.join("x")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(fs::read_link(made.join("link")).unwrap().to_str(), Some("x"));
    assert_eq!((dir.read("all/first"), dir.read("all/second")), ("1\n".into(), "2\n".into()));
    assert_eq!(fs::metadata(dir.path().join("empty-1")).unwrap().len(), 0);
    assert_eq!(dir.read("seen-1"), "made\nseed\ntool.sh\ntree\n");
    assert!(!dir.has("tmp-0") && names(&dir.path().join("run/held")).is_empty());
    assert_eq!(Trace::of(&dir, "run").ranks(), [1].into());
    let said = phalanx(&dir).args(["report", "run", "--task", "make[2]"]).run().ok();
    assert!(said.stdout().contains("said"), "what it printed is in the run directory: {said}");
    let staging = &phalanx(&dir).args(["report", "run", "--json"]).run().ok().json()["staging"];
    assert_eq!(staging["attempts"], 6);
    assert!(staging["received_bytes"].as_u64() > Some(10) && staging["sent_bytes"].as_u64() > Some(10), "{staging}");
    assert!(staging["local_bytes"].as_u64() > Some(0), "the second task finds the inputs on the node: {staging}");
    // Nothing stays on the node but its store.
    let stores = names(&elsewhere.path().join("tmp")).into_iter().filter(|name| name.starts_with("phalanx-"));
    let left: Vec<String> =
        stores.flat_map(|store| names(&elsewhere.path().join("tmp").join(store).join("stage"))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn files_of_tasks_that_wait_for_a_slot_travel_before() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-ahead"), Dir::new("elsewhere"));
    // Two slots, and each task holds one until the others have their files.
    let job = "[[task]]\nname = \"read\"\narray = \"0-7\"\nstage = \"node\"\ninputs = \"in-{index}\"\n\
               outputs = \"out-{index}\"\ncommand = \"sleep 1; cat in-{index} > out-{index}\"\n";
    (0..8).for_each(|task| drop(dir.file(&format!("in-{task}"), &format!("{task}").repeat(100_000))));
    let ran = run_away(&dir, &elsewhere, job).ok();
    (0..8).for_each(|task| assert_eq!(dir.read(&format!("out-{task}")), format!("{task}").repeat(100_000), "{ran}"));
    let staging = &phalanx(&dir).args(["report", "run", "--json"]).run().ok().json()["staging"];
    let (ahead, received) = (staging["ahead_bytes"].as_u64(), staging["received_bytes"].as_u64());
    assert!(ahead >= Some(400_000), "those of tasks that waited: {staging}");
    assert_eq!(received, Some(800_000), "each once: {staging}");
}

#[test]
fn what_a_task_lacks_or_does_not_write_is_said_there_too() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-missing"), Dir::new("elsewhere"));
    let job = "[[task]]\nname = \"lacks\"\nstage = \"node\"\ninputs = \"nowhere\"\noutputs = \"a\"\ncommand = \"true\"\n\
               [[task]]\nname = \"forgets\"\nstage = \"node\"\noutputs = \"b\"\nstdout = \"log\"\n\
               command = \"echo tried; true\"\n\
               [[task]]\nname = \"may\"\nstage = \"node\"\noutputs = { file = \"c\", optional = true }\ncommand = \"true\"\n\
               [[task]]\nname = \"needs\"\nstage = \"node\"\ninputs = \"c\"\noutputs = \"d\"\ncommand = \"true\"\n";
    run_away(&dir, &elsewhere, job).code(1);
    let said = |task: &str| phalanx(&dir).args(["report", "run", "--task", task]).run().ok().stdout().to_owned();
    assert!(said("lacks").contains("its input nowhere is missing, and no task"), "{}", said("lacks"));
    assert!(said("needs").contains("its input c is missing, which may should have written"), "{}", said("needs"));
    assert!(said("forgets").contains("did not write its output b"), "{}", said("forgets"));
    assert_eq!(dir.read("log"), "tried\n", "of a failed attempt, too");
}

#[test]
fn what_a_cancelled_attempt_has_printed_there_is_kept() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-cancelled"), Dir::new("elsewhere"));
    let job = "[[task]]\nname = \"endless\"\nstage = \"node\"\noutputs = \"never\"\nstdout = \"log\"\n\
               command = \"echo tried; echo begun >&2; while :; do sleep 0.1; done\"\n";
    dir.job("job.toml", job);
    let run = away_command(&dir, &elsewhere).start();
    let state_and_output = || {
        let said = phalanx(&dir).args(["explain", "run", "--task", "endless", "--json"]).run();
        (said.exit() == 0).then(|| said.json()["tasks"][0]["output"].as_str().map(str::to_owned))?
    };
    wait_for("the task to print", 120, || {
        let is_there = dir.has("run/control/socket");
        (is_there && state_and_output()?.contains("begun")).then_some(())
    });
    phalanx(&dir).args(["cancel", "run", "endless"]).run().ok();
    run.wait();
    assert_eq!(dir.read("log"), "tried\n");
    let said = phalanx(&dir).args(["report", "run", "--task", "endless"]).run().ok();
    assert!(said.stdout().contains("CANCELLED") && !said.stdout().contains("handing in"), "{said}");
}

#[test]
fn tasks_that_need_the_directory_keep_a_rank_out_that_does_not_see_it() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-plain"), Dir::new("elsewhere"));
    let job = "[[task]]\nname = \"plain\"\ncommand = \"until test -e end; do sleep 0.05; done\"\n";
    let run = open_run(&dir, job);
    let refused = join_from_away(&dir, &elsewhere, "tmp").wait();
    refused.code(2).says("it does not see the run directory").says("task `plain` reads and writes");
    dir.file("end", "");
    run.wait().ok().says("rank 1 cannot take part");
}

#[test]
fn a_large_output_survives_the_death_of_the_rank_that_sends_it() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-killed"), Dir::new("elsewhere"));
    // Rank 0 has one of them until the other is there, so a rank that joins runs that.
    let job = format!(
        "[[task]]\nname = \"large\"\narray = \"0-1\"\nstage = \"node\"\noutputs = \"large-{{index}}\"\n\
         command = \"test $PHALANX_RANK != 0 || until test -e {0}/large-0 -o -e {0}/large-1; do sleep 0.05; done; \
         head -c 100000000 /dev/zero > large-{{index}}\"\n",
        dir.path().display()
    );
    let run = open_run(&dir, &job);
    let mut first = join_from_away(&dir, &elsewhere, "one");
    // Rank 0 is in the middle of it when it has begun to unpack.
    let part = |name: &str| {
        let path = std::env::temp_dir().join(name).join("stage");
        let ranks = names(&path).into_iter().map(|rank| path.join(rank));
        let of_first =
            |rank: std::path::PathBuf| (0..2).map(move |n| rank.join(format!("{n}.1.of-1/outputs/large-{n}")));
        ranks.flat_map(of_first).any(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 0))
    };
    let is_store = |name: &String| name.starts_with("phalanx-");
    let arrives =
        || names(&std::env::temp_dir()).iter().filter(|name| is_store(name)).any(|name| part(name)).then_some(());
    wait_for("the output to arrive", 120, arrives);
    first.kill_all();
    let second = join_from_away(&dir, &elsewhere, "two");
    run.wait().ok();
    second.wait().ok();
    for name in ["large-0", "large-1"] {
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().len(), 100_000_000);
    }
    let trace = Trace::of(&dir, "run");
    let ends: Vec<&str> = trace.0.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(ends.iter().filter(|state| **state == "COMPLETED").count(), 2, "{ends:?}");
}

#[test]
fn a_temporary_file_goes_from_node_to_node() {
    if !can_be_away() {
        return;
    }
    let (dir, elsewhere) = (Dir::new("away-held"), Dir::new("elsewhere"));
    dir.job(
        "job.toml",
        "[[task]]\nname = \"make\"\nlabels = \"one\"\nstage = \"node\"\noutputs = { file = \"tmp\", keep = false }\n\
         command = \"mkdir tmp; head -c 3000000 /dev/zero > tmp/x; ln -s x tmp/link\"\n\
         [[task]]\nname = \"use\"\nlabels = \"two\"\narray = \"0-1\"\nstage = \"node\"\ninputs = \"tmp\"\n\
         outputs = \"size-{index}\"\ncommand = \"wc -c < tmp/link > size-{index}\"\n",
    );
    let program = program().display().to_string();
    let line = format!(
        "hostname other && TMPDIR={} exec {program} run job.toml --run-dir run --slots 1 --labels two",
        elsewhere.path().display()
    );
    let here = launcher(&dir, 1).args([program.as_str(), "run", "job.toml", "--run-dir", "run", "--slots", "1"]);
    here.args(["--labels", "one", ":", "-n", "1", "unshare", "-u", "sh", "-c", &line]).run().ok();
    assert_eq!((dir.read("size-0"), dir.read("size-1")), ("3000000\n".into(), "3000000\n".into()));
    let staging = &phalanx(&dir).args(["report", "run", "--json"]).run().ok().json()["staging"];
    let moved = ["fetched_bytes", "received_bytes", "local_bytes"].map(|field| staging[field].as_u64());
    assert_eq!(moved, [Some(3_000_000); 3], "it crosses the network once: {staging}");
    assert!(names(&dir.path().join("run/held")).is_empty());
}
