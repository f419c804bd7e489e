//! Releases single nodes of a job that continues to run.
//!
//! The order is fixed: the ranks leave (their results are acknowledged); the step on the node
//! exits, or is terminated after a timeout; Slurm shrinks the job to the other nodes; Slurm
//! confirms which nodes the job has; the block ends.
//!
//! Slurm may refuse (`disable_job_shrink`) or fail for the moment. The job then keeps the node and
//! the bill continues, which is reported once; the release is retried at intervals. Without
//! accounting Slurm shrinks a job only once, so nodes whose worlds leave together are released
//! together.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::blocks::{BlockEvent, BlockId};
use super::commands::{JobId, SlurmCommands};
use super::manager::SlurmJob;

/// A step that still runs this long after its ranks left is terminated.
const STEP_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Blocks that leave within this time are released with one request.
const RELEASE_BATCH_DELAY: Duration = Duration::from_secs(2);

/// Retry interval after a refusal, until the node counts as held.
const RELEASE_RETRY: Duration = Duration::from_secs(5);

/// After this time of transient refusals the node is reported as held and retried less often.
const MAX_TRANSIENT_TIME: Duration = Duration::from_secs(30);

/// Retry interval for a node that is held.
const HELD_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A node of a job, and the block that it carries.
pub(super) struct JobNode {
    pub(super) block: BlockId,
    /// Empty while the job waits in the queue.
    pub(super) name: String,
    /// The step that this process started on the node.
    pub(super) step: Option<Child>,
    pub(super) phase: NodePhase,
}

/// State of a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum NodePhase {
    /// Its block is wanted.
    Wanted,
    /// Its block was withdrawn while the job waits in the queue.
    Unwanted,
    /// The node is to be released: since when, the next attempt, and whether it was reported as
    /// held.
    Leaving { since: Instant, next: Instant, reported: bool },
    /// The job no longer has the node.
    Gone,
}

impl JobNode {
    pub(super) fn new(block: BlockId) -> JobNode {
        JobNode { block, name: String::new(), step: None, phase: NodePhase::Wanted }
    }

    /// The ranks have left: schedules the release.
    pub(super) fn leave(&mut self) {
        if matches!(self.phase, NodePhase::Wanted | NodePhase::Unwanted) {
            let now = Instant::now();
            self.phase = NodePhase::Leaving { since: now, next: now + RELEASE_BATCH_DELAY, reported: false };
        }
    }

    /// Terminates the step and schedules the release.
    pub(super) fn end_now(&mut self) {
        self.leave();
        end(&mut self.step);
    }

    /// True if the node is billed although no rank runs on it.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase, NodePhase::Leaving { reported: true, .. })
    }

    fn is_leaving(&self) -> bool {
        matches!(self.phase, NodePhase::Leaving { .. })
    }

    /// True if a release should be attempted now.
    fn is_due(&self, now: Instant) -> bool {
        matches!(self.phase, NodePhase::Leaving { next, .. } if next <= now)
    }

    /// True while the step has time left to exit by itself.
    fn may_still_exit(&self) -> bool {
        matches!(self.phase, NodePhase::Leaving { since, .. } if since.elapsed() < STEP_EXIT_TIMEOUT)
    }

    /// Schedules the next attempt after a refusal. True if the refusal is to be reported.
    fn on_refusal(&mut self, why: &str) -> bool {
        let NodePhase::Leaving { since, reported, .. } = self.phase else { return false };
        let report = !reported && (!is_transient(why) || since.elapsed() > MAX_TRANSIENT_TIME);
        let wait = if reported || report { HELD_RETRY_INTERVAL } else { RELEASE_RETRY };
        self.phase = NodePhase::Leaving { since, next: Instant::now() + wait, reported: reported || report };
        report
    }
}

/// True for a refusal that may go away soon.
fn is_transient(why: &str) -> bool {
    ["try again", "timed out", "Unable to contact", "temporarily"].iter().any(|sign| why.contains(sign))
}

/// Terminates a step. `srun` forwards the signal and exits after the step.
fn end(step: &mut Option<Child>) {
    if let Some(child) = step {
        // An error means that it has ended already.
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
    }
}

impl SlurmJob {
    /// True while nodes wait to be released one by one. A gained job of which no node is wanted
    /// ends by itself.
    pub(super) fn has_nodes_to_release(&self) -> bool {
        self.releases_single_nodes() && self.leaving().next().is_some()
    }

    fn releases_single_nodes(&self) -> bool {
        self.own || self.nodes.iter().any(|node| matches!(node.phase, NodePhase::Wanted))
    }

    /// The nodes to release. The node of a gained job's batch script is released last, with the
    /// job.
    fn leaving(&self) -> impl Iterator<Item = &JobNode> {
        let anchor = usize::from(!self.own);
        self.nodes.iter().skip(anchor).filter(|node| node.is_leaving())
    }

    /// Collects steps that have exited. One that exited by itself has left its node.
    pub(super) fn reap(&mut self) -> Vec<(BlockId, BlockEvent)> {
        let mut left = Vec::new();
        for node in &mut self.nodes {
            if node.step.as_mut().is_some_and(|step| !matches!(step.try_wait(), Ok(None))) {
                node.step = None;
                if matches!(node.phase, NodePhase::Wanted) {
                    left.push((node.block, BlockEvent::Left));
                }
            }
        }
        left
    }

    /// Terminates all steps that this process started, and waits for them.
    pub(super) fn end_steps(&mut self) {
        self.nodes.iter_mut().for_each(|node| end(&mut node.step));
        let until = Instant::now() + STEP_EXIT_TIMEOUT;
        while self.nodes.iter().any(|node| node.step.is_some()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            self.reap();
        }
        for step in self.nodes.iter_mut().filter_map(|node| node.step.as_mut()) {
            // An error means that it has ended already.
            let _ = step.kill();
            let _ = step.wait();
        }
    }

    /// Releases the nodes that can be released now; returns the resulting events.
    pub(super) fn shrink(&mut self, slurm: &SlurmCommands, dir: &Path) -> Vec<(BlockId, BlockEvent)> {
        let now = Instant::now();
        if !self.releases_single_nodes() || !self.leaving().any(|node| node.is_due(now)) {
            return Vec::new();
        }
        let busy = match self.busy_nodes(slurm) {
            Ok(busy) => busy,
            Err(why) => return self.on_refusal(&why),
        };
        if self.leaving().any(|node| node.may_still_exit() && busy.contains(&node.name)) {
            return Vec::new();
        }
        for node in self.nodes.iter_mut().filter(|node| node.is_leaving()) {
            end(&mut node.step);
        }
        let leaving: Vec<String> = self.leaving().map(|node| node.name.clone()).collect();
        match release(slurm, &self.id, &leaving, dir) {
            Ok(kept) => self.on_released(&leaving, &kept),
            Err(why) => self.on_refusal(&why),
        }
    }

    /// Nodes on which steps of the job run.
    fn busy_nodes(&self, slurm: &SlurmCommands) -> Result<Vec<String>, String> {
        if !self.own {
            return slurm.nodes_with_steps(&self.id);
        }
        Ok(self.nodes.iter().filter(|node| node.step.is_some()).map(|node| node.name.clone()).collect())
    }

    fn on_released(&mut self, asked: &[String], kept: &[String]) -> Vec<(BlockId, BlockEvent)> {
        let mut news = Vec::new();
        let leaving =
            |node: &&mut JobNode| node.is_leaving() && asked.contains(&node.name) && !kept.contains(&node.name);
        for node in self.nodes.iter_mut().filter(leaving) {
            node.phase = NodePhase::Gone;
            news.push((node.block, BlockEvent::Ended { why: "its node is given back".into(), at: None }));
        }
        news.extend(self.on_refusal("Slurm agreed, but the job still has the node"));
        news
    }

    fn on_refusal(&mut self, why: &str) -> Vec<(BlockId, BlockEvent)> {
        let anchor = usize::from(!self.own);
        let held = self.nodes.iter_mut().skip(anchor).filter(|node| node.is_leaving());
        held.filter_map(|node| node.on_refusal(why).then(|| (node.block, BlockEvent::Kept(why.to_owned())))).collect()
    }
}

/// Shrinks a job by these nodes; returns the nodes that it has afterwards.
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
        let mut node = JobNode::new(BlockId(1));
        assert!(!node.on_refusal("no"), "it is wanted");
        node.leave();
        assert!(!node.on_refusal("Job update not available right now, try again in a bit"));
        assert!(!node.is_held());
        assert!(node.on_refusal("Requested operation not supported on this system"));
        assert!(node.is_held() && !node.on_refusal("no"), "said once");
    }

    #[test]
    fn a_job_that_was_gained_gives_back_its_first_node_last() {
        let mut nodes: Vec<JobNode> = (1..=3).map(|id| JobNode::new(BlockId(id))).collect();
        nodes[0].leave();
        let mut job = SlurmJob::of_nodes("7", false, nodes);
        assert!(!job.has_nodes_to_release());
        job.nodes[2].leave();
        assert!(job.has_nodes_to_release());
        job.nodes[1].leave();
        assert!(!job.has_nodes_to_release(), "it ends by itself");
    }
}
