//! Starts processes at the lowest cost that the system offers.
//!
//! `std::process::Command` rebuilds the whole environment for each child, and falls back to `fork`
//! when `PATH` is among the variables; here the environment is prepared in advance. `posix_spawn`
//! maps and unmaps a stack for each child, a fifth of the total cost of a short command, and
//! queries a limit for each descriptor.
//!
//! A child shares our memory until it runs its program, and the calling thread waits for that
//! (`CLONE_VM` and `CLONE_VFORK`, as in `posix_spawn`). The child uses a stack of its own, one per
//! thread that starts children.
//!
//! A child starts in a session of its own, without a terminal: a program that asks for a password
//! or configures a terminal fails at once instead of being stopped forever. No signal is blocked
//! (unless asked for); those that were ignored when Phalanx was started (`nohup`) stay ignored. The
//! child has only the files of its plan: an inherited MPI socket would make a lost rank seem
//! alive. This is the only file of `exec` with `unsafe` for system calls.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::model::Usage;
use crate::system::open_files;

/// Stack size in bytes of a child until it runs its program. It makes only a few system calls.
const STACK_BYTES: usize = 64 << 10;

thread_local! {
    /// The stack of this thread's children, in turn. Made of 16-byte words for its alignment.
    static STACK: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// The description of a child.
pub(super) struct ChildPlan<'a> {
    /// Possible paths of the program; the first that exists is run, as in `execvp`.
    pub(super) programs: &'a [CString],
    pub(super) argv: &'a [CString],
    pub(super) envp: Vec<&'a CStr>,
    pub(super) dir: &'a CStr,
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Further files, which become descriptors from 3 on. Their numbers here are above all of those.
    pub(super) further: &'a [BorrowedFd<'a>],
    /// True if no signal but KILL and STOP may affect it.
    pub(super) blocks_signals: bool,
}

/// A plan in the form that the child reads.
struct ChildStart {
    programs: *const *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    dir: *const c_char,
    stdio: [c_int; 3],
    further: *const c_int,
    further_count: c_int,
    blocks_signals: bool,
    /// The signals that it ignores, one bit each.
    ignored: u64,
    /// Its limit on open files, if it differs from ours.
    files: Option<libc::rlimit>,
    /// The child's result: the error number that kept it from running its program (0 for none), and
    /// the step that failed.
    error: c_int,
    step: StartStep,
}

/// The steps of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartStep {
    /// Creating the process.
    Process,
    /// Entering its directory.
    Directory,
    /// Running one of the programs, by its index in the plan.
    Program(usize),
}

/// Why a child could not be started: the system's error, and the step that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: io::Error,
    pub(super) step: StartStep,
}

/// Starts a child and returns when it runs its program. `pid` gets the child's process id as soon
/// as it exists, for other threads: a mount that does not respond may block the child, and this
/// thread with it.
pub(super) fn spawn(plan: &ChildPlan, pid: &AtomicI32) -> Result<Child, Refusal> {
    let programs = pointers(plan.programs.iter().map(CString::as_c_str));
    let argv = pointers(plan.argv.iter().map(CString::as_c_str));
    let envp = pointers(plan.envp.iter().copied());
    let further: Vec<c_int> = plan.further.iter().map(AsRawFd::as_raw_fd).collect();
    let mut start = ChildStart {
        programs: programs.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        dir: plan.dir.as_ptr(),
        stdio: plan.stdio.map(|file| file.as_raw_fd()),
        further: further.as_ptr(),
        further_count: further.len() as c_int,
        blocks_signals: plan.blocks_signals,
        ignored: ignored_from_start(),
        files: open_files::child_limit(),
        error: 0,
        step: StartStep::Process,
    };
    let pid = clone(&mut start, pid).map_err(|error| Refusal { error, step: StartStep::Process })?;
    let child = Child { pid, reaped: false };
    match start.error {
        0 => Ok(child),
        error => Err(Refusal { error: io::Error::from_raw_os_error(error), step: start.step }),
    }
}

/// Creates the child, which executes `start` in our memory.
fn clone(start: &mut ChildStart, pid: &AtomicI32) -> io::Result<Pid> {
    STACK.with_borrow_mut(|stack| {
        stack.resize(STACK_BYTES / size_of::<u128>(), 0);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
        // SAFETY: the stack is this thread's alone, aligned, and grows down from the end that is
        // passed; this thread continues only when the child no longer uses it. `start` lives as
        // long, and so does all that it points to. The system writes the child's number to `pid`,
        // an aligned word that may be written through a shared reference. All signals are blocked,
        // so no handler of this process runs in the child; the mask is restored whatever happens.
        unsafe {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            let top = stack.as_mut_ptr().add(stack.len());
            let pid = libc::clone(run_in_child, top.cast(), flags, ptr::from_mut(start).cast(), pid.as_ptr());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
            Pid::from_raw(pid.max(0)).ok_or(error)
        }
    })
}

/// The code of a child in our memory. It allocates nothing, takes no lock, and cannot panic.
extern "C" fn run_in_child(start: *mut c_void) -> c_int {
    // SAFETY: `clone` passes a `ChildStart` that no other code uses until this process runs its
    // program or has ended.
    unsafe {
        let start = &mut *start.cast::<ChildStart>();
        start.error = start.become_program();
        libc::_exit(127)
    }
}

impl ChildStart {
    /// Replaces this process by the program; returns the error number on failure.
    ///
    /// # Safety
    /// Only for a child that shares the memory of its parent, with all signals blocked.
    unsafe fn become_program(&mut self) -> c_int {
        // SAFETY: the pointers are those of a plan that outlives the child's time in this memory; a
        // zeroed `sigaction` asks for the default.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            for signal in (1..=libc::SIGRTMAX()).filter(|signal| self.ignored & bit(*signal) == 0) {
                // Fails for signals that cannot be handled, which have no handler anyway.
                libc::sigaction(signal, &default, ptr::null_mut());
            }
            let has_files = libc::setsid() >= 0
                && (0..).zip(self.stdio).all(|(target, file)| libc::dup2(file, target) == target)
                && (0..self.further_count).all(|at| libc::dup2(*self.further.offset(at as isize), 3 + at) == 3 + at);
            if has_files {
                self.step = StartStep::Directory;
            }
            if has_files && libc::chdir(self.dir) == 0 {
                // Unknown to kernels before 5.9; there `CLOEXEC` closes the files that have it set.
                libc::syscall(libc::SYS_close_range, 3 + self.further_count, libc::c_uint::MAX, 0);
                if let Some(files) = &self.files {
                    // Lowers only the soft limit, which is always allowed.
                    libc::setrlimit(libc::RLIMIT_NOFILE, files);
                }
                if !self.blocks_signals {
                    let mut none = MaybeUninit::uninit();
                    libc::sigemptyset(none.as_mut_ptr());
                    libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
                }
                return self.run_first();
            }
            *libc::__errno_location()
        }
    }

    /// Runs the first of the programs that exists; returns the error number if none runs.
    ///
    /// # Safety
    /// As for `become_program`.
    unsafe fn run_first(&mut self) -> c_int {
        let mut denied = None;
        // SAFETY: the list of programs ends with a null pointer; the other pointers are those of a
        // plan that outlives the child's time in this memory.
        unsafe {
            for place in 0.. {
                let program = *self.programs.add(place);
                if program.is_null() {
                    break;
                }
                libc::execve(program, self.argv, self.envp);
                match *libc::__errno_location() {
                    libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {
                        self.step = StartStep::Program(place)
                    }
                    libc::EACCES => denied = denied.or(Some(place)),
                    error => {
                        self.step = StartStep::Program(place);
                        return error;
                    }
                }
            }
        }
        match denied {
            Some(place) => {
                self.step = StartStep::Program(place);
                libc::EACCES
            }
            None => libc::ENOENT,
        }
    }
}

/// A child that has not been reaped.
pub(super) struct Child {
    pub(super) pid: Pid,
    reaped: bool,
}

impl Child {
    /// True if it has exited. It stays a zombie, so its process id stays reserved.
    pub(super) fn has_exited(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(rustix::io::retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))?.is_some())
    }

    /// Waits for its exit and reaps it. Returns its status, and the resource use of it and of the
    /// descendants that it waited for.
    pub(super) fn reap(&mut self) -> io::Result<(ExitStatus, Usage)> {
        let ended = rustix::io::retry_on_intr(|| wait4(self.pid))?;
        self.reaped = true;
        Ok(ended)
    }
}

impl Drop for Child {
    /// After an error on our side, no process must stay behind.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// Reaps a process. (`waitid` does not return resource use.)
///
/// A child shares our memory until it runs its program, and Linux counts that memory as the
/// child's. A peak that is not above our own is therefore only an upper bound.
fn wait4(pid: Pid) -> rustix::io::Result<(ExitStatus, Usage)> {
    let mut status = 0;
    // SAFETY: a zeroed `rusage` is valid, and the call gets valid pointers to a status and to one.
    let (reaped, used) = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, &mut used), used)
    };
    if reaped < 0 {
        return Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::CHILD));
    }
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    let usage = Usage {
        cpu_ns: ns(used.ru_utime) + ns(used.ru_stime),
        peak_bytes: (used.ru_maxrss as u64) << 10,
        peak_is_bound: is_within_own_peak(used.ru_maxrss),
    };
    Ok((ExitStatus::from_raw(status), usage))
}

/// True if this process's own peak is at least `kib` KiB. The peak only grows, so the system is
/// queried only for values above the last one known.
fn is_within_own_peak(kib: i64) -> bool {
    static OWN_PEAK_KIB: AtomicI64 = AtomicI64::new(0);
    // Relaxed: any value that was the peak once is a lower bound of it.
    if kib <= OWN_PEAK_KIB.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: a zeroed `rusage` is valid, and the call gets a valid pointer to it.
    let own = unsafe {
        let mut own: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut own);
        own.ru_maxrss
    };
    OWN_PEAK_KIB.fetch_max(own, Ordering::Relaxed);
    kib <= own
}

/// True for a signal that was ignored when this process was started, as by `nohup` or `trap ''`:
/// the user wants it to have no effect.
pub(crate) fn is_ignored_from_start(signal: c_int) -> bool {
    ignored_from_start() & bit(signal) != 0
}

/// The signals that were ignored when this process was started, one bit each. Without SIGCHLD,
/// which shells need to notice the end of their children.
fn ignored_from_start() -> u64 {
    static FOUND: OnceLock<u64> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let signals = (1..=libc::SIGRTMAX()).filter(|&signal| signal != libc::SIGCHLD);
        let is_ignored = |signal: &c_int| {
            // SAFETY: a zeroed `sigaction` is valid, and the call only writes what is set now into
            // it.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(*signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
            }
        };
        signals.filter(is_ignored).fold(0, |all, signal| all | bit(signal))
    })
}

/// Reads them before `main`: Rust's runtime ignores SIGPIPE, and libraries change others.
// SAFETY: the system calls each function in this section once, before any other thread runs. This
// one makes system calls and stores a number; it needs no initialisation.
#[used]
#[unsafe(link_section = ".init_array")]
static FIND_IGNORED: extern "C" fn() = {
    extern "C" fn find() {
        ignored_from_start();
    }
    find
};

/// The bit of a signal among 64.
fn bit(signal: c_int) -> u64 {
    1u64.checked_shl(signal.unsigned_abs().wrapping_sub(1)).unwrap_or(0)
}

/// Resets SIGCHLD: some start scripts leave it ignored, and then the system reaps children before
/// their exit status can be read.
pub(super) fn ensure_children_can_be_awaited() -> io::Result<()> {
    // SAFETY: a zeroed `sigaction` is valid, and both calls get valid pointers. SIG_DFL runs no
    // code of ours.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, ptr::null(), &mut action) != 0 {
            return Err(io::Error::last_os_error());
        }
        let unhelpful = action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0;
        if unhelpful && libc::signal(libc::SIGCHLD, libc::SIG_DFL) == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn pointers<'a>(strings: impl Iterator<Item = &'a CStr>) -> Vec<*const c_char> {
    strings.map(CStr::as_ptr).chain([ptr::null()]).collect()
}
