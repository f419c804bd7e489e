//! Formats quantities for people and words for shells.

/// Formats a count with its noun: `1 rank`, `1,024 ranks`, `2 vertices`.
pub(crate) fn counted(n: impl Into<u64>, noun: &str) -> String {
    let n = n.into();
    let number = indicatif::HumanCount(n);
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("{number} {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => match noun.strip_suffix("ex") {
            Some(stem) => format!("{number} {stem}ices"),
            None => format!("{number} {noun}s"),
        },
    }
}

/// Formats a count with its noun and verb: `1 rank is`, `3 ranks are`.
pub(crate) fn counted_are(n: impl Into<u64>, noun: &str) -> String {
    let n = n.into();
    format!("{} {}", counted(n, noun), if n == 1 { "is" } else { "are" })
}

/// The same in the past: `1 rank was`, `3 ranks were`.
pub(crate) fn counted_were(n: impl Into<u64>, noun: &str) -> String {
    let n = n.into();
    format!("{} {}", counted(n, noun), if n == 1 { "was" } else { "were" })
}

/// Formats seconds with about three digits: `12.3 ms`, `4.56 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn seconds(s: f64) -> String {
    let whole = s.round() as u64;
    match s {
        s if s < 0.0005 => format!("{:.0} us", s * 1e6),
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Quotes a word for a shell, where it needs quotes.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_counts() {
        let shown =
            [counted(1u32, "rank"), counted(0u32, "rank"), counted(2000u32, "vertex"), counted(3u64, "dependency")];
        assert_eq!(shown, ["1 rank", "0 ranks", "2,000 vertices", "3 dependencies"]);
    }

    #[test]
    fn times_have_about_three_digits() {
        let shown = [0.0, 0.0000123, 0.0123, 0.25, 0.9996, 4.557, 12.34, 59.96, 200.4, 7500.0].map(seconds);
        let expected = [
            "0 us",
            "12 us",
            "12.3 ms",
            "250 ms",
            "1.00 s",
            "4.56 s",
            "12.3 s",
            "1 min 00 s",
            "3 min 20 s",
            "2 h 05 min",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(shell_word("jobs/a.toml"), "jobs/a.toml");
        for word in ["", "it's $HOME; `x`", "~", "a b", "#", "*", "\n\t\\", "!x"] {
            let line = format!("printf %s {}", shell_word(word));
            let printed = std::process::Command::new("sh").arg("-c").arg(line).output().unwrap();
            assert_eq!(printed.stdout, word.as_bytes());
        }
    }
}
