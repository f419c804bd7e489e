//! The tasks that a run would run, each with its command.

use std::io::{self, IsTerminal};

use crate::job::Job;
use crate::model::TaskId;
use crate::observe::{LISTED, command_of, printable};
use crate::workload::Selected;

/// Lists the first tasks of a job that are chosen, or all of them with `whole`.
pub(super) fn list(job: &Job, selected: &Selected, whole: bool) -> String {
    let chosen = || (0..job.task_count() as u32).map(TaskId).filter(|&task| selected.has(task));
    let most = if whole { usize::MAX } else { LISTED };
    let lines = chosen().take(most).map(|task| entry(&job.task_name(task), &command_of(job, task), whole));
    let mut text = format!("\n{}", lines.collect::<String>());
    let more = chosen().count().saturating_sub(most);
    if more > 0 {
        text += &format!("  and {more} more (-v lists all)\n");
    }
    text
}

/// A task, and its command on the lines below: on one as wide as the terminal unless it is wanted
/// as a whole or no terminal shows it.
pub(super) fn entry(task: &str, command: &str, whole: bool) -> String {
    const INDENT: &str = "      ";
    let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let width = width.filter(|_| !whole && io::stdout().is_terminal());
    let lines: Vec<String> = match width {
        Some(width) => {
            let joined =
                command.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" \u{23ce} ");
            vec![shortened(&printable(joined.as_bytes()), width.saturating_sub(INDENT.len()))]
        }
        None => command.lines().map(|line| printable(line.as_bytes())).collect(),
    };
    let lines: String = lines.iter().map(|line| format!("{INDENT}{line}\n")).collect();
    format!("  {task}\n{lines}")
}

/// The beginning of a text that is wider than `width`.
fn shortened(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(3)).chain("...".chars()).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_where_the_terminal_ends() {
        assert_eq!(shortened("echo abc", 8), "echo abc");
        assert_eq!(shortened("echo abcd", 8), "echo ...");
        assert_eq!(shortened("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", 4), "\u{e9}...");
        assert_eq!(entry("a[1]", "set -e\nmake", true), "  a[1]\n      set -e\n      make\n");
    }
}
