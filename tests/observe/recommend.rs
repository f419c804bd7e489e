//! `recommend`: requests that fit, from what tasks used in earlier runs.

use std::collections::BTreeMap;
use std::path::Path;

use phalanx::scale::estimate::{UsedAmount, fit, outcome};
use serde_json::Value;

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
/// other half, and the other way round.
#[test]
fn on_recorded_workflows_few_tasks_are_tried_again() {
    let folder = repository().join("../shared/data/workflows");
    let Some(workflows) = recorded(&folder) else {
        return skip_loudly("the recorded workflows are not here: ../shared/data/workflows");
    };
    let (mut tasks, mut retried) = (0.0, 0.0);
    for (name, classes) in workflows {
        let all: Vec<UsedAmount> = classes.values().flatten().copied().collect();
        let max = all.iter().map(|task| task.amount).fold(0.0, f64::max);
        let (mut wasted, mut wasted_max, mut again, mut count) = (0.0, 0.0, 0.0, 0.0);
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
            }
        }
        println!("{name}: {count} tasks, {again:.0} retried, {:.2} of the waste of the maximum", wasted / wasted_max);
        assert!(wasted <= wasted_max || max < 1e8, "{name}: the maximum for everybody wastes less");
        (tasks, retried) = (tasks + count, retried + again);
    }
    println!("all: {retried:.0} of {tasks} retried");
    assert!(retried < 0.03 * tasks, "{retried} of {tasks}");
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
