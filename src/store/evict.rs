//! Keeping a level within its size: results that were not used for longest go first, and then the
//! contents that no result names.
//!
//! Nothing that a running task reads is taken away from it: a task reads files that were copied to
//! their place, and a copy in progress goes on after its source has lost its name. A result whose
//! content is gone is a miss, and removed when it is found.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use super::content;
use super::digest::Digest;
use super::disk::{Disk, Kind, Listed};
use super::result::StoredResult;

/// A content that no result names is kept for this long: the result may be about to be written.
const GRACE: Duration = Duration::from_secs(60);
/// What is removed brings the level down to this share of its size, so that it is not done for each
/// result.
const LOW_WATER: f64 = 0.8;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Number of results.
    pub results: u64,
    /// Number of contents.
    pub objects: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes that are left.
    pub left: u64,
    /// Number of files that could not be removed.
    pub refused: u64,
}

/// What is to be removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Maximum size in bytes.
    pub size: Option<u64>,
    /// Maximum time since the last use.
    pub age: Option<Duration>,
    /// Contents that no result names, as those of staged files, are kept as long as results are.
    pub keeps_unnamed: bool,
    /// Contents that no result names are removed even if they are young: nobody else uses the
    /// level.
    pub is_alone: bool,
}

/// A result of a level, and the contents that it names; or a content that none names.
struct Entry {
    listed: Listed,
    kind: Kind,
    objects: Vec<Digest>,
}

/// Removes what is over the limits. Of several processes on a node one does it, and the others
/// return at once. On a level of several nodes, which has no common lock, they may do it side by
/// side.
pub(super) fn evict(disk: &Disk, limits: &Limits, now: SystemTime) -> Option<Evicted> {
    let lock = if disk.is_shared() { None } else { Some(lock(disk)?) };
    disk.remove_abandoned();
    let age = |listed: &Listed| now.duration_since(listed.used).unwrap_or_default();
    let mut objects: FxHashMap<Digest, (Listed, u32)> =
        disk.list(Kind::Object).into_iter().map(|listed| (listed.name, (listed, 0))).collect();
    let mut results: Vec<Entry> = disk.list(Kind::Result).into_iter().map(|listed| entry(disk, listed)).collect();
    for digest in results.iter().flat_map(|entry| &entry.objects) {
        if let Some((_, users)) = objects.get_mut(digest) {
            *users += 1;
        }
    }
    let bytes = |listed: &Listed| listed.bytes;
    let mut left: u64 = results.iter().map(|entry| bytes(&entry.listed)).sum();
    left += objects.values().map(|(listed, _)| bytes(listed)).sum::<u64>();
    let latest = disk.list(Kind::Latest);
    left += latest.iter().map(bytes).sum::<u64>();
    let mut evicted = Evicted::default();
    let free = |evicted: &mut Evicted, left: &mut u64, kind: Kind, listed: &Listed| {
        if !disk.remove(kind, &listed.name) {
            evicted.refused += 1;
            return;
        }
        evicted.bytes += listed.bytes;
        *left = left.saturating_sub(listed.bytes);
        match kind {
            Kind::Object => evicted.objects += 1,
            Kind::Result => evicted.results += 1,
            Kind::Latest => {}
        }
    };
    for (listed, users) in objects.values() {
        if *users == 0 && (limits.is_alone || age(listed) > GRACE) {
            match limits.keeps_unnamed {
                true => results.push(Entry { listed: *listed, kind: Kind::Object, objects: Vec::new() }),
                false => free(&mut evicted, &mut left, Kind::Object, listed),
            }
        }
    }
    results.sort_unstable_by_key(|entry| entry.listed.used);
    let is_over = limits.size.is_some_and(|size| left > size);
    let target = limits.size.filter(|_| is_over).map(|size| (size as f64 * LOW_WATER) as u64);
    for entry in &results {
        let is_expired = limits.age.is_some_and(|most| age(&entry.listed) > most);
        if !is_expired && target.is_none_or(|target| left <= target) {
            continue;
        }
        free(&mut evicted, &mut left, entry.kind, &entry.listed);
        for digest in &entry.objects {
            let Some((listed, users)) = objects.get_mut(digest) else { continue };
            *users -= 1;
            if *users == 0 {
                free(&mut evicted, &mut left, Kind::Object, listed);
            }
        }
    }
    // What is known of results that are long gone explains nothing any more.
    let most = limits.age.unwrap_or(MAX_LATEST_AGE).min(MAX_LATEST_AGE);
    for listed in latest.iter().filter(|listed| age(listed) > most) {
        free(&mut evicted, &mut left, Kind::Latest, listed);
    }
    if let Some(lock) = &lock {
        // When it was done last; a file system that does not keep it makes others look as well.
        let _ = lock.set_modified(now);
    }
    Some(Evicted { left, ..evicted })
}

/// True if a level was brought within its size this recently.
pub(super) fn was_done_within(disk: &Disk, time: Duration) -> bool {
    let done = fs::metadata(disk.root().join(LOCK)).and_then(|meta| meta.modified());
    done.is_ok_and(|done| done.elapsed().is_ok_and(|age| age < time))
}

/// Who has locked this file removes results; its time says when that was done last.
const LOCK: &str = "evict.lock";

/// For this long it is remembered what the key of a task was.
const MAX_LATEST_AGE: Duration = Duration::from_secs(90 * 86_400);

/// The contents that a result names. Of a directory whose list is gone no contents are known;
/// nobody can restore it.
fn entry(disk: &Disk, listed: Listed) -> Entry {
    let bytes = disk.read(Kind::Result, &listed.name).ok().flatten();
    let mut objects = Vec::new();
    for (_, content) in bytes.as_deref().and_then(StoredResult::decode).iter().flat_map(|result| &result.outputs) {
        let _ = content::each_object(disk, content, &mut |digest, _, _| {
            objects.push(*digest);
            Ok(())
        });
    }
    objects.sort_unstable();
    objects.dedup();
    Entry { listed, kind: Kind::Result, objects }
}

/// The lock of the level; `None` if another process has it, or the level cannot be written to.
fn lock(disk: &Disk) -> Option<File> {
    let path = disk.root().join(LOCK);
    let file = File::options().write(true).create(true).truncate(false).open(path).ok()?;
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(fs::TryLockError::WouldBlock) => None,
        Err(fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Some(file),
        Err(fs::TryLockError::Error(_)) => None,
    }
}
