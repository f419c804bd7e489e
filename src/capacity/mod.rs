//! Nodes that a run asks for while it goes on, and gives back.
//!
//! A *block* is one node and one world on it, which joins the run over the bridge. Each block comes and goes alone, whatever job of the scheduler
//! it is part of.
//!
//! | file | one idea |
//! |---|---|
//! | `blocks` | the life of each block, without I/O |
//! | `nodes` | the node table: blocks joined with the ranks on them, without I/O |
//! | `provider` | who gives nodes, as the run sees it |
//! | `local` | further processes on this machine, or on the hosts of a hostfile |
//! | `slurm/` | further jobs, and the nodes of the job that the run was started in |
//!
//! A block outlives nobody: its process hangs on the coordinator's link and leaves within seconds when that is gone, and one that starts after
//! the run has ended finds nobody to join and ends at once.

pub mod blocks;
pub mod local;
pub mod nodes;
pub mod provider;
pub mod slurm;

pub use blocks::{Block, BlockId, Blocks, Event, Grant, Note, Order, State};
pub use nodes::{Arrival, JoinedWorld, NodeTable, RankEntry, RankFacts};
pub use provider::{Launch, Provider};
