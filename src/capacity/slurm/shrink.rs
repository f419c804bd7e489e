//! Giving back single nodes of a job that goes on.
//!
//! The order is always the same: the ranks have left (their results are acknowledged); the step on the node is gone; Slurm is asked to let the job keep the
//! other nodes; Slurm is asked what the job has; then the block has ended. A step that outlives its ranks for long is ended.
//!
//! Slurm may refuse (`disable_job_shrink`), or not be able to for now. Then the node stays the job's and is billed, which is said; it is tried again
//! now and then. Without accounting Slurm shrinks a job only once, so nodes whose worlds go at the same time are given back together.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::blocks::{BlockId, Event};
use super::commands::{JobId, SlurmCommands};
use super::manager::Job;

/// A step that is there so long after its ranks have left is ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Blocks that end within so long are given back together.
const TOGETHER: Duration = Duration::from_secs(2);

/// Something that stands in the way for the moment is tried again after this long ...
const RETRY: Duration = Duration::from_secs(5);

/// ... until so much time has passed; from then on the node is said to be held, and tried less often.
const HOPE: Duration = Duration::from_secs(30);

/// How often it is tried to give back a node that is held.
const SELDOM: Duration = Duration::from_secs(60);

/// A node of a job, with the block that it stands for.
pub(super) struct Seat {
    pub(super) block: BlockId,
    /// Empty while the job waits.
    pub(super) node: String,
    /// The step that this process started there.
    pub(super) step: Option<Child>,
    pub(super) phase: Phase,
}

/// How far a seat is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// Its block is wanted.
    Wanted,
    /// Its block is not wanted any more, and its job waits in the queue.
    Unwanted,
    /// Its block has left since then: the node is to be given back, and this is to be tried then. It has been said if that takes long.
    Leaving { since: Instant, next: Instant, told: bool },
    /// The job has it no more.
    Gone,
}

impl Seat {
    pub(super) fn new(block: BlockId) -> Seat {
        Seat { block, node: String::new(), step: None, phase: Phase::Wanted }
    }

    /// Its ranks have left.
    pub(super) fn leave(&mut self) {
        if matches!(self.phase, Phase::Wanted | Phase::Unwanted) {
            let now = Instant::now();
            self.phase = Phase::Leaving { since: now, next: now + TOGETHER, told: false };
        }
    }

    /// Whatever it does, it shall end.
    pub(super) fn leave_at_once(&mut self) {
        self.leave();
        end(&mut self.step);
    }

    /// True if its node is billed though nobody works there.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Leaving { told: true, .. })
    }

    fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    /// True if it waits for its step to end, or is to be given back now.
    fn is_due(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Leaving { next, .. } if next <= now)
    }

    /// True while its step has a right to be there.
    fn is_patient(&self) -> bool {
        matches!(self.phase, Phase::Leaving { since, .. } if since.elapsed() < PATIENCE)
    }

    /// It could not be given back. True if that is to be said.
    fn refused(&mut self, why: &str) -> bool {
        let Phase::Leaving { since, told, .. } = self.phase else { return false };
        let says = !told && (!is_passing(why) || since.elapsed() > HOPE);
        let wait = if told || says { SELDOM } else { RETRY };
        self.phase = Phase::Leaving { since, next: Instant::now() + wait, told: told || says };
        says
    }
}

/// True for what another attempt may mend soon.
fn is_passing(why: &str) -> bool {
    ["try again", "timed out", "Unable to contact", "temporarily"].iter().any(|sign| why.contains(sign))
}

/// Ends a step. `srun` passes the signal on and goes when the step is gone.
fn end(step: &mut Option<Child>) {
    if let Some(child) = step {
        // One that has ended meanwhile is what is wanted.
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
    }
}

impl Job {
    /// True while nodes of it are to be given back one by one. A job that the run gained and wants no node of ends by itself.
    pub(super) fn gives_back(&self) -> bool {
        self.shrinks() && self.leaving().next().is_some()
    }

    fn shrinks(&self) -> bool {
        self.own || self.seats.iter().any(|seat| matches!(seat.phase, Phase::Wanted))
    }

    /// The seats to be given back; that of a gained job's batch script goes last, with the job.
    fn leaving(&self) -> impl Iterator<Item = &Seat> {
        let anchor = usize::from(!self.own);
        self.seats.iter().skip(anchor).filter(|seat| seat.is_leaving())
    }

    /// Takes note of steps that have ended. One that ended by itself has left its node.
    pub(super) fn reap(&mut self) -> Vec<(BlockId, Event)> {
        let mut left = Vec::new();
        for seat in &mut self.seats {
            if seat.step.as_mut().is_some_and(|step| !matches!(step.try_wait(), Ok(None))) {
                seat.step = None;
                if matches!(seat.phase, Phase::Wanted) {
                    left.push((seat.block, Event::Left));
                }
            }
        }
        left
    }

    /// Ends all steps that this process started, and waits for them.
    pub(super) fn end_steps(&mut self) {
        self.seats.iter_mut().for_each(|seat| end(&mut seat.step));
        let until = Instant::now() + PATIENCE;
        while self.seats.iter().any(|seat| seat.step.is_some()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            self.reap();
        }
        for step in self.seats.iter_mut().filter_map(|seat| seat.step.as_mut()) {
            // One that has ended meanwhile is what is wanted.
            let _ = step.kill();
            let _ = step.wait();
        }
    }

    /// Gives back what can be given back now; says what came of it.
    pub(super) fn shrink(&mut self, slurm: &SlurmCommands, dir: &Path) -> Vec<(BlockId, Event)> {
        let now = Instant::now();
        if !self.shrinks() || !self.leaving().any(|seat| seat.is_due(now)) {
            return Vec::new();
        }
        let busy = match self.busy_nodes(slurm) {
            Ok(busy) => busy,
            Err(why) => return self.refused(&why),
        };
        if self.leaving().any(|seat| seat.is_patient() && busy.contains(&seat.node)) {
            return Vec::new();
        }
        for seat in self.seats.iter_mut().filter(|seat| seat.is_leaving()) {
            end(&mut seat.step);
        }
        let leaving: Vec<String> = self.leaving().map(|seat| seat.node.clone()).collect();
        match release(slurm, &self.id, &leaving, dir) {
            Ok(kept) => self.gave_back(&leaving, &kept),
            Err(why) => self.refused(&why),
        }
    }

    /// Nodes on which steps of it run.
    fn busy_nodes(&self, slurm: &SlurmCommands) -> Result<Vec<String>, String> {
        if !self.own {
            return slurm.nodes_with_steps(&self.id);
        }
        Ok(self.seats.iter().filter(|seat| seat.step.is_some()).map(|seat| seat.node.clone()).collect())
    }

    fn gave_back(&mut self, asked: &[String], kept: &[String]) -> Vec<(BlockId, Event)> {
        let mut news = Vec::new();
        let leaving = |seat: &&mut Seat| seat.is_leaving() && asked.contains(&seat.node) && !kept.contains(&seat.node);
        for seat in self.seats.iter_mut().filter(leaving) {
            seat.phase = Phase::Gone;
            news.push((seat.block, Event::Ended { why: "its node is given back".into(), at: None }));
        }
        news.extend(self.refused("Slurm agreed, but the job still has the node"));
        news
    }

    fn refused(&mut self, why: &str) -> Vec<(BlockId, Event)> {
        let anchor = usize::from(!self.own);
        let held = self.seats.iter_mut().skip(anchor).filter(|seat| seat.is_leaving());
        held.filter_map(|seat| seat.refused(why).then(|| (seat.block, Event::Kept(why.to_owned())))).collect()
    }
}

/// Lets a job keep all nodes but these; what it has then.
fn release(slurm: &SlurmCommands, job: &JobId, nodes: &[String], dir: &Path) -> Result<Vec<String>, String> {
    let holds = || slurm.job(job)?.map(|job| job.nodes).ok_or("the job is not in the queue".to_owned());
    let mut kept = holds()?;
    let before = kept.len();
    kept.retain(|node| !nodes.contains(node));
    if kept.len() < before {
        slurm.keep_nodes(job, &kept, dir)?;
    }
    holds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_before_it_is_said() {
        let mut seat = Seat::new(BlockId(1));
        assert!(!seat.refused("no"), "it is wanted");
        seat.leave();
        assert!(!seat.refused("Job update not available right now, try again in a bit"));
        assert!(!seat.is_held());
        assert!(seat.refused("Requested operation not supported on this system"));
        assert!(seat.is_held() && !seat.refused("no"), "said once");
    }

    #[test]
    fn a_job_that_was_gained_gives_back_its_first_node_last() {
        let mut seats: Vec<Seat> = (1..=3).map(|id| Seat::new(BlockId(id))).collect();
        seats[0].leave();
        let mut job = Job::of_seats("7", false, seats);
        assert!(!job.gives_back());
        job.seats[2].leave();
        assert!(job.gives_back());
        job.seats[1].leave();
        assert!(!job.gives_back(), "it ends by itself");
    }
}
