//! Values for the work of a task: commands, arguments of kernels, environment.

use serde_json::{Value, json};
use toml::de::DeValue;

use super::{entries, scalar};
use crate::exec::script::is_standard;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Read, TomlNode, float, integer, mismatch};
use crate::job::scalar::Scalar;
use crate::job::units::shorten;

/// A string or a list of strings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Strings(pub Vec<At<String>>);

impl Read for Strings {
    fn expected() -> String {
        "a string or a list of strings".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "array"], "items": { "type": "string" } })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        Some(Strings(entries(node, findings, |n, f| String::read(key, n, f))))
    }
}

/// A program with arguments, or a shell line.
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
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

/// The words of a shell, to which the command line is appended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShellSpec(pub Vec<String>);

impl Read for ShellSpec {
    fn expected() -> String {
        "the name of a shell, or a list of its words to which the line is added".into()
    }

    fn schema() -> Value {
        json!({
            "type": ["string", "array"],
            "minLength": 1,
            "minItems": 1,
            "items": { "type": "string", "minLength": 1 },
            "examples": ["bash", ["bash", "-euo", "pipefail", "-c"]],
        })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let mut refuse = |message: String, help: String| {
            findings.push(Diagnostic::error(message).at(&node.span()).help(help));
        };
        if let Some(name) = node.get_ref().as_str() {
            let words: Vec<String> = name.split_whitespace().map(str::to_owned).collect();
            if words.len() == 1 && words[0] == name {
                return String::read(key, node, findings).map(|name| ShellSpec(vec![name, "-c".into()]));
            }
            let list = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            let help = if words.is_empty() {
                "name one, such as \"bash\"".into()
            } else {
                format!("write `{key} = [{list}]`")
            };
            refuse(format!("`{key}` is the name of one program, not {:?}", shorten(name)), help);
            return None;
        }
        let Some(list) = node.get_ref().as_array() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let words: Vec<String> =
            list.iter().filter_map(|n| word(key, n, findings)).filter(|word| !word.is_empty()).collect();
        if words.len() < list.len() {
            return None;
        }
        let last = words.last().map_or("", String::as_str);
        if is_standard(std::slice::from_ref(&last.to_owned())) || words.is_empty() {
            let error = Diagnostic::error(format!("`{key}` makes its program read the line as the name of a script"));
            findings.push(error.at(&node.span()).help("end the list with `\"-c\"`"));
            return None;
        }
        Some(ShellSpec(words))
    }
}

fn word(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<String> {
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

/// Environment variables.
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let mut variables = Vec::new();
        for (name, value) in table.iter() {
            if let Some(reason) = bad_variable(name.get_ref()) {
                let shown = shorten(name.get_ref());
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match raw_arg(key, node, findings)? {
            RawArg::Table(entries) => Some(ArgsSpec(entries)),
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}

/// Copies an argument out of the tree. The TOML parser has bounded its depth.
fn raw_arg(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<RawArg> {
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
