//! `phalanx explain`: why a run grew, shrank, waited or stopped, from the decisions in its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde::Serialize;

use super::history_text::{before_text, unusual};
use super::print::ReportError;
use super::run_view::{RunState, RunView};
use super::slots::SlotFigures;
use super::style::{self, Paint, count, percent};
use crate::job::Intent;
use crate::journal::{Session, SiteRequest, Terms};
use crate::model::{Rank, Time};
use crate::scale::policy::time_weight;
use crate::scale::sites::{WAITS, site_table};
use crate::scale::{Action, Advice, Decision, Forecast};
use crate::text::{counted, seconds};

/// Latest changes of slots that are shown.
const MAX_SLOT_CHANGES: usize = 20;

/// A decision, the session that made it, and its number in the run: each session numbers its
/// decisions from 1.
struct Made<'a> {
    number: u32,
    session: &'a Session,
    decision: &'a Decision,
    /// The advice that it follows.
    advice: Option<&'a Advice>,
}

/// Writes one paragraph per decision: the action, the reason, the effect.
///
/// # Errors
/// If the output cannot be written.
pub fn write_decisions(
    out: &mut dyn Write,
    run: &RunView,
    intent: Option<Intent>,
    paint: Paint,
) -> Result<(), ReportError> {
    write_past(out, run, paint)?;
    write_slots(out, run, paint)?;
    write!(out, "{}", paint.bold(run.name()))?;
    match &run.session().terms {
        None => {
            writeln!(out, ": the job has no scaling policy, so there are no decisions")?;
            return write_other_requests(out, run, paint);
        }
        Some(terms) => writeln!(out, ": {}", terms_text(terms, intent))?,
    }
    let made = decisions(run);
    if made.is_empty() {
        let yet = if run.state() == RunState::Running { " yet" } else { "" };
        writeln!(out, "  no decisions{yet}")?;
    }
    for made in &made {
        let decision = made.decision;
        writeln!(out, "{} {}", paint.bold(head(run, made)), action(decision))?;
        writeln!(out, "    {}", decision.reason)?;
        if let Some(effect) = effect_text(decision) {
            writeln!(out, "    {}", paint.dim(effect))?;
        }
    }
    write_site_requests(out, run, paint)?;
    write_other_requests(out, run, paint)?;
    if !made.is_empty() {
        writeln!(
            out,
            "\n{}",
            paint.dim(format!("phalanx explain {} NUMBER shows the inputs of a decision", run.name()))
        )?;
    }
    Ok(())
}

/// Writes which of several sites were asked, and why.
fn write_site_requests(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    for session in &run.replay.sessions {
        for request in &session.site_requests {
            let (when, many) = (seconds(request.time.seconds()), counted(request.blocks.len() as u64, "node"));
            let name = request.asked().map_or("?", |site| &site.name);
            writeln!(
                out,
                "{} after {when}: {many} requested; {}",
                paint.bold(format!("site `{name}`")),
                request.reason
            )?;
        }
    }
    Ok(())
}

/// Writes which nodes were requested without a decision: as soon as tasks waited that no rank could
/// run, or by a user.
fn write_other_requests(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    for session in &run.replay.sessions {
        let is_decided = |asked: Time| {
            let grows = |decision: &Decision| matches!(decision.action, Action::Grow { .. }) && decision.time == asked;
            session.decisions.iter().any(grows)
        };
        let is_shown = |block: u64| session.site_requests.iter().any(|request| request.blocks.contains(&block));
        let mut requests: BTreeMap<Time, BTreeSet<u64>> = BTreeMap::new();
        for change in session.blocks.iter().filter(|change| !is_shown(change.block) && !is_decided(change.asked)) {
            requests.entry(change.asked).or_default().insert(change.block);
        }
        for (asked, blocks) in requests {
            let (when, many) = (seconds(asked.seconds()), counted(blocks.len() as u64, "node"));
            writeln!(
                out,
                "{} after {when}: no decision of the policy; tasks waited that no rank could run, or a user asked for it",
                paint.bold(format!("{many} requested"))
            )?;
        }
    }
    Ok(())
}

/// Writes how and why the number of slots changed.
fn write_slots(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let Some(slots) = SlotFigures::of(run) else { return Ok(()) };
    writeln!(out, "{} {}", paint.bold("Slots:"), slots.text())?;
    let shown = slots.changes.len().saturating_sub(MAX_SLOT_CHANGES);
    for change in &slots.changes[shown..] {
        writeln!(out, "    {}", change.text())?;
    }
    Ok(())
}

/// Writes what this run learnt from earlier runs, and how it deviates from them.
fn write_past(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    if let Some(text) = before_text(run) {
        writeln!(out, "{} {text}", paint.bold("Known before:"))?;
    }
    for text in unusual(run) {
        writeln!(out, "{} {text}", paint.yellow("Unusual:"))?;
    }
    Ok(())
}

/// Writes one decision in full: inputs, rejected alternatives, effect.
///
/// # Errors
/// If there is no such decision, or the output cannot be written.
pub fn write_decision(out: &mut dyn Write, run: &RunView, number: u32, paint: Paint) -> Result<(), ReportError> {
    let made = decisions(run);
    let Some(found) = made.iter().find(|made| made.number == number) else {
        return Err(ReportError::NoSuchDecision { number, there_are: made.len() });
    };
    let decision = found.decision;
    writeln!(out, "{} {}", paint.bold(head(run, found)), action(decision))?;
    writeln!(out, "  {}", decision.reason)?;
    let mut row = |name: &str, text: String| writeln!(out, "  {} {text}", paint.dim(format!("{name:<10}")));
    let inputs = &decision.inputs;
    row(
        "policy",
        match decision.confidence {
            // Rules do not doubt.
            1.0.. => format!("{}, target {}", decision.policy, counted(decision.wish, "rank")),
            sure => format!("{}, target {}, {} sure", decision.policy, counted(decision.wish, "rank"), percent(sure)),
        },
    )?;
    if let Some(advice) = found.advice {
        let took = seconds(advice.answered.since(advice.asked).as_secs_f64());
        let candidates: Vec<String> = advice.candidates.iter().map(u32::to_string).collect();
        row(
            "advisor",
            format!("asked about {} ranks, answered after {took}: {}", candidates.join(", "), advice.text()),
        )?;
    }
    row("to change", what_would_change(found).to_owned())?;
    row(
        "ranks",
        format!(
            "{} active, {} joining, {} requested, {} parked, {} draining",
            inputs.active, inputs.joining, inputs.requested, inputs.parked, inputs.draining
        ),
    )?;
    row(
        "tasks",
        format!(
            "{} remaining: {} running, {} waiting for a slot",
            count(inputs.remaining),
            count(inputs.running),
            count(inputs.ready)
        ),
    )?;
    row("slots", format!("{} busy", percent(inputs.utilisation)))?;
    row("spent", format!("{:.4}, plus {:.4} already committed", inputs.spent, inputs.committed))?;
    row("new nodes", format!("arrive after {}", seconds(inputs.provisioning_s)))?;
    if !inputs.custom.is_empty() {
        let values = inputs.custom.iter().map(|(name, value)| format!("{name} {}", style::value(*value)));
        row("custom", values.collect::<Vec<_>>().join(", "))?;
    }
    if let Some(forecast) = decision.forecast {
        row("forecast", forecast_text(&forecast))?;
    }
    for request in site_requests(found) {
        writeln!(out, "  {}", paint.dim(format!("sites, asked for {}", counted(request.blocks.len() as u64, "node"))))?;
        for line in site_table(&request.candidates, Some(request.site)) {
            writeln!(out, "  {line}")?;
        }
    }
    if site_requests(found).next().is_some() {
        writeln!(out, "  {}", paint.dim(WAITS))?;
    }
    write_candidates(out, decision, paint)?;
    if let Some(effect) = effect_text(decision) {
        writeln!(out, "  {effect}")?;
    }
    Ok(())
}

/// Writes all decisions, or one, as JSON.
///
/// # Errors
/// If the output cannot be written.
pub fn write_decisions_json(out: &mut dyn Write, run: &RunView, number: Option<u32>) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct ExplainLine<'a> {
        session: u32,
        /// Its number in the run; `number` is that in the session.
        index: u32,
        #[serde(flatten)]
        decision: &'a Decision,
        /// The question to the advisor that it follows, with the answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        advice: Option<&'a Advice>,
        /// The sites that were asked for its nodes.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        sites: Vec<&'a SiteRequest>,
    }
    let made = decisions(run);
    let lines: Vec<ExplainLine<'_>> = made
        .iter()
        .filter(|made| number.is_none_or(|number| made.number == number))
        .map(|made| ExplainLine {
            session: made.session.began.session,
            index: made.number,
            decision: made.decision,
            advice: made.advice,
            sites: site_requests(made).collect(),
        })
        .collect();
    if let Some(number) = number.filter(|_| lines.is_empty()) {
        return Err(ReportError::NoSuchDecision { number, there_are: made.len() });
    }
    serde_json::to_writer_pretty(&mut *out, &lines).map_err(ReportError::Json)?;
    Ok(writeln!(out)?)
}

/// The requests to sites that a decision has led to at once.
fn site_requests<'a>(made: &Made<'a>) -> impl Iterator<Item = &'a SiteRequest> {
    let (decision, requests) = (made.decision, &made.session.site_requests);
    requests.iter().filter(move |request| match &decision.action {
        Action::Grow { node_type, .. } => {
            let asked = request.asked().map(|site| site.node_type);
            request.time == decision.time && asked == Some(*node_type)
        }
        _ => false,
    })
}

fn decisions(run: &RunView) -> Vec<Made<'_>> {
    let mut made: Vec<Made<'_>> = Vec::new();
    for session in &run.replay.sessions {
        let before = made.last().map_or(0, |last| last.number);
        made.extend(session.decisions.iter().map(|decision| {
            let advice = session.advice.iter().find(|advice| advice.decision == decision.number);
            Made { number: before + decision.number, session, decision, advice }
        }));
    }
    made
}

fn terms_text(terms: &Terms, intent: Option<Intent>) -> String {
    let mut text = format!("policy `{}`", terms.policy);
    if let Some(weight) = intent.map(time_weight) {
        text += &format!(
            ", where 1 % of time is worth {:.1} % of cost",
            if weight < 1.0 { weight / (1.0 - weight) } else { f64::INFINITY }
        );
    }
    let prices = &terms.prices;
    if let Some(node) = prices.nodes.first() {
        text += &format!(", {} per node-hour", node.node_hour);
    }
    if let Some(budget) = prices.budget {
        text += &format!(", budget {budget:.2}");
    }
    if let Some(deadline) = prices.deadline {
        text += &format!(", deadline after {}", seconds(deadline.seconds()));
    }
    if let Some(simulated) = &terms.simulated {
        text += &format!("; simulated on `{}` with seed {}", simulated.cluster, simulated.seed);
    }
    text
}

fn head(run: &RunView, made: &Made<'_>) -> String {
    let of = if run.replay.sessions.len() > 1 {
        format!(" of session {}", made.session.began.session)
    } else {
        String::new()
    };
    format!("#{} after {}{of}:", made.number, seconds(made.decision.time.seconds()))
}

fn action(decision: &Decision) -> String {
    let ranks = |ranks: &[Rank]| match ranks {
        [one] => one.to_string(),
        many => format!("{} ranks", many.len()),
    };
    let what = match &decision.action {
        Action::Grow { nodes, .. } => format!("request {}", counted(*nodes, "more node")),
        Action::Shrink { ranks: gone } => format!("release {}", ranks(gone)),
        Action::Cancel { requests } => format!("cancel requests for {}", counted(requests.len() as u32, "node")),
        Action::Park { ranks: parked } => format!("park {}", ranks(parked)),
        Action::Unpark { ranks: woken } => format!("unpark {}", ranks(woken)),
        Action::StopForBudget { by } => {
            return format!("stop because of the budget; all nodes are released by {}", seconds(by.seconds()));
        }
        Action::Stay => return format!("stay at {}", decision.from),
    };
    format!("{what} ({} -> {})", decision.from, decision.to)
}

/// What would have made the decision another one.
fn what_would_change(made: &Made<'_>) -> &'static str {
    let decision = made.decision;
    match &decision.action {
        _ if made.advice.is_some_and(Advice::changed) => "the `[advisor]` of the job file",
        Action::StopForBudget { .. } => "a larger `budget` in [cost]",
        Action::Stay if decision.wish != decision.from => {
            "`min_ranks`, `max_ranks` or a lower `confidence` in [scaling], or an `estimate` for each task"
        }
        _ if decision.candidates.is_empty() => "the rules of [scaling], or its `min_ranks` and `max_ranks`",
        _ => {
            "another `intent` in [scaling] (how much cost an earlier end is worth), or a `deadline` or `budget` in [cost]"
        }
    }
}

fn effect_text(decision: &Decision) -> Option<String> {
    let effect = decision.effect?;
    let at = |time: Time| seconds(time.seconds());
    let mut text = format!("effect after {}: {} active ranks", at(effect.time), effect.active);
    if let Some(arrived) = effect.arrived {
        text += &format!(", the first new one after {}", at(Time(arrived.0.saturating_sub(decision.time.0))));
    }
    if let Some((then, now)) = decision.forecast.zip(effect.forecast) {
        let (then, now) = (seconds(then.finish_q50_s), seconds(now.finish_q50_s));
        text += &format!("; forecast of the end: {then} before, {now} after");
    }
    Some(text)
}

/// A forecast of the end and the cost of the run.
fn forecast_text(forecast: &Forecast) -> String {
    format!(
        "end after {} (8 of 10 cases: {} to {}), cost {:.4} (8 of 10 cases: {:.4} to {:.4})",
        seconds(forecast.finish_q50_s),
        seconds(forecast.finish_q10_s),
        seconds(forecast.finish_q90_s),
        forecast.cost_q50,
        forecast.cost_q10,
        forecast.cost_q90
    )
}

/// Writes a table of the candidates; `*` marks the chosen one.
fn write_candidates(out: &mut dyn Write, decision: &Decision, paint: Paint) -> Result<(), ReportError> {
    if decision.candidates.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", paint.dim("    ranks        end       8 of 10 within        cost      8 of 10 within"))?;
    for candidate in &decision.candidates {
        let chosen = decision.forecast == Some(candidate.forecast());
        writeln!(
            out,
            "  {} {:>5} {:>10} {:>20} {:>11.4} {:>19}{}",
            if chosen { "*" } else { " " },
            candidate.ranks,
            seconds(candidate.finish_q50.seconds()),
            format!("{} .. {}", seconds(candidate.finish_q10.seconds()), seconds(candidate.finish_q90.seconds())),
            candidate.cost,
            format!("{:.4} .. {:.4}", candidate.cost_q10, candidate.cost_q90),
            if candidate.feasible { "" } else { "   misses budget or deadline" },
        )?;
    }
    Ok(())
}
