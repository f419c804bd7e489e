//! Commands: how they end, what they print, what they see, and that nothing stays behind.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::exec_support::{Job, Memory, Spec, bench, bench_with, once, seat, site};
use phalanx::exec::{Kernels, OutputSink, Runner, Stream, TaskStop};
use phalanx::model::{Outcome, State, TaskId, Usage, UsedFile};

fn ended(state: State, exit: i32) -> Outcome {
    Outcome { state, exit, cached: false }
}

fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|s| !s.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Waits for a condition that will come; a test that waits in vain fails.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exit_codes_and_signals_are_told() {
    assert_eq!(once(Spec::command(&["true"])).0, Outcome::OK);
    assert_eq!(once(Spec::shell("exit 3")).0, ended(State::Failed, 3));
    assert_eq!(once(Spec::shell("kill -SEGV $$")).0, ended(State::Failed, -11));
    assert_eq!(once(Spec::shell("kill -KILL $$")).0, ended(State::Failed, -9));
}

/// Asks everything to end as soon as a process has ended by itself, and keeps what tasks have used.
#[derive(Default)]
struct StopAfterProcess {
    runner: OnceLock<Weak<Runner>>,
    used: Mutex<Vec<UsedFile>>,
}

impl OutputSink for StopAfterProcess {
    fn append(&self, _: TaskId, _: u16, _: Stream, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn finish(&self, _: TaskId, _: u16, _: Outcome) -> io::Result<()> {
        Ok(())
    }

    fn account(&self, _: TaskId, _: u16, _: Usage) -> io::Result<()> {
        let runner = self.runner.get().and_then(Weak::upgrade);
        runner.expect("it runs").stop_all(TaskStop::Terminate);
        Ok(())
    }

    fn used_files(&self, _: TaskId, _: u16, files: &[UsedFile]) -> io::Result<()> {
        self.used.lock().unwrap().extend_from_slice(files);
        Ok(())
    }
}

#[test]
fn a_task_that_completes_while_it_is_asked_to_end_has_a_record_of_its_inputs() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), "").unwrap();
    let mut spec = Spec::shell("cat in").dir(dir.path());
    spec.task.inputs.push(("in".into(), None));
    let sink = Arc::new(StopAfterProcess::default());
    let runner = Runner::new(Arc::new(Job::new([spec])), Kernels::builtin(), site(), sink.clone()).unwrap();
    let runner = Arc::new(runner);
    sink.runner.set(Arc::downgrade(&runner)).unwrap();
    assert_eq!(runner.run(TaskId(0), &seat(0)), Outcome::OK);
    let used = sink.used.lock().unwrap();
    assert_eq!(used.iter().map(|file| file.path.clone()).collect::<Vec<_>>(), [Path::new("in")]);
}

#[test]
fn both_streams_are_kept_apart() {
    let (outcome, out, err) = once(Spec::shell("echo to out; echo to err >&2"));
    assert_eq!((outcome, &*out, &*err), (Outcome::OK, "to out\n", "to err\n"));
}

#[test]
fn arguments_are_not_seen_by_a_shell() {
    let (_, out, _) = once(Spec::command(&["printf", "%s|", "a b", "$HOME", "*", ""]));
    assert_eq!(out, "a b|$HOME|*||");
}

#[test]
fn output_larger_than_a_pipe_and_binary_is_complete() {
    let bench =
        bench(Job::new([Spec::shell("head -c 5000000 /dev/zero | tr '\\0' '\\377'; head -c 300000 /dev/zero >&2")]));
    assert_eq!(bench.run(0), Outcome::OK);
    let (out, err) = (bench.sink.bytes(0, Stream::Out), bench.sink.bytes(0, Stream::Err));
    assert!(out.len() == 5_000_000 && out.iter().all(|&b| b == 0xff));
    assert!(err.len() == 300_000 && err.iter().all(|&b| b == 0));
}

#[test]
fn output_is_seen_while_the_task_runs() {
    let bench = bench(Job::new([Spec::shell("echo first; exec sleep 600")]));
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        eventually("the first line", || bench.sink.out(0) == "first\n");
        assert_eq!(bench.runner.cancel(0..1), 1);
        assert_eq!(running.join().unwrap(), ended(State::Cancelled, -15));
    });
}

#[test]
fn a_process_in_the_background_is_not_waited_for() {
    // It holds both pipes, and continues to write to one of them.
    let line = "(while :; do echo noise; done) & echo $! > pid; echo done >&2";
    let dir = tempfile::tempdir().unwrap();
    let (outcome, _, err) = once(Spec::shell(line).dir(dir.path()));
    assert_eq!((outcome, &*err), (Outcome::OK, "done\n"));
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    // Its pipe has no reader any more, so it has ended by itself.
    eventually("its end", || !alive(&pid));
}

#[test]
fn a_time_limit_ends_a_task_that_ignores_term() {
    let dir = tempfile::tempdir().unwrap();
    // A grandchild in the group and one that has left it, both deaf.
    let line = "trap '' TERM; (trap '' TERM; sleep 600) & echo $! > a; setsid sh -c 'trap \"\" TERM; echo $$ > b; sleep 600' & wait; wait";
    let start = Instant::now();
    let (outcome, _, err) = once(Spec::shell(line).dir(dir.path()).time(Duration::from_secs(3)));
    assert_eq!(outcome, ended(State::Timeout, -9));
    assert!(start.elapsed() >= Duration::from_millis(3500), "limit and grace were waited for");
    assert!(err.contains("time limit of 3s"), "{err}");
    for file in ["a", "b"] {
        let pid = fs::read_to_string(dir.path().join(file)).unwrap();
        eventually("the end of what was killed", || !alive(&pid));
    }
}

#[test]
fn a_task_may_use_its_grace() {
    let line = "trap 'echo saved; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let mut site = site();
    site.grace = Duration::from_secs(120);
    let bench = bench_with(Job::new([Spec::shell(line)]), Kernels::builtin(), site);
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        eventually("its start", || bench.sink.out(0).starts_with("ready"));
        assert_eq!(bench.runner.cancel(0..1), 1);
        assert_eq!(running.join().unwrap(), ended(State::Cancelled, 7));
    });
    assert_eq!(bench.sink.out(0), "ready\nsaved\n");
}

#[test]
fn a_child_of_a_stopped_shell_may_use_the_grace_too() {
    // The shell dies of TERM at once; what it has started still gets to clean up.
    let line =
        "(trap 'sleep 0.1; echo cleaned > mark; exit' TERM; echo $$ > ready; while :; do sleep 0.02; done) & wait";
    let dir = tempfile::tempdir().unwrap();
    let mut site = site();
    site.grace = Duration::from_secs(120);
    let bench = bench_with(Job::new([Spec::shell(line).dir(dir.path())]), Kernels::builtin(), site);
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        eventually("its start", || dir.path().join("ready").exists());
        assert_eq!(bench.runner.cancel(0..1), 1);
        assert_eq!(running.join().unwrap(), ended(State::Cancelled, -15));
    });
    assert_eq!(fs::read_to_string(dir.path().join("mark")).unwrap(), "cleaned\n");
}

#[test]
fn stopping_all_ends_what_runs_and_what_comes() {
    let bench = bench(Job::new([
        Spec::shell("echo up; exec sleep 600"),
        Spec::shell("trap '' TERM; echo up; sleep 600"),
        Spec::shell("true"),
    ]));
    std::thread::scope(|s| {
        let running: Vec<_> = [0u16, 1]
            .map(|i| {
                s.spawn({
                    let runner = &bench.runner;
                    move || runner.run(TaskId(i.into()), &seat(i))
                })
            })
            .into();
        eventually("both to run", || bench.sink.out(0) == "up\n" && bench.sink.out(1) == "up\n");
        bench.runner.stop_all(TaskStop::Kill);
        for thread in running {
            assert_eq!(thread.join().unwrap(), ended(State::Cancelled, -9));
        }
    });
    assert_eq!(bench.run(2).state, State::Cancelled);
    assert_eq!(bench.runner.cancel(2..3), 0, "it does not run");
}

#[test]
fn a_terminate_may_be_followed_by_a_kill() {
    let mut site = site();
    site.grace = Duration::from_secs(3600);
    let bench = bench_with(
        Job::new([Spec::shell("trap '' TERM; echo up; while :; do sleep 0.02; done")]),
        Kernels::builtin(),
        site,
    );
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        eventually("its start", || bench.sink.out(0) == "up\n");
        bench.runner.stop_all(TaskStop::Terminate);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!running.is_finished());
        bench.runner.stop_all(TaskStop::Kill);
        assert_eq!(running.join().unwrap(), ended(State::Cancelled, -9));
    });
}

#[test]
fn memory_above_the_limit_is_out_of_memory() {
    // The hog is a grandchild, so its parent's size tells nothing.
    // It keeps what it has read until a reader takes it.
    let hog = "echo start; head -c 300000000 /dev/zero | tail -c 300000000 | sleep 600; echo not reached";
    let (outcome, out, err) = once(Spec::shell(hog).memory(64 << 20));
    assert_eq!(outcome.state, State::OutOfMemory, "{err}");
    assert_eq!(out, "start\n");
    assert!(err.contains("`memory` allows 64.0 MiB"), "{err}");
    assert_eq!(once(Spec::shell("sleep 0.1").memory(1 << 30)).0, Outcome::OK);
}

#[test]
fn what_is_missing_is_named() {
    let (outcome, _, err) = once(Spec::command(&["no-such-program-here", "x"]));
    assert_eq!(outcome, ended(State::Failed, 127));
    assert!(err.contains("program `no-such-program-here` not found in PATH"), "{err}");

    let (outcome, _, err) = once(Spec::command(&["./nothing"]));
    assert_eq!(outcome, ended(State::Failed, 127));
    assert!(err.contains("nothing not found"), "{err}");

    let (outcome, _, err) = once(Spec::command(&["true"]).dir("/no/such/dir"));
    assert_eq!(outcome, ended(State::Failed, 1));
    assert!(err.contains("cannot enter the task's directory /no/such/dir"), "{err}");

    let mut spec = Spec::command(&["cat"]);
    spec.task.stdin = Some("no-such-input".into());
    let (outcome, _, err) = once(spec);
    assert_eq!(outcome, ended(State::Failed, 1));
    assert!(err.contains("cannot read stdin from") && err.contains("no-such-input"), "{err}");

    let (outcome, _, err) = once(Spec::command(&["echo", "a\0b"]));
    assert_eq!(outcome, ended(State::Failed, 1));
    assert!(err.contains("NUL"), "{err}");
    assert_eq!(once(Spec::command(&[])).0, ended(State::Failed, 127));
}

#[test]
fn a_script_whose_interpreter_is_missing_says_which() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    for (first, text) in [
        ("#!/bin/sh\r\n", "interpreter `/bin/sh` is not found: convert it (dos2unix)"),
        ("#! /no/such/python3 -u\n", "the interpreter `/no/such/python3` in the first line of"),
    ] {
        fs::write(dir.path().join("script"), format!("{first}true\n")).unwrap();
        fs::set_permissions(dir.path().join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let (outcome, _, err) = once(Spec::command(&["./script"]).dir(dir.path()));
        assert_eq!(outcome, ended(State::Failed, 127));
        assert!(err.contains(text), "{err}");
    }
}

#[test]
fn a_program_that_cannot_be_run_is_126() {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, _, err) = once(Spec::command(&["/tmp"]).dir(dir.path()));
    assert_eq!(outcome, ended(State::Failed, 126));
    assert!(err.contains("/tmp is a directory"), "{err}");
    fs::write(dir.path().join("data"), "no program\n").unwrap();
    let (outcome, _, err) = once(Spec::command(&["./data"]).dir(dir.path()));
    assert_eq!(outcome, ended(State::Failed, 126));
    assert!(err.contains("chmod +x"), "{err}");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
    let (outcome, _, err) = once(Spec::command(&["./data"]).dir(dir.path()));
    assert_eq!(outcome, ended(State::Failed, 126));
    assert!(err.contains("#!"), "{err}");
}

#[test]
fn a_task_sees_what_it_should() {
    let mut spec = Spec::shell("env; ulimit -S -n > /dev/null; ls /proc/self/fd | wc -l");
    (spec.group.cpus, spec.group.memory) = (4, Some(1 << 30));
    let mut job = Job::new([spec.env("MINE", "task").env("OMP_NUM_THREADS", "9").env("PATH", "/usr/bin:/bin")]);
    job.env = vec![("MINE".to_owned(), "job".to_owned()), ("FROM_JOB".to_owned(), "a=b".to_owned())];
    let bench = bench(job);
    let cpus = [4, 5, 6, 9];
    let seat = phalanx::exec::ExecContext { cpus: &cpus, numa: Some(1), gpus: &[2, 0], attempt: 2, ..seat(1) };
    assert_eq!(bench.runner.run(TaskId(0), &seat), Outcome::OK);
    let out = bench.sink.out(0);
    let lines: Vec<&str> = out.lines().collect();
    let expected = [
        "PHALANX_JOB_ID=test-1",
        "PHALANX_TASK_ID=0",
        "PHALANX_TASK_NAME=t",
        "PHALANX_ATTEMPT=2",
        "PHALANX_RANK=3",
        "PHALANX_NODE=here",
        "PHALANX_CPUS=4",
        "PHALANX_CPU_LIST=4-6,9",
        "PHALANX_NUMA_NODE=1",
        "PHALANX_MEM_MB=1024",
        "OMP_PLACES={4},{5},{6},{9}",
        "CUDA_VISIBLE_DEVICES=2,0",
        "MINE=task",
        "FROM_JOB=a=b",
        "OMP_NUM_THREADS=9",
        "PATH=/usr/bin:/bin",
    ];
    for line in expected {
        assert!(lines.contains(&line), "{line} is missing in\n{out}");
    }
    let dir = format!("PHALANX_TASK_DIR={}", std::env::current_dir().unwrap().display());
    assert!(lines.contains(&&*dir));
    assert_eq!(lines.iter().filter(|l| l.starts_with("MINE=")).count(), 1, "each name once");
    // Its standard three, and the one that `ls` reads.
    assert_eq!(lines.last(), Some(&"4"), "{out}");
}

#[test]
fn a_task_starts_with_a_clean_slate_of_signals() {
    let (_, out, _) = once(Spec::shell("grep -E 'Sig(Blk|Ign)' /proc/self/status"));
    for line in out.lines() {
        let set = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        // The C library keeps signals 32 and 33 to itself.
        assert_eq!(set & !(0b11 << 31), 0, "{out}");
    }
    assert_eq!(out.lines().count(), 2);
    let (_, out, _) = once(Spec::shell("ps -o pid=,pgid= -p $$"));
    let numbers: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(numbers[0], numbers[1], "a process group of its own");
}

#[test]
fn files_stand_in_for_streams() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), "line\n").unwrap();
    let mut spec = Spec::shell("cat; echo oops >&2").dir(dir.path()).array(2);
    spec.task.stdin = Some("in".into());
    spec.task.stdout = Some("deep/er/%x-%a-%t.txt".into());
    spec.task.stderr = Some("deep/er/%x-%a-%t.txt".into());
    let bench = bench(Job::new([spec]));
    for _ in 0..2 {
        assert_eq!(bench.run(1), Outcome::OK);
        assert_eq!(fs::read_to_string(dir.path().join("deep/er/t-1-3.txt")).unwrap(), "line\noops\n");
    }
    assert_eq!((bench.sink.out(1), bench.sink.err(1)), (String::new(), String::new()));
    assert_eq!(once(Spec::command(&["cat"])).1, "", "without a file there is nothing to read");
}

#[test]
fn a_prologue_comes_first_and_its_failure_counts() {
    let mut job = Job::new([
        Spec::command(&["sh", "-c", "echo $FLAVOUR \"$1\"", "x", "a b"]),
        Spec::shell("hello; false; echo on"),
    ]);
    job.prologue = vec!["FLAVOUR=sweet; export FLAVOUR".to_owned(), "hello() { echo hi; }".to_owned()];
    let good = bench(job);
    assert_eq!((good.run(0), good.sink.out(0)), (Outcome::OK, "sweet a b\n".to_owned()));
    assert_eq!((good.run(1), good.sink.out(1)), (Outcome::OK, "hi\non\n".to_owned()));

    let mut job = Job::new([Spec::command(&["echo", "never"])]);
    job.prologue = vec!["exit 4".to_owned()];
    let bad = bench(job);
    assert_eq!((bad.run(0), bad.sink.out(0)), (ended(State::Failed, 4), String::new()));
}

#[test]
fn the_sink_is_told_how_an_attempt_that_printed_ended() {
    let bench = bench(Job::new([Spec::shell("echo fine"), Spec::shell("echo broken; exit 1")]));
    bench.run(0);
    bench.run(1);
    assert_eq!((bench.sink.out(0), bench.sink.out(1)), ("fine\n".to_owned(), "broken\n".to_owned()));
    let expected = vec![(TaskId(0), Outcome::OK), (TaskId(1), ended(State::Failed, 1))];
    assert_eq!(bench.sink.finished(), expected);
}

#[test]
fn output_that_cannot_be_kept_fails_the_task_but_does_not_hold_it_up() {
    struct Full;
    impl OutputSink for Full {
        fn append(&self, _: TaskId, _: u16, _: Stream, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn finish(&self, _: TaskId, _: u16, _: Outcome) -> io::Result<()> {
            Ok(())
        }
    }
    let job =
        Job::new([Spec::shell("head -c 1000000 /dev/zero; echo end > mark").dir(tempfile::tempdir().unwrap().keep())]);
    let runner = Runner::new(Arc::new(job), Kernels::builtin(), site(), Arc::new(Full)).unwrap();
    assert_eq!(runner.run(TaskId(0), &seat(0)), ended(State::Failed, 0));
}

#[test]
fn a_slot_or_task_that_is_not_there_is_an_error_and_no_panic() {
    let bench = bench(Job::new([Spec::shell("true")]));
    assert_eq!(bench.runner.run(TaskId(0), &seat(99)).state, State::Failed);
    assert!(bench.sink.err(0).contains("slot 99"));
}

#[test]
fn thousands_of_commands_leave_nothing_behind() {
    const EACH: u32 = 1000;
    let sink = Arc::new(Memory::default());
    let job = Job::new([Spec::command(&["/bin/true"]).array(2 * EACH), Spec::command(&["no-such-program"])]);
    let runner = Runner::new(Arc::new(job), Kernels::builtin(), site(), sink).unwrap();
    assert!(runner.run(TaskId(0), &seat(0)).ok());
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    std::thread::scope(|s| {
        for slot in 0..2u16 {
            let runner = &runner;
            s.spawn(move || {
                for i in 0..EACH {
                    assert_eq!(runner.run(TaskId(u32::from(slot) * EACH + i), &seat(slot)), Outcome::OK);
                    if i % 100 == 0 {
                        assert_eq!(runner.run(TaskId(2 * EACH), &seat(slot)).exit, 127);
                    }
                }
            });
        }
    });
    // Other tests of this process come and go; a leak would show by the thousand.
    assert!(fds() < 500, "{} descriptors are open", fds());
    let mut zombies = 0;
    eventually("no zombies", || {
        zombies = zombies_of(std::process::id());
        zombies < 20
    });
}

fn zombies_of(parent: u32) -> usize {
    let stats = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| fs::read_to_string(Path::new(&e.path()).join("stat")).ok());
    let zombie = |stat: &String| {
        let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
    };
    stats.filter(zombie).count()
}

/// Keeps what the runner tells beside what tasks print.
#[derive(Default)]
struct Told {
    used: std::sync::Mutex<Vec<phalanx::model::Usage>>,
    measured: std::sync::Mutex<Vec<(u32, u16, String, f64)>>,
}

impl OutputSink for Told {
    fn append(&self, _: TaskId, _: u16, _: Stream, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn finish(&self, _: TaskId, _: u16, _: Outcome) -> io::Result<()> {
        Ok(())
    }

    fn account(&self, _: TaskId, _: u16, used: phalanx::model::Usage) -> io::Result<()> {
        self.used.lock().unwrap().push(used);
        Ok(())
    }

    fn measure(&self, task: TaskId, attempt: u16, name: &str, value: f64) {
        self.measured.lock().unwrap().push((task.0, attempt, name.to_owned(), value));
    }
}

/// Linux counts our own memory as a child's until the child runs its program.
#[test]
fn the_memory_of_a_small_command_is_its_own() {
    const MIB: u64 = 1 << 20;
    let ours = std::hint::black_box(vec![1u8; 200 << 20]);
    let told = Arc::new(Told::default());
    // It holds its memory until there is no reader, long enough to be seen.
    let large = Spec::shell("dd if=/dev/zero bs=310000000 count=1 status=none 2>/dev/null | sleep 3; true");
    let job = Job::new([Spec::command(&["sleep", "1"]), large]);
    let runner = Runner::new(Arc::new(job), Kernels::builtin(), site(), told.clone()).unwrap();
    assert_eq!(runner.run(TaskId(0), &seat(0)), Outcome::OK);
    assert_eq!(runner.run(TaskId(1), &seat(0)), Outcome::OK);
    drop(ours);
    let used = told.used.lock().unwrap();
    assert!(used[0].peak_bytes > 0 && used[0].peak_bytes < 50 * MIB, "{used:?}");
    assert!(used[1].peak_bytes > 290 * MIB, "{used:?}");
}

#[test]
fn what_a_task_measures_is_told() {
    let told = Arc::new(Told::default());
    let job = Job::new([
        Spec::shell("echo loss 0.5 > \"$PHALANX_METRICS\"; echo steps 3 >> \"$PHALANX_METRICS\""),
        Spec::shell("true"),
    ]);
    let runner = Runner::new(Arc::new(job), Kernels::builtin(), site(), told.clone()).unwrap();
    for task in [0, 1, 0] {
        assert_eq!(runner.run(TaskId(task), &seat(0)), Outcome::OK);
    }
    let once = [(0, 1, "loss".to_owned(), 0.5), (0, 1, "steps".to_owned(), 3.0)];
    assert_eq!(*told.measured.lock().unwrap(), [once.clone(), once].concat());
}

#[test]
fn what_a_signal_to_the_whole_node_ends_has_not_failed() {
    let own = bench(Job::new([Spec::shell("kill -TERM $$"), Spec::shell("exit 143")]));
    assert_eq!([own.run(0), own.run(1)], [ended(State::Failed, -15), ended(State::Failed, 143)]);
    let line = |signal: &str| Spec::shell(&format!("kill -{signal} $$; sleep 600"));
    let bench = bench(Job::new([
        line("TERM"),
        Spec::shell("sh -c 'kill -TERM $$'; exit $?"),
        line("KILL"),
        Spec::shell("exit 1"),
    ]));
    std::thread::scope(|s| {
        // Either of the two may get it first.
        let running = s.spawn(|| bench.run(0));
        bench.runner.signalled(libc::SIGTERM);
        assert_eq!(running.join().unwrap(), ended(State::NodeFail, -15));
    });
    assert!(bench.sink.err(0).contains("a signal to this node"), "{}", bench.sink.err(0));
    assert_eq!(
        [1, 2, 3].map(|task| bench.run(task)),
        [ended(State::NodeFail, 143), ended(State::Failed, -9), ended(State::Failed, 1)]
    );
}

/// What the tasks of an array with `batch` print, and how they end, one after the other.
fn batched(spec: Spec, count: u32) -> Vec<(Outcome, String, String)> {
    let bench = bench(Job::new([spec.array(count)]));
    (0..count).map(|task| (bench.run(task), bench.sink.out(task), bench.sink.err(task))).collect()
}

#[test]
fn one_shell_runs_a_batch_and_each_task_is_its_own() {
    let line = "echo $$ $PHALANX_ARRAY_INDEX $PWD $kept; kept=1; export PHALANX_ARRAY_INDEX=9; cd /; exec 2>&1; \
                exit $((PHALANX_TASK_ID + 3))";
    let dir = tempfile::tempdir().unwrap();
    let ended_all = batched(Spec::shell(line).batch(2).dir(dir.path()), 5);
    let shells: Vec<String> = (0..)
        .zip(&ended_all)
        .map(|(task, (outcome, out, err))| {
            let (shell, rest) = out.split_once(' ').unwrap();
            assert_eq!((*outcome, &**err), (ended(State::Failed, task + 3), ""));
            assert_eq!(rest, format!("{task} {}\n", dir.path().canonicalize().unwrap().display()));
            shell.to_owned()
        })
        .collect();
    let is_same: Vec<bool> = shells.windows(2).map(|pair| pair[0] == pair[1]).collect();
    assert_eq!(is_same, [true, false, true, false], "{shells:?}");
}

#[test]
fn a_task_that_kills_the_shell_of_its_batch_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let line = "echo $PHALANX_ARRAY_INDEX >> ran; echo begun; \
                case $PHALANX_ARRAY_INDEX in 1) kill -KILL $$;; 2) kill -TERM 0;; 3) (;; esac; echo done";
    // The fourth is a mistake of syntax, which ends only the subshell that reads it.
    let line = line.replace("3) (;;", "3) eval '(';;");
    let ended_all = batched(Spec::shell(&line).batch(50).dir(dir.path()), 5);
    let outcomes: Vec<Outcome> = ended_all.iter().map(|end| end.0).collect();
    assert_eq!([outcomes[0], outcomes[4]], [Outcome::OK; 2]);
    assert_eq!([outcomes[1], outcomes[2]], [ended(State::Failed, -9), ended(State::Failed, -15)]);
    assert_eq!(outcomes[3], ended(State::Failed, 2));
    assert!(ended_all.iter().all(|end| end.1.starts_with("begun\n")), "{ended_all:?}");
    assert_eq!(fs::read_to_string(dir.path().join("ran")).unwrap(), "0\n1\n2\n3\n4\n");
}

#[test]
fn a_shell_that_died_between_two_tasks_is_replaced() {
    let bench = bench(Job::new([Spec::shell("echo $$").batch(50).array(3)]));
    assert_eq!(bench.run(0), Outcome::OK);
    let shell = bench.sink.out(0);
    assert!(std::process::Command::new("kill").args(["-KILL", shell.trim()]).status().unwrap().success());
    assert_eq!([bench.run(1), bench.run(2)], [Outcome::OK; 2]);
    assert!(bench.sink.out(1) != shell && bench.sink.out(1) == bench.sink.out(2));
}

#[test]
fn limits_and_stops_hold_for_each_task_of_a_batch() {
    let line = "echo $$; [ $PHALANX_ARRAY_INDEX = 1 ] && sleep 600; true";
    let spec = Spec::shell(line).batch(50).time(Duration::from_secs(2));
    let bench = bench(Job::new([spec.array(3)]));
    let outcomes: Vec<Outcome> = (0..3).map(|task| bench.run(task)).collect();
    assert_eq!(
        outcomes.iter().map(|end| end.state).collect::<Vec<_>>(),
        [State::Completed, State::Timeout, State::Completed]
    );
    assert!(bench.sink.err(1).contains("stopped at its time limit"));
    let line = "[ $PHALANX_ARRAY_INDEX = 0 ] && { sleep 600 & echo $!; wait; }; echo next";
    let bench = bench_of(line);
    std::thread::scope(|s| {
        let running = s.spawn(|| bench.run(0));
        eventually("the first line", || bench.sink.out(0).ends_with('\n'));
        assert_eq!(bench.runner.cancel(0..1), 1);
        assert_eq!(running.join().unwrap().state, State::Cancelled);
    });
    eventually("the end of its child", || !alive(&bench.sink.out(0)));
    assert_eq!((bench.run(1), &*bench.sink.out(1)), (Outcome::OK, "next\n"));
}

fn bench_of(line: &str) -> crate::exec_support::Bench {
    bench(Job::new([Spec::shell(line).batch(50).array(2)]))
}

#[test]
fn what_a_task_of_a_batch_leaves_running_is_ended_and_its_shell_goes_on() {
    let bench = bench_of("echo $$; sleep 600 & echo $!");
    assert_eq!([bench.run(0), bench.run(1)], [Outcome::OK; 2]);
    let out = [bench.sink.out(0), bench.sink.out(1)];
    let lines: Vec<&str> = out.iter().flat_map(|out| out.lines()).collect();
    assert_eq!(lines[0], lines[2], "the same shell");
    eventually("their ends", || !alive(lines[1]) && !alive(lines[3]));
}

#[test]
fn a_batch_has_the_prologue_the_options_and_the_streams_of_its_tasks() {
    let mut job = Job::new([Spec::shell("cat; greet; false; echo not reached").batch(9).array(2)]);
    job.prologue = vec!["set -e".into(), "greet() { echo hello; head -c 200000 /dev/zero >&2; }".into()];
    let bench = bench(job);
    for task in 0..2 {
        assert_eq!((bench.run(task), &*bench.sink.out(task)), (ended(State::Failed, 1), "hello\n"));
        assert_eq!(bench.sink.bytes(task, Stream::Err).len(), 200_000);
    }
    let dir = tempfile::tempdir().unwrap();
    let line = "[ $PHALANX_ARRAY_INDEX = 0 ] && rmdir $PWD";
    let ended_all = batched(Spec::shell(line).batch(9).dir(dir.path()), 2);
    let absent = dir.path().display().to_string();
    assert_eq!([ended_all[0].0, ended_all[1].0], [Outcome::OK, ended(State::Failed, 126)]);
    assert!(ended_all[1].2.contains(&absent), "{ended_all:?}");
}
