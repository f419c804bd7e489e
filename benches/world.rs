//! Whole runs as users start them, each beside its floor in the same run: chains and masses of
//! commands, hops of a dependency, stealing between ranks, more ranks than cores, ranks without
//! work, starting up, and what the journal takes.
//!
//! `cargo bench --bench world [-- ROUNDS] [PART ...]`; the parts are `commands`, `hops`,
//! `stealing`, `crowd`, `idle`, `start` and `journal`. Figures are medians over rounds, in which
//! ours and the floor take turns.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mpi::traits::Communicator;
use phalanx::topology::{Topology, bind_current_thread};

/// The word by which this program tells itself that it is a rank of an MPI program that does
/// nothing.
const AS_MPI: &str = "--as-empty-mpi-program";

/// The word by which this program tells itself to start so many commands one after the other.
const AS_LOOP: &str = "--as-loop";

/// ... and on which of its CPUs, as slots are bound.
const ON_CPU: &str = "--on-cpu";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |word: &str| words.iter().position(|w| w == word).map(|at| words.get(at + 1).cloned());
    if after(AS_MPI).is_some() {
        let universe = mpi::initialize().expect("MPI");
        assert!(universe.world().size() > 0);
        return;
    }
    if let Some(count) = after(AS_LOOP) {
        let cpu = after(ON_CPU).flatten().and_then(|cpu| cpu.parse().ok()).unwrap_or(0);
        bind_current_thread(&Topology::discover().places(None)[cpu].cpus).expect("a CPU");
        return (0..count.and_then(|count| count.parse().ok()).unwrap_or(0)).for_each(|_| spawn_true());
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(5);
    let bench = Bench { dir: tempfile::tempdir().expect("a directory"), rounds };
    println!("{:<58}{:>12}{:>12}{:>8}", "", "ours", "floor", "ratio");
    let parts = [
        ("commands", Bench::commands as fn(&Bench)),
        ("hops", Bench::hops),
        ("stealing", Bench::stealing),
        ("crowd", Bench::crowd),
        ("idle", Bench::idle),
        ("start", Bench::start_up),
        ("journal", Bench::journal),
    ];
    let wanted = |name: &str| words.iter().any(|word| word == name);
    let all = !parts.iter().any(|(name, _)| wanted(name));
    parts.iter().filter(|(name, _)| all || wanted(name)).for_each(|(_, part)| part(&bench));
}

struct Bench {
    dir: tempfile::TempDir,
    rounds: usize,
}

impl Bench {
    /// Commands against a loop of `posix_spawn` in one thread, or two of them at once; what both
    /// need to start is taken off.
    fn commands(&self) {
        let job = |count| command_job(&format!("array = \"1-{count}\""));
        let chain = |count: u32| {
            let one = |i: u32| {
                let needs = if i > 0 { format!("needs = \"t{}\"\n", i - 1) } else { String::new() };
                format!("[[task]]\nname = \"t{i}\"\ncommand = [\"/bin/true\"]\n{needs}")
            };
            (0..count).map(one).collect::<String>()
        };
        for (name, slots, count, text, small) in [
            ("2,000 x /bin/true, two slots, per s", 2, 2000, job(2000), job(2)),
            ("chain of 1,000 x /bin/true, per s", 1, 1000, chain(1000), chain(1)),
        ] {
            let (ours, floor) = self.median(|| {
                let whole = self.run(1, slots, &text).as_secs_f64();
                let start = self.run(1, slots, &small).as_secs_f64();
                let share = (count / slots).to_string();
                let loops: Vec<Child> =
                    (0..slots).map(|cpu| this(&[AS_LOOP, &share, ON_CPU, &cpu.to_string()])).collect();
                let began = Instant::now();
                loops.into_iter().for_each(ended);
                (f64::from(count) / (whole - start), f64::from(count) / began.elapsed().as_secs_f64())
            });
            line(name, ours, floor, ours / floor, 0);
        }
    }

    /// Two columns that need each other at every step, on two ranks; and one that needs itself, on
    /// one slot. Setting up is not counted.
    fn hops(&self) {
        let per_step = |ranks, width: u32| {
            let mut command = program(ranks);
            command.args(["bench", "metg", "--json", "--rounds", "1", "--steps", "10000", "--slots", "1"]);
            command.args(["--width", &width.to_string()]);
            let output = command.stderr(Stdio::null()).output().expect("phalanx");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
            1e6 * f64::from(width) / result["zero_work_tasks_per_s"].as_f64().expect("a rate")
        };
        let (across, inside) = self.median(|| (per_step(2, 2), per_step(1, 1)));
        println!("{:<58}{across:>12.2}{:>12}", "a hop to another rank and the task behind it, us", "(2)");
        println!("{:<58}{inside:>12.2}{:>12}", "the same inside a rank, us", "(0.2)");
    }

    /// All that takes long is at home on one rank.
    fn stealing(&self) {
        let heavy = "[[task]]\nname = \"heavy\"\narray = \"1-200\"\nkernel = \"sleep\"\nargs = { seconds = 0.01 }\n";
        let light = "[[task]]\nname = \"light\"\narray = \"1-200\"\nkernel = \"noop\"\n";
        for ranks in [2u32, 4] {
            let lights = light.replace("200", &(200 * (ranks - 1)).to_string());
            let text = format!("{heavy}{lights}");
            let (ours, ideal) = self.median(|| {
                let wall = self.run(ranks, 1, &text).saturating_sub(self.run(ranks, 1, light));
                (wall.as_secs_f64(), 2.0 / f64::from(ranks))
            });
            line(&format!("200 x 10 ms at home on one of {ranks} ranks, s"), ours, ideal, ideal / ours, 3);
        }
    }

    /// Four ranks of two slots where there are cores for two slots.
    fn crowd(&self) {
        let text = "[[task]]\nname = \"t\"\narray = \"1-2000\"\nkernel = \"busy\"\nargs = { seconds = 0.001 }\n";
        let short = text.replace("1-2000", "1-8");
        let net = |ranks| self.run(ranks, 2, text).saturating_sub(self.run(ranks, 2, &short)).as_secs_f64();
        let (crowd, alone) = self.median(|| (net(4), net(1)));
        line("2,000 x 1 ms on 4 ranks of 2 slots, s; floor: 1 rank", crowd, alone, alone / crowd, 3);
    }

    /// CPU time of ranks that have nothing to do, as a share of a core.
    fn idle(&self) {
        let text = "[[task]]\nname = \"t\"\ncommand = [\"sleep\", \"5\"]\n";
        let mut run = self.start(4, 1, text);
        std::thread::sleep(Duration::from_millis(1500));
        let before = cpu_of_children(run.id());
        let began = Instant::now();
        std::thread::sleep(Duration::from_secs(2));
        let spent: Vec<f64> = cpu_of_children(run.id())
            .iter()
            .zip(&before)
            .map(|(after, before)| (after - before) / began.elapsed().as_secs_f64() * 100.0)
            .collect();
        assert!(run.wait().expect("a run").success());
        let most = spent.iter().copied().fold(0.0, f64::max);
        println!("{:<58}{most:>11.2}%{:>12}", format!("CPU of an idle rank, most of {}", spent.len()), "(1 %)");
    }

    fn start_up(&self) {
        let text = "[[task]]\nname = \"t\"\nkernel = \"noop\"\n";
        let (alone, process) = self.median(|| (ms(self.run(1, 2, text)), ms(timed(spawn_true))));
        line("one task, one process, ms; floor: /bin/true", alone, process, process / alone, 1);
        let (world, empty) = self.median(|| {
            let floor = timed(|| ended(mpirun(2).arg(me()).arg(AS_MPI).spawn().expect("mpirun")));
            (ms(self.run(2, 1, text)), ms(floor))
        });
        line("one task under mpirun -n 2, ms; floor: empty program", world, empty, empty / world, 1);
    }

    /// What of a run's CPU time goes into writing the journal.
    fn journal(&self) {
        let text = pattern_job("stencil_1d", 8, 50_000, "compute_bound", "args = { iterations = 3000 }\n");
        let mut run = self.start(1, 2, &text);
        let (mut journal, mut all) = (0.0f64, 0.0f64);
        while run.try_wait().expect("a run").is_none() {
            let threads = threads_of(run.id());
            let sum = |which: &dyn Fn(&str) -> bool| -> f64 {
                threads.iter().filter(|(name, _)| which(name)).map(|(_, cpu)| cpu).sum()
            };
            journal = journal.max(sum(&|name| name == "journal"));
            all = all.max(sum(&|_| true));
            std::thread::sleep(Duration::from_millis(5));
        }
        let share = 100.0 * journal / all;
        println!("{:<58}{share:>11.2}%{:>12}", "CPU of the journal's thread at tasks of about 10 us", "(5 %)");
    }

    /// Medians of pairs.
    fn median(&self, mut sample: impl FnMut() -> (f64, f64)) -> (f64, f64) {
        let (mut ours, mut floors): (Vec<f64>, Vec<f64>) = (0..self.rounds).map(|_| sample()).unzip();
        let middle = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        (middle(&mut ours), middle(&mut floors))
    }

    fn run(&self, ranks: u32, slots: u32, text: &str) -> Duration {
        timed(|| ended(self.start(ranks, slots, text)))
    }

    fn start(&self, ranks: u32, slots: u32, text: &str) -> Child {
        let job = self.dir.path().join("job.toml");
        std::fs::write(&job, text).expect("a job file");
        let mut command = program(ranks);
        command.arg("run").arg(&job).args(["--quiet", "--slots", &slots.to_string()]);
        command.current_dir(self.dir.path()).stdout(Stdio::null()).spawn().expect("phalanx")
    }
}

fn command_job(more: &str) -> String {
    format!("[[task]]\nname = \"t\"\n{more}\ncommand = [\"/bin/true\"]\n")
}

fn pattern_job(pattern: &str, width: u32, steps: u32, kernel: &str, more: &str) -> String {
    format!(
        "[[task]]\nname = \"t\"\npattern = \"{pattern}\"\nwidth = {width}\nsteps = {steps}\nkernel = \"{kernel}\"\n{more}"
    )
}

fn line(name: &str, ours: f64, floor: f64, ratio: f64, digits: usize) {
    println!("{name:<58}{ours:>12.digits$}{floor:>12.digits$}{ratio:>8.2}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn ended(mut child: Child) {
    let status = child.wait().expect("a child");
    assert!(status.success(), "{status}");
}

fn me() -> PathBuf {
    std::env::current_exe().expect("this program")
}

fn this(words: &[&str]) -> Child {
    Command::new(me()).args(words).spawn().expect("this program")
}

/// Phalanx on so many ranks.
fn program(ranks: u32) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_phalanx"));
    if ranks == 1 {
        return Command::new(program);
    }
    let mut command = mpirun(ranks);
    command.arg(program);
    command
}

fn mpirun(ranks: u32) -> Command {
    let mut command = Command::new("mpirun");
    // OpenMPI refuses to serve root unless it is told twice.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.args(["-n", &ranks.to_string(), "--oversubscribe"]);
    command
}

fn spawn_true() {
    let program = c"/bin/true";
    let argv = [program.as_ptr().cast_mut(), std::ptr::null_mut()];
    let (mut pid, mut status) = (0, 0);
    // SAFETY: all pointers are valid during the calls, both lists end with a null pointer, and the
    // process is our child.
    unsafe {
        unsafe extern "C" {
            static environ: *const *mut libc::c_char;
        }
        let code =
            libc::posix_spawn(&mut pid, program.as_ptr(), std::ptr::null(), std::ptr::null(), argv.as_ptr(), environ);
        assert_eq!(code, 0);
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    assert_eq!(status, 0);
}

/// CPU seconds of each rank that `mpirun` started.
fn cpu_of_children(mpirun: u32) -> Vec<f64> {
    let listed = std::fs::read_to_string(format!("/proc/{mpirun}/task/{mpirun}/children")).unwrap_or_default();
    let cpu = |pid: u32| threads_of(pid).iter().map(|(_, cpu)| cpu).sum();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).map(cpu).collect()
}

/// Name and CPU seconds of each thread of a process.
fn threads_of(pid: u32) -> Vec<(String, f64)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let thread = |task: std::fs::DirEntry| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let ns: f64 = read("schedstat").split_whitespace().next()?.parse().ok()?;
        Some((read("comm").trim().to_owned(), ns / 1e9))
    };
    tasks.filter_map(Result::ok).filter_map(thread).collect()
}
