//! `/api/v1/timeline`: what ran in an interval of time. Few attempts are listed one by one. Many
//! are aggregated: per row and column of time the class that used most slots, and the share of
//! slots in use, so that the size of the answer is bounded.

use schemars::JsonSchema;
use serde::Serialize;

use super::Live;
use crate::model::Attempt;
use crate::observe::run_view::run_ns;
use crate::observe::steps::spread;

/// Maximum number of rows.
const ROWS: usize = 48;
/// Maximum number of attempts listed one by one.
const BARS: usize = 1500;
/// Maximum number of columns.
const COLUMNS: usize = 400;

/// What ran where in an interval of time.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Timeline")]
pub(super) struct GanttData {
    /// Start of the interval.
    from: f64,
    /// End of the interval.
    to: f64,
    /// Names of the classes.
    classes: Vec<String>,
    /// Names of slots, ranks or groups of ranks.
    rows: Vec<String>,
    /// Each attempt, if they are few.
    bars: Vec<Bar>,
    /// Number of columns that the interval is divided into.
    columns: usize,
    /// If the attempts are many: row, column, the class that used most of it, and the used share of
    /// its slots in per cent.
    cells: Vec<(usize, usize, usize, u8)>,
}

/// One attempt; row and class are positions in the lists.
#[derive(Serialize, JsonSchema)]
struct Bar {
    /// Position of its row.
    row: usize,
    /// Position of its class.
    class: usize,
    /// Its start.
    start: f64,
    /// Its end.
    end: f64,
    /// The task, by index in an array or matrix.
    task: String,
    /// Its name as it is shown, if that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// How it ended.
    state: &'static str,
}

/// Rows of the chart: slots if they fit, else ranks, else groups of ranks.
struct LiveGanttRows {
    names: Vec<String>,
    slots: Vec<f64>,
    by_slot: bool,
    /// Each rank with its first and last row, in the order of ranks.
    of_rank: Vec<(u32, usize, usize)>,
}

impl LiveGanttRows {
    fn of(live: &Live) -> LiveGanttRows {
        let ranks: Vec<_> = live.members.iter().filter(|rank| rank.slots > 0).collect();
        let slots: usize = ranks.iter().map(|rank| rank.slots as usize).sum();
        let by_slot = slots <= ROWS;
        let together = ranks.len().div_ceil(ROWS).max(1);
        let mut rows = LiveGanttRows { names: Vec::new(), slots: Vec::new(), by_slot, of_rank: Vec::new() };
        if by_slot {
            for rank in ranks {
                let first = rows.names.len();
                rows.names.extend((0..rank.slots).map(|slot| format!("{}.{slot}", rank.rank)));
                rows.of_rank.push((rank.rank, first, rows.names.len() - 1));
            }
            rows.slots = vec![1.0; rows.names.len()];
        } else {
            for chunk in ranks.chunks(together) {
                let row = rows.names.len();
                rows.of_rank.extend(chunk.iter().map(|rank| (rank.rank, row, row)));
                let (first, last) = (chunk[0].rank, chunk[chunk.len() - 1].rank);
                rows.names.push(if first == last { format!("rank {first}") } else { format!("{first}-{last}") });
                rows.slots.push(chunk.iter().map(|rank| f64::from(rank.slots)).sum());
            }
        }
        rows.of_rank.sort_unstable();
        rows
    }

    /// The row of an attempt. Slots beyond those that the rank began with share its last one.
    fn row(&self, attempt: &Attempt) -> Option<usize> {
        let at = self.of_rank.binary_search_by_key(&attempt.rank.0, |rows| rows.0).ok()?;
        let (_, first, last) = self.of_rank[at];
        Some((first + usize::from(attempt.slot)).min(last))
    }
}

/// The answer for `from` to `to` seconds (default: the whole session) in `columns` columns.
pub(super) fn timeline(live: &Live, from: Option<f64>, to: Option<f64>, columns: Option<usize>) -> GanttData {
    let elapsed = live.elapsed_s();
    // NaN parses as a number but is no time.
    let from = from.filter(|s| s.is_finite()).unwrap_or(0.0).clamp(0.0, elapsed);
    let to = to.filter(|s| s.is_finite()).unwrap_or(elapsed).clamp(from, elapsed.max(from));
    let columns = columns.unwrap_or(240).clamp(1, COLUMNS);
    let rows = LiveGanttRows::of(live);
    let (first_ns, last_ns) = ((from * 1e9) as u64, (to * 1e9) as u64);
    let attempts = &live.view.session().attempts;
    let within = || attempts.iter().filter(|a| a.attempt > 0 && a.end.0 >= first_ns && a.start.0 <= last_ns);
    let mut answer = GanttData {
        from,
        to,
        classes: live.totals.classes().iter().map(|class| class.name.clone()).collect(),
        rows: Vec::new(),
        bars: Vec::new(),
        columns,
        cells: Vec::new(),
    };
    if within().nth(BARS).is_none() && rows.by_slot {
        answer.bars = within().filter_map(|attempt| bar(live, &rows, attempt)).collect();
    } else {
        answer.cells = cells(live, &rows, within(), first_ns, last_ns, columns);
    }
    answer.rows = rows.names;
    answer
}

fn bar(live: &Live, rows: &LiveGanttRows, attempt: &Attempt) -> Option<Bar> {
    let job = &live.view.subject().job;
    let label = job.label(attempt.task);
    let (task, shown) = (label.indexed(), label.to_string());
    Some(Bar {
        row: rows.row(attempt)?,
        class: live.totals.number_of(job.class(attempt.task))?,
        start: attempt.start.seconds(),
        end: attempt.start.seconds() + run_ns(attempt) as f64 / 1e9,
        label: (shown != task).then_some(shown),
        task,
        state: attempt.outcome.state.name(),
    })
}

fn cells<'a>(
    live: &Live,
    rows: &LiveGanttRows,
    attempts: impl Iterator<Item = &'a Attempt>,
    from: u64,
    to: u64,
    columns: usize,
) -> Vec<(usize, usize, usize, u8)> {
    let job = &live.view.subject().job;
    let classes = live.totals.classes().len();
    let span = (to - from).max(1);
    // Slot-nanoseconds per row and class in each column, only for classes that occur in the row.
    let mut held: Vec<Vec<Option<Vec<f64>>>> = vec![vec![None; classes]; rows.names.len()];
    for attempt in attempts {
        let (Some(row), Some(class)) = (rows.row(attempt), live.totals.number_of(job.class(attempt.task))) else {
            continue;
        };
        let columns = held[row][class].get_or_insert_with(|| vec![0.0; columns]);
        let (start, end) = (attempt.start.0.saturating_sub(from), attempt.end.0.saturating_sub(from));
        spread(columns, span, start, end, f64::from(job.slots(attempt.task)));
    }
    let width = span as f64 / columns as f64;
    let mut cells = Vec::new();
    for (row, held) in held.iter().enumerate() {
        for column in 0..columns {
            let shares =
                held.iter().enumerate().filter_map(|(class, columns)| Some((class, columns.as_ref()?[column])));
            let (sum, most) = shares.fold((0.0, (0, 0.0)), |(sum, most): (f64, (usize, f64)), (class, share)| {
                (sum + share, if share > most.1 { (class, share) } else { most })
            });
            let share = (sum / (rows.slots[row] * width) * 100.0).round().clamp(0.0, 100.0) as u8;
            if share > 0 {
                cells.push((row, column, most.0, share));
            }
        }
    }
    cells
}
