//! What every rank does.

mod driving;
mod engine;
pub(in crate::runtime) mod executor;
mod gangs;
mod intra_node;
mod leases;
mod ledger_epochs;
pub(in crate::runtime) mod main_loop;
mod outbox;
mod resource_monitor;
pub(in crate::runtime) mod setup;
mod task_timer;
mod telemetry;
pub(in crate::runtime) mod worker_main;
