//! Writes small SVG pictures element by element.

use std::fmt::Write;

/// An SVG picture under construction.
pub(crate) struct Picture(String);

impl Picture {
    /// An empty picture of the given size with a white background.
    pub(crate) fn new(width: f64, height: f64) -> Picture {
        Picture(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        ))
    }

    /// Closes the picture and returns its text.
    pub(crate) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    /// Adds an element.
    pub(crate) fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{element}");
    }

    /// Adds a line; `dashes` is the value of `stroke-dasharray`.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
        self.add(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"{dashes}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// Adds a text; `anchor` is the value of `text-anchor`.
    pub(crate) fn text(&mut self, at: (f64, f64), anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1));
    }
}
