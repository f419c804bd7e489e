//! The life of blocks: a state machine without I/O.
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | requested | accepted by the provider | pending | |
//! | requested | refused | failed | ten in a row pause the provider |
//! | requested, pending, granted | is wanted no more | releasing | tells the provider to withdraw it |
//! | pending | granted | granted | the bill begins |
//! | granted | its world joins | active | |
//! | granted | does not join in time | releasing | tells the provider to withdraw it; three in a row pause it |
//! | active | is drained | draining | its ranks drain, which is for the coordinator to see to |
//! | active | its time is nearly up | active | said once: its ranks shall drain |
//! | granted, active, draining | its ranks are gone | releasing | tells the provider to release it, and to withdraw it if that takes long |
//! | releasing | cannot be given back | held | the bill goes on, which is said; no other node of its job is given back |
//! | releasing, held | has ended | released | the bill ends |
//! | requested, pending, granted | has ended | failed | three in a row pause the provider |
//! | active, draining | has ended | released | |
//!
//! The bill of a block runs from its grant to its end, whatever it did in between; both moments are the provider's where it tells them.
//!
//! Blocks of one name are nodes of one job. A job with a node that cannot be given back gives back none, and the node that its batch script
//! runs on (the *anchor*) goes with the last of the others. Ranks of such blocks can only be parked ([`Blocks::is_bound`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::Time;

pub use crate::model::BlockState as State;

/// So many submissions in a row may be refused ...
const REFUSALS: u32 = 10;

/// ... and so many blocks in a row may fail to start, before nothing more is asked for.
const FAILED_STARTS: u32 = 3;

/// A block that has been granted must have joined in this time.
const START: Duration = Duration::from_secs(300);

/// A block whose ranks have left ends in this time, or is ended.
const LEAVE: Duration = Duration::from_secs(10);

/// Of the time that a block may last its ranks keep a tenth to drain in, within these bounds.
const LAST_TENTH: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(120)];

/// A block, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// What happens to a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The provider took the request, under this name.
    Accepted(String),
    /// The provider did not take it.
    Refused(String),
    /// It has a node.
    Granted(Grant),
    /// Its world takes part.
    Joined,
    /// It is wanted no more.
    Drain,
    /// All its ranks are gone.
    Left,
    /// The provider cannot give its node back yet, for this reason.
    Kept(String),
    /// The provider says that it is over: why, and when if it knows.
    Ended {
        /// Why.
        why: String,
        /// When.
        at: Option<Time>,
    },
}

/// What a provider granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The node.
    pub node: String,
    /// Since when it is billed, if the provider knows.
    pub since: Option<Time>,
    /// When it will be taken away.
    pub ends: Option<Time>,
    /// The batch script of its job runs on it.
    pub anchor: bool,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub id: BlockId,
    /// How far it is.
    pub state: State,
    /// What the provider calls it (a job, a process); empty until it does.
    pub name: String,
    /// Its node; empty until it has one.
    pub node: String,
    /// When it was asked for.
    pub asked: Time,
    /// When it got its node: the bill begins.
    pub granted: Option<Time>,
    /// When its world took part.
    pub joined: Option<Time>,
    /// When it ended: the bill ends.
    pub ended: Option<Time>,
    /// When it will be taken away, if that is known.
    pub ends: Option<Time>,
    /// Part of the allocation that the run was started in.
    pub own: bool,
    anchor: bool,
    /// Since when it has been in its state.
    since: Time,
    /// The provider has been told to withdraw it.
    withdrawn: bool,
    /// It has been said that its time is nearly up.
    expires: bool,
}

impl Block {
    fn new(id: BlockId, asked: Time, own: bool) -> Block {
        Block {
            id,
            state: State::Requested,
            name: String::new(),
            node: String::new(),
            asked,
            granted: None,
            joined: None,
            ended: None,
            ends: None,
            own,
            anchor: false,
            since: asked,
            withdrawn: false,
            expires: false,
        }
    }

    fn is_coming(&self) -> bool {
        matches!(self.state, State::Requested | State::Pending | State::Granted)
    }

    /// When its ranks must begin to leave, because it will be taken away.
    fn drain_by(&self) -> Option<Time> {
        let (from, to) = (self.granted?, self.ends?);
        let margin = (to.since(from) / 10).clamp(LAST_TENTH[0], LAST_TENTH[1]);
        Some(Time(to.0.saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX))))
    }
}

/// What a provider is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its ranks have left: its node goes back as soon as its processes are gone.
    Release(BlockId),
    /// It is to end at once, or is not to come.
    Withdraw(BlockId),
}

/// What a person should hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Good to know.
    Info(String),
    /// Something went wrong.
    Warning(String),
}

/// All blocks of a run.
#[derive(Debug, Default)]
pub struct Blocks {
    table: BTreeMap<BlockId, Block>,
    next: u64,
    refusals: u32,
    failed_starts: u32,
    paused: Option<String>,
    notes: Vec<Note>,
    orders: Vec<Order>,
    expiring: Vec<BlockId>,
    changed: BTreeSet<BlockId>,
}

impl Blocks {
    /// Asks for a block; `None` while nothing is asked for any more.
    pub fn request(&mut self, now: Time) -> Option<BlockId> {
        self.paused.is_none().then(|| self.add(now, false))
    }

    /// Takes a node in that the run has from the start.
    pub fn own(&mut self, now: Time) -> BlockId {
        self.add(now, true)
    }

    fn add(&mut self, now: Time, own: bool) -> BlockId {
        self.next += 1;
        let id = BlockId(self.next);
        self.table.insert(id, Block::new(id, now, own));
        self.changed.insert(id);
        id
    }

    /// Takes an event in. One that means nothing in the block's state is passed over.
    pub fn step(&mut self, now: Time, id: BlockId, event: Event) {
        let Some(block) = self.table.get_mut(&id) else { return };
        let Some(next) = after(block.state, &event) else { return note_late(block, &event) };
        let before = std::mem::replace(&mut block.state, next);
        block.since = now;
        match &event {
            Event::Accepted(name) => block.name.clone_from(name),
            Event::Granted(grant) => block.take(grant),
            _ => {}
        }
        if matches!(next, State::Granted | State::Active) {
            block.granted.get_or_insert(now);
        }
        if next == State::Active {
            block.joined = Some(now);
        }
        if let Event::Ended { at, .. } = event {
            let end = at.unwrap_or(now);
            block.ended = Some(block.granted.map_or(end, |from| end.max(from)));
        } else if next.is_over() {
            block.ended = Some(now);
        }
        match (next, &event) {
            (State::Releasing, Event::Drain) => {
                block.withdrawn = true;
                self.orders.push(Order::Withdraw(id));
            }
            (State::Releasing, _) => self.orders.push(Order::Release(id)),
            _ => {}
        }
        self.changed.insert(id);
        self.tell(id, before, &event);
    }

    fn failed_to_start(&mut self) {
        self.failed_starts += 1;
        if self.failed_starts >= FAILED_STARTS {
            self.pause(format!("{FAILED_STARTS} blocks in a row failed to start"));
        }
    }

    fn tell(&mut self, id: BlockId, before: State, event: &Event) {
        let Some(block) = self.table.get(&id) else { return };
        let (state, name, node) = (block.state, block.name.clone(), block.node.clone());
        match event {
            Event::Refused(why) => {
                self.refusals += 1;
                self.warn(format!("{id} was refused: {why}"));
                if self.refusals >= REFUSALS {
                    self.pause(format!("{REFUSALS} requests in a row were refused"));
                }
            }
            Event::Ended { why, .. } if state == State::Failed => {
                self.warn(format!("{id} ({name}) ended before it took part: {why}"));
                self.failed_to_start();
            }
            Event::Ended { why, .. } if before == State::Active => {
                self.warn(format!("{id} ({name}) on {node} ended by itself: {why}"));
            }
            Event::Ended { .. } => self.info(format!("{id} ({name}) is given back")),
            Event::Kept(why) => self.warn(format!("{node} of {name} cannot be given back and is billed on: {why}")),
            Event::Joined => {
                (self.refusals, self.failed_starts) = (0, 0);
                self.info(format!("{id} ({name}) takes part"));
            }
            Event::Accepted(name) => self.info(format!("{id} is asked for as {name}")),
            Event::Granted(_) => self.info(format!("{id} ({name}) has node {node}")),
            Event::Drain if state == State::Releasing => self.info(format!("{id} ({name}) is withdrawn")),
            Event::Drain => self.info(format!("{id} ({name}) drains")),
            Event::Left if before == State::Granted => self.failed_to_start(),
            Event::Left => {}
        }
    }

    fn info(&mut self, text: String) {
        self.notes.push(Note::Info(text));
    }

    fn warn(&mut self, text: String) {
        self.notes.push(Note::Warning(text));
    }

    fn pause(&mut self, why: String) {
        if self.paused.is_none() {
            self.warn(format!("{why}: no further nodes are asked for in this run"));
            self.paused = Some(why);
        }
    }

    /// Time passed: blocks that do not start, or do not end, are ended, and those whose time is nearly up are named.
    pub fn tick(&mut self, now: Time) {
        let mut slow = Vec::new();
        for block in self.table.values_mut() {
            let waited = now.since(block.since);
            match block.state {
                State::Granted if waited > START => {
                    slow.push(block.id);
                    (block.state, block.since) = (State::Releasing, now);
                }
                State::Releasing if waited > LEAVE && !block.withdrawn => {}
                State::Active if !block.expires && block.drain_by().is_some_and(|by| by <= now) => {
                    block.expires = true;
                    self.expiring.push(block.id);
                    continue;
                }
                _ => continue,
            }
            block.withdrawn = true;
            self.changed.insert(block.id);
            self.orders.push(Order::Withdraw(block.id));
        }
        slow.into_iter().for_each(|id| self.is_slow(id));
    }

    fn is_slow(&mut self, id: BlockId) {
        self.warn(format!("{id} did not join within {} s", START.as_secs()));
        self.failed_to_start();
    }

    /// True if a block's node cannot be given back now, because its job does not let it go.
    pub fn is_bound(&self, id: BlockId) -> bool {
        let Some(block) = self.table.get(&id) else { return false };
        let mates = || self.table.values().filter(|other| other.id != id && other.name == block.name);
        mates().any(|other| other.state == State::Held || (block.anchor && !other.state.is_over()))
    }

    /// All blocks that ever were, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Block> {
        self.table.values()
    }

    /// Blocks that were requested and have not joined, oldest first.
    pub fn coming(&self) -> impl Iterator<Item = &Block> {
        self.iter().filter(|block| block.is_coming())
    }

    /// True if a block was requested and has not joined.
    pub fn is_coming(&self, id: BlockId) -> bool {
        self.get(id).is_some_and(Block::is_coming)
    }

    /// Withdraws requests that have not been granted, the newest first and at most `most`; returns
    /// their number.
    pub fn withdraw_waiting(&mut self, now: Time, most: usize) -> usize {
        let waits = |block: &&Block| matches!(block.state, State::Requested | State::Pending);
        let waiting: Vec<BlockId> = self.iter().rev().filter(waits).take(most).map(|block| block.id).collect();
        waiting.iter().for_each(|&id| self.step(now, id, Event::Drain));
        waiting.len()
    }

    /// A block.
    pub fn get(&self, id: BlockId) -> Option<&Block> {
        self.table.get(&id)
    }

    /// Why nothing more is asked for, if so.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// What is to be told since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// What the provider is to do, since the last call.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Active blocks whose time is nearly up, since the last call.
    pub fn take_expiring(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.expiring)
    }

    /// Blocks of which something has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<BlockId> {
        std::mem::take(&mut self.changed)
    }
}

impl Block {
    fn take(&mut self, grant: &Grant) {
        self.node.clone_from(&grant.node);
        (self.ends, self.anchor) = (grant.ends, grant.anchor);
        if grant.since.is_some() {
            self.granted = grant.since;
        }
    }
}

/// What follows from an event; `None` if it means nothing in this state.
fn after(state: State, event: &Event) -> Option<State> {
    use State::{Active, Draining, Failed, Granted, Held, Pending, Released, Releasing, Requested};
    match (state, event) {
        (Requested, Event::Accepted(_)) => Some(Pending),
        (Requested, Event::Refused(_)) => Some(Failed),
        (Requested | Pending, Event::Granted(_)) => Some(Granted),
        // It may be in before the provider has said that it has a node.
        (Requested | Pending | Granted, Event::Joined) => Some(Active),
        (Requested | Pending | Granted, Event::Drain) => Some(Releasing),
        (Active, Event::Drain) => Some(Draining),
        (Granted | Active | Draining, Event::Left) => Some(Releasing),
        (Releasing, Event::Kept(_)) => Some(Held),
        (Requested | Pending | Granted, Event::Ended { .. }) => Some(Failed),
        (Active | Draining | Releasing | Held, Event::Ended { .. }) => Some(Released),
        _ => None,
    }
}

/// Facts that come after the state they belong to.
fn note_late(block: &mut Block, event: &Event) {
    match event {
        Event::Accepted(name) if block.name.is_empty() => block.name.clone_from(name),
        Event::Granted(grant) if block.node.is_empty() => block.take(grant),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
