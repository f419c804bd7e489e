//! Temporary files of a run (`keep = false`): they live below the node's level until their last
//! reader is done.
//!
//! They are no contents of the level: nobody hashes them, and only those who read them decide how
//! long they stay. A file is moved there as the task left it, and readers get copies.
//!
//! Each run has a directory there, and in it one for each file. Where ranks of several nodes take
//! part, the copy in the run directory is the file, and its time is its version: a node's copy has
//! the version for a name, so one that a later attempt has made stale is not taken, and none is
//! replaced while others read it.
//!
//! Processes of a run share a lock on its directory. One that nobody locks goes a week after its
//! run has ended.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Digest;
use super::content::{copy_tree, lexical, not_given_up, remove_tree};
use super::delivery::{place_copy, place_with};

/// Directory of the files, below the node's level and below the run directory.
const HELD: &str = "held";
/// Name of a file that no other node knows, in its directory.
const MADE: &str = "made";
/// What a run has left is removed after this time.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Pause while another reader fetches the same file.
pub(super) const FETCH_PAUSE: Duration = Duration::from_millis(20);

/// Brings a version of a file from another rank to a place where nothing is. `None` if no rank has
/// sent it.
pub type CarryHeld<'a> = dyn Fn(&Digest, u64, &Path) -> Option<u64> + 'a;

/// Bytes of a temporary file that was brought to where a task reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldIn {
    /// All of them.
    pub bytes: u64,
    /// Those of them that the node did not have.
    pub fetched: u64,
    /// Those of these that another rank has sent.
    pub received: u64,
}

/// Where the temporary files of a run are.
#[derive(Debug)]
pub struct HeldFiles {
    /// Those of all runs on the node.
    all: PathBuf,
    /// Those of this run on the node, and in its own directory.
    node: PathBuf,
    run: PathBuf,
    /// Other nodes may read what this one makes.
    is_shared: bool,
    /// The directory on the node, locked.
    lock: Mutex<Option<File>>,
}

impl HeldFiles {
    /// Those of a run, below the directory of the node's level.
    pub fn new(node_dir: &Path, run_dir: &Path, is_shared: bool) -> HeldFiles {
        let (all, run) = (node_dir.join(HELD), run_dir.join(HELD));
        let node = all.join(Digest::of(run.as_os_str().as_encoded_bytes()).to_string());
        HeldFiles { all, node, run, is_shared, lock: Mutex::default() }
    }

    /// The name of a file: it has one however it is written.
    pub fn digest(file: &Path) -> Digest {
        Digest::of(lexical(file).as_os_str().as_encoded_bytes())
    }

    fn name(file: &Path) -> String {
        Self::digest(file).to_string()
    }

    /// Where a file is put on the node.
    pub fn place(&self, file: &Path) -> PathBuf {
        self.node.join(Self::name(file)).join(MADE)
    }

    /// The version of a file that other nodes know.
    pub fn version_of(&self, file: &Path) -> Option<u64> {
        self.version(&Self::name(file))
    }

    /// Where this version of a file is, in the node's directory or in that of the run.
    pub fn find_version(&self, name: &Digest, version: u64) -> Option<PathBuf> {
        let name = name.to_string();
        let copy = self.node.join(&name).join(version.to_string());
        let is_current = || self.version(&name) == Some(version);
        is_there(&copy).then_some(copy).or_else(|| is_current().then(|| self.run.join(&name)))
    }

    /// The version of a file that other nodes know.
    fn version(&self, name: &str) -> Option<u64> {
        let modified = self.run.join(name).symlink_metadata().ok()?.mtime();
        Some(u64::try_from(modified).unwrap_or(0))
    }

    /// Where a file is, if this node can read it.
    pub fn find(&self, file: &Path) -> Option<PathBuf> {
        let name = Self::name(file);
        match self.version(&name) {
            Some(version) => {
                let copy = self.node.join(&name).join(version.to_string());
                Some(if is_there(&copy) { copy } else { self.run.join(&name) })
            }
            None => Some(self.place(file)).filter(|place| !self.is_shared && is_there(place)),
        }
    }

    /// Makes the directory of the run on the node, and keeps it while this value lives.
    ///
    /// # Errors
    /// Of the file system.
    pub fn enter(&self) -> io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while lock.is_none() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.node)?;
            let dir = match File::open(&self.node) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                dir => dir?,
            };
            // Without file locks nobody removes it. With them, somebody may have done so meanwhile.
            let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
            let is_locked = dir.lock_shared().is_ok();
            if !is_locked || dir.metadata().ok().map(id) == fs::metadata(&self.node).ok().map(id) {
                *lock = Some(dir);
            }
        }
        Ok(())
    }

    /// Takes over what a task has left at `from`, on the disk of the node. Returns the number of
    /// bytes that were copied to the run directory.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn hold(&self, from: &Path, file: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        self.enter()?;
        not_given_up(is_given_up)?;
        let (name, place) = (Self::name(file), self.place(file));
        remove_tree(&self.node.join(&name));
        fs::create_dir_all(self.node.join(&name))?;
        if fs::symlink_metadata(from)?.is_symlink() {
            // What a link leads to is held.
            place_copy(&fs::canonicalize(from)?, &place, is_given_up)?;
        } else {
            fs::rename(from, &place)?;
        }
        self.publish(file, is_given_up)
    }

    /// Copies what stands at the place of a file to the run directory if other nodes may read it.
    /// Else a copy that is there is of an earlier attempt, and goes.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn publish(&self, file: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
        self.publish_named(&Self::name(file), is_given_up)
    }

    fn publish_named(&self, name: &str, is_given_up: &AtomicBool) -> io::Result<u64> {
        let (dir, shared) = (self.node.join(name), self.run.join(name));
        let place = dir.join(MADE);
        if !self.is_shared || !is_there(&place) {
            remove_tree(&shared);
            return Ok(0);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Whole seconds, as some file systems keep no more; two versions never have the same.
        let version = now.max(self.version(name).map_or(0, |earlier| earlier + 1));
        let bytes = place_with(&shared, &|temporary| {
            let bytes = copy_tree(&place, temporary, is_given_up)?;
            File::open(temporary)?.set_modified(UNIX_EPOCH + Duration::from_secs(version))?;
            not_given_up(is_given_up)?;
            Ok::<u64, io::Error>(bytes)
        })?;
        fs::rename(&place, dir.join(version.to_string()))?;
        Ok(bytes)
    }

    /// Publishes what a session on this node alone has left.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn publish_all(&self) -> io::Result<()> {
        if !is_there(&self.node) {
            return Ok(());
        }
        self.enter()?;
        for entry in fs::read_dir(&self.node)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_there(&entry.path().join(MADE)) && !is_there(&self.run.join(&name)) {
                self.publish_named(&name, &AtomicBool::new(false))?;
            }
        }
        Ok(())
    }

    /// Copies a file to where a task reads it; `None` if there is no such file. One that the node
    /// does not have comes as `carry` brings it, which gets name, version and place; where that
    /// brings nothing, from the run directory.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn stage_in(
        &self,
        file: &Path,
        to: &Path,
        carry: &CarryHeld<'_>,
        is_given_up: &AtomicBool,
    ) -> io::Result<Option<HeldIn>> {
        let Some(mut from) = self.find(file) else { return Ok(None) };
        let mut came = HeldIn::default();
        if from.starts_with(&self.run) {
            (from, came) = self.fetch(file, carry, is_given_up)?;
        }
        copy_tree(&from, to, is_given_up).map(|bytes| Some(HeldIn { bytes, ..came }))
    }

    /// Brings a file to the node that it does not have, as `carry` does. Returns the bytes that
    /// came; 0 if there is no such file, or it is here.
    ///
    /// # Errors
    /// Of the file systems.
    pub fn bring(&self, file: &Path, carry: &CarryHeld<'_>, is_given_up: &AtomicBool) -> io::Result<u64> {
        let is_elsewhere = self.find(file).is_some_and(|from| from.starts_with(&self.run));
        if is_elsewhere { self.fetch(file, carry, is_given_up).map(|(_, came)| came.fetched) } else { Ok(0) }
    }

    /// Brings a file to the node, unless another reader does so first. Returns where it is.
    fn fetch(&self, file: &Path, carry: &CarryHeld<'_>, is_given_up: &AtomicBool) -> io::Result<(PathBuf, HeldIn)> {
        self.enter()?;
        let name = Self::name(file);
        let dir = self.node.join(&name);
        fs::create_dir_all(&dir)?;
        let lock = File::open(&dir)?;
        while matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            not_given_up(is_given_up)?;
            std::thread::sleep(FETCH_PAUSE);
        }
        let version = self.version(&name).ok_or(io::ErrorKind::NotFound)?;
        let copy = dir.join(version.to_string());
        if is_there(&copy) {
            return Ok((copy, HeldIn::default()));
        }
        let carried = place_with(&copy, &|temporary| match carry(&Self::digest(file), version, temporary) {
            Some(bytes) => not_given_up(is_given_up).map(|()| bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        if let Ok(received) = carried {
            return Ok((copy, HeldIn { fetched: received, received, ..HeldIn::default() }));
        }
        let fetched = place_copy(&self.run.join(&name), &copy, is_given_up)?;
        Ok((copy, HeldIn { fetched, ..HeldIn::default() }))
    }

    /// Removes a file that nobody reads any more.
    pub fn discard(&self, file: &Path) {
        let name = Self::name(file);
        [&self.node, &self.run].iter().for_each(|dir| remove_tree(&dir.join(&name)));
    }

    /// Removes what runs have left that ended a week ago.
    pub fn remove_abandoned(&self) {
        // What an earlier session of this run has left stays.
        if is_there(&self.node) && self.enter().is_err() {
            return;
        }
        let is_old = |meta: io::Result<fs::Metadata>| {
            let age = meta.and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age > ABANDONED)
        };
        let entries = fs::read_dir(&self.all).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_old(entry.metadata())) {
            let Ok(dir) = File::open(entry.path()) else { continue };
            if dir.try_lock().is_ok() && is_old(dir.metadata()) {
                remove_tree(&entry.path());
            }
        }
    }
}

impl Drop for HeldFiles {
    fn drop(&mut self) {
        let Some(dir) = self.lock.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The week begins now.
        let _ = dir.set_modified(SystemTime::now());
        if dir.try_lock().is_ok() {
            // It stays if it holds anything.
            let _ = fs::remove_dir(&self.node);
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
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
        let stage_in = |held: &HeldFiles, file: &Path, to: &str| {
            let came = held.stage_in(file, &path(to), &|_, _, _| None, &go).unwrap();
            came.map(|came| (came.bytes, came.fetched))
        };
        fs::create_dir(path("made")).unwrap();
        fs::write(path("made/x"), "content").unwrap();
        let file = Path::new("/job/./sub/../tmp.bin");
        assert_eq!(here.hold(&path("made"), file, &go).unwrap(), 7);
        assert!(!path("made").exists());
        let file = Path::new("/job/tmp.bin");
        assert_eq!(stage_in(&here, file, "one"), Some((7, 0)));
        assert_eq!(stage_in(&there, file, "two"), Some((7, 7)));
        assert_eq!(stage_in(&there, file, "three"), Some((7, 0)));
        fs::write(path("one/x"), "changed").unwrap();
        assert_eq!(fs::read_to_string(path("three/x")).unwrap(), "content");
        assert_eq!(stage_in(&here, Path::new("/job/else"), "four"), None);
        // An attempt that comes later replaces it, on all nodes.
        fs::write(path("made"), "again").unwrap();
        assert_eq!(here.hold(&path("made"), file, &go).unwrap(), 5);
        assert_eq!(fs::read_to_string(here.find(file).unwrap()).unwrap(), "again");
        assert_eq!(stage_in(&there, file, "five"), Some((5, 5)));
        assert_eq!(fs::read_to_string(path("five")).unwrap(), "again");
        here.discard(file);
        there.discard(file);
        assert_eq!((here.find(file), there.find(file)), (None, None));
        // One node alone touches no other disk.
        fs::write(path("made"), "x").unwrap();
        let alone = held("a", false);
        assert_eq!(alone.hold(&path("made"), file, &go).unwrap(), 0);
        assert_eq!(fs::read_dir(path("run/held")).unwrap().count(), 0);
        // Another node could not read it, until it is published.
        assert_eq!((here.find(file), there.find(file)), (None, None));
        here.publish_all().unwrap();
        assert_eq!(stage_in(&there, file, "six"), Some((1, 1)));
        fs::write(path("made"), "y").unwrap();
        alone.hold(&path("made"), file, &go).unwrap();
        assert_eq!(there.find(file), None, "what was published is of an earlier attempt");
        assert_eq!(HeldFiles::new(&path("a"), &path("run-2"), true).find(file), None, "runs do not share any");
    }

    #[test]
    fn readers_of_one_node_fetch_a_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let go = AtomicBool::new(false);
        let held = |node: &str| HeldFiles::new(&path(node), &path("run"), true);
        fs::create_dir(path("made")).unwrap();
        (0..50).for_each(|n| fs::write(path("made").join(n.to_string()), "x").unwrap());
        let file = Path::new("/job/tmp");
        held("a").hold(&path("made"), file, &go).unwrap();
        let fetched = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (there, to, go, fetched) = (held("b"), path(&format!("to-{n}")), &go, &fetched);
                scope.spawn(move || {
                    let came = there.stage_in(file, &to, &|_, _, _| None, go).unwrap().unwrap();
                    assert_eq!((came.bytes, fs::read_dir(&to).unwrap().count()), (50, 50));
                    fetched.fetch_add(came.fetched, std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
        assert_eq!(fetched.into_inner(), 50);
    }

    #[test]
    fn a_file_comes_from_another_rank_if_one_sends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let go = AtomicBool::new(false);
        let held = |node: &str| HeldFiles::new(&path(node), &path("run"), true);
        let (here, there, file) = (held("a"), held("b"), Path::new("/job/tmp"));
        fs::write(path("made"), "content").unwrap();
        here.hold(&path("made"), file, &go).unwrap();
        let version = here.version_of(file).unwrap();
        let send = |name: &Digest, version: u64, to: &Path| {
            let from = here.find_version(name, version).expect("the node that made it has it");
            assert!(from.starts_with(path("a")));
            fs::copy(from, to).ok()
        };
        let came = there.stage_in(file, &path("one"), &send, &go).unwrap().unwrap();
        assert_eq!(came, HeldIn { bytes: 7, fetched: 7, received: 7 });
        let came = there.stage_in(file, &path("two"), &|_, _, _| panic!("the node has it"), &go).unwrap().unwrap();
        assert_eq!(came, HeldIn { bytes: 7, fetched: 0, received: 0 });
        // One that breaks off halfway leaves nothing behind.
        let breaks = |_: &Digest, _: u64, to: &Path| fs::write(to, "con").err().map(|_| 0);
        let came = held("c").stage_in(file, &path("three"), &breaks, &go).unwrap().unwrap();
        assert_eq!(came, HeldIn { bytes: 7, fetched: 7, received: 0 });
        assert_eq!(fs::read_to_string(path("three")).unwrap(), "content");
        assert_eq!(here.find_version(&HeldFiles::digest(file), version + 1), None);
    }

    #[test]
    fn what_runs_have_left_goes_after_a_week_unless_they_live() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let held = |run: &str| HeldFiles::new(&path("node"), &path(run), false);
        let file = Path::new("/job/tmp");
        let old = |held: &HeldFiles| {
            let time = SystemTime::now() - 2 * ABANDONED;
            File::open(&held.node).unwrap().set_modified(time).unwrap();
        };
        let (living, over) = (held("living"), held("over"));
        for one in [&living, &over] {
            fs::write(path("made"), "x").unwrap();
            one.hold(&path("made"), file, &AtomicBool::new(false)).unwrap();
        }
        drop(over);
        old(&living);
        held("other").remove_abandoned();
        assert!(living.find(file).is_some() && held("over").find(file).is_some());
        old(&held("over"));
        held("other").remove_abandoned();
        assert!(living.find(file).is_some() && held("over").find(file).is_none());
        living.discard(file);
        drop(living);
        assert_eq!(fs::read_dir(path("node/held")).unwrap().count(), 0);
    }
}
