//! How near commands come to the floor: `/bin/true` through the runner on two threads against a
//! bare loop of `posix_spawn` and `waitpid` on two threads, each thread pinned to a CPU as slots
//! are.
//!
//! `cargo bench --bench spawn [-- ROUNDS]` runs the two in turns, in rounds short enough that both
//! meet the same disturbances, and prints the median of the rounds' ratios, which is to be 0.90 or
//! more. Beside it stands the CPU time that this process itself uses per command (without the
//! children's), which hardly depends on what else the machine does.

#[path = "../tests/parts/exec_support.rs"]
mod exec_support;

use std::ffi::CString;
use std::ptr;
use std::time::Instant;

use exec_support::{Bench, Job, Spec, bench, seat};
use phalanx::model::{Outcome, TaskId};
use rustix::time::{ClockId, clock_gettime};

const THREADS: u32 = 2;
const PER_THREAD: u32 = 100;

/// One measurement: commands per second of wall time, and this process's own CPU time per command
/// in microseconds.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: f64,
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(41);
    let runner = bench(Job::new([Spec::command(&["/bin/true"]).array(THREADS * PER_THREAD)]));
    let bare = || measure(&|_| spawn_bare());
    let ours = || measure(&|thread| (0..PER_THREAD).for_each(|i| run_ours(&runner, thread, i)));
    // A first turn of each fills the caches.
    bare();
    ours();
    let samples: Vec<(Sample, Sample)> = (0..rounds)
        .map(|round| {
            if round % 2 == 0 {
                let bare = bare();
                (bare, ours())
            } else {
                let ours = ours();
                (bare(), ours)
            }
        })
        .collect();
    let median_of = |f: &dyn Fn(&(Sample, Sample)) -> f64| median(samples.iter().map(f).collect());
    println!("{:<28} {:>10} {:>10}", "", "bare loop", "runner");
    println!("{:<28} {:>10.0} {:>10.0}", "commands per second", median_of(&|s| s.0.rate), median_of(&|s| s.1.rate));
    println!(
        "{:<28} {:>10.1} {:>10.1}",
        "own CPU per command, us",
        median_of(&|s| s.0.cpu_us),
        median_of(&|s| s.1.cpu_us)
    );
    println!("ratio of rates: {:.3} (median of {rounds} rounds)", median_of(&|s| s.1.rate / s.0.rate));
    lines();
    kernels();
}

fn measure(work: &(dyn Fn(u32) + Sync)) -> Sample {
    let (start, cpu) = (Instant::now(), clock_gettime(ClockId::ProcessCPUTime));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                pin(thread as usize);
                work(thread);
            });
        }
    });
    let count = f64::from(THREADS * PER_THREAD);
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_us = (spent.tv_sec - cpu.tv_sec) as f64 * 1e6 + (spent.tv_nsec - cpu.tv_nsec) as f64 / 1e3;
    Sample { rate: count / start.elapsed().as_secs_f64(), cpu_us: cpu_us / count }
}

/// Binds the thread to the `n`th of the CPUs that it may use; with fewer CPUs they are shared.
fn pin(n: usize) {
    // SAFETY: a zeroed set is a valid empty one, and both calls get one of the stated size.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size, &mut allowed), 0);
        let cpus: Vec<usize> = (0..8 * size).filter(|&cpu| libc::CPU_ISSET(cpu, &allowed)).collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[n % cpus.len()], &mut one);
        assert_eq!(libc::sched_setaffinity(0, size, &one), 0);
    }
}

fn run_ours(bench: &Bench, thread: u32, i: u32) {
    let outcome = bench.runner.run(TaskId(thread * PER_THREAD + i), &seat(thread as u16));
    assert_eq!(outcome, Outcome::OK);
}

fn spawn_bare() {
    let program = CString::new("/bin/true").expect("no NUL");
    let argv = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let environment: Vec<CString> =
        std::env::vars().map(|(name, value)| CString::new(format!("{name}={value}")).expect("no NUL")).collect();
    let envp: Vec<_> = environment.iter().map(|e| e.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect();
    for _ in 0..PER_THREAD {
        let (mut pid, mut status) = (0, 0);
        // SAFETY: all pointers are valid during the calls, and the lists end with a null pointer.
        let code = unsafe {
            libc::posix_spawn(&mut pid, program.as_ptr(), ptr::null(), ptr::null(), argv.as_ptr(), envp.as_ptr())
        };
        assert_eq!(code, 0);
        // SAFETY: `status` is valid, and the process is our child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}

/// What `batch` gives for lines of shell: of its own commands, and with one program and several.
fn lines() {
    for line in [": $PHALANX_TASK_ID", "/bin/true", "echo a | cat; test -d /tmp"] {
        let runner = |batch| bench(Job::new([Spec::shell(line).batch(batch).array(THREADS * PER_THREAD)]));
        let (each, kept) = (runner(1), runner(50));
        let cpu = |bench: &Bench| {
            let before = cpu_of_all();
            measure(&|thread| (0..PER_THREAD).for_each(|i| run_ours(bench, thread, i)));
            cpu_of_all() - before
        };
        let ratios = (0..11).map(|_| (cpu(&each), cpu(&kept))).map(|(each, kept)| kept / each).collect();
        println!("batch = 50, `{line}`: {:.2} of the CPU time", median(ratios));
    }
}

/// CPU time in seconds of this process and of the children that have ended.
fn cpu_of_all() -> f64 {
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let of = |whose| {
        // SAFETY: a zeroed `rusage` is valid, and the call gets a valid pointer to it.
        let used = unsafe {
            let mut used: libc::rusage = std::mem::zeroed();
            libc::getrusage(whose, &mut used);
            used
        };
        seconds(used.ru_utime) + seconds(used.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// What the runner itself costs: a kernel that does nothing.
fn kernels() {
    const CALLS: u32 = 5_000_000;
    let runner = bench(Job::new([Spec::kernel("noop", "").array(CALLS)]));
    let seat = seat(0);
    let start = Instant::now();
    for i in 0..CALLS {
        assert!(runner.runner.run(TaskId(i), &seat).ok());
    }
    println!("noop: {:.1} ns", start.elapsed().as_nanos() as f64 / f64::from(CALLS));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
