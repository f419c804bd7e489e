//! Which directories several tasks write into. What a task without a directory of its own on the
//! node has left in one cannot be told from what others have.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::TaskSource;
use crate::job::WrittenFiles;
use crate::model::TaskId;

/// The directories that the tasks of a run write into.
pub(super) struct SharedDirs {
    /// The run directory and the one in which the run was started: what holds these is shared.
    kept: Vec<PathBuf>,
    sources: RwLock<Vec<Arc<SourcePlaces>>>,
}

/// Where the tasks of a source write: found out when it is first asked for, as that takes a look at
/// every task.
struct SourcePlaces {
    source: Arc<dyn TaskSource>,
    places: OnceLock<WrittenFiles<Option<TaskId>>>,
}

impl SharedDirs {
    /// Those of a run in this directory.
    pub(super) fn new(run_dir: Option<&Path>) -> SharedDirs {
        let kept = run_dir.map(Path::to_owned).into_iter().chain(std::env::current_dir());
        let kept = kept.map(|dir| dir.canonicalize().unwrap_or(dir)).collect();
        SharedDirs { kept, sources: RwLock::default() }
    }

    /// Further tasks.
    pub(super) fn add(&self, source: Arc<dyn TaskSource>) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        sources.push(Arc::new(SourcePlaces { source, places: OnceLock::new() }));
    }

    /// True if others than this task write a directory, into it or around it; the files for
    /// standard output and standard error are of others.
    pub(super) fn is_shared(&self, task: TaskId, dir: &Path) -> bool {
        if self.kept.iter().any(|kept| kept.starts_with(dir)) {
            return true;
        }
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner).clone();
        sources.iter().any(|it| it.places.get_or_init(|| it.source.written_places()).has_other(dir, task))
    }
}
