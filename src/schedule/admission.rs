//! Admission of tasks that need more than a free slot: memory, GPUs, a share of a group's limit,
//! several slots.
//!
//! The most urgent task starts first, and among equals the first to arrive. Slots for gangs come
//! before all tasks, because the slots of other ranks may be waiting for them. Tasks with equal
//! needs form a class, and only the head of each class is examined: if it cannot start, no other
//! task of the class can. A million tasks of one array under one limit are one class.
//!
//! Backfilling is safe because an entry that waits for memory, GPUs or slots *claims* every kind of
//! resource that it needs, and nothing behind it may take a claimed kind. An entry that waits only
//! for its own limit claims nothing, since only its own class uses that limit.
//!
//! The pool of a real run applies this rule under its lock, the simulator directly. Both decide
//! themselves how to collect several slots that are still busy; they pass in how many could be
//! collected.

use std::cmp::Reverse;
use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::resources::{Impossible, Needs, ResourceLedger};
use crate::graph::partition;

/// Number of urgency levels. A task's urgency is clamped to the highest, `LEVELS - 1`.
pub const LEVELS: usize = partition::LEVELS as usize;

/// The level of slots for gangs.
const HOLD_LEVEL: usize = LEVELS;

/// An entry that waits for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionEntry<T, H> {
    /// A task to run.
    Task(T),
    /// Slots to set aside for a gang.
    Hold(H),
}

/// The waiting tasks and holds of a rank, and the resources that they share.
#[derive(Debug)]
pub struct AdmissionQueue<T, H> {
    classes: FxHashMap<Needs, Class<T, H>>,
    arrivals: u64,
    /// Number of waiting tasks.
    tasks: usize,
    ledger: ResourceLedger,
}

/// Entries with equal needs.
#[derive(Debug)]
struct Class<T, H> {
    /// Bit mask of the queues that are not empty.
    levels: u32,
    /// For each level, its entries with their arrival numbers.
    queues: [VecDeque<(u64, AdmissionEntry<T, H>)>; LEVELS + 1],
}

/// The entry that starts next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its urgency; holds are above all tasks.
    pub level: u32,
    /// What it needs.
    pub needs: Needs,
    arrival: u64,
}

/// A task taken out of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Withdrawn<T> {
    /// The task.
    pub task: T,
    /// What it needs.
    pub needs: Needs,
    /// Its arrival number.
    pub arrival: u64,
}

const MEMORY: u8 = 1;
const GPUS: u8 = 2;
const SEVERAL_SLOTS: u8 = 4;

/// The kinds of resources that an entry needs and that others may claim.
fn kinds(needs: &Needs) -> u8 {
    let kind = |needed: bool, kind: u8| if needed { kind } else { 0 };
    kind(needs.memory > 0, MEMORY) | kind(needs.gpus > 0, GPUS) | kind(needs.slots() > 1, SEVERAL_SLOTS)
}

impl<T: Copy, H: Copy> AdmissionQueue<T, H> {
    /// An empty queue for a rank with these resources.
    pub fn new(ledger: ResourceLedger) -> AdmissionQueue<T, H> {
        AdmissionQueue { classes: FxHashMap::default(), arrivals: 0, tasks: 0, ledger }
    }

    /// Number of waiting tasks, without holds.
    pub fn len(&self) -> usize {
        self.tasks
    }

    /// True if no task waits.
    pub fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    /// Returns the next arrival number, for tasks that wait elsewhere and whose order relative to
    /// these matters.
    pub fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Checks that the needs could be met if nothing else ran.
    ///
    /// # Errors
    ///
    /// If they can never be met.
    pub fn check(&self, needs: &Needs) -> Result<(), Impossible> {
        self.ledger.check(needs)
    }

    /// Queues a task.
    pub fn push_task(&mut self, task: T, urgency: u8, needs: Needs) {
        self.tasks += 1;
        self.push(AdmissionEntry::Task(task), usize::from(urgency).min(LEVELS - 1), needs);
    }

    /// Queues a hold.
    pub fn push_hold(&mut self, hold: H, needs: Needs) {
        self.push(AdmissionEntry::Hold(hold), HOLD_LEVEL, needs);
    }

    fn push(&mut self, entry: AdmissionEntry<T, H>, level: usize, needs: Needs) {
        let arrival = self.next_arrival();
        let class = self.classes.entry(needs).or_default();
        class.levels |= 1 << level;
        class.queues[level].push_back((arrival, entry));
    }

    /// The first entry that may start. `collectable`: number of slots that could be collected for
    /// an entry that needs several.
    pub fn head(&self, collectable: usize) -> Option<Head> {
        if self.classes.is_empty() {
            return None;
        }
        let mut heads: Vec<Head> = self.classes.iter().filter_map(|(needs, class)| class.head(*needs)).collect();
        heads.sort_unstable_by_key(|head| (Reverse(head.level), head.arrival));
        let mut claimed = 0;
        heads.into_iter().find(|head| {
            if self.ledger.is_at_limit(&head.needs) {
                return false;
            }
            let kinds = kinds(&head.needs);
            let slots = head.needs.slots();
            let may = kinds & claimed == 0 && self.ledger.fits(&head.needs) && (slots == 1 || slots <= collectable);
            claimed |= kinds;
            may
        })
    }

    /// Takes the head out of the queue and grants its needs.
    pub fn admit(&mut self, head: &Head) -> Option<AdmissionEntry<T, H>> {
        let class = self.classes.get_mut(&head.needs)?;
        let (_, entry) = class.queues[head.level as usize].pop_front()?;
        if class.queues[head.level as usize].is_empty() {
            class.levels &= !(1 << head.level);
            if class.levels == 0 {
                self.classes.remove(&head.needs);
            }
        }
        self.tasks -= usize::from(matches!(entry, AdmissionEntry::Task(_)));
        self.ledger.grant(&head.needs);
        Some(entry)
    }

    /// Returns what was granted for `needs`.
    pub fn take_back(&mut self, needs: &Needs) {
        self.ledger.take_back(needs);
    }

    /// Takes out the tasks that match (not holds), the most urgent first and by arrival within one
    /// urgency; the others keep their order.
    pub fn withdraw(&mut self, which: impl Fn(&T) -> bool) -> Vec<Withdrawn<T>> {
        let mut out = Vec::new();
        for (&needs, class) in &mut self.classes {
            for level in 0..LEVELS {
                class.queues[level].retain(|&(arrival, entry)| match entry {
                    AdmissionEntry::Task(task) if which(&task) => {
                        out.push((level, Withdrawn { task, needs, arrival }));
                        false
                    }
                    _ => true,
                });
            }
        }
        self.tasks -= out.len();
        self.tidy();
        out.sort_unstable_by_key(|(level, withdrawn)| (Reverse(*level), withdrawn.arrival));
        out.into_iter().map(|(_, withdrawn)| withdrawn).collect()
    }

    /// Takes out the hold that matches; false if there is none.
    pub fn cancel_hold(&mut self, which: impl Fn(&H) -> bool) -> bool {
        let is_it = |entry: &(u64, AdmissionEntry<T, H>)| matches!(&entry.1, AdmissionEntry::Hold(hold) if which(hold));
        let found = self.classes.values_mut().any(|class| {
            let queue = &mut class.queues[HOLD_LEVEL];
            queue.iter().position(is_it).and_then(|at| queue.remove(at)).is_some()
        });
        self.tidy();
        found
    }

    fn tidy(&mut self) {
        self.classes.retain(|_, class| {
            let filled = (0..=LEVELS).filter(|&level| !class.queues[level].is_empty());
            class.levels = filled.fold(0, |levels, level| levels | 1 << level);
            class.levels != 0
        });
    }
}

impl<T, H> Default for Class<T, H> {
    fn default() -> Class<T, H> {
        Class { levels: 0, queues: std::array::from_fn(|_| VecDeque::new()) }
    }
}

impl<T, H> Class<T, H> {
    fn head(&self, needs: Needs) -> Option<Head> {
        let level = self.levels.checked_ilog2()?;
        let (arrival, _) = self.queues[level as usize].front()?;
        Some(Head { level, needs, arrival: *arrival })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::resources::Limit;

    /// A queue with numbers for tasks and holds.
    type Queue = AdmissionQueue<u32, u32>;

    /// A rank of 4 slots, 100 bytes and 2 GPUs.
    fn queue() -> Queue {
        AdmissionQueue::new(ResourceLedger::new(4, 100, 2))
    }

    fn memory(memory: u64) -> Needs {
        Needs { memory, ..Needs::SLOT }
    }

    /// The next entry to start, and its needs.
    fn admit(queue: &mut Queue) -> Option<(AdmissionEntry<u32, u32>, Needs)> {
        let head = queue.head(4)?;
        Some((queue.admit(&head)?, head.needs))
    }

    fn next(queue: &mut Queue) -> Option<AdmissionEntry<u32, u32>> {
        Some(admit(queue)?.0)
    }

    #[test]
    fn urgency_comes_before_arrival_and_beyond_the_highest_level_all_are_equal() {
        let mut queue = queue();
        for (task, urgency, bytes) in [(0, 1, 5), (1, 1, 6), (2, 15, 7), (3, 200, 8), (4, 1, 5)] {
            queue.push_task(task, urgency, memory(bytes));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, [2, 3, 0, 1, 4].map(AdmissionEntry::Task));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_stream_of_small_tasks_cannot_pass_a_large_one() {
        let mut queue = queue();
        queue.push_task(9, 1, memory(30));
        let (_, running) = admit(&mut queue).unwrap();
        queue.push_task(0, 1, memory(80));
        queue.push_task(1, 1, memory(10));
        queue.push_task(2, 1, Needs { gpus: 1, ..Needs::SLOT });
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(2)), "it takes nothing that the large one waits for");
        assert_eq!(next(&mut queue), None);
        queue.take_back(&running);
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(0)));
    }

    #[test]
    fn a_task_at_its_limit_holds_up_only_its_kin() {
        let mut queue = queue();
        let limited = Needs { memory: 1, limit: Some(Limit { key: 5, most: 1 }), ..Needs::SLOT };
        queue.push_task(9, 9, limited);
        let (_, running) = admit(&mut queue).unwrap();
        queue.push_task(0, 9, limited);
        queue.push_task(1, 1, memory(1));
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(1)));
        assert_eq!(next(&mut queue), None);
        queue.take_back(&running);
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(0)));
    }

    #[test]
    fn holds_come_before_the_most_urgent_task_in_their_order_and_can_be_cancelled() {
        let mut queue = queue();
        queue.push_task(0, 15, Needs { cpus: 2, memory: 1, ..Needs::SLOT });
        for (hold, cpus) in [(7, 2), (8, 3), (9, 2)] {
            queue.push_hold(hold, Needs { cpus, ..Needs::SLOT });
        }
        assert_eq!(queue.len(), 1);
        assert!(queue.cancel_hold(|&hold| hold == 8) && !queue.cancel_hold(|&hold| hold == 8));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, [AdmissionEntry::Hold(7), AdmissionEntry::Hold(9), AdmissionEntry::Task(0)]);
    }

    #[test]
    fn a_wide_task_that_cannot_collect_yet_keeps_its_claim() {
        let mut queue = queue();
        queue.push_task(0, 1, Needs { cpus: 3, memory: 1, ..Needs::SLOT });
        queue.push_task(1, 1, memory(1));
        queue.push_task(2, 1, Needs { gpus: 1, ..Needs::SLOT });
        assert_eq!(queue.head(2).map(|head| head.needs.gpus), Some(1));
        assert_eq!(queue.head(3).map(|head| head.needs.cpus), Some(3));
    }

    #[test]
    fn withdrawn_tasks_come_by_urgency_and_arrival_and_the_others_stay() {
        let mut queue = queue();
        for (task, urgency, bytes) in [(0, 1, 5), (1, 9, 6), (2, 1, 7), (3, 1, 5)] {
            queue.push_task(task, urgency, memory(bytes));
        }
        queue.push_hold(0, Needs { cpus: 2, ..Needs::SLOT });
        let out = queue.withdraw(|&task| task != 2);
        assert_eq!(out.iter().map(|withdrawn| withdrawn.task).collect::<Vec<_>>(), [1, 0, 3]);
        assert_eq!((out[2].needs, queue.len()), (memory(5), 1));
        assert_eq!(
            [next(&mut queue), next(&mut queue), next(&mut queue)],
            [Some(AdmissionEntry::Hold(0)), Some(AdmissionEntry::Task(2)), None]
        );
    }
}
