//! Answers status requests with the state of a run.

use serde_json::{Value, json};

use super::driver::CoordinatorDriver;
use super::pricing;
use crate::capacity::Block;
use crate::control::Answer;
use crate::job::Site;
use crate::model::{Rank, RankState, Time};
use crate::observe::{JobView, RunState, Standing, TaskCounts};
use crate::schedule::protocol::Started;
use crate::schedule::transfers::TransferCounts;

/// Number of running tasks in an answer; those that have been running longest are shown.
const MAX_SHOWN_TASKS: usize = 100;

impl CoordinatorDriver {
    /// The state of the run.
    pub(super) fn status(&self, now: Time) -> Answer {
        let tally = self.coordinator.tally();
        let ranks: Vec<Value> = (0..self.coordinator.next_rank().0).map(|rank| self.rank_status(Rank(rank))).collect();
        let blocks: Vec<Value> = self.nodes.blocks.iter().map(|block| self.block_status(now, block)).collect();
        let text = match &self.finished {
            Some(_) => "ending",
            None if self.coordinator.is_stopping() => "stopping",
            None => "running",
        };
        let [total, left_out, ready, running, completed, failed, skipped, cancelled] = [
            tally.total + tally.left_out,
            tally.left_out,
            tally.ready + tally.held,
            tally.running,
            tally.completed,
            tally.failed,
            tally.skipped,
            tally.cancelled,
        ]
        .map(u64::from);
        let counts = TaskCounts { total, ready, running, completed, failed, skipped, cancelled, left_out, pending: 0 };
        let counts = counts.with_pending();
        let standing = Standing {
            run_name: self.identity.name.clone(),
            job: self.job.name.clone(),
            run_state: RunState::Running.name(),
            session: self.identity.session,
            exit_code: None,
            elapsed_s: now.seconds(),
            counts,
            cost: pricing::bill(&self.job, self.nodes.bills(), now).map(|here| self.identity.earlier_cost + here),
            budget: self.job.cost.budget,
        };
        let status = standing.with(json!({
            "state": text,
            "time_s": now.seconds(),
            "epoch": self.coordinator.epoch(),
            "tasks": {
                "total": tally.total, "completed": tally.completed, "failed": tally.failed, "skipped": tally.skipped,
                "cancelled": tally.cancelled, "left_out": tally.left_out, "running": tally.running, "ready": ready,
                "held": tally.held,
                "pending": counts.pending,
            },
            "forecast": self.forecast(),
            "scaling": self.autoscaler.as_ref().map(|it| it.status(standing.cost, standing.budget)),
            "running": self.running(),
            "ranks": ranks,
            "blocks": blocks,
            "sites": self.site_views(now),
            "node_types": pricing::types(&self.job, self.nodes.bills(), now),
            "open": self.coordinator.is_open(),
            "paused": self.nodes.blocks.paused(),
            "paused_tasks": self.paused_tasks(),
            "pools": self.pools(now),
            "transfers": self.transfers(),
        }));
        Answer { status: Some(status), ..Answer::done(text) }
    }

    /// Files on their way between ranks, and those that have arrived.
    fn transfers(&self) -> Value {
        let TransferCounts { waiting, running, arrived, failed, ahead } = self.transfers.counts();
        json!({ "waiting": waiting, "running": running, "arrived": arrived, "failed": failed, "ahead": ahead })
    }

    /// A block, with the site that it was requested from if the job has several.
    fn block_status(&self, now: Time, block: &Block) -> Value {
        let site = Some(block.site).filter(|_| !block.own);
        let charged = |from| pricing::charged_s(&self.job, site, from, block.ended.unwrap_or(now));
        let billed = block.granted.map_or(0.0, charged);
        json!({
            "block": block.id.0,
            "state": block.state.name(),
            "name": block.name,
            "node": block.node,
            "site": self.job.sites.get(block.site.index()).and_then(Site::name).filter(|_| !block.own),
            "asked_s": block.asked.seconds(),
            "granted_s": block.granted.map(Time::seconds),
            "joined_s": block.joined.map(Time::seconds),
            "ended_s": block.ended.map(Time::seconds),
            "billed_node_s": billed,
        })
    }

    /// The tasks that have been running longest, at most [`MAX_SHOWN_TASKS`].
    fn running(&self) -> Vec<Value> {
        let job = &self.job;
        let mut running: Vec<(Rank, Started)> = self.coordinator.running().collect();
        running.sort_unstable_by_key(|(_, started)| (started.start, started.task));
        let view = |(rank, started): (Rank, Started)| {
            json!({
                "task": job.label(started.task).indexed(),
                "label": job.task_name(started.task),
                "attempt": started.attempt,
                "rank": rank.0,
                "node": self.nodes.rank(rank).map(|entry| &entry.facts.node),
                "since_s": started.start.seconds(),
            })
        };
        running.into_iter().take(MAX_SHOWN_TASKS).map(view).collect()
    }

    fn rank_status(&self, rank: Rank) -> Value {
        let state = self.coordinator.standing(rank);
        let load = self.coordinator.load(rank);
        let entry = self.nodes.rank(rank);
        let is_here = state.is_some_and(RankState::is_billed);
        let (slow, failures) = self.coordinator.health(rank);
        json!({
            "rank": rank.0,
            "node": entry.map(|entry| &entry.facts.node),
            "state": state.map_or("unknown", RankState::name),
            "slots": entry.map_or(0, |entry| entry.facts.slots),
            "slots_active": self.slots.get(&rank).map(|slots| slots.active),
            "slots_why": self.slots.get(&rank).map(|slots| slots.why),
            "running": if is_here { load.busy } else { 0 },
            "ready": if is_here { load.ready } else { 0 },
            "labels": self.coordinator.labels(rank),
            "slowdown": slow,
            "failures": failures,
            "block": self.nodes.world_of(rank).and_then(|world| world.block).map(|id| id.0),
        })
    }
}
