//! The plan as an SVG chart: cost against makespan, one point per number of ranks.

use super::{Plan, PlanCandidate, PlanQuestion};
use crate::svg::Picture;
use crate::text::{counted, seconds};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Space for the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [72.0, 48.0, 32.0, 56.0];

/// A logarithmic axis, since candidates often differ by orders of magnitude.
struct PictureAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl PictureAxis {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> PictureAxis {
        let logs = values.filter(|v| *v > 0.0).map(f64::ln);
        let (low, high) = (logs.clone().fold(f64::INFINITY, f64::min), logs.fold(f64::NEG_INFINITY, f64::max));
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        // Some padding, also where all values are equal.
        let air = ((high - low) * 0.08).max(0.05);
        PictureAxis { low: low - air, high: high + air, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-12).ln() - self.low) / (self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values of the tick marks.
    fn marks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=4).map(|k| (self.low + (self.high - self.low) * f64::from(k) / 4.0).exp())
    }
}

/// The chart as SVG.
pub fn svg(question: &PlanQuestion<'_>, plan: &Plan) -> String {
    let mut picture = Picture::new(WIDTH, HEIGHT);
    let all = plan.candidates.iter();
    let times = all.clone().flat_map(|c| [c.makespan_q50_s, c.makespan_q90_s]);
    let deadline = question.cost.deadline.map(|d| d.as_secs_f64());
    let x = PictureAxis::of(times.chain(deadline), MARGIN[0], WIDTH - MARGIN[2]);
    let y = PictureAxis::of(all.clone().map(|c| c.cost).chain(question.cost.budget), HEIGHT - MARGIN[3], MARGIN[1]);
    axes(&mut picture, &x, &y);
    if let Some(deadline) = deadline {
        picture.line((x.at(deadline), y.from), (x.at(deadline), y.to), "#b03030", "5 4");
        picture.text((x.at(deadline) - 4.0, y.to + 12.0), "end", &format!("deadline {}", seconds(deadline)));
    }
    if let Some(budget) = question.cost.budget {
        picture.line((x.from, y.at(budget)), (x.to, y.at(budget)), "#b03030", "5 4");
        picture.text((x.to, y.at(budget) - 4.0), "end", &format!("budget {budget:.2}"));
    }
    let front: Vec<String> = all
        .clone()
        .filter(|c| c.pareto)
        .map(|c| format!("{:.1},{:.1}", x.at(c.makespan_q50_s), y.at(c.cost)))
        .collect();
    let front = front.join(" ");
    picture.add(format_args!("<polyline points=\"{front}\" fill=\"none\" stroke=\"#2257a8\" stroke-width=\"1.5\"/>"));
    all.for_each(|candidate| point(&mut picture, &x, &y, candidate, plan.recommended));
    let title = format!(
        "{}: cost against makespan, {} a rank",
        question.prepared.job.name,
        counted(question.cluster.nodes[0].slots, "slot")
    );
    picture.text((WIDTH / 2.0, 26.0), "middle", &title);
    picture.finish()
}

/// A candidate, with a line to its q90; filled if it is one of the best trade-offs, green if it is
/// recommended.
fn point(picture: &mut Picture, x: &PictureAxis, y: &PictureAxis, candidate: &PlanCandidate, recommended: Option<u32>) {
    let (left, right, height) = (x.at(candidate.makespan_q50_s), x.at(candidate.makespan_q90_s), y.at(candidate.cost));
    picture.line((left, height), (right, height), "#9ab", "none");
    let colour = if recommended == Some(candidate.ranks) { "#208040" } else { "#2257a8" };
    let fill = if candidate.pareto { colour } else { "white" };
    picture
        .add(format_args!("<circle cx=\"{left:.1}\" cy=\"{height:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\"/>"));
    if candidate.pareto {
        picture.text((left + 6.0, height - 6.0), "start", &candidate.ranks.to_string());
    }
}

fn axes(picture: &mut Picture, x: &PictureAxis, y: &PictureAxis) {
    for time in x.marks() {
        picture.line((x.at(time), y.from), (x.at(time), y.to), "#e0e0e0", "none");
        picture.text((x.at(time), y.from + 18.0), "middle", &seconds(time));
    }
    for cost in y.marks() {
        picture.line((x.from, y.at(cost)), (x.to, y.at(cost)), "#e0e0e0", "none");
        picture.text((x.from - 8.0, y.at(cost) + 4.0), "end", &format!("{cost:.3}"));
    }
    picture.text(
        ((x.from + x.to) / 2.0, HEIGHT - 14.0),
        "middle",
        "makespan (median; the line reaches to the ninth decile)",
    );
    picture.text((x.from - 60.0, y.to - 14.0), "start", "cost");
}
