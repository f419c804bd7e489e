//! The thread that speaks to Slurm: submits, looks how the jobs fare, and leaves nothing behind.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::super::blocks::{BlockId, Event, Grant};
use super::super::provider::Launch;
use super::CLOSE_LIMIT;
use super::allocation::{Allocation, STEP};
use super::commands::{JobId, Queued, SlurmCommands, Submission, quoted};
use super::names::NamesFile;
use super::shrink::{Phase, Seat};
use crate::job::{Capacity, ProviderKind};

/// How often Slurm is asked how the jobs fare while something is about to change ...
const LOOK: Duration = Duration::from_secs(1);

/// ... and otherwise. Whoever comes or goes is noticed by its link before.
const CALM: Duration = Duration::from_secs(10);

/// A job that has waited for so long may have to wait long.
const SOON: Duration = Duration::from_secs(60);

/// How often it is looked whether nodes can be given back, while some shall be.
const GLANCE: Duration = Duration::from_millis(200);

/// A job is not in the queue for a moment after it was taken.
const SETTLING: Duration = Duration::from_secs(5);

/// Jobs whose ranks have left end by themselves in this time, or are cancelled.
const GRACE: Duration = Duration::from_secs(5);

/// A job whose submission seemed to fail shows in the queue within this time, if there is one.
const UNSURE: Duration = Duration::from_secs(120);

/// A job waits in the queue for so long after its run was last heard of ...
const LEASE: Duration = Duration::from_secs(600);

/// ... which says so as often as this.
const RENEWAL: Duration = Duration::from_secs(200);

/// What the clerk is told.
pub(super) enum Word {
    Request(Vec<BlockId>, Option<Duration>),
    Adopt(BlockId, String),
    Release(BlockId),
    Withdraw(BlockId),
    Close,
}

/// A job with a seat for each of its nodes.
pub(super) struct Job {
    pub(super) id: JobId,
    /// The run was started in it, and rank 0's node has no seat.
    pub(super) own: bool,
    pub(super) seats: Vec<Seat>,
    limit: Option<Duration>,
    taken: Instant,
    renewed: Instant,
    running: bool,
}

/// See the module's text.
pub(super) struct Clerk {
    launch: Launch,
    capacity: Capacity,
    allocation: Option<Allocation>,
    /// Whose last session is this one, with the name of all its jobs.
    names: NamesFile,
    slurm: SlurmCommands,
    jobs: Vec<Job>,
    /// Until then a job may show in the queue whose submission seemed to fail.
    unsure_until: Option<Instant>,
    /// When the own allocation began, as Slurm says, once it has been asked.
    began: Option<Option<u64>>,
    told: Sender<(BlockId, Event)>,
}

impl Job {
    fn new(job: JobId, own: bool, ids: &[BlockId], limit: Option<Duration>) -> Job {
        let (now, seats) = (Instant::now(), ids.iter().map(|&id| Seat::new(id)).collect());
        Job { id: job, own, seats, limit, taken: now, renewed: now, running: own }
    }

    #[cfg(test)]
    pub(super) fn of_seats(number: &str, own: bool, seats: Vec<Seat>) -> Job {
        Job { seats, ..Job::new(JobId::here(number.to_owned()), own, &[], None) }
    }

    /// It has its nodes: the blocks have theirs, in order.
    fn starts(&mut self, queued: &Queued, launch: &Launch) -> Vec<(BlockId, Event)> {
        // Slurm may say that it runs a moment before it says where.
        if queued.nodes.len() < self.seats.len() || std::mem::replace(&mut self.running, true) {
            return Vec::new();
        }
        let (since, ends) = (queued.start.map(|s| launch.moment(s)), queued.end.map(|s| launch.moment(s)));
        let several = self.seats.len() > 1;
        let mut news = Vec::new();
        for (at, (seat, node)) in self.seats.iter_mut().zip(&queued.nodes).enumerate() {
            seat.node.clone_from(node);
            match seat.phase {
                Phase::Unwanted => seat.leave(),
                _ => {
                    let grant = Grant { node: node.clone(), since, ends, anchor: several && at == 0 };
                    news.push((seat.block, Event::Granted(grant)));
                }
            }
        }
        news
    }

    /// It is over, and with it all blocks that have not ended before.
    fn ends(&mut self, why: &str, at: Option<u64>, launch: &Launch) -> Vec<(BlockId, Event)> {
        let left = self.seats.iter_mut().filter(|seat| !matches!(seat.phase, Phase::Gone));
        let ended = |seat: &mut Seat| {
            seat.phase = Phase::Gone;
            (seat.block, Event::Ended { why: why.to_owned(), at: at.map(|s| launch.moment(s)) })
        };
        left.map(ended).collect()
    }

    fn is_over(&self) -> bool {
        !self.own && self.seats.iter().all(|seat| matches!(seat.phase, Phase::Gone))
    }

    fn is_ending(&self) -> bool {
        self.seats.iter().any(|seat| !matches!(seat.phase, Phase::Wanted | Phase::Gone))
    }

    fn is_unwanted(&self) -> bool {
        self.seats.iter().all(|seat| !matches!(seat.phase, Phase::Wanted))
    }
}

impl Clerk {
    pub(super) fn new(
        launch: Launch,
        capacity: Capacity,
        allocation: Option<Allocation>,
        names: NamesFile,
        slurm: SlurmCommands,
        told: Sender<(BlockId, Event)>,
    ) -> Clerk {
        let own = |allocation: &Allocation| Job::new(JobId::here(allocation.job.clone()), true, &[], None);
        let jobs = allocation.as_ref().map(own).into_iter().collect();
        Clerk { launch, capacity, allocation, names, slurm, jobs, unsure_until: None, began: None, told }
    }

    /// Does as it is told until it is told to close.
    pub(super) fn work(mut self, words: &Receiver<Word>) {
        let mut next = Instant::now() + LOOK;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match words.recv_timeout(if self.gives_back() { wait.min(GLANCE) } else { wait }) {
                Ok(Word::Request(ids, limit)) => self.request(&ids, limit),
                Ok(Word::Adopt(id, node)) => self.adopt(id, node, true),
                Ok(Word::Release(id)) => self.release(id),
                Ok(Word::Withdraw(id)) => self.withdraw(id),
                Ok(Word::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => self.give_back(),
            }
            if Instant::now() >= next {
                self.look();
                next = Instant::now() + CALM;
            }
            next = next.min(Instant::now() + self.pace());
        }
    }

    fn tell(&self, id: BlockId, event: Event) {
        // Once the run is over nobody listens.
        let _ = self.told.send((id, event));
    }

    /// Asks for nodes; one of the own allocation that could not be given back comes first, for it is paid for.
    fn request(&mut self, ids: &[BlockId], limit: Option<Duration>) {
        let mut left = ids;
        while let [id, rest @ ..] = left
            && let Some((old, node)) = self.held_node()
        {
            self.tell(old, Event::Ended { why: "it is used again".into(), at: None });
            self.adopt(*id, node, false);
            left = rest;
        }
        let most = self.capacity.nodes_per_block.max(1) as usize;
        left.chunks(most).for_each(|ids| self.submit(ids, limit));
    }

    /// A node of the own allocation that is billed on without a world; its seat is given up.
    fn held_node(&mut self) -> Option<(BlockId, String)> {
        let own = self.jobs.iter_mut().find(|job| job.own)?;
        let held = own.seats.iter_mut().find(|seat| seat.is_held())?;
        held.phase = Phase::Gone;
        Some((held.block, held.node.clone()))
    }

    fn submit(&mut self, ids: &[BlockId], limit: Option<Duration>) {
        let refuse = |why: &str| ids.iter().for_each(|&id| self.tell(id, Event::Refused(why.to_owned())));
        let Some(&first) = ids.first() else { return };
        if self.capacity.provider != ProviderKind::Slurm {
            return refuse("the job file names no provider = \"slurm\"");
        }
        let limit = self.capacity.time.into_iter().chain(limit).min();
        let log = self.launch.log(first);
        let script = self.script(ids);
        let submission = Submission {
            name: self.name(),
            nodes: ids.len(),
            partition: self.capacity.partition.as_deref(),
            limit,
            lease: LEASE,
            log: &log,
            extra: &self.capacity.extra,
            script: &script,
        };
        match self.slurm.submit(&submission) {
            Ok(job) => {
                ids.iter().for_each(|&id| self.tell(id, Event::Accepted(format!("job {job}"))));
                self.note_cluster(&job);
                self.jobs.push(Job::new(job, false, ids, limit));
            }
            Err(why) => {
                refuse(&why);
                // It may have been taken before its answer got lost.
                self.unsure_until = Some(Instant::now() + UNSURE);
            }
        }
    }

    /// The name of all jobs of this session.
    fn name(&self) -> &str {
        self.names.sessions.last().map_or("", |jobs| &jobs.name)
    }

    /// What this session may leave behind has to be found on every cluster that it has sent jobs
    /// to.
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

    /// The words that start the world of a block, which knows how to find the other jobs of this run.
    fn words(&self, id: BlockId) -> Vec<String> {
        let more = ["--siblings".to_owned(), self.name().to_owned()];
        self.launch.words(id).into_iter().chain(more).collect()
    }

    /// What a job runs: a world, or one on each node as a step of its own, so that each can go alone.
    fn script(&self, ids: &[BlockId]) -> String {
        let line = |id: BlockId| self.words(id).iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        if let [id] = ids {
            return format!("exec {}", line(*id));
        }
        let mut script = "set -- $(scontrol show hostnames \"$SLURM_JOB_NODELIST\")\n".to_owned();
        for &id in ids {
            let log = quoted(&self.launch.log(id).display().to_string().replace('%', "%%"));
            let step = STEP.join(" ");
            // Should Slurm have been asked for fewer nodes meanwhile, there are no hosts for the last blocks.
            script += &format!(
                "[ $# -eq 0 ] || {{ srun {step} --nodelist=\"$1\" --open-mode=append --output={log} {} & shift; }}\n",
                line(id)
            );
        }
        script + "wait\n"
    }

    /// Starts a world on a node of the own allocation; `first` if the node has been there since the start.
    fn adopt(&mut self, id: BlockId, node: String, first: bool) {
        let Some(allocation) = &self.allocation else { return self.tell(id, Event::Refused("no allocation".into())) };
        let job = JobId::here(allocation.job.clone());
        let began = || self.slurm.job(&job).ok().flatten().and_then(|job| job.start);
        let since = if first { *self.began.get_or_insert_with(began) } else { None };
        let since = since.map(|s| self.launch.moment(s));
        let mut seat = Seat::new(id);
        seat.node.clone_from(&node);
        match allocation.start(&self.launch, id, &node, &self.words(id)) {
            Ok(step) => seat.step = Some(step),
            Err(error) => tracing::warn!("cannot start srun for {node}: {error}"),
        }
        self.tell(id, Event::Accepted(format!("job {}", allocation.job)));
        self.tell(id, Event::Granted(Grant { node, since, ends: None, anchor: false }));
        if seat.step.is_none() {
            self.tell(id, Event::Left);
        }
        if let Some(own) = self.jobs.iter_mut().find(|job| job.own) {
            own.seats.push(seat);
        }
    }

    fn job_of(&mut self, id: BlockId) -> Option<(&mut Job, usize)> {
        self.jobs.iter_mut().find_map(|job| {
            let at = job.seats.iter().position(|seat| seat.block == id)?;
            Some((job, at))
        })
    }

    /// The ranks of a block have left. A job of one node ends by itself.
    fn release(&mut self, id: BlockId) {
        if let Some((job, at)) = self.job_of(id) {
            job.seats[at].leave();
        }
    }

    /// A block is to end at once, or not to come.
    fn withdraw(&mut self, id: BlockId) {
        let slurm = self.slurm.clone();
        let Some((job, at)) = self.job_of(id) else { return };
        match (job.running, job.seats[at].phase) {
            (_, Phase::Gone) => return,
            (true, _) => job.seats[at].leave_at_once(),
            (false, _) => job.seats[at].phase = Phase::Unwanted,
        }
        if !job.own && job.is_unwanted() {
            return cancel(&slurm, [&job.id]);
        }
        let wanted = job.seats.iter().rposition(|seat| matches!(seat.phase, Phase::Wanted)).map_or(0, |last| last + 1);
        if !job.running && wanted < job.seats.len() && slurm.ask_for_fewer(&job.id, wanted).is_ok() {
            let gone: Vec<BlockId> = job.seats.drain(wanted..).map(|seat| seat.block).collect();
            gone.into_iter().for_each(|id| self.tell(id, Event::Ended { why: "it was withdrawn".into(), at: None }));
        }
    }

    /// How soon Slurm should be asked again.
    fn pace(&self) -> Duration {
        let changes = |job: &Job| if job.running { job.is_ending() } else { job.taken.elapsed() < SOON };
        if self.jobs.iter().any(|job| job.own || changes(job)) { LOOK } else { CALM }
    }

    /// True while nodes shall be given back one by one.
    fn gives_back(&self) -> bool {
        self.jobs.iter().any(Job::gives_back)
    }

    fn give_back(&mut self) {
        let mut news = Vec::new();
        for job in &mut self.jobs {
            news.extend(job.reap());
            news.extend(job.shrink(&self.slurm, &self.launch.logs));
        }
        news.into_iter().for_each(|(id, event)| self.tell(id, event));
    }

    /// Asks how the jobs fare.
    fn look(&mut self) {
        self.give_back();
        if self.may_have_jobs() {
            self.look_at_queue();
        }
    }

    /// True if Slurm may have jobs that this run was given.
    fn may_have_jobs(&self) -> bool {
        self.unsure_until.is_some_and(|end| Instant::now() < end) || self.jobs.iter().any(|job| !job.own)
    }

    fn look_at_queue(&mut self) {
        let mut clusters: Vec<Option<String>> = vec![None];
        clusters.extend(self.names.sessions.last().into_iter().flat_map(|jobs| &jobs.clusters).cloned().map(Some));
        clusters.into_iter().for_each(|cluster| self.look_at(cluster));
    }

    /// Asks how the jobs fare that are on one cluster.
    fn look_at(&mut self, cluster: Option<String>) {
        let queue = match self.slurm.jobs_named(self.name(), cluster.as_deref()) {
            Ok(queue) => queue,
            // A controller that is restarted is asked again.
            Err(why) => return tracing::debug!("{why}"),
        };
        self.cancel_unknown(&queue, cluster.as_deref());
        let mut news = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| !job.own && job.id.cluster == cluster) {
            let found = match queue.iter().find(|queued| queued.is(&job.id)) {
                Some(queued) => Some(queued.clone()),
                None if job.taken.elapsed() < SETTLING && !job.running => continue,
                // It may have another name by now, so it is asked for by its number.
                None => match self.slurm.job(&job.id) {
                    Ok(found) => found,
                    Err(why) => {
                        tracing::debug!("{why}");
                        continue;
                    }
                },
            };
            match found {
                Some(queued) if queued.has_nodes() => news.extend(job.starts(&queued, &self.launch)),
                Some(queued) if queued.is_over() => {
                    let why = format!("{}, {}", queued.state, queued.reason);
                    news.extend(job.ends(&why, queued.end, &self.launch));
                }
                Some(_) => job.renew(&self.slurm),
                None => {
                    cancel(&self.slurm, [&job.id]);
                    news.extend(job.ends("it is no longer in the queue", None, &self.launch));
                }
            }
        }
        self.jobs.retain(|job| !job.is_over());
        news.into_iter().for_each(|(id, event)| self.tell(id, event));
    }

    /// Cancels what a failed submission has left in the queue after all.
    fn cancel_unknown(&mut self, queue: &[Queued], cluster: Option<&str>) {
        let is_known = |queued: &Queued| self.jobs.iter().any(|job| queued.is(&job.id));
        let unknown = queue.iter().filter(|queued| !queued.is_over() && !is_known(queued));
        let unknown: Vec<JobId> = unknown.map(|queued| queued.id(cluster)).collect();
        if !unknown.is_empty() {
            cancel(&self.slurm, &unknown);
        }
    }

    /// Leaves nothing in the queue, and no step of the own allocation. Slurm confirms it, or the
    /// name of the jobs stays, so that they can be taken from the queue later.
    fn close(mut self) {
        let begun = Instant::now();
        // What waits in the queue is cancelled at once, what runs has been told to leave.
        cancel(&self.slurm, self.jobs.iter().filter(|job| !job.running).map(|job| &job.id));
        self.wait(begun + GRACE, |clerk| clerk.jobs.iter().any(Job::works));
        let session = self.names.sessions.last().filter(|_| self.may_have_jobs());
        let cancelled = session.map_or(Ok(()), |jobs| jobs.cancel(&self.slurm, false));
        cancel(&self.slurm, self.jobs.iter().filter(|job| !job.own).map(|job| &job.id));
        self.jobs.iter_mut().for_each(Job::end_steps);
        self.wait(begun + CLOSE_LIMIT, |clerk| clerk.jobs.iter().any(|job| !job.own));
        let left: Vec<&Job> = self.jobs.iter().filter(|job| !job.own).collect();
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

    /// Looks at the queue until nothing of this kind is left, or until then.
    fn wait(&mut self, until: Instant, more: impl Fn(&Clerk) -> bool) {
        while more(self) && Instant::now() < until {
            thread::sleep(GLANCE);
            self.look();
        }
    }
}

impl Job {
    /// True while any of its worlds may still be there.
    fn works(&self) -> bool {
        if self.own { self.seats.iter().any(|seat| seat.step.is_some()) } else { self.running }
    }

    /// It may wait on.
    fn renew(&mut self, slurm: &SlurmCommands) {
        let Some(limit) = self.limit.filter(|_| self.renewed.elapsed() > RENEWAL) else { return };
        self.renewed = Instant::now();
        if let Err(why) = slurm.renew(&self.id, limit, LEASE) {
            tracing::debug!("job {} waits no longer than it was allowed before: {why}", self.id);
        }
    }
}

fn cancel<'a>(slurm: &SlurmCommands, jobs: impl IntoIterator<Item = &'a JobId>) {
    if let Err(why) = slurm.cancel(jobs) {
        tracing::warn!("cannot cancel jobs: {why}");
    }
}
