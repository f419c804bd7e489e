//! The sections of HyperQueue's job definition file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::job::diagnostic::Findings;
use crate::job::read::{Read, Tables, TomlNode, Whole, float, integer, mismatch, section};
use crate::job::values::{EnvSpec, Strings};

type HqNumber = Whole<0, { u32::MAX as i64 }>;

section! {
    /// A job definition file of HyperQueue
    HqFile {
        /// Name of the job
        name: String,
        /// Directory that output is streamed to
        stream: String,
        /// How many tasks may fail
        max_fails: HqNumber,
        /// The tasks
        task: Tables<HqTask>,
        /// The tasks of an array
        array: HqTask,
        /// Whether files go through HyperQueue
        data_layer: bool,
    }
}

section! {
    /// A task, or all tasks of an array
    HqTask {
        /// Number of the task
        id: HqNumber,
        /// Numbers of the tasks of an array
        ids: String,
        /// Entries of an array
        entries: Strings,
        /// Program and arguments
        command: Strings = required,
        /// Numbers of tasks that must end first
        deps: Numbers,
        /// Environment variables
        env: EnvSpec,
        /// Working directory
        cwd: String,
        /// Text for standard input
        stdin: String,
        /// File for standard output
        stdout: Stdio,
        /// File for standard error
        stderr: Stdio,
        /// A directory for the task
        task_dir: bool,
        /// How CPUs are pinned
        pin: String,
        /// Time limit
        time_limit: String,
        /// Priority
        priority: Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }>,
        /// How many crashes of workers it may survive
        crash_limit: CrashLimit,
        /// Alternative requests for resources
        request: Tables<HqRequest>,
    }
}

section! {
    /// A request for resources
    HqRequest {
        /// Amounts by name
        resources: Amounts,
        /// Whole nodes
        n_nodes: HqNumber,
        /// Time that must remain
        time_request: String,
        /// How much the request counts against others
        weight: PositiveNumber,
    }
}

section! {
    /// Where output goes
    HqOutput {
        /// The file
        path: String = required,
        /// What becomes of it
        on_close: String,
        /// The same, as the manual of HyperQueue has it
        mode: String,
    }
}

/// A list of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(super) Vec<i64>);

impl Read for Numbers {
    fn expected() -> String {
        "a list of whole numbers".into()
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": { "type": "integer" } })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let numbers: Option<Vec<i64>> =
            node.get_ref().as_array().and_then(|list| list.iter().map(|entry| integer(entry.get_ref())).collect());
        if numbers.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        numbers.map(Numbers)
    }
}

/// When a task is given up because its workers crash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CrashLimit {
    AtMost,
    Never,
    Unlimited,
}

impl Read for CrashLimit {
    fn expected() -> String {
        "a whole number from 1 to 65535, \"never-restart\" or \"unlimited\"".into()
    }

    fn schema() -> Value {
        json!({ "type": ["integer", "string"] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = node.get_ref();
        let number = integer(value).or_else(|| value.as_str()?.parse().ok());
        let limit = match (value.as_str(), number) {
            (Some("never-restart"), _) => Some(CrashLimit::Never),
            (Some("unlimited"), _) => Some(CrashLimit::Unlimited),
            (_, Some(1..=65535)) => Some(CrashLimit::AtMost),
            _ => None,
        };
        if limit.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        limit
    }
}

/// A number above zero.
#[derive(Clone, Debug)]
pub(crate) struct PositiveNumber;

impl Read for PositiveNumber {
    fn expected() -> String {
        "a number above 0".into()
    }

    fn schema() -> Value {
        json!({ "type": "number" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = number(node).filter(|value| *value > 0.0 && value.is_finite());
        if value.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        value.map(|_| PositiveNumber)
    }
}

/// The value of an integer or float.
fn number(node: &TomlNode<'_>) -> Option<f64> {
    integer(node.get_ref()).map(|number| number as f64).or_else(|| float(node.get_ref()))
}

/// An output file, given by name or as a table.
#[derive(Clone, Debug)]
pub(crate) enum Stdio {
    File(String),
    Table(HqOutput),
}

impl Read for Stdio {
    fn expected() -> String {
        "a file name, or a table with `path`".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [{ "type": "string" }, HqOutput::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().is_table() {
            true => HqOutput::read(key, node, findings).map(Stdio::Table),
            false => String::read(key, node, findings).map(Stdio::File),
        }
    }
}

/// Amounts of resources by name, as text.
#[derive(Clone, Debug)]
pub(crate) struct Amounts(pub(super) BTreeMap<String, String>);

impl Read for Amounts {
    fn expected() -> String {
        "a table of numbers".into()
    }

    fn schema() -> Value {
        json!({ "type": "object" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let amount = |value: &TomlNode<'_>| match value.get_ref().as_str() {
            Some(text) => text.to_string(),
            None => number(value).map_or_else(|| "?".to_string(), |number| number.to_string()),
        };
        Some(Amounts(table.iter().map(|(name, value)| (name.get_ref().to_string(), amount(value))).collect()))
    }
}
