//! Temporary files of a run (`keep = false`): they live below the node's level until their last
//! reader is done.
//!
//! They are no contents of the level: nobody hashes them, and only those who read them decide how
//! long they stay. A file is moved there as the task left it, and readers get copies. Where a run
//! has ranks on several nodes, a copy in the run directory serves the others. What a run that was
//! killed has left is removed after a week.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::Digest;
use super::content::{copy_tree, lexical, place_copy, remove_tree};

/// Directory of the files, below the node's level and below the run directory.
const HELD: &str = "held";
/// Files older than this were left by a run that was killed.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where the temporary files of a run are.
#[derive(Clone, Debug)]
pub struct HeldFiles {
    node: PathBuf,
    run: PathBuf,
    /// Other nodes may read what this one makes.
    is_shared: bool,
}

impl HeldFiles {
    /// Those of a run, below the directory of the node's level.
    pub fn new(node_dir: &Path, run_dir: &Path, is_shared: bool) -> HeldFiles {
        HeldFiles { node: node_dir.join(HELD), run: run_dir.join(HELD), is_shared }
    }

    /// The name of a file: runs do not share any, and a file has one however it is written.
    fn name(&self, file: &Path) -> String {
        let text = [self.run.as_os_str(), lexical(file).as_os_str()].map(|part| part.as_encoded_bytes().to_vec());
        Digest::of(&text.join(&0)).to_string()
    }

    /// Where a file is on the node.
    pub fn place(&self, file: &Path) -> PathBuf {
        self.node.join(self.name(file))
    }

    fn place_of_all(&self, file: &Path) -> PathBuf {
        self.run.join(self.name(file))
    }

    /// Where a file is, if this node can read it.
    pub fn find(&self, file: &Path) -> Option<PathBuf> {
        [self.place(file), self.place_of_all(file)].into_iter().find(|place| place.symlink_metadata().is_ok())
    }

    /// Takes over what a task has left at `from`, on the disk of the node. Returns the number of
    /// bytes that were copied to the run directory.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn hold(&self, from: &Path, file: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.node)?;
        let place = self.place(file);
        if fs::symlink_metadata(from)?.is_symlink() {
            // What a link leads to is held.
            place_copy(&fs::canonicalize(from)?, &place, is_given_up)?;
        } else {
            remove_tree(&place);
            fs::rename(from, &place)?;
        }
        self.publish(file, is_given_up)
    }

    /// Copies a file of this node to the run directory if other nodes may read it.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn publish(&self, file: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        if !self.is_shared {
            return Ok(0);
        }
        place_copy(&self.place(file), &self.place_of_all(file), is_given_up)
    }

    /// Copies a file to where a task reads it. Returns the number of bytes, and how many of them
    /// the node did not have; `None` if there is no such file.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn stage_in(&self, file: &Path, to: &Path, is_given_up: &AtomicBool) -> io::Result<Option<(u64, u64)>> {
        let (place, place_of_all) = (self.place(file), self.place_of_all(file));
        let mut fetched = 0;
        if place.symlink_metadata().is_err() {
            if place_of_all.symlink_metadata().is_err() {
                return Ok(None);
            }
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.node)?;
            fetched = place_copy(&place_of_all, &place, is_given_up)?;
        }
        copy_tree(&place, to, is_given_up).map(|bytes| Some((bytes, fetched)))
    }

    /// Removes a file that nobody reads any more.
    pub fn discard(&self, file: &Path) {
        [self.place(file), self.place_of_all(file)].iter().for_each(|place| remove_tree(place));
    }

    /// Removes what runs have left that were killed.
    pub fn remove_abandoned(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let is_old = |entry: &fs::DirEntry| {
            // A file keeps the time at which the task wrote it; moving it changed this one.
            let changed = entry.metadata().map_or(now, |meta| u64::try_from(meta.ctime()).unwrap_or(now));
            now.saturating_sub(changed) > ABANDONED.as_secs()
        };
        let entries = fs::read_dir(&self.node).into_iter().flatten().flatten();
        entries.filter(is_old).for_each(|entry| remove_tree(&entry.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_file_reaches_other_nodes_and_goes_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let go = AtomicBool::new(false);
        let held = |node: &str, is_shared| HeldFiles::new(&path(node), &path("run"), is_shared);
        let (here, there) = (held("a", true), held("b", true));
        fs::create_dir(path("made")).unwrap();
        fs::write(path("made/x"), "content").unwrap();
        let file = Path::new("/job/./sub/../tmp.bin");
        assert_eq!(here.hold(&path("made"), file, &go).unwrap(), 7);
        assert!(!path("made").exists());
        let file = Path::new("/job/tmp.bin");
        assert_eq!(here.stage_in(file, &path("one"), &go).unwrap(), Some((7, 0)));
        assert_eq!(there.stage_in(file, &path("two"), &go).unwrap(), Some((7, 7)));
        assert_eq!(there.stage_in(file, &path("three"), &go).unwrap(), Some((7, 0)));
        fs::write(path("one/x"), "changed").unwrap();
        assert_eq!(fs::read_to_string(path("three/x")).unwrap(), "content");
        assert_eq!(here.stage_in(Path::new("/job/else"), &path("four"), &go).unwrap(), None);
        // An attempt that comes later replaces it.
        fs::write(path("made"), "again").unwrap();
        assert_eq!(here.hold(&path("made"), file, &go).unwrap(), 5);
        assert_eq!(fs::read_to_string(here.find(file).unwrap()).unwrap(), "again");
        here.discard(file);
        there.discard(file);
        assert_eq!((here.find(file), there.find(file)), (None, None));
        // One node alone touches no other disk.
        fs::write(path("made"), "x").unwrap();
        assert_eq!(held("a", false).hold(&path("made"), file, &go).unwrap(), 0);
        assert_eq!(fs::read_dir(path("run/held")).unwrap().count(), 0);
        held("a", false).remove_abandoned();
        assert!(here.find(file).is_some(), "it is young");
        assert_eq!(HeldFiles::new(&path("a"), &path("run-2"), true).find(file), None, "runs do not share any");
    }
}
