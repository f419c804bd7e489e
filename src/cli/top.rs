//! `phalanx top`: shows a run in the terminal, live or as it ended.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::value_parser;

use super::{print, refuse};
use crate::journal::{RUNS, RunDir};
use crate::observe::live::{Live, write_frame};
use crate::observe::{Paint, ReportError};
use crate::runtime::subject_of;

/// Shows a run in the terminal: progress, rates and forecast, ranks, classes, recent failures.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Print one frame and exit.
    #[arg(long)]
    once: bool,
    /// Seconds between frames.
    #[arg(long, value_name = "S", default_value = "1", value_parser = value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Moves the cursor to the upper left corner. Lines are cleared one by one, which avoids flicker.
const HOME: &str = "\x1b[H";
/// Clears the rest of the line, and the rest of the screen.
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";

pub(super) fn main(args: Args) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), &args.run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    let live = match Live::open(&dir, &subject_of) {
        Ok(live) => live,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
    if args.once || !std::io::stdout().is_terminal() {
        let width = terminal().map_or(100, |(width, _)| width);
        return print(&write_frame(&live, width, None, paint));
    }
    match follow(live, Duration::from_secs(args.every), paint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => refuse(error),
    }
}

/// Redraws until the run ends or an interrupt arrives. The last frame stays on the screen.
fn follow(mut live: Live, every: Duration, paint: Paint) -> Result<(), ReportError> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{HOME}{CLEAR_BELOW}").as_bytes())?;
    loop {
        let (width, height) = terminal().unwrap_or((100, 40));
        let frame = write_frame(&live, width, Some(height.saturating_sub(1)), paint);
        let shown: String = frame.lines().map(|line| format!("{line}{CLEAR_LINE}")).collect();
        out.write_all(format!("{HOME}{shown}{CLEAR_BELOW}").as_bytes())?;
        out.flush()?;
        if !live.goes_on() {
            return Ok(());
        }
        std::thread::sleep(every);
        live.refresh(&subject_of)?;
    }
}

/// Columns and lines of the terminal.
fn terminal() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size()?;
    Some((usize::from(width.0), usize::from(height.0)))
}
