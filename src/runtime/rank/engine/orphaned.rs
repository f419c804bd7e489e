//! What a rank does without rank 0: it finds out that rank 0 is gone, starts nothing more, and
//! keeps for a resume which attempts have ended.

use super::Engine;
use crate::model::Rank;
use crate::runtime::rank::coordinator_watch::{CoordinatorWatch, WatchAction};
use crate::runtime::rank::sent_reports::SentReports;
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::worker::WorkerEvent;

/// What a rank holds back while rank 0 may be gone. MPI aborts a process that sends to a rank which
/// has died (seen with Open MPI over TCP), before that process could keep anything.
#[derive(Default)]
pub(super) struct Doubt {
    /// Messages to rank 0.
    held: Vec<Message>,
    /// Reports among them are written at once.
    is_keeping: bool,
}

impl Engine {
    /// Keeps the reports that are sent, for the case that rank 0 is lost.
    pub(in crate::runtime::rank) fn keep_reports(&mut self, reports: SentReports) {
        self.sent_reports = Some(reports);
    }

    /// Watches rank 0, which is in this rank's own world.
    pub(in crate::runtime::rank) fn set_watch(&mut self, watch: CoordinatorWatch) {
        self.watch = Some(watch);
    }

    /// Rank 0 handles signals; but the launcher may have sent this one because rank 0 is gone.
    pub(super) fn on_signal_of_launcher(&mut self, signal: i32) {
        let now = self.shared.clock.now();
        let is_term = signal == libc::SIGTERM;
        let watch = self.watch.as_mut().filter(|_| is_term);
        let action = watch.and_then(|watch| watch.signalled(now, true));
        action.into_iter().for_each(|action| self.follow(action));
    }

    /// Finds out whether rank 0 is still there, and carries out what is due if it is not.
    pub(super) fn check_coordinator(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let now = self.shared.clock.now();
        let continued = !watch.sees_process() && self.shared.event_wait.take_continued();
        let doubts = continued.then(|| watch.signalled(now, false)).flatten();
        let due = watch.tick(now);
        [doubts, due].into_iter().flatten().for_each(|action| self.follow(action));
    }

    /// Rank 0 has answered a signal.
    pub(super) fn trust_coordinator(&mut self) {
        let action = self.watch.as_mut().and_then(CoordinatorWatch::answered);
        action.into_iter().for_each(|action| self.follow(action));
    }

    fn follow(&mut self, action: WatchAction) {
        match action {
            // A rank that is stopping starts nothing anyway, and rank 0 waits for what it sends.
            WatchAction::Doubt if self.worker.is_stopping() => {}
            WatchAction::Doubt => {
                self.step(WorkerEvent::CutOff(true));
                self.doubt = Some(Doubt::default());
            }
            WatchAction::Keep => self.keep_in_doubt(),
            WatchAction::Trust => {
                let doubt = self.doubt.take().unwrap_or_default();
                self.send_all(doubt.held.into_iter().map(|message| (Rank::ZERO, message)).collect());
                self.step(WorkerEvent::CutOff(false));
            }
            WatchAction::Lose => self.lose_coordinator(),
            WatchAction::End(_) if self.worker.has_stopped() => self.over = true,
            WatchAction::End(how) => self.stop_by_itself(how),
            WatchAction::Leave => {
                self.report_all();
                self.over = true;
            }
        }
    }

    /// Stops as if rank 0 had sent it.
    fn stop_by_itself(&mut self, how: Stop) {
        self.step(WorkerEvent::Message { from: Rank::ZERO, message: Message::Stop { how } });
    }

    /// Rank 0 is gone for good, which a rank that was asked to leave expects: nothing is started
    /// any more, and what has ended is kept.
    pub(super) fn lose_coordinator(&mut self) {
        if self.over || std::mem::replace(&mut self.orphaned, true) {
            return;
        }
        self.doubt = None;
        self.shared.pause();
        self.sent_reports.iter_mut().for_each(SentReports::write_kept);
        self.report_all();
        match &mut self.watch {
            // Running tasks may end for a moment.
            Some(watch) => watch.lose(self.shared.clock.now()),
            None => self.over = true,
        }
    }

    /// Has the worker report what has ended so far.
    fn report_all(&mut self) {
        self.poll_load();
        self.step(WorkerEvent::CoordinatorLost);
    }

    /// Writes what rank 0 may lack, as it may be gone. If it is not, nothing comes of it: the
    /// journal will have the same.
    fn keep_in_doubt(&mut self) {
        self.poll_load();
        let Some(reports) = &mut self.sent_reports else { return };
        reports.write_kept();
        reports.write(self.worker.unconfirmed());
        if let Some(doubt) = &mut self.doubt {
            doubt.is_keeping = true;
            doubt.held.iter().for_each(|message| keep(reports, message));
        }
    }

    /// Takes a message that is not to be sent, because rank 0 is gone or may be.
    pub(super) fn held_back(&mut self, to: Rank, message: Message) -> Option<Message> {
        if to != Rank::ZERO || !self.orphaned && self.doubt.is_none() {
            return Some(message);
        }
        let is_keeping = self.orphaned || self.doubt.as_ref().is_some_and(|doubt| doubt.is_keeping);
        if let Some(reports) = self.sent_reports.as_mut().filter(|_| is_keeping) {
            keep(reports, &message);
        }
        match &mut self.doubt {
            Some(doubt) => doubt.held.push(message),
            // Everything has stopped here. But once a rank exits, `mpirun` hurries the others.
            None => {
                let is_draining = self.watch.as_ref().is_some_and(CoordinatorWatch::is_draining);
                self.over |= message == Message::Stopped && !is_draining;
            }
        }
        None
    }
}

fn keep(reports: &mut SentReports, message: &Message) {
    if let Message::Report { attempts, .. } = message {
        reports.write(attempts.clone());
    }
}
