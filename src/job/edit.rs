//! Changes fields of tasks in the text of a job file and leaves everything else as it stands:
//! comments, order, spaces, line ends.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A field of a task to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Name of the `[[task]]` table.
    pub task: String,
    /// The field.
    pub key: &'static str,
    /// Its new value, as TOML.
    pub value: String,
}

/// The text with these changes. A field that is there gets its new value; another one is added
/// below the `name` of its task.
///
/// # Errors
/// If the text is no TOML, or has no task of a name.
pub fn set_task_fields(text: &str, changes: &[FieldChange]) -> Result<String, String> {
    let root = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
    let tasks = match root.get_ref().get("task").map(|tasks| tasks.get_ref()) {
        Some(DeValue::Array(tasks)) => tasks,
        _ => return Err("the file has no [[task]] tables".to_owned()),
    };
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for change in changes {
        let named = tasks.iter().filter_map(|task| match task.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        });
        let (table, name) = named
            .filter_map(|table| Some((table, table.get("name")?)))
            .find(|(_, name)| matches!(name.get_ref(), DeValue::String(text) if *text == change.task))
            .ok_or_else(|| format!("the file has no task `{}`", change.task))?;
        match table.get(change.key) {
            Some(value) => edits.push((value.span(), change.value.clone())),
            None => edits.push(addition(text, name.span().end, change)),
        }
    }
    // From the end, so that places before an edit stay valid; several additions at one place keep
    // their order.
    let mut changed = text.to_owned();
    edits.reverse();
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    for (place, new) in edits {
        changed.replace_range(place, &new);
    }
    Ok(changed)
}

/// Adds a field behind the value that ends at `end`: in an inline table behind a comma, else as a
/// line of its own.
fn addition(text: &str, end: usize, change: &FieldChange) -> (Range<usize>, String) {
    let FieldChange { key, value, .. } = change;
    let rest = &text[end..];
    let line = rest.find('\n').map_or(rest, |at| &rest[..at]);
    let after = line.trim_start();
    if after.starts_with([',', '}']) {
        return (end..end, format!(", {key} = {value}"));
    }
    let newline = if line.ends_with('\r') { "\r\n" } else { "\n" };
    let at = end + line.trim_end_matches('\r').len();
    (at..at, format!("{newline}{key} = {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(task: &str, key: &'static str, value: &str) -> FieldChange {
        FieldChange { task: task.to_owned(), key, value: value.to_owned() }
    }

    #[test]
    fn only_what_changes_is_changed() {
        let text = "# top\n[defaults]\nmemory = \"9G\"\n\n[[task]]\nname = \"a\"  # the first\ncommand = 'x'\n\
                    memory   =   \"4G\" # too much\n\n  [[task]]\n  name = 'b'\n  command = ['y', \"name = 'a'\"]";
        let changes = [change("a", "memory", "\"1G\""), change("b", "memory", "\"2G\""), change("b", "cpus", "2")];
        let changed = set_task_fields(text, &changes).unwrap();
        let expected = text
            .replace("memory   =   \"4G\"", "memory   =   \"1G\"")
            .replace("name = 'b'\n", "name = 'b'\nmemory = \"2G\"\ncpus = 2\n");
        assert_eq!(changed, expected);
        let no_end = set_task_fields("[[task]]\ncommand = 'x'\nname = 'a'", &[change("a", "cpus", "2")]).unwrap();
        assert_eq!(no_end, "[[task]]\ncommand = 'x'\nname = 'a'\ncpus = 2");
    }

    #[test]
    fn inline_tables_and_windows_line_ends_stay() {
        let inline = "task = [{ name = \"a\", command = \"x\" }, { command = 'x', name = \"b\" }]\n";
        let changed = set_task_fields(inline, &[change("a", "cpus", "2"), change("b", "cpus", "3")]).unwrap();
        let expected =
            "task = [{ name = \"a\", cpus = 2, command = \"x\" }, { command = 'x', name = \"b\", cpus = 3 }]\n";
        assert_eq!(changed, expected);
        let windows = set_task_fields("[[task]]\r\nname = 'a'\r\ncommand = 'x'\r\n", &[change("a", "cpus", "2")]);
        assert_eq!(windows.unwrap(), "[[task]]\r\nname = 'a'\r\ncpus = 2\r\ncommand = 'x'\r\n");
    }

    #[test]
    fn unknown_tasks_are_refused() {
        assert!(set_task_fields("[[task]]\nname = 'a'\n", &[change("b", "cpus", "2")]).unwrap_err().contains("`b`"));
        assert!(set_task_fields("[job]\n", &[change("b", "cpus", "2")]).is_err());
        assert!(set_task_fields("[[", &[]).is_err());
    }
}
