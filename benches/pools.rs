//! Whole runs with pools, shares and additions, on two ranks of one slot.
//!
//! | part | what is measured |
//! |---|---|
//! | `cost` | tasks of 10 us with a pool against the same without, in turns: core time per task |
//! | `hand-overs` | how often the one unit of a pool goes to the other rank, per second |
//! | `fairness` | slot time of two families of equal share, of short and of long tasks, while both have work |
//! | `additions` | attempts that add ten tasks each: additions per second, and the memory of the largest rank |
//!
//! `cargo bench --bench pools [-- [--quick] [PART ...]]`; with `--quick` everything is smaller,
//! which shows that it works and no more. Times are those of the journal: starting up does not
//! count.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use phalanx::journal::replay;
use phalanx::model::{Attempt, TaskId};

const RANKS: u32 = 2;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = words.iter().any(|word| word == "--quick");
    let bench = Bench { dir: tempfile::tempdir().expect("a directory"), is_quick };
    let parts = [
        ("cost", Bench::cost as fn(&Bench)),
        ("hand-overs", Bench::hand_overs),
        ("fairness", Bench::fairness),
        ("additions", Bench::additions),
    ];
    let wanted = |name: &str| words.iter().any(|word| word == name);
    let all = !parts.iter().any(|(name, _)| wanted(name));
    parts.iter().filter(|(name, _)| all || wanted(name)).for_each(|(_, part)| part(&bench));
}

struct Bench {
    dir: tempfile::TempDir,
    is_quick: bool,
}

/// A run that has ended.
struct Ended {
    dir: PathBuf,
    attempts: Vec<Attempt>,
    /// The most memory that one of its processes had, in MiB.
    memory: f64,
}

impl Ended {
    /// From the first start to the last end in seconds.
    fn wall(&self) -> f64 {
        let first = self.attempts.iter().map(|attempt| attempt.start).min().expect("some tasks ran");
        let last = self.attempts.iter().map(|attempt| attempt.end).max().expect("some tasks ran");
        last.since(first).as_secs_f64()
    }
}

impl Bench {
    fn cost(&self) {
        let (tasks, rounds) = if self.is_quick { (2_000, 2) } else { (200_000, 9) };
        let text = |more: &str| {
            format!(
                "[pools.p]\ncapacity = 64\n[[task]]\nname = \"t\"\narray = \"1-{tasks}\"\nkernel = \"busy\"\n\
                 args = {{ seconds = 0.00001 }}\n{more}"
            )
        };
        let core_us = |more| self.run(&text(more)).wall() * 1e6 * f64::from(RANKS) / f64::from(tasks);
        let pairs: Vec<[f64; 2]> = (0..rounds)
            .map(|round| match round % 2 {
                0 => [core_us("pools = { p = 1 }\n"), core_us("")],
                _ => {
                    let without = core_us("");
                    [core_us("pools = { p = 1 }\n"), without]
                }
            })
            .collect();
        let [with, without] = [0, 1].map(|side| median(pairs.iter().map(|pair| pair[side]).collect()));
        let ratio = median(pairs.iter().map(|pair| pair[0] / pair[1]).collect());
        println!("10 us tasks, core-us per task: {with:.2} with a pool, {without:.2} without; ratio {ratio:.3} (1.02)");
    }

    fn hand_overs(&self) {
        let (tasks, rounds) = if self.is_quick { (200, 1) } else { (20_000, 5) };
        let text = format!(
            "[pools.p]\ncapacity = 1\n[[task]]\nname = \"t\"\narray = \"1-{tasks}\"\npools = {{ p = 1 }}\n\
             kernel = \"busy\"\nargs = {{ seconds = 0.0001 }}\n"
        );
        let figures: Vec<[f64; 2]> = (0..rounds)
            .map(|_| {
                let run = self.run(&text);
                let report = self.report(&run);
                let hand_overs = report["pools"][0]["hand_overs"].as_f64().expect("a number");
                [hand_overs / run.wall(), f64::from(tasks) * 1e-4 / run.wall()]
            })
            .collect();
        let [rate, used] = [0, 1].map(|at| median(figures.iter().map(|figure| figure[at]).collect()));
        println!("one unit, tasks of 100 us on both ranks: {rate:.0} hand-overs per s; in use {:.1} %", used * 100.0);
    }

    fn fairness(&self) {
        let (scale, rounds) = if self.is_quick { (10, 1) } else { (200, 3) };
        let family = |name: &str, tasks: u32, seconds: f64| {
            format!(
                "[[task]]\nname = \"{name}\"\narray = \"1-{tasks}\"\nshare = 1\nkernel = \"sleep\"\n\
                 args = {{ seconds = {seconds} }}\n"
            )
        };
        let text = family("short", scale * 10, 0.002) + &family("long", scale, 0.02);
        let differences: Vec<f64> = (0..rounds).map(|_| difference(&self.run(&text).attempts, scale * 10)).collect();
        println!(
            "two families of equal share: difference of their slot time {:.2} % of both (5 %)",
            100.0 * median(differences)
        );
    }

    fn additions(&self) {
        let additions = if self.is_quick { 100 } else { 10_000 };
        let table = r#"[[task]]\nname = "t%s-%s"\nkernel = "noop"\n"#;
        let text = format!(
            "[[task]]\nname = \"adder\"\narray = \"1-{additions}\"\n\
             command = '''for k in 0 1 2 3 4 5 6 7 8 9; do printf '{table}' {{index}} $k; done > $PHALANX_ADD'''\n"
        );
        let run = self.run(&text);
        let tasks = 11 * additions as usize;
        assert_eq!(run.attempts.iter().filter(|attempt| attempt.outcome.ok()).count(), tasks, "all have completed");
        let wall = run.wall();
        println!(
            "{additions} additions of ten tasks each: {:.0} per s, {tasks} tasks in {wall:.1} s, {:.0} MiB in the largest process",
            f64::from(additions) / wall,
            run.memory
        );
    }

    /// Runs a job to its end, all of whose tasks complete.
    fn run(&self, text: &str) -> Ended {
        let (job, dir) = (self.dir.path().join("job.toml"), self.dir.path().join("run"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::write(&job, text).expect("a job file");
        let mut command = Command::new("mpirun");
        // OpenMPI refuses to serve root unless it is told twice.
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.args(["-n", &RANKS.to_string(), "--oversubscribe", env!("CARGO_BIN_EXE_phalanx"), "run"]);
        command.arg(&job).arg("--run-dir").arg(&dir).args(["--quiet", "--slots", "1"]);
        #[expect(clippy::zombie_processes, reason = "wait4 below waits for it")]
        let child = command.current_dir(self.dir.path()).stdout(Stdio::null()).spawn().expect("mpirun");
        // SAFETY: it consists of numbers, for which zeros are a value.
        let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
        // SAFETY: both places are valid for writes, and nobody else waits for the child.
        let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
        assert_eq!(waited, child.id() as i32, "the child has ended");
        let status = ExitStatus::from_raw(status);
        assert!(status.success(), "{status}");
        let mut replay = replay(&dir.join("journal")).expect("a journal");
        let attempts = replay.sessions.pop().expect("a session").attempts;
        Ended { dir, attempts, memory: usage.ru_maxrss as f64 / 1024.0 }
    }

    fn report(&self, run: &Ended) -> serde_json::Value {
        let program = Path::new(env!("CARGO_BIN_EXE_phalanx"));
        let mut command = Command::new(program);
        let output = command.current_dir(self.dir.path()).arg("report").arg(&run.dir).arg("--json").output();
        serde_json::from_slice(&output.expect("phalanx").stdout).expect("one JSON object")
    }
}

/// The difference of the slot time of two families, the first of which has `first` tasks, as a part
/// of both, while both have work.
fn difference(attempts: &[Attempt], first: u32) -> f64 {
    let is_first = |task: TaskId| task.0 < first;
    let last_start = |side| {
        let starts = attempts.iter().filter(|attempt| is_first(attempt.task) == side).map(|attempt| attempt.start);
        starts.max().expect("both families ran")
    };
    let until = last_start(true).min(last_start(false));
    let time = |side| -> f64 {
        let own = attempts.iter().filter(|attempt| is_first(attempt.task) == side && attempt.start < until);
        own.map(|attempt| attempt.end.min(until).since(attempt.start).as_secs_f64()).sum()
    };
    let (a, b) = (time(true), time(false));
    (a - b).abs() / (a + b)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
