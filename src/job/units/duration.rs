//! Durations: `90s`, `1h30m`, `1.5h`, and Slurm's `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`,
//! `D-HH:MM:SS`.
//!
//! A bare number is minutes, as in `sbatch --time`.

use std::time::Duration;

use super::{UnitError, scale, split_number};

/// Units in nanoseconds, longest first: the order in which they may appear.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Maximum duration, a century: longer than any job, and far from overflow.
const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

const FORMS: &str = "write 30s, 10m, 1.5h, 1h30m, 1d, or Slurm's MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS";

/// Parses a duration in any of the forms above.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fail = |reason: &str| UnitError::new("a duration", text, reason);
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(fail(&format!("it is empty; {FORMS}")));
    }
    if trimmed.starts_with('-') {
        return Err(fail("a duration cannot be negative"));
    }
    let nanos = if trimmed.bytes().all(|b| b.is_ascii_digit()) {
        scale(trimmed, UNITS[2].1)
    } else if trimmed.contains([':', '-']) {
        return bounded(parse_slurm(trimmed).map_err(|reason| fail(&reason))?, text);
    } else {
        return bounded(parse_suffixed(trimmed).map_err(|reason| fail(&reason))?, text);
    };
    bounded(nanos.unwrap_or(u128::MAX), text)
}

fn bounded(nanos: u128, text: &str) -> Result<Duration, UnitError> {
    match u64::try_from(nanos).map(Duration::from_nanos) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(UnitError::new("a duration", text, "it is longer than a century")),
    }
}

/// Parses `1h30m`: numbers with units, from the longest unit to the shortest.
fn parse_suffixed(text: &str) -> Result<u128, String> {
    let mut rest = text;
    let mut total = 0u128;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = unit.trim();
        if unit.is_empty() {
            return Err(format!("`{number}` has no unit; {FORMS}"));
        }
        let at = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(|| format!("unknown unit; {FORMS}"))?;
        if at < next_unit {
            return Err("its units must go from the longest to the shortest, as in 1h30m".into());
        }
        next_unit = at + 1;
        let part = scale(number, UNITS[at].1).ok_or_else(|| format!("`{number}` is not a number; {FORMS}"))?;
        total = total.checked_add(part).ok_or("it is too long")?;
        rest = tail.trim_start();
    }
    Ok(total)
}

/// Parses Slurm's forms with colons and a leading number of days.
fn parse_slurm(text: &str) -> Result<u128, String> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(days), clock),
        None => (None, text),
    };
    let fields: Vec<&str> = clock.split(':').collect();
    // The units of the fields depend on their number and on whether days precede them.
    let units: &[usize] = match (days, fields.len()) {
        (Some(_), 1) => &[1],
        (Some(_), 2) => &[1, 2],
        (_, 3) => &[1, 2, 3],
        (None, 2) => &[2, 3],
        _ => return Err(FORMS.into()),
    };
    let mut total = days.map_or(Ok(0), |d| field(d, 0))?;
    for (position, (text, &unit)) in fields.iter().zip(units).enumerate() {
        let leading = position == 0 && days.is_none();
        let most = if unit == 1 { 24 } else { 60 };
        if !leading && text.parse::<u64>().is_ok_and(|value| value >= most) {
            return Err(format!("`{text}` must be less than {most} there"));
        }
        total = total.checked_add(field(text, unit)?).ok_or("it is too long")?;
    }
    Ok(total)
}

fn field(text: &str, unit: usize) -> Result<u128, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{text}` is not a whole number; {FORMS}"));
    }
    scale(text, UNITS[unit].1).ok_or_else(|| "it is too long".into())
}

/// Formats a duration so that [`parse_duration`] returns the same value: `1h30m`, `1s500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in UNITS {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_slurm_and_people_write() {
        let cases = [
            ("90", 5400.0),
            ("90:30", 5430.0),
            ("1:00:00", 3600.0),
            ("100:00:01", 360_001.0),
            ("1-02", 93_600.0),
            ("1-02:30", 95_400.0),
            ("1-02:00:05", 93_605.0),
            ("30s", 30.0),
            ("10m", 600.0),
            ("1.5h", 5400.0),
            ("500ms", 0.5),
            ("1d", 86_400.0),
            ("1h30m", 5400.0),
            ("1h 30m", 5400.0),
            ("0.1s", 0.1),
            ("0", 0.0),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous_or_wrong() {
        for text in [
            "",
            " ",
            "-5",
            "1.5",
            "5x",
            "m",
            "1m1h",
            "1h1h",
            "1:2:3:4",
            "1-2-3",
            "0:60",
            "1-24",
            "1-",
            "1.2.3s",
            ".5s",
            "5.s",
            "9999999999999",
            "40000d",
            "1:-2",
            "٣s",
            "1e3s",
        ] {
            let outcome = parse_duration(text);
            assert!(outcome.is_err(), "{text:?} gave {outcome:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0u64..3_155_760_000_000_000_000) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[-0-9:.dhmsun ]{0,24}|\\PC{0,12}") {
            let _ = parse_duration(&text);
        }
    }
}
