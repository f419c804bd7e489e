//! The content store of a node: what completed tasks left, so that equal tasks need not run.
//!
//! Contents are kept apart from results. A *content* is named by its BLAKE3 digest; a *result*
//! names contents, and is named by its key, the digest of all that it follows from. A result is
//! written after its contents, so what a reader finds is whole, or it is a miss.
//!
//! There are three levels: small results in the memory of the process, a directory on the node's
//! disk, and optionally one that nodes and users share. A result is looked for in this order; what
//! a slower level has is copied to the faster ones. New results are written to all of them.
//!
//! | file | one idea |
//! |---|---|
//! | `digest` | BLAKE3 digests |
//! | `memo` | digests of files that have not changed |
//! | `content` | files, directories and links: describe, store, build |
//! | `delivery` | bringing them to their places |
//! | `delivered` | what was brought to a directory, on record |
//! | `disk` | one level on disk: names, whole files, damage |
//! | `memory` | the level in memory, and how long results are kept |
//! | `result` | what a task left, and the components of its key |
//! | `archive` | files, directories and links as one stream of bytes |
//! | `stage` | files of tasks that run on the node's disk |
//! | `held` | temporary files of a run |
//! | `evict` | keeping a level within its size |
//! | `admin` | looking into a level, checking and clearing it |
//!
//! Invariant: nothing that goes wrong here fails a task. A level that cannot be read is a miss; one
//! that cannot be written is given up with one message.

mod admin;
mod archive;
mod content;
mod delivered;
mod delivery;
mod digest;
mod disk;
mod evict;
mod held;
mod memo;
mod memory;
mod result;
mod stage;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

pub use admin::{Dropped, LevelInfo, ListedResult, StoreDir, Verified};
pub use archive::{pack, unpack};
pub use content::Content;
pub(crate) use content::{check_links, lexical, not_given_up, remove_tree};
pub(crate) use delivery::place_copy;
pub use digest::Digest;
pub use evict::{Evicted, Limits};
pub use held::{CarryHeld, HeldFiles, HeldIn};
pub use result::{Component, Components, Difference, Origin, OutputName, Printed, StoredResult};
pub(crate) use stage::resolve_output;
pub use stage::{Staged, StagedOut};

use content::{DescribeError, Sink};
use delivery::{Delivery, Source};
use disk::{Disk, FetchError, Kind};
use memo::Memo;
use memory::{MAX_RESULT, Memory, SmallResult};
use result::Latest;

/// An output whose content a level has already.
type KnownOutput = (OutputName, Content);

/// Time to live of results in memory, unless the job says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// The size of a level is looked at whenever this share of it was written.
const CHECKED_SHARE: u64 = 32;
/// And once by each process, unless another one did it this recently.
const CHECK_PAUSE: Duration = Duration::from_secs(600);

/// Where a store is, and how large it may become.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Directory of the node's level.
    pub node: PathBuf,
    /// Directory of the level that nodes share, if there is one.
    pub shared: Option<PathBuf>,
    /// Maximum size of the node's level in bytes.
    pub size: u64,
    /// How long results are kept unused in memory and at the node's level. `None`: 300 s in memory,
    /// and at the node's level until the space is needed.
    pub ttl: Option<Duration>,
    /// Directory with records of what was delivered to other directories. Without one nothing that
    /// was delivered is removed later.
    pub records: Option<PathBuf>,
}

impl StoreConfig {
    /// The default directory of a node's level: `$TMPDIR/phalanx-$USER`, with `/tmp` if `TMPDIR`
    /// is unset, and the number of the user if `USER` is.
    pub fn default_node_dir() -> PathBuf {
        let user = std::env::var("USER").ok().filter(|user| !user.is_empty() && !user.contains('/'));
        let user = user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
        std::env::temp_dir().join(format!("phalanx-{user}"))
    }
}

/// A level of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The memory of the process.
    Memory,
    /// The node's disk.
    Node,
    /// A directory that nodes share.
    Shared,
}

impl Level {
    /// The level in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Level::Memory => "memory",
            Level::Node => "node",
            Level::Shared => "shared",
        }
    }
}

/// A result that was taken from the store.
#[derive(Debug)]
pub struct Taken {
    /// The level that had it.
    pub level: Level,
    /// Whose it was.
    pub origin: Origin,
    /// What the task printed, in order.
    pub printed: Vec<Printed>,
    /// What it measured.
    pub measures: Vec<(String, f64)>,
    /// Bytes that were written to put its outputs in place. Outputs that were in place already are
    /// not written.
    pub restored: u64,
}

/// Says where an output goes.
pub type OutputPlaces<'a> = dyn Fn(&OutputName) -> PathBuf + 'a;

/// Why no result was taken from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// There is none of this key.
    Unknown,
    /// It was not used for its time to live.
    Expired,
    /// It, or a content that it names, is damaged or gone.
    Damaged(String),
    /// Its outputs could not be put in place.
    NotRestored(String),
}

/// Why a result was not stored.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// An output cannot be kept.
    #[error("its output {} cannot be kept: {why}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// Its outputs are larger than the node's level may become.
    #[error("its outputs are larger than the cache may become ({0} bytes)")]
    TooLarge(u64),
    /// No level can be written.
    #[error("the cache cannot be written")]
    Unwritable,
}

/// The store as one process uses it, from many threads.
#[derive(Debug)]
pub struct Store {
    memory: Mutex<Memory>,
    node: Option<Arc<Disk>>,
    /// Why there is no node's level.
    unusable: Option<String>,
    shared: Option<Disk>,
    memo: Memo,
    size: u64,
    ttl: Option<Duration>,
    records: Option<PathBuf>,
    /// Bytes that had been written when the size was looked at last; `u64::MAX` before.
    checked_at: AtomicU64,
    evicting: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store, and says which levels cannot be used.
    pub fn open(config: &StoreConfig) -> Store {
        let level = |path: &Path, is_shared| {
            let opened = Disk::open(path, is_shared);
            let say = |error: &io::Error| {
                tracing::warn!("the cache in {} cannot be used: {error}; tasks run as without it", path.display());
            };
            opened.inspect_err(say)
        };
        let node = level(&config.node, false);
        let unusable = node.as_ref().err().map(|error| format!("{}: {error}", config.node.display()));
        let node = node.ok().map(Arc::new);
        Store {
            unusable,
            memory: Mutex::new(Memory::new(config.ttl.unwrap_or(DEFAULT_TTL))),
            memo: node.as_ref().map_or_else(Memo::default, |node| Memo::open(node.root())),
            shared: config.shared.as_deref().and_then(|path| level(path, true).ok()),
            node,
            size: config.size,
            ttl: config.ttl,
            records: config.records.clone(),
            checked_at: AtomicU64::new(u64::MAX),
            evicting: Mutex::new(None),
        }
    }

    /// The content behind a path, for a key: digests are computed, nothing is stored. A link is
    /// followed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn content_of(&self, path: &Path) -> io::Result<Content> {
        Ok(content::describe(path, true, &self.memo, &Sink::Digests)?)
    }

    /// Takes the result of a key if it is only in memory and names no files; touches no disk.
    pub fn take_from_memory(&self, key: &Digest, class: &str) -> Option<Taken> {
        let mut memory = self.memory();
        let found = memory.get(key, class, Instant::now()).filter(|small| small.result.outputs.is_empty())?;
        memory.count(class, true);
        drop(memory);
        Some(taken(Level::Memory, &found.result, 0))
    }

    /// Takes the result of a key: looks for it level by level, and puts its outputs in their
    /// `places`; `is_given_up` asks to stop.
    ///
    /// # Errors
    /// Why there is no result, or it could not be used.
    pub fn take(
        &self,
        key: &Digest,
        class: &str,
        places: &OutputPlaces<'_>,
        is_given_up: &AtomicBool,
    ) -> Result<Taken, Miss> {
        let taken = self.take_from_levels(key, class, places, is_given_up);
        self.memory().count(class, taken.is_ok());
        taken
    }

    fn take_from_levels(
        &self,
        key: &Digest,
        class: &str,
        places: &OutputPlaces<'_>,
        is_given_up: &AtomicBool,
    ) -> Result<Taken, Miss> {
        let mut miss = Miss::Unknown;
        let small = self.memory().get(key, class, Instant::now());
        if let Some(small) = small {
            match self.restore_small(&small, places) {
                Ok(restored) => {
                    // Else what is used most would look oldest there.
                    if let Some(node) = &self.node {
                        node.touch(Kind::Result, key);
                    }
                    return Ok(taken(Level::Memory, &small.result, restored));
                }
                Err(error) => miss = Miss::NotRestored(error.to_string()),
            }
        }
        let levels = [(Level::Node, self.node.as_deref()), (Level::Shared, self.shared.as_ref())];
        for (level, disk) in levels.into_iter().filter_map(|(level, disk)| Some((level, disk?))) {
            let result = match self.find(level, disk, key, class) {
                Ok(result) => result,
                Err(Miss::Unknown) => continue,
                Err(other) => {
                    miss = other;
                    continue;
                }
            };
            match self.restore(disk, &result, places, is_given_up) {
                Ok(restored) => {
                    disk.touch(Kind::Result, key);
                    self.promote(level, disk, key, &result);
                    return Ok(taken(level, &result, restored));
                }
                Err(error @ (FetchError::Missing | FetchError::Damaged)) => {
                    disk.remove(Kind::Result, key);
                    miss = Miss::Damaged(format!("a content of the result in {}: {error}", disk.root().display()));
                }
                Err(FetchError::Io(error)) => miss = Miss::NotRestored(error.to_string()),
            }
        }
        Err(miss)
    }

    /// The result that a level has, if all of its contents are there.
    fn find(&self, level: Level, disk: &Disk, key: &Digest, class: &str) -> Result<StoredResult, Miss> {
        let bytes = match disk.read(Kind::Result, key) {
            Ok(bytes) => bytes.ok_or(Miss::Unknown)?,
            Err(error) => return Err(Miss::Damaged(format!("{}: {error}", disk.root().display()))),
        };
        let decoded = StoredResult::decode(&bytes).filter(|result| result.components.key() == *key);
        let Some(result) = decoded else {
            tracing::warn!("the result {key} in {} is damaged; its task runs again", disk.root().display());
            disk.remove(Kind::Result, key);
            return Err(Miss::Damaged(format!("the result in {} is damaged", disk.root().display())));
        };
        if level == Level::Node && self.is_expired(disk, key, class) {
            disk.remove(Kind::Result, key);
            return Err(Miss::Expired);
        }
        for (_, content) in &result.outputs {
            let is_there = content::each_object(disk, content, &mut |digest, size, _| {
                let is_there = disk.has(Kind::Object, digest, Some(size)) || disk.open_object(digest).is_ok();
                is_there.then_some(()).ok_or(FetchError::Missing)
            });
            if let Err(FetchError::Io(error)) = &is_there {
                // Its maker keeps it private, perhaps.
                return Err(Miss::NotRestored(format!("{}: {error}", disk.root().display())));
            }
            if let Err(error) = is_there {
                disk.remove(Kind::Result, key);
                return Err(Miss::Damaged(format!("a content of the result in {}: {error}", disk.root().display())));
            }
        }
        Ok(result)
    }

    fn is_expired(&self, disk: &Disk, key: &Digest, class: &str) -> bool {
        let Some(ttl) = self.ttl else { return false };
        let ttl = ttl.mul_f64(self.memory().factor(class));
        let used = std::fs::metadata(disk.path(Kind::Result, key)).and_then(|meta| meta.modified());
        used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > ttl))
    }

    fn restore(
        &self,
        disk: &Disk,
        result: &StoredResult,
        places: &OutputPlaces<'_>,
        is_given_up: &AtomicBool,
    ) -> Result<u64, FetchError> {
        let mut restored = 0;
        for (name, content) in &result.outputs {
            let path = places(name);
            if content::is_in_place(content, &path, &self.memo) {
                continue;
            }
            restored += self.deliver(Source::Stored(disk, content.clone()), &path, is_given_up)?;
        }
        Ok(restored)
    }

    /// Brings something to a place. What lies in the store's own directory is nobody else's.
    fn deliver(&self, source: Source, to: &Path, is_given_up: &AtomicBool) -> Result<u64, FetchError> {
        if self.node.as_ref().is_some_and(|node| to.starts_with(node.root())) {
            return delivery::place(&source, to, is_given_up);
        }
        let goes_on = || content::not_given_up(is_given_up);
        let (records, memo) = (self.records.as_deref(), &self.memo);
        Delivery { records, memo, is_given_up, goes_on: &goes_on }.bring(source, to)
    }

    /// Puts on record what a task that began at this time has left in a directory by itself, so
    /// that a later result takes its place.
    pub fn note_left(&self, dir: &Path, since: SystemTime) {
        let Some(records) = self.records.as_deref().filter(|_| dir.is_dir()) else { return };
        if let Err(error) = delivery::note_left(records, dir, since) {
            tracing::debug!("what is in {} cannot be recorded: {error}", dir.display());
        }
    }

    fn restore_small(&self, small: &SmallResult, places: &OutputPlaces<'_>) -> io::Result<u64> {
        let mut restored = 0;
        for (name, content) in &small.result.outputs {
            let path = places(name);
            if content::is_in_place(content, &path, &self.memo) {
                continue;
            }
            let Content::File { digest, mode, .. } = content else { continue };
            let bytes = small.contents.iter().find(|(known, _)| known == digest);
            let (_, bytes) = bytes.ok_or_else(|| io::Error::other("a content is not in memory"))?;
            delivery::place_bytes(bytes, *mode, &path)?;
            restored += bytes.len() as u64;
        }
        Ok(restored)
    }

    /// Copies a result that a level has to the faster ones.
    fn promote(&self, level: Level, disk: &Disk, key: &Digest, result: &StoredResult) {
        if let (Level::Shared, Some(node)) = (level, self.node.as_deref().filter(|node| node.is_writable())) {
            self.copy_to(disk, node, key, result);
        }
        self.keep_in_memory(disk, key, result);
    }

    fn copy_to(&self, from: &Disk, to: &Disk, key: &Digest, result: &StoredResult) {
        let copied = result.outputs.iter().try_for_each(|(_, content)| content::copy(from, to, content));
        let written = match copied {
            Ok(()) => to.write(Kind::Result, key, &result.encode()),
            Err(FetchError::Io(error)) => Err(error),
            // It was removed while it was copied.
            Err(FetchError::Missing | FetchError::Damaged) => return,
        };
        written.unwrap_or_else(|error| to.give_up(&error));
    }

    fn keep_in_memory(&self, disk: &Disk, key: &Digest, result: &StoredResult) {
        let printed: u64 = result.printed.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if result.bytes() + printed > MAX_RESULT as u64 {
            return;
        }
        let mut contents = Vec::new();
        for (_, content) in &result.outputs {
            let Content::File { digest, size, .. } = content else { return };
            let mut bytes = Vec::new();
            if disk.copy_object(digest, *size, &mut bytes).is_err() {
                return;
            }
            contents.push((*digest, bytes));
        }
        self.memory().put(*key, SmallResult { result: result.clone(), contents }, Instant::now());
    }

    /// Stores what a task left. `outputs` says where its files are; those that are not there are
    /// left out. Contents that the result names already are taken as they are: the node's level
    /// must have them.
    ///
    /// # Errors
    /// Why it could not be stored. A level that cannot be written is given up.
    pub fn put(&self, result: StoredResult, outputs: &[(OutputName, PathBuf)]) -> Result<(), NotStored> {
        let disks = [self.node.as_deref(), self.shared.as_ref()];
        let mut written: Option<&Disk> = None;
        let (key, mut result) = (result.components.key(), result);
        let known = std::mem::take(&mut result.outputs);
        self.check_size(outputs, &known)?;
        for disk in disks.into_iter().flatten().filter(|disk| disk.is_writable()) {
            match written {
                Some(first) => self.copy_to(first, disk, &key, &result),
                None => match self.put_on(disk, &key, &mut result, (outputs, &known)) {
                    Ok(()) => written = Some(disk),
                    Err((path, DescribeError::Source(why))) => return Err(NotStored::Output { path, why }),
                    Err((_, DescribeError::Store(error))) => disk.give_up(&error),
                },
            }
            let latest = Latest { origin: result.origin.clone(), components: result.components.clone() };
            let subject = Origin::subject(&result.origin.job, &result.origin.task);
            // It only explains later misses.
            let _ = disk.write(Kind::Latest, &subject, &result::frame(&latest));
        }
        match written {
            Some(disk) => self.keep_in_memory(disk, &key, &result),
            None if outputs.is_empty() => {
                self.memory().put(key, SmallResult { result, contents: Vec::new() }, Instant::now());
            }
            None => return Err(NotStored::Unwritable),
        }
        self.evict_if_due();
        Ok(())
    }

    fn check_size(&self, outputs: &[(OutputName, PathBuf)], known: &[KnownOutput]) -> Result<(), NotStored> {
        let mut left = self.size.checked_sub(known.iter().map(|(_, content)| content.bytes()).sum());
        let is_known = |name: &OutputName| known.iter().any(|(other, _)| other == name);
        for (_, path) in outputs.iter().filter(|(name, _)| !is_known(name)) {
            // The files of an output that is a link count as well.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            left = left.and_then(|left| content::rest_after(&path, left, 0));
        }
        left.map(|_| ()).ok_or(NotStored::TooLarge(self.size))
    }

    fn put_on(
        &self,
        disk: &Disk,
        key: &Digest,
        result: &mut StoredResult,
        (outputs, known): (&[(OutputName, PathBuf)], &[KnownOutput]),
    ) -> Result<(), (PathBuf, DescribeError)> {
        result.outputs.clear();
        for (name, path) in outputs {
            if let Some((_, content)) = known.iter().find(|(other, _)| other == name) {
                let is_there = content::each_object(disk, content, &mut |digest, size, _| {
                    disk.can_read(digest, size).then_some(()).ok_or(FetchError::Missing)
                });
                is_there.map_err(|error| (path.clone(), DescribeError::Source(error.into())))?;
                result.outputs.push((name.clone(), content.clone()));
                continue;
            }
            let follow = !keeps_link(path, outputs.iter().map(|(_, path)| path.as_path()));
            let sink = Sink::Store { disk, read: &AtomicU64::new(0) };
            match content::describe(path, follow, &self.memo, &sink) {
                Ok(content) => result.outputs.push((name.clone(), content)),
                // An output that the task need not write.
                Err(_) if is_absent(path) => {}
                Err(error) => return Err((path.clone(), error)),
            }
        }
        let written = disk.write(Kind::Result, key, &result.encode());
        written.map_err(|error| (disk.root().to_owned(), DescribeError::Store(error)))
    }

    /// How the components of a task differ from those of the last result of a task of this name,
    /// and whose that was. `None` if none is remembered.
    pub fn differences(&self, job: &str, task: &str, now: &Components) -> Option<(Origin, Vec<Difference>)> {
        let subject = Origin::subject(job, task);
        let latest = [self.node.as_deref(), self.shared.as_ref()].into_iter().flatten().find_map(|disk| {
            let bytes = disk.read(Kind::Latest, &subject).ok()??;
            result::unframe::<Latest>(&bytes)
        })?;
        Some((latest.origin, now.differences(&latest.components)))
    }

    /// Looks at the size of the node's level in a thread of its own, if enough was written since.
    fn evict_if_due(&self) {
        let Some(node) = &self.node else { return };
        let (written, checked) = (node.written(), self.checked_at.load(Relaxed));
        let is_due = match checked {
            u64::MAX => written > self.size / CHECKED_SHARE || !evict::was_done_within(node, CHECK_PAUSE),
            _ => written.saturating_sub(checked) > self.size / CHECKED_SHARE,
        };
        if !is_due || self.checked_at.compare_exchange(checked, written, Relaxed, Relaxed).is_err() {
            return;
        }
        let mut evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        if evicting.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (node, size) = (Arc::clone(node), self.size);
        let evict = move || {
            let limits = Limits { size: Some(size), keeps_unnamed: true, ..Limits::default() };
            let evicted = evict::evict(&node, &limits, SystemTime::now());
            tracing::debug!(?evicted, "looked at the size of {}", node.root().display());
        };
        *evicting = std::thread::Builder::new().name("cache-eviction".into()).spawn(evict).ok();
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(evicting) = evicting {
            // A panic has been reported by its thread.
            let _ = evicting.join();
        }
    }
}

fn taken(level: Level, result: &StoredResult, restored: u64) -> Taken {
    let StoredResult { origin, printed, measures, .. } = result;
    Taken { level, origin: origin.clone(), printed: printed.clone(), measures: measures.clone(), restored }
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// True for an output that is a link to another output of the task: it stays a link. Any other link
/// is followed, because what it leads to would not be kept.
fn keeps_link<'a>(path: &Path, mut outputs: impl Iterator<Item = &'a Path>) -> bool {
    let Ok(target) = std::fs::read_link(path) else { return false };
    let target = content::lexical(&path.parent().unwrap_or(Path::new("/")).join(target));
    outputs.any(|other| other != path && target.starts_with(content::lexical(other)))
}
