//! Shows the scaling controller the state of a real run.
//!
//! The state follows from data that rank 0 has in any case: ended attempts, how busy each rank is,
//! and which tasks have been running for a second.
//!
//! Ranks of the base world cannot leave it. Those that are not needed are parked: they hold no task
//! and sleep, and their nodes are billed. Nodes that joined are given back, and further ones are
//! requested if there is a provider. The driver carries the commands out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::advisor_client::AdvisorClient;
use super::planned_sites::default_delay;
use super::pricing::{known_of, prices, type_of};
use super::run_history::{LoadedHistory, kind_of};
use crate::capacity::{Bill, Block, BlockId, NodeTable};
use crate::graph::TaskGraph;
use crate::job::{Group, Job, PolicyKind, Scaling, Site};
use crate::journal::RankInfo;
use crate::model::{Attempt, Labels, Measure, NodeOffer, Rank, TaskId, Time, Vitals, total};
use crate::scale::commands::{NodeChanges, ScalingStep};
use crate::scale::controller::ScalingController;
use crate::scale::price::EarlierSessions;
use crate::scale::{
    Advisor, Decision, Forecast, NodeTypeId, Prices, RankView, RequestId, RequestView, Scaler, SiteView, WaitSource,
};
use crate::schedule::coordinator::{Coordinator, Member};
use crate::workload::PreparedJob;

/// Time that a parked rank takes to be active again; the only delay of a run without a provider.
const UNPARK_DELAY: Duration = Duration::from_millis(100);

/// Without a policy or a budget, the end is forecast only for jobs of at most this many tasks.
const MAX_FORECAST_TASKS: usize = 1 << 20;

/// Without a policy or a budget, the end is forecast only if all tasks take at least this long.
const MIN_FORECAST_TASK: Duration = Duration::from_millis(10);

/// Pause after the first forecast of a run without a policy or a budget.
const FIRST_FORECAST_PAUSE: Duration = Duration::from_millis(250);

/// Number of decisions in the answer to a status request.
const MAX_SHOWN_DECISIONS: usize = 5;

/// Feeds the scaling controller of a real run.
pub(super) struct Autoscaler {
    job: Arc<Job>,
    controller: ScalingController,
    graph: Arc<TaskGraph>,
    /// For each node of the graph the number of its dependencies that have not ended.
    waits: Vec<u32>,
    prices: Prices,
    /// What nodes of the types that have joined turned out to have, besides labels.
    known: BTreeMap<NodeTypeId, NodeOffer>,
    /// False if it only forecasts the end.
    decides: bool,
    /// When the run ends, as of the last decision.
    pub(super) forecast: Option<Forecast>,
    /// The last recorded decisions, the latest first.
    latest: VecDeque<Decision>,
    /// Number of ranks that the user wants; `None` lets the policy decide.
    held: Option<u32>,
    /// When the next decision is due.
    due: Time,
    advisor: Option<AdvisorClient>,
}

/// True if a forecast is meaningful and cheap: it costs about a microsecond per task that ends.
fn can_forecast(job: &Job) -> bool {
    let known = |group: &Group| group.estimate.is_some_and(|estimate| estimate >= MIN_FORECAST_TASK);
    job.task_count() <= MAX_FORECAST_TASKS && job.groups.iter().all(known)
}

/// The pause after a forecast of a run without a policy or a budget. In its first seconds a run may
/// learn that its tasks take another time than those of earlier runs.
fn forecast_pause(now: Time) -> Duration {
    (now.since(Time::ZERO) / 4).max(FIRST_FORECAST_PAUSE)
}

impl Autoscaler {
    /// The autoscaler of a run with a policy or a budget, or whose end can be forecast; else
    /// `None`. `done`: which tasks are complete.
    pub(super) fn new(
        prepared: &PreparedJob,
        ranks: &[RankInfo],
        members: &[Member],
        done: &dyn Fn(u32) -> bool,
        earlier: EarlierSessions,
        past: &LoadedHistory,
    ) -> Option<Autoscaler> {
        let (job, graph) = (&prepared.job, &prepared.graph);
        let fixed = || Scaling { policy: PolicyKind::Fixed, max_ranks: ranks.len() as u32, ..Scaling::default() };
        let mut scaling = job.scaling.clone().unwrap_or_else(fixed);
        // Ranks that only coordinate are additional to those that a job requests.
        let idle = ranks.iter().filter(|info| info.slots == 0).count() as u32;
        scaling.max_ranks = scaling.max_ranks.saturating_add(idle);
        scaling.min_ranks = scaling.min_ranks.max(u32::from(idle > 0)).saturating_add(idle);
        let decides = scaling.policy != PolicyKind::Fixed || job.cost.budget.is_some();
        if !decides && !can_forecast(job) {
            return None;
        }
        let mut prices = prices(job, ranks).continuing(earlier);
        if let Some(first) = prices.nodes.first_mut() {
            first.memory = members.iter().map(|member| member.memory).max();
            first.gpus = members.iter().map(|member| member.gpus).max();
        }
        let delays = delays(job);
        let mut scaler = Scaler::of(&scaling);
        let advisor = job.advisor.as_ref().map(AdvisorClient::new);
        if advisor.is_some() {
            scaler = scaler.with_advisor(Advisor::default());
        }
        let mut controller = ScalingController::new(prepared, scaler, prices.clone(), scaling.interval, &delays);
        let kinds = kinds(job);
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        controller.recall(&past.history, past.moment, &past.learnt, &kinds);
        let mut autoscaler = Autoscaler {
            job: Arc::clone(job),
            controller,
            graph: Arc::clone(graph),
            waits: Vec::new(),
            prices,
            known: BTreeMap::new(),
            decides,
            forecast: None,
            latest: VecDeque::new(),
            held: None,
            due: Time::ZERO,
            advisor,
        };
        let complete = (0..graph.task_count() as u32).filter(|&task| done(task));
        complete.for_each(|task| autoscaler.controller.was_complete(TaskId(task)));
        autoscaler.count_dependencies();
        Some(autoscaler)
    }

    /// The autoscaler of the run with more tasks; `None` if its end cannot be forecast any more.
    pub(super) fn grown(mut self, prepared: &PreparedJob) -> Option<Autoscaler> {
        if !self.decides && !can_forecast(&prepared.job) {
            return None;
        }
        (self.job, self.graph) = (Arc::clone(&prepared.job), Arc::clone(&prepared.graph));
        self.controller.grow(prepared);
        self.count_dependencies();
        Some(self)
    }

    /// Counts what each node of the graph waits for, and finds the tasks that are ready.
    fn count_dependencies(&mut self) {
        self.waits = dependency_counts(&self.graph);
        let nodes = 0..self.graph.node_count() as u32;
        let first: Vec<u32> = nodes.filter(|&node| self.waits[node as usize] == 0).collect();
        first.into_iter().for_each(|node| self.node_ready(node));
        for task in 0..self.graph.task_count() as u32 {
            if !self.controller.is_open(TaskId(task)) {
                self.node_ended(task);
            }
        }
    }

    /// Attempts have ended.
    pub(super) fn attempts_ended(&mut self, attempts: &[Attempt]) {
        for attempt in attempts {
            if attempt.attempt > 0 {
                self.controller.task_waited(attempt.start.since(attempt.ready));
            }
            let was_open = self.controller.is_open(attempt.task);
            self.controller.attempt_ended(attempt);
            if was_open && attempt.last {
                self.node_ended(attempt.task.0);
            }
        }
    }

    /// A rank reports what it and its node use.
    pub(super) fn update_usage(&mut self, rank: Rank, vitals: &Vitals) {
        self.controller.update_usage(rank, vitals);
    }

    /// Tasks wrote values.
    pub(super) fn update_measures(&mut self, measures: &[Measure]) {
        self.controller.update_measures(measures);
    }

    /// A requested node of this type took this long to join.
    pub(super) fn node_arrived(&mut self, node_type: NodeTypeId, delay: Duration) {
        self.controller.rank_arrived(node_type, delay);
    }

    /// Nodes of a type have turned out to have this.
    pub(super) fn learn(&mut self, (node_type, known): (NodeTypeId, NodeOffer)) {
        self.controller.learn_type(node_type, &known);
        self.known.insert(node_type, known);
    }

    /// Median time in seconds until a requested node of a type joins, and what it is based on.
    pub(super) fn delay_s(&self, node_type: NodeTypeId) -> (f64, WaitSource) {
        (self.controller.delay_s(node_type), self.controller.delay_source(node_type))
    }

    /// The batch system's present estimate of the time in seconds until a node of a type joins.
    pub(super) fn set_batch_estimate(&mut self, node_type: NodeTypeId, seconds: Option<f64>) {
        self.controller.set_batch_estimate(node_type, seconds);
    }

    /// Number of further nodes of a type that can be paid for until the run probably ends, or the
    /// next decisions, if at most the least bill is due for those requested for `need`.
    pub(super) fn affordable(
        &self,
        now: Time,
        coordinator: &Coordinator,
        nodes: &NodeTable,
        node_type: NodeTypeId,
        need: Option<BlockId>,
    ) -> u32 {
        let Held { views, mut requests, settled } = self.held(now, coordinator, nodes);
        let is_of_need = |block: &Block| Some(block.need) == need;
        for request in requests.iter_mut().filter(|it| nodes.blocks.get(BlockId(it.id.0)).is_some_and(is_of_need)) {
            request.rivals.push(request.node_type);
            request.nodes = 0;
        }
        self.controller.affordable((now, self.forecast), &views, &requests, settled, node_type)
    }

    /// The ranks, requests and ended bills as a decision sees them.
    fn held(&self, now: Time, coordinator: &Coordinator, nodes: &NodeTable) -> Held {
        let needed = coordinator.needed_ranks();
        let view = |rank| self.view(nodes, rank, coordinator, needed.contains(&rank));
        let closed = nodes.bills().filter(|bill| bill.to.is_some());
        let bill = |bill: Bill| self.prices.bill(type_of(&self.job, bill.site), bill.from, bill.to.unwrap_or(now));
        Held {
            views: nodes.ranks().filter_map(|(rank, _)| view(rank)).collect(),
            requests: nodes.blocks.coming().map(|block| self.request_view(block, nodes, coordinator)).collect(),
            settled: total(closed.map(bill)),
        }
    }

    /// A node of the graph has ended: counts down its successors.
    fn node_ended(&mut self, node: u32) {
        let graph = Arc::clone(&self.graph);
        for edge in graph.successors(node) {
            let waits = &mut self.waits[edge.node() as usize];
            *waits = waits.saturating_sub(1);
            if *waits == 0 {
                self.node_ready(edge.node());
            }
        }
    }

    /// A node of the graph has no open dependency.
    fn node_ready(&mut self, node: u32) {
        if self.graph.join(node).is_some() {
            return self.node_ended(node);
        }
        self.controller.task_ready(TaskId(node));
    }

    /// True if a decision is due: one is when the advisor has answered.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        while let Some((question, answer)) = self.advisor.as_ref().and_then(AdvisorClient::next_answer) {
            self.controller.advised(now, question, answer);
            self.due = now;
        }
        !self.controller.is_over() && self.due <= now
    }

    /// Runs a scaling decision and schedules the next one.
    pub(super) fn decide(
        &mut self,
        now: Time,
        coordinator: &Coordinator,
        nodes: &NodeTable,
        sites: &[SiteView],
        can: NodeChanges,
    ) -> ScalingStep {
        let running = coordinator.running().map(|(_, started)| (started.task, started.start));
        self.controller.update_running(coordinator.tally().busy.into(), running);
        let Held { views, requests, settled } = self.held(now, coordinator, nodes);
        let mut step = match self.decides {
            true => self.controller.decide(now, &views, &requests, settled, sites, can),
            false => ScalingStep::default(),
        };
        if let Some((client, question)) = self.advisor.as_mut().zip(step.question.take()) {
            client.ask(question);
        }
        self.forecast = self.controller.forecast_end(now, &views, &requests, settled, sites);
        let pause = self.controller.pause(now);
        self.due = now.after(if self.decides { pause } else { pause.min(forecast_pause(now)) });
        for decision in &step.decisions {
            self.latest.truncate(MAX_SHOWN_DECISIONS - 1);
            self.latest.push_front(decision.clone());
        }
        step
    }

    /// A rank as a decision sees it; `None` if it is gone with its node.
    fn view(&self, nodes: &NodeTable, rank: Rank, coordinator: &Coordinator, needed: bool) -> Option<RankView> {
        let (entry, world) = (nodes.rank(rank)?, nodes.world_of(rank));
        let block = world.and_then(|world| world.block).and_then(|id| nodes.blocks.get(id));
        let view = RankView {
            rank,
            state: coordinator.standing(rank)?,
            node_type: type_of(&self.job, nodes.site_of(rank)),
            slots: entry.facts.slots,
            billed_since: nodes.bill_of(rank),
            busy_slots: coordinator.load(rank).busy,
            busy: entry.busy,
            failures: entry.failures,
            releasable: !needed && world.is_some() && block.is_none_or(|block| !nodes.blocks.is_bound(block.id)),
            needed,
            ends: block.and_then(|block| block.ends),
        };
        view.of(nodes.holds_node(rank))
    }

    /// A block that was requested as a decision sees it.
    fn request_view(&self, block: &Block, nodes: &NodeTable, coordinator: &Coordinator) -> RequestView {
        let (labels, node_type) = (Some(Labels::clone(&block.labels)), type_of(&self.job, Some(block.site)));
        let known = self.known.get(&node_type).cloned();
        let known = known.unwrap_or_else(|| known_of(self.job.sites.get(block.site.index())));
        let offer = NodeOffer { labels, ..known };
        RequestView {
            id: RequestId(block.id.0),
            nodes: 1,
            node_type,
            rivals: nodes.blocks.rivals(block.id).map(|site| type_of(&self.job, Some(site))).collect(),
            asked: block.asked,
            needed: coordinator.is_waited_for(&offer),
        }
    }

    /// The user wants this number of ranks; `None` lets the policy decide. False if there is no
    /// policy.
    pub(super) fn hold(&mut self, ranks: Option<u32>) -> bool {
        if self.decides {
            self.held = ranks;
            self.controller.hold(ranks);
            // The next decision sees the effect of the user's change.
            self.due = Time::ZERO;
        }
        self.decides
    }

    /// The last decisions, for a status request. `spent`: cost of all sessions.
    pub(super) fn status(&self, spent: Option<f64>, budget: Option<f64>) -> Value {
        let decision = |decision: &Decision| {
            json!({
                "number": decision.number,
                "time_s": decision.time.seconds(),
                "from": decision.from,
                "to": decision.to,
                "reason": decision.reason,
            })
        };
        json!({
            "held": self.held,
            "spent": spent,
            "budget": budget,
            "decisions": self.latest.iter().map(decision).collect::<Vec<Value>>(),
        })
    }
}

/// The ranks, requests and ended bills of a run.
struct Held {
    views: Vec<RankView>,
    requests: Vec<RequestView>,
    settled: f64,
}

/// How long nodes take to join, by type, before one has been observed.
fn delays(job: &Job) -> Vec<Duration> {
    of_types(job, &|site| site.map_or(UNPARK_DELAY, |site| default_delay(site.capacity.provider)))
}

/// What the history calls the nodes, by type.
fn kinds(job: &Job) -> Vec<String> {
    of_types(job, &kind_of)
}

/// Something of each node type, from its site if it has one.
fn of_types<T: Clone>(job: &Job, of: &dyn Fn(Option<&Site>) -> T) -> Vec<T> {
    let first = of(job.sites.first().filter(|site| site.terms.is_none()));
    let named = job.sites.iter().filter(|site| site.terms.is_some());
    std::iter::once(first).chain(named.map(|site| of(Some(site)))).collect()
}

/// For each node of a graph the number of its dependencies.
fn dependency_counts(graph: &TaskGraph) -> Vec<u32> {
    let mut counts = vec![0; graph.node_count()];
    let edges = (0..graph.node_count() as u32).flat_map(|node| graph.successors(node));
    edges.for_each(|edge| counts[edge.node() as usize] += 1);
    counts
}
