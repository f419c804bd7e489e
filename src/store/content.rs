//! What stands behind a path: a file, a directory, or a symbolic link.
//!
//! A directory is a content too: the list of its entries, each with its own content, named by the
//! digest of the list (a Merkle tree). So two directories with the same names and contents are one,
//! and each file of them is stored once.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::disk::{Disk, FetchError, Kind};
use super::memo::Memo;

/// Maximum depth of directories.
pub(super) const MAX_DEPTH: usize = 64;
/// Maximum size in bytes of the list of a directory's entries.
const MAX_TREE: u64 = 64 << 20;

/// What stands behind a path. Modes are those of `chmod`: of a file and of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A regular file.
    File {
        /// Digest of its bytes.
        digest: Digest,
        /// Their number.
        size: u64,
        /// Its permissions.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Digest of the list of its entries.
        tree: Digest,
        /// Length of the list in bytes.
        size: u64,
        /// Number of bytes of all files below it.
        bytes: u64,
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link, with its target as bytes.
    Link(Vec<u8>),
}

/// An entry of a directory: its name as bytes, and its content. Entries are sorted by name.
type Entry = (Vec<u8>, Content);

impl Content {
    /// Number of bytes of all files in it.
    pub fn bytes(&self) -> u64 {
        match self {
            Content::File { size, .. } => *size,
            Content::Directory { bytes, .. } => *bytes,
            Content::Link(target) => target.len() as u64,
        }
    }

    /// What tells this content from others, for a key: kind, digest, and whether it can be run.
    pub fn identity(&self) -> String {
        match self {
            Content::File { digest, mode, .. } => format!("file {digest}{}", if mode & 0o111 != 0 { " x" } else { "" }),
            Content::Directory { tree, .. } => format!("directory {tree}"),
            Content::Link(target) => format!("link {}", String::from_utf8_lossy(target)),
        }
    }
}

/// Where contents go while they are described.
pub(super) enum Sink<'a> {
    /// Nowhere: only digests are computed. Permissions other than whether a file can be run do not
    /// count, because they follow from the user's umask.
    Digests,
    /// Nowhere, but permissions count in full, as they do for what is stored.
    Exact,
    /// Into a level of the store. What the level has and the memo knows is not read again.
    Store {
        /// The level.
        disk: &'a Disk,
        /// Adds up the bytes that were read.
        read: &'a AtomicU64,
    },
}

/// Why what stands behind a path could not be described or stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum DescribeError {
    /// It cannot be read, or is nothing that can be kept.
    #[error(transparent)]
    Source(#[from] io::Error),
    /// The store could not be written.
    #[error("the store cannot be written: {0}")]
    Store(io::Error),
}

/// Describes what stands behind a path, and stores it if the sink says so. A link at the path
/// itself is followed if `follow` says so; links inside directories are kept as they are.
pub(super) fn describe(path: &Path, follow: bool, memo: &Memo, sink: &Sink<'_>) -> Result<Content, DescribeError> {
    let meta = if follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    of(path, &meta, memo, sink, 0)
}

fn of(path: &Path, meta: &Metadata, memo: &Memo, sink: &Sink<'_>, depth: usize) -> Result<Content, DescribeError> {
    let mode = match sink {
        Sink::Digests => meta.permissions().mode() & 0o111,
        // Nobody gets a program that runs with the rights of another user from a store.
        Sink::Exact | Sink::Store { .. } => meta.permissions().mode() & 0o777,
    };
    let kind = meta.file_type();
    if kind.is_symlink() {
        return Ok(Content::Link(fs::read_link(path)?.into_os_string().into_vec()));
    }
    if kind.is_file() {
        let (digest, size) = match sink {
            Sink::Digests | Sink::Exact => memo.digest(path, meta)?,
            Sink::Store { disk, read } => {
                let known = memo.known(meta).filter(|digest| disk.can_read(digest, meta.len()));
                if let Some(digest) = known {
                    disk.touch(Kind::Object, &digest);
                    return Ok(Content::File { digest, size: meta.len(), mode });
                }
                let stored = disk.store_object(&mut File::open(path)?, mode).map_err(DescribeError::Store)?;
                memo.learn(path, meta, stored.0);
                read.fetch_add(stored.1, Relaxed);
                stored
            }
        };
        return Ok(Content::File { digest, size, mode });
    }
    if !kind.is_dir() {
        return Err(io::Error::other("it is neither a file, nor a directory, nor a symbolic link").into());
    }
    if depth >= MAX_DEPTH {
        return Err(io::Error::other(format!("its directories are more than {MAX_DEPTH} deep")).into());
    }
    let mut entries: Vec<Entry> = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        let content = of(&path, &fs::symlink_metadata(&path)?, memo, sink, depth + 1)?;
        entries.push((entry.file_name().into_vec(), content));
    }
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let list = postcard::to_stdvec(&entries).map_err(|error| DescribeError::Source(io::Error::other(error)))?;
    let tree = match sink {
        Sink::Digests | Sink::Exact => Digest::of(&list),
        Sink::Store { disk, .. } => disk.store_object(&mut &list[..], mode).map_err(DescribeError::Store)?.0,
    };
    let bytes = entries.iter().map(|(_, content)| content.bytes()).sum();
    let mode = if matches!(sink, Sink::Digests) { 0 } else { mode };
    Ok(Content::Directory { tree, size: list.len() as u64, bytes, mode })
}

/// What is left of `most` bytes after the files behind a path; `None` if they are more. What cannot
/// be looked at takes nothing.
pub(super) fn rest_after(path: &Path, most: u64, depth: usize) -> Option<u64> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Some(most) };
    if !meta.is_dir() {
        return most.checked_sub(if meta.is_file() { meta.len() } else { 0 });
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten().filter(|_| depth < MAX_DEPTH);
    entries.map(|entry| entry.path()).try_fold(most, |left, path| rest_after(&path, left, depth + 1))
}

/// The entries of a directory, as a level has them.
pub(super) fn entries(disk: &Disk, tree: &Digest, size: u64) -> Result<Vec<Entry>, FetchError> {
    if size > MAX_TREE {
        return Err(FetchError::Damaged);
    }
    let mut list = Vec::new();
    disk.copy_object(tree, size, &mut list)?;
    let entries: Vec<Entry> = postcard::from_bytes(&list).map_err(|_| FetchError::Damaged)?;
    let is_name = |name: &[u8]| !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    match entries.iter().all(|(name, _)| is_name(name)) {
        true => Ok(entries),
        false => Err(FetchError::Damaged),
    }
}

/// Calls `each` with every object that a content consists of, its size and its permissions.
pub(super) fn each_object(
    disk: &Disk,
    content: &Content,
    each: &mut dyn FnMut(&Digest, u64, u32) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    match content {
        Content::Link(_) => Ok(()),
        Content::File { digest, size, mode } => each(digest, *size, *mode),
        Content::Directory { tree, size, mode, .. } => {
            each(tree, *size, *mode)?;
            entries(disk, tree, *size)?.iter().try_for_each(|(_, content)| each_object(disk, content, each))
        }
    }
}

/// Copies a content from one level to another, checked on the way.
pub(super) fn copy(from: &Disk, to: &Disk, content: &Content) -> Result<(), FetchError> {
    each_object(from, content, &mut |digest, size, mode| {
        if to.can_read(digest, size) {
            to.touch(Kind::Object, digest);
            return Ok(());
        }
        let (stored, length) = to.store_object(&mut from.open_object(digest)?, mode)?;
        if (stored, length) != (*digest, size) {
            from.condemn(digest);
            to.remove(Kind::Object, &stored);
            return Err(FetchError::Damaged);
        }
        Ok(())
    })
}

/// Another attempt may have written meanwhile what one that was given up would write.
pub(crate) fn not_given_up(is_given_up: &AtomicBool) -> io::Result<()> {
    if is_given_up.load(Relaxed) { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// Copies what stands behind a path; links in it are kept as they are, blocks are shared where the
/// file system can. Returns the number of bytes of its files.
pub(super) fn copy_tree(from: &Path, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
    copy_below(from, to, is_given_up, 0)
}

fn copy_below(from: &Path, to: &Path, is_given_up: &AtomicBool, depth: usize) -> io::Result<u64> {
    not_given_up(is_given_up)?;
    let meta = fs::symlink_metadata(from)?;
    let mode = Permissions::from_mode(meta.permissions().mode() & 0o777);
    if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        return Ok(0);
    }
    if meta.is_file() {
        let (mut from, mut file) = (File::open(from)?, create_new(to)?);
        let copied = match share_blocks(&from, &file) {
            true => meta.len(),
            false => io::copy(&mut from, &mut file)?,
        };
        file.set_permissions(mode)?;
        return Ok(copied);
    }
    if !meta.is_dir() || depth >= MAX_DEPTH {
        let what = "neither a file, nor a directory, nor a symbolic link, or is too deep";
        return Err(io::Error::other(format!("{} is {what}", from.display())));
    }
    DirBuilder::new().mode(0o700).create(to)?;
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copied += copy_below(&entry.path(), &to.join(entry.file_name()), is_given_up, depth + 1)?;
    }
    fs::set_permissions(to, mode)?;
    Ok(copied)
}

/// Fails for a directory with an absolute link that leads into a directory that will be gone, under
/// each of the names that it has.
pub(crate) fn check_links(path: &Path, names: &[PathBuf]) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| check_links(&entry?.path(), names));
    }
    let target = if meta.is_symlink() { lexical(&fs::read_link(path)?) } else { PathBuf::new() };
    if names.iter().any(|dir| target.starts_with(dir)) {
        let name = names.iter().find_map(|dir| path.strip_prefix(dir).ok()).unwrap_or(path).display();
        return Err(io::Error::other(format!(
            "the link {name} leads into the task's directory on the node's disk, which is removed; make it relative"
        )));
    }
    Ok(())
}

/// Opens a new file for writing that only its owner may read.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Lets an empty file share the blocks of another one; false if the file system cannot.
pub(super) fn share_blocks(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Remembers the digests of the files of a content that was put where a path is.
pub(super) fn note_placed(disk: &Disk, content: &Content, path: &Path, memo: &Memo) -> Result<(), FetchError> {
    match content {
        Content::Link(_) => {}
        Content::File { digest, .. } => memo.note_placed(path, *digest),
        Content::Directory { tree, size, .. } => {
            for (name, content) in entries(disk, tree, *size)? {
                note_placed(disk, &content, &path.join(std::ffi::OsStr::from_bytes(&name)), memo)?;
            }
        }
    }
    Ok(())
}

/// Builds a content where nothing is; it is whole only if this succeeds.
pub(super) fn build(disk: &Disk, content: &Content, path: &Path, is_given_up: &AtomicBool) -> Result<u64, FetchError> {
    not_given_up(is_given_up)?;
    match content {
        Content::Link(target) => {
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path)?;
            Ok(0)
        }
        Content::File { digest, size, mode } => {
            let mut file = create_new(path)?;
            disk.copy_object_to_file(digest, *size, &mut file)?;
            file.set_permissions(Permissions::from_mode(*mode & 0o777))?;
            Ok(*size)
        }
        Content::Directory { tree, size, mode, .. } => {
            DirBuilder::new().mode(0o700).create(path)?;
            let mut written = 0;
            for (name, content) in entries(disk, tree, *size)? {
                written += build(disk, &content, &path.join(std::ffi::OsStr::from_bytes(&name)), is_given_up)?;
            }
            fs::set_permissions(path, Permissions::from_mode(*mode & 0o777))?;
            Ok(written)
        }
    }
}

/// Removes what stands at a path, also where a task has taken away the right to do so. Whatever
/// withstands stays.
pub(crate) fn remove_tree(path: &Path) {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        let _ = fs::remove_file(path);
        return;
    }
    let is_refused = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
    if fs::remove_dir_all(path).is_err_and(is_refused) {
        open_up(path);
        let _ = fs::remove_dir_all(path);
    }
}

/// Gives the owner of a directory and of those below it all rights.
fn open_up(dir: &Path) {
    let _ = fs::set_permissions(dir, Permissions::from_mode(0o700));
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_dir).for_each(|entry| open_up(&entry.path()));
}

/// True if a path holds this content already. Permissions of files are set right if they are all
/// that differs.
pub(super) fn is_in_place(content: &Content, path: &Path, memo: &Memo) -> bool {
    let Ok(meta) = fs::symlink_metadata(path) else { return false };
    match content {
        Content::Link(target) => fs::read_link(path).is_ok_and(|there| there.as_os_str().as_bytes() == target),
        Content::File { digest, size, mode } => {
            let is_same = meta.is_file()
                && meta.len() == *size
                && memo.digest(path, &meta).is_ok_and(|there| there == (*digest, *size));
            let there = meta.permissions().mode() & 0o777;
            is_same && (there == *mode || fs::set_permissions(path, Permissions::from_mode(*mode & 0o777)).is_ok())
        }
        Content::Directory { .. } => {
            meta.is_dir() && describe(path, false, memo, &Sink::Exact).is_ok_and(|there| there == *content)
        }
    }
}

/// Where a path leads, as it is written: `..` and `.` removed.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dir: &Path) {
        fs::create_dir_all(dir.join("sub/empty")).unwrap();
        fs::write(dir.join("sub/data"), "data").unwrap();
        fs::write(dir.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("run.sh"), Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(dir.join("sub/empty"), Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::symlink("sub/data", dir.join("link")).unwrap();
    }

    #[test]
    fn the_digest_of_a_directory_tells_contents_and_not_umasks() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        tree(&a);
        tree(&b);
        let digest = |path: &Path| describe(path, true, &Memo::default(), &Sink::Digests).unwrap().identity();
        fs::set_permissions(b.join("sub/data"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(digest(&a), digest(&b));
        fs::set_permissions(b.join("run.sh"), Permissions::from_mode(0o640)).unwrap();
        assert_ne!(digest(&a), digest(&b), "whether a file can be run counts");
        fs::set_permissions(b.join("run.sh"), Permissions::from_mode(0o755)).unwrap();
        fs::rename(b.join("sub/data"), b.join("sub/other")).unwrap();
        assert_ne!(digest(&a), digest(&b), "names count");
    }

    #[test]
    fn a_directory_goes_whatever_rights_a_task_took_away() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("task");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/c"), "x").unwrap();
        for closed in ["a/b", "a", ""] {
            fs::set_permissions(dir.join(closed), Permissions::from_mode(0o0)).unwrap();
        }
        open_up(&dir);
        assert!(dir.join("a/b/c").exists());
        remove_tree(&dir);
        assert!(!dir.exists());
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = describe(&path, true, &Memo::default(), &Sink::Digests).unwrap_err();
        assert!(error.to_string().contains("neither a file"), "{error}");
    }
}
