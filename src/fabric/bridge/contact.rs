//! The contact file of a run: its addresses and the secret that admits a rank.
//!
//! Any process that can read the file can join the run and start programs as its owner. Only the
//! owner may therefore read it, and a file that others could have read or written is rejected.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::system::private_file;

/// Name of the file in the run directory.
pub const FILE: &str = "contact";

/// Upper bound on the size of a contact file, in bytes.
const MAX_CONTACT_BYTES: u64 = 4096;

/// Why a contact file cannot be used.
#[derive(Debug, Error)]
pub enum ContactError {
    /// It cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation that failed, e.g. `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Other users may read or write the file.
    #[error("{} may be read or changed by others (mode {mode:o}, owner {owner}): it holds the run's secret and must be its owner's alone (chmod 600)", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner's user id.
        owner: u32,
    },
    /// The file does not have the format of a contact file.
    #[error("{} is not the contact file of a run: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The run's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Returns a new secret from the system's random number generator.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn random() -> io::Result<Secret> {
        let mut bytes = [0; 32];
        io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
        Ok(Secret(bytes))
    }

    fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn from_hex(text: &str) -> Option<Secret> {
        let mut secret = [0; 32];
        let digits = (text.len() == 64 && text.is_ascii()).then_some(text)?;
        for (at, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Secret(secret))
    }
}

/// The addresses and the secret of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The run's name.
    pub run: String,
    /// When its session began, in milliseconds since 1970; 0 in files of earlier versions.
    pub session_ms: u64,
    /// Addresses on which rank 0 listens, each as `HOST:PORT`. A joining rank tries them in this
    /// order.
    pub addresses: Vec<String>,
    /// Shared secret that a joining rank must prove it knows.
    pub secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct ContactText {
    run: String,
    #[serde(default)]
    session_ms: u64,
    addresses: Vec<String>,
    secret: String,
}

impl Contact {
    /// Writes the file and replaces that of an earlier session.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn write(&self, path: &Path) -> Result<(), ContactError> {
        let io = |what| move |source| ContactError::Io { what, path: path.to_owned(), source };
        let Contact { run, session_ms, addresses, secret } = self.clone();
        let written = ContactText { run, session_ms, addresses, secret: secret.to_hex() };
        let text = serde_json::to_string(&written).map_err(io::Error::other).map_err(io("write"))?;
        private_file::write(path, &text).map_err(io("write"))
    }

    /// Reads the file after checking that only its owner can read or write it.
    ///
    /// # Errors
    /// See [`ContactError`].
    pub fn read(path: &Path) -> Result<Contact, ContactError> {
        let io = |source| ContactError::Io { what: "read", path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let (mode, owner) = (about.mode() & 0o777, about.uid());
        if mode & 0o077 != 0 || owner != rustix::process::geteuid().as_raw() {
            return Err(ContactError::Open { path: path.to_owned(), mode, owner });
        }
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_CONTACT_BYTES), &mut text).map_err(io)?;
        Contact::parse(&text).map_err(|why| ContactError::Malformed { path: path.to_owned(), why })
    }

    fn parse(text: &str) -> Result<Contact, String> {
        let ContactText { run, session_ms, addresses, secret } =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let secret = Secret::from_hex(&secret).ok_or("its secret is not 64 hexadecimal digits")?;
        Ok(Contact { run, session_ms, addresses, secret })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_contact_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let secret = Secret::random().unwrap();
        let addresses = vec!["127.0.0.1:4".into(), "[::1]:4".into()];
        let contact = Contact { run: "a-1".into(), session_ms: 5000, addresses, secret };
        contact.write(&path).unwrap();
        contact.write(&path).unwrap();
        assert_eq!(Contact::read(&path).unwrap(), contact);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Contact::read(&path).unwrap_err().to_string();
        assert!(refused.contains("mode 640"), "{refused}");
        assert!(!format!("{contact:?}").contains(&contact.secret.to_hex()));
    }

    #[test]
    fn what_is_no_contact_is_named() {
        for text in ["", "{}", "[1]", r#"{"run":"a","addresses":["b"],"secret":"é"}"#] {
            assert!(Contact::parse(text).is_err(), "{text}");
        }
    }
}
