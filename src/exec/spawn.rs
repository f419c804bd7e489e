//! `posix_spawn`: a new process at the least cost that the system offers.
//!
//! Why not `std::process::Command`: it builds the whole environment anew for each child, and falls back to `fork` when
//! `PATH` is among the variables. Here the environment comes ready-made.
//!
//! A child starts in a process group of its own, with no signal blocked or ignored, and with no file but its standard three: sockets of MPI
//! that it kept open would make a lost rank look alive. This is the only file of `exec` with `unsafe` for system calls.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};

use crate::model::Usage;

/// The attributes that all children share.
pub(super) struct Spawner {
    attributes: libc::posix_spawnattr_t,
    extensions: Extensions,
}

// SAFETY: the attributes are written in `new` and destroyed in `drop`; in between they are only read, which the C library allows from
// any number of threads.
unsafe impl Send for Spawner {}
// SAFETY: as above.
unsafe impl Sync for Spawner {}

type AddDir = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, *const c_char) -> c_int;
type AddCloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

/// What newer C libraries offer, looked up when the program runs so that it starts with older ones.
struct Extensions {
    add_dir: Option<AddDir>,
    add_close_from: Option<AddCloseFrom>,
}

/// What a child is to be.
pub(super) struct Plan<'a> {
    pub(super) program: &'a CStr,
    pub(super) argv: &'a [CString],
    pub(super) envp: Vec<&'a CStr>,
    pub(super) dir: &'a CStr,
    pub(super) stdio: [BorrowedFd<'a>; 3],
}

impl Spawner {
    pub(super) fn new() -> io::Result<Spawner> {
        ensure_children_can_be_awaited()?;
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: each call gets a valid pointer; the attributes are initialised by the first before the others use them, and each signal
        // set is initialised before it is read. The names looked up belong to functions of exactly these types.
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut spawner = Spawner { attributes: attributes.assume_init(), extensions: Extensions::find() };
            let attributes = &raw mut spawner.attributes;
            let mut signals = MaybeUninit::uninit();
            libc::sigfillset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(attributes, signals.as_ptr()))?;
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(attributes, signals.as_ptr()))?;
            check(libc::posix_spawnattr_setpgroup(attributes, 0))?;
            let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
            check(libc::posix_spawnattr_setflags(attributes, flags as libc::c_short))?;
            Ok(spawner)
        }
    }

    /// A spawner as it is with an old C library.
    #[cfg(test)]
    pub(super) fn without_extensions() -> io::Result<Spawner> {
        let mut spawner = Spawner::new()?;
        spawner.extensions = Extensions { add_dir: None, add_close_from: None };
        Ok(spawner)
    }

    /// True if the child can be given a directory to start in.
    pub(super) fn can_change_dir(&self) -> bool {
        self.extensions.add_dir.is_some()
    }

    /// Starts a child.
    pub(super) fn spawn(&self, plan: &Plan) -> io::Result<Child> {
        let actions = Actions::new(&self.extensions, plan)?;
        let argv = pointers(plan.argv.iter().map(CString::as_c_str));
        let envp = pointers(plan.envp.iter().copied());
        let mut pid = 0;
        // SAFETY: all pointers are valid for the call; `argv` and `envp` end with a null pointer and point to strings that outlive it.
        check(unsafe {
            libc::posix_spawn(
                &mut pid,
                plan.program.as_ptr(),
                &raw const actions.0,
                &raw const self.attributes,
                argv.as_ptr(),
                envp.as_ptr(),
            )
        })?;
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn gave no process number"))?;
        Ok(Child { pid, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok(), reaped: false })
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // SAFETY: initialised in `new` and not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.attributes) };
    }
}

impl Extensions {
    /// # Safety
    ///
    /// The C library's functions of these names must have the types given here, which glibc and musl document.
    unsafe fn find() -> Extensions {
        // SAFETY: the names are strings of C, and a function pointer that may be null is an `Option` of one.
        unsafe {
            let find = |name: &CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
            Extensions {
                add_dir: std::mem::transmute::<*mut libc::c_void, Option<AddDir>>(find(
                    c"posix_spawn_file_actions_addchdir_np",
                )),
                add_close_from: std::mem::transmute::<*mut libc::c_void, Option<AddCloseFrom>>(find(
                    c"posix_spawn_file_actions_addclosefrom_np",
                )),
            }
        }
    }
}

/// What the child does between its start and its program.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(extensions: &Extensions, plan: &Plan) -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the actions are initialised by the first call before the others use them; the directory's string is copied.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            let mut actions = Actions(actions.assume_init());
            for (target, file) in (0..).zip(&plan.stdio) {
                check(libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, file.as_raw_fd(), target))?;
            }
            if let Some(add_dir) = extensions.add_dir {
                check(add_dir(&raw mut actions.0, plan.dir.as_ptr()))?;
            }
            if let Some(add_close_from) = extensions.add_close_from {
                check(add_close_from(&raw mut actions.0, 3))?;
            }
            Ok(actions)
        }
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new` and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// A process of ours that has not been reaped.
pub(super) struct Child {
    pub(super) pid: Pid,
    /// Readable when the process has exited; absent on kernels before 5.3.
    pub(super) pidfd: Option<OwnedFd>,
    reaped: bool,
}

impl Child {
    /// True if it has exited. It stays a zombie, so its number stays taken.
    pub(super) fn has_exited(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(rustix::io::retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))?.is_some())
    }

    /// Waits for its exit, takes it off the system's list, and returns what it and the descendants that it waited for used, and whether the
    /// most memory of that may be ours rather than theirs.
    pub(super) fn reap(&mut self) -> io::Result<(WaitIdStatus, Usage, bool)> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))?;
        let (used, inherited) = wait4(self.pid)?;
        self.reaped = true;
        let status = status.ok_or_else(|| io::Error::other("the system told nothing about an exited process"))?;
        Ok((status, used, inherited))
    }
}

impl Drop for Child {
    /// Whatever went wrong on our side, no process stays behind.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// Reaps a process that has exited. (`waitid` of the standard tells nothing about what it used.)
///
/// `posix_spawn` lets a child share our memory until it runs its own program, and Linux counts that as memory that the child has held. So a
/// peak that is not above our own says nothing about the child but that it held no more.
fn wait4(pid: Pid) -> io::Result<(Usage, bool)> {
    // SAFETY: a zeroed `rusage` is valid, and the calls get valid pointers to one and none to a status.
    let (reaped, used, own) = unsafe {
        let (mut used, mut own): (libc::rusage, libc::rusage) = (std::mem::zeroed(), std::mem::zeroed());
        libc::getrusage(libc::RUSAGE_SELF, &mut own);
        (libc::wait4(pid.as_raw_nonzero().get(), ptr::null_mut(), 0, &mut used), used, own)
    };
    if reaped < 0 {
        return Err(io::Error::last_os_error());
    }
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    let usage = Usage { cpu_ns: ns(used.ru_utime) + ns(used.ru_stime), peak_bytes: (used.ru_maxrss as u64) << 10 };
    Ok((usage, used.ru_maxrss <= own.ru_maxrss))
}

/// Some start scripts leave SIGCHLD ignored, and then the system reaps children before we learn how they ended.
fn ensure_children_can_be_awaited() -> io::Result<()> {
    // SAFETY: a zeroed `sigaction` is valid, and both calls get valid pointers. SIG_DFL runs no code of ours.
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

fn pointers<'a>(strings: impl Iterator<Item = &'a CStr>) -> Vec<*mut c_char> {
    strings.map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// These functions return the error's number instead of setting `errno`.
fn check(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
