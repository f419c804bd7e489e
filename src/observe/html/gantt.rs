//! The Gantt chart: one bar per attempt while bars can be distinguished; above that, the share of
//! each class per interval of time, so that a run of a million tasks takes no more space than one
//! of a thousand.

use super::page::{Escaped, Html, Plot};
use crate::observe::run_view::RunView;
use crate::observe::steps::spread;
use crate::observe::style::{count, outcome};
use crate::observe::timeline::{Slice, Timeline};
use crate::text::seconds;

/// Maximum number of attempts drawn as one bar each.
const BARS: usize = 2000;
/// Maximum number of rows, with and without one bar per attempt.
const ROWS: [usize; 2] = [128, 40];
/// Number of columns if attempts are aggregated.
const COLUMNS: usize = 250;
/// Number of classes with their own colour; all others share one.
pub(super) const COLOURS: usize = 9;

/// Rows of the chart: name, number of slots, and the slices of each.
struct GanttRows {
    names: Vec<String>,
    slots: Vec<f64>,
    row_of: Box<dyn Fn(&Slice) -> usize>,
}

impl GanttRows {
    /// One row per slot if they fit, else per rank, else per group of ranks.
    fn of(timeline: &Timeline, slots_of: &[(u32, u32)], most: usize) -> GanttRows {
        let mut lanes: Vec<(u32, u16, u16)> = timeline.slices.iter().map(|s| (s.rank, s.slot, s.lane)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        if lanes.len() <= most {
            let names = lanes.iter().map(|(rank, slot, _)| format!("{rank}.{slot}")).collect();
            let slots = vec![1.0; lanes.len()];
            let row_of = move |s: &Slice| lanes.binary_search(&(s.rank, s.slot, s.lane)).unwrap_or(0);
            return GanttRows { names, slots, row_of: Box::new(row_of) };
        }
        let mut ranks: Vec<u32> = lanes.iter().map(|lane| lane.0).collect();
        ranks.dedup();
        let together = ranks.len().div_ceil(most);
        let names = ranks.chunks(together).map(|chunk| match chunk {
            [rank] => format!("rank {rank}"),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        });
        let slots = |rank: &u32| slots_of.iter().find(|s| s.0 == *rank).map_or(1.0, |s| f64::from(s.1.max(1)));
        GanttRows {
            names: names.collect(),
            slots: ranks.chunks(together).map(|chunk| chunk.iter().map(slots).sum()).collect(),
            row_of: Box::new(move |s: &Slice| ranks.binary_search(&s.rank).unwrap_or(0) / together),
        }
    }
}

/// Draws the chart, with a sentence that explains it.
pub(super) fn gantt(html: &mut Html, run: &RunView, timeline: &Timeline, colours: &[usize]) {
    let each = timeline.slices.len() <= BARS;
    let mut slots_of: Vec<(u32, u32)> = run.session().began.ranks.iter().map(|info| (info.rank, info.slots)).collect();
    slots_of.sort_unstable();
    let rows = GanttRows::of(timeline, &slots_of, ROWS[usize::from(!each)]);
    let each = each && rows.slots.iter().all(|&slots| slots == 1.0);
    let height = (540.0 / rows.names.len().max(1) as f64).clamp(4.0, if each { 18.0 } else { 26.0 });
    let plot = Plot { left: 58.0, top: 4.0, height: height * rows.names.len() as f64, end: timeline.end() };
    html.add(if each {
        "<p class=\"note\">One row per slot (rank.slot), one bar per attempt, coloured by class; red edges are attempts that failed. \
         Point at a bar for its name.</p>"
            .to_owned()
    } else {
        format!(
            "<p class=\"note\">{} attempts, taken together in {COLUMNS} stretches of time: the height of a colour in a row is the share of \
             its slots that the class held.</p>",
            count(timeline.slices.len() as u64)
        )
    });
    plot.open(html, "What ran where and when");
    if each {
        bars(html, run, timeline, colours, &rows, plot, height)
    } else {
        shares(html, timeline, colours, &rows, plot, height)
    }
    row_names(html, &rows, plot, height);
    plot.close(html);
}

fn row_names(html: &mut Html, rows: &GanttRows, plot: Plot, height: f64) {
    let every = (11.0 / height).ceil().max(1.0) as usize;
    for (row, name) in rows.names.iter().enumerate().step_by(every) {
        let y = plot.top + (row as f64 + 0.5) * height + 3.5;
        html.add(format_args!(
            "<text class=\"tick end\" x=\"{:.0}\" y=\"{y:.1}\">{}</text>",
            plot.left - 6.0,
            Escaped(name)
        ));
    }
}

fn bars(
    html: &mut Html,
    run: &RunView,
    timeline: &Timeline,
    colours: &[usize],
    rows: &GanttRows,
    plot: Plot,
    height: f64,
) {
    let thick = (height - 1.0).max(height * 0.8);
    for slice in &timeline.slices {
        let (left, right) = (plot.x(slice.start), plot.x(slice.end));
        let y = plot.top + height * (rows.row_of)(slice) as f64;
        let bad = if slice.outcome.ok() { "" } else { " bad" };
        let wide = if slice.slots > 1 { format!(", {} slots", slice.slots) } else { String::new() };
        html.add(format_args!(
            "<rect class=\"k{}{bad}\" x=\"{left:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{thick:.1}\"><title>{}: {}, {}{wide}</title></rect>",
            colours[slice.class as usize],
            (right - left).max(0.4),
            Escaped(timeline.label(run, slice)),
            seconds(slice.ran() as f64 / 1e9),
            outcome(slice.outcome),
        ));
    }
}

fn shares(html: &mut Html, timeline: &Timeline, colours: &[usize], rows: &GanttRows, plot: Plot, height: f64) {
    // Slot-nanoseconds per row and colour in each column.
    let mut held = vec![vec![vec![0.0; COLUMNS]; COLOURS + 1]; rows.names.len()];
    for slice in &timeline.slices {
        let columns = &mut held[(rows.row_of)(slice)][colours[slice.class as usize]];
        spread(columns, timeline.end(), slice.start, slice.end, f64::from(slice.slots));
    }
    let width = timeline.end() as f64 / COLUMNS as f64;
    for colour in 0..=COLOURS {
        let mut path = String::new();
        for (row, held) in held.iter().enumerate() {
            let full = rows.slots[row] * width.max(1.0);
            let floor = plot.top + height * (row + 1) as f64;
            let part =
                |colour: usize, column: usize| (held[colour][column] / full * (height - 1.0) * 10.0).round() / 10.0;
            let mut column = 0;
            while column < COLUMNS {
                let below: f64 = (0..colour).map(|c| part(c, column)).sum();
                let (from, tall) = (column, part(colour, column).min(height - 1.0 - below));
                let same = |column: usize| {
                    part(colour, column) == tall && (0..colour).map(|c| part(c, column)).sum::<f64>() == below
                };
                column += 1;
                while column < COLUMNS && same(column) {
                    column += 1;
                }
                if tall >= 0.1 {
                    let (left, right) = (plot.column(from, COLUMNS), plot.column(column, COLUMNS));
                    path += &format!("M{left:.1} {:.1}h{:.1}v-{tall:.1}H{left:.1}z", floor - below, right - left);
                }
            }
        }
        if !path.is_empty() {
            html.add(format_args!("<path class=\"k{colour}\" d=\"{path}\"/>"));
        }
    }
}

/// The colour of each class; `ranked` lists the classes by descending work.
pub(super) fn colours(timeline: &Timeline, ranked: &[String]) -> Vec<usize> {
    let place = |name: &String| ranked.iter().take(COLOURS).position(|other| other == name).unwrap_or(COLOURS);
    timeline.classes.iter().map(place).collect()
}
