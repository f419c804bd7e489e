//! What a completed task left: outputs, what it printed, what it measured. And the key by which an
//! equal task finds it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::digest::Digest;

/// First bytes of a stored result: kind and version.
const MAGIC: &[u8; 8] = b"phxres1\n";

/// Values of components are shown up to this length; longer ones are told apart by their digest.
const MAX_VALUE: usize = 400;

/// One of the things that a result follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is, such as `command` or `input a.txt`.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// All that a result follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Components(Vec<Component>);

/// A component that differs between two keys. An absent component has no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the component.
    pub name: String,
    /// Its value when the result was stored.
    pub was: Option<String>,
    /// Its value now.
    pub now: Option<String>,
}

impl Components {
    /// Adds a component. Names are unique.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let mut value = value.into();
        if value.len() > MAX_VALUE {
            let digest = Digest::of(value.as_bytes());
            let cut = (0..=MAX_VALUE).rev().find(|&at| value.is_char_boundary(at)).unwrap_or(0);
            value.truncate(cut);
            value.push_str(&format!("... ({digest})"));
        }
        self.0.push(Component { name: name.into(), value });
    }

    /// The key: the digest of all components in their order, each with its length.
    pub fn key(&self) -> Digest {
        let mut text = Vec::with_capacity(1024);
        for part in self.0.iter().flat_map(|component| [&component.name, &component.value]) {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        Digest::of(&text)
    }

    /// The components.
    pub fn iter(&self) -> impl Iterator<Item = &Component> {
        self.0.iter()
    }

    /// How these components differ from those of an earlier result.
    pub fn differences(&self, earlier: &Components) -> Vec<Difference> {
        let value = |of: &Components, name: &str| {
            of.iter().find(|component| component.name == name).map(|component| component.value.clone())
        };
        let gone = earlier.iter().filter(|component| value(self, &component.name).is_none());
        let names = self.iter().chain(gone).map(|component| &component.name);
        let both =
            names.map(|name| Difference { name: name.clone(), was: value(earlier, name), now: value(self, name) });
        both.filter(|difference| difference.was != difference.now).collect()
    }
}

/// Whose result it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Name of the job.
    pub job: String,
    /// Name of the task, such as `tile[3]`.
    pub task: String,
    /// Name under which durations are learnt.
    pub class: String,
    /// Name of the run.
    pub run: String,
    /// Time at which the task completed, in seconds since 1970 (UTC).
    pub unix_s: u64,
    /// Duration of the task in seconds.
    pub took_s: f64,
}

impl Origin {
    /// By this digest the last result of a task of this name is found.
    pub(super) fn subject(job: &str, task: &str) -> Digest {
        Digest::of(format!("{job}\0{task}").as_bytes())
    }
}

/// Which of a task's files an output is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OutputName {
    /// A declared output, as the task names it.
    Declared(PathBuf),
    /// The file for standard output, whose name may differ between runs.
    Stdout,
    /// The file for standard error.
    Stderr,
}

/// A piece that a task printed: to its standard error if the flag is set.
pub type Printed = (bool, Vec<u8>);

/// What a completed task left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredResult {
    /// Whose it is.
    pub origin: Origin,
    /// What it follows from.
    pub components: Components,
    /// The files that it wrote.
    pub outputs: Vec<(OutputName, Content)>,
    /// What it printed, in order.
    pub printed: Vec<Printed>,
    /// The values that it measured.
    pub measures: Vec<(String, f64)>,
}

impl StoredResult {
    /// Encodes the result for a file, with a checksum of its own.
    pub(super) fn encode(&self) -> Vec<u8> {
        frame(self)
    }

    /// Decodes what a file holds. `None` for one that is torn, damaged, or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<StoredResult> {
        unframe(bytes)
    }

    /// Number of bytes of its outputs.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|(_, content)| content.bytes()).sum()
    }
}

/// What is known of the last result of a task, even if it is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Latest {
    pub(super) origin: Origin,
    pub(super) components: Components,
}

/// Encodes a value, with a checksum.
pub(super) fn frame(value: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(value).unwrap_or_default();
    [&MAGIC[..], &Digest::of(&body).bytes()[..], &body].concat()
}

/// Decodes what [`frame`] has encoded.
pub(super) fn unframe<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let (check, body) = bytes.strip_prefix(&MAGIC[..])?.split_at_checked(32)?;
    (Digest::of(body).bytes() == check).then(|| postcard::from_bytes(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn components(list: &[(&str, &str)]) -> Components {
        let mut all = Components::default();
        list.iter().for_each(|(name, value)| all.add(*name, *value));
        all
    }

    #[test]
    fn keys_tell_components_apart() {
        let keys = [
            components(&[("a", "bc")]).key(),
            components(&[("ab", "c")]).key(),
            components(&[("a", "b"), ("c", "")]).key(),
            components(&[("a", &"x".repeat(1000))]).key(),
            components(&[("a", &("x".repeat(999) + "y"))]).key(),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
    }

    #[test]
    fn differences_have_both_values() {
        let now = components(&[("command", "sort a"), ("env A", "1"), ("same", "s")]);
        let was = components(&[("command", "sort b"), ("input x", "file"), ("same", "s")]);
        let told: Vec<(String, Option<String>, Option<String>)> =
            now.differences(&was).into_iter().map(|d| (d.name, d.was, d.now)).collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                ("command".into(), text("sort b"), text("sort a")),
                ("env A".into(), None, text("1")),
                ("input x".into(), text("file"), None),
            ]
        );
        assert!(now.differences(&now).is_empty());
    }

    fn result() -> StoredResult {
        let digest = Digest::of(b"x");
        StoredResult {
            origin: Origin { job: "j".into(), task: "t[3]".into(), took_s: 1.5, ..Origin::default() },
            components: components(&[("command", "x")]),
            outputs: vec![(OutputName::Declared("out".into()), Content::File { digest, size: 1, mode: 0o644 })],
            printed: vec![(false, b"hello".to_vec()), (true, b"\xff".to_vec())],
            measures: vec![("loss".into(), 0.5)],
        }
    }

    proptest! {
        #[test]
        fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
            let bytes = result().encode();
            prop_assert_eq!(StoredResult::decode(&bytes), Some(result()));
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_eq!(StoredResult::decode(&damaged), None);
            prop_assert_eq!(StoredResult::decode(&bytes[..cut.index(bytes.len())]), None);
        }
    }
}
