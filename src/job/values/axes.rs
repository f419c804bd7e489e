//! Values that turn one table into many tasks: `array` and `matrix`.

use std::path::Path;

use serde_json::{Value, json};

use super::quantities::refuse;
use super::scalar;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Read, Span, TomlNode, integer, mismatch};
use crate::job::scalar::{Scalar, axis_name_mistake};
use crate::job::spec::ListTable;
use crate::job::units::{IndexSet, parse_array, shorten};

/// The indices of an array, and the maximum number of its tasks that run at once.
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
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

/// The axes of a matrix, in file order, and the maximum number of its tasks that run at once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MatrixSpec {
    pub axes: Vec<(At<String>, AxisSource)>,
    pub limit: Option<u32>,
}

/// Where the values along an axis come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AxisSource {
    Given(AxisSpec),
    /// A file with a value per line.
    List(At<String>),
    /// A file with a column per axis.
    Table(At<String>),
}

/// The values along one axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AxisSpec {
    Set(IndexSet),
    List(Vec<Scalar>),
}

/// The key of a matrix that names a table instead of an axis.
const TABLE: &str = "csv";

impl Read for MatrixSpec {
    fn expected() -> String {
        "a table of axes, such as { alpha = [0.1, 0.2], seed = \"0-9\" }".into()
    }

    fn schema() -> Value {
        let scalar = json!({ "type": ["string", "number", "boolean"] });
        let values = json!({ "type": ["string", "array"], "minItems": 1, "items": scalar });
        json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "properties": { TABLE: { "description": "Table (CSV or TSV) whose columns are axes", "type": "string" } },
            "additionalProperties": { "oneOf": [values, ListTable::schema()] },
        })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
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
        let mut limit: Option<At<u32>> = None;
        let mut axes: Vec<_> = table
            .iter()
            .filter_map(|(name, value)| {
                let mut limits = Limits { limit: &mut limit, findings };
                let source = axis(name.get_ref(), value, &mut limits);
                check_axis_name(name, findings);
                Some((At::new(name.get_ref().to_string(), name.span()), source?))
            })
            .collect();
        // The tree is sorted by key; the axes are used in the order of the file.
        axes.sort_by_key(|(name, _)| name.span.start);
        let limit = limit.map(|at| at.value);
        (!axes.is_empty() && axes.len() == table.len()).then_some(MatrixSpec { axes, limit })
    }
}

fn check_axis_name(name: &toml::Spanned<std::borrow::Cow<'_, str>>, findings: &mut Findings) {
    let Some(reason) = axis_name_mistake(name.get_ref()) else { return };
    let shown = shorten(name.get_ref());
    findings.push(Diagnostic::error(format!("`{shown}` cannot be the name of an axis: {reason}")).at(&name.span()));
}

/// The limit of a matrix, which stands behind the text of one of its axes: `"0-99%5"`.
struct Limits<'a> {
    limit: &'a mut Option<At<u32>>,
    findings: &'a mut Findings,
}

impl Limits<'_> {
    /// Takes a limit off the end of a text; `None` if it is invalid.
    fn take<'t>(&mut self, text: &'t str, span: &Span) -> Option<&'t str> {
        let Some((rest, digits)) = text.rsplit_once('%') else { return Some(text) };
        let Some(limit) = digits.trim().parse().ok().filter(|limit| *limit > 0) else {
            let message = format!("the limit after % must be a whole number of at least 1, not `{}`", shorten(digits));
            self.findings.push(Diagnostic::error(message).at(span).help("it is the number of tasks that run at once"));
            return None;
        };
        if let Some(other) = self.limit.replace(At::new(limit, span.clone())) {
            let message = "the limit of a matrix is given twice";
            let help = "it holds for all tasks of the matrix; write it behind one of the axes";
            self.findings.push(Diagnostic::error(message).at(span).label(&other.span, "first here").help(help));
        }
        Some(rest)
    }
}

fn axis(name: &str, node: &TomlNode<'_>, limits: &mut Limits<'_>) -> Option<AxisSource> {
    let span = node.span();
    if let Some(text) = node.get_ref().as_str() {
        let text = limits.take(text, &span)?;
        return match IndexSet::parse(text) {
            Ok(set) => Some(AxisSource::Given(AxisSpec::Set(set))),
            Err(_) if name == TABLE => Some(AxisSource::Table(At::new(text.to_owned(), span))),
            Err(error) => {
                let help = match Path::new(text).extension().and_then(|ending| ending.to_str()) {
                    Some("csv" | "tsv") => format!("for the columns of a file write `{name} = {{ csv = {text:?} }}`"),
                    Some(ending) if ending.chars().all(|c| c.is_ascii_alphabetic()) => {
                        format!("for a value per line of a file write `{name} = {{ file = {text:?} }}`")
                    }
                    _ => format!("for a single value write a list: `{name} = [\"...\"]`"),
                };
                limits.findings.push(Diagnostic::error(format!("axis `{name}`: {error}")).at(&span).help(help));
                None
            }
        };
    }
    if node.get_ref().as_table().is_some() {
        let given = ListTable::read(name, node, limits.findings)?;
        let (file, source): (_, fn(At<String>) -> AxisSource) = match (given.file, given.csv) {
            (Some(file), None) => (file, AxisSource::List),
            (None, Some(file)) => (file, AxisSource::Table),
            (given, _) => {
                let count = if given.is_some() { "two files" } else { "no file" };
                let message = format!("axis `{name}` names {count}");
                let help =
                    "write `{ file = \"FILE\" }` for a value per line, `{ csv = \"FILE\" }` for columns that are axes";
                limits.findings.push(Diagnostic::error(message).at(&span).help(help));
                return None;
            }
        };
        let path = limits.take(&file.value, &file.span)?.to_owned();
        return Some(source(At::new(path, file.span)));
    }
    let findings = &mut *limits.findings;
    let Some(list) = node.get_ref().as_array() else {
        let message = format!("axis `{name}` must be a list of values or a set of indices such as \"0-9\"");
        findings.push(Diagnostic::error(message).at(&span).help("values may come from a file: `{ file = \"FILE\" }`"));
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
    (values.len() == list.len()).then_some(AxisSource::Given(AxisSpec::List(values)))
}
