//! Simulates the rest of the graph on a given number of slots: list scheduling in order of upward
//! rank, as the real pool does.
//!
//! A chunk is started in parts as large as the free slots allow; a part is one event. Where far
//! more tasks are open than there are slots, a slot takes several of them in sequence, fewer
//! towards the end (guided self-scheduling: Polychronopoulos and Kuck 1987). So the number of
//! events depends on the number of chunks and slots rather than of tasks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::remaining_chunks::{RemainingChunks, RunningTasks};
use crate::scale::remaining::CoarseGraph;

/// A slot takes at most one in this number of the open tasks.
const OPEN_TASKS_PER_SLOT_TAKEN: u32 = 4;

/// Upper limit on the chunks tried for one that fits into the free slots.
const MAX_FIT_TRIES: u32 = 8;

/// Ends of parts with several tasks are rounded to this fraction of the shortest possible time for
/// all work, so that nearly equal ends are one event.
const ROUNDING_STEPS: f64 = 512.0;

/// The supply of slots over time.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotSupply {
    /// Slots now.
    pub slots: u32,
    /// Further slots: after how many seconds, and their number; ascending.
    pub arrivals: Vec<(f64, u32)>,
    /// Busy slots of these ranks, and of all ranks.
    pub busy: (u32, u32),
}

/// The result of a schedule.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    /// Number of busy slots from a moment on, in seconds from now; ascending, the last entry is the
    /// end with none.
    pub steps: Vec<(f64, u32)>,
    /// Seconds until the end.
    pub finish: f64,
    /// Most slots that were busy at once.
    pub peak: u32,
}

/// A running part of a chunk.
#[derive(Clone, Copy, Debug)]
struct RunningPart {
    chunk: u32,
    tasks: u32,
    slots: u32,
}

/// The buffers of a schedule, reused by the next.
#[derive(Debug, Default)]
pub(super) struct ListScheduler {
    left: Vec<u32>,
    open: Vec<u32>,
    /// The sum of `open`.
    all_open: u32,
    under_way: Vec<u32>,
    waits: Vec<u32>,
    startable: Positions,
    parts: Vec<RunningPart>,
    /// Ends of parts: the bits of a positive float sort as the float does.
    ends: BinaryHeap<Reverse<(u64, u32)>>,
    opened: Vec<u32>,
    /// Ends are multiples of this, in seconds; 0 without rounding.
    moment: f64,
    /// Accumulated rounding of ends, in seconds.
    owed: f64,
    course: Schedule,
    /// Number of parts run, in all schedules.
    pub parts_run: u64,
}

impl ListScheduler {
    /// Simulates the remaining chunks on ranks with these slots. Tasks that run on other ranks end
    /// there.
    pub fn play(&mut self, outline: &CoarseGraph, scene: &RemainingChunks, capacity: &SlotSupply) -> &Schedule {
        let mut arrivals = capacity.arrivals.iter().peekable();
        let mut total = capacity.slots;
        let most = total + capacity.arrivals.iter().map(|a| a.1).sum::<u32>();
        self.moment = match outline.is_exact {
            true => 0.0,
            false => scene.critical.max(scene.work / f64::from(most.max(1))) / ROUNDING_STEPS,
        };
        self.owed = 0.0;
        let mut busy = self.begin(outline, scene, capacity.busy);
        let mut now = 0.0;
        loop {
            busy += self.start(outline, scene, now, total.saturating_sub(busy), most);
            self.note(now, busy);
            let end = self.ends.peek().map(|Reverse((bits, _))| f64::from_bits(*bits));
            match (end, arrivals.peek()) {
                (end, Some(&&(at, slots))) if end.is_none_or(|end| at < end) => {
                    now = at;
                    total += slots;
                    arrivals.next();
                    // An arrival after the last end has no use.
                    if end.is_none() && self.startable.first().is_none() {
                        break;
                    }
                }
                (Some(end), _) => {
                    now = end;
                    self.course.finish = end;
                    busy -= self.end_at(outline, end);
                }
                (None, _) => break,
            }
        }
        &self.course
    }

    /// Sets up the initial state; returns the number of busy slots.
    fn begin(&mut self, outline: &CoarseGraph, scene: &RemainingChunks, busy: (u32, u32)) -> u32 {
        self.left.clone_from(&scene.left);
        self.waits.clone_from(&scene.waits);
        self.under_way.clone_from(&scene.running);
        self.open.clear();
        self.open.resize(outline.len(), 0);
        self.startable.clear(scene.order.len());
        self.parts.clear();
        self.ends.clear();
        self.opened.clear();
        self.course.steps.clear();
        (self.course.peak, self.course.finish) = (0, 0.0);
        self.all_open = 0;
        for &chunk in &scene.order {
            let at = chunk as usize;
            self.open[at] = scene.ready[at];
            self.all_open += scene.ready[at];
            if self.open[at] > 0 {
                self.startable.insert(scene.position[at]);
            }
            if self.waits[at] == 0 {
                self.open_wave(outline, at);
            }
        }
        let mut taken = 0;
        let mut here = Here { busy, sum: 0 };
        for running in &scene.tasks_running {
            let slots = here.slots(running);
            taken += slots;
            self.run(RunningPart { chunk: running.chunk, tasks: running.tasks, slots }, 0.0, running.rest);
        }
        taken
    }

    fn run(&mut self, part: RunningPart, start: f64, seconds: f64) {
        let mut end = (start + seconds).max(0.0);
        if self.moment > 0.0 {
            // The next end compensates for the rounding of this one; otherwise all steps of a chain
            // would be too long, or too short.
            let exact = end + self.owed;
            end = ((exact / self.moment).round() * self.moment).max(start);
            self.owed = (exact - end).clamp(-self.moment, self.moment);
        }
        self.ends.push(Reverse((end.to_bits(), self.parts.len() as u32)));
        self.parts.push(part);
        self.parts_run += 1;
    }

    /// Starts what fits into the free slots; returns how many of them are taken.
    fn start(&mut self, outline: &CoarseGraph, scene: &RemainingChunks, now: f64, free: u32, most: u32) -> u32 {
        self.admit(scene);
        let mut free_left = free;
        let mut tries = MAX_FIT_TRIES;
        let mut next = self.startable.first();
        while let Some(position) = next.filter(|_| free_left > 0 && tries > 0) {
            let chunk = scene.order[position as usize];
            let at = chunk as usize;
            // Tasks wider than all slots are refused elsewhere; here they take all slots.
            let width = outline.slots[at].clamp(1, most.max(1));
            let in_turn = (self.all_open / (OPEN_TASKS_PER_SLOT_TAKEN * (most / width).max(1))).max(1);
            let fit = self.open[at].div_ceil(in_turn).min(free_left / width);
            if fit == 0 {
                tries -= 1;
                next = self.startable.after(position);
                continue;
            }
            let tasks = (fit * in_turn).min(self.open[at]);
            self.open[at] -= tasks;
            self.all_open -= tasks;
            self.left[at] -= tasks;
            self.under_way[at] += tasks;
            if self.open[at] == 0 {
                self.startable.remove(position);
            }
            free_left -= fit * width;
            let seconds = scene.seconds[at] * f64::from(tasks) / f64::from(fit);
            self.run(RunningPart { chunk, tasks, slots: fit * width }, now, seconds);
            next = self.startable.first();
        }
        free - free_left
    }

    /// Ends all parts that end at a moment; returns the slots that become free.
    fn end_at(&mut self, outline: &CoarseGraph, end: f64) -> u32 {
        let mut freed = 0;
        while let Some(&Reverse((bits, part))) = self.ends.peek() {
            if f64::from_bits(bits) > end {
                break;
            }
            self.ends.pop();
            let RunningPart { chunk, tasks, slots } = self.parts[part as usize];
            freed += slots;
            self.count(outline, chunk as usize, tasks);
        }
        freed
    }

    /// Counts ended tasks of a chunk, and opens the chunks that waited for them.
    fn count(&mut self, outline: &CoarseGraph, chunk: usize, tasks: u32) {
        self.under_way[chunk] -= tasks;
        if self.under_way[chunk] > 0 || self.open[chunk] > 0 {
            return;
        }
        if self.left[chunk] > 0 {
            // Opens the next wave of a band, unless its tasks still wait for others.
            if self.waits[chunk] == 0 {
                self.open_wave(outline, chunk);
            }
            return;
        }
        for k in 0..outline.successors.row(chunk).len() {
            let next = outline.successors.row(chunk)[k] as usize;
            self.waits[next] -= 1;
            if self.waits[next] == 0 {
                if outline.slots[next] == 0 {
                    self.count(outline, next, self.under_way[next]);
                } else {
                    self.open_wave(outline, next);
                }
            }
        }
    }

    /// Opens as many tasks of a chunk as run in one wave.
    fn open_wave(&mut self, outline: &CoarseGraph, chunk: usize) {
        let wave = self.left[chunk].min(outline.wave[chunk]);
        if wave > self.open[chunk] {
            self.all_open += wave - self.open[chunk];
            self.open[chunk] = wave;
            self.opened.push(chunk as u32);
        }
    }

    /// Makes chunks that were opened since the last call startable.
    fn admit(&mut self, scene: &RemainingChunks) {
        while let Some(chunk) = self.opened.pop() {
            self.startable.insert(scene.position[chunk as usize]);
        }
    }

    fn note(&mut self, now: f64, busy: u32) {
        self.course.peak = self.course.peak.max(busy);
        match self.course.steps.last_mut() {
            Some(last) if last.0 == now => last.1 = busy,
            Some(last) if last.1 == busy => {}
            _ => self.course.steps.push((now, busy)),
        }
    }
}

/// Divides the running tasks between the ranks of a schedule and the others.
struct Here {
    /// Busy slots of the ranks of the schedule, and of all.
    busy: (u32, u32),
    /// Busy slots here of tasks that are spread over all slots, in units of one of all; the part
    /// not assigned yet.
    sum: u64,
}

impl Here {
    /// Slots of the ranks here that the tasks run on.
    fn slots(&mut self, running: &RunningTasks) -> u32 {
        let (here, all) = self.busy;
        match running.busy_slot {
            Some(busy_slot) if busy_slot >= here => 0,
            None if running.tasks > 1 && all > 0 => {
                self.sum += u64::from(running.slots) * u64::from(here);
                let slots = self.sum / u64::from(all);
                self.sum -= slots * u64::from(all);
                slots as u32
            }
            _ => running.slots,
        }
    }
}

/// A set of small numbers with constant-time access to its minimum.
#[derive(Debug, Default)]
struct Positions {
    words: Vec<u64>,
    /// Which words are not empty.
    filled: Vec<u64>,
}

impl Positions {
    fn clear(&mut self, size: usize) {
        self.words.clear();
        self.words.resize(size.div_ceil(64), 0);
        self.filled.clear();
        self.filled.resize(self.words.len().div_ceil(64), 0);
    }

    fn insert(&mut self, position: u32) {
        let word = position as usize / 64;
        self.words[word] |= 1 << (position % 64);
        self.filled[word / 64] |= 1 << (word % 64);
    }

    fn remove(&mut self, position: u32) {
        let word = position as usize / 64;
        self.words[word] &= !(1 << (position % 64));
        if self.words[word] == 0 {
            self.filled[word / 64] &= !(1 << (word % 64));
        }
    }

    fn first(&self) -> Option<u32> {
        let (at, filled) = self.filled.iter().enumerate().find(|(_, filled)| **filled != 0)?;
        let word = at * 64 + filled.trailing_zeros() as usize;
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }

    fn after(&self, position: u32) -> Option<u32> {
        let word = position as usize / 64;
        let rest = self.words[word] & !(u64::MAX >> (63 - position % 64));
        if rest != 0 {
            return Some(word as u32 * 64 + rest.trailing_zeros());
        }
        let next = (word + 1..self.words.len()).find(|&w| self.words[w] != 0)?;
        Some(next as u32 * 64 + self.words[next].trailing_zeros())
    }
}
