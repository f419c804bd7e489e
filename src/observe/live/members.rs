//! The current and former ranks of the last session, with their current states.

use rustc_hash::FxHashMap;

use crate::model::{RankState, Time};
use crate::observe::run_view::RunView;

/// A rank of the session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RankEntry {
    pub rank: u32,
    pub node: String,
    pub slots: u32,
    pub state: RankState,
    /// Total time active, in seconds.
    pub active_s: f64,
}

/// The ranks, ordered by number.
pub(super) fn members(run: &RunView) -> Vec<RankEntry> {
    let session = run.session();
    let mut states: FxHashMap<u32, RankState> = FxHashMap::default();
    states.extend(session.ranks.iter().map(|change| (change.info.rank, change.state)));
    let member = |holding: crate::journal::Holding| RankEntry {
        state: states.get(&holding.rank).copied().unwrap_or(RankState::Active),
        rank: holding.rank,
        node: holding.node,
        slots: holding.slots,
        active_s: holding.active.as_secs_f64(),
    };
    session.holdings(Time(run.wall_ns(session))).into_iter().map(member).collect()
}
