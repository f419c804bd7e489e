//! Which tasks of a job a run is to run, and what it leaves out.
//!
//! | selector | chosen |
//! |---|---|
//! | `until` | these tasks, and all that they need |
//! | `only` | these tasks alone: what they need must be there already |
//! | `omit` | all but these tasks and what needs them |
//!
//! `until` and `only` add to each other; `omit` takes from what they choose. A dependency counts
//! whatever its condition. Tasks that are left out count as ended for this run, but not as
//! complete: a later run has them to do.

use crate::graph::link::Condition;
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Job;
use crate::model::TaskId;

/// The selectors of a run, each a name of tasks as [`Job::find`] takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Tasks to run, with all that they need.
    pub until: Vec<String>,
    /// Tasks to run without what they need.
    pub only: Vec<String>,
    /// Tasks to leave out, with all that needs them.
    pub omit: Vec<String>,
}

/// Why a task is chosen or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// No selector chooses tasks.
    All,
    /// `--until` names it.
    Until,
    /// This chosen task needs it.
    NeededBy(u32),
    /// `--only` names it.
    Only,
    /// Nothing chooses it.
    NotChosen,
    /// `--omit` names it.
    Omitted,
    /// It needs this task, which is left out.
    Needs(u32),
}

impl Choice {
    fn runs(self) -> bool {
        matches!(self, Choice::All | Choice::Until | Choice::NeededBy(_) | Choice::Only)
    }
}

/// The chosen tasks of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// For each task; empty if all tasks are chosen.
    choices: Vec<Choice>,
    words: String,
}

impl Selection {
    /// True if it chooses all tasks.
    pub fn is_all(&self) -> bool {
        self.until.is_empty() && self.only.is_empty() && self.omit.is_empty()
    }

    /// The options as a user types them.
    pub fn words(&self) -> String {
        let options = [("--until", &self.until), ("--only", &self.only), ("--omit", &self.omit)];
        let words = options.iter().flat_map(|(option, names)| {
            names.iter().map(move |name| format!("{option} {}", crate::text::shell_word(name)))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Finds the chosen tasks.
    ///
    /// # Errors
    /// If a selector names no task, or nothing is chosen.
    pub fn of(&self, job: &Job, graph: &TaskGraph) -> Result<Selected, String> {
        let tasks = graph.task_count();
        if self.is_all() {
            return Ok(Selected::all());
        }
        let mut choices = self.chosen(job, graph)?;
        for task in found(job, "--omit", &self.omit)? {
            choices[task as usize] = Choice::Omitted;
        }
        if !self.omit.is_empty() {
            omit_dependents(graph, &mut choices);
        }
        choices.truncate(tasks);
        let selected = Selected { choices, words: self.words() };
        match selected.count() {
            0 => Err(format!("`{}` leaves no task to run: choose others, or omit less", selected.words)),
            _ => Ok(selected),
        }
    }

    /// For each node of the graph what `until` and `only` say.
    fn chosen(&self, job: &Job, graph: &TaskGraph) -> Result<Vec<Choice>, String> {
        let default = if self.until.is_empty() && self.only.is_empty() { Choice::All } else { Choice::NotChosen };
        let mut choices = vec![default; graph.node_count()];
        for task in found(job, "--until", &self.until)? {
            choices[task as usize] = Choice::Until;
        }
        if !self.until.is_empty() {
            for node in graph.topological().iter().rev() {
                if !choices[node as usize].runs() {
                    // Behind a join, the task that needs it.
                    let needed_by = graph.successors(node).find_map(|edge| match choices[edge.node() as usize] {
                        Choice::NeededBy(task) if graph.join(edge.node()).is_some() => Some(task),
                        choice if choice.runs() => Some(edge.node()),
                        _ => None,
                    });
                    choices[node as usize] = needed_by.map_or(Choice::NotChosen, Choice::NeededBy);
                }
            }
        }
        for task in found(job, "--only", &self.only)? {
            let choice = &mut choices[task as usize];
            *choice = if choice.runs() { *choice } else { Choice::Only };
        }
        Ok(choices)
    }
}

/// The tasks that the selectors of an option name.
fn found(job: &Job, option: &str, names: &[String]) -> Result<Vec<u32>, String> {
    let mut tasks = Vec::new();
    for name in names {
        let ranges = job.find(name).map_err(|reason| format!("{option}: {reason}"))?;
        tasks.extend(ranges.into_iter().flatten());
    }
    Ok(tasks)
}

/// Leaves out all that needs what is omitted.
fn omit_dependents(graph: &TaskGraph, choices: &mut [Choice]) {
    let is_out = |choice: Choice| matches!(choice, Choice::Omitted | Choice::Needs(_));
    for node in graph.topological().iter() {
        if is_out(choices[node as usize]) {
            continue;
        }
        let needs = graph.predecessors(node).find_map(|edge| match choices[edge.node() as usize] {
            Choice::Needs(task) if graph.join(edge.node()).is_some() => Some(task),
            choice => is_out(choice).then_some(edge.node()),
        });
        if let Some(task) = needs {
            choices[node as usize] = Choice::Needs(task);
        }
    }
}

impl Selected {
    /// All tasks.
    pub fn all() -> Selected {
        Selected { choices: Vec::new(), words: String::new() }
    }

    /// True if no task is left out, whatever has been asked for.
    pub fn is_all(&self) -> bool {
        self.choices.iter().all(|choice| choice.runs())
    }

    /// The options that chose, as a user types them.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// True if the task is chosen.
    pub fn has(&self, task: TaskId) -> bool {
        self.choices.get(task.index()).is_none_or(|choice| choice.runs())
    }

    /// For each task whether it is left out of the run; empty if none is.
    pub fn left_out(&self, tasks: usize) -> Vec<bool> {
        if self.is_all() { Vec::new() } else { (0..tasks as u32).map(|task| !self.has(TaskId(task))).collect() }
    }

    /// Number of chosen tasks; 0 if there were no selectors.
    fn count(&self) -> usize {
        self.choices.iter().filter(|choice| choice.runs()).count()
    }

    /// Why a task is chosen or left out, as the end of a sentence that begins with the task.
    pub fn reason(&self, job: &Job, task: TaskId) -> String {
        match self.choices.get(task.index()).copied().unwrap_or(Choice::All) {
            Choice::All => "has not completed".to_owned(),
            Choice::Until => "is named by --until".to_owned(),
            Choice::NeededBy(by) => format!("is needed by {}", job.task_name(TaskId(by))),
            Choice::Only => "is named by --only".to_owned(),
            Choice::NotChosen => "is not chosen".to_owned(),
            Choice::Omitted => "is named by --omit".to_owned(),
            Choice::Needs(task) => format!("needs {}, which is left out", job.task_name(TaskId(task))),
        }
    }

    /// The first chosen task that needs a task which is neither chosen nor `there`, with that task
    /// and the condition on its end. Only tasks that `will_run` are looked at. A task that may
    /// follow any end of another needs nothing of it.
    pub fn unmet(
        &self,
        graph: &TaskGraph,
        will_run: &dyn Fn(TaskId) -> bool,
        there: &dyn Fn(TaskId) -> bool,
    ) -> Option<(TaskId, TaskId)> {
        if self.choices.is_empty() {
            return None;
        }
        let tasks = graph.task_count();
        // Of each join, a task that it lacks.
        let mut lacks: Vec<Option<u32>> = vec![None; graph.node_count() - tasks];
        let mut known: Vec<Option<bool>> = vec![None; tasks];
        for node in graph.topological().iter() {
            let is_task = (node as usize) < tasks;
            if is_task && !(self.has(TaskId(node)) && will_run(TaskId(node))) {
                continue;
            }
            let counts_any = graph.join(node) == Some(JoinRule::AnyNotOk);
            let lack = graph.predecessors(node).filter(|e| counts_any || e.on() != Condition::Any).find_map(|edge| {
                let before = edge.node() as usize;
                match before.checked_sub(tasks) {
                    Some(join) => lacks[join],
                    None => {
                        let task = TaskId(edge.node());
                        let is_there = *known[before].get_or_insert_with(|| self.has(task) || there(task));
                        (!is_there).then_some(edge.node())
                    }
                }
            });
            match (lack, is_task) {
                (Some(lack), true) => return Some((TaskId(node), TaskId(lack))),
                (lack, false) => lacks[node as usize - tasks] = lack,
                (None, true) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::graph_of;

    /// a[0-2] -> b (all), b -> c[0-1], d after any end of b, e if c[0] fails; f alone.
    const JOB: &str = "[[task]]\nname = 'a'\narray = '0-2'\ncommand = 'x'\n\
        [[task]]\nname = 'b'\nneeds = 'a'\ncommand = 'x'\n\
        [[task]]\nname = 'c'\narray = '0-1'\nneeds = 'b'\ncommand = 'x'\n\
        [[task]]\nname = 'd'\nneeds = 'afterany:b'\ncommand = 'x'\n\
        [[task]]\nname = 'e'\nneeds = 'afternotok:c[0]'\ncommand = 'x'\n\
        [[task]]\nname = 'f'\ncommand = 'x'\n";

    fn job() -> (Job, TaskGraph) {
        let kernels = crate::exec::Kernels::builtin();
        let loaded = crate::job::parse(JOB, "j", std::path::Path::new("/"), &kernels).unwrap();
        let graph = graph_of(&loaded).unwrap();
        (loaded.job, graph)
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    fn selected(until: &[&str], only: &[&str], omit: &[&str]) -> Result<Selected, String> {
        let (job, graph) = job();
        Selection { until: names(until), only: names(only), omit: names(omit) }.of(&job, &graph)
    }

    fn chosen(until: &[&str], only: &[&str], omit: &[&str]) -> Vec<String> {
        let (job, graph) = job();
        let selected = selected(until, only, omit).unwrap();
        let tasks = (0..graph.task_count() as u32).map(TaskId);
        tasks.filter(|&task| selected.has(task)).map(|task| job.task_name(task)).collect()
    }

    #[test]
    fn selectors_choose_what_they_say() {
        assert_eq!(chosen(&["b"], &[], &[]), ["a[0]", "a[1]", "a[2]", "b"]);
        assert_eq!(chosen(&["c[1]"], &[], &[]), ["a[0]", "a[1]", "a[2]", "b", "c[1]"]);
        assert_eq!(chosen(&["a[0-1]", "f"], &[], &[]), ["a[0]", "a[1]", "f"]);
        assert_eq!(chosen(&[], &["c", "f"], &[]), ["c[0]", "c[1]", "f"]);
        assert_eq!(chosen(&[], &[], &["c[0]"]), ["a[0]", "a[1]", "a[2]", "b", "c[1]", "d", "f"]);
        assert_eq!(chosen(&[], &[], &["a[1]"]), ["a[0]", "a[2]", "f"], "any condition counts");
        assert_eq!(chosen(&["e"], &["f"], &["c[1]"]), ["a[0]", "a[1]", "a[2]", "b", "c[0]", "e", "f"]);
        assert_eq!(chosen(&[], &[], &[]).len(), 9);
    }

    #[test]
    fn each_choice_has_a_reason() {
        let (job, graph) = job();
        let selected = selected(&["c[1]"], &[], &["f"]).unwrap();
        let why = |task: u32| selected.reason(&job, TaskId(task));
        assert_eq!([why(0), why(3), why(5)], ["is needed by b", "is needed by c[1]", "is named by --until"]);
        assert_eq!([why(4), why(8)], ["is not chosen", "is named by --omit"]);
        let omitted = Selection { omit: names(&["a[2]"]), ..Selection::default() }.of(&job, &graph).unwrap();
        assert_eq!(omitted.reason(&job, TaskId(3)), "needs a[2], which is left out");
        assert_eq!(omitted.words(), "--omit 'a[2]'");
    }

    #[test]
    fn nothing_and_nobody_are_refused() {
        assert!(selected(&["a"], &[], &["a"]).unwrap_err().contains("leaves no task"));
        assert!(selected(&["z"], &[], &[]).unwrap_err().starts_with("--until: the job has no task `z`"));
        assert!(selected(&[], &[], &["c[7]"]).unwrap_err().starts_with("--omit: "));
    }

    #[test]
    fn what_alone_runs_needs_what_it_needs() {
        let (_, graph) = job();
        let unmet = |only: &[&str], there: &[u32]| {
            let selected = selected(&[], only, &[]).unwrap();
            selected.unmet(&graph, &|_| true, &|task| there.contains(&task.0)).map(|(task, needs)| (task.0, needs.0))
        };
        assert_eq!(unmet(&["b"], &[]), Some((3, 0)));
        assert_eq!(unmet(&["b"], &[0, 2]), Some((3, 1)));
        assert_eq!(unmet(&["b"], &[0, 1, 2]), None);
        assert_eq!(unmet(&["b", "a[1]"], &[0, 2]), None);
        assert_eq!(unmet(&["d"], &[]), None, "it may follow any end");
        assert_eq!(unmet(&["e"], &[]), Some((7, 4)), "nobody knows whether c[0] failed");
        let only = selected(&[], &["b"], &[]).unwrap();
        assert_eq!(only.unmet(&graph, &|task| task.0 != 3, &|_| false), None, "b is complete");
    }
}
