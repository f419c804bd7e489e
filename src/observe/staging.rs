//! What was moved for tasks that run on the disks of their nodes: bytes by path, and the time that
//! tasks waited for them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::jsonl::JsonLinesReader;
use super::run_view::RunView;
use super::style::bytes;
use crate::journal::{Session, stage_files, stage_uses};
use crate::model::{StageUse, TaskId};
use crate::text::{counted, seconds};

/// What was moved in all sessions of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StagingFigures {
    /// Attempts at staged tasks.
    pub attempts: u64,
    /// Bytes of inputs that were read in the directory of the job.
    pub read_bytes: u64,
    /// Bytes of inputs that the store of the node had.
    pub local_bytes: u64,
    /// Bytes of temporary inputs that came from other nodes.
    pub fetched_bytes: u64,
    /// Bytes of inputs, temporary ones included, that other ranks sent over the network.
    pub received_bytes: u64,
    /// Bytes of those received that were sent before their task had a slot.
    pub ahead_bytes: u64,
    /// Bytes of outputs that were written to the directory of the job.
    pub written_bytes: u64,
    /// Bytes of outputs that stayed in the store.
    pub held_bytes: u64,
    /// Bytes of outputs that were sent to rank 0 over the network.
    pub sent_bytes: u64,
    /// Time that tasks waited for their inputs, in seconds.
    pub in_s: f64,
    /// Time that their outputs took, in seconds.
    pub out_s: f64,
}

impl StagingFigures {
    /// The figures of a run; `None` if no task was staged.
    pub fn of(run: &RunView) -> Option<StagingFigures> {
        let mut figures = StagingFigures::default();
        for (session, _) in run.sessions() {
            stage_uses(&run.dir, session.began.session).iter().for_each(|(.., used)| figures.add(used));
        }
        (figures.attempts > 0).then_some(figures)
    }

    fn add(&mut self, used: &StageUse) {
        self.attempts += 1;
        self.read_bytes += used.read;
        self.local_bytes += used.local;
        self.fetched_bytes += used.fetched;
        self.received_bytes += used.received;
        self.ahead_bytes += used.ahead;
        self.written_bytes += used.written;
        self.held_bytes += used.held;
        self.sent_bytes += used.sent;
        self.in_s += used.in_s;
        self.out_s += used.out_s;
    }

    /// Bytes by the way that they took; the words are those of reports and metrics.
    pub(super) fn ways(&self) -> [(&'static str, u64); 7] {
        [
            ("read", self.read_bytes),
            ("local", self.local_bytes),
            ("fetched", self.fetched_bytes),
            ("received", self.received_bytes),
            ("written", self.written_bytes),
            ("held", self.held_bytes),
            ("sent", self.sent_bytes),
        ]
    }

    /// The figures in one line.
    pub(super) fn text(&self) -> String {
        format!("{}: {}", counted(self.attempts, "staged attempt"), self.moved())
    }

    fn moved(&self) -> String {
        let part = |n: u64, what: &str| format!("{} {what}", bytes(n));
        let mut ins = vec![part(self.read_bytes, "read"), part(self.local_bytes, "already there")];
        if self.fetched_bytes > 0 {
            ins.push(part(self.fetched_bytes, "from other nodes"));
        }
        if self.received_bytes > 0 {
            ins.push(part(self.received_bytes, "sent by other ranks"));
        }
        if self.ahead_bytes > 0 {
            ins.push(part(self.ahead_bytes, "of these sent ahead"));
        }
        let mut outs = vec![part(self.written_bytes, "written")];
        if self.held_bytes > 0 {
            outs.push(part(self.held_bytes, "held in the store"));
        }
        if self.sent_bytes > 0 {
            outs.push(part(self.sent_bytes, "sent to rank 0"));
        }
        let (ins, outs) = (ins.join(", "), outs.join(", "));
        format!("inputs {ins} ({} of waiting); outputs {outs} ({})", seconds(self.in_s), seconds(self.out_s))
    }
}

/// What was moved in a run that goes on, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct StagingReader {
    files: BTreeMap<PathBuf, JsonLinesReader>,
    figures: StagingFigures,
}

impl StagingReader {
    /// Reads what was appended since the last call.
    pub fn read_on(&mut self, run: &RunView) {
        let sessions = run.sessions().map(|(session, _)| session.began.session);
        for path in sessions.flat_map(|session| stage_files(&run.dir, session)) {
            let reading = self.files.entry(path.clone()).or_default();
            reading.read_on(&path, &mut self.figures, |_| (), |figures, used: StageUse| figures.add(&used));
        }
    }

    /// The figures; `None` if no task was staged.
    pub fn figures(&self) -> Option<&StagingFigures> {
        Some(&self.figures).filter(|figures| figures.attempts > 0)
    }
}

/// What was moved in a session, by task and attempt.
pub(super) fn by_attempt_of_session(run: &RunView, session: &Session) -> FxHashMap<(TaskId, u16), StageUse> {
    let uses = stage_uses(&run.dir, session.began.session);
    uses.into_iter().map(|(task, attempt, used)| ((task, attempt), used)).collect()
}

/// What was moved for an attempt, in one sentence.
pub(super) fn text_of(used: &StageUse) -> String {
    let mut figures = StagingFigures::default();
    figures.add(used);
    format!("staged: {}", figures.moved())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_by_path() {
        let used = StageUse { read: 1 << 20, local: 3, written: 5, in_s: 0.5, out_s: 2.0, ..StageUse::default() };
        let mut figures = StagingFigures::default();
        figures.add(&used);
        figures.add(&StageUse { fetched: 7, received: 8, held: 9, sent: 4, ..StageUse::default() });
        assert_eq!((figures.read_bytes, figures.attempts), (1 << 20, 2));
        assert_eq!(
            text_of(&used),
            "staged: inputs 1.00 MiB read, 3 B already there (500 ms of waiting); outputs 5 B written (2.00 s)"
        );
        assert!(
            figures.text().starts_with("2 staged attempts: inputs 1.00 MiB read, 3 B already there, 7 B from other")
        );
        assert!(figures.text().contains("7 B from other nodes, 8 B sent by other ranks ("));
        assert!(figures.text().contains("5 B written, 9 B held in the store, 4 B sent to rank 0"));
    }
}
