//! Finds lines in the job file, so that a recommendation can name them.

/// Line (from 1) of the `key` of the `nth` task table (from 0), or of the table itself if it has no
/// such key. `None` if the text has fewer tables or uses another notation.
pub(crate) fn line_of(text: &str, nth: usize, key: &str) -> Option<usize> {
    // Its tables stand in several files.
    if crate::job::is_several(text) {
        return None;
    }
    let is_header = |line: &str| line.trim_start().starts_with('[') && !line.contains('=');
    let lines: Vec<&str> = text.lines().collect();
    let tables = lines.iter().enumerate().filter(|(_, line)| line.trim().starts_with("[[task]]"));
    let (head, _) = tables.map(|(at, line)| (at, *line)).nth(nth)?;
    let body = lines[head + 1..].iter().take_while(|line| !is_header(line));
    let says = |line: &&str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    Some(match body.into_iter().position(says) {
        Some(at) => head + 2 + at,
        None => head + 1,
    })
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
}
