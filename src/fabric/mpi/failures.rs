//! What MPI says about lost ranks, in a world that survives them (`mpirun --with-ft ulfm`).
//!
//! Three things are asked of MPI: that errors return, that a transfer with a lost rank ends with an
//! error, and which ranks are lost. Who takes part in a run is decided by the coordinator's epochs,
//! so MPI's agreements, its shrunk communicators and all other collective calls, which some
//! versions do not end after a loss, are never used.
//!
//! A process of such a world never calls `MPI_Finalize`, which may wait for a rank that is lost
//! while the others leave: whether one is, the ranks could not agree on. It leaves by `_exit`.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use mpi::ffi;

use crate::model::Rank;
use crate::system::ulfm::{self, RankLoss};

/// `MPIX_Comm_get_failed`: the lost ranks of a communicator.
type GetFailed = unsafe extern "C" fn(ffi::MPI_Comm, *mut ffi::MPI_Group) -> c_int;

/// `MPIX_Comm_ack_failed`: receives from any rank may be posted again although the first so many of
/// the lost ranks will send nothing.
type AckFailed = unsafe extern "C" fn(ffi::MPI_Comm, c_int, *mut c_int) -> c_int;

/// `on_exit` of the C library: calls a function with the exit code when the process exits.
type OnExit = unsafe extern "C" fn(extern "C" fn(c_int, *mut c_void), *mut c_void) -> c_int;

/// Return value of a call that succeeded.
pub(super) const SUCCESS: c_int = ffi::MPI_SUCCESS as c_int;

/// The lost ranks of a world.
pub(super) struct Failures {
    world: ffi::MPI_Comm,
    get_failed: GetFailed,
    ack_failed: AckFailed,
}

impl Failures {
    /// Lets errors of calls on `world` return and the process leave without MPI, if the world
    /// survives lost ranks; else `None`, and errors end the world as MPI does by default.
    pub(super) fn of(world: ffi::MPI_Comm) -> Option<Failures> {
        if RankLoss::here() != RankLoss::Survived {
            return None;
        }
        let [get_failed, ack_failed] = ulfm::functions()?;
        // SAFETY: these are the types under which the header of ULFM, which Open MPI and MPICH
        // share, declares the two functions.
        let functions = unsafe {
            (
                transmute::<*mut c_void, GetFailed>(get_failed.as_ptr()),
                transmute::<*mut c_void, AckFailed>(ack_failed.as_ptr()),
            )
        };
        // SAFETY: the communicator lives as long as MPI, and the handler is one of MPI's own.
        let set = unsafe { ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN) };
        if set != SUCCESS {
            return None;
        }
        exit_without_mpi();
        Some(Failures { world, get_failed: functions.0, ack_failed: functions.1 })
    }

    /// The ranks that are lost so far. After this call receives from any rank work again.
    pub(super) fn acknowledge(&self) -> Vec<Rank> {
        let (mut lost, mut all, mut count, mut acknowledged) = (no_group(), no_group(), 0, 0);
        // SAFETY: all calls are local to this process and write to live variables; the groups are
        // freed, and the arrays have the length that is passed.
        unsafe {
            if (self.get_failed)(self.world, &mut lost) != SUCCESS {
                return Vec::new();
            }
            ffi::MPI_Group_size(lost, &mut count);
            // Those of this list and no others: one that was lost meanwhile comes next time.
            (self.ack_failed)(self.world, count, &mut acknowledged);
            let within: Vec<c_int> = (0..count).collect();
            let mut ranks: Vec<c_int> = vec![-1; within.len()];
            ffi::MPI_Comm_group(self.world, &mut all);
            ffi::MPI_Group_translate_ranks(lost, count, within.as_ptr(), all, ranks.as_mut_ptr());
            ffi::MPI_Group_free(&mut lost);
            ffi::MPI_Group_free(&mut all);
            ranks.into_iter().filter_map(|rank| u32::try_from(rank).ok().map(Rank)).collect()
        }
    }
}

/// How long ranks may take to meet.
const MEETING_TIMEOUT: Duration = Duration::from_secs(300);

/// Ends the process unless the value that is returned is dropped in time. In a world that survives
/// lost ranks nothing else ends it: `MPI_Init` does not notice that a rank is killed meanwhile, and
/// waits for it without a limit.
pub(super) fn limit_meeting() -> Option<Sender<()>> {
    if RankLoss::here() != RankLoss::Survived {
        return None;
    }
    let (has_met, waits) = channel::<()>();
    let watch = move || {
        if waits.recv_timeout(MEETING_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            let seconds = MEETING_TIMEOUT.as_secs();
            tracing::error!("the ranks have not met within {seconds} s; was one killed? Start the run again");
            // SAFETY: takes any code. The exit of the C library would wait for MPI.
            unsafe { libc::_exit(1) };
        }
    };
    let started = std::thread::Builder::new().name("meeting".into()).spawn(watch);
    started.inspect_err(|error| tracing::warn!(%error, "nothing limits how long the ranks may take to meet")).ok()?;
    Some(has_met)
}

/// A value for a handle of a group that MPI overwrites.
fn no_group() -> ffi::MPI_Group {
    // SAFETY: a handle is a pointer or a number, for which zero is a valid value.
    unsafe { std::mem::zeroed() }
}

/// Ends the process, once it exits with a code, before MPI and what it has loaded do: they would
/// wait for ranks, or complain that MPI was not finalised.
fn exit_without_mpi() {
    extern "C" fn leave(code: c_int, _: *mut c_void) {
        // SAFETY: a null pointer stands for all open streams of C, and `_exit` takes any code.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::_exit(code);
        }
    }
    // Functions are called in the reverse order of their registration, so before those of MPI. A C
    // library without `on_exit` calls MPI's.
    if let Some(on_exit) = ulfm::look_up(c"on_exit") {
        // SAFETY: this is the type under which the C library declares the function; the function
        // that it gets lives as long as the program and uses no argument.
        unsafe { transmute::<*mut c_void, OnExit>(on_exit.as_ptr())(leave, std::ptr::null_mut()) };
    }
}
