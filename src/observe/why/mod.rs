//! Why a task is in its state: what it waits for, where it runs, how it ended, why it ran again.
//!
//! What has ended is read from the journal. What waits and runs in a live run is known to rank 0,
//! which is asked once ([`LiveTasks`]).
//!
//! | file | one idea |
//! |---|---|
//! | `reason` | all reasons, and their words |
//! | `waits` | reasons of tasks that have not started |
//! | `ends` | reasons of tasks that have ended |
//! | `live` | what rank 0 answers |
//! | `print` | text and JSON |

mod ends;
mod live;
mod print;
mod reason;
mod waits;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde::Serialize;

use super::cache::cache_texts;
use super::latency::Durations;
use super::run_view::{RunState, RunView, run_ns};
use super::skip_cause::SkipCauses;
use crate::journal::LeftOut;
use crate::model::{State, TaskId, Time};
use crate::text::seconds;

pub use live::{LiveRank, LiveRunning, LiveTask, LiveTasks};
pub use print::{write_task_reasons, write_task_reasons_json};
pub use reason::TaskReason;

/// What stands in place of the state of a task that the session leaves out.
const LEFT_OUT: &str = "LEFT_OUT";

/// A task's state and the reasons for it. Times are seconds on the clock of the run, which began
/// with its first session.
#[derive(Clone, Debug, Serialize)]
pub struct TaskExplanation {
    /// The task, by index.
    pub task: String,
    /// The task, by the values of its matrix.
    pub label: String,
    /// Its values along the axes of its matrix, such as `sample=NA3, seed=2`.
    pub values: Option<String>,
    /// Its state.
    pub state: &'static str,
    /// When it came into that state, as far as known.
    pub since_s: Option<f64>,
    /// Why it is in that state, the most important reason first.
    pub reasons: Vec<TaskReason>,
    /// When it will probably start, or, if it runs, end.
    pub expected: Option<Expectation>,
    /// Where it runs or ran last.
    pub place: Option<TaskPlace>,
    /// How long its last attempt took or has taken.
    pub took_s: Option<f64>,
    /// Completed tasks of its class, to compare.
    pub class: Option<ClassFacts>,
    /// CPU time and memory that its last attempt used, if the system counted them.
    pub used: Option<UsedFacts>,
    /// The last lines that it printed.
    pub output: Option<String>,
}

/// When something will probably happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Expectation {
    /// `start` or `end`.
    pub what: &'static str,
    /// Seconds from now; a median.
    pub in_s: f64,
    /// What the expectation rests on.
    pub from: String,
}

/// Where an attempt runs or ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskPlace {
    /// The session.
    pub session: u32,
    /// Number of the attempt.
    pub attempt: u16,
    /// Name of the node.
    pub node: String,
    /// Number of the rank.
    pub rank: u32,
    /// The slot, once the attempt has ended.
    pub slot: Option<u16>,
}

/// Run times of the completed tasks of a class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassFacts {
    /// Name of the class.
    pub name: String,
    /// Number of completed tasks.
    pub completed: u64,
    /// Median run time in seconds.
    pub median_s: f64,
    /// Run time in seconds that nine of ten do not exceed.
    pub p90_s: f64,
    /// How many of them took at most as long as this task has taken.
    pub at_most: u64,
}

/// What an attempt used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsedFacts {
    /// CPU time in seconds.
    pub cpu_s: f64,
    /// Peak memory in bytes; null if it ran too briefly for that to be measured.
    pub peak_bytes: Option<u64>,
}

/// Explains tasks of a run.
struct Explainer<'a> {
    run: &'a RunView,
    live: Option<&'a LiveTasks>,
    causes: OnceCell<SkipCauses>,
    classes: RefCell<HashMap<String, Rc<Durations>>>,
    /// For joins of the graph, whether a task before them is open.
    open_joins: RefCell<HashMap<u32, bool>>,
}

impl<'a> Explainer<'a> {
    fn new(run: &'a RunView, live: Option<&'a LiveTasks>) -> Explainer<'a> {
        Explainer { run, live, causes: OnceCell::new(), classes: RefCell::default(), open_joins: RefCell::default() }
    }

    /// Explains one task.
    fn explain(&self, task: TaskId) -> TaskExplanation {
        let state = self.state(task);
        let mut known = TaskExplanation {
            task: self.run.subject().job.label(task).indexed(),
            label: self.name(task),
            values: self.values(task),
            state: state.name(),
            since_s: None,
            reasons: Vec::new(),
            expected: None,
            place: None,
            took_s: None,
            class: None,
            used: None,
            output: None,
        };
        self.explain_reruns(task, &mut known);
        known.reasons.extend(cache_texts(self.run, &known.label).into_iter().map(|text| TaskReason::Cache { text }));
        if let Some(left_out) = self.left_out(task).filter(|_| state == State::Pending || state == State::Ready) {
            known.state = LEFT_OUT;
            known.reasons.push(TaskReason::LeftOut { words: left_out.words.clone() });
            return known;
        }
        match state {
            State::Pending | State::Ready => self.explain_waiting(task, state, &mut known),
            State::Running => self.explain_running(task, &mut known),
            _ => self.explain_ended(task, &mut known),
        }
        self.explain_retries(task, &mut known);
        known
    }

    fn name(&self, task: TaskId) -> String {
        self.run.subject().job.label(task).to_string()
    }

    fn values(&self, task: TaskId) -> Option<String> {
        let values = self.run.subject().job.axis_values(task);
        let named: Vec<String> = values.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// What left a task out of the last session, if anything did.
    fn left_out(&self, task: TaskId) -> Option<&LeftOut> {
        self.run.session().left_out.as_ref().filter(|left_out| left_out.has(task))
    }

    /// State of a task now.
    fn state(&self, task: TaskId) -> State {
        match self.final_state(task) {
            Some(state) => state,
            None if self.live.is_some_and(|live| live.running(task).is_some()) => State::Running,
            None if self.is_live() && !self.has_open_needs(task) => match self.live.and_then(|live| live.waiting) {
                // What is ready and does not wait runs; rank 0 knows where after a second.
                Some(0) => State::Running,
                _ => State::Ready,
            },
            None => State::Pending,
        }
    }

    /// State of a task that has ended for good.
    fn final_state(&self, task: TaskId) -> Option<State> {
        self.run.replay.latest(task).filter(|(_, attempt)| attempt.last).map(|(_, attempt)| attempt.outcome.state)
    }

    fn is_live(&self) -> bool {
        self.run.state() == RunState::Running
    }

    /// A time of the last session on the clock of the run, in seconds.
    fn clock_s(&self, time: Time) -> f64 {
        self.run.on_run_clock(self.run.session(), time) as f64 / 1e9
    }

    /// Now, on the clock of the run, in seconds.
    fn now_s(&self) -> f64 {
        let session = self.run.session();
        self.clock_s(Time(self.run.wall_ns(session)))
    }

    /// Run times of the completed tasks of a class, of each that of its last attempt.
    fn class_times(&self, name: &str) -> Rc<Durations> {
        if let Some(known) = self.classes.borrow().get(name) {
            return Rc::clone(known);
        }
        let mut times = Durations::default();
        let job = &self.run.subject().job;
        let completed = self.run.replay.all_latest().filter(|(_, _, attempt)| attempt.shows_duration());
        completed.filter(|(task, ..)| job.class(*task) == name).for_each(|(.., attempt)| times.add(run_ns(attempt)));
        let times = Rc::new(times);
        self.classes.borrow_mut().insert(name.to_owned(), Rc::clone(&times));
        times
    }

    /// The class of a task, compared with how long this one took; `None` if none has completed.
    fn class_facts(&self, task: TaskId, took_s: f64) -> Option<ClassFacts> {
        let name = self.run.subject().job.class(task);
        let times = self.class_times(name);
        (times.count() > 0).then(|| ClassFacts {
            name: name.to_owned(),
            completed: times.count(),
            median_s: times.quantile_s(0.5),
            p90_s: times.quantile_s(0.9),
            at_most: times.at_most(took_s),
        })
    }

    /// Median run time of a task in seconds, and what says so.
    fn usual_time(&self, task: TaskId) -> Option<(f64, String)> {
        let job = &self.run.subject().job;
        let class = job.class(task);
        let times = self.class_times(class);
        if times.count() > 0 {
            let median = times.quantile_s(0.5);
            let told = format!("{} of `{class}`", crate::text::counted(times.count(), "completed task"));
            return Some((median, format!("{told} took {} in the median", seconds(median))));
        }
        let learnt = self.run.session().past.iter().flat_map(|past| &past.learnt).find(|learnt| learnt.class == class);
        if let Some(learnt) = learnt {
            return Some((learnt.seconds, format!("`{class}` took {} in earlier runs", seconds(learnt.seconds))));
        }
        let estimate = job.group(task)?.estimate?.as_secs_f64();
        Some((estimate, format!("the job file estimates {}", seconds(estimate))))
    }
}
