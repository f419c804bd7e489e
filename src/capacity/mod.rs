//! Nodes that a run asks for while it goes on, and gives back.
//!
//! A *block* is one node and one world on it, which joins the run over the bridge. Nodes are asked for one by one, so that each comes as soon as it
//! is free and goes alone: giving one back is the end of its block, and needs no right to shrink an allocation.
//!
//! | file | one idea |
//! |---|---|
//! | `blocks` | the life of each block, without I/O |
//! | `provider` | who gives nodes, as the run sees it |
//! | `local` | further processes on this machine |
//! | `slurm` | one batch job for each node |
//!
//! A block outlives nobody: its process hangs on the coordinator's link and leaves within seconds when that is gone, and one that starts after
//! the run has ended finds nobody to join and ends at once.

pub mod blocks;
pub mod local;
pub mod provider;
pub mod slurm;

pub use blocks::{Block, BlockId, Blocks, Event, Note, State};
pub use provider::{Order, Provider};
