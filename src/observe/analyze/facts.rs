//! The facts that all findings use: the last session, its attempts, and the model for what-if
//! simulations.

use std::collections::{BTreeMap, HashMap};

use super::place::{line_of, line_of_pool};
use super::whatif::{Model, WhatIf};
use super::{Finding, Recommendation};
use crate::graph::TaskGraph;
use crate::job::{Group, Job};
use crate::journal::Session;
use crate::model::{Rank, RankState, State, TaskId};
use crate::observe::idle::{Use, Uses};
use crate::observe::latency::{ClassLatency, classes};
use crate::observe::run_view::{RunView, node_of};
use crate::observe::steps::Steps;
use crate::observe::timeline::{Slice, Timeline};
use crate::observe::vitals;

/// Maximum number of classes examined. A job may have one class per task, and each examination
/// reads all attempts.
const MOST_CLASSES: usize = 100;

/// The facts about a run.
pub(super) struct Case<'a> {
    pub run: &'a RunView,
    pub graph: &'a TaskGraph,
    job: &'a Job,
    /// Attempts of the last session.
    pub slices: Vec<Slice>,
    /// Names of the classes, indexed by [`Slice::class`].
    pub names: Vec<String>,
    /// Latencies of the classes, by the same index.
    pub classes: Vec<ClassLatency>,
    /// Begin and end of the session, in nanoseconds on the clock of the run.
    pub from: u64,
    pub to: u64,
    pub slots: u32,
    pub uses: Uses,
    pub model: Model<'a>,
    /// Class of each task that ran.
    class_of: Vec<Option<u32>>,
    /// Simulated makespan of the unchanged run, in nanoseconds.
    base: u64,
}

/// Number of classes that each kind of finding simulates, by descending work.
pub(super) const MAX_SIMULATED_CLASSES: usize = 3;

impl<'a> Case<'a> {
    /// The facts about a run; `None` if its job is unknown or no task ran.
    ///
    /// # Errors
    /// If the run cannot be simulated.
    pub fn of(run: &'a RunView) -> Option<Result<Case<'a>, String>> {
        let (graph, job) = (run.subject().graph.as_ref()?, run.subject().job.whole()?);
        let timeline = Timeline::of(run);
        let last = timeline.sessions.len().checked_sub(1)?;
        let span = timeline.sessions[last];
        let uses = Uses::of_session(&timeline, last);
        let names = timeline.classes.clone();
        let only: Vec<Slice> = timeline
            .slices
            .iter()
            .filter(|s| s.session as usize == last && s.task.index() < graph.task_count())
            .copied()
            .collect();
        let ranks = most_ranks(run.session());
        if only.is_empty() || ranks.is_empty() {
            return None;
        }
        let here = Timeline { slices: only, classes: names.clone(), sessions: Vec::new(), supply: Vec::new() };
        let mut by_number: Vec<ClassLatency> = classes(&here);
        let number: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
        by_number.sort_by_key(|class| number.get(class.name.as_str()).copied());
        let left_out = run.session().left_out.as_ref();
        let done = |task: TaskId| run.replay.completed(task) || left_out.is_some_and(|left_out| left_out.has(task));
        let model = Model::new((job, graph), &here.slices, &done, ranks);
        let mut class_of = vec![None; graph.task_count()];
        for slice in &here.slices {
            if let Some(class) = class_of.get_mut(slice.task.index()) {
                *class = Some(slice.class);
            }
        }
        let known = |model: Model<'a>| {
            let base = model.makespan(&WhatIf::default())?.max(1);
            Ok(Case {
                run,
                graph,
                job,
                slices: here.slices,
                names,
                classes: by_number,
                from: span.from,
                to: span.to,
                slots: model.ranks.iter().sum(),
                uses,
                model,
                class_of,
                base,
            })
        };
        Some(model.and_then(known))
    }

    /// The job that ran.
    pub fn job(&self) -> &Job {
        self.job
    }

    /// Duration of the session in seconds.
    pub fn wall_s(&self) -> f64 {
        (self.to - self.from) as f64 / 1e9
    }

    /// Share of the slot time in a use.
    pub fn share_of(&self, of: Use) -> f64 {
        self.uses.total(of) / self.uses.sum().max(1.0)
    }

    /// Reduction of the makespan in seconds if tasks had these run times.
    pub fn saving_if_ran(&self, ran: &dyn Fn(usize) -> u64) -> f64 {
        self.saving(&WhatIf { ran: Some(ran), ..WhatIf::default() })
    }

    /// Reduction of the makespan in seconds if tasks had these run times and this overhead in
    /// nanoseconds.
    pub fn saving_if_cheaper(&self, ran: &dyn Fn(usize) -> u64, overhead: u64) -> f64 {
        self.saving(&WhatIf { ran: Some(ran), overhead: Some(overhead), ..WhatIf::default() })
    }

    /// Reduction of the makespan in seconds without the selected attempts.
    pub fn saving_without(&self, which: &dyn Fn(&Slice) -> bool) -> f64 {
        let mut ran = self.model.ran.clone();
        for slice in self.slices.iter().filter(|slice| which(slice)) {
            if let Some(ran) = ran.get_mut(slice.task.index()) {
                *ran = ran.saturating_sub(slice.ran()).max(1);
            }
        }
        self.saving_if_ran(&|task| ran[task])
    }

    /// Reduction of the makespan in seconds with a changed job file.
    pub fn saving_if_asked(&self, job: &dyn Fn(&mut Job)) -> f64 {
        self.saving(&WhatIf { job: Some(job), ..WhatIf::default() })
    }

    /// Makespan on ranks with these slots, relative to the actual ones; infinite if the job does
    /// not fit on them.
    pub fn relative_makespan(&self, ranks: &[u32]) -> f64 {
        let change = WhatIf { ranks: Some(ranks), ..WhatIf::default() };
        self.model.makespan(&change).map_or(f64::INFINITY, |makespan| makespan as f64 / self.base as f64)
    }

    /// A change that cannot be simulated saves nothing.
    fn saving(&self, change: &WhatIf<'_>) -> f64 {
        let makespan = self.model.makespan(change).unwrap_or(self.base);
        let began = self.slices.iter().map(|slice| slice.start).min().unwrap_or(self.from);
        let busy_s = self.to.saturating_sub(began) as f64 / 1e9;
        busy_s * (1.0 - makespan as f64 / self.base as f64).max(0.0)
    }

    /// Classes by descending work, limited to those worth examining.
    pub fn by_work(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.classes.len() as u32).collect();
        let work = |number: u32| self.classes[number as usize].work_s;
        numbers.sort_by(|a, b| work(*b).total_cmp(&work(*a)));
        numbers.truncate(MOST_CLASSES);
        numbers
    }

    /// Class of a task, if it ran.
    pub fn class_of(&self, task: usize) -> Option<u32> {
        self.class_of.get(task).copied().flatten()
    }

    /// CPU seconds that the processes of a class used, and CPU seconds that its attempts held;
    /// `None` if too few are known.
    pub fn cpu_of_class(&self, class: u32) -> Option<(f64, f64)> {
        let (session, job) = (self.run.session(), &self.run.subject().job);
        let attempts = session.attempts.iter().filter(|a| a.attempt > 0 && self.is_of(a.task.index(), class));
        let (mut known, mut cpu_s, mut held_s) = (0, 0.0, 0.0);
        for attempt in attempts {
            // An unreadable index is reported where output is shown.
            let Ok(Some(used)) = self.run.outputs.used(session.began.session, attempt) else { continue };
            known += 1;
            cpu_s += used.cpu_ns as f64 / 1e9;
            held_s += attempt.end.since(attempt.start).as_secs_f64() * f64::from(job.slots(attempt.task));
        }
        (known >= 5).then_some((cpu_s, held_s))
    }

    /// Most memory in bytes that an attempt of a class had used when it ran out of memory; 0 if
    /// unknown.
    pub fn peak_of_killed(&self, class: u32) -> u64 {
        let session = self.run.session();
        let killed = session.attempts.iter().filter(|a| a.outcome.state == State::OutOfMemory);
        let used = |attempt| self.run.outputs.used(session.began.session, attempt).ok().flatten();
        let of_class = killed.filter(|a| self.is_of(a.task.index(), class));
        of_class.filter_map(used).filter_map(|it| it.measured_peak()).max().unwrap_or(0)
    }

    /// True if the task ran and belongs to this class.
    pub fn is_of(&self, task: usize, class: u32) -> bool {
        self.class_of(task) == Some(class)
    }

    /// Maximum number of tasks of a class that ran at once.
    pub fn most_at_once(&self, class: u32) -> u32 {
        let of_class = self.slices.iter().filter(|slice| slice.class == class);
        let changes = of_class.flat_map(|slice| [(slice.start, 1), (slice.end, -1)]).collect();
        u32::try_from(Steps::of(changes).max()).unwrap_or(1).max(1)
    }

    /// Name of a rank's node.
    pub fn node(&self, rank: u32) -> &str {
        node_of(self.run.session(), Rank(rank))
    }

    /// The job-file table that defines a class; if there are several, the one with the most tasks.
    pub fn group_of_class(&self, class: u32) -> Option<(usize, &Group)> {
        let mut counts = vec![0u32; self.job.groups.len()];
        let of_class = self.slices.iter().filter(|slice| slice.class == class);
        of_class.for_each(|slice| counts[self.job.group_of(slice.task).0 as usize] += 1);
        let table = (0..counts.len()).max_by_key(|&table| counts[table]).filter(|&table| counts[table] > 0)?;
        Some((table, &self.job.groups[table]))
    }

    /// A recommendation for the table of a class, at the line of a key.
    pub fn advice(&self, class: u32, key: &str, text: String) -> Option<Recommendation> {
        let (group, _) = self.group_of_class(class)?;
        Some(Recommendation { place: self.place(group, key), text })
    }

    /// A recommendation to give tasks of a class up to this number of CPUs, as far as a rank has
    /// more than they ask for, or to do something else.
    pub fn advice_to_spread(&self, class: u32, cpus: u32, other: &str) -> Option<Recommendation> {
        let (_, group) = self.group_of_class(class)?;
        let cpus = cpus.min(self.model.ranks.iter().copied().max().unwrap_or(1));
        match cpus > group.cpus {
            true => self.advice(
                class,
                "cpus",
                format!("cpus = {cpus}   # if the program can use several CPUs; else {other}"),
            ),
            false => self.advice(class, "array", format!("# {other}")),
        }
    }

    /// Share of the wall time in which operations on divided graphs ran, at most: their durations
    /// on other ranks are unknown.
    pub fn share_of_divided(&self) -> f64 {
        let divided = self.slices.iter().filter(|slice| self.job.group(slice.task).is_divided);
        divided.map(|slice| slice.ran() as f64 / 1e9).sum::<f64>() / self.wall_s().max(1e-9)
    }

    /// The place of a key of a job-file table, or of the table if it has no such key.
    pub fn place(&self, group: usize, key: &str) -> String {
        let began = &self.run.session().began;
        let (file, name) = (began.job_path.display(), &self.job.groups[group].name);
        match line_of(&began.job_text, group, key) {
            Some(line) => format!("{file}:{line}, task \"{name}\""),
            None => format!("{file}, task \"{name}\""),
        }
    }

    /// The place of a key of a pool, or of the pool if it has no such key.
    pub fn place_of_pool(&self, pool: &str, key: &str) -> String {
        let began = &self.run.session().began;
        let file = began.job_path.display();
        match line_of_pool(&began.job_text, pool, key) {
            Some(line) => format!("{file}:{line}, pool \"{pool}\""),
            None => format!("{file}, pool \"{pool}\""),
        }
    }

    /// The line of a key of a job-file table, as typed.
    pub fn line(&self, group: usize, key: &str) -> Option<&str> {
        let text = &self.run.session().began.job_text;
        let line = text.lines().nth(line_of(text, group, key)? - 1)?.trim();
        line.starts_with(key).then_some(line)
    }

    /// Number of tasks of a group that slots and memory can hold at once; `None` if unknown.
    pub fn room_for(&self, group: &Group) -> Option<u32> {
        let slots = group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)).max(1);
        let by_slots = self.slots / slots;
        let Some(memory) = group.memory else { return (group.gpus == 0).then_some(by_slots) };
        let mut nodes: HashMap<&str, u64> = HashMap::new();
        let looks = vitals::all(&self.run.dir.vitals());
        for look in &looks {
            let most = nodes.entry(self.node(look.rank)).or_default();
            *most = (*most).max(look.vitals.node_memory);
        }
        let by_memory: u64 = nodes.values().map(|most| most / memory.max(1)).sum();
        (group.gpus == 0 && by_memory > 0).then(|| by_slots.min(u32::try_from(by_memory).unwrap_or(u32::MAX)))
    }

    /// Idle time by cause, as shares of the slot time, largest first; without those below 1 %.
    pub fn idle(&self) -> Vec<(Use, f64)> {
        let causes = Use::ALL.into_iter().filter(|of| of.is_idle()).map(|of| (of, self.share_of(of)));
        let mut causes: Vec<(Use, f64)> = causes.filter(|(_, share)| *share >= 0.01).collect();
        causes.sort_by(|a, b| b.1.total_cmp(&a.1));
        causes
    }

    /// A recommendation for the command that starts the run.
    pub fn advice_on_start(&self, text: String) -> Option<Recommendation> {
        Some(Recommendation { place: "where the run is started".to_owned(), text })
    }

    /// True if the saving is large enough to report.
    pub fn matters(&self, finding: &Finding) -> bool {
        finding.saves_s >= 0.02 * self.wall_s() || finding.saves_node_s >= 0.1 * self.node_s()
    }

    /// Node-seconds of the session.
    pub fn node_s(&self) -> f64 {
        let nodes: std::collections::BTreeSet<&str> =
            self.run.session().began.ranks.iter().map(|rank| rank.node.as_str()).collect();
        nodes.len() as f64 * self.wall_s()
    }
}

/// Slots per rank when most ranks were active, without ranks that only coordinate.
fn most_ranks(session: &Session) -> Vec<u32> {
    let mut present: BTreeMap<u32, u32> = session.began.ranks.iter().map(|info| (info.rank, info.slots)).collect();
    let slots = |ranks: &BTreeMap<u32, u32>| ranks.values().map(|&slots| u64::from(slots)).sum::<u64>();
    let mut most = present.clone();
    for change in &session.ranks {
        let takes_part = change.state == RankState::Active;
        present.insert(change.info.rank, if takes_part { change.info.slots } else { 0 });
        if slots(&present) > slots(&most) {
            most = present.clone();
        }
    }
    most.into_values().filter(|slots| *slots > 0).collect()
}
