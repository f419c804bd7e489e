//! Units and notations in job files: durations, memory, sets of indices and lists of hosts.
//!
//! They are Slurm's notations, known from `sbatch`, and common ones of other tools (`90s`, `1h30m`,
//! `4GiB`). Each has a parser and a formatter, and the parser restores the value that the formatter
//! wrote. All input is bounded: without an explicit limit, no parser allocates more than a small
//! multiple of the input's length.

mod duration;
mod hosts;
mod indices;
mod memory;

pub use duration::{format_duration, parse_duration};
pub use hosts::{MAX_HOSTS, compress_hosts, expand_hosts};
pub use indices::{IndexSet, parse_array};
pub use memory::{format_bytes, parse_memory, parse_size};

/// Error: a text is not the expected quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {reason}")]
pub struct UnitError {
    /// The expected quantity with its article ("a duration").
    pub what: &'static str,
    /// The text as typed, truncated.
    pub text: String,
    /// What is wrong, and what to write instead.
    pub reason: String,
}

impl UnitError {
    fn new(what: &'static str, text: &str, reason: impl Into<String>) -> UnitError {
        UnitError { what, text: shorten(text), reason: reason.into() }
    }
}

/// The text, truncated if it is too long for a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// Splits a decimal number, optionally with a fraction, off the start of `text`.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// `number * unit`, exact if the product is an integer, else rounded; `None` if `number` is not
/// decimal or the product exceeds 128 bits.
fn scale(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') || fraction.contains('.') {
        return None;
    }
    if number.ends_with('.') || fraction.len() > 18 {
        return None;
    }
    let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = digits.checked_mul(unit)?.checked_add(power / 2)? / power;
    whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(part)
}
