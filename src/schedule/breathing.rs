//! How many slots of a rank run tasks, where the job gives a range: more than the least while CPUs
//! idle, fewer when CPUs or memory are scarce, and fewer than the least where memory still is.
//!
//! Once per [`INTERVAL`] the driver samples the CPUs that the rank may use and the pressure on
//! them. The first condition that holds decides:
//!
//! | condition | slots |
//! |---|---|
//! | tasks stall for memory, or hardly any is free | the least, at once: what runs beyond goes on, and nothing more is started there |
//! | it is so in the next sample too, several tasks run, and none that was requeued still does | a command is requeued: the youngest on an extra slot, else the youngest, whose slot is closed |
//! | slots of the least are closed, and memory is free again, three samples in a row, or has not been scarce for a minute | one more; all of them if nothing runs |
//!
//! The ranks of a node wait a sample longer each before they requeue, so that one of them frees
//! memory first.
//! | the CPUs are saturated or tasks wait for them, three samples in a row | a third of those above the least fewer |
//! | slots have been without work, three samples in a row | as many as run tasks |
//! | all slots run tasks, CPUs idle and tasks hardly wait for them, three samples in a row | half as many more, as far as the CPUs will not be saturated by them |
//!
//! After it has shrunk for want of CPUs or memory, a rank does not grow for 15 samples, and
//! twice as long after each further growth.

use std::time::Duration;

use crate::model::SlotReason;

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Samples in a row for which a condition must hold.
const PATIENCE: u32 = 3;

/// Samples after a shrink for want of CPUs or memory without growth, the first time ...
const REST: u32 = 15;

/// Samples without scarce memory after which a closed slot is opened, although little is free.
const CALM: u32 = 60;

/// ... and at most.
const MAX_REST: u32 = 240;

/// CPUs are saturated above this busy share, or above this share of time in which tasks waited.
const SATURATED: f64 = 0.97;
const CPU_STALL: f64 = 0.4;

/// Slots are added up to this predicted busy share of the CPUs, and only below this share of time
/// in which tasks waited for CPUs. With few CPUs some task waits for a part of the time long before
/// they are saturated: of 14 tasks on two CPUs, each of which computes for a tenth of its time,
/// three or more compute during 16 % of it, which makes each 2 % slower.
const WANTED_BUSY: f64 = 0.85;
const LOW_CPU_STALL: f64 = 0.2;

/// Memory is scarce above this share of time in which all tasks stalled for it, or below this free
/// share. Nothing is added unless there was no stall and twice as much is free.
const MEMORY_STALL: f64 = 0.05;
const MIN_FREE_MEMORY: f64 = 0.05;

/// What a rank and its node did since the last sample. Shares are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotSample {
    /// Slots that run tasks.
    pub running: u32,
    /// The command that would be requeued to free its memory.
    pub victim: Option<Victim>,
    /// Busy share of the CPUs that the rank may use.
    pub cpu_busy: f64,
    /// Share of time in which some task of the node waited for a CPU; 0 where it is not measured.
    pub cpu_stall: f64,
    /// Share of time in which all tasks of the node stalled for memory; 0 where it is not measured.
    pub memory_stall: f64,
    /// Free share of the node's memory, or of the rank's where that is less.
    pub free_memory: f64,
}

/// The slot of a command that can be requeued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// One of the least.
    OfLeast,
    /// One beyond those.
    OnExtra,
}

/// The slots of one rank.
#[derive(Clone, Copy, Debug)]
pub struct BreathingSlots {
    least: u32,
    most: u32,
    slots: u32,
    why: SlotReason,
    /// Samples in a row in which CPUs were scarce, slots without work, or more slots of use.
    scarce: u32,
    unused: u32,
    useful: u32,
    /// Number of this rank among those of its node.
    place: u32,
    /// Samples in a row in which memory was scarce, was not, or was free while slots are closed.
    short: u32,
    calm: u32,
    eased: u32,
    /// Samples without growth that are left, and how many the last shrink caused.
    rest: u32,
    last_rest: u32,
    /// It has grown since the last shrink for want of something.
    has_grown: bool,
}

impl BreathingSlots {
    /// From `least` to `most` slots; begins with the least. `place`: number of the rank among those
    /// of its node, from 0.
    pub fn new(least: u32, most: u32, place: u32) -> BreathingSlots {
        let why = SlotReason::Start;
        let most = most.max(least);
        BreathingSlots {
            least,
            most,
            slots: least,
            why,
            scarce: 0,
            unused: 0,
            useful: 0,
            place,
            short: 0,
            calm: 0,
            eased: 0,
            rest: 0,
            last_rest: 0,
            has_grown: false,
        }
    }

    /// Slots that may run tasks.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Why there are as many.
    pub fn why(&self) -> SlotReason {
        self.why
    }

    /// Takes a sample; returns the slots that may run tasks from now on, and whether the victim is
    /// to be requeued to free its memory.
    pub fn step(&mut self, sample: SlotSample) -> (u32, bool) {
        let SlotSample { running, victim, cpu_busy, cpu_stall, memory_stall, free_memory } = sample;
        self.rest = self.rest.saturating_sub(1);
        let is_short_of_memory = memory_stall > MEMORY_STALL || free_memory < MIN_FREE_MEMORY;
        let has_memory = memory_stall == 0.0 && free_memory >= 2.0 * MIN_FREE_MEMORY;
        let is_saturated = cpu_busy > SATURATED || cpu_stall > CPU_STALL;
        let has_cpus = cpu_busy < WANTED_BUSY && cpu_stall < LOW_CPU_STALL;
        let count = |before: u32, holds: bool| if holds { before + 1 } else { 0 };
        self.scarce = count(self.scarce, is_saturated && self.slots > self.least);
        self.unused = count(self.unused, running < self.slots && self.slots > self.least);
        self.useful = count(self.useful, running >= self.slots && has_cpus && has_memory && self.rest == 0);
        self.short = count(self.short, is_short_of_memory);
        self.calm = count(self.calm, !is_short_of_memory);
        self.eased = count(self.eased, has_memory && self.slots < self.least && self.rest == 0);
        if self.slots < self.least && running == 0 {
            // Closed slots would free nothing, and keep tasks of several slots waiting.
            self.set(self.least, SlotReason::NoWork);
        }
        if is_short_of_memory {
            let victim = victim.filter(|_| self.short > 1 + self.place && running > 1);
            // The slots of the tasks that go on.
            let left = if victim == Some(Victim::OfLeast) { self.least.min(running - 1) } else { self.least };
            self.shrink(left, SlotReason::MemoryScarce);
            if victim.is_some() {
                self.rest = self.rest.max(REST);
            }
            return (self.slots, victim.is_some());
        }
        if self.slots < self.least {
            self.reopen();
        } else if self.scarce >= PATIENCE {
            let extra = self.slots - self.least;
            self.shrink(self.slots - extra.div_ceil(3), SlotReason::CpusScarce);
        } else if self.unused >= PATIENCE {
            self.set(running.max(self.least), SlotReason::NoWork);
        } else if self.useful >= PATIENCE && self.slots < self.most {
            // Each slot keeps CPUs as busy as those that there are.
            let possible = f64::from(self.slots) * WANTED_BUSY / cpu_busy.max(0.01);
            let wanted = (self.slots + self.slots.div_ceil(2)).min(possible as u32).min(self.most);
            if wanted > self.slots {
                self.set(wanted, SlotReason::CpusIdle);
                self.has_grown = true;
                // Having waited once, it goes on while nothing speaks against it.
                self.useful = PATIENCE - 1;
            }
        }
        (self.slots, false)
    }

    /// Opens a slot of the least again if memory allows it.
    fn reopen(&mut self) {
        if self.eased >= PATIENCE || self.calm >= CALM && self.rest == 0 {
            self.set(self.slots + 1, SlotReason::MemoryFree);
            (self.has_grown, self.calm) = (true, 0);
        }
    }

    /// Reduces the slots for want of something: growth would only bring the want back.
    fn shrink(&mut self, slots: u32, why: SlotReason) {
        if slots < self.slots {
            if std::mem::take(&mut self.has_grown) {
                self.last_rest = (self.last_rest * 2).clamp(REST, MAX_REST);
            }
            self.rest = self.last_rest;
            self.set(slots, why);
        }
    }

    fn set(&mut self, slots: u32, why: SlotReason) {
        if slots != self.slots {
            (self.slots, self.why) = (slots, why);
            (self.scarce, self.unused, self.useful, self.eased) = (0, 0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: SlotSample =
        SlotSample { running: 0, victim: None, cpu_busy: 0.0, cpu_stall: 0.0, memory_stall: 0.0, free_memory: 0.5 };

    /// The slots after each of these many samples, in which all slots run tasks that keep CPUs busy
    /// for this share of their time.
    fn run(slots: &mut BreathingSlots, cpus: f64, load: f64, samples: usize) -> Vec<u32> {
        let mut sample = || {
            let running = slots.slots();
            let busy = f64::from(running) * load / cpus;
            let cpu_stall = (busy - 1.0).clamp(0.0, 1.0);
            slots.step(SlotSample { running, cpu_busy: busy.min(1.0), cpu_stall, ..QUIET }).0
        };
        (0..samples).map(|_| sample()).collect()
    }

    #[test]
    fn tasks_that_wait_get_all_slots_after_a_few_samples() {
        let mut slots = BreathingSlots::new(2, 16, 0);
        assert_eq!(run(&mut slots, 2.0, 0.01, 8), [2, 2, 3, 5, 8, 12, 16, 16]);
        assert_eq!(slots.why(), SlotReason::CpusIdle);
    }

    #[test]
    fn tasks_that_compute_keep_a_slot_for_each_cpu() {
        let mut slots = BreathingSlots::new(2, 16, 0);
        assert_eq!(run(&mut slots, 2.0, 1.0, 100), [2; 100]);
        // Half a CPU each: slots are added up to where the CPUs would be saturated.
        let most = run(&mut BreathingSlots::new(4, 16, 0), 4.0, 0.5, 100);
        assert_eq!((most[99], most.iter().max()), (6, Some(&6)));
    }

    #[test]
    fn a_phase_that_computes_ends_the_growth_of_one_that_waits_and_growth_does_not_come_back_at_once() {
        let mut slots = BreathingSlots::new(2, 8, 0);
        assert_eq!(run(&mut slots, 2.0, 0.0, 20)[19], 8);
        let shrinking = run(&mut slots, 2.0, 1.0, 12);
        assert_eq!((shrinking[1], shrinking[11], slots.why()), (8, 2, SlotReason::CpusScarce), "{shrinking:?}");
        let growing = run(&mut slots, 2.0, 0.0, 30);
        let first = growing.iter().position(|&slots| slots > 2).unwrap();
        assert!(first > REST as usize && growing[29] == 8, "{growing:?}");
    }

    #[test]
    fn slots_without_work_go() {
        let mut slots = BreathingSlots::new(2, 8, 0);
        run(&mut slots, 2.0, 0.0, 20);
        let after = |slots: &mut BreathingSlots, running| slots.step(SlotSample { running, ..QUIET }).0;
        assert_eq!([5, 4, 5].map(|running| after(&mut slots, running)), [8, 8, 5]);
        assert_eq!((slots.why(), after(&mut slots, 0)), (SlotReason::NoWork, 5));
        assert_eq!([0, 0, 0].map(|running| after(&mut slots, running)), [5, 2, 2]);
    }

    #[test]
    fn want_of_memory_leaves_the_least_at_once() {
        let mut slots = BreathingSlots::new(2, 8, 0);
        run(&mut slots, 2.0, 0.0, 20);
        for (memory_stall, free_memory) in [(0.2, 0.5), (0.0, 0.01)] {
            let mut slots = slots;
            let sample = SlotSample { running: 8, victim: Some(Victim::OnExtra), memory_stall, free_memory, ..QUIET };
            assert_eq!(slots.step(sample), (2, false));
            assert_eq!(slots.why(), SlotReason::MemoryScarce);
        }
        // A little less than plenty of memory is no reason for more slots.
        let mut slots = BreathingSlots::new(2, 8, 0);
        let tight = SlotSample { running: 2, free_memory: 0.08, ..QUIET };
        assert!((0..50).all(|_| slots.step(tight) == (2, false)));
    }

    /// The slots, and whether a command is requeued, after each sample in which these many slots
    /// run commands and this share of memory is free.
    fn with_memory<const N: usize>(slots: &mut BreathingSlots, samples: [(u32, f64); N]) -> [(u32, bool); N] {
        samples.map(|(running, free_memory)| {
            let victim = Some(if running > slots.least { Victim::OnExtra } else { Victim::OfLeast });
            slots.step(SlotSample { running, victim, free_memory, ..QUIET })
        })
    }

    #[test]
    fn memory_that_stays_scarce_requeues_commands_until_one_is_left() {
        let mut slots = BreathingSlots::new(2, 8, 0);
        run(&mut slots, 2.0, 0.0, 20);
        let shrinking = with_memory(&mut slots, [(4, 0.01), (4, 0.01), (3, 0.01), (2, 0.01), (1, 0.01), (1, 0.01)]);
        assert_eq!(shrinking, [(2, false), (2, true), (2, true), (1, true), (1, false), (1, false)]);
        // One bad sample alone requeues nothing, and one task is never requeued.
        let mut slots = BreathingSlots::new(2, 8, 0);
        assert_eq!(with_memory(&mut slots, [(2, 0.01), (2, 0.5), (2, 0.01), (2, 0.5)]), [(2, false); 4]);
        assert_eq!(with_memory(&mut slots, [(1, 0.01); 9]), [(2, false); 9]);
        // Of two ranks of a node the first requeues first; without a command nothing does.
        let mut ranks = [0, 1].map(|place| BreathingSlots::new(2, 8, place));
        let requeued = ranks.each_mut().map(|slots| with_memory(slots, [(2, 0.01); 3]).map(|it| it.1));
        assert_eq!(requeued, [[false, true, true], [false, false, true]]);
        let kernels = SlotSample { running: 2, free_memory: 0.01, ..QUIET };
        let mut slots = BreathingSlots::new(2, 8, 0);
        assert!((0..9).all(|_| slots.step(kernels) == (2, false)));
    }

    #[test]
    fn closed_slots_open_again_once_memory_is_free_for_a_while_or_nothing_runs() {
        let mut slots = BreathingSlots::new(3, 8, 0);
        assert_eq!(with_memory(&mut slots, [(3, 0.01), (3, 0.01)]), [(3, false), (2, true)]);
        // Little is free, but enough for a while.
        let waited = with_memory(&mut slots, [(2, 0.08); 70]);
        assert_eq!(waited.iter().position(|it| it.0 == 3), Some(CALM as usize - 1));
        assert_eq!(with_memory(&mut slots, [(3, 0.01), (3, 0.01)]), [(3, false), (2, true)]);
        let waited = with_memory(&mut slots, [(2, 0.5); 20]);
        let opened = waited.iter().position(|&(slots, _)| slots == 3).unwrap();
        assert!(opened >= REST as usize - 1, "{opened}");
        assert_eq!(slots.why(), SlotReason::MemoryFree);
        // With nothing running closed slots are of no use, however scarce memory is.
        assert_eq!(with_memory(&mut slots, [(3, 0.01), (3, 0.01), (0, 0.01)]).map(|it| it.0), [3, 2, 3]);
    }

    proptest! {
        #[test]
        fn the_range_is_never_left(
            least in 1u32..20,
            more in 0u32..100,
            samples in prop::collection::vec((0u32..120, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..0.1, 0.0f64..1.0), 0..200),
        ) {
            let mut slots = BreathingSlots::new(least, least + more, least % 3);
            for (running, cpu_busy, cpu_stall, memory_stall, free_memory) in samples {
                let before = slots.slots();
                let victim = [None, Some(Victim::OfLeast), Some(Victim::OnExtra)][running as usize % 3];
                let sample = SlotSample { running, victim, cpu_busy, cpu_stall, memory_stall, free_memory };
                let (after, requeues) = slots.step(sample);
                prop_assert!((1..=least + more).contains(&after));
                prop_assert!(after <= before + before.div_ceil(2) || running == 0 && after == least);
                let is_closed = [SlotReason::MemoryScarce, SlotReason::MemoryFree].contains(&slots.why());
                prop_assert!(after >= least || is_closed);
                prop_assert!(!requeues || victim.is_some() && running > 1);
            }
        }
    }
}
