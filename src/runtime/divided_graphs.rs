//! Which data graphs are divided among the active ranks. Rank 0 decides it once for a run, since the
//! size of a file may change and not be the same for all nodes.

use std::path::Path;

use crate::data::source::Origin;
use crate::job::{DataGraph, Job};
use crate::system::file_probe::FileProbe;
use crate::workload::requirements::unsuited_to_gangs;

/// Graphs with fewer edges are not divided unless the job asks for it: for them, the time that ranks
/// wait for each other in each round exceeds what they gain.
const MIN_EDGES: u64 = 1 << 20;

/// Bytes of a file for each edge. Lines of text take about this much; other formats and compressed
/// files have more edges than this suggests.
const BYTES_PER_EDGE: u64 = 14;

/// Decides which graphs of a job are divided: those with `divide = true`, and without `divide` those
/// with at least [`MIN_EDGES`], unless an operation on them asks for what no gang provides. A file
/// that does not exist yet counts as small.
pub fn divide_graphs(job: &mut Job) {
    let probe = FileProbe::default();
    let edges = |graph: &DataGraph| match &graph.source.origin {
        Origin::Generated(generator) => generator.edges(),
        Origin::File(path, _) => {
            let bytes = probe.ask(path, |path: &Path| path.metadata().map_or(0, |metadata| metadata.len()));
            bytes.unwrap_or(0) / BYTES_PER_EDGE
        }
    };
    let suits = |graph: &DataGraph| job.operations_on(&graph.name).all(|group| unsuited_to_gangs(group).is_none());
    let is_divided = |graph: &&DataGraph| graph.divide.unwrap_or_else(|| suits(graph) && edges(graph) >= MIN_EDGES);
    let names: Vec<String> = job.graphs.iter().filter(is_divided).map(|graph| graph.name.clone()).collect();
    job.divide_graphs(&names);
}
