//! The `phalanx` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet in this process.
    unsafe { phalanx::topology::leave_out_plugins() };
    phalanx::cli::main(option_env!("PHALANX_COMMIT"))
}
