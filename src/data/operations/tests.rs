//! Tests operations against simple single-threaded references, on several ranks that are threads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::exchange::threads::on_ranks;
use crate::data::ids::VertexIds;

mod changes;

/// A graph in the simplest representation.
#[derive(Clone, Debug)]
struct Plain {
    ids: Vec<u64>,
    edges: BTreeMap<(u32, u32), f64>,
    /// Neighbours of each vertex, in both directions.
    out: Vec<Vec<(u32, f64)>>,
    into: Vec<Vec<u32>>,
    directed: bool,
    weighted: bool,
}

impl Plain {
    fn new(count: u32, listed: &[(u32, u32, u8)], directed: bool, weighted: bool, spread: u64) -> Plain {
        let mut edges = BTreeMap::new();
        for &(u, v, weight) in listed.iter().filter(|_| count > 0) {
            let (u, v) = (u % count, v % count);
            let ends = if directed { (u, v) } else { (u.min(v), u.max(v)) };
            let weight = if weighted { f64::from(weight) * 0.1 } else { 1.0 };
            let known = edges.entry(ends).or_insert(weight);
            *known = known.min(weight);
        }
        let ids = (0..u64::from(count)).map(|v| v * spread + 3).collect();
        let (mut out, mut into) = (vec![Vec::new(); count as usize], vec![Vec::new(); count as usize]);
        for (&(u, v), &weight) in &edges {
            out[u as usize].push((v, weight));
            into[v as usize].push(u);
            if !directed && u != v {
                out[v as usize].push((u, weight));
                into[u as usize].push(v);
            }
        }
        Plain { ids, edges, out, into, directed, weighted }
    }

    fn count(&self) -> u32 {
        self.ids.len() as u32
    }

    fn part(&self, exchange: &mut dyn Exchange) -> GraphPart {
        let mine = |at: &usize| at % exchange.ranks() == exchange.place();
        let all: Vec<_> = self.edges.iter().enumerate().filter(|(at, _)| mine(at)).map(|(_, edge)| edge).collect();
        let edges = EdgeList {
            ends: all.iter().map(|edge| *edge.0).collect(),
            weights: self.weighted.then(|| all.iter().map(|edge| *edge.1).collect()),
        };
        GraphPart::build(exchange, VertexIds::from_sorted(self.ids.clone()).unwrap(), edges, self.directed).unwrap()
    }

    fn out(&self, v: u32) -> Vec<(u32, f64)> {
        self.out[v as usize].clone()
    }

    fn into(&self, v: u32) -> Vec<u32> {
        self.into[v as usize].clone()
    }

    fn around(&self, v: u32) -> BTreeSet<u32> {
        let all = self.out(v).into_iter().map(|to| to.0).chain(self.into(v));
        all.filter(|&u| u != v).collect()
    }

    fn levels(&self, sources: &[u32]) -> Vec<u32> {
        let mut levels = vec![UNREACHED; self.ids.len()];
        let mut queue = VecDeque::new();
        for &source in sources {
            levels[source as usize] = 0;
            queue.push_back(source);
        }
        while let Some(v) = queue.pop_front() {
            for (to, _) in self.out(v) {
                if levels[to as usize] == UNREACHED {
                    levels[to as usize] = levels[v as usize] + 1;
                    queue.push_back(to);
                }
            }
        }
        levels
    }

    fn distances(&self, source: u32) -> Vec<f64> {
        let mut distances = vec![f64::INFINITY; self.ids.len()];
        distances[source as usize] = 0.0;
        for _ in 0..self.ids.len() {
            for v in 0..self.count() {
                for (to, weight) in self.out(v) {
                    let new = distances[v as usize] + weight;
                    if new < distances[to as usize] {
                        distances[to as usize] = new;
                    }
                }
            }
        }
        distances
    }

    fn components(&self) -> Vec<u32> {
        let mut labels: Vec<u32> = (0..self.count()).collect();
        for _ in 0..self.ids.len() {
            for &(u, v) in self.edges.keys() {
                let low = labels[u as usize].min(labels[v as usize]);
                labels[u as usize] = low;
                labels[v as usize] = low;
            }
        }
        labels
    }

    fn pagerank(&self, options: &pagerank::Options) -> Vec<f64> {
        let n = self.ids.len() as f64;
        let mut ranks = vec![1.0 / n; self.ids.len()];
        for _ in 0..options.iterations {
            let lost: f64 = (0..self.count()).filter(|&v| self.out(v).is_empty()).map(|v| ranks[v as usize]).sum();
            let spread = if options.sinks == pagerank::Sinks::Spread { lost / n } else { 0.0 };
            let mut next = vec![(1.0 - options.damping) / n + options.damping * spread; ranks.len()];
            for v in 0..self.count() {
                let out = self.out(v);
                for &(to, _) in &out {
                    next[to as usize] += options.damping * ranks[v as usize] / out.len() as f64;
                }
            }
            ranks = next;
        }
        ranks
    }

    fn triangles(&self) -> Vec<u64> {
        let around: Vec<BTreeSet<u32>> = (0..self.count()).map(|v| self.around(v)).collect();
        let count = |v: usize| {
            let pairs = around[v].iter().flat_map(|&a| around[v].iter().map(move |&b| (a, b)));
            pairs.filter(|&(a, b)| a < b && around[a as usize].contains(&b)).count() as u64
        };
        (0..around.len()).map(count).collect()
    }

    fn clustering(&self) -> Vec<f64> {
        let has = |u, v| self.out(u).iter().any(|to| to.0 == v);
        let of = |v| {
            let around = self.around(v);
            let pairs = around.iter().flat_map(|&a| around.iter().map(move |&b| (a, b)));
            let joined = pairs.filter(|&(a, b)| a != b && has(a, b)).count();
            let size = around.len();
            if size < 2 { 0.0 } else { joined as f64 / (size * (size - 1)) as f64 }
        };
        (0..self.count()).map(of).collect()
    }

    fn communities(&self, iterations: u32) -> Vec<u32> {
        let mut labels: Vec<u32> = (0..self.count()).collect();
        for _ in 0..iterations {
            let next = |v: u32| {
                let mut seen = BTreeMap::<u32, usize>::new();
                let out = self.out(v).into_iter().map(|to| to.0);
                let into = if self.directed { self.into(v) } else { Vec::new() };
                out.chain(into).for_each(|u| *seen.entry(labels[u as usize]).or_default() += 1);
                let most = seen.values().max().copied();
                seen.into_iter().find(|entry| Some(entry.1) == most).map_or(labels[v as usize], |entry| entry.0)
            };
            labels = (0..self.count()).map(next).collect();
        }
        labels
    }
}

/// The concatenated values of all ranks.
fn joined<T: Clone>(parts: &[Vec<T>]) -> Vec<T> {
    parts.concat()
}

fn check(plain: &Plain, ranks: usize, source: u32, sources: &[u32], hops: u32) {
    let n = plain.ids.len();
    let ids = |vertices: &[u32]| vertices.iter().map(|&v| plain.ids[v as usize]).collect::<Vec<_>>();
    let answers = |operation: &Operation| {
        on_ranks(ranks, |exchange| {
            let part = plain.part(exchange);
            assert_eq!(part.edges(), plain.edges.len() as u64);
            let answer = run(exchange, &part, operation, Path::new(""), true).unwrap();
            (answer.facts, answer.values)
        })
    };
    let whole = |operation| {
        joined(
            &answers(&operation)
                .into_iter()
                .map(|a| match a.1 {
                    VertexValues::Whole(v) => v,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>(),
        )
    };
    let real = |operation| {
        joined(
            &answers(&operation)
                .into_iter()
                .map(|a| match a.1 {
                    VertexValues::Real(v) => v,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>(),
        )
    };
    let vertices = |operation| {
        joined(
            &answers(&operation)
                .into_iter()
                .map(|a| match a.1 {
                    VertexValues::Vertices(v) => v,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>(),
        )
    };
    let levels = |operation| {
        joined(
            &answers(&operation)
                .into_iter()
                .map(|a| match a.1 {
                    VertexValues::Levels { levels, .. } => levels,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>(),
        )
    };
    let close = |a: &[f64], b: &[f64]| {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!(x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs()), "{x} {y}");
        }
    };
    assert_eq!(vertices(Operation::Components), plain.components());
    assert_eq!(whole(Operation::Triangles), plain.triangles());
    close(&real(Operation::Clustering), &plain.clustering());
    assert_eq!(vertices(Operation::Communities { iterations: 4 }), plain.communities(4));
    for sinks in [pagerank::Sinks::Spread, pagerank::Sinks::Drop] {
        let options = pagerank::Options { tolerance: 0.0, iterations: 7, sinks, ..pagerank::Options::default() };
        close(&real(Operation::PageRank(options)), &plain.pagerank(&options));
    }
    let out: Vec<u64> = (0..n as u32).map(|v| plain.out(v).len() as u64).collect();
    let into: Vec<u64> = (0..n as u32).map(|v| plain.into(v).len() as u64).collect();
    if plain.directed {
        assert_eq!(whole(Operation::Degrees(Direction::Out)), out);
        assert_eq!(whole(Operation::Degrees(Direction::In)), into);
    }
    if n == 0 {
        return;
    }
    let id = plain.ids[source as usize];
    assert_eq!(levels(Operation::Bfs { source: id }), plain.levels(&[source]));
    close(&real(Operation::Sssp { source: id, delta: None }), &plain.distances(source));
    close(&real(Operation::Sssp { source: id, delta: Some(0.25) }), &plain.distances(source));
    let within: Vec<u32> =
        plain.levels(sources).into_iter().map(|level| if level <= hops { level } else { UNREACHED }).collect();
    assert_eq!(levels(Operation::KHop { sources: ids(sources), hops }), within);
    let facts = &answers(&Operation::Bfs { source: id })[0].0;
    let reached: Vec<u32> = plain.levels(&[source]).into_iter().filter(|&level| level != UNREACHED).collect();
    assert_eq!(facts[0], ("reached", ReportedNumber::Whole(reached.len() as u64)));
    assert_eq!(facts[1], ("depth", ReportedNumber::Whole(u64::from(reached.iter().copied().max().unwrap()))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn operations_find_what_the_obvious_way_finds(
        count in 0u32..40,
        edges in proptest::collection::vec((0u32..40, 0u32..40, 0u8..30), 0..160),
        directed: bool,
        weighted: bool,
        spread in 1u64..4_000_000_000,
        ranks in proptest::sample::select(vec![1usize, 2, 3, 7]),
        source in 0u32..40,
        hops in 0u32..4,
    ) {
        let plain = Plain::new(count, &edges, directed, weighted, spread);
        let source = source % count.max(1);
        check(&plain, ranks, source, &[source, (source + 3) % count.max(1)], hops);
    }
}

#[test]
fn graphs_large_enough_for_both_directions_of_search() {
    let mut random = fastrand::Rng::with_seed(7);
    for (directed, ranks) in [(false, 1), (true, 3)] {
        let edges: Vec<(u32, u32, u8)> =
            (0..900).map(|_| (random.u32(..300), random.u32(..random.clone().u32(2..300)), random.u8(..))).collect();
        check(&Plain::new(300, &edges, directed, true, 1), ranks, 5, &[5, 9], 2);
    }
}

#[test]
fn ranks_make_no_difference_at_all() {
    let mut random = fastrand::Rng::with_seed(3);
    let edges: Vec<(u32, u32, u8)> = (0..2000).map(|_| (random.u32(..500), random.u32(..500), 1)).collect();
    let plain = Plain::new(500, &edges, true, false, 1);
    let ranks_of = |ranks| {
        let all = on_ranks(ranks, |exchange| {
            let part = plain.part(exchange);
            let found = pagerank::pagerank(exchange, &part, &pagerank::Options::default()).unwrap();
            (found.ranks.iter().map(|rank| rank.to_bits()).collect::<Vec<_>>(), found.iterations, found.residual)
        });
        (joined(&all.iter().map(|a| a.0.clone()).collect::<Vec<_>>()), all[0].1, all[0].2)
    };
    let one = ranks_of(1);
    assert!([2, 3, 7].iter().all(|&ranks| ranks_of(ranks) == one));
}

#[test]
fn the_largest_values_come_first() {
    let plain = Plain::new(9, &[(0, 1, 1), (0, 2, 1), (0, 3, 1), (4, 5, 1), (4, 6, 1)], false, false, 10);
    for text in on_ranks(3, |exchange| {
        let part = plain.part(exchange);
        let answer = run(exchange, &part, &Operation::Degrees(Direction::Both), Path::new(""), true).unwrap();
        top(exchange, &part, &answer.values, 4).unwrap()
    }) {
        assert_eq!(text, "3 3\n43 2\n13 1\n23 1\n");
    }
}
