//! The latest attempt of each task.

use crate::model::TaskId;

/// Position of an attempt: index of its session, index within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttemptPlace {
    pub session: u32,
    pub attempt: u32,
}

impl AttemptPlace {
    const NOWHERE: AttemptPlace = AttemptPlace { session: u32::MAX, attempt: u32::MAX };
}

/// Number of tasks per page.
const PAGE: usize = 1024;

/// For each task that has an attempt, the place of the latest.
///
/// Tasks are numbered densely, so this is a flat array; it is cut into pages because a damaged
/// journal may name a task of any number, and then costs one page.
#[derive(Debug, Default)]
pub(super) struct LatestAttempts {
    pages: Vec<Option<Box<[AttemptPlace; PAGE]>>>,
}

impl LatestAttempts {
    /// The latest attempt of a task.
    pub fn get(&self, task: TaskId) -> Option<AttemptPlace> {
        let page = self.pages.get(task.index() / PAGE)?.as_ref()?;
        Some(page[task.index() % PAGE]).filter(|place| *place != AttemptPlace::NOWHERE)
    }

    /// Sets the latest attempt of a task.
    pub fn insert(&mut self, task: TaskId, place: AttemptPlace) {
        let at = task.index() / PAGE;
        if self.pages.len() <= at {
            self.pages.resize_with(at + 1, || None);
        }
        let page = self.pages[at].get_or_insert_with(|| Box::new([AttemptPlace::NOWHERE; PAGE]));
        page[task.index() % PAGE] = place;
    }

    /// All tasks that have an attempt, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, AttemptPlace)> {
        let pages = self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.as_ref()?)));
        let places =
            pages.flat_map(|(at, page)| (at * PAGE..).map(|task| TaskId(task as u32)).zip(page.iter().copied()));
        places.filter(|(_, place)| *place != AttemptPlace::NOWHERE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn holds_what_a_map_holds(tasks in prop::collection::vec(prop_oneof![0..3000u32, 0..2_000_000u32], 0..40)) {
            let (mut latest, mut model) = (LatestAttempts::default(), BTreeMap::new());
            for (attempt, task) in (0u32..).zip(&tasks) {
                let place = AttemptPlace { session: attempt % 3, attempt };
                latest.insert(TaskId(*task), place);
                model.insert(TaskId(*task), place);
            }
            prop_assert!(latest.iter().eq(model.iter().map(|(task, place)| (*task, *place))));
            for task in tasks.iter().flat_map(|task| [*task, task.wrapping_add(1)]).map(TaskId) {
                prop_assert_eq!(latest.get(task), model.get(&task).copied());
            }
        }
    }
}
