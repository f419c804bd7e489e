//! Resolves the `[[graph]]` tables, and tasks that are operations on a graph.
//!
//! An operation becomes a call of the kernel [`OPERATION_KERNEL`](crate::job::OPERATION_KERNEL).
//! Its arguments contain everything that affects the result, including the source of the graph, so
//! that a resumed run detects any change.

use std::path::Path;

use super::names::{check_name, make_name};
use crate::data::generate::{GAP_SEED, GeneratedKind, Generator};
use crate::data::source::{GraphSource, Origin};
use crate::job::DataGraph;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::spec::{GenerateSpec, GraphSpec};
use crate::job::units::shorten;

/// The declared graphs. A source with a mistake is replaced by a placeholder that is never used.
pub(super) fn resolve_graphs(specs: &[At<GraphSpec>], dir: &Path, findings: &mut Findings) -> Vec<DataGraph> {
    let mut graphs: Vec<DataGraph> = Vec::new();
    for spec in specs {
        let Some(name) = &spec.value.name else { continue };
        if let Err(reason) = check_name(&name.value) {
            findings.push(
                Diagnostic::error(format!("{:?} cannot be the name of a graph: {reason}", shorten(&name.value)))
                    .at(&name.span)
                    .help(format!("write `name = \"{}\"`", make_name(&name.value, "graph"))),
            );
        }
        if graphs.iter().any(|known| known.name == name.value) {
            let message = format!("two graphs are called `{}`", shorten(&name.value));
            findings.push(Diagnostic::error(message).at(&name.span).help("give each graph a name of its own"));
            continue;
        }
        let empty = Generator { kind: GeneratedKind::Grid, scale: 0, degree: 1, seed: 1 };
        let nothing = GraphSource { origin: Origin::Generated(empty), directed: None, weights: None };
        let source = source(spec, dir, findings).unwrap_or(nothing);
        let divide = spec.value.divide.as_ref().map(|divide| divide.value);
        graphs.push(DataGraph { name: name.value.clone(), source, divide, is_divided: false });
    }
    graphs
}

fn source(spec: &At<GraphSpec>, dir: &Path, findings: &mut Findings) -> Option<GraphSource> {
    let GraphSpec { file, generate, format, directed, weights, .. } = &spec.value;
    let origin = match (file, generate) {
        (Some(file), None) => {
            let format = format.as_ref().map(|format| format.value.0);
            let path = dir.join(&file.value);
            if format.is_none() && crate::data::format::GraphFormat::of(&path).is_none() {
                findings.push(
                    Diagnostic::error(format!("the ending of {:?} stands for no format of graphs", shorten(&file.value)))
                        .at(&file.span)
                        .help("name the format: `format = \"edge_list\"`, \"matrix_market\", \"metis\", \"dimacs\", \"gap\" or \"graphalytics\""),
                );
                return None;
            }
            Origin::File(path, format)
        }
        (None, Some(generate)) => {
            if let Some(format) = format {
                let message = "`format` belongs to a `file`, but this graph is made from a seed";
                findings.push(Diagnostic::error(message).at(&format.span));
            }
            if directed.as_ref().is_some_and(|directed| directed.value) {
                let message = "a graph that is made from a seed is undirected";
                let span = directed.as_ref().map_or(&spec.span, |directed| &directed.span);
                findings.push(Diagnostic::error(message).at(span).help("leave `directed` out"));
            }
            Origin::Generated(generator(&generate.value)?)
        }
        (Some(file), Some(generate)) => {
            findings.push(
                Diagnostic::error("a graph has either a `file` or `generate`, not both")
                    .label(&generate.span, "this makes it")
                    .label(&file.span, "this names its file"),
            );
            return None;
        }
        (None, None) => {
            findings.push(
                Diagnostic::error("a graph needs a `file` or `generate`")
                    .at(&spec.span)
                    .help("`file = \"web.el\"`, or `generate = { kind = \"kron\", scale = 16 }`"),
            );
            return None;
        }
    };
    let directed = directed.as_ref().map(|directed| directed.value);
    Some(GraphSource { origin, directed, weights: weights.as_ref().map(|weights| weights.value.0) })
}

fn generator(spec: &GenerateSpec) -> Option<Generator> {
    let whole = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let kind: GeneratedKind = spec.kind.as_ref()?.value.0;
    Some(Generator {
        kind,
        scale: whole(spec.scale.as_ref()?.value.0),
        degree: spec.degree.as_ref().map_or(16, |degree| whole(degree.value.0)),
        seed: spec.seed.as_ref().map_or(GAP_SEED, |seed| whole(seed.value.0)),
    })
}
