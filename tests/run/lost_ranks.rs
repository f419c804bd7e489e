//! Ranks that are killed in a world that survives it: Open MPI 5 under `mpirun --with-ft ulfm`.
//!
//! The program is the one that was built with the Open MPI of this machine; Open MPI 5 lies in
//! `target/openmpi5` (`.ci/deps openmpi5`) or where `PHALANX_OPENMPI5` says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use crate::support::checker::Trace;
use crate::support::{Dir, Running, openmpi5, phalanx, send, shell, wait_for};

/// With it a world survives lost ranks.
const SURVIVES: [&str; 2] = ["--with-ft", "ulfm"];

/// Commands, a chain of tasks without processes, operations on a graph that is divided among the
/// ranks, and an MPI task that no rank can hold alone.
const JOB: &str = r#"
[[graph]]
name = "web"
generate = { kind = "kron", scale = 9 }
divide = true

[[task]]
name = "command"
array = "0-23"
command = "sleep 0.15; echo {index} >> finished"

[[task]]
name = "chain"
pattern = "stencil_1d"
width = 6
steps = 40
kernel = "sleep"
args = { seconds = 0.01 }

[[task]]
name = "components"
graph = "web"
operation = "components"
output = "components.txt"

[[task]]
name = "rank"
graph = "web"
operation = "pagerank"
args = { iterations = 120, tolerance = 0 }
needs = "components"

[[task]]
name = "insert"
graph = "web"
operation = "insert_edges"
args = { edges = [[1, 2], [3, 400]] }
needs = "rank"

[[task]]
name = "after"
graph = "web"
operation = "bfs"
args = { source = 1 }
output = "after.txt"
needs = "insert"

[[task]]
name = "gang"
array = "0-1"
mpi = { ranks = 4 }
command = "sleep 0.3"
"#;

/// Number of runs in which ranks are killed, unless `PHALANX_LOST_ROUNDS` says another.
const ROUNDS: u32 = 6;

/// Commands, chain, operations and MPI tasks.
const TASKS: usize = 24 + 240 + 4 + 2;

fn seed() -> u64 {
    let given = std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(0..1 << 32))
}

/// Starts a job on this many ranks of two slots each, and waits until it has begun; `None` without
/// Open MPI 5.
fn start(dir: &Dir, ranks: u32, options: &[&str], job: &str) -> Option<Running> {
    dir.job("job.toml", job);
    let command = openmpi5(dir, ranks, options)?;
    let mut run = command.args(["run", "job.toml", "--slots", "2", "--run-dir", "run"]).patience(120).start();
    wait_for("the run to have begun", 120, || (dir.has("run/control") || !run.is_running()).then_some(()));
    Some(run)
}

/// Kills a rank that still lives.
fn kill(run: &Running, rank: u32) {
    let found = run.numbered_ranks().into_iter().find(|(number, _)| *number == rank);
    found.into_iter().for_each(|(_, pid)| send(pid, libc::SIGKILL));
}

/// Each task completed, and once. What did not complete ran on a rank that was killed, or on
/// several ranks.
#[track_caller]
fn check_tasks(trace: &Trace, killed: &[u32], tasks: usize) {
    let mut completed: HashMap<String, u32> = HashMap::new();
    for row in &trace.0 {
        let is_of_killed = row.rank.is_some_and(|rank| killed.contains(&rank));
        match row.state.as_str() {
            "COMPLETED" => *completed.entry(row.task()).or_default() += 1,
            "NODE_FAIL" if is_of_killed || !["command", "chain"].contains(&&*row.name) => {}
            _ => panic!("{row:?}"),
        }
    }
    completed.iter().for_each(|(task, times)| assert_eq!(*times, 1, "{task}"));
    assert_eq!(completed.len(), tasks);
}

/// Kills one or two ranks at drawn moments of a run that does all kinds of work. Every fourth run
/// has its ranks reach each other by TCP alone, as those of several nodes do.
fn kill_at_drawn_moments(seed: u64, round: u32, whole: &Dir) {
    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(round));
    let ranks = rng.u32(3..5);
    // Each rank in turn; of four ranks sometimes two.
    let first = 1 + round / 2 % (ranks - 1);
    let second = Some(1 + first % (ranks - 1)).filter(|_| ranks == 4 && rng.bool());
    let pauses = [rng.u64(0..2500), rng.u64(0..300)].map(Duration::from_millis);
    let is_far = round % 4 == 3;
    println!(
        "PHALANX_SEED={seed}, round {round}: of {ranks} ranks {first}, {second:?} after {pauses:?}, far: {is_far}"
    );
    let dir = Dir::new("lost");
    let mut options: Vec<String> = SURVIVES.map(str::to_owned).into();
    if is_far {
        let preload = format!("LD_PRELOAD={}", whole.path().join("far.so").display());
        options.extend(["-x", &preload, "--mca", "btl", "tcp,self"].map(str::to_owned));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let Some(mut run) = start(&dir, ranks, &options, JOB) else { return };
    let mut killed = Vec::new();
    for (rank, pause) in [Some(first), second].into_iter().flatten().zip(pauses) {
        std::thread::sleep(pause);
        if run.is_running() {
            kill(&run, rank);
            killed.push(rank);
        }
    }
    let output = run.wait_clean().ok();
    check_tasks(&Trace::of(&dir, "run"), &killed, TASKS);
    assert_eq!(dir.read("components.txt"), whole.read("components.txt"), "{output}");
    assert_eq!(dir.read("after.txt"), whole.read("after.txt"), "{output}");
}

#[test]
fn whenever_a_rank_is_killed_the_run_goes_on() {
    let whole = Dir::new("whole");
    whole.job("job.toml", JOB);
    if openmpi5(&whole, 1, &[]).is_none() {
        return;
    }
    phalanx(&whole).args(["run", "job.toml", "--slots", "4"]).run().ok();
    // Ranks that cannot make shared memory.
    whole.file(
        "far.c",
        "#include <errno.h>\nint memfd_create(const char *n, unsigned f) { errno = ENOSYS; return -1; }\n",
    );
    shell(&whole, "cc -shared -fPIC -o far.so far.c").run().ok();
    let (seed, next) = (seed(), AtomicU32::new(0));
    let chosen = std::env::var("PHALANX_LOST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let last = chosen.unwrap_or(ROUNDS);
    let rounds = || {
        while let Some(round) = Some(next.fetch_add(1, SeqCst)).filter(|round| *round < last) {
            kill_at_drawn_moments(seed, round, &whole);
        }
    };
    std::thread::scope(|scope| [0; 2].map(|_| scope.spawn(rounds)).map(|rounds| rounds.join().is_ok()))
        .iter()
        .for_each(|went_well| assert!(went_well, "PHALANX_SEED={seed} repeats this"));
}

/// Ranks that cannot make shared memory, so they connect by TCP. The connection of ranks A and B
/// breaks at the next use once there is a file `cut-A-B`.
const CUT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int peers[4096];

int memfd_create(const char *name, unsigned flags) { errno = ENOSYS; return -1; }

/* A connection begins with the numbers of job and rank, and this word. */
ssize_t recv(int fd, void *to, size_t size, int flags) {
    ssize_t (*next)(int, void *, size_t, int) = dlsym(RTLD_NEXT, "recv");
    ssize_t got = next(fd, to, size, flags);
    if (got >= 20 && fd < 4096 && !memcmp((char *)to + 8, "OPAL-TCP-BTL", 12))
        peers[fd] = 1 + ((int *)to)[1];
    return got;
}

static int is_cut(int fd) {
    const char *text = getenv("OMPI_COMM_WORLD_RANK");
    if (fd >= 4096 || !peers[fd] || !text) return 0;
    int me = atoi(text), peer = peers[fd] - 1;
    char name[64];
    snprintf(name, sizeof name, "cut-%d-%d", me < peer ? me : peer, me < peer ? peer : me);
    if (access(name, F_OK)) return 0;
    shutdown(fd, SHUT_RDWR);
    errno = ECONNRESET;
    return 1;
}

/* Ranks of the same node tell each other whom they take for failed; those of several nodes do not. */
int PMIx_Notify_event(int status, const void *source, unsigned char range, const void *about, size_t count,
                      void (*done)(int, void *), void *data) {
    if (done) done(0, data);
    return 0;
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
    ssize_t (*next)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "readv");
    return is_cut(fd) ? -1 : next(fd, parts, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t (*next)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    return is_cut(fd) ? -1 : next(fd, parts, count);
}
"#;

/// One of two ranks that live and lose each other leaves, and kills what it runs.
#[test]
fn ranks_whose_connection_breaks_hang_no_run() {
    for pair in ["1-2", "0-2"] {
        let dir = Dir::new("cut");
        dir.file("cut.c", CUT);
        shell(&dir, "cc -shared -fPIC -o cut.so cut.c -ldl").run().ok();
        let preload = format!("LD_PRELOAD={}", dir.path().join("cut.so").display());
        let options = [SURVIVES[0], SURVIVES[1], "-x", &preload, "--mca", "btl", "tcp,self"];
        let Some(run) = start(&dir, 3, &options, JOB) else { return };
        dir.file(&format!("cut-{pair}"), "");
        // The exit code is that of the rank that leaves, and mpirun may drop what rank 0 says last.
        run.wait_clean().says("is lost").says("what ran here is ended");
        phalanx(&dir).args(["report", "run"]).run().ok().says("COMPLETED").says("270 completed");
        check_tasks(&Trace::of(&dir, "run"), &[1, 2], TASKS);
    }
}

/// A task on each slot that ends when the test says so.
const HELD: &str = "[[task]]\nname = 'command'\narray = '0-5'\n\
    command = 'echo >> began-$PHALANX_RANK; until test -e end; do sleep 0.05; done'\n";

/// Waits until each of three ranks runs two of these tasks, for long enough that rank 0 was told.
fn wait_until_told(dir: &Dir) {
    let began =
        |rank: u32| dir.has(&format!("began-{rank}")) && dir.read(&format!("began-{rank}")).lines().count() == 2;
    wait_for("all slots to be in use", 120, || (0..3).all(began).then_some(()));
    let told = || phalanx(dir).args(["status", "run", "--json"]).run().json()["running"].as_array().map(Vec::len);
    wait_for("rank 0 to be told", 120, || (told() >= Some(6)).then_some(()));
}

#[test]
fn a_lost_rank_costs_what_it_ran_and_the_report_names_it() {
    let dir = Dir::new("held");
    let failing = format!("{HELD}[[task]]\nname = 'bad'\nneeds = 'command'\ncommand = 'exit 3'\n");
    let Some(run) = start(&dir, 3, &SURVIVES, &failing) else { return };
    wait_until_told(&dir);
    kill(&run, 2);
    wait_for("the loss", 120, || run.stderr_so_far().contains("rank 2 is lost").then_some(()));
    dir.file("end", "");
    run.wait_clean().code(1);
    let trace = Trace::of(&dir, "run");
    let lost: Vec<_> = trace.0.iter().filter(|row| row.state == "NODE_FAIL").collect();
    assert!(lost.len() == 2 && lost.iter().all(|row| row.rank == Some(2)), "{:?}", trace.0);
    for row in lost {
        let again = trace.last(&row.task());
        assert!(again.state == "COMPLETED" && again.attempt == row.attempt + 1 && again.rank < Some(2), "{again:?}");
    }
    assert_eq!((trace.completed().len(), trace.state("bad")), (6, "FAILED"));
    phalanx(&dir).args(["report", "run"]).run().ok().says("rank 2 is lost");
}

#[test]
fn without_rank_0_the_others_end_what_they_run() {
    let dir = Dir::new("headless");
    let Some(run) = start(&dir, 3, &SURVIVES, HELD) else { return };
    wait_until_told(&dir);
    kill(&run, 0);
    let output = run.wait_clean();
    assert_ne!(output.exit(), 0);
    output.says("the coordinator is gone");
    dir.file("end", "");
    phalanx(&dir).args(["run", "job.toml", "--resume", "--run-dir", "run"]).run().ok();
    assert_eq!(Trace::of(&dir, "run").completed().len(), 6);
}

/// Where the others do not survive, the message says how they would.
#[test]
fn a_world_that_does_not_survive_says_what_to_add() {
    let dir = Dir::new("fatal");
    let Some(run) = start(&dir, 3, &[], HELD) else { return };
    wait_until_told(&dir);
    kill(&run, 1);
    let output = run.wait_clean();
    assert_ne!(output.exit(), 0);
    output.says("rank 1 has ended").says("--resume").says("--with-ft ulfm");
    // The variable alone changes nothing.
    let by_hand = ["-x", "OMPI_MCA_mpi_ft_enable=1"];
    for (options, survives) in [(&SURVIVES[..], true), (&by_hand, false), (&[], false)] {
        let Some(topo) = openmpi5(&dir, 1, options) else { return };
        let shown = topo.args(["topo", "--json"]).run().ok().json();
        assert_eq!(shown["mpi"]["survives_lost_ranks"], survives, "{shown}");
    }
}

/// Open MPI 5 runs what was built with 4.1, whether lost ranks are survived or not, and its tasks
/// see nothing of it.
#[test]
fn open_mpi_5_runs_every_task_once() {
    for options in [&SURVIVES[..], &[]] {
        let dir = Dir::new("clean");
        let env = "[[task]]\nname = 'env'\narray = '0-5'\nstdout = 'env-{index}'\ncommand = 'env; sleep 0.2'\n";
        let Some(run) = start(&dir, 3, options, &format!("{JOB}{env}")) else { return };
        run.wait_clean().ok();
        let trace = Trace::of(&dir, "run");
        check_tasks(&trace, &[], TASKS + 6);
        assert_eq!(trace.ranks().len(), 3);
        for index in 0..6 {
            let text = dir.read(&format!("env-{index}"));
            let leaks = |line: &&str| ["OMPI_", "PMIX_", "PMI_", "PRTE_"].iter().any(|start| line.starts_with(start));
            // Where the library lies, and what the tests set.
            let known = |line: &&str| line.contains("_PREFIX=") || line.contains("RUN_AS_ROOT");
            let leaks: Vec<&str> = text.lines().filter(leaks).filter(|line| !known(line)).collect();
            assert!(leaks.is_empty(), "{leaks:#?}");
        }
    }
}
