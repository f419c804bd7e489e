//! Runs with one planted fault, which the analysis must list first. Each is executed on synthetic
//! slots by a simple rule (a ready task goes to the slot that is free first) and journalled like a
//! real run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::job::{Flush, KeepOutput};
use crate::journal::{Began, EndReason, Ended, Journal, OutputWriter, RankInfo, Record, RunDir, Session};
use crate::model::{Attempt, Outcome, Rank, StageUse, State, TaskId, Time, Usage, Vitals};
use crate::observe::RunView;
use crate::observe::job_view::SessionJob;
use crate::observe::jsonl::JsonLinesWriter;
use crate::observe::vitals::Vital;
use crate::runtime::subject_of;

const MS: u64 = 1_000_000;

/// A run to synthesize.
struct Plant<'a> {
    job: &'a str,
    ranks: u32,
    slots: u32,
    /// Run time of a task on a rank, in nanoseconds.
    takes: &'a dyn Fn(&str, u32, u32) -> u64,
    /// Run time of a failing first attempt in nanoseconds, for tasks that have one.
    fails: &'a dyn Fn(&str, u32) -> Option<u64>,
    /// Nanoseconds between the end of a task and the start of the next in its slot.
    gap: u64,
    /// Nanoseconds before the first task.
    start_up: u64,
    /// Maximum number of tasks at once on a rank, limited by memory.
    at_once: u32,
    used: Option<Usage>,
    /// Share of time in which tasks of the nodes waited for I/O.
    stall: f64,
    /// What was moved for each attempt.
    staged: Option<StageUse>,
}

impl Default for Plant<'_> {
    fn default() -> Self {
        Plant {
            job: "",
            ranks: 4,
            slots: 2,
            takes: &|_, _, _| MS,
            fails: &|_, _| None,
            gap: 1000,
            start_up: MS,
            at_once: u32::MAX,
            used: None,
            stall: 0.0,
            staged: None,
        }
    }
}

/// Slots, tasks and pending events of a synthetic execution.
struct Execution<'a> {
    plant: &'a Plant<'a>,
    subject: &'a SessionJob,
    /// Times at which slots become free, with rank and slot number.
    free: BinaryHeap<Reverse<(u64, u32, u16)>>,
    ready: BinaryHeap<Reverse<(u64, u32)>>,
    /// Ready tasks whose array is at its limit, and the number of each group's tasks under way.
    held: Vec<Reverse<(u64, u32)>>,
    under_way: Vec<u32>,
    attempts: Vec<Attempt>,
}

impl Execution<'_> {
    fn run(mut self) -> Vec<Attempt> {
        let graph = self.subject.graph.clone().unwrap();
        let mut missing: Vec<usize> = (0..graph.node_count() as u32).map(|n| graph.predecessors(n).len()).collect();
        let mut events = BinaryHeap::new();
        for node in (0..graph.node_count() as u32).filter(|&n| missing[n as usize] == 0) {
            events.push(Reverse((self.plant.start_up, node, true)));
        }
        while let Some(Reverse((at, node, arrives))) = events.pop() {
            if arrives && (node as usize) < graph.task_count() {
                self.ready.push(Reverse((at, node)));
            } else {
                if (node as usize) < graph.task_count() {
                    let group = self.group(node);
                    self.under_way[group] -= 1;
                }
                for edge in graph.successors(node) {
                    missing[edge.node() as usize] -= 1;
                    if missing[edge.node() as usize] == 0 {
                        events.push(Reverse((at, edge.node(), true)));
                    }
                }
            }
            self.start(at, &mut events);
        }
        self.attempts
    }

    fn group(&self, task: u32) -> usize {
        self.subject.job.whole().unwrap().group_of(TaskId(task)).0 as usize
    }

    fn start(&mut self, now: u64, events: &mut BinaryHeap<Reverse<(u64, u32, bool)>>) {
        self.ready.extend(self.held.drain(..));
        while let (Some(&Reverse((ready, task))), Some(&Reverse((free, rank, slot)))) =
            (self.ready.peek(), self.free.peek())
        {
            let start = free.max(ready).max(now);
            self.ready.pop();
            let group = self.group(task);
            let limit = self.subject.job.whole().unwrap().groups[group].limit;
            if limit.is_some_and(|limit| self.under_way[group] >= limit) {
                self.held.push(Reverse((ready, task)));
                continue;
            }
            self.under_way[group] += 1;
            self.free.pop();
            let label = self.subject.job.label(TaskId(task));
            let index = label.index.unwrap_or(0) as u32;
            let failed = (self.plant.fails)(label.name, index).map(|took| start + took);
            let again = failed.unwrap_or(start);
            let end = again + (self.plant.takes)(label.name, index, rank);
            self.free.push(Reverse((end + self.plant.gap, rank, slot)));
            events.push(Reverse((end, task, false)));
            let attempt = |attempt: u16, outcome: Outcome, ready: u64, start: u64, end: u64| Attempt {
                task: TaskId(task),
                attempt,
                outcome,
                last: outcome.ok(),
                rank: Rank(rank),
                slot,
                ready: Time(ready),
                start: Time(start),
                end: Time(end),
            };
            let failure = Outcome { state: State::Failed, exit: 1, cached: false };
            self.attempts.extend(failed.map(|failed| attempt(1, failure, ready, start, failed)));
            let number = 1 + u16::from(failed.is_some());
            self.attempts.push(attempt(number, Outcome::OK, failed.unwrap_or(ready), again, end));
        }
    }
}

impl Plant<'_> {
    fn findings(&self) -> Vec<Finding> {
        self.analysis().findings
    }

    fn analysis(&self) -> Analysis {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "planted").unwrap();
        let began = Began {
            session: 1,
            unix_ns: 1_700_000_000 * 1_000_000_000,
            phalanx: "0".into(),
            job_text: self.job.into(),
            job_path: "planted.toml".into(),
            dir: "/tmp".into(),
            ranks: (0..self.ranks)
                .map(|rank| RankInfo { rank, node: format!("n{rank}"), slots: self.slots, pid: 1 })
                .collect(),
            command: vec!["phalanx".into()],
            kept: Vec::new(),
        };
        let subject = subject_of(&Session::new(began.clone())).unwrap();
        let places =
            (0..self.ranks).flat_map(|rank| (0..self.slots.min(self.at_once)).map(move |slot| (rank, slot as u16)));
        let free = places.map(|(rank, slot)| Reverse((self.start_up, rank, slot))).collect();
        let execution = Execution {
            plant: self,
            subject: &subject,
            free,
            ready: BinaryHeap::new(),
            held: Vec::new(),
            under_way: vec![0; 100],
            attempts: Vec::new(),
        };
        let attempts = execution.run();
        let end = attempts.iter().map(|attempt| attempt.end).max().unwrap();
        if let Some(used) = self.used {
            for attempt in &attempts {
                let writer = OutputWriter::create(&run, 1, attempt.rank, KeepOutput::All).unwrap();
                writer.account(attempt.task, 1, used).unwrap();
            }
        }
        if let Some(used) = self.staged {
            for attempt in &attempts {
                let writer = OutputWriter::create(&run, 1, attempt.rank, KeepOutput::All).unwrap();
                writer.staged(attempt.task, 1, &used).unwrap();
            }
        }
        let vitals = Vitals { io_stall: self.stall, read: 5 << 30, ..Vitals::default() };
        let look = |rank: u32| Vital { t: 1.0, rank, vitals };
        JsonLinesWriter::anew(run.vitals()).add(&(0..self.ranks).map(look).collect::<Vec<_>>());
        let mut journal = Journal::create(&run.journal(), Flush::Never).unwrap();
        let ended = Ended { time: end, reason: EndReason::Complete, exit_code: 0 };
        for record in [Record::Began(began), Record::Attempts(attempts), Record::Ended(ended)] {
            journal.append(&record).unwrap();
        }
        analysis(&RunView::load(&run, &subject_of).unwrap()).unwrap()
    }

    #[track_caller]
    fn names_first(&self, kind: &str, parts: &[&str]) -> Finding {
        let findings = self.findings();
        let all: Vec<_> = findings.iter().map(|f| (f.kind, f.saves_s, f.saves_node_s)).collect();
        let first = findings.first().unwrap_or_else(|| panic!("no finding instead of {kind}")).clone();
        assert_eq!(first.kind, kind, "{all:?}");
        let change = first.change.as_ref().expect("a finding says what to change");
        let text = format!("{} {} {} {}", first.title, first.evidence, change.place, change.text);
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        assert!(first.saves_s > 0.0 || first.saves_node_s > 0.0);
        first
    }
}

const FLAT: &str = "[job]\nname = \"flat\"\n[[task]]\nname = \"work\"\narray = \"0-399\"\nkernel = \"busy\"\n";
const THREE: &str = "[[task]]\nname = \"light\"\narray = \"0-199\"\nkernel = \"busy\"\n\n\
    [[task]]\nname = \"other\"\narray = \"0-199\"\nkernel = \"busy\"\n\n[[task]]\nname = \"heavy\"\narray = \"0-39\"\nkernel = \"busy\"\n";
const PHASED: &str = "[[task]]\nname = \"before\"\narray = \"0-79\"\nkernel = \"busy\"\n\n\
    [[task]]\nname = \"merge\"\nneeds = \"before\"\nkernel = \"busy\"\n\n\
    [[task]]\nname = \"after\"\narray = \"0-79\"\nneeds = \"merge\"\nkernel = \"busy\"\n";

#[test]
fn a_slow_rank_is_named_first() {
    let takes = |_: &str, index: u32, rank: u32| (100 + u64::from(index % 7)) * MS * if rank == 2 { 3 } else { 1 };
    let plant = Plant { job: FLAT, takes: &takes, ..Plant::default() };
    let finding = plant.names_first("slow_rank", &["rank 2", "n2", "times as long", "--exclude=n2"]);
    assert!(finding.saves_share > 0.05 && finding.saves_share < 0.4, "{}", finding.saves_share);
}

#[test]
fn a_heavy_class_is_named_first() {
    let takes =
        |name: &str, index: u32, _: u32| if name == "heavy" { 900 * MS } else { (20 + u64::from(index % 5)) * MS };
    let plant = Plant { job: THREE, takes: &takes, ..Plant::default() };
    plant.names_first("heavy_class", &["class heavy", "planted.toml:11", "twice as fast"]);
}

#[test]
fn a_serial_phase_is_named_first() {
    let takes = |name: &str, _: u32, _: u32| if name == "merge" { 2000 * MS } else { 100 * MS };
    let plant = Plant { job: PHASED, takes: &takes, ..Plant::default() };
    let finding = plant.names_first("serial_phase", &["merge", "planted.toml:6", "7 slots idle"]);
    // Two seconds, spread over eight slots, are a quarter of a second.
    assert!((finding.saves_s - 1.75).abs() < 0.1, "{}", finding.saves_s);
}

#[test]
fn tiny_tasks_are_named_first() {
    let plant = Plant { job: FLAT, takes: &|_, _, _| 20_000, gap: 60_000, start_up: 1000, ..Plant::default() };
    plant.names_first("short_tasks", &["class work", "planted.toml:5", "array = \"0-"]);
}

#[test]
fn what_the_system_does_to_short_tasks_makes_no_class_uneven() {
    // Some tasks wait for a CPU; dividing them would not help.
    let takes = |_: &str, index: u32, _: u32| if index.is_multiple_of(20) { 6 * MS } else { MS };
    let plant = Plant { job: FLAT, takes: &takes, gap: 200_000, start_up: 1000, ..Plant::default() };
    let findings = plant.findings();
    assert!(findings.iter().all(|finding| finding.kind != "uneven_class"), "{findings:?}");
}

#[test]
fn asking_for_too_many_cpus_is_named_first() {
    let job = "[[task]]\nname = \"wide\"\narray = \"0-99\"\ncommand = \"true\"\ncpus = 4\n";
    // Four CPUs each, of which one is busy: as many run at once as four slots of each rank hold.
    let used = Usage { cpu_ns: 98 * MS, peak_bytes: 1 << 20, ..Usage::default() };
    let plant = Plant { job, slots: 8, at_once: 2, takes: &|_, _, _| 100 * MS, used: Some(used), ..Plant::default() };
    let finding = plant.names_first("oversized_cpus", &["wide", "planted.toml:5", "cpus = 1", "at most 1.0 busy"]);
    assert!(finding.saves_share > 0.6, "{}", finding.saves_share);
}

#[test]
fn asking_for_too_much_memory_is_named_first() {
    let job = "[[task]]\nname = \"big\"\narray = \"0-99\"\ncommand = \"true\"\nmemory = \"8GiB\"\n";
    let used = Usage { cpu_ns: 95 * MS, peak_bytes: 500 << 20, ..Usage::default() };
    let plant = Plant { job, slots: 8, at_once: 2, takes: &|_, _, _| 100 * MS, used: Some(used), ..Plant::default() };
    plant.names_first("oversized_memory", &["big", "planted.toml:5", "memory = \"600MiB\"", "500.00 MiB"]);
}

#[test]
fn waiting_for_disks_is_named_first_and_sleeping_is_not() {
    let job = "[[task]]\nname = \"reader\"\narray = \"0-99\"\ncommand = \"cat big\"\n";
    let used = Usage { cpu_ns: 20 * MS, peak_bytes: 1 << 20, ..Usage::default() };
    let plant = Plant { job, takes: &|_, _, _| 100 * MS, used: Some(used), stall: 0.6, ..Plant::default() };
    let finding = plant
        .names_first("io_wait", &["reader", "20 % of their CPUs", "60 % of the time", "20.00 GiB", "planted.toml:1"]);
    assert!(finding.saves_share > 0.5, "{}", finding.saves_share);
    assert_eq!(Plant { stall: 0.0, ..plant }.findings(), Vec::new());
}

#[test]
fn waiting_for_inputs_of_staged_tasks_is_named_first() {
    let job =
        "[[task]]\nname = \"reader\"\narray = \"0-99\"\nstage = \"node\"\ninputs = \"big\"\ncommand = \"cat big\"\n";
    let staged = Some(StageUse { received: 1 << 20, in_s: 0.04, ..StageUse::default() });
    let plant = Plant { job, takes: &|_, _, _| 100 * MS, staged, ..Plant::default() };
    let finding =
        plant.names_first("staging", &["waited 4.00 s", "40 % of their time", "100.00 MiB came from other ranks"]);
    assert!((finding.saves_share - 0.4).abs() < 0.05, "{}", finding.saves_share);
    let brief = Some(StageUse { in_s: 0.001, ..StageUse::default() });
    assert_eq!(Plant { staged: brief, ..plant }.findings(), Vec::new());
}

#[test]
fn a_limit_is_named_first() {
    let job = "[[task]]\nname = \"few\"\narray = \"0-99%4\"\nkernel = \"busy\"\n";
    let plant = Plant { job, at_once: 1, takes: &|_, _, _| 100 * MS, ..Plant::default() };
    plant.names_first("array_limit", &["few", "At most 4", "planted.toml:3", "%8"]);
}

#[test]
fn a_chain_is_told_as_one_and_needs_one_slot() {
    let mut chain = String::from("[[task]]\nname = \"s0\"\nkernel = \"busy\"\nclass = \"step\"\n");
    for i in 1..30 {
        chain += &format!("[[task]]\nname = \"s{i}\"\nneeds = \"s{}\"\nkernel = \"busy\"\nclass = \"step\"\n", i - 1);
    }
    let plant = Plant { job: &chain, takes: &|_, _, _| 50 * MS, ..Plant::default() };
    plant.names_first("serial_phase", &["class step", "30 tasks"]);
    let too_many = plant.findings().into_iter().find(|finding| finding.kind == "too_many_ranks").unwrap();
    assert!(too_many.title.starts_with("1 rank "), "{}", too_many.title);
}

#[test]
fn an_operation_on_a_divided_graph_occupies_all_ranks() {
    let job = |divide: bool| {
        format!(
            "[[graph]]\nname = \"g\"\ngenerate = {{ kind = \"grid\", scale = 3 }}\ndivide = {divide}\n\
             [[task]]\nname = \"long\"\ngraph = \"g\"\noperation = \"pagerank\"\n\
             [[task]]\nname = \"after\"\narray = \"0-5\"\nneeds = \"long\"\ncommand = \"true\"\n"
        )
    };
    let takes = |name: &str, _: u32, _: u32| if name == "long" { 2000 * MS } else { 200 * MS };
    let found = |divide: bool| {
        let plant = Plant { job: &job(divide), ranks: 3, slots: 1, takes: &takes, ..Plant::default() };
        plant.findings().into_iter().map(|finding| (finding.kind, format!("{finding:?}"))).collect::<Vec<_>>()
    };
    let whole = found(false);
    let serial = whole.iter().find(|(kind, _)| *kind == "serial_phase").unwrap();
    assert!(!serial.1.contains("cpus = "), "no rank has more than one slot: {serial:?}");
    let divided = found(true);
    assert!(divided.iter().all(|(kind, _)| !["serial_phase", "too_many_ranks"].contains(kind)), "{divided:?}");
}

#[test]
fn a_run_that_is_as_it_should_be_has_no_findings() {
    let findings = Plant { job: FLAT, takes: &|_, _, _| 100 * MS, ..Plant::default() }.findings();
    assert_eq!(findings, Vec::new());
}

#[test]
fn a_slow_start_is_named() {
    let plant = Plant { job: FLAT, takes: &|_, _, _| 10 * MS, start_up: 2000 * MS, ..Plant::default() };
    plant.names_first("start_up", &["2.00 s after the start of the run", "400 tasks"]);
}

#[test]
fn attempts_that_failed_are_named_with_what_they_cost() {
    let job = "[[task]]\nname = \"work\"\narray = \"0-79\"\nkernel = \"busy\"\nretries = 1\n";
    let fails = |_: &str, index: u32| index.is_multiple_of(2).then_some(100 * MS);
    let plant = Plant { job, takes: &|_, _, _| 100 * MS, fails: &fails, ..Plant::default() };
    let finding = plant.names_first(
        "failed_attempts",
        &["40 attempts", "31 % of the slot time", "class work", "the tasks that failed", "--task 'work[0]'"],
    );
    // Forty tenths of a second on eight slots.
    assert!((finding.saves_s - 0.5).abs() < 0.06, "{}", finding.saves_s);
}

#[test]
fn a_long_task_that_starts_last_is_to_start_first() {
    let job = "[[task]]\nname = \"short\"\narray = \"0-159\"\nkernel = \"busy\"\n\n\
        [[task]]\nname = \"long\"\nkernel = \"busy\"\n";
    let takes = |name: &str, _: u32, _: u32| if name == "long" { 2000 * MS } else { 100 * MS };
    let plant = Plant { job, takes: &takes, ..Plant::default() };
    let tail = plant.findings().into_iter().find(|finding| finding.kind == "tail").expect("a tail");
    assert!(tail.evidence.contains("long"), "{}", tail.evidence);
    assert!(tail.change.is_some_and(|change| change.text.starts_with("priority")));
    // 18 s of work on eight slots take 2.25 s instead of 4.
    assert!((tail.saves_s - 1.7).abs() < 0.2, "{}", tail.saves_s);
}

#[test]
fn long_tasks_at_the_end_of_a_chain_are_to_be_divided() {
    let job = "[[task]]\nname = \"first\"\narray = \"0-79\"\nkernel = \"busy\"\n\n\
        [[task]]\nname = \"last\"\narray = \"0-1\"\nneeds = \"first\"\nkernel = \"busy\"\n";
    let takes = |name: &str, _: u32, _: u32| if name == "last" { 2000 * MS } else { 100 * MS };
    let plant = Plant { job, takes: &takes, ..Plant::default() };
    let finding = plant.names_first("tail", &["last", "planted.toml:8", "array"]);
    // Two of eight slots work for two seconds: all would need half a second.
    assert!((finding.saves_s - 1.5).abs() < 0.1, "{}", finding.saves_s);
}

#[test]
fn phases_that_leave_slots_empty_are_named_with_what_spreading_them_saves() {
    let job = "[[task]]\nname = \"narrow\"\narray = \"0-3\"\nkernel = \"busy\"\n\n\
        [[task]]\nname = \"wide\"\narray = \"0-79\"\nneeds = \"narrow\"\nkernel = \"busy\"\n";
    let takes = |name: &str, _: u32, _: u32| if name == "narrow" { 2000 * MS } else { 100 * MS };
    let plant = Plant { job, takes: &takes, ..Plant::default() };
    let findings = plant.findings();
    let finding = findings.iter().find(|finding| finding.kind == "dependencies").expect("a barrier");
    assert!(finding.evidence.contains("class wide"), "{}", finding.evidence);
    assert!((finding.saves_s - 1.0).abs() < 0.1, "{}", finding.saves_s);
}

/// A wide first stage, and a second whose limit leaves slots idle once the first is done.
const STAGED: &str = "[[task]]\nname = \"prep\"\narray = \"0-39\"\nkernel = \"busy\"\n\n\
    [[task]]\nname = \"solve\"\narray = \"0-39%2\"\nneeds = [\"prep[{index}]\"]\nkernel = \"busy\"\n";

#[test]
fn later_stages_that_wait_for_earlier_ones_are_to_start_first() {
    let takes = |name: &str, _: u32, _: u32| if name == "prep" { 400 * MS } else { 100 * MS };
    let plant = Plant { job: STAGED, ranks: 1, slots: 8, takes: &takes, ..Plant::default() };
    let analysis = plant.analysis();
    let kinds: Vec<_> = analysis.findings.iter().map(|finding| finding.kind).collect();
    let finding =
        analysis.findings.iter().find(|finding| finding.kind == "priority").unwrap_or_else(|| panic!("{kinds:?}"));
    let change = finding.change.as_ref().unwrap();
    assert!(change.place.contains("planted.toml:6") && change.text.starts_with("priority = 1"), "{change:?}");
    // Two seconds of the first stage, and two of the second at its limit: side by side little more
    // than 2.
    assert!((1.0..1.6).contains(&finding.saves_s), "{finding:?}");
    let finding = analysis.findings.iter().find(|finding| finding.kind == "array_limit").unwrap();
    let change = finding.change.as_ref().unwrap();
    assert!(change.place.contains("planted.toml:8") && change.text.starts_with("array = \"0-39%8\""), "{change:?}");
    assert!(analysis.idle_text().unwrap().contains("limit of an array"), "{:?}", analysis.idle);
}

#[test]
fn idle_time_is_accounted_for_where_no_change_helps() {
    // Nine tasks on eight slots.
    let job = "[[task]]\nname = \"work\"\narray = \"0-8\"\ncommand = \"true\"\ngpus = 1\n";
    let plant = Plant { job, slots: 8, at_once: 2, takes: &|_, _, _| 100 * MS, ..Plant::default() };
    let analysis = plant.analysis();
    assert!(!analysis.opening().contains("Nothing stands out"));
    let (text, share) = (analysis.idle_text().unwrap(), analysis.idle.iter().map(|cause| cause.share).sum::<f64>());
    assert!(share > 0.5 && text.starts_with("Slots were idle "), "{text}");
}
