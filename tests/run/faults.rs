//! What users of other tools ran into: each kind of fault, with the real program.

use std::time::Duration;

use crate::support::checker::Trace;
use crate::support::{Dir, Output, Running, mpirun, phalanx, send, shell, skip_loudly, wait_for};

/// Runs a job that is written to `job.toml`, with further arguments.
fn run(dir: &Dir, toml: &str, args: &[&str]) -> Output {
    dir.job("job.toml", toml);
    phalanx(dir).args(["run", "job.toml"]).args(args).run()
}

fn report(dir: &Dir, args: &[&str]) -> Output {
    phalanx(dir).args(["report", "latest"]).args(args).run().ok()
}

/// Runs a line of shell on a terminal of its own.
fn on_terminal(dir: &Dir, line: &str) -> Output {
    shell(dir, &format!("script -qec \"{line}\" /dev/null")).run()
}

#[test]
fn diagnostics_that_nobody_can_read_end_no_run() {
    // The run begins with a warning, as nothing fills `{absent}`.
    let job = "[[task]]\nname = 'reader'\nenv = { WORD = '{absent}' }\ncommand = 'echo ran >> finished'\n";
    let sinks = [
        "2>/dev/full",
        "2>&-",
        ">&- 2>&-",
        ">/dev/full 2>/dev/full",
        "2>&1 >/dev/null | true",
        "--log-format json 2>/dev/full",
        "-vvv 2>/dev/full",
    ];
    for (times, sink) in (1..).zip(sinks) {
        let dir = Dir::new("diagnostics");
        dir.job("job.toml", job);
        shell(&dir, &format!("phalanx run job.toml {sink}")).run();
        assert_eq!(dir.read("finished"), "ran\n", "{sink}");
        assert_eq!(Trace::of(&dir, "latest").state("reader"), "COMPLETED", "{times}: {sink}");
    }
}

#[test]
fn a_reader_of_diagnostics_that_does_not_read_holds_nothing_up() {
    let dir = Dir::new("unread");
    dir.job("job.toml", "[[task]]\nname = 'many'\narray = '0-199'\ncommand = 'true'\n");
    // Far more lines than a pipe holds; whoever has its other end only waits for the run.
    shell(&dir, "{ phalanx -vvv run job.toml --slots 2; echo $? > code; } 2>&1 >/dev/null | until test -e code; do sleep 0.1; done")
        .run()
        .ok();
    assert_eq!(dir.read("code"), "0\n");
    assert_eq!(Trace::of(&dir, "latest").completed().len(), 200);
}

#[test]
fn a_signal_that_cannot_be_told_of_still_ends_the_run_well() {
    let dir = Dir::new("untold");
    dir.job("job.toml", "[[task]]\nname = 'long'\narray = '0-1'\ncommand = 'echo {index} >> began; until test -e go; do sleep 0.05; done; echo {index} >> finished'\n[[task]]\nname = 'next'\nneeds = 'long'\ncommand = 'true'\n");
    let running = shell(&dir, "exec phalanx run job.toml --slots 2 2>/dev/full").start();
    wait_for("two tasks to begin", 120, || (dir.has("began") && dir.read("began").lines().count() == 2).then_some(()));
    running.signal(libc::SIGUSR1);
    std::thread::sleep(Duration::from_millis(300));
    dir.file("go", "");
    assert_eq!(running.wait_clean().exit(), 4);
    let trace = Trace::of(&dir, "latest");
    assert_eq!((trace.state("long[0]"), trace.state("long[1]")), ("COMPLETED", "COMPLETED"));
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok();
    assert_eq!(dir.read("finished").lines().count(), 2, "what had completed ran again");
}

/// A job with one task, which uses the FIFO `fifo`, and one that is fine.
fn with_fifo(dir: &Dir, task: &str) {
    shell(dir, "mkfifo fifo").run().ok();
    dir.job("job.toml", &format!("[[task]]\nname = 'stuck'\n{task}\n[[task]]\nname = 'fine'\ncommand = 'true'\n"));
}

#[test]
fn a_time_limit_holds_in_each_phase_of_an_attempt() {
    for (phase, task) in [
        ("stdin", "stdin = 'fifo'\ncommand = 'cat'"),
        ("stdout", "stdout = 'fifo'\ncommand = 'echo x'"),
        ("stderr", "stderr = 'fifo'\ncommand = 'echo x'"),
        ("kernel", "stdout = 'fifo'\nkernel = 'sleep'\nargs = { seconds = 0 }"),
        ("running", "command = 'cat fifo'"),
        ("ignoring", "command = \"trap '' TERM; cat fifo\""),
        ("prologue of mpirun", "mpi = { ranks = 1 }\ncommand = ['true']"),
    ] {
        let dir = Dir::new("phase");
        with_fifo(&dir, &format!("time = '1s'\n{task}"));
        if phase.starts_with("prologue") {
            let job = dir.read("job.toml");
            let fine = job.find("[[task]]\nname = 'fine'").expect("the second task");
            dir.job("job.toml", &format!("[job]\nprologue = 'read x < fifo'\n{}", &job[..fine]));
        }
        let output = phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).start().wait_clean();
        assert_eq!(output.exit(), 1, "{phase}: {output}");
        let trace = Trace::of(&dir, "latest");
        assert_eq!(trace.state("stuck"), "TIMEOUT", "{phase}");
        if !phase.starts_with("prologue") {
            assert_eq!(trace.state("fine"), "COMPLETED", "{phase}: its slot was not free again");
        }
    }
}

#[test]
fn signals_and_cancellation_hold_while_files_are_opened() {
    for task in ["stdin = 'fifo'\ncommand = 'cat'", "stdout = 'fifo'\ncommand = 'echo x'"] {
        for signals in [&[libc::SIGTERM][..], &[libc::SIGINT, libc::SIGINT], &[]] {
            let dir = Dir::new("opening");
            with_fifo(&dir, task);
            let running = phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).start();
            wait_for("the run to answer", 120, || {
                let status = phalanx(&dir).args(["status", "latest"]).run();
                (status.exit() == 0 && status.stdout().contains("1 of 2 completed")).then_some(())
            });
            if signals.is_empty() {
                phalanx(&dir).args(["cancel", "latest", "stuck"]).run().ok();
            }
            for &signal in signals {
                running.signal(signal);
                // One that comes while the one before is pending is not counted.
                std::thread::sleep(Duration::from_millis(300));
            }
            running.wait_clean();
            assert_eq!(Trace::of(&dir, "latest").state("stuck"), "CANCELLED", "{task}, {signals:?}");
        }
    }
}

/// Runs a line of shell where `dead-3`, `dead-4` and so on are mounts whose servers never answer:
/// FUSE file systems without a server. `None` where the system refuses such mounts.
fn beside_dead_mounts(dir: &Dir, count: usize, line: &str) -> Option<Output> {
    let mounts = (3..).take(count).map(|fd| {
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
        format!(
            "mkdir -p dead-{fd}; exec {fd}<>/dev/fuse && mount -i -n -t fuse -o {options} dead dead-{fd} || exit 77; "
        )
    });
    let script = mounts.collect::<String>() + line;
    let output = shell(dir, &format!("unshare -m sh -c '{script}' || exit $?")).run();
    if output.exit() == 77 {
        skip_loudly("the system refuses to mount FUSE");
        return None;
    }
    Some(output)
}

#[test]
fn a_dead_mount_holds_up_only_what_uses_it() {
    // Each with a mount of its own: a process that waits behind another one within a file system
    // is one that no KILL reaches.
    let uses = [
        ("stdin", "stdin = 'dead-3/x'\ncommand = 'cat'"),
        ("stdout", "stdout = 'dead-4/x'\ncommand = 'echo x'"),
        ("dir", "dir = 'dead-5/x'\ncommand = 'true'"),
        ("program", "command = ['dead-6/x']"),
        ("path", "env = { PATH = 'dead-7' }\ncommand = ['x']"),
        ("reads", "command = 'cat dead-8/x'"),
        ("outputs", "outputs = ['dead-9/x']\ncommand = 'true'"),
    ];
    let tasks = uses.map(|(name, task)| format!("[[task]]\nname = '{name}'\ntime = '1s'\n{task}\n"));
    let fine = "[[task]]\nname = 'fine'\narray = '0-7'\ncommand = 'true'\n";
    let dir = Dir::new("dead-mount");
    dir.job("job.toml", &format!("{}{fine}", tasks.concat()));
    let Some(output) = beside_dead_mounts(&dir, 7, "phalanx run job.toml --slots 2") else { return };
    assert_eq!(output.exit(), 1, "{output}");
    let trace = Trace::of(&dir, "latest");
    for (name, _) in uses {
        assert_eq!(trace.state(name), "TIMEOUT", "{name}: {output}");
    }
    assert_eq!(trace.completed().len(), 8, "{output}");
}

#[test]
fn files_on_a_dead_mount_are_not_waited_for_by_the_run() {
    let dir = Dir::new("dead-files");
    let job = |exit| {
        format!(
            "[[task]]\nname = 'makes'\noutputs = ['dead-3/out']\ncommand = 'echo made >> count; touch dead-3/out'\n[[task]]\nname = 'uses'\nneeds = 'makes'\ninputs = ['dead-4/in']\ncommand = 'exit {exit}'\n"
        )
    };
    shell(&dir, "mkdir dead-3").run().ok();
    run(&dir, &job(1), &[]).code(1);
    dir.job("job.toml", &job(0));
    let Some(output) = beside_dead_mounts(&dir, 2, "phalanx run job.toml --resume") else { return };
    assert!(output.exit() == 0 && output.stderr().contains("dead-4/in gives no answer within 5s"), "{output}");
    assert!(output.stderr().contains("are taken to be there"), "{output}");
    assert_eq!(dir.read("count"), "made\n");
}

#[test]
fn two_tasks_talk_through_a_fifo() {
    let dir = Dir::new("fifo");
    shell(&dir, "mkfifo fifo").run().ok();
    let job = "[[task]]\nname = 'from'\nstdout = 'fifo'\ncommand = 'echo through'\n[[task]]\nname = 'to'\nstdin = 'fifo'\nstdout = 'got'\ncommand = 'cat'\n";
    run(&dir, job, &["--slots", "2"]).ok();
    assert_eq!(dir.read("got"), "through\n");
}

#[test]
fn a_task_has_no_terminal() {
    let dir = Dir::new("terminal");
    let job = "[[task]]\nname = 'asks'\ncommand = 'head -1 /dev/tty'\n[[task]]\nname = 'sets'\ncommand = 'stty -echo < /dev/tty'\n[[task]]\nname = 'stdin'\nstdin = '/dev/tty'\ncommand = 'head -1'\n";
    dir.job("job.toml", job);
    on_terminal(&dir, "phalanx run job.toml").code(1);
    let trace = Trace::of(&dir, "latest");
    assert_eq!(["asks", "sets", "stdin"].map(|task| trace.state(task).to_owned()), ["FAILED"; 3]);
}

#[test]
fn a_run_in_the_background_of_a_terminal_is_not_stopped_by_writing_there() {
    let dir = Dir::new("background");
    let job = "[[task]]\nname = 'a'\ncommand = 'echo x > began; sleep 3600'\n";
    dir.job("job.toml", job);
    // With a job control of its own the shell puts it into the background, where `tostop` stops
    // whoever writes.
    dir.file(
        "background",
        "stty tostop; set -m; phalanx run job.toml --slots 1 & echo $! > pid; wait $!; echo $? > code",
    );
    let shell = shell(&dir, "script -qec 'sh background' /dev/null").start();
    wait_for("a task to begin", 120, || dir.has("began").then_some(()));
    send(dir.read("pid").trim().parse().expect("a process"), libc::SIGTERM);
    wait_for("the run to end", 120, || (dir.has("code") && !dir.read("code").is_empty()).then_some(()));
    assert_eq!(dir.read("code").trim(), "4");
    shell.wait_clean();
}

#[test]
fn signals_that_were_ignored_stay_ignored() {
    let job = "[[task]]\nname = 'a'\narray = '0-1'\ncommand = 'grep SigIgn /proc/self/status >> masks; echo x >> began; until test -e go; do sleep 0.05; done'\n[[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'true'\n";
    let pipe = 1u64 << (libc::SIGPIPE - 1);
    for (ignored, signal) in [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("TERM", libc::SIGTERM),
        ("USR1", libc::SIGUSR1),
        ("PIPE", libc::SIGPIPE),
    ] {
        let dir = Dir::new("ignored");
        dir.job("job.toml", job);
        let line = format!("trap '' {ignored}; exec phalanx run job.toml --slots 2");
        let mut running: Running = shell(&dir, &line).start();
        wait_for("tasks to begin", 120, || (dir.has("began") && dir.read("began").lines().count() == 2).then_some(()));
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(300));
        assert!(running.is_running(), "{ignored}");
        dir.file("go", "");
        running.wait_clean().ok();
        let bit = 1u64 << (signal - 1);
        for line in dir.read("masks").lines() {
            let mask = line.split_whitespace().next_back().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            // Rust ignores SIGPIPE, which is for Phalanx alone.
            assert_eq!(mask.map(|mask| mask & (bit | pipe)), Some(bit), "only {ignored} is ignored in a task");
        }
    }
}

#[test]
fn options_of_the_prologue_hold_for_the_command() {
    let dir = Dir::new("options");
    let job = |prologue: &str, line: &str| {
        format!("[job]\nshell = 'bash'\nprologue = {prologue}\n[[task]]\nname = 's'\ncommand = '''{line}'''\n")
    };
    for (prologue, line, code) in [
        ("['set -e']", "false\ntrue", 1),
        ("['set -eu', 'set -o pipefail']", "false | true\ntrue", 1),
        ("['set -u']", "echo $unset_variable; true", 1),
        ("['set -o pipefail']", "false | true", 1),
        ("['shopt -s failglob']", "echo /absent/*; exit 0", 1),
        // Strictness that the prologue did not ask for is its own.
        ("['true']", "false\ntrue", 0),
        ("['set -e', 'set +e']", "false\ntrue", 0),
        ("['false']", "true", 1),
        ("'''\nif true; then\n  set -e\nfi\n'''", "false\ntrue", 1),
    ] {
        run(&dir, &job(prologue, line), &[]).code(code);
    }
}

#[test]
fn the_shell_is_a_choice() {
    let dir = Dir::new("shell");
    let task = |extra: &str| {
        format!("[[task]]\nname = 't'\n{extra}\nstdout = 'out'\ncommand = 'echo ${{BASH_VERSION:+bash}}'\n")
    };
    for (job, expected) in [
        (format!("[job]\nshell = 'bash'\n{}", task("")), "bash\n"),
        (format!("[defaults]\nshell = ['bash', '-c']\n{}", task("")), "bash\n"),
        (task("shell = ['bash', '-euo', 'pipefail', '-c']"), "bash\n"),
        (format!("[job]\nshell = 'bash'\n{}", task("shell = 'dash'")), "\n"),
    ] {
        run(&dir, &job, &[]).ok();
        assert_eq!(dir.read("out"), expected, "{job}");
    }
    let strict = "[[task]]\nname = 't'\nshell = ['bash', '-euo', 'pipefail', '-c']\ncommand = \"false | true\"\n";
    run(&dir, strict, &[]).code(1);
    let python = "[job]\nprologue = 'export WORD=hello'\n[[task]]\nname = 't'\nstdout = 'out'\nshell = ['python3', '-c']\ncommand = 'import os; print(os.environ[\"WORD\"])'\n";
    run(&dir, python, &[]).ok();
    assert_eq!(dir.read("out"), "hello\n");
    for (bad, remedy) in
        [("'bash -c'", "[\"bash\", \"-c\"]"), ("['bash']", "\"-c\""), ("''", "name one"), ("7", "shell")]
    {
        run(&dir, &task(&format!("shell = {bad}")), &[]).code(2).says(remedy);
    }
}

#[test]
fn check_warns_of_what_sh_does_not_understand() {
    if std::fs::canonicalize("/bin/sh").is_ok_and(|sh| sh.ends_with("bash")) {
        return;
    }
    let dir = Dir::new("dialect");
    let job = "[[task]]\nname = 'a'\ncommand = 'make &> log'\n[[task]]\nname = 'b'\ncommand = '[[ 1 == 1 ]] && source x'\n[[task]]\nname = 'c'\nshell = 'bash'\ncommand = 'make |& tee log'\n[[task]]\nname = 'd'\ncommand = \"echo '{1..3} <( $x'\"\n";
    dir.job("job.toml", job);
    let output = phalanx(&dir).args(["check", "job.toml"]).run().ok();
    for text in ["`&>`", "`[[`", "`source`", "shell = \"bash\"", "job.toml:3"] {
        assert!(output.stderr().contains(text), "{text} is missing\n{output}");
    }
    for text in ["|&", "{1..3}", "<("] {
        assert!(!output.stderr().contains(text), "{text}\n{output}");
    }
    let job = "[[task]]\nname = 'lines'\ncommand = '{line}'\n[task.matrix]\nline = ['true', 'make |& tee log', 'cat <<< x']\n";
    dir.job("job.toml", job);
    phalanx(&dir).args(["check", "job.toml"]).run().ok().says("`|&`, `<<<`");
}

#[test]
fn a_failure_shows_what_it_wrote_to_either_stream() {
    let dir = Dir::new("streams");
    let job = "[[task]]\nname = 'fortran'\ncommand = 'echo no convergence; exit 1'\n[[task]]\nname = 'both'\ncommand = 'echo out-line; echo err-line >&2; exit 1'\n[[task]]\nname = 'own'\nstdout = 'own.log'\ncommand = 'echo own-line; exit 1'\n[[task]]\nname = 'long'\ncommand = 'echo hidden; seq 50 >&2; exit 1'\n";
    let output = run(&dir, job, &[]).code(1);
    let failed = report(&dir, &["--failed"]);
    phalanx(&dir).args(["report", "latest", "--html", "page.html"]).run().ok();
    for text in [output.stdout(), failed.stdout(), &dir.read("page.html")] {
        for line in ["no convergence", "out-line", "err-line", "own-line"] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("hidden\n"), "{text}");
    }
}

#[test]
fn line_ends_of_windows_do_not_reach_the_shell() {
    let dir = Dir::new("crlf");
    let job = "[job]\nprologue = '''\ncd .\nx=1\n'''\n[[task]]\nname = \"a\"\nstdout = 'out'\ncommand = \"\"\"\ncd sub\nif true; then\n  echo \"$x\"\nfi\nprintf 'a\\\\r\\\\n'\n\"\"\"\n";
    dir.file("sub/here", "");
    run(&dir, &job.replace('\n', "\r\n"), &[]).ok();
    assert_eq!(dir.read("out"), "1\na\r\n");
    let output = phalanx(&dir).args(["check", "job.toml"]).run().ok();
    assert_eq!(output.stderr().matches("CR LF").count(), 1, "{output}");
}

#[test]
fn long_lines_and_variables_reach_the_shell() {
    let dir = Dir::new("long");
    let long = " p1234".repeat(30_000);
    let job = format!(
        "[job]\nprologue = 'hello() {{ echo hi; }}'\n[[task]]\nname = 'line'\nstdout = 'line'\ncommand = 'hello; echo{long} | wc -w'\n\
         [[task]]\nname = 'variable'\nstdout = 'variable'\nenv = {{ LONG = \"it's{long}\" }}\ncommand = 'echo \"$LONG\" | wc -w'\n\
         [[task]]\nname = 'ranks'\nstdout = 'ranks'\nmpi = {{ ranks = 1 }}\ncommand = 'echo{long} | wc -w'\n"
    );
    run(&dir, &job, &[]).ok();
    assert_eq!(dir.read("line").split_whitespace().collect::<Vec<_>>(), ["hi", "30000"]);
    assert_eq!(dir.read("variable").trim(), "30001");
    assert_eq!(dir.read("ranks").trim(), "30000");
    assert!(!shell(&dir, "ls phalanx-runs/*").run().stdout().contains("script"), "a script is left behind");
    for task in [
        format!("command = ['echo', '{long}']"),
        format!("command = ['echo']\nenv = {{ LONG = '{long}' }}"),
        format!("shell = ['perl', '-e']\ncommand = '{long}'"),
    ] {
        dir.job("never.toml", &format!("[[task]]\nname = 'never'\n{task}\n"));
        phalanx(&dir).args(["check", "never.toml"]).run().code(2).says("`never` can never start");
    }
}

#[test]
fn a_declared_output_is_a_promise() {
    let dir = Dir::new("promise");
    let job = "[[task]]\nname = 'broken'\narray = '0-1'\noutputs = ['made-{index}', 'sub/missing-{index}']\ncommand = 'touch made-{index}'\n[[task]]\nname = 'kept'\noutputs = ['there', { file = 'perhaps', optional = true }]\ncommand = 'touch there'\n[[task]]\nname = 'after'\nneeds = 'broken'\ncommand = 'true'\n";
    run(&dir, job, &[]).code(1).says("did not write its output sub/missing-0");
    let trace = Trace::of(&dir, "latest");
    assert_eq!(["broken[1]", "kept", "after"].map(|task| trace.state(task)), ["FAILED", "COMPLETED", "SKIPPED"]);
}

#[test]
fn the_directories_of_declared_outputs_are_made() {
    let dir = Dir::new("places");
    let job = "[[task]]\nname = 'deep'\narray = '0-1'\ncommand = 'echo {index} > out/{index}/x'\noutputs = 'out/{index}/x'\n\
               [[task]]\nname = 'staged'\nstage = 'node'\ninputs = 'out/1/x'\noutputs = 'new/copy'\ncommand = 'cp out/1/x new/copy'\n";
    run(&dir, job, &[]).ok();
    assert_eq!([dir.read("out/0/x"), dir.read("new/copy")], ["0\n", "1\n"]);
    dir.file("file", "");
    let job = "[[task]]\nname = 'no'\ncommand = 'echo x > file/x'\noutputs = 'file/x'\n";
    run(&dir, job, &[]).code(1).says("file/x");
}

#[test]
fn a_failed_prologue_is_named() {
    let dir = Dir::new("prologue");
    let job = "[job]\nprologue = ['echo loading', 'test -e ready']\n\
               [[task]]\nname = 'line'\ncommand = 'exit 3'\n[[task]]\nname = 'words'\ncommand = ['sh', '-c', 'exit 3']\n\
               [[task]]\nname = 'many'\narray = '0-1'\nbatch = 2\ncommand = 'exit 3'\n";
    let named = "a line of `prologue` failed, so the command did not start";
    run(&dir, job, &[]).code(1).says(named).says("    standard error:\n");
    for task in ["line", "words", "many[1]"] {
        report(&dir, &["--task", task]).says(named).says("loading");
    }
    dir.file("ready", "");
    let out = run(&dir, job, &[]).code(1);
    assert!(!out.stdout().contains("of `prologue`"), "{out}");
    let words = report(&dir, &["--task", "words"]).says("exit 3");
    assert!(!words.stdout().contains("of `prologue`"), "{words}");
}

#[test]
fn a_missing_input_fails_its_task_before_the_command_starts() {
    let dir = Dir::new("missing-input");
    let job = "[[task]]\nname = 'make'\narray = '1-2'\noutputs = 'made/{index}'\n\
               command = 'mkdir -p made; touch made/{index}'\n\
               [[task]]\nname = 'drops'\nneeds = 'make'\ncommand = 'rm made/2'\n\
               [[task]]\nname = 'uses'\nneeds = 'drops'\ninputs = 'made/2'\ncommand = 'echo uses >> ran'\n\
               [[task]]\nname = 'alone'\ninputs = ['nowhere.txt', { file = 'perhaps', optional = true }]\n\
               command = 'echo alone >> ran'\n\
               [[task]]\nname = 'fine'\ninputs = [{ file = 'perhaps', optional = true }]\ncommand = 'echo fine >> ran'\n";
    let out = run(&dir, job, &[]).code(1);
    assert_eq!(dir.read("ran"), "fine\n");
    out.says("did not start: its input made/2 is missing, which make[2] should have written");
    let trace = Trace::of(&dir, "latest");
    assert_eq!(["uses", "alone", "fine"].map(|task| trace.state(task)), ["FAILED", "FAILED", "COMPLETED"]);
    let alone = report(&dir, &["--task", "alone"]);
    alone.says("did not start: its input nowhere.txt is missing, and no task writes it");
    for args in [&["check", "job.toml"][..], &["run", "job.toml", "--dry-run"]] {
        let said = phalanx(&dir).args(args).run().ok();
        assert!(said.stderr().contains("nowhere.txt does not exist, and no task writes it"), "{said}");
        assert!(!said.stderr().contains("perhaps does not exist"), "{said}");
    }
    dir.file("nowhere.txt", "");
    // What is missing is made again, and nothing removes it now.
    run(&dir, job, &["--resume"]).ok();
    assert!(["alone\n", "uses\n"].iter().all(|line| dir.read("ran").contains(line)), "{}", dir.read("ran"));
}

#[test]
fn a_run_directory_that_cannot_be_written_ends_the_run_before_the_graph_is_burnt() {
    for ranks in [0, 2] {
        let dir = Dir::new("lost");
        let job = "[[task]]\nname = 'big'\ncommand = 'head -c 80000000 /dev/zero'\n[[task]]\nname = 'many'\narray = '0-30'\nneeds = 'afterany:big'\ncommand = 'echo x >> ran'\n";
        dir.job("job.toml", job);
        // No file may grow beyond 64 MiB; the error comes to whoever writes, as from a full disk.
        let launch = if ranks == 0 { String::new() } else { format!("mpirun --oversubscribe -n {ranks} ") };
        let line = format!("{launch}sh -c \"ulimit -f 131072; exec phalanx run job.toml --slots 1\"");
        let output = shell(&dir, &line).run();
        assert_eq!(output.exit(), 1, "{output}");
        assert!(output.stderr().contains("cannot write to the run directory any more"), "{output}");
        assert!(output.stdout().contains("--resume"), "{output}");
        let trace = Trace::of(&dir, "latest");
        let big = trace.last("big");
        assert!(big.state == "FAILED" && big.reason.contains("its output could not be kept"), "{big:?}");
        let started = if dir.has("ran") { dir.read("ran").lines().count() } else { 0 };
        assert!(started <= ranks, "{started} tasks were started for nothing");
        report(&dir, &["--task", "big"]).says("reason: its output could not be kept");
        report(&dir, &["--failed"]).says("reason: its output could not be kept");
        let json = report(&dir, &["--json"]).json();
        let reason = json["failures"][0]["reason"].as_str();
        assert!(reason.is_some_and(|text| text.contains("could not be kept")), "{json}");
        phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok();
        assert_eq!(Trace::of(&dir, "latest").completed().len(), 32);
    }
}

#[test]
fn a_run_whose_directory_is_removed_starts_nothing_more_and_says_so() {
    let dir = Dir::new("removed");
    let job = "[[task]]\nname = 'clean'\ncommand = 'rm -rf run'\n[[task]]\nname = 'many'\narray = '0-30'\nneeds = 'afterany:clean'\ncommand = 'echo x >> ran; sleep 0.5'\n";
    let output = run(&dir, job, &["--slots", "1", "--run-dir", "run"]);
    assert_eq!(output.exit(), 1, "{output}");
    assert!(output.stderr().contains("was removed"), "{output}");
    let started = if dir.has("ran") { dir.read("ran").lines().count() } else { 0 };
    assert!(started < 31, "{started} tasks were started for nothing");
}

#[test]
fn failures_that_phalanx_made_have_a_reason() {
    let dir = Dir::new("reasons");
    let job = "[[task]]\nname = 'absent'\ncommand = ['no-such-program']\n[[task]]\nname = 'dir'\ndir = 'no/such'\ncommand = ['true']\n[[task]]\nname = 'stdin'\nstdin = 'no-such-file'\ncommand = 'cat'\n[[task]]\nname = 'late'\ntime = '300ms'\ncommand = 'sleep 600'\n[[task]]\nname = 'promise'\noutputs = 'never, written'\ncommand = 'true'\n[[task]]\nname = 'own'\ncommand = 'exit 7'\n";
    run(&dir, job, &[]).code(1);
    let trace = Trace::of(&dir, "latest");
    for (task, text) in [
        ("absent", "not found in PATH"),
        ("dir", "cannot enter the task's directory"),
        ("stdin", "no-such-file"),
        ("late", "time limit"),
        ("promise", "never, written"),
    ] {
        assert!(trace.last(task).reason.contains(text), "{:?}", trace.last(task));
    }
    assert_eq!(trace.last("own").reason, "");
}

#[test]
fn the_failure_that_reaches_the_bound_is_the_last_thing_that_is_waited_for() {
    let job = |most: u32| {
        format!("[job]\nmax_failures = {most}\n[[task]]\nname = 'f'\narray = '0-199'\ncommand = 'exit 1'\n")
    };
    for (most, slots) in [(1, 1), (1, 2), (5, 2), (3, 4)] {
        let dir = Dir::new("bound");
        run(&dir, &job(most), &["--slots", &slots.to_string()]).code(1).says("max_failures");
        let failed = Trace::of(&dir, "latest").0.iter().filter(|row| row.state == "FAILED").count() as u32;
        assert!((most..most + slots).contains(&failed), "{failed} tasks failed, of {most} that may, on {slots} slots");
    }
}

#[test]
fn other_ranks_stop_within_a_message_of_the_last_failure_allowed() {
    let dir = Dir::new("bound-ranks");
    // One task fails once the other rank runs one, too; that one goes on until the run has said
    // that it stops.
    let job = "[job]\nmax_failures = 1\n[[task]]\nname = 'f'\narray = '0-19'\ncommand = 'echo x >> began; if mkdir first 2> /dev/null; then until test $(wc -l < began) = 2; do sleep 0.02; done; exit 1; fi; until test -e go; do sleep 0.02; done'\n";
    dir.job("job.toml", job);
    let running = mpirun(&dir, 2).args(["run", "job.toml", "--slots", "1"]).start();
    wait_for("the bound to be told of", 120, || running.stderr_so_far().contains("max_failures").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    dir.file("go", "");
    assert_eq!(running.wait_clean().exit(), 1);
    assert_eq!(dir.read("began").lines().count(), 2, "a task was started after the bound was reached");
}

#[test]
fn an_output_that_is_gone_is_made_again_if_it_is_needed() {
    let dir = Dir::new("gone");
    // Tasks note that they ran; the one that uses `made` fails until `go` is there.
    let job = "[[task]]\nname = 'make'\noutputs = 'made'\ncommand = 'echo make >> log; touch made'\n[[task]]\nname = 'used'\nneeds = 'make'\noutputs = 'other'\ncommand = 'echo used >> log; touch other'\n[[task]]\nname = 'use'\ninputs = 'made'\ncommand = 'echo use >> log; test -e go && test -e made'\n";
    run(&dir, job, &[]).code(1);
    shell(&dir, "rm made other log; touch go").run().ok();
    let resume = |args: &[&str]| phalanx(&dir).args(["run", "job.toml", "--slots", "1", "--resume"]).args(args).run();
    resume(&[]).ok();
    let ran = |log: String| {
        let mut ran: Vec<String> = log.lines().map(str::to_owned).collect();
        ran.sort_unstable();
        ran
    };
    assert_eq!(ran(dir.read("log")), ["make", "use", "used"], "what nothing needs is made again, too");
    shell(&dir, "rm made log").run().ok();
    resume(&[]).ok();
    assert!(!dir.has("log"), "nobody needs it any more");

    resume(&["--rerun", "used"]).ok();
    assert_eq!(dir.read("log"), "make\nused\n", "its output is gone, and `used` needs it");
    shell(&dir, "rm log").run().ok();
    resume(&["--rerun", "use", "--rerun", "used"]).ok();
    assert_eq!(ran(dir.read("log")), ["use", "used"]);
    shell(&dir, "rm log").run().ok();
    resume(&["--rerun", "make"]).ok();
    assert_eq!(dir.read("log").lines().count(), 3, "and what needs it");

    resume(&["--rerun", "mak"]).code(2).says("did you mean `make`?");
    resume(&["--rerun", "make[3]"]).code(2).says("neither an array");
    run(&dir, job, &["--rerun", "make"]).code(2).says("--resume");
}

/// Processes with these numbers that live.
fn living(dir: &Dir, file: &str) -> Vec<u32> {
    let pids = dir.read(file).lines().filter_map(|line| line.trim().parse().ok()).collect::<Vec<u32>>();
    let is_alive =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    pids.into_iter().filter(is_alive).collect()
}

#[test]
fn what_a_task_leaves_behind_is_ended_with_it() {
    let dir = Dir::new("left");
    dir.file("note", "echo $$ >> pids; exec sleep 600");
    dir.file("deaf", "trap '' TERM; echo $$ >> pids; while :; do sleep 1; done");
    let ways = [
        ("child", "sh note & until test -e pids; do sleep 0.05; done"),
        ("session", "setsid sh note & until test -e pids; do sleep 0.05; done"),
        ("twice", "(setsid sh -c 'sh note & sleep 0.1' &); until test -e pids; do sleep 0.05; done; sleep 0.3"),
        ("nameless", "env -i setsid sh note & until test -e pids; do sleep 0.05; done"),
        ("deaf", "setsid sh deaf & until test -e pids; do sleep 0.05; done"),
        ("failing", "sh note & until test -e pids; do sleep 0.05; done; exit 3"),
    ];
    for (name, line) in ways {
        shell(&dir, "rm -f pids").run().ok();
        // The task after it looks whether anything of the one before is left: its slot is free only
        // then.
        let look = "for pid in $(cat pids); do if grep -qv ') Z ' /proc/$pid/stat; then exit 1; fi; done";
        let job = format!(
            "[[task]]\nname = 'leaves'\ncommand = '''{line}'''\n[[task]]\nname = 'look'\nneeds = 'afterany:leaves'\ncommand = '''{look}'''\n"
        );
        dir.job("job.toml", &job);
        phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).start().wait_clean();
        assert!(!dir.read("pids").is_empty(), "{name}");
        assert_eq!(living(&dir, "pids"), [0u32; 0], "{name}");
        assert_eq!(Trace::of(&dir, "latest").state("look"), "COMPLETED", "{name}");
    }
}

#[test]
fn what_other_tasks_run_is_left_alone_and_background_may_be_kept() {
    let dir = Dir::new("keep");
    dir.file("orphan", "touch on; until test -e go; do sleep 0.1; done; touch done");
    // `long` has an orphan of its own while many short tasks end.
    let job = "[[task]]\nname = 'long'\npriority = 1\ncommand = '(setsid sh orphan &); until test -e done; do sleep 0.1; done'\n[[task]]\nname = 'short'\narray = '0-20'\ncommand = 'until test -e on; do sleep 0.1; done; sleep 600 &'\n[[task]]\nname = 'go'\nneeds = 'short'\ncommand = 'touch go'\n";
    run(&dir, job, &["--slots", "2"]).ok();
    let job = "[[task]]\nname = 'server'\nbackground = 'keep'\ncommand = 'sleep 600 & echo $! > kept'\n[[task]]\nname = 'next'\nneeds = 'server'\ncommand = 'sleep 600 &'\n";
    dir.job("job.toml", job);
    let mut running = phalanx(&dir).args(["run", "job.toml", "--slots", "1"]).start();
    wait_for("the run to end", 120, || (!running.is_running()).then_some(()));
    assert_eq!(living(&dir, "kept").len(), 1);
    running.kill_all();
}

#[test]
fn a_moment_is_left_to_what_still_writes() {
    let dir = Dir::new("linger");
    run(&dir, "[[task]]\nname = 'tee'\nshell = 'bash'\ncommand = 'seq 2000 > >(gzip > all.gz)'\n", &[]).ok();
    assert_eq!(shell(&dir, "gunzip -c all.gz | wc -l").run().ok().stdout().trim(), "2000");
}

#[test]
fn a_job_file_may_come_from_standard_input() {
    let dir = Dir::new("stdin");
    dir.file("piped", "[[task]]\nname = 'a'\ncommand = 'echo x >> ran'\n");
    for verb in ["check -", "plan -", "simulate -", "run -"] {
        shell(&dir, &format!("phalanx {verb} < piped")).run().ok();
    }
    assert_eq!(dir.read("ran"), "x\n");
    shell(&dir, "phalanx run - --resume < piped").run().ok();
    assert_eq!(dir.read("ran"), "x\n");
    shell(&dir, "echo nonsense | phalanx check -").run().code(2).says("stdin:1");
    shell(&dir, "mpirun --oversubscribe -n 2 phalanx run - --slots 1 < piped").run().ok();
    assert_eq!(dir.read("ran"), "x\nx\n");
}

#[test]
fn line_breaks_break_no_table() {
    let dir = Dir::new("breaks");
    run(&dir, "[[task]]\nname = 'a'\nclass = \"two\\nlines\"\ncommand = 'true'\n", &[]).ok();
    report(&dir, &[]).says("two lines");
    dir.job("job.toml", "[[task]]\nname = 'a'\ncommand = 'true'\nneeds = 'c'\n");
    let output = phalanx(&dir).args(["check", "job.toml"]).run().code(2);
    assert!(!output.stderr().contains("did you mean"), "{output}");
}
