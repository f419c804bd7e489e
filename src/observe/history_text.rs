//! Compares a run with earlier runs of its job, as text: what it learnt from them, and where it
//! deviates.

use super::run_view::RunView;
use crate::journal::PastRuns;
use crate::scale::estimate::{Anomaly, Expected, Moment, Quantity};
use crate::text::counted;
use crate::text::seconds;

/// Maximum number of classes listed.
const MAX_CLASSES_SHOWN: usize = 4;

/// What the run knew when it began, from earlier sessions: those of a resumed run count one by one.
/// `None` if it was the first run of its job.
pub(super) fn before_text(run: &RunView) -> Option<String> {
    let past = run.session().past.as_ref()?;
    let mut text = format!("{} of this job", counted(u64::from(past.runs), "session"));
    if !past.learnt.is_empty() {
        text += &format!("; durations learnt: {}", learnt_text(past));
    }
    if let Some(wall) = &past.wall {
        text += &format!("; expected duration {}", expected_text(wall));
    }
    Some(text)
}

fn learnt_text(past: &PastRuns) -> String {
    let mut names: Vec<String> =
        past.learnt.iter().take(MAX_CLASSES_SHOWN).map(|l| format!("`{}` ({})", l.class, seconds(l.seconds))).collect();
    if past.learnt.len() > MAX_CLASSES_SHOWN {
        names.push(format!("{} more", past.learnt.len() - MAX_CLASSES_SHOWN));
    }
    names.join(", ")
}

/// `12.0 s (8 of 10 within 11.0 s .. 13.1 s; 3 % more from run to run)`
pub(crate) fn expected_text(expected: &Expected) -> String {
    let Expected { seconds: s, trend, .. } = expected;
    let mut text = format!("{} (8 of 10 within {} .. {}", seconds(s.q50), seconds(s.q10), seconds(s.q90));
    if trend.abs() >= 0.02 {
        let (percent, how) = (trend.abs() * 100.0, if *trend > 0.0 { "more" } else { "less" });
        text += &format!("; {percent:.0} % {how} from run to run");
    }
    text + ")"
}

/// The deviations from earlier runs, one sentence each.
pub(super) fn unusual(run: &RunView) -> Vec<String> {
    run.session().unusual.iter().map(anomaly_text).collect()
}

/// For example:
/// `the run took 12.0 s: 2.3 x the usual duration on a Tuesday at 9 h UTC (5.2 s, 8 of 10 within
/// 5.0 s .. 5.4 s; from 6 sessions)`
pub(super) fn anomaly_text(anomaly: &Anomaly) -> String {
    let what = match &anomaly.what {
        Quantity::Wall => "the run took".to_owned(),
        Quantity::Work => "its tasks took a total of".to_owned(),
        Quantity::Class(class) => format!("a task of `{class}` took"),
        Quantity::Delay(kind) => format!("the provisioning of a node (`{kind}`) took"),
    };
    let usual = anomaly.usual_s;
    format!(
        "{what} {}: {:.1} x the usual duration {} ({}, 8 of 10 within {} .. {}; from {})",
        seconds(anomaly.found_s),
        anomaly.found_s / usual.q50.max(1e-12),
        moment_text(anomaly.started),
        seconds(usual.q50),
        seconds(usual.q10),
        seconds(usual.q90),
        counted(u64::from(anomaly.runs), "session"),
    )
}

/// `on a Tuesday at 9 h UTC`
pub(crate) fn moment_text(moment: Moment) -> String {
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    format!("on a {} at {} h UTC", days[usize::from(moment.weekday % 7)], moment.hour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::estimate::Quantiles;

    #[test]
    fn it_reads_as_a_sentence() {
        let anomaly = Anomaly {
            what: Quantity::Class("align".into()),
            found_s: 23.0,
            usual_s: Quantiles { q10: 9.0, q50: 10.0, q90: 11.0 },
            runs: 6,
            started: Moment { weekday: 1, hour: 9 },
        };
        assert_eq!(
            anomaly_text(&anomaly),
            "a task of `align` took 23.0 s: 2.3 x the usual duration on a Tuesday at 9 h UTC \
             (10.0 s, 8 of 10 within 9.00 s .. 11.0 s; from 6 sessions)"
        );
        let expected = Expected { seconds: anomaly.usual_s, trend: -0.05, usual: (1.0, 2.0), runs: 6 };
        assert_eq!(expected_text(&expected), "10.0 s (8 of 10 within 9.00 s .. 11.0 s; 5 % less from run to run)");
    }
}
