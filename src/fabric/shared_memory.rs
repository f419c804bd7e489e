//! Memory that two processes of a node share, as atomic words.
//!
//! Other processes write to it at any time, so it is accessed only through atomics. A faulty peer
//! can pass on wrong numbers, which readers check, but cannot cause undefined behaviour.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Sections of a shared file begin at multiples of this many bytes.
pub(super) const PAGE_BYTES: usize = 4096;

/// A section of a shared file, mapped as words that start at zero.
pub(super) struct SharedMemory {
    first: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the pointer leads to atomics that live as long as the mapping, which `SharedMemory` owns;
// any thread may use an atomic.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Maps `bytes` of a file from byte `from` on; both are multiples of [`PAGE_BYTES`], and the
    /// file is at least as long.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn map(file: impl AsFd, from: usize, bytes: usize) -> io::Result<SharedMemory> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a free address, so no other memory is touched.
        let place = unsafe { mmap(std::ptr::null_mut(), bytes, access, flags, file, from as u64)? };
        let first = NonNull::new(place.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedMemory { first, bytes })
    }

    /// All words of the section.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped until the drop with this size and aligned to a page; any bytes are valid
        // atomics. The file is never made shorter.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.bytes / size_of::<AtomicU64>()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; no reference outlives `self`.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.bytes) };
    }
}
