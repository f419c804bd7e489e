//! What follows when tasks end: successors start here, and ends are sent to the ranks that count
//! them.

use super::{Worker, WorkerAction, send};
use crate::model::{Attempt, Outcome, Rank, State, Time};
use crate::schedule::dependency_counts::{CompletionEffects, End};
use crate::schedule::protocol::{Lease, Message};

/// Upper limit on ends per `Counts` message, which keeps it below the eager limit of common
/// transports.
const MAX_ENDS_PER_MESSAGE: usize = 900;

impl Worker {
    pub(super) fn count(&mut self, now: Time, ended: Vec<(u32, End)>, actions: &mut Vec<WorkerAction>) {
        let Some(ledger) = self.ledger.clone() else { return };
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        for (node, end) in ended {
            ledger.import(node, end, now, &mut effects);
        }
        self.apply_effects(now, &mut effects, actions);
        self.effects = effects;
    }

    /// Starts tasks that became ready and sends ends to other ranks.
    pub(super) fn apply_effects(
        &mut self,
        now: Time,
        effects: &mut CompletionEffects,
        actions: &mut Vec<WorkerAction>,
    ) {
        self.start(std::mem::take(&mut effects.ready), actions);
        self.send_ends(now, effects, actions);
    }

    pub(super) fn start(&mut self, locals: Vec<u32>, actions: &mut Vec<WorkerAction>) {
        let Some(ledger) = self.ledger.clone() else { return };
        if self.stopping.is_some() {
            return;
        }
        if self.phase.is_freezing() || self.room.slots == 0 {
            // Their next home starts them: the pool has given up its waiting tasks, or there is
            // none, and no rank keeps these.
            return self.lent.extend(locals.into_iter().map(|local| ledger.task(local)));
        }
        // Tasks that this rank cannot run wait here for a rank that can.
        let locals = locals.into_iter().filter(|&local| !self.lent.contains(&ledger.task(local)));
        let (gangs, here): (Vec<u32>, Vec<u32>) =
            locals.partition(|&l| self.facts.needs_gang(ledger.task(l), self.room, self.active));
        if !here.is_empty() {
            self.load.ready += here.len() as u32;
            actions.push(WorkerAction::Start(here));
        }
        for local in gangs {
            let lease = Lease::at_home(&ledger, local, self.me);
            self.lent.insert(lease.task);
            send(actions, Rank::ZERO, Message::GangReady { lease });
        }
    }

    /// Sends ends to the ranks that count them, and skipped tasks to the coordinator.
    pub(super) fn send_ends(&mut self, now: Time, effects: &mut CompletionEffects, actions: &mut Vec<WorkerAction>) {
        if let Some(ledger) = &self.ledger {
            let skipped = effects.skipped.drain(..).map(|local| Attempt {
                task: ledger.task(local),
                attempt: 0,
                outcome: Outcome { state: State::Skipped, exit: 0, cached: false },
                last: true,
                rank: self.me,
                slot: 0,
                ready: now,
                start: now,
                end: now,
            });
            self.report.extend(skipped);
        }
        each_destination(&mut effects.exports, |to, batch| {
            let ended = batch.iter().map(|&(_, node, end)| (node, end)).collect();
            send(actions, to, Message::Counts { epoch: self.epoch, ended });
        });
        effects.exports.clear();
        self.note_report(now);
    }
}

/// Sorts ends by receiver, and calls `send` for each message with its receiver and its content.
pub fn each_destination(exports: &mut [(Rank, u32, End)], mut send: impl FnMut(Rank, &[(Rank, u32, End)])) {
    if exports.len() > 1 {
        exports.sort_by_key(|export| export.0);
    }
    for run in exports.chunk_by(|a, b| a.0 == b.0) {
        run.chunks(MAX_ENDS_PER_MESSAGE).for_each(|batch| send(run[0].0, batch));
    }
}
