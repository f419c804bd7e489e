//! The limit on the size of files (`ulimit -f`).

/// Makes a write beyond the limit an error like that of a full disk, instead of a signal that ends
/// this process. Children get the default action back, as of all signals.
pub(crate) fn make_it_an_error() {
    // SAFETY: the call gets a valid signal and runs no code of ours when it arrives.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
