//! Finds lines in the job file, so that a recommendation can name them.

/// Line (from 1) of the `key` of the `nth` task table (from 0), or of the table itself if it has no
/// such key. `None` if the text has fewer tables or uses another notation.
pub(crate) fn line_of(text: &str, nth: usize, key: &str) -> Option<usize> {
    // Its tables stand in several files.
    if crate::job::is_several(text) {
        return None;
    }
    let tables = text.lines().enumerate().filter(|(_, line)| line.trim().starts_with("[[task]]"));
    let (head, _) = tables.into_iter().nth(nth)?;
    Some(line_in_table(text, head, key).unwrap_or(head) + 1)
}

/// The same for a key of a pool, or for the pool, which may be a table or a line under `[pools]`.
pub(super) fn line_of_pool(text: &str, pool: &str, key: &str) -> Option<usize> {
    if crate::job::is_several(text) {
        return None;
    }
    let head = |header: String| text.lines().position(|line| line.trim_start().starts_with(&header));
    let at = match head(format!("[pools.{pool}]")) {
        Some(head) => line_in_table(text, head, key).unwrap_or(head),
        None => line_in_table(text, head("[pools]".to_owned())?, pool)?,
    };
    Some(at + 1)
}

/// Line (from 0) of a key of the table whose header is at line `head`.
fn line_in_table(text: &str, head: usize, key: &str) -> Option<usize> {
    let is_header = |line: &str| line.trim_start().starts_with('[') && !line.contains('=');
    let body = text.lines().enumerate().skip(head + 1).take_while(|(_, line)| !is_header(line));
    let says = |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    body.into_iter().find(|(_, line)| says(line)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_table_and_key() {
        let text = "[job]\nname = \"x\"\n\n[[task]]\nname = \"a\"\narray = \"0-9\"\n\n[[task]]\nname = \"b\"\ncpus=4\n[task.env]\ncpus = 1\n";
        assert_eq!(line_of(text, 0, "array"), Some(6));
        assert_eq!(line_of(text, 0, "cpus"), Some(4));
        assert_eq!(line_of(text, 1, "cpus"), Some(10));
        assert_eq!(line_of(text, 2, "cpus"), None);
    }

    #[test]
    fn pools_are_found_as_tables_and_as_lines() {
        let text = "[pools.db]\ncapacity = 8\nrate = \"5/s\"\n[[task]]\nname = \"a\"\npools = { db = 1 }\n";
        assert_eq!(line_of_pool(text, "db", "rate"), Some(3));
        assert_eq!(line_of_pool(text, "db", "shares"), Some(1));
        assert_eq!(line_of_pool(text, "tape", "rate"), None);
        assert_eq!(
            line_of_pool("[pools]\ndb = { capacity = 8 }\ntape = { rate = \"5/s\" }\n", "tape", "rate"),
            Some(3)
        );
    }
}
