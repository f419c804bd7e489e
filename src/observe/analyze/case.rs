//! The facts that all findings argue from: the last session, what ran in it, and the model that answers "what if".

use super::place::line_of;
use super::whatif::{Change, Model};
use super::{Advice, Finding};
use crate::graph::TaskGraph;
use crate::job::Group;
use crate::model::Rank;
use crate::observe::idle::{Use, Uses};
use crate::observe::latency::{Class, classes};
use crate::observe::run_view::{RunView, node_of};
use crate::observe::steps::Steps;
use crate::observe::timeline::{Slice, Timeline};

/// See the module's text.
pub(super) struct Case<'a> {
    pub run: &'a RunView,
    pub graph: &'a TaskGraph,
    /// What ran in the last session.
    pub slices: Vec<Slice>,
    /// Names of the classes, by [`Slice::class`].
    pub names: Vec<String>,
    /// The classes, by the same number.
    pub classes: Vec<Class>,
    /// When the session began and ended, in nanoseconds of the run's clock.
    pub from: u64,
    pub to: u64,
    pub slots: u32,
    pub uses: Uses,
    pub model: Model<'a>,
    /// The class of each task that ran.
    class_of: Vec<Option<u32>>,
    /// The makespan of the model as it is.
    base: u64,
    /// The table of the job file that each group of the model is, from 0.
    tables: Vec<usize>,
}

impl<'a> Case<'a> {
    /// The facts of a run; `None` if its graph is not known or nothing ran.
    pub fn of(run: &'a RunView) -> Option<Case<'a>> {
        let graph = run.subject().graph.as_deref()?;
        let timeline = Timeline::of(run);
        let last = timeline.sessions.len().checked_sub(1)?;
        let span = timeline.sessions[last];
        let uses = Uses::of_session(&timeline, last);
        let names = timeline.classes.clone();
        let only: Vec<Slice> = timeline.slices.iter().filter(|s| s.session as usize == last).copied().collect();
        if only.is_empty() || span.slots == 0 {
            return None;
        }
        let here = Timeline { slices: only, classes: names.clone(), sessions: Vec::new(), supply: Vec::new() };
        let mut by_number: Vec<Class> = classes(&here);
        by_number.sort_by_key(|class| names.iter().position(|name| *name == class.name));
        let overhead = overhead(&here.slices);
        let (model, tables) = model(run, graph, &here.slices, overhead);
        let mut class_of = vec![None; graph.task_count()];
        for slice in &here.slices {
            if let Some(class) = class_of.get_mut(slice.task.index()) {
                *class = Some(slice.class);
            }
        }
        let mut case = Case {
            run,
            graph,
            slices: here.slices,
            names,
            classes: by_number,
            from: span.from,
            to: span.to,
            slots: span.slots,
            uses,
            model,
            class_of,
            base: 0,
            tables,
        };
        case.base = case.makespan_with(None, None, None, span.slots, overhead).max(1);
        Some(case)
    }

    /// How long the session went on, in seconds.
    pub fn wall_s(&self) -> f64 {
        (self.to - self.from) as f64 / 1e9
    }

    /// Slot-seconds of a use, spread over all slots: how much shorter the run would be without it, at best.
    pub fn wall_of(&self, of: Use) -> f64 {
        self.uses.total(of) / 1e9 / f64::from(self.slots)
    }

    /// The share of slot time in a use.
    pub fn share_of(&self, of: Use) -> f64 {
        self.uses.total(of) / self.uses.sum().max(1.0)
    }

    /// Seconds that the run would be shorter if tasks took this long.
    pub fn saving_if_ran(&self, ran: &dyn Fn(usize) -> u64) -> f64 {
        self.saving(self.makespan_with(Some(ran), None, None, self.slots, self.model.overhead))
    }

    /// Seconds that the run would be shorter if tasks took this long and starting one cost so many nanoseconds.
    pub fn saving_if_cheaper(&self, ran: &dyn Fn(usize) -> u64, overhead: u64) -> f64 {
        self.saving(self.makespan_with(Some(ran), None, None, self.slots, overhead))
    }

    /// Seconds that the run would be shorter if tasks held so many slots, or groups had these limits.
    pub fn saving_if_shaped(&self, width: &dyn Fn(usize) -> u32, limit: &dyn Fn(usize) -> u32) -> f64 {
        self.saving(self.makespan_with(None, Some(width), Some(limit), self.slots, self.model.overhead))
    }

    /// The makespan on so many slots, relative to that on those that there were.
    pub fn relative_makespan(&self, slots: u32) -> f64 {
        self.makespan_with(None, None, None, slots, self.model.overhead) as f64 / self.base as f64
    }

    fn makespan_with(
        &self,
        ran: Option<&dyn Fn(usize) -> u64>,
        width: Option<&dyn Fn(usize) -> u32>,
        limit: Option<&dyn Fn(usize) -> u32>,
        slots: u32,
        overhead: u64,
    ) -> u64 {
        let (own_ran, own_width, own_limit) = (&self.model.ran, &self.model.width, &self.model.limit);
        self.model.makespan(&Change {
            ran: ran.unwrap_or(&|i| own_ran[i]),
            width: width.unwrap_or(&|i| own_width[i]),
            limit: limit.unwrap_or(&|g| own_limit[g]),
            slots,
            overhead,
        })
    }

    fn saving(&self, makespan: u64) -> f64 {
        let began = self.slices.iter().map(|slice| slice.start).min().unwrap_or(self.from);
        let busy_s = self.to.saturating_sub(began) as f64 / 1e9;
        busy_s * (1.0 - makespan as f64 / self.base as f64).max(0.0)
    }

    /// Seconds that the run would be shorter if groups had the second limits instead of the first.
    pub fn gain_between(&self, was: &dyn Fn(usize) -> u32, mended: &dyn Fn(usize) -> u32) -> f64 {
        let [was, mended] =
            [was, mended].map(|limit| self.makespan_with(None, None, Some(limit), self.slots, self.model.overhead));
        self.wall_s() * (1.0 - mended as f64 / was.max(1) as f64).max(0.0)
    }

    /// The class of a task, if it ran.
    pub fn class_of(&self, task: usize) -> Option<u32> {
        self.class_of.get(task).copied().flatten()
    }

    /// Seconds of CPU that the processes of a class used, and seconds that its attempts held CPUs; `None` if too few of them are known.
    pub fn cpu_of_class(&self, class: u32) -> Option<(f64, f64)> {
        let session = self.run.session();
        let attempts = session.attempts.iter().filter(|a| a.attempt > 0 && self.is_of(a.task.index(), class));
        let (mut known, mut cpu_s, mut held_s) = (0, 0.0, 0.0);
        for attempt in attempts {
            // An index that cannot be read is told where output is asked for.
            let Ok(Some(used)) = self.run.outputs.used(session.began.session, attempt) else { continue };
            known += 1;
            cpu_s += used.cpu_ns as f64 / 1e9;
            let width = self.model.width.get(attempt.task.index()).copied().unwrap_or(1);
            held_s += attempt.end.since(attempt.start).as_secs_f64() * f64::from(width);
        }
        (known >= 5).then_some((cpu_s, held_s))
    }

    /// True if the task ran and is of this class.
    pub fn is_of(&self, task: usize, class: u32) -> bool {
        self.class_of(task) == Some(class)
    }

    /// The most tasks of a class that ran at once.
    pub fn most_at_once(&self, class: u32) -> u32 {
        let of_class = self.slices.iter().filter(|slice| slice.class == class);
        let changes = of_class.flat_map(|slice| [(slice.start, 1), (slice.end, -1)]).collect();
        u32::try_from(Steps::of(changes).max()).unwrap_or(1).max(1)
    }

    /// Name of the node of a rank.
    pub fn node(&self, rank: u32) -> &str {
        node_of(self.run.session(), Rank(rank))
    }

    /// The table of the job file that tasks of a class come from; of several, the one with the most tasks.
    pub fn group_of_class(&self, class: u32) -> Option<(usize, &Group)> {
        let mut counts = vec![0u32; self.tables.len()];
        self.slices
            .iter()
            .filter(|s| s.class == class && s.task.index() < self.model.group.len())
            .for_each(|s| counts[self.model.group[s.task.index()] as usize] += 1);
        let group = (0..counts.len()).max_by_key(|&g| counts[g])?;
        let of_group = |s: &&Slice| s.class == class && self.model.group.get(s.task.index()) == Some(&(group as u32));
        let task = self.slices.iter().find(of_group)?.task;
        Some((group, self.run.subject().job.group(task)?))
    }

    /// An advice for the table of a class, at the line of a key.
    pub fn advice(&self, class: u32, key: &str, text: String) -> Option<Advice> {
        let (group, facts) = self.group_of_class(class)?;
        let began = &self.run.session().began;
        let file = began.job_path.display();
        let place = match line_of(&began.job_text, self.tables[group], key) {
            Some(line) => format!("{file}:{line}, task \"{}\"", facts.name),
            None => format!("{file}, task \"{}\"", facts.name),
        };
        Some(Advice { place, text })
    }

    /// An advice that concerns how the run is started.
    pub fn advice_on_start(&self, text: String) -> Option<Advice> {
        Some(Advice { place: "where the run is started".to_owned(), text })
    }

    /// True if the saving is worth a sentence.
    pub fn matters(&self, finding: &Finding) -> bool {
        finding.saves_s >= 0.02 * self.wall_s() || finding.saves_node_s >= 0.1 * self.node_s()
    }

    /// Node-seconds that the session held.
    pub fn node_s(&self) -> f64 {
        let nodes: std::collections::BTreeSet<&str> =
            self.run.session().began.ranks.iter().map(|rank| rank.node.as_str()).collect();
        nodes.len() as f64 * self.wall_s()
    }
}

/// The median time between two tasks of one slot where the second was ready already: what it costs to start a task.
fn overhead(slices: &[Slice]) -> u64 {
    let mut ends: rustc_hash::FxHashMap<(u32, u16), u64> = rustc_hash::FxHashMap::default();
    let mut gaps = Vec::new();
    for slice in slices {
        let before = ends.insert((slice.rank, slice.slot), slice.end);
        if let Some(end) = before.filter(|&end| slice.ready <= end && slice.start >= end) {
            gaps.push(slice.start - end);
        }
    }
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or(0)
}

/// The model of a session, and the number of the job file's table behind each of its groups.
fn model<'a>(run: &RunView, graph: &'a TaskGraph, slices: &[Slice], overhead: u64) -> (Model<'a>, Vec<usize>) {
    let tasks = graph.task_count();
    let job = &run.subject().job;
    let (mut ran, mut width) = (vec![0u64; tasks], vec![1u32; tasks]);
    for slice in slices.iter().filter(|slice| slice.task.index() < tasks) {
        let i = slice.task.index();
        // Attempts at one task come one after the other; one of no length still took its turn.
        ran[i] = ran[i].saturating_add(slice.ran().max(1));
        width[i] = slice.slots;
    }
    let (mut group, mut limit, mut tables) = (vec![0u32; tasks], Vec::new(), Vec::new());
    let mut first = None;
    for (i, group) in group.iter_mut().enumerate() {
        let facts = job.group(crate::model::TaskId(i as u32));
        let begins = facts.map(|facts| facts.first);
        if tables.is_empty() || begins != first {
            first = begins;
            tables.push(tables.len());
            limit.push(facts.and_then(|facts| facts.limit).unwrap_or(u32::MAX));
        }
        *group = tables.len() as u32 - 1;
    }
    (Model { graph, ran, width, group, limit, overhead }, tables)
}
