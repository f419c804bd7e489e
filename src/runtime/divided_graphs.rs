//! Which data graphs are divided among the active ranks. Rank 0 decides it once for a run, since
//! the size of a file may change and not be the same for all nodes.

use std::path::Path;

use crate::data::source::Origin;
use crate::job::{DataGraph, Job};
use crate::system::file_probe::FileProbe;
use crate::workload::requirements::unsuited_to_division;

/// Graphs with fewer edges are not divided unless the job asks for it: for them, the time that
/// ranks wait for each other in each round exceeds what they gain.
const MIN_EDGES: u64 = 1 << 20;

/// Bytes of a file for each edge. Lines of text take about this much; other formats and compressed
/// files have more edges than this suggests.
const BYTES_PER_EDGE: u64 = 14;

/// Decides which graphs of a job are divided: those with `divide = true`, and without `divide`
/// those with at least `MIN_EDGES`, unless an operation on them asks for what no gang provides. A
/// file that does not exist yet counts as small.
pub fn divide_graphs(job: &mut Job) {
    let probe = FileProbe::default();
    let edges = |graph: &DataGraph| match &graph.source.origin {
        Origin::Generated(generator) => generator.edges(),
        Origin::File(..) => {
            let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
            let files = graph.source.files();
            let bytes = files.iter().map(|file| probe.ask(&file.path, size).unwrap_or(0));
            bytes.sum::<u64>() / BYTES_PER_EDGE
        }
    };
    let suits =
        |graph: &DataGraph| job.operations_on(&graph.name).all(|(group, _)| unsuited_to_division(group).is_none());
    let is_divided = |graph: &&DataGraph| graph.divide.unwrap_or_else(|| suits(graph) && edges(graph) >= MIN_EDGES);
    let names: Vec<String> = job.graphs.iter().filter(is_divided).map(|graph| graph.name.clone()).collect();
    job.divide_graphs(&names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::job::parse;
    use crate::model::RankRoom;

    #[test]
    fn large_graphs_are_divided_unless_the_job_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let large = std::fs::File::create(dir.path().join("large.el")).unwrap();
        large.set_len(MIN_EDGES * BYTES_PER_EDGE).unwrap();
        let mut text = String::new();
        for (name, origin, more, asks) in [
            ("large_kron", "generate = { kind = 'kron', scale = 16 }", "", ""),
            ("small_kron", "generate = { kind = 'kron', scale = 15 }", "", ""),
            ("grid", "generate = { kind = 'grid', scale = 20, degree = 1 }", "", ""),
            ("whole", "generate = { kind = 'kron', scale = 16 }", "divide = false", ""),
            ("chosen", "generate = { kind = 'kron', scale = 4 }", "divide = true", ""),
            ("asking", "generate = { kind = 'kron', scale = 16 }", "", "memory = '1G'"),
            ("large_file", "file = 'large.el'", "", ""),
            ("no_file", "file = 'later.el'", "", ""),
        ] {
            text += &format!("[[graph]]\nname = '{name}'\n{origin}\n{more}\n");
            text += &format!("[[task]]\nname = '{name}'\ngraph = '{name}'\noperation = 'components'\n{asks}\n");
        }
        let mut job = parse(text, "j.toml", dir.path(), &Kernels::builtin()).unwrap().job;
        divide_graphs(&mut job);
        let divided = ["large_kron", "grid", "chosen", "large_file"];
        assert_eq!(job.divided_graphs(), divided);
        let groups = job.groups.iter().filter(|group| group.is_divided).map(|group| &*group.name);
        assert_eq!(groups.collect::<Vec<_>>(), divided, "so are their operations");
        let needs_gang = |ranks| job.groups[0].needs_gang(RankRoom::of_slots(4), ranks);
        assert!(needs_gang(2) && !needs_gang(1), "one rank needs no gang");
    }
}
