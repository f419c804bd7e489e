//! Data graphs against values that others have computed: GAP's graphs with SciPy's values, and
//! Graphalytics' examples, on one rank and on several. Where the recorded files are absent,
//! generated graphs of the same kinds are checked against known values.

use std::path::{Path, PathBuf};

use crate::support::skip_loudly;
use phalanx::data::exchange::SingleRank;
use phalanx::data::exchange::threads::on_ranks;
use phalanx::data::generate::{GAP_SEED, GeneratedKind, Generator};
use phalanx::data::operations::pagerank::{self, Sinks};
use phalanx::data::operations::{Direction, Fact, Operation, ReportedNumber, run, write_values};
use phalanx::data::part::GraphPart;
use phalanx::data::source::{GraphSource, Origin};

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    if path.exists() {
        return Some(path);
    }
    skip_loudly(&format!("{} is absent", path.display()));
    None
}

fn of_file(path: &Path, directed: Option<bool>) -> GraphSource {
    GraphSource { origin: Origin::File(path.to_owned(), None), directed, weights: None }
}

fn facts(ranks: usize, source: &GraphSource, operation: &Operation) -> Vec<Fact> {
    let all = on_ranks(ranks, |exchange| {
        let part = source.load(exchange).unwrap();
        run(exchange, &part, operation, Path::new(""), false).unwrap().facts
    });
    assert!(all.iter().all(|facts| *facts == all[0]), "all ranks report the same");
    all.into_iter().next().unwrap()
}

fn whole(facts: &[Fact], name: &str) -> u64 {
    match facts.iter().find(|fact| fact.0 == name) {
        Some((_, ReportedNumber::Whole(number))) => *number,
        other => panic!("{name}: {other:?}"),
    }
}

/// The file that an operation writes on this number of ranks: pairs of id and value.
fn values(ranks: usize, source: &GraphSource, operation: &Operation) -> Vec<(u64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("values.txt");
    on_ranks(ranks, |exchange| {
        let part = source.load(exchange).unwrap();
        let answer = run(exchange, &part, operation, Path::new(""), true).unwrap();
        write_values(exchange, &part, &answer.values, &file).unwrap();
    });
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap()).map(|(id, v)| (id.parse().unwrap(), v.to_owned())).collect()
}

#[test]
fn graphs_of_gap_have_the_values_that_others_found() {
    let Some(recorded) = shared("graphs/values.json") else { return };
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(recorded).unwrap()).unwrap();
    for (name, want) in json.as_object().unwrap() {
        let Some(path) = shared(&format!("graphs/{name}")) else { continue };
        let number = |at: &str| want.pointer(at).and_then(serde_json::Value::as_u64);
        for ranks in [1, 2, 3, 7] {
            let source = of_file(&path, None);
            let loaded = on_ranks(ranks, |exchange| {
                let part = source.load(exchange).unwrap();
                (u64::from(part.vertices()), part.edges(), part.is_directed())
            });
            assert_eq!(Some(loaded[0].0), number("/vertices"), "{name}");
            if let Some(stored) = number("/stored_edges") {
                assert_eq!(loaded[0].1 * 2, stored, "{name}");
            }
            if let Some(components) = number("/components") {
                let found = facts(ranks, &source, &Operation::Components);
                assert_eq!(whole(&found, "components"), components, "{name} on {ranks}");
                assert_eq!(Some(whole(&found, "largest")), number("/largest_component"), "{name} on {ranks}");
            }
            if let Some(from) = number("/bfs/source") {
                let found = facts(ranks, &source, &Operation::Bfs { source: from });
                assert_eq!(Some(whole(&found, "reached")), number("/bfs/reached"), "{name} on {ranks}");
                assert_eq!(Some(whole(&found, "depth")), number("/bfs/depth"), "{name} on {ranks}");
                let levels = values(ranks, &source, &Operation::Bfs { source: from });
                let reached = levels.iter().map(|pair| pair.1.parse::<u64>().unwrap()).filter(|&l| l < 1 << 40);
                assert_eq!(Some(reached.sum()), number("/bfs/distance_sum"), "{name} on {ranks}");
            }
            if let Some(triangles) = number("/triangles") {
                let found = facts(ranks, &source, &Operation::Triangles);
                assert_eq!(whole(&found, "triangles"), triangles, "{name} on {ranks}");
                let each = values(ranks, &source, &Operation::Triangles);
                let corners: u64 = each.iter().map(|pair| pair.1.parse::<u64>().unwrap()).sum();
                assert_eq!(corners, 3 * triangles, "{name} on {ranks}");
            }
            if let Some(from) = number("/sssp/source") {
                let operation = Operation::Sssp { source: from, delta: None };
                let found = facts(ranks, &source, &operation);
                assert_eq!(Some(whole(&found, "reached")), number("/sssp/reached"), "{name} on {ranks}");
                if let Some(sum) = want.pointer("/sssp/distance_sum").and_then(serde_json::Value::as_f64) {
                    let all = values(ranks, &source, &operation);
                    let finite = all.iter().filter_map(|pair| pair.1.parse::<f64>().ok()).filter(|d| d.is_finite());
                    assert!((finite.sum::<f64>() - sum).abs() < 0.5, "{name} on {ranks}");
                }
            }
            for (key, sinks) in [("pagerank_sinks_drop", Sinks::Drop), ("pagerank_sinks_spread", Sinks::Spread)] {
                let Some(top) = want.pointer(&format!("/{key}/top")).and_then(serde_json::Value::as_array) else {
                    continue;
                };
                let options = pagerank::Options { tolerance: 1e-14, iterations: 300, sinks, ..Default::default() };
                let all = values(ranks, &source, &Operation::PageRank(options));
                for pair in top {
                    let (id, value) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
                    let got: f64 = all[id as usize].1.parse().unwrap();
                    assert!((got - value).abs() <= 1e-9 * value, "{name} on {ranks}: vertex {id}: {got}, not {value}");
                }
            }
        }
    }
}

#[test]
fn our_generator_makes_the_graphs_of_gap() {
    for (name, kind) in [("graphs/kron14.sg", GeneratedKind::Kron), ("graphs/urand14.sg", GeneratedKind::Urand)] {
        let Some(path) = shared(name) else { continue };
        let made = Generator { kind, scale: 14, degree: 16, seed: GAP_SEED };
        let ours = made.part(&mut SingleRank::unstoppable(), None).unwrap();
        let theirs = of_file(&path, None).load(&mut SingleRank::unstoppable()).unwrap();
        assert_eq!((ours.vertices(), ours.edges()), (theirs.vertices(), theirs.edges()), "{name}");
        let same = |part: &GraphPart, v| part.outgoing().row(v).to_vec();
        assert!((0..ours.vertices()).all(|v| same(&ours, v) == same(&theirs, v)), "{name}");
    }
}

#[test]
fn generated_graphs_have_known_values_on_any_number_of_ranks() {
    // Found with SciPy on the same graphs.
    for (kind, components, reached) in [(GeneratedKind::Kron, 3834, 12543), (GeneratedKind::Urand, 1, 16384)] {
        let made = Generator { kind, scale: 14, degree: 16, seed: GAP_SEED };
        let source = GraphSource { origin: Origin::Generated(made), directed: None, weights: None };
        for ranks in [1, 3] {
            let found = facts(ranks, &source, &Operation::Components);
            assert_eq!((whole(&found, "components"), whole(&found, "largest")), (components, reached));
        }
    }
}

/// A file of adjacency lists (`v neighbours...`) as the two files of Graphalytics' own format.
fn from_lists(input: &Path, directed: bool, dir: &Path) -> PathBuf {
    let (mut vertices, mut edges) = (std::collections::BTreeSet::<u64>::new(), String::new());
    for line in std::fs::read_to_string(input).unwrap().lines() {
        let ids: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let Some((v, rest)) = ids.split_first() else { continue };
        vertices.extend(&ids);
        for to in rest.iter().filter(|to| directed || v <= *to) {
            edges += &format!("{v} {to}\n");
        }
    }
    let vertices: String = vertices.iter().map(|v| format!("{v}\n")).collect();
    std::fs::write(dir.join("a.v"), vertices).unwrap();
    std::fs::write(dir.join("a.e"), edges).unwrap();
    dir.join("a.v")
}

fn compare(what: &str, got: &[(u64, String)], want: &Path, exact: bool) {
    let text = std::fs::read_to_string(want).unwrap();
    let mut want: Vec<(u64, &str)> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(id, v)| (id.parse().unwrap(), v.trim())).collect();
    want.sort_unstable();
    assert_eq!(got.len(), want.len(), "{what}");
    for ((id, got), (want_id, want)) in got.iter().zip(want) {
        assert_eq!(*id, want_id, "{what}");
        if exact {
            assert_eq!(got, want, "{what}: vertex {id}");
        } else {
            let (a, b): (f64, f64) = (got.parse().unwrap(), want.parse().unwrap());
            assert!(a == b || (a - b).abs() <= 1e-4 * b.abs(), "{what}: vertex {id}: {got}, not {want}");
        }
    }
}

/// Components by the smallest id of each: labels may be named differently.
fn canonical(labels: Vec<(u64, String)>) -> Vec<(u64, String)> {
    let mut first = std::collections::BTreeMap::<String, u64>::new();
    labels.iter().for_each(|(id, label)| {
        let known = first.entry(label.clone()).or_insert(*id);
        *known = (*known).min(*id);
    });
    labels.into_iter().map(|(id, label)| (id, first[&label].to_string())).collect()
}

#[test]
fn graphalytics_finds_its_own_answers() {
    let pagerank = |iterations| {
        Operation::PageRank(pagerank::Options { tolerance: 0.0, iterations, ..pagerank::Options::default() })
    };
    let Some(base) = shared("graphalytics") else { return };
    let dir = tempfile::tempdir().unwrap();
    for ranks in [1, 2, 3, 7] {
        for (kind, directed, source) in [("directed", true, 1), ("undirected", false, 2)] {
            let graph = of_file(&base.join(format!("example/example-{kind}.v")), Some(directed));
            let check = |suffix: &str, operation: Operation, exact| {
                let got = values(ranks, &graph, &operation);
                let want = base.join(format!("example/example-{kind}-{suffix}"));
                compare(&format!("{kind} {suffix} on {ranks}"), &got, &want, exact);
            };
            check("BFS", Operation::Bfs { source }, true);
            check("CDLP", Operation::Communities { iterations: 2 }, true);
            check("LCC", Operation::Clustering, false);
            check("PR", pagerank(2), false);
            check("SSSP", Operation::Sssp { source, delta: None }, false);
            let got = canonical(values(ranks, &graph, &Operation::Components));
            compare(&format!("{kind} WCC on {ranks}"), &got, &base.join(format!("example/example-{kind}-WCC")), true);
        }
        for (name, operation, exact) in [
            ("bfs", Operation::Bfs { source: 1 }, true),
            ("cdlp", Operation::Communities { iterations: 5 }, true),
            ("lcc", Operation::Clustering, false),
            ("pr", pagerank(14), false),
            ("wcc", Operation::Components, true),
        ] {
            for (kind, directed) in [("dir", true), ("undir", false)] {
                let graph = from_lists(&base.join(format!("{name}/{kind}-input")), directed, dir.path());
                let pagerank_of = if directed { pagerank(14) } else { pagerank(26) };
                let operation = if name == "pr" { &pagerank_of } else { &operation };
                let mut got = values(ranks, &of_file(&graph, Some(directed)), operation);
                if name == "wcc" {
                    got = canonical(got);
                }
                let want = base.join(format!("{name}/{kind}-output"));
                compare(&format!("{name} {kind} on {ranks}"), &got, &want, exact);
            }
        }
        for (kind, directed) in [("dir", true), ("undir", false)] {
            let graph = of_file(&base.join(format!("sssp/{kind}-input.v")), Some(directed));
            let got = values(ranks, &graph, &Operation::Sssp { source: 1, delta: None });
            compare(&format!("sssp {kind} on {ranks}"), &got, &base.join(format!("sssp/{kind}-output")), false);
        }
    }
}

#[test]
fn degrees_of_a_directed_graph_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.el");
    std::fs::write(&path, "1 2\n2 1\n1 3\n3 3\n7 1\n").unwrap();
    let of = |direction, directed| values(2, &of_file(&path, Some(directed)), &Operation::Degrees(direction));
    let pairs = |list: &[(u64, &str)]| list.iter().map(|&(id, v)| (id, v.to_owned())).collect::<Vec<_>>();
    assert_eq!(of(Direction::Out, true), pairs(&[(1, "2"), (2, "1"), (3, "1"), (7, "1")]));
    assert_eq!(of(Direction::In, true), pairs(&[(1, "2"), (2, "1"), (3, "2"), (7, "0")]));
    assert_eq!(of(Direction::Both, true), pairs(&[(1, "4"), (2, "2"), (3, "3"), (7, "1")]));
    // 1-2 stands there twice and is one edge; the loop has both its ends at 3.
    assert_eq!(of(Direction::Out, false), pairs(&[(1, "3"), (2, "1"), (3, "3"), (7, "1")]));
}
