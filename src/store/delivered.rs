//! What deliveries have brought to a directory: a file for each directory, in a place that later
//! runs find.
//!
//! It names all that was brought, with what tells it from a later change: size and time of a file,
//! the inode of a directory. Entries end with a zero byte and are only appended, each before what
//! it names gets its name there; a new delivery begins the file anew with what stays. One that is
//! torn, lost or damaged is one that knows less.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::content::MAX_DEPTH;
use super::delivery::place_with;
use super::digest::Digest;

/// Beginning of the first entry, before the place.
const MAGIC: &[u8] = b"phalanx-delivered-1 ";
/// Kind of the entry of a temporary name; those of stamps are `f`, `d` and `l`.
const TEMPORARY_KIND: u8 = b't';

/// The times of a file may lie as far behind the clock.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Beginning of temporary names.
pub(super) const TEMPORARY: &str = ".phalanx-";

/// What tells a file, directory or link from a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// `f`ile, `d`irectory or `l`ink.
    kind: u8,
    /// Size in bytes; the inode of a directory.
    number: u64,
    /// When it was modified, in nanoseconds since 1970; 0 for a directory.
    time_ns: i64,
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Stamp {
        if meta.is_dir() {
            return Stamp { kind: b'd', number: meta.ino(), time_ns: 0 };
        }
        let time_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Stamp { kind: if meta.is_symlink() { b'l' } else { b'f' }, number: meta.len(), time_ns }
    }

    /// That of what stands at a path, if something does.
    pub(super) fn at(path: &Path) -> Option<Stamp> {
        fs::symlink_metadata(path).ok().map(|meta| Stamp::of(&meta))
    }

    /// One that no record has.
    pub(super) fn of_others(self) -> Stamp {
        Stamp { number: u64::MAX, ..self }
    }

    pub(super) fn is_dir(self) -> bool {
        self.kind == b'd'
    }
}

/// The path of a name in a directory; the empty name is the directory itself.
pub(super) fn path_in(dir: &Path, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() { dir.to_owned() } else { dir.join(name) }
}

/// Calls `each` with what stands at a path, named `name`, and all below it. What cannot be looked
/// at is left out.
pub(super) fn walk(path: &Path, name: &Path, each: &mut dyn FnMut(&Path, Stamp) -> ControlFlow<()>) -> ControlFlow<()> {
    walk_below(path, name, each, 0)
}

fn walk_below(
    path: &Path,
    name: &Path,
    each: &mut dyn FnMut(&Path, Stamp) -> ControlFlow<()>,
    depth: usize,
) -> ControlFlow<()> {
    let Some(stamp) = Stamp::at(path) else { return ControlFlow::Continue(()) };
    each(name, stamp)?;
    if !stamp.is_dir() || depth > MAX_DEPTH {
        return ControlFlow::Continue(());
    }
    let mut entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.try_for_each(|entry| walk_below(&entry.path(), &name.join(entry.file_name()), each, depth + 1))
}

/// What deliveries have brought to a directory, by names within it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// What stood there, or was about to, at each name.
    pub(super) entries: BTreeMap<PathBuf, Vec<Stamp>>,
    /// Where something was built that may have been left there.
    pub(super) temporaries: Vec<PathBuf>,
}

/// What becomes of it at the next delivery.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The new one does not have it: it goes.
    pub(super) stale: BTreeMap<PathBuf, Stamp>,
    /// The new one does not have it, and somebody has changed it: it stays.
    pub(super) changed: Vec<PathBuf>,
    /// The new one has it, too.
    pub(super) own: BTreeMap<PathBuf, Stamp>,
}

impl Delivered {
    /// What is on record of a place. `None` if nothing is.
    pub(super) fn read(records: &Path, place: &Path) -> Option<Delivered> {
        Delivered::decode(&fs::read(file_of(records, place)).ok()?, place)
    }

    fn decode(bytes: &[u8], place: &Path) -> Option<Delivered> {
        let mut entries = bytes.split_inclusive(|byte| *byte == 0).filter_map(|entry| entry.strip_suffix(&[0]));
        if entries.next()?.strip_prefix(MAGIC)? != place.as_os_str().as_bytes() {
            return None;
        }
        let mut delivered = Delivered::default();
        for (stamp, name) in entries.filter_map(decode_entry) {
            let base = name.file_name().unwrap_or_default();
            match stamp.kind {
                TEMPORARY_KIND if base.as_bytes().starts_with(TEMPORARY.as_bytes()) => delivered.temporaries.push(name),
                b'f' | b'd' | b'l' => delivered.entries.entry(name).or_default().push(stamp),
                _ => {}
            }
        }
        Some(delivered)
    }

    /// What becomes of each entry. `new` says whether the new delivery brings something of a name,
    /// and whether that is a directory; `standing` says what stands there.
    pub(super) fn plan(&self, new: &dyn Fn(&Path) -> Option<bool>, standing: &dyn Fn(&Path) -> Option<Stamp>) -> Plan {
        let mut plan = Plan::default();
        for (name, stamps) in &self.entries {
            let Some(now) = standing(name) else { continue };
            // A file does not take the place of a directory, nor a directory that of a link to one.
            let gives_way = match new(name) {
                None => false,
                Some(true) => now.kind != b'l',
                Some(false) => !now.is_dir(),
            };
            match (gives_way, stamps.contains(&now)) {
                (true, true) => _ = plan.own.insert(name.clone(), now),
                (false, true) => _ = plan.stale.insert(name.clone(), now),
                (false, false) if !now.is_dir() && new(name).is_none() => plan.changed.push(name.clone()),
                (_, false) => {}
            }
        }
        plan
    }
}

fn encode_entry(stamp: Stamp, name: &Path, to: &mut Vec<u8>) {
    let Stamp { kind, number, time_ns } = stamp;
    to.extend_from_slice(format!("{} {number} {time_ns} ", char::from(kind)).as_bytes());
    to.extend_from_slice(name.as_os_str().as_bytes());
    to.push(0);
}

fn decode_entry(entry: &[u8]) -> Option<(Stamp, PathBuf)> {
    let mut fields = entry.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (kind, number, time_ns) = (text()?, text()?.parse().ok()?, text()?.parse().ok()?);
    let &[kind] = kind.as_bytes() else { return None };
    let name = PathBuf::from(std::ffi::OsString::from_vec(fields.next()?.to_owned()));
    let is_inside = name.components().all(|component| matches!(component, Component::Normal(_)));
    is_inside.then_some((Stamp { kind, number, time_ns }, name))
}

fn file_of(records: &Path, place: &Path) -> PathBuf {
    let name = Digest::of(place.as_os_str().as_bytes()).to_string();
    records.join(&name[..2]).join(&name[2..])
}

/// The record of a delivery in progress.
pub(super) struct Record<'a> {
    place: &'a Path,
    /// `None` if nothing can be recorded: then nothing that is brought is removed later.
    file: Option<File>,
}

impl Record<'_> {
    /// Begins the record of a place anew, with what earlier deliveries have brought and what stays.
    pub(super) fn begin<'a>(records: Option<&Path>, place: &'a Path, own: &BTreeMap<PathBuf, Stamp>) -> Record<'a> {
        let mut bytes = [MAGIC, place.as_os_str().as_bytes(), b"\0"].concat();
        own.iter().for_each(|(name, stamp)| encode_entry(*stamp, name, &mut bytes));
        let write = |path: &Path| {
            place_with(path, &|temporary| {
                let mut file = File::options().append(true).create_new(true).open(temporary)?;
                file.write_all(&bytes)?;
                Ok::<_, io::Error>(file)
            })
        };
        let file = records.map(|records| file_of(records, place)).and_then(|path| {
            let told = |error: &io::Error| {
                tracing::warn!(
                    "what is delivered to {} cannot be recorded in {}: {error}; later results will not remove it",
                    place.display(),
                    path.display()
                );
            };
            write(&path).inspect_err(told).ok()
        });
        Record { place, file }
    }

    /// Puts on record what a task has left in a directory by itself: what was written there since
    /// it began, beside what earlier deliveries have brought.
    pub(super) fn note_left(records: &Path, place: &Path, since: SystemTime) {
        let (known, mut own) = (Delivered::read(records, place).unwrap_or_default(), BTreeMap::new());
        let since = since.checked_sub(CLOCK_TICK).unwrap_or(since);
        let since_ns = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        let is_new = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|meta| match meta.is_dir() {
                // Its other times say that something in it is new.
                true => meta.created().is_ok_and(|made| made >= since),
                false => i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()) >= since_ns,
            })
        };
        let _ = walk(place, Path::new(""), &mut |name, stamp| {
            let is_known = known.entries.get(name).is_some_and(|stamps| stamps.contains(&stamp));
            if is_known || is_new(&path_in(place, name)) {
                own.insert(name.to_owned(), stamp);
            }
            ControlFlow::Continue(())
        });
        Record::begin(Some(records), place, &own);
    }

    /// Notes what stands at a path, and all below it, as what is about to stand at a name.
    pub(super) fn note(&self, name: &Path, path: &Path) {
        let mut bytes = Vec::new();
        let _ = walk(path, name, &mut |name, stamp| {
            encode_entry(stamp, name, &mut bytes);
            ControlFlow::Continue(())
        });
        self.append(&bytes);
    }

    /// Notes that something is built at a path.
    pub(super) fn note_temporary(&self, path: &Path) {
        if let Ok(name) = path.strip_prefix(self.place) {
            let mut bytes = Vec::new();
            encode_entry(Stamp { kind: TEMPORARY_KIND, number: 0, time_ns: 0 }, name, &mut bytes);
            self.append(&bytes);
        }
    }

    fn append(&self, bytes: &[u8]) {
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = file.write_all(bytes)
        {
            // What it does not name stays.
            tracing::debug!("what is delivered to {} cannot be recorded: {error}", self.place.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_nothing_outside_and_damage_makes_it_know_less() {
        let place = Path::new("/some/place");
        let mut bytes = [b"phalanx-delivered-1 ", place.as_os_str().as_encoded_bytes(), b"\0"].concat();
        for entry in
            ["f 1 2 a b", "f 1 2 ../c", "f 1 2 /d", "x 1 2 e", "f 1 f", "t 0 0 g", "t 0 0 s/.phalanx-1-2", "d 7 0 "]
        {
            bytes.extend_from_slice(entry.as_bytes());
            bytes.push(0);
        }
        let whole = Delivered::decode(&bytes, place).unwrap();
        assert_eq!(whole.entries.keys().collect::<Vec<_>>(), [Path::new(""), Path::new("a b")]);
        assert_eq!(whole.temporaries, [Path::new("s/.phalanx-1-2")]);
        assert_eq!(Delivered::decode(&bytes, Path::new("/other")), None);
        for cut in 0..bytes.len() {
            let entries = Delivered::decode(&bytes[..cut], place).map_or(0, |delivered| delivered.entries.len());
            assert!(entries <= 2);
        }
    }
}
