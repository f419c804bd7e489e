//! Values that turn one table into many tasks: `array` and `matrix`.

use serde_json::{Value, json};

use super::quantities::refuse;
use super::scalar;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Read, TomlNode, integer, mismatch};
use crate::job::scalar::{Scalar, is_identifier};
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
        let mut axes: Vec<_> = table
            .iter()
            .filter_map(|(name, value)| {
                let values = axis(name.get_ref(), value, findings);
                check_axis_name(name, findings);
                Some((At::new(name.get_ref().to_string(), name.span()), values?))
            })
            .collect();
        // The tree is sorted by key; the axes are used in the order of the file.
        axes.sort_by_key(|(name, _)| name.span.start);
        (!axes.is_empty() && axes.len() == table.len()).then_some(MatrixSpec(axes))
    }
}

fn check_axis_name(name: &toml::Spanned<std::borrow::Cow<'_, str>>, findings: &mut Findings) {
    let text = name.get_ref();
    let reason = if text == "index" || text == "name" {
        "that word has a meaning of its own in `{...}`"
    } else if !is_identifier(text) {
        "it must consist of letters, digits and `_`, and begin with a letter"
    } else {
        return;
    };
    let shown = shorten(text);
    findings.push(Diagnostic::error(format!("`{shown}` cannot be the name of an axis: {reason}")).at(&name.span()));
}

fn axis(name: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<AxisSpec> {
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
