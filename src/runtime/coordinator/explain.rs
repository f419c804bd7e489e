//! Answers what rank 0 knows of single tasks: where they are at home, what runs, and what the ranks
//! that could run them have free. What that means for a task is said in `observe/why`.

use rustc_hash::{FxHashMap, FxHashSet};

use super::driver::CoordinatorDriver;
use crate::control::Answer;
use crate::graph::link::GroupId;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::observe::{LiveRank, LiveRunning, LiveTask, LiveTasks};
use crate::schedule::protocol::Started;
use crate::workload::requirements;

/// Upper limit on the number of tasks in an answer.
const MAX_TASKS: usize = 1000;

impl CoordinatorDriver {
    /// What is known of the tasks of this name.
    pub(super) fn tasks(&self, now: Time, name: &str) -> Answer {
        let found = match self.job.find(name) {
            Ok(found) => found,
            Err(reason) => return Answer::refused(reason),
        };
        let is_open = |task: &TaskId| self.coordinator.final_state(*task).is_none();
        let tasks: Vec<TaskId> = found.into_iter().flatten().map(TaskId).filter(is_open).take(MAX_TASKS).collect();
        let tally = self.coordinator.tally();
        // What concerns all tasks of a group is found out once.
        let mut of_groups: FxHashMap<GroupId, LiveTask> = FxHashMap::default();
        let facts = |&task: &TaskId| {
            let of_group = of_groups.entry(self.job.group_of(task).0).or_insert_with(|| self.group_facts(now, task));
            LiveTask {
                task,
                home: self.coordinator.home(task),
                is_paused: self.coordinator.is_paused(task),
                is_cancelled: self.coordinator.is_cancelled(task),
                ..of_group.clone()
            }
        };
        let live = LiveTasks {
            time_s: now.seconds(),
            is_stopping: self.finished.is_some() || self.coordinator.is_stopping(),
            tasks: tasks.iter().map(facts).collect(),
            running: self.running_facts(&tasks),
            ranks: self.rank_facts(),
            nodes_coming: self.coming(),
            waiting: Some(tally.ready + tally.held + self.coordinator.homeless()),
        };
        match serde_json::to_value(live) {
            Ok(value) => Answer { status: Some(value), ..Answer::done("") },
            Err(error) => Answer::refused(error.to_string()),
        }
    }

    /// What is known of a task and holds for all of its group.
    fn group_facts(&self, now: Time, task: TaskId) -> LiveTask {
        let group = self.job.group(task);
        let of_group = |other: &TaskId| other.0.wrapping_sub(group.first.0) < group.count;
        let running = self.coordinator.running().map(|(_, started)| started.task);
        LiveTask {
            task,
            home: None,
            able: self.coordinator.able(task).count() as u32,
            gang_room: self.coordinator.gang_room(task),
            group_running: running.filter(of_group).count() as u32,
            pools: self.missing_units(now, task),
            is_paused: false,
            is_cancelled: false,
            limit: self.array_limit(now, task),
        }
    }

    /// The running tasks among these and those that they need.
    fn running_facts(&self, tasks: &[TaskId]) -> Vec<LiveRunning> {
        let mut wanted: FxHashSet<TaskId> = tasks.iter().copied().collect();
        for &task in tasks {
            wanted.extend(self.coordinator.needs(task));
        }
        let running = self.coordinator.running().filter(|(_, started)| wanted.contains(&started.task));
        let facts = |(rank, started): (Rank, Started)| LiveRunning {
            task: started.task,
            attempt: started.attempt,
            rank,
            node: self.nodes.rank(rank).map_or("unknown", |entry| &entry.facts.node).to_owned(),
            since: started.start,
        };
        running.map(facts).collect()
    }

    /// What each rank has, and what its running tasks have taken of it.
    fn rank_facts(&self) -> Vec<LiveRank> {
        let facts = |rank: Rank| {
            let member = self.coordinator.member(rank)?;
            let load = self.coordinator.load(rank);
            Some(LiveRank {
                rank,
                node: member.node.clone(),
                is_active: self.coordinator.standing(rank) == Some(RankState::Active),
                slots: member.slots,
                idle: load.idle,
                ready: load.ready,
                memory: member.memory,
                gpus: member.gpus,
                labels: member.labels.to_vec(),
                slots_taken: 0,
                memory_taken: 0,
                gpus_taken: 0,
            })
        };
        let mut ranks: Vec<LiveRank> = (0..self.coordinator.next_rank().0).map(Rank).filter_map(facts).collect();
        for (rank, started) in self.coordinator.running() {
            let group = self.job.group(started.task);
            if let Some(facts) = ranks.get_mut(rank.index()) {
                facts.slots_taken += requirements::slots(group).min(facts.slots);
                facts.memory_taken += group.memory.unwrap_or(0);
                facts.gpus_taken += group.gpus;
            }
        }
        ranks
    }
}
