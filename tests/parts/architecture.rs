//! Holds what ARCHITECTURE.md promises about imports: which room of `src/` may use which other,
//! that the pure rooms do no I/O, and that no circle of imports joins more than two files.
//!
//! The check reads the source. `use` trees are flattened, so a grouped import hides nothing, and
//! paths written out in the code count as imports. Test modules are exempt: `tests` folders,
//! `tests.rs` files, and what follows `#[cfg(test)]` in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;

/// The rooms of `src/` (folders, and files that stand alone) and which others each may use. A new
/// entry is a decision: it adds an arrow to the picture in ARCHITECTURE.md.
const ROOMS: &[(&str, &[&str])] = &[
    ("bench", &["data", "exec", "graph", "journal", "model", "observe", "runtime", "svg"]),
    ("capacity", &["job", "journal", "model", "scale", "system", "text", "workload"]),
    (
        "cli",
        &[
            "bench", "capacity", "control", "data", "exec", "graph", "job", "journal", "model", "observe", "runtime",
            "scale", "sim", "store", "svg", "system", "text", "topology", "workload",
        ],
    ),
    ("codec", &["model"]),
    ("control", &[]),
    ("data", &[]),
    ("exec", &["data", "graph", "job", "model", "store", "system", "text", "topology"]),
    ("fabric", &["model", "numbers", "schedule", "system"]),
    ("graph", &["model", "numbers"]),
    ("job", &["data", "exec", "graph", "model", "system", "text"]),
    ("journal", &["job", "model", "scale", "schedule"]),
    ("model", &[]),
    ("numbers", &[]),
    ("observe", &["control", "exec", "graph", "job", "journal", "model", "scale", "sim", "store", "system", "text"]),
    ("pool", &["schedule", "topology"]),
    (
        "runtime",
        &[
            "capacity", "control", "data", "exec", "fabric", "graph", "job", "journal", "model", "numbers", "observe",
            "pool", "scale", "schedule", "system", "text", "topology", "workload",
        ],
    ),
    ("scale", &["graph", "job", "model", "text", "workload"]),
    ("schedule", &["graph", "job", "model", "numbers"]),
    ("sim", &["graph", "job", "journal", "model", "scale", "schedule", "svg", "text", "workload"]),
    ("store", &[]),
    ("svg", &[]),
    ("system", &[]),
    ("text", &[]),
    ("topology", &["text"]),
    ("workload", &["graph", "job", "model", "schedule", "text"]),
];

/// Rooms, and files of rooms, that do no I/O and read no clock.
const PURE: &[&str] =
    &["capacity/blocks.rs", "capacity/blocks/sites.rs", "capacity/nodes.rs", "graph", "scale", "schedule", "workload"];

/// Calls C, to keep METIS from printing.
const NOT_PURE: &str = "graph/c_output.rs";

/// What pure rooms may not name.
const FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "libc",
    "rustix",
    "mpi",
    "rayon",
    "sysinfo",
    "tracing",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The path of a source file below `src/`.
fn name_of(file: &Path) -> String {
    file.strip_prefix(src()).unwrap_or(file).display().to_string()
}

/// The files of a room or of a part of one.
fn files_of(room: &str) -> Vec<PathBuf> {
    let path = src().join(room);
    if path.extension().is_some_and(|ext| ext == "rs") { vec![path] } else { rust_files(&path) }
}

#[test]
fn rooms_use_only_the_rooms_that_the_table_allows() {
    let entries = fs::read_dir(src()).expect("src can be listed").flatten().map(|entry| entry.path());
    let is_room = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|ext| ext == "rs");
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let found: BTreeSet<String> = entries.filter(is_room).filter_map(stem).collect();
    let top = ["lib", "main", "seeds"].map(str::to_owned);
    let listed: BTreeSet<String> = ROOMS.iter().map(|room| room.0.to_owned()).chain(top).collect();
    assert_eq!(found, listed, "the table lists every room of src/");
    let mut wrong = Vec::new();
    for (room, allowed) in ROOMS {
        let files = [format!("{room}.rs"), (*room).to_owned()].map(|name| src().join(name));
        let files = files.into_iter().flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
        let mut used = BTreeSet::new();
        for file in files.filter(|file| file.exists()) {
            for path in imports_of(&file) {
                let other = path.strip_prefix("crate::").map(|rest| rest.split("::").next().unwrap_or(rest).to_owned());
                let Some(other) = other.filter(|other| other != room && found.contains(other)) else { continue };
                if !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{} uses {path}; `{room}` may not use `{other}`", name_of(&file)));
                }
                used.insert(other);
            }
        }
        wrong.extend(
            allowed
                .iter()
                .filter(|other| !used.contains(**other))
                .map(|other| format!("`{room}` uses `{other}` no more")),
        );
    }
    assert!(wrong.is_empty(), "move this, or change the table and the picture:\n{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_do_no_io() {
    let mut found = Vec::new();
    for room in PURE {
        let is_pure = |file: &PathBuf| file.exists() && name_of(file) != NOT_PURE;
        let files: Vec<PathBuf> = files_of(room).into_iter().filter(is_pure).collect();
        assert!(!files.is_empty(), "{room} has moved; tell this test where it is");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            found.extend(forbidden(&text).into_iter().map(|path| format!("{}: {path}", name_of(&file))));
        }
    }
    assert!(
        found.is_empty(),
        "pure rooms must stay free of I/O; move this to an edge and pass in what it yields:\n{}",
        found.join("\n")
    );
}

#[test]
fn no_circle_of_imports_joins_more_than_two_files() {
    let folders = ["runtime", "schedule", "sim", "pool", "capacity", "scale", "job", "cli", "workload"];
    let circles: Vec<Vec<String>> = folders.iter().flat_map(|folder| circles_in(&src().join(folder))).collect();
    assert!(circles.is_empty(), "these files use each other in circles: {circles:#?}");
}

/// Files of a folder that use each other in a circle of more than two.
fn circles_in(folder: &Path) -> Vec<Vec<String>> {
    let files = rust_files(folder);
    let module = |file: &Path| {
        let name = name_of(file);
        let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
        format!("crate::{}", name.replace('/', "::"))
    };
    let modules: BTreeMap<String, &PathBuf> = files.iter().map(|file| (module(file), file)).collect();
    let names: Vec<&String> = modules.keys().collect();
    let mut edges = Vec::new();
    for (from, file) in names.iter().enumerate() {
        // A room's own file names what is in it, and what is in it may use what stands there.
        if modules[*file].ends_with("mod.rs") {
            continue;
        }
        for path in imports_of(modules[*file]) {
            let path = absolute(&path, file);
            let holds = |name: &str| path == name || path.starts_with(&format!("{name}::"));
            let to = (0..names.len()).filter(|&to| holds(names[to])).max_by_key(|&to| names[to].len());
            // A file and the folder of its name are one idea.
            let is_part = |to: usize| names[to].starts_with(file.as_str()) || file.starts_with(names[to].as_str());
            if let Some(to) = to.filter(|&to| !is_part(to) && !modules[names[to]].ends_with("mod.rs")) {
                edges.push((from as u32, to as u32));
            }
        }
    }
    let circles = tarjan_scc(&DiGraph::<(), ()>::from_edges(edges)).into_iter().filter(|circle| circle.len() > 2);
    circles.map(|circle| circle.into_iter().map(|at| names[at.index()].clone()).collect()).collect()
}

#[test]
fn the_architecture_names_functions_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md can be read");
    let steps: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>())
        .filter(|cells| cells.len() > 4 && cells[2].ends_with(".rs"))
        .collect();
    assert!(steps.len() > 40, "{} steps were found", steps.len());
    for step in steps {
        let (file, function) = (step[2], step[3]);
        let source = fs::read_to_string(src().join(file)).unwrap_or_else(|error| panic!("src/{file}: {error}"));
        let declared = format!("fn {function}");
        let exists = source.match_indices(&declared).any(|(at, _)| {
            !source[at + declared.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
        });
        assert!(exists, "src/{file} has no function `{function}`");
    }
}

/// A path as seen from the crate's root; `module` is where it is written.
fn absolute(path: &str, module: &str) -> String {
    let mut place: Vec<&str> = module.split("::").collect();
    let mut words: Vec<&str> = path.split("::").collect();
    match words[0] {
        "crate" => return path.to_owned(),
        "super" => {
            while words.first() == Some(&"super") {
                words.remove(0);
                place.pop();
            }
        }
        "self" => drop(words.remove(0)),
        _ => {}
    }
    place.extend(words);
    place.join("::")
}

/// All paths that a file names.
fn imports_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a source file can be read");
    paths_of(&code_of(&text))
}

/// The files below a folder, test files excepted; none if there is no such folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing") {
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
        // Whole comment lines and trailing comments; a `//` inside a literal only shortens what is
        // looked at.
        let line = line.split("//").next().unwrap_or_default();
        // Every second piece between quotes is a literal.
        code.extend(line.split('"').step_by(2));
        code.push(' ');
    }
    code
}

/// All paths, with the braces of `use` trees flattened: `std::{fs, time::Instant}` gives `std::fs`
/// and `std::time::Instant`.
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
    let grouped = paths_of("use crate::{model::Rank, fabric::{Fabric, wire}};");
    assert_eq!(grouped[3..], ["crate::fabric", "crate::fabric::Fabric", "crate::fabric::wire"]);
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
