//! The queue of future events, in order of time; events at the same time are in the order in which
//! they were scheduled.
//!
//! The order depends on nothing else, so a run is exactly reproducible. Entries are small and
//! copied; the data that they refer to is stored elsewhere.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::model::Time;

/// A scheduled event: its kind and an index.
#[derive(Clone, Copy, Debug)]
struct QueuedEvent<T> {
    at: Time,
    number: u64,
    what: T,
}

impl<T> PartialEq for QueuedEvent<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for QueuedEvent<T> {}

impl<T> PartialOrd for QueuedEvent<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for QueuedEvent<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Future events by time, with a number that breaks ties.
#[derive(Debug)]
pub(super) struct EventQueue<T> {
    entries: BinaryHeap<Reverse<QueuedEvent<T>>>,
    arranged: u64,
}

impl<T: Copy> EventQueue<T> {
    pub(super) fn new() -> EventQueue<T> {
        EventQueue { entries: BinaryHeap::new(), arranged: 0 }
    }

    /// Schedules an event; returns the unique number of its entry.
    pub(super) fn schedule(&mut self, at: Time, what: T) -> u64 {
        self.arranged += 1;
        self.entries.push(Reverse(QueuedEvent { at, number: self.arranged, what }));
        self.arranged
    }

    /// Removes the next event: its time, its number, and the event.
    pub(super) fn next(&mut self) -> Option<(Time, u64, T)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.number, entry.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_orders_and_arrangement_breaks_ties() {
        let mut agenda = EventQueue::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            agenda.schedule(Time(at), what);
        }
        let order: String = std::iter::from_fn(|| agenda.next()).map(|(_, _, what)| what).collect();
        assert_eq!(order, "abcd");
    }
}
