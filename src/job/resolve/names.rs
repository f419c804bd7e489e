//! Valid names of jobs and tasks: they can be part of a file name, a command line and `needs`.

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;

const LONGEST: usize = 200;

fn allowed(c: char) -> bool {
    c.is_alphanumeric() || "._-+@=".contains(c)
}

/// Checks a name; the error says what is wrong.
pub(super) fn check_name(name: &str) -> Result<(), String> {
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

/// Reports a directory that is empty or only meaningful to a shell.
pub(super) fn check_dir(key: &str, dir: &At<String>, findings: &mut Findings) {
    if dir.value.is_empty() {
        findings
            .push(Diagnostic::error(format!("`{key}` is empty")).at(&dir.span).help("leave it out, or write \".\""));
    } else if dir.value.starts_with('~') {
        findings.push(
            Diagnostic::error(format!("`{key}` begins with `~`, which only a shell replaces"))
                .at(&dir.span)
                .help("write the whole path, or a path relative to where Phalanx is started"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_names_are_usable() {
        for text in ["a b", "...", "", "x/y", "-z", "émile", &"é".repeat(300), "a\0b", "--.-"] {
            assert_eq!(check_name(&make_name(text, "job")), Ok(()), "{text:?}");
        }
    }
}
