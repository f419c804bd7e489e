//! What a rank reports to the coordinator, and when: shortly after something changes, and finally
//! that it has stopped.

use super::{Worker, WorkerAction, send};
use crate::model::{Rank, Time};
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::pools::PoolReport;
use crate::schedule::protocol::{Load, Message};

/// What the coordinator is to learn about the leases of pools.
#[derive(Debug, Default)]
pub(super) struct PoolReporting {
    /// The latest state.
    latest: PoolReport,
    /// When it is sent, if it is new.
    pub(super) due: Option<Time>,
}

impl Worker {
    pub(super) fn note_report(&mut self, now: Time) {
        if self.report_due.is_none() && !(self.report.is_empty() && self.started.is_empty()) {
            self.report_due = Some(now.after(self.pace.report));
        }
    }

    /// The last step of every event: due retries, steals, reports, and the end of a stop.
    pub(super) fn settle(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        self.start_retries(now, actions);
        if self.may_steal() || self.may_only_give() {
            let (load, ledger) = (self.offered(self.load), self.ledger.as_deref());
            let has_special = || ledger.is_some_and(DependencyCounts::has_open_special);
            self.stealer.update(now, load, &has_special, actions);
        }
        self.report_pools(now, actions);
        let idle = self.load.busy == 0 && self.load.ready == 0;
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
        let rested = self.rested_at().is_some_and(|at| at <= now);
        let due = self.report_due.is_some_and(|due| due <= now);
        let changed = self.load != self.reported_load && self.load_due <= now;
        let full = self.report.len() >= self.pace.report_size;
        let last = self.stopping.is_some() && !self.stopped && self.quiet && self.has_settled();
        // A report sent after the pool was asked to freeze could arrive after the `Ack` that must
        // follow it.
        let may_report = !self.phase.is_freezing();
        if may_report && (due || full || changed || rested || (last && !self.report.is_empty())) {
            self.send_report(now, actions);
        }
        if may_report {
            self.ask_for_verdict(actions);
        }
        if last {
            self.stopped = true;
            send(actions, Rank::ZERO, Message::Stopped);
        }
        self.leave_if_empty(now, actions);
    }

    /// True if no further message can matter to this rank: homes are known, and the coordinator has
    /// confirmed all attempts here that only their homes report.
    fn has_settled(&self) -> bool {
        let is_confirmed = || self.guests.values().all(|guest| guest.ended.is_none());
        self.is_orphaned || self.phase.is_settled() && is_confirmed()
    }

    /// When a rank without work reports what it has done.
    pub(super) fn rested_at(&self) -> Option<Time> {
        self.idle_since.filter(|_| !self.report.is_empty()).map(|since| since.after(self.pace.idle))
    }

    /// Takes over what the pool says about its leases. Claims and returned units are reported at
    /// once, since other ranks may wait for them; how much is in use can wait.
    pub(super) fn pools_changed(&mut self, now: Time, mut report: PoolReport) {
        let latest = &mut self.pools.latest;
        let is_urgent = !report.returned.is_empty() || report.claims != latest.claims || report.seen != latest.seen;
        // What an earlier report gave back may not have been sent yet.
        if self.pools.due.is_some() {
            report.returned.append(&mut latest.returned);
        }
        if is_urgent || report.used != latest.used {
            let due = if is_urgent { now } else { now.after(self.pace.pools) };
            self.pools.due = Some(self.pools.due.map_or(due, |before| before.min(due)));
        }
        *latest = report;
    }

    fn report_pools(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        if self.pools.due.is_some_and(|due| due <= now) {
            self.pools.due = None;
            let report =
                PoolReport { returned: std::mem::take(&mut self.pools.latest.returned), ..self.pools.latest.clone() };
            send(actions, Rank::ZERO, Message::Pools(report));
        }
    }

    pub(super) fn send_report(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        self.report_due = None;
        self.load_due = now.after(self.pace.load);
        self.reported_load = self.load;
        let (attempts, started) = (std::mem::take(&mut self.report), std::mem::take(&mut self.started));
        let load = Load { held: self.load.held + self.retries.len() as u32, ..self.load };
        send(actions, Rank::ZERO, Message::Report { attempts, started, load });
    }
}
