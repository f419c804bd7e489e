//! Memory and file sizes: `4G`, `512M`, `4GiB`. As in Slurm, K, M, G, T and P are powers of 1024,
//! with or without `B`.

use super::{UnitError, scale, split_number};

const UNITS: [(&str, u64); 6] =
    [("P", 1 << 50), ("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("B", 1)];

const FORMS: &str = "write 512M, 4G, 1.5G or 4GiB";

/// Parses an amount of memory in bytes; a bare number is megabytes, as in `sbatch --mem`.
pub fn parse_memory(text: &str) -> Result<u64, UnitError> {
    parse(text, "an amount of memory", 1 << 20)
}

/// Parses a file size in bytes; a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, "a size", 1)
}

fn parse(text: &str, what: &'static str, bare: u64) -> Result<u64, UnitError> {
    let fail = |reason: String| UnitError::new(what, text, reason);
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(fail("it cannot be negative".into()));
    }
    let (number, suffix) = split_number(trimmed);
    let unit = unit_of(suffix.trim(), bare).ok_or_else(|| fail(format!("unknown unit; {FORMS}")))?;
    if number.is_empty() {
        return Err(fail(format!("it has no number; {FORMS}")));
    }
    let bytes = scale(number, u128::from(unit)).ok_or_else(|| fail(format!("`{number}` is not a number; {FORMS}")))?;
    u64::try_from(bytes).map_err(|_| fail("it is more than 16 exbibytes".into()))
}

fn unit_of(suffix: &str, bare: u64) -> Option<u64> {
    if suffix.is_empty() {
        return Some(bare);
    }
    let upper = suffix.to_ascii_uppercase();
    let letter = match upper.as_str() {
        "B" => "B",
        longer => longer.strip_suffix("IB").or_else(|| longer.strip_suffix('B')).unwrap_or(longer),
    };
    UNITS.iter().find(|(name, _)| *name == letter).map(|(_, unit)| *unit)
}

/// Formats bytes exactly, in the largest unit that divides them: `4G`, `1536M`, `1529220B`.
/// [`parse_memory`] and [`parse_size`] return the same value.
pub fn format_bytes(bytes: u64) -> String {
    let (name, unit) =
        UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn powers_of_1024_and_bare_megabytes() {
        for (text, bytes) in [
            ("4G", 4u64 << 30),
            ("512M", 512 << 20),
            ("4GiB", 4 << 30),
            ("4gb", 4 << 30),
            ("1T", 1 << 40),
            ("100", 100 << 20),
        ] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_memory("1.5G"), Ok(3 << 29));
        assert_eq!(parse_size("100"), Ok(100));
        assert_eq!(parse_size("7B"), Ok(7));
        assert_eq!(format_bytes(0), "0B");
    }

    #[test]
    fn refuses_nonsense() {
        for text in ["", "G", "-4G", "4X", "4 4G", "4iB", "1..5G", "99999999999P", "4GiBs", "0x10M"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in any::<u64>(), shift in 0u32..60) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_memory(&format_bytes(bytes)), Ok(bytes));
            prop_assert_eq!(parse_size(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "[-0-9.KMGTPiB ]{0,24}|\\PC{0,12}") {
            let _ = parse_memory(&text);
        }
    }
}
