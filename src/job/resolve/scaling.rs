//! Resolves `[scaling]` and `[cost]`: defaults, and contradictions.

use std::time::Duration;

use super::names::{check_name, resolve_labels};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::spec::{CostSpec, RuleSpec, ScalingSpec, WeightsSpec};
use crate::job::units::shorten;
use crate::job::values::{Amount, DurationSpec, Signed};
use crate::job::{Above, Cost, NodeTerms, Rule, Scaling, ScoreWeights, Trigger};

/// Resolves `[scaling]`.
pub(super) fn resolve_scaling(spec: &ScalingSpec, findings: &mut Findings) -> Scaling {
    let usual = Scaling::default();
    let min_ranks = whole(spec.min_ranks.as_ref().map(|at| at.value.0)).unwrap_or(usual.min_ranks);
    let max_ranks = whole(spec.max_ranks.as_ref().map(|at| at.value.0)).unwrap_or(usual.max_ranks.max(min_ranks));
    if let Some(most) = spec.max_ranks.as_ref().filter(|_| max_ranks < min_ranks) {
        let mut error = Diagnostic::error(format!("`max_ranks` ({max_ranks}) is less than `min_ranks` ({min_ranks})"))
            .label(&most.span, "the most");
        if let Some(least) = &spec.min_ranks {
            error = error.label(&least.span, "the least");
        }
        findings.push(error.help("raise `max_ranks` or lower `min_ranks`"));
    }
    not_zero("interval", spec.interval.as_ref(), findings);
    Scaling {
        policy: spec.policy.as_ref().map_or(usual.policy, |at| at.value.0),
        intent: spec.intent.as_ref().map_or(usual.intent, |at| at.value.0),
        min_ranks,
        max_ranks,
        interval: time(spec.interval.as_ref(), usual.interval),
        cooldown_grow: time(spec.cooldown_grow.as_ref(), usual.cooldown_grow),
        cooldown_shrink: time(spec.cooldown_shrink.as_ref(), usual.cooldown_shrink),
        step_grow: whole(spec.step_grow.as_ref().map(|at| at.value.0)).unwrap_or(usual.step_grow),
        step_shrink: whole(spec.step_shrink.as_ref().map(|at| at.value.0)).unwrap_or(usual.step_shrink),
        confidence: spec.confidence.as_ref().map_or(usual.confidence, |at| at.value.0),
        weights: spec.weights.as_ref().map_or(usual.weights, |at| weights(at, findings)),
        rules: spec.rule.iter().flat_map(|rules| &rules.value.0).map(|at| rule(at, findings)).collect(),
    }
}

fn weights(at: &At<WeightsSpec>, findings: &mut Findings) -> ScoreWeights {
    let usual = ScoreWeights::default();
    let of = |typed: &Option<At<Amount>>, usual: f64| typed.as_ref().map_or(usual, |at| at.value.0);
    let weights = ScoreWeights {
        cpu: of(&at.value.cpu, usual.cpu),
        queue: of(&at.value.queue, usual.queue),
        memory: of(&at.value.memory, usual.memory),
        latency: of(&at.value.latency, usual.latency),
        errors: of(&at.value.errors, usual.errors),
    };
    if weights.cpu + weights.queue + weights.memory + weights.latency + weights.errors <= 0.0 {
        let error = Diagnostic::error("all `weights` are zero, so nothing would count");
        findings.push(error.at(&at.span).help("give at least one measure a weight"));
    }
    weights
}

fn rule(at: &At<RuleSpec>, findings: &mut Findings) -> Rule {
    let spec = &at.value;
    let limit = |typed: &Option<At<Signed>>| typed.as_ref().map(|at| at.value.0);
    let (above, below) = (limit(&spec.above), limit(&spec.below));
    // An invalid trigger is already reported; the choice here does not matter.
    let trigger = spec.trigger.as_ref().map_or(Trigger::Cpu, |at| at.value.0.clone());
    let own = matches!(trigger, Trigger::Custom(_));
    for limit in [&spec.above, &spec.below].into_iter().flatten().filter(|limit| !own && limit.value.0 < 0.0) {
        let error = Diagnostic::error(format!(
            "nothing that this trigger measures is less than 0, so {} is no threshold",
            limit.value.0
        ));
        findings.push(
            error
                .at(&limit.span)
                .help("write a positive number; only values of your own (`custom.NAME`) can be negative"),
        );
    }
    if spec.above.is_none() && spec.below.is_none() {
        let error = Diagnostic::error("the rule has no threshold").at(&at.span);
        findings.push(error.help("add `above = ...`, `below = ...` or both"));
    }
    if let Some(act) = spec.act.as_ref().filter(|_| spec.above.is_none() && spec.below.is_some()) {
        let error = Diagnostic::error("`act` says what happens above a threshold, and this rule has no `above`");
        findings.push(error.at(&act.span).help("add `above = ...` or remove `act`"));
    }
    if let (Some(high), Some(low)) = (above, below)
        && low >= high
        && let Some(at) = &spec.below
    {
        let error = Diagnostic::error(format!("`below` ({low}) must be less than `above` ({high})")).at(&at.span);
        findings.push(error.help("else one of them would always hold"));
    }
    Rule {
        above,
        below,
        act: spec.act.as_ref().map_or_else(|| usual_act(&trigger), |at| at.value.0),
        step: whole(spec.step.as_ref().map(|at| at.value.0)),
        cooldown: spec.cooldown.as_ref().map(|at| at.value.0),
        trigger,
    }
}

/// The default action: more ranks neither fix failures, save money nor balance an uneven load.
fn usual_act(trigger: &Trigger) -> Above {
    match trigger {
        Trigger::ErrorRate | Trigger::Cost | Trigger::Imbalance => Above::Hold,
        _ => Above::Grow,
    }
}

/// Resolves `[cost]`.
pub(super) fn resolve_cost(spec: &CostSpec, findings: &mut Findings) -> Cost {
    let usual = Cost::default();
    let node_hour = spec.node_hour.as_ref().map_or(usual.node_hour, |at| at.value.0);
    let minimum = time(spec.minimum.as_ref(), usual.minimum);
    let granularity = time(spec.granularity.as_ref(), usual.granularity);
    not_zero("deadline", spec.deadline.as_ref(), findings);
    if let Some(hourly) = spec.budget_per_hour.as_ref().filter(|at| at.value.0 < node_hour) {
        let error = Diagnostic::error(format!(
            "`budget_per_hour` ({}) does not pay for a single node ({node_hour} per hour)",
            hourly.value.0
        ));
        findings.push(error.at(&hourly.span).help("raise it to at least `node_hour`"));
    }
    let least = minimum.max(granularity).as_secs_f64() / 3600.0 * node_hour;
    if let Some(budget) = spec.budget.as_ref().filter(|at| at.value.0 < least) {
        let error = Diagnostic::error(format!(
            "`budget` ({}) does not pay for the least time that a node is charged for ({least:.4})",
            budget.value.0
        ));
        findings.push(error.at(&budget.span).help("raise it, or check `node_hour`, `minimum` and `granularity`"));
    }
    Cost {
        node_hour,
        minimum,
        granularity,
        budget: spec.budget.as_ref().map(|at| at.value.0),
        budget_per_hour: spec.budget_per_hour.as_ref().map(|at| at.value.0),
        deadline: spec.deadline.as_ref().map(|at| at.value.0),
        nodes: node_types(spec, minimum, granularity, findings),
    }
}

fn node_types(spec: &CostSpec, minimum: Duration, granularity: Duration, findings: &mut Findings) -> Vec<NodeTerms> {
    let mut types: Vec<NodeTerms> = Vec::new();
    for at in spec.node_types() {
        let node = &at.value;
        // Missing fields are already reported.
        let (Some(name), Some(price)) = (&node.name, &node.node_hour) else { continue };
        if let Err(why) = check_name(&name.value) {
            let error = Diagnostic::error(format!("this is no name of a node type: {why}")).at(&name.span);
            findings.push(error.help("write a word such as \"big\""));
        }
        if types.iter().any(|known| known.name == name.value) {
            let error = Diagnostic::error(format!("two node types are called `{}`", shorten(&name.value)));
            findings.push(error.at(&name.span).help("give each a name of its own"));
        }
        if let Some(hourly) = spec.budget_per_hour.as_ref().filter(|hourly| hourly.value.0 < price.value.0) {
            let error = Diagnostic::error(format!(
                "`budget_per_hour` ({}) does not pay for a single node of this type ({} per hour)",
                hourly.value.0, price.value.0
            ));
            findings.push(error.at(&price.span).help("raise the budget, or remove the type"));
        }
        types.push(NodeTerms {
            name: name.value.clone(),
            node_hour: price.value.0,
            minimum: time(node.minimum.as_ref(), minimum),
            granularity: time(node.granularity.as_ref(), granularity),
            slots: whole(node.slots.as_ref().map(|at| at.value.0)),
            memory: node.memory.as_ref().map(|at| at.value.0),
            gpus: whole(node.gpus.as_ref().map(|at| at.value.0)),
            labels: node.labels.iter().flat_map(|at| resolve_labels(&at.value, findings).to_vec()).collect(),
            limit: whole(node.limit.as_ref().map(|at| at.value.0)),
            partition: node.partition.as_ref().map(|at| at.value.clone()),
        });
    }
    types
}

pub(super) fn time(typed: Option<&At<DurationSpec>>, usual: Duration) -> Duration {
    typed.map_or(usual, |at| at.value.0)
}

/// Converts a number whose reader has bounded it to 32 bits.
pub(super) fn whole(typed: Option<i64>) -> Option<u32> {
    typed.and_then(|value| u32::try_from(value).ok())
}

pub(super) fn not_zero(key: &str, typed: Option<&At<DurationSpec>>, findings: &mut Findings) {
    if let Some(at) = typed.filter(|at| at.value.0.is_zero()) {
        let error = Diagnostic::error(format!("`{key}` must be longer than nothing")).at(&at.span);
        findings.push(error.help("write for example \"30s\" or \"10m\""));
    }
}
