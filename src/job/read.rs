//! Converts the TOML tree to typed specifications; mistakes are collected and never fatal.
//!
//! The [`section!`] macro declares a section of the job file once: its fields, their types,
//! one-line documentation and defaults. It generates the struct of typed values, the reader, the
//! check for unknown keys and the JSON Schema, so nothing about a field is written twice. An
//! implementation of [`Read`] defines how a type is read and described.

use std::ops::Range;

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Findings, closest, suggest};
use super::synonyms;

/// A TOML value with its place.
pub(crate) type TomlNode<'i> = Spanned<DeValue<'i>>;

/// A byte range of the text.
pub(crate) type Span = Range<usize>;

/// A typed value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct At<T> {
    pub value: T,
    pub span: Span,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, span: Span) -> At<T> {
        At { value, span }
    }
}

/// A type that a field may have.
pub(crate) trait Read: Sized {
    /// The expected value with its article, for messages: "a whole number".
    fn expected() -> String;

    /// JSON Schema of the values that are read.
    fn schema() -> Value;

    /// Reads the value of the field `key`, or records why it is invalid.
    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self>;
}

/// One field of a section.
pub(crate) struct Field {
    pub name: &'static str,
    pub doc: &'static str,
    pub default: Default,
    pub schema: fn() -> Value,
}

/// The default of an absent field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// None that needs a description.
    Nothing,
    /// Described by this text.
    Words(&'static str),
    /// The field is required.
    Required,
}

/// A table of the job file with a fixed set of fields.
pub(crate) trait Section: Sized {
    /// All fields of the section.
    const FIELDS: &'static [Field];

    /// Reads these fields; other keys are ignored.
    fn read_fields(table: &DeTable<'_>, findings: &mut Findings) -> Self;
}

/// Declares a section: a struct of optional fields, with [`Section`] and [`Read`].
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty $(= $default:tt)?,)* }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, ::std::default::Default)]
        pub(crate) struct $name {
            $($(#[doc = $doc])+ pub $field: Option<$crate::job::read::At<$type>>,)*
        }

        impl $crate::job::read::Section for $name {
            const FIELDS: &'static [$crate::job::read::Field] = &[$($crate::job::read::Field {
                name: stringify!($field),
                doc: concat!($($doc),+),
                default: section!(@default $($default)?),
                schema: <$type as $crate::job::read::Read>::schema,
            }),*];

            fn read_fields(table: &toml::de::DeTable<'_>, findings: &mut $crate::job::diagnostic::Findings) -> Self {
                let mut section = $name::default();
                for (key, node) in table.iter() {
                    let key = key.get_ref().as_ref();
                    $(if key == stringify!($field) {
                        section.$field = $crate::job::read::field(key, node, findings);
                        continue;
                    })*
                }
                section
            }
        }

        impl $crate::job::read::Read for $name {
            fn expected() -> String {
                let keys: Vec<String> = <$name as $crate::job::read::Section>::FIELDS.iter().map(|f| format!("`{}`", f.name)).collect();
                format!("a table of {}", keys.join(", "))
            }

            fn schema() -> serde_json::Value {
                $crate::job::read::table_schema(concat!($($about),+), &[<$name as $crate::job::read::Section>::FIELDS])
            }

            fn read(
                key: &str,
                node: &$crate::job::read::TomlNode<'_>,
                findings: &mut $crate::job::diagnostic::Findings,
            ) -> Option<Self> {
                let table = $crate::job::read::table::<Self>(key, node, findings)?;
                let fields = <$name as $crate::job::read::Section>::FIELDS;
                $crate::job::read::check_keys(key, table, &[fields], findings);
                $crate::job::read::check_required(key, node, fields, findings);
                Some(<$name as $crate::job::read::Section>::read_fields(table, findings))
            }
        }
    };
    (@default) => { $crate::job::read::Default::Nothing };
    (@default required) => { $crate::job::read::Default::Required };
    (@default $default:literal) => { $crate::job::read::Default::Words($default) };
}
pub(crate) use section;

/// Reads the value of a field.
pub(crate) fn field<T: Read>(name: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<At<T>> {
    T::read(name, node, findings).map(|value| At::new(value, node.span()))
}

/// The node as a table, or records that it is not one.
pub(crate) fn table<'a, 'i, T: Read>(
    key: &str,
    node: &'a TomlNode<'i>,
    findings: &mut Findings,
) -> Option<&'a DeTable<'i>> {
    let table = node.get_ref().as_table();
    if table.is_none() {
        mismatch::<T>(key, node, findings);
    }
    table
}

/// Records each unknown key with a suggestion.
pub(crate) fn check_keys(what: &str, table: &DeTable<'_>, fields: &[&[Field]], findings: &mut Findings) {
    let is_known = |key: &str| fields.iter().flat_map(|f| f.iter()).any(|f| f.name == key);
    for key in table.keys().filter(|key| !is_known(key.get_ref())) {
        let names: Vec<&str> = fields.iter().flat_map(|f| f.iter()).map(|f| f.name).collect();
        let name = super::units::shorten(key.get_ref());
        // `[jobs]` is the table `[job]`, while `[[jobs]]` are the tasks of other systems.
        let singular = name.strip_suffix('s').filter(|word| names.contains(word));
        let is_table = table.get(&**key.get_ref()).is_some_and(|value| value.get_ref().as_table().is_some());
        let singular = singular.filter(|_| is_table);
        let help = singular
            .map(|word| format!("did you mean `{word}`?"))
            .or_else(|| by_meaning(&name, what, &names, findings))
            .or_else(|| elsewhere(&name, findings))
            .unwrap_or_else(|| suggest(&name, &names, "keys here"));
        findings.push(Diagnostic::error(format!("unknown key `{name}` in `{what}`")).at(&key.span()).help(help));
    }
}

/// Records each required field that is missing.
pub(crate) fn check_required(what: &str, node: &TomlNode<'_>, fields: &[Field], findings: &mut Findings) {
    let Some(table) = node.get_ref().as_table() else { return };
    for field in fields.iter().filter(|f| f.default == Default::Required && !table.contains_key(f.name)) {
        findings.push(Diagnostic::error(format!("`{what}` has no `{}`", field.name)).at(&node.span()).help(format!(
            "add `{} = ...`: {}",
            field.name,
            one_line(field.doc)
        )));
    }
}

/// A documentation comment as one line.
fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The key that means the same as a word of another system.
fn by_meaning(name: &str, table: &str, names: &[&str], findings: &Findings) -> Option<String> {
    if let Some((key, example)) = synonyms::meaning(name, names) {
        let write = if example.is_empty() { String::new() } else { format!(" Write {example}") };
        return Some(format!("did you mean `{key}`?{write}"));
    }
    if closest(name, names.iter().copied()).is_some() {
        return None;
    }
    let (key, example) = synonyms::meaning_elsewhere(name, table)?;
    let homes = findings.homes_of(key);
    let write = if example.is_empty() { String::new() } else { format!(": write {example}") };
    match key == name {
        true => Some(format!("write {example}")),
        false => (!homes.is_empty()).then(|| format!("`{key}` means this, in {}{write}", homes.join(" or "))),
    }
}

/// The section of a key that is valid elsewhere.
fn elsewhere(name: &str, findings: &Findings) -> Option<String> {
    let home = findings.homes_of(name);
    (!home.is_empty()).then(|| format!("`{name}` belongs in {}", home.join(" or ")))
}

/// Records that a value has the wrong type.
pub(crate) fn mismatch<T: Read>(key: &str, node: &TomlNode<'_>, findings: &mut Findings) {
    // Not generic, since it would be compiled once for each of a hundred types.
    wrong_type((&T::expected(), T::schema), key, node, findings);
}

fn wrong_type((expected, schema): (&str, fn() -> Value), key: &str, node: &TomlNode<'_>, findings: &mut Findings) {
    let message = format!("`{key}` must be {expected}, not {}", found(node.get_ref()));
    let error = Diagnostic::error(message).at(&node.span());
    let help = node.get_ref().as_str().and_then(|text| unquoted(schema(), key, text));
    findings.push(match help.or_else(|| synonyms::example(key).map(|example| format!("write {example}"))) {
        Some(help) => error.help(help),
        None => error,
    });
}

/// Advice for a number or a boolean in quotes.
fn unquoted(schema: Value, key: &str, text: &str) -> Option<String> {
    let fits = match schema["type"].as_str()? {
        "integer" => text.parse::<i64>().is_ok(),
        "number" => text.parse::<f64>().is_ok_and(f64::is_finite),
        "boolean" => text.parse::<bool>().is_ok(),
        _ => false,
    };
    fits.then(|| format!("remove the quotes: `{key} = {text}`"))
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The description of a field for editors.
fn described(field: &Field) -> Value {
    let mut schema = (field.schema)();
    let mut description = one_line(field.doc);
    if let Default::Words(words) = field.default {
        description.push_str(&format!(". Default: {words}"));
    }
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".into(), Value::String(description));
    }
    schema
}

/// JSON Schema of a table with exactly these fields.
pub(crate) fn table_schema(about: &str, fields: &[&[Field]]) -> Value {
    let properties: serde_json::Map<String, Value> =
        fields.iter().flat_map(|f| f.iter()).map(|f| (f.name.to_string(), described(f))).collect();
    let required = fields.iter().flat_map(|f| f.iter()).filter(|f| f.default == Default::Required).map(|f| f.name);
    let mut schema = json!({
        "type": "object",
        "description": one_line(about),
        "additionalProperties": false,
        "properties": properties,
    });
    let required: Vec<&str> = required.collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// An integer of the tree as `i64`; `None` for other types and values that do not fit.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A float of the tree.
pub(crate) fn float(value: &DeValue<'_>) -> Option<f64> {
    value.as_float()?.as_str().parse().ok()
}

impl Read for String {
    fn expected() -> String {
        "a string".into()
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        if text.contains('\0') {
            findings.push(
                Diagnostic::error(format!("`{key}` contains a NUL byte"))
                    .at(&node.span())
                    .help("neither file names nor commands nor variables can contain it; remove `\\u0000`"),
            );
            return None;
        }
        Some(text.to_string())
    }
}

impl Read for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = node.get_ref().as_bool();
        if value.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        value
    }
}

/// An integer within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Whole<const LEAST: i64, const MOST: i64>(pub i64);

impl<const LEAST: i64, const MOST: i64> Read for Whole<LEAST, MOST> {
    fn expected() -> String {
        "a whole number".into()
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(typed) = node.get_ref().as_integer() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let value = integer(node.get_ref());
        let message = match value {
            Some(value) if (LEAST..=MOST).contains(&value) => return Some(Whole(value)),
            Some(value) if value < LEAST => format!("`{key}` must be at least {LEAST}, not {value}"),
            _ => format!("`{key}` must be at most {MOST}, not {typed}"),
        };
        findings.push(Diagnostic::error(message).at(&node.span()));
        None
    }
}

/// The header of the tables of a list.
fn header_of(key: &str) -> String {
    match key {
        "rule" => "scaling.rule".into(),
        "node" => "cost.node".into(),
        _ => key.into(),
    }
}

/// A list of tables (`[[task]]`).
#[derive(Clone, Debug)]
pub(crate) struct Tables<T>(pub Vec<At<T>>);

impl<T: Read> Read for Tables<T> {
    fn expected() -> String {
        "a list of tables".into()
    }

    fn schema() -> Value {
        json!({ "type": "array", "minItems": 1, "items": T::schema() })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(list) = node.get_ref().as_array() else {
            let found = if node.get_ref().is_table() { "one table" } else { found(node.get_ref()) };
            findings.push(
                Diagnostic::error(format!("`{key}` must be a list of tables, not {found}"))
                    .at(&node.span())
                    .help(format!("write `[[{}]]` with two brackets on each side", header_of(key))),
            );
            return None;
        };
        let entries = list.iter().filter_map(|entry| Some(At::new(T::read(key, entry, findings)?, entry.span())));
        Some(Tables(entries.collect()))
    }
}
