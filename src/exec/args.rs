//! Reads the arguments of a kernel. Errors name the argument and suggest a similar known name.
//!
//! A placeholder of the job file (`"{index}"`) can only stand in a string, so a string that holds a
//! number is accepted wherever a number is expected.

use std::path::PathBuf;

use toml::Value;

use crate::job::diagnostic::closest;

/// What is wrong with the arguments of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("args.{field}: {reason}")]
pub struct ArgError {
    /// The argument. (An unknown kernel is another error, see
    /// [`Kernels::prepare`](super::Kernels::prepare).)
    pub field: String,
    /// What is wrong and what is expected.
    pub reason: String,
}

impl ArgError {
    /// Makes an error about one argument.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> ArgError {
        ArgError { field: field.into(), reason: reason.into() }
    }
}

/// The arguments of a kernel.
pub struct Args<'a>(&'a toml::Table);

impl<'a> Args<'a> {
    /// Checks that only `known` arguments are given.
    pub fn new(table: &'a toml::Table, known: &[&str]) -> Result<Args<'a>, ArgError> {
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ArgError::new(key, unknown("argument", key, known))),
            None => Ok(Args(table)),
        }
    }

    /// Returns an optional argument.
    pub fn get<T: FromArg>(&self, field: &str) -> Result<Option<T>, ArgError> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        match T::from_arg(value) {
            Some(arg) => Ok(Some(arg)),
            None => Err(ArgError::new(field, format!("expected {}, found {}", T::EXPECTED, describe(value)))),
        }
    }

    /// Returns a mandatory argument.
    pub fn need<T: FromArg>(&self, field: &str) -> Result<T, ArgError> {
        self.get(field)?.ok_or_else(|| ArgError::new(field, format!("missing; expected {}", T::EXPECTED)))
    }
}

/// The text `unknown argument; did you mean ...?`, or else the list of known words.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    match closest(word, known.iter().copied()) {
        Some(near) => format!("unknown {what}; did you mean `{near}`?"),
        _ if known.is_empty() => format!("unknown {what}; none is accepted"),
        _ => format!("unknown {what}; known: {}", known.join(", ")),
    }
}

fn describe(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(40).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("the {} {short}{dots}", value.type_str())
}

/// A type that an argument can have.
pub trait FromArg: Sized {
    /// The expected type, for error messages.
    const EXPECTED: &'static str;
    /// Converts a value; `None` if it has another type.
    fn from_arg(value: &Value) -> Option<Self>;
}

impl FromArg for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_arg(value: &Value) -> Option<f64> {
        let number = match value {
            Value::Float(x) => *x,
            Value::Integer(n) => *n as f64,
            Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        number.is_finite().then_some(number)
    }
}

impl FromArg for u64 {
    const EXPECTED: &'static str = "a whole number, zero or more";
    fn from_arg(value: &Value) -> Option<u64> {
        match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl FromArg for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    fn from_arg(value: &Value) -> Option<u32> {
        u64::from_arg(value)?.try_into().ok()
    }
}

impl FromArg for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_arg(value: &Value) -> Option<bool> {
        match value {
            Value::Boolean(b) => Some(*b),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl FromArg for String {
    const EXPECTED: &'static str = "a string";
    fn from_arg(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }
}

impl FromArg for PathBuf {
    const EXPECTED: &'static str = "a file name";
    fn from_arg(value: &Value) -> Option<PathBuf> {
        value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from)
    }
}

impl FromArg for [f64; 2] {
    const EXPECTED: &'static str = "two numbers [x, y]";
    fn from_arg(value: &Value) -> Option<[f64; 2]> {
        match value.as_array()?.as_slice() {
            [x, y] => Some([f64::from_arg(x)?, f64::from_arg(y)?]),
            _ => None,
        }
    }
}

/// An amount of memory in bytes: `"512M"`, `"4GiB"`, or a bare number of mebibytes, as everywhere
/// in a job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromArg for Bytes {
    const EXPECTED: &'static str = "an amount of memory such as \"512M\" or \"4G\" (a bare number is in MB)";
    fn from_arg(value: &Value) -> Option<Bytes> {
        let text = match value {
            Value::Integer(n) => n.to_string(),
            Value::String(text) => text.trim().to_ascii_lowercase(),
            _ => return None,
        };
        let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let number: f64 = text[..unit].trim().parse().ok()?;
        let shift = match text[unit..].trim_end_matches("ib").trim_end_matches('b') {
            "" if text.ends_with('b') => 0,
            "" => 20,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return None,
        };
        let bytes = number * (1u64 << shift) as f64;
        (bytes >= 0.0 && bytes <= (1u64 << 60) as f64).then_some(Bytes(bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn errors_name_the_argument_and_the_near_miss() {
        let t = table("secnds = 1");
        let error = Args::new(&t, &["seconds", "flops"]).err().unwrap();
        assert_eq!(error.to_string(), "args.secnds: unknown argument; did you mean `seconds`?");
        let t = table("seconds = true");
        let error = Args::new(&t, &["seconds"]).unwrap().need::<f64>("seconds").unwrap_err();
        assert_eq!(error.to_string(), "args.seconds: expected a number, found the boolean true");
        let error = Args::new(&t, &["seconds", "size"]).unwrap().need::<Bytes>("size").unwrap_err();
        assert!(error.to_string().starts_with("args.size: missing; expected an amount of memory"));
    }

    #[test]
    fn strings_hold_numbers() {
        let t = table("a = '7'\nb = 2\nc = ' 0.5'\nd = [1, 2.5]\ne = -1");
        let args = Args::new(&t, &["a", "b", "c", "d", "e"]).unwrap();
        assert_eq!(args.need::<u32>("a").unwrap(), 7);
        assert_eq!(args.need::<f64>("b").unwrap(), 2.0);
        assert_eq!(args.need::<f64>("c").unwrap(), 0.5);
        assert_eq!(args.need::<[f64; 2]>("d").unwrap(), [1.0, 2.5]);
        assert!(args.need::<u64>("e").is_err());
    }

    #[test]
    fn memory_is_written_as_in_slurm() {
        let bytes = |text: &str| Bytes::from_arg(&Value::String(text.to_owned())).map(|b| b.0);
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("4GiB"), Some(4 << 30));
        assert_eq!(bytes("1.5k"), Some(1536));
        assert_eq!(bytes("3"), Some(3 << 20));
        assert_eq!(bytes("8B"), Some(8));
        assert_eq!(Bytes::from_arg(&Value::Integer(2)), Some(Bytes(2 << 20)));
        for bad in ["", "G", "1X", "-1M", "1e300G", "nan"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
