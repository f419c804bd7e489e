//! Which types of nodes are requested, how many of each, and which may go.
//!
//! A policy says how many ranks there should be. Further nodes go to those tasks that have the most
//! work for each slot that can run them: tasks that only few types of nodes can run come first where
//! these are short, and the others get what is cheapest for their slots, by the integer program of
//! `price/mix`, within limits and budget.

use std::time::Duration;

use super::observation::{Observation, RankView};
use super::policy::Target;
use super::price::{Account, CapacityNeed, NodeType, NodeTypeId, NodeTypes, Prices, cheapest_mix};
use super::remaining::NodeDemand;
use crate::model::{RankState, Time};
use crate::text::counted;

/// Mixes that cost less than this share below the plain choice are not worth a word.
const MIN_SAVING: f64 = 0.01;

/// Types that arrive this many seconds later than others count as equally fast.
const MAX_LATER_S: f64 = 1.0;

/// What further nodes are for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeOrder {
    /// How many at most.
    pub more: u32,
    /// The type that the forecast of the choice began with, if it made one.
    pub first: Option<NodeTypeId>,
    /// How long they are probably held.
    pub hold: Duration,
    /// Until when the budget must pay for all nodes.
    pub until: Time,
}

/// Nodes of one type to request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TypedRequest {
    pub node_type: NodeTypeId,
    pub nodes: u32,
    /// The reason, as the end of a sentence; empty where there is no choice.
    pub why: String,
}

/// A type of nodes that can be requested.
#[derive(Clone, Copy, Debug)]
struct Source {
    node_type: NodeTypeId,
    room: u32,
    slots: u32,
    wait_s: f64,
}

/// Open tasks that the same types of nodes can run, and the slots for them.
#[derive(Clone, Copy, Debug)]
struct Share {
    demand: NodeDemand,
    /// Slots of the nodes here and on their way that are for these tasks.
    slots: f64,
    /// Further nodes.
    nodes: u32,
}

impl Share {
    /// Seconds that its slots need for the ready and running tasks.
    fn pressure(&self) -> f64 {
        if self.demand.now_s > 0.0 { self.demand.now_s / self.slots } else { 0.0 }
    }
}

/// The nodes to request, the first to be requested first.
pub(super) fn choose(
    seen: &Observation<'_>,
    account: &Account<'_>,
    prices: &Prices,
    order: &NodeOrder,
) -> Vec<TypedRequest> {
    let mut sources = sources(seen, prices, order.first);
    let mut account = account.clone();
    let mut requests: Vec<TypedRequest> = Vec::new();
    for share in allot(seen, prices, order.more, &sources) {
        let able = |source: &Source| share.demand.runs_on.has(source.node_type);
        let of_share: Vec<usize> = (0..sources.len()).filter(|&at| able(&sources[at])).collect();
        let plain = plain(&of_share, &sources, share.nodes);
        let mix = cheaper_mix(seen, prices, &share, &plain, &sources, order);
        let why = why(&share, mix.is_some(), sources.len());
        let mut missing = 0;
        // What one type cannot give comes from the next one.
        let planned = mix.unwrap_or(plain);
        let more = of_share.iter().map(|&at| (at, 0));
        for (at, nodes) in planned.into_iter().chain(more) {
            let source = &mut sources[at];
            let wanted = if nodes > 0 { nodes } else { missing };
            let most = source.room.min(account.affordable(source.node_type, order.until));
            let got = wanted.min(most);
            missing = if nodes > 0 { missing + nodes - got } else { missing - got };
            if got == 0 {
                continue;
            }
            source.room -= got;
            account = account.with_request(source.node_type, got);
            match requests.iter_mut().find(|request| request.node_type == source.node_type) {
                Some(request) => request.nodes += got,
                None => requests.push(TypedRequest { node_type: source.node_type, nodes: got, why: why.clone() }),
            }
        }
    }
    requests
}

/// The types that can be requested, in the order in which they are, `first` before all others.
fn sources(seen: &Observation<'_>, prices: &Prices, first: Option<NodeTypeId>) -> Vec<Source> {
    let source = |(node_type, room): (NodeTypeId, u32)| Source {
        node_type,
        room,
        slots: prices.node(node_type).map_or(1, |node| node.slots.max(1)),
        wait_s: seen.sites.iter().find(|site| site.node_type == node_type).map_or(0.0, |site| site.wait_s),
    };
    seen.growth(first).into_iter().map(source).collect()
}

/// Divides further nodes among the tasks, by what can run them.
fn allot(seen: &Observation<'_>, prices: &Prices, more: u32, sources: &[Source]) -> Vec<Share> {
    let mut shares = shares(seen, prices);
    let first_of = |share: &Share| sources.iter().find(|source| share.demand.runs_on.has(source.node_type));
    shares.retain(|share| first_of(share).is_some());
    if shares.is_empty() {
        let demand = NodeDemand { runs_on: NodeTypes::default(), tasks: 0, size_s: 0.0, now_s: 0.0, now_slots: 0 };
        shares.push(Share { demand, slots: 0.0, nodes: 0 });
    }
    for _ in 0..more {
        // Of equals the first, which the most types can run.
        let most = shares.iter_mut().reduce(|a, b| if b.pressure() > a.pressure() { b } else { a });
        let Some(most) = most else { break };
        let slots = first_of(most).map_or(1, |source| source.slots);
        most.slots += f64::from(slots);
        most.nodes += 1;
    }
    shares.retain(|share| share.nodes > 0);
    shares
}

/// The open tasks by what can run them, the least particular first, with the slots here and on their
/// way. A rank counts for the most particular tasks that it can run.
fn shares(seen: &Observation<'_>, prices: &Prices) -> Vec<Share> {
    let mut demands: Vec<NodeDemand> = seen.remaining.demands().collect();
    demands.sort_by(|a, b| b.runs_on.cmp(&a.runs_on));
    demands.sort_by_key(|demand| demands_within(demand, seen));
    let mut shares: Vec<Share> = demands.iter().map(|&demand| Share { demand, slots: 0.0, nodes: 0 }).collect();
    let works = |rank: &&RankView| matches!(rank.state, RankState::Active | RankState::Joining);
    let here = seen.ranks.iter().filter(works).map(|rank| (rank.node_type, f64::from(rank.slots)));
    let slots = |node_type| prices.node(node_type).map_or(1.0, |node| f64::from(node.slots));
    let coming = seen.requests.iter().map(|it| (it.node_type, f64::from(it.nodes) * slots(it.node_type)));
    for (node_type, slots) in here.chain(coming) {
        let serves = |at: &usize| shares[*at].demand.runs_on.has(node_type);
        let able: Vec<usize> = (0..shares.len()).filter(serves).collect();
        let is_narrowest = |at: &usize| {
            let narrower = |other: &usize| demands[*other].runs_on.is_part_of(demands[*at].runs_on);
            !able.iter().any(narrower)
        };
        let narrowest: Vec<usize> = able.iter().copied().filter(is_narrowest).collect();
        narrowest.into_iter().for_each(|at| shares[at].slots += slots);
    }
    shares
}

/// How particular tasks are: the number of sets of types, of others, that theirs is part of.
fn demands_within(demand: &NodeDemand, seen: &Observation<'_>) -> usize {
    seen.remaining.demands().filter(|other| demand.runs_on.is_part_of(other.runs_on)).count()
}

/// The first nodes of the order, as many as there is room for.
fn plain(of_share: &[usize], sources: &[Source], nodes: u32) -> Vec<(usize, u32)> {
    let mut left = nodes;
    let mut taken = Vec::new();
    for &at in of_share {
        let of_type = left.min(sources[at].room);
        left -= of_type;
        taken.push((at, of_type));
    }
    taken.retain(|(_, nodes)| *nodes > 0);
    taken
}

/// A mix of nodes with the slots of the plain choice, as far as the tasks can use them, that costs
/// less and arrives as soon.
fn cheaper_mix(
    seen: &Observation<'_>,
    prices: &Prices,
    share: &Share,
    plain: &[(usize, u32)],
    sources: &[Source],
    order: &NodeOrder,
) -> Option<Vec<(usize, u32)>> {
    let latest = plain.iter().map(|&(at, _)| sources[at].wait_s).fold(0.0, f64::max);
    let may = |source: &Source| {
        source.room > 0 && source.wait_s <= latest + MAX_LATER_S && share.demand.runs_on.has(source.node_type)
    };
    let able: Vec<usize> = (0..sources.len()).filter(|&at| may(&sources[at])).collect();
    if able.len() < 2 {
        return None;
    }
    let node = |at: usize| prices.node(sources[at].node_type);
    let nodes: Vec<NodeType> =
        able.iter().filter_map(|&at| Some(NodeType { limit: Some(sources[at].room), ..node(at)?.clone() })).collect();
    let sum = |of: &dyn Fn(&NodeType) -> f64| -> f64 {
        plain.iter().filter_map(|&(at, nodes)| Some(of(node(at)?) * f64::from(nodes))).sum()
    };
    let here = seen.ranks.iter().filter(|rank| rank.state == RankState::Active).map(|rank| u64::from(rank.slots));
    let usable = seen.remaining.widest_level().saturating_sub(here.sum());
    let need = CapacityNeed {
        slots: sum(&NodeType::capacity).min(usable.max(1) as f64),
        hold: order.hold,
        most_nodes: Some(plain.iter().map(|(_, nodes)| nodes).sum()),
        budget: None,
    };
    let listed = Prices { nodes, ..prices.clone() };
    let mix = cheapest_mix(&need, &listed).ok()?;
    let plain_cost = sum(&|node| node.bill(order.hold));
    (mix.cost < plain_cost * (1.0 - MIN_SAVING))
        .then(|| mix.nodes.iter().map(|&(number, nodes)| (able[number.0 as usize], nodes)).collect())
}

fn why(share: &Share, is_mix: bool, sources: usize) -> String {
    let for_some = match share.demand.runs_on == NodeTypes::default() || share.demand.now_slots == 0 {
        true => String::new(),
        false => format!(" for {} that not every node can run", counted(share.demand.tasks, "task")),
    };
    match (is_mix, sources) {
        (_, 0 | 1) => String::new(),
        (true, _) => format!("{for_some}, the cheapest mix for the slots that can be used"),
        (false, _) => for_some,
    }
}

/// What the ranks must keep for tasks that only some types of nodes can run, so that these tasks end
/// no later than the others.
#[derive(Debug, Default)]
pub(super) struct Particular {
    /// Types, slots that are needed of them, and those there are.
    needs: Vec<(NodeTypes, f64, f64)>,
}

impl Particular {
    /// Of a run whose rest takes `rest_s` seconds, if that is known.
    pub(super) fn of(seen: &Observation<'_>, prices: &Prices, rest_s: Option<f64>) -> Particular {
        if prices.nodes.len() < 2 {
            return Particular::default();
        }
        let all = (0..).take(prices.nodes.len()).map(NodeTypeId);
        let is_particular = |share: &&Share| all.clone().any(|node_type| !share.demand.runs_on.has(node_type));
        let need = |share: &Share| {
            let in_time = rest_s.map_or(0.0, |rest| share.demand.now_s / rest.max(1.0));
            in_time.min(share.demand.now_slots as f64).max(1.0)
        };
        let shares = shares(seen, prices);
        let needs = shares.iter().filter(is_particular).map(|share| (share.demand.runs_on, need(share), share.slots));
        Particular { needs: needs.collect() }
    }

    /// Raises a target by the nodes that are missing.
    pub(super) fn raise(&self, seen: &Observation<'_>, prices: &Prices, wish: Target) -> Target {
        let sources = sources(seen, prices, None);
        let missing = |(types, needed, has): &(NodeTypes, f64, f64)| {
            let slots = sources.iter().find(|source| types.has(source.node_type))?.slots;
            Some(((needed - has) / f64::from(slots)).ceil().max(0.0) as u32)
        };
        let missing: u32 = self.needs.iter().filter_map(missing).sum();
        let least = seen.supply() + missing;
        if missing == 0 || wish.ranks >= least {
            return wish;
        }
        let nodes = counted(missing, "node");
        let reason = format!("{}; {nodes} more for tasks that no idle rank can run", wish.reason);
        Target { ranks: least, reason, confidence: 1.0, ..wish }
    }

    /// True if a rank may go; then it counts as gone.
    pub(super) fn spares(&mut self, rank: &RankView) -> bool {
        let slots = f64::from(rank.slots);
        let counts = |need: &&mut (NodeTypes, f64, f64)| need.0.has(rank.node_type);
        let stays = self.needs.iter_mut().filter(counts).any(|(_, needed, has)| *has - slots < *needed);
        if !stays {
            self.needs.iter_mut().filter(counts).for_each(|(_, _, has)| *has -= slots);
        }
        !stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;
    use crate::model::NodeNeed;
    use crate::scale::testing::{World, rank, site_view};
    use crate::scale::{Observation, SiteView};

    /// Type 1 has 4 slots for 1 per hour, type 2 has 32 slots for 6.
    fn prices() -> Prices {
        let mut prices = Prices::of_job(&Cost { minimum: Duration::ZERO, ..Cost::default() }, 4);
        let node = prices.nodes[0].clone();
        prices.nodes[0].memory = Some(32);
        prices.nodes.push(NodeType { name: "small".into(), memory: Some(32), gpus: Some(0), ..node.clone() });
        prices.nodes.push(NodeType { slots: 32, node_hour: 6.0, memory: Some(64), gpus: Some(4), ..node });
        prices
    }

    fn sites(waits: [f64; 2]) -> Vec<SiteView> {
        let mut sites = vec![site_view(0, 1.0), SiteView { slots: 32, ..site_view(1, 6.0) }];
        sites.iter_mut().zip(waits).for_each(|(site, wait_s)| site.wait_s = wait_s);
        crate::scale::sites::rank_sites(&mut sites);
        sites
    }

    fn requests(world: &World, prices: &Prices, more: u32, first: Option<u32>) -> Vec<(u32, u32)> {
        world.see(|seen: &Observation<'_>| {
            let (hold, until) = (Duration::from_secs(3600), seen.now.after(Duration::from_secs(60)));
            let order = NodeOrder { more, first: first.map(NodeTypeId), hold, until };
            let requests = choose(seen, &Account::of(seen, prices), prices, &order);
            requests.into_iter().map(|request| (request.node_type.0, request.nodes)).collect()
        })
    }

    #[test]
    fn the_cheapest_mix_has_the_slots_that_can_be_used() {
        let prices = prices();
        let of = |tasks: u32, more: u32, first: Option<u32>| {
            let world = World { sites: sites([10.0, 10.0]), ..World::bag(tasks, 60.0) };
            requests(&world, &prices, more, first)
        };
        assert_eq!(of(400, 3, None), [(2, 3)], "the big ones cost least for each slot");
        // The rank that is here has 4 slots.
        assert_eq!(of(7, 1, None), [(1, 1)], "3 slots are enough");
        assert_eq!(of(12, 2, None), [(1, 2)], "8 slots are enough, and 2 small nodes cost less than a big one");
        assert_eq!(of(44, 4, None), [(2, 1), (1, 2)], "40 slots");
        assert_eq!(of(400, 2, Some(1)), [(1, 2)], "the forecast has found small ones to be better");
    }

    #[test]
    fn limits_and_budget_hold_and_slow_types_are_no_part_of_a_mix() {
        let few = |sites: &mut Vec<SiteView>| sites.iter_mut().for_each(|site| site.room = Some(1));
        let mut world = World { sites: sites([10.0, 10.0]), ..World::bag(400, 60.0) };
        few(&mut world.sites);
        assert_eq!(requests(&world, &prices(), 3, None), [(2, 1), (1, 1)]);
        let poor = Prices { budget_per_hour: Some(3.0), ..prices() };
        assert_eq!(requests(&world, &poor, 3, None), [(1, 1)]);
        let late = World { sites: sites([600.0, 10.0]), ..World::bag(7, 60.0) };
        assert_eq!(requests(&late, &prices(), 1, None), [(2, 1)], "the small one comes too late");
    }

    #[test]
    fn tasks_that_few_types_can_run_get_these() {
        let prices = prices();
        let large = prices.types_for(&NodeNeed { memory: 64, ..NodeNeed::default() });
        assert!(large.has(NodeTypeId(2)) && !large.has(NodeTypeId(1)));
        // Half of the tasks need much memory.
        let mut world = World { sites: sites([10.0, 10.0]), narrow: large, ..World::bag(40, 60.0) };
        let asked = requests(&world, &prices, 2, Some(1));
        assert!(asked.contains(&(2, 1)), "{asked:?}");

        // One rank can run them and stays; the others may go.
        let big = RankView { node_type: NodeTypeId(2), slots: 32, ..rank(1, RankState::Active, 0.0) };
        world.ranks.push(big.clone());
        world.ranks.push(RankView { node_type: NodeTypeId(1), ..rank(2, RankState::Active, 0.0) });
        world.ranks[0].node_type = NodeTypeId(1);
        world.see(|seen| {
            let mut particular = Particular::of(seen, &prices, Some(600.0));
            assert!(!particular.spares(&big) && particular.spares(&seen.ranks[2]));
            let wish = Target::plain(3, "why");
            assert_eq!(particular.raise(seen, &prices, wish.clone()).ranks, 3);
            // They would take 1200 slot-seconds, 10 s are left: more slots are needed.
            let hurried = Particular::of(seen, &prices, Some(10.0)).raise(seen, &prices, wish);
            assert_eq!(hurried.ranks, 3, "20 tasks run at once on 32 slots: {hurried:?}");
        });
        world.ranks.remove(1);
        world.see(|seen| {
            let raised = Particular::of(seen, &prices, None).raise(seen, &prices, Target::plain(1, "why"));
            assert_eq!((raised.ranks, raised.reason.contains("no idle rank can run")), (3, true), "{raised:?}");
        });
    }
}
