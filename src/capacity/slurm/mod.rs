//! Blocks from Slurm: further jobs, and the nodes of the job that the run was started in.
//!
//! A request becomes batch jobs of up to `nodes_per_block` nodes, with one world per node. With one
//! node per job (the default) each job starts as soon as any node is free and is released by
//! ending, which needs no request to Slurm. Single nodes of a larger job are released by shrinking
//! it (`shrink`); so are the nodes of the job that the run itself was started in (`allocation`).
//!
//! Gained jobs are batch jobs, not `salloc --no-shell`: a batch job ends when its worlds end, even
//! if the run was killed; an allocation without a shell would stay for its whole time limit. The
//! price is that the first node, which runs the script, is released last.
//!
//! No job stays in the queue for a run that is gone. Running worlds depend on their link to rank 0.
//! Waiting jobs have a *lease*: a deadline that the run renews. The first job of a dead run that
//! starts and finds no coordinator cancels the others, and so do a resume and `phalanx cancel`: all
//! jobs of a session share a name, which is kept in the run directory (`names`). They do so only if
//! it is certain that the session is over; that it is not visible from some node proves nothing.
//!
//! Slurm's commands may take seconds, so the manager's thread (`manager`) calls them and exchanges
//! messages with the run. Every command has a time limit, and at the end of the run all of them
//! together have [`CLOSE_LIMIT`].

mod allocation;
mod commands;
mod estimate;
mod manager;
mod names;
mod shrink;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use allocation::Allocation;
use commands::{PartitionNodes, SlurmCommands};
use estimate::StartEstimator;
pub use estimate::estimated_start;
use manager::{ManagerRequest, SlurmManager};
use names::{NamesFile, SessionJobs};

use super::blocks::{BlockEvent, BlockId};
use super::provider::{Launch, Provider};
use crate::job::Capacity;
use crate::journal::EndedSessions;
use crate::model::{Labels, Offers, Time, labels_of};

/// In the folder of the blocks' logs: the names of the jobs that may be in the queue.
const NAME_FILE: &str = "slurm";

/// Upper bound on the time that Slurm's commands take at the end of a run.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// The handle of the thread that calls Slurm.
pub struct Slurm {
    requests: Sender<ManagerRequest>,
    events: Receiver<(BlockId, BlockEvent)>,
    manager: Option<JoinHandle<()>>,
    commands: SlurmCommands,
    /// Labels of all blocks.
    labels: Labels,
    /// The nodes that jobs may get, once Slurm has said so.
    nodes: Arc<OnceLock<PartitionNodes>>,
    /// For a run that chooses among sites.
    estimator: Option<StartEstimator>,
    /// Converts Slurm's times to the run's.
    launch: Launch,
}

/// The features of nodes: labels of the ranks there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFeatures(HashMap<String, Labels>);

impl NodeFeatures {
    /// Asks Slurm of a cluster (`None`: this machine's); without an answer no node has features.
    pub fn ask(cluster: Option<&str>) -> NodeFeatures {
        let asked = SlurmCommands::of(cluster).features();
        asked
            .inspect_err(|why| tracing::warn!("the features of Slurm's nodes are not known: {why}"))
            .unwrap_or_default()
    }

    /// These features and those of nodes of other clusters with other names.
    #[must_use]
    pub fn or(mut self, other: NodeFeatures) -> NodeFeatures {
        other.0.into_iter().for_each(|(node, features)| _ = self.0.entry(node).or_insert(features));
        self
    }

    /// The features of a node.
    pub fn of(&self, node: &str) -> &[String] {
        self.0.get(node).map_or(&[], |features| features)
    }
}

/// What blocks of these settings can have, as Slurm says now.
pub fn offers(capacity: &Capacity) -> Offers {
    offered(SlurmCommands::of(capacity.cluster.as_deref()).partition(capacity).as_ref(), &capacity.labels)
}

/// What blocks with these labels on these nodes can have.
fn offered(nodes: Option<&PartitionNodes>, labels: &[String]) -> Offers {
    let with = |features: &Labels| labels_of(labels.iter().chain(features.iter()).cloned());
    nodes.map_or(Offers::Unknown, |nodes| Offers::of(nodes.features.iter().map(with)))
}

impl Slurm {
    /// Starts the thread. Jobs that `ended` sessions may have left in the queue are cancelled.
    /// `estimates`: Slurm is asked when jobs would start.
    ///
    /// # Errors
    /// If the system gives no thread, or the name of the jobs cannot be written down.
    pub fn new(
        launch: Launch,
        capacity: Capacity,
        allocation: Option<Allocation>,
        ended: &EndedSessions,
        estimates: bool,
    ) -> std::io::Result<Slurm> {
        let commands = SlurmCommands::of(capacity.cluster.as_deref());
        let mut names = NamesFile::read(launch.logs.join(NAME_FILE))?;
        let (_, left) = names.withdraw(&SlurmCommands::default(), ended);
        left.iter().for_each(|why| tracing::warn!("{why}"));
        names.sessions.push(SessionJobs::new(&launch.run, launch.began_unix_ns, capacity.cluster.clone()));
        names.write()?;
        let ((requests, receiver), (sender, events)) = (channel(), channel());
        let nodes = Arc::new(OnceLock::new());
        let (ask, told) = (commands.clone(), Arc::clone(&nodes));
        let (asked, labels) = (capacity.clone(), labels_of(capacity.labels.iter().cloned()));
        let started = |new: std::io::Result<StartEstimator>| {
            new.inspect_err(|error| tracing::debug!("no estimates of starts: {error}")).ok()
        };
        let estimator = estimates.then(|| StartEstimator::new(capacity.clone())).and_then(started);
        let manager = SlurmManager::new(
            launch.clone(),
            capacity,
            allocation,
            names,
            (commands.clone(), Arc::clone(&nodes)),
            sender,
        );
        let manager = thread::Builder::new().name("slurm".into()).spawn(move || {
            // Without an answer they stay unknown.
            if let Some(nodes) = ask.partition(&asked) {
                let _ = told.set(nodes);
            }
            manager.run(&receiver);
        })?;
        Ok(Slurm { requests, events, manager: Some(manager), commands, labels, nodes, estimator, launch })
    }

    /// Starts the world of a block on a node that the run has from the start.
    pub fn adopt(&mut self, id: BlockId, node: String) {
        self.send(ManagerRequest::Adopt(id, node));
    }

    fn send(&self, request: ManagerRequest) {
        // The manager exits only after `Request::Close`.
        let _ = self.requests.send(request);
    }
}

impl Provider for Slurm {
    fn request(&mut self, ids: &[BlockId], labels: &Labels, limit: Option<Duration>) {
        self.send(ManagerRequest::Nodes(ids.to_vec(), Labels::clone(labels), limit));
    }

    fn offers(&self) -> Offers {
        offered(self.nodes.get(), &self.labels)
    }

    fn most_blocks(&self) -> Option<u32> {
        self.nodes.get().map(|nodes| nodes.count)
    }

    fn expected_start(&self) -> Option<Time> {
        Some(self.launch.moment(self.estimator.as_ref()?.latest()?))
    }

    fn release(&mut self, id: BlockId) {
        self.send(ManagerRequest::Release(id));
    }

    fn withdraw(&mut self, id: BlockId) {
        self.send(ManagerRequest::Withdraw(id));
    }

    fn poll(&mut self) -> Vec<(BlockId, BlockEvent)> {
        self.events.try_iter().collect()
    }

    fn close(&mut self) {
        drop(self.estimator.take());
        self.commands.close_by(Instant::now() + CLOSE_LIMIT);
        self.send(ManagerRequest::Close);
        if self.manager.take().is_some_and(|manager| manager.join().is_err()) {
            tracing::error!("the thread that speaks to Slurm failed; `squeue` shows whether jobs of this run are left");
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if self.manager.is_some() {
            self.close();
        }
    }
}

/// For a block that found no run to join: if its session is over, those of its jobs that still wait
/// in the queue shall not come.
pub fn withdraw_siblings(name: &str, ended: &EndedSessions) {
    let jobs = SessionJobs::named(name);
    if jobs.are_of(ended)
        && let Err(why) = jobs.cancel(&SlurmCommands::default(), true)
    {
        tracing::warn!("cannot cancel what {name} still has in the queue: {why}");
    }
}

/// Ends jobs that sessions which are over may have left, according to the files in the folder of
/// the run's block logs. Returns their names.
///
/// # Errors
/// If Slurm refuses, or a session may still run.
pub fn withdraw_abandoned(logs: &Path, ended: &EndedSessions) -> Result<Vec<String>, String> {
    let file = logs.join(NAME_FILE);
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut names = NamesFile::read(file.clone()).map_err(told)?;
    let (gone, left) = names.withdraw(&SlurmCommands::default(), ended);
    if !gone.is_empty() {
        names.write().map_err(told)?;
    }
    if left.is_empty() { Ok(gone) } else { Err(left.join("; ")) }
}
