//! Strings with placeholders: `{index}`, `{name}`, and the axes of a matrix (for a pattern:
//! `{step}` and `{point}`).
//!
//! The rules are safe with shells, awk and JSON, which have braces of their own:
//!
//! - `{word}` is replaced if `word` is `name`, the task's own axis, or `index` in an array or
//!   matrix. A whole number may be padded with zeros: `{index:03}`.
//! - `{{word}}` stands for `{word}` itself.
//! - `${word}` is the shell's and stays.
//! - Every other brace stays as it is, and any that stands in quotes or a here-document of the
//!   shell unless its word is one of those above.
//!
//! A word that is similar to an axis is almost surely a typo. It is reported as an error, or in a
//! shell line as a warning. Any other word that nothing fills is warned of, as are `{wildcards.x}`
//! and `{input[0]}` of other systems.

use std::sync::Arc;

use super::diagnostic::{Diagnostic, Findings, closest};
use super::dialect;
use super::read::Span;
use super::scalar::{Scalar, is_identifier};
use super::selector::quoted;
use super::space::Space;
use super::units::shorten;

/// The content of the braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placeholder {
    Name,
    Index,
    Axis(usize),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TemplatePart {
    Text(Box<str>),
    Value { what: Placeholder, width: u8 },
}

impl TemplatePart {
    fn typed_len(&self) -> usize {
        match self {
            TemplatePart::Text(text) => text.len(),
            TemplatePart::Value { .. } => 0,
        }
    }
}

/// A string, split at its placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    /// A string without placeholders. Equal strings of many tables may share memory.
    Text(Arc<str>),
    /// At least one piece is a placeholder.
    Pieces(Box<[TemplatePart]>),
}

/// The element for which a template is expanded.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub name: &'a str,
    pub space: &'a Space,
    pub number: u32,
}

impl Element<'_> {
    /// The value of a placeholder.
    pub(crate) fn value(&self, what: Placeholder) -> Scalar {
        match what {
            Placeholder::Name => Scalar::Text(self.name.to_string()),
            Placeholder::Index => {
                Scalar::Int(self.space.index(self.number).and_then(|i| i64::try_from(i).ok()).unwrap_or(0))
            }
            Placeholder::Axis(axis) => self.space.value(axis, self.number).into_owned(),
        }
    }
}

impl Template {
    /// Approximate length of the typed string in bytes.
    pub(crate) fn typed_len(&self) -> usize {
        match self {
            Template::Text(text) => text.len(),
            Template::Pieces(pieces) => pieces.iter().map(TemplatePart::typed_len).sum(),
        }
    }

    /// The placeholder, if the whole string is a single placeholder.
    pub(crate) fn sole(&self) -> Option<Placeholder> {
        match self {
            Template::Pieces(pieces) => match **pieces {
                [TemplatePart::Value { what, width: 0 }] => Some(what),
                _ => None,
            },
            Template::Text(_) => None,
        }
    }

    /// The text, if it contains no placeholder.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self {
            Template::Text(text) => Some(text),
            Template::Pieces(_) => None,
        }
    }

    /// True if the text is the same for every element.
    pub(crate) fn is_same_for_all(&self) -> bool {
        let is_same = |piece: &TemplatePart| {
            matches!(piece, TemplatePart::Text(_) | TemplatePart::Value { what: Placeholder::Name, .. })
        };
        match self {
            Template::Text(_) => true,
            Template::Pieces(pieces) => pieces.iter().all(is_same),
        }
    }

    /// What precedes the first placeholder.
    pub(crate) fn start(&self) -> &str {
        match self {
            Template::Text(text) => text,
            Template::Pieces(pieces) => match pieces.first() {
                Some(TemplatePart::Text(text)) => text,
                _ => "",
            },
        }
    }

    /// The template behind a text.
    pub(crate) fn behind(self, text: &str) -> Template {
        match self {
            Template::Text(own) => Template::Text(format!("{text}{own}").into()),
            Template::Pieces(pieces) => {
                let first = TemplatePart::Text(text.into());
                Template::Pieces(std::iter::once(first).chain(pieces).collect())
            }
        }
    }

    /// The text for one element.
    pub(crate) fn fill(&self, element: Element<'_>) -> String {
        let mut text = String::new();
        self.fill_into(element, &mut text);
        text
    }

    /// Appends the text for one element.
    pub(crate) fn fill_into(&self, element: Element<'_>, text: &mut String) {
        self.write(element, text, |value, text| text.push_str(value));
    }

    /// The text for one element as a `%`-pattern: `%` in values is escaped.
    pub(crate) fn fill_pattern(&self, element: Element<'_>) -> String {
        let mut text = String::new();
        self.write(element, &mut text, |value, text| text.push_str(&value.replace('%', "%%")));
        text
    }

    /// The text for one element as it stands in the brackets of a name: values are quoted that
    /// would not be read as one value.
    pub(crate) fn fill_brackets(&self, element: Element<'_>) -> String {
        let mut text = String::new();
        let is_sole = self.sole().is_some();
        self.write(element, &mut text, |value, text| match is_sole {
            true => text.push_str(value),
            false => text.push_str(&quoted(value)),
        });
        text
    }

    fn write(&self, element: Element<'_>, text: &mut String, put: impl Fn(&str, &mut String)) {
        let pieces = match self {
            Template::Text(literal) => return text.push_str(literal),
            Template::Pieces(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                TemplatePart::Text(literal) => text.push_str(literal),
                TemplatePart::Value { what, width } => match (element.value(*what), usize::from(*width)) {
                    (Scalar::Int(value), width) => text.push_str(&format!("{value:0width$}")),
                    (value, _) => put(&value.to_string(), text),
                },
            }
        }
    }
}

/// Kind of the string, which decides how a similar word is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StringKind {
    /// A shell line, which may contain braces of its own.
    Shell,
    /// Any other string.
    Plain,
}

/// Compiles a string with the placeholders of `space`.
pub(crate) fn compile(
    (source, span): (&str, &Span),
    place: StringKind,
    space: &Space,
    findings: &mut Findings,
) -> Template {
    Compiler { source, span, place, space, findings, is_noted: false }.run()
}

struct Compiler<'a> {
    source: &'a str,
    span: &'a Span,
    place: StringKind,
    space: &'a Space,
    findings: &'a mut Findings,
    /// True if a value was reported that the shell divides.
    is_noted: bool,
}

impl Compiler<'_> {
    fn run(mut self) -> Template {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(open) = self.source[at..].find('{').map(|offset| at + offset) {
            literal.push_str(&self.source[at..open]);
            let shell = self.source[..open].ends_with('$');
            if let Some((word, end)) = braced(self.source, open, "{{", "}}").filter(|_| !shell)
                && (self.known(split_width(word).0).is_some() || !self.is_program_text(open))
            {
                literal.push_str(&format!("{{{word}}}"));
                at = end;
            } else if let Some(inside) = self.escaped_format(open).filter(|_| !shell) {
                literal.push_str(&format!("{{{inside}}}"));
                at = open + inside.len() + 4;
            } else if let Some((word, end)) = braced(self.source, open, "{", "}").filter(|_| !shell)
                && let Some(value) = self.value(word, open)
            {
                if !literal.is_empty() {
                    pieces.push(TemplatePart::Text(std::mem::take(&mut literal).into()));
                }
                pieces.push(value);
                at = end;
            } else {
                if !shell {
                    self.note_foreign(open);
                }
                literal.push('{');
                at = open + 1;
            }
        }
        literal.push_str(&self.source[at..]);
        if pieces.is_empty() {
            return Template::Text(literal.into());
        }
        if !literal.is_empty() {
            pieces.push(TemplatePart::Text(literal.into()));
        }
        Template::Pieces(pieces.into())
    }

    fn known(&self, word: &str) -> Option<Placeholder> {
        match word {
            "name" => Some(Placeholder::Name),
            "index" => self.space.is_indexed().then_some(Placeholder::Index),
            _ => self.space.axis_names().iter().position(|axis| *axis == word).map(Placeholder::Axis),
        }
    }

    fn value(&mut self, braces: &str, at: usize) -> Option<TemplatePart> {
        let (word, width) = split_width(braces);
        let Some(what) = self.known(word) else {
            self.note_unknown(word, at);
            return None;
        };
        let whole = match what {
            Placeholder::Name => false,
            Placeholder::Index => true,
            Placeholder::Axis(axis) => self.space.is_whole(axis),
        };
        if width > 0 && !whole {
            self.findings.push(
                Diagnostic::error(format!("`{{{braces}}}` pads with zeros, but `{word}` is not always a whole number"))
                    .at(self.span)
                    .help(format!("write `{{{word}}}`")),
            );
        }
        if let (StringKind::Shell, Placeholder::Axis(axis)) = (self.place, what) {
            self.note_divided(word, axis, at);
        }
        Some(TemplatePart::Value { what, width })
    }

    /// Reports a placeholder of a shell line that stands outside of quotes and has a value which
    /// the shell does not take for one word. What begins with `-` is meant as options.
    fn note_divided(&mut self, word: &str, axis: usize, at: usize) {
        let is_special = |c: char| c.is_whitespace() || "'\"`();&".contains(c);
        let Some(value) = self.space.text_where(axis, |text| !text.starts_with('-') && text.contains(is_special))
        else {
            return;
        };
        if self.is_noted || !dialect::is_divided(&without_braces(self.source), at) {
            return;
        }
        self.is_noted = true;
        let message = format!("the shell does not take `{{{word}}}` for one word where it is `{}`", shorten(value));
        let help = format!(
            "quote it, as in `\"{{{word}}}\"`, or give `command` as a list, whose words no shell divides; if several words \
             are meant, this is fine"
        );
        self.findings.push(Diagnostic::warning(message).at(self.span).help(help));
    }

    /// Reports a word in braces that is no placeholder of the task.
    fn note_unknown(&mut self, word: &str, at: usize) {
        // Placeholders of the tasks that the line adds.
        if self.place == StringKind::Shell && self.source.contains("PHALANX_ADD") {
            return;
        }
        let words = self.space.axis_names().into_iter().chain(["index"]);
        let meant = closest(word, words).filter(|_| self.space.is_indexed());
        let (diagnostic, help) = match meant {
            Some(meant) => {
                let diagnostic = match self.place {
                    StringKind::Plain => Diagnostic::error(format!("unknown placeholder `{{{word}}}`")),
                    StringKind::Shell => Diagnostic::warning(format!("`{{{word}}}` is left to the shell as it is")),
                };
                (diagnostic, format!("did you mean `{{{meant}}}`?"))
            }
            None if word == "index" => (
                Diagnostic::warning("`{index}` is left as it is, because this task is neither an array nor a matrix"),
                "give the task an `array`, such as `array = \"0-9\"`".to_owned(),
            ),
            None if self.is_program_text(at) => return,
            None => (
                Diagnostic::warning(format!("`{{{word}}}` is left as it is, because this task has no axis `{word}`")),
                meaning_elsewhere(word, "").unwrap_or_else(|| {
                    format!(
                        "give it one, as in `matrix = {{ {word} = [\"a\", \"b\"] }}`; if the text is meant, write \
                         `{{{{{word}}}}}`"
                    )
                }),
            ),
        };
        self.findings.push(diagnostic.at(self.span).help(help));
    }

    /// A placeholder with a format that is not known here, as Python has it: the word and the
    /// format.
    fn format_of<'t>(&self, inside: &'t str) -> Option<(&'t str, &'t str)> {
        let (word, format) = inside.split_once([':', '!']).filter(|(word, _)| self.known(word).is_some())?;
        (!format.starts_with(char::is_whitespace) && !format.contains('{')).then_some((word, format))
    }

    /// The content of doubled braces at a byte, if that is such a placeholder.
    fn escaped_format(&self, at: usize) -> Option<&str> {
        let (inside, _) = self.source[at..].strip_prefix("{{")?.split_once("}}")?;
        self.format_of(inside).map(|_| inside)
    }

    /// Reports a placeholder with a format that is not known here.
    fn note_format(&mut self, (inside, at): (&str, usize), word: &str, format: &str) {
        let help = match zero_padding(format) {
            Some(width) => format!("write `{{{word}:0{width}}}`"),
            None => format!(
                "a whole number can be padded with zeros, as in `{{{word}:03}}`; write other values as they should \
                 stand, as in `matrix = {{ {word} = [\"1.50\", \"2.25\"] }}`, or format them with `printf`; if the text is \
                 meant, write `{{{{{inside}}}}}`"
            ),
        };
        let message = format!("`{{{inside}}}` is left as it is: `{format}` is no format of a placeholder");
        let diagnostic = match self.place {
            StringKind::Plain if !self.is_program_text(at) => Diagnostic::error(message),
            _ => Diagnostic::warning(message),
        };
        self.findings.push(diagnostic.at(self.span).help(help));
    }

    /// Reports braces with a part of something, such as `{wildcards.x}` or `{inputs[0]}`, which
    /// mean a value in other systems.
    fn note_foreign(&mut self, at: usize) {
        let Some((inside, _)) = self.source[at + 1..].split_once('}') else { return };
        if let Some((word, format)) = self.format_of(inside) {
            return self.note_format((inside, at), word, format);
        }
        let Some(help) = inside.find(['.', '[']).and_then(|end| meaning_elsewhere(&inside[..end], &inside[end..]))
        else {
            return;
        };
        if !self.is_program_text(at) {
            let message = format!("`{{{inside}}}` is left as it is, because placeholders here have no parts");
            self.findings.push(Diagnostic::warning(message).at(self.span).help(help));
        }
    }

    /// True if a brace of the string belongs to a program, such as awk or Python, and not to us.
    fn is_program_text(&self, at: usize) -> bool {
        match self.place {
            StringKind::Shell => dialect::is_quoted(self.source, at),
            StringKind::Plain => {
                let is_of_code = |c: char| c.is_whitespace() || "\"'`();$<>|&".contains(c);
                self.source.contains(is_of_code) || ["{print}", "{next}", "{exit}"].contains(&self.source)
            }
        }
    }
}

/// The number of digits in a format of Python or printf that pads a whole number with zeros.
fn zero_padding(format: &str) -> Option<&str> {
    let width = format.strip_prefix('0')?.strip_suffix('d').unwrap_or(&format[1..]);
    (width.len() == 1 && width.chars().all(|c| c.is_ascii_digit())).then_some(width)
}

/// What to write for a word in braces that means a value in Snakemake and its like, with the part
/// that follows it, such as `.x` or `[0]`.
fn meaning_elsewhere(word: &str, part: &str) -> Option<String> {
    match (word, part.strip_prefix('.')) {
        ("input" | "inputs" | "output" | "outputs" | "log", _) => {
            Some("write the file name itself, as it stands in `inputs` or `outputs`".to_owned())
        }
        ("wildcards", Some(axis)) if is_identifier(axis) => {
            Some(format!("write `{{{axis}}}`, and give the task this axis: `matrix = {{ {axis} = [\"a\", \"b\"] }}`"))
        }
        ("threads", None) => Some("write `$PHALANX_CPUS`, the value of `cpus`".to_owned()),
        ("params" | "config" | "resources" | "wildcards", _) => Some("write the value itself".to_owned()),
        _ => None,
    }
}

/// The word between `open` and `close` at a byte of the text, and the position after it.
fn braced<'a>(text: &'a str, at: usize, open: &str, close: &str) -> Option<(&'a str, usize)> {
    let rest = text[at..].strip_prefix(open)?;
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')?;
    let word = &rest[..length];
    let fits = rest[length..].starts_with(close) && is_identifier(split_width(word).0);
    fits.then(|| (word, at + open.len() + length + close.len()))
}

/// A line with a plain word of the same length for each word in braces.
fn without_braces(line: &str) -> String {
    let (mut text, mut at) = (line.to_owned(), 0);
    while let Some(open) = line[at..].find('{').map(|offset| at + offset) {
        at = open + 1;
        if let Some((_, end)) = braced(line, open, "{", "}").filter(|_| !line[..open].ends_with('$')) {
            text.replace_range(open..end, &"x".repeat(end - open));
            at = end;
        }
    }
    text
}

/// Splits `index:03` into word and width; a width of 0 means none.
fn split_width(word: &str) -> (&str, u8) {
    match word.split_once(":0") {
        Some((name, width)) if width.len() == 1 => (name, width.parse().unwrap_or(0)),
        _ => (word, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::Axis;
    use super::super::units::IndexSet;
    use super::super::values::AxisSpec;
    use super::*;

    fn sweep() -> Space {
        let values = AxisSpec::List(vec![Scalar::Float(0.1), Scalar::Float(1e-9)]);
        Space::Matrix(vec![Axis::new("alpha", values)])
    }

    fn fill(text: &str, space: &Space, number: u32) -> (String, usize) {
        let mut findings = Findings::default();
        let template = compile((text, &(0..1)), StringKind::Plain, space, &mut findings);
        (template.fill(Element { name: "t", space, number }), findings.finish().len())
    }

    #[test]
    fn known_words_are_replaced_and_others_stay() {
        let array = Space::Array(IndexSet::parse("7-9").unwrap());
        for (text, expected) in [
            ("a-{index}", "a-8"),
            ("{index:03}/{name}", "008/t"),
            ("{{index}}", "{index}"),
            ("${index} $index", "${index} $index"),
            ("awk '{print $1}' {}", "awk '{print $1}' {}"),
            ("{\"a\":{\"b\":{index}}}", "{\"a\":{\"b\":8}}"),
            ("{a,b} {} {1} {.} {-1}", "{a,b} {} {1} {.} {-1}"),
            ("echo {banana} {{x}} {", "echo {banana} {{x}} {"),
            ("{{x}}", "{x}"),
            ("{index", "{index"),
            ("é{index}é", "é8é"),
        ] {
            assert_eq!(fill(text, &array, 1), (expected.to_string(), 0), "{text}");
        }
    }

    #[test]
    fn formats_that_are_not_known_are_reported() {
        let array = Space::Array(IndexSet::parse("7-9").unwrap());
        for text in ["{index:03d}", "{index:3}", "{index:.2f}", "{name!r}", "echo '{index:>5}'"] {
            assert_eq!(fill(text, &array, 1), (text.to_owned(), 1), "{text}");
        }
        assert_eq!(fill("{{index:.2f}} {index} {{index!r}}", &array, 1), ("{index:.2f} 8 {index!r}".to_owned(), 0));
        for text in ["{index: 3}", "{other:03d}", "{\"index\":3}"] {
            assert_eq!(fill(text, &array, 1), (text.to_owned(), 0), "{text}");
        }
        assert_eq!(
            [zero_padding("03d"), zero_padding("05"), zero_padding(".2f"), zero_padding("0")],
            [Some("3"), Some("5"), None, None]
        );
    }

    #[test]
    fn axes_have_their_typed_form() {
        assert_eq!(fill("{alpha} {index}", &sweep(), 1).0, "1e-9 1");
        assert_eq!(fill("{alpha}", &Space::One, 0), ("{alpha}".into(), 1));
    }

    #[test]
    fn values_that_the_shell_divides_are_noted() {
        let texts = |values: &[&str]| AxisSpec::List(values.iter().map(|text| Scalar::Text((*text).into())).collect());
        let space = Space::Matrix(vec![
            Axis::new("fq", texts(&["a.fq", "a b.fq"])),
            Axis::new("plain", texts(&["a.fq"])),
            Axis::new("options", texts(&["-O2 -g"])),
        ]);
        let noted = |text: &str, place| {
            let mut findings = Findings::default();
            compile((text, &(0..1)), place, &space, &mut findings);
            findings.finish().len()
        };
        for (text, expected) in [
            ("cat {fq}", 1),
            ("cat {fq} {plain} {fq} > {plain}", 1),
            ("x={fq}; sort \"$x\"", 1),
            ("cat \"{fq}\" '{fq}' {plain}", 0),
            ("cc {options} {plain}; echo # {fq}", 0),
            ("{fq} --help", 0),
        ] {
            assert_eq!(noted(text, StringKind::Shell), expected, "{text}");
        }
        assert_eq!(noted("cat {fq}", StringKind::Plain), 0);
    }

    #[test]
    fn near_misses_are_noted() {
        assert_eq!(fill("{alhpa}", &sweep(), 0).1, 1);
        assert_eq!(fill("{alpha:03}", &sweep(), 0).1, 1);
        assert_eq!(fill("{index}", &Space::One, 0).1, 1);
    }

    #[test]
    fn words_that_nothing_fills_are_noted_unless_they_belong_to_a_program() {
        let noted = |line: &str| {
            let mut findings = Findings::default();
            let template = compile((line, &(0..1)), StringKind::Shell, &Space::One, &mut findings);
            (template.fill(Element { name: "t", space: &Space::One, number: 0 }), findings.finish().len())
        };
        let stays = |line: &str, notes: usize| assert_eq!(noted(line), (line.to_owned(), notes), "{line}");
        stays("align {sample}.fq > out/{lane}.bam", 2);
        stays("echo \"{sample}\"", 1);
        stays("echo ${sample} ${a:-{b}} {a,b} {1..3} {} $((1+{2}))", 0);
        stays("awk '{print}' f | awk '{print $1}' | jq '{id}'", 0);
        stays("curl -d '{\"a\":{\"b\":1}}' x", 0);
        stays("python3 - <<'EOF'\nprint(f\"{x}\")\nEOF\n", 0);
        stays("f() { true; }; { f; }", 0);
        stays("awk '{{x}}' # {x}", 0);
        stays("printf \"command = 'echo {index} {sample}'\" > $PHALANX_ADD", 0);
        assert_eq!(noted("echo {{sample}}"), ("echo {sample}".to_owned(), 0));
        stays("align {inputs[0]} {input} > {output.bam}", 3);
        stays("echo ${input[0]} {a.b} {x[0]} '{input[0]}'", 0);
        for (braces, help) in [
            ("{input[0]}", "write the file name itself"),
            ("{output}", "write the file name itself"),
            ("{wildcards.sample}", "write `{sample}`, and give the task this axis"),
            ("{threads}", "write `$PHALANX_CPUS`"),
            ("{params.x}", "write the value itself"),
        ] {
            let mut findings = Findings::default();
            compile((braces, &(0..1)), StringKind::Shell, &Space::One, &mut findings);
            let said = findings.finish().remove(0);
            assert!(said.message.contains(braces) && said.help.unwrap().contains(help), "{braces}");
        }
    }
}
