//! The shape of the graph: phases in which one task runs alone, barriers, tails, and the critical path.

use std::collections::BTreeSet;

use super::Finding;
use super::case::Case;
use crate::model::TaskId;
use crate::observe::idle::Use;
use crate::observe::style::{count, percent, seconds};

/// For each slice, nanoseconds during which it ran alone and nothing else was ready.
fn alone(case: &Case<'_>) -> Vec<u64> {
    /// In the order in which changes at one moment are taken: what is ready is not the task that holds it up.
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum What {
        Ready,
        Starts,
        Ends,
    }
    let mut changes: Vec<(u64, What, usize)> = Vec::new();
    for (i, slice) in case.slices.iter().enumerate() {
        changes.extend([(slice.ready, What::Ready, i), (slice.start, What::Starts, i), (slice.end, What::Ends, i)]);
    }
    changes.sort_unstable();
    let mut alone = vec![0; case.slices.len()];
    let (mut waiting, mut at) = (0u32, 0);
    let mut running = BTreeSet::new();
    for (moment, what, i) in changes {
        if running.len() == 1 && waiting == 0 {
            running.first().into_iter().for_each(|&one: &usize| alone[one] += moment - at);
        }
        at = moment;
        match what {
            What::Ready => waiting += 1,
            What::Starts => {
                waiting -= 1;
                running.insert(i);
            }
            What::Ends => {
                running.remove(&i);
            }
        }
    }
    alone
}

/// Tasks that run alone while all other slots wait for them.
pub(super) fn serial(case: &Case<'_>) -> Option<Finding> {
    if case.slots < 2 {
        return None;
    }
    let alone = alone(case);
    // A task that was one of many when it started is a straggler, not a phase.
    let mut by_class = vec![(0u64, 0u64); case.classes.len()];
    let is_phase = |i: usize| alone[i] * 2 > case.slices[i].ran();
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
    let who = if tasks == 1 { "One task".to_owned() } else { format!("{} tasks", count(tasks)) };
    Some(
        Finding::new(
            "serial_phase",
            format!("while class {name} runs, everything else waits"),
            format!(
                "{who} of it ran alone for {} in all, {} of the wall time, with {} slots idle. The saving is that of spreading that work over all slots.",
                seconds(time as f64 / 1e9),
                percent(time as f64 / 1e9 / case.wall_s()),
                case.slots - 1
            ),
        )
        .saving(case.saving_if_ran(&spread))
        .of_class(number)
        .change(case.advice(
            number,
            "cpus",
            format!("cpus = {}   # if its program can use several CPUs; else divide it into an array, or let less depend on it", case.slots.min(64)),
        )),
    )
}

/// Slots that wait for dependencies although more than one task runs.
pub(super) fn barriers(case: &Case<'_>) -> Option<Finding> {
    let alone: u64 = alone(case).iter().sum();
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
                "{} of the slot time was idle while nothing was ready but more was to come, most of it before tasks of class {name} became ready.",
                percent(share)
            ),
        )
        .saving(idle / 1e9 / f64::from(case.slots))
        .change(case.advice(
            number,
            "needs",
            "needs = \"...[{index}]\"   # if each needs only one element, not the whole array; or smaller tasks before it".into(),
        )),
    )
}

/// The class whose tasks became ready after the longest idle times.
fn waited_for(case: &Case<'_>) -> Option<u32> {
    let mut by_ready: Vec<(u64, u32)> = case.slices.iter().map(|slice| (slice.ready, slice.class)).collect();
    by_ready.sort_unstable();
    let mut waits = vec![0u64; case.classes.len()];
    for pair in by_ready.windows(2) {
        waits[pair[1].1 as usize] += pair[1].0 - pair[0].0;
    }
    (0..waits.len()).max_by_key(|&class| waits[class]).map(|class| class as u32)
}

/// Slots idle at the end, while the last tasks run.
pub(super) fn tail(case: &Case<'_>) -> Option<Finding> {
    if case.share_of(Use::Tail) < 0.05 {
        return None;
    }
    let last = case.slices.iter().max_by_key(|slice| slice.end)?;
    let name = case.run.subject().job.label(last.task);
    Some(
        Finding::new(
            "tail",
            "slots were idle while the last tasks ran".to_owned(),
            format!(
                "{} of the slot time passed at the end with nothing left to start. The last task was {name}, started {} before the end.",
                percent(case.share_of(Use::Tail)),
                seconds(case.to.saturating_sub(last.start) as f64 / 1e9)
            ),
        )
        .saving(case.wall_of(Use::Tail))
        .of_class(last.class)
        .change(case.advice(
            last.class,
            "priority",
            "priority = 1   # start what takes long first; smaller tasks at the end help as well".into(),
        )),
    )
}

/// A run that its longest chain of dependencies bounds.
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
            "the longest chain of dependencies bounds the run".to_owned(),
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
        .change(case.advice(worst, "needs", "shorten these tasks, or let them need less".into())),
    )
}
