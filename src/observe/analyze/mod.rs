//! What bounded a run, and what to change: sentences with numbers, the most worthwhile first.
//!
//! Each finding is a function of the same facts (`case`) that either has something to say or not. What mending it would save is
//! found by `whatif`: the run is simulated again with the measured durations and that one thing changed. Two are measured instead: the start-up,
//! and idle slots while work is on its way to them, spread over all slots. Savings do not add up, since mending one thing uncovers the next.
//!
//! Of the many classes that a job may have, each finding tries out a few with the most work, so that the number of simulated runs is bounded.
//!
//! | file | what it looks at |
//! |---|---|
//! | `classes` | durations, requests and limits of classes of tasks |
//! | `structure` | the shape of the graph: serial phases, critical path, barriers, tails |
//! | `pressure` | I/O that was waited for, memory that ran out |
//! | `ranks` | slow ranks, too many ranks, start-up, hand-over |

mod classes;
mod facts;
mod place;
mod pressure;
mod ranks;
mod structure;
mod whatif;

use std::io::Write;

use serde::Serialize;

use super::print::ReportError;
use super::run_view::RunView;
use super::style::{Paint, percent};
use crate::text::seconds;
use facts::Case;

/// One thing that bounded a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What kind of thing, e.g. `slow_rank`; kept once published.
    pub kind: &'static str,
    /// It in a few words.
    pub title: String,
    /// The numbers that show it, in a sentence or two.
    pub evidence: String,
    /// Seconds of wall time that mending it would save, as estimated.
    pub saves_s: f64,
    /// Node-seconds that mending it would save beyond those.
    pub saves_node_s: f64,
    /// The share of the wall time that [`Finding::saves_s`] is.
    pub saves_share: f64,
    /// What to change.
    pub change: Option<Recommendation>,
    /// The class that it is about, so that two findings do not say the same.
    #[serde(skip)]
    class: Option<u32>,
}

/// What to change, and where.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// File, line and task, or where else.
    pub place: String,
    /// The line as it should be, or what to do.
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

    /// What mending it would save, in words.
    pub fn saving_text(&self) -> String {
        if self.saves_s > 0.0 {
            format!("up to {} or {} of the wall time", seconds(self.saves_s), percent(self.saves_share))
        } else {
            format!("{} of node time, at about the same wall time", seconds(self.saves_node_s))
        }
    }
}

/// What bounded a run: what saves most wall time first, then what only saves node time. Empty if nothing stands out, nothing ran, or the job
/// is not known.
///
/// # Errors
/// If the run cannot be simulated, so that nobody knows what mending anything would save.
pub fn findings(run: &RunView) -> Result<Vec<Finding>, ReportError> {
    Case::of(run).transpose().map(|case| case.as_ref().map(worthwhile).unwrap_or_default()).map_err(ReportError::Again)
}

fn worthwhile(case: &Case<'_>) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    all.extend(ranks::slow(case));
    let starved = structure::starved(case);
    all.extend(structure::serial(case, &starved));
    all.extend(classes::short(case));
    all.extend(classes::oversized(case));
    all.extend(classes::limited(case));
    all.extend(pressure::io_wait(case));
    all.extend(pressure::memory(case));
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
    // Stable: of equal ones, the more specific stand first above.
    all.sort_by(|a, b| b.saves_s.total_cmp(&a.saves_s).then(b.saves_node_s.total_cmp(&a.saves_node_s)));
    without_repetitions(all)
}

/// Of several findings about one class the one that saves most stays.
fn without_repetitions(all: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in all {
        let told = finding.class.is_some() && kept.iter().any(|other| other.class == finding.class);
        if !told {
            kept.push(finding);
        }
    }
    kept
}

/// Writes the findings for a person.
///
/// # Errors
/// If they cannot be written, or the run cannot be simulated.
pub fn write_analysis(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let Some(case) = Case::of(run).transpose().map_err(ReportError::Again)? else {
        writeln!(out, "{}: nothing has ended in the last session, so there is nothing to analyze", run.name())?;
        return Ok(());
    };
    let (wall, found) = (case.wall_s(), worthwhile(&case));
    writeln!(out, "{} took {}. {}", paint.bold(run.name()), seconds(wall), opening(found.len()))?;
    for (i, finding) in found.iter().enumerate() {
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
    Ok(())
}

/// The text as a sentence begins.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn opening(findings: usize) -> &'static str {
    match findings {
        0 => {
            "Nothing stands out: slots were busy nearly all the time, and no change that we know of would make it much shorter."
        }
        1 => "One thing bounded it:",
        _ => "What bounded it, by what mending it would save (savings do not add up):",
    }
}

/// Writes the findings as one JSON object.
///
/// # Errors
/// If they cannot be written, or the run cannot be simulated.
pub fn write_analysis_json(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct AnalysisJson {
        run: String,
        wall_s: Option<f64>,
        findings: Vec<Finding>,
    }
    let case = Case::of(run).transpose().map_err(ReportError::Again)?;
    let object = AnalysisJson {
        run: run.name(),
        wall_s: case.as_ref().map(Case::wall_s),
        findings: case.as_ref().map(worthwhile).unwrap_or_default(),
    };
    serde_json::to_writer_pretty(&mut *out, &object).map_err(ReportError::Json)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests;
