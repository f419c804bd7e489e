//! What ends a run early: signals, the end of the allocation, and the budget.
//!
//! A stop is one of drain (running tasks go on), terminate and kill. A soft stop may escalate to a
//! harder one at a later time.

use std::time::Duration;

use super::walltime::Walltime;
use crate::model::Time;
use crate::observe::SIGNALLED;
use crate::schedule::coordinator::StopReason;
use crate::schedule::protocol::Stop;
use crate::system::launch;
use crate::text::counted;

/// `mpirun` kills its ranks one second after SIGTERM; tasks that are alive then would be orphans.
const KILL_DELAY_UNDER_MPIRUN: Duration = Duration::from_millis(400);

/// Time between TERM and KILL at the end of the budget; the scaling core keeps more than that in
/// reserve.
const KILL_DELAY_AT_BUDGET: Duration = Duration::from_millis(800);

/// The limits of a run under way.
#[derive(Debug)]
pub(super) struct Limits {
    walltime: Option<Walltime>,
    /// `mpirun` started this process.
    launched: bool,
    interrupts: u32,
    /// When a stop becomes a harder one.
    escalation: Option<(Time, Stop)>,
    /// The budget is spent.
    pub(super) is_spent: bool,
}

/// A stop that a signal asks for.
#[derive(Debug)]
pub(super) struct StopRequest {
    pub(super) how: Stop,
    pub(super) why: StopReason,
    /// For the user.
    pub(super) text: String,
}

impl Limits {
    /// The limits that the launcher of this process set.
    pub(super) fn from_environment() -> Limits {
        Limits::new(Walltime::from_environment(), launch::is_launched())
    }

    fn new(walltime: Option<Walltime>, launched: bool) -> Limits {
        Limits { walltime, launched, interrupts: 0, escalation: None, is_spent: false }
    }

    /// How long tasks that take up to `task` may still be started, if the end of the allocation is
    /// known.
    pub(super) fn time_left(&self, task: Option<Duration>) -> Option<Duration> {
        self.walltime.as_ref().map(|walltime| walltime.left(task))
    }

    /// The stop that the end of the allocation asks for now; each is returned once.
    pub(super) fn walltime_due(&mut self, task: Option<Duration>) -> Option<Stop> {
        self.walltime.as_mut().and_then(|walltime| walltime.due(task))
    }

    /// Nothing may run beyond `by`.
    pub(super) fn budget_spent(&mut self, by: Time) {
        self.is_spent = true;
        self.escalation = Some((by, Stop::Terminate));
    }

    /// The harder stop that is due, once.
    pub(super) fn escalation_due(&mut self, now: Time) -> Option<Stop> {
        let (_, how) = self.escalation.take_if(|(due, _)| *due <= now)?;
        if how == Stop::Terminate && self.is_spent {
            // A task that ignores TERM must not cost more than may be spent.
            self.escalation = Some((now.after(KILL_DELAY_AT_BUDGET), Stop::Kill));
        }
        Some(how)
    }

    /// Handles a signal. SIGINT drains, then terminates, then kills; the other signals mean that
    /// the allocation ends soon.
    pub(super) fn on_signal(&mut self, now: Time, signal: i32, running: u32) -> StopRequest {
        if signal == libc::SIGINT {
            self.interrupts += 1;
            let running = counted(running, "running task");
            let (how, text) = match self.interrupts {
                1 => (Stop::Drain, format!("interrupted: waiting for {running}; interrupt again to stop what runs")),
                2 => (Stop::Terminate, format!("stopping {running}; interrupt again to kill what runs")),
                _ => (Stop::Kill, format!("killing {running}")),
            };
            return StopRequest { how, why: StopReason::Signal(signal), text };
        }
        let (name, how) = match signal {
            libc::SIGUSR1 => ("SIGUSR1", Stop::Drain),
            libc::SIGHUP => ("SIGHUP", Stop::Terminate),
            _ => ("SIGTERM", Stop::Terminate),
        };
        let harder = match how {
            Stop::Drain if self.walltime.is_none() => Some((now.after(Walltime::WARNING_GRACE), Stop::Terminate)),
            Stop::Terminate if self.launched => Some((now.after(KILL_DELAY_UNDER_MPIRUN), Stop::Kill)),
            _ => None,
        };
        // An earlier escalation, as at the end of the budget, stays where it is.
        self.escalation = self.escalation.into_iter().chain(harder).min_by_key(|(due, _)| *due);
        let text = format!("{name}{SIGNALLED}, no further task is started ({running} running)");
        StopRequest { how, why: StopReason::Walltime, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(s: u64) -> Time {
        Time(s * 1_000_000_000)
    }

    #[test]
    fn interrupts_become_harder() {
        let mut limits = Limits::new(None, true);
        let stops = [0, 1, 2, 3].map(|_| limits.on_signal(Time::ZERO, libc::SIGINT, 5).how);
        assert_eq!(stops, [Stop::Drain, Stop::Terminate, Stop::Kill, Stop::Kill]);
        assert_eq!(limits.escalation_due(second(3600)), None, "only the user makes it harder");
    }

    #[test]
    fn a_warning_ends_what_still_runs_after_a_while() {
        let mut limits = Limits::new(None, false);
        assert_eq!(limits.on_signal(second(1), libc::SIGUSR1, 0).how, Stop::Drain);
        assert_eq!(limits.escalation_due(second(60)), None);
        assert_eq!(limits.escalation_due(second(61)), Some(Stop::Terminate));
        assert_eq!(limits.escalation_due(second(61)), None, "once");
    }

    #[test]
    fn the_end_of_the_budget_stays_where_it_is_and_kills() {
        let mut limits = Limits::new(None, false);
        limits.budget_spent(second(10));
        limits.on_signal(second(1), libc::SIGUSR1, 0);
        assert_eq!(limits.escalation_due(second(10)), Some(Stop::Terminate));
        assert_eq!((limits.escalation_due(second(10)), limits.escalation_due(second(11))), (None, Some(Stop::Kill)));
    }
}
