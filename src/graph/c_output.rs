//! Keeps what a C library prints away from standard output.

use std::sync::{Mutex, PoisonError};

unsafe extern "C" {
    /// The stream that `printf` writes to. In glibc and musl it is a variable.
    static mut stdout: *mut libc::FILE;
}

/// One change of the stream at a time.
static SWAPPED: Mutex<()> = Mutex::new(());

/// Runs a call of a C library that prints remarks with `printf`. They would stand between the lines
/// of a table or break JSON. Rust's own output does not pass through the streams of C.
pub(super) fn discard_remarks<T>(call: impl FnOnce() -> T) -> T {
    let _one_at_a_time = SWAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: both arguments are C strings.
    let nowhere = unsafe { libc::fopen(c"/dev/null".as_ptr(), c"w".as_ptr()) };
    if nowhere.is_null() {
        return call();
    }
    // SAFETY: only this function writes the variable, under a lock, and what it writes is an open
    // stream until it is put back below. C code of other threads that prints meanwhile uses one of
    // two valid streams, which lock themselves.
    let before = unsafe { std::ptr::replace(&raw mut stdout, nowhere) };
    /// Puts the stream back, also if the call panics.
    struct Restore(*mut libc::FILE);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: as above. The stream that is closed was opened by this call; a thread of C
            // that took it meanwhile would have to print for as long as the whole call.
            unsafe { libc::fclose(std::ptr::replace(&raw mut stdout, self.0)) };
        }
    }
    let _restore = Restore(before);
    call()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_c_prints_goes_nowhere() {
        let (mut text, mut length) = (std::ptr::null_mut(), 0);
        // SAFETY: the stream is closed before its buffer is read and freed; the variable is put
        // back at once. Other tests print through Rust.
        let printed = unsafe {
            let memory = libc::open_memstream(&mut text, &mut length);
            let before = std::ptr::replace(&raw mut stdout, memory);
            libc::puts(c"outside".as_ptr());
            discard_remarks(|| libc::puts(c"inside".as_ptr()));
            stdout = before;
            libc::fclose(memory);
            let printed = std::ffi::CStr::from_ptr(text).to_owned();
            libc::free(text.cast());
            printed
        };
        assert_eq!(printed.to_bytes(), b"outside\n");
    }
}
