//! The thread that speaks to Slurm: submits, looks how the jobs fare, and leaves nothing behind.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::super::blocks::{BlockId, Event, Grant};
use super::super::provider::Launch;
use super::allocation::{Allocation, STEP};
use super::commands::{self, Queued, Submission, quoted};
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

/// At the end so long is waited for Slurm to confirm.
const FAREWELL: Duration = Duration::from_secs(60);

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
    pub(super) number: String,
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
    /// Of all jobs of this run.
    name: String,
    jobs: Vec<Job>,
    /// When the own allocation began, as Slurm says, once it has been asked.
    began: Option<Option<u64>>,
    told: Sender<(BlockId, Event)>,
}

impl Job {
    fn new(number: String, own: bool, ids: &[BlockId], limit: Option<Duration>) -> Job {
        let (now, seats) = (Instant::now(), ids.iter().map(|&id| Seat::new(id)).collect());
        Job { number, own, seats, limit, taken: now, renewed: now, running: own }
    }

    #[cfg(test)]
    pub(super) fn of_seats(number: &str, own: bool, seats: Vec<Seat>) -> Job {
        Job { seats, ..Job::new(number.to_owned(), own, &[], None) }
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
        name: String,
        told: Sender<(BlockId, Event)>,
    ) -> Clerk {
        let own = |allocation: &Allocation| Job::new(allocation.job.clone(), true, &[], None);
        let jobs = allocation.as_ref().map(own).into_iter().collect();
        Clerk { launch, capacity, allocation, name, jobs, began: None, told }
    }

    /// Does as it is told until it is told to close. True if nothing is left behind.
    pub(super) fn work(mut self, words: &Receiver<Word>) -> bool {
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
            name: &self.name,
            nodes: ids.len(),
            partition: self.capacity.partition.as_deref(),
            limit,
            lease: LEASE,
            log: &log,
            extra: &self.capacity.extra,
            script: &script,
        };
        match submission.submit() {
            Ok(number) => {
                ids.iter().for_each(|&id| self.tell(id, Event::Accepted(format!("job {number}"))));
                self.jobs.push(Job::new(number, false, ids, limit));
            }
            Err(why) => refuse(&why),
        }
    }

    /// The words that start the world of a block, which knows how to find the other jobs of this run.
    fn words(&self, id: BlockId) -> Vec<String> {
        let more = ["--siblings".to_owned(), self.name.clone()];
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
        let began = || commands::job(&allocation.job).ok().flatten().and_then(|job| job.start);
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
        let Some((job, at)) = self.job_of(id) else { return };
        match (job.running, job.seats[at].phase) {
            (_, Phase::Gone) => return,
            (true, _) => job.seats[at].leave_at_once(),
            (false, _) => job.seats[at].phase = Phase::Unwanted,
        }
        if !job.own && job.is_unwanted() {
            return cancel(&job.number);
        }
        let wanted = job.seats.iter().rposition(|seat| matches!(seat.phase, Phase::Wanted)).map_or(0, |last| last + 1);
        if !job.running && wanted < job.seats.len() && commands::ask_for_fewer(&job.number, wanted).is_ok() {
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
            news.extend(job.shrink(&self.launch.logs));
        }
        news.into_iter().for_each(|(id, event)| self.tell(id, event));
    }

    /// Asks how the jobs fare.
    fn look(&mut self) {
        self.give_back();
        if self.jobs.iter().all(|job| job.own) {
            return;
        }
        let queue = match commands::jobs_named(&self.name) {
            Ok(queue) => queue,
            // A controller that is restarted is asked again.
            Err(why) => return tracing::debug!("{why}"),
        };
        let mut news = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| !job.own) {
            match queue.iter().find(|queued| queued.number == job.number) {
                Some(queued) if queued.has_nodes() => news.extend(job.starts(queued, &self.launch)),
                Some(queued) if queued.is_over() => {
                    let why = format!("{}, {}", queued.state, queued.reason);
                    news.extend(job.ends(&why, queued.end, &self.launch));
                }
                Some(_) => job.renew(),
                None if job.taken.elapsed() < SETTLING && !job.running => {}
                None => news.extend(job.ends("it is no longer in the queue", None, &self.launch)),
            }
        }
        self.jobs.retain(|job| !job.is_over());
        news.into_iter().for_each(|(id, event)| self.tell(id, event));
    }

    /// Leaves nothing in the queue. True if so.
    fn close(mut self) -> bool {
        let begun = Instant::now();
        // What waits in the queue is cancelled at once, what runs has been told to leave.
        self.jobs.iter().filter(|job| !job.running).for_each(|job| cancel(&job.number));
        self.wait(begun + GRACE, |clerk| clerk.jobs.iter().any(Job::works));
        for job in &mut self.jobs {
            if job.own { job.end_steps() } else { cancel(&job.number) }
        }
        self.wait(begun + FAREWELL, |clerk| clerk.jobs.iter().any(|job| !job.own));
        let left = self.jobs.iter().filter(|job| !job.own);
        left.clone().for_each(|job| tracing::error!("job {0} may still be in the queue: scancel {0}", job.number));
        left.count() == 0
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
    fn renew(&mut self) {
        let Some(limit) = self.limit.filter(|_| self.renewed.elapsed() > RENEWAL) else { return };
        self.renewed = Instant::now();
        if let Err(why) = commands::renew(&self.number, limit, LEASE) {
            tracing::debug!("job {} waits no longer than it was allowed before: {why}", self.number);
        }
    }
}

fn cancel(number: &str) {
    if let Err(why) = commands::cancel(number) {
        tracing::warn!("cannot cancel job {number}: {why}");
    }
}
