//! The `phalanx` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: this process has no other thread yet.
    unsafe { phalanx::topology::leave_out_plugins() };
    phalanx::cli::main()
}
