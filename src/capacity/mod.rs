//! Nodes that a run requests and releases while it runs.
//!
//! A *block* is one node with one world on it, which joins the run over the bridge. Each block
//! arrives and leaves alone, even if it shares a job of the scheduler with others.
//!
//! | file | one idea |
//! |---|---|
//! | `blocks` | the life of each block, without I/O |
//! | `nodes` | the node table: blocks joined with the ranks on them, without I/O |
//! | `provider` | the interface of what gives nodes |
//! | `local` | further processes on this machine, or on the hosts of a hostfile |
//! | `commands/` | jobs of any batch system, through command lines of the job file |
//! | `slurm/` | further jobs, and the nodes of the job that the run was started in |
//!
//! No block outlives its run: its process exits within seconds when the link to the coordinator
//! ends, and one that starts after the end of the run finds no run to join and exits at once.

pub mod blocks;
pub mod commands;
pub mod local;
pub mod nodes;
pub mod provider;
pub mod slurm;

pub use blocks::{Block, BlockEvent, BlockId, BlockNote, Blocks, NodeGrant, ProviderOrder, State};
pub use nodes::{Arrival, JoinedWorld, NodeRank, NodeTable, RankFacts};
pub use provider::{Launch, Provider};
