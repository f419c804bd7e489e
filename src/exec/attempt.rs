//! One attempt at a task that is expanded by itself: its result is taken from the cache, or its
//! inputs are looked for, its files noted, and its command or kernel run, possibly in a directory
//! of its own.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::aside::AttemptDeadline;
use super::away::AwayAttempt;
use super::cache::{Answer, CacheRequest, LeftOutputs, Recorder, Visible};
use super::command::CommandAttempt;
use super::control::{Control, watch_starts};
use super::output::Output;
use super::runner::{Runner, TaskTables};
use super::used_files::{self, ANSWER_TIMEOUT, has_record};
use super::{ExecContext, Fault, TaskSource, files, stage};
use crate::graph::link::GroupId;
use crate::job::{CacheRules, Container, Group, Task, TaskLimits, Work};
use crate::model::{Outcome, State, Stream, TaskId, UsedFile};
use crate::store::lexical;

/// One attempt in progress.
pub(super) struct AttemptRun<'a> {
    pub(super) id: TaskId,
    pub(super) tables: &'a TaskTables,
    pub(super) source: &'a dyn TaskSource,
    pub(super) group: &'a Group,
    pub(super) limits: TaskLimits,
    /// Number of the group in its source.
    pub(super) number: GroupId,
    pub(super) seat: &'a ExecContext<'a>,
    pub(super) control: &'a Control,
    /// Its home, if this rank is away.
    pub(super) away: Option<&'a AwayAttempt>,
    /// What it has left, if its result is to be stored.
    pub(super) left: Option<&'a RefCell<LeftOutputs>>,
}

impl<'a> AttemptRun<'a> {
    /// The same attempt with its home, on a rank that is away.
    pub(super) fn in_home<'b>(&self, home: &'b AwayAttempt) -> AttemptRun<'b>
    where
        'a: 'b,
    {
        AttemptRun { away: Some(home), ..*self }
    }
}

impl Runner {
    /// Takes the result of an equal task from the cache, or runs the task and stores its result.
    pub(super) fn with_cache(
        &self,
        turn: &AttemptRun,
        task: &Task,
        rules: &Arc<CacheRules>,
        output: &mut Output,
    ) -> Result<Outcome, Fault> {
        let AttemptRun { id, source, group, limits, number, seat, control, .. } = *turn;
        let is_alike = source.constant(number);
        let request = Arc::new(CacheRequest::new(
            (task, &source.task_name(id)),
            group,
            (rules, is_alike),
            source.job_of(number),
            (&self.site, self.cache.held()),
        ));
        let used = self.files_now(turn, task)?;
        let mut pending = match self.cache.look_up(&request, &AttemptDeadline::begin(control, limits.time))? {
            Answer::Miss(pending) => pending,
            Answer::Hit(hit) => {
                let (taken, cache_use) = *hit;
                for (is_err, bytes) in &taken.printed {
                    output.append(if *is_err { Stream::Err } else { Stream::Out }, bytes);
                }
                taken.measures.iter().for_each(|(name, value)| output.measure(name, *value));
                record_files(task, Outcome::CACHED, used, output);
                output.cache_used(&cache_use);
                return Ok(Outcome::CACHED);
            }
        };
        let recorder = Recorder::new(&*self.sink);
        let mut recording = Output::new(&recorder, id, seat.attempt);
        let mut cache_use = std::mem::take(&mut pending.used);
        let (began, start) = (SystemTime::now(), Instant::now());
        let left = RefCell::default();
        let result = self.work(&AttemptRun { left: Some(&left), ..*turn }, task, pending.visible, &mut recording);
        let took = start.elapsed();
        let result = match result {
            Ok(outcome) if recording.used() => Ok(self.settle(id, &recording, outcome)),
            result => result,
        };
        // Tasks that it has added are no part of a stored result.
        if result.as_ref().is_ok_and(|outcome| outcome.ok()) && !recorder.has_added() {
            let deadline = AttemptDeadline::begin(control, None);
            let recorded = (recorder.take(), began, took);
            cache_use.not_stored = self.cache.store_result(&request, *pending, recorded, left.take(), &deadline);
        }
        output.cache_used(&cache_use);
        result
    }

    /// Runs a command or a kernel.
    pub(super) fn work(
        &self,
        turn: &AttemptRun,
        task: &Task,
        visible: Visible,
        output: &mut Output,
    ) -> Result<Outcome, Fault> {
        let AttemptRun { source, group, limits, number, seat, control, .. } = *turn;
        if let Work::Kernel { name, args } = &task.work {
            let kernel = self.prepare(group, task, name, args)?;
            let used = self.files_now(turn, task)?;
            let outcome = self.kernel(turn, &kernel, output, &|| task.index)?;
            record_files(task, outcome, used, output);
            return Ok(outcome);
        }
        self.watch.call_once(|| {
            if let Err(error) = watch_starts(&self.controls) {
                tracing::warn!("a mount that does not respond may delay a command beyond its time limit: {error}");
            }
        });
        let deadline = AttemptDeadline::begin(control, limits.time);
        let (output_wait, job) = (source.output_wait(number), source.job_of(number));
        let site = &self.site;
        let attempt = CommandAttempt { task, group, limits, seat, site, deadline, output_wait, job, output, visible };
        self.check_inputs(turn, &attempt)?;
        let used = self.files_now(turn, task)?;
        let old =
            self.commands.retry_while_scarce(&attempt.deadline, |deadline| files::make_places(&deadline, task))?;
        let attempt = CommandAttempt { deadline: attempt.deadline.renewed(), ..attempt };
        let outcome = if task.is_staged { self.run_staged(turn, &attempt)? } else { self.commands.run(&attempt)? };
        if outcome.ok() {
            self.note_untouched(turn, &attempt, files::untouched(&attempt.deadline, old));
        }
        record_files(task, outcome, used, output);
        Ok(outcome)
    }

    /// Says which outputs are those of an earlier attempt.
    fn note_untouched(&self, turn: &AttemptRun, attempt: &CommandAttempt, untouched: Vec<PathBuf>) {
        // What this node knows of files that another one writes may be seconds old.
        let is_elsewhere = attempt.seat.hosts.iter().any(|host| host.node != attempt.site.node);
        let Some(file) = untouched.first().filter(|_| !is_elsewhere) else { return };
        let more = match untouched.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!(
            "it succeeded, but did not write its output {}{more}: the file there is older than the attempt",
            file.display()
        );
        attempt.output.remark(&text);
        let name = turn.source.task_name(turn.id);
        self.untouched.call_once(|| tracing::warn!("{name}: {text}; other tasks say such in their standard error"));
        turn.left.iter().for_each(|left| left.borrow_mut().old = Some(file.clone()));
    }

    /// Runs a command in a directory of its own on the node's disk.
    fn run_staged(&self, turn: &AttemptRun, attempt: &CommandAttempt) -> Result<Outcome, Fault> {
        let carrier = attempt.site.carrier.as_ref().filter(|_| turn.away.is_none());
        let mut staged = self.stages.begin((self.cache.store(), self.cache.held()), attempt, turn.away)?;
        // Only temporary outputs come ahead here.
        if let Some(ahead) = carrier.map(|carrier| carrier.bytes_ahead(attempt.task.id)) {
            staged.used = staged.used.with_ahead(ahead);
            staged.used.fetched += ahead;
        }
        let task = staged.task.clone();
        let inside = CommandAttempt { task: &task, deadline: attempt.deadline.renewed(), ..*attempt };
        let ran = self.commands.run(&inside);
        let ended = match ran {
            Ok(outcome) if outcome.ok() => staged.deliver(attempt).map(|()| outcome),
            ended => ended,
        };
        match turn.away {
            Some(home) => home.add(&staged.used),
            None => attempt.output.staged(&staged.used),
        }
        turn.left.iter().for_each(|left| left.borrow_mut().directories = std::mem::take(&mut staged.directories));
        let kept = staged.end(ended.as_ref().copied().map_err(|fault| fault.state), attempt);
        kept.iter().for_each(|text| attempt.output.remark(text));
        ended
    }

    /// Fails an attempt whose declared inputs are not there, before its command starts.
    fn check_inputs(&self, turn: &AttemptRun, attempt: &CommandAttempt) -> Result<(), Fault> {
        let task = attempt.task;
        if task.required.is_empty() {
            return Ok(());
        }
        let required = stage::required_at_home(task, self.cache.held(), &attempt.deadline)?;
        let limit = attempt.deadline.limit.map_or(Duration::MAX, |(limit, _)| limit);
        let deadline = AttemptDeadline::begin(turn.control, Some(limit.min(attempt.output_wait + ANSWER_TIMEOUT)));
        // Rank 0 has waited already.
        let wait = turn.away.map_or(attempt.output_wait, |_| Duration::ZERO);
        let look = |deadline| files::first_missing(&deadline, &task.dir, &required, wait);
        let missing = match self.commands.retry_while_scarce(&deadline, look) {
            // Of a file system that gives no answer nothing is known; the command may do without
            // it.
            Err(fault) if fault.state == State::Timeout => {
                attempt.deadline.check("checking for its inputs").map(|()| None)
            }
            found => found,
        };
        let Some(file) = missing? else { return Ok(()) };
        let dir = turn.away.map_or(Ok(task.dir.clone()), |_| turn.source.task(task.id).map(|task| task.dir));
        let (path, file): (PathBuf, PathBuf) = (dir.map_err(Fault::new)?.join(&file), file.components().collect());
        let writer = [turn.tables, &self.start].into_iter().find_map(|tables| {
            let written = tables.written.get_or_init(|| tables.source.written_files());
            let writer = written.writer_of(&path).filter(|writer| *writer != task.id)?;
            let is_held =
                |task: Task| task.temporary.iter().any(|other| lexical(&task.dir.join(other)) == lexical(&path));
            Some((tables.source.task_name(writer), tables.source.task(writer).is_ok_and(is_held)))
        });
        let whose = match writer {
            Some((writer, true)) => format!(
                "which {writer} writes with `keep = false`: the store of this node does not have it (any more); a run \
                 with `--resume` makes it again"
            ),
            Some((writer, false)) => format!("which {writer} should have written"),
            None => "and no task writes it".to_owned(),
        };
        let is_image = task.container.as_ref().and_then(Container::file).is_some_and(|image| image == file);
        let what = if is_image { "image" } else { "input" };
        Err(Fault::new(format!("did not start: its {what} {} is missing, {whose}", file.display())))
    }

    /// The files that a task is about to use; `None` if a file system gives no answer.
    fn files_now(&self, turn: &AttemptRun, task: &Task) -> Result<Option<Vec<UsedFile>>, Fault> {
        if let Some(home) = turn.away {
            return Ok(Some(home.used_files.clone()));
        }
        let limit = turn.limits.time;
        let answer = limit.map_or(ANSWER_TIMEOUT, |limit| limit.min(ANSWER_TIMEOUT));
        let of = |deadline| self.used_files.of(task, self.cache.held(), &deadline);
        match self.commands.retry_while_scarce(&AttemptDeadline::begin(turn.control, Some(answer)), of) {
            Err(fault) if fault.state == State::Cancelled => Err(fault),
            Err(fault) if fault.state == State::Timeout => {
                used_files::wait_for_programs(task, &AttemptDeadline::begin(turn.control, limit)).map(|()| None)
            }
            used => Ok(used.ok()),
        }
    }
}

/// Passes on which files a task has used that completed. Without a record of its inputs it runs
/// again in a resume.
fn record_files(task: &Task, outcome: Outcome, used: Option<Vec<UsedFile>>, output: &Output) {
    let Some(used) = used.filter(|_| outcome.ok()) else { return };
    if !used.is_empty() || has_record(task) {
        output.used_files(&used);
    }
}
