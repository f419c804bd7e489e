//! The main thread of a rank: what slots that are busy, or sleep, cannot see to.

use std::sync::Arc;
use std::time::Duration;

use super::executor::{Executor, lock};

/// Shortest and longest time between two looks at the network while no bell tells of frames and nothing comes. The longest costs a
/// sleeping rank well under one percent of a core.
const LOOK: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(10)];

/// Slots that have looked around themselves so shortly ago will do so again, and hear of a frame sooner than a thread that has to be woken.
const WATCHED: Duration = Duration::from_millis(2);

/// The main thread looks around at least this often even if nobody calls it.
const DOZE: Duration = Duration::from_secs(1);

/// The main thread's work while the run goes on: what slots that are busy, or sleep, cannot see to.
pub(in crate::runtime) fn main_loop(crew: &Arc<Executor>) {
    let (mut look, mut looks, mut looked) = (LOOK[0], 0, crew.clock.now());
    let bell = lock(&crew.engine).fabric().bell();
    loop {
        let mut engine = lock(&crew.engine);
        crew.wake.clear();
        crew.answer();
        if std::mem::replace(&mut looks, engine.looks()) != looks {
            looked = crew.clock.now();
        }
        let watched = crew.clock.now().since(looked) < WATCHED;
        if !watched {
            engine.fabric().doze();
        }
        let moved = engine.turn(crew);
        while let Some(signal) = crew.wake.next_signal() {
            engine.signal(crew, signal);
        }
        if engine.is_over() {
            return;
        }
        look = match () {
            () if engine.fabric().is_moving() => LOOK[0],
            () if watched => WATCHED,
            () if engine.fabric().bell_is_enough() => LOOK[1],
            () if moved => LOOK[0],
            () => (look * 2).min(LOOK[1]),
        };
        let limit = if engine.is_alone() && !engine.is_stopping() { DOZE } else { look };
        let now = crew.clock.now();
        let limit = engine.next_tick().map_or(limit, |due| limit.min(due.since(now)));
        engine.pilot_sleeps(now.after(limit));
        let has_more = engine.has_more();
        drop(engine);
        if !crew.is_called() && !has_more {
            crew.wake.wait(bell.as_ref(), limit);
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// Frames that have all come once a task has begun, and of which nothing tells.
    struct Flood {
        began: AtomicBool,
        left: AtomicU64,
        /// How often the main thread had waited at the first frame, and at the last.
        waits: [AtomicU64; 2],
        wake: Arc<EventWait>,
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
            edge.into_iter().for_each(|edge| self.0.waits[edge].store(self.0.wake.wait_count(), SeqCst));
            self.0.left.store(left - 1, SeqCst);
            // It means nothing from a rank that does not take part.
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
        std::fs::write(&job, "[[task]]\nname = \"t\"\nkernel = \"until_heard\"\n").unwrap();
        let wake = listen().unwrap();
        let flood = Arc::new(Flood {
            began: AtomicBool::new(false),
            left: AtomicU64::new(FRAMES),
            waits: Default::default(),
            wake: Arc::clone(&wake),
        });
        let mut kernels = Kernels::builtin();
        let shared = Arc::clone(&flood);
        kernels.register("until_heard", move |_: &toml::Table| -> Result<Prepared, crate::exec::ArgError> {
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
        let finished = run_on(&mut fabric, &options, kernels, wake, |_| {}).unwrap();
        let [first, last] = [0, 1].map(|edge| flood.waits[edge].load(SeqCst));
        assert_eq!((finished.exit_code, flood.left.load(SeqCst), last - first), (0, 0, 0));
    }
}
