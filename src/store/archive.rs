//! Files, directories and links as one stream of bytes, for the way between ranks.
//!
//! An archive is a list of records, each with a path; a directory comes before what is in it. The
//! content of a file is followed by its digest. What arrives is not trusted: a path cannot leave
//! the directory that is unpacked into, nor pass a link, and a file whose digest differs is
//! refused.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::content::{MAX_DEPTH, create_new, not_given_up};

/// Size in bytes of the buffer between file and stream.
const BUFFER: usize = 256 << 10;

/// Maximum length in bytes of a path, and of what a link leads to.
const MAX_PATH: usize = 4096;

/// Bytes of a digest.
const DIGEST: usize = 32;

const DIRECTORY: u8 = b'd';
const FILE: u8 = b'f';
const LINK: u8 = b'l';
const END: u8 = b'e';

/// Writes what stands behind paths, each under a relative name; the name of what stands for the
/// whole archive is empty. Directories around a name are made where it is unpacked. A name in a
/// directory that is an entry, too, is packed once, as what has that name itself. Returns the
/// number of bytes of the files.
///
/// # Errors
/// Of reading or writing, also if a file changes meanwhile.
pub fn pack(entries: &[(PathBuf, PathBuf)], to: &mut dyn Write, is_given_up: &AtomicBool) -> io::Result<u64> {
    let named: HashMap<&Path, &Path> = entries.iter().map(|(name, path)| (&**name, &**path)).collect();
    let mut names: Vec<&Path> = named.keys().copied().collect();
    // A directory comes before what is in it.
    names.sort_unstable();
    let mut packer = Packer { to, is_given_up, named, made: HashMap::new(), buffer: vec![0; BUFFER], bytes: 0 };
    for name in names {
        let around: Vec<&Path> = name.ancestors().skip(1).collect();
        // In what stands for a link is nothing.
        if around.iter().any(|dir| packer.made.get(*dir) == Some(&false)) {
            continue;
        }
        for dir in around.into_iter().rev() {
            packer.directory(dir, 0o700)?;
        }
        packer.add(name, packer.named[name], 0)?;
    }
    packer.to.write_all(&[END])?;
    Ok(packer.bytes)
}

struct Packer<'a> {
    to: &'a mut dyn Write,
    is_given_up: &'a AtomicBool,
    /// The entries.
    named: HashMap<&'a Path, &'a Path>,
    /// What is in the archive; true for directories.
    made: HashMap<PathBuf, bool>,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Packer<'_> {
    fn record(&mut self, kind: u8, mode: u32, name: &Path) -> io::Result<()> {
        self.to.write_all(&[kind])?;
        self.to.write_all(&mode.to_le_bytes())?;
        self.text(name.as_os_str().as_bytes())
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u16::try_from(text.len()).ok().filter(|length| usize::from(*length) <= MAX_PATH);
        let length = length.ok_or_else(|| io::Error::other("a path is too long"))?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(text)
    }

    fn directory(&mut self, name: &Path, mode: u32) -> io::Result<()> {
        match self.made.insert(name.to_owned(), true) {
            None => self.record(DIRECTORY, mode, name),
            Some(_) => Ok(()),
        }
    }

    fn add(&mut self, name: &Path, path: &Path, depth: usize) -> io::Result<()> {
        not_given_up(self.is_given_up)?;
        if self.made.contains_key(name) {
            return Ok(());
        }
        let meta = fs::symlink_metadata(path)?;
        let mode = meta.permissions().mode() & 0o777;
        if !meta.is_dir() {
            self.made.insert(name.to_owned(), false);
        }
        if meta.is_symlink() {
            self.record(LINK, mode, name)?;
            return self.text(&fs::read_link(path)?.into_os_string().into_vec());
        }
        if meta.is_file() {
            self.record(FILE, mode, name)?;
            return self.content(path, meta.len());
        }
        if !meta.is_dir() || depth >= MAX_DEPTH {
            let what = "neither a file, nor a directory, nor a symbolic link, or is too deep";
            return Err(io::Error::other(format!("{} is {what}", path.display())));
        }
        self.directory(name, mode)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let (name, path) = (name.join(entry.file_name()), entry.path());
            let path = self.named.get(&*name).map_or(path, |named| named.to_path_buf());
            self.add(&name, &path, depth + 1)?;
        }
        Ok(())
    }

    fn content(&mut self, path: &Path, size: u64) -> io::Result<()> {
        let (mut file, mut left, mut hasher) = (File::open(path)?, size, blake3::Hasher::new());
        self.to.write_all(&size.to_le_bytes())?;
        while left > 0 {
            not_given_up(self.is_given_up)?;
            let most = left.min(BUFFER as u64) as usize;
            let part = &mut self.buffer[..most];
            file.read_exact(part).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::other(format!("{} changed while it was sent", path.display()))
                }
                _ => error,
            })?;
            hasher.update(part);
            self.to.write_all(part)?;
            left -= most as u64;
        }
        self.bytes += size;
        self.to.write_all(hasher.finalize().as_bytes())
    }
}

/// Unpacks an archive where nothing is. After an error some of it may be there. Returns the number
/// of bytes of the files.
///
/// # Errors
/// Of reading or writing, and if the archive is damaged or not allowed.
pub fn unpack(from: &mut dyn Read, to: &Path, is_given_up: &AtomicBool) -> io::Result<u64> {
    let (mut dirs, mut known) = (Vec::new(), HashSet::new());
    let (mut buffer, mut bytes, mut is_empty) = (vec![0; BUFFER], 0, true);
    loop {
        not_given_up(is_given_up)?;
        let [kind] = read_array(from)?;
        if kind == END {
            break;
        }
        let mode = u32::from_le_bytes(read_array(from)?) & 0o777;
        let name = PathBuf::from(std::ffi::OsString::from_vec(read_text(from)?));
        let is_below = |dir: &Path| known.contains(dir) && name.components().count() <= 2 * MAX_DEPTH;
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        let has_place = name.parent().map_or(is_empty, is_below);
        if !is_plain || !has_place || known.contains(&name) {
            return Err(damaged(&format!("the path `{}`", name.display())));
        }
        is_empty = false;
        // Joining nothing would add a separator.
        let path = if name.as_os_str().is_empty() { to.to_owned() } else { to.join(&name) };
        match kind {
            DIRECTORY => {
                DirBuilder::new().mode(0o700).create(&path)?;
                known.insert(name);
                dirs.push((path, mode));
            }
            LINK => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&read_text(from)?), &path)?,
            FILE => {
                let size = u64::from_le_bytes(read_array(from)?);
                let (mut file, mut left, mut hasher) = (create_new(&path)?, size, blake3::Hasher::new());
                while left > 0 {
                    not_given_up(is_given_up)?;
                    let part = &mut buffer[..left.min(BUFFER as u64) as usize];
                    from.read_exact(part)?;
                    hasher.update(part);
                    file.write_all(part)?;
                    left -= part.len() as u64;
                }
                if read_array::<DIGEST>(from)? != *hasher.finalize().as_bytes() {
                    return Err(damaged("a file that does not have its digest"));
                }
                file.set_permissions(Permissions::from_mode(mode))?;
                bytes += size;
            }
            _ => return Err(damaged("an unknown record")),
        }
    }
    // Only now, as they may forbid writing.
    for (path, mode) in dirs.into_iter().rev() {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(bytes)
}

fn damaged(what: &str) -> io::Error {
    io::Error::other(format!("what was sent is damaged: it has {what}"))
}

fn read_array<const N: usize>(from: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_text(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let length = usize::from(u16::from_le_bytes(read_array(from)?));
    if length > MAX_PATH {
        return Err(damaged("a path that is too long"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn packed(entries: &[(&str, &Path)]) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().map(|(name, path)| (PathBuf::from(name), path.to_path_buf())).collect();
        let mut bytes = Vec::new();
        pack(&entries, &mut bytes, &GO).unwrap();
        bytes
    }

    /// A directory with all that there is, as a task may leave it.
    fn made(dir: &Path) -> PathBuf {
        let from = dir.join("from");
        fs::create_dir_all(from.join("closed/sub")).unwrap();
        fs::write(from.join("empty"), "").unwrap();
        fs::write(from.join("closed/sub/large"), vec![7; 3 * BUFFER + 5]).unwrap();
        fs::write(from.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("run"), Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("closed/sub/large", from.join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("dangling")).unwrap();
        fs::set_permissions(from.join("closed"), Permissions::from_mode(0o555)).unwrap();
        from
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn all_kinds_of_files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let from = made(dir.path());
        let size = (3 * BUFFER + 5 + 10) as u64;
        for (name, below) in [("", ""), ("o/deep/made", "o/deep/made")] {
            let to = dir.path().join(format!("to{}", name.len()));
            let mut bytes = &packed(&[(name, &from)])[..];
            assert_eq!(unpack(&mut bytes, &to, &GO).unwrap(), size);
            let to = to.join(below);
            assert_eq!(fs::read(to.join("closed/sub/large")).unwrap(), vec![7; 3 * BUFFER + 5]);
            assert_eq!(fs::metadata(to.join("empty")).unwrap().len(), 0);
            assert_eq!((mode(&to.join("run")), mode(&to.join("closed"))), (0o750, 0o555));
            assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("closed/sub/large"));
            assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/nowhere"));
        }
        let mut file = &packed(&[("", &from.join("run"))])[..];
        assert_eq!(unpack(&mut file, &dir.path().join("file"), &GO).unwrap(), 10);
        assert_eq!(mode(&dir.path().join("file")), 0o750);
        crate::store::remove_tree(&dir.path().join("to0"));
        assert!(unpack(&mut &packed(&[])[..], &dir.path().join("none"), &GO).is_ok());
        assert!(!dir.path().join("none").exists());
    }

    #[test]
    fn an_entry_within_another_one_is_packed_once() {
        let dir = tempfile::tempdir().unwrap();
        let from = made(dir.path());
        fs::set_permissions(&from, Permissions::from_mode(0o750)).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "other").unwrap();
        let entries: [(&str, &Path); 4] =
            [("o/d/run", &other), ("o/d/new", &other), ("o/d", &from), ("o/d/link/x", &other)];
        for (number, entries) in [entries.to_vec(), entries.into_iter().rev().collect()].iter().enumerate() {
            let to = dir.path().join(format!("to{number}"));
            let size = unpack(&mut &packed(entries)[..], &to, &GO).unwrap();
            assert_eq!(size, (3 * BUFFER + 5 + 2 * 5) as u64);
            assert_eq!(mode(&to.join("o/d")), 0o750, "that of the directory itself");
            assert_eq!(["run", "new"].map(|name| fs::read(to.join("o/d").join(name)).unwrap()), [b"other", b"other"]);
            assert!(to.join("o/d/link").is_symlink());
        }
    }

    fn record(kind: u8, name: &str, rest: &[u8]) -> Vec<u8> {
        let length = (name.len() as u16).to_le_bytes();
        [&[kind][..], &0o755u32.to_le_bytes(), &length, name.as_bytes(), rest].concat()
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| record(FILE, name, &[&0u64.to_le_bytes()[..], blake3::hash(b"").as_bytes()].concat());
        let root = || record(DIRECTORY, "", &[]);
        let link = || record(LINK, "out", &[&[4, 0][..], b"/tmp"].concat());
        let cases: [&[Vec<u8>]; 8] = [
            &[root(), file("../x")],
            &[root(), file("/tmp/x")],
            &[root(), file("a/../../x")],
            &[root(), link(), file("out/x")],
            &[root(), link(), record(DIRECTORY, "out", &[])],
            &[file("x")],
            &[root(), file("sub/x")],
            &[root(), root()],
        ];
        for (number, records) in cases.iter().enumerate() {
            let bytes = [records.concat(), vec![END]].concat();
            let to = dir.path().join(format!("d/{number}"));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            assert!(unpack(&mut &bytes[..], &to, &GO).is_err(), "case {number}");
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["d"]);
    }

    #[test]
    fn a_content_that_changed_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "content").unwrap();
        let mut bytes = packed(&[("", &dir.path().join("f"))]);
        let at = bytes.windows(7).position(|part| part == b"content").unwrap();
        bytes[at] ^= 1;
        let error = unpack(&mut &bytes[..], &dir.path().join("to"), &GO).unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
        bytes.truncate(at + 3);
        assert!(unpack(&mut &bytes[..], &dir.path().join("short"), &GO).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0usize..200, bits: u8) {
            let dir = tempfile::tempdir().unwrap();
            let _ = unpack(&mut &bytes[..], &dir.path().join("any"), &GO);
            fs::write(dir.path().join("f"), "x").unwrap();
            let mut whole = packed(&[("a/b", &dir.path().join("f")), ("a/c", dir.path())]);
            let at = at % whole.len();
            whole[at] ^= bits;
            let _ = unpack(&mut &whole[..], &dir.path().join("to"), &GO);
        }
    }
}
