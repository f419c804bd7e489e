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
