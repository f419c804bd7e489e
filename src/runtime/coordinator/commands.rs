//! Handles commands that the user sends to the control socket of a run.
//!
//! Every change is written to the journal with its origin.

use super::driver::{CoordinatorDriver, Messages};
use crate::control::{Answer, PendingRequest, Question, Scale};
use crate::journal::Level;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::schedule::coordinator::{Change, CoordinatorEvent, StopReason};
use crate::schedule::protocol::Stop;
use crate::text::{counted, counted_are};

impl CoordinatorDriver {
    /// Answers one command.
    pub(super) fn answer(&mut self, now: Time, call: PendingRequest) -> Messages {
        let question = call.question.clone();
        let (answer, messages) = match &question {
            Question::Status => (self.status(now), Messages::new()),
            Question::Tasks { name } => (self.tasks(now, name), Messages::new()),
            Question::Pools => (self.list_pools(now), Messages::new()),
            _ if self.finished.is_some() => (Answer::refused("the run is ending"), Messages::new()),
            Question::Scale { to, force } => self.scale(now, *to, *force),
            Question::Drain { what } => self.drain(now, what),
            Question::Limit { pool, units } => self.limit(now, pool, *units),
            Question::Pause { task } => self.pause(now, task.as_deref(), true),
            Question::Resume { task } => self.pause(now, task.as_deref(), false),
            Question::Add { text, file, job, dry_run } => self.add(now, (file, text), job.as_deref(), *dry_run),
            Question::Close => self.close_to_additions(now),
            Question::Rebalance => {
                (Answer::done("the remaining work is shared out evenly"), self.step(now, [CoordinatorEvent::Rebalance]))
            }
            Question::Cancel { task: Some(name) } => self.cancel(now, name),
            Question::Cancel { task: None } => {
                let messages = self.stop(now, Stop::Terminate, StopReason::Signal(libc::SIGTERM));
                (Answer::done("the run is being ended; what is complete stays so (--resume)"), messages)
            }
        };
        if !question.only_reads() {
            let (level, did) = if answer.ok { (Level::Info, "done") } else { (Level::Warning, "refused") };
            let by = call.by.as_deref().unwrap_or("the user");
            // Who asked is told all of it.
            let first = answer.text.lines().next().unwrap_or_default();
            self.recording.note(now, level, &format!("asked by {by}: {question}: {did}: {first}"));
        }
        call.answer(answer);
        messages
    }

    /// Ranks whose state matches.
    fn ranks_in(&self, which: impl Fn(RankState) -> bool) -> Vec<Rank> {
        let all = (0..self.coordinator.next_rank().0).map(Rank);
        all.filter(|&rank| self.coordinator.standing(rank).is_some_and(&which)).collect()
    }

    fn scale(&mut self, now: Time, to: Scale, force: bool) -> (Answer, Messages) {
        let active = self.ranks_in(|s| matches!(s, RankState::Joining | RankState::Active)).len() as u32;
        let present = active + self.coming();
        let ranks = match to {
            Scale::To(ranks) => ranks,
            Scale::More(more) => present.saturating_add(more),
            Scale::Fewer(fewer) => present.saturating_sub(fewer),
            Scale::Auto => return (self.let_policy_decide(), Messages::new()),
        };
        // Ranks that only coordinate count, too.
        let idle = self.nodes.base().iter().filter(|rank| rank.facts.slots == 0).count() as u32;
        let least = 1 + idle;
        if ranks < least {
            let text = format!(
                "a run keeps at least {}, one of which works; `phalanx cancel` ends it",
                counted(least, "rank")
            );
            return (Answer::refused(text), Messages::new());
        }
        let bound = self.job.scaling.as_ref().map(|scaling| scaling.max_ranks);
        if let Some(bound) = bound.filter(|bound| !force && ranks > present && ranks > bound.saturating_add(idle)) {
            let text = format!(
                "{ranks} ranks are more than the job file allows (`max_ranks = {bound}` in [scaling]); \
                 `--force` (over HTTP `\"force\": true`) goes beyond it"
            );
            return (Answer::refused(text), Messages::new());
        }
        let (mut answer, messages) = match ranks >= present {
            true => self.grow(now, ranks - present),
            false => self.shrink(now, present - ranks),
        };
        if answer.ok && self.autoscaler.as_mut().is_some_and(|autoscaler| autoscaler.hold(Some(ranks))) {
            answer.text += &format!("; the policy leaves it at {ranks} until `phalanx scale RUN auto`");
        }
        (answer, messages)
    }

    fn let_policy_decide(&mut self) -> Answer {
        match self.autoscaler.as_mut().is_some_and(|autoscaler| autoscaler.hold(None)) {
            true => Answer::done("the policy decides again"),
            false => Answer::refused("this job's file names no policy (`[scaling]`) that could decide"),
        }
    }

    fn grow(&mut self, now: Time, ranks: u32) -> (Answer, Messages) {
        let mut woken = self.ranks_in(|state| state == RankState::Parked);
        woken.extend(self.ranks_in(|state| state == RankState::Quarantined));
        woken.truncate(ranks as usize);
        let missing = ranks - woken.len() as u32;
        if let Some(why) = self.refuses_nodes(missing) {
            let most = woken.len() as u32 + self.room();
            let possible = if most == 0 { "no more".to_owned() } else { format!("at most {most} more") };
            return (Answer::refused(format!("{why}; {possible} can be had now")), Messages::new());
        }
        let messages = self.change(now, &woken, &Change::Recall);
        let asked = self.request_nodes(now, missing, None, None);
        let woken_text = counted_are(woken.len() as u64, "parked rank");
        (Answer::done(format!("{woken_text} woken, {} requested", counted_are(asked, "node"))), messages)
    }

    /// Number of further nodes that can be requested.
    fn room(&self) -> u32 {
        let Some(provisioner) = &self.provisioner else { return 0 };
        match self.nodes.blocks.paused() {
            Some(_) => 0,
            None => provisioner.room(&self.nodes.blocks).unwrap_or(u32::MAX),
        }
    }

    /// Why this number of nodes cannot be requested, if it cannot, and what helps.
    fn refuses_nodes(&self, nodes: u32) -> Option<String> {
        if nodes <= self.room() {
            return None;
        }
        let Some(provisioner) = &self.provisioner else {
            return Some("the run has no other ranks, and its job file has no [capacity] to request more nodes".into());
        };
        Some(match self.nodes.blocks.paused() {
            Some(why) => format!("no further nodes are requested in this run: {why} (see `phalanx report`); resume it"),
            None => format!("{} cannot hold {}", provisioner.name(), counted(nodes, "more node")),
        })
    }

    fn shrink(&mut self, now: Time, ranks: u32) -> (Answer, Messages) {
        let withdrawn = self.nodes.blocks.withdraw_waiting(now, ranks as usize);
        self.execute_orders();
        let mut left = ranks as usize - withdrawn;
        let takes_part = self.ranks_in(|s| matches!(s, RankState::Joining | RankState::Active));
        let (mut drained, mut parked) = (Vec::new(), Vec::new());
        for &rank in takes_part.iter().rev() {
            let mates = self.nodes.mates(rank);
            let stays = drained.contains(&rank) || rank == Rank::ZERO || mates.len() > left || left == 0;
            if stays {
                continue;
            }
            left -= mates.len().max(1);
            if mates.is_empty() { parked.push(rank) } else { drained.extend(mates) }
        }
        let mut messages = self.drain_worlds(now, &drained);
        messages.extend(self.change(now, &parked, &Change::Park));
        let (drained, mut refusals) = self.split_refused(drained, &Change::Drain);
        let (parked, others) = self.split_refused(parked, &Change::Park);
        refusals.extend(others);
        let text = format!(
            "{} withdrawn, {} drained, {} parked",
            counted_are(withdrawn as u64, "request"),
            counted_are(drained.len() as u64, "joined rank"),
            counted_are(parked.len() as u64, "own rank")
        );
        if left > 0 {
            refusals.push(format!("{left} of {ranks} stay: rank 0 coordinates, and worlds go as a whole"));
        }
        let changed = withdrawn + drained.len() + parked.len() > 0;
        (answer(text, changed, &refusals), messages)
    }

    fn drain(&mut self, now: Time, what: &str) -> (Answer, Messages) {
        let number = what.strip_prefix("rank").unwrap_or(what).trim().parse().ok().map(Rank);
        let wanted: Vec<Rank> = self
            .ranks_in(RankState::is_billed)
            .into_iter()
            .filter(|&rank| number == Some(rank) || self.nodes.rank(rank).is_some_and(|entry| entry.facts.node == what))
            .collect();
        if wanted.is_empty() {
            return (
                Answer::refused(format!("no rank that takes part is `{what}`, or on a node of that name")),
                Messages::new(),
            );
        }
        let own: Vec<Rank> = wanted.iter().copied().filter(|&rank| self.nodes.world_of(rank).is_none()).collect();
        if own.contains(&Rank::ZERO) {
            let text = "rank 0 coordinates the run and cannot be drained; `phalanx cancel` ends the run";
            return (Answer::refused(text), Messages::new());
        }
        let joined: Vec<Rank> = wanted.iter().copied().filter(|rank| !own.contains(rank)).collect();
        let mut messages = self.drain_worlds(now, &joined);
        messages.extend(self.change(now, &own, &Change::Park));
        let (joined, mut refusals) = self.split_refused(joined, &Change::Drain);
        let (own, others) = self.split_refused(own, &Change::Park);
        refusals.extend(others);
        let parked = match own.len() {
            0 => String::new(),
            some => format!("; {} parked, as part of the run's own world", counted_are(some as u64, "rank")),
        };
        let changed = joined.len() + own.len() > 0;
        let text = format!("{} drained{parked}", counted_are(joined.len() as u64, "rank"));
        (answer(text, changed, &refusals), messages)
    }

    /// Splits ranks that were asked to change into those that do, and the reasons of the others.
    fn split_refused(&self, ranks: Vec<Rank>, change: &Change) -> (Vec<Rank>, Vec<String>) {
        let stays = |rank: &Rank| {
            let standing = self.coordinator.standing(*rank);
            matches!(standing, Some(RankState::Joining | RankState::Active | RankState::Quarantined))
        };
        let (stay, go): (Vec<Rank>, Vec<Rank>) = ranks.into_iter().partition(stays);
        let why = |rank: Rank| self.coordinator.refusal(rank, change).unwrap_or_else(|| format!("{rank} stays"));
        (go, stay.into_iter().map(why).collect())
    }

    fn cancel(&mut self, now: Time, name: &str) -> (Answer, Messages) {
        let tasks = match self.job.find(name) {
            Ok(tasks) => tasks,
            Err(reason) => return (Answer::refused(reason), Messages::new()),
        };
        let is_open = |&task: &u32| self.coordinator.final_state(TaskId(task)).is_none();
        let open = tasks.iter().cloned().flatten().filter(is_open).count();
        if open == 0 {
            return (Answer::refused(format!("`{name}` has ended already")), Messages::new());
        }
        let messages = self.step(now, tasks.into_iter().map(|tasks| CoordinatorEvent::Cancel { tasks }));
        let needs = if open == 1 { "what needs it is" } else { "what needs them is" };
        let text = format!(
            "{} cancelled and {needs} skipped; a task that waits for others ends in this way after them",
            counted_are(open as u64, "task")
        );
        (Answer::done(text), messages)
    }
}

/// The answer to a change that is done as far as `refusals` allow. A refusal comes first, so that
/// no text about the rest is taken for success.
fn answer(done: String, changed: bool, refusals: &[String]) -> Answer {
    let why = refusals.join("; ");
    match (refusals.is_empty(), changed) {
        (true, _) => Answer::done(done),
        (false, true) => Answer::refused(format!("only a part is done: {why} ({done})")),
        (false, false) => Answer::refused(why),
    }
}
