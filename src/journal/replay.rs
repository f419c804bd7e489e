//! Reads a journal back into the history of a run.
//!
//! A replay holds every attempt once, by session, and for each task of the *last* session the
//! position of its latest attempt: in this session, or in an earlier one from which it was taken
//! over. Reading stops at damage, which is reported together with everything that precedes it. What
//! other ranks have kept of the last session (`unreported`) counts as if the journal ended with it.
//! A replay never writes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::error::JournalError;
use super::frame::{self, Frames, HEADER, Rest, Tail};
use super::latest::{AttemptPlace, LatestAttempts};
use super::record::{
    Began, BlockChange, Ended, GraphFacts, KeptRun, LeftOut, LimitChange, Note, PastRuns, PoolTotals, RankChange,
    Record, Requests, RunAgain, SiteRequest, TaskAddition, Terms,
};
use super::unreported;
use crate::model::{Attempt, Shortfalls, State, TaskId, Time};
use crate::scale::estimate::Anomaly;
use crate::scale::{Advice, Decision};
use crate::schedule::coordinator::settles;

/// The content of a journal.
#[derive(Debug, Default)]
pub struct Replay {
    /// The sessions, oldest first.
    pub sessions: Vec<Session>,
    /// How the journal ends.
    pub tail: Tail,
    /// The latest attempt of each task of the last session, where there is one.
    latest: LatestAttempts,
    /// That of the session before, until attempts of the last session are recorded.
    before: LatestAttempts,
    /// Attempts of the last session that only other ranks have recorded.
    unrecorded: Vec<Attempt>,
}

/// One session: the first run, or a resume.
#[derive(Debug)]
pub struct Session {
    /// How it began.
    pub began: Began,
    /// Its attempts, in the order in which they were recorded.
    pub attempts: Vec<Attempt>,
    /// What was known of its graph.
    pub graph: Option<GraphFacts>,
    /// Its notes.
    pub notes: Vec<Note>,
    /// How it ended; `None` if it is still running or was killed.
    pub ended: Option<Ended>,
    /// Its terms, if they were recorded.
    pub terms: Option<Terms>,
    /// Changes of ranks, ordered by time.
    pub ranks: Vec<RankChange>,
    /// Changes of blocks, ordered by time.
    pub blocks: Vec<BlockChange>,
    /// Scaling decisions with their effects, ordered by number.
    pub decisions: Vec<Decision>,
    /// Questions to the advisor with their answers, ordered by number.
    pub advice: Vec<Advice>,
    /// Requests to sites, ordered by time.
    pub site_requests: Vec<SiteRequest>,
    /// What it knew from earlier runs, if there were any.
    pub past: Option<PastRuns>,
    /// Anomalies of the run, compared with earlier runs.
    pub unusual: Vec<Anomaly>,
    /// The tasks that it leaves out; `None`: none.
    pub left_out: Option<LeftOut>,
    /// The tasks that may have begun in earlier sessions without completing.
    pub still_begun: Vec<KeptRun>,
    /// Why tasks that had completed in an earlier session run again, ascending.
    pub run_again: Vec<RunAgain>,
    /// Changed limits of pools, oldest first.
    pub limits: Vec<LimitChange>,
    /// What its pools were used for; empty unless it has ended.
    pub pools: Vec<PoolTotals>,
    /// The additions that count, in the order in which their tasks are numbered.
    pub additions: Vec<TaskAddition>,
    /// The run, which was open for more tasks, was closed.
    pub is_closed: bool,
    /// What attempts have offered that have not ended.
    offered: FxHashMap<TaskId, TaskAddition>,
    /// What attempts ask for, as far as the job file does not say it.
    pub requests: Requests,
    /// Why Phalanx itself failed attempts.
    reasons: FxHashMap<(TaskId, u16), String>,
}

/// Reads the journal at `path`.
///
/// An error means that nothing can be read. Damage further in is reported by [`Replay::tail`].
pub fn replay(path: &Path) -> Result<Replay, JournalError> {
    let mut replay = Replay::default();
    JournalReader::new(path).read_on(&mut replay)?;
    Ok(replay)
}

/// How the last session in the journal at `path` began, as far as the journal is intact. The other
/// records are not decoded.
///
/// # Errors
/// If nothing can be read.
pub fn last_began(path: &Path) -> Result<Option<Began>, JournalError> {
    let bytes = JournalReader::new(path).unread()?;
    let mut frames = Frames::new(&bytes).map_err(|bad| JournalError::bad_header(bad, path))?;
    let mut last = None;
    while let Some(payload) = frames.advance() {
        // It is the first kind of record.
        if payload.first() == Some(&0) {
            last = Some(payload);
        }
    }
    Ok(last.and_then(|payload| match postcard::from_bytes::<Record>(payload) {
        Ok(Record::Began(began)) => Some(began),
        _ => None,
    }))
}

/// Reads a growing journal: each call reads the records appended since the last.
#[derive(Debug)]
pub struct JournalReader {
    path: PathBuf,
    /// Offset of the end of the last record read; 0 before the header was read.
    at: u64,
    /// Start of the session whose unreported ends were read last, and their size in bytes.
    unreported: (u64, u64),
}

impl JournalReader {
    /// Makes a reader that starts at the beginning. The journal need not exist yet.
    pub fn new(path: &Path) -> JournalReader {
        JournalReader { path: path.to_owned(), at: 0, unreported: (0, 0) }
    }

    /// Appends the records written since the last call to `replay`, which must be the one that this
    /// reader has filled from the beginning. Returns whether there were any. An incomplete record
    /// is read again at the next call; nothing behind damage is read.
    ///
    /// # Errors
    /// If the file cannot be read, or is no journal of this version.
    pub fn read_on(&mut self, replay: &mut Replay) -> Result<bool, JournalError> {
        if matches!(replay.tail, Tail::Damaged(_)) {
            return Ok(false);
        }
        let bytes = self.unread()?;
        let path = &self.path;
        let mut frames = Frames::new(&bytes).map_err(|bad| JournalError::bad_header(bad, path))?;
        // A header is put in front, so that the bytes form a journal of their own.
        let skipped = self.at.saturating_sub(HEADER as u64);
        let place = |at: usize| at as u64 + skipped;
        let before = frames.at();
        replay.tail = loop {
            let at = frames.at();
            let Some(payload) = frames.advance() else {
                break match frames.rest() {
                    Rest::Nothing => Tail::Clean,
                    Rest::Torn => Tail::Torn((bytes.len() - at) as u64),
                    Rest::Corrupt(intact) => Tail::Damaged(JournalError::corrupt(path, place(at), place(intact))),
                };
            };
            let record = postcard::from_bytes::<Record>(payload).map_err(|error| error.to_string());
            if let Err(reason) = record.and_then(|record| replay.take(record)) {
                break Tail::Damaged(JournalError::Record { path: path.to_owned(), at: place(at), reason });
            }
        };
        let taken = frames.at() > before;
        if frames.at() >= HEADER {
            self.at = place(frames.at());
        }
        let merged = self.merge_unreported(replay);
        Ok(taken || merged)
    }

    /// Adds what other ranks have kept of the last session. Returns whether that was anything new.
    fn merge_unreported(&mut self, replay: &mut Replay) -> bool {
        let Some(session) = replay.last_session().map(|session| session.began.unix_ns) else { return false };
        let found = (session, unreported::size(&self.path, session));
        if found.1 == 0 || std::mem::replace(&mut self.unreported, found) == found {
            return false;
        }
        replay.merge(unreported::read(&self.path, session))
    }

    /// Returns the unread bytes with a header in front of them.
    fn unread(&self) -> Result<Vec<u8>, JournalError> {
        let io = |doing| JournalError::io(doing, &self.path);
        let mut file = File::open(&self.path).map_err(io("open"))?;
        let mut bytes = Vec::new();
        if self.at > 0 {
            file.seek(SeekFrom::Start(self.at)).map_err(io("read"))?;
            bytes.extend_from_slice(&frame::header());
        }
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        Ok(bytes)
    }
}

impl Replay {
    /// The last session; `None` before its first record has been written.
    pub fn last_session(&self) -> Option<&Session> {
        self.sessions.last()
    }

    /// The latest attempt at a task of the last session, and the session that made it.
    pub fn latest(&self, task: TaskId) -> Option<(&Session, &Attempt)> {
        self.latest.get(task).and_then(|place| self.at(place))
    }

    /// Every task of the last session that has an attempt, ascending, with the result of
    /// [`Replay::latest`]. (The attempt holds the number that the task had in its own session.)
    pub fn all_latest(&self) -> impl Iterator<Item = (TaskId, &Session, &Attempt)> {
        self.latest.iter().filter_map(|(task, place)| self.at(place).map(|(session, a)| (task, session, a)))
    }

    /// As [`latest`](Replay::latest), at the end of the session of this index.
    pub fn latest_in<'a>(&'a self, index: usize) -> impl Fn(TaskId) -> Option<(&'a Session, &'a Attempt)> + 'a {
        let mut latest = LatestAttempts::default();
        for (session, number) in self.sessions.iter().zip(0..=index as u32) {
            let before = std::mem::take(&mut latest);
            // A run of numbers beyond the last one has stopped the reading.
            let _ = carry_over(&before, &session.began.kept, &mut latest);
            for (attempt, place) in session.attempts.iter().zip(0..) {
                latest.insert(attempt.task, AttemptPlace { session: number, attempt: place });
            }
        }
        move |task| latest.get(task).and_then(|place| self.at(place))
    }

    /// True if the task has completed, in the last session or in one from which it was taken over.
    pub fn completed(&self, task: TaskId) -> bool {
        self.latest(task).is_some_and(|(_, attempt)| attempt.outcome.ok())
    }

    /// Total number of attempts.
    pub fn attempts(&self) -> usize {
        self.sessions.iter().map(|session| session.attempts.len()).sum()
    }

    /// Attempts of the last session that the journal lacks, and that other ranks have kept.
    pub fn unrecorded(&self) -> &[Attempt] {
        &self.unrecorded
    }

    fn at(&self, place: AttemptPlace) -> Option<(&Session, &Attempt)> {
        let session = self.sessions.get(place.session as usize)?;
        Some((session, session.attempts.get(place.attempt as usize)?))
    }

    fn take(&mut self, record: Record) -> Result<(), String> {
        if let Record::Began(began) = record {
            let mut latest = LatestAttempts::default();
            carry_over(&self.latest, &began.kept, &mut latest)?;
            self.before = std::mem::replace(&mut self.latest, latest);
            self.unrecorded.clear();
            self.sessions.push(Session::new(began));
            return Ok(());
        }
        let index = self.sessions.len().checked_sub(1).ok_or("it precedes the beginning of a session")?;
        let session = &mut self.sessions[index];
        match record {
            Record::Began(_) => {}
            Record::Attempts(attempts) => self.add(index, &attempts)?,
            Record::Note(note) => session.notes.push(note),
            Record::Graph(facts) => session.graph = Some(facts),
            Record::Ended(ended) => session.ended = Some(ended),
            Record::Terms(terms) => session.terms = Some(terms),
            Record::Rank(change) => session.ranks.push(change),
            Record::Block(change) => session.blocks.push(change),
            Record::Decision(decision) => session.decisions.push(*decision),
            Record::Past(past) => session.past = Some(*past),
            Record::LeftOut(left_out) => session.left_out = Some(left_out),
            Record::Unusual(unusual) => session.unusual = unusual,
            Record::RunAgain(reasons) => session.run_again = reasons,
            Record::Reasons(reasons) => {
                session.reasons.extend(reasons.into_iter().map(|reason| ((reason.task, reason.attempt), reason.text)));
            }
            Record::Limit(change) => session.limits.push(change),
            Record::Pools(totals) => session.pools = totals,
            Record::Added(addition) => match addition.by {
                Some(by) => {
                    session.offered.insert(by.task, addition);
                }
                None => session.additions.push(addition),
            },
            Record::Closed(_) => session.is_closed = true,
            Record::Requests(requests) => session.requests = requests,
            Record::Advice(advice) => session.advice.push(*advice),
            Record::StillBegun(tasks) => {
                let mut still = LatestAttempts::default();
                carry_over(&self.before, &tasks, &mut still)?;
                let is_out = |task: TaskId| session.left_out.as_ref().is_some_and(|left_out| left_out.has(task));
                still.iter().filter(|(task, _)| is_out(*task)).for_each(|(task, at)| self.latest.insert(task, at));
                session.still_begun = tasks;
            }
            Record::Site(request) => session.site_requests.push(*request),
            Record::Effect { number, effect } => {
                let decided = session.decisions.iter_mut().rev().find(|decision| decision.number == number);
                decided.ok_or("it holds the effect of an unknown decision")?.effect = Some(effect);
            }
        }
        Ok(())
    }

    fn add(&mut self, index: usize, attempts: &[Attempt]) -> Result<(), String> {
        self.before = LatestAttempts::default();
        let number = |n: usize| u32::try_from(n).map_err(|_| "there are too many".to_string());
        for attempt in attempts {
            if !self.unrecorded.is_empty() && self.is_known(index, attempt) {
                continue;
            }
            let session = &mut self.sessions[index];
            let place = AttemptPlace { session: number(index)?, attempt: number(session.attempts.len())? };
            session.attempts.push(*attempt);
            session.settle_offer(attempt);
            self.latest.insert(attempt.task, place);
        }
        Ok(())
    }

    /// Adds attempts of the last session that other ranks have kept, but for those that are known.
    /// Returns whether there were any.
    fn merge(&mut self, attempts: Vec<Attempt>) -> bool {
        let before = self.unrecorded.len();
        let Some(index) = self.sessions.len().checked_sub(1) else { return false };
        for attempt in attempts {
            // A number that does not fit is no attempt of this run.
            if !self.is_known(index, &attempt) && self.add(index, &[attempt]).is_ok() {
                self.unrecorded.push(attempt);
            }
        }
        self.unrecorded.len() > before
    }

    /// True if the session has this attempt, or a later one at its task.
    fn is_known(&self, index: usize, attempt: &Attempt) -> bool {
        let latest = self.latest.get(attempt.task).filter(|place| place.session as usize == index);
        latest.and_then(|place| self.at(place)).is_some_and(|(_, latest)| latest.attempt >= attempt.attempt)
    }
}

impl Session {
    /// A session that has just begun.
    pub fn new(began: Began) -> Session {
        Session {
            began,
            attempts: Vec::new(),
            graph: None,
            notes: Vec::new(),
            ended: None,
            terms: None,
            ranks: Vec::new(),
            blocks: Vec::new(),
            decisions: Vec::new(),
            advice: Vec::new(),
            site_requests: Vec::new(),
            past: None,
            unusual: Vec::new(),
            left_out: None,
            still_begun: Vec::new(),
            run_again: Vec::new(),
            limits: Vec::new(),
            pools: Vec::new(),
            additions: Vec::new(),
            is_closed: false,
            offered: FxHashMap::default(),
            requests: Requests::default(),
            reasons: FxHashMap::default(),
        }
    }

    /// What an ended attempt had offered counts, or is dropped.
    fn settle_offer(&mut self, attempt: &Attempt) {
        if self.offered.is_empty() {
            return;
        }
        let by = self.offered.get(&attempt.task).and_then(|offered| offered.by);
        if let Some(counts) = by.and_then(|by| settles(attempt, by.attempt)) {
            let offered = self.offered.remove(&attempt.task);
            self.additions.extend(offered.filter(|_| counts));
        }
    }

    /// The additions that count if these attempts have completed, too.
    pub fn additions_with(&self, attempts: &[Attempt]) -> Vec<TaskAddition> {
        let offered = attempts.iter().filter_map(|attempt| self.offered.get(&attempt.task));
        self.additions.iter().chain(offered).cloned().collect()
    }

    /// Why Phalanx itself failed the attempt, if it did.
    pub fn reason(&self, attempt: &Attempt) -> Option<&str> {
        let is_lost = || (attempt.outcome.state == State::NodeFail).then_some("its rank or node was lost");
        self.reasons.get(&(attempt.task, attempt.attempt)).map(String::as_str).or_else(is_lost)
    }

    /// Tasks of which attempts fell short of what they needed, in this session and those before.
    pub fn shortfalls(&self) -> FxHashMap<TaskId, Shortfalls> {
        let mut short: FxHashMap<TaskId, Shortfalls> = self.requests.short.iter().copied().collect();
        for attempt in &self.attempts {
            if attempt.outcome.state.falls_short() {
                let known = short.entry(attempt.task).or_default();
                *known = known.after(attempt.outcome.state);
            }
        }
        short
    }

    /// Number of tasks that it leaves out.
    pub fn left_out_count(&self) -> u32 {
        self.left_out.as_ref().map_or(0, LeftOut::count)
    }

    /// Why the task, which had completed in an earlier session, runs again in this one.
    pub fn runs_again(&self, task: TaskId) -> Option<&str> {
        self.run_again.iter().find(|reason| reason.covers(task)).map(|reason| reason.why.as_str())
    }

    /// The latest time in its records.
    pub fn last_heard(&self) -> Time {
        let attempts = self.attempts.iter().map(|attempt| attempt.end);
        let notes = self.notes.iter().map(|note| note.time);
        let ended = self.ended.iter().map(|ended| ended.time);
        let ranks = self.ranks.iter().map(|change| change.time);
        let blocks = self.blocks.iter().map(|change| change.time);
        attempts.chain(notes).chain(ended).chain(ranks).chain(blocks).max().unwrap_or(Time::ZERO)
    }
}

/// Adds the latest attempts of the previous session at these tasks, under the numbers that they
/// have now.
fn carry_over(before: &LatestAttempts, runs: &[KeptRun], latest: &mut LatestAttempts) -> Result<(), &'static str> {
    let mut by_old = runs.to_vec();
    by_old.sort_by_key(|run| run.was);
    for (task, place) in before.iter() {
        let upto = by_old.partition_point(|run| run.was <= task);
        let Some(run) = upto.checked_sub(1).map(|i| by_old[i]) else { continue };
        let offset = task.0 - run.was.0;
        if offset < run.count {
            let now = run.first.0.checked_add(offset).ok_or("it names a task beyond the last number")?;
            latest.insert(TaskId(now), place);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::codec::tests::any_attempt;
    use crate::job::Flush;
    use crate::journal::{EndReason, Journal, RankInfo};
    use crate::model::{Outcome, Rank, State};
    use proptest::prelude::*;
    use std::path::PathBuf;

    /// The record that opens a session on one rank with two slots.
    pub(crate) fn began(session: u32) -> Record {
        Record::Began(Began {
            session,
            unix_ns: 1_700_000_000_000_000_000 + u64::from(session) * 100_000_000_000,
            phalanx: "0.1.0".into(),
            job_text: "".into(),
            job_path: "job.toml".into(),
            dir: "/".into(),
            ranks: vec![RankInfo { rank: 0, node: "n1".into(), slots: 2, pid: 1 }],
            command: vec!["phalanx".into(), "run".into(), "job.toml".into()],
            kept: Vec::new(),
        })
    }

    /// A first attempt that succeeds, one second long, at second `task`.
    pub(crate) fn attempt(task: u32) -> Attempt {
        let start = u64::from(task) * 1_000_000_000;
        Attempt {
            task: TaskId(task),
            attempt: 1,
            outcome: Outcome::OK,
            last: true,
            rank: Rank(0),
            slot: 0,
            ready: Time(start),
            start: Time(start),
            end: Time(start + 1_000_000_000),
        }
    }

    /// The replay of a journal of these records.
    pub(crate) fn replayed(records: &[Record]) -> Replay {
        let dir = tempfile::tempdir().unwrap();
        replay(&written(&dir, records)).unwrap()
    }

    fn written(dir: &tempfile::TempDir, records: &[Record]) -> PathBuf {
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, Flush::Never).unwrap();
        for record in records {
            journal.append(record).unwrap();
        }
        path
    }

    fn resumed(session: u32, kept: &[(u32, u32, u32)]) -> Record {
        let Record::Began(mut began) = began(session) else { unreachable!() };
        let run = |&(first, was, count): &(u32, u32, u32)| KeptRun { first: TaskId(first), was: TaskId(was), count };
        began.kept = kept.iter().map(run).collect();
        Record::Began(began)
    }

    #[test]
    fn what_was_kept_is_found_under_its_new_number() {
        let dir = tempfile::tempdir().unwrap();
        let failed = Attempt { outcome: Outcome { state: State::Failed, exit: 3, cached: false }, ..attempt(4) };
        let path = written(
            &dir,
            &[
                began(1),
                Record::Attempts(vec![attempt(0), attempt(1), attempt(3), failed]),
                resumed(2, &[(10, 0, 2), (3, 3, 1)]),
                Record::Attempts(vec![attempt(4)]),
                resumed(3, &[(20, 10, 2), (4, 4, 1)]),
            ],
        );
        let replay = replay(&path).unwrap();
        let mut known: Vec<(u32, u32, u32)> =
            replay.all_latest().map(|(task, session, a)| (task.0, session.began.session, a.task.0)).collect();
        known.sort_unstable();
        assert_eq!(known, [(4, 2, 4), (20, 1, 0), (21, 1, 1)]);
        assert!(replay.completed(TaskId(20)) && !replay.completed(TaskId(3)));
        assert_eq!(replay.attempts(), 5);
    }

    #[test]
    fn a_later_attempt_counts_and_a_session_without_end_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let first =
            Attempt { outcome: Outcome { state: State::Timeout, exit: -15, cached: false }, last: false, ..attempt(0) };
        let second = Attempt { attempt: 2, ..attempt(0) };
        let records = [began(1), Record::Attempts(vec![first]), Record::Attempts(vec![second])];
        let replay = replay(&written(&dir, &records)).unwrap();
        assert_eq!(replay.latest(TaskId(0)).unwrap().1, &second);
        let session = replay.last_session().unwrap();
        assert_eq!(session.last_heard(), second.end);
        assert!(session.ended.is_none());
    }

    #[test]
    fn records_before_any_session_and_unknown_records_stop_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let replay = replay(&written(&dir, &[Record::Attempts(Vec::new()), began(1)])).unwrap();
        assert!(matches!(replay.tail, Tail::Damaged(JournalError::Record { at: 12, .. })));
        assert!(replay.sessions.is_empty());
    }

    #[test]
    fn a_run_of_kept_tasks_beyond_the_last_number_is_refused_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let records = [began(1), Record::Attempts(vec![attempt(7)]), resumed(2, &[(u32::MAX, 0, u32::MAX)])];
        let replay = replay(&written(&dir, &records)).unwrap();
        assert!(matches!(replay.tail, Tail::Damaged(JournalError::Record { .. })));
        assert!(replay.completed(TaskId(7)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damage_never_costs_what_precedes_it(
            batches in prop::collection::vec(prop::collection::vec(any_attempt(), 0..6), 1..6),
            flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut records = vec![began(1)];
            records.extend(batches.iter().cloned().map(Record::Attempts));
            let end = crate::journal::Ended { time: Time(9), reason: EndReason::Complete, exit_code: 0 };
            records.push(Record::Ended(end));
            let path = written(&dir, &records);
            let mut bytes = std::fs::read(&path).unwrap();
            let all: Vec<Attempt> = batches.concat();

            // Offset of the end of each record's frame.
            let mut ends = Vec::new();
            let mut frames = Frames::new(&bytes).unwrap();
            while frames.advance().is_some() {
                ends.push(frames.at());
            }
            bytes.truncate(12 + cut.index(bytes.len() - 12 + 1));
            let mut intact = bytes.len();
            for flip in flips {
                if bytes.len() > 12 {
                    let at = 12 + flip.index(bytes.len() - 12);
                    bytes[at] ^= 0x10;
                    intact = intact.min(at);
                }
            }
            std::fs::write(&path, &bytes).unwrap();

            let whole = ends.iter().filter(|&&end| end <= intact).count();
            let expected: usize = batches.iter().take(whole.saturating_sub(1)).map(Vec::len).sum();
            let back = replay(&path).unwrap();
            prop_assert!(back.attempts() >= expected);
            if let Some(session) = back.sessions.first() {
                // Two flips of one bit may cancel out, so more than `expected` may be intact.
                prop_assert_eq!(&session.attempts[..], &all[..session.attempts.len()]);
            }
        }

        #[test]
        fn any_file_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            std::fs::write(&path, [&crate::journal::frame::header()[..], &bytes].concat()).unwrap();
            prop_assert!(replay(&path).unwrap().sessions.is_empty());
        }
    }

    /// Run with `cargo test --release -- --ignored --nocapture a_million` to see the figures.
    #[test]
    #[ignore = "a measurement"]
    fn a_million_attempts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, Flush::Never).unwrap();
        journal.append(&began(1)).unwrap();
        let started = std::time::Instant::now();
        for batch in 0..10_000u32 {
            let attempts: Vec<Attempt> = (0..100).map(|i| attempt(batch * 100 + i * 7919 % 100)).collect();
            journal.append(&Record::Attempts(attempts)).unwrap();
        }
        let writing = started.elapsed();
        let size = std::fs::metadata(&path).unwrap().len();
        let started = std::time::Instant::now();
        let replay = replay(&path).unwrap();
        let reading = started.elapsed();
        assert_eq!(replay.attempts(), 1_000_000);
        println!("1,000,000 attempts: written in {writing:?} ({size} bytes), read back in {reading:?}");
    }
}
