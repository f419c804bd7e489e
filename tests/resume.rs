//! What is done stays done: whatever ends a run, the next one goes on from there, and it notices what has been changed.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use support::checker::Trace;
use support::{Dir, Output, mpirun, phalanx, wait_for};

const FAMILIES: u32 = 4;
const EACH: u32 = 500;

/// 2,000 short commands; each leaves its name in the file `ran`. Dependencies go across the arrays, and so across ranks.
fn two_thousand() -> String {
    let mut toml = String::from("[job]\npartition = \"round_robin\"\n");
    for family in 0..FAMILIES {
        let needs = match family {
            0 => String::new(),
            1 => "needs = [\"t0[{index}]\"]\n".to_owned(),
            2 => "needs = [\"t0[0-9]\", \"t1[{index}]\"]\n".to_owned(),
            last => format!("needs = [\"t{}[{{index}}]\"]\n", last - 1),
        };
        toml += &format!(
            "[[task]]\nname = \"t{family}\"\narray = \"0-{}\"\n{needs}\
             command = \"echo 't{family}[{{index}}]' >> ran; sleep 0.005\"\n",
            EACH - 1
        );
    }
    toml
}

/// The edges of that job.
fn edges() -> Vec<(String, String)> {
    let mut edges = Vec::new();
    for index in 0..EACH {
        for family in 1..FAMILIES {
            edges.push((format!("t{}[{index}]", family - 1), format!("t{family}[{index}]")));
        }
        edges.extend((0..10).map(|first| (format!("t0[{first}]"), format!("t2[{index}]"))));
    }
    edges
}

fn lines(dir: &Dir, name: &str) -> Vec<String> {
    if dir.has(name) { dir.read(name).lines().map(str::to_owned).collect() } else { Vec::new() }
}

#[test]
fn twenty_kills_lose_nothing_and_repeat_nothing() {
    let seed = std::env::var("PHALANX_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("PHALANX_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = Dir::new("kills");
    dir.job("job.toml", &two_thousand());
    let mut done: HashSet<String> = HashSet::new();
    for kill in 0..20 {
        let before = lines(&dir, "ran").len();
        // Alone or on several ranks: a resume may have other ranks than the run before it.
        let command = if random.u32(0..3) == 0 { phalanx(&dir) } else { mpirun(&dir, random.u32(2..4)) };
        let resume: &[&str] = if kill == 0 { &[] } else { &["--resume"] };
        let mut running = command.args(["run", "job.toml", "--slots", "2"]).args(resume).start();
        if kill == 0 {
            wait_for("the first task", 60, || dir.has("ran").then_some(()));
        }
        sleep(Duration::from_millis(random.u64(20..700)));
        running.kill_all();
        drop(running);
        for task in &lines(&dir, "ran")[before..] {
            assert!(!done.contains(task), "{task} was complete before kill {kill}, and ran again (seed {seed})");
        }
        let now = Trace::of(&dir, "latest").completed();
        assert!(done.is_subset(&now), "kill {kill} lost completed tasks (seed {seed})");
        println!("kill {kill}: {} complete", now.len());
        done = now;
    }
    let before = lines(&dir, "ran").len();
    mpirun(&dir, 3).args(["run", "job.toml", "--slots", "2", "--resume"]).run().ok();
    let ran = lines(&dir, "ran");
    assert!(ran[before..].iter().all(|task| !done.contains(task)), "seed {seed}");
    let all: HashSet<&str> = ran.iter().map(String::as_str).collect();
    assert_eq!(all.len() as u32, FAMILIES * EACH, "a task is missing (seed {seed})");
    check_history(&Trace::of(&dir, "latest"));
}

/// Over all sessions every task completed exactly once, and none started before what it needs had ended.
fn check_history(trace: &Trace) {
    let mut completed: HashMap<String, &support::checker::Row> = HashMap::new();
    for row in trace.0.iter().filter(|row| row.state == "COMPLETED") {
        let twice = completed.insert(row.task(), row);
        assert!(twice.is_none(), "{row:?} and {twice:?}");
    }
    assert_eq!(completed.len() as u32, FAMILIES * EACH);
    for (before, after) in edges() {
        let (first, then) = (completed[&before], completed[&after]);
        assert!(then.start >= first.end, "{first:?}\n{then:?}");
    }
}
