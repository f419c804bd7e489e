//! A user-defined operation on a data graph: communities by label propagation. Each vertex takes
//! the most frequent label among its neighbours.
//!
//!     cargo run --example own_operation
//!     mpirun -n 3 target/debug/examples/own_operation
//!
//! Every rank holds a range of the vertices with their neighbours. In a round it computes the
//! labels of its own vertices and shares those that have changed.

use phalanx::data::exchange::{Exchange, share, sum};
use phalanx::data::generate::{GAP_SEED, GeneratedKind, Generator};
use phalanx::data::source::{GraphSource, Origin};
use phalanx::runtime::World;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut world = World::join()?;
    let generator = Generator { kind: GeneratedKind::Kron, scale: 12, degree: 8, seed: GAP_SEED };
    let source = GraphSource { origin: Origin::Generated(generator), directed: None, weights: None };
    let graph = source.load(&mut world)?;

    // Labels of all vertices; this rank computes those of its own vertices.
    let mut labels: Vec<u32> = (0..graph.vertices()).collect();
    let own = graph.own();
    for round in 1..=10 {
        let next: Vec<u32> = own
            .clone()
            .map(|vertex| {
                let mut seen: Vec<u32> =
                    graph.outgoing().row(vertex).iter().map(|&neighbour| labels[neighbour as usize]).collect();
                seen.sort_unstable();
                let runs = seen.chunk_by(|a, b| a == b);
                let most = runs.max_by_key(|run| (run.len(), std::cmp::Reverse(run[0])));
                most.map_or(labels[vertex as usize], |run| run[0])
            })
            .collect();
        let before = &labels[own.start as usize..own.end as usize];
        let changed: Vec<u32> = (0..next.len() as u32).filter(|&at| next[at as usize] != before[at as usize]).collect();
        let [total] = sum(&mut world, [changed.len() as u64])?;
        share(&mut world, graph.cuts(), &next, &changed, |vertex, label| labels[vertex as usize] = label)?;
        labels[own.start as usize..own.end as usize].copy_from_slice(&next);
        if world.place() == 0 {
            println!("round {round}: {total} labels changed");
        }
        if total == 0 {
            break;
        }
    }
    let kept = own.filter(|&vertex| labels[vertex as usize] == vertex).count() as u64;
    let [kept] = sum(&mut world, [kept])?;
    if world.place() == 0 {
        println!("{kept} of {} vertices keep their own label", graph.vertices());
    }
    Ok(())
}
