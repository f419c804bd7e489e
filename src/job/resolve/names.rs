//! Valid names of jobs and tasks: they can be part of a file name, a command line and `needs`.

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::values::Strings;
use crate::model::{Labels, labels_of};

const LONGEST: usize = 200;

fn allowed(c: char) -> bool {
    c.is_alphanumeric() || "._-+@=".contains(c)
}

/// Checks a name; the error says what is wrong.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".into());
    }
    if name.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!("it contains {c:?}; letters, digits and . _ - + @ = are possible"));
    }
    if name.starts_with(['.', '-']) {
        return Err("it begins with `.` or `-`".into());
    }
    Ok(())
}

/// The nearest valid name; `fallback` if nothing valid remains.
pub(crate) fn make_name(text: &str, fallback: &str) -> String {
    let mut name: String = text.trim().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let end = (0..=name.len().min(LONGEST)).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    name.truncate(end);
    match name.trim_matches(['.', '-']) {
        "" => fallback.to_string(),
        usable => usable.to_string(),
    }
}

/// The valid ones of these labels; reports the others.
pub(super) fn resolve_labels(words: &Strings, findings: &mut Findings) -> Labels {
    let mut labels = Vec::new();
    for label in &words.0 {
        match check_name(&label.value) {
            Ok(()) => labels.push(label.value.clone()),
            Err(reason) => findings.push(
                Diagnostic::error(format!("this is no label of a rank: {reason}"))
                    .at(&label.span)
                    .help("a label is a word such as \"highmem\"; list several: `labels = [\"highmem\", \"ssd\"]`"),
            ),
        }
    }
    labels_of(labels)
}

/// Reports a directory that is empty or only meaningful to a shell.
pub(super) fn check_dir(key: &str, dir: &At<String>, findings: &mut Findings) {
    if dir.value.is_empty() {
        findings
            .push(Diagnostic::error(format!("`{key}` is empty")).at(&dir.span).help("leave it out, or write \".\""));
    } else {
        check_path(key, dir, findings);
    }
}

/// Reports what only a shell replaces in a path: the name is taken as it stands.
pub(super) fn check_path(key: &str, path: &At<String>, findings: &mut Findings) {
    let text = path.value.as_str();
    let finding = if text.starts_with('~') {
        Diagnostic::error(format!("`{key}` begins with `~`, which only a shell replaces"))
            .help("write the whole path, or a path relative to where Phalanx is started")
    } else if has_variable(text) {
        Diagnostic::warning(format!("`{key}` is taken as it stands: only a shell replaces `$`"))
            .help("write the path itself, or write the file from a shell line: `command = \"... > $NAME/file\"`")
    } else if text.contains('*') {
        Diagnostic::warning(format!("`{key}` is taken as it stands: `*` stands for no other characters here"))
            .help("list the files, or name a directory")
    } else {
        return;
    };
    findings.push(finding.at(&path.span));
}

/// True for `$NAME` and `${NAME}`.
fn has_variable(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if after.trim_start_matches('{').starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_shell_are_recognised() {
        let found = ["$HOME/x", "a/${USER}.txt", "$$_x", "${_a}"].map(has_variable);
        assert_eq!(found, [true; 4]);
        let others = ["a$", "cost-$5", "$", "a b", "{index}", "$%a"].map(has_variable);
        assert_eq!(others, [false; 6]);
    }

    #[test]
    fn made_names_are_usable() {
        for text in ["a b", "...", "", "x/y", "-z", "émile", &"é".repeat(300), "a\0b", "--.-"] {
            assert_eq!(check_name(&make_name(text, "job")), Ok(()), "{text:?}");
        }
    }
}
