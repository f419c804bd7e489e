//! Which ranks hold back from other ranks' work, and how: what ranks have and have shown also
//! decides about stealing, not only about homes.
//!
//! A rank with special equipment takes ordinary work when it has nothing to do, and may then be
//! busy with it when a task becomes ready that needs the equipment. That matters where these tasks
//! are what the run waits for: where they are at least as much work per slot as all other tasks are
//! for the ranks without such tasks. There the rank first waits for tasks of its own. And a rank on
//! which attempts fail more often than elsewhere leaves work to others for a while.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::score::RankRecord;

/// How a rank steals during an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StealTerms {
    /// Usual duration of the tasks at home there for which the rank waits before it steals; zero
    /// for a rank that steals as others do.
    pub own_task: Duration,
    /// Of a hundred attempts there, how many succeed, relative to all ranks.
    pub success: u8,
}

impl Default for StealTerms {
    fn default() -> StealTerms {
        StealTerms { own_task: Duration::ZERO, success: 100 }
    }
}

/// The open tasks at home on a rank that not all ranks can run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BoundTasks {
    /// Their number.
    pub(super) tasks: u64,
    /// Their work in nanoseconds.
    pub(super) work_ns: u128,
}

/// The terms of each rank: its slots (0 for an inactive one), bound tasks and record. `free_ns`:
/// the work of all tasks that every rank can run.
pub(super) fn steal_terms(ranks: &[(u32, BoundTasks, RankRecord)], free_ns: u128) -> Vec<StealTerms> {
    let others = ranks.iter().filter(|(_, bound, _)| bound.tasks == 0).map(|rank| u128::from(rank.0)).sum::<u128>();
    let terms = |&(slots, bound, record): &(u32, BoundTasks, RankRecord)| {
        let decides = others > 0 && bound.tasks > 0 && bound.work_ns * others >= free_ns * u128::from(slots);
        let mean_ns = bound.work_ns / u128::from(bound.tasks.max(1));
        StealTerms {
            own_task: if decides { Duration::from_nanos(mean_ns.min(u64::MAX.into()) as u64) } else { Duration::ZERO },
            success: (100.0 * record.success).clamp(0.0, 100.0) as u8,
        }
    };
    ranks.iter().map(terms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_waits_for_its_own_tasks_where_these_are_most_of_the_work() {
        let bound = |tasks, work_ns| BoundTasks { tasks, work_ns };
        let sound = RankRecord::default();
        let failing = RankRecord { success: 0.5, ..sound };
        let of = |free_ns, ranks: &[(u32, BoundTasks, RankRecord)]| steal_terms(ranks, free_ns);
        let own = |terms: &[StealTerms]| terms.iter().map(|terms| terms.own_task.as_nanos()).collect::<Vec<_>>();
        let ranks = [(2, bound(10, 400), sound), (4, bound(0, 0), failing)];
        assert_eq!(own(&of(800, &ranks)), [40, 0], "200 per slot on both sides");
        assert_eq!(own(&of(801, &ranks)), [0, 0], "the others have more to do");
        assert_eq!(of(1, &ranks).iter().map(|terms| terms.success).collect::<Vec<_>>(), [100, 50]);
        assert_eq!(own(&of(0, &[(2, bound(1, 1), sound); 2])), [0, 0], "nobody else could take the work");
    }
}
