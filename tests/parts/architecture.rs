//! Holds what ARCHITECTURE.md promises about imports: the pure core (`graph`, `schedule` and `scale`) does no I/O and knows
//! none of the parts that do.
//!
//! The check reads the source. `use` trees are flattened, so a grouped import hides nothing, and paths written out in the code
//! count as imports. Test modules are exempt: `tests.rs` files, and what follows `#[cfg(test)]` in a file.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src/` that make up the pure core.
const CORE: [&str; 3] = ["graph", "schedule", "scale"];

/// What they may not name: the world outside, and the parts of Phalanx that touch it.
const FORBIDDEN: [&str; 22] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "mpi",
    "rayon",
    "sysinfo",
    "crate::fabric",
    "crate::pool",
    "crate::exec",
    "crate::journal",
    "crate::observe",
    "crate::cli",
    "crate::runtime",
    "crate::sim",
    "crate::topology",
    "crate::bench",
    "crate::system",
];

#[test]
fn the_core_imports_nothing_that_does_io() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<PathBuf> = CORE.iter().flat_map(|folder| rust_files(&root.join(folder))).collect();
    assert!(files.len() >= 2, "the core has moved; tell this test where it is");
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for path in forbidden(&text) {
            found.push(format!("{}: {path}", file.strip_prefix(&root).unwrap_or(&file).display()));
        }
    }
    assert!(
        found.is_empty(),
        "the core must stay free of I/O; move this to an edge and pass in what it yields:\n{}",
        found.join("\n")
    );
}

/// The files below a folder, test files excepted; none if there is no such folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    files
}

/// The forbidden paths that a source text names.
fn forbidden(source: &str) -> Vec<String> {
    let mut paths = paths_of(&code_of(source));
    // A lone word is a name of the code's own, such as a field called `mpi`.
    paths.retain(|path| path.contains("::"));
    paths.retain(|path| FORBIDDEN.iter().any(|bad| path == bad || path.starts_with(&format!("{bad}::"))));
    paths.sort();
    paths.dedup();
    paths
}

/// The source without comments, string literals and tests.
fn code_of(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // `mod tests;` is one line; a test module with a body is the last thing in its file.
            match lines.next() {
                Some(item) if item.trim_end().ends_with(';') => continue,
                _ => break,
            }
        }
        // Whole comment lines and trailing comments; a `//` inside a literal only shortens what is looked at.
        let line = line.split("//").next().unwrap_or_default();
        // Every second piece between quotes is a literal.
        code.extend(line.split('"').step_by(2));
        code.push(' ');
    }
    code
}

/// All paths, with the braces of `use` trees flattened: `std::{fs, time::Instant}` gives `std::fs` and `std::time::Instant`.
fn paths_of(code: &str) -> Vec<String> {
    let tokens = tokens_of(code);
    let mut paths = Vec::new();
    // Prefixes of the `use` braces that are open; `None` for other braces.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        at += 1;
        match token {
            "{" => open.push(None),
            "}" => drop(open.pop()),
            _ if !is_word(token) => {}
            _ => {
                let inherited = open.iter().rev().find_map(Option::as_deref).map(|p| format!("{p}::"));
                let mut path = inherited.unwrap_or_default() + token;
                while tokens.get(at) == Some(&"::") && tokens.get(at + 1).is_some_and(|next| is_word(next)) {
                    path += "::";
                    path += tokens[at + 1];
                    at += 2;
                }
                if tokens.get(at) == Some(&"::") && tokens.get(at + 1) == Some(&"{") {
                    open.push(Some(path.clone()));
                    at += 2;
                }
                paths.push(path);
            }
        }
    }
    paths
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::`, and single other characters.
fn tokens_of(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while !rest.is_empty() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => rest.chars().next().map_or(1, char::len_utf8),
            word => word,
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

#[test]
fn imports_cannot_hide() {
    assert_eq!(forbidden("use std::fs;"), ["std::fs"]);
    assert_eq!(forbidden("use std::{collections::HashMap, time::{Duration,\n Instant}};"), ["std::time::Instant"]);
    assert_eq!(
        forbidden("use crate::{model::Rank, fabric::{Fabric, wire}};"),
        ["crate::fabric", "crate::fabric::Fabric", "crate::fabric::wire"]
    );
    assert_eq!(forbidden("fn f() { let t = std::time::SystemTime::now(); }"), ["std::time::SystemTime::now"]);
    assert_eq!(forbidden("use mpi::traits::*;"), ["mpi::traits"]);
    assert_eq!(forbidden("#[cfg(test)]\nmod tests;\nuse std::fs;"), ["std::fs"]);
}

#[test]
fn what_is_allowed_passes() {
    assert!(forbidden("use std::time::Duration; use crate::graph::link::Link;").is_empty());
    assert!(forbidden("//! Never use std::fs here.\nlet x = \"std::net\"; // std::thread").is_empty());
    assert!(forbidden("fn a() {}\n#[cfg(test)]\nmod tests { use std::thread; }").is_empty());
    assert!(forbidden("struct S { mpi: MpiShape }\nfn f(s: S) { use_it(s.mpi) }").is_empty());
}
