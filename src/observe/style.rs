//! Formats numbers, durations and states for people.

use std::fmt::Display;
use std::io::IsTerminal;

use crate::model::{Outcome, State};

/// Longer lists of classes or tables of tasks are truncated to this number.
pub const LISTED: usize = 40;

/// `and 39,960 more` for a list of `all` entries that is truncated to [`LISTED`].
pub fn and_more(all: usize) -> Option<String> {
    all.checked_sub(LISTED).filter(|more| *more > 0).map(|more| format!("and {} more", count(more as u64)))
}

/// Colours, enabled on a terminal unless the user turned them off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    pub const OFF: Paint = Paint { on: false };

    /// Colours if `stream` is a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the
    /// terminal is dumb.
    ///
    /// Not under an MPI launcher: `mpirun` gives ranks a pseudo-terminal even if its own output
    /// goes to a file.
    pub fn for_stream(stream: &impl IsTerminal) -> Paint {
        let set = |name: &str| std::env::var_os(name).unwrap_or_default();
        let wanted = set("NO_COLOR").is_empty() && set("TERM") != "dumb" && !crate::system::launch::is_launched();
        Paint { on: wanted && stream.is_terminal() }
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Formats a heading.
    pub fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    /// Formats less important text.
    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    /// Formats a failure.
    pub fn red(self, text: impl Display) -> String {
        self.wrap("31", text)
    }

    /// Formats a success.
    pub fn green(self, text: impl Display) -> String {
        self.wrap("32", text)
    }

    /// Formats a state that is neither.
    pub fn yellow(self, text: impl Display) -> String {
        self.wrap("33", text)
    }

    /// Formats text in the colour of a task state.
    pub fn state(self, state: State, text: impl Display) -> String {
        match state {
            State::Completed => self.green(text),
            state if state.is_failure() => self.red(text),
            State::Pending | State::Ready | State::Running => text.to_string(),
            _ => self.yellow(text),
        }
    }
}

/// Formats an integer with separators: `1,234,567`.
pub(super) fn count(n: impl Into<u64>) -> String {
    indicatif::HumanCount(n.into()).to_string()
}

/// Formats bytes: `1.50 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// Formats any number with about five digits.
pub(super) fn value(n: f64) -> String {
    let exact = n == n.trunc() && n.abs() < 1e12;
    if exact || (1e-3..1e6).contains(&n.abs()) { format!("{:.*}", digits(n, exact), n) } else { format!("{n:.4e}") }
}

/// Number of decimals that give about five digits in total.
fn digits(n: f64, exact: bool) -> usize {
    if exact { 0 } else { (4.0 - n.abs().max(1e-3).log10().floor()).clamp(0.0, 7.0) as usize }
}

/// Formats a ratio: `92 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Formats the outcome of an attempt: `FAILED, exit 3`, `FAILED, signal 9 (KILL)`, `COMPLETED`.
pub(super) fn outcome(outcome: Outcome) -> String {
    if outcome.cached {
        return format!("{}, from the cache", outcome.state);
    }
    match (outcome.state, outcome.exit) {
        (State::Completed | State::Skipped, _) | (_, 0) => outcome.state.to_string(),
        (state, exit) if exit < 0 => format!("{state}, {}", signal(exit.unsigned_abs())),
        (state, exit) => format!("{state}, exit {exit}"),
    }
}

/// Formats a signal number with its name, if it has a common one.
pub(super) fn signal(number: u32) -> String {
    let name = match number as i32 {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGILL => "ILL",
        libc::SIGABRT => "ABRT",
        libc::SIGBUS => "BUS",
        libc::SIGFPE => "FPE",
        libc::SIGKILL => "KILL",
        libc::SIGUSR1 => "USR1",
        libc::SIGSEGV => "SEGV",
        libc::SIGUSR2 => "USR2",
        libc::SIGPIPE => "PIPE",
        libc::SIGALRM => "ALRM",
        libc::SIGTERM => "TERM",
        libc::SIGXCPU => "XCPU",
        libc::SIGXFSZ => "XFSZ",
        libc::SIGSYS => "SYS",
        _ => return format!("signal {number}"),
    };
    format!("signal {number} ({name})")
}

/// One line of a task's output without control sequences.
pub(crate) fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    // A progress bar rewrites its line with carriage returns; show its last state.
    let shown = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    shown.chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_summed_up() {
        assert_eq!([40, 41, 40_000].map(and_more), [None, Some("and 1 more".into()), Some("and 39,960 more".into())]);
    }

    #[test]
    fn values_have_few_digits() {
        let shown = [0.0, 7.0, -12000.0, 0.25, 1234.5678, 0.00012345, 1e300, 0.012345678].map(value);
        let expected = ["0", "7", "-12000", "0.25000", "1234.6", "1.2345e-4", "1.0000e300", "0.012346"];
        assert_eq!(shown, expected.map(str::to_owned));
    }

    #[test]
    fn outcomes_name_exit_or_signal() {
        let shown = |state, exit| outcome(Outcome { state, exit, cached: false });
        assert_eq!(shown(State::Completed, 0), "COMPLETED");
        assert_eq!(shown(State::Failed, 3), "FAILED, exit 3");
        assert_eq!(outcome(Outcome::CACHED), "COMPLETED, from the cache");
        assert_eq!(shown(State::OutOfMemory, -9), "OUT_OF_MEMORY, signal 9 (KILL)");
        assert_eq!(shown(State::Failed, i32::MIN), "FAILED, signal 2147483648");
    }

    #[test]
    fn words_come_back_from_a_shell_as_they_were() {}

    #[test]
    fn output_cannot_move_the_cursor() {
        assert_eq!(printable(b"\x1b[31mred\x07\tx\xff"), "[31mred\tx\u{fffd}");
        assert_eq!(printable(b"10 %\r20 %\r"), "20 %");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Paint::OFF.red("x"), "x");
        assert_eq!(Paint { on: true }.state(State::Failed, "x"), "\x1b[31mx\x1b[0m");
    }
}
