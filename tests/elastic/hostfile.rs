//! Ranks that a run gains on the hosts of a hostfile.

use std::collections::HashSet;

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx};

/// None of the tasks ends before three ranks have one each.
fn job(hostfile: &str) -> String {
    format!(
        "[job]\nname = \"hosts\"\n[capacity]\nprovider = \"local\"\nhostfile = \"{hostfile}\"\nlisten = \"127.0.0.1\"\n\
         [scaling]\npolicy = \"hybrid\"\nmax_ranks = 8\ninterval = \"1s\"\n[cost]\nnode_hour = 36.0\nminimum = \"0s\"\n\
         [[task]]\nname = \"wide\"\nestimate = \"1s\"\narray = \"1-60\"\n\
         command = \"echo {{index}} >> met; until [ $(wc -l < met) -ge 3 ]; do sleep 0.05; done; sleep 0.5\"\n"
    )
}

#[test]
fn a_hostfile_gives_as_many_ranks_as_it_has_slots() {
    let dir = Dir::new("hostfile");
    dir.file("hosts", "# this machine\nlocalhost slots=2\n");
    dir.job("job.toml", &job("hosts"));
    phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).patience(300).run().ok();
    let trace = Trace::of(&dir, "run");
    trace.exactly_once((1..=60).map(|k| format!("wide[{k}]")).collect::<Vec<_>>().iter().map(String::as_str));
    let ranks: HashSet<u32> = trace.0.iter().filter_map(|row| row.rank).collect();
    assert_eq!(ranks, HashSet::from([0, 1, 2]));
}

#[test]
fn a_host_with_a_label_is_gained_for_the_tasks_that_ask_for_it() {
    let dir = Dir::new("labelled-host");
    dir.file("hosts", "localhost slots=1\n127.0.0.1 slots=1 # labels=highmem,ssd\n");
    let big = "[[task]]\nname = \"big\"\nlabels = [\"highmem\"]\narray = \"1-3\"\ncommand = \"true\"\n";
    dir.job("job.toml", &format!("{}{big}", job("hosts")));
    phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).patience(300).run().ok();
    let trace = Trace::of(&dir, "run");
    let of_big: HashSet<u32> = trace.0.iter().filter(|row| row.name == "big").filter_map(|row| row.rank).collect();
    assert_eq!((trace.completed().len(), of_big.len(), of_big.contains(&0)), (63, 1, false));
}

#[test]
fn a_hostfile_that_cannot_be_read_is_refused_before_anything_runs() {
    let dir = Dir::new("no-hostfile");
    dir.job("job.toml", &job("nowhere"));
    phalanx(&dir).args(["run", "job.toml", "--run-dir", "run"]).run().code(2).says("nowhere");
}
