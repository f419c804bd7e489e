//! Writes job files: multi-line lists, escaped placeholders, unique names.

use rustc_hash::{FxHashMap, FxHashSet};

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
        let name = make_name(name, "imported");
        JobFileWriter {
            text: format!("# {}\n\n[job]\nname = {}\n", origin.replace(char::is_control, " "), quote(&name)),
        }
    }

    /// Adds `key = value` to the current section.
    pub(super) fn field(&mut self, key: &str, value: impl AsRef<str>) {
        self.text.push_str(&format!("{key} = {}\n", value.as_ref()));
    }

    /// Starts a section.
    pub(super) fn section(&mut self, header: &str) {
        self.text.push_str(&format!("\n{header}\n"));
    }

    /// Starts a task.
    pub(super) fn task(&mut self, name: &str) {
        self.section("[[task]]");
        self.field("name", quote(name));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Formats a string as TOML.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Formats a list of TOML values.
pub(super) fn list(values: &[String]) -> String {
    let length: usize = values.iter().map(|value| value.len() + 2).sum();
    if length <= MAX_LIST_WIDTH {
        return format!("[{}]", values.join(", "));
    }
    let mut text = String::from("[\n");
    let mut line = String::new();
    for value in values {
        if !line.is_empty() && line.len() + value.len() > MAX_LIST_WIDTH {
            text.push_str(&format!("    {}\n", line.trim_end()));
            line.clear();
        }
        line.push_str(&format!("{value}, "));
    }
    text.push_str(&format!("    {}\n]", line.trim_end()));
    text
}

/// Formats a list of strings.
pub(super) fn strings<S: AsRef<str>>(texts: &[S]) -> String {
    list(&texts.iter().map(|text| quote(text.as_ref())).collect::<Vec<_>>())
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
        fn quoted_text_reads_back(text in "\\PC*|[\"'\\\\\\n\\t\\r\u{1}-\u{1f}a]{0,20}") {
            let toml = format!("x = {}\ny = {}", quote(&text), strings(&[&text, &text]));
            let table: toml::Table = toml::from_str(&toml).unwrap();
            prop_assert_eq!(table["x"].as_str(), Some(text.as_str()));
            prop_assert_eq!(table["y"][1].as_str(), Some(text.as_str()));
        }
    }
}
