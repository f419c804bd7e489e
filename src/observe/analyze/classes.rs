//! Findings about classes of tasks: too much work, too short, uneven, oversized requests, held back
//! by a limit, failing.

use std::time::Duration;

use super::facts::{Case, MAX_SIMULATED_CLASSES};
use super::{Finding, Recommendation};
use crate::job::{Job, Work};
use crate::observe::idle::Use;
use crate::observe::style::{bytes, count, percent};
use crate::observe::timeline::Slice;
use crate::text::{counted, seconds, shell_word};

/// A task is long enough if it takes at least this multiple of its start overhead.
const MIN_RUN_TO_OVERHEAD: f64 = 100.0;
/// Upper bound of the time to start a process, in nanoseconds: more than fork and exec of a small
/// program take on a loaded node.
const PROCESS_NS: u64 = 2_000_000;

/// Finds a class with long tasks that makes up most of the work.
pub(super) fn heavy(case: &Case<'_>) -> Option<Finding> {
    let all: f64 = case.classes.iter().map(|class| class.work_s).sum();
    let (number, class) =
        case.classes.iter().enumerate().max_by(|a, b| a.1.work_s.total_cmp(&b.1.work_s)).map(|(i, c)| (i as u32, c))?;
    let others = case.classes.iter().enumerate().filter(|(i, _)| *i as u32 != number).map(|(_, other)| other);
    let (tasks, time) = others.fold((0, 0.0), |(n, s), other| (n + other.ran.count(), s + other.ran.sum_s()));
    let mean_of_others = time / tasks.max(1) as f64;
    let share = class.work_s / all.max(1e-12);
    if tasks == 0 || class.ran.count() < 3 || share < 0.5 || class.ran.mean_s() < 3.0 * mean_of_others {
        return None;
    }
    let halved = |i: usize| if case.is_of(i, number) { case.model.ran[i] / 2 } else { case.model.ran[i] };
    let cpus = case.group_of_class(number).map_or(1, |(_, group)| group.cpus);
    Some(
        Finding::new(
            "heavy_class",
            format!("tasks of class {} take most of the time", class.name),
            format!(
                "Its {} are {} of all work: {} each (p95 {}), against {} for the others. The saving assumes tasks that are twice as fast.",
                counted(class.ran.count(), "attempt"),
                percent(share),
                seconds(class.ran.mean_s()),
                seconds(class.ran.quantile_s(0.95)),
                seconds(mean_of_others)
            ),
        )
        .saving(case.saving_if_ran(&halved))
        .of_class(number)
        .change(case.advice_to_spread(number, cpus * 2, "make it faster or divide it into smaller tasks")),
    )
}

/// Finds tasks so short that starting them takes a large part of the time.
pub(super) fn short(case: &Case<'_>) -> Option<Finding> {
    let found = case.by_work().into_iter().filter_map(|number| short_class(case, number)).take(MAX_SIMULATED_CLASSES);
    found.max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

/// A recommendation to combine tasks of a class.
struct BatchAdvice {
    /// Number of tasks to combine into one.
    size: u64,
    /// Overhead per task in nanoseconds, and the part of it that is the start of the process.
    start: u64,
    process: u64,
}

/// How many tasks of a class should be combined; `None` if they are long enough.
fn batch(case: &Case<'_>, number: u32) -> Option<BatchAdvice> {
    let class = &case.classes[number as usize];
    let task = case.slices.iter().find(|slice| slice.class == number)?.task;
    let is_command =
        case.run.subject().job.describe(task).is_some_and(|task| !matches!(task.work, Work::Kernel { .. }));
    // No attempt is shorter than the start of its process, so the shortest attempts bound that
    // time.
    let process = if is_command { ((class.ran.quantile_s(0.01) * 1e9) as u64).min(PROCESS_NS) } else { 0 };
    let start = case.model.overhead + process;
    let net = (class.ran.mean_s() * 1e9 - process as f64).max(0.0) + 1.0;
    let size = ((MIN_RUN_TO_OVERHEAD * start as f64 / net).ceil() as u64)
        .clamp(1, 1000)
        .min(class.ran.count() / u64::from(case.slots).max(1));
    let is_short = class.ran.count() >= 8 * u64::from(case.slots) && size >= 4 && start as f64 >= 0.05 * net;
    is_short.then_some(BatchAdvice { size, start, process })
}

fn short_class(case: &Case<'_>, number: u32) -> Option<Finding> {
    let class = &case.classes[number as usize];
    let BatchAdvice { size: batch, start, process } = batch(case, number)?;
    let batched = |i: usize| {
        let ran = case.model.ran[i];
        if case.is_of(i, number) { ran.saturating_sub(process - process / batch).max(1) } else { ran }
    };
    let overhead = case.model.overhead / batch;
    let group = case.group_of_class(number).map(|(_, group)| group.count).unwrap_or(0);
    let tasks = u64::from(group).div_ceil(batch);
    let last = tasks.saturating_sub(1);
    Some(
        Finding::new(
            "short_tasks",
            format!("tasks of class {} are too short", class.name),
            format!(
                "{} attempts ran {} each (median), of which starting costs about {}. With {batch} of them in one task, this cost is paid once for all.",
                count(class.ran.count()),
                seconds(class.ran.quantile_s(0.5)),
                seconds(start as f64 / 1e9)
            ),
        )
        .saving(case.saving_if_cheaper(&batched, overhead))
        .of_class(number)
        .change(case.advice(
            number,
            "array",
            format!(
                "array = \"0-{last}\"   # each task does {batch} of the old ones, as in\n\
                 command = \"for i in $(seq $(({{index}} * {batch})) $(({{index}} * {batch} + {}))); do ...; done\"",
                batch - 1
            ),
        )),
    )
}

/// Finds classes whose durations vary so much that slow tasks determine the end of the run. Classes
/// of very short tasks are left out: their variation comes from the system, and evens out if many
/// are combined into one task.
pub(super) fn uneven(case: &Case<'_>) -> Option<Finding> {
    let found = case.by_work().into_iter().filter_map(|number| {
        let class = &case.classes[number as usize];
        let (median, p99) = (class.ran.quantile_s(0.5), class.ran.quantile_s(0.99));
        if class.ran.count() < 8 || p99 < 3.0 * median || batch(case, number).is_some() {
            return None;
        }
        let limit = (median * 2e9) as u64;
        let capped = |i: usize| {
            let ran = case.model.ran[i];
            if case.is_of(i, number) { ran.min(limit.max(1)) } else { ran }
        };
        let slow = case.slices.iter().filter(|s| s.class == number && s.ran() > limit).count();
        Some(
            Finding::new(
                "uneven_class",
                format!("tasks of class {} vary widely in duration", class.name),
                format!(
                    "Half of them took {} or less, 1 % more than {}, the longest {}; {} took more than twice the median. \
                     The saving is that of bringing those down to it.",
                    seconds(median),
                    seconds(p99),
                    seconds(class.ran.max_s()),
                    count(slow as u64)
                ),
            )
            .saving(case.saving_if_ran(&capped))
            .of_class(number)
            .change(case.advice(
                number,
                "array",
                "divide the long ones, or give them their own table with `estimate` and a higher `priority`, so that they start first".into(),
            )),
        )
    });
    found.take(MAX_SIMULATED_CLASSES).max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

/// Finds tasks that request more CPUs or memory than they use, while other tasks wait for room.
pub(super) fn oversized(case: &Case<'_>) -> Option<Finding> {
    let found =
        case.by_work().into_iter().flat_map(|number| [too_many_cpus(case, number), too_much_memory(case, number)]);
    found.flatten().take(MAX_SIMULATED_CLASSES).max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

/// Usage of the attempts of a class, sorted: busy CPUs, and peak memory in bytes where that was
/// measured. `None` if too few are known.
fn used(case: &Case<'_>, number: u32) -> Option<(Vec<f64>, Vec<f64>)> {
    let session = case.run.session();
    let attempts = session.attempts.iter().filter(|a| a.shows_duration() && case.is_of(a.task.index(), number));
    let (mut cpus, mut memory) = (Vec::new(), Vec::new());
    for attempt in attempts {
        // An unreadable index is reported where output is shown; the other findings remain valid.
        let Ok(Some(used)) = case.run.outputs.used(session.began.session, attempt) else { continue };
        let ran = attempt.end.0.saturating_sub(attempt.start.0);
        cpus.push(used.cpu_ns as f64 / ran.max(1) as f64);
        memory.extend(used.measured_peak().map(|peak| peak as f64));
    }
    cpus.sort_by(f64::total_cmp);
    memory.sort_by(f64::total_cmp);
    (cpus.len() >= 5).then_some((cpus, memory))
}

/// The 90 % quantile of sorted values.
fn p90(sorted: &[f64]) -> f64 {
    sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1)).copied().unwrap_or(0.0)
}

fn too_many_cpus(case: &Case<'_>, number: u32) -> Option<Finding> {
    let (_, group) = case.group_of_class(number)?;
    if group.cpus < 2 || group.mpi.is_some() {
        return None;
    }
    let busy = p90(&used(case, number)?.0);
    let enough = (busy.ceil() as u32).max(1);
    // Round down small excess: a quarter of a CPU is lost to the start and end of any program.
    let enough = if busy - busy.floor() < 0.25 && enough > 1 { enough - 1 } else { enough };
    if enough >= group.cpus {
        return None;
    }
    let name = &case.names[number as usize];
    let narrow = |job: &mut Job| {
        let of_class = job.groups.iter_mut().filter(|group| *group.class == **name);
        of_class.for_each(|group| group.cpus = group.cpus.min(enough));
    };
    Some(
        Finding::new(
            "oversized_cpus",
            format!("tasks of class {name} request more CPUs than they use"),
            format!("They request {} each, and 90 % of them kept at most {busy:.1} busy.", counted(group.cpus, "CPU")),
        )
        .saving(case.saving_if_asked(&narrow))
        .of_class(number)
        .change(case.advice(number, "cpus", format!("cpus = {enough}"))),
    )
}

fn too_much_memory(case: &Case<'_>, number: u32) -> Option<Finding> {
    let (table, group) = case.group_of_class(number)?;
    let asked = group.memory? as f64;
    let held = p90(&used(case, number)?.1);
    if held == 0.0 {
        return None;
    }
    // The 90 % quantile plus a fifth, in whole MiB.
    let enough = (held * 1.2 / 1048576.0).ceil().max(16.0) * 1048576.0;
    if enough > 0.5 * asked || case.uses.total(Use::Room) == 0.0 {
        return None;
    }
    // If slots were idle meanwhile, memory limited how many ran at once.
    let together = case.most_at_once(number);
    let could = ((f64::from(together) * asked / enough) as u32).max(together);
    let limit = group.limit.map_or(could, |limit| limit.min(could));
    let mended = |job: &mut Job| job.groups[table].limit = Some(limit);
    let mib = (enough / 1048576.0) as u64;
    Some(
        Finding::new(
            "oversized_memory",
            format!("tasks of class {} request more memory than they use", case.names[number as usize]),
            format!(
                "They request {} each, and 90 % of them used at most {}. Only {together} ran at once, while {} of the slot time was idle for lack of memory.",
                bytes(asked as u64),
                bytes(held as u64),
                percent(case.share_of(Use::Room))
            ),
        )
        .saving(case.saving_if_asked(&mended))
        .of_class(number)
        .change(case.advice(number, "memory", format!("memory = \"{mib}MiB\""))),
    )
}

/// Finds slots that are idle because an array is at its limit.
pub(super) fn limited(case: &Case<'_>) -> Option<Finding> {
    if case.share_of(Use::Limit) < 0.05 {
        return None;
    }
    let found = case.by_work().into_iter().filter_map(|number| {
        let (table, group) = case.group_of_class(number)?;
        // Memory may hold them back as well; the effect of GPUs is unknown.
        let (most, room) = (group.limit?, case.room_for(group).filter(|room| Some(*room) > group.limit)?);
        let lifted = |job: &mut Job| job.groups[table].limit = Some(room);
        let old = format!("%{most}\"");
        let line = case.line(table, "array").filter(|line| line.contains(&old));
        let line =
            line.map_or_else(|| format!("array = \"...%{room}\""), |line| line.replace(&old, &format!("%{room}\"")));
        Some(
            Finding::new(
                "array_limit",
                format!("the limit of array {} leaves slots idle", group.name),
                format!(
                    "At most {most} of its {} run at once; {} of the slot time was idle while more of them were ready.",
                    counted(group.count, "task"),
                    percent(case.share_of(Use::Limit))
                ),
            )
            .saving(case.saving_if_asked(&lifted))
            .of_class(number)
            .change(case.advice(
                number,
                "array",
                format!("{line}   # instead of %{most}, if the protected resource can take it"),
            )),
        )
    });
    found.take(MAX_SIMULATED_CLASSES).max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

/// Finds slots that are idle because a pool is used up.
pub(super) fn pooled(case: &Case<'_>) -> Option<Finding> {
    if case.share_of(Use::Limit) < 0.05 {
        return None;
    }
    let job = case.job();
    let found = (0..job.pools.len()).filter_map(|at| {
        let pool = &job.pools[at];
        let of_pool = |table: usize| job.groups[table].pools.iter().any(|need| need.0 as usize == at);
        let number =
            case.by_work().into_iter().find(|&class| case.group_of_class(class).is_some_and(|it| of_pool(it.0)))?;
        let lifted = |job: &mut Job| (job.pools[at].capacity, job.pools[at].rate) = (None, None);
        let held = match (pool.capacity, pool.rate) {
            (Some(units), None) => format!("It has {}", counted(units, "unit")),
            (None, Some(rate)) => {
                format!("It allows {} in {}", counted(rate.starts, "start"), seconds(rate.per.as_secs_f64()))
            }
            (Some(units), Some(rate)) => {
                format!(
                    "It has {}, and allows {} in {}",
                    counted(units, "unit"),
                    counted(rate.starts, "start"),
                    seconds(rate.per.as_secs_f64())
                )
            }
            (None, None) => return None,
        };
        let text = format!(
            "{held}; {} of the slot time was idle while tasks waited for a pool or a limit.",
            percent(case.share_of(Use::Limit))
        );
        let finding = Finding::new("pool", format!("the pool {} leaves slots idle", pool.name), text)
            .saving(case.saving_if_asked(&lifted))
            .of_class(number);
        // Units that were never all in use held nothing back: then it was the rate.
        let peak = case.run.session().pools.iter().find(|it| it.pool == pool.name && !it.is_rate).map(|it| it.peak);
        let (key, value) = match (pool.capacity, pool.rate) {
            (Some(units), rate) if rate.is_none() || peak.is_none_or(|peak| peak >= units) => {
                ("capacity", units.saturating_mul(2).to_string())
            }
            (_, Some(rate)) => ("rate", format!("\"{}/{}\"", rate.starts.saturating_mul(2), per_text(rate.per))),
            _ => return None,
        };
        let text = format!("{key} = {value}   # in [pools.{}], if the protected resource can take it", pool.name);
        let place = case.place_of_pool(&pool.name, key);
        Some(finding.change(Some(Recommendation { place, text })))
    });
    found.take(MAX_SIMULATED_CLASSES).max_by(|a, b| a.saves_s.total_cmp(&b.saves_s))
}

/// The time of a rate as a job file has it: `s`, `2m`, `1500ms`.
fn per_text(per: Duration) -> String {
    match (per.as_secs(), per.subsec_nanos()) {
        (1, 0) => "s".to_owned(),
        (s, 0) if s % 60 == 0 => format!("{}m", s / 60),
        (s, 0) => format!("{s}s"),
        _ => format!("{}ms", per.as_millis()),
    }
}

/// Finds slot time lost to failed attempts. Cancelled ones did not fail.
pub(super) fn wasted(case: &Case<'_>) -> Option<Finding> {
    let failed = |slice: &&Slice| slice.outcome.state.is_failure();
    let mut by_class = vec![0u64; case.classes.len()];
    case.slices.iter().filter(failed).for_each(|s| by_class[s.class as usize] += s.ran() * u64::from(s.slots));
    let share = by_class.iter().sum::<u64>() as f64 / case.uses.sum().max(1.0);
    if share < 0.05 {
        return None;
    }
    let worst = (0..by_class.len()).max_by_key(|&class| by_class[class])? as u32;
    let attempts = case.slices.iter().filter(failed).count();
    let of_worst = case.slices.iter().filter(failed).find(|slice| slice.class == worst)?.task;
    let for_good = |slice: &Slice| case.run.replay.latest(slice.task).is_some_and(|it| it.1.outcome.state.is_failure());
    // A task that has completed at last is none of those that `--failed` shows.
    let shown = match case.slices.iter().filter(failed).any(for_good) {
        true => "--failed".to_owned(),
        false => format!("--task {}", shell_word(&case.run.subject().job.label(of_worst).to_string())),
    };
    Some(
        Finding::new(
            "failed_attempts",
            "attempts that failed took slot time".to_owned(),
            format!(
                "{} did not succeed and took {} of the slot time, most of it in class {}.",
                counted(attempts as u64, "attempt"),
                percent(share),
                case.names[worst as usize]
            ),
        )
        .saving(case.saving_without(&|slice| failed(&slice)))
        .change(Some(Recommendation {
            place: "the tasks that failed".to_owned(),
            text: format!("phalanx report {} {shown}   # shows the end of their output", case.run.name()),
        })),
    )
}
