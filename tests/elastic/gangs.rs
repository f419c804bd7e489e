//! Tasks on several ranks in a run that gains ranks while it goes on.

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx};

/// One rank of two slots: the MPI tasks need further ranks, which this machine provides. They join
/// while the tasks of an array with a limit run, which want units of it on every rank.
#[test]
fn tasks_on_ranks_that_join_run_beside_an_array_with_a_limit() {
    let dir = Dir::new(module_path!());
    let job = "[scaling]\npolicy = \"hybrid\"\nmin_ranks = 1\nmax_ranks = 4\ninterval = \"1s\"\n\
        [capacity]\nprovider = \"local\"\n[cost]\nnode_hour = 3600\nminimum = \"0s\"\nbudget = 200\n\
        [[task]]\nname = \"w\"\narray = \"0-39%6\"\ncommand = \"sleep 0.5\"\nestimate = \"1s\"\n\
        [[task]]\nname = \"m\"\nneeds = \"w[{index}]\"\narray = \"0-3\"\nmpi = { ranks = 4 }\n\
        command = [\"sleep\", \"0.2\"]\nestimate = \"2s\"\n";
    dir.job("job.toml", job);
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).run().ok();
    let trace = Trace::of(&dir, "latest");
    let names = (0..40).map(|index| format!("w[{index}]")).chain((0..4).map(|index| format!("m[{index}]")));
    let names: Vec<String> = names.collect();
    trace.exactly_once(names.iter().map(String::as_str));
}
