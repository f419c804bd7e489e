//! Settings of the result cache: of the job, and of a task.

use std::path::PathBuf;
use std::time::Duration;

/// Default maximum size of the cache on a node, in bytes.
pub(super) const DEFAULT_SIZE: u64 = 20 << 30;

/// `[cache]`: where results of tasks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// `dir`: directory that runs, nodes and users share (absolute).
    pub dir: Option<PathBuf>,
    /// `node_dir`: directory on the disk of each node (absolute); `None`: the user's own below the
    /// node's directory for temporary files.
    pub node_dir: Option<PathBuf>,
    /// `size`: maximum size of the directory on a node, in bytes.
    pub size: u64,
    /// `ttl`: how long results are kept unused in memory and on a node; `None`: by default.
    pub ttl: Option<Duration>,
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings { dir: None, node_dir: None, size: DEFAULT_SIZE, ttl: None }
    }
}

/// `cache` of a task: it takes the result of an equal task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheRules {
    /// Text that is part of the key.
    pub salt: String,
    /// Names of environment variables that are not.
    pub ignore_env: Vec<String>,
}
