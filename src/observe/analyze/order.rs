//! Findings about the order in which ready tasks start.

use super::facts::Case;
use super::{Finding, Recommendation};
use crate::model::TaskId;
use crate::observe::idle::Use;
use crate::observe::style::percent;
use crate::sim::later_first::{Priorities, later_first, set};

/// Maximum number of tables named in a recommendation.
const MAX_NAMED: usize = 5;

/// Finds idle time that would be filled if later stages started before earlier ones.
pub(super) fn later_stages(case: &Case<'_>) -> Option<Finding> {
    let idle = [Use::Limit, Use::Room, Use::Tail, Use::Dependencies].map(|of| case.share_of(of)).iter().sum::<f64>();
    if idle < 0.05 {
        return None;
    }
    let work = |task: TaskId| case.model.ran[task.index()];
    let saving = |priorities: &Priorities| case.saving_if_asked(&|job| set(job, priorities));
    let (priorities, saved) = later_first((case.job(), case.graph), &work, &saving)?;
    let names = priorities.iter().take(MAX_NAMED).map(|&(group, _)| &*case.job().groups[group].name);
    let names = names.collect::<Vec<_>>().join(", ");
    Some(
        Finding::new(
            "priority",
            "later stages waited until earlier ones were done".to_owned(),
            format!(
                "{} of the slot time was idle, most of it once the earlier stages were done. The saving assumes that ready tasks of \
                 {names} start before those of earlier stages.",
                percent(idle)
            ),
        )
        .saving(saved)
        .change(Some(advice(case, &priorities))),
    )
}

/// The lines to add, one for each table.
fn advice(case: &Case<'_>, priorities: &Priorities) -> Recommendation {
    if let [(group, priority)] = priorities[..] {
        let text = format!("priority = {priority}   # before tasks of earlier stages");
        return Recommendation { place: case.place(group, "priority"), text };
    }
    let line =
        |&(group, priority): &(usize, i32)| format!("priority = {priority}   # {}", case.place(group, "priority"));
    let mut lines: Vec<String> = priorities.iter().take(MAX_NAMED).map(line).collect();
    if priorities.len() > MAX_NAMED {
        lines.push("# and so on: the later the stage, the higher".to_owned());
    }
    Recommendation { place: "the job file".to_owned(), text: lines.join("\n") }
}
