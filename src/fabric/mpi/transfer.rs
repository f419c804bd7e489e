//! Transfers between a start and an end.

use std::collections::VecDeque;
use std::time::Instant;

use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::traits::Equivalence;

use super::failures::SUCCESS;
use crate::model::Rank;

/// Memory that MPI may still read from or write to.
pub(super) struct Transfer<B> {
    pub(super) request: ffi::MPI_Request,
    pub(super) buffer: B,
}

/// How far a transfer has come.
pub(super) enum Progress {
    Pending,
    /// Complete: the other rank and the number of bytes (of a receive).
    Done(i32, usize),
    /// Mostly as the other rank is lost, or, for a receive from any rank, a rank is. Only where
    /// errors return.
    Failed,
}

impl<B> Transfer<B> {
    pub(super) fn new(buffer: B) -> Transfer<B> {
        Transfer { request: no_request(), buffer }
    }

    /// Asks MPI, which also makes progress on all other transfers.
    #[inline]
    pub(super) fn progress(&mut self) -> Progress {
        if !self.is_active() {
            return Progress::Failed;
        }
        let mut done = 0;
        // SAFETY: an all-zero status is a valid value to be overwritten; the request came from MPI
        // and has not completed yet.
        let (code, status) = unsafe {
            let mut status = std::mem::zeroed::<ffi::MPI_Status>();
            (ffi::MPI_Test(&mut self.request, &mut done, &mut status), status)
        };
        if code != SUCCESS {
            return Progress::Failed;
        }
        if done == 0 {
            return Progress::Pending;
        }
        let mut count = 0;
        // SAFETY: the status was filled in by MPI_Test.
        unsafe { ffi::MPI_Get_count(&status, u8::equivalent_datatype().as_raw(), &mut count) };
        Progress::Done(status.MPI_SOURCE, count.max(0) as usize)
    }

    /// True until MPI has ended it. A receive from any rank stays active when a rank is lost.
    pub(super) fn is_active(&self) -> bool {
        self.request != no_request()
    }

    /// Gives up a transfer that has failed. MPI may still use its memory, for which there is no
    /// sign, so it is never freed: that is one frame for each transfer with a lost rank.
    pub(super) fn abandon(mut self) {
        if self.is_active() {
            // SAFETY: the request is active, and nothing uses it any more.
            unsafe { ffi::MPI_Request_free(&mut self.request) };
        }
        std::mem::forget(self.buffer);
    }
}

/// Takes the sends at the front that have ended: returns the buffers of those that succeeded, and
/// notes the receivers of those that failed.
#[inline]
pub(super) fn take_ended<B>(
    sends: &mut VecDeque<(Rank, Transfer<B>)>,
    mut freed: impl FnMut(B),
    unsent: &mut Vec<(Rank, Instant)>,
) {
    while let Some((_, first)) = sends.front_mut() {
        let has_failed = match first.progress() {
            Progress::Pending => return,
            Progress::Done(..) => false,
            Progress::Failed => true,
        };
        match sends.pop_front() {
            Some((to, first)) if has_failed => {
                first.abandon();
                unsent.push((to, Instant::now()));
            }
            Some((_, first)) => freed(first.buffer),
            None => return,
        }
    }
}

/// MPI's handle of no request; a pointer in Open MPI, a number in the MPICH family.
#[inline]
pub(super) fn no_request() -> ffi::MPI_Request {
    // SAFETY: the constant is set when the program is loaded and never changes.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}
