//! Brings what a task has left to its place.
//!
//! What the new result has takes the place of what has the same name. If a directory stands at the
//! place, what an earlier delivery has brought there, and this one does not bring, is removed, as
//! far as it has not changed since. Everything else in it stays: it is of users or of other tasks.
//! What deliveries have brought is on record (see `delivered`).
//!
//! | step | after a crash |
//! |---|---|
//! | stale pieces are removed | the record has them still, and they are gone |
//! | the record begins anew with the pieces that stay | they are known |
//! | each piece is built, noted, and renamed to its place | one that is noted and not there is none |
//!
//! So whatever step is the last one, no file goes that is not on record as it is.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::content::{self, Content, create_new, not_given_up, remove_tree};
use super::delivered::{self, Delivered, Record, Stamp};
use super::disk::{Disk, FetchError};
use super::memo::Memo;

/// Maximum number of files of others that are counted in a directory.
const MAX_COUNTED: usize = 1000;

/// Number of the next file that is put in place by this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What is brought to a place.
#[derive(Clone, Debug)]
pub(super) enum Source<'a> {
    /// A content that a level has.
    Stored(&'a Disk, Content),
    /// A copy of what stands behind a path.
    Files(PathBuf),
}

impl Source<'_> {
    fn is_dir(&self) -> bool {
        match self {
            Source::Stored(_, content) => matches!(content, Content::Directory { .. }),
            Source::Files(from) => Stamp::at(from).is_some_and(|stamp| stamp.is_dir()),
        }
    }

    /// Its entries, if it is a directory.
    fn entries(&self) -> Result<Vec<(PathBuf, Self)>, FetchError> {
        match self {
            Source::Stored(disk, Content::Directory { tree, size, .. }) => {
                let entries = content::entries(disk, tree, *size)?.into_iter();
                Ok(entries
                    .map(|(name, of)| (std::ffi::OsString::from_vec(name).into(), Source::Stored(disk, of)))
                    .collect())
            }
            Source::Files(from) if self.is_dir() => {
                let entry =
                    |entry: io::Result<fs::DirEntry>| entry.map(|e| (e.file_name().into(), Source::Files(e.path())));
                Ok(fs::read_dir(from)?.map(entry).collect::<io::Result<_>>()?)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// It and all below it, by their names within it: a directory is followed by what is in it.
    fn pieces(self) -> Result<BTreeMap<PathBuf, Self>, FetchError> {
        let (mut pieces, mut open) = (BTreeMap::new(), vec![(PathBuf::new(), self)]);
        while let Some((name, source)) = open.pop() {
            open.extend(source.entries()?.into_iter().map(|(entry, source)| (name.join(entry), source)));
            pieces.insert(name, source);
        }
        Ok(pieces)
    }

    /// Builds it where nothing is. Returns the number of bytes of its files.
    fn build(&self, to: &Path, is_given_up: &AtomicBool) -> Result<u64, FetchError> {
        match self {
            Source::Stored(disk, content) => content::build(disk, content, to, is_given_up),
            Source::Files(from) => Ok(content::copy_tree(from, to, is_given_up)?),
        }
    }

    /// True if a path, that of no directory, holds it already.
    fn is_in_place(&self, path: &Path, memo: &Memo) -> bool {
        match self {
            Source::Stored(_, content) => content::is_in_place(content, path, memo),
            Source::Files(from) => {
                let is_as_large = fs::symlink_metadata(from).is_ok_and(|from| {
                    fs::symlink_metadata(path)
                        .is_ok_and(|to| (from.file_type(), from.len()) == (to.file_type(), to.len()))
                });
                let content = is_as_large.then(|| content::describe(from, false, memo, &content::Sink::Exact).ok());
                content.flatten().is_some_and(|content| content::is_in_place(&content, path, memo))
            }
        }
    }
}

/// How things are brought to their places.
pub(super) struct Delivery<'a> {
    /// Directory of the records; without one nothing is ever removed.
    pub(super) records: Option<&'a Path>,
    pub(super) memo: &'a Memo,
    /// Asks to stop.
    pub(super) is_given_up: &'a AtomicBool,
    /// Called between two steps; fails if no further one is to follow.
    pub(super) goes_on: &'a dyn Fn() -> io::Result<()>,
}

impl Delivery<'_> {
    /// Brings something to a place. Returns the number of bytes that were written.
    pub(super) fn bring(&self, source: Source, to: &Path) -> Result<u64, FetchError> {
        if !source.is_dir() {
            check_no_directory(to)?;
            return place(&source, to, self.is_given_up);
        }
        let dir = place_of(to)?;
        let pieces = source.pieces()?;
        let own = self.clear(&dir, &pieces)?;
        let opened = open_up_own(&dir, &own);
        let record = Record::begin(self.records, &dir, &own);
        let written = self.bring_pieces(&pieces, &dir, (&own, &record));
        for (path, mode) in opened.into_iter().rev() {
            // It stays as it was opened if it refuses.
            let _ = fs::set_permissions(path, mode);
        }
        written
    }

    fn bring_pieces(
        &self,
        pieces: &BTreeMap<PathBuf, Source>,
        dir: &Path,
        (own, record): (&BTreeMap<PathBuf, Stamp>, &Record),
    ) -> Result<u64, FetchError> {
        let (mut written, mut whole) = (0, None::<&Path>);
        for (name, source) in pieces {
            if whole.is_some_and(|dir| name.starts_with(dir)) {
                continue;
            }
            let (to, is_dir) = (delivered::path_in(dir, name), source.is_dir());
            if is_dir && to.is_dir() {
                continue;
            }
            check_no_directory(&to)?;
            // What somebody else has put there is left alone if it is the same: it stays theirs.
            let is_compared = matches!(source, Source::Stored(..)) || !own.contains_key(name);
            if is_compared && source.is_in_place(&to, self.memo) {
                continue;
            }
            (self.goes_on)()?;
            written += place_with(&to, &|temporary| {
                record.note_temporary(temporary);
                let bytes = source.build(temporary, self.is_given_up)?;
                (self.goes_on)()?;
                record.note(name, temporary);
                (self.goes_on)()?;
                Ok::<_, FetchError>(bytes)
            })?;
            whole = is_dir.then_some(name);
        }
        Ok(written)
    }

    /// Removes from a directory what earlier deliveries have brought and these pieces do not have.
    /// Returns what they have brought, stands there unchanged, and stays.
    fn clear(&self, dir: &Path, pieces: &BTreeMap<PathBuf, Source>) -> io::Result<BTreeMap<PathBuf, Stamp>> {
        let Some(delivered) = self.records.and_then(|records| Delivered::read(records, dir)) else {
            tell_others(dir, pieces);
            return Ok(BTreeMap::new());
        };
        delivered.temporaries.iter().for_each(|name| remove_tree(&dir.join(name)));
        // What a user's link leads to may be anybody's.
        let is_behind_link = |name: &Path| {
            let parent = name.parent().map(|parent| delivered::path_in(dir, parent));
            parent.is_some_and(|parent| fs::canonicalize(&parent).is_ok_and(|real| real != parent))
        };
        let standing = |name: &Path| {
            let stamp = Stamp::at(&delivered::path_in(dir, name))?;
            Some(if is_behind_link(name) { stamp.of_others() } else { stamp })
        };
        let plan = delivered.plan(&|name| pieces.get(name).map(Source::is_dir), &standing);
        tell_changed(dir, &plan.changed);
        open_up_own(dir, &plan.stale);
        let mut own = plan.own;
        // What is in a directory goes before it.
        for (name, stamp) in plan.stale.into_iter().rev() {
            (self.goes_on)()?;
            let path = delivered::path_in(dir, &name);
            let removed = if stamp.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            let Err(error) = removed.or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }) else {
                continue;
            };
            // One in which others have something stays, and was delivered still.
            if !stamp.is_dir() {
                tracing::warn!("{} of an earlier result cannot be removed: {error}", path.display());
            }
            own.insert(name, stamp);
        }
        (self.goes_on)()?;
        Ok(own)
    }
}

/// Says that a directory holds files of which no record says whose they are.
fn tell_others(dir: &Path, pieces: &BTreeMap<PathBuf, Source>) {
    let mut others = 0;
    let _ = delivered::walk(dir, Path::new(""), &mut |name, stamp| {
        others += usize::from(!stamp.is_dir() && !pieces.contains_key(name));
        if others < MAX_COUNTED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let more = if others < MAX_COUNTED { "" } else { " or more" };
    match others {
        0 => {}
        1 => tracing::warn!("{} holds 1 other file, which stays: no earlier result is on record there", dir.display()),
        _ => tracing::warn!(
            "{} holds {others}{more} other files, which stay: no earlier result is on record there",
            dir.display()
        ),
    }
}

/// Says that files of earlier results stay because they have changed.
fn tell_changed(dir: &Path, changed: &[PathBuf]) {
    let Some((first, more)) = changed.split_first() else { return };
    let first = dir.join(first);
    match more.len() {
        0 => tracing::warn!("{} was left by an earlier result and has changed since: it stays", first.display()),
        more => tracing::warn!(
            "{} and {more} more of its files were left by an earlier result and have changed since: they stay",
            first.display()
        ),
    }
}

/// Gives their owner all rights to those of these directories that a task has closed. Returns them
/// with their permissions.
fn open_up_own(dir: &Path, own: &BTreeMap<PathBuf, Stamp>) -> Vec<(PathBuf, Permissions)> {
    let mut opened = Vec::new();
    for path in own.iter().filter(|(_, stamp)| stamp.is_dir()).map(|(name, _)| delivered::path_in(dir, name)) {
        let Ok(mode) = fs::symlink_metadata(&path).map(|meta| meta.permissions()) else { continue };
        let open = Permissions::from_mode(mode.mode() | 0o700);
        if open != mode && fs::set_permissions(&path, open).is_ok() {
            opened.push((path, mode));
        }
    }
    opened
}

/// Puts on record what a task that began at this time has left in a directory by itself.
pub(super) fn note_left(records: &Path, dir: &Path, since: SystemTime) -> io::Result<()> {
    Record::note_left(records, &place_of(dir)?, since);
    Ok(())
}

/// The one name of a place, however it is written: links to directories are followed.
fn place_of(to: &Path) -> io::Result<PathBuf> {
    let to = std::path::absolute(to)?;
    let (Some(parent), Some(name), false) = (to.parent(), to.file_name(), to.is_dir()) else {
        return fs::canonicalize(to);
    };
    fs::create_dir_all(parent)?;
    Ok(fs::canonicalize(parent)?.join(name))
}

/// A file does not take the place of a directory.
fn check_no_directory(path: &Path) -> io::Result<()> {
    match path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        true => Err(io::Error::other(format!("{} is a directory: remove it, or name another output", path.display()))),
        false => Ok(()),
    }
}

/// Puts something where a path is, in one step: in place of whatever is there, which must be
/// nobody else's.
pub(super) fn place(source: &Source, path: &Path, is_given_up: &AtomicBool) -> Result<u64, FetchError> {
    place_with(path, &|temporary| {
        let bytes = source.build(temporary, is_given_up)?;
        not_given_up(is_given_up)?;
        Ok(bytes)
    })
}

/// As [`place`], with a copy of what stands behind `from`.
pub(crate) fn place_copy(from: &Path, path: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
    Ok(place(&Source::Files(from.to_owned()), path, is_given_up)?)
}

/// Puts these bytes where a path is, in one step.
pub(super) fn place_bytes(bytes: &[u8], mode: u32, path: &Path) -> io::Result<()> {
    use std::io::Write;
    place_with(path, &|temporary| {
        let mut file = create_new(temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode & 0o777))
    })
}

/// Puts what `write` makes at a temporary name beside a path where the path is, in one step.
pub(super) fn place_with<T, E: From<io::Error>>(path: &Path, write: &dyn Fn(&Path) -> Result<T, E>) -> Result<T, E> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let number = NEXT.fetch_add(1, Relaxed);
    let temporary = parent.join(format!("{}{}-{number}", delivered::TEMPORARY, std::process::id()));
    let written = write(&temporary).and_then(|written| {
        let comes_dir = fs::symlink_metadata(&temporary).is_ok_and(|meta| meta.is_dir());
        replace(&temporary, path, comes_dir)?;
        Ok(written)
    });
    if written.is_err() {
        remove_tree(&temporary);
    }
    written
}

/// Renames what was built to its path. A directory that stands there, or that comes, is exchanged
/// with it; where the file system cannot do that in one step, the old one is moved aside first.
fn replace(temporary: &Path, path: &Path, comes_dir: bool) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(path).ok().map(|meta| meta.is_dir());
    if is_dir.is_none() || (is_dir == Some(false) && !comes_dir) {
        return fs::rename(temporary, path);
    }
    if renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        remove_tree(temporary);
        return Ok(());
    }
    let old = temporary.with_extension("old");
    fs::rename(path, &old)?;
    let renamed = fs::rename(temporary, path);
    match renamed {
        Ok(()) => remove_tree(&old),
        Err(_) => fs::rename(&old, path)?,
    }
    renamed
}

#[cfg(test)]
mod tests;
