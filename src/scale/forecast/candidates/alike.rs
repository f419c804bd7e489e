//! The ranks of an observation as a forecast uses them. Few ranks are kept separate; of many,
//! similar ones form groups.

use rustc_hash::FxHashMap;

use crate::model::{RankState, Time};
use crate::scale::estimate::Estimates;
use crate::scale::forecast::node_cost::{Charge, HeldNode, HolderGroup, Holders};
use crate::scale::observation::{Observation, RankView};
use crate::scale::price::NodeTypeId;

/// Up to this number of ranks, each is a group of its own.
const MAX_SEPARATE_RANKS: usize = 256;

/// Ages are similar if their logarithms, in these units, are equal: within a thirty-second.
const AGE_STEPS: f64 = 32.0;

/// The key of similar ranks: state, type, whether and since when the node is billed and under way
/// (in steps), slots, and busy slots.
type Likeness = (RankState, NodeTypeId, bool, Option<i64>, u32, u32, usize);

/// Similar ranks, summed.
struct Alike {
    first: RankView,
    ranks: u32,
    /// Billed time of their nodes, in seconds.
    age: f64,
}

/// The ranks present or under way, in order of use: first those that cannot leave, then the present
/// ones, the busiest first and of these the cheapest.
pub(super) fn holders(
    seen: &Observation<'_>,
    estimates: &Estimates,
    min_ranks: u32,
    charge: &dyn Fn(NodeTypeId) -> Charge,
    slots_of: &dyn Fn(NodeTypeId) -> Option<u32>,
) -> Holders {
    let rest =
        |node_type, age: f64| estimates.delay_rest(node_type, std::time::Duration::from_secs_f64(age)).max(0.001);
    let usable = |s: RankState| matches!(s, RankState::Active | RankState::Joining | RankState::Parked);
    let mut groups: Vec<HolderGroup> = alike(seen, usable)
        .into_iter()
        .map(|alike| {
            let mut group = held(&alike, charge);
            group.holder.arrives = match (alike.first.state, alike.first.billed_since) {
                (RankState::Joining, Some(_)) => rest(alike.first.node_type, alike.age / f64::from(alike.ranks)),
                (RankState::Joining, None) => 1.0,
                _ => 0.0,
            };
            group
        })
        .collect();
    for request in seen.requests {
        let arrives = rest(request.node_type, seen.now.since(request.asked).as_secs_f64());
        let usual = groups.first().map_or(1, |group| group.holder.slots);
        let slots = slots_of(request.node_type).unwrap_or(usual);
        let charge = charge(request.node_type);
        let asked = HeldNode { since: Some(arrives), arrives, slots, charge, ..HeldNode::default() };
        groups.push(HolderGroup::of(asked, request.nodes));
    }
    groups.sort_by(|a, b| {
        let (a, b) = (&a.holder, &b.holder);
        let first = (!a.kept).cmp(&!b.kept).then(a.arrives.total_cmp(&b.arrives));
        first.then(b.busy.cmp(&a.busy)).then(a.charge.per_second.total_cmp(&b.charge.per_second))
    });
    let mut holders = Holders::new(groups);
    holders.keep(min_ranks);
    holders
}

/// The ranks that drain.
pub(super) fn leaving(seen: &Observation<'_>, charge: &dyn Fn(NodeTypeId) -> Charge) -> Holders {
    let leaving = alike(seen, |state| state == RankState::Draining);
    Holders::new(leaving.iter().map(|alike| held(alike, charge)).collect())
}

/// Ranks in the given states, grouped by similarity; in order of their first members.
fn alike(seen: &Observation<'_>, is_in: impl Fn(RankState) -> bool) -> Vec<Alike> {
    let apart = seen.ranks.len() <= MAX_SEPARATE_RANKS;
    let mut index: FxHashMap<Likeness, usize> = FxHashMap::default();
    let mut all: Vec<Alike> = Vec::new();
    let mut steps = AgeSteps { now: seen.now, last: None };
    for (number, rank) in seen.ranks.iter().enumerate().filter(|(_, rank)| is_in(rank.state)) {
        let (age, step) = rank.billed_since.map_or((0.0, None), |since| steps.of(since));
        let name = if apart { number } else { usize::MAX };
        let likeness = (rank.state, rank.node_type, rank.releasable, step, rank.slots, rank.busy_slots, name);
        let at = *index.entry(likeness).or_insert(all.len());
        match all.get_mut(at) {
            Some(alike) => (alike.ranks, alike.age) = (alike.ranks + 1, alike.age + age),
            None => all.push(Alike { first: rank.clone(), ranks: 1, age }),
        }
    }
    all
}

/// Ages with their steps; neighbours often have the same age.
struct AgeSteps {
    now: Time,
    last: Option<(Time, (f64, Option<i64>))>,
}

impl AgeSteps {
    fn of(&mut self, since: Time) -> (f64, Option<i64>) {
        if let Some((_, known)) = self.last.filter(|(last, _)| *last == since) {
            return known;
        }
        let age = self.now.since(since).as_secs_f64();
        let found = (age, Some((age.max(1e-3).ln() * AGE_STEPS).round() as i64));
        self.last = Some((since, found));
        found
    }
}

/// Present ranks as a group of holders.
fn held(alike: &Alike, charge: &dyn Fn(NodeTypeId) -> Charge) -> HolderGroup {
    let rank = &alike.first;
    let age = alike.age / f64::from(alike.ranks);
    let holder = HeldNode {
        since: rank.billed_since.map(|_| -age),
        kept: !rank.releasable,
        granted: true,
        slots: rank.slots,
        busy: rank.busy_slots,
        charge: charge(rank.node_type),
        ..HeldNode::default()
    };
    HolderGroup::of(holder, alike.ranks)
}
