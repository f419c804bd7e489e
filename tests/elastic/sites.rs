//! Several sites with nodes: one whose queue is full, one that refuses, one that works.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx, wait_for};

/// A job whose tasks need two ranks at once, with three sites: the cheapest lets wait for ever, the
/// next one refuses.
fn job(more: &str) -> String {
    let lines = |submit: &str, state: &str, cancel: &str| {
        format!(
            "[site.commands]\nsubmit = \"\"\"{submit} # {{script}}\"\"\"\nstate = \"{state}\"\ncancel = \"\"\"{cancel}\"\"\"\n\
             waiting = \"waits\"\nrunning = \"runs\"\njob_id = '\\d+'\n"
        )
    };
    let site = |name: &str, price: f64, lines: &str| {
        format!("[[site]]\nname = \"{name}\"\nprovider = \"commands\"\nnode_hour = {price}\npatience = \"1s\"\n{lines}")
    };
    let full = lines("echo 17", "[ -e cancelled ] || echo waits {id}", "echo {id} >> cancelled");
    let refuses = lines("echo refused >> refusals; exit 1", "echo waits {id}", "true {id}");
    let works = lines(
        "setsid sh {script} > {log} 2>&1 & echo $!",
        "grep -qs . /proc/{id}/cmdline && echo runs || true",
        "kill -TERM -- -{id}",
    );
    format!(
        "[job]\nname = \"sites\"\n[capacity]\nlisten = \"127.0.0.1\"\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n\
         interval = \"1s\"\n[cost]\nnode_hour = 3600.0\nminimum = \"0s\"\n{more}{}{}{}",
        site("works", 36.0, &works),
        site("full", 3.6, &full),
        site("refuses", 7.2, &refuses),
    )
}

const PAIR: &str = "[[task]]\nname = \"pair\"\nestimate = \"30s\"\narray = \"1-8\"\n\
                    command = \"echo {index} >> met; until [ $(wc -l < met) -ge 2 ]; do sleep 0.05; done; sleep 0.2\"\n";

#[test]
fn the_next_site_is_asked_and_the_request_that_loses_is_withdrawn() {
    let dir = Dir::new("sites");
    dir.job("job.toml", &(job("") + PAIR));
    phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).patience(300).run().ok();
    let trace = Trace::of(&dir, "run");
    assert_eq!(trace.completed().len(), 8);
    assert!(trace.0.iter().any(|row| row.rank != Some(0)), "work on the site that works");
    assert!(dir.read("cancelled").starts_with("17\n"), "the request to the full site is withdrawn");
    assert!(dir.read("refusals").lines().count() < 10, "{}", dir.read("refusals"));
    assert!(!dir.has("run/blocks/site-full/commands") && !dir.has("run/blocks/site-works/commands"));

    let explained = phalanx(&dir).args(["explain", "run"]).run().ok();
    let explained = explained.says("requested from `full`").says("`full` has not granted it within its patience");
    explained.says("site `works`").says("site `refuses`");
    let decisions = phalanx(&dir).args(["explain", "run", "--json"]).run().ok().json();
    let grown = decisions.as_array().unwrap().iter().find(|it| it["action"]["grow"].is_object()).expect("a request");
    let names = |sites: &serde_json::Value| {
        sites.as_array().unwrap().iter().map(|site| site["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&grown["sites"][0]["candidates"]), ["full", "refuses", "works"], "by price");
    let number = grown["number"].to_string();
    phalanx(&dir).args(["explain", "run", &number]).run().ok().says("* full").says("  refuses").says("  works");

    // The block is billed at the price of its site, a hundredth of that of the first node.
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    let nodes = report["nodes_held"].as_array().expect("nodes");
    let held = |gained: bool| {
        let of = nodes.iter().filter(|node| node["block"].is_null() != gained);
        of.map(|node| node["held_s"].as_f64().unwrap()).sum::<f64>()
    };
    let bill = held(false) + held(true) / 100.0;
    let cost = report["cost"].as_f64().unwrap();
    assert!((cost - bill).abs() < 0.05 * bill + 2.0, "{cost} is not {bill}: {nodes:#?}");
}

/// A `PATH` with programs that stand in for Slurm's; `test_only` is what `sbatch --test-only` does.
fn stub_slurm(dir: &Dir, test_only: &str) -> String {
    let script = |name: &str, lines: &str| {
        let file = dir.file(&format!("bin/{name}"), &format!("#!/bin/sh\n{lines}\n"));
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("a program");
    };
    script("sbatch", &format!("case \"$*\" in *--test-only*) echo \"$*\" >> asked\n{test_only} ;; esac; exit 1"));
    ["squeue", "sinfo", "scancel", "scontrol"].iter().for_each(|name| script(name, "exit 0"));
    format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default())
}

const SLURM_SITE: &str = "[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n[capacity]\nlisten = \"127.0.0.1\"\n\
    [[site]]\nname = \"queue\"\nprovider = \"slurm\"\npartition = \"p\"\ntime = \"10m\"\nnode_hour = 2.0\n\
    [[task]]\nname = \"a\"\ncommand = \"until test -e asked; do sleep 0.05; done\"\n";

#[test]
fn a_plan_shows_the_wait_that_slurm_expects() {
    let dir = Dir::new("plan-estimate");
    dir.job("job.toml", SLURM_SITE);
    let answer = "echo \"sbatch: Job 7 to start at $(($(date +%s) + 3600)) using 2 processors on nodes n1 in partition p\" >&2; exit 0";
    let path = stub_slurm(&dir, answer);
    let plan = |more: &[&str]| phalanx(&dir).env("PATH", &path).args(["plan", "job.toml"]).args(more).run().ok();
    plan(&[]).says(" Slurm ").says("Slurm = its own estimate");
    let site = plan(&["--json"]).json()["sites"][0].clone();
    let wait_s = site["wait_s"].as_f64().unwrap();
    assert!(site["wait_from"] == "slurm" && (3500.0..3700.0).contains(&wait_s), "{site}");
    let asked = dir.read("asked");
    assert!(asked.contains("--partition p") && asked.contains("--time 10") && !asked.contains("--deadline"), "{asked}");
    // What is no answer changes nothing.
    let path = stub_slurm(&dir, "echo to start at noon; exit 0");
    let site =
        phalanx(&dir).env("PATH", &path).args(["plan", "job.toml", "--json"]).run().ok().json()["sites"][0].clone();
    assert_eq!(site["wait_from"], "assumed");
}

#[test]
fn a_slurm_that_estimates_nothing_holds_no_run_up() {
    let dir = Dir::new("slow-estimate");
    dir.job("job.toml", SLURM_SITE);
    let path = stub_slurm(&dir, "exec sleep 3600");
    let run = phalanx(&dir).env("PATH", &path).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    run.patience(300).run().ok();
    assert_eq!(dir.read("asked").lines().count(), 1);
}

#[test]
fn jobs_of_all_sites_of_a_killed_run_are_cancelled() {
    let dir = Dir::new("left-sites");
    dir.job("job.toml", &(job("") + "[[task]]\nname = \"a\"\ncommand = \"touch began; sleep 600\"\n"));
    let run = phalanx(&dir).args(["run", "job.toml", "-q", "--slots", "1", "--run-dir", "run"]).start();
    wait_for("the task", 120, || dir.has("began").then_some(()));
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    wait_for("the request to the full site", 120, || dir.has("run/blocks/site-full/commands").then_some(()));
    run.signal(libc::SIGKILL);
    drop(run);
    wait_for("the jobs to be cancelled", 120, || {
        let cancelled = phalanx(&dir).args(["cancel", "run"]).run();
        (cancelled.exit() == 2 && dir.has("cancelled")).then_some(())
    });
    assert_eq!(dir.read("cancelled"), "17\n");
    assert!(!dir.has("run/blocks/site-full/commands"));
}

#[test]
fn a_plan_shows_the_sites() {
    let dir = Dir::new("plan-sites");
    dir.job("job.toml", &(job("budget = 100.0\n") + PAIR));
    let plan = phalanx(&dir).args(["plan", "job.toml", "--ranks", "1..2"]).run().ok();
    plan.says("the first 1 rank is priced at 3600 per hour").says("* full").says("  works");
    let sites =
        phalanx(&dir).args(["plan", "job.toml", "--ranks", "1..2", "--json"]).run().ok().json()["sites"].clone();
    let names: Vec<&str> = sites.as_array().unwrap().iter().map(|site| site["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["full", "refuses", "works"]);
}

/// `run` gets a node of the type that a task needs; `plan` and `simulate` count with one.
#[test]
fn a_plan_has_a_node_of_each_type_that_a_task_needs() {
    let dir = Dir::new("plan-needed");
    let text = |need: &str, node: &str| {
        format!(
            "[scaling]\npolicy = 'hybrid'\nmax_ranks = 3\n[cost]\nnode_hour = 1.0\n\
             [[cost.node]]\nname = 'lean'\nnode_hour = 1.0\nslots = 1\n\
             [[cost.node]]\nname = 'rich'\nnode_hour = 2.0\n{node}\n[capacity]\nprovider = 'local'\n\
             [[task]]\nname = 'w'\nestimate = '1s'\ncommand = 'true'\n{need}\n"
        )
    };
    dir.job("slots.toml", &text("cpus = 2", "slots = 2"));
    dir.job("labels.toml", &text("labels = 'big'", "slots = 1\nlabels = 'big'"));
    for job in ["slots.toml", "labels.toml"] {
        let plan = phalanx(&dir).args(["plan", job, "--slots", "1", "--ranks", "1-3", "--json"]).run().ok().json();
        let ranks: Vec<u64> =
            plan["candidates"].as_array().unwrap().iter().map(|it| it["ranks"].as_u64().unwrap()).collect();
        assert_eq!(ranks, [2, 3], "the first rank cannot run it: {plan:#}");
        let types = plan["node_types"].as_array().unwrap();
        assert!(types.iter().any(|it| it["node_type"] == "rich" && it["nodes"] == 1), "{plan:#}");
        phalanx(&dir).args(["simulate", job, "--slots", "1"]).run().ok().says("rich");
    }
    // A cluster file that does not say what a run starts with.
    dir.file(
        "thin.toml",
        "[[node]]\nname = 'thin'\nslots = 16\nmemory = '64G'\n[[node]]\nname = 'fat'\nslots = 64\nmemory = '1T'\n",
    );
    dir.job("memory.toml", "[[task]]\nname = 'w'\nmemory = '100G'\nestimate = '1s'\ncommand = 'true'\n");
    phalanx(&dir).args(["plan", "memory.toml", "--cluster", "thin.toml", "--ranks", "2"]).run().ok().says("fat");
}

/// Two types of nodes of this machine, of which one is cheap and small and there is only one.
fn types(dir: &Dir) {
    let text = "[job]\nname = \"types\"\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 3\ninterval = \"1s\"\n\
         [cost]\nnode_hour = 3600.0\nminimum = \"0s\"\n\
         [[cost.node]]\nname = \"small\"\nnode_hour = 36.0\nslots = 1\nlimit = 1\n\
         [[cost.node]]\nname = \"big\"\nnode_hour = 180.0\nslots = 2\nlimit = 1\n\
         [capacity]\nprovider = \"local\"\n\
         [[task]]\nname = \"a\"\nestimate = \"30s\"\narray = \"1-9\"\n\
         command = \"echo {index} >> met; until [ $(wc -l < met) -ge 4 ]; do sleep 0.05; done; until test -e end; do sleep 0.05; done\"\n";
    dir.job("job.toml", text);
}

#[test]
fn a_run_gains_nodes_of_two_types_and_pays_for_each() {
    let dir = Dir::new("types");
    types(&dir);
    let run = phalanx(&dir).args(["run", "job.toml", "-q", "--slots", "1", "--run-dir", "run"]).start();
    // Four tasks meet: one slot here, one of the small node, two of the big one.
    wait_for("both types to work", 180, || {
        let status = phalanx(&dir).args(["status", "run", "--json"]).run();
        let types = (status.exit() == 0).then(|| status.json()["node_types"].clone())?;
        let now = |name: &str| types.as_array()?.iter().find(|it| it["node_type"] == name)?["nodes_now"].as_u64();
        let met = dir.has("met") && dir.read("met").lines().count() >= 4;
        (met && now("node") == Some(1) && now("small") == Some(1) && now("big") == Some(1)).then_some(())
    });
    dir.file("end", "");
    run.wait_clean().ok();
    assert_eq!(Trace::of(&dir, "run").completed().len(), 9);

    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    let types = report["node_types"].as_array().expect("types");
    let cost = |name: &str| types.iter().find(|it| it["node_type"] == name).expect(name)["cost"].as_f64().unwrap();
    let (all, sum) = (report["cost"].as_f64().unwrap(), cost("node") + cost("small") + cost("big"));
    assert!((all - sum).abs() < 1e-6 * all, "{all} {types:#?}");
    for it in types {
        let (hours, price) = (it["billed_node_s"].as_f64().unwrap() / 3600.0, it["node_hour"].as_f64().unwrap());
        assert!((hours * price - it["cost"].as_f64().unwrap()).abs() < 1e-6 * all, "{it}");
    }
    phalanx(&dir).args(["report", "run"]).run().ok().says("Types of nodes").says("small").says("report.html");
    assert!(dir.read("run/report.html").contains("What the types of nodes cost"));
    phalanx(&dir).args(["explain", "run"]).run().ok().says("requested from `small`").says("requested from `big`");
}
