//! Values for data graphs and operations on them.

use serde_json::{Value, json};

use super::WordValue;
use crate::data::format::GraphFormat;
use crate::data::generate::GeneratedKind;
use crate::data::source::WeightSource;
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::read::{Read, TomlNode, integer, mismatch};
use crate::job::units::shorten;

impl WordValue for GraphFormat {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("edge_list", GraphFormat::EdgeList, "a line `u v` or `u v weight` for each edge (.el .wel .txt .csv)"),
        ("matrix_market", GraphFormat::MatrixMarket, "Matrix Market's coordinate format (.mtx)"),
        ("metis", GraphFormat::Metis, "METIS and Chaco: a line of neighbours for each vertex (.graph)"),
        ("dimacs", GraphFormat::Dimacs, "DIMACS shortest paths (.gr)"),
        ("gap", GraphFormat::Gap, "binary format of the GAP benchmark suite (.sg .wsg)"),
        ("graphalytics", GraphFormat::Graphalytics, "LDBC Graphalytics: a file of vertices and one of edges (.v .e)"),
    ];
}

impl WordValue for GeneratedKind {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("kron", GeneratedKind::Kron, "degrees by a power law (Graph500)"),
        ("urand", GeneratedKind::Urand, "both ends of each edge at random"),
        ("grid", GeneratedKind::Grid, "a rectangle in which each vertex has up to four neighbours"),
    ];
}

/// The name of an operation on a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperationName(pub &'static str);

impl WordValue for OperationName {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("degrees", OperationName("degrees"), "the degree of each vertex"),
        ("bfs", OperationName("bfs"), "distances in edges from a vertex"),
        ("sssp", OperationName("sssp"), "distances by weight from a vertex"),
        ("components", OperationName("components"), "weakly connected components, by their smallest id"),
        ("pagerank", OperationName("pagerank"), "PageRank"),
        ("triangles", OperationName("triangles"), "triangles that each vertex belongs to"),
        ("clustering", OperationName("clustering"), "local clustering coefficients"),
        ("communities", OperationName("communities"), "communities by label propagation"),
        ("k_hop", OperationName("k_hop"), "the vertices within so many edges"),
        ("insert_edges", OperationName("insert_edges"), "puts a batch of edges in"),
        ("delete_edges", OperationName("delete_edges"), "takes a batch of edges out"),
        ("save", OperationName("save"), "writes the graph to a file"),
    ];
}

/// The source of a graph's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GraphWeights(pub WeightSource);

impl Read for GraphWeights {
    fn expected() -> String {
        "\"none\", \"file\" or { uniform = [1, 255], seed = 1 }".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [
            { "enum": ["none", "file"] },
            { "type": "object", "additionalProperties": false, "required": ["uniform"], "properties": {
                "uniform": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX }, "minItems": 2, "maxItems": 2,
                    "description": "the smallest and the largest weight" },
                "seed": { "type": "integer", "minimum": 0, "default": 1, "description": "another number gives other weights" },
            } },
        ] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        if let Some(word) = node.get_ref().as_str() {
            let known = match word {
                "none" => Some(WeightSource::None),
                "file" => Some(WeightSource::File),
                _ => None,
            };
            if known.is_none() {
                let message = format!("`{key}` must be {}, not \"{}\"", Self::expected(), shorten(word));
                let help = suggest(word, &["none", "file"], "possible words");
                findings.push(Diagnostic::error(message).at(&node.span()).help(help));
            }
            return known.map(GraphWeights);
        }
        let mut order = None;
        let drawn = node.get_ref().as_table().and_then(|table| {
            let get = |name: &str| table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
            let whole = |node: &TomlNode<'_>| integer(node.get_ref()).and_then(|n| u32::try_from(n).ok());
            let [low, high] = get("uniform")?.get_ref().as_array()?.iter().collect::<Vec<_>>()[..] else { return None };
            let (from, to) = (whole(low)?, whole(high)?);
            order = (from > to).then_some((from, to));
            let seed =
                get("seed").map_or(Some(1), |seed| integer(seed.get_ref()).and_then(|n| u64::try_from(n).ok()))?;
            let known = table.iter().all(|(key, _)| matches!(key.get_ref().as_ref(), "uniform" | "seed"));
            (known && from <= to).then_some(GraphWeights(WeightSource::Uniform { from, to, seed }))
        });
        match (drawn, order) {
            (None, Some((from, to))) => findings.push(
                Diagnostic::error(format!("`{key}`: the smallest weight, {from}, is above the largest, {to}"))
                    .at(&node.span())
                    .help(format!("write the smaller number first: `uniform = [{to}, {from}]`")),
            ),
            (None, None) => mismatch::<Self>(key, node, findings),
            (Some(_), _) => {}
        }
        drawn
    }
}
