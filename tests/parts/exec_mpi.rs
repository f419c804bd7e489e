//! MPI programs as tasks: as a plain command and as an MPI task, each from a process on its own and
//! from inside a world of ours.
//!
//! For the latter the test starts itself under `mpirun -n 2`; see `inside_a_world`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::exec_support::{self, Job, Spec, bench};
use crate::support::{self, test_name};
use phalanx::job::MpiShape;
use phalanx::model::{Outcome, State};

/// Set in the copies of this test that run under `mpirun`: the program that they are to run as
/// tasks.
const INSIDE: &str = "EXEC_MPI_INSIDE";

/// Compiles the small MPI program.
fn program(dir: &Path) -> PathBuf {
    let (source, binary) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mpi_programs/world.c"), dir.join("world"));
    let status = support::mpicc().arg("-o").arg(&binary).arg(&source).status().expect("mpicc starts");
    assert!(status.success(), "mpicc {}", source.display());
    binary
}

/// OpenMPI refuses to run as root by default; tests often do.
fn allow_root(mut job: Job) -> Job {
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        job.env.push((name.to_owned(), "1".to_owned()));
    }
    job
}

fn mpi(program: &str, ranks: u32, more: &[&str]) -> Spec {
    let size = ranks.to_string();
    let words: Vec<&str> = [program, &size].into_iter().chain(more.iter().copied()).collect();
    let mut spec = Spec::command(&words);
    spec.group.mpi = Some(MpiShape { ranks, per_node: None });
    spec
}

/// Runs the program as a plain command (a world of one) and as MPI tasks of two and three ranks.
fn run_both_ways(program: &str) {
    let job =
        Job::new([Spec::command(&[program, "1"]), mpi(program, 2, &[]), mpi(program, 3, &[]), mpi(program, 2, &[])]);
    let bench = bench(allow_root(job));
    for (task, size) in [(0, 1), (1, 2), (2, 3)] {
        let outcome = bench.run(task);
        let (out, err) = (bench.sink.out(task), bench.sink.err(task));
        assert_eq!(outcome, Outcome::OK, "task {task}: {out}{err}");
        for rank in 0..size {
            let line = format!("rank {rank} of {size} sum {} task {task} ", size * (size - 1) / 2);
            assert!(out.contains(&line), "{line} is missing in {out}");
        }
        assert_eq!(out.lines().count(), size);
    }
}

#[test]
fn from_a_process_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    run_both_ways(program(dir.path()).to_str().unwrap());
}

#[test]
fn from_inside_a_world() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let output = Command::new(support::mpirun_name())
        .args(["-n", "2"])
        .args(support::is_open_mpi().then_some("--oversubscribe"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test_name(module_path!(), "inside_a_world"), "--nocapture", "--test-threads=1"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env(INSIDE, &program)
        .output()
        .expect("mpirun starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("both ways ran").count(), 2, "{text}");
}

/// Does nothing unless it is started by `from_inside_a_world`.
#[test]
fn inside_a_world() {
    let Ok(program) = std::env::var(INSIDE) else { return };
    let universe = mpi::initialize().expect("MPI starts");
    assert_eq!(mpi::traits::Communicator::size(&universe.world()), 2);
    run_both_ways(&program);
    println!("both ways ran");
}

#[test]
fn a_failing_rank_fails_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let mut spec = mpi(program.to_str().unwrap(), 2, &[]);
    spec.task.work = phalanx::job::Work::Command(vec![program.display().to_string(), "5".to_owned()]);
    let bench = bench(allow_root(Job::new([spec])));
    assert_eq!(bench.run(0), Outcome { state: State::Failed, exit: 9, cached: false });
}

#[test]
fn a_stop_reaches_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let bench = bench(allow_root(Job::new([mpi(program.to_str().unwrap(), 2, &["wait"])])));
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        let start = Instant::now();
        while bench.sink.out(0).lines().count() < 2 {
            assert!(start.elapsed() < Duration::from_secs(120) && !running.is_finished(), "{}", bench.sink.err(0));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(bench.runner.cancel(0..1), 1);
        assert_eq!(running.join().unwrap().state, State::Cancelled);
    });
    // Hydra adds lines of its own about how the ranks ended.
    for line in bench.sink.out(0).lines().filter(|line| line.starts_with("rank ")) {
        let pid = line.rsplit(' ').next().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "rank {pid} has survived: {stat}");
    }
}

#[test]
fn a_missing_launcher_is_named() {
    let mut site = exec_support::site();
    site.mpirun = vec!["no-such-mpirun".to_owned()];
    let job = allow_root(Job::new([mpi("/bin/true", 2, &[])]));
    let bench = exec_support::bench_with(job, phalanx::exec::Kernels::builtin(), site);
    assert_eq!(bench.run(0), Outcome { state: State::Failed, exit: 127, cached: false });
    let err = bench.sink.err(0);
    assert!(err.contains("no-such-mpirun") && err.contains("PHALANX_MPIRUN"), "{err}");
}
