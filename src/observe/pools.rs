//! What the pools of a run were used for, as its journal says.

use std::time::Duration;

use serde::Serialize;

use super::run_view::RunView;
use crate::journal::PoolTotals;

/// A pool, or the limit of an array, over all sessions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PoolUse {
    /// Name of the pool, or of the task whose array has a limit.
    pub pool: String,
    /// "pool", "rate" or "array".
    pub kind: &'static str,
    /// Units at the end; null for no limit.
    pub capacity: Option<u32>,
    /// Most units in use at once.
    pub peak: u32,
    /// Units that ranks gave back for others.
    pub hand_overs: u64,
    /// Seconds during which tasks waited for it.
    pub at_limit_s: f64,
}

/// The pools of all sessions, in the order of the job file.
pub(super) fn pools(run: &RunView) -> Vec<PoolUse> {
    let mut all: Vec<PoolUse> = Vec::new();
    for total in run.replay.sessions.iter().flat_map(|session| &session.pools) {
        let found = of(total);
        match all.iter_mut().find(|known| (&known.pool, known.kind) == (&found.pool, found.kind)) {
            None => all.push(found),
            Some(known) => {
                known.capacity = found.capacity;
                known.peak = known.peak.max(found.peak);
                known.hand_overs += found.hand_overs;
                known.at_limit_s += found.at_limit_s;
            }
        }
    }
    all
}

fn of(total: &PoolTotals) -> PoolUse {
    PoolUse {
        pool: total.pool.clone(),
        kind: match (total.is_rate, total.is_array_limit) {
            (true, _) => "rate",
            (false, true) => "array",
            (false, false) => "pool",
        },
        capacity: total.capacity,
        peak: total.peak,
        hand_overs: total.hand_overs,
        at_limit_s: Duration::as_secs_f64(&total.at_limit),
    }
}
