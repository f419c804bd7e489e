//! When an alert is told: once its condition has held for long enough without a break, and not again before a while has passed.
//!
//! The second rule holds across breaks, so a value that swings around its threshold does not flood anybody.

use crate::job::Alert;

/// One alert with what happened to it.
pub(crate) struct AlertWatch {
    pub(crate) alert: Alert,
    /// Since when it has held.
    since: Option<f64>,
    /// When it was told last.
    told: Option<f64>,
}

/// What is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// Seconds since the session began.
    pub(crate) t: f64,
    /// The value.
    pub(crate) value: f64,
    /// The threshold beyond which it is.
    pub(crate) threshold: f64,
    /// For how many seconds it has been.
    pub(crate) for_s: f64,
    /// All of it in a sentence.
    pub(crate) text: String,
}

impl AlertWatch {
    pub(crate) fn new(alert: Alert) -> AlertWatch {
        AlertWatch { alert, since: None, told: None }
    }

    /// Looks at the value at a moment, in seconds since the session began.
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

/// A value with about four digits.
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
        // A value that swings is told no more often than one that stays.
        let mut watch = AlertWatch::new(Alert { lasting: Duration::ZERO, ..alert() });
        let swings = (0..200).map(|t| (t, if t % 2 == 0 { 20.0 } else { 1.0 }));
        assert_eq!(told(&mut watch, swings), [0, 60, 120, 180]);
        // One that never lasts is never told.
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
