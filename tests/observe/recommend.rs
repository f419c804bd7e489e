//! `recommend`: requests that fit, from what tasks used in earlier runs.

use std::collections::BTreeMap;
use std::path::Path;

use phalanx::exec::Kernels;
use phalanx::job::{self, AUTO_MEMORY_FACTOR};
use phalanx::scale::estimate::{UsedAmount, fit, outcome};
use phalanx::sim::{Cluster, Forget, MemoryUse, Simulation};
use phalanx::workload::PreparedJob;
use serde_json::Value;

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx, repository, skip_loudly};

/// Everybody asks for the same; the first class needs about 60 MB in each of two processes.
const JOB: &str = "# Kept\n[job]\nname = 'fit'\n[defaults]\nmemory = '1G' # everybody\n\n\
[[task]]\nname = 'pair'  # two processes\narray = '0-2'\n\
command = \"\"\"python3 half.py {index}a {index}b &\npython3 half.py {index}b {index}a\nwait\"\"\"\n\n\
[[task]]\nname = 'small'\narray = '0-4'\ncpus = 2\nmemory = '512M' # too much\ntime = '1h'\ncommand = 'sleep 1.05'\n\n\
[[task]]\nname = 'few'\ncommand = 'true'\n";

/// Takes 60 MB and keeps them until the other half has had its own for long enough to be seen.
const HALF: &str = "import os, sys, time\nx = bytearray(60000000)\nopen(sys.argv[1], 'w').close()\n\
while not os.path.exists(sys.argv[2]): time.sleep(0.01)\ntime.sleep(4)\n";

#[test]
fn requests_follow_what_was_used_and_are_written_into_the_job_file() {
    let dir = Dir::new("recommend");
    dir.file("fit.toml", JOB);
    dir.file("half.py", HALF);
    phalanx(&dir).args(["recommend", "fit.toml"]).run().code(2).says("no run of fit");
    phalanx(&dir).args(["run", "fit.toml", "-q", "--slots", "4"]).run().ok();
    let found = phalanx(&dir).args(["recommend", "fit.toml", "--json"]).run().ok().json();
    let classes = found["recommended"]["classes"].as_array().expect("classes");
    assert_eq!(classes.len(), 2, "one task shows nothing: {found:#}");
    let of = |class: &str| classes.iter().find(|one| one["class"] == class).expect("the class");
    let mib = |class: &str| of(class)["memory"]["recommended"].as_f64().expect("bytes") / f64::from(1 << 20);
    assert!((115.0..200.0).contains(&mib("pair")), "both processes count: {found:#}");
    assert_eq!(mib("small"), 32.0);
    assert_eq!((&of("small")["cpus"]["recommended"], &of("small")["time"]["recommended"]), (&1.0.into(), &60.0.into()));
    let savings = &found["recommended"]["savings"];
    assert!(savings["node_hours_recommended"].as_f64() < savings["node_hours_now"].as_f64(), "{savings:#}");
    let said = phalanx(&dir).args(["recommend", "fit.toml"]).run().ok().says("small: memory = \"32M\"");
    assert!(said.stdout().contains("with these requests (cost: "));
    assert_eq!(dir.read("fit.toml"), JOB, "nothing is written unasked");

    phalanx(&dir).args(["recommend", "fit.toml", "--apply"]).run().ok().says("-cpus = 2").says("+cpus = 1");
    let pair = found["changes"].as_array().expect("changes").iter().find(|change| change["task"] == "pair");
    let pair = pair.expect("a change of pair")["value"].as_str().expect("a value").to_owned();
    let expected = JOB
        .replace("# two processes\n", &format!("# two processes\nmemory = {pair}\n"))
        .replace("cpus = 2\nmemory = '512M'", "cpus = 1\nmemory = \"32M\"")
        .replace("time = '1h'", "time = \"60s\"");
    assert_eq!(dir.read("fit.toml"), expected);
    phalanx(&dir).args(["run", "fit.toml", "-q", "--slots", "4"]).run().ok();
    phalanx(&dir)
        .args(["recommend", "fit.toml", "--run-dir", "latest"])
        .run()
        .ok()
        .says("fit: what its tasks used in 1 run");
    phalanx(&dir).args(["recommend", "fit.toml", "--run-dir", "nix"]).run().code(2);
}

/// Recorded workflows with memory: requests from one half of the tasks of each class, tried on the
/// other half, and the other way round. Compared with the request of each class that wastes least
/// in hindsight: no rule can do better that knows no more of a task than its class.
#[test]
fn on_recorded_workflows_few_tasks_are_tried_again_and_little_more_is_wasted_than_must_be() {
    let folder = repository().join("../shared/data/workflows");
    let Some(workflows) = recorded(&folder) else {
        return skip_loudly("the recorded workflows are not here: ../shared/data/workflows");
    };
    let (mut tasks, mut retried) = (0.0, 0.0);
    for (name, classes) in workflows {
        let all: Vec<UsedAmount> = classes.values().flatten().copied().collect();
        let max = all.iter().map(|task| task.amount).fold(0.0, f64::max);
        let (mut wasted, mut wasted_max, mut again, mut count, mut least) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for used in classes.values() {
            for half in 0..2 {
                let of = |half: usize| used.iter().skip(half).step_by(2).copied().collect::<Vec<_>>();
                let (known, tried) = (of(half), of(1 - half));
                let (Some(fitting), false) = (fit(&known, 1.5), tried.is_empty()) else { continue };
                let meant = outcome(fitting.amount, 1.5, &tried);
                wasted += meant.wasted;
                wasted_max += outcome(max, 1.5, &tried).wasted;
                again += meant.retried * tried.len() as f64;
                count += tried.len() as f64;
                let hindsight = tried.iter().map(|task| outcome(task.amount, 1.5, &tried).wasted);
                least += hindsight.fold(f64::INFINITY, f64::min);
            }
        }
        let [share, least] = [wasted, least].map(|waste| waste / wasted_max);
        println!(
            "{name}: {count} tasks, {again:.0} retried, {share:.2} of the waste of the maximum, {least:.2} in hindsight"
        );
        assert!(share <= 1.35 * least + 0.02 || max < 1e8, "{name}: {share} {least}");
        assert!(wasted <= wasted_max || max < 1e8, "{name}: the maximum for everybody wastes less");
        (tasks, retried) = (tasks + count, retried + again);
    }
    println!("all: {retried:.0} of {tasks} retried");
    assert!(retried < 0.03 * tasks, "{retried} of {tasks}");
}

/// The same in simulated runs: each task asks for the most that any task of the workflow uses, or
/// for what the other half of the tasks of its class recommends and then for more.
#[test]
fn in_simulated_workflows_few_tasks_ask_twice_and_classes_that_differ_waste_less() {
    let folder = repository().join("../shared/data/workflows");
    let Some(workflows) = recorded(&folder) else {
        return skip_loudly("the recorded workflows are not here: ../shared/data/workflows");
    };
    let dir = Dir::new("recommend-simulated");
    let mut as_measured = MemoryUse::default();
    for (name, classes) in workflows {
        let source = folder.join(&name).display().to_string();
        let imported = phalanx(&dir).args(["import", "wfcommons", &source]).run().ok().stdout().to_owned();
        let max = classes.values().flatten().map(|task| task.amount).fold(0.0, f64::max);
        let (mut all_max, mut all_auto) = (MemoryUse::default(), MemoryUse::default());
        for half in 0..2 {
            let of = |used: &[UsedAmount], half| used.iter().skip(half).step_by(2).copied().collect::<Vec<_>>();
            let mut cluster = "[[node]]\nslots = 16\nmemory = '64G'\n".to_owned();
            let mut learnt = Vec::new();
            for (class, used) in &classes {
                let (known, tried) = (of(used, half), of(used, 1 - half));
                let Some(fitting) = fit(&known, AUTO_MEMORY_FACTOR).filter(|_| !tried.is_empty()) else { continue };
                let step = f64::from(4 << 20);
                learnt.push((class.clone(), ((fitting.amount.max(8.0 * step) / step).ceil() * step) as u64));
                let peaks: Vec<String> = tried.iter().map(|task| format!("'{}K'", task.amount as u64 >> 10)).collect();
                cluster += &format!("[[tasks.class]]\nname = '{class}'\nmemory = [{}]\n", peaks.join(", "));
            }
            let cluster = Cluster::parse(&cluster, "halves.toml").expect("a cluster file");
            add(&mut all_max, simulated(&imported, &format!("{}M", (max / 1048576.0).ceil()), &cluster, &[]));
            add(&mut all_auto, simulated(&imported, "auto", &cluster, &learnt));
        }
        let share = all_auto.wasted() / all_max.wasted();
        let in_vain = [all_max, all_auto].map(|memory| 100.0 * memory.wasted() / memory.asked);
        println!(
            "{name}: {} of {} tried again, {share:.2} of the waste of the maximum, in vain {in_vain:.0?} %",
            all_auto.short, all_auto.completed
        );
        assert!(all_max.short == 0 && all_auto.completed == all_max.completed && all_max.completed > 0, "{name}");
        if name.starts_with("montage") {
            // Its classes use between 3 and 137 MB. In the others one class that uses most of the
            // maximum does nearly all of the work.
            assert!(share <= 0.5, "{name}: {share}");
        }
        add(&mut as_measured, all_auto);
    }
    println!("all: {} of {} tried again", as_measured.short, as_measured.completed);
    assert!(f64::from(as_measured.short) < 0.03 * f64::from(as_measured.completed), "{as_measured:?}");
}

fn add(sum: &mut MemoryUse, other: MemoryUse) {
    sum.asked += other.asked;
    sum.needed += other.needed;
    sum.completed += other.completed;
    sum.short += other.short;
}

/// The memory of a simulated run of a job whose tasks ask for this.
fn simulated(text: &str, memory: &str, cluster: &Cluster, learnt: &[(String, u64)]) -> MemoryUse {
    let text = format!("[defaults]\nmemory = '{memory}'\n{text}");
    let mut loaded = job::parse(text, "job.toml", Path::new("/"), &Kernels::builtin()).expect("a good job");
    loaded.job.set_auto_memory(learnt.into());
    let prepared = PreparedJob::of(loaded).expect("a good job");
    let (scaling, cost) = (prepared.job.scaling.clone().unwrap_or_default(), prepared.job.cost.clone());
    let outcome = Simulation::new(&prepared, cluster, "static-2", (&scaling, &cost)).run(&mut Forget).expect("it runs");
    assert!(outcome.is_complete());
    outcome.ended.memory
}

/// Takes so many MB, and keeps them until they have been seen.
const TAKE: &str = "import sys, time\nx = bytearray(int(sys.argv[1]) * 1000000)\ntime.sleep(1)\n";

/// What the attempts at a task asked for, in MB, with their states.
fn asked(dir: &Dir, task: &str) -> Vec<(String, u64)> {
    let rows = Trace::of(dir, "latest").0.into_iter().filter(|row| row.name == task);
    rows.map(|row| (row.state, row.memory_mb.expect("it asks for memory"))).collect()
}

#[test]
fn a_task_that_ran_out_of_memory_is_tried_again_with_more() {
    let dir = Dir::new("memory-factor");
    dir.file("take.py", TAKE);
    let job = "[[task]]\nname = 'grow'\ncommand = 'echo asks $PHALANX_MEM_MB; exec python3 take.py 150'\nmemory = '50M'\n\
        retries = { count = 2, backoff = '10ms', memory_factor = 2 }\n\
        [[task]]\nname = 'same'\ncommand = 'python3 take.py 150'\nmemory = '50M'\nretries = { count = 1, backoff = '10ms' }\n\
        [[task]]\nname = 'slow'\ncommand = 'sleep 1.5'\ntime = '1s'\nmemory = '60M'\n\
        retries = { count = 1, backoff = '10ms', memory_factor = 9, time_factor = 60 }\n";
    dir.file("job.toml", job);
    phalanx(&dir).args(["run", "job.toml", "-q"]).run().code(1);
    let pairs = |wanted: &[(&str, u64)]| -> Vec<(String, u64)> {
        wanted.iter().map(|&(state, memory)| (state.to_owned(), memory)).collect()
    };
    let short = "OUT_OF_MEMORY";
    assert_eq!(asked(&dir, "grow"), pairs(&[(short, 50), (short, 100), ("COMPLETED", 200)]));
    assert_eq!(asked(&dir, "same"), pairs(&[(short, 50), (short, 50)]));
    assert_eq!(asked(&dir, "slow"), pairs(&[("TIMEOUT", 60), ("COMPLETED", 60)]));
    phalanx(&dir).args(["report", "latest", "--task", "grow"]).run().ok().says("asks 200");
    assert_eq!(Trace::of(&dir, "latest").state("slow"), "COMPLETED");
}

#[test]
fn a_resumed_run_goes_on_with_the_memory_that_a_task_had_reached() {
    let dir = Dir::new("memory-resume");
    dir.file("take.py", TAKE);
    let job = "[[task]]\nname = 'make'\ncommand = 'true'\n\
        [[task]]\nname = 'grow'\ncommand = 'python3 take.py 150'\nmemory = '50M'\nneeds = ['make']\n\
        retries = { count = 1, backoff = '10ms', memory_factor = 2 }\n";
    dir.file("job.toml", job);
    phalanx(&dir).args(["run", "job.toml", "-q"]).run().code(1);
    // It waits for what runs again before it.
    phalanx(&dir).args(["run", "job.toml", "-q", "--resume", "--rerun", "make"]).run().ok();
    let asked: Vec<u64> = asked(&dir, "grow").into_iter().map(|(_, memory)| memory).collect();
    assert_eq!(asked, [50, 100, 200]);
}

#[test]
fn auto_memory_starts_with_what_earlier_runs_used() {
    let dir = Dir::new("memory-auto");
    dir.file("take.py", TAKE);
    let job = "[defaults]\nmemory = 'auto'\n[[task]]\nname = 'a'\narray = '0-3'\n\
        command = 'python3 take.py $(cat size)'\nretries = { count = 0, backoff = '10ms', memory_factor = 2 }\n";
    dir.file("job.toml", job);
    dir.file("size", "60");
    phalanx(&dir).args(["check", "job.toml"]).run().ok().says("memory as measured");
    phalanx(&dir).args(["run", "job.toml", "-q"]).run().ok();
    assert!(
        asked(&dir, "a").iter().all(|(state, memory)| state == "COMPLETED" && *memory == 1024),
        "{:?}",
        asked(&dir, "a")
    );
    phalanx(&dir).args(["recommend", "job.toml"]).run().ok();
    phalanx(&dir).args(["plan", "job.toml"]).run().ok();
    // Its tasks need more than they ever did.
    dir.file("size", "170");
    phalanx(&dir).args(["run", "job.toml", "-q"]).run().ok();
    let second = asked(&dir, "a");
    let first = second.iter().map(|row| row.1).min().expect("a row");
    assert!((60..128).contains(&first), "{second:?}");
    assert_eq!(second.iter().filter(|row| row.0 == "COMPLETED" && row.1 > 2 * first - 2).count(), 4, "{second:?}");
    phalanx(&dir).args(["run", "job.toml", "-q"]).run().ok();
    let third = asked(&dir, "a");
    assert!(third.iter().all(|(state, memory)| state == "COMPLETED" && *memory > 170), "{third:?}");
    phalanx(&dir).args(["simulate", "job.toml"]).run().ok();
}

/// What the tasks of each class used.
type Classes = BTreeMap<String, Vec<UsedAmount>>;

/// The recorded workflows by name; `None` if they are not there.
fn recorded(folder: &Path) -> Option<Vec<(String, Classes)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let Ok(json) = serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?) else { continue };
        let Some(tasks) = json["workflow"]["execution"]["tasks"].as_array() else { continue };
        let mut classes = Classes::new();
        for task in tasks {
            let (Some(amount), Some(id)) = (task["memoryInBytes"].as_f64(), task["id"].as_str()) else { continue };
            let class = id.trim_end_matches(|c: char| c.is_ascii_digit() || "_-ID".contains(c)).to_owned();
            let seconds = task["runtimeInSeconds"].as_f64().unwrap_or(1.0);
            classes.entry(class).or_default().push(UsedAmount { amount, seconds, weight: 1.0 });
        }
        if !classes.is_empty() {
            found.push((entry.file_name().to_string_lossy().into_owned(), classes));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    (!found.is_empty()).then_some(found)
}

/// The system reports the memory of the rank for a command that is over at once.
#[test]
fn memory_that_was_not_measured_recommends_nothing() {
    let dir = Dir::new("recommend-short");
    dir.job("short.toml", "[[task]]\nname = 'e'\narray = '1-6'\nmemory = '30M'\ncommand = 'echo'\n");
    phalanx(&dir).args(["run", "short.toml", "-q", "--slots", "2"]).run().ok();
    let found = phalanx(&dir).args(["recommend", "short.toml", "--json"]).run().ok().json();
    // On a busy machine some may take long enough to be measured.
    let most = found["recommended"]["classes"][0]["memory"]["max"].as_f64().unwrap_or(0.0);
    assert!(most < f64::from(20 << 20), "{found:#}");
}
