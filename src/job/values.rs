//! How the values of fields are written: the forms that a single field may take, each with its reader and its schema.

use std::time::Duration;

use serde_json::{Value, json};
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Findings, suggest};
use super::read::{At, Node, Read, Span, Whole, float, integer, mismatch};
use super::space::Scalar;
use super::spec::{FileTable, NeedTable, RetryTable};
use super::units::{IndexSet, UnitError, parse_array, parse_duration, parse_memory, parse_size};
use super::{Flush, KeepOutput, Partition};

/// Notes a text that is not the quantity it should be.
fn refuse(key: &str, error: &UnitError, span: &Span, findings: &mut Findings) {
    findings.push(Diagnostic::error(format!("`{key}`: {error}")).at(span));
}

/// Reads a quantity: a string through `parse`, a whole number as the same digits.
fn quantity<T: Read, Q>(
    key: &str,
    node: &Node<'_>,
    parse: impl Fn(&str) -> Result<Q, UnitError>,
    findings: &mut Findings,
) -> Option<Q> {
    let text = match node.get_ref() {
        DeValue::String(text) => text.to_string(),
        value => match integer(value) {
            Some(number) => number.to_string(),
            None => {
                mismatch::<T>(key, node, findings);
                return None;
            }
        },
    };
    parse(&text).map_err(|error| refuse(key, &error, &node.span(), findings)).ok()
}

/// A duration; a bare number is minutes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DurationSpec(pub Duration);

impl Read for DurationSpec {
    fn expected() -> String {
        "a duration such as \"30s\", \"1h30m\" or \"01:30:00\" (a whole number is minutes)".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "minimum": 0, "examples": ["30s", "10m", "1.5h", "01:30:00", "1-12:00:00"] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_duration, findings).map(DurationSpec)
    }
}

/// An expected duration, which may differ from element to element.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EstimateSpec {
    Fixed(Duration),
    Text(String),
}

impl Read for EstimateSpec {
    fn expected() -> String {
        DurationSpec::expected()
    }

    fn schema() -> Value {
        DurationSpec::schema()
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().as_str() {
            Some(text) if text.contains('{') => String::read(key, node, findings).map(EstimateSpec::Text),
            _ => DurationSpec::read(key, node, findings).map(|d| EstimateSpec::Fixed(d.0)),
        }
    }
}

/// Memory in bytes; a bare number is megabytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MemorySpec(pub u64);

impl Read for MemorySpec {
    fn expected() -> String {
        "an amount of memory such as \"512M\" or \"4G\" (a whole number is megabytes)".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "minimum": 1, "examples": ["512M", "4G", "4GiB"] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_memory, findings).map(MemorySpec)
    }
}

/// Size of a file in bytes; a bare number is bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SizeSpec(pub u64);

impl Read for SizeSpec {
    fn expected() -> String {
        "a size such as \"2G\" (a whole number is bytes)".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "minimum": 0, "examples": ["2G", "512M", 1529220] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_size, findings).map(SizeSpec)
    }
}

/// The factor by which a wait grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factor(pub f64);

impl Read for Factor {
    fn expected() -> String {
        "a number of at least 1".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let number = float(node.get_ref()).or_else(|| integer(node.get_ref()).map(|n| n as f64));
        match number {
            None => mismatch::<Self>(key, node, findings),
            Some(number) if (1.0..=1000.0).contains(&number) => return Some(Factor(number)),
            Some(number) => findings
                .push(Diagnostic::error(format!("`{key}` must be between 1 and 1000, not {number}")).at(&node.span())),
        }
        None
    }
}

/// A type whose values are words.
pub(crate) trait Words: Copy + 'static {
    /// The words, what they stand for, and what that means.
    const WORDS: &'static [(&'static str, Self, &'static str)];
}

/// One of a few words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OneOf<T>(pub T);

impl<T: Words> Read for OneOf<T> {
    fn expected() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, ..)| format!("\"{word}\"")).collect();
        words.join(" or ")
    }

    fn schema() -> Value {
        let words: Vec<Value> =
            T::WORDS.iter().map(|(word, _, doc)| json!({ "const": word, "description": doc })).collect();
        json!({ "oneOf": words })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let found = T::WORDS.iter().find(|(word, ..)| *word == text).map(|(_, value, _)| OneOf(*value));
        if found.is_none() {
            let words: Vec<&str> = T::WORDS.iter().map(|(word, ..)| *word).collect();
            let text = super::units::shorten(text);
            findings.push(
                Diagnostic::error(format!("`{key}` must be {}, not \"{text}\"", Self::expected()))
                    .at(&node.span())
                    .help(suggest(&text, &words, "possible words")),
            );
        }
        found
    }
}

impl Words for KeepOutput {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("all", KeepOutput::All, "the output of every task is kept"),
        ("failed", KeepOutput::Failed, "only the output of tasks that failed is kept"),
    ];
}

impl Words for Partition {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("bands", Partition::Bands, "little data moved, all ranks busy throughout (METIS over bands of levels)"),
        ("eft", Partition::Eft, "greedy earliest finish time, longest remaining path first"),
        ("round_robin", Partition::RoundRobin, "in turn, weighted by slots"),
    ];
}

/// Which end of a task lets another start, in Slurm's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Ok,
    NotOk,
    Any,
    /// Element by element, after success.
    Corresponding,
}

impl Words for When {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("afterok", When::Ok, "it must succeed"),
        ("afternotok", When::NotOk, "it must end without success"),
        ("afterany", When::Any, "it must end, whichever way"),
        ("aftercorr", When::Corresponding, "its element with the same index must succeed"),
    ];
}

/// `always`, `never` or a duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FlushSpec(pub Flush);

impl Read for FlushSpec {
    fn expected() -> String {
        "\"always\", \"never\" or a duration such as \"1s\"".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "examples": ["always", "1s", "never"] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().as_str() {
            Some("always") => Some(FlushSpec(Flush::Always)),
            Some("never") => Some(FlushSpec(Flush::Never)),
            Some(word) if parse_duration(word).is_err() => {
                let word = super::units::shorten(word);
                let message = format!("`{key}` must be {}, not \"{word}\"", Self::expected());
                findings.push(Diagnostic::error(message).at(&node.span()));
                None
            }
            _ => DurationSpec::read(key, node, findings).map(|d| FlushSpec(Flush::Every(d.0))),
        }
    }
}

/// Reads each entry of a list, or a single value as a list of one.
fn entries<T>(
    node: &Node<'_>,
    findings: &mut Findings,
    mut read: impl FnMut(&Node<'_>, &mut Findings) -> Option<T>,
) -> Vec<At<T>> {
    match node.get_ref().as_array() {
        Some(list) => list.iter().filter_map(|n| read(n, findings).map(|value| At::new(value, n.span()))).collect(),
        None => read(node, findings).map(|value| At::new(value, node.span())).into_iter().collect(),
    }
}

/// One string or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strings(pub Vec<At<String>>);

impl Read for Strings {
    fn expected() -> String {
        "a string or a list of strings".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "array"], "items": { "type": "string" } })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        Some(Strings(entries(node, findings, |n, f| String::read(key, n, f))))
    }
}

/// A program with arguments, or a line for the shell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CommandSpec {
    List(Vec<At<String>>),
    Line(String),
}

impl Read for CommandSpec {
    fn expected() -> String {
        "a list of strings (program and arguments) or a string (a line for the shell)".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "array"], "minLength": 1, "minItems": 1, "items": { "type": "string" } })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let command = match node.get_ref() {
            DeValue::Array(list) => {
                let words = entries(node, findings, |n, f| word(key, n, f));
                (words.len() == list.len()).then_some(CommandSpec::List(words))?
            }
            DeValue::String(_) => CommandSpec::Line(String::read(key, node, findings)?),
            _ => {
                mismatch::<Self>(key, node, findings);
                return None;
            }
        };
        let empty = match &command {
            CommandSpec::List(words) => words.first().is_none_or(|w| w.value.is_empty()),
            CommandSpec::Line(line) => line.trim().is_empty(),
        };
        if empty {
            findings
                .push(Diagnostic::error(format!("`{key}` is empty")).at(&node.span()).help("name a program to run"));
        }
        (!empty).then_some(command)
    }
}

fn word(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    if node.get_ref().is_str() {
        return String::read(key, node, findings);
    }
    findings.push(
        Diagnostic::error(format!("`{key}` must be {}", CommandSpec::expected()))
            .at(&node.span())
            .help("put each argument in quotes, numbers too"),
    );
    None
}

/// Variables of the environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EnvSpec(pub Vec<(At<String>, At<String>)>);

impl Read for EnvSpec {
    fn expected() -> String {
        "a table of variables".into()
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let mut variables = Vec::new();
        for (name, value) in table.iter() {
            if let Some(reason) = bad_variable(name.get_ref()) {
                let shown = super::units::shorten(name.get_ref());
                findings.push(
                    Diagnostic::error(format!("`{shown}` cannot be the name of a variable: {reason}")).at(&name.span()),
                );
                continue;
            }
            let text = match scalar(value.get_ref()) {
                Some(Scalar::Text(_)) => String::read(name.get_ref(), value, findings),
                Some(scalar) => Some(scalar.to_string()),
                None => {
                    let message = format!("variable `{}` must be a string, a number or a boolean", name.get_ref());
                    findings.push(Diagnostic::error(message).at(&value.span()));
                    None
                }
            };
            if let Some(text) = text {
                variables.push((At::new(name.get_ref().to_string(), name.span()), At::new(text, value.span())));
            }
        }
        Some(EnvSpec(variables))
    }
}

fn bad_variable(name: &str) -> Option<&'static str> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Some("it must consist of letters, digits and `_`, and not begin with a digit");
    }
    name.starts_with("PHALANX_").then_some("names that begin with PHALANX_ are set by Phalanx itself")
}

/// A single value of the tree; `None` for lists, tables, dates and numbers that do not fit.
fn scalar(value: &DeValue<'_>) -> Option<Scalar> {
    match value {
        DeValue::String(text) => Some(Scalar::Text(text.to_string())),
        DeValue::Boolean(value) => Some(Scalar::Bool(*value)),
        DeValue::Integer(_) => integer(value).map(Scalar::Int),
        DeValue::Float(_) => float(value).map(Scalar::Float),
        _ => None,
    }
}

/// Arguments of a kernel as typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArgsSpec(pub Vec<(String, At<RawArg>)>);

/// One argument as typed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RawArg {
    Fixed(toml::Value),
    Text(String),
    List(Vec<At<RawArg>>),
    Table(Vec<(String, At<RawArg>)>),
}

impl Read for ArgsSpec {
    fn expected() -> String {
        "a table of arguments".into()
    }

    fn schema() -> Value {
        json!({ "type": "object" })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        match raw_arg(key, node, findings)? {
            RawArg::Table(entries) => Some(ArgsSpec(entries)),
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}

/// Copies an argument out of the tree, whose depth the TOML parser has bounded.
fn raw_arg(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<RawArg> {
    Some(match node.get_ref() {
        DeValue::String(_) => RawArg::Text(String::read(key, node, findings)?),
        DeValue::Boolean(value) => RawArg::Fixed(toml::Value::Boolean(*value)),
        DeValue::Datetime(value) => RawArg::Fixed(toml::Value::Datetime(*value)),
        DeValue::Float(_) => RawArg::Fixed(toml::Value::Float(float(node.get_ref())?)),
        DeValue::Integer(_) => match integer(node.get_ref()) {
            Some(value) => RawArg::Fixed(toml::Value::Integer(value)),
            None => {
                findings.push(Diagnostic::error(format!("the number in `{key}` is too large")).at(&node.span()));
                return None;
            }
        },
        DeValue::Array(list) => {
            let entries = list.iter().filter_map(|n| raw_arg(key, n, findings).map(|a| At::new(a, n.span())));
            RawArg::List(entries.collect())
        }
        DeValue::Table(table) => {
            let entries = table.iter().filter_map(|(name, n)| {
                let arg = raw_arg(name.get_ref(), n, findings)?;
                Some((name.get_ref().to_string(), At::new(arg, n.span())))
            });
            RawArg::Table(entries.collect())
        }
    })
}

/// The indices of an array, and how many of its tasks may run at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArraySpec {
    pub indices: IndexSet,
    pub limit: Option<u32>,
}

impl Read for ArraySpec {
    fn expected() -> String {
        "a set of indices in quotes, such as \"0-99\"".into()
    }

    fn schema() -> Value {
        json!({
            "type": "string",
            "pattern": "^[0-9]+(-[0-9]+(:[0-9]+)?)?(,[0-9]+(-[0-9]+(:[0-9]+)?)?)*(%[0-9]+)?$",
            "examples": ["0-99", "1-100:2", "1,3,7-9", "0-999%20"],
        })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        if let Some(text) = node.get_ref().as_str() {
            let parsed = parse_array(text).map_err(|error| refuse(key, &error, &node.span(), findings)).ok()?;
            return Some(ArraySpec { indices: parsed.0, limit: parsed.1 });
        }
        let example = match (node.get_ref().as_array(), integer(node.get_ref())) {
            (Some(list), _) if list.is_empty() => "an array needs at least one index: `array = \"0-99\"`".to_string(),
            (Some(_), _) => "write the indices as one string: `array = \"1,3,7-9\"`".to_string(),
            (None, Some(n)) if n > 0 => format!("for {n} tasks write `array = \"0-{}\"`", n - 1),
            _ => "write `array = \"0-99\"`".to_string(),
        };
        let message = format!("`{key}` must be {}", Self::expected());
        findings.push(Diagnostic::error(message).at(&node.span()).help(example));
        None
    }
}

/// The axes of a matrix, in file order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MatrixSpec(pub Vec<(At<String>, AxisSpec)>);

/// The values along one axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AxisSpec {
    Set(IndexSet),
    List(Vec<Scalar>),
}

impl Read for MatrixSpec {
    fn expected() -> String {
        "a table of axes, such as { alpha = [0.1, 0.2], seed = \"0-9\" }".into()
    }

    fn schema() -> Value {
        let scalar = json!({ "type": ["string", "number", "boolean"] });
        json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": ["string", "array"], "minItems": 1, "items": scalar },
        })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        if table.is_empty() {
            findings.push(
                Diagnostic::error(format!("`{key}` has no axes"))
                    .at(&node.span())
                    .help("give it at least one: `matrix = { alpha = [0.1, 0.2] }`"),
            );
        }
        let mut axes: Vec<_> = table
            .iter()
            .filter_map(|(name, value)| {
                let values = axis(name.get_ref(), value, findings);
                check_axis_name(name, findings);
                Some((At::new(name.get_ref().to_string(), name.span()), values?))
            })
            .collect();
        // The tree keeps its keys sorted; the axes count in the order in which they were typed.
        axes.sort_by_key(|(name, _)| name.span.start);
        (!axes.is_empty() && axes.len() == table.len()).then_some(MatrixSpec(axes))
    }
}

fn check_axis_name(name: &toml::Spanned<std::borrow::Cow<'_, str>>, findings: &mut Findings) {
    let text = name.get_ref();
    let reason = if text == "index" || text == "name" {
        "that word has a meaning of its own in `{...}`"
    } else if !super::template::is_identifier(text) {
        "it must consist of letters, digits and `_`, and begin with a letter"
    } else {
        return;
    };
    let shown = super::units::shorten(text);
    findings.push(Diagnostic::error(format!("`{shown}` cannot be the name of an axis: {reason}")).at(&name.span()));
}

fn axis(name: &str, node: &Node<'_>, findings: &mut Findings) -> Option<AxisSpec> {
    if let Some(text) = node.get_ref().as_str() {
        return match IndexSet::parse(text) {
            Ok(set) => Some(AxisSpec::Set(set)),
            Err(error) => {
                findings.push(
                    Diagnostic::error(format!("axis `{name}`: {error}"))
                        .at(&node.span())
                        .help(format!("for a single value write a list: `{name} = [\"...\"]`")),
                );
                None
            }
        };
    }
    let Some(list) = node.get_ref().as_array() else {
        let message = format!("axis `{name}` must be a list of values or a set of indices such as \"0-9\"");
        findings.push(Diagnostic::error(message).at(&node.span()));
        return None;
    };
    if list.is_empty() {
        let message = format!("axis `{name}` has no values, so the matrix has no tasks");
        findings
            .push(Diagnostic::error(message).at(&node.span()).help("give it at least one value, or remove the axis"));
        return None;
    }
    let values: Vec<Scalar> = list
        .iter()
        .filter_map(|value| {
            if value.get_ref().is_str() {
                return String::read(name, value, findings).map(Scalar::Text);
            }
            let scalar = scalar(value.get_ref());
            if scalar.is_none() {
                let message = format!("values of axis `{name}` must be numbers, strings or booleans");
                findings.push(Diagnostic::error(message).at(&value.span()));
            }
            scalar
        })
        .collect();
    (values.len() == list.len()).then_some(AxisSpec::List(values))
}

/// What a task needs, as typed.
#[derive(Clone, Debug)]
pub(crate) struct NeedsSpec(pub Vec<At<NeedSpec>>);

/// One need: the text, and the condition where it was given apart.
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
        json!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": entry }] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        Some(NeedsSpec(entries(node, findings, |n, f| need(key, n, f))))
    }
}

fn need(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<NeedSpec> {
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

/// One file, with its size where given.
#[derive(Clone, Debug)]
pub(crate) struct FileSpecEntry {
    pub name: At<String>,
    pub size: Option<u64>,
}

impl Read for FilesSpec {
    fn expected() -> String {
        "a file name, or a list of file names".into()
    }

    fn schema() -> Value {
        let entry = json!({ "oneOf": [{ "type": "string", "minLength": 1 }, FileTable::schema()] });
        json!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": entry }] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let files = entries(node, findings, |n, f| file(key, n, f));
        Some(FilesSpec(files.into_iter().map(|at| at.value).collect()))
    }
}

fn file(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<FileSpecEntry> {
    let entry = match node.get_ref() {
        DeValue::String(_) => {
            FileSpecEntry { name: At::new(String::read(key, node, findings)?, node.span()), size: None }
        }
        DeValue::Table(_) => {
            let table = FileTable::read(key, node, findings)?;
            FileSpecEntry { name: table.file?, size: table.size.map(|at| at.value.0) }
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

/// Further attempts: their number, or a table.
#[derive(Clone, Debug)]
pub(crate) enum RetriesSpec {
    Count(u16),
    Table(RetryTable),
}

impl Read for RetriesSpec {
    fn expected() -> String {
        "a whole number, or a table such as { count = 3, backoff = \"10s\" }".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [Whole::<0, 65535>::schema(), RetryTable::schema()] })
    }

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref() {
            DeValue::Integer(_) => {
                let count = Whole::<0, 65535>::read(key, node, findings)?;
                u16::try_from(count.0).ok().map(RetriesSpec::Count)
            }
            DeValue::Table(_) => RetryTable::read(key, node, findings).map(RetriesSpec::Table),
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}
