//! Digests of files that were read before, so that an unchanged file is not read again.
//!
//! A file is recognised by device, inode, size and the times of its last modification and change.
//! One that changed less than two seconds ago is not remembered: a further change within the clock
//! tick of the file system would leave all of these as they are.
//!
//! The memo is kept on the node's disk, as records that are only appended. Each has a checksum of
//! its own, so a torn or damaged one costs itself alone.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;

use super::digest::{self, Digest};

/// Age in nanoseconds below which a file's times may not tell a further change.
const SETTLED_NS: i128 = 2_000_000_000;
/// Maximum number of files remembered; the memo begins anew when it is full.
const MAX_FILES: usize = 200_000;
/// Length of a record: five numbers, the digest and a checksum.
const RECORD: usize = 5 * 8 + 32 + 4;
/// Size in bytes above which the file on disk begins anew.
const MAX_BYTES: u64 = 16 << 20;

/// What identifies a state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

/// A file: device and inode.
type FileId = (u64, u64);

/// Digests by file.
#[derive(Debug, Default)]
pub(super) struct Memo {
    known: Mutex<FxHashMap<FileId, (Stamp, Digest)>>,
    file: Option<File>,
    /// Bytes of files that were read to hash them.
    hashed: AtomicU64,
    /// Files whose digest was remembered.
    remembered: AtomicU64,
}

fn stamp(meta: &Metadata) -> (FileId, Stamp) {
    let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    let mtime_ns = ns(meta.mtime(), meta.mtime_nsec());
    let ctime_ns = ns(meta.ctime(), meta.ctime_nsec());
    ((meta.dev(), meta.ino()), Stamp { size: meta.len(), mtime_ns, ctime_ns })
}

fn is_settled(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
    now - i128::from(stamp.mtime_ns.max(stamp.ctime_ns)) >= SETTLED_NS
}

impl Memo {
    /// The memo in this directory; one that cannot be read or written is kept in memory alone.
    pub(super) fn open(dir: &Path) -> Memo {
        let path = dir.join("memo");
        let bytes = fs::metadata(&path).ok().filter(|meta| meta.len() <= MAX_BYTES).and_then(|_| fs::read(&path).ok());
        let known = bytes.as_deref().unwrap_or_default().chunks_exact(RECORD).filter_map(decode).collect();
        if bytes.is_none() {
            // Another process that has it open goes on with the file that is gone.
            let _ = fs::remove_file(&path);
        }
        let file = open_at_a_record(&path).ok();
        Memo { known: Mutex::new(known), file, ..Memo::default() }
    }

    /// Digest and size of the content of a regular file; `meta` is its state now.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn digest(&self, path: &Path, meta: &Metadata) -> io::Result<(Digest, u64)> {
        let (id, now) = stamp(meta);
        if let Some(digest) = self.recall(id, &now) {
            self.remembered.fetch_add(1, Relaxed);
            return Ok((digest, now.size));
        }
        let (digest, size) = digest::of_file(path)?;
        self.hashed.fetch_add(size, Relaxed);
        self.learn(path, meta, digest);
        Ok((digest, size))
    }

    /// Remembers a digest if the file is still what `before` describes.
    pub(super) fn learn(&self, path: &Path, before: &Metadata, digest: Digest) {
        let (id, now) = stamp(before);
        let is_same = fs::metadata(path).is_ok_and(|after| stamp(&after) == (id, now));
        if is_same && is_settled(&now) {
            self.note(id, now, digest);
        }
    }

    /// Remembers the digest of a file that this process has just put in its place. It is as young
    /// as can be: a change within the clock tick of the file system would not be seen.
    pub(super) fn note_placed(&self, path: &Path, digest: Digest) {
        if let Ok(meta) = fs::symlink_metadata(path) {
            let (id, now) = stamp(&meta);
            self.note(id, now, digest);
        }
    }

    /// The digest of a file in this state, if it is remembered.
    pub(super) fn known(&self, meta: &Metadata) -> Option<Digest> {
        let (id, now) = stamp(meta);
        self.recall(id, &now)
    }

    fn note(&self, id: FileId, now: Stamp, digest: Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_FILES {
            known.clear();
        }
        known.insert(id, (now, digest));
        drop(known);
        if let Some(mut file) = self.file.as_ref() {
            // Without the record the file is read once more by another process.
            let _ = file.write_all(&encode(id, &now, &digest));
        }
    }

    /// The digest of a file, if it is remembered.
    fn recall(&self, id: FileId, now: &Stamp) -> Option<Digest> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).filter(|(was, _)| was == now).map(|(_, digest)| *digest)
    }

    /// Bytes that were read to hash files, and the number of files that were not read.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.hashed.load(Relaxed), self.remembered.load(Relaxed))
    }
}

/// Opens for appending. The length is a multiple of a record, so that one that was cut short does
/// not shift those after it.
fn open_at_a_record(path: &PathBuf) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let length = file.metadata()?.len();
    let rest = length % RECORD as u64;
    if rest > 0 {
        (&file).write_all(&vec![0; RECORD - rest as usize])?;
    }
    Ok(file)
}

fn encode(id: FileId, stamp: &Stamp, digest: &Digest) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let numbers = [id.0, id.1, stamp.size, stamp.mtime_ns as u64, stamp.ctime_ns as u64];
    for (number, place) in numbers.iter().zip(record.chunks_exact_mut(8)) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    record[40..72].copy_from_slice(digest.bytes());
    let check = crc32fast::hash(&record[..72]);
    record[72..].copy_from_slice(&check.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(FileId, (Stamp, Digest))> {
    let number = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let check = u32::from_le_bytes(record.get(72..76)?.try_into().ok()?);
    if crc32fast::hash(&record[..72]) != check {
        return None;
    }
    let stamp = Stamp { size: number(16)?, mtime_ns: number(24)? as i64, ctime_ns: number(32)? as i64 };
    Some(((number(0)?, number(8)?), (stamp, Digest::from_bytes(record[40..72].try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets a file's modification into the past; its change time stays young.
    fn age(path: &Path) {
        let past = SystemTime::now() - std::time::Duration::from_secs(60);
        File::options().write(true).open(path).unwrap().set_modified(past).unwrap();
    }

    #[test]
    fn a_young_file_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (memo, path) = (Memo::open(dir.path()), dir.path().join("f"));
        fs::write(&path, "one").unwrap();
        age(&path);
        for _ in 0..2 {
            memo.digest(&path, &fs::metadata(&path).unwrap()).unwrap();
        }
        assert_eq!(memo.counts(), (6, 0), "its change time is young, whatever its modification time says");
    }

    #[test]
    fn an_old_file_is_read_once_even_by_several_processes() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::current_exe().unwrap();
        let meta = fs::metadata(&path).unwrap();
        if !is_settled(&stamp(&meta).1) {
            return;
        }
        let memo = Memo::open(dir.path());
        let digest = memo.digest(&path, &meta).unwrap();
        assert_eq!(memo.digest(&path, &meta).unwrap(), digest);
        assert_eq!(memo.counts(), (meta.len(), 1));
        // A record that was cut short, and one that is damaged.
        let file = dir.path().join("memo");
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        fs::write(&file, [&damaged[..], &whole, &whole[..30]].concat()).unwrap();
        let other = Memo::open(dir.path());
        assert_eq!(other.digest(&path, &meta).unwrap(), digest);
        assert_eq!(other.counts(), (0, 1));
        assert_eq!(fs::metadata(&file).unwrap().len() % RECORD as u64, 0);
    }

    #[test]
    fn records_come_back() {
        let stamp = Stamp { size: 5, mtime_ns: -3, ctime_ns: i64::MAX };
        let record = encode((1, u64::MAX), &stamp, &Digest::of(b"x"));
        assert_eq!(decode(&record), Some(((1, u64::MAX), (stamp, Digest::of(b"x")))));
        for at in 0..RECORD {
            let mut damaged = record;
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&record[..75]), None);
    }
}
