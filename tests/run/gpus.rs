//! GPUs: each task gets its own, named as the launcher names them; the machine's are found and
//! measured through NVML.
//!
//! Test machines have no GPU, so NVML is played by a small library (`tests/gpus/nvml.c`) that
//! claims two. It is loaded and asked as the driver's would be; that a real driver answers likewise
//! is what it cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use crate::support::checker::{Row, Trace};
use crate::support::{Dir, mpirun, phalanx, repository};

/// Eight tasks that say which rank ran them, and which GPU was theirs. None ends before two run at
/// a time, so two GPUs are in use.
const WHICH: &str = r#"
    [[task]]
    name = "which"
    array = "0-7"
    gpus = 1
    command = "echo $PHALANX_RANK $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER >> seen; until [ $(wc -l < seen) -ge 2 ]; do sleep 0.05; done"
"#;

/// The GPUs that the tasks of each rank had.
fn seen(dir: &Dir) -> BTreeMap<String, BTreeSet<String>> {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in dir.read("seen").lines() {
        let (rank, gpu) = line.split_once(' ').expect("two words");
        seen.entry(rank.to_owned()).or_default().insert(gpu.trim().to_owned());
    }
    seen
}

/// A directory with a `libnvidia-ml.so.1` of our own.
fn driver(dir: &Dir) -> PathBuf {
    let folder = dir.path().join("driver");
    std::fs::create_dir(&folder).expect("a folder");
    let source = repository().join("tests/gpus/nvml.c");
    let mut gcc = Command::new("gcc");
    let built = gcc.args(["-shared", "-fPIC", "-o"]).arg(folder.join("libnvidia-ml.so.1")).arg(source);
    assert!(built.status().expect("gcc").success());
    folder
}

#[test]
fn tasks_get_the_gpus_of_their_rank_by_the_launchers_names() {
    let dir = Dir::new("gpus");
    dir.job("job.toml", WHICH);
    mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2"]).env("CUDA_VISIBLE_DEVICES", "5,7").run().ok();
    let seen = seen(&dir);
    for (rank, gpu) in [("0", "5"), ("1", "7")] {
        assert!(seen.get(rank).is_none_or(|gpus| gpus.iter().eq([gpu])), "{seen:?}");
    }
    assert_eq!(seen.len(), 2, "both ranks ran some");
}

#[test]
fn without_a_gpu_a_task_that_needs_one_is_refused() {
    let dir = Dir::new("no-gpu");
    dir.job("job.toml", WHICH);
    let run = phalanx(&dir).args(["run", "job.toml"]).env("CUDA_VISIBLE_DEVICES", "").run();
    run.code(2).says("which").says("0 GPUs");
}

#[test]
fn the_machines_gpus_are_found_and_what_they_do_is_measured() {
    let dir = Dir::new("driver");
    let driver = driver(&dir);
    let topo = phalanx(&dir).args(["topo"]).env("LD_LIBRARY_PATH", &driver).run().ok();
    topo.says("GPUs     0 Model T, 16.0 GiB").says("1 Model T, 16.0 GiB");
    dir.job("job.toml", &format!("{WHICH}\n[[task]]\nname = 'long'\ncommand = 'until test -s hot.jsonl; do sleep 0.05; done'\n[[alert]]\nname = 'hot'\nmetric = 'gpu'\nabove = 0.5\nfile = 'hot.jsonl'\n"));
    phalanx(&dir).args(["run", "job.toml", "--slots", "3"]).env("LD_LIBRARY_PATH", &driver).run().ok();
    let gpus: BTreeSet<String> = seen(&dir).remove("0").expect("rank 0 ran all");
    assert_eq!(gpus.iter().map(String::as_str).collect::<Vec<_>>(), ["0 PCI_BUS_ID", "1 PCI_BUS_ID"]);
    phalanx(&dir).args(["report", "latest"]).run().ok();
    phalanx(&dir).args(["trace", "latest", "-o", "trace.json"]).run().ok();
    assert!(dir.read("trace.json").contains("GPUs busy (%)"));
    let hot: serde_json::Value =
        serde_json::from_str(dir.read("hot.jsonl").lines().next().expect("an alert")).expect("JSON");
    assert_eq!(hot["value"], 0.625, "the mean of 50 and 75 %");
}

#[test]
fn an_mpi_task_has_memory_and_gpus_on_each_of_its_ranks() {
    let dir = Dir::new("gang-gpus");
    let job = |gpus: u32, memory: &str| {
        format!(
            "[[task]]\nname = 'one'\narray = '0-5'\ngpus = 1\ncommand = 'sleep 0.1'\n\
             [[task]]\nname = 'all'\narray = '0-1'\ngpus = {gpus}\nmemory = '{memory}'\nmpi = {{ ranks = 3 }}\n\
             command = 'echo $CUDA_VISIBLE_DEVICES $PHALANX_MEM_MB >> all; sleep 0.2'\n"
        )
    };
    let run = |name: &str| {
        let run = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "1", "--run-dir", name]);
        run.env("CUDA_VISIBLE_DEVICES", "5,7,9").run()
    };
    dir.job("job.toml", &job(3, "30M"));
    run("run").ok();
    let lines: Vec<String> = dir.read("all").lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 6, "three MPI ranks, twice: {lines:?}");
    for line in lines {
        let (gpus, memory) = line.split_once(' ').expect("two words");
        assert_eq!(gpus.split(',').collect::<BTreeSet<_>>(), ["5", "7", "9"].into(), "{line}");
        assert_eq!(memory, "30");
    }
    let gpus = |row: &Row| if row.name == "all" { 3 } else { 1 };
    assert!(Trace::of(&dir, "run").most_at_once(gpus) <= 3, "more GPUs in use than there are");
    // Four GPUs are not there, and so much memory is nowhere.
    dir.job("job.toml", &job(4, "30M"));
    run("few").code(2).says("3 MPI ranks of 1 CPU").says("4 GPUs together").says("at most 1 GPU per rank");
    dir.job("job.toml", &job(3, "900000G"));
    run("small").code(2).says("MiB of memory together").says("MiB of memory per rank");
}
