//! Tests: every format round-trips on any number of ranks, and errors name the line.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::data::exchange::SingleRank;
use crate::data::exchange::threads::on_ranks;
use crate::data::source::{GraphSource, Origin};

/// All edges of a graph by ids, with weights; undirected ones once.
type Listing = (Vec<u64>, Vec<(u64, u64, f64)>);

fn listing(part: &GraphPart) -> Listing {
    let ids = part.ids();
    let mut edges = Vec::new();
    for v in part.own() {
        let weights = part.outgoing().row_weights(v);
        for (at, &to) in part.outgoing().row(v).iter().enumerate() {
            if part.is_directed() || v <= to {
                edges.push((ids.id(v), ids.id(to), weights.get(at)));
            }
        }
    }
    (part.own().map(|v| ids.id(v)).collect(), edges)
}

fn source(path: &Path, directed: Option<bool>, weights: Option<WeightSource>) -> GraphSource {
    GraphSource { origin: Origin::File(path.to_owned(), None), directed, weights }
}

fn load_on(ranks: usize, source: &GraphSource) -> Result<(Listing, u64, bool), DataGraphError> {
    let parts = on_ranks(ranks, |exchange| {
        let part = source.load(exchange)?;
        Ok((listing(&part), part.edges(), part.is_directed()))
    });
    let parts: Vec<(Listing, u64, bool)> = parts.into_iter().collect::<Result<_, DataGraphError>>()?;
    let (edges, directed) = (parts[0].1, parts[0].2);
    assert!(parts.iter().all(|part| part.1 == edges));
    let (ids, lists): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| part.0).unzip();
    Ok(((ids.concat(), lists.concat()), edges, directed))
}

fn refusal(name: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let mut all = Vec::new();
    for ranks in [1, 3] {
        all.push(load_on(ranks, &source(&path, None, None)).unwrap_err().to_string());
    }
    all.dedup();
    assert_eq!(all.len(), 1, "the number of ranks makes no difference: {all:?}");
    all[0].replace(&format!("{}", dir.path().join("").display()), "")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_format_holds_what_was_saved(
        count in 1u64..30,
        edges in proptest::collection::vec((0u64..30, 0u64..30, 1u32..100), 0..90),
        directed: bool,
        weighted: bool,
        spread in 1u64..3_000_000_000,
        writers in 1usize..4,
        readers in prop::sample::select(vec![1usize, 2, 3, 7]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut text = String::from("# made up\n");
        for (u, v, weight) in &edges {
            let (u, v) = (u % count, v % count);
            // METIS has no loops.
            if u != v {
                text += &format!("{}\t{} {weight}\r\n", u * spread, v * spread);
            }
        }
        std::fs::write(at("first.el"), &text).unwrap();
        let weights = Some(if weighted { WeightSource::File } else { WeightSource::None });
        let first = source(&at("first.el"), Some(directed), weights);
        let (want, ..) = load_on(1, &first).unwrap();
        let numbered = |base: u64| -> Listing {
            let number = |id: u64| want.0.binary_search(&id).unwrap() as u64 + base;
            let edges = want.1.iter().map(|&(u, v, weight)| (number(u), number(v), weight)).collect();
            (want.0.iter().map(|&id| number(id)).collect(), edges)
        };
        let gap = if weighted { "a.wsg" } else { "a.sg" };
        let [list, zipped] = if weighted { ["a.wel", "b.wel.gz"] } else { ["a.el", "b.el.gz"] };
        let mut files = vec![(list, GraphFormat::EdgeList, None), ("a.mtx", GraphFormat::MatrixMarket, Some(1)),
            ("a.gr", GraphFormat::Dimacs, Some(1)), (gap, GraphFormat::Gap, Some(0)), ("a.v", GraphFormat::Graphalytics, None)];
        files.extend([(zipped, GraphFormat::EdgeList, None), ("b.mtx.zst", GraphFormat::MatrixMarket, Some(1)),
            ("b.v.gz", GraphFormat::Graphalytics, None)]);
        if !directed {
            files.push(("a.graph", GraphFormat::Metis, Some(1)));
        }
        for (name, format, base) in files {
            let path = at(name);
            on_ranks(writers, |exchange| {
                let part = first.load(exchange).unwrap();
                write::save(exchange, &part, &path, format).unwrap();
            });
            // Formats that always have weights, or do not record it, are loaded as they were saved.
            let weights = match format {
                GraphFormat::EdgeList | GraphFormat::Dimacs => Some(if weighted { WeightSource::File } else { WeightSource::None }),
                _ => None,
            };
            // Edge lists and DIMACS files do not record the direction.
            let stated = matches!(format, GraphFormat::EdgeList | GraphFormat::Dimacs).then_some(directed);
            let (got, edges, is_directed) = load_on(readers, &source(&path, stated, weights)).unwrap();
            let want = base.map_or_else(|| want.clone(), numbered);
            prop_assert_eq!((&got, is_directed), (&want, directed), "{}", name);
            prop_assert_eq!(edges, want.1.len() as u64, "{}", name);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in "[0-9 %acpsm.\n-]{0,200}",
        which in 0usize..7,
        ranks in 1usize..3,
    ) {
        let names = ["a.el", "a.wel", "a.mtx", "a.graph", "a.gr", "a.sg", "a.v"];
        let heads = ["", "", "%%MatrixMarket matrix coordinate real general\n", "", "p sp 5 3\n", "", ""];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(names[which]);
        if which != 5 {
            bytes = format!("{}{text}", heads[which]).into_bytes();
        }
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(dir.path().join("a.e"), &text).unwrap();
        let _ = load_on(ranks, &source(&path, None, None));
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let reasons = [
        refusal("a.el", "1 2\n3\n"),
        refusal("a.el", "# x\n\n1 2\n1 -2\n"),
        refusal("a.wel", "1 2 0.5\n1 2 nan\n"),
        refusal("a.el", "1 99999999999999999999\n"),
        refusal("a.mtx", "%%MatrixMarket matrix coordinate pattern general\n% x\n3 3 2\n1 2\n"),
        refusal("a.mtx", "%%MatrixMarket matrix coordinate pattern general\n3 4 2\n1 2\n1 3\n"),
        refusal("a.mtx", "%%MatrixMarket matrix coordinate pattern general\n3 3 1\n1 4\n"),
        refusal("a.graph", "3 2\n2 3\n1\n"),
        refusal("a.graph", "3 2\n2 3\n1\n1 2\n"),
        refusal("a.graph", "3 1\n2 3\n1\n1\n"),
        refusal("a.graph", "4 3\n2\n3\n4\n1 2 3\n"),
        refusal("a.graph", "3 2 1\n2 5 3 7\n1 5\n1 8\n"),
        refusal("a.el.gz", "1 2\n"),
        refusal("a.csv", "source,target\n1,2\n"),
        refusal("a.gr", "c x\np sp 3 1\nx 1 2 3\n"),
        refusal("a.sg", "hello"),
        refusal("a.xyz", ""),
    ];
    compare(&reasons);
}

/// Compares with the expected texts, so that a change of a text shows up in the diff.
fn compare(reasons: &[String]) {
    let want = [
        "a.el:2: expected the ids of two vertices (whole numbers from 0 to 18446744073709551614), found `3`",
        "a.el:4: expected the ids of two vertices (whole numbers from 0 to 18446744073709551614), found `1 -2`",
        "a.wel:2: expected a weight after the ids, found `1 2 nan`",
        "a.el:1: expected the ids of two vertices (whole numbers from 0 to 18446744073709551614), found `1 99999999999999999999`",
        "a.mtx: line 3 announces 2 entries, but 1 follow; is the file cut off?",
        "a.mtx:2: a graph needs a square matrix, this one has 3 rows and 4 columns",
        "a.mtx:3: vertex 4 is outside of 1 to 3, the range in the header",
        "a.graph: line 1 announces 3 vertices, but 2 lines of neighbours follow; is the file cut off?",
        "a.graph: the line of vertex 3 names 2, but that of vertex 2 does not name 3: METIS files list each edge at both ends",
        "a.graph: line 1 announces 2 entries, but 4 follow; is the header that of another file?",
        "a.graph: the line of vertex 1 names 2, but that of vertex 2 does not name 1: METIS files list each edge at both ends",
        "a.graph: the lines of the vertices 1 and 3 give their edge different weights: METIS files list each edge at both ends",
        "a.el.gz: the name ends in .gz, but this is no gzip file",
        "a.csv:1: expected the ids of two vertices (whole numbers from 0 to 18446744073709551614), found `source,target`; \
         if it is a header, put `#` before it",
        "a.gr:3: expected `a u v weight`, found `x 1 2 3`",
        "a.sg: 5 bytes are too short for a graph in GAP's format",
    ];
    for (reason, want) in reasons.iter().zip(want) {
        assert_eq!(reason, want);
    }
    assert_eq!(
        reasons[want.len()],
        "a.xyz: unknown file ending for a graph; known are .el .wel .txt .edges .tsv .csv (edge_list), .mtx \
         (matrix_market), .graph .metis (metis), .gr (dimacs), .sg .wsg (gap), .v .e (graphalytics); or name the format"
    );
}

#[test]
fn compressed_text_and_drawn_weights() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..500u32).map(|e| format!("{} {}\n", e % 37, e * 7 % 41)).collect();
    let plain: PathBuf = dir.path().join("a.el");
    std::fs::write(&plain, &text).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    std::fs::write(dir.path().join("b.el.gz"), gzip.finish().unwrap()).unwrap();
    std::fs::write(dir.path().join("c.el.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    let weights = Some(WeightSource::Uniform { from: 1, to: 9, seed: 5 });
    let want = load_on(1, &source(&plain, Some(false), weights)).unwrap();
    assert!(want.0.1.iter().all(|edge| (1.0..=9.0).contains(&edge.2) && edge.2.fract() == 0.0));
    for name in ["a.el", "b.el.gz", "c.el.zst"] {
        for ranks in [1, 4] {
            assert_eq!(load_on(ranks, &source(&dir.path().join(name), Some(false), weights)).unwrap(), want, "{name}");
        }
    }
}

#[test]
fn what_is_saved_under_a_compressed_name_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.el"), "1 2\n").unwrap();
    std::fs::write(dir.path().join("empty.el"), "").unwrap();
    for file in ["a.el", "empty.el"] {
        let part = source(&dir.path().join(file), None, None).load(&mut SingleRank::unstoppable()).unwrap();
        for (name, magic) in [("o.el.gz", &[0x1f, 0x8b][..]), ("o.el.zst", &[0x28, 0xb5, 0x2f, 0xfd])] {
            let path = dir.path().join(name);
            write::save(&mut SingleRank::unstoppable(), &part, &path, GraphFormat::EdgeList).unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(magic), "{name}");
            let again = source(&path, None, None).load(&mut SingleRank::unstoppable()).unwrap();
            assert_eq!((again.vertices(), again.edges()), (part.vertices(), part.edges()));
        }
        let refused = write::save(&mut SingleRank::unstoppable(), &part, &dir.path().join("o.sg.gz"), GraphFormat::Gap);
        assert!(refused.unwrap_err().to_string().contains("leave out .gz or .zst"));
    }
}

#[test]
fn an_empty_file_is_an_empty_graph() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.el");
    std::fs::write(&path, "# nothing\n").unwrap();
    let part = source(&path, None, None).load(&mut SingleRank::unstoppable()).unwrap();
    assert_eq!((part.vertices(), part.edges()), (0, 0));
}
