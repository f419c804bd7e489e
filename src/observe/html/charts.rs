//! Charts over time: use of slots, and counters.

use super::page::{Html, Plot, WIDTH};
use crate::observe::idle::{Use, Uses};
use crate::observe::steps::Steps;
use crate::observe::style::percent;
use crate::text::seconds;

/// Number of columns of each chart.
pub(super) const COLUMNS: usize = 250;

/// Draws the stacked use of slots over time, and its totals.
pub(super) fn utilisation(html: &mut Html, uses: &Uses, end: u64, slots: u32) {
    let plot = Plot { left: 58.0, top: 6.0, height: 190.0, end };
    plot.open(html, "What slots did over time");
    let y = plot.scale(html, f64::from(slots.max(1)));
    let mut floor = vec![0.0; COLUMNS];
    for of in Use::ALL.into_iter().filter(|&of| uses.total(of) > 0.0) {
        let ceiling: Vec<f64> = floor.iter().zip(uses.over_time(of)).map(|(floor, part)| floor + part).collect();
        html.add(format_args!(
            "<path class=\"u-{}\" d=\"{}\"><title>{}</title></path>",
            of.key(),
            band(&plot, &floor, &ceiling, &y),
            of.name()
        ));
        floor = ceiling;
    }
    plot.close(html);
    legend_of_uses(html, uses);
}

/// SVG path of the area between two step lines.
fn band(plot: &Plot, floor: &[f64], ceiling: &[f64], y: &impl Fn(f64) -> f64) -> String {
    let mut path = format!("M{:.1} {:.1}", plot.left, y(ceiling[0]));
    for (i, value) in ceiling.iter().enumerate() {
        path += &format!("V{:.1}H{:.1}", y(*value), plot.column(i + 1, COLUMNS));
    }
    for (i, value) in floor.iter().enumerate().rev() {
        path += &format!("V{:.1}H{:.1}", y(*value), plot.column(i, COLUMNS));
    }
    path + "z"
}

fn legend_of_uses(html: &mut Html, uses: &Uses) {
    html.add("<table class=\"legend\"><tbody>");
    let all = uses.sum().max(1.0);
    for of in Use::ALL.into_iter().filter(|&of| uses.total(of) > 0.0) {
        html.add(format_args!(
            "<tr><td><span class=\"box u-{}\"></span>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            of.key(),
            of.name(),
            seconds(uses.total(of) / 1e9),
            percent(uses.total(of) / all)
        ));
    }
    html.add("</tbody></table>\n");
}

/// Draws the cost up to the end of each column, with the budget as a dashed line.
pub(super) fn spend(html: &mut Html, spent: &[f64], budget: Option<f64>, end: u64) {
    let plot = Plot { left: 58.0, top: 6.0, height: 90.0, end };
    plot.open(html, "What had been spent over time");
    let last = spent.last().copied().unwrap_or(0.0);
    let y = plot.scale(html, last.max(budget.unwrap_or(0.0)) * 1.05);
    let mut path = format!("M{:.1} {:.1}", plot.left, plot.bottom());
    for (i, value) in spent.iter().enumerate() {
        path += &format!("L{:.1} {:.1}", plot.column(i + 1, spent.len()), y(*value));
    }
    html.add(format_args!("<path class=\"line l-a\" d=\"{path}\"/>"));
    if let Some(budget) = budget {
        let (x, y) = (plot.left, y(budget));
        html.add(format_args!(
            "<path class=\"line l-b\" stroke-dasharray=\"6 4\" d=\"M{x:.1} {y:.1}h{:.1}\"/>",
            plot.width()
        ));
    }
    plot.close(html);
}

/// Draws ratios (0 to 1) over time as lines in per cent: one value per column, `None` where it is
/// unknown.
pub(super) fn shares(html: &mut Html, title: &str, lines: &[(&str, &str, Vec<Option<f64>>)], end: u64) {
    let plot = Plot { left: 58.0, top: 20.0, height: 90.0, end };
    plot.open(html, title);
    let y = plot.scale(html, 100.0);
    for (k, (name, style, values)) in lines.iter().enumerate() {
        let mut path = String::new();
        for (i, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let pen = if path.is_empty() { 'M' } else { 'L' };
            path += &format!("{pen}{:.1} {:.1}", plot.column(i, COLUMNS), y(value * 100.0));
        }
        let x = plot.left + k as f64 * (WIDTH - plot.left) / (lines.len() as f64 + 0.2);
        let most = values.iter().flatten().copied().fold(0.0, f64::max);
        html.add(format_args!(
            "<path class=\"line l-{style}\" d=\"{path}\"/><path class=\"line l-{style}\" d=\"M{x:.0} 8h18\"/>\
             <text class=\"tick\" x=\"{:.0}\" y=\"12\">{name}, at most {}</text>",
            x + 23.0,
            percent(most)
        ));
    }
    plot.close(html);
}

/// A line of a chart.
pub(super) struct ChartLine<'a> {
    pub name: &'a str,
    /// Style: one of the `l-` classes of the style sheet.
    pub style: &'a str,
    pub steps: &'a Steps,
}

/// Draws step functions as lines on one scale: mean values per column.
pub(super) fn lines(html: &mut Html, title: &str, lines: &[ChartLine<'_>], end: u64, height: f64) {
    let plot = Plot { left: 58.0, top: 20.0, height, end };
    plot.open(html, title);
    let means: Vec<Vec<f64>> = lines.iter().map(|line| line.steps.means(end, COLUMNS)).collect();
    let most = means.iter().flatten().copied().fold(0.0, f64::max).max(1.0);
    let y = plot.scale(html, most);
    for (line, means) in lines.iter().zip(&means) {
        let mut path = format!("M{:.1} {:.1}", plot.left, y(means[0]));
        for (i, value) in means.iter().enumerate() {
            path += &format!("V{:.1}H{:.1}", y(*value), plot.column(i + 1, COLUMNS));
        }
        html.add(format_args!("<path class=\"line l-{}\" d=\"{path}\"/>", line.style));
    }
    let mut x = plot.left;
    for line in lines {
        html.add(format_args!(
            "<path class=\"line l-{}\" d=\"M{x:.0} 8h18\"/><text class=\"tick\" x=\"{:.0}\" y=\"12\">{}, at most {}</text>",
            line.style,
            x + 23.0,
            line.name,
            line.steps.max()
        ));
        x += (WIDTH - plot.left) / 3.2;
    }
    plot.close(html);
}
