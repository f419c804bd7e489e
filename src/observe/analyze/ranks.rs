//! Findings about ranks: a slow rank, too many ranks, late start, slow hand-over of tasks.

use std::collections::BTreeMap;

use super::Finding;
use super::facts::Case;
use crate::observe::idle::Use;
use crate::observe::style::percent;
use crate::text::{counted, seconds};

/// Finds a rank that takes longer for the same classes of tasks than the others.
pub(super) fn slow(case: &Case<'_>) -> Option<Finding> {
    let ranks: Vec<u32> = case.run.session().began.ranks.iter().filter(|r| r.slots > 0).map(|r| r.rank).collect();
    let factors = factors(case, &ranks);
    let (rank, factor, tasks) = factors.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    if factor < 1.25 || tasks < 5 {
        return None;
    }
    let mut on_it = vec![false; case.model.ran.len()];
    for slice in case.slices.iter().filter(|slice| slice.rank == rank) {
        if let Some(on_it) = on_it.get_mut(slice.task.index()) {
            *on_it = true;
        }
    }
    let mended = |i: usize| {
        let ran = case.model.ran[i];
        if on_it[i] { ((ran as f64 / factor) as u64).max(1) } else { ran }
    };
    let node = case.node(rank);
    let alone = case.run.session().began.ranks.iter().filter(|info| info.node == node).count() == 1;
    let text = if alone {
        format!("sbatch --exclude={node} ...   # or remove {node} from the hostfile, and have it checked")
    } else {
        format!("check which other programs use the CPUs of rank {rank} on {node}; start fewer slots there")
    };
    Some(
        Finding::new(
            "slow_rank",
            format!("rank {rank} on {node} is slow"),
            format!(
                "Its {} took {factor:.2} times as long as tasks of the same classes on the other ranks.",
                counted(tasks, "task")
            ),
        )
        .saving(case.saving_if_ran(&mended))
        .change(case.advice_on_start(text)),
    )
}

/// Slowdown of each rank: its time relative to that of the other ranks for the same tasks, with the
/// number of tasks compared.
fn factors(case: &Case<'_>, ranks: &[u32]) -> Vec<(u32, f64, u64)> {
    if ranks.len() < 2 {
        return Vec::new();
    }
    // Times by class and rank, for classes with enough tasks on at least two ranks.
    let telling = |class: u32| case.classes[class as usize].ran.count() >= 2 * MIN_SAMPLES as u64;
    let mut times: BTreeMap<u32, Vec<Vec<u64>>> = BTreeMap::new();
    for slice in case.slices.iter().filter(|slice| slice.outcome.ok() && !slice.outcome.cached && telling(slice.class))
    {
        if let Ok(rank) = ranks.binary_search(&slice.rank) {
            times.entry(slice.class).or_insert_with(|| vec![Vec::new(); ranks.len()])[rank].push(slice.ran());
        }
    }
    let (mut took, mut expected, mut tasks) = (vec![0.0; ranks.len()], vec![0.0; ranks.len()], vec![0u64; ranks.len()]);
    for by_rank in times.values_mut() {
        let medians: Vec<Option<f64>> = by_rank.iter_mut().map(|times| median(times)).collect();
        for rank in 0..ranks.len() {
            let mut others: Vec<f64> =
                medians.iter().enumerate().filter(|(other, _)| *other != rank).filter_map(|(_, m)| *m).collect();
            let (Some(own), false) = (medians[rank], others.is_empty()) else { continue };
            others.sort_by(f64::total_cmp);
            let n = by_rank[rank].len() as u64;
            took[rank] += own * n as f64;
            expected[rank] += others[(others.len() - 1) / 2] * n as f64;
            tasks[rank] += n;
        }
    }
    let all = (0..ranks.len()).filter(|&rank| expected[rank] > 0.0);
    all.map(|rank| (ranks[rank], took[rank] / expected[rank], tasks[rank])).collect()
}

/// Minimum number of times for a median.
const MIN_SAMPLES: usize = 3;

/// The median.
fn median(times: &mut [u64]) -> Option<f64> {
    times.sort_unstable();
    if times.len() < MIN_SAMPLES { None } else { Some(times[times.len() / 2] as f64) }
}

/// Finds a run that would have been about as fast with fewer ranks, or with fewer slots of its only
/// rank.
pub(super) fn too_many(case: &Case<'_>) -> Option<Finding> {
    if case.model.ranks.len() > 1 && case.share_of_divided() > 0.1 {
        return None;
    }
    // What ran when the run broke off left no record, and may have needed them all.
    if case.run.broke_off() {
        return None;
    }
    let ranks = &case.model.ranks;
    let (what, all) = if ranks.len() > 1 { ("rank", ranks.len() as u32) } else { ("slot", case.slots) };
    let some_of = |n: u32| if ranks.len() > 1 { ranks[..n as usize].to_vec() } else { vec![n] };
    let (mut enough, mut too_few) = (all, 0);
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if case.relative_makespan(&some_of(middle)) <= 1.1 { enough = middle } else { too_few = middle }
    }
    if enough == all {
        return None;
    }
    let longer = (case.relative_makespan(&some_of(enough)) - 1.0).max(0.0);
    let kept: u32 = some_of(enough).iter().sum();
    let share = 1.0 - f64::from(kept) / f64::from(case.slots) * (1.0 + longer);
    let finding = Finding::new(
        "too_many_ranks",
        format!("{} would have been enough instead of {all}", counted(enough, what)),
        format!(
            "The run would have taken {} longer with {}; the other {} used {} of the node time.",
            percent(longer),
            counted(enough, what),
            all - enough,
            percent(share)
        ),
    );
    let text = if ranks.len() > 1 {
        format!("mpirun -n {enough} ...   # instead of {all}")
    } else {
        format!("phalanx run --slots {enough} ...   # or request this number of CPUs")
    };
    Some(Finding { saves_node_s: share * case.node_s(), ..finding }.change(case.advice_on_start(text)))
}

/// From this number of tasks on, the start takes its time because of them.
const MANY_TASKS: u32 = 10_000;

/// Finds a long time before the first task.
pub(super) fn start_up(case: &Case<'_>) -> Option<Finding> {
    let first = case.slices.iter().map(|slice| slice.start).min()?;
    let took = first.saturating_sub(case.from) as f64 / 1e9;
    if took < 0.05 * case.wall_s() {
        return None;
    }
    let tasks = case.run.subject().job.task_count();
    // The start of a job of many tasks is the reading and the distribution of these.
    let text = match tasks >= MANY_TASKS {
        true => {
            "do the work of several tasks in one, with fewer elements in the arrays: each task takes time to prepare"
        }
        false => "combine several small jobs into one, so that ranks start only once",
    };
    Some(
        Finding::new(
            "start_up",
            "the start took a large part of the run".to_owned(),
            format!(
                "The first task started {} after the start of the run, {} of the wall time; the job has {} and {}.",
                seconds(took),
                percent(took / case.wall_s()),
                counted(tasks, "task"),
                counted(case.run.session().began.ranks.len() as u64, "rank")
            ),
        )
        .saving(took)
        .change(case.advice_on_start(text.into())),
    )
}

/// Finds slots that are idle although tasks are ready.
pub(super) fn hand_over(case: &Case<'_>) -> Option<Finding> {
    // The usual overhead per task is covered by the finding on short tasks.
    let usual = case.model.overhead as f64 * case.slices.len() as f64;
    let idle = (case.uses.total(Use::HandOver) - usual).max(0.0);
    let share = idle / case.uses.sum().max(1.0);
    if share < 0.05 {
        return None;
    }
    let ranks = case.run.session().began.ranks.len();
    let change = if ranks > 1 {
        case.advice_on_start("set `placement = \"earliest_finish\"` under [job], which spreads tasks by their estimates, and give classes an `estimate`".into())
    } else {
        case.advice_on_start("use larger tasks, or fewer slots if other programs use the same CPUs".into())
    };
    Some(
        Finding::new(
            "hand_over",
            "slots were idle although tasks were ready".to_owned(),
            format!(
                "{} of the slot time was idle while tasks that any slot could run were ready: they were on another rank or in transit.",
                percent(share)
            ),
        )
        .saving(idle / 1e9 / f64::from(case.slots))
        .change(change),
    )
}
