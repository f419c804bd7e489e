//! The chain of tasks that the end of the run waited for, drawn along the time axis and as a table.

use super::page::{Escaped, Html, Plot};
use crate::observe::chain::{After, ChainLink, ChainSums};
use crate::observe::figures::Figures;
use crate::observe::run_view::RunView;
use crate::observe::style::{count, percent};
use crate::observe::timeline::Timeline;
use crate::text::{counted, seconds};

/// Maximum number of stretches in the table.
const LISTED: usize = 40;
/// Maximum number of links drawn one by one; in longer chains adjacent links of one class are
/// merged.
const MAX_LINKS_DRAWN: usize = 1500;

/// Consecutive links of one class with the same cause.
struct ChainStretch {
    class: u32,
    after: After,
    /// Index of its first link.
    first: usize,
    count: usize,
    from: u64,
    to: u64,
    ran: u64,
    gaps: u64,
}

/// Draws the chain and writes its table.
pub(super) fn chain(
    html: &mut Html,
    run: &RunView,
    timeline: &Timeline,
    links: &[ChainLink],
    colours: &[usize],
    figures: &Figures,
) {
    let sums = ChainSums::of(links, timeline);
    html.add(format_args!("<p>{}</p>", sentence(&sums, links, figures)));
    draw(html, timeline, links, colours);
    list(html, run, timeline, links);
}

fn sentence(sums: &ChainSums, links: &[ChainLink], figures: &Figures) -> String {
    let all = (sums.dependency + sums.slot + sums.gaps + sums.start_up).max(1) as f64;
    let part = |ns: u64| format!("{} ({})", seconds(ns as f64 / 1e9), percent(ns as f64 / all));
    let graph = figures.critical_path_s.map_or_else(String::new, |s| {
        format!(" On unlimited slots the longest chain of dependencies alone would have taken {}.", seconds(s))
    });
    format!(
        "The end waited for a chain of {}: {} in tasks that followed a dependency, {} in tasks that had waited for a slot, {} between \
         tasks, {} before the first. (Upper row: what followed a dependency; lower row: what waited for its slot.){graph}",
        counted(links.len() as u64, "task"),
        part(sums.dependency),
        part(sums.slot),
        part(sums.gaps),
        part(sums.start_up)
    )
}

fn draw(html: &mut Html, timeline: &Timeline, links: &[ChainLink], colours: &[usize]) {
    let plot = Plot { left: 58.0, top: 4.0, height: 54.0, end: timeline.end() };
    plot.open(html, "The chain of tasks that the end waited for");
    for (name, y) in [("needs", plot.top + 14.0), ("slot", plot.top + 44.0)] {
        html.add(format_args!("<text class=\"tick end\" x=\"{:.0}\" y=\"{y:.0}\">{name}</text>", plot.left - 6.0));
    }
    for stretch in if links.len() > MAX_LINKS_DRAWN { stretches(timeline, links) } else { singles(timeline, links) } {
        let y = if stretch.after == After::Slot { plot.top + 30.0 } else { plot.top };
        let (left, right) = (plot.x(stretch.from), plot.x(stretch.to));
        html.add(format_args!(
            "<rect class=\"k{}\" x=\"{left:.2}\" y=\"{y:.0}\" width=\"{:.2}\" height=\"22\"><title>{} {}</title></rect>",
            colours[stretch.class as usize],
            (right - left).max(0.4),
            Escaped(&timeline.classes[stretch.class as usize]),
            seconds(stretch.ran as f64 / 1e9)
        ));
    }
    plot.close(html);
}

fn one(timeline: &Timeline, at: usize, link: &ChainLink) -> ChainStretch {
    let slice = &timeline.slices[link.slice];
    ChainStretch {
        class: slice.class,
        after: if link.after == After::Beginning { After::Dependency } else { link.after },
        first: at,
        count: 1,
        from: slice.start,
        to: slice.end,
        ran: slice.ran(),
        gaps: link.gap,
    }
}

fn singles(timeline: &Timeline, links: &[ChainLink]) -> Vec<ChainStretch> {
    links.iter().enumerate().map(|(at, link)| one(timeline, at, link)).collect()
}

fn stretches(timeline: &Timeline, links: &[ChainLink]) -> Vec<ChainStretch> {
    let mut all: Vec<ChainStretch> = Vec::new();
    for next in singles(timeline, links) {
        match all.last_mut() {
            Some(last) if (last.class, last.after) == (next.class, next.after) => {
                last.count += 1;
                last.to = next.to;
                last.ran += next.ran;
                last.gaps += next.gaps;
            }
            _ => all.push(next),
        }
    }
    all
}

fn list(html: &mut Html, run: &RunView, timeline: &Timeline, links: &[ChainLink]) {
    let stretches = stretches(timeline, links);
    html.add(
        "<details><summary>The chain as a table</summary><div class=\"wide\"><table><thead><tr><th>tasks</th><th>after</th>\
         <th class=\"n\">from</th><th class=\"n\">ran</th><th class=\"n\">gaps</th></tr></thead><tbody>",
    );
    for stretch in stretches.iter().take(LISTED) {
        let name = match stretch.count {
            1 => timeline.label(run, &timeline.slices[links[stretch.first].slice]).to_string(),
            n => format!("{}, {}", timeline.classes[stretch.class as usize], counted(n as u64, "task")),
        };
        let after = match stretch.after {
            After::Slot => "waited for a slot",
            After::Dependency | After::Beginning => "followed a dependency",
        };
        html.add(format_args!(
            "<tr><td>{}</td><td>{after}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(name),
            seconds(stretch.from as f64 / 1e9),
            seconds(stretch.ran as f64 / 1e9),
            seconds(stretch.gaps as f64 / 1e9)
        ));
    }
    html.add("</tbody></table></div>");
    if stretches.len() > LISTED {
        html.add(format_args!(
            "<p class=\"note\">and {} more stretches; <code>phalanx trace {}</code> shows all.</p>",
            count((stretches.len() - LISTED) as u64),
            Escaped(run.name())
        ));
    }
    html.add("</details>\n");
}
