//! One shell command per line, as GNU parallel and many scripts have them.
//!
//! All lines become one matrix over the lines, so a file of a million commands is one task table.

use super::write::{Document, quote};
use super::{ImportError, Imported, Options, check_text};

/// Imports a list of shell commands; blank lines and lines that begin with `#` are left out.
///
/// # Errors
/// If there is no command, or one that contains a NUL byte.
pub fn lines(text: &str, options: &Options) -> Result<Imported, ImportError> {
    check_text(text)?;
    let commands: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if commands.is_empty() {
        return Err(ImportError::new(1, "there is no command"));
    }
    let origin = "Imported from lines of commands. Each line is one task; `{index}` counts them from 0.";
    let mut document = Document::new(origin, options.name.as_deref().unwrap_or("lines"));
    document.task("line");
    document.field("command", quote("{line}"));
    document.section("[task.matrix]");
    let entries: String = commands.iter().map(|line| format!("    {},\n", quote(line))).collect();
    document.field("line", format!("[\n{entries}]"));
    Ok(Imported { toml: document.finish(), warnings: Vec::new() })
}
