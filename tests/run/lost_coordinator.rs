//! Rank 0 is killed under `mpirun`: the other ranks start nothing more, and what has ended on them
//! is not done again, although rank 0 could not record it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::thread::sleep;
use std::time::Duration;

use crate::support::checker::Trace;
use crate::support::{Dir, Running, TestCommand, is_open_mpi, is_root, mpirun, program, send, skip_loudly, wait_for};

/// Eight chains. Each task says when it begins and when it ends, with its rank.
const CHAINS: &str = r#"
[[task]]
name = "segment"
matrix = { member = "0-7", part = "1-4" }
needs = "segment[{part}-1]"
command = """
echo start {member}-{part} $PHALANX_RANK >> log
sleep 0.1
echo end {member}-{part} $PHALANX_RANK >> log
"""
"#;

const TASKS: usize = 32;

/// Lines of the log: whether a task began or ended, the task, its rank.
fn log(dir: &Dir) -> Vec<(String, String, u32)> {
    let text = if dir.has("log") { dir.read("log") } else { String::new() };
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[0].to_owned(), words[1].to_owned(), words[2].parse().expect("a rank"))
    };
    text.lines().map(parse).collect()
}

fn count(dir: &Dir, word: &str) -> usize {
    log(dir).iter().filter(|line| line.0 == word).count()
}

/// Starts the job on ranks 0 to 2, with one slot each.
fn start(command: TestCommand) -> Running {
    command.args(["run", "job.toml", "--slots", "1", "--run-dir", "r"]).start()
}

fn resume(dir: &Dir) {
    mpirun(dir, 3).args(["run", "job.toml", "--slots", "1", "--run-dir", "r", "--resume"]).run().ok();
}

/// A number below this, another one at each call.
fn drawn(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

/// Kills rank 0 at a drawn moment and waits for the end of the others. Returns the tasks that must
/// not run again: those that had ended, but for those of ranks that were killed at once: the last
/// of these may not have been recorded.
fn kill_rank_zero(dir: &Dir, running: Running) -> HashSet<String> {
    let ends = 1 + drawn(TASKS as u64 * 2 / 3) as usize;
    wait_for("some tasks to end", 120, || (count(dir, "end") >= ends).then_some(()));
    sleep(Duration::from_millis(drawn(120)));
    send(running.ranks()[0], libc::SIGKILL);
    let output = running.wait_clean();
    assert_ne!(output.exit(), 0, "{output}");
    let before = log(dir);
    // MPICH kills the other ranks at once.
    let killed = if is_open_mpi() { 0..1 } else { 0..3 };
    let ended = before.into_iter().filter(|(word, _, rank)| word == "end" && !killed.contains(rank));
    ended.map(|line| line.1).collect()
}

/// Resumes the run and checks that none of these tasks runs again.
fn none_runs_again(dir: &Dir, ended: &HashSet<String>) {
    let before = log(dir).len();
    let listed = Trace::of(dir, "r").completed().len();
    assert!(listed >= ended.len(), "the views show {listed} of {} completed tasks", ended.len());
    resume(dir);
    let after = log(dir);
    for (word, task, rank) in &after[before..] {
        assert!(word == "end" || !ended.contains(task), "{task} had ended and began again on rank {rank}");
    }
    assert_eq!(Trace::of(dir, "r").completed().len(), TASKS);
    assert!(!dir.has("r/unreported"), "the resume has taken them over");
}

#[test]
fn what_ended_on_the_other_ranks_is_not_done_again() {
    // Where rank 0 runs tasks, too, and where it does not.
    for options in [&["--coordinator-only"][..], &[], &["--coordinator-only"], &[], &[]] {
        let dir = Dir::new("rank-zero-killed");
        dir.job("job.toml", CHAINS);
        let running = mpirun(&dir, 3).args(["run", "job.toml", "--slots", "1", "--run-dir", "r"]).args(options).start();
        let ended = kill_rank_zero(&dir, running);
        none_runs_again(&dir, &ended);
        // A second resume finds all of it in the journal.
        let lines = log(&dir).len();
        resume(&dir);
        assert_eq!(log(&dir).len(), lines);
    }
}

/// Tasks of which the first on each rank ends by itself, and the others when the test says so.
const GATED: &str = r#"
[[task]]
name = "step"
array = "0-29"
command = """
echo start {index} $PHALANX_RANK >> log
mkdir first-$PHALANX_RANK 2> /dev/null || until test -e go; do sleep 0.02; done
echo end {index} $PHALANX_RANK >> log
"""
"#;

/// Kills rank 0 while tasks of the others wait, and lets these end once both ranks have noticed.
fn nothing_starts_without_rank_zero(dir: &Dir, running: Running) {
    wait_for("every rank to have a second task", 120, || (count(dir, "start") >= 6).then_some(()));
    send(running.ranks()[0], libc::SIGKILL);
    let files = || if dir.has("r/unreported") { dir.list("r/unreported").len() } else { 0 };
    wait_for("the other ranks to notice", 120, || (files() == 2).then_some(()));
    let started = count(dir, "start");
    dir.file("go", "");
    running.wait_clean();
    assert_eq!(count(dir, "start"), started, "a task was started without rank 0");
}

#[test]
fn the_other_ranks_start_nothing_more() {
    if !is_open_mpi() {
        return skip_loudly("MPICH kills the other ranks at once");
    }
    let dir = Dir::new("nothing-more");
    dir.job("job.toml", GATED);
    nothing_starts_without_rank_zero(&dir, start(mpirun(&dir, 3)));
}

/// The ranks believe that each of them has a machine of its own.
fn apart(dir: &Dir) -> TestCommand {
    let line = format!(
        "cp /proc/sys/kernel/random/uuid boot-$OMPI_COMM_WORLD_RANK; \
         mount --bind boot-$OMPI_COMM_WORLD_RANK /proc/sys/kernel/random/boot_id && exec {} \"$@\"",
        program().display()
    );
    crate::support::launcher(dir, 3).args(["unshare", "--mount", "sh", "-c", &line, "sh"])
}

#[test]
fn ranks_of_other_machines_doubt_once_mpirun_signals_them() {
    if !is_open_mpi() || !is_root() {
        return skip_loudly("needs Open MPI, which warns the other ranks, and root, to feign machines");
    }
    let dir = Dir::new("apart");
    dir.job("job.toml", CHAINS);
    // Over TCP, Open MPI aborts a rank that sends to rank 0 before it is signalled.
    let running = start(apart(&dir).env("OMPI_MCA_btl", "self,vader"));
    let ended = kill_rank_zero(&dir, running);
    none_runs_again(&dir, &ended);
}

#[test]
fn a_signal_to_a_rank_whose_rank_zero_is_alive_ends_nothing() {
    if !is_open_mpi() || !is_root() {
        return skip_loudly("needs Open MPI and root, to feign machines");
    }
    for command in [apart as fn(&Dir) -> TestCommand, |dir| mpirun(dir, 3)] {
        let dir = Dir::new("signalled");
        dir.job("job.toml", CHAINS);
        let running = start(command(&dir));
        wait_for("a task to end", 120, || (count(&dir, "end") >= 1).then_some(()));
        let ranks = running.ranks();
        for signal in [libc::SIGCONT, libc::SIGTERM, libc::SIGTERM] {
            ranks[1..].iter().for_each(|&rank| send(rank, signal));
        }
        let output = running.wait_clean();
        assert_eq!(output.exit(), 0, "{output}");
        assert_eq!((count(&dir, "start"), Trace::of(&dir, "r").completed().len()), (TASKS, TASKS));
    }
}
