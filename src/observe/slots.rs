//! The slots of ranks whose number changes (`[job] slots`), from what the ranks report once a
//! second: how many there were, and why that changed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::run_view::RunView;
use super::vitals::{self, Vital};
use crate::model::{SlotReason, SlotsNow};
use crate::text::{counted, seconds};

/// Changes that are listed, at most: the latest.
const MAX_LISTED: usize = 100;

/// The changing slots of the last session, over all ranks that have such.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct SlotFigures {
    /// The least slots that there always are.
    pub least: u32,
    /// The most slots that there can be.
    pub most: u32,
    /// Most slots at once.
    pub peak: u32,
    /// Mean number of slots.
    pub mean: f64,
    /// The latest changes, ordered by time.
    pub changes: Vec<SlotChange>,
    /// Number of changes by their reason.
    pub reasons: BTreeMap<&'static str, u32>,
}

/// A rank got more slots, or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct SlotChange {
    /// Seconds since the session began.
    pub t: f64,
    /// The rank.
    pub rank: u32,
    /// Slots before.
    pub from: u32,
    /// Slots after.
    pub to: u32,
    /// Why.
    pub why: SlotReason,
}

impl SlotChange {
    /// The change as a line.
    pub fn text(&self) -> String {
        let SlotChange { t, rank, from, to, why } = *self;
        format!("after {} rank {rank}: {from} -> {} ({})", seconds(t), counted(to, "slot"), why.text())
    }
}

impl SlotFigures {
    /// Those of a run; `None` if the number of its slots does not change.
    pub fn of(run: &RunView) -> Option<SlotFigures> {
        SlotFigures::of_vitals(&vitals::all(&run.dir.vitals()))
    }

    fn of_vitals(all: &[Vital]) -> Option<SlotFigures> {
        let mut now: BTreeMap<u32, SlotsNow> = BTreeMap::new();
        // Slots of each rank, summed over its samples, and their number.
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        let (mut peak, mut changes, mut reasons) = (0, Vec::new(), BTreeMap::new());
        for (vital, slots) in all.iter().filter_map(|vital| Some((vital, vital.vitals.slots?))) {
            let (t, rank, to, why) = (vital.t, vital.rank, slots.active, slots.why);
            let from = now.insert(rank, slots).map_or(slots.least, |before| before.active);
            if from != to {
                changes.push(SlotChange { t, rank, from, to, why });
                *reasons.entry(why.text()).or_default() += 1;
            }
            let sum = sums.entry(rank).or_default();
            (sum.0, sum.1) = (sum.0 + f64::from(to), sum.1 + 1.0);
            peak = peak.max(now.values().map(|slots| slots.active).sum());
        }
        changes.drain(..changes.len().saturating_sub(MAX_LISTED));
        (!now.is_empty()).then(|| SlotFigures {
            least: now.values().map(|slots| slots.least).sum(),
            most: now.values().map(|slots| slots.most).sum(),
            peak,
            mean: sums.values().map(|(sum, count)| sum / count).sum(),
            changes,
            reasons,
        })
    }

    /// The slots as a line.
    pub fn text(&self) -> String {
        let SlotFigures { least, most, peak, mean, .. } = self;
        let mut text = format!("{least} to {most} at once: {peak} at most, {mean:.1} on average");
        for (why, count) in &self.reasons {
            text += &format!("; changed {} as {why}", counted(*count, "time"));
        }
        text
    }

    /// Slots on average for each that there always is.
    pub fn mean_ratio(&self) -> f64 {
        self.mean / f64::from(self.least.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vitals;

    #[test]
    fn changes_are_found_with_their_reasons() {
        let vital = |t: f64, rank: u32, active: u32, why: SlotReason| {
            let slots = Some(SlotsNow { active, least: 2, most: 8, why });
            Vital { t, rank, vitals: Vitals { slots, ..Vitals::default() } }
        };
        let all = [
            vital(1.0, 0, 2, SlotReason::Start),
            vital(1.0, 1, 2, SlotReason::Start),
            vital(2.0, 0, 4, SlotReason::CpusIdle),
            vital(3.0, 0, 6, SlotReason::CpusIdle),
            vital(4.0, 0, 2, SlotReason::MemoryScarce),
            vital(4.0, 1, 2, SlotReason::Start),
        ];
        let figures = SlotFigures::of_vitals(&all).unwrap();
        assert_eq!((figures.least, figures.most, figures.peak, figures.mean), (4, 16, 8, 5.5));
        assert_eq!(figures.changes.iter().map(|change| change.to).collect::<Vec<_>>(), [4, 6, 2]);
        assert_eq!(figures.changes[2].text(), "after 4.00 s rank 0: 6 -> 2 slots (memory was scarce)");
        assert_eq!(
            figures.text(),
            "4 to 16 at once: 8 at most, 5.5 on average; changed 2 times as all slots were in use and CPUs idle; \
             changed 1 time as memory was scarce"
        );
        assert_eq!(SlotFigures::of_vitals(&[Vital { t: 0.0, rank: 0, vitals: Vitals::default() }]), None);
    }
}
