//! A thread of each rank whose number of slots follows the use of CPUs and memory: it samples them
//! once a second, and lets extra slots of the pool run tasks as `schedule/breathing` decides. Where
//! that closes slots of the least, they are held as for a gang.
//!
//! The threads of all slots are started with the rank; those beyond the least wait until they are
//! allowed to run tasks. Extra slots float over the CPUs that the rank was granted.

use std::fs::read_to_string;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::telemetry::TelemetryBuffer;
use crate::exec::{Runner, family_use};
use crate::model::{SlotsNow, TaskId};
use crate::pool::{Handle, HoldId, PoolLoad};
use crate::schedule::breathing::{BreathingSlots, INTERVAL, SlotSample, Victim};
use crate::schedule::resources::Needs;

/// Adjusts the slots until it is dropped.
pub(super) struct SlotBreather {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SlotBreather {
    /// Starts the thread, for the slots of this pool and `extra` more on these CPUs and bytes of
    /// memory; `runner` runs the tasks. The rank has this place among those of its node. If the
    /// system refuses a thread, the slots stay as they are.
    pub(super) fn start(
        (pool, runner): (Handle, Arc<Runner>),
        (extra, place): (usize, u32),
        (cpus, memory): (Vec<u32>, u64),
        telemetry: Arc<TelemetryBuffer>,
    ) -> SlotBreather {
        let (stop, stopped) = channel();
        let (least, most) = (pool.slots() as u32, (pool.slots() + extra) as u32);
        let mut slots = BreathingSlots::new(least, most, place);
        let mut counters = Counters::new(cpus, memory);
        let now = move |slots: &BreathingSlots| SlotsNow { active: slots.slots(), least, most, why: slots.why() };
        telemetry.set_slots(now(&slots));
        let breathe = move || {
            let mut closed = ClosedSlots { pool: &pool, holds: Vec::new() };
            let mut commands = RunningCommands { least: least as usize, slots: Vec::new() };
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
                commands.update(runner.commands());
                let running = running(pool.load()).saturating_sub(closed.held());
                let Some(sample) = counters.sample(running, commands.victim()) else { continue };
                let (active, requeues) = slots.step(sample);
                // While nothing is started closed slots are of no use, and the rank could not fall
                // quiet.
                closed.set(if pool.is_paused() { 0 } else { least.saturating_sub(active) as usize });
                pool.allow_extra(active.saturating_sub(least) as usize);
                if let Some(task) = requeues.then(|| commands.request()).flatten() {
                    runner.free_memory(task);
                }
                telemetry.set_slots(now(&slots));
            }
        };
        let thread = std::thread::Builder::new().name("slots".into()).spawn(breathe);
        let thread = thread.inspect_err(|error| tracing::warn!("the number of slots stays as it is: {error}")).ok();
        SlotBreather { stop: Some(stop), thread }
    }
}

impl Drop for SlotBreather {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that adjusts the number of slots has panicked");
        }
    }
}

/// Slots of the least that run nothing, held as for a gang.
struct ClosedSlots<'a> {
    pool: &'a Handle,
    holds: Vec<HoldId>,
}

impl ClosedSlots<'_> {
    /// Those that are set aside: one that still runs a task is not.
    fn held(&self) -> u32 {
        self.holds.iter().filter(|hold| self.pool.is_held(**hold)).count() as u32
    }

    /// Closes this many slots; one that runs a task, once that ends.
    fn set(&mut self, closed: usize) {
        for hold in self.holds.drain(closed.min(self.holds.len())..) {
            self.pool.release(hold);
        }
        while self.holds.len() < closed {
            let Ok(hold) = self.pool.hold(Needs::SLOT) else { break };
            self.holds.push(hold);
        }
    }
}

/// The commands that the slots run, as far as samples show.
struct RunningCommands {
    /// Number of slots that are not extra.
    least: usize,
    /// For each slot its command.
    slots: Vec<Option<RunningCommand>>,
}

#[derive(Clone, Copy, PartialEq)]
struct RunningCommand {
    task: TaskId,
    /// Number of samples in which it was seen there.
    samples: u32,
    /// It was requested to end.
    is_ending: bool,
}

impl RunningCommands {
    /// Takes a sample: the command that each slot runs now.
    fn update(&mut self, now: impl Iterator<Item = Option<TaskId>>) {
        let mut before = std::mem::take(&mut self.slots).into_iter();
        let next = |now: Option<TaskId>| {
            let before = before.next().flatten();
            now.map(|task| match before.filter(|it| it.task == task) {
                Some(same) => RunningCommand { samples: same.samples + 1, ..same },
                None => RunningCommand { task, samples: 1, is_ending: false },
            })
        };
        self.slots = now.map(next).collect();
    }

    /// The slot of the command that would be requeued: the youngest, on an extra slot if one runs
    /// there. None while one that was requested still runs, since its memory is not free yet.
    fn chosen(&self) -> Option<usize> {
        if self.slots.iter().flatten().any(|it| it.is_ending) {
            return None;
        }
        let commands = self.slots.iter().enumerate().filter_map(|(slot, it)| Some((slot, it.as_ref()?.samples)));
        commands.min_by_key(|&(slot, samples)| (slot < self.least, samples)).map(|(slot, _)| slot)
    }

    fn victim(&self) -> Option<Victim> {
        self.chosen().map(|slot| if slot < self.least { Victim::OfLeast } else { Victim::OnExtra })
    }

    /// The command that is requeued, which counts as requested from now on.
    fn request(&mut self) -> Option<TaskId> {
        let chosen = self.chosen()?;
        let command = self.slots[chosen].as_mut()?;
        command.is_ending = true;
        Some(command.task)
    }
}

/// Slots that run tasks. Between two short tasks a slot looks idle, but while plain items wait none
/// is.
fn running(load: PoolLoad) -> u32 {
    let running = if load.plain > 0 { load.slots.max(load.busy) } else { load.busy };
    running as u32
}

/// Counters of the kernel at one moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    /// Clock ticks that the rank's CPUs were busy, and all ticks.
    ticks: (u64, u64),
    /// Microseconds in which some task waited for a CPU, and all tasks for memory.
    stalls: (Option<u64>, Option<u64>),
}

/// Reads counters; a sample is the difference to the reading before.
struct Counters {
    cpus: Vec<u32>,
    /// Bytes that the rank may use.
    memory: u64,
    memory_pressure: PathBuf,
    before: Option<Reading>,
}

impl Counters {
    fn new(cpus: Vec<u32>, memory: u64) -> Counters {
        let mut counters = Counters { cpus, memory, memory_pressure: memory_pressure(), before: None };
        counters.before = counters.read();
        counters
    }

    /// A sample with this number of running slots and the command that would be requeued; `None` if
    /// the kernel does not count CPU time.
    fn sample(&mut self, running: u32, victim: Option<Victim>) -> Option<SlotSample> {
        let now = self.read()?;
        let before = self.before.replace(now)?;
        let passed = now.at.duration_since(before.at).as_micros().max(1) as f64;
        let stall = |before: Option<u64>, now: Option<u64>| {
            now.zip(before).map_or(0.0, |(now, before)| (now.saturating_sub(before) as f64 / passed).min(1.0))
        };
        let all = now.ticks.1.saturating_sub(before.ticks.1).max(1) as f64;
        Some(SlotSample {
            running,
            victim,
            cpu_busy: (now.ticks.0.saturating_sub(before.ticks.0) as f64 / all).min(1.0),
            cpu_stall: stall(before.stalls.0, now.stalls.0),
            memory_stall: stall(before.stalls.1, now.stalls.1),
            free_memory: self.free_memory(),
        })
    }

    /// The free share of the node's memory, or of the rank's where that is less.
    fn free_memory(&self) -> f64 {
        let of_node = read_to_string("/proc/meminfo").ok().and_then(|text| free_memory(&text)).unwrap_or(1.0);
        let of_rank = 1.0 - family_use().own as f64 / self.memory.max(1) as f64;
        of_rank.clamp(0.0, of_node)
    }

    fn read(&self) -> Option<Reading> {
        let stalls = (
            read_to_string("/proc/pressure/cpu").ok().and_then(|text| stalled_us(&text, "some")),
            read_to_string(&self.memory_pressure).ok().and_then(|text| stalled_us(&text, "full")),
        );
        let ticks = ticks(&read_to_string("/proc/stat").ok()?, &self.cpus)?;
        Some(Reading { at: Instant::now(), ticks, stalls })
    }
}

/// The file with the pressure on the memory that this process may use: that of its control group,
/// else that of the node.
fn memory_pressure() -> PathBuf {
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = group.map(|group| PathBuf::from("/sys/fs/cgroup").join(group).join("memory.pressure"));
    own.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/pressure/memory"))
}

/// Microseconds in which tasks stalled since boot, from a file of pressure stall information;
/// `kind` is "some" or "full".
pub(super) fn stalled_us(text: &str, kind: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(kind))?;
    line.split(' ').find_map(|word| word.strip_prefix("total=")?.parse().ok())
}

/// Clock ticks that these CPUs were busy since boot, and all their ticks, from `/proc/stat`.
fn ticks(text: &str, cpus: &[u32]) -> Option<(u64, u64)> {
    let (mut busy, mut all) = (0, 0);
    for line in text.lines().filter_map(|line| line.strip_prefix("cpu")) {
        let mut words = line.split_whitespace();
        // The line of all CPUs has no number.
        let Some(cpu) = words.next().filter(|_| !line.starts_with(' ')).and_then(|word| word.parse::<u32>().ok())
        else {
            continue;
        };
        if !cpus.contains(&cpu) {
            continue;
        }
        // User, nice, system, idle, I/O wait, interrupts, soft interrupts, stolen.
        let counts: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
        let total: u64 = counts.iter().sum();
        busy += total - counts.get(3)? - counts.get(4)?;
        all += total;
    }
    (all > 0).then_some((busy, all))
}

/// The free share of the node's memory, from `/proc/meminfo`.
fn free_memory(text: &str) -> Option<f64> {
    let of =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let (free, all): (f64, f64) = (of("MemAvailable:")?, of("MemTotal:")?);
    Some(free / all.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_kernel_are_read() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 5 80 5 0 0 0 0 0\ncpu1 50 0 0 50 0 0 0 0 0 0\n\
                    cpu10 7 0 0 7 0 0 0 0 0 0\nintr 5\n";
        assert_eq!((ticks(stat, &[0]), ticks(stat, &[0, 1])), (Some((15, 100)), Some((65, 200))));
        assert_eq!((ticks(stat, &[7]), ticks("", &[0])), (None, None));
        let pressure = "some avg10=0.00 avg60=0.10 avg300=0.20 total=1234\nfull avg10=0.00 avg60=0.00 total=56\n";
        assert_eq!((stalled_us(pressure, "some"), stalled_us(pressure, "full")), (Some(1234), Some(56)));
        assert_eq!(stalled_us("", "some"), None);
        assert_eq!(free_memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"), Some(0.25));
    }

    #[test]
    fn a_sample_of_this_machine_has_shares() {
        let mut counters = Counters::new((0..4096).collect(), u64::MAX);
        let Some(sample) = counters.sample(3, None) else { return };
        let shares = [sample.cpu_busy, sample.cpu_stall, sample.memory_stall, sample.free_memory];
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{sample:?}");
        assert_eq!((sample.running, sample.victim), (3, None));
        // It may use much less than the node has.
        assert_eq!(Counters { memory: 1 << 10, ..counters }.free_memory(), 0.0);
    }

    #[test]
    fn the_youngest_command_is_requested_once_and_that_of_an_extra_slot_first() {
        let mut commands = RunningCommands { least: 2, slots: Vec::new() };
        let mut seen = |slots: [Option<u32>; 3]| {
            commands.update(slots.map(|it| it.map(TaskId)).into_iter());
            (commands.victim(), commands.chosen())
        };
        assert_eq!(seen([None, None, None]), (None, None));
        seen([Some(1), Some(2), None]);
        assert_eq!(seen([Some(1), Some(3), None]), (Some(Victim::OfLeast), Some(1)));
        seen([Some(1), Some(3), Some(4)]);
        assert_eq!(seen([Some(5), Some(3), Some(4)]), (Some(Victim::OnExtra), Some(2)));
        assert_eq!(commands.request(), Some(TaskId(4)));
        assert_eq!((commands.request(), commands.victim()), (None, None), "its memory is not free yet");
        commands.update([Some(5), Some(3), None].map(|it| it.map(TaskId)).into_iter());
        assert_eq!(commands.request(), Some(TaskId(5)));
    }

    #[test]
    fn only_items_that_any_slot_may_run_hide_idle_slots() {
        let load = PoolLoad { slots: 4, busy: 2, running: 2, ready: 7, plain: 0 };
        assert_eq!((running(load), running(PoolLoad { plain: 1, ..load })), (2, 4));
    }
}
