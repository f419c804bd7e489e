//! Findings about pressure on nodes: waiting for I/O, and lack of memory.
//!
//! Waiting for I/O needs two indications: the processes used little of the CPUs that they held, and
//! the kernels of their nodes counted time stalled on I/O. A task that only sleeps shows the first
//! and not the second.

use std::collections::BTreeMap;

use super::facts::{Case, MAX_SIMULATED_CLASSES};
use super::{Finding, Recommendation};
use crate::model::State;
use crate::observe::style::{bytes, percent};
use crate::observe::vitals::{self, Vital};
use crate::text::{counted_were, seconds};

/// Minimum I/O stall of the nodes (share of time) for a finding.
const MIN_IO_STALL: f64 = 0.1;
/// A class that keeps its CPUs busier than this (share of time) does not wait for I/O.
const MAX_BUSY: f64 = 0.7;

/// Finds tasks that wait for disks.
pub(super) fn io_wait(case: &Case<'_>) -> Option<Finding> {
    let looks = vitals::all(&case.run.dir.vitals());
    let stall = mean(&looks, |vital| vital.vitals.io_stall)?;
    if stall < MIN_IO_STALL {
        return None;
    }
    let found = case.by_work().into_iter().filter_map(|number| waiting_class(case, number, stall, &looks));
    found.take(MAX_SIMULATED_CLASSES).max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

fn waiting_class(case: &Case<'_>, number: u32, stall: f64, looks: &[Vital]) -> Option<Finding> {
    let (cpu_s, held_s) = case.cpu_of_class(number)?;
    let busy = cpu_s / held_s.max(1e-9);
    if busy > MAX_BUSY {
        return None;
    }
    // The I/O share of a task is bounded by the time it did not compute and by the stall of its
    // node.
    let waited = (1.0 - busy).min(stall);
    let without = |i: usize| {
        let ran = case.model.ran[i];
        if case.is_of(i, number) { (ran as f64 * (1.0 - waited)) as u64 } else { ran }
    };
    let moved: u64 = last_of_each(looks).map(|vital| vital.vitals.read + vital.vitals.written).sum();
    Some(
        Finding::new(
            "io_wait",
            format!("tasks of class {} wait for I/O", case.names[number as usize]),
            format!(
                "Their processes kept {} of their CPUs busy, while tasks of their nodes waited for I/O {} of the time; {} were read from and written to disks in {}.",
                percent(busy),
                percent(stall),
                bytes(moved),
                seconds(case.wall_s())
            ),
        )
        .saving(case.saving_if_ran(&without))
        .of_class(number)
        .change(case.advice(
            number,
            "dir",
            "# work on the local disk of the node (cd \"$TMPDIR\") and copy the results at the end, or run fewer at once (array = \"...%N\")".to_owned(),
        )),
    )
}

/// Finds attempts that ended because memory ran out.
pub(super) fn memory(case: &Case<'_>) -> Option<Finding> {
    let killed: Vec<_> = case.slices.iter().filter(|slice| slice.outcome.state == State::OutOfMemory).collect();
    let first = killed.first()?;
    let lost_s: f64 = killed.iter().map(|slice| slice.ran() as f64 / 1e9 * f64::from(slice.slots)).sum();
    let looks = vitals::all(&case.run.dir.vitals());
    let fullest = looks.iter().map(|v| v.vitals.node_memory_used as f64 / v.vitals.node_memory.max(1) as f64);
    let most = fullest.fold(0.0, f64::max);
    let nodes = if most > 0.0 { format!("; the fullest node was at {}", percent(most)) } else { String::new() };
    let (_, group) = case.group_of_class(first.class)?;
    let text = match group.memory {
        Some(asked) => {
            let used = case.peak_of_killed(first.class);
            let of = if used > asked { "what they used when they were killed" } else { "the current request" };
            format!("memory = \"{}MiB\"   # twice {of}", (used.max(asked) * 2).div_ceil(1 << 20))
        }
        None => "memory = \"...\"   # memory of one task: then only as many run at once as fit on a node".to_owned(),
    };
    Some(
        Finding::new(
            "out_of_memory",
            format!("tasks of class {} ran out of memory", case.names[first.class as usize]),
            format!("{} lost, {} of slot time{nodes}.", counted_were(killed.len() as u64, "attempt"), seconds(lost_s)),
        )
        .saving(case.saving_without(&|slice| slice.outcome.state == State::OutOfMemory))
        .of_class(first.class)
        .change(
            case.advice(first.class, "memory", text).or_else(|| {
                Some(Recommendation { place: "the job file".to_owned(), text: "memory = \"...\"".to_owned() })
            }),
        ),
    )
}

fn mean(looks: &[Vital], value: impl Fn(&Vital) -> f64) -> Option<f64> {
    (!looks.is_empty()).then(|| looks.iter().map(value).sum::<f64>() / looks.len() as f64)
}

/// The last record of each rank.
fn last_of_each(looks: &[Vital]) -> impl Iterator<Item = &Vital> {
    let last: BTreeMap<u32, &Vital> = looks.iter().map(|look| (look.rank, look)).collect();
    last.into_values()
}
