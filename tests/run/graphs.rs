//! Data graphs in jobs, and the tools for them: as a user runs them, alone and under `mpirun`.

use crate::support::checker::Trace;
use crate::support::{Dir, mpirun, phalanx, shell, skip_loudly, wait_for};

/// A path of five vertices, and one beside it.
const PATH: &str = "10 20\n20 30\n30 40\n40 50\n60 60\n";

const JOB: &str = r#"
[[graph]]
name = "path"
file = "path.el"
directed = false

[[task]]
name = "before"
graph = "path"
operation = "bfs"
args = { source = 10 }
output = "out/before.txt"

[[task]]
name = "again"
array = "1-3"
graph = "path"
operation = "bfs"
args = { source = 10 }
needs = "before"

[[task]]
name = "join"
graph = "path"
operation = "insert_edges"
args = { edges = [[10, 60], [10, 20]] }
needs = "again"

[[task]]
name = "cut"
graph = "path"
operation = "delete_edges"
args = { file = "cut.txt" }
needs = "join"

[[task]]
name = "after"
graph = "path"
operation = "bfs"
args = { source = 10 }
output = "out/after.txt"
top = 2
needs = "cut"

[[task]]
name = "lines"
command = "wc -l < out/after.txt"
inputs = "out/after.txt"
"#;

fn prepared(name: &str) -> Dir {
    let dir = Dir::new(name);
    dir.file("path.el", PATH);
    dir.file("cut.txt", "40 30\n");
    dir.job("job.toml", JOB);
    dir
}

fn check_answers(dir: &Dir) {
    let unreachable = i64::MAX;
    let before = format!("10 0\n20 1\n30 2\n40 3\n50 4\n60 {unreachable}\n");
    assert_eq!(dir.read("out/before.txt"), before);
    let after = format!("10 0\n20 1\n30 2\n40 {unreachable}\n50 {unreachable}\n60 1\n");
    assert_eq!(dir.read("out/after.txt"), after);
    let said = phalanx(dir).args(["report", "latest", "--task", "join"]).run().ok();
    assert!(said.stdout().contains("\"inserted\":1"), "10-20 is there already\n{said}");
    let said = phalanx(dir).args(["report", "latest", "--task", "after"]).run().ok();
    for text in ["\"operation\":\"bfs\"", "\"version\":3", "\"reached\":4", "\"depth\":2", "\n30 2\n20 1\n"] {
        assert!(said.stdout().contains(text), "{text} is missing\n{said}");
    }
}

#[test]
fn operations_run_as_tasks_and_see_what_was_written_before_them() {
    let dir = prepared("graphs");
    phalanx(&dir).args(["check", "job.toml"]).run().code(0);
    phalanx(&dir).args(["run", "job.toml"]).run().code(0);
    check_answers(&dir);
    let said = phalanx(&dir).args(["report", "latest", "--task", "again[2]"]).run().ok();
    assert!(said.stdout().contains("\"cached\":true"), "an equal read is answered from memory\n{said}");
}

#[test]
fn ranks_agree_on_the_versions_of_a_graph() {
    let dir = prepared("graphs-mpi");
    mpirun(&dir, 3).args(["run", "job.toml", "--slots", "1"]).run().code(0);
    check_answers(&dir);
}

#[test]
fn a_resumed_run_puts_in_what_was_written() {
    let dir = prepared("graphs-resume");
    let broken = JOB.replace("wc -l < out/after.txt", "exit 3");
    dir.job("job.toml", &broken);
    phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    // Only what comes after the batches runs again.
    let more = JOB.replace("top = 2", "top = 3");
    dir.job("job.toml", &more);
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().code(0);
    let said = phalanx(&dir).args(["report", "latest", "--task", "after"]).run().ok();
    assert!(said.stdout().contains("\"version\":3") && said.stdout().contains("\n30 2\n20 1\n"), "{said}");
    assert!(dir.read("out/after.txt").contains("60 1\n"));
}

#[test]
fn what_runs_again_finds_the_graph_as_it_was_before_the_batches_that_run_again() {
    let dir = prepared("graphs-rerun");
    for job in [JOB.to_owned(), divided(JOB)] {
        dir.job("job.toml", &job);
        dir.file("path.el", PATH);
        mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2"]).run().code(0);
        check_answers(&dir);
        for rerun in ["before", "cut"] {
            mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2", "--resume", "--rerun", rerun]).run().code(0);
            check_answers(&dir);
        }
        // A batch that has changed replaces the former one.
        dir.file("cut.txt", "20 30\n");
        mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2", "--resume"]).run().code(0).says("cut.txt");
        let unreachable = i64::MAX;
        let after = format!("10 0\n20 1\n30 {unreachable}\n40 {unreachable}\n50 {unreachable}\n60 1\n");
        assert_eq!(dir.read("out/after.txt"), after);
        // So does a graph that has changed: 60 is reached without the batch, which needs it.
        dir.file("path.el", &format!("{PATH}50 60\n"));
        mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2", "--resume"]).run().code(0);
        assert!(dir.read("out/before.txt").ends_with("50 4\n60 5\n"), "{}", dir.read("out/before.txt"));
        dir.file("cut.txt", "40 30\n");
    }
}

#[test]
fn files_of_batches_and_saved_graphs_order_tasks_and_are_made_again() {
    let dir = Dir::new("graphs-files");
    dir.file("g.el", "1 2\n2 3\n");
    // In the file, what is read stands before what writes it.
    dir.job(
        "job.toml",
        "[[graph]]\nname = 'g'\nfile = 'g.el'\n\
         [[task]]\nname = 'count'\ncommand = 'wc -l < final.el > count.txt'\ninputs = 'final.el'\n\
         [[task]]\nname = 'save'\nneeds = 'ins'\ngraph = 'g'\noperation = 'save'\nargs = { file = 'final.el' }\n\
         [[task]]\nname = 'ins'\ngraph = 'g'\noperation = 'insert_edges'\nargs = { file = 'made.txt' }\n\
         [[task]]\nname = 'make'\ncommand = 'sleep 0.3; echo 3 1 > made.txt'\noutputs = 'made.txt'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "4"]).run().code(0);
    assert_eq!(dir.read("count.txt").trim(), "3");
    std::fs::remove_file(dir.path().join("final.el")).unwrap();
    phalanx(&dir).args(["run", "job.toml", "--resume", "--rerun", "count"]).run().code(0).says("final.el is missing");
    assert_eq!(dir.read("final.el"), "1 2\n2 3\n3 1\n");
    dir.job(
        "bad.toml",
        "[[graph]]\nname = 'g'\nfile = 'g.el'\n\
         [[task]]\nname = 'save'\ngraph = 'g'\noperation = 'save'\nargs = { file = 'final.dat' }\n",
    );
    phalanx(&dir).args(["check", "bad.toml"]).run().code(2).says("unknown file ending").says(".edges .tsv");
}

#[test]
fn all_files_of_a_graph_are_its_inputs() {
    let dir = Dir::new("graphs-files");
    dir.file("g.v", "1\n2\n3\n");
    dir.file("g.properties", "graph.g.directed = true\n");
    dir.job(
        "job.toml",
        "[[task]]\nname = 'edges'\ncommand = 'sleep 0.2; echo 1 2 > g.e'\noutputs = ['g.e']\n\
         [[graph]]\nname = 'g'\nfile = 'g.v'\n\
         [[task]]\nname = 'parts'\ngraph = 'g'\noperation = 'components'\noutput = 'out.txt'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--slots", "2"]).run().code(0);
    assert_eq!(dir.read("out.txt"), "1 1\n2 1\n3 3\n");
    dir.file("g.v", "1\n2\n");
    let said = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    said.says("g.v has changed");
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().code(0);
    assert_eq!(dir.read("out.txt"), "1 1\n2 1\n");
    dir.file("g.properties", "graph.g.directed = false\n");
    let said = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    said.says("g.properties has changed");
    let text = dir.read("job.toml").replace("file = 'g.v'", "file = 'g.v'\nweights = 'none'");
    dir.job("job.toml", &text);
    let said = phalanx(&dir).args(["run", "job.toml", "--resume", "--dry-run"]).run().ok();
    said.says("its graph `g` has changed");
}

#[test]
fn jobs_that_run_together_have_graphs_of_their_own() {
    let dir = Dir::new("graphs-several");
    dir.file("s.el", "1 2\n2 3\n3 4\n");
    let bfs = |out: &str| {
        format!(
            "[[task]]\nname = 'q'\nneeds = 'w'\ngraph = 'g'\noperation = 'bfs'\nargs = {{ source = 1 }}\noutput = '{out}'\n"
        )
    };
    let head = "[[graph]]\nname = 'g'\nfile = 's.el'\n";
    dir.job(
        "one.toml",
        &format!("{head}[[task]]\nname = 'w'\ninputs = 'two.txt'\ncommand = 'true'\n{}", bfs("one.txt")),
    );
    dir.job(
        "two.toml",
        &format!(
            "{head}[[task]]\nname = 'w'\ngraph = 'g'\noperation = 'insert_edges'\nargs = {{ edges = [[1, 4]] }}\n{}",
            bfs("two.txt")
        ),
    );
    mpirun(&dir, 2).args(["run", "one.toml", "two.toml", "--slots", "2"]).run().code(0);
    assert_eq!(dir.read("one.txt"), "1 0\n2 1\n3 2\n4 3\n");
    assert_eq!(dir.read("two.txt"), "1 0\n2 1\n3 2\n4 1\n");
    let said = phalanx(&dir).args(["report", "latest", "--task", "one/q"]).run().ok();
    assert!(said.stdout().contains("\"graph\":\"g\""), "{said}");
    mpirun(&dir, 2).args(["run", "one.toml", "two.toml", "--slots", "2", "--resume", "--rerun", "two/w"]).run().code(0);
    assert_eq!(dir.read("two.txt"), "1 0\n2 1\n3 2\n4 1\n");
}

/// The same with the graph divided among the ranks.
fn divided(job: &str) -> String {
    job.replace("[[graph]]\n", "[[graph]]\ndivide = true\n")
}

#[test]
fn a_divided_graph_has_versions_and_is_resumed_on_other_ranks() {
    let dir = prepared("graphs-divided");
    dir.job("job.toml", &divided(JOB));
    mpirun(&dir, 3).args(["run", "job.toml", "--slots", "1"]).run().code(0);
    check_answers(&dir);
    let said = phalanx(&dir).args(["report", "latest", "--task", "again[2]"]).run().ok();
    assert!(said.stdout().contains("\"cached\":true") && said.stdout().contains("\"ranks\":3"), "{said}");
    // Only what comes after the batches runs again.
    dir.job("job.toml", &divided(JOB).replace("top = 2", "top = 3"));
    mpirun(&dir, 2).args(["run", "job.toml", "--slots", "1", "--resume"]).run().code(0);
    let said = phalanx(&dir).args(["report", "latest", "--task", "after"]).run().ok();
    for text in ["\"version\":3", "\"ranks\":2", "\n30 2\n20 1\n"] {
        assert!(said.stdout().contains(text), "{text} is missing\n{said}");
    }
    check_answers(&dir);
}

/// Operations on a generated graph, before and after a batch of changes; `divide` is a line of the
/// graph's table.
fn many(divide: &str) -> String {
    let operations = ["degrees", "components", "triangles", "clustering", "communities", "pagerank", "sssp"];
    let each = operations.map(|operation| {
        let args = if operation == "sssp" { "args = { source = 1 }\n" } else { "" };
        format!(
            "[[task]]\nname = '{operation}'\ngraph = 'web'\noperation = '{operation}'\noutput = 'out/{operation}.txt'\n{args}"
        )
    });
    format!(
        "[[graph]]\nname = 'web'\ngenerate = {{ kind = 'kron', scale = 9 }}\n\
         weights = {{ uniform = [1, 9], seed = 3 }}\n{divide}\n{}\
         [[task]]\nname = 'join'\ngraph = 'web'\noperation = 'insert_edges'\n\
         args = {{ edges = [[1, 2], [3, 4], [5, 400]] }}\nneeds = {operations:?}\n\
         [[task]]\nname = 'rank'\ngraph = 'web'\noperation = 'pagerank'\n\
         args = {{ tolerance = 0, iterations = 20 }}\noutput = 'out/rank.txt'\nneeds = 'join'\n\
         [[task]]\nname = 'write'\ngraph = 'web'\noperation = 'save'\n\
         args = {{ file = 'out/web.wel' }}\nneeds = 'join'\n",
        each.concat()
    )
}

/// The line that an operation has printed.
fn line_of(dir: &Dir, task: &str) -> serde_json::Value {
    let said = phalanx(dir).args(["report", "latest", "--task", task]).run().ok();
    let line = said.stdout().lines().find(|line| line.starts_with("{\"operation\"")).expect("it prints a line");
    serde_json::from_str(line).expect("it is JSON")
}

#[test]
fn a_divided_graph_gives_the_same_files_on_any_number_of_ranks() {
    let files = |ranks: u32| -> Vec<(String, String)> {
        let dir = Dir::new("graphs-same");
        dir.file("out/readme", "");
        dir.job("job.toml", &many(if ranks == 1 { "" } else { "divide = true" }));
        let command = if ranks == 1 { phalanx(&dir) } else { mpirun(&dir, ranks) };
        command.args(["run", "job.toml", "--slots", "1"]).run().code(0);
        let line = line_of(&dir, "rank");
        let parts: Vec<u64> = line["part_bytes"].as_array().unwrap().iter().filter_map(|part| part.as_u64()).collect();
        assert_eq!((line["ranks"].as_u64(), parts.len()), (Some(ranks.into()), ranks as usize), "{line}");
        let (whole, most) = (parts.iter().sum::<u64>(), parts.iter().max().copied().unwrap_or(0));
        assert!(most * u64::from(ranks) < whole * 3 / 2, "each rank holds a part of about the same size: {line}");
        dir.list("out").into_iter().map(|name| (name.clone(), dir.read(&format!("out/{name}")))).collect()
    };
    let alone = files(1);
    assert_eq!(alone.len(), 10, "{:?}", alone.iter().map(|file| &file.0).collect::<Vec<_>>());
    for ranks in [2, 3, 4] {
        for (other, own) in files(ranks).iter().zip(&alone) {
            assert!(other == own, "{} differs on {ranks} ranks", own.0);
        }
    }
}

#[test]
fn operations_side_by_side_load_a_divided_graph_once_and_compute_equal_results_once() {
    let dir = Dir::new("graphs-beside");
    let mut job = String::from("[[graph]]\nname = 'web'\ngenerate = { kind = 'kron', scale = 13 }\ndivide = true\n");
    for number in 1..=3 {
        job += &format!(
            "[[task]]\nname = 'search{number}'\ngraph = 'web'\noperation = 'bfs'\nargs = {{ source = {number} }}\n\
             [[task]]\nname = 'rank{number}'\ngraph = 'web'\noperation = 'pagerank'\n"
        );
    }
    dir.job("job.toml", &job);
    let run = mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2"]).env("PHALANX_LOG", "debug");
    let said = run.run().code(0);
    assert_eq!(said.stderr().matches("a data graph is loaded").count(), 2, "once on each rank\n{said}");
    let lines = [1, 2, 3].map(|number| line_of(&dir, &format!("rank{number}")));
    assert_eq!(lines.iter().filter(|line| line["cached"] == false).count(), 1, "{lines:?}");
}

#[test]
fn divided_graphs_have_the_values_that_others_found() {
    let recorded = crate::support::repository().join("../shared/data/graphs");
    let Ok(values) = std::fs::read_to_string(recorded.join("values.json")) else {
        return skip_loudly(&format!("{} is absent", recorded.display()));
    };
    let values: serde_json::Value = serde_json::from_str(&values).unwrap();
    for (name, ranks) in [("kron14.sg", 2), ("urand14.sg", 4)] {
        let (dir, want) = (Dir::new("graphs-recorded"), &values[name]);
        let task = |operation: &str, args: &str| {
            format!(
                "[[task]]\nname = '{operation}'\ngraph = 'g'\noperation = '{operation}'\nargs = {{ {args} }}\noutput = '{operation}.txt'\n"
            )
        };
        let file = recorded.join(name);
        let mut job = format!("[[graph]]\nname = 'g'\nfile = '{}'\ndivide = true\n", file.display());
        job += &(task("bfs", "source = 0") + &task("components", "") + &task("triangles", ""));
        job += &task("pagerank", "tolerance = 1e-14, iterations = 300");
        dir.job("job.toml", &job);
        mpirun(&dir, ranks).args(["run", "job.toml", "--slots", "1"]).run().code(0);
        let bfs = line_of(&dir, "bfs");
        assert_eq!((&bfs["reached"], &bfs["depth"]), (&want["bfs"]["reached"], &want["bfs"]["depth"]), "{name}");
        let components = line_of(&dir, "components");
        assert_eq!(components["components"], want["components"], "{name}");
        assert_eq!(components["largest"], want["largest_component"], "{name}");
        assert_eq!(line_of(&dir, "triangles")["triangles"], want["triangles"], "{name}");
        let ranks = dir.read("pagerank.txt");
        let ranks: Vec<f64> = ranks.lines().map(|line| line.split_once(' ').unwrap().1.parse().unwrap()).collect();
        for pair in want["pagerank_sinks_spread"]["top"].as_array().expect("recorded") {
            let (id, value) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
            assert!((ranks[id] - value).abs() <= 1e-9 * value, "{name}: vertex {id}: {}, not {value}", ranks[id]);
        }
    }
}

#[test]
fn an_operation_on_a_divided_graph_is_cancelled_limited_and_refused() {
    let dir = Dir::new("graphs-ended");
    let endless = "graph = 'web'\noperation = 'pagerank'\nargs = { tolerance = 0, iterations = 1000000000 }\n";
    let after = |task: &str| format!("needs = {{ task = '{task}', when = 'afterany' }}\n");
    dir.job(
        "job.toml",
        &format!(
            "[[graph]]\nname = 'web'\ngenerate = {{ kind = 'kron', scale = 8 }}\ndivide = true\n\
             [[task]]\nname = 'endless'\n{endless}\
             [[task]]\nname = 'limited'\ntime = '1s'\n{endless}{}\
             [[task]]\nname = 'wrong'\ngraph = 'web'\noperation = 'bfs'\nargs = {{ source = 4000000 }}\n{}\
             [[task]]\nname = 'good'\ngraph = 'web'\noperation = 'components'\n{}",
            after("endless"),
            after("limited"),
            after("wrong"),
        ),
    );
    let args = ["run", "job.toml", "--slots", "1", "--run-dir", "run", "--keep-going"];
    let run = mpirun(&dir, 3).args(args).start();
    let runs = || phalanx(&dir).args(["status", "run"]).run().stdout().contains("endless");
    wait_for("the operation to run", 120, || (dir.has("run") && runs()).then_some(()));
    phalanx(&dir).args(["cancel", "run", "endless"]).run().ok();
    let said = run.wait().code(1);
    let trace = Trace::of(&dir, "run");
    let states = ["endless", "limited", "wrong", "good"].map(|task| trace.state(task));
    assert_eq!(states, ["CANCELLED", "TIMEOUT", "FAILED", "COMPLETED"]);
    assert!(said.stdout().contains("no vertex 4000000"), "{said}");
}

#[test]
fn a_divided_graph_refuses_what_no_gang_provides() {
    let dir = Dir::new("graphs-asked");
    dir.job(
        "job.toml",
        "[[graph]]\nname = 'web'\ngenerate = { kind = 'kron', scale = 8 }\ndivide = true\n\
         [[task]]\nname = 'a'\ngraph = 'web'\noperation = 'components'\nmemory = '1G'\n",
    );
    phalanx(&dir).args(["run", "job.toml"]).run().code(2).says("asks for memory").says("`divide = false`");
}

#[test]
fn mistakes_about_graphs_are_named() {
    let dir = Dir::new("graphs-mistakes");
    for (job, texts) in [
        ("[[task]]\nname = 'a'\ngraph = 'web'\noperation = 'bfs'\n", ["no graph called `web`", "job.toml"]),
        ("[[graph]]\nname = 'web'\n[[task]]\nname = 'a'\ncommand = 'true'\n", ["`file` or `generate`", "kron"]),
        (
            "[[graph]]\nname = 'web'\nfile = 'web.xyz'\n[[task]]\nname = 'a'\ncommand = 'true'\n",
            ["format", "edge_list"],
        ),
        (
            "[[graph]]\nname = 'web'\nfile = 'web.el'\n[[task]]\nname = 'a'\ngraph = 'wbe'\noperation = 'pagerank'\n",
            ["no graph called `wbe`", "web"],
        ),
        (
            "[[graph]]\nname = 'web'\nfile = 'web.el'\n[[task]]\nname = 'a'\ngraph = 'web'\noperation = 'pagernak'\n",
            ["operation", "pagerank"],
        ),
        (
            "[[graph]]\nname = 'web'\nfile = 'web.el'\n[[task]]\nname = 'a'\ngraph = 'web'\noperation = 'bfs'\nargs = { sorce = 1 }\n",
            ["the operation `bfs`", "source"],
        ),
        ("[[task]]\nname = 'a'\ncommand = 'true'\noutput = 'x'\n", ["`operation` on a graph", "outputs"]),
        (
            "[[graph]]\nname = 'web'\nfile = 'web.el'\nweights = { uniform = [5, 1] }\n[[task]]\nname = 'a'\ncommand = 'true'\n",
            ["smallest weight, 5, is above", "`uniform = [1, 5]`"],
        ),
        (
            "[[graph]]\nname = 'web'\ngenerate = { kind = 'krn', scale = 4 }\n[[task]]\nname = 'a'\ncommand = 'true'\n",
            ["kind", "kron"],
        ),
    ] {
        dir.job("job.toml", job);
        let said = phalanx(&dir).args(["check", "job.toml"]).run().code(2);
        for text in texts {
            assert!(said.stderr().contains(text), "{text} is missing\n{job}\n{said}");
        }
    }
    // What only shows when the file is read fails the task, with the reason.
    dir.file("web.el", "1 2\nx y\n");
    dir.job(
        "job.toml",
        "[[graph]]\nname = 'web'\nfile = 'web.el'\n[[task]]\nname = 'a'\ngraph = 'web'\noperation = 'components'\n",
    );
    let said = phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    assert!(said.stdout().contains("web.el:2"), "{said}");
    dir.file("web.el", "1 2\n");
    dir.job(
        "job.toml",
        "[[graph]]\nname = 'web'\nfile = 'web.el'\n[[task]]\nname = 'a'\ngraph = 'web'\noperation = 'bfs'\nargs = { source = 7 }\n",
    );
    let said = phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    assert!(said.stdout().contains("no vertex 7"), "{said}");
}

#[test]
fn graphs_are_made_converted_and_described() {
    let dir = Dir::new("graph-tools");
    phalanx(&dir).args(["graph", "generate", "kron", "--scale", "8", "--degree", "4", "-o", "a.sg"]).run().code(0);
    phalanx(&dir).args(["graph", "convert", "a.sg", "a.mtx"]).run().code(0).says("vertices were renumbered");
    phalanx(&dir).args(["graph", "convert", "a.mtx", "b.sg"]).run().code(0);
    shell(&dir, "cmp a.sg b.sg").run().code(0);
    let info = phalanx(&dir).args(["graph", "info", "a.sg", "--ranks", "3", "--json", "--svg", "a.svg"]).run().code(0);
    let info: serde_json::Value = serde_json::from_str(info.stdout()).unwrap();
    assert_eq!((info["directed"].as_bool(), info["loops"].as_u64()), (Some(false), Some(0)));
    assert!(dir.read("a.svg").starts_with("<svg"));
    dir.file("bad.mtx", "%%MatrixMarket matrix coordinate pattern general\n3 3 2\n1 2\n");
    phalanx(&dir).args(["graph", "info", "bad.mtx"]).run().code(2).says("bad.mtx: line 2 announces 2 entries");
    phalanx(&dir).args(["graph", "convert", "a.sg", "a.xyz"]).run().code(2).says("unknown file ending");
    // What a format does not hold is said.
    dir.file("iso.mtx", "%%MatrixMarket matrix coordinate pattern symmetric\n5 5 2\n2 1\n3 1\n");
    let said = phalanx(&dir).args(["graph", "convert", "iso.mtx", "iso.el.zst"]).run().code(0);
    said.says("3 vertices, 2 edges").says("2 are left out").says("`directed = false`");
    let facts = |file: &str, more: &[&str]| -> (u64, u64, bool) {
        let said = phalanx(&dir).args(["graph", "info", file, "--json"]).args(more).run().code(0);
        let info: serde_json::Value = serde_json::from_str(said.stdout()).unwrap();
        let number = |key: &str| info[key].as_u64().unwrap();
        (number("vertices"), number("edges"), info["directed"].as_bool().unwrap())
    };
    assert_eq!(facts("iso.el.zst", &["--undirected"]), (3, 2, false));
    phalanx(&dir).args(["graph", "convert", "iso.mtx", "iso.v"]).run().code(0);
    assert_eq!(facts("iso.v", &[]), (5, 2, false));
    assert!(dir.read("iso.properties").contains("graph.iso.directed = false\n"));
}

#[test]
fn the_operations_are_timed_alone_and_under_mpirun() {
    let dir = Dir::new("bench-graph");
    let args = ["bench", "graph", "--scale", "8", "--slots", "1", "--rounds", "1", "--json"];
    let found = |out: &str| -> Vec<(String, serde_json::Value)> {
        let json: serde_json::Value = serde_json::from_str(out).unwrap();
        let all = json["operations"].as_array().unwrap().iter();
        all.map(|timed| (timed["operation"].as_str().unwrap().to_owned(), timed["found"].clone())).collect()
    };
    let alone = found(phalanx(&dir).args(args).run().code(0).stdout());
    assert_eq!(alone.len(), 10, "{alone:?}");
    let together = found(mpirun(&dir, 3).args(args).run().code(0).stdout());
    assert_eq!(alone, together, "ranks make no difference");
}

#[test]
fn a_batch_stays_whose_task_only_makes_a_file_again_and_is_in_no_other_run() {
    let dir = Dir::new("graphs-file-lost");
    dir.file("g.el", "1 2\n2 3\n");
    dir.job(
        "job.toml",
        "[[graph]]\nname = 'g'\nfile = 'g.el'\n\
         [[task]]\nname = 'ins'\ngraph = 'g'\noperation = 'insert_edges'\nargs = { edges = [[1, 3]] }\n\
         outputs = 't.json'\nstdout = 't.json'\n\
         [[task]]\nname = 'mid'\nneeds = 'ins'\ncommand = 'true'\n\
         [[task]]\nname = 'see'\nneeds = 'mid'\ngraph = 'g'\noperation = 'bfs'\nargs = { source = 1 }\noutput = 'see.txt'\n\
         [[task]]\nname = 'use'\nneeds = 'ins'\ncommand = 'true'\n",
    );
    phalanx(&dir).args(["run", "job.toml", "--only", "ins", "--only", "mid"]).run().ok();
    std::fs::remove_file(dir.path().join("t.json")).unwrap();
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().ok().says("t.json is missing").says("4 completed");
    assert!(dir.has("t.json") && dir.read("see.txt").contains("3 1\n"), "{}", dir.read("see.txt"));
    // A new run has no batch, whatever file the task has left.
    phalanx(&dir).args(["run", "job.toml", "--only", "use"]).run().code(2).says("leaves out ins, which use needs");
}
