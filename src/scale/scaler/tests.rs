//! The scaler on small worlds: which ranks leave, and a toy run that shows that the budget always
//! holds.

use proptest::prelude::*;

use super::*;
use crate::job::{Capacity, Cost, Intent, NodeTerms, PolicyKind, Site, SiteTerms};
use crate::scale::NodeTypeId;
use crate::scale::policy::policy_by_name;
use crate::scale::testing::{World, rank, site_view, time};
use crate::scale::{ClassId, RequestView, SiteView, Stage};

fn scaler(policy: &str, max_ranks: u32) -> Scaler {
    let scaling = Scaling { max_ranks, ..Scaling::default() };
    Scaler::new(policy_by_name(policy, &scaling).unwrap(), scaling)
}

fn decide(scaler: &mut Scaler, world: &World, cost: &Cost) -> Vec<Decision> {
    let prices = Prices::of_job(cost, 4);
    world.see(|seen| scaler.decide(seen, &world.estimates(60.0), &prices))
}

#[test]
fn what_is_parked_is_woken_before_nodes_are_asked_for() {
    let mut world = World::bag(1000, 60.0).with_ranks(3);
    world.ranks[1].state = RankState::Parked;
    let decisions = decide(&mut scaler("static-5", 8), &world, &Cost::default());
    let actions: Vec<&Action> = decisions.iter().map(|d| &d.action).collect();
    let grow = Action::Grow { nodes: 2, node_type: NodeTypeId(0) };
    assert_eq!(actions, [&Action::Unpark { ranks: vec![Rank(1)] }, &grow]);
    assert_eq!((decisions[0].from, decisions[1].to, decisions[1].number), (2, 5, 2));
    let text = serde_json::to_string(&decisions).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Decision>>(&text).unwrap(), decisions);
}

#[test]
fn requests_are_withdrawn_before_ranks_are_drained_and_idle_ones_before_busy_ones() {
    let mut world = World::bag(3, 60.0).with_ranks(5);
    world.now = 1000.0;
    world.request(7, 2);
    world.request(8, 1);
    world.ranks[4].busy_slots = 3;
    world.ranks[3].busy_slots = 1;
    let decisions = decide(&mut scaler("static-3", 8), &world, &Cost::default());
    let actions: Vec<Action> = decisions.iter().map(|d| d.action.clone()).collect();
    let cancel = Action::Cancel { requests: vec![RequestId(8), RequestId(7)] };
    assert_eq!(actions, [cancel, Action::Shrink { ranks: vec![Rank(2), Rank(1)] }]);
}

#[test]
fn ranks_that_cannot_leave_are_parked_and_rank_0_never() {
    let mut world = World::bag(1, 60.0).with_ranks(3);
    world.now = 1000.0;
    world.ranks.iter_mut().for_each(|r| r.releasable = false);
    let decisions = decide(&mut scaler("static-1", 8), &world, &Cost::default());
    assert_eq!(decisions[0].action, Action::Park { ranks: vec![Rank(2), Rank(1)] });
}

#[test]
fn what_is_paid_for_stays() {
    let mut world = World::chain(10, 600.0).with_ranks(2);
    let hourly = Cost { granularity: Duration::from_secs(3600), ..Cost::default() };
    let at = |world: &mut World, now: f64| {
        world.now = now;
        decide(&mut scaler("hybrid", 8), world, &hourly)[0].action.clone()
    };
    assert_eq!(at(&mut world, 1800.0), Action::Stay);
    assert_eq!(at(&mut world, 3595.0), Action::Shrink { ranks: vec![Rank(1)] });
}

#[test]
fn on_a_guess_only_what_nothing_will_use_is_given_back() {
    // One task runs, of a class without information; twelve wait for it, for which three ranks are
    // enough.
    let mut world = World::phases(&[1, 12], 1.0).with_ranks(6);
    world.stages[0] = Some(Stage::Running(time(0.0)));
    world.ranks[0].busy_slots = 1;
    let nothing = Estimates::new(vec![crate::scale::ClassPrior::default()], &[Duration::from_secs(60)]);
    let mut scaler = scaler("hybrid", 8);
    let mut held = |world: &World| {
        let cost =
            Cost { node_hour: 1.0, minimum: Duration::ZERO, granularity: Duration::from_secs(1), ..Cost::default() };
        let decisions = world.see(|seen| scaler.decide(seen, &nothing, &Prices::of_job(&cost, 4)));
        decisions.last().map(|decision| (decision.to, decision.reason.clone()))
    };
    for now in [0.0, 5.0, 10.0] {
        world.now = now;
        let held = held(&world);
        assert_eq!(held.as_ref().map(|held| held.0), Some(3), "after {now} s: {held:?}");
        world.ranks.truncate(3);
    }
    // They have been idle for longer than new ranks would take to arrive.
    world.now = 600.0;
    assert_eq!(held(&world).map(|held| held.0), Some(1));
}

#[test]
fn a_change_of_one_among_many_waits_for_a_second_look() {
    let mut scaler = scaler("hybrid", 20);
    assert!(scaler.hesitates(10, 11) && !scaler.hesitates(10, 11));
    assert!(scaler.hesitates(10, 9) && scaler.hesitates(10, 11));
    assert!(!scaler.hesitates(3, 4) && !scaler.hesitates(10, 13));
}

#[test]
fn money_and_hourly_budget_bound_growth() {
    let world = World::bag(10_000, 60.0).with_ranks(1);
    let poor = Cost { node_hour: 3.6, budget_per_hour: Some(3.6 * 3.5), ..Cost::default() };
    let decisions = decide(&mut scaler("static-16", 16), &world, &poor);
    assert_eq!(decisions[0].action, Action::Grow { nodes: 2, node_type: NodeTypeId(0) });
}

#[test]
fn the_effect_of_a_change_is_measured_when_the_next_is_due() {
    let mut world = World::bag(1000, 60.0).with_ranks(1);
    let mut scaler = scaler("hybrid", 8);
    let first = decide(&mut scaler, &world, &Cost::default());
    assert!(matches!(first[0].action, Action::Grow { .. }), "{first:?}");
    world.now = 70.0;
    world.ranks = (0..8).map(|r| rank(r, RankState::Active, 0.0)).collect();
    assert_eq!(decide(&mut scaler, &world, &Cost::default())[0].action, Action::Stay);
    world.now = 1000.0;
    world.stages.iter_mut().skip(2).for_each(|s| *s = None);
    let last = decide(&mut scaler, &world, &Cost::default());
    assert!(matches!(last[0].action, Action::Shrink { .. }), "{last:?}");
    let effects = scaler.effects();
    assert_eq!((effects[0].0, effects[0].1.arrived, effects[0].1.active), (first[0].number, Some(time(70.0)), 8));
}

/// A toy run in steps of half a second: tasks with random durations, nodes with random delays. It
/// follows the scaler's decisions and nothing else.
struct Toy {
    world: World,
    cost: Cost,
    random: fastrand::Rng,
    delay: f64,
    /// When each running task ends.
    ends: Vec<Option<f64>>,
    arrivals: Vec<(f64, u64)>,
    next_request: u64,
    grown: bool,
}

#[derive(Debug)]
struct Outcome {
    bill: f64,
    complete: bool,
    stopped: bool,
    grown: bool,
    wall: f64,
}

const STEP: f64 = 0.5;

impl Toy {
    fn new(world: World, cost: Cost, delay: f64, seed: u64) -> Toy {
        let ends = vec![None; world.stages.len()];
        let random = fastrand::Rng::with_seed(seed);
        Toy { world, cost, random, delay, ends, arrivals: Vec::new(), next_request: 0, grown: false }
    }

    fn run(mut self, scaler: &mut Scaler) -> Outcome {
        let prices = Prices::of_job(&self.cost, 4);
        let mut estimates = self.world.estimates(self.delay);
        let (mut stopped, mut next_decision) = (None, 0.0);
        while self.world.stages.iter().any(Option::is_some) && self.world.now < 1e6 {
            self.arrive(&mut next_decision);
            self.end_tasks(&mut estimates);
            if self.world.now >= next_decision {
                let decisions = self.world.see(|seen| scaler.decide(seen, &estimates, &prices));
                next_decision = self.world.now + scaler.pause(time(self.world.now)).as_secs_f64();
                for decision in decisions {
                    if let Action::StopForBudget { by } = decision.action {
                        stopped = Some(by.seconds());
                        self.drop_requests();
                    }
                    self.obey(&decision.action, &prices);
                }
            }
            if let Some(by) = stopped {
                let running = self.ends.iter().any(Option::is_some);
                if !running || self.world.now + STEP > by {
                    break;
                }
            } else {
                self.start_tasks(scaler, &estimates);
            }
            self.world.now += STEP;
        }
        let complete = self.world.stages.iter().all(Option::is_none);
        let bill = self.world.see(|seen| Account::of(seen, &prices).spent());
        Outcome { bill, complete, stopped: stopped.is_some(), grown: self.grown, wall: self.world.now }
    }

    fn arrive(&mut self, next_decision: &mut f64) {
        let now = self.world.now;
        let (come, wait): (Vec<_>, Vec<_>) = self.arrivals.drain(..).partition(|(at, _)| *at <= now);
        self.arrivals = wait;
        for (_, id) in come {
            self.world.requests.retain(|r| r.id != RequestId(id));
            let number = self.world.ranks.len() as u32;
            self.world.ranks.push(rank(number, RankState::Active, now));
            *next_decision = now;
        }
    }

    fn end_tasks(&mut self, estimates: &mut Estimates) {
        for task in 0..self.ends.len() {
            if self.ends[task].is_some_and(|end| end <= self.world.now) {
                self.ends[task] = None;
                let prior = Some(Duration::from_secs_f64(self.world.durations[task]));
                if let Some(Stage::Running(since)) = self.world.stages[task].take() {
                    estimates.observe_task(ClassId(0), prior, time(self.world.now).since(since));
                }
                let after: Vec<u32> = self.world.graph.successors(task as u32).map(|e| e.node()).collect();
                for next in after {
                    self.open(next);
                }
            }
        }
        let busy = self.ends.iter().flatten().count() as u32;
        let mut left = busy;
        for rank in self.world.ranks.iter_mut().filter(|r| r.state != RankState::Left) {
            rank.busy_slots = left.min(rank.slots);
            left -= rank.busy_slots;
        }
        for rank in 0..self.world.ranks.len() {
            if self.world.ranks[rank].state == RankState::Draining && self.world.ranks[rank].busy_slots == 0 {
                self.leave(rank);
            }
        }
    }

    /// A node has one predecessor fewer to wait for.
    fn open(&mut self, node: u32) {
        let done = |n: u32| match self.world.graph.join(n) {
            None => self.world.stages[n as usize].is_none(),
            Some(_) => self.world.graph.predecessors(n).all(|e| self.world.stages[e.node() as usize].is_none()),
        };
        if !self.world.graph.predecessors(node).all(|e| done(e.node())) {
            return;
        }
        if self.world.graph.join(node).is_some() {
            let after: Vec<u32> = self.world.graph.successors(node).map(|e| e.node()).collect();
            after.into_iter().for_each(|next| self.open(next));
        } else if self.world.stages[node as usize] == Some(Stage::Waiting) {
            self.world.stages[node as usize] = Some(Stage::Ready);
        }
    }

    fn start_tasks(&mut self, scaler: &Scaler, estimates: &Estimates) {
        let slots: u32 = self.world.ranks.iter().filter(|r| r.state == RankState::Active).map(|r| r.slots).sum();
        let busy = self.ends.iter().flatten().count();
        let mut free = (slots as usize).saturating_sub(busy);
        for task in 0..self.ends.len() {
            if free == 0 {
                break;
            }
            let prior = Duration::from_secs_f64(self.world.durations[task]);
            let likely = estimates.task(ClassId(0), Some(prior)).q90;
            if self.world.stages[task] == Some(Stage::Ready) && scaler.may_start(time(self.world.now + likely)) {
                let took = self.world.durations[task] * (0.5 + 1.5 * self.random.f64());
                self.ends[task] = Some(self.world.now + took);
                self.world.stages[task] = Some(Stage::Running(time(self.world.now)));
                free -= 1;
            }
        }
    }

    fn obey(&mut self, action: &Action, prices: &Prices) {
        match action {
            Action::Grow { nodes, .. } => {
                self.grown = true;
                for _ in 0..*nodes {
                    let late = self.delay * (0.3 + 1.4 * self.random.f64());
                    self.arrivals.push((self.world.now + late, self.next_request));
                    let asked = time(self.world.now);
                    let id = RequestId(self.next_request);
                    self.world.requests.push(RequestView {
                        id,
                        nodes: 1,
                        node_type: NodeTypeId(0),
                        rivals: Vec::new(),
                        asked,
                        needed: false,
                    });
                    self.next_request += 1;
                }
            }
            Action::Cancel { requests } => {
                self.world.requests.retain(|r| !requests.contains(&r.id));
                self.arrivals.retain(|(_, id)| !requests.contains(&RequestId(*id)));
            }
            Action::Shrink { ranks } => {
                for rank in ranks {
                    self.world.ranks[rank.index()].state = RankState::Draining;
                    if self.world.ranks[rank.index()].busy_slots == 0 {
                        self.leave(rank.index());
                    }
                }
            }
            Action::Park { .. } | Action::Unpark { .. } => unreachable!("all ranks of a toy run can leave"),
            Action::StopForBudget { .. } | Action::Stay => {}
        }
        let _ = prices;
    }

    fn leave(&mut self, rank: usize) {
        let prices = Prices::of_job(&self.cost, 4);
        let since = self.world.ranks[rank].billed_since.unwrap();
        self.world.settled += prices.bill(NodeTypeId(0), since, time(self.world.now));
        self.world.ranks[rank].state = RankState::Left;
        self.world.ranks[rank].billed_since = None;
    }

    fn drop_requests(&mut self) {
        self.world.requests.clear();
        self.arrivals.clear();
    }
}

fn run(policy: &str, world: World, cost: &Cost, delay: f64, seed: u64) -> Outcome {
    Toy::new(world, cost.clone(), delay, seed).run(&mut scaler(policy, 16))
}

#[test]
fn a_run_is_not_stopped_for_what_nobody_knows() {
    // Four nodes at 1 a second and 400 to spend: the money lasts for 100 s. The tasks are known
    // only to be running.
    let cost = Cost { node_hour: 3600.0, budget: Some(400.0), ..Cost::default() };
    let prices = Prices::of_job(&cost, 4);
    let estimates = Estimates::new(vec![crate::scale::ClassPrior::default()], &[]);
    let stopped_at = |began: f64, now: f64| {
        let mut world = World::bag(100, 1.0).with_ranks(4).busy();
        world.stages.iter_mut().take(16).for_each(|stage| *stage = Some(Stage::Running(time(began))));
        world.now = now;
        let decisions = world.see(|seen| scaler("fixed", 4).decide(seen, &estimates, &prices));
        matches!(decisions[0].action, Action::StopForBudget { .. })
    };
    assert!(!stopped_at(0.0, 6.0), "6 % are spent");
    assert!(!stopped_at(0.0, 40.0));
    // A task that has lasted for 60 s will hardly end within the 38 s that are left.
    assert!(stopped_at(0.0, 60.0));
    assert!(!stopped_at(55.0, 60.0) && stopped_at(90.0, 93.5), "what is short may go on to the end");
}

#[test]
fn growth_leaves_money_for_the_tasks_that_start_next() {
    // Each node costs 60 for its first minute, so 500 would pay for eight of them. But the tasks
    // take about 82 s, up to 181 s at q90: three minutes and a second, so four are charged.
    let minute = Duration::from_secs(60);
    let cost = Cost { node_hour: 3600.0, minimum: minute, granularity: minute, budget: Some(500.0), ..Cost::default() };
    let prices = Prices::of_job(&cost, 4);
    let estimate = Some(Duration::from_secs(82));
    let prior = crate::scale::ClassPrior { name: "all".into(), estimate, ..Default::default() };
    let estimates = Estimates::new(vec![prior], &[Duration::from_secs(1)]);
    let grown = |duration: f64| {
        let world = World::bag(80, duration);
        let decisions = world.see(|seen| scaler("static-8", 8).decide(seen, &estimates, &prices));
        match decisions[0].action {
            Action::Grow { nodes, .. } => nodes,
            _ => 0,
        }
    };
    assert_eq!((grown(1.0), grown(82.0), grown(2000.0)), (7, 1, 0));
}

#[test]
fn a_chain_never_grows() {
    for policy in ["hybrid", "predictive", "performance", "cost"] {
        for delay in [1.0, 60.0] {
            let outcome = run(policy, World::chain(60, 8.0), &Cost::default(), delay, 3);
            assert!(outcome.complete && !outcome.grown, "{policy} {outcome:?}");
        }
    }
}

#[test]
fn phases_cost_less_than_static_and_take_hardly_longer() {
    let world = || World::phases(&[64, 4, 64, 4, 64], 300.0);
    let cost = Cost { node_hour: 3600.0, ..Cost::default() };
    let still = run("static-16", world(), &cost, 60.0, 1);
    let ours = run("hybrid", world(), &cost, 60.0, 1);
    assert!(still.complete && ours.complete);
    assert!(ours.bill < 0.75 * still.bill, "{ours:?} {still:?}");
    assert!(ours.wall < 1.2 * still.wall, "{ours:?} {still:?}");
}

#[test]
fn settings_choose_the_policy() {
    for (kind, name) in [(PolicyKind::Cost, "cost"), (PolicyKind::Reactive, "reactive"), (PolicyKind::Fixed, "fixed")] {
        let scaling = Scaling { policy: kind, intent: Intent::Latency, ..Scaling::default() };
        assert_eq!(Scaler::of(&scaling).policy(), name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the graph, the policy, the price and the delay: the bill stays under the budget,
    /// and a run that the budget would pay for generously is not stopped.
    #[test]
    fn the_budget_is_never_exceeded(
        widths in prop::collection::vec(1u32..60, 1..5),
        duration in 1.0f64..120.0,
        budget in 0.05f64..40.0,
        delay in 1.0f64..120.0,
        minimum in 0u64..120,
        granularity in prop::sample::select(vec![1u64, 60, 600]),
        policy in prop::sample::select(vec!["hybrid", "performance", "cost", "reactive", "static-16", "react", "hpa", "dask"]),
        seed in any::<u64>(),
    ) {
        let cost = Cost {
            node_hour: 36.0,
            minimum: Duration::from_secs(minimum),
            granularity: Duration::from_secs(granularity),
            budget: Some(budget),
            ..Cost::default()
        };
        // The minimum charge of the first node is unavoidable.
        let least = Prices::of_job(&cost, 4).bill(NodeTypeId(0), Time::ZERO, Time(1));
        let outcome = run(policy, World::phases(&widths, duration), &cost, delay, seed);
        prop_assert!(outcome.bill <= budget.max(least) + 1e-9, "{outcome:?}");
        prop_assert!(outcome.complete || outcome.stopped, "{outcome:?}");
        let work: f64 = widths.iter().map(|w| f64::from(*w) * duration * 2.0).sum();
        let generous = 0.01 * 30.0 * (work + duration * 40.0 + f64::from(widths.len() as u32) * 4000.0);
        prop_assert!(outcome.complete || budget < generous, "{outcome:?}");
    }
}

/// A site of the job, and as a decision sees it.
fn site(place: u32, node_hour: f64, room: Option<u32>) -> (Site, SiteView) {
    let (name, patience) = (format!("s{place}"), Duration::from_secs(60));
    let node = NodeTerms {
        name: name.clone(),
        node_hour,
        minimum: patience,
        granularity: Duration::from_secs(1),
        limit: room,
        ..NodeTerms::default()
    };
    let terms = SiteTerms { name, node, patience, bandwidth: None };
    let view = SiteView { room, ..site_view(place, node_hour) };
    (Site { capacity: Capacity::default(), terms: Some(terms) }, view)
}

#[test]
fn nodes_come_from_the_cheapest_sites_within_their_room_and_the_budget() {
    let (sites, views): (Vec<Site>, Vec<SiteView>) = [site(0, 3.6, Some(2)), site(1, 36.0, None)].into_iter().unzip();
    let mut world = World::bag(1000, 60.0).busy();
    world.sites = views;
    let grown = |world: &World, budget_per_hour: Option<f64>| {
        let cost = Cost { node_hour: 3.6, budget_per_hour, ..Cost::default() };
        let prices = Prices::of_job(&cost, 4).with_sites(&sites);
        let decisions = world.see(|seen| scaler("static-8", 8).decide(seen, &world.estimates(1.0), &prices));
        let grown = decisions.into_iter().filter_map(|decision| match decision.action {
            Action::Grow { nodes, node_type } => Some((nodes, node_type.0, decision.reason)),
            _ => None,
        });
        grown.collect::<Vec<_>>()
    };
    let free = grown(&world, None);
    assert_eq!(free.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(2, 1), (5, 2)]);
    assert!(free[0].2.contains("from `s0`") && free[1].2.contains("from `s1`"), "{free:?}");
    let tight = grown(&world, Some(3.6 + 2.0 * 3.6 + 36.0));
    assert_eq!(tight.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(2, 1), (1, 2)]);
    // A request that waits at both sites may be granted by the dearer one.
    world.request(1, 1);
    world.requests[0].node_type = NodeTypeId(1);
    world.requests[0].rivals = vec![NodeTypeId(2)];
    let tight = grown(&world, Some(3.6 + 2.0 * 3.6 + 36.0));
    assert_eq!(tight.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(1, 1)], "one is requested there already");
    // A site that fails is not asked.
    world.requests.clear();
    world.sites[0].closed = Some("failed".into());
    assert_eq!(grown(&world, None).iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [(7, 2)]);
}
