//! Labels: tasks that ask for ranks with special equipment.

use crate::support::checker::Trace;
use crate::support::{Dir, phalanx, program, shell};

/// Twelve tasks for a labelled rank, and as many for any.
const JOB: &str = "[[task]]\nname = 'big'\narray = '0-11'\nlabels = ['highmem']\ncommand = 'sleep 0.02'\n\
    [[task]]\nname = 'small'\narray = '0-23'\ncommand = 'sleep 0.02'\n";

/// Three ranks, each with the labels of its own environment.
fn labelled(dir: &Dir, rest: &str) -> crate::support::Output {
    let rank = |labels: &str| format!("-n 1 -x PHALANX_LABELS={labels} {} {rest}", program().display());
    let ranks = [rank("ssd"), rank("highmem,ssd"), rank("")].join(" : ");
    shell(dir, &format!("mpirun --oversubscribe {ranks}")).run()
}

#[test]
fn tasks_run_only_on_ranks_with_their_labels() {
    let dir = Dir::new("labels");
    dir.job("job.toml", JOB);
    labelled(&dir, "run job.toml --slots 1").ok();
    let trace = Trace::of(&dir, "latest");
    let of_big: Vec<Option<u32>> = trace.0.iter().filter(|row| row.name == "big").map(|row| row.rank).collect();
    assert_eq!(of_big, [Some(1); 12]);
    assert!(trace.0.iter().any(|row| row.name == "small" && row.rank != Some(1)));
    let csv = phalanx(&dir).args(["report", "latest", "--json"]).run().ok().json();
    assert_eq!(csv["counts"]["completed"], 36);
    // All ranks have the labels of the command line.
    phalanx(&dir).args(["run", "job.toml", "--labels", "highmem,other"]).run().ok();
}

#[test]
fn a_task_that_no_rank_can_serve_is_refused_with_the_label() {
    let dir = Dir::new("no-label");
    dir.job("job.toml", JOB);
    let refused = phalanx(&dir).args(["run", "job.toml"]).run().code(2);
    refused.says("`big` asks for a rank with the label highmem").says("no rank has a label");
    let refused = phalanx(&dir).args(["run", "job.toml", "--labels", "ssd"]).run().code(2);
    refused.says("the labels of the ranks are ssd").says("PHALANX_LABELS");
    phalanx(&dir).args(["run", "job.toml", "--labels", "a b"]).run().code(2).says("letters, digits");
    phalanx(&dir).args(["run", "job.toml", "--omit", "big"]).run().ok().says("24 completed");
    dir.job("bad.toml", "[[task]]\nname = 'a'\nlabels = 'so many'\ncommand = 'true'\n");
    phalanx(&dir).args(["check", "bad.toml"]).run().code(2).says("bad.toml:3:").says("no label of a rank");
    // Simulated nodes have the labels of their file; without one, those that the job asks for.
    phalanx(&dir).args(["simulate", "job.toml", "--ranks", "2"]).run().ok().says("36 completed");
    phalanx(&dir).args(["plan", "job.toml", "--ranks", "2"]).run().ok();
    dir.file("cluster.toml", "[[node]]\nname = 'small'\nslots = 2\nfirst = 2\n[[node]]\nname = 'big'\nslots = 2\nfirst = 1\nlabels = ['highmem']\n");
    let simulate = ["simulate", "job.toml", "--cluster", "cluster.toml", "--ranks", "3"];
    phalanx(&dir).args(simulate).run().ok().says("36 completed");
    dir.file("cluster.toml", "[[node]]\nslots = 2\n");
    phalanx(&dir).args(simulate).run().code(2).says("asks for a rank with the label highmem");
    // They gain a node with the label where a real run would.
    let kinds =
        "[[node]]\nname = 'small'\nslots = 2\n[[node]]\nname = 'big'\nslots = 2\nlabels = ['highmem']\ndelay = '30s'\n";
    dir.file("cluster.toml", kinds);
    let simulate = ["simulate", "job.toml", "--cluster", "cluster.toml", "--ranks", "1", "--policy", "fixed"];
    phalanx(&dir).args(simulate).run().code(2).says("asks for a rank with the label highmem");
    dir.job("gains.toml", &format!("[capacity]\nprovider = 'slurm'\n{JOB}"));
    for policy in ["fixed", "hybrid"] {
        let simulate = ["simulate", "gains.toml", "--cluster", "cluster.toml", "--ranks", "1", "--policy", policy];
        phalanx(&dir).args(simulate).run().ok().says("36 completed");
    }
}

#[test]
fn a_task_waits_for_a_node_that_has_its_label() {
    let dir = Dir::new("gained-label");
    let job = |labels: &str| {
        let capacity = format!("[capacity]\nprovider = 'local'\nlisten = '127.0.0.1'\nlabels = ['{labels}']\n");
        dir.job("job.toml", &format!("{capacity}{JOB}"));
        phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", labels]).run()
    };
    job("highmem").ok().says("a node with the label highmem is requested");
    let trace = Trace::of(&dir, "highmem");
    assert_eq!(trace.completed().len(), 36);
    assert!(trace.0.iter().filter(|row| row.name == "big").all(|row| row.rank == Some(1)));
    let refused = job("other").code(2).says("`big` asks for a rank with the label highmem");
    refused.says("those of the nodes that it can request other").says("`HOST # labels=highmem`");
    // Rank 0's own labels are not those of a node that it gains.
    dir.job("job.toml", &format!("[capacity]\nprovider = 'local'\nlisten = '127.0.0.1'\n{JOB}"));
    let run = phalanx(&dir).args(["run", "job.toml", "--coordinator-only"]);
    run.env("PHALANX_LABELS", "highmem").run().code(2).says("`big` asks for a rank with the label highmem");
}

#[test]
fn an_mpi_task_waits_for_as_many_nodes_with_its_label_as_it_needs() {
    let dir = Dir::new("gang-label");
    let job = |most: u32, labels: &str| {
        format!(
            "[capacity]\nprovider = 'local'\nlisten = '127.0.0.1'\nlabels = ['{labels}']\n\
             [scaling]\nmax_ranks = {most}\n\
             [[task]]\nname = 'first'\narray = '0-3'\ncommand = 'true'\n\
             [[task]]\nname = 'wide'\nneeds = 'first'\nmpi = {{ ranks = 2 }}\nlabels = ['highmem']\n\
             command = 'touch ran-$OMPI_COMM_WORLD_RANK'\n"
        )
    };
    dir.job("job.toml", &job(4, "highmem"));
    let run = phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "gains"]).run().ok();
    run.says("2 nodes with the label highmem are requested");
    let trace = Trace::of(&dir, "gains");
    assert_eq!(trace.completed().len(), 5);
    assert!(trace.0.iter().filter(|row| row.name == "wide").all(|row| row.rank > Some(0)), "rank 0 lacks the label");
    assert!(dir.has("ran-0") && dir.has("ran-1"));
    // The ranks that it may have are too few, or lack the label.
    for (most, labels, why) in
        [(1, "highmem", "may get at most 0 ranks beside"), (4, "other", "none has it: no rank has")]
    {
        dir.job("job.toml", &job(most, labels));
        phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).run().code(2).says("`wide`").says(why);
    }
    // A simulated run gains the nodes as well, and two present ranks with the label need no more.
    let node = |name: &str, first: u32, labels: &str| {
        format!("[[node]]\nname = '{name}'\nslots = 1\nfirst = {first}\ndelay = '30s'\n{labels}\n")
    };
    dir.job("job.toml", &job(4, "highmem"));
    let cluster =
        |first| dir.file("cluster.toml", &[node("a", 1, ""), node("b", first, "labels = ['highmem']")].concat());
    let command = |word, ranks| [word, "job.toml", "--cluster", "cluster.toml", "--ranks", ranks];
    cluster(0);
    let simulated = phalanx(&dir).args(command("simulate", "1")).args(["--policy", "fixed"]).run().ok();
    simulated.says("5 completed");
    cluster(2);
    phalanx(&dir).args(command("plan", "3")).run().ok();
    cluster(0);
    let few =
        phalanx(&dir).args(command("simulate", "1")).args(["--policy", "fixed", "--max-ranks", "2"]).run().code(2);
    few.says("`wide` needs 2 MPI ranks of 1 CPU with the label highmem").says("at most 1 rank beside");
    // Two ranks with the label and one without.
    let of_world = "[[task]]\nname = 'wide'\nmpi = { ranks = 2 }\nlabels = ['ssd']\ncommand = 'touch here'\n";
    dir.job("job.toml", of_world);
    labelled(&dir, "run job.toml --slots 1 --run-dir three").ok();
    assert_eq!(Trace::of(&dir, "three").0.iter().map(|row| row.rank).collect::<Vec<_>>(), [Some(0)]);
}

#[test]
fn an_added_task_waits_for_a_node_that_has_its_label() {
    let dir = Dir::new("added-label");
    dir.file("big.add", "[[task]]\nname = 'big'\nlabels = ['highmem']\ncommand = 'touch big'\n");
    dir.file("odd.add", "[[task]]\nname = 'odd'\nlabels = ['odd']\ncommand = 'true'\n");
    let capacity = "[capacity]\nprovider = 'local'\nlisten = '127.0.0.1'\nlabels = ['highmem']\n";
    let task = "[[task]]\nname = 'adds'\narray = '0-1'\ncommand = 'cat $(test {index} = 0 && echo big || echo odd).add > $PHALANX_ADD'\n";
    dir.job("job.toml", &format!("{capacity}{task}"));
    let run = phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "run"]).run().code(1);
    run.says("a node with the label highmem is requested").says("2 completed, 1 failed");
    phalanx(&dir).args(["report", "run", "--failed"]).run().says("`odd` asks for a rank with the label odd");
    assert!(dir.has("big"));
}

#[test]
fn labels_are_shown() {
    let dir = Dir::new("shown-labels");
    let topo = phalanx(&dir).args(["topo", "--json"]).env("PHALANX_LABELS", "ssd, highmem").run().ok().json();
    assert_eq!(topo["labels"], serde_json::json!(["highmem", "ssd"]));
    phalanx(&dir).args(["topo"]).run().ok().says("labels     none");
}
