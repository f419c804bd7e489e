//! Values for relations between tasks: `needs`, `inputs` and `outputs`.

use serde_json::{Value, json};
use toml::de::DeValue;

use super::entries;
use super::words::{OneOf, When};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Read, TomlNode, mismatch};
use crate::job::spec::{FileTable, NeedTable};

/// The dependencies of a task, as typed.
#[derive(Clone, Debug)]
pub(crate) struct NeedsSpec(pub Vec<At<NeedSpec>>);

/// One dependency: the text, and the condition if it was given separately.
#[derive(Clone, Debug)]
pub(crate) struct NeedSpec {
    pub text: At<String>,
    pub when: Option<At<OneOf<When>>>,
}

impl Read for NeedsSpec {
    fn expected() -> String {
        "the name of a task, or a list of names".into()
    }

    fn schema() -> Value {
        let entry = json!({ "oneOf": [{ "type": "string", "minLength": 1 }, NeedTable::schema()] });
        json!({ "oneOf": [entry, { "type": "array", "items": entry }] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        Some(NeedsSpec(entries(node, findings, |n, f| need(key, n, f))))
    }
}

fn need(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<NeedSpec> {
    match node.get_ref() {
        DeValue::String(_) => {
            let text = String::read(key, node, findings)?;
            Some(NeedSpec { text: At::new(text, node.span()), when: None })
        }
        DeValue::Table(_) => {
            let table = NeedTable::read(key, node, findings)?;
            Some(NeedSpec { text: table.task?, when: table.when })
        }
        _ => {
            mismatch::<NeedsSpec>(key, node, findings);
            None
        }
    }
}

/// Files that a task reads or writes.
#[derive(Clone, Debug)]
pub(crate) struct FilesSpec(pub Vec<FileSpecEntry>);

/// One file, with its size if given.
#[derive(Clone, Debug)]
pub(crate) struct FileSpecEntry {
    pub name: At<String>,
    pub size: Option<u64>,
    /// The file may be missing.
    pub optional: bool,
    /// `keep`, if it is given.
    pub keep: Option<At<bool>>,
}

impl Read for FilesSpec {
    fn expected() -> String {
        "a file name, or a list of file names".into()
    }

    fn schema() -> Value {
        let entry = json!({ "oneOf": [{ "type": "string", "minLength": 1 }, FileTable::schema()] });
        json!({ "oneOf": [entry, { "type": "array", "items": entry }] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let files = entries(node, findings, |n, f| file(key, n, f));
        Some(FilesSpec(files.into_iter().map(|at| at.value).collect()))
    }
}

fn file(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<FileSpecEntry> {
    let entry = match node.get_ref() {
        DeValue::String(_) => FileSpecEntry {
            name: At::new(String::read(key, node, findings)?, node.span()),
            size: None,
            optional: false,
            keep: None,
        },
        DeValue::Table(_) => {
            let table = FileTable::read(key, node, findings)?;
            let optional = table.optional.is_some_and(|at| at.value);
            FileSpecEntry { name: table.file?, size: table.size.map(|at| at.value.0), optional, keep: table.keep }
        }
        _ => {
            mismatch::<FilesSpec>(key, node, findings);
            return None;
        }
    };
    if entry.name.value.is_empty() {
        findings.push(Diagnostic::error(format!("a file name in `{key}` is empty")).at(&entry.name.span));
        return None;
    }
    Some(entry)
}
