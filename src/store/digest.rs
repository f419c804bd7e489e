//! BLAKE3 digests of contents.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Size in bytes of the pieces in which files are read.
const PIECE: usize = 256 << 10;

/// The BLAKE3 digest of a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest that these 64 hexadecimal digits denote.
    pub fn from_hex(text: &str) -> Option<Digest> {
        let hash = blake3::Hash::from_hex(text).ok()?;
        // Upper case is refused: a digest has one name.
        (hash.to_hex().as_str() == text).then_some(Digest(*hash.as_bytes()))
    }

    /// Builds a digest from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The bytes of the digest.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Copies everything and returns digest and size of what was copied.
///
/// # Errors
/// Of the reader and the writer.
pub(super) fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest(*hasher.finalize().as_bytes()), size)),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                to.write_all(&buffer[..got])?;
                size += got as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Digest and size of a file's content.
///
/// # Errors
/// If the file cannot be read.
pub fn of_file(path: &Path) -> io::Result<(Digest, u64)> {
    copy(&mut File::open(path)?, &mut io::sink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_name() {
        let digest = Digest::of(b"abc");
        let name = digest.to_string();
        assert_eq!(name, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(Digest::from_hex(&name), Some(digest));
        assert_eq!(Digest::from_hex(&name.to_uppercase()), None);
        assert_eq!(Digest::from_hex(&name[1..]), None);
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7u8; 3 * PIECE + 5];
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        assert_eq!(of_file(&dir.path().join("f")).unwrap(), (Digest::of(&bytes), bytes.len() as u64));
    }
}
