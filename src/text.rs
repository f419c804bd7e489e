//! Formats quantities for people.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
