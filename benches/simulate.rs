//! How fast the simulator is: a million tasks on ten thousand ranks, as a bag and as a graph; two
//! million on up to ten thousand ranks that a policy decides about; and ten million on a hundred
//! thousand slots.
//!
//! `cargo bench --bench simulate [-- NAME]`

use std::path::Path;
use std::time::Instant;

use phalanx::exec::Kernels;
use phalanx::job::{Cost, Scaling};
use phalanx::sim::{Cluster, Forget, Setup, Simulation, Simulator};
use phalanx::workload::PreparedJob;

const RANKS: u32 = 10_000;

/// So many independent tasks of a minute each, give or take.
fn bag(tasks: u32) -> String {
    format!("[[task]]\nname = \"work\"\narray = \"0-{}\"\nkernel = \"noop\"\nestimate = \"60s\"\n", tasks - 1)
}

/// A hundred steps of ten thousand tasks; each needs its own of the step before.
fn chains() -> String {
    (0..100).map(|step| family(step, 10_000, (step > 0).then(|| format!("aftercorr:s{}", step - 1)))).collect()
}

/// Twenty steps of fifty thousand tasks, each of which waits for the whole step before.
fn phases() -> String {
    (0..20).map(|step| family(step, 50_000, (step > 0).then(|| format!("s{}", step - 1)))).collect()
}

fn family(step: u32, width: u32, needs: Option<String>) -> String {
    let needs = needs.map_or(String::new(), |needs| format!("needs = \"{needs}\"\n"));
    let last = width - 1;
    format!("[[task]]\nname = \"s{step}\"\narray = \"0-{last}\"\nkernel = \"noop\"\nestimate = \"60s\"\n{needs}\n")
}

fn prepared(text: &str) -> PreparedJob {
    phalanx::job::parse(text, "bench.toml", Path::new("/"), &Kernels::builtin())
        .and_then(PreparedJob::of)
        .expect("a good job")
}

/// A job on ranks that stay.
fn fixed(name: &str, text: &str, ranks: u32) {
    let cluster = Cluster::default().with_slots(4);
    let began = Instant::now();
    let prepared = prepared(text);
    let read = began.elapsed();
    let setup =
        Setup { cluster: &cluster, ranks, seed: 1, homes: None, controller: None, done: &|_| false, recorded: None };
    let mut log = Forget;
    let world = Simulator::new(&prepared, setup, &mut log).expect("it fits");
    let parted = began.elapsed();
    let ended = world.run().expect("it ends");
    let took = began.elapsed();
    let running = (took - parted).as_secs_f64();
    println!(
        "{name}: {} tasks on {ranks} ranks, makespan {:.1} s, in {:.1} s ({:.1} s to read, {:.1} s to part); {} events, {:.0} a second",
        ended.tally.completed,
        ended.time.seconds(),
        took.as_secs_f64(),
        read.as_secs_f64(),
        (parted - read).as_secs_f64(),
        ended.events,
        ended.events as f64 / running,
    );
}

/// A job under a policy.
fn under(policy: &str, text: &str) {
    let mut cluster = Cluster::default().with_slots(4);
    cluster.nodes[0].limit = RANKS;
    let prepared = prepared(text);
    let (scaling, cost) = (Scaling { max_ranks: RANKS, ..Scaling::default() }, Cost::default());
    let simulation = Simulation::new(&prepared, &cluster, policy, (&scaling, &cost));
    let began = Instant::now();
    let outcome = simulation.run(&mut Forget).expect("it ends");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{policy}: {} tasks on up to {} ranks, makespan {:.1} s, in {took:.1} s; {} events, {:.0} a second",
        outcome.ended.tally.completed,
        outcome.peak,
        outcome.makespan_s(),
        outcome.ended.events,
        outcome.ended.events as f64 / took,
    );
}

/// A name, and what is run under it.
type Case<'a> = (&'a str, &'a dyn Fn(&str));

fn main() {
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let cases: [Case; 6] = [
        ("bag", &|name| fixed(name, &bag(1_000_000), RANKS)),
        ("chains", &|name| fixed(name, &chains(), RANKS)),
        ("phases", &|name| fixed(name, &phases(), RANKS)),
        ("static-10000", &|name| under(name, &bag(2_000_000))),
        ("hybrid", &|name| under(name, &bag(2_000_000))),
        ("ten-million", &|name| fixed(name, &bag(10_000_000), 25_000)),
    ];
    for (name, case) in cases.iter().filter(|case| wanted.as_ref().is_none_or(|wanted| wanted == case.0)) {
        case(name);
    }
}
