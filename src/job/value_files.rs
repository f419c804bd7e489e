//! Files with values for the axes of a matrix: lists with a value per line, and CSV or TSV tables
//! with a value per column and row.
//!
//! Only [`load`](super::load()) reads them. The text of the job that is sent to other ranks and
//! journalled carries their content behind the job file, as comments, so that every rank and each
//! later command builds the same job whatever happens to the files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::bounded_read::read_bounded;
use super::scalar::{Scalar, axis_name_mistake};
use super::units::shorten;

/// Separates the job file from the content of the files that it reads values from.
const MARK: &str = "\n# Below: the files that this job reads values from, as they were when it was loaded.\n";
/// Precedes the name of a file, as a JSON string.
const NAME: &str = "#< ";
/// Precedes each line of its content.
const LINE: &str = "#:";

/// A mistake in a file with values: the number of the line, from 1, and what is wrong with it.
#[derive(Debug, PartialEq)]
pub(crate) struct Mistake {
    pub line: usize,
    pub text: String,
}

fn mistake<T>(line: usize, text: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { line, text: text.into() })
}

/// The content of files with values, by their names as typed.
#[derive(Debug, Default)]
pub(crate) struct ValueFiles {
    known: RefCell<BTreeMap<String, Result<Arc<str>, String>>>,
    on_disk: bool,
}

impl ValueFiles {
    /// Files that are read from the disk when they are needed.
    pub(crate) fn on_disk() -> ValueFiles {
        ValueFiles { on_disk: true, ..ValueFiles::default() }
    }

    /// The files that a text carries.
    pub(crate) fn carried_by(text: &str) -> ValueFiles {
        let mut known = BTreeMap::new();
        let mut open: Option<(String, String)> = None;
        let mut close =
            |open: Option<(String, String)>| open.map(|(name, content)| known.insert(name, Ok(content.into())));
        for line in text.split_once(MARK).map_or("", |(_, carried)| carried).lines() {
            if let Some(name) = line.strip_prefix(NAME).and_then(|name| serde_json::from_str(name).ok()) {
                close(open.replace((name, String::new())));
            } else if let (Some(line), Some((_, content))) = (line.strip_prefix(LINE), &mut open) {
                content.push_str(line);
                content.push('\n');
            }
        }
        close(open);
        ValueFiles { known: RefCell::new(known), on_disk: false }
    }

    /// The job file without the files that a text carries.
    pub(crate) fn own_part(text: &str) -> &str {
        text.split_once(MARK).map_or(text, |(own, _)| own)
    }

    /// The job file, followed by the files that were read.
    pub(crate) fn append_to(&self, text: Arc<str>) -> Arc<str> {
        let known = self.known.borrow();
        if known.is_empty() {
            return text;
        }
        let mut whole = format!("{text}{MARK}");
        for (name, content) in known.iter().filter_map(|(name, content)| Some((name, content.as_ref().ok()?))) {
            let _ = writeln!(whole, "{NAME}{}", serde_json::Value::from(name.as_str()));
            content.lines().for_each(|line| whole.extend([LINE, line, "\n"]));
        }
        whole.into()
    }

    /// The content of a file, without byte order mark and with LF as line end.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn content(&self, name: &str, dir: &Path) -> Result<Arc<str>, String> {
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        if !self.on_disk {
            return Err(format!("the text of this job does not carry {name}; load the job from its file"));
        }
        let path = dir.join(name);
        let content = read_bounded(&path).map_err(|reason| format!("cannot read {}: {reason}", path.display()));
        let content = content.and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
                format!("{name}, line {line}: it is not valid UTF-8; save the file as UTF-8")
            })?;
            Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n").into())
        });
        self.known.borrow_mut().insert(name.to_owned(), content.clone());
        content
    }
}

/// The lines that hold something, with their numbers. A line with a control character other than
/// `except` is a mistake: nobody sees it.
fn lines(text: &str, except: Option<char>) -> impl Iterator<Item = Result<(usize, &str), Mistake>> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).map(move |(number, line)| {
        match line.chars().find(|&c| c.is_control() && Some(c) != except) {
            None => Ok((number, line)),
            Some('\t') => {
                mistake(number, "it holds a tab; a table with columns is read by `matrix = { csv = \"FILE\" }`")
            }
            Some(c) => mistake(number, format!("it holds the control character {c:?}")),
        }
    })
}

/// Reads a list: a value per line, without the blanks around it. Empty lines are skipped.
pub(crate) fn read_list(text: &str) -> Result<Vec<Scalar>, Mistake> {
    let mut seen = FirstLines::default();
    let mut values = Vec::new();
    for line in lines(text, None) {
        let (number, line) = line?;
        let value = line.trim();
        seen.note(number, value, || format!("{:?}", shorten(value)))?;
        values.push(Scalar::typed(value));
    }
    if values.is_empty() { mistake(1, "the file holds no value") } else { Ok(values) }
}

/// Reads a table with a header line: the columns with their values. Fields are separated by what
/// the header holds: tabs, else commas, else semicolons; quotes are those of RFC 4180. Empty lines
/// are skipped.
pub(crate) fn read_table(text: &str) -> Result<Vec<(String, Vec<Scalar>)>, Mistake> {
    let mut rows = lines(text, Some('\t'));
    let Some(header) = rows.next() else { return mistake(1, "the file is empty; its first line names the columns") };
    let (first, header) = header?;
    let separator = ['\t', ',', ';'].into_iter().find(|c| header.contains(*c)).unwrap_or(',');
    let mut columns: Vec<(String, Vec<Scalar>)> = Vec::new();
    for name in fields(first, header, separator)? {
        if let Some(reason) = axis_name_mistake(&name) {
            return mistake(first, format!("{:?} cannot be the name of a column: {reason}", shorten(&name)));
        }
        if columns.iter().any(|(other, _)| *other == name) {
            return mistake(first, format!("two columns are called `{name}`"));
        }
        columns.push((name, Vec::new()));
    }
    let mut seen = FirstLines::default();
    for row in rows {
        let (number, line) = row?;
        let fields = fields(number, line, separator)?;
        if fields.len() != columns.len() {
            let (has, header) = (fields.len(), columns.len());
            return mistake(number, format!("fields: {has}, but {header} in the header (line {first})"));
        }
        for ((_, values), field) in columns.iter_mut().zip(&fields) {
            values.push(Scalar::typed(field));
        }
        seen.note(number, fields, || "this row".to_owned())?;
    }
    match columns[0].1.is_empty() {
        true => mistake(first, "the table has a header, but no row"),
        false => Ok(columns),
    }
}

/// Where values stood first: each task of a matrix is what its values say, so none may come twice.
struct FirstLines<T>(FxHashMap<T, usize>);

impl<T> Default for FirstLines<T> {
    fn default() -> Self {
        FirstLines(FxHashMap::default())
    }
}

impl<T: Eq + Hash> FirstLines<T> {
    fn note(&mut self, line: usize, value: T, shown: impl FnOnce() -> String) -> Result<(), Mistake> {
        match self.0.insert(value, line) {
            None => Ok(()),
            Some(first) => mistake(line, format!("{} stands in line {first} already", shown())),
        }
    }
}

/// Splits a line of a table. Blanks around a field that is not quoted do not count.
fn fields(number: usize, line: &str, separator: char) -> Result<Vec<String>, Mistake> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let blank = |c: char| c.is_whitespace() && c != separator;
        rest = rest.trim_start_matches(blank);
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(separator) {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            fields.push(field.trim().to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let Some((part, after)) = quoted.split_once('"') else { return mistake(number, "a quote is not closed") };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => {
                    quoted = after.trim_start_matches(blank);
                    break;
                }
            }
        }
        fields.push(field);
        match quoted.strip_prefix(separator) {
            Some(after) => rest = after,
            None if quoted.is_empty() => return Ok(fields),
            None => return mistake(number, format!("{:?} follows a quoted field", shorten(quoted))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(values: &[Scalar]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    fn table(text: &str) -> Vec<Vec<String>> {
        let column = |(name, values): (String, Vec<Scalar>)| [vec![name], texts(&values)].concat();
        read_table(text).unwrap().into_iter().map(column).collect()
    }

    #[test]
    fn lists_and_tables_are_read() {
        assert_eq!(
            texts(&read_list("NA1\n\n  007 \nx, \"y\" z\n1.50\n").unwrap()),
            ["NA1", "007", "x, \"y\" z", "1.50"]
        );
        assert_eq!(
            read_list("3\n0.5\ntrue\n07\nnan").unwrap(),
            [
                Scalar::Int(3),
                Scalar::Float(0.5),
                Scalar::Bool(true),
                Scalar::Text("07".into()),
                Scalar::Text("nan".into()),
            ]
        );
        let expected = [["s", "a", "b,c"], ["f", "x y", "\"q\""], ["n", "", "2"]];
        assert_eq!(table("s,f,n\n a , x y ,\n\n\"b,c\",\"\"\"q\"\"\" ,2\n"), expected);
        assert_eq!(table("s\tf\na\tb c\n"), [["s", "a"], ["f", "b c"]]);
        assert_eq!(table("s;f\n1,5;b\n"), [["s", "1,5"], ["f", "b"]]);
    }

    #[test]
    fn mistakes_name_their_line() {
        let list = |text| read_list(text).unwrap_err();
        let tables = |text| read_table(text).unwrap_err();
        for (mistake, line, says) in [
            (list("\n\n"), 1, "no value"),
            (list("a\n\nb\na\n"), 4, "\"a\" stands in line 1 already"),
            (list("a\n\u{1b}b"), 2, "control character"),
            (list("a\tb"), 1, "csv"),
            (tables(""), 1, "empty"),
            (tables("a,b\n"), 1, "no row"),
            (tables("a,b\n1,2\n3\n"), 3, "fields: 1, but 2 in the header (line 1)"),
            (tables("a,b\n1,\"2\n"), 2, "a quote is not closed"),
            (tables("a,b\n1,\"2\"3\n"), 2, "follows a quoted field"),
            (tables("a,a\n1,2\n"), 1, "two columns"),
            (tables("a,index\n1,2\n"), 1, "meaning of its own"),
            (tables("sample id\n1\n"), 1, "cannot be the name of a column"),
            (tables("a,b\n1,2\n1,2\n"), 3, "this row stands in line 2 already"),
        ] {
            assert!(mistake.line == line && mistake.text.contains(says), "{mistake:?}: {line}, {says}");
        }
    }

    #[test]
    fn a_text_carries_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a b.txt"), "\u{feff}x\r\n#: y\r\n").unwrap();
        let read = ValueFiles::on_disk();
        assert_eq!(&*read.content("a b.txt", dir.path()).unwrap(), "x\n#: y\n");
        assert!(read.content("absent", dir.path()).unwrap_err().contains("cannot read"));
        let whole = read.append_to("[job]\n".into());
        assert_eq!(ValueFiles::own_part(&whole), "[job]\n");
        toml::from_str::<toml::Table>(&whole).expect("it is comments");
        let carried = ValueFiles::carried_by(&whole);
        assert_eq!(&*carried.content("a b.txt", dir.path()).unwrap(), "x\n#: y\n");
        assert!(carried.content("absent", dir.path()).is_err());
        assert_eq!(&*ValueFiles::on_disk().append_to("[job]\n".into()), "[job]\n");
    }

    proptest! {
        #[test]
        fn lists_hold_what_was_written(
            values in prop::collection::hash_set("[-a-z0-9, ;\"'\\[\\]{}#%é漢😀]{1,8}", 1..8),
            gaps in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\n \n", "\r\n\r\n"]), 8),
            mark in any::<bool>(),
        ) {
            let values: std::collections::BTreeSet<String> =
                values.iter().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).collect();
            prop_assume!(!values.is_empty());
            let dir = tempfile::tempdir().unwrap();
            let mut text = if mark { "\u{feff}".to_owned() } else { String::new() };
            values.iter().zip(&gaps).for_each(|(value, gap)| text.extend([value, *gap]));
            std::fs::write(dir.path().join("l"), &text).unwrap();
            let read = ValueFiles::on_disk();
            let content = read.content("l", dir.path()).unwrap();
            let wanted: Vec<String> = values.into_iter().collect();
            prop_assert_eq!(texts(&read_list(&content).unwrap()), wanted.clone());
            let whole = read.append_to("[job]\n".into());
            let carried = ValueFiles::carried_by(&whole).content("l", dir.path()).unwrap();
            prop_assert_eq!(texts(&read_list(&carried).unwrap()), wanted);
        }

        #[test]
        fn tables_hold_what_was_written(
            rows in prop::collection::hash_set(("[a-z,;\" é漢'#]{0,6}", "[-0-9.,\"x ]{0,4}"), 1..6),
            separator in prop::sample::select(vec![',', '\t', ';']),
        ) {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let mut text = format!("one{separator}two\n");
            rows.iter().for_each(|(a, b)| text += &format!("{}{separator}{}\r\n", quoted(a), quoted(b)));
            let columns = read_table(&text.replace("\r\n", "\n")).unwrap();
            let read: Vec<(String, String)> = texts(&columns[0].1).into_iter().zip(texts(&columns[1].1)).collect();
            prop_assert_eq!(read, rows.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_panic(text in "(?s)[a-z,;\t\n\"\\\\#:<]{0,40}|\\PC{0,30}") {
            let _ = (read_list(&text), read_table(&text), ValueFiles::carried_by(&format!("{MARK}{text}")));
        }
    }
}
