//! Whole runs in virtual time, against what the graph alone says of them.

use std::path::Path;

use super::*;
use crate::exec::Kernels;

fn scene(text: &str) -> Scene {
    Scene::parse(text, "t.toml", Path::new("/"), &Kernels::builtin()).expect("a good job")
}

#[test]
#[ignore = "for measuring"]
fn crowd() {
    let scene = scene("[[task]]\nname = \"work\"\narray = \"0-99999\"\nkernel = \"noop\"\nestimate = \"60s\"\n");
    let cluster = Cluster::default().with_slots(4);
    let setup = Setup { cluster: &cluster, ranks: 1000, seed: 1, homes: None, captain: None };
    let mut log = Forget;
    let world = World::new(&scene, setup, &mut log).unwrap();
    let ended = world.run().unwrap();
    println!("{:?} {} events", ended.tally, ended.events);
}
