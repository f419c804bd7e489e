//! `phalanx recommend`: requests that fit the tasks of a job, from what its earlier runs used.
//!
//! Each completed attempt is one observation of its class: its peak memory where that was measured,
//! the CPUs that it kept busy, its duration. The rule is in `scale/estimate/requests`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::print::ReportError;
use super::report::write_columns;
use super::run_view::{RunView, run_ns};
use super::style::{Paint, bytes};
use super::vitals;
use crate::job::{AUTO_MEMORY_FACTOR, FieldChange, Group, Job};
use crate::model::State;
use crate::scale::estimate::{FittingRequest, UsedAmount, fit};
use crate::text::{counted, seconds};

/// A task of a run counts this much less than one of the next newer run.
const RUN_DECAY: f64 = 0.9;

/// Fewer tasks of a class recommend nothing.
const MIN_TASKS: usize = 3;

/// Shorter tasks do not show how many CPUs they keep busy.
const MIN_CPU_TIME_S: f64 = 1.0;

/// Recommended memory is a multiple of this number of bytes.
const MEMORY_STEP: f64 = (4 << 20) as f64;

/// Less memory is never recommended, in bytes: a command that prints an error may need as much.
const MIN_MEMORY: f64 = (32 << 20) as f64;

/// Shorter time limits are never recommended, in seconds: a busy file system can take as long.
const MIN_TIME_S: f64 = 60.0;

/// A recommended time limit is at least this number of times the 95th percentile ...
const TIME_FACTOR: f64 = 2.0;
/// ... and this number of times the longest duration.
const LONGEST_FACTOR: f64 = 1.25;

/// The recommendations for a job. Field names are those of `--json`.
#[derive(Debug, Serialize)]
pub struct Recommendations {
    /// Name of the job.
    pub job: String,
    /// The runs that they come from, newest first.
    pub runs: Vec<String>,
    /// One entry for each class of tasks with enough observations.
    pub classes: Vec<ClassRequests>,
    /// What the requests of the newest run would have saved in it.
    pub savings: Option<Savings>,
}

/// The recommended requests of a class.
#[derive(Debug, Serialize)]
pub struct ClassRequests {
    /// Name of the class.
    pub class: String,
    /// The `[[task]]` tables of the class.
    pub tasks: Vec<String>,
    /// Number of completed tasks that were measured.
    pub measured: usize,
    /// Memory in bytes. The peak of a task is that of its largest process, or of all its processes
    /// together where that was seen.
    pub memory: Option<Request>,
    /// CPUs.
    pub cpus: Option<Request>,
    /// Time limit in seconds.
    pub time: Option<Request>,
}

/// A resource of a class.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Request {
    /// What the job file asks for; null: no limit.
    pub now: Option<f64>,
    /// What to ask for.
    pub recommended: f64,
    /// Half of the tasks used at most this much.
    pub p50: f64,
    /// Nine of ten tasks used at most this much.
    pub p90: f64,
    /// Nineteen of twenty tasks used at most this much.
    pub p95: f64,
    /// The most that a task used.
    pub max: f64,
}

/// What the recommended requests would have saved in the newest run, if tasks fill nodes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Savings {
    /// Node-hours that the tasks of the run reserved: of CPUs or memory, whichever is more.
    pub node_hours_now: f64,
    /// Node-hours that they would reserve.
    pub node_hours_recommended: f64,
    /// The difference times the price of a node-hour.
    pub money: f64,
}

/// What the tasks of a class used.
#[derive(Default)]
struct Observed {
    memory: Vec<UsedAmount>,
    cpus: Vec<UsedAmount>,
    time: Vec<UsedAmount>,
    /// True if the memory, or the time, of a task was not enough: completed tasks do not show how
    /// much it needs.
    hit_memory: bool,
    hit_time: bool,
}

impl Recommendations {
    /// The recommendations for a job from its runs, newest first.
    pub fn of(job: &Job, runs: &[RunView]) -> Recommendations {
        let mut observed: BTreeMap<&str, Observed> = BTreeMap::new();
        let present: BTreeMap<&str, u32> = job.groups.iter().map(|group| (&*group.class, group.cpus)).collect();
        let learns: BTreeSet<&str> =
            job.groups.iter().filter(|group| group.retry.auto_memory).map(|group| &*group.class).collect();
        for (age, run) in (0i32..).zip(runs) {
            let weight = RUN_DECAY.powi(age);
            for (session, subject) in run.sessions() {
                for attempt in &session.attempts {
                    let name = subject.job.class(attempt.task);
                    let class = observed.entry(name).or_default();
                    class.hit_memory |= attempt.last && attempt.outcome.state == State::OutOfMemory;
                    class.hit_time |= attempt.last && attempt.outcome.state == State::Timeout;
                    if !attempt.shows_duration() {
                        continue;
                    }
                    let took_s = run_ns(attempt) as f64 / 1e9;
                    let used = |amount: f64| UsedAmount { amount, seconds: took_s.max(1e-6), weight };
                    class.time.push(used(took_s));
                    // Ranks of an MPI task on other nodes are not measured.
                    let is_mpi = subject.job.group(attempt.task).is_some_and(|group| group.mpi.is_some());
                    let measured = run.outputs.used(session.began.session, attempt).ok().flatten();
                    let Some(measured) = measured.filter(|_| !is_mpi) else { continue };
                    // With `memory = "auto"` an upper bound serves: it is far below the default.
                    let peak = measured.measured_peak().or(learns.contains(name).then_some(measured.peak_bytes));
                    class.memory.extend(peak.map(|peak| used(peak as f64)));
                    // With fewer CPUs than now a task could not show that it uses more.
                    let had_as_many = present.get(name).is_some_and(|cpus| subject.job.slots(attempt.task) >= *cpus);
                    if took_s >= MIN_CPU_TIME_S && had_as_many {
                        class.cpus.push(used(measured.cpu_ns as f64 / 1e9 / took_s));
                    }
                }
            }
        }
        let (_, firsts) = job.classes();
        let groups = firsts.iter().map(|&first| &job.groups[first as usize]);
        let classes = groups.filter_map(|group| class_requests(job, group, observed.get(&*group.class)?)).collect();
        let mut found = Recommendations {
            job: job.name.clone(),
            runs: runs.iter().map(RunView::name).collect(),
            classes,
            savings: None,
        };
        found.savings = runs.first().and_then(|run| found.savings_in(job, run));
        found
    }

    /// The fields of the job file that differ: memory; CPUs where fewer are kept busy; time limits
    /// where there is one.
    pub fn changes(&self, job: &Job) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        for class in &self.classes {
            for task in &class.tasks {
                let Some(group) = job.groups.iter().find(|group| *group.name == **task) else { continue };
                let mut set = |key, value: String| changes.push(FieldChange { task: task.clone(), key, value });
                let asks_for_it = |request: &Request| group.memory == Some(request.recommended as u64);
                if let Some(memory) = class.memory.filter(|memory| !group.retry.auto_memory && !asks_for_it(memory)) {
                    set("memory", format!("\"{}M\"", memory.recommended as u64 >> 20));
                }
                if let Some(cpus) = class.cpus.filter(|cpus| cpus.recommended < f64::from(group.cpus)) {
                    set("cpus", format!("{}", cpus.recommended));
                }
                let limit = group.time.map(|time| time.as_secs_f64());
                if let Some(time) = class.time.filter(|time| limit.is_some_and(|limit| time.recommended != limit)) {
                    set("time", format!("\"{}s\"", time.recommended));
                }
            }
        }
        changes
    }

    /// Node-hours that the completed tasks of a run reserve now and would reserve.
    fn savings_in(&self, job: &Job, run: &RunView) -> Option<Savings> {
        let session = run.session();
        let mut slots: BTreeMap<&str, u32> = BTreeMap::new();
        session.began.ranks.iter().for_each(|rank| *slots.entry(&rank.node).or_default() += rank.slots);
        let slots = f64::from(slots.into_values().max().filter(|slots| *slots > 0)?);
        let memory = vitals::all(&run.dir.vitals()).iter().map(|vital| vital.vitals.node_memory).max();
        let memory = memory.filter(|memory| *memory > 0).map_or(f64::INFINITY, |memory| memory as f64);
        let share = |cpus: f64, bytes: f64| (cpus / slots).max(bytes / memory);
        let (mut now, mut then) = (0.0, 0.0);
        for attempt in session.attempts.iter().filter(|a| a.shows_duration()) {
            let subject = &run.subject().job;
            let Some(class) = self.classes.iter().find(|class| class.class == subject.class(attempt.task)) else {
                continue;
            };
            let Some(group) = job.groups.iter().find(|group| *group.class == *class.class) else { continue };
            let hours = run_ns(attempt) as f64 / 3.6e12;
            let cpus = f64::from(subject.slots(attempt.task));
            let bytes = group.memory.unwrap_or(0) as f64;
            now += share(cpus, bytes) * hours;
            let fewer = class.cpus.map_or(cpus, |request| request.recommended.min(cpus));
            // What asks for no memory reserves none, and is not made to.
            let less = class.memory.filter(|_| group.memory.is_some()).map_or(bytes, |request| request.recommended);
            then += share(fewer, less) * hours;
        }
        let money = (now - then) * job.cost.node_hour;
        (now > 0.0).then_some(Savings { node_hours_now: now, node_hours_recommended: then, money })
    }

    /// Writes the recommendations as tables.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn write(&self, out: &mut dyn Write, paint: Paint) -> Result<(), ReportError> {
        writeln!(out, "{}: what its tasks used in {}", paint.bold(&self.job), counted(self.runs.len() as u64, "run"))?;
        type Format = fn(f64) -> String;
        type Pick = fn(&ClassRequests) -> Option<Request>;
        let parts: [(&str, Pick, Format); 3] = [
            ("memory", |class| class.memory, |amount| bytes(amount as u64)),
            ("cpus", |class| class.cpus, |amount| format!("{}", (amount * 100.0).round() / 100.0)),
            ("time", |class| class.time, seconds),
        ];
        for (name, pick, format) in parts {
            let row = |class: &ClassRequests| {
                let request = pick(class)?;
                let now = request.now.map_or_else(|| "no limit".to_owned(), format);
                let amounts = [request.recommended, request.p50, request.p90, request.p95, request.max].map(format);
                let head = [class.class.clone(), class.measured.to_string(), now];
                Some(head.into_iter().chain(amounts).collect::<Vec<_>>())
            };
            let rows: Vec<Vec<String>> = self.classes.iter().filter_map(row).collect();
            if rows.is_empty() {
                continue;
            }
            writeln!(out, "\n{}", paint.bold(name))?;
            write_columns(out, &["class", "tasks", "now", "recommended", "p50", "p90", "p95", "max"], &rows, paint)?;
        }
        if let Some(savings) = &self.savings {
            let Savings { node_hours_now: now, node_hours_recommended: then, money } = savings;
            writeln!(
                out,
                "\n{}: its tasks reserved {now:.4} node-hours; {then:.4} with these requests (cost: {:.4} {})",
                self.runs.first().map_or("", String::as_str),
                money.abs(),
                if *money < 0.0 { "more" } else { "less" }
            )?;
        }
        Ok(())
    }
}

fn class_requests(job: &Job, group: &Group, observed: &Observed) -> Option<ClassRequests> {
    let measured = observed.time.len();
    if measured < MIN_TASKS {
        return None;
    }
    let of_class = job.groups.iter().filter(|other| other.class == group.class);
    let enough = |used: &Vec<UsedAmount>| if used.len() < MIN_TASKS { None } else { fit(used, AUTO_MEMORY_FACTOR) };
    let request = |fitting: FittingRequest, now: Option<f64>, recommended: f64| {
        let FittingRequest { p50, p90, p95, max, .. } = fitting;
        Request { now, recommended, p50, p90, p95, max }
    };
    // A limit that was hit and then taken away is not brought back.
    let may_limit_memory = !observed.hit_memory || group.memory.is_some();
    let memory = enough(&observed.memory).filter(|_| may_limit_memory).map(|fitting| {
        let now = group.memory.map(|memory| memory as f64);
        let least = now.filter(|_| observed.hit_memory).unwrap_or_default().max(MIN_MEMORY);
        request(fitting, now, (fitting.amount.max(least) / MEMORY_STEP).ceil() * MEMORY_STEP)
    });
    let cpus = enough(&observed.cpus).map(|fitting| {
        // A task cannot use more than it was given, so what it uses up it may well need.
        let recommended = fitting.p90.ceil().clamp(1.0, f64::from(group.cpus));
        request(fitting, Some(f64::from(group.cpus)), recommended)
    });
    let time = enough(&observed.time).map(|fitting| {
        let now = group.time.map(|time: Duration| time.as_secs_f64());
        let least = now.filter(|_| observed.hit_time).unwrap_or_default().max(MIN_TIME_S);
        request(fitting, now, (fitting.p95 * TIME_FACTOR).max(fitting.max * LONGEST_FACTOR).max(least).ceil())
    });
    let tasks = of_class.map(|group| group.name.to_string()).collect();
    Some(ClassRequests { class: group.class.to_string(), tasks, measured, memory, cpus, time })
}
