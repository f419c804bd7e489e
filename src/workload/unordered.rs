//! Changes of data graphs without an order: what an operation sees then depends on chance.

use crate::graph::TaskGraph;
use crate::job::Job;
use crate::model::TaskId;

/// Operations on a graph that are compared, at most: the first ones.
const MAX_COMPARED: usize = 1000;

/// Changes whose order is looked for, at most.
const MAX_CHANGES: usize = 16;

/// The first task that changes a data graph, and another operation on that graph, of which none
/// waits for the other, directly or not.
pub(crate) fn unordered_changes(job: &Job, graph: &TaskGraph, data: &str) -> Option<(TaskId, TaskId)> {
    let tasks = job.operations_on(data).flat_map(|(group, changes)| {
        (group.first.0..).take(group.count as usize).map(move |task| (TaskId(task), changes))
    });
    let tasks: Vec<(TaskId, bool)> = tasks.take(MAX_COMPARED).collect();
    tasks.iter().filter(|(_, changes)| *changes).take(MAX_CHANGES).find_map(|&(change, _)| {
        let before = reached(graph, change, &|node| graph.predecessors(node).map(|edge| edge.node()).collect());
        let after = reached(graph, change, &|node| graph.successors(node).map(|edge| edge.node()).collect());
        let is_ordered = |task: TaskId| before[task.index()] || after[task.index()];
        tasks.iter().find(|(task, _)| *task != change && !is_ordered(*task)).map(|(other, _)| (change, *other))
    })
}

/// The nodes that are reached from a task.
fn reached(graph: &TaskGraph, from: TaskId, next: &dyn Fn(u32) -> Vec<u32>) -> Vec<bool> {
    let mut reached = vec![false; graph.node_count()];
    let mut open = vec![from.0];
    while let Some(node) = open.pop() {
        for other in next(node) {
            if !std::mem::replace(&mut reached[other as usize], true) {
                open.push(other);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::Kernels;
    use crate::workload::graph_of;

    #[test]
    fn an_operation_beside_a_change_is_found() {
        let task = |name: &str, operation: &str, more: &str| {
            format!("[[task]]\nname = '{name}'\ngraph = 'g'\noperation = '{operation}'\n{more}\n")
        };
        let edges = "args = { edges = [[1, 2]] }";
        let job = |needs: &str| {
            let text = "[[graph]]\nname = 'g'\ngenerate = { kind = 'grid', scale = 4 }\n".to_owned()
                + &task("a", "triangles", "")
                + &task("ins", "insert_edges", &format!("{edges}\nneeds = 'a'"))
                + "[[task]]\nname = 'all'\ncommand = 'true'\nneeds = 'ins'\n"
                + &task("b", "components", needs);
            let loaded = crate::job::parse(text.as_str(), "j.toml", Path::new("."), &Kernels::builtin()).unwrap();
            unordered_changes(&loaded.job, &graph_of(&loaded).unwrap(), "g")
                .map(|(one, two)| (loaded.job.task_name(one), loaded.job.task_name(two)))
        };
        assert_eq!(job(""), Some(("ins".into(), "b".into())));
        assert_eq!(job("needs = 'all'"), None);
    }
}
