//! Requests that fit: how much of a resource to ask for, from what earlier tasks used.
//!
//! The first request is the amount that would have wasted least over the measured tasks and the
//! retries that it would have caused: for each candidate the sum of what tasks were given and did
//! not use, and of all that failed attempts were given, times the duration of the task (after the
//! rule of Work Queue and TaskVine: Tovar et al., "A Job Sizing Strategy for High-Throughput
//! Scientific Workflows", TPDS 2018). A margin on top covers tasks that are larger than all
//! measured ones; it shrinks with their number.

/// Upper limit on the share of measured tasks that the first request may be too small for.
const MAX_RETRIED: f64 = 0.02;

/// Margin on top of the request in any case, as a share of it.
const LEAST_MARGIN: f64 = 0.02;

/// Margin on top of the request that a single measured task calls for, as a share of it; with `n`
/// tasks it is an `n`-th of that.
const MARGIN_OF_ONE: f64 = 0.25;

/// Upper limit on the number of candidates that are compared.
const MAX_CANDIDATES: usize = 200;

/// What one task used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsedAmount {
    /// The most that it used at a time, in any unit.
    pub amount: f64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// How much it counts; 1 for a task of the newest run.
    pub weight: f64,
}

/// How much to ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FittingRequest {
    /// The recommended request.
    pub amount: f64,
    /// Half of the tasks used at most this much.
    pub p50: f64,
    /// Nine of ten tasks used at most this much.
    pub p90: f64,
    /// Nineteen of twenty tasks used at most this much.
    pub p95: f64,
    /// The most that a task used.
    pub max: f64,
}

/// What a request would have meant for measured tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestOutcome {
    /// Amount times seconds that were given and not used, those of failed attempts included.
    pub wasted: f64,
    /// Share of tasks that the first attempt would have been too small for.
    pub retried: f64,
}

/// What asking for `request` first, and for `growth` times as much after each failed attempt, would
/// have meant. An attempt that fails is taken to last as long as the task.
pub fn outcome(request: f64, growth: f64, used: &[UsedAmount]) -> RequestOutcome {
    let (growth, mut total, mut outcome) = (growth.max(1.01), 0.0, RequestOutcome::default());
    for task in used {
        let (mut given, mut lost) = (request.max(f64::MIN_POSITIVE), 0.0);
        if given < task.amount {
            outcome.retried += task.weight;
        }
        while given < task.amount {
            lost += given;
            given *= growth;
        }
        outcome.wasted += (lost + given - task.amount) * task.seconds * task.weight;
        total += task.weight;
    }
    if total > 0.0 {
        outcome.retried /= total;
    }
    outcome
}

/// The request that fits tasks like these, if a task that needs more is tried again with `growth`
/// times as much; `None` without any. Invalid amounts are ignored.
pub fn fit(used: &[UsedAmount], growth: f64) -> Option<FittingRequest> {
    let is_sound = |task: &&UsedAmount| task.amount.is_finite() && task.amount >= 0.0 && task.weight > 0.0;
    let mut sorted: Vec<UsedAmount> = used.iter().filter(is_sound).copied().collect();
    sorted.sort_by(|a, b| a.amount.total_cmp(&b.amount));
    let max = sorted.last()?.amount;
    let quantile = |share: f64| quantile(&sorted, share);
    let from = quantile(1.0 - MAX_RETRIED);
    let mut candidates: Vec<f64> = sorted.iter().map(|task| task.amount).filter(|amount| *amount >= from).collect();
    candidates.dedup();
    let step = candidates.len().div_ceil(MAX_CANDIDATES).max(1);
    let wasted = |amount: f64| outcome(amount, growth, &sorted).wasted;
    let compared = candidates.iter().rev().step_by(step).map(|&amount| (wasted(amount), amount));
    let (_, least) = compared.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let count = sorted.len() as f64;
    let spread = (max - quantile(0.5)) / count.sqrt().max(2.0);
    let margin = (least * (LEAST_MARGIN + MARGIN_OF_ONE / count)).max(spread);
    let [p50, p90, p95] = [0.5, 0.9, 0.95].map(quantile);
    Some(FittingRequest { amount: least + margin, p50, p90, p95, max })
}

/// Smallest amount that at least this share of the weight does not exceed.
fn quantile(sorted: &[UsedAmount], share: f64) -> f64 {
    let total: f64 = sorted.iter().map(|task| task.weight).sum();
    let mut sum = 0.0;
    let found = sorted.iter().find(|task| {
        sum += task.weight;
        sum >= share * total * (1.0 - 1e-12)
    });
    found.or(sorted.last()).map_or(0.0, |task| task.amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(amounts: &[f64]) -> Vec<UsedAmount> {
        amounts.iter().map(|&amount| UsedAmount { amount, seconds: 10.0, weight: 1.0 }).collect()
    }

    #[test]
    fn what_is_given_and_not_used_and_what_fails_is_wasted() {
        let tasks = used(&[4.0, 10.0]);
        let of = |request| outcome(request, 2.0, &tasks);
        assert_eq!(of(10.0), RequestOutcome { wasted: 60.0, retried: 0.0 });
        // The second is given 6 in vain, then 12.
        assert_eq!(of(6.0), RequestOutcome { wasted: 20.0 + 60.0 + 20.0, retried: 0.5 });
        assert_eq!(outcome(1.0, 2.0, &[]), RequestOutcome::default());
    }

    #[test]
    fn one_task_that_is_much_larger_is_tried_again_rather_than_all_given_as_much() {
        let mut amounts = vec![100.0; 99];
        amounts.push(1000.0);
        let fitting = fit(&used(&amounts), 2.0).unwrap();
        assert!((100.0..250.0).contains(&fitting.amount), "{fitting:?}");
        assert_eq!((fitting.p50, fitting.p95, fitting.max), (100.0, 100.0, 1000.0));
        // Five of a hundred are too many to be tried again.
        let many: Vec<f64> = (0..100).map(|i| if i < 95 { 100.0 } else { 1000.0 }).collect();
        assert!(fit(&used(&many), 2.0).unwrap().amount >= 1000.0);
    }

    #[test]
    fn few_tasks_call_for_a_larger_margin_and_old_ones_count_less() {
        let margin = |count: usize| fit(&used(&vec![100.0; count]), 1.5).unwrap().amount - 100.0;
        assert!(margin(1) > 25.0 && margin(10) < 5.0 && margin(1000) >= 2.0);
        let mut tasks = used(&[500.0; 3]);
        tasks.iter_mut().for_each(|task| task.weight = 0.001);
        tasks.extend(used(&[100.0; 30]));
        assert_eq!(fit(&tasks, 1.5).unwrap().p95, 100.0);
        assert_eq!(fit(&[], 1.5), None);
        assert_eq!(fit(&used(&[f64::NAN]), 1.5), None);
    }
}
