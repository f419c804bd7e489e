//! Findings about the files of staged tasks.

use super::Finding;
use super::facts::Case;
use crate::observe::staging::{StagingFigures, by_attempt_of_session};
use crate::observe::style::{bytes, percent};
use crate::text::seconds;

/// Waiting for inputs is found if it is at least this share of the time of staged tasks.
const MIN_WAIT: f64 = 0.05;

/// Finds time that tasks waited until their inputs were on the disk of their node.
pub(super) fn inputs(case: &Case<'_>) -> Option<Finding> {
    let uses = by_attempt_of_session(case.run, case.run.session());
    let mut waited = vec![0u64; case.model.ran.len()];
    for ((task, _), used) in &uses {
        if let Some(waited) = waited.get_mut(task.index()) {
            *waited += (used.in_s.max(0.0) * 1e9) as u64;
        }
    }
    let ran: u64 = waited.iter().zip(&case.model.ran).filter(|(waited, _)| **waited > 0).map(|(_, ran)| ran).sum();
    let all: u64 = waited.iter().sum();
    let share = all as f64 / ran.max(1) as f64;
    if share < MIN_WAIT {
        return None;
    }
    let figures = StagingFigures::of(case.run)?;
    let without = |task: usize| case.model.ran[task].saturating_sub(waited[task]);
    Some(
        Finding::new(
            "staging",
            "tasks waited for their inputs".to_owned(),
            format!(
                "Staged tasks waited {} until their inputs were on the disk of their node, {} of their time: {} were read in the \
                 directory of the job, {} came from other ranks, {} were there.",
                seconds(all as f64 / 1e9),
                percent(share),
                bytes(figures.read_bytes),
                bytes(figures.received_bytes),
                bytes(figures.local_bytes),
            ),
        )
        .saving(case.saving_if_ran(&without))
        .change(case.advice_on_start(
            "declare the sizes of files (`inputs = { file = ..., size = ... }`), so that tasks are placed near them, and keep files \
             between tasks on the nodes (`keep = false`)"
                .to_owned(),
        )),
    )
}
