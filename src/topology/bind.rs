//! Binds the calling thread to CPUs, and reads which CPUs it may use.
//!
//! Binding uses hwloc if it has read this very machine. If hwloc describes another machine its
//! binding calls succeed without effect; then, or if hwloc could not be loaded, system calls are
//! used directly. Memory needs no binding: a page is placed in the domain of the thread that
//! touches it first, and slots are pinned before they allocate.
//!
//! No thread is ever bound outside the mask that the launcher gave this process, whoever requests
//! it.

use std::io;
use std::mem::size_of_val;
use std::sync::OnceLock;

use super::{cpulist::format_cpus, hwloc};

/// A thread could not be bound to CPUs.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind a thread to CPUs {cpus}: {source}; it runs wherever the system puts it")]
pub struct BindError {
    /// The requested CPUs, as a list like `0-3`.
    pub cpus: String,
    /// The system's error.
    pub source: io::Error,
}

/// The mask that this process inherited; set when the topology is read.
static INHERITED: OnceLock<Vec<u32>> = OnceLock::new();

/// The inherited mask, in ascending order. The first call reads it, so it must precede any binding.
pub(super) fn inherited_mask() -> &'static [u32] {
    INHERITED.get_or_init(current_mask)
}

/// Binds the calling thread to the given CPUs. Threads and processes that it starts afterwards
/// inherit the binding.
///
/// # Errors
/// If the list is empty, names a CPU outside the inherited mask, or names only CPUs that do not
/// exist or that the system forbids.
pub fn bind_current_thread(cpus: &[u32]) -> Result<(), BindError> {
    let failed = |source| BindError { cpus: format_cpus(cpus), source };
    if cpus.is_empty() {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    let granted = |cpu: &u32| INHERITED.get().is_none_or(|mask| mask.contains(cpu));
    if !cpus.iter().all(granted) {
        return Err(failed(io::Error::other("not all of them were granted to this process")));
    }
    bind(cpus).map_err(failed)
}

/// Binds the calling thread to CPUs of which some were granted to other ranks of this node, which
/// have reserved them for children of this thread. The system still refuses CPUs outside the whole
/// allocation.
///
/// # Errors
/// If the list is empty, or the system refuses.
pub fn bind_to_lent(cpus: &[u32]) -> Result<(), BindError> {
    let failed = |source| BindError { cpus: format_cpus(cpus), source };
    if cpus.is_empty() {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    bind(cpus).map_err(failed)
}

fn bind(cpus: &[u32]) -> io::Result<()> {
    match hwloc::bind(cpus) {
        Some(bound) => bound.map_err(io::Error::from_raw_os_error),
        None => set_mask(cpus),
    }
}

/// Number of 64-bit words in the masks passed to the system: 8192 CPUs, the largest number that a
/// kernel can be built for.
const WORDS: usize = 128;

fn set_mask(cpus: &[u32]) -> io::Result<()> {
    let mut mask = [0u64; WORDS];
    for &cpu in cpus {
        let word = mask.get_mut(cpu as usize / 64).ok_or(io::ErrorKind::InvalidInput)?;
        *word |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads exactly the given number of bytes from `mask`, which outlives the
    // call; it treats `cpu_set_t` as a plain array of words of any length. Thread 0 is the calling
    // thread.
    let rc = unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs on which the calling thread may run, in ascending order. If the system does not say (it
/// always should), as many as it reports to be usable, from 0.
fn current_mask() -> Vec<u32> {
    let mut mask = [0u64; WORDS];
    // SAFETY: the C library writes at most the given number of bytes into `mask` and clears the
    // rest of them. Thread 0 is the calling thread.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    let bits = (0..64 * WORDS as u32).filter(|&cpu| mask[cpu as usize / 64] >> (cpu % 64) & 1 == 1);
    match rc {
        0 => bits.collect(),
        _ => (0..std::thread::available_parallelism().map_or(1, |n| n.get() as u32)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_was_bound() {
        let cpu = current_mask()[0];
        let seen = std::thread::spawn(move || bind_current_thread(&[cpu]).map(|()| current_mask())).join();
        assert_eq!(seen.unwrap().unwrap(), vec![cpu]);
    }

    #[test]
    fn cpus_that_do_not_exist_are_an_error() {
        let refused = |cpus: &'static [u32]| std::thread::spawn(move || bind_current_thread(cpus)).join().unwrap();
        assert!(refused(&[]).is_err());
        assert!(refused(&[1 << 20]).is_err());
        let error = refused(&[8000]).unwrap_err().to_string();
        assert!(error.starts_with("cannot bind a thread to CPUs 8000"), "{error}");
    }

    #[test]
    fn the_plain_system_call_binds_too() {
        let cpu = current_mask()[0];
        let seen = std::thread::spawn(move || set_mask(&[cpu]).map(|()| current_mask())).join();
        assert_eq!(seen.unwrap().unwrap(), vec![cpu]);
    }
}
