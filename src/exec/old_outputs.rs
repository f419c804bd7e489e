//! Outputs that are there before an attempt, and that it leaves as they were: those of an earlier
//! attempt. A command that finds its outputs up to date may leave them alone, so that fails
//! nothing, but they are not what this attempt has made.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::used_files::{MAX_LISTING_TIME, listing};
use crate::job::Task;

/// Minimum age of a file of which a change shows in its times: the coarsest clock of the kernel
/// ticks every 10 ms.
const MIN_AGE: Duration = Duration::from_millis(20);
/// The same for a file system that keeps whole seconds, or every other one.
const MIN_AGE_IN_SECONDS: Duration = Duration::from_secs(3);

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([i64; 7]);

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Stamp {
        let [dev, ino, size] = [meta.dev() as i64, meta.ino() as i64, meta.len() as i64];
        Stamp([dev, ino, size, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()])
    }
}

/// What shows that an output has been written: the stamps of its name and of what a link leads to,
/// and for a directory what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written([Stamp; 2], Option<u64>);

/// The outputs that are there before an attempt.
#[derive(Debug, Default)]
pub(super) struct OldOutputs(Vec<(PathBuf, PathBuf, Written)>);

impl OldOutputs {
    /// Those of a task. A directory counts only if the result is to be stored: to list it takes
    /// longer.
    pub(super) fn of(task: &Task) -> OldOutputs {
        let old = |file: &PathBuf| {
            let path = task.dir.join(file);
            let written = written(&path, task.cache.is_some())?;
            Some((file.clone(), path, written))
        };
        OldOutputs(task.outputs.iter().filter_map(|(file, _)| old(file)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are still as they were.
    pub(super) fn untouched(self) -> Vec<PathBuf> {
        let is_same = |path: &Path, was: &Written| {
            if fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
                // A network file system asks its server again when a file is opened.
                let _ = File::open(path);
            }
            written(path, true).as_ref() == Some(was)
        };
        let same = self.0.into_iter().filter(|(_, path, was)| is_same(path, was));
        same.map(|(file, ..)| file).collect()
    }
}

/// `None` if it is not there, or too young for a change to show.
fn written(path: &Path, lists: bool) -> Option<Written> {
    let (link, meta) = (fs::symlink_metadata(path).ok()?, fs::metadata(path).ok()?);
    let changed = Duration::new(meta.ctime().try_into().ok()?, meta.ctime_nsec().try_into().ok()?);
    let min_age = if meta.mtime_nsec() == 0 && meta.ctime_nsec() == 0 { MIN_AGE_IN_SECONDS } else { MIN_AGE };
    let is_young = SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.abs_diff(changed) < min_age);
    let inside = match (meta.is_dir(), meta.is_file()) {
        (true, _) if lists => Some(listing(path, MAX_LISTING_TIME)?),
        (_, true) => None,
        _ => return None,
    };
    (!is_young).then(|| Written([Stamp::of(&link), Stamp::of(&meta)], inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_it_was_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["kept", "rewritten", "replaced", "removed", "target"] {
            fs::write(at(name), "text").unwrap();
        }
        fs::create_dir(at("tree")).unwrap();
        fs::write(at("tree/leaf"), "text").unwrap();
        std::os::unix::fs::symlink("target", at("link")).unwrap();
        std::thread::sleep(MIN_AGE * 2);
        fs::write(at("young"), "text").unwrap();
        let names = ["kept", "rewritten", "replaced", "removed", "link", "young", "tree", "absent"];
        let old = |names: &[&str]| {
            let old = |name: &&str| Some((PathBuf::from(name), at(name), written(&at(name), true)?));
            OldOutputs(names.iter().filter_map(old).collect())
        };
        assert!(old(&["young", "absent"]).is_empty());
        let before = old(&names);
        fs::write(at("rewritten"), "text").unwrap();
        fs::write(at("new"), "text").unwrap();
        fs::rename(at("new"), at("replaced")).unwrap();
        fs::remove_file(at("removed")).unwrap();
        assert_eq!(before.untouched(), ["kept", "link", "tree"].map(PathBuf::from));
        let before = old(&["tree", "link"]);
        fs::write(at("tree/leaf"), "other").unwrap();
        fs::write(at("target"), "other").unwrap();
        assert!(before.untouched().is_empty());
    }
}
