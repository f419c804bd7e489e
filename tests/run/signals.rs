//! Signals and the walltime: what still runs is treated as the signal asks, the exit code says why
//! the run ended, a resume does the rest, and no process is left behind.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::checker::Trace;
use crate::support::{Dir, Output, Running, mpirun, phalanx, send, wait_for};

/// Forty tasks that say that they began and that they ended, and do not end before the test says
/// that they may.
const STEPS: &str = r#"
[[task]]
name = "step"
array = "0-39"
command = "echo {index} >> began; until test -e go; do sleep 0.05; done; sleep 0.2; echo {index} >> ended"
"#;

/// Two tasks that take an hour unless they are ended, and one that waits for them.
const HOURS: &str = r#"
[[task]]
name = "hour"
array = "0-1"
command = "echo {index} >> began; sleep 3600"

[[task]]
name = "after"
needs = "hour"
command = "echo after >> began"
"#;

fn lines(dir: &Dir, file: &str) -> usize {
    if dir.has(file) { dir.read(file).lines().count() } else { 0 }
}

/// Starts a job on this number of ranks (0: alone) and waits until tasks run.
fn begin(dir: &Dir, ranks: u32, job: &str) -> Running {
    dir.job("job.toml", job);
    let command = if ranks == 0 { phalanx(dir) } else { mpirun(dir, ranks) };
    let running = command.args(["run", "job.toml", "--slots", "2"]).start();
    wait_for("two tasks to begin", 120, || (lines(dir, "began") >= 2).then_some(()));
    running
}

/// The rest is done by a resume, and nothing that had completed runs again.
#[track_caller]
fn resume(dir: &Dir, ranks: u32, tasks: usize) {
    let done = Trace::of(dir, "latest").completed();
    let before = lines(dir, "ended");
    let command = if ranks == 0 { phalanx(dir) } else { mpirun(dir, ranks) };
    command.args(["run", "job.toml", "--slots", "2", "--resume"]).run().ok();
    assert_eq!(Trace::of(dir, "latest").completed().len(), tasks);
    for line in dir.read("ended").lines().skip(before) {
        assert!(!done.contains(&format!("step[{line}]")), "step[{line}] had completed and ran again");
    }
}

/// Waits until a run has said that it has heard a signal.
#[track_caller]
fn heard(running: &Running, text: &str) {
    wait_for("the signal to be heard", 120, || running.stderr_so_far().contains(text).then_some(()));
}

#[track_caller]
fn ended(running: Running, code: i32) -> Output {
    let output = running.wait_clean();
    assert_eq!(output.exit(), code, "{output}");
    output
}

#[test]
fn one_interrupt_lets_running_tasks_end() {
    let dir = Dir::new("interrupt");
    let running = begin(&dir, 0, STEPS);
    running.signal(libc::SIGINT);
    heard(&running, "interrupt again");
    dir.file("go", "");
    ended(running, 130);
    assert_eq!(lines(&dir, "began"), lines(&dir, "ended"), "a running task was cut short");
    assert!(lines(&dir, "began") < 40, "nothing was left undone");
    resume(&dir, 0, 40);
}

#[test]
fn a_second_interrupt_ends_running_tasks() {
    let dir = Dir::new("interrupts");
    let mut running = begin(&dir, 0, HOURS);
    running.signal(libc::SIGINT);
    heard(&running, "interrupt again");
    assert!(running.is_running(), "one interrupt waits for running tasks");
    running.signal(libc::SIGINT);
    ended(running, 130);
    let trace = Trace::of(&dir, "latest");
    assert_eq!(trace.state("hour[0]"), "CANCELLED");
    assert_eq!(lines(&dir, "began"), 2, "the task that needs them was started");
}

#[test]
fn a_wide_task_that_collects_slots_holds_no_stop_up() {
    // The first slot falls free, takes up a wide task and waits for the second, which is busy when
    // the stop comes.
    let job = r#"
        [[task]]
        name = "narrow"
        array = "0-1"
        priority = 1
        command = "echo x >> began; until test {index} = 0 || test -e go; do sleep 0.05; done; echo x >> ended"

        [[task]]
        name = "wide"
        array = "0-9"
        cpus = 2
        command = "sleep 0.1"
    "#;
    for _ in 0..3 {
        let dir = Dir::new("collecting");
        let running = begin(&dir, 0, job);
        wait_for("the first slot to fall free", 120, || (lines(&dir, "ended") >= 1).then_some(()));
        running.signal(libc::SIGINT);
        heard(&running, "interrupt again");
        dir.file("go", "");
        ended(running, 130);
    }
}

#[test]
fn a_termination_ends_the_run_in_good_order() {
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let dir = Dir::new("terminate");
        let running = begin(&dir, 0, HOURS);
        running.signal(signal);
        ended(running, 4);
        assert_eq!(Trace::of(&dir, "latest").state("hour[1]"), "CANCELLED");
    }
}

#[test]
fn an_mpirun_that_is_ended_leaves_no_task_behind() {
    // It gives its ranks a second, however long a task may otherwise take to end. Here it gives
    // ten, since this machine may be slow.
    let stubborn = HOURS.replace("sleep 3600", "trap '' TERM; sleep 3600");
    let dir = Dir::new("mpirun-ended");
    dir.job("job.toml", &stubborn);
    let command = mpirun(&dir, 3).env("OMPI_MCA_odls_base_sigkill_timeout", "10");
    let running = command.args(["run", "job.toml", "--slots", "2"]).start();
    wait_for("two tasks to begin", 120, || (lines(&dir, "began") >= 2).then_some(()));
    running.signal(libc::SIGTERM);
    let output = running.wait_clean();
    assert_ne!(output.exit(), 0, "{output}");
    phalanx(&dir).args(["report", "latest"]).run().ok().says("WALLTIME");
    assert_eq!(Trace::of(&dir, "latest").state("hour[1]"), "CANCELLED");
}

#[test]
fn a_warning_to_mpirun_reaches_the_run() {
    let dir = Dir::new("warning");
    let running = begin(&dir, 3, STEPS);
    running.signal(libc::SIGUSR1);
    heard(&running, "no further task is started");
    dir.file("go", "");
    ended(running, 4);
    assert_eq!(lines(&dir, "began"), lines(&dir, "ended"), "a running task was cut short");
    resume(&dir, 3, 40);
}

#[test]
fn the_run_stops_before_its_allocation_ends() {
    let dir = Dir::new("walltime");
    dir.job("job.toml", HOURS);
    // Nothing is started in the last 10 s, and in the last 8 s what runs is ended. The rest is
    // there to begin in, if the machine is busy.
    let end = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 30;
    let command = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]);
    let running = command.env("SLURM_JOB_END_TIME", end.to_string()).start();
    ended(running, 4).says("the allocation ends soon");
    let trace = Trace::of(&dir, "latest");
    assert_eq!(trace.state("hour[0]"), "CANCELLED");
    phalanx(&dir).args(["report", "latest"]).run().ok().says("WALLTIME");
}

/// A kernel that never checks whether it must stop: the run cannot end in order.
const DEAF: &str = r#"
[[task]]
name = "deaf"
kernel = "compute_bound"
args = { iterations = 1000000000000000000 }
"#;

#[test]
fn a_third_interrupt_or_a_second_termination_ends_what_hangs() {
    for (signal, times, code) in [(libc::SIGINT, 3, 130), (libc::SIGTERM, 2, 143)] {
        let dir = Dir::new("hangs");
        dir.job("job.toml", DEAF);
        let running = phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--run-dir", "r"]).start();
        let status = || phalanx(&dir).args(["status", "r", "--json"]).run();
        let runs = || {
            serde_json::from_str::<serde_json::Value>(status().stdout())
                .is_ok_and(|status| status["tasks"]["running"] == 1)
        };
        wait_for("the task to run", 120, || runs().then_some(()));
        for time in 1..=times {
            running.signal(signal);
            let hears = |line: &&str| line.contains("interrupt again") || line.contains("the end is near");
            let said = || running.stderr_so_far().lines().filter(hears).count();
            if time < times {
                wait_for("the signal to be heard", 120, || (said() >= time).then_some(()));
            }
        }
        let output = ended(running, code);
        assert!(output.stderr().contains("ended at once"), "{output}");
    }
}

/// A world whose second rank is stopped does not answer: rank 0 does not wait for it for ever.
#[test]
fn a_rank_that_does_not_answer_does_not_keep_a_run_that_is_to_end() {
    let dir = Dir::new("stopped-rank");
    let running = begin(&dir, 2, HOURS);
    let ranks = running.ranks();
    send(ranks[1], libc::SIGSTOP);
    for text in ["interrupt again to stop", "interrupt again to kill", "killing"] {
        send(ranks[0], libc::SIGINT);
        heard(&running, text);
    }
    let output = running.wait();
    assert_ne!(output.exit(), 0, "{output}");
    assert!(output.stderr().contains("ended at once"), "{output}");
}
