//! Requests nodes for a run and gives them back, through a provider.
//!
//! A run may own nodes without a world from the start (the allocation that it was started in), and
//! request more if its job names a provider. The blocks themselves are in the node table.

use std::path::Path;
use std::time::Duration;

use super::join_address::Listen;
use crate::capacity::commands::{self, CommandProvider};
use crate::capacity::local::{self, Local, hosts};
use crate::capacity::slurm::{self, Allocation, Slurm};
use crate::capacity::{BlockId, BlockNote, Blocks, Launch, Provider, ProviderOrder, State};
use crate::fabric::bridge::contact::FILE;
use crate::job::{Capacity, Job, ProviderKind};
use crate::journal::{EndedSessions, Level};
use crate::model::{Labels, Offers, Time, labels_of};
use crate::runtime::{Options, RunError};
use crate::schedule::protocol::Welcome;

/// Folder in the run directory with the output of blocks and the name of their jobs.
pub const BLOCKS: &str = "blocks";

/// Puts requests and orders to a provider.
pub(super) struct Provisioner {
    provider: Box<dyn Provider>,
    kind: ProviderKind,
    /// Labels of all blocks.
    labels: Labels,
}

/// Where rank 0 listens for ranks that join; `None` if none can join.
pub(super) fn listen_on(options: &Options, job: &Job) -> Option<Listen> {
    let capacity = &job.capacity;
    if let Some(named) = options.join_on.as_ref().or(capacity.listen.as_ref()) {
        return Some(Listen::On(named.clone()));
    }
    match capacity.provider {
        ProviderKind::None => Allocation::from_environment().map(|_| Listen::Reachable),
        ProviderKind::Local if capacity.hostfile.is_none() => Some(Listen::On("127.0.0.1".into())),
        ProviderKind::Local | ProviderKind::Slurm | ProviderKind::Commands => Some(Listen::Reachable),
    }
}

/// Refuses a provider that cannot work, before anything has begun.
///
/// # Errors
/// If the hostfile cannot be used.
pub(super) fn check(capacity: &Capacity) -> Result<(), RunError> {
    capacity.hostfile.as_ref().map_or(Ok(()), |file| hosts(file).map(drop).map_err(RunError::Refused))
}

/// The nodes that these settings can give, by their labels, before there is a provisioner.
///
/// # Errors
/// If the hostfile cannot be used.
pub(super) fn offers(capacity: &Capacity) -> Result<Offers, RunError> {
    Ok(match (capacity.provider, &capacity.hostfile) {
        (ProviderKind::None, _) => Offers::Nothing,
        (ProviderKind::Slurm, _) => slurm::offers(capacity),
        (ProviderKind::Commands, _) => commands::offers(capacity),
        (ProviderKind::Local, None) => local::offers(None, &capacity.labels),
        (ProviderKind::Local, Some(file)) => {
            local::offers(Some(&hosts(file).map_err(RunError::Refused)?), &capacity.labels)
        }
    })
}

/// Time that a node takes to join, before one has been observed.
pub(super) fn default_delay(kind: ProviderKind) -> Duration {
    match kind {
        ProviderKind::Slurm | ProviderKind::Commands => Duration::from_secs(15),
        _ => Duration::from_secs(1),
    }
}

impl Provisioner {
    /// The provisioner of a run that ranks can join; `None` if it has neither nodes without a world
    /// nor a provider. Nodes of its own become blocks at once.
    ///
    /// # Errors
    /// If the provider cannot be used.
    pub(super) fn new(
        capacity: &Capacity,
        welcome: &Welcome,
        ended: &EndedSessions,
        blocks: &mut Blocks,
    ) -> Result<Option<Provisioner>, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let kind = capacity.provider;
        let may_be_slurm = matches!(kind, ProviderKind::None | ProviderKind::Slurm);
        let allocation = Allocation::from_environment().filter(|_| may_be_slurm);
        if kind == ProviderKind::None && allocation.is_none() {
            return Ok(None);
        }
        let dir = Path::new(&welcome.run_dir);
        let logs = dir.join(BLOCKS);
        std::fs::create_dir_all(&logs).map_err(system("make the folder of the blocks' logs"))?;
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let (run, began_unix_ns) = (welcome.run_name.clone(), welcome.began_unix_ns);
        let launch = Launch { program, contact: dir.join(FILE), logs, run, began_unix_ns };
        let labels = labels_of(capacity.labels.iter().cloned());
        let provider: Box<dyn Provider> = match &capacity.hostfile {
            _ if kind == ProviderKind::Commands => {
                let commands = CommandProvider::new(launch, capacity, ended);
                Box::new(commands.map_err(system("use [capacity.commands]"))?)
            }
            _ if kind != ProviderKind::Local => {
                let nodes = allocation.iter().flat_map(|allocation| allocation.others.clone());
                let own: Vec<(BlockId, String)> = nodes.map(|node| (blocks.own(Time::ZERO), node)).collect();
                let slurm = Slurm::new(launch, capacity.clone(), allocation, ended);
                let mut slurm = slurm.map_err(system("speak to Slurm"))?;
                own.into_iter().for_each(|(id, node)| slurm.adopt(id, node));
                Box::new(slurm)
            }
            Some(file) => {
                Box::new(Local::new(launch, Some(hosts(file).map_err(RunError::Refused)?), Labels::clone(&labels)))
            }
            None => Box::new(Local::new(launch, None, Labels::clone(&labels))),
        };
        Ok(Some(Provisioner { provider, kind, labels }))
    }

    /// Requests nodes with these labels, which are needed for at most `limit`; returns the number
    /// of requests.
    pub(super) fn request(
        &mut self,
        now: Time,
        blocks: &mut Blocks,
        (nodes, wanted): (u32, &Labels),
        limit: Option<Duration>,
    ) -> u32 {
        let most = if self.kind == ProviderKind::None { held(blocks) } else { nodes as usize };
        let labels = labels_of(self.labels.iter().chain(wanted.iter()).cloned());
        let ids: Vec<BlockId> = (0..nodes).take(most).map_while(|_| blocks.request(now, &labels)).collect();
        if !ids.is_empty() {
            self.provider.request(&ids, wanted, limit);
        }
        ids.len() as u32
    }

    /// The nodes that can be requested, by their labels.
    pub(super) fn offers(&self, blocks: &Blocks) -> Offers {
        match self.kind {
            _ if blocks.paused().is_some() => Offers::Nothing,
            ProviderKind::None => Offers::Nothing,
            _ => self.provider.offers(),
        }
    }

    /// Number of further nodes that the provider can hold; `None` if it is not known.
    pub(super) fn room(&self, blocks: &Blocks) -> Option<u32> {
        if self.kind == ProviderKind::None {
            return Some(held(blocks) as u32);
        }
        let taken = blocks.iter().filter(|block| !block.state.is_over()).count() as u32;
        self.provider.most_blocks().map(|most| most.saturating_sub(taken))
    }

    /// The name of the provider, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            ProviderKind::None => "the allocation",
            ProviderKind::Local => "the provider `local`",
            ProviderKind::Slurm => "the provider `slurm`",
            ProviderKind::Commands => "the provider `commands`",
        }
    }

    /// Takes the events of the provider, and puts the resulting orders to it. Tasks take up to
    /// `task`, if that is known.
    pub(super) fn poll(&mut self, now: Time, blocks: &mut Blocks, task: Option<Duration>) -> Vec<(Level, String)> {
        for (id, event) in self.provider.poll() {
            blocks.step(now, id, event);
        }
        blocks.tick(now, task);
        self.execute_orders(blocks);
        let note = |note| match note {
            BlockNote::Info(text) => (Level::Info, text),
            BlockNote::Warning(text) => (Level::Warning, text),
        };
        blocks.take_notes().into_iter().map(note).collect()
    }

    /// Puts orders to the provider that follow from events of blocks.
    pub(super) fn execute_orders(&mut self, blocks: &mut Blocks) {
        for order in blocks.take_orders() {
            match order {
                ProviderOrder::Release(id) => self.provider.release(id),
                ProviderOrder::Withdraw(id) => self.provider.withdraw(id),
            }
        }
    }

    /// Gives everything back, and waits until the provider confirms it or a limit has passed.
    pub(super) fn close(&mut self, now: Time, blocks: &mut Blocks) -> Vec<(Level, String)> {
        blocks.withdraw_waiting(now, usize::MAX);
        self.provider.close();
        self.poll(now, blocks, None)
    }
}

/// Number of nodes of the run's own allocation that are billed without a world.
fn held(blocks: &Blocks) -> usize {
    blocks.iter().filter(|block| block.state == State::Held && block.own).count()
}
