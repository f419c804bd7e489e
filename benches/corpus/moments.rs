//! `--forecasts`: what `hybrid` foretells at four moments of a run, against what came of it.

use std::fmt::Write;

use phalanx::scale::Forecast;
use serde::Serialize;

use super::instance::Knowledge;
use super::report::{geometric, median, share};

/// The moments at which the forecast is read, as shares of the run.
pub const MOMENTS: [f64; 4] = [0.0, 0.25, 0.5, 0.75];

/// What is estimated, and how much durations differ from it (sigma of a log-normal factor).
pub const CASES: [(Knowledge, f64); 3] = [(Knowledge::Exact, 0.0), (Knowledge::Exact, 0.2), (Knowledge::Class, 0.0)];

/// One run: one row of `--rows`.
#[derive(Clone, Debug, Serialize)]
pub struct ForecastRow {
    /// Name of the instance.
    pub instance: String,
    /// The half of the corpus.
    pub half: char,
    /// What the job file tells about durations.
    pub knowledge: &'static str,
    /// How much durations differ from it.
    pub spread: f64,
    /// Median time until a requested node arrives, in seconds.
    pub delay_s: u32,
    /// Number of the seed.
    pub setting: u64,
    /// Makespan in seconds.
    pub makespan_s: f64,
    /// The bill.
    pub cost: f64,
    /// CPU time of all decisions in milliseconds.
    pub decided_ms: f64,
    /// Number of decisions.
    pub decisions: u64,
    /// The forecast at each of [`MOMENTS`].
    pub forecasts: Vec<Forecast>,
}

/// The tables: ends, then bills.
pub fn tables(rows: &[ForecastRow]) -> String {
    let mut text = String::new();
    for (title, of) in [("End", end as Of), ("Bill", bill as Of)] {
        let _ = writeln!(
            text,
            "\n### {title}\n\n\
             | estimates | spread | half | runs | moment | off by % | within 10 % | real / forecast | within the 80 % interval % |\n\
             |---|---:|---|---:|---:|---:|---:|---:|---:|"
        );
        for (knowledge, spread) in CASES {
            for half in ['A', 'B'] {
                let is_of =
                    |row: &&ForecastRow| (row.knowledge, row.spread, row.half) == (knowledge.name(), spread, half);
                let rows: Vec<&ForecastRow> = rows.iter().filter(is_of).collect();
                for at in (0..MOMENTS.len()).filter(|_| !rows.is_empty()) {
                    let pairs: Vec<(f64, [f64; 3])> = rows.iter().map(|row| of(row, at)).collect();
                    let off = |(real, told): &(f64, [f64; 3])| (told[1] / real - 1.0).abs();
                    // A run that ends as foreseen to the nanosecond is within its interval.
                    let is_within = |(real, [q10, _, q90]): &(f64, [f64; 3])| {
                        (q10 * (1.0 - 1e-6)..=q90 * (1.0 + 1e-6)).contains(real)
                    };
                    let _ = writeln!(
                        text,
                        "| {} | {spread} | {half} | {} | {} | {:.1} | {:.0} | {:.2} | {:.0} |",
                        knowledge.name(),
                        pairs.len(),
                        MOMENTS[at],
                        100.0 * median(pairs.iter().map(off).collect()),
                        share(pairs.iter().map(|pair| off(pair) <= 0.1)),
                        geometric(pairs.iter().map(|(real, told)| real / told[1].max(1e-9))),
                        share(pairs.iter().map(is_within)),
                    );
                }
            }
        }
    }
    let _ = writeln!(
        text,
        "\nMakespan {:.1} s, cost {:.5}, both {:.4} (geometric means); {:.3} ms a decision",
        geometric(rows.iter().map(|row| row.makespan_s)),
        geometric(rows.iter().map(|row| row.cost)),
        geometric(rows.iter().map(|row| row.makespan_s * row.cost)),
        rows.iter().map(|row| row.decided_ms).sum::<f64>() / rows.iter().map(|row| row.decisions).sum::<u64>() as f64,
    );
    text
}

type Of = fn(&ForecastRow, usize) -> (f64, [f64; 3]);

fn end(row: &ForecastRow, at: usize) -> (f64, [f64; 3]) {
    let told = &row.forecasts[at];
    (row.makespan_s, [told.finish_q10_s, told.finish_q50_s, told.finish_q90_s])
}

fn bill(row: &ForecastRow, at: usize) -> (f64, [f64; 3]) {
    let told = &row.forecasts[at];
    (row.cost, [told.cost_q10, told.cost_q50, told.cost_q90])
}
