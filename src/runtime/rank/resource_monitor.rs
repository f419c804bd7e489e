//! A thread of each rank that looks now and then what the rank with its tasks, and their node, use.
//!
//! It is a thread of its own because a look reads a few files for each process, and the engine must not wait for that. It looks once a second
//! in small runs and more seldom in large ones, so that what comes to rank 0 stays a few messages a second for each hundred ranks.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::telemetry::TelemetryBuffer;
use crate::exec::family_use;
use crate::model::Vitals;
use crate::topology::{Device, Probe};

/// Time between two looks, for each rank of the run; at least a second.
const FOR_EACH_RANK: Duration = Duration::from_millis(10);
/// The first look waits this long: it reads for two milliseconds, in which a slot runs thousands of
/// short tasks.
const HEAD_START: Duration = Duration::from_millis(100);
/// After the first hour looks are as much rarer.
const LATER: u32 = 10;

/// Looks until it is dropped.
pub(in crate::runtime) struct ResourceMonitor {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ResourceMonitor {
    /// Begins to look. Without it the rank's use is not known, and nothing else is missing.
    pub(in crate::runtime) fn begin(mailbox: Arc<TelemetryBuffer>, ranks: u32, gpus: Vec<Device>) -> ResourceMonitor {
        let (stop, stopped) = channel();
        let every = (FOR_EACH_RANK * ranks).max(Duration::from_secs(1));
        let look = move || {
            // The rank's first tasks start now, often on the one CPU that this thread has, too.
            if stopped.recv_timeout(HEAD_START) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let (began, mut look) = (Instant::now(), Look::new(gpus));
            let mut pause = every - HEAD_START;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                mailbox.vitals(look.take());
                pause = if began.elapsed() < Duration::from_secs(3600) { every } else { every * LATER };
            }
        };
        let thread = std::thread::Builder::new().name("vitals".into()).spawn(look);
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

/// What a look compares itself with.
struct Look {
    system: Option<System>,
    before: Option<(Instant, Stall)>,
    /// The rank's GPUs, and who asks them.
    gpus: Vec<Device>,
    probe: Option<Probe>,
}

/// How long the node's tasks had waited for I/O, as far as the kernel tells.
#[derive(Clone, Copy)]
enum Stall {
    /// Microseconds in which at least one task did (pressure stall information).
    Pressure(u64),
    /// Ticks that CPUs were idle because of it, and all ticks.
    Idle(u64, u64),
}

impl Look {
    fn new(gpus: Vec<Device>) -> Look {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let probe = (!gpus.is_empty()).then(Probe::new);
        Look { system: System::new_with_specifics(kinds).ok(), before: None, gpus, probe }
    }

    fn take(&mut self) -> Vitals {
        let mut vitals = Vitals::default();
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            vitals.node_cpu = f64::from(system.global_cpu_usage()) / 100.0;
            vitals.node_memory_used = system.used_memory();
            vitals.node_memory = system.total_memory();
        }
        vitals.io_stall = self.stall();
        self.look_at_gpus(&mut vitals);
        let family = family_use();
        (vitals.cpu_s, vitals.memory) = (family.cpu_s, family.resident);
        (vitals.read, vitals.written) = (family.read, family.written);
        vitals
    }

    fn look_at_gpus(&self, vitals: &mut Vitals) {
        let Some(probe) = &self.probe else { return };
        let told = self.gpus.iter().filter_map(|gpu| Some((gpu, probe.usage(gpu)?)));
        let (mut busy, mut count) = (0.0, 0u32);
        for (gpu, usage) in told {
            (busy, count) = (busy + usage.busy, count + 1);
            vitals.gpu_memory += gpu.memory;
            vitals.gpu_memory_used += usage.memory_used;
        }
        vitals.gpu_busy = busy / f64::from(count.max(1));
    }

    /// The share of the time since the last look in which tasks of the node waited for I/O.
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
        let some = text.lines().find(|line| line.starts_with("some "))?;
        some.split(' ').find_map(|word| word.strip_prefix("total=")?.parse().ok()).map(Stall::Pressure)
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
    fn a_look_sees_this_process_and_its_node() {
        let mut look = Look::new(Vec::new());
        look.take();
        let vitals = look.take();
        assert!(vitals.memory > 1 << 20 && vitals.node_memory > vitals.memory, "{vitals:?}");
        assert!(vitals.node_memory_used <= vitals.node_memory);
        assert!((0.0..=1.0).contains(&vitals.io_stall) && (0.0..=1.01).contains(&vitals.node_cpu), "{vitals:?}");
    }

    #[test]
    fn a_gauge_can_be_ended() {
        let mailbox = Arc::new(TelemetryBuffer::default());
        drop(ResourceMonitor::begin(Arc::clone(&mailbox), 1, Vec::new()));
        assert_eq!(Arc::strong_count(&mailbox), 1);
    }
}
