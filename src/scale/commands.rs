//! What follows from the decisions of one moment: the commands that the driver carries out, and
//! what it records.

use std::time::Duration;

use super::advisor::{Advice, Question};
use super::decision::{Action, Decision, Effect};
use super::observation::RequestId;
use super::price::NodeTypeId;
use crate::model::{Rank, Time};

/// Least confidence of a forecast that limits how long nodes are requested for: with it, nine of
/// ten runs end within twice the median.
const MIN_LIMIT_CONFIDENCE: f64 = 0.7;

/// Nodes are requested for at least this time, whatever the forecast.
const MIN_BLOCK_TIME: Duration = Duration::from_secs(600);

/// Whether the nodes of a run can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeChanges {
    /// Further nodes can be requested.
    pub(crate) grows: bool,
    /// Ranks that joined can leave.
    pub(crate) shrinks: bool,
}

/// A command to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScalingCommand {
    /// Request nodes.
    Request {
        /// How many.
        nodes: u32,
        /// Of which type.
        node_type: NodeTypeId,
        /// Upper bound on how long they are needed, if known.
        needed_for: Option<Duration>,
    },
    /// Withdraw a request.
    Withdraw(RequestId),
    /// Drain these ranks and release their nodes.
    Drain(Vec<Rank>),
    /// Take all tasks from a rank that stays.
    Park(Rank),
    /// Give tasks to a parked rank again.
    Recall(Rank),
    /// Start nothing more, and end everything by this moment, when the budget is spent.
    Stop {
        /// The moment at which the last node must be back.
        by: Time,
    },
}

impl ScalingCommand {
    /// True if the command still makes sense while the run stops: requested nodes would only be
    /// released again.
    pub(crate) fn applies_while_stopping(&self) -> bool {
        matches!(self, ScalingCommand::Withdraw(_) | ScalingCommand::Drain(_) | ScalingCommand::Stop { .. })
    }
}

/// What follows from the decisions of one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ScalingStep {
    /// To be carried out in this order.
    pub(crate) commands: Vec<ScalingCommand>,
    /// Decisions to be recorded: those that differ from the one before.
    pub(crate) decisions: Vec<Decision>,
    /// The advice that the decisions follow.
    pub(crate) advice: Option<Advice>,
    /// A question to be sent to the advisor.
    pub(crate) question: Option<Question>,
    /// Observed effects of earlier decisions, by decision number.
    pub(crate) effects: Vec<(u32, Effect)>,
    /// For the user.
    pub(crate) warnings: Vec<String>,
}

impl ScalingStep {
    /// Adds the commands and warnings of a decision.
    pub(super) fn add(&mut self, decision: &Decision, can: NodeChanges) {
        match &decision.action {
            Action::Park { ranks } => self.commands.extend(ranks.iter().copied().map(ScalingCommand::Park)),
            Action::Unpark { ranks } => self.commands.extend(ranks.iter().copied().map(ScalingCommand::Recall)),
            Action::Grow { nodes, node_type } if can.grows => self.commands.push(ScalingCommand::Request {
                nodes: *nodes,
                node_type: *node_type,
                needed_for: needed_for(decision),
            }),
            Action::Shrink { ranks } if can.shrinks => self.commands.push(ScalingCommand::Drain(ranks.clone())),
            Action::Cancel { requests } => {
                self.commands.extend(requests.iter().copied().map(ScalingCommand::Withdraw));
            }
            Action::StopForBudget { by } => {
                self.commands.push(ScalingCommand::Stop { by: *by });
                self.warnings.push(decision.reason.clone());
            }
            Action::Grow { .. } | Action::Shrink { .. } => {
                let text = format!("this run cannot change its nodes, so this is not done: {}", decision.reason);
                self.warnings.push(text);
            }
            Action::Stay => {}
        }
    }

    /// True if the run stops because its budget is spent.
    pub(super) fn stops(&self) -> bool {
        self.commands.iter().any(|command| matches!(command, ScalingCommand::Stop { .. }))
    }
}

/// Twice the q90 of the remaining time: nodes that are requested for a shorter time arrive sooner.
/// A forecast without confidence limits nothing, for a task longer than its block would never end.
fn needed_for(decision: &Decision) -> Option<Duration> {
    let forecast = decision.forecast.filter(|_| decision.confidence >= MIN_LIMIT_CONFIDENCE)?;
    let left = forecast.finish_q90_s - decision.time.seconds();
    Some(Duration::try_from_secs_f64(2.0 * left).unwrap_or_default().max(MIN_BLOCK_TIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::decision::{Forecast, Inputs};

    const ALL: NodeChanges = NodeChanges { grows: true, shrinks: true };
    const NONE: NodeChanges = NodeChanges { grows: false, shrinks: false };

    fn decision(action: Action) -> Decision {
        Decision {
            number: 1,
            time: Time(1_000_000_000_000),
            action,
            from: 2,
            to: 3,
            policy: "hybrid".into(),
            wish: 3,
            confidence: 0.9,
            inputs: Inputs::default(),
            candidates: Vec::new(),
            reason: "because".into(),
            forecast: None,
            effect: None,
        }
    }

    fn step(actions: Vec<Action>, can: NodeChanges) -> ScalingStep {
        let mut step = ScalingStep::default();
        actions.into_iter().for_each(|action| step.add(&decision(action), can));
        step
    }

    fn grow() -> Action {
        Action::Grow { nodes: 2, node_type: NodeTypeId(1) }
    }

    #[test]
    fn decisions_become_commands_in_their_order() {
        let ranks = vec![Rank(3), Rank(4)];
        let step = step(
            vec![
                Action::Unpark { ranks: ranks.clone() },
                grow(),
                Action::Cancel { requests: vec![RequestId(7)] },
                Action::Shrink { ranks: ranks.clone() },
                Action::Park { ranks: vec![Rank(5)] },
                Action::Stay,
            ],
            ALL,
        );
        let expected = [
            ScalingCommand::Recall(Rank(3)),
            ScalingCommand::Recall(Rank(4)),
            ScalingCommand::Request { nodes: 2, node_type: NodeTypeId(1), needed_for: None },
            ScalingCommand::Withdraw(RequestId(7)),
            ScalingCommand::Drain(ranks),
            ScalingCommand::Park(Rank(5)),
        ];
        assert_eq!(step.commands, expected);
        assert!(step.warnings.is_empty() && !step.stops());
        let remaining = step.commands.iter().filter(|command| command.applies_while_stopping()).count();
        assert_eq!(remaining, 2, "requests are withdrawn and nodes released also while the run stops");
    }

    #[test]
    fn what_a_run_cannot_do_is_a_warning() {
        let step =
            step(vec![grow(), Action::Shrink { ranks: vec![Rank(1)] }, Action::Park { ranks: vec![Rank(1)] }], NONE);
        assert_eq!(step.commands, [ScalingCommand::Park(Rank(1))]);
        assert_eq!(step.warnings, ["this run cannot change its nodes, so this is not done: because"; 2]);
    }

    #[test]
    fn the_budget_stops_the_run_and_says_why() {
        let by = Time(5);
        let step = step(vec![Action::StopForBudget { by }], NONE);
        assert!(step.stops() && step.commands[0].applies_while_stopping());
        assert_eq!((step.commands, step.warnings), (vec![ScalingCommand::Stop { by }], vec!["because".to_owned()]));
    }

    #[test]
    fn nodes_are_requested_for_twice_the_time_that_is_left() {
        let needed = |finish_q90_s: f64, confidence: f64| {
            let forecast = Some(Forecast { finish_q90_s, ..Forecast::default() });
            needed_for(&Decision { forecast, confidence, ..decision(grow()) })
        };
        assert_eq!(needed(4000.0, 0.9), Some(Duration::from_secs(6000)));
        assert_eq!(needed(1001.0, 0.9), Some(MIN_BLOCK_TIME));
        assert_eq!(needed(999.0, 0.9), Some(MIN_BLOCK_TIME), "the run is late already");
        assert_eq!(needed(4000.0, 0.5), None);
    }
}
