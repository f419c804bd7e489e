//! Building blocks of HTML and SVG: escaped text, time axis, rows and columns, independent of the
//! content.

use std::fmt::{self, Display, Write as _};

/// A text buffer; writing to it cannot fail.
#[derive(Default)]
pub(super) struct Html {
    text: String,
}

impl Html {
    /// Appends markup.
    pub fn add(&mut self, markup: impl Display) {
        // Only `markup` itself could return an error, and no implementation here does.
        let _ = write!(self.text, "{markup}");
    }

    /// Returns the text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Escapes user text for markup and attributes.
pub(super) struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Through<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Through<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    // Control characters are not allowed in HTML and XML.
                    c if c.is_control() && !matches!(c, '\n' | '\t') => self.0.write_char('\u{fffd}'),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Through(f), "{}", self.0)
    }
}

/// Width of each picture in its own units; the page scales it.
pub(super) const WIDTH: f64 = 1000.0;

/// A plot area with time on the horizontal axis.
#[derive(Clone, Copy)]
pub(super) struct Plot {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Height.
    pub height: f64,
    /// Time span in nanoseconds.
    pub end: u64,
}

impl Plot {
    /// Width.
    pub fn width(&self) -> f64 {
        WIDTH - self.left - 12.0
    }

    /// Lower edge.
    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Horizontal position of a time.
    pub fn x(&self, ns: u64) -> f64 {
        self.left + self.width() * ns.min(self.end) as f64 / self.end.max(1) as f64
    }

    /// Left edge of column `i` of `columns`.
    pub fn column(&self, i: usize, columns: usize) -> f64 {
        self.left + self.width() * i as f64 / columns as f64
    }

    /// Height of the picture including the time axis.
    pub fn picture_height(&self) -> f64 {
        self.bottom() + 22.0
    }

    /// Opens the picture.
    pub fn open(&self, html: &mut Html, title: &str) {
        html.add(format_args!(
            "<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">",
            self.picture_height(),
            Escaped(title)
        ));
    }

    /// Draws the time axis and closes the picture.
    pub fn close(&self, html: &mut Html) {
        let (step, unit_s, unit) = time_step(self.end as f64 / 1e9);
        let mut at = 0.0;
        while at * 1e9 <= self.end as f64 * 1.0001 && step > 0.0 {
            let x = self.x((at * 1e9) as u64);
            html.add(format_args!(
                "<path class=\"grid\" d=\"M{x:.1} {:.1}v{:.1}\"/><text class=\"tick mid\" x=\"{x:.1}\" y=\"{:.1}\">{} {unit}</text>",
                self.top,
                self.height,
                self.bottom() + 15.0,
                Short(at / unit_s)
            ));
            at += step;
        }
        html.add("</svg></div>\n");
    }

    /// Draws a scale from 0 to `most` on the left, and returns the function from values to
    /// positions.
    pub fn scale(&self, html: &mut Html, most: f64) -> impl Fn(f64) -> f64 + use<> {
        let (top, height, most) = (self.top, self.height, most.max(1e-9));
        let y = move |value: f64| top + height * (1.0 - (value / most).clamp(0.0, 1.0));
        let step = round_step(most / 4.0);
        let mut at = 0.0;
        while at <= most * 1.0001 {
            html.add(format_args!(
                "<path class=\"grid\" d=\"M{:.1} {:.1}h{:.1}\"/><text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                self.left,
                y(at),
                self.width(),
                self.left - 6.0,
                y(at) + 4.0,
                Short(at)
            ));
            at += step;
        }
        y
    }
}

/// Formats a number on an axis.
pub(super) struct Short(pub f64);

impl Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.0 >= 10_000.0 { format!("{:.1}k", self.0 / 1000.0) } else { format!("{:.3}", self.0) };
        let text = match text.strip_suffix('k') {
            Some(number) => format!("{}k", trim(number)),
            None => trim(&text).to_owned(),
        };
        f.write_str(&text)
    }
}

fn trim(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// The smallest of 1, 2, 5, 10, ... that is at least `raw`.
pub(super) fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= raw * 0.9999).unwrap_or(10.0 * power)
}

/// For a time axis that ends at `end_s`: seconds between two ticks, seconds per unit, and the unit.
fn time_step(end_s: f64) -> (f64, f64, &'static str) {
    let raw = end_s / 8.0;
    let of = |unit_s: f64, steps: &[f64], unit| {
        let step = steps.iter().map(|s| s * unit_s).find(|&step| step >= raw);
        (step.unwrap_or_else(|| round_step(raw / unit_s) * unit_s), unit_s, unit)
    };
    match end_s {
        s if s < 1e-3 => (round_step(raw), 1e-6, "us"),
        s if s < 1.0 => (round_step(raw), 1e-3, "ms"),
        s if s < 120.0 => (round_step(raw), 1.0, "s"),
        s if s < 7200.0 => of(60.0, &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0], "min"),
        s if s < 172_800.0 => of(3600.0, &[0.5, 1.0, 2.0, 3.0, 6.0, 12.0], "h"),
        _ => of(86_400.0, &[1.0, 2.0, 5.0], "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(Escaped("<a b=\"c\">&\x1b[").to_string(), "&lt;a b=&quot;c&quot;&gt;&amp;\u{fffd}[");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.3, 3.0, 7.0, 26.0].map(round_step), [0.5, 5.0, 10.0, 50.0]);
        assert_eq!(time_step(30.0), (5.0, 1.0, "s"));
        assert_eq!(time_step(600.0), (120.0, 60.0, "min"));
        assert_eq!(time_step(0.5), (0.1, 1e-3, "ms"));
        assert_eq!([0.5, 1500.0, 25_000.0].map(|n| Short(n).to_string()), ["0.5", "1500", "25k"]);
    }
}
