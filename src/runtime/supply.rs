//! Rank 0's supply of nodes: the blocks of the run, with whoever gives them.

use std::path::Path;
use std::time::Duration;

use super::RunError;
use crate::capacity::local::Local;
use crate::capacity::slurm::Slurm;
use crate::capacity::{Block, BlockId, Blocks, Event, Note, Order, Provider, State};
use crate::fabric::bridge::contact::FILE;
use crate::job::{Capacity, ProviderKind};
use crate::journal::Level;
use crate::model::Time;

/// See the module's text.
pub(super) struct Supply {
    blocks: Blocks,
    provider: Box<dyn Provider>,
    kind: ProviderKind,
}

impl Supply {
    /// The supply that a job names, if it names one.
    pub(super) fn of(capacity: &Capacity, run_dir: &str, run: &str) -> Result<Option<Supply>, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        if capacity.provider == ProviderKind::None {
            return Ok(None);
        }
        let dir = Path::new(run_dir);
        let logs = dir.join("blocks");
        std::fs::create_dir_all(&logs).map_err(system("make the folder of the blocks' logs"))?;
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let order = Order { program, contact: dir.join(FILE), logs, run: run.to_owned() };
        let provider: Box<dyn Provider> = match capacity.provider {
            ProviderKind::Slurm => Box::new(Slurm::new(order, capacity.clone()).map_err(system("start a thread"))?),
            _ => Box::new(Local::new(order)),
        };
        Ok(Some(Supply { blocks: Blocks::default(), provider, kind: capacity.provider }))
    }

    /// How long a node may take to come, before anybody has seen one come.
    pub(super) fn usual_delay(kind: ProviderKind) -> Duration {
        match kind {
            ProviderKind::Slurm => Duration::from_secs(15),
            _ => Duration::from_secs(1),
        }
    }

    pub(super) fn kind(&self) -> ProviderKind {
        self.kind
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Asks for so many nodes; says for how many it did.
    pub(super) fn request(&mut self, now: Time, nodes: u32) -> u32 {
        let mut asked = 0;
        while asked < nodes
            && let Some(id) = self.blocks.request(now)
        {
            self.provider.request(id);
            asked += 1;
        }
        asked
    }

    /// Something happened to a block that the provider does not know of.
    pub(super) fn step(&mut self, now: Time, id: BlockId, event: Event) {
        self.blocks.step(now, id, event);
        self.withdraw();
    }

    /// Blocks that have not come, the newest first.
    pub(super) fn waiting(&self) -> Vec<BlockId> {
        let waits = |block: &&Block| matches!(block.state, State::Requested | State::Pending);
        self.blocks.iter().rev().filter(waits).map(|block| block.id).collect()
    }

    /// Hears the provider; returns what is to be told.
    pub(super) fn look(&mut self, now: Time) -> Vec<(Level, String)> {
        for (id, event) in self.provider.poll() {
            self.blocks.step(now, id, event);
        }
        self.blocks.tick(now);
        self.withdraw();
        let told = |note| match note {
            Note::Info(text) => (Level::Info, text),
            Note::Warning(text) => (Level::Warning, text),
        };
        self.blocks.take_notes().into_iter().map(told).collect()
    }

    fn withdraw(&mut self) {
        for id in self.blocks.take_withdrawals() {
            self.provider.withdraw(id);
        }
    }

    /// Gives everything back, and waits until that is done.
    pub(super) fn close(&mut self, now: Time) -> Vec<(Level, String)> {
        for id in self.waiting() {
            self.blocks.step(now, id, Event::Drain);
        }
        self.provider.close();
        self.look(now)
    }
}
