//! The life of blocks: a state machine without I/O.
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | requested | accepted by the provider | pending | |
//! | requested | refused | failed | ten in a row at every site pause the requests |
//! | requested, pending, granted | is drained | releasing | the provider withdraws it |
//! | pending | granted | granted | the bill begins |
//! | granted | its world joins | active | |
//! | granted | does not join in time | releasing | the provider withdraws it; three in a row pause the requests |
//! | active | is drained | draining | the coordinator drains its ranks |
//! | active | its time is nearly up | active | reported once, so that its ranks drain |
//! | active, draining | its time is up, and the provider does not end it | | the provider withdraws it |
//! | granted, active, draining | its ranks are gone | releasing | the provider releases it, and withdraws it after a timeout |
//! | releasing | cannot be released | held | the bill continues; no other node of its job is released |
//! | releasing, held | ends | released | the bill ends |
//! | requested, pending, granted | ends | failed | three in a row pause the requests |
//! | granted | joins when it must drain already | active | three in a row pause the requests |
//! | active, draining | ends | released | |
//!
//! A block is billed from its grant to its end; both times are the provider's if it reports them.
//!
//! Blocks of one name are nodes of one job. If one of them cannot be released, none can. The node
//! of the batch script (the *anchor*) is released with the last of the others. Ranks of such blocks
//! can only be parked ([`Blocks::is_bound`]).
//!
//! A node may be requested from several sites (`sites`).

mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{Labels, Time};
use crate::scale::site_health::SiteHealth;
use crate::workload::walltime::margin_within;

pub use crate::model::BlockState as State;
use sites::OpenNeed;
pub use sites::{OverdueNeed, SiteId, Wanted};

/// Time that a granted block has to join.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Time that a block has to end after its ranks left, before it is withdrawn.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A block, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// An event of a block's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockEvent {
    /// The provider accepted the request under this name.
    Accepted(String),
    /// The provider refused the request, for this reason.
    Refused(String),
    /// The provider granted a node.
    Granted(NodeGrant),
    /// Its world joined.
    Joined,
    /// It is not wanted any more.
    Drain,
    /// All its ranks are gone.
    Left,
    /// The provider cannot release its node yet, for this reason.
    Kept(String),
    /// The provider reports its end.
    Ended {
        /// Why.
        why: String,
        /// When, if the provider knows.
        at: Option<Time>,
    },
}

/// What a provider granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeGrant {
    /// The node.
    pub node: String,
    /// Since when it is billed, if the provider knows.
    pub since: Option<Time>,
    /// When the provider takes it back.
    pub ends: Option<Time>,
    /// True for the node that runs the batch script of its job.
    pub anchor: bool,
}

/// The period for which a node is billed, until now if it has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The site that the node was requested from; `None`: none.
    pub site: Option<SiteId>,
    /// Its beginning.
    pub from: Time,
    /// Its end.
    pub to: Option<Time>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub id: BlockId,
    /// The site that it was requested from.
    pub site: SiteId,
    /// The first block that was requested for the same node.
    pub need: BlockId,
    /// Its state.
    pub state: State,
    /// The provider's name for its job or process; empty until it is accepted.
    pub name: String,
    /// Its node; empty until it is granted.
    pub node: String,
    /// When it was requested.
    pub asked: Time,
    /// When it was granted: the bill begins.
    pub granted: Option<Time>,
    /// When its world joined.
    pub joined: Option<Time>,
    /// When it ended: the bill ends.
    pub ended: Option<Time>,
    /// When the provider takes it back, if known.
    pub ends: Option<Time>,
    /// Its maximum duration from its grant, where its provider knows no end: it is withdrawn then.
    lasts: Option<Duration>,
    /// True for a node of the allocation that the run was started in.
    pub own: bool,
    /// Labels that its ranks will have at least.
    pub labels: Labels,
    anchor: bool,
    /// When it entered its state.
    since: Time,
    /// The provider was ordered to withdraw it.
    withdrawn: bool,
    /// It was reported that its time is nearly up.
    expires: bool,
}

impl Block {
    fn new(id: BlockId, asked: Time, own: bool, labels: Labels) -> Block {
        Block {
            id,
            site: SiteId::default(),
            need: id,
            state: State::Requested,
            name: String::new(),
            node: String::new(),
            asked,
            granted: None,
            joined: None,
            ended: None,
            ends: None,
            lasts: None,
            own,
            labels,
            anchor: false,
            since: asked,
            withdrawn: false,
            expires: false,
        }
    }

    fn is_coming(&self) -> bool {
        matches!(self.state, State::Requested | State::Pending | State::Granted)
    }

    /// The bill of its node; `None` until it is granted. A node that the run has from the start is
    /// no site's.
    pub fn bill(&self) -> Option<Bill> {
        Some(Bill { site: (!self.own).then_some(self.site), from: self.granted?, to: self.ended })
    }

    /// True if it is to be withdrawn at its end, which is over.
    fn is_overdue(&self, now: Time) -> bool {
        self.lasts.is_some() && !self.withdrawn && self.ends.is_some_and(|ends| ends <= now)
    }

    /// When its ranks must begin to leave, because it will be taken away. Tasks take up to `task`.
    fn drain_by(&self, task: Option<Duration>) -> Option<Time> {
        let (from, to) = (self.granted?, self.ends?);
        let margin = margin_within(task, to.since(from));
        Some(Time(to.0.saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX))))
    }
}

/// An order to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderOrder {
    /// Release the node as soon as its processes are gone; its ranks have left.
    Release(BlockId),
    /// End the block at once, or withdraw its request.
    Withdraw(BlockId),
}

/// A note for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockNote {
    /// Information.
    Info(String),
    /// Something went wrong.
    Warning(String),
}

/// All blocks of a run.
#[derive(Debug, Default)]
pub struct Blocks {
    table: BTreeMap<BlockId, Block>,
    next: u64,
    /// By place in the job.
    sites: Vec<SiteHealth>,
    /// Needs that are not met, by their first block.
    open: BTreeMap<BlockId, OpenNeed>,
    paused: Option<String>,
    notes: Vec<BlockNote>,
    orders: Vec<ProviderOrder>,
    expiring: Vec<BlockId>,
    changed: BTreeSet<BlockId>,
}

impl Blocks {
    /// Adds a node that the run has from the start; `site` releases it.
    pub fn own(&mut self, now: Time, site: SiteId) -> BlockId {
        self.add(now, true, Labels::default(), site, None)
    }

    fn add(&mut self, now: Time, own: bool, labels: Labels, site: SiteId, need: Option<BlockId>) -> BlockId {
        self.next += 1;
        let id = BlockId(self.next);
        let block = Block { site, need: need.unwrap_or(id), ..Block::new(id, now, own, labels) };
        self.table.insert(id, block);
        self.changed.insert(id);
        id
    }

    /// Limits a requested block to a duration from its grant, for a provider that knows no end.
    pub fn limit(&mut self, id: BlockId, lasts: Duration) {
        if let Some(block) = self.table.get_mut(&id) {
            block.lasts = Some(lasts);
        }
    }

    /// Applies an event. One that has no meaning in the block's state is ignored.
    pub fn step(&mut self, now: Time, id: BlockId, event: BlockEvent) {
        let Some(block) = self.table.get_mut(&id) else { return };
        let Some(next) = after(block.state, &event) else { return note_late(block, &event) };
        let before = std::mem::replace(&mut block.state, next);
        block.since = now;
        match &event {
            BlockEvent::Accepted(name) => block.name.clone_from(name),
            BlockEvent::Granted(grant) => block.take(grant),
            _ => {}
        }
        if matches!(next, State::Granted | State::Active) {
            let granted = *block.granted.get_or_insert(now);
            block.ends = block.ends.or(block.lasts.map(|lasts| granted.after(lasts)));
        }
        if next == State::Active {
            block.joined = Some(now);
        }
        if let BlockEvent::Ended { at, .. } = event {
            let end = at.unwrap_or(now);
            block.ended = Some(block.granted.map_or(end, |from| end.max(from)));
        } else if next.is_over() {
            block.ended = Some(now);
        }
        match (next, &event) {
            (State::Releasing, BlockEvent::Drain) => {
                block.withdrawn = true;
                self.orders.push(ProviderOrder::Withdraw(id));
            }
            (State::Releasing, _) => self.orders.push(ProviderOrder::Release(id)),
            _ => {}
        }
        self.changed.insert(id);
        self.tell(now, id, before, &event);
        self.follow_need(now, id, &event);
    }

    fn tell(&mut self, now: Time, id: BlockId, before: State, event: &BlockEvent) {
        let Some(block) = self.table.get(&id) else { return };
        let (state, name, node, site) = (block.state, block.name.clone(), block.node.clone(), block.site);
        match event {
            BlockEvent::Refused(why) => {
                self.warn(format!("{id} was refused: {why}"));
                self.site_failed(now, site, true);
            }
            BlockEvent::Ended { why, .. } if state == State::Failed => {
                self.warn(format!("{id} ({name}) ended before it took part: {why}"));
                self.site_failed(now, site, false);
            }
            BlockEvent::Ended { why, .. } if before == State::Active => {
                self.warn(format!("{id} ({name}) on {node} ended by itself: {why}"));
            }
            BlockEvent::Ended { .. } => self.info(format!("{id} ({name}) is given back")),
            BlockEvent::Kept(why) => {
                self.warn(format!("{node} of {name} cannot be given back and is billed on: {why}"))
            }
            BlockEvent::Joined if block.drain_by(Some(Duration::ZERO)).is_some_and(|by| by <= now) => {
                let time = block.ends.zip(block.granted).map_or(Duration::ZERO, |(ends, from)| ends.since(from));
                self.warn(format!("{id} ({name}) has {} s, which leave no time to run tasks", time.as_secs()));
                self.site_failed(now, site, false);
            }
            BlockEvent::Joined => {
                self.site_works(site);
                self.info(format!("{id} ({name}) takes part"));
            }
            BlockEvent::Accepted(name) => self.info(format!("{id} is requested as {name}")),
            BlockEvent::Granted(_) => self.info(format!("{id} ({name}) has node {node}")),
            BlockEvent::Drain if state == State::Releasing => self.info(format!("{id} ({name}) is withdrawn")),
            BlockEvent::Drain => self.info(format!("{id} ({name}) drains")),
            BlockEvent::Left if before == State::Granted => self.site_failed(now, site, false),
            BlockEvent::Left => {}
        }
    }

    fn info(&mut self, text: String) {
        self.notes.push(BlockNote::Info(text));
    }

    fn warn(&mut self, text: String) {
        self.notes.push(BlockNote::Warning(text));
    }

    fn pause(&mut self, why: String) {
        if self.paused.is_none() {
            self.warn(format!("{why}: no further nodes are requested in this run"));
            self.paused = Some(why);
        }
    }

    /// Applies timeouts: withdraws blocks that do not join or do not end in time, and reports those
    /// whose time is nearly up where tasks take up to `task`, if that is known.
    pub fn tick(&mut self, now: Time, task: Option<Duration>) {
        let mut slow = Vec::new();
        for block in self.table.values_mut() {
            let waited = now.since(block.since);
            match block.state {
                State::Granted if waited > START_TIMEOUT => {
                    slow.push(block.id);
                    (block.state, block.since) = (State::Releasing, now);
                }
                State::Releasing if waited > RELEASE_TIMEOUT && !block.withdrawn => {}
                State::Active if !block.expires && block.drain_by(task).is_some_and(|by| by <= now) => {
                    block.expires = true;
                    self.expiring.push(block.id);
                    continue;
                }
                State::Active | State::Draining if block.is_overdue(now) => {}
                _ => continue,
            }
            block.withdrawn = true;
            self.changed.insert(block.id);
            self.orders.push(ProviderOrder::Withdraw(block.id));
        }
        for id in slow {
            self.warn(format!("{id} did not join within {} s", START_TIMEOUT.as_secs()));
            if let Some(site) = self.get(id).map(|block| block.site) {
                self.site_failed(now, site, false);
            }
        }
    }

    /// True if a block's node cannot be released now because of the other nodes of its job.
    pub fn is_bound(&self, id: BlockId) -> bool {
        let Some(block) = self.table.get(&id) else { return false };
        let mates = || self.table.values().filter(|other| other.id != id && other.name == block.name);
        mates().any(|other| other.state == State::Held || (block.anchor && !other.state.is_over()))
    }

    /// All blocks that ever were, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Block> {
        self.table.values()
    }

    /// Blocks that were requested and have not joined, oldest first: one for each node that is
    /// waited for.
    pub fn coming(&self) -> impl Iterator<Item = &Block> {
        let mut needs = BTreeSet::new();
        self.iter().filter(move |block| block.is_coming() && needs.insert(block.need))
    }

    /// True if a block was requested and has not joined.
    pub fn is_coming(&self, id: BlockId) -> bool {
        self.get(id).is_some_and(Block::is_coming)
    }

    /// Withdraws requests that have not been granted, the newest first and at most `most`; returns
    /// their number.
    pub fn withdraw_waiting(&mut self, now: Time, most: usize) -> usize {
        let waits = |block: &&Block| matches!(block.state, State::Requested | State::Pending);
        let mut waiting: Vec<BlockId> = self.coming().filter(waits).map(|block| block.id).collect();
        waiting.drain(..waiting.len().saturating_sub(most));
        waiting.iter().rev().for_each(|&id| self.step(now, id, BlockEvent::Drain));
        waiting.len()
    }

    /// A block.
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.table.get(&id)
    }

    /// Why no further node is requested, if so.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// Notes for the user since the last call.
    pub fn take_notes(&mut self) -> Vec<BlockNote> {
        std::mem::take(&mut self.notes)
    }

    /// Orders to the provider since the last call.
    pub fn take_orders(&mut self) -> Vec<ProviderOrder> {
        std::mem::take(&mut self.orders)
    }

    /// Active blocks whose time is nearly up; each is returned once.
    pub fn take_expiring(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.expiring)
    }

    /// Blocks that changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<BlockId> {
        std::mem::take(&mut self.changed)
    }
}

impl Block {
    fn take(&mut self, grant: &NodeGrant) {
        self.node.clone_from(&grant.node);
        (self.ends, self.anchor) = (grant.ends.or(self.ends), grant.anchor);
        if grant.since.is_some() {
            self.granted = grant.since;
        }
    }
}

/// The state after an event; `None` if the event has no meaning in this state.
fn after(state: State, event: &BlockEvent) -> Option<State> {
    use State::{Active, Draining, Failed, Granted, Held, Pending, Released, Releasing, Requested};
    match (state, event) {
        (Requested, BlockEvent::Accepted(_)) => Some(Pending),
        (Requested, BlockEvent::Refused(_)) => Some(Failed),
        (Requested | Pending, BlockEvent::Granted(_)) => Some(Granted),
        // Its world may join before the provider reports the grant.
        (Requested | Pending | Granted, BlockEvent::Joined) => Some(Active),
        (Requested | Pending | Granted, BlockEvent::Drain) => Some(Releasing),
        (Active, BlockEvent::Drain) => Some(Draining),
        (Granted | Active | Draining, BlockEvent::Left) => Some(Releasing),
        (Releasing, BlockEvent::Kept(_)) => Some(Held),
        (Requested | Pending | Granted, BlockEvent::Ended { .. }) => Some(Failed),
        (Active | Draining | Releasing | Held, BlockEvent::Ended { .. }) => Some(Released),
        _ => None,
    }
}

/// Keeps facts that arrive after the state they belong to.
fn note_late(block: &mut Block, event: &BlockEvent) {
    match event {
        BlockEvent::Accepted(name) if block.name.is_empty() => block.name.clone_from(name),
        BlockEvent::Granted(grant) if block.node.is_empty() => block.take(grant),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
