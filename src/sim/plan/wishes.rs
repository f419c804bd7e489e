//! Whether deadline and budget can be met: the candidates that meet them or, if there are none, the
//! reason and the nearest ones.

use serde::Serialize;

use super::{PlanCandidate, PlanQuestion, budget_needed};
use crate::text::{counted, seconds};

/// Whether deadline and budget can be met.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// There is neither deadline nor budget.
    Free,
    /// These numbers of ranks meet both in nine of ten cases.
    Feasible {
        /// The numbers.
        ranks: Vec<u32>,
    },
    /// No number of ranks meets both.
    Infeasible {
        /// The reason.
        why: String,
        /// The fewest ranks that meet the deadline, or come nearest to it.
        nearest_in_time: u32,
        /// The number of ranks within the budget that ends soonest, or costs least.
        nearest_in_cost: u32,
    },
}

impl Verdict {
    pub(super) fn of(question: &PlanQuestion<'_>, candidates: &[PlanCandidate], critical_path_s: f64) -> Verdict {
        let cost = question.cost;
        if cost.deadline.is_none() && cost.budget.is_none() && cost.budget_per_hour.is_none() {
            return Verdict::Free;
        }
        let ranks: Vec<u32> = candidates.iter().filter(|c| c.feasible).map(|c| c.ranks).collect();
        if !ranks.is_empty() {
            return Verdict::Feasible { ranks };
        }
        let in_time = |c: &&PlanCandidate| cost.deadline.is_none_or(|d| c.makespan_q90_s <= d.as_secs_f64());
        let in_cost = |c: &&PlanCandidate| {
            cost.budget.is_none_or(|budget| budget_needed(question, c.ranks, c.cost_q90) <= budget)
        };
        let by_time = |a: &&PlanCandidate, b: &&PlanCandidate| a.makespan_q90_s.total_cmp(&b.makespan_q90_s);
        let by_cost = |a: &&PlanCandidate, b: &&PlanCandidate| a.cost_q90.total_cmp(&b.cost_q90);
        let timely = candidates.iter().filter(in_time).min_by(by_cost);
        let payable = candidates.iter().filter(in_cost).min_by(by_time);
        let soonest = timely.or(candidates.iter().min_by(by_time));
        let cheapest = payable.or(candidates.iter().min_by(by_cost));
        let Some((soonest, cheapest)) = soonest.zip(cheapest) else { return Verdict::Free };
        let mut reasons = Vec::new();
        if let Some(deadline) = cost.deadline.map(|d| d.as_secs_f64()) {
            reasons.push(match timely {
                _ if critical_path_s > deadline => format!(
                    "the longest chain of tasks alone takes {}, more than the deadline of {}: no number of ranks helps",
                    seconds(critical_path_s),
                    seconds(deadline)
                ),
                Some(c) => {
                    format!(
                        "the cheapest that keeps the deadline has {} and costs up to {:.2} in 9 of 10 cases",
                        counted(c.ranks, "rank"),
                        c.cost_q90
                    )
                }
                None => format!(
                    "the soonest end, with {}, is after {}",
                    counted(soonest.ranks, "rank"),
                    seconds(soonest.makespan_q90_s)
                ),
            });
        }
        if cost.budget.is_some() {
            reasons.push(match payable {
                Some(c) => format!(
                    "the fastest that keeps the budget has {} and takes {}",
                    counted(c.ranks, "rank"),
                    seconds(c.makespan_q90_s)
                ),
                None => {
                    let needed = budget_needed(question, cheapest.ranks, cheapest.cost_q90);
                    format!("the cheapest, with {}, needs {needed:.2}", counted(cheapest.ranks, "rank"))
                }
            });
        }
        if let Some(hourly) = cost.budget_per_hour {
            let paid = |ranks: &u32| question.cluster.first_price(*ranks) <= hourly;
            let most = question.ranks.iter().copied().filter(paid).max().unwrap_or(0);
            reasons.push(format!("{hourly:.2} an hour pay for {most} ranks of these numbers"));
        }
        Verdict::Infeasible { why: reasons.join("; "), nearest_in_time: soonest.ranks, nearest_in_cost: cheapest.ranks }
    }
}

/// The feasible candidate with the best trade of time and money under the intent.
pub(super) fn best(question: &PlanQuestion<'_>, candidates: &[PlanCandidate]) -> Option<u32> {
    let weight = question.time_weight;
    let burden = |c: &PlanCandidate| weight * c.makespan_q50_s.max(1e-9).ln() + (1.0 - weight) * c.cost.max(1e-12).ln();
    let feasible = candidates.iter().filter(|c| c.feasible);
    feasible.min_by(|a, b| burden(a).total_cmp(&burden(b))).map(|c| c.ranks)
}
