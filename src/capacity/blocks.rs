//! The life of blocks: a state machine without I/O.
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | requested | accepted by the provider | pending | |
//! | requested | refused | failed | ten in a row pause the provider |
//! | requested, pending | withdrawn | releasing | tells the provider |
//! | pending | granted | granted | the bill begins |
//! | granted | its world joins | active | |
//! | granted | does not join in time | releasing | tells the provider; three in a row pause it |
//! | granted, active | is drained | draining | its ranks drain, which is for the coordinator to see to |
//! | granted, active, draining | its ranks are gone | releasing | tells the provider, should it not end by itself |
//! | releasing | has ended | released | the bill ends |
//! | requested, pending, granted | has ended | failed | three in a row pause the provider |
//! | active, draining | has ended | released | |
//!
//! The bill of a block runs from its grant to its end, whatever it did in between.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Time;

/// So many submissions in a row may be refused ...
const REFUSALS: u32 = 10;

/// ... and so many blocks in a row may fail to start, before nothing more is asked for.
const FAILED_STARTS: u32 = 3;

/// A block that has been granted must have joined in this time.
const START: Duration = Duration::from_secs(300);

/// A block whose ranks have left ends by itself in this time, or is ended.
const LEAVE: Duration = Duration::from_secs(5);

/// A block, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// How far a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The provider has been asked.
    Requested,
    /// The provider has it in its queue.
    Pending,
    /// It has a node and is starting.
    Granted,
    /// Its ranks take part.
    Active,
    /// Its ranks end what they run.
    Draining,
    /// It is being given back.
    Releasing,
    /// It is gone.
    Released,
    /// It never came to work.
    Failed,
}

impl State {
    /// True once it is over.
    pub fn is_over(self) -> bool {
        matches!(self, State::Released | State::Failed)
    }

    /// The state in lower case.
    pub fn name(self) -> &'static str {
        match self {
            State::Requested => "requested",
            State::Pending => "pending",
            State::Granted => "granted",
            State::Active => "active",
            State::Draining => "draining",
            State::Releasing => "releasing",
            State::Released => "released",
            State::Failed => "failed",
        }
    }
}

/// What happens to a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The provider took the request, under this name.
    Accepted(String),
    /// The provider did not take it.
    Refused(String),
    /// It has this node.
    Granted(String),
    /// Its world takes part.
    Joined,
    /// It is wanted no more.
    Drain,
    /// All its ranks are gone.
    Left,
    /// The provider says that it is over.
    Ended(String),
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
    /// Since when it has been in its state.
    since: Time,
    /// The provider has been told to end it.
    withdrawn: bool,
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
    withdrawals: Vec<BlockId>,
}

impl Blocks {
    /// Asks for a block; `None` while nothing is asked for any more.
    pub fn request(&mut self, now: Time) -> Option<BlockId> {
        if self.paused.is_some() {
            return None;
        }
        self.next += 1;
        let id = BlockId(self.next);
        let (name, node, asked) = (String::new(), String::new(), now);
        let (granted, joined, ended) = (None, None, None);
        let block = Block {
            id,
            state: State::Requested,
            name,
            node,
            asked,
            granted,
            joined,
            ended,
            since: now,
            withdrawn: false,
        };
        self.table.insert(id, block);
        Some(id)
    }

    /// Takes an event in. One that means nothing in the block's state is passed over.
    pub fn step(&mut self, now: Time, id: BlockId, event: Event) {
        use State::{Active, Draining, Failed, Granted, Pending, Released, Releasing, Requested};
        let Some(block) = self.table.get_mut(&id) else { return };
        let next = match (block.state, &event) {
            (Requested, Event::Accepted(_)) => Pending,
            (Requested, Event::Refused(_)) => Failed,
            (Requested | Pending, Event::Granted(_)) => Granted,
            // It may be in before the provider has said that it has a node.
            (Requested | Pending | Granted, Event::Joined) => Active,
            (Requested | Pending, Event::Drain) => Releasing,
            (Granted | Active, Event::Drain) => Draining,
            (Granted | Active | Draining, Event::Left) => Releasing,
            (Requested | Pending | Granted, Event::Ended(_)) => Failed,
            (Active | Draining | Releasing, Event::Ended(_)) => Released,
            _ => {
                note_late(block, &event);
                return;
            }
        };
        let before = std::mem::replace(&mut block.state, next);
        block.since = now;
        match &event {
            Event::Accepted(name) => block.name.clone_from(name),
            Event::Granted(node) => block.node.clone_from(node),
            _ => {}
        }
        if matches!(next, Granted | Active) {
            block.granted.get_or_insert(now);
        }
        if next == Active {
            block.joined = Some(now);
        }
        if next.is_over() {
            block.ended = Some(now);
        }
        if next == Releasing && event == Event::Drain {
            block.withdrawn = true;
            self.withdrawals.push(id);
        }
        self.tell(id, before, &event);
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
            Event::Ended(why) if state == State::Failed => {
                self.failed_starts += 1;
                self.warn(format!("{id} ({name}) ended before it took part: {why}"));
                if self.failed_starts >= FAILED_STARTS {
                    self.pause(format!("{FAILED_STARTS} blocks in a row failed to start"));
                }
            }
            Event::Ended(why) if before == State::Active => {
                self.warn(format!("{id} ({name}) on {node} ended by itself: {why}"));
            }
            Event::Ended(_) => self.info(format!("{id} ({name}) is given back")),
            Event::Joined => {
                (self.refusals, self.failed_starts) = (0, 0);
                self.info(format!("{id} ({name}) takes part"));
            }
            Event::Accepted(name) => self.info(format!("{id} is asked for as {name}")),
            Event::Granted(node) => self.info(format!("{id} ({name}) has node {node}")),
            Event::Drain if state == State::Releasing => self.info(format!("{id} ({name}) is withdrawn")),
            Event::Drain => self.info(format!("{id} ({name}) drains")),
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

    /// Time passed: blocks that do not start, or do not end, are ended.
    pub fn tick(&mut self, now: Time) {
        let late = |block: &&mut Block| match block.state {
            State::Granted => now.since(block.since) > START,
            State::Releasing => now.since(block.since) > LEAVE && !block.withdrawn,
            _ => false,
        };
        let mut slow = Vec::new();
        for block in self.table.values_mut().filter(late) {
            if block.state == State::Granted {
                slow.push(block.id);
                (block.state, block.since) = (State::Releasing, now);
            }
            block.withdrawn = true;
            self.withdrawals.push(block.id);
        }
        for id in slow {
            self.failed_starts += 1;
            self.warn(format!("{id} did not join within {} s", START.as_secs()));
            if self.failed_starts >= FAILED_STARTS {
                self.pause(format!("{FAILED_STARTS} blocks in a row failed to start"));
            }
        }
    }

    /// All blocks that ever were, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Block> {
        self.table.values()
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

    /// Blocks that the provider must end, since the last call.
    pub fn take_withdrawals(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.withdrawals)
    }
}

/// Facts that come after the state they belong to.
fn note_late(block: &mut Block, event: &Event) {
    match event {
        Event::Accepted(name) if block.name.is_empty() => block.name.clone_from(name),
        Event::Granted(node) if block.node.is_empty() => block.node.clone_from(node),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(blocks: &mut Blocks, id: BlockId, events: &[Event]) -> State {
        for (at, event) in (1..).zip(events) {
            blocks.step(Time(at * 1_000_000_000), id, event.clone());
        }
        blocks.get(id).unwrap().state
    }

    fn accepted() -> Event {
        Event::Accepted("job 7".into())
    }

    fn granted() -> Event {
        Event::Granted("n1".into())
    }

    fn ended() -> Event {
        Event::Ended("exit 0".into())
    }

    #[test]
    fn a_block_is_billed_from_its_grant_to_its_end() {
        let mut blocks = Blocks::default();
        let id = blocks.request(Time(0)).unwrap();
        let life = [accepted(), granted(), Event::Joined, Event::Drain, Event::Left, ended()];
        assert_eq!(all(&mut blocks, id, &life), State::Released);
        let block = blocks.get(id).unwrap();
        assert_eq!((block.granted, block.ended), (Some(Time(2_000_000_000)), Some(Time(6_000_000_000))));
        assert!(blocks.take_withdrawals().is_empty(), "it ended by itself");
    }

    #[test]
    fn what_waits_is_withdrawn_and_what_does_not_end_is_ended() {
        let mut blocks = Blocks::default();
        let waiting = blocks.request(Time(0)).unwrap();
        assert_eq!(all(&mut blocks, waiting, &[accepted(), Event::Drain]), State::Releasing);
        assert_eq!(blocks.take_withdrawals(), [waiting]);
        let stuck = blocks.request(Time(0)).unwrap();
        all(&mut blocks, stuck, &[accepted(), granted(), Event::Joined, Event::Left]);
        blocks.tick(Time(5_000_000_000));
        assert!(blocks.take_withdrawals().is_empty());
        blocks.tick(Time(60_000_000_000));
        blocks.tick(Time(61_000_000_000));
        assert_eq!(blocks.take_withdrawals(), [stuck], "told once");
    }

    #[test]
    fn a_provider_that_only_fails_is_asked_no_more() {
        let mut blocks = Blocks::default();
        for _ in 0..REFUSALS {
            let id = blocks.request(Time(0)).unwrap();
            all(&mut blocks, id, &[Event::Refused("no".into())]);
        }
        assert!(blocks.request(Time(0)).is_none() && blocks.paused().is_some());
        let mut blocks = Blocks::default();
        for turn in 0..2 * FAILED_STARTS {
            let id = blocks.request(Time(0)).unwrap();
            let works = turn == FAILED_STARTS - 1;
            all(&mut blocks, id, &[accepted(), granted(), if works { Event::Joined } else { ended() }]);
            if turn == 2 * FAILED_STARTS - 1 {
                assert!(blocks.request(Time(0)).is_none());
            }
        }
    }

    proptest! {
        /// Whatever comes in whatever order: a block that is over stays so, and one with a grant ends its bill after it began.
        #[test]
        fn no_order_of_events_confuses_it(events in prop::collection::vec(0usize..7, 0..30)) {
            let kinds = [accepted(), Event::Refused("no".into()), granted(), Event::Joined, Event::Drain, Event::Left, ended()];
            let mut blocks = Blocks::default();
            let id = blocks.request(Time(0)).unwrap();
            let mut over = None;
            for (at, kind) in (1..).zip(events) {
                blocks.step(Time(at), id, kinds[kind].clone());
                let block = blocks.get(id).unwrap();
                if let Some(state) = over {
                    prop_assert_eq!(block.state, state);
                }
                over = block.state.is_over().then_some(block.state);
                prop_assert_eq!(block.ended.is_some(), over.is_some());
                prop_assert!(block.ended.is_none_or(|end| block.granted.is_none_or(|from| from <= end)));
            }
        }
    }
}
