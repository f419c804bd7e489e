//! An independent reader of what a run has done.
//!
//! It knows the program only by what it prints: the CSV of `report --tasks`. What should have
//! happened it is told by the test, which made the job and so knows its tasks and edges. No code of
//! the program is used here, so the two cannot be wrong together.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Dir, phalanx};

/// The header that `report --tasks` promises.
pub const HEADER: &str =
    "name,index,attempt,state,exit,rank,node,slot,ready,start,end,reason,session,cache,memory_mb,time_limit_s";

/// One attempt, as a line of the report tells it. Times are nanoseconds since the run began.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub index: Option<u64>,
    pub attempt: u32,
    pub state: String,
    pub exit: i32,
    pub rank: Option<u32>,
    pub node: String,
    pub slot: Option<u32>,
    pub ready: u64,
    pub start: u64,
    pub end: u64,
    pub reason: String,
    pub memory_mb: Option<u64>,
}

impl Row {
    /// `name` or `name[index]`.
    pub fn task(&self) -> String {
        match self.index {
            Some(index) => format!("{}[{index}]", self.name),
            None => self.name.clone(),
        }
    }

    /// How long it ran, in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.start) as f64 / 1e9
    }
}

/// All attempts of a run.
pub struct Trace(pub Vec<Row>);

impl Trace {
    /// Asks the program for the attempts of a run (a name, a directory, or `latest`).
    #[track_caller]
    pub fn of(dir: &Dir, run: &str) -> Trace {
        Trace::parse(phalanx(dir).args(["report", run, "--tasks"]).run().ok().stdout())
    }

    /// Reads the CSV. Anything unexpected fails the test.
    #[track_caller]
    pub fn parse(csv: &str) -> Trace {
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some(HEADER));
        Trace(lines.map(row).collect())
    }

    /// The attempts of one task, oldest first.
    pub fn attempts(&self, task: &str) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.0.iter().filter(|row| row.task() == task).collect();
        rows.sort_by_key(|row| row.start);
        rows
    }

    /// The last attempt of a task.
    #[track_caller]
    pub fn last(&self, task: &str) -> &Row {
        self.attempts(task).pop().unwrap_or_else(|| panic!("the report has no task {task}"))
    }

    /// The state that a task ended in.
    #[track_caller]
    pub fn state(&self, task: &str) -> &str {
        &self.last(task).state
    }

    /// Names of the tasks that have completed.
    pub fn completed(&self) -> HashSet<String> {
        self.0.iter().filter(|row| row.state == "COMPLETED").map(Row::task).collect()
    }

    /// Fails the test unless exactly these tasks ran, each once, each with success.
    #[track_caller]
    pub fn exactly_once<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) {
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for row in &self.0 {
            assert_eq!(row.state, "COMPLETED", "{row:?}");
            assert!(row.attempt == 1 && row.exit == 0, "{row:?}");
            assert!(row.ready <= row.start && row.start <= row.end, "{row:?}");
            *times.entry(row.task()).or_default() += 1;
        }
        for task in tasks {
            assert_eq!(times.remove(task), Some(1), "how often {task} ran");
        }
        assert!(times.is_empty(), "nobody asked for {times:?}");
    }

    /// Fails the test unless no task started before all that it needs had ended. `edges` are pairs:
    /// what must end, what may then start.
    #[track_caller]
    pub fn respects<'a>(&self, edges: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let rows: HashMap<String, &Row> = self.0.iter().map(|row| (row.task(), row)).collect();
        for (before, after) in edges {
            let (first, then) = (rows[before], rows[after]);
            assert!(then.start >= first.end, "{after} did not wait for {before}:\n{first:?}\n{then:?}");
            assert!(then.ready >= first.end, "{after} was ready before {before} had ended:\n{first:?}\n{then:?}");
        }
    }

    /// Fails the test unless no slot of any rank ran two tasks at a time.
    #[track_caller]
    pub fn slots_are_exclusive(&self) {
        let mut by_slot: BTreeMap<(u32, u32), Vec<&Row>> = BTreeMap::new();
        for row in &self.0 {
            if let (Some(rank), Some(slot)) = (row.rank, row.slot) {
                by_slot.entry((rank, slot)).or_default().push(row);
            }
        }
        for rows in by_slot.values_mut() {
            rows.sort_by_key(|row| row.start);
            for pair in rows.windows(2) {
                assert!(pair[0].end <= pair[1].start, "two at once in a slot: {pair:?}");
            }
        }
    }

    /// The most of these attempts that ran at the same time, each counted with its weight.
    pub fn most_at_once(&self, weight: impl Fn(&Row) -> u32) -> u32 {
        let mut events: Vec<(u64, i64)> = Vec::new();
        for row in self.0.iter().filter(|row| row.rank.is_some()) {
            let weight = i64::from(weight(row));
            events.extend([(row.start, weight), (row.end, -weight)]);
        }
        // At the same nanosecond the one that ends makes room for the one that starts.
        events.sort_unstable();
        let mut now = 0;
        let counts = events.into_iter().map(|(_, change)| {
            now += change;
            now
        });
        u32::try_from(counts.max().unwrap_or(0)).expect("as many end as start")
    }

    /// Seconds from the first start to the last end.
    pub fn wall(&self) -> f64 {
        let first = self.0.iter().map(|row| row.start).min().unwrap_or(0);
        let last = self.0.iter().map(|row| row.end).max().unwrap_or(0);
        (last - first) as f64 / 1e9
    }

    /// The ranks that ran something.
    pub fn ranks(&self) -> HashSet<u32> {
        self.0.iter().filter_map(|row| row.rank).collect()
    }
}

#[track_caller]
fn row(line: &str) -> Row {
    let cells = cells(line);
    let [
        name,
        index,
        attempt,
        state,
        exit,
        rank,
        node,
        slot,
        ready,
        start,
        end,
        reason,
        _session,
        _cache,
        memory,
        _time,
    ] = &cells[..]
    else {
        panic!("this line has not 16 cells: {line}");
    };
    let number = |text: &String| text.parse::<u32>().unwrap_or_else(|e| panic!("{text:?}: {e} in {line}"));
    let optional = |text: &String| (!text.is_empty()).then(|| number(text));
    Row {
        name: name.clone(),
        index: optional(index).map(u64::from),
        attempt: number(attempt),
        state: state.clone(),
        exit: if exit.is_empty() { 0 } else { exit.parse().unwrap_or_else(|e| panic!("{exit:?}: {e} in {line}")) },
        rank: optional(rank),
        node: node.clone(),
        slot: optional(slot),
        ready: nanoseconds(ready),
        start: nanoseconds(start),
        end: nanoseconds(end),
        reason: reason.clone(),
        memory_mb: optional(memory).map(u64::from),
    }
}

/// The cells of a line of CSV, with quotes as in RFC 4180.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let cell = cells.last_mut().expect("there is always a last cell");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cell.push(letter),
        }
    }
    cells
}

/// Seconds with a fraction of nine digits. (A floating-point number would round.)
fn nanoseconds(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or_else(|| panic!("{text:?} is no time in seconds"));
    assert_eq!(fraction.len(), 9, "{text:?} should have nine digits after the point");
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{text:?}: {e}"));
    number(whole) * 1_000_000_000 + number(fraction)
}
