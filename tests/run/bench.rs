//! The patterns of Task Bench as jobs, and `phalanx bench`, which measures with them. No figure is
//! judged here: only that it is one.

use crate::support::checker::Trace;
use crate::support::{Dir, mpirun, phalanx};
use serde_json::Value;

const WIDTH: i64 = 6;
const STEPS: i64 = 13;
const RADIX: i64 = 3;

const PATTERNS: [&str; 10] =
    ["trivial", "no_comm", "stencil_1d", "dom", "tree", "fft", "nearest", "spread", "random_nearest", "all_to_all"];

/// The points of a step: the first, and how many.
fn row(pattern: &str, step: i64) -> (i64, i64) {
    match pattern {
        "dom" => ((step + WIDTH - STEPS).max(0), WIDTH.min(step + 1).min(STEPS - step)),
        "tree" => (0, WIDTH.min(1 << step)),
        _ => (0, WIDTH),
    }
}

/// True if a point of a step needs this point of the step before, as the publication defines it.
/// (`random_nearest` is run with a fraction of 1, so it chooses all.)
fn needs(pattern: &str, step: i64, point: i64, other: i64) -> bool {
    match pattern {
        "trivial" => false,
        "no_comm" => other == point,
        "stencil_1d" => (point - other).abs() <= 1,
        "dom" => other == point || other == point - 1,
        "tree" => other == point / 2,
        // Three doublings reach across six points.
        "fft" => other == point || (point - other).abs() == 1 << ((step + 2) % 3),
        "nearest" | "random_nearest" => (point - RADIX / 2..=point + (RADIX - 1) / 2).contains(&other),
        "spread" => {
            let turn = step % 2;
            (0..RADIX).any(|i| (point + i * WIDTH / RADIX + if i > 0 { turn } else { 0 }) % WIDTH == other)
        }
        _ => true,
    }
}

/// The tasks of a pattern, and its edges.
fn graph(pattern: &str) -> (Vec<String>, Vec<(String, String)>) {
    let (mut tasks, mut edges, mut first) = (Vec::new(), Vec::new(), 0);
    for step in 0..STEPS {
        let (start, length) = row(pattern, step);
        let name = |number: i64| format!("{pattern}[{number}]");
        tasks.extend((0..length).map(|i| name(first + i)));
        if step > 0 {
            let (start_before, length_before) = row(pattern, step - 1);
            for point in start..start + length {
                let needed = (start_before..start_before + length_before).filter(|&q| needs(pattern, step, point, q));
                let from = |q: i64| name(first - length_before + q - start_before);
                edges.extend(needed.map(|q| (from(q), name(first + point - start))));
            }
        }
        first += length;
    }
    (tasks, edges)
}

#[test]
fn every_pattern_runs_as_it_is_defined() {
    let dir = Dir::new("patterns");
    let mut job = String::new();
    for pattern in PATTERNS {
        job += &format!(
            "[[task]]\nname = \"{pattern}\"\npattern = \"{pattern}\"\nwidth = {WIDTH}\nsteps = {STEPS}\n\
             kernel = \"sleep\"\nargs = {{ seconds = 0.001 }}\n"
        );
        match pattern {
            "nearest" | "spread" => job += "radix = 3\n",
            "random_nearest" => job += "radix = 3\nfraction = 1\nseed = 5\n",
            _ => {}
        }
    }
    dir.job("job.toml", &job);
    mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2"]).run().ok();
    let trace = Trace::of(&dir, "latest");
    let graphs = PATTERNS.map(graph);
    trace.exactly_once(graphs.iter().flat_map(|(tasks, _)| tasks.iter().map(String::as_str)));
    trace.respects(graphs.iter().flat_map(|(_, edges)| edges.iter().map(|(from, to)| (from.as_str(), to.as_str()))));
    trace.slots_are_exclusive();
    assert_eq!(trace.ranks().len(), 2);
}

#[test]
fn a_point_knows_its_place_and_keeps_it_over_a_resume() {
    let dir = Dir::new("place");
    let run = |width: u32, steps: u32, args: &[&str]| -> Vec<String> {
        let job = format!(
            "[[task]]\nname = \"grid\"\npattern = \"no_comm\"\nwidth = {width}\nsteps = {steps}\n\
             env = {{ PLACE = \"{{step}}.{{point}}\" }}\ncommand = \"echo $PLACE >> ran\"\n"
        );
        dir.job("job.toml", &job);
        dir.file("ran", "");
        phalanx(&dir).args(["run", "job.toml"]).args(args).run().ok();
        let mut ran: Vec<String> = dir.read("ran").lines().map(str::to_owned).collect();
        ran.sort();
        ran
    };
    assert_eq!(run(2, 2, &[]), ["0.0", "0.1", "1.0", "1.1"]);
    // A further step leaves the others what they are.
    assert_eq!(run(2, 3, &["--resume"]), ["2.0", "2.1"]);
    // In a wider grid only the first points of the first step are where they were.
    assert_eq!(run(3, 2, &["--resume"]), ["0.2", "1.0", "1.1", "1.2"]);
}

/// What `--json` prints for a plan, checked against itself.
fn check(result: &Value, pattern: &str, ranks: u64, slots: u64, tasks: f64) {
    let keys: Vec<&str> = result.as_object().expect("an object").keys().map(String::as_str).collect();
    let promised = ["metg_us", "pattern", "peak_gflops", "points", "ranks", "slots", "width", "zero_work_tasks_per_s"];
    assert_eq!(sorted(keys), promised);
    assert_eq!(
        (&result["pattern"], &result["ranks"], &result["slots"]),
        (&pattern.into(), &ranks.into(), &slots.into())
    );
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} is not {b}");
    let peak = number(&result["peak_gflops"]);
    let points = result["points"].as_array().expect("points");
    assert!(peak > 0.0 && points.len() > 3, "{result}");
    for pair in points.windows(2) {
        assert!(number(&pair[0]["iterations"]) > number(&pair[1]["iterations"]), "{result}");
    }
    for point in points {
        let keys: Vec<&str> = point.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(sorted(keys), ["efficiency", "gflops", "granularity_us", "iterations", "wall_s"]);
        let wall = number(&point["wall_s"]);
        near(number(&point["granularity_us"]), wall * (ranks * slots) as f64 / tasks * 1e6);
        near(number(&point["gflops"]), (128.0 * number(&point["iterations"]) + 64.0) * tasks / wall / 1e9);
        near(number(&point["efficiency"]), number(&point["gflops"]) / peak);
        assert!(number(&point["efficiency"]) <= 1.0 + 1e-6, "{point}");
    }
    let last = points.last().expect("a point");
    assert_eq!(last["iterations"], 0);
    near(number(&result["zero_work_tasks_per_s"]), tasks / number(&last["wall_s"]));
    assert!(result["metg_us"].is_null() || number(&result["metg_us"]) > 0.0, "{result}");
}

fn sorted(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words
}

#[test]
fn metg_alone_gives_an_object_a_picture_and_leaves_nothing_behind() {
    let dir = Dir::new("metg");
    let args = ["bench", "metg", "--json", "--steps", "20", "--rounds", "1", "--slots", "2", "--svg", "curve.svg"];
    let output = phalanx(&dir).args(args).patience(300).run().ok();
    check(&output.json(), "stencil_1d", 1, 2, 160.0);
    assert!(dir.read("curve.svg").starts_with("<svg"));
    assert_eq!(dir.list("."), ["curve.svg"]);
}

#[test]
fn metg_on_two_ranks_is_told_by_one() {
    let dir = Dir::new("metg-mpi");
    let args = ["bench", "metg", "--json", "--steps", "10", "--width", "4", "--rounds", "1", "--slots", "1"];
    let more = ["--pattern", "nearest", "--radix", "3"];
    let output = mpirun(&dir, 2).args(args).args(more).patience(300).run().ok();
    check(&output.json(), "nearest", 2, 1, 40.0);
    assert_eq!(dir.list("."), [""; 0]);
}

#[test]
fn what_cannot_be_measured_is_refused_by_all_ranks() {
    let dir = Dir::new("metg-refused");
    let refused = |args: &[&str], why: &str| {
        for output in [phalanx(&dir).args(args).run(), mpirun(&dir, 2).args(args).run()] {
            assert!(output.exit() != 0 && output.stderr().contains(why), "{output}");
        }
    };
    refused(&["bench", "metg", "--pattern", "fft", "--radix", "3"], "the pattern fft has no radix");
    refused(&["bench", "metg", "--pattern", "stencil"], "stencil_1d");
    // Found out by rank 0 alone, when all have joined.
    refused(&["bench", "metg", "--pattern", "all_to_all", "--width", "10000"], "dependencies, more than");
    assert_eq!(dir.list("."), [""; 0]);
}
