//! How near commands come to the floor: `/bin/true` through the runner on two threads against a bare loop of `posix_spawn` and `waitpid`
//! on two threads, in turns within one run.
//!
//! `cargo bench --bench spawn [-- ROUNDS]` prints the rate of each round and the ratio of the medians. The absolute rates depend on
//! the machine and on what else it does; the ratio is what is to be kept at 0.90 or more.

#[path = "../tests/exec_support/mod.rs"]
mod exec_support;

use std::ffi::CString;
use std::ptr;
use std::time::Instant;

use exec_support::{Bench, Job, Spec, bench, seat};
use phalanx::model::{Outcome, TaskId};

const THREADS: u32 = 2;
const PER_THREAD: u32 = 500;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(7);
    let runner = bench(Job::new([Spec::command(&["/bin/true"]).array(THREADS * PER_THREAD)]));
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    println!("{:>12} {:>12} {:>7}", "bare /s", "runner /s", "ratio");
    for _ in 0..rounds {
        bare.push(rate(&|_| spawn_bare()));
        ours.push(rate(&|thread| (0..PER_THREAD).for_each(|i| run_ours(&runner, thread, i))));
        let (b, o) = (bare[bare.len() - 1], ours[ours.len() - 1]);
        println!("{b:>12.0} {o:>12.0} {:>7.3}", o / b);
    }
    println!("ratio of medians: {:.3}", median(&mut ours) / median(&mut bare));
    kernels();
}

/// Commands per second of all threads together.
fn rate(work: &(dyn Fn(u32) + Sync)) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
    });
    f64::from(THREADS * PER_THREAD) / start.elapsed().as_secs_f64()
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

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
