//! The main thread of a rank: timers, signals, and frames while all slots are busy or asleep.

use std::time::Duration;

use super::executor::Executor;

/// Shortest and longest time between two polls of the network while nothing announces frames and
/// none arrive. The longest costs a sleeping rank well under one percent of a core.
const MIN_POLL_INTERVAL: Duration = Duration::from_micros(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// While a slot has driven the engine this recently, slots will do so again, and receive a frame
/// sooner than a thread that has to be woken.
const SLOT_POLL_GRACE: Duration = Duration::from_millis(2);

/// Longest sleep of the main thread of a rank without other ranks in its world.
const MAX_IDLE_WAIT: Duration = Duration::from_secs(1);

/// Runs until the rank may leave. Never sleeps while a frame waits: nothing announces again what a
/// poll has left behind.
pub(in crate::runtime) fn main_loop(executor: &Executor) {
    let Executor { shared, engine: engine_lock } = executor;
    let (mut interval, mut drives, mut driven) = (MIN_POLL_INTERVAL, 0, shared.clock.now());
    let bell = engine_lock.lock().fabric().bell();
    loop {
        let mut engine = engine_lock.lock();
        shared.event_wait.clear();
        engine_lock.clear_requests();
        if std::mem::replace(&mut drives, engine.slot_drives()) != drives {
            driven = shared.clock.now();
        }
        let slots_poll = shared.clock.now().since(driven) < SLOT_POLL_GRACE;
        if !slots_poll {
            engine.fabric().doze();
        }
        let moved = engine.poll();
        while let Some(signal) = shared.event_wait.next_signal() {
            engine.handle_signal(signal);
        }
        if engine.is_over() {
            return;
        }
        let is_moving = engine.is_exchanging() || engine.fabric().is_moving();
        interval = match () {
            () if is_moving => MIN_POLL_INTERVAL,
            () if slots_poll => SLOT_POLL_GRACE,
            () if engine.fabric().bell_is_enough() => MAX_POLL_INTERVAL,
            () if moved => MIN_POLL_INTERVAL,
            () => (interval * 2).min(MAX_POLL_INTERVAL),
        };
        let is_idle = engine.is_alone() && !engine.is_stopping() && !is_moving;
        let limit = if is_idle { MAX_IDLE_WAIT } else { interval };
        let now = shared.clock.now();
        let limit = engine.next_tick().map_or(limit, |due| limit.min(due.since(now)));
        engine.main_thread_sleeps(now.after(limit));
        let has_more = engine.has_more();
        drop(engine);
        if !engine_lock.is_requested() && !has_more {
            shared.event_wait.wait(bell.as_ref(), limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use super::*;
    use crate::exec::{Kernels, Prepared};
    use crate::fabric::{Fabric, FabricError, wire};
    use crate::model::Rank;
    use crate::observe::progress::Mode;
    use crate::runtime::event_wait::EventWait;
    use crate::runtime::{Options, listen, run_on};
    use crate::schedule::protocol::Message;

    const FRAMES: u64 = 10_000;

    /// Frames that have all arrived once a task has begun, and that nothing announces.
    struct Flood {
        began: AtomicBool,
        left: AtomicU64,
        /// How often the main thread had waited at the first frame, and at the last.
        waits: [AtomicU64; 2],
        event_wait: Arc<EventWait>,
    }

    struct Flooded(Arc<Flood>);

    impl Fabric for Flooded {
        fn me(&self) -> Rank {
            Rank::ZERO
        }

        fn size(&self) -> u32 {
            1
        }

        fn send(&mut self, to: Rank, _: &mut Vec<u8>) -> Result<(), FabricError> {
            Err(FabricError::NoSuchRank(to))
        }

        fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
            let left = self.0.left.load(SeqCst);
            if !self.0.began.load(SeqCst) || left == 0 {
                return Ok(None);
            }
            let edge = [FRAMES, 1].into_iter().position(|at| at == left);
            edge.into_iter().for_each(|edge| self.0.waits[edge].store(self.0.event_wait.wait_count(), SeqCst));
            self.0.left.store(left - 1, SeqCst);
            // Ignored, as it comes from a rank that takes no part in the run.
            wire::encode(&Message::Steal { epoch: 0, want: 0 }, frame).expect("is small");
            Ok(Some(Rank(1)))
        }

        fn drained(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn the_main_thread_does_not_sleep_while_frames_wait() {
        let dir = tempfile::tempdir().unwrap();
        let job = dir.path().join("job.toml");
        std::fs::write(&job, "[[task]]\nname = \"t\"\nkernel = \"until_received\"\n").unwrap();
        let event_wait = listen().unwrap();
        let flood = Arc::new(Flood {
            began: AtomicBool::new(false),
            left: AtomicU64::new(FRAMES),
            waits: Default::default(),
            event_wait: Arc::clone(&event_wait),
        });
        let mut kernels = Kernels::builtin();
        let shared = Arc::clone(&flood);
        kernels.register("until_received", move |_: &toml::Table| -> Result<Prepared, crate::exec::ArgError> {
            let flood = Arc::clone(&shared);
            Ok(Arc::new(move |context| {
                flood.began.store(true, SeqCst);
                while flood.left.load(SeqCst) > 0 && context.sleep(Duration::from_millis(1)) {}
                Ok(())
            }))
        });
        let run_dir = Some(dir.path().join("run"));
        let options = Options { run_dir, slots: Some(1), progress: Mode::Quiet, ..Options::new(job) };
        let mut fabric: Box<dyn Fabric> = Box::new(Flooded(Arc::clone(&flood)));
        let finished = run_on(&mut fabric, &options, kernels, event_wait, |_| {}).unwrap();
        let [first, last] = [0, 1].map(|edge| flood.waits[edge].load(SeqCst));
        assert_eq!((finished.exit_code, flood.left.load(SeqCst), last - first), (0, 0, 0));
    }
}
