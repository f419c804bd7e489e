//! Which directories several tasks write into. What a task leaves takes the place of a directory
//! that is its own; into one that it shares it is merged.

use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::TaskSource;
use crate::job::WrittenFiles;
use crate::model::TaskId;

/// The directories that the tasks of a run write into.
#[derive(Default)]
pub(super) struct SharedDirs {
    sources: RwLock<Vec<Arc<SourcePlaces>>>,
}

/// Where the tasks of a source write: found out when it is first asked for, as that takes a look at
/// every task.
struct SourcePlaces {
    source: Arc<dyn TaskSource>,
    places: OnceLock<WrittenFiles<Option<TaskId>>>,
}

impl SharedDirs {
    /// Further tasks.
    pub(super) fn add(&self, source: Arc<dyn TaskSource>) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        sources.push(Arc::new(SourcePlaces { source, places: OnceLock::new() }));
    }

    /// True if others than this task write a directory, into it or around it; the files for
    /// standard output and standard error are of others.
    pub(super) fn is_shared(&self, task: TaskId, dir: &Path) -> bool {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner).clone();
        sources.iter().any(|it| it.places.get_or_init(|| it.source.written_places()).has_other(dir, task))
    }
}
