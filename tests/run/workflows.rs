//! Workflows of scientists, imported and run as sleeps on three ranks: two that this test generates
//! in the shapes of mosaics and of genome studies, and recorded ones where they stand beside the
//! project. What must hold is read from the WfFormat files by this test itself, not by the
//! importer, and from the report's table, not from the scheduler's counters.
//!
//! How far the wall time is from its lower bound is printed, not asserted: machines that tests run
//! on are shared.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::support::checker::Trace;
use crate::support::{Dir, mpirun, phalanx, skip_loudly};
use serde_json::{Value, json};

const RANKS: u32 = 3;
const SLOTS: u32 = 4;

/// A recorded workflow: tasks by id with their run time in seconds, and the edges between them.
struct Recording {
    seconds: HashMap<String, f64>,
    edges: Vec<(String, String)>,
}

impl Recording {
    fn read(text: &str, scale: f64) -> Recording {
        let json: Value = serde_json::from_str(text).expect("a recording is JSON");
        let list = |at: &str| json.pointer(at).and_then(Value::as_array).expect("a list of tasks").clone();
        let id = |task: &Value| task["id"].as_str().expect("a task has an id").to_owned();
        let ran = |task: &Value| (id(task), task["runtimeInSeconds"].as_f64().expect("a run time") * scale);
        let mut edges = Vec::new();
        for task in list("/workflow/specification/tasks") {
            let children = task["children"].as_array().expect("a list of children").clone();
            edges.extend(children.iter().map(|child| (id(&task), child.as_str().expect("an id").to_owned())));
        }
        Recording { seconds: list("/workflow/execution/tasks").iter().map(ran).collect(), edges }
    }

    /// No run on so many slots can be shorter: the longest chain, or all work shared out evenly.
    fn bound(&self, slots: f64) -> f64 {
        let mut longest: HashMap<&str, f64> = HashMap::new();
        // A chain has at most as many edges as there are tasks: relax until nothing changes.
        loop {
            let mut changed = false;
            for (before, after) in &self.edges {
                let end = longest.get(before.as_str()).copied().unwrap_or(0.0) + self.seconds[before];
                let start = longest.entry(after).or_default();
                if end > *start {
                    *start = end;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let chain = |(id, seconds): (&String, &f64)| longest.get(id.as_str()).copied().unwrap_or(0.0) + seconds;
        let critical = self.seconds.iter().map(chain).fold(0.0, f64::max);
        critical.max(self.seconds.values().sum::<f64>() / slots)
    }
}

fn recording(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/workflows").join(name);
    path.exists().then_some(path)
}

#[track_caller]
fn run(name: &str, scale: f64) {
    match recording(name) {
        Some(path) => check(name, &std::fs::read_to_string(&path).expect("a recording can be read"), scale),
        None => skip_loudly(&format!("the recorded workflow {name} is not beside the project")),
    }
}

/// A workflow in WfFormat. Tasks are given as name, seconds and the numbers of those that they
/// need.
fn wf_format(tasks: &[(&str, f64, Vec<usize>)]) -> String {
    let id = |number: usize| format!("{}_ID{number:07}", tasks[number].0);
    let of = |number: usize| {
        let children = (0..tasks.len()).filter(|&child| tasks[child].2.contains(&number)).map(id);
        let parents = tasks[number].2.iter().map(|&parent| id(parent));
        let (id, parents, children) = (id(number), parents.collect::<Vec<_>>(), children.collect::<Vec<_>>());
        json!({ "name": id, "id": id, "parents": parents, "children": children })
    };
    let specified: Vec<Value> = (0..tasks.len()).map(of).collect();
    let ran = |number| json!({ "id": id(number), "runtimeInSeconds": tasks[number].1 });
    let executed: Vec<Value> = (0..tasks.len()).map(ran).collect();
    let workflow = json!({ "specification": { "tasks": specified }, "execution": { "tasks": executed } });
    json!({ "name": "generated", "schemaVersion": "1.5", "workflow": workflow }).to_string()
}

/// Numbers the tasks of a workflow as they are added.
#[derive(Default)]
struct Generated(Vec<(&'static str, f64, Vec<usize>)>);

impl Generated {
    fn add(&mut self, name: &'static str, seconds: f64, needs: &[usize]) -> usize {
        self.0.push((name, seconds, needs.to_vec()));
        self.0.len() - 1
    }
}

/// Three bands of a mosaic: images are projected, neighbours compared, all fitted, each corrected,
/// and all added up.
#[test]
fn a_generated_mosaic() {
    let (mut tasks, mut rng) = (Generated::default(), fastrand::Rng::with_seed(7));
    let mut time = |mean: f64| mean * (0.5 + rng.f64());
    let mut views = Vec::new();
    for _band in 0..3 {
        let images: Vec<usize> = (0..6).map(|_| tasks.add("project", time(0.08), &[])).collect();
        let pairs = (0..6).flat_map(|i| (i + 1..6).map(move |j| (i, j))).filter(|(i, j)| j - i <= 2);
        let fits: Vec<usize> = pairs.map(|(i, j)| tasks.add("compare", time(0.01), &[images[i], images[j]])).collect();
        let fit = tasks.add("fit", time(0.01), &fits);
        let model = tasks.add("model", time(0.03), &[fit]);
        let corrected: Vec<usize> =
            images.iter().map(|&image| tasks.add("correct", time(0.01), &[image, model])).collect();
        let table = tasks.add("table", time(0.01), &corrected);
        let sum = tasks.add("add", time(0.1), &[&corrected[..], &[table]].concat());
        views.push(tasks.add("view", time(0.05), &[sum]));
    }
    tasks.add("view", time(0.05), &views);
    check("a generated mosaic", &wf_format(&tasks.0), 1.0);
}

/// Two chromosomes: many parts that are merged, a filter beside them, and pairs of statistics that
/// need both.
#[test]
fn a_generated_genome_study() {
    let (mut tasks, mut rng) = (Generated::default(), fastrand::Rng::with_seed(11));
    let mut time = |mean: f64| mean * (0.5 + rng.f64());
    for _chromosome in 0..2 {
        let parts: Vec<usize> = (0..10).map(|_| tasks.add("individuals", time(0.1), &[])).collect();
        let merged = tasks.add("merge", time(0.2), &parts);
        let sifted = tasks.add("sift", time(0.3), &[]);
        for _population in 0..7 {
            tasks.add("overlap", time(0.05), &[merged, sifted]);
            tasks.add("frequency", time(0.1), &[merged, sifted]);
        }
    }
    check("a generated genome study", &wf_format(&tasks.0), 1.0);
}

/// Imports a workflow, runs it and checks that every task ran once, in order and for as long as it
/// should.
#[track_caller]
fn check(name: &str, text: &str, scale: f64) {
    let recording = Recording::read(text, scale);
    let dir = Dir::new("workflow");
    dir.file("workflow.json", text);
    let scale = scale.to_string();
    let import = ["import", "wfcommons", "workflow.json", "--time-scale", &scale, "-o", "job.toml"];
    phalanx(&dir).args(import).run().ok();
    mpirun(&dir, RANKS).args(["run", "job.toml", "--slots", &SLOTS.to_string()]).run().ok();

    let trace = Trace::of(&dir, "latest");
    // The importer keeps a task's id in its name; ids that start with the recorded name stand as
    // they are.
    let name_of =
        |id: &str| trace.0.iter().find(|row| row.name == id || row.name.ends_with(id)).map(|row| row.name.clone());
    let names: HashMap<&String, String> =
        recording.seconds.keys().map(|id| (id, name_of(id).unwrap_or_else(|| panic!("{id} has not run")))).collect();
    assert_eq!(trace.0.len(), recording.seconds.len(), "every task once, and no other");
    trace.exactly_once(names.values().map(String::as_str));
    trace.respects(recording.edges.iter().map(|(before, after)| (&*names[before], &*names[after])));
    trace.slots_are_exclusive();
    for (id, seconds) in &recording.seconds {
        let ran = trace.last(&names[id]).seconds();
        assert!(ran >= seconds - 1e-3, "{id} was to sleep for {seconds} s and took {ran} s");
    }
    let bound = recording.bound(f64::from(RANKS * SLOTS));
    println!("{name}: wall {:.2} s, lower bound {bound:.2} s, ratio {:.3}", trace.wall(), trace.wall() / bound);
}

#[test]
fn montage() {
    run("montage-chameleon-2mass-005d-001.json", 0.2);
}

#[test]
fn thousand_genomes() {
    run("1000genome-chameleon-2ch-100k-001.json", 0.015);
}

#[test]
fn srasearch() {
    run("srasearch-chameleon-50a-003.json", 0.001);
}

#[test]
fn blast() {
    run("blast-chameleon-medium-003.json", 0.0015);
}

#[test]
fn fork_join() {
    run("helloworld-forkjoin-10-chameleon.json", 0.01);
}

#[test]
fn chain() {
    run("helloworld-chain-5-chameleon.json", 0.008);
}
