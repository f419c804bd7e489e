//! What a person asks of a run under way, done: rank 0's answers to the control socket. Every change is written to the journal with who made it.

use serde_json::{Value, json};

use super::autoscaler::Autoscaler;
use super::driver::CoordinatorDriver;
use crate::capacity::{BlockId, Event as BlockEvent, State};
use crate::control::{Answer, PendingRequest, Question, Scale};
use crate::journal::Level;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::schedule::coordinator::{Change, Event, Why};
use crate::schedule::protocol::{Message, Started, Stop};

/// Of more running tasks than this those that have been running longest are shown.
const MOST_RUNNING: usize = 100;

type Messages = Vec<(Rank, Message)>;

impl CoordinatorDriver {
    /// Answers one question.
    pub(super) fn command(&mut self, now: Time, call: PendingRequest) -> Messages {
        let question = call.question.clone();
        let (answer, messages) = match &question {
            Question::Status => (self.status(now), Messages::new()),
            _ if self.finished.is_some() => (Answer::refused("the run is ending"), Messages::new()),
            Question::Scale { to } => self.scale(now, *to),
            Question::Drain { what } => self.drain(now, what),
            Question::Rebalance => {
                (Answer::done("the remaining work is shared out evenly"), self.happens(now, [Event::Rebalance]))
            }
            Question::Cancel { task: Some(name) } => self.cancel(now, name),
            Question::Cancel { task: None } => {
                let messages = self.stop(now, Stop::Terminate, Why::Signal(libc::SIGTERM));
                (Answer::done("the run is being ended; what is complete stays so (--resume)"), messages)
            }
        };
        if question != Question::Status {
            let (level, did) = if answer.ok { (Level::Info, "done") } else { (Level::Warning, "refused") };
            let by = call.by.as_deref().unwrap_or("the user");
            self.tell(now, level, &format!("asked by {by}: {question}: {did}: {}", answer.text));
        }
        call.answer(answer);
        messages
    }

    /// Ranks in a standing.
    fn ranks_in(&self, which: impl Fn(RankState) -> bool) -> Vec<Rank> {
        let all = (0..self.coordinator.next_rank().0).map(Rank);
        all.filter(|&rank| self.coordinator.standing(rank).is_some_and(&which)).collect()
    }

    fn scale(&mut self, now: Time, to: Scale) -> (Answer, Messages) {
        let active = self.ranks_in(|s| matches!(s, RankState::Joining | RankState::Active)).len() as u32;
        let provisioner = active + self.coming();
        let ranks = match to {
            Scale::To(ranks) => ranks,
            Scale::More(more) => provisioner.saturating_add(more),
            Scale::Fewer(fewer) => provisioner.saturating_sub(fewer),
            Scale::Auto => return (self.let_decide(), Messages::new()),
        };
        // One that only coordinates is a rank, too.
        let least = 1 + self.infos.iter().filter(|info| info.slots == 0).count() as u32;
        if ranks < least {
            let text = format!("a run keeps at least {least} ranks, one of which works; `phalanx cancel` ends it");
            return (Answer::refused(text), Messages::new());
        }
        let (mut answer, messages) = match ranks >= provisioner {
            true => self.grow(now, ranks - provisioner),
            false => self.shrink(now, provisioner - ranks),
        };
        if answer.ok && self.autoscaler.as_mut().is_some_and(|autoscaler| autoscaler.hold(Some(ranks))) {
            answer.text += &format!("; the policy leaves it at {ranks} until `phalanx scale RUN auto`");
        }
        (answer, messages)
    }

    fn let_decide(&mut self) -> Answer {
        match self.autoscaler.as_mut().is_some_and(|autoscaler| autoscaler.hold(None)) {
            true => Answer::done("the policy decides again"),
            false => Answer::refused("this job's file names no policy (`[scaling]`) that could decide"),
        }
    }

    /// Blocks that have been asked for and whose ranks are not there.
    pub(super) fn coming(&self) -> u32 {
        let blocks = self.provisioner.iter().flat_map(|provisioner| provisioner.blocks().iter());
        let comes = |state| matches!(state, State::Requested | State::Pending | State::Granted);
        let worlds = || self.listener.iter().flat_map(|listener| listener.worlds());
        let is_in = |id: BlockId| worlds().any(|world| world.block == Some(id.0) && world.is_in());
        blocks.filter(|block| comes(block.state) && !is_in(block.id)).count() as u32
    }

    fn grow(&mut self, now: Time, ranks: u32) -> (Answer, Messages) {
        let mut woken = self.ranks_in(|standing| standing == RankState::Parked);
        woken.extend(self.ranks_in(|standing| standing == RankState::Quarantined));
        woken.truncate(ranks as usize);
        let messages = self.happens(now, woken.iter().map(|&rank| Event::Change { rank, change: Change::Recall }));
        let missing = ranks - woken.len() as u32;
        let asked = self.ask_for(now, missing, None);
        let text = format!("{} parked ranks are woken, {asked} nodes are asked for", woken.len());
        if asked == missing {
            return (Answer::done(text), messages);
        }
        let why = match &self.provisioner {
            None => "this job's file has no [capacity] to ask for more",
            Some(_) => "nothing more is asked for since too much has failed (see the notes of `phalanx report`)",
        };
        (Answer::refused(format!("{text}; {why}")), messages)
    }

    fn shrink(&mut self, now: Time, ranks: u32) -> (Answer, Messages) {
        let withdrawn: Vec<BlockId> = self
            .provisioner
            .as_ref()
            .map(|s| s.waiting())
            .unwrap_or_default()
            .into_iter()
            .take(ranks as usize)
            .collect();
        if let Some(provisioner) = &mut self.provisioner {
            withdrawn.iter().for_each(|&id| provisioner.step(now, id, BlockEvent::Drain));
        }
        let mut left = ranks as usize - withdrawn.len();
        let takes_part = self.ranks_in(|s| matches!(s, RankState::Joining | RankState::Active));
        let (mut drained, mut parked) = (Vec::new(), Vec::new());
        for &rank in takes_part.iter().rev() {
            let mates = self.listener.as_ref().map(|listener| listener.mates(rank)).unwrap_or_default();
            let gone = drained.contains(&rank) || rank == Rank::ZERO || mates.len() > left || left == 0;
            if gone {
                continue;
            }
            left -= mates.len().max(1);
            if mates.is_empty() { parked.push(rank) } else { drained.extend(mates) }
        }
        let mut messages = self.drain_ranks(now, &drained);
        messages.extend(self.happens(now, parked.iter().map(|&rank| Event::Change { rank, change: Change::Park })));
        let (drained, mut refusals) = self.those_that_go(drained, &Change::Drain);
        let (parked, others) = self.those_that_go(parked, &Change::Park);
        refusals.extend(others);
        let text = format!(
            "{} requests are withdrawn, {} ranks that joined drain, {} of the run's own ranks are parked",
            withdrawn.len(),
            drained.len(),
            parked.len()
        );
        match left {
            _ if !refusals.is_empty() => (Answer::refused(format!("{text}; {}", refusals.join("; "))), messages),
            0 => (Answer::done(text), messages),
            _ => (
                Answer::refused(format!(
                    "{text}; {left} fewer is not possible: rank 0 stays, and worlds go as a whole"
                )),
                messages,
            ),
        }
    }

    fn drain(&mut self, now: Time, what: &str) -> (Answer, Messages) {
        let number = what.strip_prefix("rank").unwrap_or(what).trim().parse().ok().map(Rank);
        let wanted: Vec<Rank> = self
            .ranks_in(RankState::is_billed)
            .into_iter()
            .filter(|&rank| number == Some(rank) || self.node_of(rank).as_deref() == Some(what))
            .collect();
        if wanted.is_empty() {
            return (
                Answer::refused(format!("no rank that takes part is `{what}`, or on a node of that name")),
                Messages::new(),
            );
        }
        let own: Vec<Rank> = wanted.iter().copied().filter(|&rank| self.joined(rank).is_none()).collect();
        if own.contains(&Rank::ZERO) {
            let text = "rank 0 coordinates the run and cannot be drained; `phalanx cancel` ends the run";
            return (Answer::refused(text), Messages::new());
        }
        let joined: Vec<Rank> = wanted.iter().copied().filter(|rank| !own.contains(rank)).collect();
        let mut messages = self.drain_ranks(now, &joined);
        messages.extend(self.happens(now, own.iter().map(|&rank| Event::Change { rank, change: Change::Park })));
        let (joined, mut refusals) = self.those_that_go(joined, &Change::Drain);
        let (own, others) = self.those_that_go(own, &Change::Park);
        refusals.extend(others);
        let parked = match own.len() {
            0 => String::new(),
            many => format!("; {many} ranks of the run's own world cannot leave it and are parked instead"),
        };
        let text = format!("{} ranks drain{parked}", joined.len());
        match refusals.is_empty() {
            true => (Answer::done(text), messages),
            false => (Answer::refused(format!("{text}; {}", refusals.join("; "))), messages),
        }
    }

    /// Of ranks that were asked to, those that leave or rest, and why others do not.
    fn those_that_go(&self, ranks: Vec<Rank>, change: &Change) -> (Vec<Rank>, Vec<String>) {
        let stays = |rank: &Rank| {
            let standing = self.coordinator.standing(*rank);
            matches!(standing, Some(RankState::Joining | RankState::Active | RankState::Quarantined))
        };
        let (stay, go): (Vec<Rank>, Vec<Rank>) = ranks.into_iter().partition(stays);
        let why = |rank: Rank| self.coordinator.refusal(rank, change).unwrap_or_else(|| format!("{rank} stays"));
        (go, stay.into_iter().map(why).collect())
    }

    fn cancel(&mut self, now: Time, name: &str) -> (Answer, Messages) {
        let Some(tasks) = self.job.find(name) else {
            return (Answer::refused(format!("this job has no task `{name}`")), Messages::new());
        };
        let open = tasks.clone().filter(|&task| self.coordinator.final_state(TaskId(task)).is_none()).count();
        if open == 0 {
            return (Answer::refused(format!("`{name}` has ended already")), Messages::new());
        }
        let messages = self.happens(now, [Event::Cancel { tasks }]);
        let text = match open {
            1 => "1 task is cancelled, with what needs it".to_owned(),
            many => format!("{many} tasks are cancelled, with what needs them"),
        };
        (Answer::done(text), messages)
    }

    fn joined(&self, rank: Rank) -> Option<&super::join_listener::JoinedWorld> {
        self.listener.as_ref()?.world_of(rank)
    }

    fn node_of(&self, rank: Rank) -> Option<String> {
        match self.joined(rank) {
            Some(world) => Some(world.node.clone()),
            None => self.infos.get(rank.index()).map(|info| info.node.clone()),
        }
    }

    fn status(&self, now: Time) -> Answer {
        let tally = self.coordinator.tally();
        let ranks: Vec<Value> = (0..self.coordinator.next_rank().0).map(|rank| self.rank_status(Rank(rank))).collect();
        let blocks: Vec<Value> =
            self.provisioner.iter().flat_map(|s| s.blocks().iter()).map(|b| block_status(now, b)).collect();
        let text = match &self.finished {
            Some(_) => "ending",
            None if self.coordinator.is_stopping() => "stopping",
            None => "running",
        };
        let status = json!({
            "state": text,
            "time_s": now.seconds(),
            "epoch": self.coordinator.epoch(),
            "tasks": {
                "total": tally.total, "completed": tally.completed, "failed": tally.failed, "skipped": tally.skipped,
                "cancelled": tally.cancelled, "running": tally.running, "ready": tally.ready,
            },
            "forecast": self.forecast(),
            "scaling": self.autoscaler.as_ref().map(Autoscaler::status),
            "running": self.running(),
            "ranks": ranks,
            "blocks": blocks,
            "paused": self.provisioner.as_ref().and_then(|s| s.blocks().paused()),
        });
        Answer { status: Some(status), ..Answer::done(text) }
    }

    /// The tasks that have been running longest.
    fn running(&self) -> Vec<Value> {
        let job = &self.job;
        let mut running: Vec<(Rank, Started)> = self.coordinator.running().collect();
        running.sort_unstable_by_key(|(_, started)| (started.start, started.task));
        let view = |(rank, started): (Rank, Started)| {
            json!({
                "task": job.task_name(started.task),
                "attempt": started.attempt,
                "rank": rank.0,
                "node": self.node_of(rank),
                "since_s": started.start.seconds(),
            })
        };
        running.into_iter().take(MOST_RUNNING).map(view).collect()
    }

    fn rank_status(&self, rank: Rank) -> Value {
        let state = self.coordinator.standing(rank);
        let load = self.coordinator.load(rank);
        let slots = match self.joined(rank) {
            Some(world) => world.slots(rank),
            None => self.infos.get(rank.index()).map_or(0, |info| info.slots),
        };
        let here = state.is_some_and(RankState::is_billed);
        let (slow, failures) = self.coordinator.health(rank);
        json!({
            "rank": rank.0,
            "node": self.node_of(rank),
            "state": state.map_or("unknown", RankState::name),
            "slots": slots,
            "running": if here { load.running } else { 0 },
            "ready": if here { load.ready } else { 0 },
            "slowdown": slow,
            "failures": failures,
            "block": self.joined(rank).and_then(|world| world.block),
        })
    }
}

fn block_status(now: Time, block: &crate::capacity::Block) -> Value {
    let billed = block.granted.map_or(0.0, |from| block.ended.unwrap_or(now).since(from).as_secs_f64());
    json!({
        "block": block.id.0,
        "state": block.state.name(),
        "name": block.name,
        "node": block.node,
        "asked_s": block.asked.seconds(),
        "granted_s": block.granted.map(Time::seconds),
        "joined_s": block.joined.map(Time::seconds),
        "ended_s": block.ended.map(Time::seconds),
        "billed_node_s": billed,
    })
}
