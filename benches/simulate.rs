//! How fast the simulator is: a million tasks on ten thousand ranks, as a bag and as a graph.
//!
//! `cargo bench --bench simulate [-- NAME]`

use std::path::Path;
use std::time::Instant;

use phalanx::exec::Kernels;
use phalanx::sim::{Cluster, Forget, Scene, Setup, World};

const RANKS: u32 = 10_000;

/// A million independent tasks of a minute each, give or take.
fn bag() -> String {
    "[[task]]\nname = \"work\"\narray = \"0-999999\"\nkernel = \"noop\"\nestimate = \"60s\"\n".to_owned()
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

fn main() {
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let cluster = Cluster::default().with_slots(4);
    for (name, text) in [("bag", bag()), ("chains", chains()), ("phases", phases())] {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let began = Instant::now();
        let scene = Scene::parse(&text, "bench.toml", Path::new("/"), &Kernels::builtin()).expect("a good job");
        let read = began.elapsed();
        let setup = Setup { cluster: &cluster, ranks: RANKS, seed: 1, homes: None, captain: None, done: &|_| false };
        let mut log = Forget;
        let world = World::new(&scene, setup, &mut log).expect("it fits");
        let parted = began.elapsed();
        let ended = world.run().expect("it ends");
        let took = began.elapsed();
        let running = (took - parted).as_secs_f64();
        println!(
            "{name}: {} tasks on {RANKS} ranks, makespan {:.1} s, in {:.1} s ({:.1} s to read, {:.1} s to part); {} events, {:.0} a second",
            ended.tally.completed,
            ended.time.seconds(),
            took.as_secs_f64(),
            read.as_secs_f64(),
            (parted - read).as_secs_f64(),
            ended.events,
            ended.events as f64 / running,
        );
    }
}
