//! `%`-patterns in the file names of a task, as in `sbatch --output`: `%x-%a.txt`.
//!
//! Placeholders in braces are replaced when a task is expanded, with the same result on every rank.
//! The patterns are replaced where the task runs, because only there the node and the rank are
//! known.

use std::path::{Path, PathBuf};

/// The values of the patterns.
#[derive(Clone, Copy, Debug)]
pub struct FileNames<'a> {
    /// Name of the run (`%j`, `%A`).
    pub run: &'a str,
    /// Name of the node (`%N`).
    pub node: &'a str,
    /// Number of the rank (`%t`).
    pub rank: u32,
    /// Name of the task's group (`%x`).
    pub task: &'a str,
    /// The task's index (`%a`).
    pub index: Option<u64>,
}

/// The letters that may follow `%`; a width pads with zeros, as in `%4a`.
const LETTERS: &str = "jaAxNt";

impl FileNames<'_> {
    /// Replaces the patterns in the path of `stdin`, `stdout` or `stderr`.
    pub fn fill(&self, pattern: &Path) -> PathBuf {
        let Some(text) = pattern.to_str() else { return pattern.to_path_buf() };
        let mut name = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            name.push_str(before);
            let (letter, width, tail) = split_pattern(after);
            match letter {
                Some('%') => name.push('%'),
                Some('j' | 'A') => name.push_str(self.run),
                Some('x') => name.push_str(self.task),
                Some('N') => name.push_str(self.node),
                Some('t') => name.push_str(&format!("{:0width$}", self.rank)),
                Some('a') => name.push_str(&format!("{:0width$}", self.index.unwrap_or(0))),
                _ => name.push_str(&format!("%{}", &after[..after.len() - tail.len()])),
            }
            rest = tail;
        }
        name.push_str(rest);
        PathBuf::from(name)
    }
}

/// Splits the text after a `%` into letter, width and rest.
fn split_pattern(after: &str) -> (Option<char>, usize, &str) {
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let letter = after[digits..].chars().next();
    let tail = &after[digits + letter.map_or(0, char::len_utf8)..];
    (letter, after[..digits].parse().unwrap_or(0).min(20), tail)
}

/// Replaces the patterns in a file name of a task; `None` if it has one whose value is known only
/// where the task runs.
pub(crate) fn known(pattern: &str, task: &str, index: Option<u64>) -> Option<String> {
    let mut rest = pattern;
    while let Some((_, after)) = rest.split_once('%') {
        let (letter, _, tail) = split_pattern(after);
        if !matches!(letter, Some('%' | 'x' | 'a')) {
            return None;
        }
        rest = tail;
    }
    let names = FileNames { run: "", node: "", rank: 0, task, index };
    names.fill(Path::new(pattern)).into_os_string().into_string().ok()
}

/// Checks the patterns of a text; `indexed` tells whether `%a` is defined.
pub(crate) fn check_patterns(text: &str, indexed: bool) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let (letter, _, tail) = split_pattern(after);
        match letter {
            Some('%') => {}
            Some('a') if !indexed => {
                return Err("`%a` is the index, but this task is neither an array nor a matrix".into());
            }
            Some(letter) if LETTERS.contains(letter) => {}
            Some(letter) => return Err(format!("unknown pattern `%{letter}`; there are %j %a %A %x %N %t %%")),
            None => return Err("`%` at the end means nothing; write `%%` for the character itself".into()),
        }
        rest = tail;
    }
    Ok(())
}

/// True if the patterns give each element of an array its own file.
pub(crate) fn tells_elements_apart(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let (letter, _, tail) = split_pattern(after);
        if letter == Some('a') {
            return true;
        }
        rest = tail;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_filled_in() {
        let names = FileNames { run: "sweep-3", node: "n1", rank: 2, task: "tile", index: Some(5) };
        let name = |text: &str| names.fill(Path::new(text)).display().to_string();
        assert_eq!(name("out/%x-%a.txt"), "out/tile-5.txt");
        assert_eq!(name("%j %A %N %t %3a 100%%"), "sweep-3 sweep-3 n1 2 005 100%");
        assert_eq!(name("é%xé"), "étileé");
    }

    #[test]
    fn names_are_known_that_do_not_depend_on_where_a_task_runs() {
        assert_eq!(known("out/%x-%2a%%.txt", "t", Some(5)).as_deref(), Some("out/t-05%.txt"));
        assert!(["%j", "a%N", "%3t", "%A.txt"].iter().all(|text| known(text, "t", Some(1)).is_none()));
    }

    #[test]
    fn unknown_patterns_are_named() {
        assert!(check_patterns("%x-%4a-%%", true).is_ok());
        assert!(check_patterns("%a", false).is_err());
        assert!(check_patterns("%q", true).is_err());
        assert!(check_patterns("50%", true).is_err());
        assert!(tells_elements_apart("%%%3a") && !tells_elements_apart("%%a%x"));
    }
}
