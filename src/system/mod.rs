//! What this process asks of the operating system in more than one part of the program.
//!
//! | module | what it is for |
//! |---|---|
//! | `bounded_command` | runs a program and waits for its answer, but never without end |
//! | `event` | an event that can be polled beside other descriptors |
//! | `file_probe` | asks about files without waiting for a dead mount |
//! | `open_files` | the limit on open files: raised for this process, restored for its children |
//! | `strangers` | which connections give way while it is not known whose they are |

pub(crate) mod bounded_command;
pub(crate) mod event;
pub(crate) mod file_probe;
pub(crate) mod open_files;
pub(crate) mod strangers;
