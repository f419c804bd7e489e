//! Events into the worker, and its actions carried out.

use super::Engine;
use crate::exec::TaskStop;
use crate::model::{Attempt, Time};
use crate::schedule::dependency_counts::CompletionEffects;
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::worker::{WorkerAction, WorkerEvent};

impl Engine {
    /// Hands the worker an event and carries out its actions.
    pub(super) fn step(&mut self, event: WorkerEvent) {
        let mut actions = std::mem::take(&mut self.actions);
        let reports_pools = matches!(event, WorkerEvent::Pools(_));
        self.worker.step(self.shared.clock.now(), event, &mut actions);
        self.carry_out(actions);
        // Tasks that wait for units wake no slot, so nothing else would report them soon.
        if !reports_pools && let Some(report) = self.pool_report() {
            self.step(report);
        }
    }

    /// Records attempts that slots have counted, and carries out what follows for other ranks.
    pub(super) fn record_completions(
        &mut self,
        now: Time,
        attempts: &mut Vec<Attempt>,
        effects: &mut CompletionEffects,
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        self.worker.completed(now, attempts, effects, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, mut actions: Vec<WorkerAction>) {
        for action in actions.drain(..) {
            if let Some(answer) = self.act(action) {
                self.step(answer);
            }
        }
        self.actions = actions;
    }

    /// What there is to report about leases of pools.
    pub(super) fn pool_report(&self) -> Option<WorkerEvent> {
        if !self.shared.job.has_pools() {
            return None;
        }
        let idle = self.shared.load().idle;
        self.shared.pool_report(idle).map(WorkerEvent::Pools)
    }

    /// Carries one action out; some are answered by an event.
    fn act(&mut self, action: WorkerAction) -> Option<WorkerEvent> {
        match action {
            WorkerAction::Send { to, message } => {
                if let Message::StealReply { leases, .. } = &message {
                    self.shared.files.left(leases.iter().map(|lease| lease.task));
                }
                if matches!(message, Message::Report { .. } | Message::Stopped) {
                    self.send_telemetry();
                    self.send_file_messages();
                }
                self.send(to, message);
            }
            WorkerAction::TakeUp => {
                if let Some(ledger) = self.worker.ledger() {
                    self.shared.open_epoch(self.worker.epoch(), ledger);
                }
            }
            WorkerAction::PoolOrders(orders) => {
                if let Some(pool) = self.shared.pool.get() {
                    pool.carry_out_pool_orders(&orders);
                }
            }
            WorkerAction::LearnShares(elsewhere) => {
                if let Some(pool) = self.shared.pool.get() {
                    pool.learn_shares(&elsewhere);
                }
            }
            WorkerAction::Start(locals) => self.shared.start(&locals),
            WorkerAction::StartLease(lease) => self.shared.start_lease(lease),
            WorkerAction::Surrender { to, max } => {
                return Some(WorkerEvent::Surrendered { to, leases: self.shared.surrender(max) });
            }
            WorkerAction::Freeze { keep } => {
                // In this order: what slots have counted until the ledger was retired still counts.
                self.shared.ledgers.retire();
                self.drain_outboxes();
                return Some(WorkerEvent::Frozen { waiting: self.shared.surrender_all(keep) });
            }
            WorkerAction::Hold { gang, host, lease, leads } => {
                if let Err(reason) = self.shared.hold(gang, &host, lease, leads) {
                    self.fail(reason);
                }
            }
            WorkerAction::Launch { gang, hosts, cpus, ranks } => self.shared.launch(gang, hosts, cpus, ranks),
            WorkerAction::Share { gang, lease, ranks } => self.shared.share(gang, lease, ranks),
            WorkerAction::MemberLost { gang, rank } => self.shared.member_lost(gang, rank),
            WorkerAction::Release { gang } => self.shared.release_gang(gang),
            WorkerAction::Suspend | WorkerAction::Halt => self.shared.pause(),
            WorkerAction::Resume => self.shared.resume(),
            WorkerAction::Stop(how) => {
                self.shared.pause();
                match how {
                    Stop::Drain => {}
                    Stop::Terminate => self.shared.runner.stop_all(TaskStop::Terminate),
                    Stop::Kill => {
                        self.shared.runner.stop_all(TaskStop::Kill);
                        self.shared.output_sender.iter().for_each(|sender| sender.hurry());
                    }
                }
            }
            WorkerAction::Cancel(tasks) => {
                for &(from, to) in &tasks {
                    self.shared.runner.cancel(from..to);
                }
                self.shared.cancel_waiting(&tasks);
                self.drain_outboxes();
            }
            WorkerAction::Pause(tasks) => self.shared.pause_tasks(tasks),
            WorkerAction::Exit => self.over = true,
        }
        None
    }
}
