//! The queue of the gate: constrained items and holds, in order of urgency and then of arrival.
//!
//! Entries with equal needs form a class, and only the head of each class is looked at: if it cannot start, none behind it
//! can. A million tasks of one array under one limit are therefore one class, not a million entries to walk.
//!
//! Backfilling is safe because an entry that waits for memory, GPUs or slots *claims* every kind that it needs, and nothing behind it
//! may take of a claimed kind. An entry that waits only for its own limit claims nothing: it waits for its kin.

use std::cmp::Reverse;
use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::HoldId;
use super::ledger::Ledger;
use crate::pool::item::{Item, LEVELS, Needs};

/// What waits at the gate, or was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An item to run.
    Run(Item),
    /// Slots to set aside.
    Hold(HoldId),
}

impl What {
    /// Holds come first: all the slots of another rank may be waiting for them.
    fn level(self) -> u32 {
        match self {
            What::Run(item) => item.level(),
            What::Hold(_) => LEVELS as u32 - 1,
        }
    }
}

#[derive(Default)]
pub(super) struct Waiting {
    classes: FxHashMap<Needs, Class>,
    arrivals: u64,
    len: usize,
}

#[derive(Default)]
struct Class {
    /// Which of the queues are not empty.
    levels: u32,
    queues: [VecDeque<(u64, What)>; LEVELS],
}

/// The entry that may start next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) level: u32,
    pub(super) needs: Needs,
    arrival: u64,
}

const MEMORY: u8 = 1;
const GPUS: u8 = 2;
const SEVERAL_SLOTS: u8 = 4;

/// The kinds of things that an entry needs and others may be waiting for.
fn kinds(needs: &Needs) -> u8 {
    let kind = |needed: bool, kind: u8| if needed { kind } else { 0 };
    kind(needs.memory > 0, MEMORY) | kind(needs.gpus > 0, GPUS) | kind(needs.slots() > 1, SEVERAL_SLOTS)
}

impl Waiting {
    /// Number of items; holds are not counted.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, what: What, needs: Needs) {
        self.arrivals += 1;
        self.len += usize::from(matches!(what, What::Run(_)));
        let class = self.classes.entry(needs).or_default();
        class.levels |= 1 << what.level();
        class.queues[what.level() as usize].push_back((self.arrivals, what));
    }

    /// The first entry that may start, given what is free and how many slots could be collected.
    pub(super) fn head(&self, ledger: &Ledger, collectable: usize) -> Option<Head> {
        let mut heads: Vec<Head> = self.classes.iter().filter_map(|(needs, class)| class.head(*needs)).collect();
        heads.sort_unstable_by_key(|head| (Reverse(head.level), head.arrival));
        let mut claimed = 0;
        heads.into_iter().find(|head| {
            if ledger.at_limit(&head.needs) {
                return false;
            }
            let kinds = kinds(&head.needs);
            let slots = head.needs.slots();
            let may = kinds & claimed == 0 && ledger.fits(&head.needs) && (slots == 1 || slots <= collectable);
            claimed |= kinds;
            may
        })
    }

    /// Takes the head out of the queue.
    pub(super) fn take(&mut self, head: &Head) -> Option<What> {
        let class = self.classes.get_mut(&head.needs)?;
        let (_, what) = class.queues[head.level as usize].pop_front()?;
        self.tidy(&head.needs, head.level);
        self.len -= usize::from(matches!(what, What::Run(_)));
        Some(what)
    }

    /// Takes out up to `most` items (not holds), the most urgent first.
    pub(super) fn take_out(&mut self, most: usize) -> Vec<Item> {
        let mut out = Vec::new();
        for level in (0..LEVELS).rev() {
            for class in self.classes.values_mut() {
                let queue = &mut class.queues[level];
                let mut kept = VecDeque::new();
                for (arrival, what) in queue.drain(..) {
                    match what {
                        What::Run(item) if out.len() < most => out.push(item),
                        _ => kept.push_back((arrival, what)),
                    }
                }
                *queue = kept;
            }
        }
        self.len -= out.len();
        self.tidy_all();
        out
    }

    /// Takes out these items (not holds); the others keep their order.
    pub(super) fn withdraw(&mut self, which: &dyn Fn(&Item) -> bool) -> Vec<Item> {
        let mut out = Vec::new();
        for queue in self.classes.values_mut().flat_map(|class| &mut class.queues) {
            queue.retain(|(_, what)| match what {
                What::Run(item) if which(item) => {
                    out.push(*item);
                    false
                }
                _ => true,
            });
        }
        self.len -= out.len();
        self.tidy_all();
        out
    }

    /// Takes a hold out again; false if it does not wait here.
    pub(super) fn cancel(&mut self, id: HoldId) -> bool {
        let level = LEVELS - 1;
        let is_it = |entry: &(u64, What)| entry.1 == What::Hold(id);
        let found = self.classes.values_mut().any(|class| {
            let queue = &mut class.queues[level];
            queue.iter().position(is_it).and_then(|at| queue.remove(at)).is_some()
        });
        self.tidy_all();
        found
    }

    fn tidy(&mut self, needs: &Needs, level: u32) {
        if let Some(class) = self.classes.get_mut(needs)
            && class.queues[level as usize].is_empty()
        {
            class.levels &= !(1 << level);
            if class.levels == 0 {
                self.classes.remove(needs);
            }
        }
    }

    fn tidy_all(&mut self) {
        self.classes.retain(|_, class| {
            let filled = (0..LEVELS).filter(|&level| !class.queues[level].is_empty());
            class.levels = filled.fold(0, |levels, level| levels | 1 << level);
            class.levels != 0
        });
    }
}

impl Class {
    fn head(&self, needs: Needs) -> Option<Head> {
        let level = self.levels.checked_ilog2()?;
        let (arrival, _) = self.queues[level as usize].front()?;
        Some(Head { level, needs, arrival: *arrival })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(task: u32, urgency: u8) -> What {
        What::Run(Item { task, urgency, tag: 0, constrained: true })
    }

    fn memory(memory: u64) -> Needs {
        Needs { memory, ..Needs::SLOT }
    }

    fn ledger() -> Ledger {
        Ledger::new(4, 100, vec![(0, None), (1, None)])
    }

    fn next(waiting: &mut Waiting, ledger: &Ledger) -> Option<What> {
        let head = waiting.head(ledger, 4)?;
        waiting.take(&head)
    }

    #[test]
    fn urgency_comes_before_arrival() {
        let mut waiting = Waiting::default();
        for (task, urgency, bytes) in [(0, 1, 5), (1, 1, 6), (2, 9, 7), (3, 1, 5)] {
            waiting.push(run(task, urgency), memory(bytes));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut waiting, &ledger())).collect();
        assert_eq!(order, [run(2, 9), run(0, 1), run(1, 1), run(3, 1)]);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn a_stream_of_small_items_cannot_pass_a_large_one() {
        let (mut waiting, mut ledger) = (Waiting::default(), ledger());
        ledger.grant(&memory(30), 0);
        waiting.push(run(0, 1), memory(80));
        waiting.push(run(1, 1), memory(10));
        waiting.push(run(2, 1), Needs { gpus: 1, ..Needs::SLOT });
        assert_eq!(next(&mut waiting, &ledger), Some(run(2, 1)), "it takes nothing that the large one waits for");
        assert_eq!(next(&mut waiting, &ledger), None);
        ledger.take_back(&memory(30), &[]);
        assert_eq!(next(&mut waiting, &ledger), Some(run(0, 1)));
    }

    #[test]
    fn an_item_at_its_limit_holds_up_only_its_kin() {
        let (mut waiting, mut ledger) = (Waiting::default(), ledger());
        let limited = Needs { memory: 1, limit: Some((5, 1)), ..Needs::SLOT };
        ledger.grant(&limited, 0);
        waiting.push(run(0, 9), limited);
        waiting.push(run(1, 1), memory(1));
        assert_eq!(next(&mut waiting, &ledger), Some(run(1, 1)));
        assert_eq!(next(&mut waiting, &ledger), None);
    }

    #[test]
    fn holds_come_first_and_can_be_cancelled() {
        let mut waiting = Waiting::default();
        waiting.push(run(0, 15), memory(1));
        waiting.push(What::Hold(HoldId(7)), Needs { cpus: 2, ..Needs::SLOT });
        waiting.push(run(1, 15), memory(1));
        assert_eq!(waiting.take_out(1), [Item { task: 0, urgency: 15, tag: 0, constrained: true }]);
        assert!(waiting.cancel(HoldId(7)) && !waiting.cancel(HoldId(7)));
        assert_eq!(next(&mut waiting, &ledger()), Some(run(1, 15)));
    }

    #[test]
    fn a_wide_item_that_cannot_collect_yet_keeps_its_claim() {
        let mut waiting = Waiting::default();
        waiting.push(run(0, 1), Needs { cpus: 3, memory: 1, ..Needs::SLOT });
        waiting.push(run(1, 1), memory(1));
        assert!(waiting.head(&ledger(), 2).is_none());
        assert!(waiting.head(&ledger(), 3).is_some());
    }
}
