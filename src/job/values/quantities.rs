//! Values that are quantities: durations, memory, sizes, and combinations of them.

use std::time::Duration;

use serde_json::{Value, json};
use toml::de::DeValue;

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{Read, Span, TomlNode, Whole, float, integer, mismatch};
use crate::job::spec::RetryTable;
use crate::job::units::{UnitError, parse_duration, parse_memory, parse_size};

/// Records a text that is not the expected quantity.
pub(super) fn refuse(key: &str, error: &UnitError, span: &Span, findings: &mut Findings) {
    findings.push(Diagnostic::error(format!("`{key}`: {error}")).at(span));
}

/// Reads a quantity: a string through `parse`, an integer as the same digits.
fn quantity<T: Read, Q>(
    key: &str,
    node: &TomlNode<'_>,
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_duration, findings).map(DurationSpec)
    }
}

/// An estimated duration, which may differ per element.
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_memory, findings).map(MemorySpec)
    }
}

/// Memory of a task: an amount, or "auto".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MemoryRequest {
    /// What earlier runs of the job recommend.
    Auto,
    /// Bytes.
    Fixed(u64),
}

impl Read for MemoryRequest {
    fn expected() -> String {
        "an amount of memory such as \"512M\" or \"4G\" (a whole number is megabytes), or \"auto\"".into()
    }

    fn schema() -> Value {
        let mut schema = MemorySpec::schema();
        schema["examples"] = json!(["512M", "4G", "4GiB", "auto"]);
        schema
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().as_str() {
            Some("auto") => Some(MemoryRequest::Auto),
            _ => quantity::<Self, _>(key, node, parse_memory, findings).map(MemoryRequest::Fixed),
        }
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        quantity::<Self, _>(key, node, parse_size, findings).map(SizeSpec)
    }
}

/// Factor by which something grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factor(pub f64);

impl Read for Factor {
    fn expected() -> String {
        "a number of at least 1".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        bounded::<Self>(key, node, 1.0, 1000.0, findings).map(Factor)
    }
}

/// A number within bounds, which are given in thousandths to be part of the type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BoundedNumber<const LEAST_MILLI: i64, const MOST_MILLI: i64>(pub f64);

/// An amount of money or a threshold: not negative.
pub(crate) type Amount = BoundedNumber<0, { i64::MAX }>;

/// Any finite number.
pub(crate) type Signed = BoundedNumber<{ i64::MIN }, { i64::MAX }>;

/// An amount of money that can be spent: at least a thousandth.
pub(crate) type Budget = BoundedNumber<1, { i64::MAX }>;

impl<const LEAST_MILLI: i64, const MOST_MILLI: i64> Read for BoundedNumber<LEAST_MILLI, MOST_MILLI> {
    fn expected() -> String {
        "a number".into()
    }

    fn schema() -> Value {
        let mut schema = json!({ "type": "number" });
        if LEAST_MILLI > i64::MIN {
            schema["minimum"] = json!(LEAST_MILLI as f64 / 1e3);
        }
        if MOST_MILLI < i64::MAX {
            schema["maximum"] = json!(MOST_MILLI as f64 / 1e3);
        }
        schema
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let number = float(node.get_ref()).or_else(|| integer(node.get_ref()).map(|n| n as f64));
        let Some(number) = number else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let (least, most) = (LEAST_MILLI as f64 / 1e3, MOST_MILLI as f64 / 1e3);
        let message = if !number.is_finite() {
            format!("`{key}` must be a finite number, not {number}")
        } else if number < least {
            format!("`{key}` must be at least {least}, not {number}")
        } else if number > most {
            format!("`{key}` must be at most {most}, not {number}")
        } else {
            return Some(BoundedNumber(number));
        };
        findings.push(Diagnostic::error(message).at(&node.span()));
        None
    }
}

/// A probability, or another ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fraction(pub f64);

impl Read for Fraction {
    fn expected() -> String {
        "a number from 0 to 1".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        bounded::<Self>(key, node, 0.0, 1.0, findings).map(Fraction)
    }
}

/// Reads a number within bounds.
fn bounded<T: Read>(key: &str, node: &TomlNode<'_>, least: f64, most: f64, findings: &mut Findings) -> Option<f64> {
    let number = float(node.get_ref()).or_else(|| integer(node.get_ref()).map(|n| n as f64));
    match number {
        None => mismatch::<T>(key, node, findings),
        Some(number) if (least..=most).contains(&number) => return Some(number),
        Some(number) => {
            let message = format!("`{key}` must be between {least} and {most}, not {number}");
            findings.push(Diagnostic::error(message).at(&node.span()));
        }
    }
    None
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

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
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
