//! The thread that calls Slurm: submits jobs, polls their state, releases nodes, and leaves nothing
//! in the queue.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::super::blocks::{BlockEvent, BlockId, NodeGrant};
use super::super::provider::Launch;
use super::CLOSE_LIMIT;
use super::allocation::{Allocation, STEP};
use super::commands::{JobId, PartitionNodes, Queued, SbatchArgs, SlurmCommands};
use super::names::NamesFile;
use super::shrink::{JobNode, NodePhase};
use crate::job::{Capacity, ProviderKind};
use crate::model::{Labels, labels_of};
use crate::text::shell_word;

/// Poll interval while a job is about to change state.
const FAST_POLL: Duration = Duration::from_secs(1);

/// Poll interval otherwise. A world that joins or leaves is noticed by its link earlier.
const SLOW_POLL: Duration = Duration::from_secs(10);

/// A job that has waited this long is polled slowly.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// Poll interval while nodes wait to be released.
const RELEASE_POLL: Duration = Duration::from_millis(200);

/// A submitted job may be missing from the queue for this long.
const SUBMIT_VISIBILITY_DELAY: Duration = Duration::from_secs(5);

/// At the end, jobs have this long to end by themselves before they are cancelled.
const STEP_EXIT_GRACE: Duration = Duration::from_secs(5);

/// A job whose submission seemed to fail shows in the queue within this time, if it exists.
const LOST_SUBMIT_WINDOW: Duration = Duration::from_secs(120);

/// A job waits in the queue at most this long after its last renewal.
const QUEUE_LEASE: Duration = Duration::from_secs(600);

/// Renewal interval of the lease.
const QUEUE_LEASE_RENEWAL: Duration = Duration::from_secs(200);

/// A request of the run to the manager.
pub(super) enum ManagerRequest {
    /// Blocks to request with these labels, needed at most this long.
    Nodes(Vec<BlockId>, Labels, Option<Duration>),
    Adopt(BlockId, String),
    Release(BlockId),
    Withdraw(BlockId),
    Close,
}

/// A job of the scheduler and its nodes.
pub(super) struct SlurmJob {
    pub(super) id: JobId,
    /// The run was started in this job; rank 0's node is not in `nodes`.
    pub(super) own: bool,
    pub(super) nodes: Vec<JobNode>,
    limit: Option<Duration>,
    taken: Instant,
    renewed: Instant,
    running: bool,
}

/// State of the thread that calls Slurm.
pub(super) struct SlurmManager {
    launch: Launch,
    capacity: Capacity,
    allocation: Option<Allocation>,
    /// The last session in it is this one, with the name of all its jobs.
    names: NamesFile,
    slurm: SlurmCommands,
    /// Those that requests can get, once Slurm has said.
    partition: Arc<OnceLock<PartitionNodes>>,
    jobs: Vec<SlurmJob>,
    /// Until then a job whose submission seemed to fail may still show in the queue.
    lost_submit_until: Option<Instant>,
    /// When the run's own allocation began according to Slurm, once asked.
    began: Option<Option<u64>>,
    events: Sender<(BlockId, BlockEvent)>,
}

impl SlurmJob {
    fn new(job: JobId, own: bool, ids: &[BlockId], limit: Option<Duration>) -> SlurmJob {
        let (now, nodes) = (Instant::now(), ids.iter().map(|&id| JobNode::new(id)).collect());
        SlurmJob { id: job, own, nodes, limit, taken: now, renewed: now, running: own }
    }

    #[cfg(test)]
    pub(super) fn of_nodes(number: &str, own: bool, nodes: Vec<JobNode>) -> SlurmJob {
        SlurmJob { nodes, ..SlurmJob::new(JobId::here(number.to_owned()), own, &[], None) }
    }

    /// The job was granted its nodes: assigns them to the blocks in order.
    fn on_start(&mut self, queued: &Queued, launch: &Launch) -> Vec<(BlockId, BlockEvent)> {
        // Slurm may report a job as running shortly before it reports its nodes.
        if queued.nodes.len() < self.nodes.len() || std::mem::replace(&mut self.running, true) {
            return Vec::new();
        }
        let (since, ends) = (queued.start.map(|s| launch.moment(s)), queued.end.map(|s| launch.moment(s)));
        let several = self.nodes.len() > 1;
        let mut news = Vec::new();
        for (at, (node, name)) in self.nodes.iter_mut().zip(&queued.nodes).enumerate() {
            node.name.clone_from(name);
            match node.phase {
                NodePhase::Unwanted => node.leave(),
                _ => {
                    let grant = NodeGrant { node: name.clone(), since, ends, anchor: several && at == 0 };
                    news.push((node.block, BlockEvent::Granted(grant)));
                }
            }
        }
        news
    }

    /// The job ended, and with it all blocks that had not ended before.
    fn on_end(&mut self, why: &str, at: Option<u64>, launch: &Launch) -> Vec<(BlockId, BlockEvent)> {
        let left = self.nodes.iter_mut().filter(|node| !matches!(node.phase, NodePhase::Gone));
        let ended = |node: &mut JobNode| {
            node.phase = NodePhase::Gone;
            (node.block, BlockEvent::Ended { why: why.to_owned(), at: at.map(|s| launch.moment(s)) })
        };
        left.map(ended).collect()
    }

    fn is_over(&self) -> bool {
        !self.own && self.nodes.iter().all(|node| matches!(node.phase, NodePhase::Gone))
    }

    fn is_ending(&self) -> bool {
        self.nodes.iter().any(|node| !matches!(node.phase, NodePhase::Wanted | NodePhase::Gone))
    }

    fn all_unwanted(&self) -> bool {
        self.nodes.iter().all(|node| !matches!(node.phase, NodePhase::Wanted))
    }
}

impl SlurmManager {
    pub(super) fn new(
        launch: Launch,
        capacity: Capacity,
        allocation: Option<Allocation>,
        names: NamesFile,
        (slurm, partition): (SlurmCommands, Arc<OnceLock<PartitionNodes>>),
        events: Sender<(BlockId, BlockEvent)>,
    ) -> SlurmManager {
        let own = |allocation: &Allocation| SlurmJob::new(JobId::here(allocation.job.clone()), true, &[], None);
        let jobs = allocation.as_ref().map(own).into_iter().collect();
        SlurmManager {
            launch,
            capacity,
            allocation,
            names,
            slurm,
            partition,
            jobs,
            lost_submit_until: None,
            began: None,
            events,
        }
    }

    /// Handles requests until [`Request::Close`], and polls Slurm between them.
    pub(super) fn run(mut self, requests: &Receiver<ManagerRequest>) {
        let mut next = Instant::now() + FAST_POLL;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match requests.recv_timeout(if self.has_nodes_to_release() { wait.min(RELEASE_POLL) } else { wait }) {
                Ok(ManagerRequest::Nodes(ids, labels, limit)) => self.request(&ids, &labels, limit),
                Ok(ManagerRequest::Adopt(id, node)) => self.adopt(id, node, true),
                Ok(ManagerRequest::Release(id)) => self.release(id),
                Ok(ManagerRequest::Withdraw(id)) => self.withdraw(id),
                Ok(ManagerRequest::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => self.release_nodes(),
            }
            if Instant::now() >= next {
                self.poll();
                next = Instant::now() + SLOW_POLL;
            }
            next = next.min(Instant::now() + self.poll_interval());
        }
    }

    fn report(&self, id: BlockId, event: BlockEvent) {
        // The receiver is gone once the run is over.
        let _ = self.events.send((id, event));
    }

    /// Requests nodes. A held node of the own allocation is used first, unless labels are wanted:
    /// it is billed anyway.
    fn request(&mut self, ids: &[BlockId], labels: &Labels, limit: Option<Duration>) {
        let mut left = ids;
        while let [id, rest @ ..] = left
            && labels.is_empty()
            && let Some((old, node)) = self.held_node()
        {
            self.report(old, BlockEvent::Ended { why: "it is used again".into(), at: None });
            self.adopt(*id, node, false);
            left = rest;
        }
        // The run may have asked before it knew how many there are. A job for a node that does not
        // exist would wait for ever.
        let (left, beyond) = left.split_at(self.room().min(left.len()));
        for &id in beyond {
            self.report(id, BlockEvent::Refused("the run has all nodes of the partition, or asks for them".into()));
        }
        let most = self.capacity.nodes_per_block.max(1) as usize;
        left.chunks(most).for_each(|ids| self.submit(ids, labels, limit));
    }

    /// Nodes of the partition that the run neither has nor asks for.
    fn room(&self) -> usize {
        let Some(nodes) = self.partition.get() else { return usize::MAX };
        let taken = self.jobs.iter().flat_map(|job| &job.nodes).filter(|node| !matches!(node.phase, NodePhase::Gone));
        (nodes.count as usize).saturating_sub(taken.count())
    }

    /// Takes a node of the own allocation that is billed without a world.
    fn held_node(&mut self) -> Option<(BlockId, String)> {
        let own = self.jobs.iter_mut().find(|job| job.own)?;
        let held = own.nodes.iter_mut().find(|node| node.is_held())?;
        held.phase = NodePhase::Gone;
        Some((held.block, held.name.clone()))
    }

    fn submit(&mut self, ids: &[BlockId], labels: &Labels, limit: Option<Duration>) {
        let refuse = |why: &str| ids.iter().for_each(|&id| self.report(id, BlockEvent::Refused(why.to_owned())));
        let Some(&first) = ids.first() else { return };
        if self.capacity.provider != ProviderKind::Slurm {
            return refuse("the job file names no provider = \"slurm\"");
        }
        let limit = self.capacity.time.into_iter().chain(limit).min();
        let log = self.launch.log(first);
        // Those of all blocks need not be features of nodes.
        let features = labels_of(labels.iter().filter(|label| !self.capacity.labels.contains(label)).cloned());
        let script = self.script(ids, &labels_of(self.capacity.labels.iter().chain(labels.iter()).cloned()));
        let submission = SbatchArgs {
            name: self.name(),
            nodes: ids.len(),
            partition: self.capacity.partition.as_deref(),
            account: self.capacity.account.as_deref(),
            features: &features,
            limit,
            lease: Some(QUEUE_LEASE),
            log: &log,
            extra: &self.capacity.extra,
            script: &script,
        };
        match self.slurm.submit(&submission) {
            Ok(job) => {
                ids.iter().for_each(|&id| self.report(id, BlockEvent::Accepted(format!("job {job}"))));
                self.note_cluster(&job);
                self.jobs.push(SlurmJob::new(job, false, ids, limit));
            }
            Err(why) => {
                refuse(&why);
                // Slurm may have accepted the job and the answer got lost.
                self.lost_submit_until = Some(Instant::now() + LOST_SUBMIT_WINDOW);
            }
        }
    }

    /// The name of all jobs of this session.
    fn name(&self) -> &str {
        self.names.sessions.last().map_or("", |jobs| &jobs.name)
    }

    /// Remembers each cluster that received a job, so that a later cleanup searches there too.
    fn note_cluster(&mut self, job: &JobId) {
        let Some(jobs) = self.names.sessions.last_mut() else { return };
        if let Some(cluster) = job.cluster.as_ref().filter(|cluster| !jobs.clusters.contains(cluster)) {
            jobs.clusters.push(cluster.clone());
            self.write_names();
        }
    }

    fn write_names(&self) {
        if let Err(error) = self.names.write() {
            tracing::warn!("cannot write down which jobs this run has in the queue: {error}");
        }
    }

    /// The command line of a block's world. It names the run's other jobs, so that the block can
    /// withdraw them if the run is gone.
    fn words(&self, id: BlockId, labels: &[String]) -> Vec<String> {
        let more = ["--siblings".to_owned(), self.name().to_owned()];
        self.launch.words(id, labels).into_iter().chain(more).collect()
    }

    /// The batch script of a job: one world, or one step per node so that each node can leave
    /// alone.
    fn script(&self, ids: &[BlockId], labels: &[String]) -> String {
        let line =
            |id: BlockId| self.words(id, labels).iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ");
        if let [id] = ids {
            return format!("exec {}", line(*id));
        }
        let mut script = "set -- $(scontrol show hostnames \"$SLURM_JOB_NODELIST\")\n".to_owned();
        for &id in ids {
            let log = shell_word(&self.launch.log(id).display().to_string().replace('%', "%%"));
            let step = STEP.join(" ");
            // If the request was shrunk meanwhile, the last blocks have no host.
            script += &format!(
                "[ $# -eq 0 ] || {{ srun {step} --nodelist=\"$1\" --open-mode=append --output={log} {} & shift; }}\n",
                line(id)
            );
        }
        script + "wait\n"
    }

    /// Starts a world on a node of the own allocation. `first`: the node was there from the start,
    /// so it is billed since the start of the allocation.
    fn adopt(&mut self, id: BlockId, node: String, first: bool) {
        let Some(allocation) = &self.allocation else {
            return self.report(id, BlockEvent::Refused("no allocation".into()));
        };
        let job = JobId::here(allocation.job.clone());
        let began = || self.slurm.job(&job).ok().flatten().and_then(|job| job.start);
        let since = if first { *self.began.get_or_insert_with(began) } else { None };
        let since = since.map(|s| self.launch.moment(s));
        let mut job_node = JobNode::new(id);
        job_node.name.clone_from(&node);
        match allocation.start(
            &self.launch,
            id,
            &node,
            &self.words(id, if first { &[] } else { &self.capacity.labels }),
        ) {
            Ok(step) => job_node.step = Some(step),
            Err(error) => tracing::warn!("cannot start srun for {node}: {error}"),
        }
        self.report(id, BlockEvent::Accepted(format!("job {}", allocation.job)));
        self.report(id, BlockEvent::Granted(NodeGrant { node, since, ends: None, anchor: false }));
        if job_node.step.is_none() {
            self.report(id, BlockEvent::Left);
        }
        if let Some(own) = self.jobs.iter_mut().find(|job| job.own) {
            own.nodes.push(job_node);
        }
    }

    fn job_of(&mut self, id: BlockId) -> Option<(&mut SlurmJob, usize)> {
        self.jobs.iter_mut().find_map(|job| {
            let at = job.nodes.iter().position(|node| node.block == id)?;
            Some((job, at))
        })
    }

    /// Releases the node of a block whose ranks have left. A job of one node ends by itself.
    fn release(&mut self, id: BlockId) {
        if let Some((job, at)) = self.job_of(id) {
            job.nodes[at].leave();
        }
    }

    /// Ends a block at once, or withdraws its request.
    fn withdraw(&mut self, id: BlockId) {
        let slurm = self.slurm.clone();
        let Some((job, at)) = self.job_of(id) else { return };
        match (job.running, job.nodes[at].phase) {
            (_, NodePhase::Gone) => return,
            (true, _) => job.nodes[at].end_now(),
            (false, _) => job.nodes[at].phase = NodePhase::Unwanted,
        }
        if !job.own && job.all_unwanted() {
            return cancel(&slurm, [&job.id]);
        }
        let wanted =
            job.nodes.iter().rposition(|node| matches!(node.phase, NodePhase::Wanted)).map_or(0, |last| last + 1);
        if !job.running && wanted < job.nodes.len() && slurm.ask_for_fewer(&job.id, wanted).is_ok() {
            let gone: Vec<BlockId> = job.nodes.drain(wanted..).map(|node| node.block).collect();
            gone.into_iter()
                .for_each(|id| self.report(id, BlockEvent::Ended { why: "it was withdrawn".into(), at: None }));
        }
    }

    /// The interval until the next poll.
    fn poll_interval(&self) -> Duration {
        let changes = |job: &SlurmJob| if job.running { job.is_ending() } else { job.taken.elapsed() < LONG_WAIT };
        if self.jobs.iter().any(|job| job.own || changes(job)) { FAST_POLL } else { SLOW_POLL }
    }

    /// True while nodes wait to be released one by one.
    fn has_nodes_to_release(&self) -> bool {
        self.jobs.iter().any(SlurmJob::has_nodes_to_release)
    }

    fn release_nodes(&mut self) {
        let mut news = Vec::new();
        for job in &mut self.jobs {
            news.extend(job.reap());
            news.extend(job.shrink(&self.slurm, &self.launch.logs));
        }
        news.into_iter().for_each(|(id, event)| self.report(id, event));
    }

    /// Releases nodes and polls the queues.
    fn poll(&mut self) {
        self.release_nodes();
        if self.may_have_jobs() {
            self.poll_queues();
        }
    }

    /// True if Slurm may have jobs of this session.
    fn may_have_jobs(&self) -> bool {
        self.lost_submit_until.is_some_and(|end| Instant::now() < end) || self.jobs.iter().any(|job| !job.own)
    }

    fn poll_queues(&mut self) {
        let mut clusters: Vec<Option<String>> = vec![None];
        clusters.extend(self.names.sessions.last().into_iter().flat_map(|jobs| &jobs.clusters).cloned().map(Some));
        clusters.into_iter().for_each(|cluster| self.poll_cluster(cluster));
    }

    /// Updates the jobs of one cluster.
    fn poll_cluster(&mut self, cluster: Option<String>) {
        let queue = match self.slurm.jobs_named(self.name(), cluster.as_deref()) {
            Ok(queue) => queue,
            // The controller may be restarting; the next poll asks again.
            Err(why) => return tracing::debug!("{why}"),
        };
        self.cancel_unknown(&queue, cluster.as_deref());
        let mut news = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| !job.own && job.id.cluster == cluster) {
            let found = match queue.iter().find(|queued| queued.is(&job.id)) {
                Some(queued) => Some(queued.clone()),
                None if job.taken.elapsed() < SUBMIT_VISIBILITY_DELAY && !job.running => continue,
                // It may have been renamed, so it is queried by number.
                None => match self.slurm.job(&job.id) {
                    Ok(found) => found,
                    Err(why) => {
                        tracing::debug!("{why}");
                        continue;
                    }
                },
            };
            match found {
                Some(queued) if queued.has_nodes() => news.extend(job.on_start(&queued, &self.launch)),
                Some(queued) if queued.is_over() => {
                    let why = format!("{}, {}", queued.state, queued.reason);
                    news.extend(job.on_end(&why, queued.end, &self.launch));
                }
                Some(_) => job.renew(&self.slurm),
                None => {
                    cancel(&self.slurm, [&job.id]);
                    news.extend(job.on_end("it is no longer in the queue", None, &self.launch));
                }
            }
        }
        self.jobs.retain(|job| !job.is_over());
        news.into_iter().for_each(|(id, event)| self.report(id, event));
    }

    /// Cancels jobs in the queue whose submission seemed to fail.
    fn cancel_unknown(&mut self, queue: &[Queued], cluster: Option<&str>) {
        let is_known = |queued: &Queued| self.jobs.iter().any(|job| queued.is(&job.id));
        let unknown = queue.iter().filter(|queued| !queued.is_over() && !is_known(queued));
        let unknown: Vec<JobId> = unknown.map(|queued| queued.id(cluster)).collect();
        if !unknown.is_empty() {
            cancel(&self.slurm, &unknown);
        }
    }

    /// Cancels all jobs and terminates all steps. Unless Slurm confirms it, the name of the jobs
    /// stays on disk, so that they can be cancelled later.
    fn close(mut self) {
        let begun = Instant::now();
        // Running jobs were asked to leave already.
        cancel(&self.slurm, self.jobs.iter().filter(|job| !job.running).map(|job| &job.id));
        self.wait(begun + STEP_EXIT_GRACE, |manager| manager.jobs.iter().any(SlurmJob::is_working));
        let session = self.names.sessions.last().filter(|_| self.may_have_jobs());
        let cancelled = session.map_or(Ok(()), |jobs| jobs.cancel(&self.slurm, false));
        cancel(&self.slurm, self.jobs.iter().filter(|job| !job.own).map(|job| &job.id));
        self.jobs.iter_mut().for_each(SlurmJob::end_steps);
        self.wait(begun + CLOSE_LIMIT, |manager| manager.jobs.iter().any(|job| !job.own));
        let left: Vec<&SlurmJob> = self.jobs.iter().filter(|job| !job.own).collect();
        for job in &left {
            tracing::error!(
                "job {} may still be in the queue: `phalanx cancel` of this run takes it from there",
                job.id
            );
        }
        if left.is_empty() && cancelled.is_ok() {
            self.names.sessions.pop();
            self.write_names();
        }
    }

    /// Polls while `more` holds, at most until `until`.
    fn wait(&mut self, until: Instant, more: impl Fn(&SlurmManager) -> bool) {
        while more(self) && Instant::now() < until {
            thread::sleep(RELEASE_POLL);
            self.poll();
        }
    }
}

impl SlurmJob {
    /// True while any of its worlds may still run.
    fn is_working(&self) -> bool {
        if self.own { self.nodes.iter().any(|node| node.step.is_some()) } else { self.running }
    }

    /// Renews the lease of a job that waits in the queue.
    fn renew(&mut self, slurm: &SlurmCommands) {
        let Some(limit) = self.limit.filter(|_| self.renewed.elapsed() > QUEUE_LEASE_RENEWAL) else { return };
        self.renewed = Instant::now();
        if let Err(why) = slurm.renew(&self.id, limit, QUEUE_LEASE) {
            tracing::debug!("job {} waits no longer than it was allowed before: {why}", self.id);
        }
    }
}

fn cancel<'a>(slurm: &SlurmCommands, jobs: impl IntoIterator<Item = &'a JobId>) {
    if let Err(why) = slurm.cancel(jobs) {
        tracing::warn!("cannot cancel jobs: {why}");
    }
}
