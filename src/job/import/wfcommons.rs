//! Imports recorded workflows in WfFormat 1.5 and 1.6: each task becomes a sleep of its recorded
//! run time.
//!
//! Files that tasks pass to each other are declared with their sizes, so that the bytes along each
//! edge are known. They are declarations only: a sleep neither reads nor writes them. Files from
//! outside the workflow, and files that no child of their writer reads, imply no edge and are left
//! out.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use toml::Value;

use super::write::{JobFileWriter, TaskNames, protect, table};
use super::{ImportError, Imported, Options, without_mark};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    name: Option<String>,
    description: Option<String>,
    schema_version: Option<String>,
    workflow: Workflow,
}

#[derive(Deserialize)]
struct Workflow {
    specification: Option<Specification>,
    execution: Option<Execution>,
}

#[derive(Deserialize)]
struct Specification {
    #[serde(default)]
    tasks: Vec<SpecifiedTask>,
    #[serde(default)]
    files: Vec<RecordedFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecifiedTask {
    name: String,
    id: String,
    #[serde(default)]
    parents: Vec<String>,
    #[serde(default)]
    children: Vec<String>,
    #[serde(default)]
    input_files: Vec<String>,
    #[serde(default)]
    output_files: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedFile {
    id: String,
    size_in_bytes: Option<f64>,
}

#[derive(Deserialize)]
struct Execution {
    #[serde(default)]
    tasks: Vec<ExecutedTask>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecutedTask {
    id: String,
    runtime_in_seconds: Option<f64>,
    core_count: Option<f64>,
}

/// Imports a workflow in WfFormat.
///
/// # Errors
/// If the text is not WfFormat 1.5 or 1.6, or is inconsistent.
pub fn wfcommons(text: &str, options: &Options) -> Result<Imported, ImportError> {
    if !(options.time_scale.is_finite() && options.time_scale >= 0.0) {
        return Err(ImportError::new(
            1,
            format!("the time scale {} is not a number of at least 0", options.time_scale),
        ));
    }
    let instance: Instance = serde_json::from_str(without_mark(text))
        .map_err(|error| ImportError::new(error.line().max(1), format!("this is not WfFormat: {error}")))?;
    check_version(&instance)?;
    let specification = instance.workflow.specification.as_ref();
    let Some(specification) = specification.filter(|specification| !specification.tasks.is_empty()) else {
        return Err(ImportError::new(
            1,
            "`workflow.specification.tasks` is missing or empty; WfFormat 1.5 or 1.6 has it",
        ));
    };
    let mut warnings = Vec::new();
    let graph = Graph::new(specification, &mut warnings)?;
    let execution = instance.workflow.execution.as_ref().map_or(&[][..], |execution| &execution.tasks);
    let executed: FxHashMap<&str, &ExecutedTask> = execution.iter().map(|task| (task.id.as_str(), task)).collect();

    let recorded_name = instance.name.as_deref().unwrap_or("workflow").trim_end_matches(".json");
    let origin = "Imported from WfFormat: each task sleeps as long as it was recorded to run. Files are declarations.";
    let mut document = JobFileWriter::new(origin, options.name.as_deref().unwrap_or(recorded_name));
    let scale = format!("Recorded run times times {}.", options.time_scale);
    let description = instance.description.as_deref().unwrap_or("");
    document.field("description", format!("{description} {scale}").trim().replace('\0', " "));
    let mut unrecorded = 0;
    for (at, task) in specification.tasks.iter().enumerate() {
        let run = executed.get(task.id.as_str());
        unrecorded += usize::from(run.and_then(|run| run.runtime_in_seconds).is_none());
        graph.write(at, task, run.copied(), options, &mut document);
    }
    if unrecorded > 0 {
        warnings.push(format!("{unrecorded} tasks have no recorded run time and sleep for 0 s"));
    }
    Ok(Imported { toml: document.finish(), warnings })
}

fn check_version(instance: &Instance) -> Result<(), ImportError> {
    match instance.schema_version.as_deref() {
        Some(version)
            if ["1.5", "1.6"].iter().any(|known| version == *known || version.starts_with(&format!("{known}."))) =>
        {
            Ok(())
        }
        Some(version) => Err(ImportError::new(1, format!("WfFormat {version:?} is not known; 1.5 and 1.6 are"))),
        None => Err(ImportError::new(1, "`schemaVersion` is missing; WfFormat 1.5 or 1.6 has it")),
    }
}

/// The tasks by number, with names, parents and the files passed between them.
struct Graph<'a> {
    names: Vec<String>,
    parents: Vec<Vec<usize>>,
    inputs: Vec<Vec<&'a str>>,
    outputs: Vec<Vec<&'a str>>,
    sizes: FxHashMap<&'a str, f64>,
}

impl<'a> Graph<'a> {
    fn new(specification: &'a Specification, warnings: &mut Vec<String>) -> Result<Graph<'a>, ImportError> {
        let tasks = &specification.tasks;
        let mut numbers: FxHashMap<&str, usize> = FxHashMap::default();
        for (at, task) in tasks.iter().enumerate() {
            if numbers.insert(&task.id, at).is_some() {
                return Err(ImportError::new(1, format!("two tasks have the id {:?}", task.id)));
            }
        }
        let distinct: FxHashSet<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        let by_name = distinct.len() == tasks.len();
        let mut names = TaskNames::default();
        let mut graph = Graph {
            names: tasks.iter().map(|task| names.unique(if by_name { &task.name } else { &task.id })).collect(),
            parents: parents(tasks, &numbers)?,
            inputs: vec![Vec::new(); tasks.len()],
            outputs: vec![Vec::new(); tasks.len()],
            sizes: FxHashMap::default(),
        };
        for file in &specification.files {
            graph.sizes.insert(&file.id, file.size_in_bytes.unwrap_or(0.0));
        }
        graph.assign_files(tasks, warnings);
        Ok(graph)
    }

    /// Assigns files to the edges between tasks. The first task that names a file as output is its
    /// only writer.
    fn assign_files(&mut self, tasks: &'a [SpecifiedTask], warnings: &mut Vec<String>) {
        let mut writers: FxHashMap<&str, usize> = FxHashMap::default();
        let mut contested: Vec<&str> = Vec::new();
        for (at, task) in tasks.iter().enumerate() {
            for file in &task.output_files {
                if *writers.entry(file).or_insert(at) != at {
                    contested.push(file);
                }
            }
        }
        let (mut outside, mut unrelated) = (FxHashSet::default(), 0usize);
        let mut kept: FxHashSet<&str> = FxHashSet::default();
        for (at, task) in tasks.iter().enumerate() {
            let mut seen: FxHashSet<&str> = FxHashSet::default();
            for file in task.input_files.iter().map(String::as_str).filter(|file| seen.insert(file)) {
                match writers.get(file) {
                    Some(writer) if self.parents[at].contains(writer) => {
                        self.inputs[at].push(file);
                        if kept.insert(file) {
                            self.outputs[*writer].push(file);
                        }
                    }
                    Some(_) => unrelated += 1,
                    None => {
                        outside.insert(file);
                    }
                }
            }
        }
        if let Some(first) = contested.first() {
            let count = contested.len();
            warnings
                .push(format!("{count} times a file has a second writer ({first:?} first); only the first is kept"));
        }
        if !outside.is_empty() {
            let bytes: f64 = outside.iter().filter_map(|file| self.sizes.get(*file)).sum();
            warnings.push(format!("{} files from outside the workflow ({bytes:.0} bytes) are left out", outside.len()));
        }
        if unrelated > 0 {
            warnings.push(format!(
                "{unrelated} inputs are written by a task that is no parent of their reader and are left out"
            ));
        }
    }

    fn write(
        &self,
        at: usize,
        task: &SpecifiedTask,
        run: Option<&ExecutedTask>,
        options: &Options,
        document: &mut JobFileWriter,
    ) {
        let recorded = run.and_then(|run| run.runtime_in_seconds).filter(|s| s.is_finite() && *s > 0.0).unwrap_or(0.0);
        // Sleeps have a resolution of microseconds, and a recorded task runs for a year at most.
        let seconds = ((recorded * options.time_scale).min(3.2e7) * 1e6).round() / 1e6;
        document.task(&self.names[at]);
        document.field("class", class_of(&task.name));
        document.field("kernel", "sleep");
        document.field("args", table([("seconds", seconds.into())]));
        document.field("estimate", format!("{seconds}s"));
        if let Some(cores) = run.and_then(|run| run.core_count).filter(|cores| options.cpus && *cores > 1.0) {
            document.field("cpus", cores.min(65536.0).ceil() as u32);
        }
        document.list("needs", self.parents[at].iter().map(|parent| self.names[*parent].as_str()));
        document.list("inputs", self.inputs[at].iter().map(|file| file_name(file)));
        document.list("outputs", self.outputs[at].iter().map(|file| self.sized(file)));
    }

    fn sized(&self, file: &str) -> Value {
        // Sizes are TOML integers of 63 bits.
        let size = self.sizes.get(file).filter(|size| **size >= 1.0).map(|size| size.min(9e18).round() as i64);
        let name = Value::from(file_name(file));
        size.map_or(name.clone(), |size| table([("file", name), ("size", size.into())]))
    }
}

/// The declared file name: in a directory of its own, to avoid real files, and unique per id.
fn file_name(id: &str) -> String {
    let plain = !id.is_empty()
        && !id.starts_with('/')
        && !id.contains('\0')
        && id.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match plain {
        true => protect(id, &["name"]),
        false => format!("file-{:032x}", xxhash_rust::xxh3::xxh3_128(id.as_bytes())),
    }
}

/// Parents of each task, from both directions in which the format states them.
fn parents(tasks: &[SpecifiedTask], numbers: &FxHashMap<&str, usize>) -> Result<Vec<Vec<usize>>, ImportError> {
    let find = |id: &str, by: &SpecifiedTask| {
        let unknown = || ImportError::new(1, format!("task {:?} refers to {id:?}, which is no task", by.id));
        numbers.get(id).copied().ok_or_else(unknown)
    };
    let mut parents = vec![Vec::new(); tasks.len()];
    for (at, task) in tasks.iter().enumerate() {
        for parent in &task.parents {
            parents[at].push(find(parent, task)?);
        }
        for child in &task.children {
            parents[find(child, task)?].push(at);
        }
    }
    for (at, list) in parents.iter_mut().enumerate() {
        list.sort_unstable();
        list.dedup();
        if list.contains(&at) {
            return Err(ImportError::new(1, format!("task {:?} is its own parent", tasks[at].id)));
        }
    }
    Ok(parents)
}

/// The class of a task: its name without the trailing number (`mProject_ID0000001`).
fn class_of(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = stem.strip_suffix("_ID").unwrap_or(stem).trim_end_matches(['_', '-']);
    let usable = !stem.is_empty() && !stem.contains('\0');
    if usable { stem } else { "task" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{ "name": "x.json", "schemaVersion": "1.6", "workflow": {
        "specification": { "tasks": [
            { "name": "a_ID001", "id": "1", "children": ["2"], "outputFiles": ["f", "unread"] },
            { "name": "b_ID002", "id": "2", "parents": ["1"], "inputFiles": ["f", "outside"] } ],
          "files": [ { "id": "f", "sizeInBytes": 1000 }, { "id": "outside", "sizeInBytes": 5 } ] },
        "execution": { "tasks": [ { "id": "1", "runtimeInSeconds": 10.0, "coreCount": 4 } ] } } }"#;

    #[test]
    fn run_times_scale_and_edges_have_bytes() {
        let imported = wfcommons(SMALL, &Options { time_scale: 0.01, cpus: true, ..Options::default() }).unwrap();
        for part in [
            "seconds = 0.1 ",
            "estimate = \"0.1s\"",
            "cpus = 4",
            "needs = [\"a_ID001\"]",
            "size = 1000",
            "class = \"a\"",
        ] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        assert!(!imported.toml.contains("outside") && !imported.toml.contains("unread"));
        assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    }

    #[test]
    fn other_versions_and_contradictions_are_refused() {
        for (from, to) in [
            ("1.6", "1.4"),
            ("\"parents\": [\"1\"]", "\"parents\": [\"9\"]"),
            ("\"2\", \"parents\"", "\"1\", \"parents\""),
            ("}", ""),
        ] {
            let text = SMALL.replacen(from, to, 1);
            assert!(wfcommons(&text, &Options::default()).is_err(), "{to}");
        }
    }
}
