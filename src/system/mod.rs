//! Services of the operating system that several parts of the program use.
//!
//! | module | what it is for |
//! |---|---|
//! | `bounded_command` | runs a program with a time limit and returns its output |
//! | `event` | an event that can be polled together with other descriptors |
//! | `file_size_limit` | turns the signal of a file that grows beyond its limit into an error |
//! | `file_probe` | queries files without blocking on a mount that does not respond |
//! | `http_client` | requests to servers of the user: webhooks, advisors |
//! | `launch` | how this process was started: alone, or as one of a world |
//! | `launcher` | the `mpirun` that started this process: its environment, its terminal |
//! | `open_files` | the limit on open files: raised for this process, restored for its children |
//! | `own_program` | the mark of programs that are no tasks |
//! | `process_watch` | whether another process of this machine is alive |
//! | `private_file` | files that hold a secret |
//! | `strangers` | bounds the number of connections that are not authenticated yet |
//! | `ulfm` | whether the ranks of an MPI world survive the loss of one of them |

pub(crate) mod bounded_command;
pub(crate) mod event;
pub(crate) mod file_probe;
pub(crate) mod file_size_limit;
pub(crate) mod http_client;
pub(crate) mod launch;
pub(crate) mod launcher;
pub(crate) mod open_files;
pub(crate) mod own_program;
pub(crate) mod private_file;
pub(crate) mod process_watch;
pub(crate) mod strangers;
pub(crate) mod ulfm;
