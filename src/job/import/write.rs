//! Writes job files: multi-line lists, escaped placeholders, unique names.

use rustc_hash::{FxHashMap, FxHashSet};
use toml::Value;

use crate::job::resolve::names::make_name;

/// Longer lists are written over several lines.
const MAX_LIST_WIDTH: usize = 110;

/// A job file under construction.
pub(super) struct JobFileWriter {
    text: String,
}

impl JobFileWriter {
    /// Starts a job file with its origin and its name.
    pub(super) fn new(origin: &str, name: &str) -> JobFileWriter {
        let mut file = JobFileWriter { text: format!("# {}\n", origin.replace(char::is_control, " ")) };
        file.section("[job]");
        file.field("name", make_name(name, "imported"));
        file
    }

    /// Adds `key = value` to the current section.
    pub(super) fn field(&mut self, key: &str, value: impl Into<Value>) {
        let text = match value.into() {
            Value::Array(values) => filled(&values),
            value => value.to_string(),
        };
        self.text.push_str(&format!("{key} = {text}\n"));
    }

    /// Adds `key = value` if there is a value.
    pub(super) fn optional(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.field(key, value);
        }
    }

    /// Adds `key = [values]` if there are any.
    pub(super) fn list<V: Into<Value>>(&mut self, key: &str, values: impl IntoIterator<Item = V>) {
        let values: Vec<Value> = values.into_iter().map(V::into).collect();
        if !values.is_empty() {
            self.field(key, values);
        }
    }

    /// Adds `key = [values]` with one value per line.
    pub(super) fn lines(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let lines: String = values.map(|value| format!("    {},\n", Value::from(value))).collect();
        self.text.push_str(&format!("{key} = [\n{lines}]\n"));
    }

    /// Starts a section.
    pub(super) fn section(&mut self, header: &str) {
        self.text.push_str(&format!("\n{header}\n"));
    }

    /// Starts a task.
    pub(super) fn task(&mut self, name: &str) {
        self.section("[[task]]");
        self.field("name", name);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Formats a list, over several lines if it is long.
fn filled(values: &[Value]) -> String {
    let values: Vec<String> = values.iter().map(Value::to_string).collect();
    let length: usize = values.iter().map(|value| value.len() + 2).sum();
    if length <= MAX_LIST_WIDTH {
        return format!("[{}]", values.join(", "));
    }
    let mut lines = vec![String::new()];
    for value in values {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.len() + value.len() <= MAX_LIST_WIDTH => {
                line.push_str(&format!("{value}, "));
            }
            _ => lines.push(format!("{value}, ")),
        }
    }
    let lines: String = lines.iter().map(|line| format!("    {}\n", line.trim_end())).collect();
    format!("[\n{lines}]")
}

/// An inline table.
pub(super) fn table<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Escapes everything in a text that would be read as a placeholder for one of `words`.
pub(super) fn protect(text: &str, words: &[&str]) -> String {
    let mut safe = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, tail) = rest.split_at(open);
        let shell = before.ends_with('$') || (before.is_empty() && safe.ends_with('$'));
        safe.push_str(before);
        let length = tail.find('}').map(|close| close + 1).filter(|_| !shell);
        match length.filter(|length| is_placeholder(&tail[1..length - 1], words)) {
            Some(length) => {
                safe.push_str(&format!("{{{}}}", &tail[..length]));
                rest = &tail[length..];
            }
            None => {
                safe.push('{');
                rest = &tail[1..];
            }
        }
    }
    safe + rest
}

fn is_placeholder(inside: &str, words: &[&str]) -> bool {
    words.contains(&inside.split(':').next().unwrap_or(inside))
}

/// Makes task names unique.
#[derive(Default)]
pub(super) struct TaskNames {
    used: FxHashSet<String>,
    next: FxHashMap<String, u32>,
}

impl TaskNames {
    /// A valid unique name close to the wanted one, with a number appended if it is taken.
    pub(super) fn unique(&mut self, wanted: &str) -> String {
        let base = make_name(wanted, "task");
        let mut name = base.clone();
        while !self.used.insert(name.clone()) {
            let next = self.next.entry(base.clone()).or_insert(1);
            *next += 1;
            let mut stem = base.as_str();
            // The number must fit in the maximum length of a name.
            while stem.len() > 180 {
                stem = &stem[..stem.char_indices().next_back().map_or(0, |(at, _)| at)];
            }
            name = format!("{stem}-{next}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_unique_and_usable() {
        let mut names = TaskNames::default();
        let given = ["a b", "a-b", "a-b-2", "", "a b"].map(|wanted| names.unique(wanted));
        assert_eq!(given, ["a-b", "a-b-2", "a-b-2-2", "task", "a-b-3"]);
    }

    #[test]
    fn placeholders_are_protected_and_nothing_else() {
        assert_eq!(
            protect("{name} ${name} {x} {{name}} {name:03}", &["name"]),
            "{{name}} ${name} {x} {{{name}}} {{name:03}}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in "\\PC*|[\"'\\\\\\n\\t\\r\u{1}-\u{1f}a]{0,20}") {
            let mut file = JobFileWriter::new(&text, "x");
            file.field("x", text.as_str());
            file.list("y", vec![text.as_str(); 9]);
            file.lines("z", [&text, &text].into_iter().cloned());
            file.field("t", toml::Table::from_iter([(text.clone(), Value::from(text.as_str()))]));
            let table: toml::Table = toml::from_str(&file.finish()).unwrap();
            let job = &table["job"];
            for value in [&job["x"], &job["y"][8], &job["z"][1], &job["t"][text.as_str()]] {
                prop_assert_eq!(value.as_str(), Some(text.as_str()));
            }
        }
    }
}
