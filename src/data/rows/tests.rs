use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn as_map(rows: &Rows) -> BTreeMap<(u32, u32), f64> {
    let each = |v: u32| {
        let weights = rows.row_weights(v);
        rows.row(v).iter().enumerate().map(move |(at, &w)| ((v, w), weights.get(at)))
    };
    (rows.first()..rows.first() + rows.count() as u32).flat_map(each).collect()
}

fn list(edges: &[(u32, u32, u8)], first: u32, count: u32, weighted: bool) -> EdgeList {
    EdgeList {
        ends: edges.iter().map(|e| (first + e.0 % count, e.1)).collect(),
        weights: weighted.then(|| edges.iter().map(|e| f64::from(e.2) / 10.0).collect()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn versions_hold_what_was_written(
        first in 0u32..100,
        count in 1u32..1500,
        weighted: bool,
        start in proptest::collection::vec((0u32..1500, 0u32..60, 0u8..9), 0..300),
        batches in proptest::collection::vec((proptest::bool::ANY,
            proptest::collection::vec((0u32..1500, 0u32..60, 0u8..9), 0..40)), 0..8),
    ) {
        let edges = list(&start, first, count, weighted);
        let mut rows = Rows::build(first, count as usize, &edges);
        let mut model = BTreeMap::new();
        for (at, &ends) in edges.ends.iter().enumerate() {
            let weight = edges.weights.as_ref().map_or(1.0, |weights| weights[at]);
            let slot = model.entry(ends).or_insert(weight);
            *slot = slot.min(weight);
        }
        prop_assert_eq!(as_map(&rows), model.clone());
        for (insert, batch) in batches {
            let batch = list(&batch, first, count, weighted);
            let (old, before) = (rows.clone(), model.clone());
            let size = model.len() as i64;
            let counted;
            if insert {
                (rows, counted) = rows.insert(&batch);
                let mut new = BTreeMap::new();
                for (at, &ends) in batch.ends.iter().enumerate() {
                    let weight = batch.weights.as_ref().map_or(1.0, |weights| weights[at]);
                    let lightest = new.entry(ends).or_insert(weight);
                    *lightest = lightest.min(weight);
                }
                new.into_iter().for_each(|(ends, weight)| _ = model.entry(ends).or_insert(weight));
            } else {
                (rows, counted) = rows.delete(&batch);
                batch.ends.iter().for_each(|ends| { model.remove(ends); });
            }
            prop_assert_eq!(counted as i64, (model.len() as i64 - size).abs());
            prop_assert_eq!(rows.edges(), model.len() as u64);
            prop_assert_eq!(as_map(&rows), model.clone());
            prop_assert_eq!(as_map(&old), before);
        }
    }
}
