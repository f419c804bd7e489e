//! Progress of a live run: a bar on a terminal, occasional lines in a log file, nothing if quiet.
//!
//! Everything goes to standard error. The text is computed from [`RunProgress`] and the time since
//! the run began; this file only decides when to draw.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::estimate::{Estimator, RunProgress};
use super::pool_samples::PoolSample;
use super::samples::Recorder;
use super::style::count;
use super::terminal::{is_logged, set_bar, write_line};
use crate::journal::RunDir;
use crate::model::{Measure, Rank, Vitals};
use crate::text::counted;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A bar that is redrawn.
    Bar,
    /// Occasional lines.
    Lines,
    /// Not at all.
    Quiet,
}

impl Mode {
    /// A bar if standard error is a terminal and not a log of JSON lines, else lines; nothing if
    /// `quiet`.
    pub fn detect(quiet: bool) -> Mode {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) if !is_logged() => Mode::Bar,
            (false, _) => Mode::Lines,
        }
    }
}

/// Shows and records the progress of one run.
pub struct Progress {
    job: String,
    estimator: Estimator,
    face: Face,
    recorder: Option<Recorder>,
}

enum Face {
    Bar(ProgressBar),
    Lines(Sparse),
    Quiet,
}

impl Progress {
    /// Progress of a run of `job`.
    pub fn new(mode: Mode, job: &str) -> Progress {
        let face = match mode {
            Mode::Bar => Face::Bar(bar()),
            Mode::Lines => Face::Lines(Sparse::default()),
            Mode::Quiet => Face::Quiet,
        };
        Progress { job: job.to_owned(), estimator: Estimator::default(), face, recorder: None }
    }

    /// Also records the progress in the run directory, for viewers elsewhere.
    pub fn recorded(mut self, run: &RunDir, session: u32) -> Progress {
        self.recorder = Some(Recorder::new(run, session));
        self
    }

    /// Records the resource usage that a rank reported.
    pub fn vitals(&mut self, at: Duration, rank: Rank, vitals: &Vitals) {
        self.recorder.iter_mut().for_each(|recorder| recorder.vitals(at, rank, vitals));
    }

    /// Records what pools have in use.
    pub fn pools(&mut self, pools: Vec<PoolSample>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.pools(pools);
        }
    }

    /// Records values that ended tasks wrote.
    pub fn measured(&mut self, at: Duration, measures: &[Measure]) {
        self.recorder.iter_mut().for_each(|recorder| recorder.measured(at, measures));
    }

    /// Shows the progress at time `at` since the run began. Cheap enough to be called often.
    pub fn update(&mut self, at: Duration, tally: &RunProgress) {
        self.estimator.observe(at, tally);
        self.recorder.iter_mut().for_each(|recorder| recorder.take(at, tally));
        match &mut self.face {
            Face::Bar(bar) => {
                bar.set_length(tally.total);
                bar.set_position(tally.ended());
                bar.set_message(status(tally, &self.estimator, at));
            }
            Face::Lines(sparse) => {
                if sparse.due(at, tally.fraction()) {
                    self.line(at, tally);
                }
            }
            Face::Quiet => {}
        }
    }

    /// Removes the bar, or writes the last line. The closing summary follows.
    pub fn finish(&mut self, at: Duration, tally: &RunProgress) {
        // The last reports of the ranks are older than the end of the run.
        let tally = &RunProgress { running: 0, ready: 0, ..*tally };
        self.estimator.observe(at, tally);
        self.recorder.take().into_iter().for_each(|mut recorder| recorder.write(at, tally));
        match &self.face {
            Face::Bar(bar) => {
                set_bar(None);
                bar.finish_and_clear();
            }
            Face::Lines(_) => self.line(at, tally),
            Face::Quiet => {}
        }
        self.face = Face::Quiet;
    }

    fn line(&self, at: Duration, tally: &RunProgress) {
        let share = (tally.fraction() * 100.0).floor();
        let status = status(tally, &self.estimator, at);
        write_line("", &format!("{}: {share:.0} % ended, {status}", self.job));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Face::Bar(bar) = &self.face {
            set_bar(None);
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The template is constant and covered by a test, so this cannot fail.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("=> "));
    }
    set_bar(Some(bar.clone()));
    bar
}

const TEMPLATE: &str = "[{bar:16}] {percent:>3} %  {wide_msg}";

/// `120 of 400 done, ends in 00:00:23, 8 running, 2 failed, 12.5/s, 00:00:10`
fn status(tally: &RunProgress, estimator: &Estimator, at: Duration) -> String {
    let mut text = format!("{} of {} done", count(tally.completed), count(tally.total));
    // What matters most comes first: a narrow terminal shows no more.
    let end = if tally.ended() < tally.total { ends(tally, estimator, at) } else { None };
    if let Some((end, _)) = &end {
        let _ = write!(text, ", ends in {end}");
    }
    for (number, what) in [
        (tally.running, "running"),
        (tally.failed, "failed"),
        (tally.skipped, "skipped"),
        (tally.cancelled, "cancelled"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    if tally.ranks_active > 1 {
        let _ = write!(text, ", {}", counted(tally.ranks_active, "rank"));
    }
    let rate = estimator.tasks_per_s();
    if rate > 0.0 {
        let _ = if rate < 10.0 { write!(text, ", {rate:.1}/s") } else { write!(text, ", {}/s", count(rate as u64)) };
    }
    let _ = write!(text, ", {}", FormattedDuration(at));
    if let Some((_, Some([soon, late]))) = end {
        let _ = write!(text, "; the end in 8 of 10 cases: {soon} to {late}");
    }
    text
}

/// When the run ends: `00:00:23`, in 8 of 10 cases `00:00:20` to `00:00:31`. From the forecast, or
/// else from the recent speed, which says nothing of cases.
fn ends(
    tally: &RunProgress,
    estimator: &Estimator,
    at: Duration,
) -> Option<(FormattedDuration, Option<[FormattedDuration; 2]>)> {
    let until =
        |finish_s: f64| FormattedDuration(Duration::try_from_secs_f64(finish_s).unwrap_or(at).saturating_sub(at));
    // A forecast whose q90 lies in the past was wrong.
    if let Some(forecast) = tally.forecast.filter(|forecast| forecast.finish_q90_s > at.as_secs_f64()) {
        let [soon, middle, late] = [forecast.finish_q10_s, forecast.finish_q50_s, forecast.finish_q90_s].map(until);
        return Some((middle, Some([soon, late])));
    }
    estimator.remaining().map(|left| (FormattedDuration(left), None))
}

/// Decides when a line is due: at each tenth of the tasks, and from time to time in between. The
/// interval grows with the run, so that the lines of a day fit on a few screens.
#[derive(Debug, Default)]
struct Sparse {
    last: Duration,
    tenths: u64,
}

impl Sparse {
    fn due(&mut self, at: Duration, fraction: f64) -> bool {
        let tenths = (fraction * 10.0) as u64;
        let passed = at.saturating_sub(self.last);
        let often = (at / 20).clamp(Duration::from_secs(10), Duration::from_secs(600));
        let further = tenths > self.tenths && tenths < 10 && passed >= Duration::from_secs(1);
        if !further && passed < often {
            return false;
        }
        self.last = at;
        self.tenths = tenths;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_right() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn lines_are_sparse() {
        let mut sparse = Sparse::default();
        // 1,000 tasks in 100 seconds, updated ten times a second: a line at each tenth.
        let short = (0..1000u64).filter(|i| sparse.due(Duration::from_millis(i * 100), *i as f64 / 1000.0)).count();
        assert_eq!(short, 9);
        // A day without progress.
        let mut sparse = Sparse::default();
        let long = (0..86_400).filter(|s| sparse.due(Duration::from_secs(*s), 0.0)).count();
        assert!((50..300).contains(&long), "{long}");
        // All within a second: no line but the last, which `finish` writes.
        let mut sparse = Sparse::default();
        assert!(!(0..10).any(|i| sparse.due(Duration::from_millis(i * 90), i as f64 / 10.0)));
    }

    #[test]
    fn a_status_says_only_what_there_is() {
        let mut estimator = Estimator::default();
        let tally = RunProgress {
            total: 4000,
            completed: 1000,
            failed: 2,
            running: 8,
            ranks_active: 1,
            ..RunProgress::default()
        };
        estimator.observe(Duration::ZERO, &RunProgress { total: 4000, ..RunProgress::default() });
        estimator.observe(Duration::from_secs(100), &tally);
        let status = status(&tally, &estimator, Duration::from_secs(100));
        assert_eq!(status, "1,000 of 4,000 done, ends in 00:04:59, 8 running, 2 failed, 10/s, 00:01:40");
    }

    #[test]
    fn every_face_survives_being_used() {
        for mode in [Mode::Bar, Mode::Lines, Mode::Quiet] {
            let mut progress = Progress::new(mode, "job");
            progress.update(Duration::from_secs(1), &RunProgress::default());
            progress.finish(Duration::from_secs(2), &RunProgress::default());
            progress.finish(Duration::from_secs(2), &RunProgress::default());
        }
    }
}
