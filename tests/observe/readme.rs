//! Keeps the documents true: the commands of README and guide work, their job files are valid, the
//! reference names every field, links lead somewhere.
//!
//! Conventions in the documents:
//! - A block marked `console` is a session: its lines that begin with `$ ` are run, in order, in
//!   one directory. `console no-run` is for what needs a cluster or builds the project.
//! - A block marked `toml` is a whole job file. If it begins with `# NAME.toml`, the session finds
//!   it under that name.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::support::{Dir, phalanx, program, repository, shell, skip_loudly};
use serde_json::Value;

/// A fenced block of a document.
struct Block {
    /// What stands after the opening fence, e.g. `console no-run`.
    kind: String,
    /// Line of the opening fence.
    line: usize,
    text: String,
}

impl Block {
    /// The name in a first line `# NAME.toml`.
    fn file_name(&self) -> Option<&str> {
        let name = self.text.lines().next()?.strip_prefix("# ")?;
        (name.ends_with(".toml") && !name.contains(' ')).then_some(name)
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (i, line) in markdown.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (false, Some(kind)) => {
                blocks.push(Block { kind: kind.trim().to_string(), line: i + 1, text: String::new() });
                open = true;
            }
            (true, Some(_)) => open = false,
            (true, None) => blocks.last_mut().expect("a block is open").text += &format!("{line}\n"),
            (false, None) => {}
        }
    }
    blocks
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|e| panic!("cannot read {name}: {e}"))
}

/// The documents of the project, relative to its root.
fn documents() -> Vec<String> {
    let below = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(repository().join(folder)).into_iter().flatten().flatten();
        let paths = entries.map(|e| PathBuf::from(folder).join(e.file_name()));
        paths
            .filter(|p| p.extension().is_some_and(|ext| ext == "md"))
            .map(|p| p.to_string_lossy().into_owned())
            .collect()
    };
    let mut names = below("");
    names.extend(below("docs"));
    names.extend(below("hostfiles"));
    assert!(names.len() >= 4, "the documents have moved: {names:?}");
    names
}

#[test]
fn the_commands_of_the_readme_work() {
    run_commands("README.md");
}

#[test]
fn the_commands_of_the_guide_work() {
    run_commands("docs/guide.md");
}

/// Runs the sessions of a document, in order, in one directory.
fn run_commands(document: &str) {
    let dir = Dir::new("readme");
    for folder in ["jobs", "clusters", "hostfiles", "slurm"] {
        dir.copy(folder);
    }
    let mut commands = 0;
    for block in blocks(&read(document)) {
        if let Some(name) = block.file_name() {
            dir.file(name, &block.text);
        }
        if block.kind != "console" {
            continue;
        }
        for command in block.text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let output = shell(&dir, command).patience(300).run();
            assert!(output.exit() == 0, "{document}, block at line {}: {command}\n{output}", block.line);
            commands += 1;
        }
    }
    assert!(commands >= 5, "{document} runs only {commands} commands");
}

#[test]
fn the_job_files_in_the_documents_are_valid() {
    for name in documents() {
        for block in blocks(&read(&name)).iter().filter(|block| block.kind == "toml") {
            let dir = Dir::new("document");
            dir.job("job.toml", &block.text);
            let output = phalanx(&dir).args(["check", "job.toml"]).run();
            assert!(output.exit() == 0, "{name}, block at line {}:\n{}\n{output}", block.line, block.text);
        }
    }
}

#[test]
fn the_reference_of_the_job_file_is_complete() {
    let dir = Dir::new("schema");
    let mut fields = BTreeSet::new();
    collect_fields(&phalanx(&dir).args(["schema"]).run().ok().json(), &mut fields);
    assert!(fields.len() > 20, "the schema has only these fields: {fields:?}");

    // A row of a table that describes a field begins with its name.
    let text = read("docs/job-file.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_string));
    // The sections themselves have headings.
    let sections = ["job", "defaults", "scaling", "advisor", "cost", "capacity"];
    let headings = sections.into_iter().filter(|name| text.contains(&format!("`[{name}]`"))).map(str::to_string);
    let lists =
        ["alert", "graph"].into_iter().filter(|name| text.contains(&format!("`[[{name}]]`"))).map(str::to_string);
    let described: BTreeSet<String> = rows.chain(headings).chain(lists).collect();
    let missing: Vec<_> = fields.difference(&described).collect();
    assert!(missing.is_empty(), "docs/job-file.md does not describe {missing:?}");
}

#[test]
fn every_metric_of_alerts_is_described() {
    use phalanx::job::alert::{METRICS, PREFIXES};
    let text = read("docs/observing.md");
    let missing = |row: &str| !text.contains(row);
    let plain = METRICS.iter().filter(|(name, what)| missing(&format!("| `{name}` | {what} |"))).map(|(name, _)| name);
    let families =
        PREFIXES.iter().filter(|(name, what)| missing(&format!("| `{name}NAME` | {what} |"))).map(|(name, _)| name);
    let missing: Vec<_> = plain.chain(families).collect();
    assert!(missing.is_empty(), "docs/observing.md does not describe {missing:?}");
}

/// The names of all properties, at any depth. Sections that the schema refuses (`{"not": {}}`) are
/// left out.
fn collect_fields(schema: &Value, fields: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let allowed = properties.iter().filter(|(_, value)| value.get("not").is_none());
        fields.extend(allowed.map(|(name, _)| name.clone()));
    }
    match schema {
        Value::Object(map) => map.values().for_each(|value| collect_fields(value, fields)),
        Value::Array(list) => list.iter().for_each(|value| collect_fields(value, fields)),
        _ => {}
    }
}

#[test]
fn links_lead_somewhere() {
    for name in documents() {
        let folder = repository().join(&name).parent().expect("a file has a folder").to_path_buf();
        let text = read(&name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = path.is_empty() || path.contains("://");
            assert!(outside || folder.join(path).exists(), "{name}: the link to {target} leads nowhere");
        }
    }
}

#[test]
fn the_index_lists_every_page() {
    let index = read("docs/README.md");
    let pages = documents().into_iter().filter_map(|name| name.strip_prefix("docs/").map(str::to_owned));
    let missing: Vec<_> = pages.filter(|page| page != "README.md" && !index.contains(&format!("]({page}"))).collect();
    assert!(missing.is_empty(), "docs/README.md does not list {missing:?}");
}

#[test]
fn peers_are_checked_measured_and_drawn() {
    let dir = Dir::new("peers");
    if shell(&dir, "python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))'").run().exit() != 0 {
        return skip_loudly("there is no Python 3.9");
    }
    dir.copy("benches/peers");
    dir.file("docs/benchmarks.md", "before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n");
    let run =
        "python3 benches/peers/peers.py --only phalanx,xargs,make --rounds 1 --divide 50 --folder peers --write-docs";
    let command = shell(&dir, run).env("PHALANX", program()).env("PYTHONDONTWRITEBYTECODE", "1");
    let table = command.patience(300).run().ok().stdout().to_owned();
    let row = |tool: &str| table.lines().find(|line| line.starts_with(tool)).unwrap_or_else(|| panic!("{table}"));
    assert!(row("Phalanx").matches(" s (1x)").count() == 6 && row("make").contains('–'), "{table}");
    assert!(!table.contains("failed"), "{table}");
    let page = dir.read("docs/benchmarks.md");
    assert!(page.starts_with("before\n") && page.ends_with("\nafter\n") && page.contains("| xargs |"), "{page}");
    assert!(!page.contains("old"), "{page}");
    assert!(dir.read("docs/peers.svg").matches("<rect").count() >= 10);
}
