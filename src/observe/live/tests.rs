//! Reads a run while it is written.

use super::*;
use crate::job::{Flush, KeepOutput};
use crate::journal::{Began, EndReason, Ended, Journal, KeptRun, OutputWriter, RankInfo, Record};
use crate::model::{Attempt, Outcome, Rank, StageUse, State, TaskId, Time};
use crate::observe::Paint;
use crate::runtime::subject_of;

const SECOND: u64 = 1_000_000_000;

fn began(session: u32, kept: Vec<KeptRun>) -> Record {
    Record::Began(Began {
        session,
        unix_ns: crate::journal::unix_now_ns() - 100 * SECOND,
        phalanx: "0".into(),
        job_text: "[[task]]\nname = \"a\"\narray = \"0-9\"\nkernel = \"noop\"\n".into(),
        job_path: "a.toml".into(),
        dir: "/tmp".into(),
        ranks: (0..2).map(|rank| RankInfo { rank, node: format!("n{rank}"), slots: 2, pid: 1 }).collect(),
        command: vec!["phalanx".into()],
        kept,
    })
}

fn attempt(task: u32, outcome: Outcome, last: bool) -> Attempt {
    Attempt {
        task: TaskId(task),
        attempt: 1,
        outcome,
        last,
        rank: Rank(task % 2),
        slot: 0,
        ready: Time(0),
        start: Time(u64::from(task) * SECOND),
        end: Time(u64::from(task + 2) * SECOND),
    }
}

#[test]
fn what_is_written_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    journal.append(&began(1, Vec::new())).unwrap();
    let mut live = Live::open(&run, &subject_of).unwrap();
    assert_eq!(live.totals.ended(), 0);
    let failed = Outcome { state: State::Failed, exit: 3, cached: false };
    journal.append(&Record::Attempts(vec![attempt(0, Outcome::OK, true), attempt(1, failed, false)])).unwrap();
    live.refresh(&subject_of).unwrap();
    live.refresh(&subject_of).unwrap();
    assert_eq!((live.totals.of(State::Completed), live.totals.failed(), live.totals.failures.len()), (1, 0, 1));
    assert_eq!((live.totals.ranks[&0].attempts, live.totals.ranks[&1].failed), (1, 1));
    journal.append(&Record::Attempts(vec![attempt(1, Outcome::OK, true)])).unwrap();
    live.refresh(&subject_of).unwrap();
    assert_eq!(live.totals.of(State::Completed), 2);
    assert_eq!(live.totals.work_s(), 6.0);

    // A resumed session counts earlier completions as done, but not their durations.
    journal
        .append(&Record::Ended(Ended { time: Time(5 * SECOND), reason: EndReason::Walltime, exit_code: 4 }))
        .unwrap();
    journal.append(&began(2, vec![KeptRun { first: TaskId(0), was: TaskId(0), count: 2 }])).unwrap();
    journal.append(&Record::Attempts(vec![attempt(2, Outcome::OK, true)])).unwrap();
    live.refresh(&subject_of).unwrap();
    assert_eq!((live.totals.of(State::Completed), live.totals.ended_here()), (3, 1));
}

#[test]
fn a_frame_fits_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    let failed = Outcome { state: State::Failed, exit: 3, cached: false };
    let attempts = (0..10).map(|task| attempt(task, if task == 4 { failed } else { Outcome::OK }, true)).collect();
    let ended = Ended { time: Time(12 * SECOND), reason: EndReason::Failures, exit_code: 1 };
    for record in [began(1, Vec::new()), Record::Attempts(attempts), Record::Ended(ended)] {
        journal.append(&record).unwrap();
    }
    let live = Live::open(&run, &subject_of).unwrap();
    for (width, height) in [(40, 20), (80, 24), (200, 60)] {
        let frame = write_frame(&live, width, Some(height), Paint::OFF);
        assert!(frame.lines().all(|line| line.chars().count() <= width), "{frame}");
        assert!(frame.lines().count() <= height, "{} lines of {height}:\n{frame}", frame.lines().count());
        assert!(frame.contains("FAILED") && frame.contains("9 of 10 done") && frame.contains("a[4]"), "{frame}");
    }
}

#[test]
fn what_was_moved_for_staged_tasks_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    journal.append(&began(1, Vec::new())).unwrap();
    let mut live = Live::open(&run, &subject_of).unwrap();
    assert!(!metrics::text(&live).contains("phalanx_staging"));
    let used = StageUse { fetched: 7, in_s: 0.5, ..StageUse::default() };
    for rank in [0, 1] {
        let writer = OutputWriter::create(&run, 1, Rank(rank), KeepOutput::All).unwrap();
        writer.staged(TaskId(rank), 1, &used).unwrap();
        live.refresh(&subject_of).unwrap();
        live.refresh(&subject_of).unwrap();
    }
    let page = metrics::text(&live);
    for line in [
        "phalanx_staged_attempts_total 2",
        "phalanx_staging_bytes_total{way=\"fetched\"} 14",
        "phalanx_staging_seconds_total{files=\"inputs\"} 1",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is missing in {page}");
    }
}

#[test]
fn timelines_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    let many = (0..5000).map(|i| Attempt { task: TaskId(i % 10), ..attempt(i, Outcome::OK, true) }).collect();
    journal.append(&began(1, Vec::new())).unwrap();
    journal.append(&Record::Attempts(many)).unwrap();
    let live = Live::open(&run, &subject_of).unwrap();
    let answer = |from, to| serde_json::to_value(gantt::timeline(&live, from, to, Some(100))).unwrap();
    let all = answer(None, None);
    assert_eq!(all["rows"].as_array().unwrap().len(), 4);
    assert!(all["bars"].as_array().unwrap().is_empty());
    // Ranks 0 and 1 alternate with attempts of two seconds; slot 1 of both is idle.
    let cells = all["cells"].as_array().unwrap();
    assert!(cells.len() >= 190 && cells.len() <= 200, "{}", cells.len());
    assert!(cells.iter().all(|cell| cell[3].as_u64().unwrap() > 90));
    let few = answer(Some(100.0), Some(110.0));
    assert!((10..=14).contains(&few["bars"].as_array().unwrap().len()));
    // Invalid parameters count as absent.
    assert_eq!(answer(Some(f64::NAN), Some(-5.0))["cells"], serde_json::json!([]));
}

#[test]
fn attempts_of_extra_slots_stay_in_the_rows_of_their_rank() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    let on = |task, slot| Attempt { slot, ..attempt(task, Outcome::OK, true) };
    journal.append(&began(1, Vec::new())).unwrap();
    journal.append(&Record::Attempts(vec![on(0, 1), on(1, 0), on(2, 3), on(3, 3)])).unwrap();
    let live = Live::open(&run, &subject_of).unwrap();
    let answer = serde_json::to_value(gantt::timeline(&live, None, None, None)).unwrap();
    let rows: Vec<_> = answer["bars"].as_array().unwrap().iter().map(|bar| bar["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, [1, 2, 1, 3]);
}

#[test]
fn every_metric_that_an_alert_may_name_has_a_value() {
    use crate::job::alert::{METRICS, PREFIXES};
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
    let failed = Outcome { state: State::Failed, exit: 3, cached: false };
    let attempts = (0..4).map(|task| attempt(task, if task == 3 { failed } else { Outcome::OK }, true)).collect();
    for record in [began(1, Vec::new()), Record::Attempts(attempts)] {
        journal.append(&record).unwrap();
    }
    let live = Live::open(&run, &subject_of).unwrap();
    let value = |name: &str| metric::value(&live, name);
    assert_eq!((value("completed"), value("failed"), value("error_rate")), (Some(3.0), Some(1.0), Some(0.25)));
    assert_eq!((value("progress"), value("ranks"), value("slots")), (Some(0.4), Some(2.0), Some(4.0)));
    assert_eq!((value("p50_s.a"), value("p50_s.b"), value("custom.x")), (Some(2.0), None, None));
    // Without prices, forecast and usage reports, these metrics are unknown.
    let unknown = [
        "remaining_s",
        "finish_s",
        "spent",
        "budget_used",
        "cost_forecast",
        "cpu",
        "memory",
        "io_stall",
        "rank_memory",
        "gpu",
        "gpu_memory",
        "pool_used",
        "pool_waiting",
    ];
    for (name, _) in METRICS {
        assert_eq!(value(name).is_some(), !unknown.contains(&name), "{name}");
    }
    assert!(PREFIXES.iter().all(|(prefix, _)| prefix.ends_with('.')));
}

#[test]
fn pools_are_shown_with_what_waits_for_them() {
    use crate::observe::pool_samples::PoolRecorder;
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "a").unwrap();
    Journal::create(&run.journal(), Flush::Never).unwrap().append(&began(1, Vec::new())).unwrap();
    let _held = run.lock().unwrap();
    let pool = |kind: &str, capacity, rate_per_s, waiting| PoolSample {
        t: 1.0,
        pool: "db".into(),
        kind: kind.into(),
        capacity,
        rate_per_s,
        in_use: 3,
        waiting,
    };
    let mut recorder = PoolRecorder::new(&run.pools());
    recorder.set(vec![pool("pool", Some(4), None, 7), pool("rate", None, Some(2.5), 5)]);
    recorder.write();
    let live = Live::open(&run, &subject_of).unwrap();
    let page = metrics::text(&live);
    for line in [
        "phalanx_pool_in_use{pool=\"db\",kind=\"pool\"} 3\n",
        "phalanx_pool_capacity{pool=\"db\",kind=\"pool\"} 4\n",
        "phalanx_pool_waiting{pool=\"db\",kind=\"rate\"} 5\n",
        "phalanx_pool_rate_per_second{pool=\"db\",kind=\"rate\"} 2.5\n",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert_eq!((metric::value(&live, "pool_used"), metric::value(&live, "pool_waiting")), (Some(0.75), Some(7.0)));
    let frame = write_frame(&live, 80, Some(60), Paint::OFF);
    assert!(frame.lines().any(|line| line.split_whitespace().eq(["db", "pool", "3", "4", "7"])), "{frame}");
    assert!(frame.lines().any(|line| line.split_whitespace().eq(["db", "rate", "-", "2.5/s", "5"])), "{frame}");
}
