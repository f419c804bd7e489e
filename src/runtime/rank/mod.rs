//! What every rank does during a run, from its setup to its leave.
//!
//! | file | one idea |
//! |---|---|
//! | `worker_main` | the life of a rank other than rank 0 (rank 0: `coordinator/launch`) |
//! | `setup` | what a rank has and is to run; starts its slots and its engine from that |
//! | `main_loop` | the main thread: timers, signals, and frames while slots are busy or asleep |
//! | `engine` | frames and outboxes into the state machines, their actions carried out |
//! | `driving` | the lock of the engine, which slots use without ever waiting for it |
//! | `executor` | what a slot does between two tasks: run, count, pass on |
//! | `shared` | what slots and engine share |
//! | `leases` | items of the pool, and the leases that they represent |
//! | `intra_node` | completions between ranks of one node, without the engine |
//! | `gangs` | slots set aside for tasks on several ranks, and those tasks |
//! | `gang_link` | what the ranks of an operation on a divided graph exchange |
//! | `piece_queue` | pieces of gangs and of files that the engine is to send |
//! | `file_link` | files on their way between ranks |
//! | `file_service` | what a rank does for others that ask it for files |
//! | `output_link` | output of tasks on a rank that does not see the run directory |
//! | `outbox` | the state of one slot, and what it leaves for the engine |
//! | `paused_tasks` | tasks that the user has paused |
//! | `passed_files` | what staged tasks read of each other |
//! | `live_job` | the job of the start, and tasks that were added since |
//! | `offers` | tasks that attempts add: the slot waits for rank 0's answer |
//! | `ledger_epochs` | the ledgers that items of the pool may name |
//! | `task_timer` | when the tasks of a slot began and ended |
//! | `telemetry` | values, reasons and resource usage on their way to rank 0 |
//! | `coordinator_watch` | whether rank 0 is still there, and what the rank does if it is not |
//! | `sent_reports` | the reports of the last seconds, which are kept for a resume if rank 0 is lost |
//! | `resource_monitor` | samples what the rank and its node use |
//! | `slot_breather` | lets more slots run tasks while CPUs idle, and fewer when CPUs or memory are scarce |
//!
//! The executor owns the engine; both hold [`shared`]. Nothing refers back.

mod coordinator_watch;
mod driving;
mod engine;
pub(super) mod executor;
mod file_link;
mod file_service;
mod gang_link;
mod gangs;
mod intra_node;
mod leases;
mod ledger_epochs;
mod live_job;
pub(super) mod main_loop;
mod offers;
mod outbox;
mod output_link;
mod passed_files;
mod paused_tasks;
mod piece_queue;
mod resource_monitor;
mod sent_reports;
pub(super) mod setup;
mod shared;
mod slot_breather;
mod task_timer;
mod telemetry;
pub(super) mod worker_main;
