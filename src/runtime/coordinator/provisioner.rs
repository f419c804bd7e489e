//! Rank 0's provisioner of nodes: the blocks of the run, with whoever gives them.
//!
//! A run may have nodes without a world from the start (the allocation that it was started in), and ask for more where the job names a provider.

use std::path::Path;
use std::time::Duration;

use super::join_address::Listen;
use crate::capacity::local::{Local, hosts};
use crate::capacity::slurm::{Allocation, Slurm};
use crate::capacity::{Block, BlockId, Blocks, Event, Launch, Note, Order, Provider, State};
use crate::fabric::bridge::contact::FILE;
use crate::job::{Capacity, Job, ProviderKind};
use crate::journal::{EndedSessions, Level};
use crate::model::Time;
use crate::runtime::{Options, RunError};
use crate::schedule::protocol::Welcome;

/// In the run directory: what blocks have to say, and the name of their jobs.
pub const BLOCKS: &str = "blocks";

/// See the module's text.
pub(crate) struct Provisioner {
    blocks: Blocks,
    provider: Box<dyn Provider>,
    kind: ProviderKind,
}

/// Where rank 0 listens for ranks that join; `None` if none will.
pub(crate) fn listen_on(options: &Options, job: &Job) -> Option<Listen> {
    let capacity = &job.capacity;
    if let Some(named) = options.join_on.as_ref().or(capacity.listen.as_ref()) {
        return Some(Listen::On(named.clone()));
    }
    match capacity.provider {
        ProviderKind::None => Allocation::from_environment().map(|_| Listen::Reachable),
        ProviderKind::Local if capacity.hostfile.is_none() => Some(Listen::On("127.0.0.1".into())),
        ProviderKind::Local | ProviderKind::Slurm => Some(Listen::Reachable),
    }
}

/// Refuses, before anything has begun, a provisioner that there cannot be.
pub(crate) fn check(capacity: &Capacity) -> Result<(), RunError> {
    capacity.hostfile.as_ref().map_or(Ok(()), |file| hosts(file).map(drop).map_err(RunError::Refused))
}

impl Provisioner {
    /// The provisioner of a run whose listener is open: of the nodes on which it has no world yet, and of those that its job names a provider for.
    pub(crate) fn of(
        capacity: &Capacity,
        welcome: &Welcome,
        ended: &EndedSessions,
    ) -> Result<Option<Provisioner>, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let allocation = Allocation::from_environment().filter(|_| capacity.provider != ProviderKind::Local);
        if capacity.provider == ProviderKind::None && allocation.is_none() {
            return Ok(None);
        }
        let dir = Path::new(&welcome.run_dir);
        let logs = dir.join(BLOCKS);
        std::fs::create_dir_all(&logs).map_err(system("make the folder of the blocks' logs"))?;
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let (run, began_unix_ns) = (welcome.run_name.clone(), welcome.began_unix_ns);
        let launch = Launch { program, contact: dir.join(FILE), logs, run, began_unix_ns };
        let (kind, mut blocks) = (capacity.provider, Blocks::default());
        let provider: Box<dyn Provider> = match &capacity.hostfile {
            _ if kind != ProviderKind::Local => {
                let nodes = allocation.iter().flat_map(|allocation| allocation.others.clone());
                let own: Vec<(BlockId, String)> = nodes.map(|node| (blocks.own(Time::ZERO), node)).collect();
                let slurm = Slurm::new(launch, capacity.clone(), allocation, ended);
                let mut slurm = slurm.map_err(system("speak to Slurm"))?;
                own.into_iter().for_each(|(id, node)| slurm.adopt(id, node));
                Box::new(slurm)
            }
            Some(file) => Box::new(Local::new(launch, Some(hosts(file).map_err(RunError::Refused)?))),
            None => Box::new(Local::new(launch, None)),
        };
        Ok(Some(Provisioner { blocks, provider, kind }))
    }

    /// How long a node may take to come, before anybody has seen one come.
    pub(crate) fn usual_delay(kind: ProviderKind) -> Duration {
        match kind {
            ProviderKind::Slurm => Duration::from_secs(15),
            _ => Duration::from_secs(1),
        }
    }

    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Asks for so many nodes, which nobody needs for longer than `limit`; says for how many it did.
    pub(crate) fn request(&mut self, now: Time, nodes: u32, limit: Option<Duration>) -> u32 {
        let held = self.blocks.iter().filter(|block| block.state == State::Held && block.own).count();
        let most = if self.kind == ProviderKind::None { held } else { nodes as usize };
        let ids: Vec<BlockId> = (0..nodes).take(most).map_while(|_| self.blocks.request(now)).collect();
        if !ids.is_empty() {
            self.provider.request(&ids, limit);
        }
        ids.len() as u32
    }

    /// Something happened to a block that the provider does not know of.
    pub(crate) fn step(&mut self, now: Time, id: BlockId, event: Event) {
        self.blocks.step(now, id, event);
        self.pass_on();
    }

    /// Blocks that have not come, the newest first.
    pub(crate) fn waiting(&self) -> Vec<BlockId> {
        let waits = |block: &&Block| matches!(block.state, State::Requested | State::Pending);
        self.blocks.iter().rev().filter(waits).map(|block| block.id).collect()
    }

    /// True if a node may still come.
    pub(crate) fn is_hopeful(&self) -> bool {
        let comes = |block: &Block| self.expects(block.id.0);
        self.blocks.paused().is_none() && (self.kind != ProviderKind::None || self.blocks.iter().any(comes))
    }

    /// True if the world of a block may come in.
    pub(crate) fn expects(&self, block: u64) -> bool {
        let comes = |state| matches!(state, State::Requested | State::Pending | State::Granted);
        self.blocks.get(BlockId(block)).is_some_and(|block| comes(block.state))
    }

    /// True if a block whose ranks are parked can be given back: alone, or because its whole job can end, in which no block is of use.
    pub(crate) fn may_go(&self, id: BlockId, is_idle: &dyn Fn(BlockId) -> bool) -> bool {
        let Some(block) = self.blocks.get(id) else { return false };
        let mates = || self.blocks.iter().filter(|other| other.name == block.name && !other.state.is_over());
        let useless = |other: &Block| other.state == State::Held || is_idle(other.id);
        !self.blocks.is_bound(id) || (!block.own && mates().all(useless))
    }

    /// Active blocks whose time is nearly up, each once.
    pub(crate) fn expiring(&mut self) -> Vec<BlockId> {
        self.blocks.take_expiring()
    }

    /// Blocks of which something has changed since it was last asked.
    pub(crate) fn changed(&mut self) -> Vec<Block> {
        let changed = self.blocks.take_changed();
        changed.into_iter().filter_map(|id| self.blocks.get(id).cloned()).collect()
    }

    /// Hears the provider; returns what is to be told.
    pub(crate) fn look(&mut self, now: Time) -> Vec<(Level, String)> {
        for (id, event) in self.provider.poll() {
            self.blocks.step(now, id, event);
        }
        self.blocks.tick(now);
        self.pass_on();
        let told = |note| match note {
            Note::Info(text) => (Level::Info, text),
            Note::Warning(text) => (Level::Warning, text),
        };
        self.blocks.take_notes().into_iter().map(told).collect()
    }

    fn pass_on(&mut self) {
        for order in self.blocks.take_orders() {
            match order {
                Order::Release(id) => self.provider.release(id),
                Order::Withdraw(id) => self.provider.withdraw(id),
            }
        }
    }

    /// Gives everything back, and waits until that is done.
    pub(crate) fn close(&mut self, now: Time) -> Vec<(Level, String)> {
        for id in self.waiting() {
            self.blocks.step(now, id, Event::Drain);
        }
        self.provider.close();
        self.look(now)
    }
}
