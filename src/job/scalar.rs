//! Values of axes and parameters, and the names that may stand for them.

use std::fmt;

/// A value along an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl Scalar {
    /// The value that is written as this text: a number or a boolean only if it is shown in exactly
    /// this form, so that `007` stays a text.
    pub(crate) fn typed(text: &str) -> Scalar {
        let numbers = [text.parse().ok().map(Scalar::Int), text.parse().ok().map(Scalar::Float)];
        let candidates = numbers.into_iter().chain([text.parse().ok().map(Scalar::Bool)]).flatten();
        let is_plain = |value: &Scalar| !matches!(value, Scalar::Float(number) if !number.is_finite());
        let found = candidates.filter(is_plain).find(|value| value.to_string() == text);
        found.unwrap_or_else(|| Scalar::Text(text.to_owned()))
    }

    /// The same value as TOML.
    pub(crate) fn to_toml(&self) -> toml::Value {
        match self {
            Scalar::Int(value) => toml::Value::Integer(*value),
            Scalar::Float(value) => toml::Value::Float(*value),
            Scalar::Bool(value) => toml::Value::Boolean(*value),
            Scalar::Text(text) => toml::Value::String(text.clone()),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(value) => value.fmt(f),
            // The debug form keeps the fraction of 1.0 and the exponent of 1e-9.
            Scalar::Float(value) => fmt::Debug::fmt(value, f),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Text(text) => f.write_str(text),
        }
    }
}

/// True for a letter or `_`, followed by letters, digits and `_`.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Why a text cannot be the name of an axis; `None` if it can.
pub(crate) fn axis_name_mistake(name: &str) -> Option<&'static str> {
    match name {
        "index" | "name" => Some("that word has a meaning of its own in `{...}`"),
        _ if !is_identifier(name) => Some("it must consist of letters, digits and `_`, and begin with a letter"),
        _ => None,
    }
}
