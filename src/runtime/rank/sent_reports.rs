//! The reports that a rank has sent lately, for the case that it loses rank 0: what rank 0 had
//! received may not have reached its journal, or the disk.
//!
//! They are kept as the bytes that were sent, so a report costs a copy of a few bytes per attempt.
//! The journal drops what it has already.

use std::collections::VecDeque;
use std::time::Duration;

use crate::fabric::wire;
use crate::job::Flush;
use crate::journal::UnreportedEnds;
use crate::model::{Attempt, Time};
use crate::schedule::protocol::Message;

/// Upper limit on the reports that are kept, in bytes: some 300,000 attempts.
const MAX_BYTES: usize = 4 << 20;

/// How long rank 0 may take to write a report, beside the time that the job gives it to sync.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// As the time to sync, where the job leaves that to the system.
const SYSTEM_FLUSH: Duration = Duration::from_secs(30);

/// The latest reports of this rank.
pub(super) struct SentReports {
    /// Where they are written if rank 0 is lost.
    file: UnreportedEnds,
    /// How long a report is kept.
    limit: Duration,
    /// Each with the time at which it was sent.
    frames: VecDeque<(Time, Box<[u8]>)>,
    bytes: usize,
}

impl SentReports {
    /// Keeps reports as long as rank 0 may take to have them on disk.
    pub(super) fn new(file: UnreportedEnds, flush: Flush) -> SentReports {
        let limit = MAX_DELAY
            + match flush {
                Flush::Always => Duration::ZERO,
                Flush::Every(interval) => interval,
                Flush::Never => SYSTEM_FLUSH,
            };
        SentReports { file, limit, frames: VecDeque::new(), bytes: 0 }
    }

    /// Keeps the frame of a report, and drops the oldest ones.
    pub(super) fn keep(&mut self, now: Time, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames.push_back((now, frame.into()));
        let limit = self.limit;
        let is_old = |sent: &Time, bytes: usize| bytes > MAX_BYTES || now.since(*sent) > limit;
        while let Some((_, frame)) = self.frames.pop_front_if(|(sent, _)| is_old(sent, self.bytes)) {
            self.bytes -= frame.len();
        }
    }

    /// Writes the reports that are kept, once rank 0 is lost.
    pub(super) fn write_kept(&mut self) {
        self.bytes = 0;
        let reports = std::mem::take(&mut self.frames).into_iter();
        let ends = |frame: Box<[u8]>| match wire::decode(&frame) {
            Ok(Message::Report { attempts, .. }) => attempts,
            // This rank has encoded them itself.
            _ => Vec::new(),
        };
        self.write(reports.flat_map(|(_, frame)| ends(frame)).collect());
    }

    /// Writes ends that are reported after rank 0 was lost.
    pub(super) fn write(&mut self, attempts: Vec<Attempt>) {
        if let Err(error) = self.file.append(attempts) {
            tracing::error!("{error}: tasks that have just ended may run again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Rank, TaskId};
    use crate::schedule::protocol::Load;

    fn attempt(task: u32) -> Attempt {
        let time = Time(u64::from(task));
        let (rank, outcome) = (Rank(1), Outcome::OK);
        Attempt {
            task: TaskId(task),
            attempt: 1,
            outcome,
            last: true,
            rank,
            slot: 0,
            ready: time,
            start: time,
            end: time,
        }
    }

    fn frame(attempts: Vec<Attempt>) -> Vec<u8> {
        let mut frame = Vec::new();
        wire::encode(&Message::Report { attempts, started: Vec::new(), load: Load::default() }, &mut frame).unwrap();
        frame
    }

    fn second(s: u64) -> Time {
        Time(s * 1_000_000_000)
    }

    #[test]
    fn old_reports_are_dropped_and_there_is_a_limit_to_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut sent =
            SentReports::new(UnreportedEnds::new(dir.path(), 1, Rank(1)), Flush::Every(Duration::from_secs(1)));
        sent.keep(second(0), &frame(vec![attempt(0)]));
        sent.keep(second(11), &frame(vec![attempt(1)]));
        assert_eq!(sent.frames.len(), 2);
        sent.keep(second(12), &frame(vec![attempt(2)]));
        assert_eq!(sent.frames.len(), 2);
        let big = frame((0..100_000).map(attempt).collect());
        (0..20).for_each(|_| sent.keep(second(12), &big));
        assert!(
            sent.bytes <= MAX_BYTES && sent.frames.iter().map(|(_, frame)| frame.len()).sum::<usize>() == sent.bytes
        );
    }
}
