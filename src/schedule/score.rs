//! What ranks have shown, and what that says of where a task should go.
//!
//! Ranks that have what a task needs, and are not kept free for others (`homes::Advice::suits`),
//! are compared by a score: the work that is before the task, that of busy slots included, over
//! the pace of the rank. Placements, epochs and the simulator score with the same figures.

/// A task has about as much work before it on a rank with all slots busy as half a usual task.
const BUSY_TASKS: f64 = 0.5;

/// A rank counts for at least this share of one without blemish.
const MIN_PACE: f64 = 0.01;

/// What a rank has shown so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RankRecord {
    /// How many times longer tasks take there than elsewhere; 1 unless it is slow.
    pub(super) slowness: f64,
    /// Share of its attempts that succeeded, 0 to 1.
    pub(super) success: f64,
    /// Share of its slots that run a task, 0 to 1.
    pub(super) utilisation: f64,
}

impl Default for RankRecord {
    fn default() -> RankRecord {
        RankRecord { slowness: 1.0, success: 1.0, utilisation: 0.0 }
    }
}

impl RankRecord {
    /// Successful attempts per time and slot, relative to a rank without blemish.
    pub(super) fn pace(&self) -> f64 {
        (self.success / self.slowness.max(1.0)).clamp(MIN_PACE, 1.0)
    }

    /// The work per slot that a task finds before it because slots are busy, in the unit of
    /// `usual`, the work of a usual task. It grows with the square of the utilisation: while some
    /// slots are free, a task starts at once.
    pub(super) fn wait(&self, usual: u128) -> u128 {
        (usual as f64 * BUSY_TASKS * self.utilisation.clamp(0.0, 1.0).powi(2)) as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_unreliable_and_busy_ranks_come_later() {
        let plain = RankRecord::default();
        assert_eq!((plain.pace(), plain.wait(1000)), (1.0, 0));
        assert_eq!(RankRecord { slowness: 4.0, ..plain }.pace(), 0.25);
        assert_eq!(RankRecord { success: 0.5, slowness: 2.0, ..plain }.pace(), 0.25);
        assert_eq!(RankRecord { success: 0.0, ..plain }.pace(), MIN_PACE, "it may recover");
        let wait = |utilisation| RankRecord { utilisation, ..plain }.wait(1000);
        assert_eq!((wait(0.5), wait(1.0), wait(7.0)), (125, 500, 500));
    }
}
