//! Tests batches of changes against a set of edges, on several ranks.

use super::*;
use crate::data::exchange::SingleRank;
use crate::data::source::{GraphSource, Origin, WeightSource};

/// Edges by their ends; an undirected edge by its smaller end first.
type EdgeSet = BTreeMap<(u64, u64), f64>;

fn ends(directed: bool, u: u64, v: u64) -> (u64, u64) {
    if directed { (u, v) } else { (u.min(v), u.max(v)) }
}

/// All edges of a graph, in both directions if it is undirected, from the rows of outgoing or of
/// incoming edges.
fn edges_of(part: &GraphPart, incoming: bool) -> Vec<((u64, u64), f64)> {
    let rows = if incoming { part.incoming() } else { part.outgoing() };
    let id = |v: Vertex| part.ids().id(v);
    let of = |v: Vertex| {
        let weights = rows.row_weights(v);
        let pair = move |w| if incoming { (id(w), id(v)) } else { (id(v), id(w)) };
        rows.row(v).iter().enumerate().map(move |(at, &w)| (pair(w), weights.get(at)))
    };
    part.own().flat_map(of).collect()
}

/// What a batch of lines `u v weight` does to a set of edges.
fn apply(set: &mut EdgeSet, insert: bool, batch: &[(u64, u64, f64)], directed: bool) -> u64 {
    let mut new = EdgeSet::new();
    for &(u, v, weight) in batch {
        let known = new.entry(ends(directed, u, v)).or_insert(weight);
        *known = known.min(weight);
    }
    let before = set.len();
    for (ends, weight) in new {
        match insert {
            true => _ = set.entry(ends).or_insert(weight),
            false => _ = set.remove(&ends),
        }
    }
    before.abs_diff(set.len()) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn batches_change_a_set_of_edges(
        directed: bool,
        weights in proptest::sample::select(vec![
            WeightSource::None, WeightSource::File, WeightSource::Uniform { from: 10, to: 20, seed: 3 },
        ]),
        listed in proptest::collection::vec((0u64..12, 0u64..12, 1u32..9), 1..30),
        batches in proptest::collection::vec((
            proptest::bool::ANY, proptest::bool::ANY, proptest::collection::vec((0usize..99, 0usize..99, 1u32..9), 0..12),
        ), 0..5),
        ranks in 1usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("g.wel");
        let lines = |edges: &[(u64, u64, u32)], is_weighted: bool| -> String {
            let weight = |weight| if is_weighted { format!(" {weight}") } else { String::new() };
            edges.iter().map(|&(u, v, w)| format!("{u} {v}{}\n", weight(w))).collect()
        };
        std::fs::write(&file, lines(&listed, true)).unwrap();
        let vertices: Vec<u64> = listed.iter().flat_map(|e| [e.0, e.1]).collect();
        let draw = weights.draw();
        let weight = |u, v, given: Option<u32>| match (weights, &draw) {
            (WeightSource::None, _) => 1.0,
            (_, Some(draw)) => draw(u, v),
            (_, None) => given.map_or(1.0, f64::from),
        };
        let mut set = EdgeSet::new();
        let all: Vec<_> = listed.iter().map(|&(u, v, w)| (u, v, weight(u, v, Some(w)))).collect();
        apply(&mut set, true, &all, directed);
        let (mut operations, mut counts) = (Vec::new(), Vec::new());
        for (at, (insert, is_file, pairs)) in batches.iter().enumerate() {
            let id = |at: usize| vertices[at % vertices.len()];
            let batch: Vec<_> = pairs.iter().map(|&(u, v, w)| (id(u), id(v), w)).collect();
            let edges = if *is_file {
                let name = format!("{at}.txt");
                // Every other file has weights.
                std::fs::write(dir.path().join(&name), lines(&batch, at % 2 == 0)).unwrap();
                Edges::File(name.into())
            } else {
                Edges::Listed(batch.iter().map(|&(u, v, _)| (u, v)).collect())
            };
            let given = |w| (*is_file && at % 2 == 0).then_some(w);
            let weighed: Vec<_> = batch.iter().map(|&(u, v, w)| (u, v, weight(u, v, given(w)))).collect();
            counts.push(apply(&mut set, *insert, &weighed, directed));
            operations.push(Operation::Change { insert: *insert, edges });
        }
        let source =
            GraphSource { origin: Origin::File(file, None), directed: Some(directed), weights: Some(weights) };
        let parts = on_ranks(ranks, |exchange| {
            let mut part = source.load(exchange).unwrap();
            let mut changed = Vec::new();
            for operation in &operations {
                let answer = run(exchange, &part, operation, dir.path(), false).unwrap();
                changed.push(answer.facts[0].1);
                part = answer.changed.unwrap();
            }
            (edges_of(&part, false), edges_of(&part, true), part.edges(), changed)
        });
        let mirrored = |&(u, v): &(u64, u64)| if directed { vec![(u, v)] } else { vec![(u, v), (v, u)] };
        let expected: EdgeSet =
            set.iter().flat_map(|(ends, &weight)| mirrored(ends).into_iter().map(move |ends| (ends, weight))).collect();
        let joined = |incoming: bool| -> EdgeSet {
            parts.iter().flat_map(|part| if incoming { part.1.clone() } else { part.0.clone() }).collect()
        };
        prop_assert_eq!(joined(false), expected.clone());
        prop_assert_eq!(joined(true), expected);
        let counts: Vec<_> = counts.into_iter().map(ReportedNumber::Whole).collect();
        for part in &parts {
            prop_assert_eq!(part.2, set.len() as u64);
            prop_assert_eq!(&part.3, &counts);
        }
    }
}

#[test]
fn an_undirected_edge_has_one_weight_whichever_way_a_batch_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.wel"), "1 2 5\n2 3 5\n").unwrap();
    std::fs::write(dir.path().join("batch"), "1 2 7\n2 1 3\n1 3 7\n3 1 4\n").unwrap();
    let origin = Origin::File(dir.path().join("w.wel"), None);
    let exchange = &mut SingleRank::unstoppable();
    let part = GraphSource { origin, directed: Some(false), weights: None }.load(exchange).unwrap();
    let batch = Operation::Change { insert: true, edges: Edges::File("batch".into()) };
    let answer = run(exchange, &part, &batch, dir.path(), false).unwrap();
    assert_eq!(answer.facts[0].1, ReportedNumber::Whole(1));
    let part = answer.changed.unwrap();
    let all = [((1, 2), 5.0), ((1, 3), 4.0), ((2, 1), 5.0), ((2, 3), 5.0), ((3, 1), 4.0), ((3, 2), 5.0)];
    assert_eq!(edges_of(&part, false), all);
}
