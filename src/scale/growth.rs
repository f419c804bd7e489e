//! Which types of nodes are requested, how many of each, and which may go.
//!
//! A policy says how many ranks there should be. Further nodes go to those tasks that have the most
//! work for each slot that can run them: tasks that only few types of nodes can run come first
//! where these are short, and the others get what is cheapest for their slots, by the integer
//! program of `price/mix`, within limits and budget.

use std::cmp::Reverse;
use std::time::Duration;

use super::observation::{Observation, RankView, RequestView};
use super::policy::Target;
use super::price::{Account, CapacityNeed, NodeType, NodeTypeId, NodeTypes, Prices, cheapest_mix};
use super::remaining::NodeDemand;
use crate::model::{Rank, RankState, Time};
use crate::text::counted;

/// Mixes that cost less than this share below the plain choice are not worth a word.
const MIN_SAVING: f64 = 0.01;

/// Types that arrive this many seconds later than others count as equally fast.
const MAX_LATER_S: f64 = 1.0;

/// What further nodes are for.
#[derive(Clone, Debug)]
pub(super) struct NodeOrder {
    /// How many at most.
    pub more: u32,
    /// The type that the forecast of the choice began with, if it made one.
    pub first: Option<NodeTypeId>,
    /// How long they are probably held.
    pub hold: Duration,
    /// Until when the budget must pay for all nodes.
    pub until: Time,
    /// Nodes that are requested before all others, by the types that will do.
    pub missing: Vec<(NodeTypes, u32)>,
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
    let mut sources = sources(seen, prices, (account, order.until), order.first);
    let mut account = account.clone();
    let mut requests: Vec<TypedRequest> = Vec::new();
    for share in allot(seen, prices, order, &sources) {
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

/// The types that can be requested and paid for until a moment, in the order in which they are,
/// `first` before all others.
fn sources(
    seen: &Observation<'_>,
    prices: &Prices,
    (account, until): (&Account<'_>, Time),
    first: Option<NodeTypeId>,
) -> Vec<Source> {
    let source = |(node_type, room): (NodeTypeId, u32)| Source {
        node_type,
        room: room.min(account.affordable(node_type, until)),
        slots: prices.node(node_type).map_or(1, |node| node.slots.max(1)),
        wait_s: seen.sites.iter().find(|site| site.node_type == node_type).map_or(0.0, |site| site.wait_s),
    };
    seen.growth(first).into_iter().map(source).filter(|source| source.room > 0).collect()
}

/// Divides further nodes among the tasks, by what can run them. Tasks whose nodes cannot be had get
/// none.
fn allot(seen: &Observation<'_>, prices: &Prices, order: &NodeOrder, sources: &[Source]) -> Vec<Share> {
    let mut shares = shares(seen, prices);
    if shares.is_empty() {
        let demand = NodeDemand { runs_on: NodeTypes::default(), tasks: 0, now_s: 0.0, now_slots: 0 };
        shares.push(Share { demand, slots: 0.0, nodes: 0 });
    }
    let able = |share: &Share| {
        let runs_on = share.demand.runs_on;
        sources.iter().filter(move |source| runs_on.has(source.node_type))
    };
    let has_room = |share: &Share| share.nodes < able(share).map(|source| source.room).fold(0, u32::saturating_add);
    let add = |share: &mut Share| {
        share.slots += f64::from(able(share).next().map_or(1, |source| source.slots));
        share.nodes += 1;
    };
    let mut left = order.more;
    for &(types, nodes) in &order.missing {
        let Some(share) = shares.iter_mut().find(|share| share.demand.runs_on == types) else { continue };
        for _ in 0..nodes.min(left) {
            if has_room(share) {
                add(share);
                left -= 1;
            }
        }
    }
    for _ in 0..left {
        let open = shares.iter_mut().filter(|share| has_room(share));
        // Of equals the first, which the most types can run.
        let Some(most) = open.reduce(|a, b| if b.pressure() > a.pressure() { b } else { a }) else { break };
        add(most);
    }
    shares.retain(|share| share.nodes > 0);
    // Those that are requested first get what there is for them.
    shares.sort_by_key(|share| !order.missing.iter().any(|(types, _)| *types == share.demand.runs_on));
    shares
}

/// The open tasks by what can run them, the least particular first, with the slots here and on
/// their way. A rank counts for the most particular tasks that it can run.
fn shares(seen: &Observation<'_>, prices: &Prices) -> Vec<Share> {
    let demands = demands(seen);
    let mut shares: Vec<Share> = demands.iter().map(|&demand| Share { demand, slots: 0.0, nodes: 0 }).collect();
    for (node_type, slots) in present(seen, prices) {
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

/// The open tasks by what can run them, the least particular first.
fn demands(seen: &Observation<'_>) -> Vec<NodeDemand> {
    let mut demands: Vec<NodeDemand> = seen.remaining.demands().collect();
    demands.sort_by_key(|demand| Reverse(demand.runs_on));
    demands.sort_by_key(|demand| demands_within(demand, seen));
    demands
}

/// The slots of the nodes here and on their way, by type.
fn present(seen: &Observation<'_>, prices: &Prices) -> Vec<(NodeTypeId, f64)> {
    let works = |rank: &&RankView| matches!(rank.state, RankState::Active | RankState::Joining);
    let here = seen.ranks.iter().filter(works).map(|rank| (rank.node_type, f64::from(rank.slots)));
    here.chain(seen.requests.iter().map(|request| (request.node_type, slots_of(request, prices)))).collect()
}

/// The slots of requested nodes.
fn slots_of(request: &RequestView, prices: &Prices) -> f64 {
    f64::from(request.nodes) * prices.node(request.node_type).map_or(1.0, |node| f64::from(node.slots.max(1)))
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

/// What the ranks must keep for tasks that only some types of nodes can run, so that these tasks
/// end no later than the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Particular {
    /// The most particular first.
    needs: Vec<SlotNeed>,
}

/// The slots that nodes of some types must have.
#[derive(Clone, Copy, Debug)]
struct SlotNeed {
    types: NodeTypes,
    /// For all tasks that only these types can run, or only some of these.
    needed: f64,
    /// Of all nodes of these types here and on their way.
    has: f64,
}

impl Particular {
    /// Of a run whose rest takes `rest_s` seconds, if that is known.
    pub(super) fn of(seen: &Observation<'_>, prices: &Prices, rest_s: Option<f64>) -> Particular {
        if prices.nodes.len() < 2 {
            return Particular::default();
        }
        let all = (0..).take(prices.nodes.len()).map(NodeTypeId);
        let (demands, present) = (demands(seen), present(seen, prices));
        let in_time = |demand: &NodeDemand| {
            let slots = rest_s.map_or(0.0, |rest| demand.now_s / rest.max(1.0));
            slots.min(demand.now_slots as f64)
        };
        let need = |types: NodeTypes| {
            let within = demands.iter().filter(|it| it.runs_on == types || it.runs_on.is_part_of(types));
            let of_types = present.iter().filter(|(node_type, _)| types.has(*node_type));
            let needed = within.map(in_time).sum::<f64>().max(1.0);
            SlotNeed { types, needed, has: of_types.map(|(_, slots)| slots).sum() }
        };
        let is_particular = |types: &NodeTypes| all.clone().any(|node_type| !types.has(node_type));
        Particular { needs: demands.iter().rev().map(|it| it.runs_on).filter(is_particular).map(need).collect() }
    }

    /// The nodes that are missing and can be requested and paid for until a moment, by the types
    /// that will do.
    pub(super) fn missing(
        &self,
        seen: &Observation<'_>,
        prices: &Prices,
        paid: (&Account<'_>, Time),
    ) -> Vec<(NodeTypes, u32)> {
        if self.needs.iter().all(|need| need.has >= need.needed) {
            return Vec::new();
        }
        let mut needs = self.needs.clone();
        let mut sources = sources(seen, prices, paid, None);
        let mut missing = Vec::new();
        for at in 0..needs.len() {
            let SlotNeed { types, needed, has } = needs[at];
            let Some(source) = sources.iter_mut().find(|it| it.room > 0 && types.has(it.node_type)) else { continue };
            let slots = f64::from(source.slots);
            let nodes = (((needed - has) / slots).ceil().max(0.0) as u32).min(source.room);
            if nodes > 0 {
                source.room -= nodes;
                // They count for the less particular tasks, too.
                let of_type = needs.iter_mut().filter(|need| need.types.has(source.node_type));
                of_type.for_each(|need| need.has += slots * f64::from(nodes));
                missing.push((types, nodes));
            }
        }
        missing
    }

    /// Raises a target by `missing` nodes, or to the ranks and requests that cannot be spared.
    pub(super) fn raise(
        &self,
        seen: &Observation<'_>,
        missing: &[(NodeTypes, u32)],
        prices: &Prices,
        wish: Target,
    ) -> Target {
        let more = missing.iter().map(|(_, nodes)| nodes).sum();
        let least = match more {
            0 => self.kept(seen, prices),
            more => seen.supply() + more,
        };
        if wish.ranks >= least {
            return wish;
        }
        if more == 0 {
            let reason = format!("{}; but {least} are kept for tasks that not every node can run", wish.reason);
            return Target { ranks: least, reason, ..wish };
        }
        let reason = format!("{}; {} more for tasks that no idle rank can run", wish.reason, counted(more, "node"));
        Target { ranks: least, reason, confidence: 1.0, ..wish }
    }

    /// Number of ranks and requests that cannot be spared, and rank 0.
    fn kept(&self, seen: &Observation<'_>, prices: &Prices) -> u32 {
        if self.needs.is_empty() {
            return 0;
        }
        let mut rest = self.clone();
        let requests = seen.requests.iter().filter(|it| !rest.spares(it.node_type, slots_of(it, prices)));
        let requested: u32 = requests.map(|request| request.nodes).sum();
        let goes =
            |rank: &&RankView| matches!(rank.state, RankState::Active | RankState::Joining) && rank.rank != Rank::ZERO;
        let ranks = seen.ranks.iter().filter(goes).filter(|rank| !rest.spares(rank.node_type, f64::from(rank.slots)));
        requested + ranks.count() as u32 + 1
    }

    /// True if nodes of a type may go; then their slots count as gone.
    pub(super) fn spares(&mut self, node_type: NodeTypeId, slots: f64) -> bool {
        let of_type = |need: &&mut SlotNeed| need.types.has(node_type);
        let stays = self.needs.iter_mut().filter(of_type).any(|need| need.has - slots < need.needed);
        if !stays {
            self.needs.iter_mut().filter(of_type).for_each(|need| need.has -= slots);
        }
        !stays
    }

    /// True if a request may be withdrawn; then its nodes count as gone.
    pub(super) fn spares_request(&mut self, request: &RequestView, prices: &Prices) -> bool {
        self.needs.is_empty() || self.spares(request.node_type, slots_of(request, prices))
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
            let order = NodeOrder { more, first: first.map(NodeTypeId), hold, until, missing: Vec::new() };
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
            assert!(!particular.spares(big.node_type, 32.0) && particular.spares(NodeTypeId(1), 4.0));
            assert_eq!(raised(seen, &prices, Some(600.0), 3).ranks, 3);
            // They would take 1200 slot-seconds, 10 s are left: more slots are needed.
            let hurried = raised(seen, &prices, Some(10.0), 3);
            assert_eq!(hurried.ranks, 3, "20 tasks run at once on 32 slots: {hurried:?}");
        });
        world.ranks.remove(1);
        world.see(|seen| {
            let raised = raised(seen, &prices, None, 1);
            assert_eq!((raised.ranks, raised.reason.contains("no idle rank can run")), (3, true), "{raised:?}");
        });
    }

    /// What a wish for some ranks becomes.
    fn raised(seen: &Observation<'_>, prices: &Prices, rest_s: Option<f64>, ranks: u32) -> Target {
        let particular = Particular::of(seen, prices, rest_s);
        let missing = particular.missing(seen, prices, (&Account::of(seen, prices), seen.now));
        particular.raise(seen, &missing, prices, Target::plain(ranks, "why"))
    }

    #[test]
    fn what_was_requested_for_some_tasks_stays() {
        let prices = prices();
        let large = prices.types_for(&NodeNeed { memory: 64, ..NodeNeed::default() });
        let mut world = World { sites: sites([10.0, 10.0]), narrow: large, ..World::bag(4, 60.0) };
        assert_eq!(world.see(|seen| raised(seen, &prices, Some(600.0), 1).ranks), 2);
        world.request(1, 1);
        world.requests[0].node_type = NodeTypeId(2);
        world.see(|seen| {
            let kept = raised(seen, &prices, Some(600.0), 1);
            assert_eq!((kept.ranks, kept.reason.contains("are kept")), (2, true), "{kept:?}");
            let mut particular = Particular::of(seen, &prices, Some(600.0));
            assert!(!particular.spares_request(&seen.requests[0], &prices));
        });
        // A second one is of no use.
        world.request(2, 1);
        world.requests[1].node_type = NodeTypeId(2);
        world.see(|seen| {
            assert_eq!(raised(seen, &prices, Some(600.0), 1).ranks, 2);
            let mut particular = Particular::of(seen, &prices, Some(600.0));
            let spared = seen.requests.iter().filter(|it| particular.spares_request(it, &prices)).count();
            assert_eq!(spared, 1);
        });
    }

    #[test]
    fn a_rank_counts_for_all_tasks_that_it_can_run() {
        let mut prices = prices();
        prices.nodes[1].memory = Some(48);
        let for_memory = |memory| prices.types_for(&NodeNeed { memory, ..NodeNeed::default() });
        let (rich, wide) = (for_memory(64), for_memory(48));
        assert!(rich.is_part_of(wide) && !wide.has(NodeTypeId(0)));
        // One open task that needs a rich node, and one that needs a rich or a lean one.
        let mut world = World { sites: sites([10.0, 10.0]), narrow: wide, others: rich, ..World::bag(2, 60.0) };
        let of_type = |number| RankView { node_type: NodeTypeId(2), ..rank(number, RankState::Active, 0.0) };
        world.ranks = (0..4).map(of_type).collect();
        world.see(|seen| {
            assert_eq!(raised(seen, &prices, Some(60.0), 4).ranks, 4, "nothing is missing");
            let mut particular = Particular::of(seen, &prices, Some(60.0));
            let spared = seen.ranks.iter().filter(|it| particular.spares(it.node_type, f64::from(it.slots))).count();
            assert_eq!(spared, 3);
        });
        // Where both are missing, one node is for both.
        world.ranks = vec![rank(0, RankState::Active, 0.0)];
        assert_eq!(world.see(|seen| raised(seen, &prices, Some(60.0), 1).ranks), 2);
    }

    #[test]
    fn what_cannot_be_paid_for_keeps_nothing_from_others() {
        let prices = Prices { budget_per_hour: Some(6.5), ..prices() };
        let large = prices.types_for(&NodeNeed { memory: 64, ..NodeNeed::default() });
        let world = World { sites: sites([10.0, 10.0]), narrow: large, ..World::bag(400, 60.0) };
        // The first rank costs 1 per hour, which leaves 5.5.
        assert_eq!(requests(&world, &prices, 2, None), [(1, 2)]);
        assert_eq!(world.see(|seen| raised(seen, &prices, Some(60.0), 1).ranks), 1);
    }
}
