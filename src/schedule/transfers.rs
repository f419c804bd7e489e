//! Which rank sends a file that another one asks for, and when.
//!
//! Rank 0 keeps the table: who holds which temporary output, what is being sent, and which rank
//! failed to send. A rank that needs a file *seeks* it and gets a source, at once or when the node
//! of one may send again. A rank that has received a temporary output and keeps it says so, and is
//! a source of it from then on, so what many need spreads as a tree. Without a source left the
//! answer is none: the rank reads the copy in the run directory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::prefetch::PrefetchCounts;
use crate::model::{CarriedFile, Rank, Time};

/// Transfers out of a node at once.
pub const MAX_OUTGOING: usize = 10;

/// A source that has failed is avoided for this time where there is another way.
pub const AVOIDANCE: Duration = Duration::from_secs(15);

/// A file that a task needs which has not begun is sent by a node that sends fewer files than this.
pub const MAX_OUTGOING_AHEAD: usize = 2;

/// The answer to a rank that sought a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The rank.
    pub to: Rank,
    /// The number that it gave the transfer.
    pub id: u32,
    /// The rank that sends the file; `None`: no rank does.
    pub source: Option<Rank>,
}

/// The transfers of a run, and the sources of its temporary outputs.
#[derive(Debug, Default)]
pub struct Transfers {
    /// Who holds a temporary output: its version, and ranks in the order in which they got it.
    holders: HashMap<[u8; 32], (u64, Vec<Rank>)>,
    /// In the order of arrival.
    waiting: VecDeque<Sought>,
    running: BTreeMap<(Rank, u32), (CarriedFile, Rank)>,
    avoided: HashMap<Rank, Time>,
    counts: TransferCounts,
}

/// How many files travel, and have travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Transfers that wait for a source.
    pub waiting: u64,
    /// Those on their way.
    pub running: u64,
    /// Those that have arrived.
    pub arrived: u64,
    /// Those that have failed, or were given up.
    pub failed: u64,
    /// Files that came before their tasks had a slot.
    pub ahead: PrefetchCounts,
}

#[derive(Debug)]
struct Sought {
    by: Rank,
    id: u32,
    file: CarriedFile,
    /// The task that needs it has not begun.
    is_ahead: bool,
}

/// What is known of a source.
enum Choice {
    Now(Rank),
    Later,
    Never,
}

impl Transfers {
    /// A rank holds a temporary output.
    pub fn hold(&mut self, rank: Rank, name: [u8; 32], version: u64) {
        let (known, ranks) = self.holders.entry(name).or_default();
        if *known < version {
            (*known, *ranks) = (version, Vec::new());
        }
        if *known == version && !ranks.contains(&rank) {
            ranks.push(rank);
        }
    }

    /// Nobody reads a temporary output any more.
    pub fn discard(&mut self, name: &[u8; 32]) {
        self.holders.remove(name);
    }

    /// A rank asks for a file; `is_ahead`: for a task that has not begun, so that others come
    /// first. `node` says on which node a rank is; `None`: it is not here.
    pub fn seek<N: Eq + Hash>(
        &mut self,
        now: Time,
        (by, id): (Rank, u32),
        file: CarriedFile,
        is_ahead: bool,
        node: &dyn Fn(Rank) -> Option<N>,
    ) -> Vec<Granted> {
        self.waiting.push_back(Sought { by, id, file, is_ahead });
        self.grant(now, node)
    }

    /// The task has begun that needs a file which was sought ahead.
    pub fn hurry<N: Eq + Hash>(
        &mut self,
        now: Time,
        by: (Rank, u32),
        node: &dyn Fn(Rank) -> Option<N>,
    ) -> Vec<Granted> {
        self.waiting
            .iter_mut()
            .filter(|sought| (sought.by, sought.id) == by)
            .for_each(|sought| sought.is_ahead = false);
        self.grant(now, node)
    }

    /// Adds what a rank says of files that came ahead.
    pub fn note_ahead(&mut self, counts: PrefetchCounts) {
        self.counts.ahead.add(counts);
    }

    /// A transfer has ended; `arrived` says whether the rank has the file, `None` that it gave up.
    pub fn end<N: Eq + Hash>(
        &mut self,
        now: Time,
        (by, id): (Rank, u32),
        arrived: Option<bool>,
        node: &dyn Fn(Rank) -> Option<N>,
    ) -> Vec<Granted> {
        self.waiting.retain(|sought| (sought.by, sought.id) != (by, id));
        if let Some((_, source)) = self.running.remove(&(by, id)) {
            match arrived {
                Some(true) => self.counts.arrived += 1,
                None => {}
                Some(false) => {
                    self.counts.failed += 1;
                    self.avoided.insert(source, now.after(AVOIDANCE));
                }
            }
        }
        self.grant(now, node)
    }

    /// How many files travel, and have travelled.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts { waiting: self.waiting.len() as u64, running: self.running.len() as u64, ..self.counts }
    }

    /// The ranks that receive files from this one.
    pub fn receivers(&self, source: Rank) -> BTreeSet<Rank> {
        let receives = |((by, _), (_, from)): (&(Rank, u32), &(CarriedFile, Rank))| (*from == source).then_some(*by);
        self.running.iter().filter_map(receives).collect()
    }

    /// A rank is about to leave: it sends what others are receiving, and is no source any more.
    pub fn retire<N: Eq + Hash>(&mut self, now: Time, rank: Rank, node: &dyn Fn(Rank) -> Option<N>) -> Vec<Granted> {
        self.holders.values_mut().for_each(|(_, ranks)| ranks.retain(|other| *other != rank));
        self.grant(now, node)
    }

    /// True while another rank receives files from this one.
    pub fn is_sending(&self, rank: Rank) -> bool {
        self.running.values().any(|(_, source)| *source == rank)
    }

    /// A rank has left or is lost, with what it held.
    pub fn lose<N: Eq + Hash>(&mut self, now: Time, rank: Rank, node: &dyn Fn(Rank) -> Option<N>) -> Vec<Granted> {
        self.holders.values_mut().for_each(|(_, ranks)| ranks.retain(|other| *other != rank));
        self.waiting.retain(|sought| sought.by != rank);
        self.running.retain(|(by, _), (_, source)| *by != rank && *source != rank);
        self.grant(now, node)
    }

    /// Gives sources to those who wait, the first first; what is sought ahead comes after the rest.
    fn grant<N: Eq + Hash>(&mut self, now: Time, node: &dyn Fn(Rank) -> Option<N>) -> Vec<Granted> {
        self.avoided.retain(|_, until| *until > now);
        // What each node sends now.
        let mut outgoing: HashMap<Option<N>, usize> = HashMap::new();
        self.running.values().for_each(|(_, source)| *outgoing.entry(node(*source)).or_default() += 1);
        let mut granted = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        let (ahead, needed): (Vec<Sought>, Vec<Sought>) = waiting.into_iter().partition(|sought| sought.is_ahead);
        for sought in needed.into_iter().chain(ahead) {
            let Sought { by: to, id, .. } = sought;
            let source = match self.choose(&sought, &outgoing, node) {
                Choice::Later => {
                    self.waiting.push_back(sought);
                    continue;
                }
                Choice::Now(source) => Some(source),
                Choice::Never => None,
            };
            granted.push(Granted { to, id, source });
            if let Some(source) = source {
                *outgoing.entry(node(source)).or_default() += 1;
                self.running.insert((to, id), (sought.file, source));
            }
        }
        granted
    }

    fn choose<N: Eq + Hash>(
        &self,
        sought: &Sought,
        outgoing: &HashMap<Option<N>, usize>,
        node: &dyn Fn(Rank) -> Option<N>,
    ) -> Choice {
        let outgoing = |rank: Rank| outgoing.get(&node(rank)).copied().unwrap_or(0);
        let candidates: Vec<Rank> = match &sought.file {
            CarriedFile::Input { .. } | CarriedFile::Published { .. } => vec![Rank::ZERO],
            CarriedFile::Results { rank, .. } => vec![*rank],
            CarriedFile::Held { name, version } => {
                let holders = self.holders.get(name).filter(|(known, _)| known == version);
                let ranks = holders.into_iter().flat_map(|(_, ranks)| ranks).copied();
                let may_send = |rank: &Rank| *rank != sought.by && !self.avoided.contains_key(rank);
                ranks.filter(may_send).collect()
            }
        };
        let here = candidates.into_iter().filter(|rank| node(*rank).is_some());
        let most = if sought.is_ahead { MAX_OUTGOING_AHEAD } else { MAX_OUTGOING };
        match here.map(|rank| (outgoing(rank), rank)).min() {
            None => Choice::Never,
            Some((count, rank)) if count < most => Choice::Now(rank),
            Some(_) => Choice::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskId;

    /// Two ranks on each node.
    fn node(rank: Rank) -> Option<u32> {
        Some(rank.0 / 2)
    }

    fn input(number: u32) -> CarriedFile {
        CarriedFile::Input { task: TaskId(number), file: "in".into() }
    }

    fn held(version: u64) -> CarriedFile {
        CarriedFile::Held { name: [7; 32], version }
    }

    fn sources(granted: &[Granted]) -> Vec<Option<Rank>> {
        granted.iter().map(|granted| granted.source).collect()
    }

    #[test]
    fn a_node_sends_ten_files_at_once() {
        let mut transfers = Transfers::default();
        for id in 0..10 {
            assert_eq!(
                sources(&transfers.seek(Time::ZERO, (Rank(4), id), input(id), false, &node)),
                [Some(Rank::ZERO)]
            );
        }
        assert_eq!(transfers.seek(Time::ZERO, (Rank(4), 10), input(10), false, &node), []);
        transfers.hold(Rank(1), [7; 32], 3);
        assert_eq!(transfers.seek(Time::ZERO, (Rank(6), 0), held(3), false, &node), [], "rank 1 is on the same node");
        let of_other = CarriedFile::Results { rank: Rank(4), task: TaskId(1), attempt: 1 };
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank::ZERO, 0), of_other, false, &node)), [Some(Rank(4))]);
        let next = transfers.end(Time::ZERO, (Rank(4), 3), Some(true), &node);
        assert_eq!(next, [Granted { to: Rank(4), id: 10, source: Some(Rank::ZERO) }], "who came first");
        let next = transfers.end(Time::ZERO, (Rank(4), 4), Some(true), &node);
        assert_eq!(next, [Granted { to: Rank(6), id: 0, source: Some(Rank(1)) }]);
        assert_eq!(transfers.end(Time::ZERO, (Rank(4), 99), Some(true), &node), [], "a number that nobody has");
    }

    #[test]
    fn who_has_received_a_file_and_keeps_it_sends_it_too() {
        let mut transfers = Transfers::default();
        transfers.hold(Rank(2), [7; 32], 3);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(4), 0), held(3), false, &node)), [Some(Rank(2))]);
        transfers.end(Time::ZERO, (Rank(4), 0), Some(true), &node);
        transfers.seek(Time::ZERO, (Rank(6), 0), held(3), false, &node);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 9), held(3), false, &node)), [Some(Rank(2))]);
        transfers.hold(Rank(4), [7; 32], 3);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 0), held(3), false, &node)), [Some(Rank(4))]);
        assert_eq!(
            sources(&transfers.seek(Time::ZERO, (Rank(9), 0), held(4), false, &node)),
            [None],
            "another version"
        );
        transfers.hold(Rank(2), [7; 32], 4);
        transfers.hold(Rank(4), [7; 32], 3);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 1), held(3), false, &node)), [None], "a stale one");
        transfers.discard(&[7; 32]);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 2), held(4), false, &node)), [None]);
    }

    #[test]
    fn a_source_that_failed_is_avoided_for_a_while_where_there_is_another() {
        let mut transfers = Transfers::default();
        let later = Time::ZERO.after(AVOIDANCE);
        transfers.hold(Rank(2), [7; 32], 3);
        transfers.hold(Rank(4), [7; 32], 3);
        transfers.seek(Time::ZERO, (Rank(6), 0), held(3), false, &node);
        transfers.end(Time::ZERO, (Rank(6), 0), Some(false), &node);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(6), 1), held(3), false, &node)), [Some(Rank(4))]);
        transfers.end(Time::ZERO, (Rank(6), 1), Some(false), &node);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(6), 2), held(3), false, &node)), [None]);
        assert_eq!(sources(&transfers.seek(later, (Rank(6), 3), held(3), false, &node)), [Some(Rank(2))]);
        transfers.seek(later, (Rank(6), 4), input(1), false, &node);
        transfers.end(later, (Rank(6), 4), Some(false), &node);
        assert_eq!(
            sources(&transfers.seek(later, (Rank(6), 5), input(1), false, &node)),
            [Some(Rank::ZERO)],
            "no other way"
        );
    }

    #[test]
    fn a_lost_rank_neither_sends_nor_waits() {
        let mut transfers = Transfers::default();
        transfers.hold(Rank(2), [7; 32], 3);
        transfers.hold(Rank(4), [7; 32], 3);
        for id in 0..11 {
            transfers.seek(Time::ZERO, (Rank(6), id), input(id), false, &node);
        }
        transfers.seek(Time::ZERO, (Rank(8), 0), input(0), false, &node);
        assert_eq!(transfers.receivers(Rank::ZERO), [Rank(6)].into(), "each once, and no one that waits");
        assert_eq!(
            transfers.lose(Time::ZERO, Rank(6), &node),
            [Granted { to: Rank(8), id: 0, source: Some(Rank::ZERO) }]
        );
        transfers.lose(Time::ZERO, Rank(2), &node);
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 1), held(3), false, &node)), [Some(Rank(4))]);
        let has_left = |rank: Rank| node(rank).filter(|_| rank != Rank(4));
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 2), held(3), false, &has_left)), [None]);
    }

    #[test]
    fn a_rank_that_leaves_sends_what_it_has_begun_to_send() {
        let mut transfers = Transfers::default();
        transfers.hold(Rank(2), [7; 32], 3);
        transfers.seek(Time::ZERO, (Rank(4), 0), held(3), false, &node);
        (1..=MAX_OUTGOING as u32).for_each(|id| drop(transfers.seek(Time::ZERO, (Rank(6), id), held(3), false, &node)));
        let last = MAX_OUTGOING as u32;
        assert_eq!(transfers.retire(Time::ZERO, Rank(2), &node), [Granted { to: Rank(6), id: last, source: None }]);
        assert!(transfers.is_sending(Rank(2)) && !transfers.is_sending(Rank(4)));
        assert_eq!(sources(&transfers.seek(Time::ZERO, (Rank(8), 0), held(3), false, &node)), [None]);
        transfers.hold(Rank(4), [7; 32], 3);
        transfers.end(Time::ZERO, (Rank(4), 0), Some(true), &node);
        assert_eq!(
            sources(&transfers.seek(Time::ZERO, (Rank(8), 1), held(3), false, &node)),
            [Some(Rank(4))],
            "handed on"
        );
        (1..last).for_each(|id| drop(transfers.end(Time::ZERO, (Rank(6), id), Some(true), &node)));
        assert!(!transfers.is_sending(Rank(2)));
    }

    #[test]
    fn what_is_sought_ahead_never_holds_up_what_a_task_waits_for() {
        let mut transfers = Transfers::default();
        let ahead: Vec<usize> =
            (0..4).map(|id| transfers.seek(Time::ZERO, (Rank(4), id), input(id), true, &node).len()).collect();
        assert_eq!(ahead, [1, 1, 0, 0], "a node sends few of them");
        for id in 4..12 {
            assert_eq!(
                sources(&transfers.seek(Time::ZERO, (Rank(6), id), input(id), false, &node)),
                [Some(Rank::ZERO)]
            );
        }
        assert_eq!(transfers.seek(Time::ZERO, (Rank(6), 12), input(12), false, &node), []);
        let next = transfers.end(Time::ZERO, (Rank(6), 4), Some(true), &node);
        assert_eq!(next, [Granted { to: Rank(6), id: 12, source: Some(Rank::ZERO) }], "before what came first");
        assert_eq!(transfers.end(Time::ZERO, (Rank(6), 5), Some(true), &node), []);
        let next = transfers.hurry(Time::ZERO, (Rank(4), 3), &node);
        assert_eq!(next, [Granted { to: Rank(4), id: 3, source: Some(Rank::ZERO) }], "its task has begun");
        assert_eq!(transfers.hurry(Time::ZERO, (Rank(4), 0), &node), [], "it is on its way");
        assert_eq!(transfers.counts().waiting, 1);
    }

    #[test]
    fn who_gives_up_does_not_wait_any_more() {
        let mut transfers = Transfers::default();
        (0..12).for_each(|id| drop(transfers.seek(Time::ZERO, (Rank(6), id), input(id), false, &node)));
        transfers.end(Time::ZERO, (Rank(6), 10), Some(false), &node);
        let next = transfers.end(Time::ZERO, (Rank(6), 0), Some(true), &node);
        assert_eq!(next, [Granted { to: Rank(6), id: 11, source: Some(Rank::ZERO) }]);
    }
}
