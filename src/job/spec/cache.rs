//! `[cache]`, and `cache` of a task, as typed.

use crate::job::read::section;
use crate::job::values::{DurationSpec, SizeSpec, Strings};

section! {
    /// Where results of tasks are kept, so that equal tasks are not run again
    CacheSpec {
        /// Directory that nodes, runs and users share, relative to the directory of the job
        dir: String = "none",
        /// Directory on the disk of each node
        node_dir: String = "phalanx-USER in the node's directory for temporary files",
        /// Maximum size of the directory on a node; the least recently used results go first
        size: SizeSpec = "\"20G\"",
        /// How long results are kept unused in memory and on a node; adapts to the hit rate of each
        /// class
        ttl: DurationSpec = "\"300s\" in memory; on a node until the space is needed",
    }
}

section! {
    /// How a task uses the cache
    CacheTable {
        /// Text that is part of the key: with another text the task runs again
        salt: String,
        /// Environment variables whose values do not matter
        ignore_env: Strings,
    }
}
