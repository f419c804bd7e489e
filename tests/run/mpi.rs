//! Several ranks: whatever their number, every task runs once and none before what it needs; a task
//! may itself be an MPI program; a lost rank costs nothing that was done.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::support::checker::Trace;
use crate::support::{self, Dir, Output, mpirun, phalanx, repository, send, wait_for};

fn run(dir: &Dir, ranks: u32, toml: &str, args: &[&str]) -> Output {
    dir.job("job.toml", toml);
    mpirun(dir, ranks).args(["run", "job.toml"]).args(args).run()
}

/// A job of layers with dependencies of all kinds across them, and what is to be expected of it.
struct Web {
    toml: String,
    tasks: Vec<String>,
    edges: Vec<(String, String)>,
}

impl Web {
    /// The same seed gives the same web.
    fn new(seed: u64, partition: &str) -> Web {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut web =
            Web { toml: format!("[job]\npartition = \"{partition}\"\n"), tasks: Vec::new(), edges: Vec::new() };
        for layer in 0..8 {
            for place in 0..20 {
                let name = format!("t{layer}-{place}");
                let mut needs = BTreeSet::new();
                if layer > 0 {
                    for _ in 0..random.u32(0..4) {
                        needs.insert(format!("t{}-{}", random.u32(0..layer), random.u32(0..20)));
                    }
                }
                web.single(&name, &needs, random.u32(0..8));
            }
        }
        web.families();
        web
    }

    fn task(&mut self, name: &str, needs: &str, milliseconds: u32, more: &str) {
        let seconds = f64::from(milliseconds) / 1000.0;
        let args = format!("args = {{ seconds = {seconds} }}");
        let _ =
            writeln!(self.toml, "[[task]]\nname = \"{name}\"\nkernel = \"sleep\"\n{args}\nneeds = [{needs}]\n{more}");
    }

    fn single(&mut self, name: &str, needs: &BTreeSet<String>, milliseconds: u32) {
        let list: Vec<String> = needs.iter().map(|need| format!("{need:?}")).collect();
        self.task(name, &list.join(", "), milliseconds, "");
        self.tasks.push(name.to_owned());
        self.edges.extend(needs.iter().map(|need| (need.clone(), name.to_owned())));
    }

    /// Arrays that need a task, elements, ranges and whole arrays: the last goes through a join.
    fn families(&mut self) {
        self.task("spread", "\"t0-0\"", 2, "array = \"0-59\"");
        self.task("each", "\"spread[{index}]\"", 1, "array = \"0-59\"");
        self.task("some", "\"each[10-19]\"", 1, "array = \"0-9\"");
        self.task("all", "\"each\", \"t7-3\"", 1, "array = \"0-39\"");
        self.task("last", "\"all\", \"some\"", 0, "");
        let names = |kind: &str, count: u32| (0..count).map(|i| format!("{kind}[{i}]")).collect::<Vec<_>>();
        let (spread, each) = (names("spread", 60), names("each", 60));
        let (some, all) = (names("some", 10), names("all", 40));
        for (before, after) in spread.iter().zip(&each) {
            self.edges.push(("t0-0".into(), before.clone()));
            self.edges.push((before.clone(), after.clone()));
        }
        for after in &some {
            self.edges.extend(each[10..20].iter().map(|before| (before.clone(), after.clone())));
        }
        for after in &all {
            self.edges.extend(each.iter().map(|before| (before.clone(), after.clone())));
            self.edges.push(("t7-3".into(), after.clone()));
        }
        self.edges.extend(some.iter().chain(&all).map(|before| (before.clone(), "last".to_owned())));
        for family in [spread, each, some, all, vec!["last".to_owned()]] {
            self.tasks.extend(family);
        }
    }

    #[track_caller]
    fn check(&self, trace: &Trace) {
        trace.exactly_once(self.tasks.iter().map(String::as_str));
        trace.respects(self.edges.iter().map(|(before, after)| (&**before, &**after)));
        trace.slots_are_exclusive();
    }
}

#[test]
fn any_number_of_ranks_runs_every_task_once_and_in_order() {
    let placements = [
        "bands",
        "earliest_finish",
        "round_robin",
        "least_loaded",
        "weighted_round_robin",
        "dynamic_threshold",
        "predictive",
        "eft",
    ];
    let each = placements.map(|placement| (3, placement));
    for (ranks, partition) in [(1, "bands"), (2, "bands"), (4, "bands")].into_iter().chain(each) {
        let dir = Dir::new("web");
        let web = Web::new(u64::from(ranks), partition);
        run(&dir, ranks, &web.toml, &["--slots", "3"]).ok();
        let trace = Trace::of(&dir, "latest");
        web.check(&trace);
        assert_eq!(trace.ranks(), (0..ranks).collect(), "all ranks should have worked ({partition})");
        let json = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
        assert_eq!((json["ranks"].as_u64(), json["slots"].as_u64()), (Some(ranks.into()), Some((ranks * 3).into())));
    }
}

#[test]
fn a_rank_may_coordinate_only() {
    let dir = Dir::new("coordinator");
    let web = Web::new(7, "bands");
    run(&dir, 3, &web.toml, &["--slots", "2", "--coordinator-only"]).ok();
    let trace = Trace::of(&dir, "latest");
    web.check(&trace);
    assert_eq!(trace.ranks(), [1, 2].into());
}

#[test]
fn who_asks_is_told_what_has_been_running_where() {
    let dir = Dir::new("running");
    let job = r#"
        [[task]]
        name = "long"
        array = "0-1"
        command = "while [ ! -e go ]; do sleep 0.05; done"
        [[task]]
        name = "short"
        array = "0-9"
        kernel = "noop"
    "#;
    dir.job("job.toml", job);
    let run = mpirun(&dir, 2).args(["run", "job.toml", "--run-dir", "run", "--slots", "1"]).start();
    let status = wait_for("both ranks to tell what they run", 120, || {
        let output = phalanx(&dir).args(["status", "run", "--json"]).run();
        let status = (output.exit() == 0).then(|| output.json())?;
        (status["running"].as_array()?.len() == 2).then_some(status)
    });
    let running = status["running"].as_array().expect("a list");
    let of = |key: &str| -> BTreeSet<String> { running.iter().map(|task| task[key].to_string()).collect() };
    assert_eq!(of("task"), ["\"long[0]\"", "\"long[1]\""].map(String::from).into(), "{status}");
    assert_eq!(of("rank"), ["0", "1"].map(String::from).into(), "{status}");
    for task in running {
        let passed = status["time_s"].as_f64().expect("a time") - task["since_s"].as_f64().expect("a time");
        assert!(passed >= 0.9 && task["attempt"] == 1, "{status}");
    }
    phalanx(&dir).args(["status", "run"]).run().ok().says("runs    long[0]");
    dir.file("go", "");
    run.wait_clean().ok();
    let trace = Trace::of(&dir, "run");
    trace.exactly_once(
        (0..2)
            .map(|n| format!("long[{n}]"))
            .chain((0..10).map(|n| format!("short[{n}]")))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str),
    );
}

#[test]
fn work_at_home_on_one_rank_is_shared() {
    let dir = Dir::new("steal");
    // By estimate all but one of the tasks are nothing, so they may well all be at home on one
    // rank.
    let job = r#"
        [[task]]
        name = "heavy"
        kernel = "sleep"
        args = { seconds = 0.5 }
        estimate = "1h"
        [[task]]
        name = "light"
        array = "0-59"
        kernel = "sleep"
        args = { seconds = 0.5 }
        estimate = "1ms"
    "#;
    run(&dir, 3, job, &["--slots", "2"]).ok();
    let trace = Trace::of(&dir, "latest");
    for rank in 0..3 {
        let here = trace.0.iter().filter(|row| row.rank == Some(rank)).count();
        assert!(here >= 5, "rank {rank} ran only {here} of 61 tasks");
    }
}

#[test]
fn limits_and_widths_hold_over_all_ranks() {
    let dir = Dir::new("limits");
    let job = r#"
        [[task]]
        name = "few"
        array = "0-19%2"
        kernel = "sleep"
        args = { seconds = 0.03 }
        [[task]]
        name = "wide"
        array = "0-9"
        command = "test $PHALANX_CPUS = 2 && sleep 0.02"
        cpus = 2
        [[task]]
        name = "plain"
        array = "0-39"
        kernel = "sleep"
        args = { seconds = 0.01 }
        [[task]]
        name = "one-at-a-time"
        array = "0-9%1"
        kernel = "sleep"
        args = { seconds = 0.01 }
        needs = ["few"]
    "#;
    run(&dir, 3, job, &["--slots", "2"]).ok();
    let trace = Trace::of(&dir, "latest");
    assert!(trace.most_at_once(|row| u32::from(row.name == "few")) <= 2);
    assert_eq!(trace.most_at_once(|row| u32::from(row.name == "one-at-a-time")), 1);
    for rank in 0..3 {
        let used = trace.most_at_once(|row| match row.rank == Some(rank) {
            true => 1 + u32::from(row.name == "wide"),
            false => 0,
        });
        assert!(used <= 2, "rank {rank} had {used} CPUs in use with 2 slots");
    }
    assert_eq!(trace.completed().len(), 80);
}

#[test]
fn a_rank_on_which_everything_fails_at_once_fails_few_tasks() {
    for sick in 0..2 {
        let dir = Dir::new("sick");
        let command = format!("test $PHALANX_RANK != {sick} && sleep 0.3");
        let job = format!("[[task]]\nname = 'work'\narray = '1-120'\ncommand = '{command}'\n");
        run(&dir, 3, &job, &["--slots", "2"]).code(1).says(&format!("rank {sick} is quarantined"));
        let trace = Trace::of(&dir, "latest");
        let failed = trace.0.iter().filter(|row| row.state == "FAILED").count();
        assert_eq!(trace.completed().len() + failed, 120);
        // Five, one for each slot, and what began while other ranks had too little time to show
        // anything. Without the suspension all forty that are at home there fail.
        assert!(failed < 30, "{failed} tasks failed on rank {sick}");
    }
}

#[test]
fn what_fails_on_every_rank_ends_on_every_rank() {
    let dir = Dir::new("all-fail");
    let job = "[[task]]\nname = 'work'\narray = '1-300'\ncommand = 'no-such-program'\n\
               [[task]]\nname = 'wide'\narray = '1-20'\ncpus = 2\ncommand = 'exit 3'\n";
    let out = run(&dir, 3, job, &["--slots", "2"]).code(1);
    assert!(!out.stderr().contains("quarantined"), "{out}");
    assert_eq!(Trace::of(&dir, "latest").0.iter().filter(|row| row.state == "FAILED").count(), 320);
}

#[test]
fn failures_reach_over_ranks() {
    let dir = Dir::new("failures");
    let job = r#"
        [job]
        partition = "round_robin"
        [[task]]
        name = "make"
        array = "0-29"
        command = "echo out {index} of rank $PHALANX_RANK; echo err {index} >&2; test $(({index} % 3)) -ne 0"
        [[task]]
        name = "use"
        array = "0-29"
        command = "true"
        needs = ["make[{index}]"]
        [[task]]
        name = "mend"
        array = "0-29"
        command = "true"
        needs = ["afternotok:make[{index}]"]
        [[task]]
        name = "all"
        command = "true"
        needs = ["use"]
        [[task]]
        name = "end"
        command = "true"
        needs = ["afterany:all", "afterany:mend"]
        [[task]]
        name = "elsewhere"
        command = "test $PHALANX_ATTEMPT = 2"
        retries = { count = 1, backoff = "10ms", elsewhere = true }
    "#;
    run(&dir, 3, job, &["--slots", "2"]).code(1).says("Failed").says("| err ");
    // The summary shows the first few; all of them are in the report.
    phalanx(&dir).args(["report", "latest", "--failed"]).run().ok().says("make[0]: FAILED").says("| err 0");
    let trace = Trace::of(&dir, "latest");
    for index in 0..30 {
        let states = match index % 3 {
            0 => ["FAILED", "SKIPPED", "COMPLETED"],
            _ => ["COMPLETED", "COMPLETED", "SKIPPED"],
        };
        for (kind, expected) in ["make", "use", "mend"].iter().zip(states) {
            assert_eq!(trace.state(&format!("{kind}[{index}]")), expected, "{kind}[{index}]");
        }
    }
    assert_eq!((trace.state("all"), trace.state("end")), ("SKIPPED", "COMPLETED"));
    let tries = trace.attempts("elsewhere");
    assert_eq!(
        tries.iter().map(|row| (row.attempt, &*row.state)).collect::<Vec<_>>(),
        [(1, "FAILED"), (2, "COMPLETED")]
    );
    assert_ne!(tries[0].rank, tries[1].rank, "it was to be tried on another rank");
    // The report finds the output of each, whichever rank ran it.
    for index in [4, 5, 28] {
        let task = format!("make[{index}]");
        let rank = trace.last(&task).rank.expect("it ran");
        let shown = phalanx(&dir).args(["report", "latest", "--task", &task]).run().ok();
        assert!(shown.stdout().contains(&format!("out {index} of rank {rank}\n")), "{shown}");
    }
}

#[test]
fn a_task_sees_nothing_of_the_world_that_it_runs_in() {
    let dir = Dir::new("world");
    // None ends before three run at a time, which is more than a rank has slots.
    let job = "[[task]]\nname = 'show'\narray = '0-5'\nstdout = 'env-{index}'\n\
               command = 'env; echo >> began; until [ $(wc -l < began) -ge 3 ]; do sleep 0.05; done'\n";
    run(&dir, 2, job, &["--slots", "2"]).ok();
    let mut ranks = BTreeSet::new();
    for index in 0..6 {
        let text = dir.read(&format!("env-{index}"));
        let leaks = text.lines().filter(|line| ["OMPI_", "PMIX_", "PMI_", "PRTE_"].iter().any(|p| line.starts_with(p)));
        let leaks: Vec<&str> = leaks.filter(|line| !line.contains("_ALLOW_RUN_AS_ROOT")).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
        ranks.extend(text.lines().find_map(|line| line.strip_prefix("PHALANX_RANK=")).map(str::to_owned));
    }
    assert_eq!(ranks.len(), 2);
}

/// Compiles the small MPI program of the repository.
fn mpi_program(dir: &Dir) {
    let source = repository().join("tests/mpi_programs/world.c");
    let status = support::mpicc().arg("-o").arg(dir.path().join("world")).arg(source).status();
    assert!(status.expect("mpicc can be started").success());
}

#[test]
fn a_task_may_be_an_mpi_program() {
    let job = r#"
        [[task]]
        name = "plain"
        array = "0-1"
        command = ["./world", "1"]
        [[task]]
        name = "by-itself"
        command = "MPIRUN -n 2 ./world 2"
        [[task]]
        name = "narrow"
        array = "0-1"
        command = ["./world", "2"]
        mpi = { ranks = 2 }
        [[task]]
        name = "gang"
        array = "0-2"
        command = ["./world", "4"]
        mpi = { ranks = 4 }
        needs = ["plain"]
        [[task]]
        name = "failing-gang"
        command = ["./world", "5"]
        mpi = { ranks = 4 }
        [[task]]
        name = "between"
        array = "0-19"
        kernel = "sleep"
        args = { seconds = 0.02 }
        [[task]]
        name = "after"
        command = ["true"]
        needs = ["gang", "afternotok:failing-gang"]
    "#;
    // Alone each MPI task fits on the one rank; with three ranks of two slots the gangs need two of
    // them.
    for (ranks, slots) in [(None, "4"), (Some(3), "2")] {
        let dir = Dir::new("program");
        mpi_program(&dir);
        let more = if support::is_open_mpi() { " --oversubscribe" } else { "" };
        dir.job("job.toml", &job.replace("MPIRUN", &(support::mpirun_name() + more)));
        let command = match ranks {
            None => phalanx(&dir),
            Some(ranks) => mpirun(&dir, ranks),
        };
        command.args(["run", "job.toml", "--slots", slots]).run().code(1);
        let trace = Trace::of(&dir, "latest");
        assert_eq!((trace.state("failing-gang"), trace.last("failing-gang").exit), ("FAILED", 9));
        for (task, size) in [("plain[1]", 1), ("by-itself", 2), ("narrow[0]", 2), ("gang[2]", 4)] {
            let shown = phalanx(&dir).args(["report", "latest", "--task", task]).run().ok();
            for rank in 0..size {
                let line = format!("rank {rank} of {size} sum {}", size * (size - 1) / 2);
                assert!(shown.stdout().contains(&line), "{line} is missing\n{shown}");
            }
        }
        let gangs = ["gang[0]", "gang[1]", "gang[2]", "failing-gang"];
        assert_eq!(trace.completed().len(), 2 + 1 + 2 + 3 + 20 + 1, "with {ranks:?}");
        trace.respects([("plain[0]", "gang[0]"), ("plain[1]", "gang[2]"), ("gang[1]", "after")]);
        // Gangs of four in six or four slots have to take turns.
        assert_eq!(trace.most_at_once(|row| u32::from(gangs.contains(&&*row.task()))), 1);
        let weight = |row: &support::checker::Row| match &*row.name {
            "gang" | "failing-gang" => 4,
            "narrow" => 2,
            _ => 1,
        };
        let all = if ranks.is_some() { 6 } else { 4 };
        assert!(trace.most_at_once(weight) <= all, "more slots in use than there are");
    }
}

#[test]
fn tasks_on_several_ranks_run_side_by_side_where_there_is_room() {
    let dir = Dir::new("side-by-side");
    // Each waits until all have begun.
    let job = r#"
        [[task]]
        name = "member"
        array = "0-2"
        mpi = { ranks = 2 }
        time = "100s"
        command = "touch began.{index}; until [ $(ls | grep -c ^began) -ge 3 ]; do sleep 0.05; done"
    "#;
    run(&dir, 6, job, &["--slots", "1"]).ok();
    let trace = Trace::of(&dir, "latest");
    assert_eq!((trace.completed().len(), trace.most_at_once(|_| 1)), (3, 3));
}

#[test]
fn a_gang_has_the_cpus_of_all_its_ranks() {
    let dir = Dir::new("gang-cpus");
    let job = r#"
        [[task]]
        name = "gang"
        command = "grep Cpus_allowed_list /proc/self/status"
        mpi = { ranks = 2 }
        array = "0-3"
        stdout = "cpus-{index}"
    "#;
    dir.job("job.toml", job);
    // Not oversubscribed: the launcher binds each rank to a CPU of its own, if there are two.
    let two = std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2);
    if !two {
        return support::skip_loudly("this needs two CPUs");
    }
    let command = support::TestCommand::new(support::mpirun_name(), dir.path()).args(["-n", "2", "--bind-to", "core"]);
    command.args([support::program()]).args(["run", "job.toml", "--slots", "1"]).run().ok();
    for index in 0..4 {
        let text = dir.read(&format!("cpus-{index}"));
        let lists: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(lists.len(), 2, "{text}");
        assert!(lists.iter().all(|list| list.contains([',', '-'])), "the gang was left with one CPU: {text}");
    }
}

#[test]
fn a_killed_rank_ends_the_run_and_resume_loses_nothing() {
    let dir = Dir::new("rank-loss");
    // A part of the tasks for each session: no run is over before its rank is killed.
    let part = |part: u32| {
        format!(
            "[[task]]\nname = \"go{part}\"\ncommand = \"until test -e go-{part}; do sleep 0.05; done\"\n\
             [[task]]\nname = \"t{part}\"\nneeds = \"go{part}\"\narray = \"0-149\"\n\
             command = \"echo 't{part}[{{index}}]' >> ran; sleep 0.03\"\n"
        )
    };
    let job: String = (0..4).map(part).collect();
    dir.job("job.toml", &job);
    for (part, victim) in [1, 2, 0].into_iter().enumerate() {
        let before = if dir.has("ran") { dir.read("ran").lines().count() } else { 0 };
        dir.file(&format!("go-{part}"), "");
        let resume: &[&str] = if victim == 1 { &[] } else { &["--resume"] };
        let running = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2"]).args(resume).start();
        wait_for("some tasks to run", 120, || {
            (dir.has("ran") && dir.read("ran").lines().count() > before + 20).then_some(())
        });
        let ranks = running.ranks();
        assert_eq!(ranks.len(), 3);
        send(ranks[victim], libc::SIGKILL);
        let out = running.wait();
        assert_ne!(out.exit(), 0, "{out}");
        phalanx(&dir).args(["report", "latest"]).run().ok().says("INTERRUPTED");
    }
    let done = Trace::of(&dir, "latest").completed();
    let before = dir.read("ran").lines().count();
    dir.file("go-3", "");
    run(&dir, 3, &job, &["--slots", "2", "--resume"]).ok();
    let trace = Trace::of(&dir, "latest");
    assert_eq!(trace.completed().len(), 604);
    // What the journal knew to be complete did not run again.
    for line in dir.read("ran").lines().skip(before) {
        assert!(!done.contains(line), "{line} ran again");
    }
}

#[test]
fn a_mistake_is_said_once_and_not_by_every_rank() {
    let dir = Dir::new("mistake");
    let out = run(&dir, 4, "[[task]]\nname = 'a'\ncomand = 'true'\n", &[]).code(2);
    assert_eq!(out.stderr().matches("comand").count(), 2, "the name and its line, once each\n{out}");
    let out = mpirun(&dir, 3).args(["run", "absent.toml"]).run().code(2);
    assert_eq!(out.stderr().matches("cannot read absent.toml").count(), 1, "{out}");
    let out = run(&dir, 3, "[[task]]\nname = 'a'\ncommand = 'true'\ncpus = 64\n", &["--slots", "2"]).code(2);
    assert_eq!(out.stderr().matches("fits on no rank").count(), 1, "{out}");
    assert!(!dir.has("phalanx-runs/latest"), "{out}");
    let out = mpirun(&dir, 3).args(["run", "job.toml", "--no-such-option"]).run().code(2);
    assert_eq!(out.stderr().matches("unexpected argument").count(), 1, "{out}");
}

#[test]
fn a_run_that_cannot_begin_ends_on_all_ranks() {
    let dir = Dir::new("cannot-begin");
    dir.file("d/outputs", "in the way");
    dir.job("job.toml", "[[task]]\nname = 'a'\ncommand = 'true'\n");
    let out = mpirun(&dir, 3).args(["run", "job.toml", "--run-dir", "d"]).start().wait_clean();
    assert!(out.exit() != 0 && out.stderr().contains("outputs"), "{out}");
}

#[test]
fn a_job_without_anything_to_do_ends() {
    let dir = Dir::new("nothing");
    let job = "[[task]]\nname = 'a'\narray = '0-2'\ncommand = 'true'\n";
    run(&dir, 4, job, &["--slots", "1"]).ok();
    run(&dir, 3, job, &["--slots", "1", "--resume"]).ok();
    let trace = Trace::of(&dir, "latest");
    trace.exactly_once(["a[0]", "a[1]", "a[2]"]);
}
