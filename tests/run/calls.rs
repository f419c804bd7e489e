//! Every system call may fail: whichever one does so once, the run ends as it must, and a resume
//! loses nothing.
//!
//! A library of the tests' own (`tests/calls/fail.c`) stands between the program and libc. A run
//! that fails in nothing tells how many calls of each kind there are; then each of them fails in
//! turn, with each error that it can give.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::support::checker::Trace;
use crate::support::{Dir, Output, TestCommand, phalanx, program, repository};

/// Six commands: output kept and in a file of its own, long output, one that fails once, a declared
/// output, one that reads, and one that asks the run how it stands. Each notes that it has run.
const JOB: &str = r#"
    [job]
    flush = "always"
    [defaults]
    retries = { count = 1, backoff = "10ms" }
    [[task]]
    name = "plain"
    command = "echo out-plain; echo err-plain >&2; $PROGRAM status latest >status; echo plain >>ran"
    [[task]]
    name = "own"
    needs = "plain"
    stdout = "own.out"
    command = "echo out-own; echo own >>ran"
    [[task]]
    name = "twice"
    needs = "plain"
    command = "if mkdir tried; then exit 1; fi; echo out-twice; echo twice >>ran"
    [[task]]
    name = "made"
    outputs = "made"
    command = "echo x >made; echo out-made; echo made >>ran"
    [[task]]
    name = "reads"
    needs = "own"
    stdin = "own.out"
    command = "cat; echo out-reads; echo reads >>ran"
    [[task]]
    name = "long"
    needs = "made"
    command = "head -c 200000 /dev/zero | tr '\\0' x; echo out-long; echo long >>ran"
"#;

const TASKS: [&str; 6] = ["plain", "own", "twice", "made", "reads", "long"];

/// Half of the requested bytes, without an error.
const HALF: i32 = 0;

/// The errors that calls of each kind can give.
const ERRORS: [(&str, &[i32]); 19] = [
    ("write", &[libc::EINTR, HALF, libc::EAGAIN, libc::ENOSPC, libc::EDQUOT, libc::EIO]),
    ("sync", &[libc::EINTR, libc::ENOSPC, libc::EDQUOT, libc::EIO]),
    ("read", &[libc::EINTR, HALF, libc::EAGAIN, libc::EIO]),
    ("open", &[libc::EINTR, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT, libc::EIO]),
    ("pipe", &[libc::EMFILE, libc::ENFILE, libc::ENOMEM]),
    ("spawn", &[libc::EAGAIN, libc::ENOMEM]),
    ("accept", &[libc::EINTR, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ECONNABORTED]),
    ("rename", &[libc::ENOSPC, libc::EDQUOT, libc::EIO]),
    ("mkdir", &[libc::ENOSPC, libc::EDQUOT, libc::EIO]),
    ("truncate", &[libc::EINTR, libc::EIO]),
    ("unlink", &[libc::EIO]),
    ("poll", &[libc::EINTR]),
    ("wait", &[libc::EINTR]),
    ("pidfd", &[libc::EMFILE, libc::ENFILE, libc::ENOMEM]),
    ("event", &[libc::EMFILE, libc::ENFILE, libc::ENOMEM]),
    ("socket", &[libc::EMFILE, libc::ENFILE]),
    ("thread", &[libc::EAGAIN]),
    ("list", &[libc::EIO]),
    ("link", &[libc::ENOSPC, libc::EDQUOT, libc::EIO]),
];

/// One call that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: &'static str,
    number: u32,
    error: i32,
}

impl Fault {
    /// It passes by itself, so no task may fail of it.
    fn passes(&self) -> bool {
        [libc::EINTR, HALF, libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ECONNABORTED]
            .contains(&self.error)
    }
}

struct Calls {
    dir: Dir,
    library: PathBuf,
}

impl Calls {
    fn new() -> Calls {
        let dir = Dir::new("calls");
        let library = dir.path().join("fail.so");
        let mut cc = Command::new("cc");
        let source = repository().join("tests/calls/fail.c");
        let built = cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(built.expect("cc").success());
        Calls { dir, library }
    }

    fn run(&self, dir: &Dir, args: &[&str]) -> TestCommand {
        phalanx(dir)
            .args(["run", "job.toml", "--slots", "2"])
            .args(args)
            .env("PROGRAM", program())
            .env("CALLS_PROGRAM", program())
            .env("LD_PRELOAD", &self.library)
            .patience(30)
    }

    /// How many calls of each kind there are in a run.
    fn count(&self) -> HashMap<String, u32> {
        let dir = Dir::new("counted");
        dir.job("job.toml", JOB);
        let file = self.dir.path().join("counts");
        self.run(&dir, &[]).env("CALLS_COUNTS", &file).run().ok();
        let text = std::fs::read_to_string(file).expect("counts");
        let line = |line: &str| {
            let (kind, count) = line.split_once(' ').expect("two words");
            (kind.to_owned(), count.parse().expect("a number"))
        };
        text.lines().map(line).collect()
    }

    /// All that can fail.
    fn faults(&self) -> Vec<Fault> {
        let counts = self.count();
        let mut faults = Vec::new();
        for (kind, errors) in ERRORS {
            for number in 1..=counts[kind] {
                faults.extend(errors.iter().map(|&error| Fault { kind, number, error }));
            }
        }
        faults
    }

    /// A run in which one call fails. Returns on what, if the run came that far; an error says what
    /// was wrong.
    fn try_one(&self, fault: Fault) -> Result<Option<String>, String> {
        let dir = Dir::new("fault");
        dir.job("job.toml", JOB);
        let log = dir.path().join("log");
        let run = self.run(&dir, &[]).env("CALLS_KIND", fault.kind).env("CALLS_NUMBER", fault.number.to_string());
        let run = run.env("CALLS_ERROR", fault.error.to_string()).env("CALLS_LOG", &log).start();
        let output = run.wait_clean();
        let Ok(target) = std::fs::read_to_string(&log) else { return Ok(None) };
        let target = target.trim().replace(&*dir.path().to_string_lossy(), "");
        self.judge(&dir, fault, &output).map_err(|wrong| format!("{fault:?} on {target:?}: {wrong}\n{output}"))?;
        Ok(Some(target))
    }

    fn judge(&self, dir: &Dir, fault: Fault, output: &Output) -> Result<(), String> {
        let ensure = |holds: bool, wrong: &str| if holds { Ok(()) } else { Err(wrong.to_owned()) };
        let ran = |dir: &Dir| {
            let mut ran: BTreeMap<String, u32> = BTreeMap::new();
            let text = if dir.has("ran") { dir.read("ran") } else { String::new() };
            text.lines().for_each(|name| *ran.entry(name.to_owned()).or_default() += 1);
            ran
        };
        ensure((0..=2).contains(&output.exit()), "an exit code that means something else")?;
        let first = ran(dir);
        let reported = phalanx(dir).args(["report", "latest", "--tasks"]).run();
        // Before its beginning is written there is no run.
        let began = reported.exit() == 0;
        ensure(began || first.is_empty(), "tasks ran, and no run knows of it")?;
        let trace = if began { Trace::parse(reported.stdout()) } else { Trace(Vec::new()) };
        if output.exit() == 0 {
            let json = phalanx(dir).args(["report", "latest", "--json"]).run().json();
            ensure(json["state"] == "COMPLETED" && json["tasks"]["COMPLETED"] == 6, "it claims more than its journal")?;
        }
        let failed: Vec<_> = trace.0.iter().filter(|row| row.state != "COMPLETED" && row.attempt == 1).collect();
        if fault.passes() {
            let is_meant = failed.iter().all(|row| row.name == "twice");
            ensure(is_meant, &format!("a task failed of what passes: {failed:?}"))?;
            ensure(output.exit() == 0 || first.is_empty(), "a run failed of what passes")?;
        }
        let recorded: BTreeSet<String> = trace.completed().into_iter().collect();
        self.resume(dir, began, &recorded, &first, &ran)
    }

    /// The rest is run, and what the journal knew of is not.
    fn resume(
        &self,
        dir: &Dir,
        began: bool,
        recorded: &BTreeSet<String>,
        first: &BTreeMap<String, u32>,
        ran: &dyn Fn(&Dir) -> BTreeMap<String, u32>,
    ) -> Result<(), String> {
        let ensure = |holds: bool, wrong: &str| if holds { Ok(()) } else { Err(wrong.to_owned()) };
        let again = if began { vec!["--resume"] } else { Vec::new() };
        let words = phalanx(dir).args(["run", "job.toml", "--slots", "2"]).args(again).env("PROGRAM", program());
        let output = words.patience(60).run();
        ensure(output.exit() == 0, &format!("the resume failed: {output}"))?;
        let trace = Trace::of(dir, "latest");
        let mut completed: BTreeMap<&str, u32> = BTreeMap::new();
        trace
            .0
            .iter()
            .filter(|row| row.state == "COMPLETED")
            .for_each(|row| *completed.entry(&row.name).or_default() += 1);
        ensure(completed.len() == 6 && completed.values().all(|&times| times == 1), &format!("{completed:?}"))?;
        let last = ran(dir);
        for task in TASKS {
            ensure(last.contains_key(task), &format!("{task} never ran"))?;
            let same = last.get(task) == first.get(task);
            ensure(same || !recorded.contains(task), &format!("{task} was recorded and ran again"))?;
        }
        let kept = outputs(&dir.path().join("phalanx-runs"));
        let missing: Vec<_> = TASKS.iter().filter(|task| !kept.contains(&format!("out-{task}"))).collect();
        ensure(missing.is_empty(), &format!("the output of {missing:?} is lost"))?;
        ensure(dir.read("own.out") == "out-own\n", "a file of output is incomplete")
    }
}

/// All that tasks have printed.
fn outputs(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).expect("the folder of runs").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            text += &outputs(&path);
        } else if path.extension().is_some_and(|end| end == "out") {
            text += &String::from_utf8_lossy(&std::fs::read(path).expect("output"));
        }
    }
    text
}

/// Tries faults, some at a time, and fails with all that went wrong.
fn try_all(calls: &Calls, faults: &[Fault]) {
    let (next, wrong, tried) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(&fault) = faults.get(next.fetch_add(1, Relaxed)) {
            // A run that does not end panics.
            let result = catch_unwind(AssertUnwindSafe(|| calls.try_one(fault)));
            let result = result.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
                Err(format!("{fault:?}: {text}"))
            });
            match result {
                Ok(target) => {
                    let mut tried = tried.lock().expect("no panic");
                    tried.entry(fault.kind).or_insert([0u32; 2])[usize::from(target.is_none())] += 1;
                }
                Err(text) => wrong.lock().expect("no panic").push(text),
            }
        }
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
    for (kind, [hit, missed]) in tried.into_inner().expect("no panic") {
        println!("{kind:<9} {hit:5} calls failed and all was well, {missed} cannot give the error or were not reached");
    }
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{} of {} went wrong:\n\n{}", wrong.len(), faults.len(), wrong.join("\n\n"));
}

/// Some of all calls, other ones in each run of the tests: `PHALANX_SEED` repeats a choice.
#[test]
fn a_call_that_fails_loses_nothing() {
    let calls = Calls::new();
    let mut faults = calls.faults();
    let seed =
        std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("PHALANX_SEED={seed}, {} faults", faults.len());
    fastrand::Rng::with_seed(seed).shuffle(&mut faults);
    // The same number of each kind.
    let mut chosen: HashMap<&str, u32> = HashMap::new();
    faults.retain(|fault| {
        let count = chosen.entry(fault.kind).or_default();
        *count += 1;
        *count <= 3
    });
    try_all(&calls, &faults);
}

/// `CALLS=write,sync` tries only those kinds.
#[test]
#[ignore = "takes many minutes"]
fn whichever_call_fails_nothing_is_lost() {
    let calls = Calls::new();
    let mut faults = calls.faults();
    if let Ok(kinds) = std::env::var("CALLS") {
        faults.retain(|fault| kinds.split(',').any(|kind| kind == fault.kind));
    }
    println!("{} faults", faults.len());
    try_all(&calls, &faults);
}
