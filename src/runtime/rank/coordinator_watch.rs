//! Whether rank 0 is still there, for the ranks of its own world.
//!
//! When a rank dies, `mpirun` ends the others: Open MPI sends SIGCONT at once, SIGTERM after
//! `odls_base_sigkill_timeout` (1 s) and SIGKILL after as much again; MPICH sends SIGKILL at once.
//! A batch system sends SIGTERM while rank 0 is alive and decides about the end. So a signal alone
//! is no proof:
//!
//! - A rank on rank 0's machine watches rank 0's process. Once that has ended, the rank starts
//!   nothing more. Running tasks may end within the time that Open MPI leaves them, then they are
//!   ended, and the rank exits before SIGKILL. No rank exits earlier, since Open MPI then sends the
//!   others the next signal at once.
//! - Any other rank *doubts* after a signal: it starts nothing, sends rank 0 nothing, and after a
//!   moment keeps what has ended. SIGTERM makes a rank 0 that is alive send `Stop`, which ends the
//!   doubt. So does time: then the launcher did not mean the end of the world.

use std::time::Duration;

use crate::model::Time;
use crate::schedule::protocol::Stop;
use crate::system::process_watch::{ProcessMark, ProcessWatch};

/// Interval between two checks of rank 0's process. One takes less than a microsecond.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How long a rank doubts before it keeps what has ended: `Stop` usually comes earlier.
const KEEP_DELAY: Duration = Duration::from_millis(200);

/// How long a rank doubts after the last signal: longer than Open MPI takes from one to the next.
const DOUBT_LIMIT: Duration = Duration::from_secs(3);

/// How long running tasks may go on without rank 0, unless SIGTERM comes earlier.
const DRAIN_LIMIT: Duration = Duration::from_millis(900);

/// Time between TERM and KILL for what still runs then, and between KILL and the end of the rank.
const END_STEP: Duration = Duration::from_millis(250);

/// What the rank is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchAction {
    /// Rank 0 may be gone: start nothing, and send it nothing.
    Doubt,
    /// It may be gone for good: keep what has ended.
    Keep,
    /// Rank 0 is there: go on.
    Trust,
    /// Rank 0 is lost.
    Lose,
    /// End what still runs.
    End(Stop),
    /// Leave, whatever still runs.
    Leave,
}

/// Watches rank 0.
pub(super) struct CoordinatorWatch {
    /// Its process, if that is on this machine.
    process: Option<ProcessWatch>,
    next_check: Time,
    /// Since when this rank doubts, and whether it keeps what has ended.
    doubt: Option<(Time, bool)>,
    /// SIGTERM has come.
    is_terminated: bool,
    /// What is left to do once it is lost, and when.
    ending: Option<(Time, WatchAction)>,
    is_lost: bool,
}

impl CoordinatorWatch {
    /// The watch of rank 0 with this process.
    pub(super) fn new(process: ProcessMark) -> CoordinatorWatch {
        CoordinatorWatch {
            process: ProcessWatch::open(process),
            next_check: Time::ZERO,
            doubt: None,
            is_terminated: false,
            ending: None,
            is_lost: false,
        }
    }

    /// True if the process of rank 0 can be watched from here.
    pub(super) fn sees_process(&self) -> bool {
        self.process.is_some()
    }

    /// True while rank 0 is lost and running tasks may end by themselves, on this rank or on
    /// others.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.ending, Some((_, WatchAction::End(Stop::Terminate))))
    }

    /// The launcher may be ending the world; `is_term`: the signal was SIGTERM.
    pub(super) fn signalled(&mut self, now: Time, is_term: bool) -> Option<WatchAction> {
        if is_term {
            self.is_terminated = true;
            if let Some((due, WatchAction::End(Stop::Terminate))) = &mut self.ending {
                *due = now;
            }
        }
        if self.sees_process() {
            return None;
        }
        let is_new = self.doubt.is_none();
        let is_kept = self.doubt.is_some_and(|(_, is_kept)| is_kept);
        self.doubt = Some((now, is_kept));
        is_new.then_some(WatchAction::Doubt)
    }

    /// Rank 0 has answered a signal.
    pub(super) fn answered(&mut self) -> Option<WatchAction> {
        self.doubt.take().map(|_| WatchAction::Trust)
    }

    /// What is due now.
    pub(super) fn tick(&mut self, now: Time) -> Option<WatchAction> {
        if self.is_lost {
            let (_, action) = self.ending.take_if(|(due, _)| *due <= now)?;
            self.ending = match action {
                WatchAction::End(Stop::Terminate) => Some((now.after(END_STEP), WatchAction::End(Stop::Kill))),
                WatchAction::End(_) => Some((now.after(END_STEP), WatchAction::Leave)),
                _ => None,
            };
            return Some(action);
        }
        if let Some((since, is_kept)) = &mut self.doubt {
            let doubted = now.since(*since);
            if doubted >= KEEP_DELAY && !std::mem::replace(is_kept, true) {
                return Some(WatchAction::Keep);
            }
            return if doubted >= DOUBT_LIMIT { self.answered() } else { None };
        }
        self.has_process_ended(now).then_some(WatchAction::Lose)
    }

    /// Rank 0 is lost: what follows becomes due from now on.
    pub(super) fn lose(&mut self, now: Time) {
        if !std::mem::replace(&mut self.is_lost, true) {
            let limit = if self.is_terminated { Duration::ZERO } else { DRAIN_LIMIT };
            self.ending = Some((now.after(limit), WatchAction::End(Stop::Terminate)));
        }
    }

    fn has_process_ended(&mut self, now: Time) -> bool {
        if now < self.next_check {
            return false;
        }
        self.next_check = now.after(CHECK_INTERVAL);
        self.process.as_ref().is_some_and(ProcessWatch::has_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(at: u64) -> Time {
        Time(at * 1_000_000)
    }

    /// The watch of a rank 0 on another machine.
    fn remote() -> CoordinatorWatch {
        CoordinatorWatch::new([0; 3])
    }

    /// What is due at each of these times.
    fn ticks(watch: &mut CoordinatorWatch, times: &[u64]) -> Vec<Option<WatchAction>> {
        times.iter().map(|&at| watch.tick(ms(at))).collect()
    }

    #[test]
    fn a_rank_doubts_after_a_signal_until_rank_0_answers() {
        let mut watch = remote();
        assert_eq!(watch.tick(ms(0)), None);
        assert_eq!(watch.signalled(ms(1), true), Some(WatchAction::Doubt));
        assert_eq!((watch.answered(), watch.answered()), (Some(WatchAction::Trust), None));
        assert_eq!(ticks(&mut watch, &[500, 5000]), [None, None], "it is there");
    }

    #[test]
    fn a_doubt_keeps_what_has_ended_once_and_passes() {
        let mut watch = remote();
        watch.signalled(ms(0), false);
        assert_eq!(ticks(&mut watch, &[199, 200, 201]), [None, Some(WatchAction::Keep), None]);
        assert_eq!(watch.signalled(ms(1000), true), None, "it doubts already");
        assert_eq!(ticks(&mut watch, &[3999, 4000, 4001]), [None, Some(WatchAction::Trust), None]);
        assert_eq!(watch.signalled(ms(6000), true), Some(WatchAction::Doubt));
    }

    #[test]
    fn without_rank_0_tasks_may_end_until_a_termination_comes_and_then_the_rank_leaves() {
        for (term, end) in [(None, 950), (Some(200), 200)] {
            let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
            let mark = crate::system::process_watch::mark_of(child.id()).unwrap();
            let mut watch = CoordinatorWatch::new(mark);
            assert!(watch.sees_process());
            assert_eq!((watch.signalled(ms(0), false), watch.tick(ms(40))), (None, None), "it can be seen");
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(watch.tick(ms(50)), Some(WatchAction::Lose));
            watch.lose(ms(50));
            if let Some(term) = term {
                assert_eq!(watch.signalled(ms(term), true), None);
            }
            let due = ticks(&mut watch, &[end - 1, end, end + 249, end + 250, end + 499, end + 500, end + 501]);
            let [terminate, kill] = [Stop::Terminate, Stop::Kill].map(|how| Some(WatchAction::End(how)));
            assert_eq!(due, [None, terminate, None, kill, None, Some(WatchAction::Leave), None]);
        }
    }
}
