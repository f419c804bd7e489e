//! Looking into a level, checking and clearing it, for `phalanx cache`.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::content;
use super::digest::Digest;
use super::disk::{Disk, FetchError, Kind};
use super::evict::{Evicted, Limits, evict};
use super::result::{Origin, StoredResult};

/// A level of a store on disk, to be looked at.
#[derive(Debug)]
pub struct StoreDir(Disk);

/// The figures of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelInfo {
    /// Number of results.
    pub results: u64,
    /// Number of contents.
    pub objects: u64,
    /// Bytes of all of them on disk.
    pub bytes: u64,
    /// The least recent use of a result.
    pub oldest: Option<SystemTime>,
    /// The most recent use of a result.
    pub newest: Option<SystemTime>,
}

/// A result of a level.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedResult {
    /// Its key.
    pub key: Digest,
    /// Whose it is.
    pub origin: Origin,
    /// Number of its outputs.
    pub outputs: usize,
    /// Bytes of its outputs.
    pub bytes: u64,
    /// Its last use.
    pub used: SystemTime,
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Number of results.
    pub results: u64,
    /// Bytes that became free.
    pub bytes: u64,
    /// Number of files that could not be removed.
    pub refused: u64,
}

/// What a check has found. Everything that is damaged was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of results that are whole.
    pub results: u64,
    /// Number of contents that are whole.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Results that were removed, each with the reason.
    pub damaged_results: Vec<String>,
    /// Contents that were removed, each with the reason.
    pub damaged_objects: Vec<String>,
}

impl StoreDir {
    /// Opens the level in a directory that exists.
    ///
    /// # Errors
    /// If there is none, or it cannot be used.
    pub fn open(path: &Path, is_shared: bool) -> io::Result<StoreDir> {
        Disk::existing(path, is_shared).map(StoreDir)
    }

    /// Its figures.
    pub fn info(&self) -> LevelInfo {
        let (results, objects) = (self.0.list(Kind::Result), self.0.list(Kind::Object));
        let latest = self.0.list(Kind::Latest);
        LevelInfo {
            results: results.len() as u64,
            objects: objects.len() as u64,
            bytes: results.iter().chain(&objects).chain(&latest).map(|listed| listed.bytes).sum(),
            oldest: results.iter().map(|listed| listed.used).min(),
            newest: results.iter().map(|listed| listed.used).max(),
        }
    }

    /// Its results, most recently used first. Damaged ones are left out.
    pub fn list(&self) -> Vec<ListedResult> {
        let listed = |listed: super::disk::Listed| {
            let result = self.result(&listed.name)?;
            let (outputs, bytes) = (result.outputs.len(), result.bytes());
            Some(ListedResult { key: listed.name, origin: result.origin, outputs, bytes, used: listed.used })
        };
        let mut all: Vec<ListedResult> = self.0.list(Kind::Result).into_iter().filter_map(listed).collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.origin.task.cmp(&b.origin.task)));
        all
    }

    /// Removes the results that `is_meant` chooses, and the contents that no other result names.
    pub fn drop_results(&self, is_meant: impl Fn(&ListedResult) -> bool) -> Dropped {
        let meant: Vec<Digest> =
            self.list().iter().filter(|listed| is_meant(listed)).map(|listed| listed.key).collect();
        let before = self.info().bytes;
        let results = meant.iter().filter(|key| self.0.remove(Kind::Result, key)).count() as u64;
        let pruned = (results > 0).then(|| self.prune(&Limits::default())).flatten().unwrap_or_default();
        let bytes = before.saturating_sub(self.info().bytes);
        Dropped { results, bytes, refused: meant.len() as u64 - results + pruned.refused }
    }

    /// Reads every result and every content, and removes what is damaged.
    pub fn verify(&self) -> Verified {
        let mut verified = Verified::default();
        for listed in self.0.list(Kind::Object) {
            let path = self.0.path(Kind::Object, &listed.name);
            match super::digest::of_file(&path) {
                Ok((digest, size)) if digest == listed.name => {
                    verified.objects += 1;
                    verified.bytes += size;
                }
                Ok(_) => {
                    self.0.remove(Kind::Object, &listed.name);
                    verified.damaged_objects.push(format!("{}: its content is not what its name says", path.display()));
                }
                Err(error) => verified.damaged_objects.push(format!("{}: {error}", path.display())),
            }
        }
        for listed in self.0.list(Kind::Result) {
            match self.fault_of(&listed.name) {
                None => verified.results += 1,
                Some(fault) => {
                    self.0.remove(Kind::Result, &listed.name);
                    verified.damaged_results.push(fault);
                }
            }
        }
        verified
    }

    /// Removes what is over the limits. `None` if another process does it now.
    pub fn prune(&self, limits: &Limits) -> Option<Evicted> {
        evict(&self.0, limits, SystemTime::now())
    }

    fn result(&self, key: &Digest) -> Option<StoredResult> {
        self.0.read(Kind::Result, key).ok().flatten().as_deref().and_then(StoredResult::decode)
    }

    fn fault_of(&self, key: &Digest) -> Option<String> {
        let Some(result) = self.result(key) else { return Some(format!("{key}: the result is damaged")) };
        let name = &result.origin.task;
        if result.components.key() != *key {
            return Some(format!("{key} ({name}): its components have another key"));
        }
        let is_there = |digest: &Digest, size| {
            self.0.has(Kind::Object, digest, Some(size)).then_some(()).ok_or(FetchError::Missing)
        };
        let check = |content| content::each_object(&self.0, content, &mut |digest, size, _| is_there(digest, size));
        let fault = result.outputs.iter().find_map(|(_, content)| check(content).err());
        fault.map(|fault| format!("{key} ({name}): a content of it: {fault}"))
    }
}
