//! Nodes that a run requests and releases while it runs.
//!
//! A *block* is one node with one world on it, which joins the run over the bridge. Each block
//! arrives and leaves alone, even if it shares a job of the scheduler with others.
//!
//! | file | one idea |
//! |---|---|
//! | `blocks` | the life of each block, and which sites are asked for it, without I/O |
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

pub use blocks::{
    Bill, Block, BlockEvent, BlockId, BlockNote, Blocks, NodeGrant, OverdueNeed, ProviderOrder, SiteId, State, Wanted,
};
use std::path::{Path, PathBuf};

use crate::journal::EndedSessions;

pub use nodes::{Arrival, JoinedWorld, NodeRank, NodeTable, RankFacts};
pub use provider::{Launch, Provider};

/// Precedes the name of a site in the name of its folder.
const SITE_FOLDER: &str = "site-";

/// The folder of a site in that of all blocks: the output of its blocks, and the file of the jobs
/// that it may have in a queue. `None`: the site of `[capacity]`.
pub fn folder_of(blocks: &Path, site: Option<&str>) -> PathBuf {
    site.map_or_else(|| blocks.to_owned(), |site| blocks.join(format!("{SITE_FOLDER}{site}")))
}

/// Cancels jobs of all sites that sessions which are over may have left, according to the files in
/// the folder of the run's blocks. Returns their names.
///
/// # Errors
/// If a batch system refuses, or a session may still run. The other sites' jobs are cancelled.
pub fn withdraw_all(blocks: &Path, ended: &EndedSessions) -> Result<Vec<String>, String> {
    let (mut gone, mut refused) = (Vec::new(), Vec::new());
    for folder in std::iter::once(blocks.to_owned()).chain(site_folders(blocks)) {
        for result in [commands::withdraw_left(&folder, ended), slurm::withdraw_abandoned(&folder, ended)] {
            match result {
                Ok(jobs) => gone.extend(jobs),
                Err(why) => refused.push(why),
            }
        }
    }
    if refused.is_empty() { Ok(gone) } else { Err(refused.join("; ")) }
}

/// Cancels jobs that earlier sessions may have left at sites that the job has no more; returns why
/// others may still be there.
pub fn withdraw_others(blocks: &Path, sites: &[Option<&str>], ended: &EndedSessions) -> Vec<String> {
    let kept: Vec<PathBuf> = sites.iter().map(|site| folder_of(blocks, *site)).collect();
    let folders = std::iter::once(blocks.to_owned()).chain(site_folders(blocks));
    let others = folders.filter(|folder| !kept.contains(folder) && folder.exists());
    let withdraw =
        |folder: PathBuf| [commands::withdraw_left(&folder, ended), slurm::withdraw_abandoned(&folder, ended)];
    others.flat_map(withdraw).filter_map(Result::err).collect()
}

fn site_folders(blocks: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(blocks).into_iter().flatten().flatten();
    let is_site = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(SITE_FOLDER);
    let mut folders: Vec<PathBuf> = entries.filter(is_site).map(|entry| entry.path()).collect();
    folders.sort();
    folders
}
