//! A thread of each rank that samples what the rank with its tasks, and their node, use.
//!
//! It is a thread of its own because a sample reads a few files for each process, and the engine
//! must not wait for that. It samples once a second in small runs and less often in large ones, so
//! that rank 0 receives a few messages a second for each hundred ranks.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::slot_breather::stalled_us;
use super::telemetry::TelemetryBuffer;
use crate::exec::family_use;
use crate::model::Vitals;
use crate::topology::{Device, GpuProbe};

/// Time between two samples, times the number of ranks; at least [`MIN_INTERVAL`].
const INTERVAL_PER_RANK: Duration = Duration::from_millis(10);
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before the first sample: it reads for two milliseconds, in which a slot runs thousands of
/// short tasks.
const FIRST_SAMPLE_DELAY: Duration = Duration::from_millis(100);

/// In runs longer than this the interval grows by [`LONG_RUN_FACTOR`].
const LONG_RUN: Duration = Duration::from_secs(3600);
const LONG_RUN_FACTOR: u32 = 10;

/// Samples until it is dropped.
pub(super) struct ResourceMonitor {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ResourceMonitor {
    /// Starts the thread. If the system refuses one, only these samples are missing.
    pub(super) fn start(telemetry: Arc<TelemetryBuffer>, ranks: u32, gpus: Vec<Device>) -> ResourceMonitor {
        let (stop, stopped) = channel();
        let interval = (INTERVAL_PER_RANK * ranks).max(MIN_INTERVAL);
        let sample = move || {
            // The rank's first tasks start now, perhaps on the only CPU that this thread has.
            if stopped.recv_timeout(FIRST_SAMPLE_DELAY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let (began, mut sampler) = (Instant::now(), Sampler::new(gpus));
            let mut pause = interval - FIRST_SAMPLE_DELAY;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                telemetry.set_vitals(sampler.sample());
                pause = if began.elapsed() < LONG_RUN { interval } else { interval * LONG_RUN_FACTOR };
            }
        };
        let thread = std::thread::Builder::new().name("vitals".into()).spawn(sample);
        let thread = thread.inspect_err(|error| tracing::warn!("what this rank uses is not measured: {error}")).ok();
        ResourceMonitor { stop: Some(stop), thread }
    }
}

impl Drop for ResourceMonitor {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that measures what this rank uses has panicked");
        }
    }
}

/// Takes samples, some of which are differences to the sample before.
struct Sampler {
    system: Option<System>,
    before: Option<(Instant, Stall)>,
    /// The rank's GPUs, and the library that reads them.
    gpus: Vec<Device>,
    probe: Option<GpuProbe>,
}

/// How long the node's tasks have waited for I/O since boot, as the kernel reports it.
#[derive(Clone, Copy)]
enum Stall {
    /// Microseconds in which at least one task waited (pressure stall information).
    Pressure(u64),
    /// Clock ticks that CPUs were idle because of it, and all ticks.
    Idle(u64, u64),
}

impl Sampler {
    fn new(gpus: Vec<Device>) -> Sampler {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let probe = (!gpus.is_empty()).then(GpuProbe::new);
        Sampler { system: System::new_with_specifics(kinds).ok(), before: None, gpus, probe }
    }

    fn sample(&mut self) -> Vitals {
        let mut vitals = Vitals::default();
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            vitals.node_cpu = f64::from(system.global_cpu_usage()) / 100.0;
            vitals.node_memory_used = system.used_memory();
            vitals.node_memory = system.total_memory();
        }
        vitals.io_stall = self.stall();
        self.sample_gpus(&mut vitals);
        let family = family_use();
        (vitals.cpu_s, vitals.memory) = (family.cpu_s, family.resident);
        (vitals.read, vitals.written) = (family.read, family.written);
        vitals
    }

    fn sample_gpus(&self, vitals: &mut Vitals) {
        let Some(probe) = &self.probe else { return };
        let usages = self.gpus.iter().filter_map(|gpu| Some((gpu, probe.usage(gpu)?)));
        let (mut busy, mut count) = (0.0, 0u32);
        for (gpu, usage) in usages {
            (busy, count) = (busy + usage.busy, count + 1);
            vitals.gpu_memory += gpu.memory;
            vitals.gpu_memory_used += usage.memory_used;
        }
        vitals.gpu_busy = busy / f64::from(count.max(1));
    }

    /// The share of the time since the last sample in which tasks of the node waited for I/O.
    fn stall(&mut self) -> f64 {
        let Some(stall) = stall_now() else { return 0.0 };
        let now = Instant::now();
        let share = match (self.before.replace((now, stall)), stall) {
            (Some((then, Stall::Pressure(before))), Stall::Pressure(after)) => {
                after.saturating_sub(before) as f64 / now.duration_since(then).as_micros().max(1) as f64
            }
            (Some((_, Stall::Idle(before, all))), Stall::Idle(after, now)) => {
                after.saturating_sub(before) as f64 / now.saturating_sub(all).max(1) as f64
            }
            _ => 0.0,
        };
        share.min(1.0)
    }
}

fn stall_now() -> Option<Stall> {
    let pressure = || {
        let text = std::fs::read_to_string("/proc/pressure/io").ok()?;
        stalled_us(&text, "some").map(Stall::Pressure)
    };
    let idle = || {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> =
            text.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        Some(Stall::Idle(*ticks.get(4)?, ticks.iter().take(8).sum()))
    };
    pressure().or_else(idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_covers_this_process_and_its_node() {
        let mut sampler = Sampler::new(Vec::new());
        sampler.sample();
        let vitals = sampler.sample();
        assert!(vitals.memory > 1 << 20 && vitals.node_memory > vitals.memory, "{vitals:?}");
        assert!(vitals.node_memory_used <= vitals.node_memory);
        assert!((0.0..=1.0).contains(&vitals.io_stall) && (0.0..=1.01).contains(&vitals.node_cpu), "{vitals:?}");
    }

    #[test]
    fn a_monitor_ends_when_it_is_dropped() {
        let telemetry = Arc::new(TelemetryBuffer::default());
        drop(ResourceMonitor::start(Arc::clone(&telemetry), 1, Vec::new()));
        assert_eq!(Arc::strong_count(&telemetry), 1);
    }
}
