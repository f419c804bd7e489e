//! What must hold in a simulated world at any time and at its end.

use std::collections::{HashMap, HashSet};

use super::{Life, World};
use crate::model::{Attempt, RankState, State, TaskId};
use crate::schedule::dependency_counts::End;

impl World {
    /// The last attempt of each task that has ended, which must have ended once and as `oracle`
    /// says.
    pub(in crate::schedule::tests) fn finals(&self, oracle: &[State]) -> HashMap<TaskId, &Attempt> {
        let mut finals = HashMap::new();
        for attempt in self.journal.iter().filter(|attempt| attempt.last) {
            assert_eq!(finals.insert(attempt.task, attempt), None, "{:?} ended twice", attempt.task);
            assert_eq!(attempt.outcome.state, oracle[attempt.task.index()], "{attempt:?}");
        }
        finals
    }

    /// Every task that the coordinator considers running is open, and no rank has reported its end;
    /// and for every reported running task the coordinator knows the rank.
    pub(super) fn check_running(&self) {
        let known: HashSet<_> = self.coordinator.running().map(|(rank, s)| (rank, s.task, s.attempt)).collect();
        for &(rank, task, attempt) in &known {
            assert_eq!(self.coordinator.final_state(task), None, "{task:?} has ended");
            assert!(!self.journalled.contains(&(task, attempt)), "the end of {task:?}, attempt {attempt}, is known");
            assert!(!self.coordinator.standing(rank).is_some_and(RankState::is_gone), "{task:?} runs on no rank");
        }
        for &(rank, task, attempt) in &self.known {
            let counts = self.life[rank.index()] == Life::Alive && self.coordinator.final_state(task).is_none();
            assert!(!counts || known.contains(&(rank, task, attempt)), "{task:?}, attempt {attempt}, runs on {rank}");
        }
    }

    /// When a run ends, what any rank that is there has counted as ended is in the journal: else a
    /// resume would run it again, beside what followed from it.
    pub(super) fn check_counted(&self) {
        let is_here = |rank: &usize| self.life[*rank] == Life::Alive;
        for (rank, worker) in self.workers.iter().enumerate().filter(|(rank, _)| is_here(rank)) {
            let Some(ledger) = worker.ledger() else { continue };
            // What is skipped follows from the rest.
            let ran = |local: &u32| ledger.is_ended(*local) && !ledger.is_violated(*local);
            let at_home = (0..ledger.len() as u32).filter(ran).map(|local| ledger.part().nodes.get(local));
            let elsewhere = ledger.counted().filter(|(_, end)| *end != End::Unsuccessful).map(|(node, _)| node);
            for node in at_home.chain(elsewhere).filter(|&node| (node as usize) < self.coordinator.graph().task_count())
            {
                let is_final = self.coordinator.final_state(TaskId(node)).is_some();
                assert!(is_final, "rank {rank} has counted the end of {node}, of which the journal knows nothing");
            }
        }
    }
}
