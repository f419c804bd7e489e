//! Accounts for the time of each node that a session held and is billed for, from its grant to its
//! end.
//!
//! | part | from | to |
//! |---|---|---|
//! | starting | the node is granted | its first rank is active |
//! | working | | slot-seconds of attempts, as seconds of the whole node |
//! | starving | | the remaining time during which its ranks were active |
//! | leaving | its ranks drain, or are parked | they are active again, or the node is released |
//! | minimum | the node is released | the end of the minimum charge |

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Serialize;

use super::job_view::SessionJob;
use super::run_view::{RunView, run_ns};
use crate::journal::{NodeHolding, Session};
use crate::model::{Time, total};

/// The use of one node, in seconds of the session.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct NodeUse {
    /// Its name.
    pub node: String,
    /// The block that it belongs to; absent if it was there from the start or joined by hand.
    pub block: Option<u64>,
    /// The session that held it.
    pub session: u32,
    /// Start of the time held.
    pub from_s: f64,
    /// Duration of the time held.
    pub held_s: f64,
    /// Starting, see the table of the module. The four parts add up to the time held.
    pub starting_s: f64,
    /// Working.
    pub working_s: f64,
    /// Starving: active without enough tasks.
    pub starving_s: f64,
    /// Draining or parked.
    pub leaving_s: f64,
    /// Charged beyond the time held.
    pub minimum_s: f64,
}

/// The nodes of all sessions, by time.
pub(super) fn uses(run: &RunView) -> Vec<NodeUse> {
    let of = |(session, subject): (&Session, &SessionJob)| {
        let mut work_s: FxHashMap<u32, f64> = FxHashMap::default();
        for attempt in session.attempts.iter().filter(|attempt| attempt.attempt > 0) {
            subject.job.each_rank(attempt, &mut |rank, slots| {
                *work_s.entry(rank).or_default() += run_ns(attempt) as f64 / 1e9 * f64::from(slots);
            });
        }
        of_session(run, session, &|rank| work_s.get(&rank).copied().unwrap_or(0.0))
    };
    run.sessions().flat_map(of).collect()
}

/// The nodes of one session; `work_s` returns the slot-seconds of a rank.
pub(super) fn of_session(run: &RunView, session: &Session, work_s: &dyn Fn(u32) -> f64) -> Vec<NodeUse> {
    let end = Time(run.wall_ns(session));
    let holdings = session.holdings(end);
    let describe = |node: NodeHolding| {
        let ranks = || holdings.iter().filter(|rank| node.ranks.contains(&rank.rank));
        let slots: u32 = ranks().map(|rank| rank.slots).sum();
        let work = total(ranks().map(|rank| work_s(rank.rank)));
        let first = ranks().filter_map(|rank| rank.joined).min();
        let held = node.to.since(node.from).as_secs_f64();
        let starting = first.map_or(held, |first| first.since(node.from).as_secs_f64()).min(held);
        let active = node.active.as_secs_f64().min(held - starting);
        let working = (work / f64::from(slots.max(1))).min(active);
        let prices = session.terms.as_ref().map(|terms| &terms.prices);
        let charged = prices.and_then(|prices| prices.nodes.get(node.node_type.0 as usize));
        let charged = charged.map_or(held, |kind| kind.charged(node.to.since(node.from)).as_secs_f64());
        NodeUse {
            node: node.node,
            block: node.block,
            session: session.began.session,
            from_s: node.from.seconds(),
            held_s: held,
            starting_s: starting,
            working_s: working,
            starving_s: active - working,
            leaving_s: held - starting - active,
            minimum_s: (charged - held).max(0.0),
        }
    };
    session.billed_nodes(end).into_iter().map(describe).collect()
}
