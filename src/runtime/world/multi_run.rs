//! Several runs one after the other on the same ranks, for programs that run more than one job.
//!
//! A process can join and leave MPI only once, so a program with several runs keeps the world.
//! Between two runs the ranks may exchange messages of their own. A run and the messages after it
//! are a round of the fabric, so no frame of one run is taken for part of the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::handshake::{HANDSHAKE_TIMEOUT, POLL_INTERVAL, numbers, settle};
use crate::data::exchange::{Exchange, Stopped};
use crate::exec::Kernels;
use crate::fabric::Fabric;
use crate::fabric::local::LocalFabric;
use crate::fabric::rounds::Rounds;
use crate::model::Rank;
use crate::runtime::event_wait::EventWait;
use crate::runtime::{Finished, MAX_CLOSE_WAIT, Options, RunError, join, listen, run_on};

/// Number of polls before a rank that waits for a round yields its core, and before it sleeps.
const POLLS_BEFORE_YIELD: u32 = 200;
const POLLS_BEFORE_SLEEP: u32 = 20_000;

/// The ranks that a launcher started together, or this process alone, joined once for any number of
/// runs.
pub struct World {
    fabric: Box<dyn Fabric>,
    wake: Arc<EventWait>,
    /// By sender: frames for rounds of a graph operation that this rank has not reached.
    early: Vec<VecDeque<Vec<u8>>>,
}

impl World {
    /// Joins the world that this process was started in. Call it before any other thread starts.
    ///
    /// # Errors
    /// If MPI cannot be used.
    pub fn join() -> Result<World, RunError> {
        let (wake, fabric) = join()?;
        Ok(World { fabric: Box::new(Rounds::new(fabric)), wake, early: Vec::new() })
    }

    /// One rank of a world whose ranks are threads of this process; for tests without MPI.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub fn in_thread(fabric: LocalFabric) -> Result<World, RunError> {
        Ok(World { fabric: Box::new(Rounds::new(Box::new(fabric))), wake: listen()?, early: Vec::new() })
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.fabric.me()
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.fabric.size()
    }

    /// Runs a job. Every rank calls it, with the same kernels; the options are those of rank 0.
    ///
    /// # Errors
    /// As [`run`](crate::runtime::run). The world can be used further unless ranks are missing.
    pub fn run(&mut self, options: &Options, kernels: Kernels) -> Result<Finished, RunError> {
        let result = run_on(&mut self.fabric, options, kernels, Arc::clone(&self.wake), |_| {});
        self.fabric.end_round(HANDSHAKE_TIMEOUT)?;
        result
    }

    /// Sends a message of the caller's own to another rank. Call it between runs; the message must
    /// not be empty.
    ///
    /// # Errors
    /// If there is no such rank.
    pub fn tell(&mut self, to: Rank, mut words: Vec<u8>) -> Result<(), RunError> {
        Ok(self.fabric.send(to, &mut words)?)
    }

    /// Waits for a message of another rank; returns the sender and the message. Rank 0 returns an
    /// error after a signal, a timeout of minutes or the loss of a rank; the other ranks wait
    /// without a limit, unless rank 0 is lost.
    ///
    /// A rank that begins the next run sends frames of it at once. So a rank that waits for
    /// messages of several others must keep them from running until it has received all.
    ///
    /// # Errors
    /// If the wait of rank 0 ends without a message, or no message can arrive any more.
    pub fn hear(&mut self) -> Result<(Rank, Vec<u8>), RunError> {
        let (leads, end) = (self.rank() == Rank::ZERO, Instant::now() + HANDSHAKE_TIMEOUT);
        loop {
            let mut words = Vec::new();
            if let Some(from) = self.fabric.receive(&mut words)? {
                return Ok((from, words));
            }
            let lost = self.fabric.lost();
            if lost.contains(&Rank::ZERO) {
                return Err(RunError::Orphaned);
            }
            if leads && !lost.is_empty() {
                return Err(RunError::Lost { ranks: numbers(&lost) });
            }
            match self.wake.next_signal() {
                Some(signal) if leads && signal != libc::SIGUSR1 => return Err(RunError::Interrupted(signal)),
                _ if leads && Instant::now() > end => {
                    return Err(RunError::Missing {
                        ranks: (1..self.size()).collect(),
                        seconds: HANDSHAKE_TIMEOUT.as_secs(),
                    });
                }
                _ => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }
}

/// Between runs, the ranks of a world can share data graphs.
impl Exchange for World {
    fn place(&self) -> usize {
        self.rank().index()
    }

    fn ranks(&self) -> usize {
        self.size() as usize
    }

    fn swap(&mut self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Stopped> {
        let lost = |error: crate::fabric::FabricError| Stopped::Lost(error.to_string());
        let me = self.place();
        let mut incoming: Vec<Option<Vec<u8>>> = vec![None; outgoing.len()];
        self.early.resize_with(outgoing.len(), VecDeque::new);
        for (to, mut bytes) in outgoing.into_iter().enumerate() {
            if to == me {
                incoming[me] = Some(bytes);
                continue;
            }
            // A frame must not be empty.
            bytes.push(0);
            self.fabric.send(Rank(to as u32), &mut bytes).map_err(lost)?;
        }
        for (from, early) in self.early.iter_mut().enumerate().filter(|&(from, _)| from != me) {
            incoming[from] = early.pop_front();
        }
        let mut looks = 0u32;
        while incoming.iter().any(Option::is_none) {
            let mut frame = Vec::new();
            match self.fabric.receive(&mut frame).map_err(lost)? {
                Some(from) => {
                    frame.pop();
                    match &mut incoming[from.index()] {
                        place @ None => *place = Some(frame),
                        Some(_) => self.early[from.index()].push_back(frame),
                    }
                    looks = 0;
                }
                None => {
                    let lost = self.fabric.lost().into_iter().find(|rank| incoming[rank.index()].is_none());
                    if let Some(rank) = lost {
                        return Err(Stopped::Lost(format!("{rank} is lost, which holds a part of the graph")));
                    }
                    looks += 1;
                    // Other ranks may need this core.
                    match looks {
                        0..POLLS_BEFORE_YIELD => std::hint::spin_loop(),
                        POLLS_BEFORE_YIELD..POLLS_BEFORE_SLEEP => std::thread::yield_now(),
                        _ => std::thread::sleep(POLL_INTERVAL),
                    }
                }
            }
        }
        self.fabric.drained();
        Ok(incoming.into_iter().flatten().collect())
    }

    fn check(&mut self) -> Result<(), Stopped> {
        Ok(())
    }
}

impl Drop for World {
    /// The last frames must leave before MPI is finalized.
    fn drop(&mut self) {
        settle(self.fabric.as_mut(), MAX_CLOSE_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::local;
    use crate::fabric::rounds::tests::Lossy;
    use crate::observe::progress::Mode;

    /// One rank: three runs, and messages between them.
    fn rank(end: LocalFabric, dir: &std::path::Path) -> Vec<i32> {
        let mut world = World::in_thread(end).unwrap();
        let (me, size) = (world.rank(), world.size());
        let run = |(round, job)| {
            let run_dir = Some(dir.join(format!("run-{round}")));
            let options = Options { run_dir, slots: Some(1), progress: Mode::Quiet, ..Options::new(dir.join(job)) };
            let code = match world.run(&options, Kernels::builtin()) {
                Ok(finished) => finished.exit_code,
                Err(error) => error.exit_code(),
            };
            if me == Rank::ZERO {
                (1..size).for_each(|rank| world.tell(Rank(rank), vec![round]).unwrap());
                let mut from: Vec<u32> = (1..size).map(|_| world.hear().unwrap().0.0).collect();
                from.sort_unstable();
                assert_eq!(from, [1, 2]);
                // A rank starts the next run once rank 0 has received all messages.
                (1..size).for_each(|rank| world.tell(Rank(rank), vec![round]).unwrap());
            } else {
                assert_eq!(world.hear().unwrap(), (Rank::ZERO, vec![round]));
                world.tell(Rank::ZERO, vec![round]).unwrap();
                assert_eq!(world.hear().unwrap(), (Rank::ZERO, vec![round]));
            }
            code
        };
        [(1, "good.toml"), (2, "bad.toml"), (3, "good.toml")].into_iter().map(run).collect()
    }

    #[test]
    fn a_world_serves_several_runs_also_after_one_that_could_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let job = "[[task]]\nname = \"t\"\npattern = \"fft\"\nwidth = 8\nsteps = 20\nkernel = \"noop\"\n";
        std::fs::write(dir.path().join("good.toml"), job).unwrap();
        std::fs::write(dir.path().join("bad.toml"), "").unwrap();
        let codes: Vec<Vec<i32>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = local::world(3).into_iter().map(|end| scope.spawn(|| rank(end, dir.path()))).collect();
            ranks.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Rank 0 returns the reason; the others only received that there is no run.
        assert_eq!(codes, [[0, 2, 0], [0, 0, 0], [0, 0, 0]]);
    }

    #[test]
    fn no_message_of_a_lost_rank_is_waited_for() {
        let mut ends = local::world(3);
        let _lost = ends.pop();
        let worlds =
            ends.into_iter().map(|end| World { fabric: Box::new(Lossy(end)), wake: listen().unwrap(), early: vec![] });
        let mut worlds: Vec<World> = worlds.collect();
        let heard = worlds[0].hear();
        assert!(matches!(&heard, Err(RunError::Lost { ranks }) if *ranks == [2]), "{heard:?}");
        for world in &mut worlds {
            let swapped = world.swap(vec![Vec::new(); 3]);
            assert!(matches!(&swapped, Err(Stopped::Lost(text)) if text.starts_with("rank 2 ")), "{swapped:?}");
        }
    }
}
