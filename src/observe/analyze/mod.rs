//! Analyzes what bounded a run and what to change: findings with numbers, largest saving first.
//!
//! Each finding is a function of the same facts (`facts`) that returns a finding or nothing. Its
//! saving is determined by `whatif`, which simulates the run again with the measured durations and
//! one change. Two savings are measured instead: the start-up, and the idle time during hand-over,
//! spread over all slots. Savings do not add up, because one change exposes the next bottleneck.
//!
//! A job may have many classes. Each finding simulates only a few with the most work, which bounds
//! the number of simulations.
//!
//! | file | findings about |
//! |---|---|
//! | `classes` | durations, requests and limits of classes of tasks |
//! | `structure` | the shape of the graph: serial phases, critical path, barriers, tails |
//! | `pressure` | waiting for I/O, lack of memory |
//! | `order` | which ready tasks start first |
//! | `ranks` | slow ranks, too many ranks, start-up, hand-over |
//! | `staging` | files of staged tasks |

mod classes;
mod facts;
mod order;
mod place;
mod pressure;
mod ranks;
mod staging;
mod structure;
mod whatif;

use std::io::Write;

use serde::Serialize;

use super::idle::Use;
use super::print::ReportError;
use super::run_view::RunView;
use super::style::{Paint, percent};
use crate::text::seconds;
use facts::Case;
pub(crate) use place::line_of;

/// One cause that bounded a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Kind of the finding, e.g. `slow_rank`; stable, because it is published.
    pub kind: &'static str,
    /// Short description.
    pub title: String,
    /// The numbers that support it, in one or two sentences.
    pub evidence: String,
    /// Estimated saving of wall time in seconds.
    pub saves_s: f64,
    /// Estimated further saving in node-seconds.
    pub saves_node_s: f64,
    /// [`Finding::saves_s`] as a share of the wall time.
    pub saves_share: f64,
    /// Recommended change.
    pub change: Option<Recommendation>,
    /// Class concerned, used to drop repeated findings.
    #[serde(skip)]
    class: Option<u32>,
}

/// A recommended change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// File, line and task, or another place.
    pub place: String,
    /// The new line, or an instruction.
    pub text: String,
}

impl Finding {
    fn new(kind: &'static str, title: String, evidence: String) -> Finding {
        Finding { kind, title, evidence, saves_s: 0.0, saves_node_s: 0.0, saves_share: 0.0, change: None, class: None }
    }

    fn saving(self, seconds: f64) -> Finding {
        Finding { saves_s: seconds, ..self }
    }

    fn of_class(self, class: u32) -> Finding {
        Finding { class: Some(class), ..self }
    }

    fn change(self, change: Option<Recommendation>) -> Finding {
        Finding { change, ..self }
    }

    /// Describes the saving.
    pub fn saving_text(&self) -> String {
        if self.saves_s > 0.0 {
            format!("up to {} or {} of the wall time", seconds(self.saves_s), percent(self.saves_share))
        } else {
            format!("{} of node time, at about the same wall time", seconds(self.saves_node_s))
        }
    }
}

/// What bounded a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Analysis {
    /// First by wall time saved, then those that only save node time. Empty if nothing stands out.
    pub findings: Vec<Finding>,
    /// Idle time by cause, largest first.
    pub idle: Vec<IdleCause>,
    /// True if tasks that ran at the end of the run are missing in its records.
    #[serde(skip)]
    broke_off: bool,
}

/// A cause of idle time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleCause {
    /// Its name, e.g. `limit`; stable, because it is published.
    pub cause: &'static str,
    /// Its description.
    #[serde(skip)]
    pub text: &'static str,
    /// Its share of the slot time.
    pub share: f64,
}

/// Idle time that is mentioned, as a share of the slot time.
const MIN_IDLE: f64 = 0.1;

impl Analysis {
    fn of(case: &Case<'_>) -> Analysis {
        let text = |of: Use| of.name().trim_start_matches("idle: ");
        let cause = |(of, share): (Use, f64)| IdleCause { cause: of.key(), text: text(of), share };
        Analysis {
            findings: worthwhile(case),
            idle: case.idle().into_iter().map(cause).collect(),
            broke_off: case.run.broke_off(),
        }
    }

    fn idle_share(&self) -> f64 {
        self.idle.iter().map(|cause| cause.share).sum()
    }

    /// Introduces the findings, or says why there are none.
    pub fn opening(&self) -> &'static str {
        match self.findings.len() {
            0 if self.idle_share() >= MIN_IDLE => "No single change that was simulated makes it much shorter.",
            0 => {
                "Nothing stands out: slots were busy nearly all the time, and no known change would make the run much shorter."
            }
            1 => "One thing bounded it:",
            _ => "What bounded it, by estimated saving (savings do not add up):",
        }
    }

    /// Where idle time went, if it is a tenth of the slot time or more.
    pub fn idle_text(&self) -> Option<String> {
        let causes: Vec<String> = self.idle.iter().map(|of| format!("{} {}", of.text, percent(of.share))).collect();
        let idle = self.idle_share();
        let unknown =
            if self.broke_off { " The run broke off: slots of tasks that ran then count as idle." } else { "" };
        let text = || format!("Slots were idle {} of the time: {}.{unknown}", percent(idle), causes.join(", "));
        (idle >= MIN_IDLE).then(text)
    }
}

/// Analyzes a run; empty if no task ran or the job is unknown.
///
/// # Errors
/// If the run cannot be simulated, so that savings are unknown.
pub fn analysis(run: &RunView) -> Result<Analysis, ReportError> {
    Case::of(run)
        .transpose()
        .map(|case| case.as_ref().map(Analysis::of).unwrap_or_default())
        .map_err(ReportError::Again)
}

fn worthwhile(case: &Case<'_>) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    all.extend(ranks::slow(case));
    let starved = structure::starved(case);
    all.extend(structure::serial(case, &starved));
    all.extend(classes::short(case));
    all.extend(classes::oversized(case));
    all.extend(classes::limited(case));
    all.extend(classes::pooled(case));
    all.extend(pressure::io_wait(case));
    all.extend(pressure::memory(case));
    all.extend(staging::inputs(case));
    all.extend(order::later_stages(case));
    all.extend(classes::heavy(case));
    all.extend(classes::uneven(case));
    all.extend(classes::wasted(case));
    all.extend(ranks::start_up(case));
    all.extend(ranks::hand_over(case));
    all.extend(structure::barriers(case, &starved));
    all.extend(structure::tail(case, &starved));
    all.extend(structure::critical_path(case));
    all.extend(ranks::too_many(case));
    all.retain(|finding| case.matters(finding));
    let wall = case.wall_s().max(1e-9);
    all.iter_mut().for_each(|finding| finding.saves_share = finding.saves_s / wall);
    // The sort is stable: of equal findings, the more specific kinds come first above.
    all.sort_by(|a, b| b.saves_s.total_cmp(&a.saves_s).then(b.saves_node_s.total_cmp(&a.saves_node_s)));
    without_repetitions(all)
}

/// Keeps only the finding with the largest saving per class and per change.
fn without_repetitions(all: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in all {
        let is_same = |other: &Finding| {
            let change = |finding: &Finding| finding.change.clone().map(|change| change.place);
            let both_order = |a: &Finding, b: &Finding| a.kind == "priority" && b.kind == "tail";
            (finding.class.is_some() && other.class == finding.class)
                || ((both_order(&finding, other) || both_order(other, &finding)) && change(&finding) == change(other))
        };
        let told = kept.iter().any(is_same);
        if !told {
            kept.push(finding);
        }
    }
    kept
}

/// Writes the findings as text.
///
/// # Errors
/// If the output cannot be written, or the run cannot be simulated.
pub fn write_analysis(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let Some(case) = Case::of(run).transpose().map_err(ReportError::Again)? else {
        writeln!(out, "{}: no task ended in the last session, so there is nothing to analyze", run.name())?;
        return Ok(());
    };
    let analysis = Analysis::of(&case);
    let what = match run.replay.sessions.len() {
        1 => paint.bold(run.name()),
        n => format!("Session {} of {}, the last of {n},", run.session().began.session, paint.bold(run.name())),
    };
    writeln!(out, "{what} took {}. {}", seconds(case.wall_s()), analysis.opening())?;
    for (i, finding) in analysis.findings.iter().enumerate() {
        writeln!(
            out,
            "\n{}. {}  {}",
            i + 1,
            paint.bold(capital(&finding.title)),
            paint.dim(format!("saves {}", finding.saving_text()))
        )?;
        writeln!(out, "   {}", finding.evidence)?;
        if let Some(Recommendation { place, text }) = &finding.change {
            writeln!(out, "   {} {place}:", paint.green("change"))?;
            text.lines().try_for_each(|line| writeln!(out, "       {line}"))?;
        }
    }
    if let Some(idle) = analysis.idle_text() {
        writeln!(out, "\n{idle}")?;
    }
    Ok(())
}

/// Capitalizes the first letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Writes the findings as one JSON object.
///
/// # Errors
/// If the output cannot be written, or the run cannot be simulated.
pub fn write_analysis_json(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct AnalysisJson {
        run: String,
        /// The session that is analyzed: the last one.
        session: u32,
        wall_s: Option<f64>,
        #[serde(flatten)]
        analysis: Analysis,
    }
    let case = Case::of(run).transpose().map_err(ReportError::Again)?;
    let object = AnalysisJson {
        run: run.name(),
        session: run.session().began.session,
        wall_s: case.as_ref().map(Case::wall_s),
        analysis: case.as_ref().map(Analysis::of).unwrap_or_default(),
    };
    serde_json::to_writer_pretty(&mut *out, &object).map_err(ReportError::Json)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests;
