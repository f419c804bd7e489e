//! Decides when an alert notifies: after its condition has held without interruption for `lasting`,
//! and not again before `repeat` has passed.
//!
//! The repeat interval applies even if the condition was false in between, so a value that
//! oscillates around its threshold does not cause a flood of notifications.

use crate::job::Alert;

/// The state of one alert.
pub(crate) struct AlertWatch {
    pub(crate) alert: Alert,
    /// Time since which the condition has held.
    since: Option<f64>,
    /// Time of the last notification.
    told: Option<f64>,
}

/// Content of a notification.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// Seconds since the session began.
    pub(crate) t: f64,
    /// Value of the metric.
    pub(crate) value: f64,
    /// Threshold of the alert.
    pub(crate) threshold: f64,
    /// Duration for which the condition has held, in seconds.
    pub(crate) for_s: f64,
    /// The alert as a sentence.
    pub(crate) text: String,
}

impl AlertWatch {
    pub(crate) fn new(alert: Alert) -> AlertWatch {
        AlertWatch { alert, since: None, told: None }
    }

    /// Evaluates the alert at time `t`, in seconds since the session began.
    pub(crate) fn look(&mut self, t: f64, value: Option<f64>) -> Option<Told> {
        let Some(value) = value.filter(|value| self.alert.holds(Some(*value))) else {
            self.since = None;
            return None;
        };
        let for_s = t - *self.since.get_or_insert(t);
        let early = for_s < self.alert.lasting.as_secs_f64();
        if early || self.told.is_some_and(|told| t - told < self.alert.repeat.as_secs_f64()) {
            return None;
        }
        self.told = Some(t);
        Some(self.telling(t, value, for_s))
    }

    fn telling(&self, t: f64, value: f64, for_s: f64) -> Told {
        let Alert { name, metric, above, below, .. } = &self.alert;
        let (word, threshold) = match (above, below) {
            (Some(above), _) if value > *above => ("above", *above),
            (_, below) => ("below", below.unwrap_or(value)),
        };
        let lasted = if for_s >= 1.0 { format!(" for {for_s:.0} s") } else { String::new() };
        let text = format!("alert {name}: {metric} is {}, {word} {threshold}{lasted}", short(value));
        Told { t, value, threshold, for_s, text }
    }
}

/// Formats a value with about four digits.
fn short(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn alert() -> Alert {
        Alert {
            name: "slow".into(),
            metric: "queued".into(),
            above: Some(10.0),
            below: None,
            lasting: Duration::from_secs(3),
            repeat: Duration::from_secs(60),
            file: None,
            webhook: None,
            command: None,
        }
    }

    fn told(watch: &mut AlertWatch, values: impl IntoIterator<Item = (u32, f64)>) -> Vec<u32> {
        let look = |(t, value): (u32, f64)| watch.look(f64::from(t), Some(value)).map(|_| t);
        values.into_iter().filter_map(look).collect()
    }

    #[test]
    fn it_must_last_and_is_not_repeated_soon() {
        let mut watch = AlertWatch::new(alert());
        assert_eq!(told(&mut watch, (0..200).map(|t| (t, 11.0))), [3, 63, 123, 183]);
        // An oscillating value notifies no more often than a constant one.
        let mut watch = AlertWatch::new(Alert { lasting: Duration::ZERO, ..alert() });
        let swings = (0..200).map(|t| (t, if t % 2 == 0 { 20.0 } else { 1.0 }));
        assert_eq!(told(&mut watch, swings), [0, 60, 120, 180]);
        // A condition that never holds long enough never notifies.
        let mut watch = AlertWatch::new(alert());
        assert_eq!(told(&mut watch, (0..200).map(|t| (t, if t % 3 == 0 { 1.0 } else { 20.0 }))), Vec::<u32>::new());
    }

    #[test]
    fn what_is_not_known_holds_nothing() {
        let mut watch = AlertWatch::new(Alert { lasting: Duration::ZERO, ..alert() });
        assert_eq!(watch.look(0.0, None), None);
        assert_eq!(watch.look(1.0, Some(f64::NAN)), None);
        assert_eq!(watch.look(2.0, Some(10.0)), None);
    }

    #[test]
    fn it_says_which_threshold() {
        let alert = Alert { below: Some(-1.0), lasting: Duration::ZERO, repeat: Duration::ZERO, ..alert() };
        let mut watch = AlertWatch::new(alert);
        assert_eq!(watch.look(0.0, Some(12.0)).unwrap().text, "alert slow: queued is 12, above 10");
        assert_eq!(watch.look(4.0, Some(-1.25)).unwrap().text, "alert slow: queued is -1.2500, below -1 for 4 s");
    }
}
