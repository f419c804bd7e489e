//! Brings files to the node before the tasks that read them have a slot.
//!
//! Only what other ranks send is brought: temporary outputs of other nodes, and on a rank that is
//! away the other files that the store of its node does not have. They go where the attempt looks
//! for them; locks there make an attempt wait for what is on its way instead of asking for it
//! again.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::away::TaskFiles;
use super::{FileCarrier, Runner};
use crate::job::Task;
use crate::model::{CarriedFile, TaskId};
use crate::store::{HeldFiles, Store, remove_tree};

/// What has become of a task while files are brought for it.
#[derive(Debug, Default)]
pub struct AheadFlags {
    /// It goes elsewhere, or the run is over.
    pub is_given_up: AtomicBool,
    /// It has begun: it waits for the file that is on its way, and brings the others itself.
    pub is_awaited: AtomicBool,
    /// What is on its way now, as [`FileCarrier::needs`] names it.
    pub file: Mutex<String>,
}

impl AheadFlags {
    fn begin(&self, file: String) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    fn is_over(&self) -> bool {
        self.is_given_up.load(Relaxed) || self.is_awaited.load(Relaxed)
    }
}

impl Runner {
    /// Brings the files of a task that waits for a slot. Returns their number and their bytes.
    pub fn bring_ahead(&self, task: TaskId, flags: &AheadFlags) -> (u64, u64) {
        let Ok((task, _)) = self.expanded(task) else { return (0, 0) };
        let Some(carrier) = self.site.carrier.as_ref().filter(|_| task.is_staged) else { return (0, 0) };
        let mut came = (0, 0);
        let brought = match (self.site.is_away, self.cache.held()) {
            (true, _) => self
                .stages
                .ahead(self.cache.store(), task.id)
                .and_then(|place| bring_contents(self.cache.store(), &**carrier, &task, &place, flags, &mut came)),
            // The store makes its directory first: it takes none that holds other files.
            (false, Some(held)) => (self.cache.store().node_dir().map(drop))
                .and_then(|()| bring_held(held, &**carrier, &task, flags, &mut came)),
            (false, None) => Ok(()),
        };
        if let Err(error) = brought {
            tracing::debug!("files of {} come when it starts: {error}", task.name);
        }
        came
    }
}

fn count(came: &mut (u64, u64), bytes: u64) {
    *came = (came.0 + u64::from(bytes > 0), came.1 + bytes);
}

/// Brings temporary outputs of other nodes.
fn bring_held(
    held: &Arc<HeldFiles>,
    carrier: &dyn FileCarrier,
    task: &Task,
    flags: &AheadFlags,
    came: &mut (u64, u64),
) -> io::Result<()> {
    for (file, _) in &task.inputs {
        if flags.is_over() {
            break;
        }
        let carry = |name: &crate::store::Digest, version: u64, to: &Path| {
            let file = CarriedFile::Held { name: *name.bytes(), version };
            carrier.fetch_ahead(&file, to, flags).ok()
        };
        flags.begin(HeldFiles::digest(&task.dir.join(file)).to_string());
        count(came, held.bring(&task.dir.join(file), &carry, &flags.is_given_up)?);
    }
    Ok(())
}

/// Brings what the store of a node does not have that is away.
fn bring_contents(
    store: &Store,
    carrier: &dyn FileCarrier,
    task: &Task,
    place: &Path,
    flags: &AheadFlags,
    came: &mut (u64, u64),
) -> io::Result<()> {
    let planned = carrier.plan(task.id, &flags.is_given_up)?;
    let found: TaskFiles = postcard::from_bytes(&planned).map_err(io::Error::other)?;
    for (name, content) in found.files.iter().filter(|(_, content)| store.lacks(content)) {
        if flags.is_over() {
            break;
        }
        flags.begin(content.identity());
        let file = CarriedFile::Input { task: task.id, file: name.clone() };
        let fetch = |to: &Path| carrier.fetch_ahead(&file, to, flags);
        let received = store.receive(content, place, &fetch, &flags.is_given_up);
        // The store has it.
        remove_tree(place);
        count(came, received?.read);
    }
    Ok(())
}
