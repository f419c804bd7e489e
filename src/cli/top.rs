//! `phalanx top`: shows a run in the terminal, live or as it ended.
//!
//! Keys are read one by one and not shown, so the terminal is set up for that and set back at the
//! end. A terminal that could not be set back would be of no use; so Ctrl-C is a key, too.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::value_parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::{print, refuse};
use crate::journal::{RUNS, RunDir};
use crate::observe::live::{Live, write_frame};
use crate::observe::{Paint, ReportError};
use crate::runtime::subject_of;

/// Shows a run in the terminal: progress, rates and forecast, ranks, classes, recent failures. `q`
/// ends it.
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

/// `q`, `Q`, Ctrl-C, Ctrl-D and Escape.
const QUIT_KEYS: [u8; 5] = [b'q', b'Q', 3, 4, 27];

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

/// Redraws until the run ends or `q` is pressed. The last frame stays on the screen.
fn follow(mut live: Live, every: Duration, paint: Paint) -> Result<(), ReportError> {
    let keys = Keys::open();
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
        if keys.ask_to_quit(every) {
            return Ok(());
        }
        live.refresh(&subject_of)?;
    }
}

/// The keyboard, if standard input is a terminal in the foreground.
struct Keys {
    /// How the terminal was set up before.
    before: Option<Termios>,
}

impl Keys {
    fn open() -> Keys {
        let input = std::io::stdin();
        let is_ours = tcgetpgrp(&input).is_ok_and(|group| group == getpgrp());
        let before = tcgetattr(&input).ok().filter(|_| is_ours);
        if let Some(before) = &before {
            let mut by_key = before.clone();
            by_key.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            // If that is refused, keys arrive with the end of their line.
            let _ = tcsetattr(&input, OptionalActions::Now, &by_key);
        }
        Keys { before }
    }

    /// Waits for this time; true as soon as `q`, Escape or Ctrl-C is pressed, or the terminal is
    /// gone.
    fn ask_to_quit(&self, wait: Duration) -> bool {
        if self.before.is_none() {
            std::thread::sleep(wait);
            return false;
        }
        let end = Instant::now() + wait;
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap_or_default();
            let input = std::io::stdin();
            match poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&left)) {
                Ok(0) => return false,
                Err(Errno::INTR) => continue,
                Err(_) => return true,
                Ok(_) => {}
            }
            let mut typed = [0; 64];
            match rustix::io::read(&input, &mut typed) {
                Ok(0) => return true,
                Ok(count) if typed[..count].iter().any(|key| QUIT_KEYS.contains(key)) => return true,
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return true,
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Columns and lines of the terminal.
fn terminal() -> Option<(usize, usize)> {
    let (width, height) = terminal_size::terminal_size()?;
    Some((usize::from(width.0), usize::from(height.0)))
}
