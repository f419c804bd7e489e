//! Job files from the outside: what good ones become, what bad ones are told, and that no bytes
//! make the reader panic.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use phalanx::graph::link::{Condition, LinkShape};
use phalanx::job::import::{self, ImportError, Imported, Options};
use phalanx::job::{
    self, Above, Cost, Diagnostics, Intent, Job, KernelCheck, Loaded, PolicyKind, Scaling, ScoreWeights, Severity,
    Task, Trigger, Work,
};
use phalanx::model::TaskId;
use proptest::prelude::*;

/// The kernels that the examples use, with the least that they insist on.
struct Kernels;

impl KernelCheck for Kernels {
    fn names(&self) -> Vec<&str> {
        vec!["noop", "sleep", "busy", "memory", "mandelbrot", "png"]
    }

    fn check(&self, name: &str, args: &toml::Table) -> Result<(), String> {
        let needed: &[&str] = match name {
            "sleep" => &["seconds"],
            "mandelbrot" => &["width", "height", "band", "bands", "center", "span", "iterations", "output"],
            "png" => &["input", "output", "width", "height"],
            _ => &[],
        };
        if let Some(missing) = needed.iter().find(|key| !args.contains_key(**key)) {
            return Err(format!("`{missing}` is missing"));
        }
        match args.get("seconds") {
            Some(toml::Value::Integer(seconds)) if *seconds < 0 => Err("`seconds` is negative".into()),
            Some(toml::Value::String(_)) => Err("`seconds` is no number".into()),
            _ => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Loaded, Diagnostics> {
    job::parse(text, "test.toml", Path::new("/scratch"), &Kernels)
}

fn good(text: &str) -> Job {
    match parse(text) {
        Ok(loaded) => loaded.job,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

fn task(job: &Job, number: u32) -> Task {
    job.task(TaskId(number)).unwrap()
}

fn files_in(directory: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn scaling_and_cost_have_the_defaults_of_their_documentation() {
    let task = "[[task]]\nname = 'a'\ncommand = 'true'\n";
    let plain = good(task);
    assert_eq!((plain.scaling, plain.cost), (None, Cost::default()));
    let empty = good(&format!("[scaling]\n[cost]\n{task}"));
    assert_eq!((empty.scaling, empty.cost), (Some(Scaling::default()), Cost::default()));
    let job = good(&format!(
        r#"
        [scaling]
        policy = "reactive"
        intent = "latency"
        min_ranks = 20
        interval = "00:10"
        weights = {{ cpu = 1 }}
        [[scaling.rule]]
        trigger = "error_rate"
        above = 7.5
        [[scaling.rule]]
        trigger = "queue_depth"
        above = 20
        below = 2
        step = 4
        cooldown = "1m"
        [[scaling.rule]]
        trigger = "custom.loss-2"
        below = -0.5
        [cost]
        node_hour = 1.20
        granularity = "1h"
        budget = 25.0
        deadline = "2h"
        [[cost.node]]
        name = "fat"
        node_hour = 3
        minimum = "10m"
        slots = 64
        memory = "512G"
        gpus = 4
        labels = ["nvme"]
        limit = 2
        partition = "highmem"
        {task}"#
    ));
    let scaling = job.scaling.unwrap();
    assert_eq!((scaling.policy, scaling.intent), (PolicyKind::Reactive, Intent::Latency));
    assert_eq!((scaling.min_ranks, scaling.max_ranks, scaling.interval), (20, 20, Duration::from_secs(10)));
    assert_eq!((scaling.weights.cpu, scaling.weights.queue), (1.0, ScoreWeights::default().queue));
    let minute = Some(Duration::from_secs(60));
    assert_eq!((&scaling.rules[0].trigger, scaling.rules[0].act), (&Trigger::ErrorRate, Above::Hold));
    assert_eq!(
        (scaling.rules[1].act, scaling.rules[1].step, scaling.rules[1].cooldown),
        (Above::Grow, Some(4), minute)
    );
    assert_eq!(scaling.rules[2].trigger, Trigger::Custom("loss-2".into()));
    assert_eq!((scaling.rules[2].below, scaling.rules[2].act), (Some(-0.5), Above::Grow));
    let hour = Duration::from_secs(3600);
    assert_eq!((job.cost.node_hour, job.cost.budget, job.cost.deadline), (1.2, Some(25.0), Some(2 * hour)));
    let fat = &job.cost.nodes[0];
    assert_eq!((fat.minimum, fat.granularity), (hour / 6, hour));
    assert_eq!(
        (fat.slots, fat.memory.map(|bytes| bytes >> 30), fat.gpus, fat.limit),
        (Some(64), Some(512), Some(4), Some(2))
    );
    assert_eq!((fat.partition.as_deref(), &fat.labels[..]), (Some("highmem"), &["nvme".to_owned()][..]));
}

/// Each bad file says in its first lines what it must be told, and where: `# expect 4:8: fragment
/// of the message`.
#[test]
fn every_bad_job_is_told_what_is_wrong_and_where() {
    let files = files_in("tests/bad_jobs");
    assert!(files.len() >= 50);
    let mut failures = String::new();
    for (path, text) in files {
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect ")).collect();
        let diagnostics = parse(&text).expect_err(&path.display().to_string());
        let found: Vec<String> = diagnostics
            .iter()
            .map(|item| {
                let (line, column) = diagnostics.position(item).unwrap_or((0, 0));
                format!("{line}:{column}: {} ({})", item.message, item.help.as_deref().unwrap_or(""))
            })
            .collect();
        let told = |expected: &&str| {
            let (place, fragment) = expected.split_once(": ").unwrap_or(("", expected));
            found.iter().any(|found| found.starts_with(&format!("{place}: ")) && found.contains(fragment))
        };
        if expected.is_empty() || expected.len() != found.len() || !expected.iter().all(told) {
            failures.push_str(&format!("{}\n  expected {expected:#?}\n  found {found:#?}\n", path.display()));
        }
        let shown = diagnostics.render(false);
        assert!(shown.contains("test.toml:"), "{shown}");
        assert_eq!(diagnostics.to_json().as_array().map(Vec::len), Some(found.len()));
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn the_examples_are_good() {
    for (path, text) in files_in("jobs") {
        let loaded = job::parse(text.as_str(), "example.toml", Path::new("/scratch"), &Kernels)
            .unwrap_or_else(|d| panic!("{}:\n{d}", path.display()));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        assert!(loaded.job.task_count() > 3);
    }
}

#[test]
fn a_matrix_expands_in_file_order_with_the_last_axis_fastest() {
    let job = good(
        r#"
        [[task]]
        name = "sweep"
        matrix = { beta = [0.5, 1.0], alpha = "3-4" }
        kernel = "busy"
        args = { b = "{beta}", label = "b={beta}", nested = { list = ["{alpha}", 7] } }
        env = { INDEX = "{index}" }
        estimate = "{alpha}s"
        dir = "run-{index}"
        "#,
    );
    assert_eq!(job.task_count(), 4);
    let third = task(&job, 2);
    assert_eq!((job.task_name(TaskId(2)), job.index_of(TaskId(2))), ("sweep[1.0,3]".to_string(), Some(2)));
    let Work::Kernel { args, .. } = &third.work else { panic!("{third:?}") };
    assert_eq!(args["b"], toml::Value::Float(1.0));
    assert_eq!(args["label"].as_str(), Some("b=1.0"));
    assert_eq!(args["nested"]["list"][0], toml::Value::Integer(3));
    assert_eq!(third.env, [("INDEX".to_string(), "2".to_string())]);
    assert_eq!(third.dir, Path::new("/scratch/run-2"));
    assert_eq!(job.estimate(TaskId(3)), Some(Duration::from_secs(4)));
    assert!(!job.is_constant(0));
}

#[test]
fn indices_of_an_array_are_those_of_the_file() {
    let job = good(
        "[[task]]\nname = 'first'\ncommand = 'true'\n[[task]]\nname = 't'\narray = '10-20:5'\ncommand = ['echo', '{index:04}', '{name}']\n",
    );
    assert_eq!(task(&job, 2).work, Work::Command(vec!["echo".into(), "0015".into(), "t".into()]));
    let one = |range: Range<u32>| Ok(vec![range]);
    assert_eq!(job.find("t[15]"), one(2..3));
    assert_eq!(job.find("t"), one(1..4));
    assert_eq!(job.find("t[10,20]"), Ok(vec![1..2, 3..4]), "the forms of `needs`");
    assert_eq!(job.find("t[10-15:5]"), one(1..3));
    for (name, why) in [
        ("t[16]", "no such index: 16"),
        ("t[15-16]", "no such index: 16"),
        ("t[x]", "indices"),
        ("t[15", "the bracket in `t[15` is not closed"),
        ("u", "no task `u`"),
        ("first[0]", "neither an array"),
    ] {
        assert!(job.find(name).is_err_and(|said| said.contains(why)), "{name}");
    }
    assert_eq!((job.group_of(TaskId(0)), job.group_of(TaskId(3))), ((0, 0), (1, 2)));
    assert!(job.task(TaskId(4)).is_err());
    assert!(job.is_constant(0));
}

#[test]
fn defaults_give_way_to_the_tasks_own() {
    let job = good(
        r#"
        [job]
        env = { GLOBAL = 1 }
        prologue = "module load gcc"
        flush = "never"
        [defaults]
        cpus = 2
        time = 90
        retries = { count = 3, backoff = "10s", elsewhere = true }
        env = { A = "default", B = "default" }
        [[task]]
        name = "a"
        command = "true"
        [[task]]
        name = "b"
        command = "true"
        cpus = 4
        memory = "1.5G"
        time = "1-00:30"
        retries = 1
        env = { B = "own" }
        mpi = { ranks = 8, per_node = 4 }
        "#,
    );
    let (a, b) = (&job.groups[0], &job.groups[1]);
    assert_eq!((a.cpus, a.time, a.retry.count), (2, Some(Duration::from_secs(5400)), 3));
    assert_eq!((a.retry.backoff, a.retry.elsewhere), (Duration::from_secs(10), true));
    assert_eq!((b.cpus, b.memory, b.time), (4, Some(3 << 29), Some(Duration::from_secs(88_200))));
    assert_eq!((b.retry.count, b.retry.elsewhere), (1, false));
    let env = [("A", "default"), ("B", "own")].map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(task(&job, 1).env, env);
    assert_eq!(job.env, [("GLOBAL".to_string(), "1".to_string())]);
}

fn shapes(text: &str) -> Vec<(u32, u32, LinkShape, Condition, u64)> {
    let links = good(text).links.into_iter();
    links.map(|link| (link.from, link.to, link.shape, link.on, link.bytes)).collect()
}

const THREE: &str =
    "[[task]]\nname = 'a'\narray = '0-9'\ncommand = 'true'\noutputs = { file = 'a-{index}', size = 100 }\n";

#[test]
fn needs_become_the_simplest_links() {
    for (fields, shape, on) in [
        ("needs = 'a'", LinkShape::All, Condition::Ok),
        ("needs = 'a[3]'", LinkShape::One(3), Condition::Ok),
        ("array = '0-9'\nneeds = 'a[3]'", LinkShape::One(3), Condition::Ok),
        ("array = '0-9'\nneeds = 'afterany:a[{index}]'", LinkShape::Each, Condition::Any),
        ("array = '0-9'\nneeds = 'aftercorr:a'", LinkShape::Each, Condition::Ok),
        ("array = '4-5'\nneeds = 'a[{index}]'", LinkShape::Pairs(vec![(4, 0), (5, 1)]), Condition::Ok),
        ("array = '0-3'\nneeds = 'a[0-9]'", LinkShape::All, Condition::Ok),
        (
            "matrix = { part = ['0-1', '2'] }\nneeds = 'a[{part}]'",
            LinkShape::Pairs(vec![(0, 0), (1, 0), (2, 1)]),
            Condition::Ok,
        ),
        ("needs = [{ task = 'a', when = 'afternotok' }]", LinkShape::All, Condition::NotOk),
    ] {
        let text = format!("{THREE}[[task]]\nname = 'b'\ncommand = 'true'\n{fields}\n");
        assert_eq!(shapes(&text), [(0, 1, shape, on, 0)], "{fields}");
    }
}

#[test]
fn files_become_the_simplest_links_with_bytes() {
    for (fields, shape, bytes) in [
        ("array = '0-9'\ninputs = 'a-{index}'", LinkShape::Each, 100),
        ("array = '0-9'\ninputs = ['a-{index}']\nneeds = 'a[{index}]'", LinkShape::Each, 100),
        ("array = '0-4'\ninputs = 'a-7'", LinkShape::One(7), 100),
        ("array = '8-9'\ninputs = 'a-{index}'", LinkShape::Pairs(vec![(8, 0), (9, 1)]), 100),
        ("inputs = ['a-0','a-1','a-2','a-3','a-4','a-5','a-6','a-7','a-8','a-9']", LinkShape::All, 100),
        ("inputs = [{ file = '../scratch/./a-2', size = '1K' }]", LinkShape::One(2), 1024),
        ("matrix = { x = '0-9', y = [1] }\ninputs = 'a-{x}'", LinkShape::Each, 100),
    ] {
        let text = format!("{THREE}[[task]]\nname = 'b'\ncommand = 'true'\n{fields}\n");
        assert_eq!(shapes(&text), [(0, 1, shape, Condition::Ok, bytes)], "{fields}");
    }
    let dirs = "[[task]]\nname = 'a'\narray = '0-9'\ncommand = 'true'\noutputs = ['out/{index}/x', 'top/{index}']\n";
    for (fields, shape) in [
        ("inputs = 'out'", LinkShape::All),
        ("array = '0-1'\ninputs = '.'", LinkShape::All),
        ("inputs = 'out/7'", LinkShape::One(7)),
        ("array = '0-9'\ninputs = 'out/{index}'", LinkShape::Each),
        ("array = '0-9'\ndir = 'run-{index}'\ninputs = '../out'", LinkShape::All),
        ("array = '0-4'\ninputs = 'out'\noutputs = 'out/sum-{index}'", LinkShape::All),
        ("inputs = 'top/3/deep/file'", LinkShape::One(3)),
    ] {
        let text = format!("{dirs}[[task]]\nname = 'b'\ncommand = 'true'\n{fields}\n");
        assert_eq!(shapes(&text), [(0, 1, shape, Condition::Ok, 0)], "{fields}");
    }
    // Tasks that change a directory in place do not wait for each other.
    let task =
        |name: &str| format!("[[task]]\nname = '{name}'\ncommand = 'true'\ninputs = 'd'\noutputs = 'd/{name}'\n");
    assert_eq!(shapes(&(task("a") + &task("b"))), []);
    let missing =
        parse(&format!("{THREE}[[task]]\nname = 'b'\ncommand = 'true'\ninputs = ['a-1', '/nowhere/at/all']\n"))
            .unwrap();
    let warnings = missing.missing_inputs();
    assert_eq!((warnings.len(), warnings.errors()), (1, 0));
    assert!(warnings.to_string().contains("/nowhere/at/all"), "{warnings}");
}

#[test]
fn shells_awk_and_json_keep_their_braces() {
    let line = r#"for i in 1 2; do echo ${i} ${index} {index} {"a":{"b":{index}}}; done | awk '{print $1}'"#;
    let job = good(&format!("[[task]]\nname = 'a'\narray = '5'\ncommand = '''{line}'''\n"));
    let expected = r#"for i in 1 2; do echo ${i} ${index} 5 {"a":{"b":5}}; done | awk '{print $1}'"#;
    assert_eq!(task(&job, 0).work, Work::Shell(expected.into()));
}

#[test]
fn what_a_staged_task_names_and_does_not_list_is_warned_about() {
    let with = |fields: &str| {
        let call = "[[task]]\nname = 'call'\narray = '1-3'\nstage = 'node'\noutputs = 'out/c-{index}'\n\
                    command = 'echo > out/c-{index}'\n";
        let warned = parse(&format!("{call}[[task]]\nname = 'merge'\noutputs = 'm'\n{fields}\n")).unwrap().warnings;
        warned.to_string()
    };
    for (fields, word, writer) in [
        ("needs = 'call'\ncommand = 'cat out/c-2 > m'", "out/c-2", "call[2]"),
        ("needs = 'call'\ncommand = ['cp', './x', 'out/../out/c-1', 'm']", "out/../out/c-1", "call[1]"),
        ("needs = 'call'\ncommand = 'cat out/c-* > m'", "out/c-*", "call[1]"),
        ("needs = 'call'\ninputs = 'out/c-2'\ncommand = 'cat out/* > m'", "out/*", "call[1]"),
        ("needs = 'call'\ninputs = 'out/c-2'\ncommand = 'sort --from=out/c-3 out/c-2 > m'", "out/c-3", "call[3]"),
        ("needs = 'call'\ndir = 'out'\ncommand = 'cat c-3 > m'", "c-3", "call[3]"),
    ] {
        let said = with(&format!("stage = 'node'\n{fields}"));
        assert!(
            said.contains(&format!("`merge` names {word}, which `{writer}` writes, and does not list it")),
            "{said}"
        );
        assert_eq!(with(fields), "", "without `stage` the file is in its directory");
    }
    for fields in [
        "needs = 'call'\ninputs = 'out'\ncommand = 'cat out/c-* > m'",
        "inputs = ['out/c-1', 'out/c-2', 'out/c-3']\ncommand = 'cat out/c-* out/c-2 > m'",
        "needs = 'call'\ncommand = 'cat /scratch/out/c-1 > m'",
        "needs = 'call'\ncommand = 'ls * other-* > m'",
        "command = 'cat out/c-2 > m'\ninputs = 'raw'",
    ] {
        assert_eq!(with(&format!("stage = 'node'\n{fields}")), "", "{fields}");
    }
}

#[test]
fn suspicious_things_are_warned_about() {
    for (fields, fragment) in [
        ("command = 'echo {index}'", "neither an array nor a matrix"),
        ("array = '0-3'\ncommand = 'true'\nstdout = 'out.txt'", "write to the same `stdout`"),
        ("matrix = { alpha = [1] }\ncommand = 'echo {alhpa}'", "did you mean `{alpha}`"),
        ("array = '1-9'\ncommand = './sim $SLURM_ARRAY_TASK_ID'", "write `{index}`, or `$PHALANX_ARRAY_INDEX`"),
    ] {
        let loaded = parse(&format!("[[task]]\nname = 'a'\n{fields}\n")).unwrap();
        assert!(loaded.warnings.iter().all(|item| item.severity == Severity::Warning));
        assert!(loaded.warnings.to_string().contains(fragment), "{}", loaded.warnings);
    }
    let given = "array = '1-9'\nenv = { SGE_TASK_ID = '{index}' }\ncommand = './sim $SGE_TASK_ID'";
    assert!(parse(&format!("[[task]]\nname = 'a'\n{given}\n")).unwrap().warnings.is_empty());
}

#[test]
fn the_content_key_follows_what_a_task_does_and_nothing_else() {
    let key = |fields: &str, job_fields: &str, number: u32| {
        let text = format!("[job]\nname = 'j'\n{job_fields}\n[[task]]\nname = 'a'\narray = '0-1'\n{fields}\n");
        good(&text).content_key(TaskId(number)).unwrap()
    };
    let base = key("command = ['x']", "", 0);
    for same in
        ["priority = 5", "time = '1h'", "memory = '4G'", "retries = 3", "cpus = 2", "estimate = '5s'", "class = 'c'"]
    {
        assert_eq!(base, key(&format!("command = ['x']\n{same}"), "", 0), "{same}");
    }
    for different in ["env = { A = 1 }", "dir = 'd'", "stdin = 'f'", "stdout = '%a'", "mpi = { ranks = 2 }"] {
        assert_ne!(base, key(&format!("command = ['x']\n{different}"), "", 0), "{different}");
    }
    assert_ne!(base, key("command = ['x']", "", 1));
    assert_ne!(base, key("command = 'x'", "", 0));
    assert_ne!(base, key("command = ['x', '']", "", 0));
    assert_ne!(base, key("command = ['x']", "prologue = 'module load gcc'", 0));
    assert_ne!(base, key("command = ['x']", "env = { A = 1 }", 0));
    let kernel = |args: &str, job_fields: &str| key(&format!("kernel = 'busy'\nargs = {{ {args} }}"), job_fields, 0);
    assert_eq!(kernel("a = 1, b = 2", ""), kernel("b = 2, a = 1", "prologue = 'x'"));
    assert_ne!(kernel("a = 1", ""), kernel("a = 1.0", ""));
}

#[test]
fn a_million_tasks_are_one_group() {
    let text = "[[task]]\nname = 'a'\narray = '0-999999'\nkernel = 'noop'\n[[task]]\nname = 'b'\narray = '0-999999'\nkernel = 'noop'\nneeds = 'a[{index}]'\n[[task]]\nname = 'c'\ncommand = 'true'\nneeds = 'b'\n";
    let job = good(text);
    assert_eq!((job.task_count(), job.groups.len()), (2_000_001, 3));
    assert_eq!(job.links.iter().map(|link| link.shape.clone()).collect::<Vec<_>>(), [LinkShape::Each, LinkShape::All]);
    assert_eq!(job.task_name(TaskId(1_999_999)), "b[999999]");
}

#[test]
fn a_million_files_leave_one_link() {
    let text = "[[task]]\nname = 'a'\narray = '1-1000000'\nkernel = 'noop'\noutputs = 'x-{index}.raw'\n[[task]]\nname = 'b'\narray = '1-1000000'\nkernel = 'noop'\ninputs = 'x-{index}.raw'\n";
    assert_eq!(good(text).links.iter().map(|link| link.shape.clone()).collect::<Vec<_>>(), [LinkShape::Each]);
}

#[test]
fn unreadable_files_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let load = |name: &str| job::load(&directory.path().join(name), &Kernels).unwrap_err().to_string();
    std::fs::write(directory.path().join("latin1.toml"), b"[job]\nname = \"caf\xe9\"\n").unwrap();
    assert!(load("latin1.toml").contains("not valid UTF-8"));
    assert!(load("latin1.toml").contains("latin1.toml:2:12"), "{}", load("latin1.toml"));
    assert!(load("absent.toml").contains("cannot read"));
    assert!(load(".").contains("cannot read"));
    let big = std::fs::File::create(directory.path().join("big.toml")).unwrap();
    big.set_len(300 << 20).unwrap();
    assert!(load("big.toml").contains("larger than 256 MiB"));
}

#[test]
fn parsing_is_deterministic_and_keeps_the_text() {
    for (_, text) in files_in("jobs") {
        let (a, b) = (parse(&text).unwrap(), parse(&text).unwrap());
        assert_eq!(&*a.text, text);
        assert_eq!(format!("{:?}", a.job), format!("{:?}", b.job));
    }
}

#[test]
fn the_schema_is_one_object_with_all_sections() {
    let schema = job::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for key in ["job", "defaults", "task"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

type Importer = fn(&str, &Options) -> Result<Imported, ImportError>;

/// Texts in each format, whole enough that mutations of them reach deep.
const IMPORTS: [(&str, Importer, &str); 9] = [
    (
        "dag",
        import::dag,
        "#@ 1 mProject 7\nTASK a{name} -m 512 -c 2 -t 3 /bin/sh -c 'a < {name}' \"x y\"\nTASK b/2 true\nEDGE a{name} b/2\n",
    ),
    (
        "hq",
        import::hq,
        "name = \"t\"\n[array]\nentries = [\"a\", \"b{index}\"]\ncommand = [\"bash\", \"-c\", \"echo $HQ_ENTRY {entry}\"]\nstdout = \"out%{TASK_ID}\"\ncwd = \"x\"\ntime_limit = \"10s\"\n[[array.request]]\nresources = { cpus = 2 }\n",
    ),
    ("lines", import::lines, "# c\necho {line} {index} 'x' \"y\"\n\nseq 1 10 | awk '{print $1}'\n"),
    (
        "makeflow",
        import::makeflow,
        "X=1\nCORES=2\nb c: a \\\n d\n@MEMORY=100\n\techo $(X) {name} $HOME > b\n\ne: b c\n\tLOCAL cat b c > e\n",
    ),
    (
        "makeflow with quotes",
        import::makeflow,
        "export V=\"a b\" 'c' \\$d # e\n.SIZE f 3M\n.MAKEFLOW CATEGORY k\n.MAKEFLOW CORES 2\n\"f g\" h\\ i: 'j' # k\nV+=x\n    LOCAL echo \"it\\'s $V\" \\\\ '\\x' > \"f g\" \\\n  ${HOME} # c\nl: \"f g\"\n@MEMORY=5\n\tMAKEFLOW m\n",
    ),
    (
        "dag with forwarding",
        import::dag,
        "TASK a -f A=b\\ c -F d=e -p 3 -m 1.5 'it\\'s' \"x\nTASK b --file-forward f=g h\\\nEDGE a b\n",
    ),
    (
        "lines with directives",
        import::lines,
        "#DISBATCH PERENGINE STOP s\n#DISBATCH PREFIX ( \n#DISBATCH SUFFIX  ) > $DISBATCH_TASKID_ZP\n#DISBATCH REPEAT 1 start 7 step 3 r {index}\n",
    ),
    (
        "slurm",
        import::slurm,
        "#!/bin/bash -l\n#SBATCH -a 1-3:2%3 --mem=2G # c\n#SBATCH -t 10 -o 'x y-%A_%a'\n\necho $SLURM_ARRAY_TASK_ID {index} > {name}\nsrun x\n",
    ),
    (
        "wfcommons",
        import::wfcommons,
        r#"{"name":"x","schemaVersion":"1.5","workflow":{"specification":{"tasks":[{"name":"a_ID01","id":"1","children":["2"],"outputFiles":["f{name}","/g"]},{"name":"b b","id":"2","parents":["1"],"inputFiles":["f{name}","/g","h"]}],"files":[{"id":"f{name}","sizeInBytes":1000}]},"execution":{"tasks":[{"id":"1","runtimeInSeconds":10.5,"coreCount":4}]}}}"#,
    ),
];

#[test]
fn imported_makeflows_have_the_edges_of_their_quoted_files() {
    let text = "S=sum of all\n\"A\": # first\n    echo 1 > A\n\nB 'x y': A # second\n\tcat A > B; touch \"x y\"\n\n\"$S\": \"x y\" B\n\tcat B > \"$S\"\n";
    let job = good(&import::makeflow(text, &Options::default()).unwrap().toml);
    let name = |group: u32| job.groups[group as usize].name.to_string();
    let mut links: Vec<(String, String)> = job.links.iter().map(|link| (name(link.from), name(link.to))).collect();
    links.sort();
    links.dedup();
    assert_eq!(links, [("A".into(), "B".into()), ("B".into(), "sum-of-all".into())]);
    assert_eq!(task(&job, 2).work, Work::Shell("cat B > \"sum of all\"".into()));
}

#[test]
fn what_importers_write_is_a_good_job() {
    for (name, importer, text) in IMPORTS {
        let imported = importer(text, &Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let loaded = parse(&imported.toml).unwrap_or_else(|d| panic!("{name}:\n{}\n{d}", imported.toml));
        assert!(loaded.warnings.is_empty(), "{name}: {}", loaded.warnings);
        assert_eq!(loaded.job.task_count(), 2, "{name}");
    }
    let lines = good(&import::lines(IMPORTS[2].2, &Options::default()).unwrap().toml);
    assert_eq!(task(&lines, 0).work, Work::Shell("echo {line} {index} 'x' \"y\"".into()));
    let dag = good(&import::dag(IMPORTS[0].2, &Options::default()).unwrap().toml);
    assert_eq!(task(&dag, 0).work, Work::Command(["/bin/sh", "-c", "a < {name}", "x y"].map(String::from).to_vec()));
    let hq = good(&import::hq(IMPORTS[1].2, &Options::default()).unwrap().toml);
    assert_eq!(task(&hq, 1).env[0], ("HQ_ENTRY".into(), "b{index}".into()));
}

/// Recorded workflows, where they are; a checkout alone does not have them.
fn recorded() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(found) =
        ["../shared", "shared"].map(|dir| root.join(dir).join("data/workflows")).into_iter().find(|dir| dir.is_dir())
    else {
        eprintln!("SKIPPED: no recorded workflows in ../shared/data/workflows");
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(found).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json") && !path.ends_with("wfcommons-schema.json"));
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn recorded_workflows_keep_their_tasks_edges_and_bytes() {
    for (path, text) in recorded() {
        let imported = import::wfcommons(&text, &Options { time_scale: 0.01, ..Options::default() }).unwrap();
        let job = parse(&imported.toml).unwrap_or_else(|d| panic!("{}:\n{d}", path.display())).job;
        let recorded: serde_json::Value = serde_json::from_str(&text).unwrap();
        let tasks = recorded["workflow"]["specification"]["tasks"].as_array().unwrap();
        assert_eq!(job.task_count(), tasks.len(), "{}", path.display());
        let mut edges: Vec<(String, String)> = tasks
            .iter()
            .flat_map(|task| task["parents"].as_array().unwrap().iter().map(move |parent| (parent, &task["id"])))
            .map(|(parent, child)| (parent.as_str().unwrap().into(), child.as_str().unwrap().into()))
            .collect();
        let name = |group: u32| job.groups[group as usize].name.to_string();
        let mut links: Vec<(String, String)> = job.links.iter().map(|link| (name(link.from), name(link.to))).collect();
        edges.sort();
        links.sort();
        assert_eq!(links, edges, "{}", path.display());
        assert!(job.links.iter().any(|link| link.bytes > 0), "{}", path.display());
    }
}

/// A text with some bytes changed, cut out, repeated or taken from elsewhere in it.
fn mutated(texts: Vec<String>) -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..5, any::<u8>());
    (prop::sample::select(texts), prop::collection::vec(edit, 1..12)).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (a, b, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let (from, to) = (a.min(b), a.max(b));
            match kind {
                0 => bytes[a] = byte,
                1 => bytes.truncate(a.max(1)),
                2 => drop(bytes.drain(from..to.min(from + 40))),
                3 => bytes.insert(a, b"\"'[]{}=.,:#%-\n0"[byte as usize % 15]),
                _ => {
                    let piece = bytes[from..to.min(from + 40)].to_vec();
                    bytes.splice(b..b, piece);
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn job_texts() -> Vec<String> {
    files_in("jobs").into_iter().chain(files_in("tests/bad_jobs")).map(|(_, text)| text).collect()
}

/// Single dependencies `(needed, task)`, by name.
fn edges(job: &Job) -> Vec<(String, String)> {
    let mut edges = Vec::new();
    for link in &job.links {
        let (from, to) = (&job.groups[link.from as usize], &job.groups[link.to as usize]);
        let pairs: Vec<(u32, u32)> = match &link.shape {
            LinkShape::All => (0..from.count).flat_map(|a| (0..to.count).map(move |b| (a, b))).collect(),
            LinkShape::Each => (0..to.count).map(|i| (i, i)).collect(),
            LinkShape::One(a) => (0..to.count).map(|b| (*a, b)).collect(),
            LinkShape::Pairs(pairs) => pairs.clone(),
            LinkShape::Pattern(_) => unreachable!("no job here has a pattern"),
        };
        let name = |first: TaskId, i: u32| job.task_name(TaskId(first.0 + i)).to_string();
        edges.extend(pairs.into_iter().map(|(a, b)| (name(from.first, a), name(to.first, b))));
    }
    edges.sort();
    edges.dedup();
    edges
}

#[test]
fn chains_go_along_arrays_and_axes() {
    let segments = "matrix = { member = [\"a\", \"b\"], part = \"1-3\" }\nneeds = \"s[{part}-1]\"\ncommand = \"x\"\n";
    let job = good(&format!("[[task]]\nname = \"s\"\n{segments}"));
    let named = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    assert_eq!(
        edges(&job),
        named(&[("s[a,1]", "s[a,2]"), ("s[a,2]", "s[a,3]"), ("s[b,1]", "s[b,2]"), ("s[b,2]", "s[b,3]")])
    );
    // Another matrix whose axes stand in another order and have values of their own.
    let other = "[[task]]\nname = \"t\"\nmatrix = { part = \"2-4\", member = [\"b\"], k = [1, 2] }\nneeds = \"afterany:s[{part}-1]\"\ncommand = \"x\"\n";
    let job = good(&format!("[[task]]\nname = \"s\"\n{segments}{other}"));
    let of_t: Vec<_> = edges(&job).into_iter().filter(|(_, to)| to.starts_with('t')).collect();
    let expected = [1, 2, 3].map(|part| [1, 2].map(|k| (format!("s[b,{part}]"), format!("t[{},b,{k}]", part + 1))));
    assert_eq!(of_t, expected.concat());
    // Of an array the value is the index.
    let job = good(
        "[[task]]\nname = \"a\"\narray = \"5-6\"\ncommand = \"x\"\n[[task]]\nname = \"b\"\nmatrix = { y = [6, 9], z = \"0-1\" }\nneeds = { task = \"a[{y}-1, {y}+0]\", when = \"afterany\" }\ncommand = \"x\"\n",
    );
    assert_eq!(edges(&job), named(&[("a[5]", "b[0]"), ("a[5]", "b[1]"), ("a[6]", "b[0]"), ("a[6]", "b[1]")]));
    assert!(job.links.iter().all(|link| link.on == Condition::Any));
}

#[test]
fn chains_that_cannot_be_are_refused_with_the_reason() {
    for (task, reason) in [
        ("array = \"0-9\"\nneeds = \"s[{index}-0]\"", "needs itself"),
        ("array = \"0-90:10\"\nneeds = \"s[{index}-1]\"", "at 9, which does not exist"),
        ("array = \"1,2,9\"\nneeds = \"s[{index}+3]\"", "at 4, which does not exist"),
        ("matrix = { a = [0.5, 1.0] }\nneeds = \"s[{a}-1]\"", "not always a whole number"),
        ("matrix = { part = \"0-3\" }\nneeds = \"s[{prat}-1]\"", "unknown placeholder"),
        ("array = \"0-9\"\nneeds = \"s[{name}-1]\"", "in brackets is unknown"),
        ("needs = \"o[{index}-1]\"", "in brackets is unknown"),
        ("matrix = { n = \"0-3\" }\nneeds = \"m[{n}-1]\"", "also has the axis `k`"),
        ("matrix = { n = \"0-3\", k = [1, 2] }\nneeds = \"m[{n}-1]\"", "has a value along `k` that `m` does not have"),
        ("array = \"0-20000000\"\nneeds = \"s[{index}-1]\"", "too many single dependencies"),
    ] {
        let others = "[[task]]\nname = \"o\"\narray = \"0-3\"\ncommand = \"x\"\n[[task]]\nname = \"m\"\nmatrix = { n = \"0-3\", k = \"0-1\" }\ncommand = \"x\"\n";
        let text = format!("[[task]]\nname = \"s\"\ncommand = \"x\"\n{task}\n{others}");
        let mistakes = parse(&text).err().unwrap_or_else(|| panic!("{task} is accepted")).to_string();
        assert!(mistakes.contains(reason), "{task}:\n{mistakes}");
    }
}

#[test]
fn a_circle_of_chains_is_told_with_its_path() {
    let text =
        "[[task]]\nname = \"s\"\narray = \"0-9\"\nneeds = [\"s[{index}-1]\", \"s[{index}+1]\"]\ncommand = \"x\"\n";
    let loaded = parse(text).unwrap();
    let mistakes = phalanx::workload::graph_of(&loaded).unwrap_err().to_string();
    assert!(mistakes.contains("s[1] -> s[2] -> s[1]"), "{mistakes}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_job_file_makes_the_reader_panic(text in mutated(job_texts())) {
        match parse(&text) {
            Err(diagnostics) => {
                prop_assert!(diagnostics.errors() > 0);
                diagnostics.render(true);
                diagnostics.to_json();
            }
            Ok(loaded) => {
                let count = loaded.job.task_count() as u32;
                for number in [0, count / 2, count.saturating_sub(1)] {
                    let task = loaded.job.task(TaskId(number)).unwrap();
                    let name = loaded.job.task_name(task.id);
                    prop_assert_eq!(loaded.job.find(&name), Ok(Vec::from_iter(Some(number..number + 1))));
                    loaded.job.content_key(task.id).unwrap();
                }
            }
        }
    }

    #[test]
    fn chains_are_those_of_a_naive_expansion(
        values in prop::collection::vec(prop::collection::btree_set(0i64..6, 1..5), 1..4),
        axis in any::<prop::sample::Index>(),
        by in -3i64..4,
    ) {
        prop_assume!(by != 0);
        let axis = axis.index(values.len());
        let axes: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("a{i} = {v:?}").replace(['{', '}'], "|")).collect();
        let axes: Vec<String> = axes.iter().map(|a| a.replacen('|', "[", 1).replace('|', "]")).collect();
        let text = format!(
            "[[task]]\nname = \"s\"\nmatrix = {{ {} }}\nneeds = \"s[{{a{axis}}}{by:+}]\"\ncommand = \"x\"\n",
            axes.join(", ")
        );
        // All elements, the last axis fastest.
        let elements = values.iter().fold(vec![Vec::new()], |rows: Vec<Vec<i64>>, axis| {
            rows.iter().flat_map(|row| axis.iter().map(|value| [&row[..], &[*value]].concat())).collect()
        });
        let (least, most) = (values[axis].first().unwrap(), values[axis].last().unwrap());
        let (mut expected, mut gap) = (Vec::new(), false);
        for (to, row) in elements.iter().enumerate() {
            let mut wanted = row.clone();
            wanted[axis] += by;
            match elements.iter().position(|row| *row == wanted) {
                Some(from) => expected.push((format!("s[{from}]"), format!("s[{to}]"))),
                None => gap |= (least..=most).contains(&&wanted[axis]),
            }
        }
        expected.sort();
        match parse(&text) {
            Ok(loaded) => {
                prop_assert!(!gap, "{text}");
                prop_assert_eq!(edges(&loaded.job), expected);
            }
            Err(mistakes) => prop_assert!(gap, "{text}\n{mistakes}"),
        }
    }

    #[test]
    fn no_import_panics_and_what_it_writes_parses(
        which in 0..IMPORTS.len(),
        seed in any::<prop::sample::Index>(),
        texts in prop::collection::vec(mutated(IMPORTS.iter().map(|(_, _, text)| text.to_string()).collect()), 4),
        own in mutated(IMPORTS.iter().map(|(_, _, text)| text.to_string()).collect()),
    ) {
        let (_, importer, _) = IMPORTS[which];
        for text in [&own, &texts[seed.index(texts.len())]] {
            if let Ok(imported) = importer(text, &Options::default()) {
                // Only syntax is promised: a mutated import may ask for what no job can have.
                let syntax: Result<toml::Table, _> = toml::from_str(&imported.toml);
                prop_assert!(syntax.is_ok(), "{}\n{:?}", imported.toml, syntax);
                let _ = parse(&imported.toml);
            }
        }
    }
}
