//! The pools of a job, and what each task needs of them.

use rustc_hash::FxHashMap;

use super::{ResourceId, SetId, UNLIMITED};
use crate::model::TaskId;

/// The resources of a job and what its tasks need of them. All ranks derive the same table from the
/// job file.
#[derive(Clone, Debug, Default)]
pub struct PoolTable {
    resources: Vec<PoolResource>,
    /// Sets of needs; the first is empty.
    sets: Vec<Box<[(ResourceId, u32)]>>,
    /// First task and set of each group with needs, ascending.
    groups: Vec<(u32, u32, SetId)>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolResource {
    /// Name of the pool, or of the task whose array has a limit.
    pub name: String,
    /// What is counted.
    pub kind: ResourceKind,
    /// True for the limit of an array.
    pub is_array_limit: bool,
}

/// What a resource counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// Units in use at once; [`UNLIMITED`] for no limit.
    Capacity(u32),
    /// Starts: this many in this many nanoseconds.
    Rate {
        /// Number of starts.
        starts: u32,
        /// The time, in nanoseconds.
        per_ns: u64,
    },
}

impl PoolTable {
    /// Adds a resource.
    pub fn add(&mut self, resource: PoolResource) -> ResourceId {
        self.resources.push(resource);
        self.resources.len() as ResourceId - 1
    }

    /// Sets what the tasks of further groups need: ranges of task numbers in ascending order, each
    /// with resources and amounts.
    pub fn with_groups(mut self, groups: impl Iterator<Item = (u32, u32, Vec<(ResourceId, u32)>)>) -> PoolTable {
        if self.sets.is_empty() {
            self.sets.push(Box::default());
        }
        let mut known: FxHashMap<Vec<(ResourceId, u32)>, SetId> =
            (0..).zip(&self.sets).map(|(set, needs)| (needs.to_vec(), set)).collect();
        for (first, count, mut needs) in groups.filter(|group| !group.2.is_empty()) {
            needs.sort_unstable();
            let next = self.sets.len() as SetId;
            let set = *known.entry(needs).or_insert_with_key(|needs| {
                self.sets.push(needs.as_slice().into());
                next
            });
            self.groups.push((first, first + count, set));
        }
        self
    }

    /// True if no task needs any pool.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The resources.
    pub fn resources(&self) -> &[PoolResource] {
        &self.resources
    }

    /// Number of sets, the empty one included.
    pub fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// The needs of a set; nothing for a number that does not exist.
    #[inline]
    pub fn set(&self, set: SetId) -> &[(ResourceId, u32)] {
        self.sets.get(set as usize).map_or(&[], |set| set)
    }

    /// What a task needs.
    pub fn set_of(&self, task: TaskId) -> SetId {
        let at = self.groups.partition_point(|group| group.1 <= task.0);
        self.groups.get(at).filter(|group| group.0 <= task.0).map_or(0, |group| group.2)
    }

    /// True if a resource counts starts, which are used up.
    #[inline]
    pub fn is_rate(&self, resource: ResourceId) -> bool {
        matches!(self.resources[resource as usize].kind, ResourceKind::Rate { .. })
    }

    /// The resource that holds the capacity of a pool: of the pool with this name, else of the
    /// limit of the array with this name.
    pub fn capacity_of(&self, name: &str) -> Option<ResourceId> {
        let has_name = |(_, resource): &(ResourceId, &PoolResource)| {
            resource.name == name && matches!(resource.kind, ResourceKind::Capacity(_))
        };
        let mut named = (0..).zip(&self.resources).filter(has_name);
        let first = named.next()?;
        let other = named.find(|_| first.1.is_array_limit);
        Some(other.filter(|other| !other.1.is_array_limit).unwrap_or(first).0)
    }

    /// The tasks with needs, as ranges (from, to), with their sets.
    pub fn groups(&self) -> &[(u32, u32, SetId)] {
        &self.groups
    }

    /// The most units of a resource that a task needs.
    pub fn largest_need(&self, resource: ResourceId) -> u32 {
        let needs = self.sets.iter().flat_map(|set| set.iter());
        needs.filter(|need| need.0 == resource).map(|need| need.1).max().unwrap_or(0)
    }

    /// The tasks whose needs include a resource, as ranges (from, to).
    pub fn users(&self, resource: ResourceId) -> impl Iterator<Item = (u32, u32)> + '_ {
        let uses = move |set: SetId| self.set(set).iter().any(|need| need.0 == resource);
        self.groups.iter().filter(move |group| uses(group.2)).map(|group| (group.0, group.1))
    }
}

impl PoolResource {
    /// A capacity.
    pub fn capacity(name: &str, units: Option<u32>, is_array_limit: bool) -> PoolResource {
        PoolResource { name: name.into(), kind: ResourceKind::Capacity(units.unwrap_or(UNLIMITED)), is_array_limit }
    }
}
