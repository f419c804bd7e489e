//! Data graphs in jobs, and the tools for them: as a user runs them, alone and under `mpirun`.

use crate::support::{Dir, mpirun, phalanx, shell};

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
