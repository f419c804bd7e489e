//! Findings about the shape of the graph: serial phases, barriers, tails, and the critical path.

use super::Finding;
use super::facts::Case;
use crate::job::Job;
use crate::model::TaskId;
use crate::observe::idle::Use;
use crate::observe::style::{count, percent};
use crate::observe::timeline::Slice;
use crate::text::{counted, seconds};

/// Time of a slice during which slots starved, in nanoseconds.
#[derive(Clone, Copy, Default)]
pub(super) struct Starved {
    /// Time during which it ran alone and no task was ready.
    alone: u64,
    /// Time that it would have saved if the work that ran next to starving slots had been spread
    /// over all slots, while further tasks were to become ready ...
    before_more: u64,
    /// ... and after the last task had become ready.
    at_end: u64,
}

impl Starved {
    fn map2(self, other: Starved, f: impl Fn(u64, u64) -> u64) -> Starved {
        Starved {
            alone: f(self.alone, other.alone),
            before_more: f(self.before_more, other.before_more),
            at_end: f(self.at_end, other.at_end),
        }
    }
}

/// For each slice, its time while slots starved.
pub(super) fn starved(case: &Case<'_>) -> Vec<Starved> {
    /// Order of changes at the same time: a task that becomes ready does not wait for itself.
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum SliceChange {
        Ready,
        Starts,
        Ends,
    }
    let mut changes: Vec<(u64, SliceChange, usize)> = Vec::new();
    for (i, slice) in case.slices.iter().enumerate() {
        changes.extend([
            (slice.ready, SliceChange::Ready, i),
            (slice.start, SliceChange::Starts, i),
            (slice.end, SliceChange::Ends, i),
        ]);
    }
    changes.sort_unstable();
    // Totals of a hypothetical slice that runs all the time; a slice gets the difference between
    // its end and its start.
    let mut so_far = Starved::default();
    let mut of_slices = vec![Starved::default(); case.slices.len()];
    let (mut to_come, mut waiting, mut running, mut used, mut at) = (case.slices.len(), 0u32, 0u32, 0u32, 0);
    for (moment, what, i) in changes {
        if running > 0 && waiting == 0 {
            let passed = moment - at;
            let spared = passed - (passed as f64 * (f64::from(used) / f64::from(case.slots)).min(1.0)) as u64;
            match running {
                1 if used < case.slots => so_far.alone += passed,
                _ if to_come > 0 => so_far.before_more += spared,
                _ => {}
            }
            if to_come == 0 {
                so_far.at_end += spared;
            }
        }
        at = moment;
        match what {
            SliceChange::Ready => {
                to_come -= 1;
                waiting += 1;
            }
            SliceChange::Starts => {
                waiting -= 1;
                running += 1;
                used += case.slices[i].slots;
                of_slices[i] = so_far;
            }
            SliceChange::Ends => {
                running -= 1;
                used -= case.slices[i].slots;
                of_slices[i] = so_far.map2(of_slices[i], |until, from| until - from);
            }
        }
    }
    of_slices
}

/// Reduction of the makespan in seconds if this part of each slice were saved.
fn saving_if_spared(case: &Case<'_>, spared: impl Fn(usize) -> u64) -> f64 {
    let mut ran = case.model.ran.clone();
    for (i, slice) in case.slices.iter().enumerate() {
        if let Some(ran) = ran.get_mut(slice.task.index()) {
            *ran = ran.saturating_sub(spared(i)).max(1);
        }
    }
    case.saving_if_ran(&|i| ran[i])
}

/// Finds classes whose tasks run alone while all other slots wait.
pub(super) fn serial(case: &Case<'_>, starved: &[Starved]) -> Option<Finding> {
    if case.slots < 2 {
        return None;
    }
    let alone: Vec<u64> = starved.iter().map(|starved| starved.alone).collect();
    // A task that started among many is a straggler, not a serial phase; one that waited for a slot
    // could have run in parallel.
    let mut by_class = vec![(0u64, 0u64); case.classes.len()];
    let waited = |slice: &Slice| slice.start.saturating_sub(slice.ready);
    let is_phase = |i: usize| alone[i] * 2 > case.slices[i].ran() && waited(&case.slices[i]) * 10 < alone[i];
    for (i, slice) in case.slices.iter().enumerate().filter(|(i, _)| is_phase(*i)) {
        let (time, tasks) = &mut by_class[slice.class as usize];
        *time += alone[i];
        *tasks += 1;
    }
    let total: u64 = by_class.iter().map(|class| class.0).sum();
    let worst = (0..by_class.len()).max_by_key(|&class| by_class[class].0)?;
    let (time, tasks) = by_class[worst];
    if (total as f64) < 0.05e9 * case.wall_s() || tasks == 0 {
        return None;
    }
    let mut serial = vec![false; case.model.ran.len()];
    for (_, slice) in case.slices.iter().enumerate().filter(|(i, s)| is_phase(*i) && s.class as usize == worst) {
        if let Some(serial) = serial.get_mut(slice.task.index()) {
            *serial = true;
        }
    }
    let spread = |i: usize| {
        let ran = case.model.ran[i];
        if serial[i] { (ran / u64::from(case.slots)).max(1) } else { ran }
    };
    let name = &case.names[worst];
    let number = worst as u32;
    let who = counted(tasks, "task");
    Some(
        Finding::new(
            "serial_phase",
            format!("all other tasks wait while class {name} runs"),
            format!(
                "{who} of it ran alone for a total of {}, {} of the wall time, with {} idle. The saving assumes that this work is spread over all slots.",
                seconds(time as f64 / 1e9),
                percent(time as f64 / 1e9 / case.wall_s()),
                counted(case.slots - 1, "slot")
            ),
        )
        .saving(case.saving_if_ran(&spread))
        .of_class(number)
        .change(case.advice_to_spread(number, case.slots.min(64), "divide it into an array, or remove dependencies on it")),
    )
}

/// Finds slots that wait for dependencies while more than one task runs.
pub(super) fn barriers(case: &Case<'_>, starved: &[Starved]) -> Option<Finding> {
    let alone: u64 = starved.iter().map(|starved| starved.alone).sum();
    let idle = case.uses.total(Use::Dependencies) - alone as f64 * f64::from(case.slots.saturating_sub(1));
    let share = idle / case.uses.sum().max(1.0);
    if share < 0.05 {
        return None;
    }
    let number = waited_for(case)?;
    let name = &case.names[number as usize];
    Some(
        Finding::new(
            "dependencies",
            "slots waited for dependencies".to_owned(),
            format!(
                "{} of the slot time was idle while tasks waited for dependencies, most of it before tasks of class {name} became ready. \
                 The saving assumes that the work that ran meanwhile is spread over all slots.",
                percent(share)
            ),
        )
        .saving(saving_if_spared(case, |i| starved[i].before_more))
        .change(case.advice(
            number,
            "needs",
            "needs = \"...[{index}]\"   # if each needs one element only, not the whole array; or make the tasks before it smaller".into(),
        )),
    )
}

/// The class whose tasks became ready after the longest waits.
fn waited_for(case: &Case<'_>) -> Option<u32> {
    let mut by_ready: Vec<(u64, u32)> = case.slices.iter().map(|slice| (slice.ready, slice.class)).collect();
    by_ready.sort_unstable();
    let mut waits = vec![0u64; case.classes.len()];
    for pair in by_ready.windows(2) {
        waits[pair[1].1 as usize] += pair[1].0 - pair[0].0;
    }
    (0..waits.len()).max_by_key(|&class| waits[class]).map(|class| class as u32)
}

/// Finds slots that are idle at the end, while the last tasks run.
pub(super) fn tail(case: &Case<'_>, starved: &[Starved]) -> Option<Finding> {
    if case.share_of(Use::Tail) < 0.05 {
        return None;
    }
    let last = case.slices.iter().max_by_key(|slice| slice.end)?;
    let name = case.run.subject().job.label(last.task);
    let (group, _) = case.group_of_class(last.class)?;
    let highest = case.job().groups.iter().map(|group| group.priority).max().unwrap_or_default();
    let above = highest.saturating_add(1);
    let first = |job: &mut Job| job.groups[group].priority = above;
    let earlier = case.saving_if_asked(&first);
    let smaller = saving_if_spared(case, |i| starved[i].at_end);
    // Starting them earlier is the simpler change; prefer it if it saves at least half as much.
    let (saving, of, key, text) = match earlier * 2.0 >= smaller {
        true => (
            earlier,
            "its class starts before all others",
            "priority",
            format!("priority = {above}   # higher than that of all other tasks, so that long tasks start first"),
        ),
        false => (
            smaller,
            "the work at the end is spread over all slots",
            "array",
            "array = \"...\"   # more and smaller tasks, or `cpus` if the program can use several".to_owned(),
        ),
    };
    Some(
        Finding::new(
            "tail",
            "slots were idle while the last tasks ran".to_owned(),
            format!(
                "{} of the slot time passed at the end with no task left to start. The last task was {name}, started {} before the end. \
                 The saving assumes that {of}.",
                percent(case.share_of(Use::Tail)),
                seconds(case.to.saturating_sub(last.start) as f64 / 1e9)
            ),
        )
        .saving(saving)
        .of_class(last.class)
        .change(case.advice(last.class, key, text)),
    )
}

/// Finds a critical path that bounds the run.
pub(super) fn critical_path(case: &Case<'_>) -> Option<Finding> {
    let ran = |task: TaskId| case.model.ran[task.index()];
    let order = case.graph.order(&ran);
    let length_s = order.critical_path as f64 / 1e9;
    if length_s < 0.6 * case.wall_s() {
        return None;
    }
    let path = case.graph.critical_tasks(&order);
    let mut by_class = vec![0u64; case.classes.len()];
    for &task in &path {
        case.class_of(task.index()).into_iter().for_each(|class| by_class[class as usize] += ran(task));
    }
    let worst = (0..by_class.len()).max_by_key(|&class| by_class[class])? as u32;
    let halved = |i: usize| if case.is_of(i, worst) { case.model.ran[i] / 2 } else { case.model.ran[i] };
    let earliest = case.graph.earliest(&ran);
    let tasks = case.model.ran.len();
    let tight = (0..tasks).filter(|&i| {
        let slack = order.critical_path.saturating_sub(earliest[i].saturating_add(order.upward[i]));
        case.model.ran[i] > 0 && slack * 20 <= order.critical_path
    });
    Some(
        Finding::new(
            "critical_path",
            "the critical path bounds the run".to_owned(),
            format!(
                "{} tasks that need one another take {} of the {} of wall time, however many slots there are; {} of them is class {}. \
                 {} tasks have less than 5 % of slack. The saving is that of making that class twice as fast.",
                count(path.len() as u64),
                seconds(length_s),
                seconds(case.wall_s()),
                percent(by_class[worst as usize] as f64 / order.critical_path.max(1) as f64),
                case.names[worst as usize],
                count(tight.count() as u64)
            ),
        )
        .saving(case.saving_if_ran(&halved))
        .of_class(worst)
        .change(case.advice(worst, "needs", "shorten these tasks, or remove dependencies".into())),
    )
}
