//! Scaling policies side by side over a corpus of workflows: the tables of docs/policies.md.
//!
//! `cargo bench --bench policies [-- OPTIONS]`
//!
//! | option | meaning |
//! |---|---|
//! | `--quick` | a part of the corpus, within two minutes |
//! | `--workflows DIR` | folder with workflows in WfFormat instead of `target/corpus` |
//! | `--seed N` | another corpus: own graphs, estimates and settings are drawn anew |
//! | `--settings N` | settings of each instance |
//! | `--policies A,B` | these policies |
//! | `--only KEY=VALUE\|VALUE,...` | these instances and settings; keys: see `corpus/selection.rs` |
//! | `--rows FILE` | one row per instance, setting and policy, as JSON lines |
//! | `--threads N` | threads; as many as there are CPUs |
//! | `--bound` | also search for what a policy with foresight would do |
//! | `--forecasts` | forecasts of `hybrid` at four moments, instead of policies |
//! | `--placement` | ways to deal tasks out, instead of policies |
//!
//! `benches/corpus/generate.py` makes the workflows of WfCommons; without them the graphs that are
//! made here are compared alone.

mod corpus;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use phalanx::sim::Cluster;
use phalanx::sim::compare::{Comparison, compare_placement, placement_table};
use rayon::prelude::*;
use serde::Serialize;

use corpus::bound;
use corpus::generators;
use corpus::instance::{Instance, Knowledge, family_of, files, recorded};
use corpus::moments::{CASES, ForecastRow, tables};
use corpus::report::{OWN, REFERENCES, report};
use corpus::selection::Selection;
use corpus::setting::{DELAYS_S, Setting};
use corpus::trial::{Row, forecasts, run};

/// With `--quick`: one instance in so many, and their largest number of tasks.
const QUICK: (usize, u32) = (4, 800);

const MISSING: &str = "there are no workflows of WfCommons in {folder}; these make them:\n\
    python3 -m venv target/wfcommons && target/wfcommons/bin/pip install wfcommons==1.6\n\
    target/wfcommons/bin/python benches/corpus/generate.py";

struct Options {
    quick: bool,
    workflows: PathBuf,
    seed: u64,
    settings: u64,
    policies: Vec<String>,
    only: Selection,
    rows: Option<PathBuf>,
    threads: usize,
    bound: bool,
    forecasts: bool,
    placement: bool,
}

impl Options {
    fn parse() -> Result<Options, String> {
        let names = OWN.into_iter().chain(REFERENCES).map(str::to_owned);
        let mut options = Options {
            quick: false,
            workflows: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/corpus"),
            seed: 1,
            settings: 1,
            policies: names.collect(),
            only: Selection::default(),
            rows: None,
            threads: 0,
            bound: false,
            forecasts: false,
            placement: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("`{arg}` needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("`{arg} {text}` is not a whole number"));
            match &*arg {
                "--quick" => options.quick = true,
                "--workflows" => options.workflows = value()?.into(),
                "--seed" => options.seed = number(value()?)?,
                "--settings" => options.settings = number(value()?)?,
                "--policies" => options.policies = value()?.split(',').map(str::to_owned).collect(),
                "--only" => options.only = Selection::parse(&value()?)?,
                "--rows" => options.rows = Some(value()?.into()),
                "--threads" => options.threads = number(value()?)? as usize,
                "--bound" => options.bound = true,
                "--forecasts" => options.forecasts = true,
                "--placement" => options.placement = true,
                // Cargo adds it.
                "--bench" => {}
                _ => return Err(format!("there is no option `{arg}`")),
            }
        }
        Ok(options)
    }

    /// The workflows of WfCommons that may be wanted.
    fn files(&self) -> Vec<(String, PathBuf)> {
        let files = files(&self.workflows);
        if files.is_empty() {
            eprintln!("{}", MISSING.replace("{folder}", &self.workflows.display().to_string()));
        }
        let is_wanted = |file: &(String, PathBuf)| self.only.has_name(&file.0, family_of(&file.0));
        files.into_iter().filter(is_wanted).collect()
    }

    /// The instances that are wanted, largest first: what is long must not begin last.
    fn instances(&self) -> Vec<Instance> {
        let files = self.files();
        let mut workflows = generators::all(self.seed, &|name, family| self.only.has_name(name, family));
        workflows.par_extend(files.par_iter().map(|(name, path)| recorded(name, path)));
        let instances = workflows.par_iter().map(|workflow| workflow.instance(self.seed));
        let mut instances: Vec<Instance> = instances.filter(|instance| self.only.has_instance(instance)).collect();
        if self.quick {
            let (one_in, most) = QUICK;
            instances.retain(|instance| instance.prepared.tasks() <= most);
            instances = instances.into_iter().step_by(one_in).collect();
        }
        instances.sort_by_key(|instance| std::cmp::Reverse(instance.prepared.tasks()));
        instances
    }
}

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    threads.expect("threads can be started").install(|| match (options.placement, options.forecasts) {
        (true, _) => placements(&options),
        (_, true) => foretell(&options),
        _ => compare(&options),
    });
    ExitCode::SUCCESS
}

fn compare(options: &Options) {
    let began = Instant::now();
    let instances = options.instances();
    let settings = if options.quick { 1 } else { options.settings };
    let fields: Vec<(&Instance, Setting)> = instances
        .iter()
        .flat_map(|instance| (0..settings).map(move |number| (instance, number)))
        .map(|(instance, number)| (instance, Setting::draw(instance, number, options.seed)))
        .filter(|(_, setting)| options.only.has_setting(setting))
        .collect();
    eprintln!("{} instances, {} settings, {} policies", instances.len(), fields.len(), options.policies.len());
    let ended = AtomicUsize::new(0);
    let file = options.rows.as_deref().map(|path| {
        Mutex::new(File::create(path).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display())))
    });
    let rows_of = |(instance, setting): &(&Instance, Setting)| {
        let rows: Vec<Row> = options.policies.iter().map(|policy| run(instance, setting, policy)).collect();
        // As they come: a run that is ended early leaves what it has found.
        if let Some(file) = &file {
            let written = file.lock().expect("no thread panics while it writes").write_all(lines(&rows).as_bytes());
            written.unwrap_or_else(|error| panic!("cannot write rows: {error}"));
        }
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(20) {
            eprintln!("{ended} of {} settings after {:.0} s", fields.len(), began.elapsed().as_secs_f64());
        }
        rows
    };
    let rows: Vec<Row> = fields.par_iter().with_max_len(1).flat_map_iter(rows_of).collect();
    println!("{}", report(&rows));
    if options.bound {
        println!("{}", bound::table(&bound::regrets(&fields, &rows)));
    }
}

/// Forecasts of `hybrid` for the workflows of WfCommons, on 16 nodes of 4 slots.
fn foretell(options: &Options) {
    let files = options.files();
    let fields: Vec<(_, (Knowledge, f64))> = files.iter().flat_map(|file| CASES.map(|case| (file, case))).collect();
    let rows_of = |((name, path), (knowledge, spread)): &(&(String, PathBuf), (Knowledge, f64))| {
        let instance = recorded(name, path).known(*knowledge, &mut corpus::rng(name, options.seed));
        let settings = DELAYS_S.iter().flat_map(|&delay| (0..options.settings).map(move |number| (delay, number)));
        let settings = settings.map(|(delay, number)| Setting::plain(name, number, (delay, *spread), options.seed));
        let is_wanted = |setting: &Setting| options.only.has_instance(&instance) && options.only.has_setting(setting);
        settings.filter(is_wanted).map(|setting| forecasts(&instance, &setting)).collect::<Vec<ForecastRow>>()
    };
    let rows: Vec<ForecastRow> = fields.par_iter().with_max_len(1).flat_map_iter(rows_of).collect();
    if let Some(path) = &options.rows {
        std::fs::write(path, lines(&rows)).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
    println!("{}", tables(&rows));
}

/// The rows as JSON lines.
fn lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("a row is JSON") + "\n").collect()
}

fn placements(options: &Options) {
    let text = "[[node]]\nslots = 4\n[faults]\nslow = 0.25\nslow_factor = 2.0\n[tasks]\nspread = 0.2\n";
    let cluster = Cluster::parse(text, "slow.toml").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
    println!("## Ways to deal tasks out, 8 ranks, a quarter of the nodes slow");
    for instance in options.instances() {
        let (scaling, cost) = Default::default();
        let field = Comparison {
            prepared: &instance.prepared,
            cluster: &cluster,
            scaling: &scaling,
            cost: &cost,
            seed: options.seed,
            repeats: 3,
        };
        match compare_placement(&field, 8) {
            Ok(rows) => println!("\n### {}\n\n{}", instance.name, placement_table(&rows)),
            Err(error) => println!("\n### {}: {error}", instance.name),
        }
    }
}
