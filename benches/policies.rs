//! Policies side by side over graphs of several shapes, provisioning delays and recorded workflows:
//! the tables of docs/policies.md.
//!
//! `cargo bench --bench policies [-- --workflows DIR] [--repeats N] [--seed N] [--only GRAPH]
//! [--policies A,B]`
//!
//! DIR holds recorded workflows in WfFormat. A cluster has 16 nodes of 4 slots at a price of 1 an
//! hour, billed by the second and for at least a minute; tasks scatter around their estimates as
//! `[tasks]` of each cluster says. Every policy sees the same draws.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use phalanx::exec::Kernels;
use phalanx::job::import;
use phalanx::job::{Cost, Scaling};
use phalanx::sim::Cluster;
use phalanx::sim::compare::{Comparison, Row, compare, compare_placement, placement_table, table};
use phalanx::workload::PreparedJob;

/// Ours, static ones, and those of others.
const POLICIES: [&str; 21] = [
    "hybrid",
    "predictive",
    "cost",
    "performance",
    "reactive",
    "static-1",
    "static-4",
    "static-16",
    "fixed",
    "react",
    "adapt",
    "hist",
    "reg",
    "conpaas",
    "token",
    "plan",
    "hpa",
    "dask",
    "hyperqueue",
    "parsl",
    "dpds",
];

const DELAYS: [u32; 3] = [1, 60, 300];

fn task(text: &mut String, name: &str, count: u32, seconds: f64, needs: &[String]) {
    let array = if count > 1 { format!("array = \"1-{count}\"\n") } else { String::new() };
    let list: Vec<String> = needs.iter().map(|need| format!("\"{need}\"")).collect();
    let needs = if list.is_empty() { String::new() } else { format!("needs = [{}]\n", list.join(", ")) };
    let _ = writeln!(text, "[[task]]\nname = \"{name}\"\nkernel = \"noop\"\nestimate = \"{seconds}s\"\n{array}{needs}");
}

/// Four wide phases of 256 tasks of about five minutes with a merge of ten minutes behind each.
fn fork_join() -> String {
    let mut text = String::new();
    for phase in 0..4 {
        let before: Vec<String> = if phase > 0 { vec![format!("merge{}", phase - 1)] } else { Vec::new() };
        task(&mut text, &format!("wide{phase}"), 256, 300.0, &before);
        task(&mut text, &format!("merge{phase}"), 1, 600.0, &[format!("wide{phase}")]);
    }
    text
}

/// One chain of sixty tasks of a minute.
fn chain() -> String {
    let mut text = String::new();
    for k in 0..60 {
        let before: Vec<String> = if k > 0 { vec![format!("t{}", k - 1)] } else { Vec::new() };
        task(&mut text, &format!("t{k}"), 1, 60.0, &before);
    }
    text
}

/// Tiled Cholesky factorisation of 14 x 14 tiles: 560 tasks whose parallelism grows and shrinks.
fn cholesky() -> String {
    let mut text = String::new();
    let n = 14;
    // Who wrote each tile last.
    let mut last: BTreeMap<(u32, u32), String> = BTreeMap::new();
    for k in 0..n {
        let potrf = format!("potrf-{k}");
        let before: Vec<String> = last.get(&(k, k)).cloned().into_iter().collect();
        task(&mut text, &potrf, 1, 40.0, &before);
        last.insert((k, k), potrf.clone());
        for i in k + 1..n {
            let name = format!("trsm-{k}-{i}");
            let mut before = vec![potrf.clone()];
            before.extend(last.get(&(i, k)).cloned());
            task(&mut text, &name, 1, 120.0, &before);
            last.insert((i, k), name);
        }
        for i in k + 1..n {
            for j in k + 1..=i {
                let name = if i == j { format!("syrk-{k}-{i}") } else { format!("gemm-{k}-{i}-{j}") };
                let mut before = vec![format!("trsm-{k}-{i}")];
                before.extend((i != j).then(|| format!("trsm-{k}-{j}")));
                before.extend(last.get(&(i, j)).cloned());
                task(&mut text, &name, 1, if i == j { 120.0 } else { 240.0 }, &before);
                last.insert((i, j), name);
            }
        }
    }
    text
}

/// A bag of a thousand tasks of two minutes in the median; one in a hundred takes thirty times as
/// long.
fn heavy_bag() -> String {
    let mut text = String::new();
    task(&mut text, "heavy", 1000, 120.0, &[]);
    text
}

struct Case {
    name: String,
    prepared: PreparedJob,
    spread: f64,
}

fn case(name: &str, text: &str, spread: f64) -> Case {
    let prepared = phalanx::job::parse(text, &format!("{name}.toml"), Path::new("/"), &Kernels::builtin())
        .and_then(PreparedJob::of);
    let prepared = prepared.unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
    Case { name: name.to_owned(), prepared, spread }
}

fn recorded(dir: &Path) -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", dir.display()))
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json") && !path.to_string_lossy().contains("schema"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let options = import::Options { name: Some(name.clone()), ..import::Options::default() };
        let imported = import::wfcommons(&text, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        case(&name, &imported.toml, 0.2)
    };
    files.iter().map(read).collect()
}

fn cluster(delay: u32, spread: f64) -> Cluster {
    let text = format!(
        "name = \"sixteen\"\n[[node]]\nslots = 4\nlimit = 16\nprice = 1.0\nminimum = \"60s\"\n\
         delay = {{ median = \"{delay}s\", sigma = 0.3 }}\n[tasks]\nspread = {spread}\n"
    );
    Cluster::parse(&text, "sixteen.toml").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let after = |word: &str| args.iter().position(|arg| arg == word).and_then(|at| args.get(at + 1));
    let number = |word: &str| after(word).and_then(|n| n.parse().ok());
    let (repeats, seed) = (number("--repeats").unwrap_or(3), number("--seed").unwrap_or(1));
    let only = after("--only").cloned().unwrap_or_default();
    let policies: Vec<&str> = after("--policies").map_or(POLICIES.to_vec(), |names| names.split(',').collect());
    let mut cases = vec![
        case("fork-join", &fork_join(), 0.2),
        case("chain", &chain(), 0.2),
        case("cholesky", &cholesky(), 0.2),
        case("heavy-tailed bag", &heavy_bag(), 1.5),
    ];
    if let Some(dir) = after("--workflows") {
        cases.extend(recorded(Path::new(dir)));
    }
    cases.retain(|case| case.name.starts_with(&only));
    let scaling = Scaling { max_ranks: 16, ..Scaling::default() };
    let cost = Cost::default();
    let mut verdicts = String::new();
    for case in &cases {
        for delay in DELAYS {
            let cluster = cluster(delay, case.spread);
            let field = Comparison {
                prepared: &case.prepared,
                cluster: &cluster,
                scaling: &scaling,
                cost: &cost,
                seed,
                repeats,
            };
            match compare(&field, &policies) {
                Ok(rows) => {
                    println!("\n### {}, nodes after {delay} s\n\n{}", case.name, table(&rows));
                    verdict(&mut verdicts, &case.name, delay, &rows);
                }
                Err(error) => println!("\n### {}: {error}", case.name),
            }
        }
    }
    println!("\n## `hybrid` against a static allocation of 16 nodes\n");
    println!(
        "| graph | delay | cost saved | at most | makespan longer | most ranks | on the front |\n|---|---:|---:|---:|---:|---:|---|\n{verdicts}"
    );
    println!("\n## Ways to deal tasks out, 8 ranks, a quarter of the nodes slow\n");
    for case in &cases {
        let slow = Cluster::parse(
            "[[node]]\nslots = 4\n[faults]\nslow = 0.25\nslow_factor = 2.0\n[tasks]\nspread = 0.2\n",
            "slow.toml",
        )
        .unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
        let field =
            Comparison { prepared: &case.prepared, cluster: &slow, scaling: &scaling, cost: &cost, seed, repeats };
        match compare_placement(&field, 8) {
            Ok(rows) => println!("\n### {}\n\n{}", case.name, placement_table(&rows)),
            Err(error) => println!("\n### {}: {error}", case.name),
        }
    }
}

/// What nobody can undercut at a price of 1 an hour: the work on slots that never idle, and one
/// node from the beginning to the end of the longest chain.
fn least_bill(row: &Row) -> f64 {
    let work = row.bill / row.dearness;
    let chain = row.makespan_s / row.stretch;
    work.max(chain / 3600.0)
}

/// One line: our policy against as many nodes as there are from the beginning to the end.
fn verdict(text: &mut String, name: &str, delay: u32, rows: &[Row]) {
    let of = |policy: &str| rows.iter().find(|row| row.policy == policy);
    if let Some((ours, still)) = of("hybrid").zip(of("static-16")) {
        let _ = writeln!(
            text,
            "| {name} | {delay} s | {:.0} % | {:.0} % | {:.0} % | {:.0} | {} |",
            (1.0 - ours.bill / still.bill) * 100.0,
            (1.0 - least_bill(still) / still.bill) * 100.0,
            // Rounded before it is written, and without the sign of a zero.
            ((ours.makespan_s / still.makespan_s - 1.0) * 100.0).round() + 0.0,
            ours.peak,
            if ours.front { "yes" } else { "no" }
        );
    }
}
