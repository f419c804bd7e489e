//! What `[capacity]` of the job file means: where further nodes come from.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[capacity]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// `provider`.
    pub provider: ProviderKind,
    /// `partition` of Slurm.
    pub partition: Option<String>,
    /// `nodes_per_block`: a request for several nodes is put to Slurm as jobs of at most so many.
    pub nodes_per_block: u32,
    /// `hostfile`: the hosts of the provider `local`, relative to where Phalanx is started.
    pub hostfile: Option<PathBuf>,
    /// `time`: how long a block may last; the partition's default if absent.
    pub time: Option<Duration>,
    /// `extra`: further options of `sbatch`.
    pub extra: Vec<String>,
    /// `listen`: the address of rank 0's node that blocks connect to.
    pub listen: Option<String>,
}

impl Capacity {
    /// Where rank 0 listens for blocks; `None` if there will be none.
    pub fn address(&self) -> Option<String> {
        let usual = match self.provider {
            ProviderKind::None => return self.listen.clone(),
            ProviderKind::Local if self.hostfile.is_none() => "127.0.0.1".to_owned(),
            ProviderKind::Local | ProviderKind::Slurm => host_name(),
        };
        Some(self.listen.clone().unwrap_or(usual))
    }
}

/// The address by which others reach this machine, unless somebody knows better.
pub fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "0.0.0.0".to_owned())
}

/// Who gives nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Nobody: ranks can only be parked.
    #[default]
    None,
    /// This machine, by further processes.
    Local,
    /// Slurm, by further jobs.
    Slurm,
}
