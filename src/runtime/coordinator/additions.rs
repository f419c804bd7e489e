//! Tasks that are added to a live run: checked, journalled, and given to the coordinator with the
//! grown graph.
//!
//! | from | what | then |
//! |---|---|---|
//! | a running attempt | offers tables | they are checked, journalled and answered; they count once it has completed |
//! | a user (`phalanx add`) | sends tables | they are checked and journalled, and count at once |
//! | the coordinator | can give homes | all that count and have none become one `Growth` |
//!
//! Ranks are sent the tables before the hand-out with the tasks.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::driver::{CoordinatorDriver, Messages};
use crate::control::Answer;
use crate::exec::Kernels;
use crate::graph::link::{GroupId, Link};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::{FileSet, GrowingJob, Job, Loaded, Whose};
use crate::journal::{Offerer, Record, TaskAddition};
use crate::model::{Rank, TaskId, Time};
use crate::schedule::coordinator::{Growth, Member, ProvisioningState, StopReason};
use crate::schedule::protocol::{AddedTables, Message, Stop};
use crate::text::counted_are;
use crate::workload::placement::FurtherNodes;
use crate::workload::{PreparedJob, check_added, pools, requirements};

/// What has been added to the run, and what is offered.
pub(super) struct Additions {
    kernels: Kernels,
    /// The job with all that counts; `None` until something is added or offered.
    growing: Option<GrowingJob>,
    /// What running attempts have offered, by task.
    offered: FxHashMap<TaskId, Offered>,
    /// Links to tasks that have no homes yet, and the number of their additions.
    links: Vec<Link>,
    waiting: u32,
    /// All tables that count, and how many each rank has been sent.
    tables: Vec<AddedTables>,
    sent: Vec<usize>,
}

/// What an attempt has offered.
struct Offered {
    text: Arc<str>,
    names: Vec<Arc<str>>,
    files: FileSet,
    tasks: u32,
}

impl Additions {
    pub(super) fn new(kernels: Kernels) -> Additions {
        Additions {
            kernels,
            growing: None,
            offered: FxHashMap::default(),
            links: Vec::new(),
            waiting: 0,
            tables: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn growing(&mut self, job: &Job) -> &mut GrowingJob {
        self.growing.get_or_insert_with(|| GrowingJob::new(job.clone()))
    }

    /// Makes tables count: their tasks are numbered. Returns the
    /// number of their first table.
    fn take(&mut self, job: &Job, by: Option<TaskId>, text: Arc<str>) -> Result<GroupId, String> {
        let kernels = self.kernels.clone();
        let growing = self.growing(job);
        let read = growing.read(Arc::clone(&text), "added tasks", &kernels).map_err(|error| error.to_string())?;
        let first_task = TaskId(growing.job().task_count() as u32);
        let first_group = growing.job().groups.len() as GroupId;
        let links = growing.add(by, read.job);
        self.links.extend(links);
        self.waiting += 1;
        self.tables.push(AddedTables { first_task, first_group, text });
        Ok(first_group)
    }

    /// The tables that a rank has not been sent yet.
    pub(super) fn unsent(&mut self, to: Rank) -> Option<Message> {
        self.sent.resize(self.sent.len().max(to.index() + 1), 0);
        let tables = &self.tables[std::mem::replace(&mut self.sent[to.index()], self.tables.len())..];
        (!tables.is_empty()).then(|| Message::Added(tables.to_vec()))
    }
}

impl CoordinatorDriver {
    /// An attempt offers tasks. Its slot waits for the answer.
    pub(super) fn offer(&mut self, now: Time, from: Rank, task: TaskId, attempt: u16, text: String) -> Messages {
        if !self.coordinator.standing(from).is_some_and(|standing| standing.is_here()) {
            return Messages::new();
        }
        let checked = match self.finished {
            Some(_) => Err("the run is ending".to_owned()),
            None => self.check_added(text.into(), "$PHALANX_ADD", Whose::Task(task)),
        };
        let refusal = checked
            .map(|own| {
                let names = own.job.groups.iter().map(|group| Arc::clone(&group.name)).collect();
                let (text, files) = (Arc::clone(&own.text), FileSet::of(&own.job, &|_| true));
                let offered = Offered { text, names, files, tasks: tasks_of(&own) };
                let by = Some(Offerer { task, attempt });
                self.recording.record(Record::Added(TaskAddition { time: now, by, text: own.text }));
                self.temporaries.offer(task, &own.job);
                self.additions.offered.insert(task, offered);
                self.coordinator.offer(task, attempt);
            })
            .err();
        vec![(from, Message::OfferAnswer { task, attempt, refusal })]
    }

    /// The user adds tasks, to the job of this name if one is given. `is_check`: nothing is added.
    pub(super) fn add(
        &mut self,
        now: Time,
        (file, text): (&str, &str),
        job: Option<&str>,
        is_check: bool,
    ) -> (Answer, Messages) {
        let own = match self.check_added(text.into(), file, job.map_or(Whose::User, Whose::Job)) {
            Ok(own) => own,
            Err(refusal) => return (Answer::refused(format!("nothing is added\n{refusal}")), Messages::new()),
        };
        let tasks = u64::from(tasks_of(&own));
        if is_check {
            return (
                Answer::done(format!("{} accepted; nothing is added", counted_are(tasks, "task"))),
                Messages::new(),
            );
        }
        self.recording.record(Record::Added(TaskAddition { time: now, by: None, text: Arc::clone(&own.text) }));
        match self.additions.take(&self.job, None, own.text) {
            Ok(first) => self.keep_what_they_read(first),
            Err(error) => return (Answer::refused(error), Messages::new()),
        }
        self.coordinator.add();
        (Answer::done(format!("{} added", counted_are(tasks, "task"))), self.grow_if_due(now))
    }

    /// Temporary files that the added tasks read, whose tables begin with this one, stay for them.
    fn keep_what_they_read(&mut self, first: GroupId) {
        if let Some(growing) = &self.additions.growing {
            self.temporaries.add_tasks(growing.job(), first);
        }
    }

    /// Lets a run end that waits for more tasks.
    pub(super) fn close_to_additions(&mut self, now: Time) -> (Answer, Messages) {
        if !self.coordinator.is_open() {
            return (Answer::refused("the run is not open: it ends when its tasks have ended"), Messages::new());
        }
        self.recording.record(Record::Closed(now));
        let mut actions = Vec::new();
        self.coordinator.set_open(false, &mut actions);
        (Answer::done("the run ends when its tasks have ended"), self.carry_out(now, actions))
    }

    /// Checks tables that are to be added.
    fn check_added(&mut self, text: Arc<str>, file: &str, whose: Whose<'_>) -> Result<Loaded, String> {
        let kernels = self.additions.kernels.clone();
        let growing = self.additions.growing(&self.job);
        let graph = self.coordinator.graph();
        let has_ended = |task: TaskId| {
            let is_before = |by: TaskId| needs_end_of(graph, by, task);
            self.coordinator.final_state(task).is_some() || matches!(whose, Whose::Task(by) if is_before(by))
        };
        let own = growing.check(text, file, &kernels, whose, &has_ended).map_err(|error| error.render(false))?;
        let known = growing.job().task_count() - self.job.task_count();
        let first_group = growing.job().groups.len() as GroupId;
        let ranks = (0..self.coordinator.next_rank().0).map(Rank);
        let here = ranks.filter(|&rank| self.coordinator.standing(rank).is_some_and(|standing| standing.is_here()));
        let members: Vec<Member> = here.filter_map(|rank| self.coordinator.member(rank).cloned()).collect();
        let ProvisioningState { offers, most, .. } = self.provisioning();
        let further = FurtherNodes { offers, most_ranks: most };
        check_added(&own, first_group, &members, &further).map_err(|error| error.render(false))?;
        if let Some(refusal) = self.temporaries.refusal(&self.job, &own.job) {
            return Err(refusal);
        }
        let is_own = |task: TaskId| matches!(whose, Whose::Task(by) if by == task);
        let others = || self.additions.offered.iter().filter(|(task, _)| !is_own(**task));
        let names: FxHashSet<&str> = own.job.groups.iter().map(|group| &*group.name).collect();
        if let Some((task, name)) =
            others().find_map(|(task, it)| Some((*task, it.names.iter().find(|name| names.contains(&***name))?)))
        {
            let adder = self.job.task_name(task);
            return Err(format!("{adder}, which runs, adds a task `{name}`, too: give each added task its own name"));
        }
        let files = FileSet::of(&own.job, &|_| true);
        if let Some((task, file)) = others().find_map(|(task, it)| Some((*task, it.files.shared_with(&files)?))) {
            let adder = self.job.task_name(task);
            return Err(format!(
                "{adder}, which runs, adds tasks with the file {file}, too, and one of them writes it: let one task add \
                 both, or let this one need `{adder}`"
            ));
        }
        let offered = others().map(|(_, it)| it.tasks as usize).sum::<usize>();
        if let Some(room) = self.coordinator.room()
            && known + offered + tasks_of(&own) as usize > room as usize
        {
            return Err(format!(
                "this session can take no more than {room} further tasks: stop the run and --resume it"
            ));
        }
        Ok(own)
    }

    /// What an ended attempt had offered counts, or is dropped.
    pub(super) fn settle_offer(&mut self, now: Time, task: TaskId, counts: bool) -> Messages {
        if let Some(offered) = self.additions.offered.remove(&task).filter(|_| counts) {
            match self.additions.take(&self.job, Some(task), offered.text) {
                Ok(first) => self.keep_what_they_read(first),
                Err(error) => {
                    // It was readable when it was offered, and names of offers are kept apart.
                    let text = format!("what {} adds is dropped: {error}", self.job.task_name(task));
                    self.recording.note(now, crate::journal::Level::Error, &text);
                }
            }
        }
        let files = self.temporaries.settle(task);
        self.discard_files(files)
    }

    /// Gives what has been added to the coordinator, if it can take it now.
    pub(super) fn grow_if_due(&mut self, now: Time) -> Messages {
        if !self.coordinator.may_grow(now) {
            return Messages::new();
        }
        let began = std::time::Instant::now();
        let Some(growing) = &self.additions.growing else { return Messages::new() };
        let job = growing.job().clone();
        let (links, additions) =
            (std::mem::take(&mut self.additions.links), std::mem::take(&mut self.additions.waiting));
        let counts: Vec<u32> = job.groups.iter().map(|group| group.count).collect();
        let graph = match self.coordinator.graph().grown(&counts, &links) {
            Ok(graph) => Arc::new(graph),
            Err(error) => {
                return self.stop(
                    now,
                    Stop::Drain,
                    StopReason::Broken(format!("no further task can be added: {error}")),
                );
            }
        };
        let before = self.job.groups.len();
        let added = Job { groups: job.groups[before..].to_vec(), pools: job.pools.clone(), ..Job::default() };
        let table = crate::schedule::pools::table::PoolTable::clone(self.coordinator.pools().table());
        let pools = Arc::new(pools::grown(table, &added));
        let prepared = PreparedJob::new(job, graph);
        let members: Vec<Member> = (0..self.coordinator.next_rank().0)
            .filter_map(|rank| self.coordinator.member(Rank(rank)).cloned())
            .collect();
        let advice = Box::new(prepared.placement_rules(&members));
        let shapes_of = Arc::clone(&prepared.job);
        let fair = prepared.family_slots();
        self.autoscaler = self.autoscaler.take().and_then(|autoscaler| autoscaler.grown(&prepared));
        let PreparedJob { job, graph, estimates, urgency, .. } = prepared;
        self.recording.grow(Arc::clone(&job), estimates);
        self.job = job;
        let shapes = Box::new(move |task| requirements::shape(shapes_of.group(task)));
        let took = began.elapsed();
        let growth = Growth { graph, urgency, advice, shapes, pools, fair, additions, took };
        let mut actions = Vec::new();
        self.coordinator.grow(now, growth, &mut actions);
        self.carry_out(now, actions)
    }
}

/// True if `task` has ended whenever `by` runs, or is that task: its end may not be reported yet.
fn needs_end_of(graph: &TaskGraph, by: TaskId, task: TaskId) -> bool {
    let (mut open, mut seen) = (vec![by.0], FxHashSet::default());
    while let Some(node) = open.pop() {
        if node == task.0 {
            return true;
        }
        // A join that asks for one failure does not wait for all.
        if seen.insert(node) && graph.join(node) != Some(JoinRule::AnyNotOk) {
            open.extend(graph.predecessors(node).map(|edge| edge.node()));
        }
    }
    false
}

fn tasks_of(own: &Loaded) -> u32 {
    own.job.groups.iter().map(|group| group.count).sum()
}
