//! Reports of synthetic runs, read from the same files that real runs write.

use std::path::Path;
use std::sync::Arc;

use super::report::{
    write_failed, write_failed_json, write_joblog, write_json, write_report, write_task, write_task_json, write_tasks,
};
use super::*;
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::job::{Flush, Group, KeepOutput, Task, Work};
use crate::journal::{
    Began, EndReason, Ended, Journal, KeptRun, Level, Note, OutputWriter, RankChange, RankInfo, Record, RunDir, Session,
};
use crate::model::{Attempt, Outcome, Rank, RankState, State, Stream, TaskId, Time};
use crate::scale::{Action, Decision, Inputs, NodeTypeId};

/// `tile[0..4]`, then `mosaic`, then `thumb`.
struct Mosaic;

impl JobView for Mosaic {
    fn name(&self) -> &str {
        "mosaic"
    }

    fn task_count(&self) -> u32 {
        6
    }

    fn label(&self, task: TaskId) -> Label<'_> {
        match task.0 {
            0..4 => Label { name: "tile", index: Some(u64::from(task.0)), valued: None },
            4 => Label { name: "mosaic", index: None, valued: None },
            5 => Label { name: "thumb, \"small\"", index: None, valued: None },
            _ => Label { name: "?", index: None, valued: None },
        }
    }

    fn class(&self, task: TaskId) -> &str {
        self.label(task).name
    }

    fn group(&self, _: TaskId) -> Option<&Group> {
        None
    }

    fn slots(&self, task: TaskId) -> u32 {
        if task.0 == 4 { 2 } else { 1 }
    }

    fn describe(&self, task: TaskId) -> Option<Task> {
        let words = ["render".to_owned(), format!("tile {}", task.0)];
        Some(Task {
            id: task,
            name: self.label(task).name.to_owned(),
            index: self.label(task).index,
            work: if task.0 == 4 { Work::Shell("cat *\necho".into()) } else { Work::Command(words.to_vec()) },
            stdin: None,
            stdout: None,
            stderr: None,
            dir: "/tmp".into(),
            env: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            required: Vec::new(),
            promised: Vec::new(),
            shell: None,
            temporary: Vec::new(),
            keeps_background: false,
            is_staged: false,
            cache: None,
            container: None,
        })
    }

    fn find(&self, name: &str) -> Result<Vec<TaskId>, String> {
        let is_meant = |task: &TaskId| self.label(*task).name == name || self.label(*task).to_string() == name;
        let found: Vec<TaskId> = (0..6).map(TaskId).filter(is_meant).collect();
        if found.is_empty() { Err(format!("the job has no task `{name}`")) } else { Ok(found) }
    }
}

fn parse(session: &Session) -> Result<SessionJob, String> {
    if session.began.job_text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let link = |from, to| Link { from, to, shape: LinkShape::All, on: Condition::Ok, bytes: 0, span: 0..0 };
    let graph = TaskGraph::build(&[4, 1, 1], &[link(0, 1), link(1, 2)]).unwrap();
    Ok(SessionJob { job: Arc::new(Mosaic), graph: Some(Arc::new(graph)) })
}

const SECOND: u64 = 1_000_000_000;
const EPOCH: u64 = 1_700_000_000 * SECOND;

fn began(session: u32, at_s: u64, dir: &Path) -> Began {
    let rank = |rank, node: &str| RankInfo { rank, node: node.into(), slots: 2, pid: 10 + rank };
    Began {
        session,
        unix_ns: EPOCH + at_s * SECOND,
        phalanx: "0.1.0".into(),
        job_text: "text".into(),
        job_path: "jobs/mosaic.toml".into(),
        dir: dir.into(),
        ranks: vec![rank(0, "n1"), rank(1, "n2")],
        command: ["phalanx", "run", "jobs/mosaic.toml"].map(String::from).to_vec(),
        kept: Vec::new(),
    }
}

/// An attempt from second `start` to second `end`, on the rank that is the task's number modulo 2.
fn ran(task: u32, attempt: u16, start: u64, end: u64, outcome: Outcome) -> Attempt {
    Attempt {
        task: TaskId(task),
        attempt,
        outcome,
        last: true,
        rank: Rank(task % 2),
        slot: 1,
        ready: Time::ZERO,
        start: Time(start * SECOND),
        end: Time(end * SECOND),
    }
}

const FAILED: Outcome = Outcome { state: State::Failed, exit: 3, cached: false };
const SKIPPED: Outcome = Outcome { state: State::Skipped, exit: 0, cached: false };

struct Fixture {
    _dir: tempfile::TempDir,
    run: RunDir,
    journal: Journal,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join(crate::journal::RUNS), "mosaic").unwrap();
        let journal = Journal::create(&run.journal(), Flush::Never).unwrap();
        Fixture { run, journal, _dir: dir }
    }

    /// Directory in which `phalanx` was started.
    fn start_dir(&self) -> &Path {
        self.run.path().parent().unwrap().parent().unwrap()
    }

    fn write(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            self.journal.append(&record).unwrap();
        }
    }

    /// One tile fails at its second attempt, and the tasks that depend on it are skipped.
    fn failed_session(&mut self) {
        let began = began(1, 0, self.start_dir());
        let retried =
            Attempt { last: false, ..ran(2, 1, 0, 1, Outcome { state: State::Timeout, exit: -15, cached: false }) };
        self.write([
            Record::Began(began),
            Record::Attempts(vec![ran(0, 1, 0, 2, Outcome::OK), ran(1, 1, 0, 4, Outcome::OK), retried]),
            Record::Attempts(vec![ran(2, 2, 1, 4, FAILED), ran(3, 1, 4, 8, Outcome::OK)]),
            Record::Attempts(vec![ran(4, 0, 4, 4, SKIPPED), ran(5, 0, 4, 4, SKIPPED)]),
            Record::Note(Note { time: Time(SECOND), level: Level::Warning, text: "n2 is slow".into() }),
        ]);
        let writer = OutputWriter::create(&self.run, 1, Rank(0), KeepOutput::All).unwrap();
        for line in 0..20 {
            writer.append(TaskId(2), 2, Stream::Err, format!("trouble {line}\n").as_bytes()).unwrap();
        }
        writer.append(TaskId(2), 2, Stream::Out, b"all was well\n").unwrap();
    }

    fn end(&mut self, seconds: u64, reason: EndReason, exit_code: i32) {
        self.write([Record::Ended(Ended { time: Time(seconds * SECOND), reason, exit_code })]);
    }

    fn view(&self) -> RunView {
        RunView::load(&self.run, &parse).unwrap()
    }
}

fn text(print: impl FnOnce(&mut dyn std::io::Write) -> Result<(), ReportError>) -> String {
    let mut bytes = Vec::new();
    print(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn figures_are_as_computed_by_hand() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    fixture.end(10, EndReason::Failures, 1);
    let figures = Figures::of(&fixture.view());
    assert_eq!((figures.tasks, figures.ranks, figures.slots, figures.nodes), (6, 2, 4, 2));
    let counts = [State::Completed, State::Failed, State::Skipped, State::Pending].map(|s| figures.counts.of(s));
    assert_eq!(counts, [3, 1, 2, 0]);
    // Rank 0: 2 + 1 + 3 seconds, rank 1: 4 + 4.
    assert_eq!((figures.wall_s, figures.work_s), (10.0, 14.0));
    assert_eq!(figures.utilisation, Some(14.0 / 40.0));
    assert_eq!(figures.balance, Some(7.0 / 8.0));
    assert_eq!(figures.critical_path_s, Some(4.0));
    assert_eq!((figures.bytes_moved, figures.billed_node_s), (0, 20.0));
}

#[test]
fn a_failed_run_says_what_failed_what_was_skipped_and_how_to_go_on() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    fixture.end(10, EndReason::Failures, 1);
    let view = fixture.view();
    let report = text(|out| write_report(out, &view, Paint::OFF));
    has(
        &report,
        &[
            "mosaic-1 FAILED: all tasks that could run have ended",
            "6: 3 completed, 1 failed, 2 skipped",
            "wall 10.0 s, critical path 4.00 s, work 14.0 s over all slots",
            "4 slots, 2 ranks, 2 nodes: 35 % used, balance 0.88",
            "0.006 node-hours billed",
            "n2 is slow",
            "tile[2]: FAILED, exit 3, attempt 2, on n1 after 3.00 s",
            "    | trouble 10\n",
            "    | trouble 19\n",
            "2 because tile[2] FAILED: mosaic, thumb",
            "mpirun -n 2 phalanx run jobs/mosaic.toml --resume\n",
            "Slowest tasks",
        ],
    );
    assert!(!report.contains("trouble 9\n") && !report.contains("--run-dir"), "{report}");
    let failed = text(|out| write_failed(out, &view, Paint::OFF));
    has(&failed, &["tile[2]: FAILED", "| trouble 19"]);
    let failed: serde_json::Value = serde_json::from_str(&text(|out| write_failed_json(out, &view))).unwrap();
    let failed = &failed["failures"][0];
    assert_eq!((&failed["task"], &failed["exit"], &failed["node"]), (&"tile[2]".into(), &3.into(), &"n1".into()));
    assert!(failed["output"][0]["text"].as_str().unwrap().contains("trouble 19"), "{failed}");
    let task: serde_json::Value = serde_json::from_str(&text(|out| write_task_json(out, &view, "tile[2]"))).unwrap();
    assert_eq!(task["tasks"][0]["attempts"][1]["state"], "FAILED", "{task}");
}

#[test]
fn json_has_the_published_names() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    fixture.end(10, EndReason::Failures, 1);
    let object: serde_json::Value = serde_json::from_str(&text(|out| write_json(out, &fixture.view()))).unwrap();
    for name in [
        "state",
        "exit_code",
        "tasks",
        "ranks",
        "slots",
        "wall_s",
        "work_s",
        "critical_path_s",
        "utilisation",
        "balance",
        "bytes_moved",
        "billed_node_s",
        "active_node_s",
        "node_hours",
        "cost",
        "budget",
        "decisions",
    ] {
        assert!(object.get(name).is_some(), "{name}");
    }
    assert_eq!((&object["state"], &object["exit_code"]), (&"FAILED".into(), &1.into()));
    assert_eq!((&object["tasks"]["SKIPPED"], &object["tasks"]["RUNNING"]), (&2.into(), &0.into()));
    assert!(object["cost"].is_null() && object["decisions"].as_array().unwrap().is_empty());
}

#[test]
fn the_tables_have_a_line_for_each_attempt() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    let view = fixture.view();
    let csv = text(|out| write_tasks(out, &view));
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0], tables::TASK_COLUMNS);
    assert_eq!(lines[3], "tile,2,1,TIMEOUT,-15,0,n1,1,0.000000000,0.000000000,1.000000000,,1,,,");
    assert_eq!(lines[7], "\"thumb, \"\"small\"\"\",,0,SKIPPED,,,,,0.000000000,4.000000000,4.000000000,,1,,,");
    let joblog = text(|out| write_joblog(out, &view));
    let lines: Vec<&str> = joblog.lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[3], "3\tn1\t1700000000.000\t     1.000\t0\t0\t0\t15\trender 'tile 2'");
    assert_eq!(lines[4], "3\tn1\t1700000001.000\t     3.000\t0\t13\t3\t0\trender 'tile 2'");
}

#[test]
fn a_task_is_shown_with_all_it_printed() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    let view = fixture.view();
    let task = text(|out| write_task(out, &view, "tile[2]", Paint::OFF));
    has(
        &task,
        &[
            "attempt 1 TIMEOUT, signal 15 (TERM), 1.00 s on n1 (rank 0, slot 1)",
            "attempt 2 FAILED, exit 3",
            "started at 1.000 s, ended at 4.000 s",
            "standard output of attempt 2\nall was well\n",
            "standard error of attempt 2\ntrouble 0\n",
            "render 'tile 2'",
        ],
    );
    assert_eq!(text(|out| write_task(out, &view, "tile", Paint::OFF)).lines().count(), 4);
    let error = write_task(&mut Vec::new(), &view, "tiel", Paint::OFF).unwrap_err().to_string();
    has(&error, &["has no task `tiel`"]);
}

#[test]
fn a_run_that_goes_on_and_one_that_was_killed_are_told_apart() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    let lock = fixture.run.lock().unwrap();
    let view = fixture.view();
    assert_eq!(view.state(), RunState::Running);
    let running = text(|out| write_summary(out, &view, Paint::OFF));
    has(&running, &[&format!("mosaic-1 RUNNING: process {}", std::process::id())]);
    assert!(!running.contains("To continue"));
    drop(lock);
    let view = fixture.view();
    assert_eq!(view.state(), RunState::Interrupted);
    has(&text(|out| write_summary(out, &view, Paint::OFF)), &["killed", "last record after 8.00 s", "--resume"]);
    let object: serde_json::Value = serde_json::from_str(&text(|out| write_json(out, &view))).unwrap();
    assert!(object["exit_code"].is_null() && object["state"] == "INTERRUPTED");
}

#[test]
fn a_resumed_run_is_one_story_on_one_clock() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    fixture.end(10, EndReason::Failures, 1);
    let mut second = began(2, 100, fixture.start_dir());
    let kept = |first, count| KeptRun { first: TaskId(first), was: TaskId(first), count };
    second.kept = vec![kept(0, 2), kept(3, 1)];
    fixture.write([
        Record::Began(second),
        Record::Attempts(vec![
            ran(2, 1, 0, 2, Outcome::OK),
            ran(4, 1, 2, 3, Outcome::OK),
            ran(5, 1, 3, 5, Outcome::OK),
        ]),
    ]);
    fixture.end(5, EndReason::Complete, 0);
    let view = fixture.view();
    let figures = Figures::of(&view);
    assert_eq!((figures.counts.of(State::Completed), figures.wall_s), (6, 15.0));
    // The longest tile, then the mosaic, then the thumb; the mosaic takes two slots.
    assert_eq!((figures.critical_path_s, figures.work_s), (Some(7.0), 20.0));
    has(&text(|out| write_summary(out, &view, Paint::OFF)), &["mosaic-1 COMPLETED\n", "resumed once", "  6 completed"]);
    let csv = text(|out| write_tasks(out, &view));
    has(&csv, &["tile,2,1,COMPLETED,0,0,n1,1,100.000000000,100.000000000,102.000000000"]);
    has(
        &text(|out| write_task(out, &view, "tile[2]", Paint::OFF)),
        &["attempt 2 (session 1)", "attempt 1 (session 2)"],
    );
}

#[test]
fn what_precedes_damage_is_still_reported() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    fixture.end(10, EndReason::Failures, 1);
    let mut bytes = std::fs::read(fixture.run.journal()).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    std::fs::write(fixture.run.journal(), bytes).unwrap();
    let view = fixture.view();
    assert!(view.damage().is_some());
    has(&text(|out| write_summary(out, &view, Paint::OFF)), &["warning: ", "is damaged at byte", "completed"]);
}

#[test]
fn an_unreadable_job_leaves_its_numbers() {
    let mut fixture = Fixture::new();
    fixture.failed_session();
    let nothing = |_: &Session| Err("gone".to_owned());
    let view = RunView::load(&fixture.run, &nothing).unwrap();
    has(
        &text(|out| write_report(out, &view, Paint::OFF)),
        &["tasks are numbered: gone", "task[2]: FAILED", "2 because their"],
    );
    has(&text(|out| write_task(out, &view, "task[2]", Paint::OFF)), &["attempt 2", "trouble 19"]);
}

#[test]
fn a_run_without_a_record_is_an_error_not_a_report() {
    let fixture = Fixture::new();
    let error = RunView::load(&fixture.run, &parse).err().unwrap().to_string();
    has(&error, &["holds no record of a run"]);
}

#[test]
fn a_closed_pipe_is_told_from_other_errors() {
    struct Closed(std::io::ErrorKind);
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut fixture = Fixture::new();
    fixture.failed_session();
    let view = fixture.view();
    let (gone, full) = (std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::StorageFull);
    for (kind, closed) in [(gone, true), (full, false)] {
        assert_eq!(write_tasks(&mut Closed(kind), &view).unwrap_err().is_closed_pipe(), closed);
        assert_eq!(write_json(&mut Closed(kind), &view).unwrap_err().is_closed_pipe(), closed);
        let mut rest = Closed(kind);
        let view = &view;
        let copied = view.outputs.copy(1, &ran(2, 2, 1, 4, FAILED), Stream::Err, &mut rest);
        assert_eq!(ReportError::from(copied.unwrap_err()).is_closed_pipe(), closed);
    }
}

/// Run with `cargo test --release -- --ignored --nocapture a_million` to see the figures.
#[test]
#[ignore = "a measurement"]
fn a_million_attempts_are_reported() {
    let mut fixture = Fixture::new();
    let began = began(1, 0, fixture.start_dir());
    fixture.write([Record::Began(began)]);
    for batch in 0..10_000u32 {
        let attempts = (0..100).map(|i| ran(batch * 100 + i, 1, u64::from(batch), u64::from(batch) + 1, Outcome::OK));
        fixture.write([Record::Attempts(attempts.collect())]);
    }
    fixture.end(10_000, EndReason::Complete, 0);
    let many = |_: &Session| Ok(SessionJob { job: Arc::new(job_view::Nameless { tasks: 1_000_000 }), graph: None });
    let timed = |what: &str, work: &dyn Fn() -> usize| {
        let started = std::time::Instant::now();
        let bytes = work();
        println!("{what}: {:?} ({bytes} bytes)", started.elapsed());
    };
    timed("load", &|| RunView::load(&fixture.run, &many).unwrap().replay.attempts());
    let view = RunView::load(&fixture.run, &many).unwrap();
    timed("report", &|| text(|out| write_report(out, &view, Paint::OFF)).len());
    timed("--tasks", &|| text(|out| write_tasks(out, &view)).len());
    timed("--joblog", &|| text(|out| write_joblog(out, &view)).len());
}

#[test]
fn ranks_that_come_and_go_and_the_reasons_are_in_the_report() {
    let mut fixture = Fixture::new();
    let began = began(1, 0, fixture.start_dir());
    let joined = RankInfo { rank: 2, node: "n3".into(), slots: 4, pid: 30 };
    let change = |at: u64, state| {
        let info = joined.clone();
        Record::Rank(RankChange {
            time: Time(at * SECOND),
            info,
            node_type: NodeTypeId(0),
            state,
            billed_since: Time::ZERO,
        })
    };
    let decision = Decision {
        number: 1,
        time: Time(SECOND),
        action: Action::Grow { nodes: 1, node_type: NodeTypeId(0) },
        from: 2,
        to: 3,
        policy: "predictive".into(),
        wish: 3,
        confidence: 0.9,
        inputs: Inputs { spent: 1.25, ..Inputs::default() },
        candidates: Vec::new(),
        reason: "a third rank <saves> 4 s".into(),
        forecast: None,
        effect: None,
    };
    fixture.write([
        Record::Began(began),
        Record::Decision(Box::new(decision)),
        change(2, RankState::Active),
        Record::Attempts(vec![ran(0, 1, 0, 4, Outcome::OK), Attempt { rank: Rank(2), ..ran(1, 1, 2, 6, Outcome::OK) }]),
        change(6, RankState::Left),
    ]);
    fixture.end(8, EndReason::Complete, 0);
    let view = fixture.view();
    let timeline = timeline::Timeline::of(&view);
    assert_eq!(timeline.sessions[0].slots, 8);
    // Four slots for eight seconds, and four more for four.
    let uses = idle::Uses::of(&timeline, 8);
    assert_eq!(uses.sum(), (4 * 8 + 4 * 4) as f64 * SECOND as f64);
    assert_eq!(
        steps::StepCounters::of(&timeline).active.points,
        [(0, 2), (2 * SECOND, 3), (6 * SECOND, 2), (8 * SECOND, 0)]
    );
    let page = html::html(&view).unwrap();
    has(&page, &["Scaling decisions", "a third rank &lt;saves&gt; 4 s", "2 &rarr; 3", "1.25", "n3"]);
    let trace = text(|out| trace::write_trace(out, &view).map(|_| ()));
    has(&trace, &["rank 2 on n3", "a third rank <saves> 4 s"]);
}
