//! What a run leaves for people and programs to look at: trace, report, analysis. All of them are
//! compared with the table of attempts, which comes straight from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use crate::support::{Dir, mpirun, phalanx};
use serde_json::Value;

/// Twelve tasks of two classes behind one, a join, one that fails once and succeeds then, and one
/// that fails for good.
const JOB: &str = r#"
[job]
name = "look"
[[task]]
name = "first"
command = "mkdir -p out"
[[task]]
name = "part"
array = "0-11"
needs = "first"
command = "sleep 0.02; echo {index} > out/{index}"
[[task]]
name = "again"
needs = "first"
retries = 1
command = "test -e out/again || { touch out/again; exit 3; }"
[[task]]
name = "all"
needs = ["part", "again"]
command = "cat out/* > all.txt"
[[task]]
name = "broken"
needs = "first"
command = "echo 'what went wrong <here>' >&2; exit 7"
"#;

/// A line of `report --tasks`.
struct Row {
    name: String,
    state: String,
    rank: u64,
    start: f64,
    end: f64,
}

fn rows(dir: &Dir) -> Vec<Row> {
    let csv = phalanx(dir).args(["report", "latest", "--tasks"]).run().ok();
    let lines = csv.stdout().lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let ran = lines.filter(|cells| cells[2] != "0");
    let row = |cells: Vec<&str>| Row {
        name: if cells[1].is_empty() { cells[0].to_owned() } else { format!("{}[{}]", cells[0], cells[1]) },
        state: cells[3].to_owned(),
        rank: cells[5].parse().expect("a rank"),
        start: cells[9].parse().expect("a start"),
        end: cells[10].parse().expect("an end"),
    };
    ran.map(row).collect()
}

fn ran(name: &str, ranks: u32) -> Dir {
    let dir = Dir::new(name);
    dir.job("look.toml", JOB);
    mpirun(&dir, ranks).args(["run", "look.toml", "-q", "--slots", "2"]).run().code(1);
    dir
}

fn unpacked(dir: &Dir, file: &str) -> Value {
    let bytes = std::fs::read(dir.path().join(file)).expect("the trace is there");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("it is compressed");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn a_trace_says_what_the_journal_says() {
    let dir = ran("trace", 2);
    phalanx(&dir).args(["trace", "latest", "-o", "t.json.gz"]).run().ok().says("perfetto");
    let trace = unpacked(&dir, "t.json.gz");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let of = |ph: &str| events.iter().filter(move |event| event["ph"] == ph).collect::<Vec<_>>();
    let rows = rows(&dir);

    // A slice for each attempt, where and when it ran.
    let slices = of("X");
    assert_eq!(slices.len(), rows.len());
    for row in &rows {
        let same = |e: &&&Value| {
            let (ts, dur) = (e["ts"].as_f64().expect("a time"), e["dur"].as_f64().expect("a duration"));
            e["name"] == *row.name && (ts / 1e6 - row.start).abs() < 1e-6 && ((ts + dur) / 1e6 - row.end).abs() < 1e-6
        };
        let slice = slices.iter().find(same).unwrap_or_else(|| panic!("no slice of {} at {}", row.name, row.start));
        assert_eq!(slice["pid"], row.rank + 1);
        assert!(slice["args"]["state"].as_str().expect("a state").starts_with(&row.state));
    }
    // Slices of one slot do not overlap: viewers would nest them.
    let mut by_slot: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    for e in &slices {
        let slot = (e["pid"].as_u64().expect("a process"), e["tid"].as_u64().expect("a thread"));
        let start = e["ts"].as_f64().expect("a time");
        by_slot.entry(slot).or_default().push((start, start + e["dur"].as_f64().expect("a duration")));
    }
    for (slot, mut times) in by_slot {
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(times.windows(2).all(|w| w[0].1 <= w[1].0 + 1e-3), "slices overlap in {slot:?}");
        assert!(of("M").iter().any(|e| e["pid"] == slot.0 && e["tid"] == slot.1 && e["name"] == "thread_name"));
    }
    // Every dependency, through the join too: 12 parts, `again` and `broken` on `first`; `all` on
    // 12 parts and `again`.
    let (begins, ends) = (of("s"), of("f"));
    assert_eq!((begins.len(), ends.len()), (14 + 13, 14 + 13));
    let ids: BTreeSet<u64> = begins.iter().map(|e| e["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), begins.len());
    for begin in begins {
        let end = ends.iter().find(|e| e["id"] == begin["id"]).expect("a flow has two ends");
        assert!(begin["ts"].as_f64() <= end["ts"].as_f64());
        let within = |e: &Value| {
            slices.iter().any(|s| {
                let (at, from) = (e["ts"].as_f64().expect("a time"), s["ts"].as_f64().expect("a time"));
                let until = from + s["dur"].as_f64().expect("a duration");
                s["pid"] == e["pid"] && s["tid"] == e["tid"] && from <= at && at <= until
            })
        };
        assert!(within(begin) && within(end), "an end of a flow lies in no slice: {begin}");
    }
    // Counters end where the run did.
    let last = |name: &str| {
        let value = of("C").into_iter().rfind(|e| e["name"] == name).and_then(|e| e["args"]["value"].as_i64());
        value.unwrap_or_else(|| panic!("there is no counter {name}"))
    };
    let completed = rows.iter().filter(|row| row.state == "COMPLETED").count() as i64;
    assert_eq!(last("tasks done"), completed);
    for name in ["tasks queued", "tasks running", "ranks active", "ranks busy"] {
        assert_eq!(last(name), 0, "{name}");
    }
}

#[test]
fn a_trace_goes_to_standard_output_or_a_plain_file() {
    let dir = ran("trace-plain", 1);
    let piped = phalanx(&dir).args(["trace", "-o", "-"]).run().ok().json();
    phalanx(&dir).args(["trace", "look-1", "-o", "t.json"]).run().ok();
    let written: Value = serde_json::from_str(&dir.read("t.json")).expect("it is JSON");
    assert_eq!(piped, written);
    assert_eq!(piped["otherData"]["job"], "look");
}

/// Fails unless every tag of a document that is opened is closed, in order.
#[track_caller]
fn assert_balanced(html: &str) {
    let void = ["meta", "br", "!doctype", "input", "link"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default().to_lowercase();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "near {:?}", &rest[..rest.len().min(80)]);
        } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name.clone());
        }
        if !tag.starts_with('/') && (name == "style" || name == "script") {
            rest = &rest[rest.find(&format!("</{name}>")).expect("it ends")..];
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn the_report_is_one_file_with_everything_in_it() {
    let dir = ran("report", 2);
    phalanx(&dir).args(["report"]).run().ok().says("report.html");
    let html = dir.read("phalanx-runs/look-1/report.html");
    assert_balanced(&html);
    for part in [
        "<svg",
        "What bounded this run",
        "Critical path",
        "part[11]",
        "FAILED, exit 7",
        "<pre>what went wrong &lt;here&gt;</pre>",
        "p99",
    ] {
        assert!(html.contains(part), "{part:?} is missing in the report");
    }
    for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "the report refers to {outside:?}");
    }
    // A bar for each attempt: 12 parts, first, twice again, all, broken.
    assert_eq!(html.matches("</title></rect>").count() - chain_length(&html), 17);
    phalanx(&dir).args(["report", "--html", "elsewhere.html"]).run().ok();
    assert_balanced(&dir.read("elsewhere.html"));
}

/// Rectangles in the picture of the chain.
fn chain_length(html: &str) -> usize {
    let chain = html.split("aria-label=\"The chain").nth(1).expect("there is a chain");
    chain.split("</svg>").next().expect("it ends").matches("<rect").count()
}

#[test]
fn a_report_of_many_tasks_stays_small() {
    let dir = Dir::new("report-large");
    let job = "[[task]]\nname = \"a\"\narray = \"0-19999\"\nkernel = \"noop\"\n[[task]]\nname = \"b\"\narray = \"0-19999\"\nneeds = \"a\"\nkernel = \"noop\"\n";
    dir.job("many.toml", job);
    phalanx(&dir).args(["run", "many.toml", "-q", "--slots", "2"]).run().ok();
    phalanx(&dir).args(["report"]).run().ok();
    let html = dir.read("phalanx-runs/many-1/report.html");
    assert_balanced(&html);
    assert!(html.len() < 400_000, "{} bytes", html.len());
    // Of 400 million dependencies the trace shows one for each task that has any.
    phalanx(&dir).args(["trace", "-o", "t.json.gz"]).run().ok().says("left out");
    let trace = unpacked(&dir, "t.json.gz");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    assert_eq!(events.iter().filter(|e| e["ph"] == "X").count(), 40_000);
    assert_eq!(events.iter().filter(|e| e["ph"] == "s").count(), 20_000);
}

#[test]
fn the_analysis_of_a_real_run_names_the_serial_phase() {
    let dir = Dir::new("analyze");
    let job = "[[task]]\nname = \"before\"\narray = \"0-7\"\ncommand = \"sleep 0.1\"\n\
               [[task]]\nname = \"merge\"\nneeds = \"before\"\ncommand = \"sleep 4\"\n\
               [[task]]\nname = \"after\"\narray = \"0-7\"\nneeds = \"merge\"\ncommand = \"sleep 0.1\"\n";
    dir.job("phases.toml", job);
    phalanx(&dir).args(["run", "phases.toml", "-q", "--slots", "4"]).run().ok();
    let json = phalanx(&dir).args(["analyze", "--json"]).run().ok().json();
    let first = &json["findings"][0];
    assert_eq!(first["kind"], "serial_phase", "{json:#}");
    assert!(first["change"]["place"].as_str().expect("a place").contains("phases.toml:"), "{first:#}");
    let text = phalanx(&dir).args(["analyze", "phases"]).run().ok();
    text.says("1. All other tasks wait while class merge runs").says("change phases.toml:").says("cpus = ");
}

/// Runs a job in which one thing is wrong, and returns the finding of this kind.
///
/// Which finding comes first is tested with made up runs: in a real one, what else the machine does
/// may cost more than the thing that was planted.
fn named(kind: &str, name: &str, job: &str, ranks: u32, slots: u32) -> Value {
    let dir = Dir::new(name);
    dir.job("planted.toml", job);
    mpirun(&dir, ranks).args(["run", "planted.toml", "-q", "--slots", &slots.to_string()]).run().ok();
    let json = phalanx(&dir).args(["analyze", "--json"]).run().ok().json();
    let findings = json["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["kind"] == kind);
    let finding = finding.unwrap_or_else(|| panic!("no {kind} in {json:#}")).clone();
    assert!(finding["saves_share"].as_f64().is_some_and(|share| share > 0.02), "{json:#}");
    finding
}

#[test]
fn the_analysis_of_a_real_run_names_the_slow_rank() {
    let job = "[[task]]\nname = \"work\"\narray = \"0-119\"\n\
               command = \"if [ $PHALANX_RANK = 2 ]; then sleep 0.9; else sleep 0.3; fi\"\n";
    let found = named("slow_rank", "slow-rank", job, 4, 1);
    assert!(found["title"].as_str().is_some_and(|title| title.starts_with("rank 2 ")), "{found:#}");
}

#[test]
fn the_analysis_of_a_real_run_names_the_heavy_class() {
    let job = "[[task]]\nname = \"light\"\narray = \"0-39\"\nkernel = \"sleep\"\nargs = { seconds = 0.05 }\n\
               [[task]]\nname = \"heavy\"\narray = \"0-15\"\nkernel = \"sleep\"\nargs = { seconds = 0.6 }\n";
    let found = named("heavy_class", "heavy-class", job, 2, 2);
    assert!(found["change"]["place"].as_str().is_some_and(|place| place.contains("\"heavy\"")), "{found:#}");
}

#[test]
fn the_analysis_of_a_real_run_names_tiny_tasks() {
    let job = "[[task]]\nname = \"tiny\"\narray = \"0-1999\"\ncommand = [\"true\"]\n";
    let found = named("short_tasks", "tiny-tasks", job, 1, 2);
    assert!(found["change"]["text"].as_str().is_some_and(|text| text.starts_with("array = \"0-")), "{found:#}");
}

#[test]
fn the_analysis_of_a_real_run_names_what_asks_for_too_much() {
    let job = "[[task]]\nname = \"narrow\"\narray = \"0-39\"\ncommand = \"sleep 0.2\"\ncpus = 4\n\
               [[task]]\nname = \"other\"\narray = \"0-9\"\ncommand = \"sleep 0.2\"\n";
    let found = named("oversized_cpus", "over-asking", job, 2, 4);
    assert_eq!(found["change"]["text"], "cpus = 1");
}
