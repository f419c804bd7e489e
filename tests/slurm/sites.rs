//! Two Slurms with a controller each: one is full, a partition of it refuses, the other one works,
//! and one dies. One Slurm with two partitions of different nodes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::checker::Trace;
use crate::support::slurm::{Setup, Slurm};
use crate::support::{Dir, Running, phalanx, wait_for};

/// A job with sites at both Slurms; `time` limits how long a task lasts.
fn job(full: &Slurm, works: &Slurm, tasks: &str) -> String {
    let site = |name: &str, price: f64, slurm: &Slurm, more: &str| {
        format!(
            "[[site]]\nname = \"{name}\"\nprovider = \"slurm\"\ncluster = \"{}\"\nnode_hour = {price}\npatience = \"3s\"\n\
             time = \"20m\"\n{more}",
            slurm.configuration_file().display()
        )
    };
    format!(
        "[job]\nname = \"sites\"\n[capacity]\nlisten = \"127.0.0.1\"\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 2\n\
         interval = \"1s\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"\n{}{}{}{tasks}",
        site("dear", 72.0, works, ""),
        site("full", 3.6, full, ""),
        site("refuses", 7.2, full, "partition = \"none\"\n"),
    )
}

/// Two tasks at a time, until the test ends them.
const PAIRS: &str = "[[task]]\nname = \"pair\"\nestimate = \"30s\"\narray = \"1-40\"\n\
                     command = \"echo $PHALANX_RANK >> ranks; test -e end || sleep 1\"\n";

/// A full Slurm and an idle one, of one node each.
fn two(dir: &Dir) -> Option<(Slurm, Slurm, u32)> {
    let (full, works) = (Slurm::start(1)?, Slurm::start(1)?);
    let blocker = full.sbatch(dir, ["--exclusive", "--wrap", "sleep 3600"]);
    full.wait_running(blocker);
    Some((full, works, blocker))
}

/// A run of the job beside this Slurm, for which no Slurm estimates when jobs would start: what it
/// waits for shows only while it waits.
fn run_without_estimates(dir: &Dir, slurm: &Slurm) -> Running {
    let program = "#!/bin/sh\ncase \"$*\" in *--test-only*) exit 1 ;; esac\nPATH=${PATH#*:}\nexec sbatch \"$@\"\n";
    let file = dir.file("bin/sbatch", program);
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("a program");
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let run = slurm.program_here(dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    run.env("PATH", path).patience(600).start()
}

/// Waits until a rank beside the first one works.
fn wait_for_work(dir: &Dir) {
    wait_for("work on the other Slurm", 180, || {
        let ranks = dir.has("ranks").then(|| dir.read("ranks"))?;
        ranks.lines().any(|rank| rank != "0").then_some(())
    });
}

#[test]
fn a_run_overflows_to_the_next_slurm_and_leaves_nothing_at_any() {
    let dir = Dir::new("overflow");
    let Some((full, works, blocker)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    let run = run_without_estimates(&dir, &full);
    wait_for("a request at the full Slurm", 120, || (full.squeue().len() == 2).then_some(()));
    wait_for_work(&dir);
    assert_eq!(works.squeue().len(), 1, "a block of the other one");
    wait_for("the request that lost to be withdrawn", 120, || (full.squeue().len() == 1).then_some(()));
    dir.file("end", "");
    run.wait_clean().ok();
    works.wait_empty();
    assert_eq!(full.squeue().iter().map(|job| job.id).collect::<Vec<_>>(), [blocker]);
    assert_eq!(Trace::of(&dir, "run").completed().len(), 40);
    for site in ["full", "refuses", "dear"] {
        assert!(!dir.has(&format!("run/blocks/site-{site}/slurm")), "{site} may have jobs left");
    }
    let explained = phalanx(&dir).args(["explain", "run"]).run().ok();
    explained.says("requested from `full`").says("`full` has not granted it within its patience").says("site `dear`");
}

#[test]
fn jobs_of_a_killed_run_are_cancelled_at_both() {
    let dir = Dir::new("killed-sites");
    let Some((full, works, blocker)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    // Both are full: the run waits in both queues.
    let other = works.sbatch(&dir, ["--exclusive", "--wrap", "sleep 3600"]);
    works.wait_running(other);
    let run = run_without_estimates(&dir, &full);
    wait_for("requests in both queues", 180, || (full.squeue().len() == 2 && works.squeue().len() == 2).then_some(()));
    run.signal(libc::SIGKILL);
    drop(run);
    wait_for("both to be cancelled", 120, || {
        full.program_here(&dir, &["cancel", "run"]).run();
        (full.squeue().len() == 1 && works.squeue().len() == 1).then_some(())
    });
    let left = [full.squeue()[0].id, works.squeue()[0].id];
    assert_eq!(left, [blocker, other]);
}

#[test]
fn a_slurm_that_dies_holds_no_run_up() {
    let dir = Dir::new("dies");
    let Some((mut full, works, _)) = two(&dir) else { return };
    dir.job("job.toml", &job(&full, &works, PAIRS));
    // The run is at home at neither.
    let run = run_without_estimates(&dir, &works);
    wait_for("a request at the full Slurm", 120, || (full.squeue().len() == 2).then_some(()));
    full.lose_controller();
    wait_for_work(&dir);
    dir.file("end", "");
    run.wait().ok();
    works.wait_empty();
    assert_eq!(Trace::of(&dir, "run").completed().len(), 40);
    assert!(dir.has("run/blocks/site-full/slurm"), "its job is remembered");
    assert!(!dir.has("run/blocks/site-dear/slurm"), "nothing is left at the other");
}

#[test]
fn a_site_whose_slurm_says_that_it_is_full_for_long_is_not_asked_first() {
    let dir = Dir::new("estimate");
    let (Some(full), Some(works)) = (Slurm::start(1), Slurm::start(1)) else { return };
    // Slurm knows when the node is free only of a job with a time limit.
    let blocker = full.sbatch(&dir, ["--exclusive", "--time=60", "--wrap", "sleep 3600"]);
    full.wait_running(blocker);
    let one = "[[task]]\nname = \"one\"\nestimate = \"30s\"\ncommand = \"until test -e end; do sleep 0.1; done\"\n";
    // Longer than what is usual, so that a wait within it counts as short.
    dir.job("job.toml", &job(&full, &works, one).replace("patience = \"3s\"", "patience = \"1m\""));

    let plan = full.program_here(&dir, &["plan", "job.toml", "--json"]).run().ok().json();
    let site = |sites: &serde_json::Value, name: &str| {
        sites.as_array().and_then(|sites| sites.iter().find(|site| site["name"] == name)).cloned().unwrap_or_default()
    };
    for (name, from, waits_long) in [("full", "slurm", true), ("dear", "slurm", false), ("refuses", "assumed", false)] {
        let site = site(&plan["sites"], name);
        assert_eq!((&site["wait_from"], site["wait_s"].as_f64() > Some(1800.0)), (&from.into(), waits_long), "{site}");
    }

    let run = full.run_here(&dir, &["run", "job.toml", "--slots", "1", "--run-dir", "run"]);
    wait_for("Slurm's estimate", 120, || {
        let status = phalanx(&dir).args(["status", "run", "--json"]).run();
        let sites = (status.exit() == 0).then(|| status.json()["sites"].clone())?;
        let has = |name| site(&sites, name)["wait_from"] == "slurm";
        (has("full") && has("dear")).then_some(())
    });
    phalanx(&dir).args(["scale", "run", "+1"]).run().ok();
    wait_for("a request to the other one", 120, || (works.squeue().len() == 1).then_some(()));
    assert_eq!(full.squeue().iter().map(|job| job.id).collect::<Vec<_>>(), [blocker], "the cheaper one is full");
    dir.file("end", "");
    run.wait_clean().ok();
    works.wait_empty();
    phalanx(&dir).args(["report", "run"]).run().ok();
    let page = dir.read("run/report.html");
    assert!(page.contains("Sites that nodes are requested from") && page.contains("<td>Slurm</td>"));
}

#[test]
fn nodes_of_each_type_are_requested_from_its_partition() {
    let dir = Dir::new("partitions");
    let setup = Setup { partitions: &[("lean", "n1"), ("rich", "n2")], ..Setup::default() };
    let Some(slurm) = Slurm::start_with(2, setup) else { return };
    // Four tasks meet: one slot here, one of the small node, two of the big one.
    dir.job(
        "job.toml",
        "[job]\nname = \"types\"\n[scaling]\npolicy = \"hybrid\"\nmax_ranks = 3\ninterval = \"1s\"\n\
         [cost]\nnode_hour = 3600.0\nminimum = \"0s\"\n\
         [[cost.node]]\nname = \"small\"\npartition = \"lean\"\nnode_hour = 36.0\nslots = 1\n\
         [[cost.node]]\nname = \"big\"\npartition = \"rich\"\nnode_hour = 180.0\nslots = 2\n\
         [capacity]\nprovider = \"slurm\"\nlisten = \"127.0.0.1\"\ntime = \"10m\"\n\
         [[task]]\nname = \"a\"\nestimate = \"30s\"\narray = \"1-60\"\n\
         command = \"echo {index} >> met; until [ $(wc -l < met) -ge 4 ]; do sleep 0.05; done; until test -e end; do sleep 0.05; done\"\n",
    );
    let run = slurm.run_here(&dir, &["run", "job.toml", "-q", "--slots", "1", "--run-dir", "run"]);
    let running = || {
        let queue = slurm.command("squeue").args(["--noheader", "--sort=P", "--states=R", "--format=%P %N"]).run().ok();
        queue.stdout().lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    wait_for("a node of each partition", 240, || (running() == ["lean n1", "rich n2"]).then_some(()));
    wait_for("tasks on all of them", 180, || (dir.has("met") && dir.read("met").lines().count() >= 4).then_some(()));
    dir.file("end", "");
    run.wait_clean().ok();
    slurm.wait_empty();
    assert_eq!(Trace::of(&dir, "run").completed().len(), 60);

    let decisions = phalanx(&dir).args(["explain", "run", "--json"]).run().ok().json();
    let grown = decisions.as_array().unwrap().iter().filter_map(|it| it["action"]["grow"]["node_type"].as_u64());
    assert_eq!(grown.collect::<BTreeSet<u64>>(), BTreeSet::from([1, 2]), "{decisions:#}");
    let explained = phalanx(&dir).args(["explain", "run"]).run().ok();
    explained.says("requested from `small`").says("requested from `big`");
    let report = phalanx(&dir).args(["report", "run", "--json"]).run().ok().json();
    let types = report["node_types"].as_array().expect("types");
    for (name, price) in [("small", 36.0), ("big", 180.0)] {
        let it = types.iter().find(|it| it["node_type"] == name).expect(name);
        let (hours, cost) = (it["billed_node_s"].as_f64().unwrap() / 3600.0, it["cost"].as_f64().unwrap());
        assert!(it["nodes"] == 1 && (hours * price - cost).abs() < 1e-6, "{it}");
    }
}
