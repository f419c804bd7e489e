//! The mark of programs that Phalanx starts for itself, such as the lines that submit a job. They
//! may leave processes running, which are not a task's (`exec/leftovers`).

use std::process::Command;
use std::sync::OnceLock;

/// The environment variable that holds the mark.
pub(crate) const VARIABLE: &str = "PHALANX_OWN_PROGRAM";

/// The mark of the programs of this process: unique on this machine.
pub(crate) fn value() -> &'static str {
    static VALUE: OnceLock<String> = OnceLock::new();
    VALUE.get_or_init(|| format!("{}-{:08x}", std::process::id(), fastrand::u32(..)))
}

/// Marks a program that is to be started, and all that it will start.
pub(crate) fn mark(command: &mut Command) -> &mut Command {
    command.env(VARIABLE, value())
}
