//! What rank 0 does besides running tasks, in the order of a run.
//!
//! | step | file | what it does |
//! |---|---|---|
//! | prepare | `prepare`, `resume`, `run_history` | reads the job, opens the run directory, finds complete tasks, completes estimates |
//! | | `auto_memory` | what tasks with `memory = "auto"` ask for at first |
//! | | `part_of_job`, `run_files` | what a selection leaves out, which files a resume compares |
//! | | `live_twin` | refuses a run beside a live one that writes the same files |
//! | | `recalled` | finds completed tasks that the last session's job did not have |
//! | | `preview` | what a run would do, for `--dry-run` |
//! | launch | `launch`, `pricing` | handshake, hand-out, records the beginning, builds the driver |
//! | drive | `driver` | delivers messages, timers and signals to the coordinator, carries out its actions |
//! | | `file_transfers` | names sources of files, lets ranks leave when they have sent them |
//! | | `recording` | journal, progress, history |
//! | | `limits`, `walltime` | signals, budget and the end of the allocation |
//! | nodes | `join_listener`, `join_address` | admits ranks, detects lost ones |
//! | | `provisioner` | requests and releases nodes |
//! | | `planned_sites` | what is known of sites before they are asked |
//! | | `membership` | keeps coordinator, node table and provider consistent |
//! | scale | `autoscaler`, `scaling`, `advisor_client` | shows the run to the scaling controller, carries out its decisions |
//! | control | `commands`, `status`, `explain`, `pools` | what users ask at the control socket |
//! | conclude | `driver`, `launch` | writes the end, closes links, gives nodes back, closes the journal |
//!
//! The end is on disk before anything that may take long, so no run claims what its journal does
//! not say. Decisions are made elsewhere: `schedule` (tasks and ranks), `scale` (number of ranks).

mod additions;
mod advisor_client;
mod auto_memory;
mod autoscaler;
mod changed_needs;
mod commands;
pub(super) mod driver;
mod explain;
mod file_transfers;
mod join_address;
mod join_listener;
pub(super) mod launch;
mod limits;
mod live_twin;
mod membership;
mod part_of_job;
mod planned_sites;
mod pools;
mod prepare;
mod preview;
mod pricing;
mod provisioner;
mod recalled;
mod recording;
pub mod resume;
mod resumed_job;
mod run_files;
mod run_history;
mod scaling;
mod status;
mod walltime;

pub use auto_memory::{auto_memory, earlier_runs};
pub use planned_sites::planned_sites;
pub use preview::{PlannedTask, RunPreview, UnfinishedRun, find_unfinished_run, preview};
pub use provisioner::BLOCKS;
pub use run_history::{kind_of, recall};
