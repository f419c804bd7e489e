//! Pools of a live run: their state, changed limits, and tasks that are paused and resumed.

use serde_json::{Value, json};

use super::driver::{CoordinatorDriver, Messages};
use crate::control::Answer;
use crate::job::suggest;
use crate::journal::{LimitChange, PoolTotals, Record};
use crate::model::{TaskId, Time};
use crate::observe::PoolSample;
use crate::schedule::coordinator::CoordinatorEvent;
use crate::schedule::pools::dealer::{Holder, PoolState};
use crate::schedule::pools::table::ResourceKind;
use crate::schedule::pools::{ResourceId, UNLIMITED};
use crate::text::counted;

/// Holders of a pool that are named at most.
const MAX_NAMED_HOLDERS: usize = 5;

impl CoordinatorDriver {
    /// The state of the pools, for `status`.
    pub(super) fn pools(&self, now: Time) -> Vec<Value> {
        self.coordinator.pool_states(now).iter().map(|state| self.pool(now, state)).collect()
    }

    /// What the pools have in use.
    pub(super) fn pool_samples(&self, now: Time) -> Vec<PoolSample> {
        self.coordinator.pool_states(now).iter().map(|state| self.sample(now, state)).collect()
    }

    fn sample(&self, now: Time, state: &PoolState) -> PoolSample {
        let resource = &self.coordinator.pools().table().resources()[state.resource as usize];
        let rate = match resource.kind {
            ResourceKind::Capacity(_) => None,
            ResourceKind::Rate { starts, per_ns } => Some(f64::from(starts) / (per_ns as f64 / 1e9)),
        };
        let kind = if resource.is_array_limit {
            "array"
        } else if rate.is_some() {
            "rate"
        } else {
            "pool"
        };
        PoolSample {
            t: now.seconds(),
            pool: resource.name.clone(),
            kind: kind.to_owned(),
            capacity: state.capacity,
            rate_per_s: rate,
            in_use: state.used,
            waiting: state.waiting,
        }
    }

    fn pool(&self, now: Time, state: &PoolState) -> Value {
        let sample = self.sample(now, state);
        let holder = |&(holder, units): &(Holder, u32)| match holder {
            Holder::Rank(rank) => json!({ "rank": rank.0, "units": units }),
            Holder::Gang(task, _) => json!({ "task": self.job.task_name(task), "units": units }),
        };
        json!({
            "pool": sample.pool,
            "kind": sample.kind,
            "capacity": sample.capacity,
            "rate_per_s": sample.rate_per_s,
            "in_use": sample.in_use,
            "waiting": sample.waiting,
            "holders": state.holders.iter().take(MAX_NAMED_HOLDERS).map(holder).collect::<Vec<Value>>(),
            "peak": state.counters.peak,
            "hand_overs": state.counters.hand_overs,
            "at_limit_s": state.counters.at_limit.as_secs_f64(),
        })
    }

    pub(super) fn list_pools(&self, now: Time) -> Answer {
        Answer { status: Some(json!(self.pools(now))), ..Answer::done("pools") }
    }

    /// What the session's pools were used for, for the journal.
    pub(super) fn pool_totals(&self, now: Time) -> Vec<PoolTotals> {
        let total = |state: PoolState| {
            let resource = &self.coordinator.pools().table().resources()[state.resource as usize];
            PoolTotals {
                pool: resource.name.clone(),
                is_rate: matches!(resource.kind, ResourceKind::Rate { .. }),
                is_array_limit: resource.is_array_limit,
                capacity: state.capacity,
                peak: state.counters.peak,
                hand_overs: state.counters.hand_overs,
                at_limit: state.counters.at_limit,
            }
        };
        self.coordinator.pool_states(now).into_iter().map(total).collect()
    }

    /// Changes the limit of a pool, or of an array.
    pub(super) fn limit(&mut self, now: Time, pool: &str, units: Option<u32>) -> (Answer, Messages) {
        let table = self.coordinator.pools().table();
        let Some(resource) = table.capacity_of(pool) else {
            let mut names: Vec<&str> = table.resources().iter().map(|resource| resource.name.as_str()).collect();
            names.dedup();
            let help = match names.is_empty() {
                true => "this job has none".to_owned(),
                false => suggest(pool, &names, "pools of this run"),
            };
            return (Answer::refused(format!("there is no pool `{pool}`: {help}")), Messages::new());
        };
        let largest = table.largest_need(resource);
        let used = self.coordinator.pool_states(now).into_iter().find(|state| state.resource == resource);
        let used = used.map_or(0, |state| state.used);
        let mut text = match units {
            Some(0) => format!("no further task of `{pool}` is started until its limit is raised"),
            Some(units) => format!("at most {} of `{pool}` may be in use at once", counted(units, "unit")),
            None => format!("`{pool}` has no limit any more"),
        };
        if let Some(units) = units.filter(|&units| 0 < units && units < used) {
            text += &format!("; {used} are in use, so nothing is started until fewer than {units} are");
        }
        if let Some(units) = units.filter(|&units| units > 0 && units < largest) {
            text += &format!("; tasks that need more than {units} wait until it is raised");
        }
        let change = LimitChange { time: now, pool: pool.to_owned(), units };
        self.recording.record(Record::Limit(change));
        let event = CoordinatorEvent::Limit { resource, units: units.unwrap_or(UNLIMITED) };
        (Answer::done(text), self.step(now, [event]))
    }

    /// Pauses tasks (all if there is no name), or resumes them.
    pub(super) fn pause(&mut self, now: Time, name: Option<&str>, paused: bool) -> (Answer, Messages) {
        let all = 0..self.job.task_count() as u32;
        let tasks = match name.map_or_else(|| Ok(vec![all]), |name| self.job.find(name)) {
            Ok(tasks) => tasks,
            Err(reason) => return (Answer::refused(reason), Messages::new()),
        };
        let what = name.map_or_else(|| "the run".to_owned(), |name| format!("`{name}`"));
        if !paused && self.coordinator.paused().is_empty() {
            return (Answer::refused("nothing is paused (a pool is resumed with `phalanx limit`)"), Messages::new());
        }
        let text = match paused {
            true => format!("{what} is paused: running tasks go on, and no further one is started"),
            false => format!("{what} is resumed"),
        };
        (Answer::done(text), self.step(now, [CoordinatorEvent::Pause { tasks, paused }]))
    }

    /// The limit of a task's array, and how many of it run; `None` without a limit.
    pub(super) fn array_limit(&self, now: Time, task: TaskId) -> Option<(u32, u32)> {
        let table = self.coordinator.pools().table();
        let is_limit = |need: &&(ResourceId, u32)| table.resources()[need.0 as usize].is_array_limit;
        let (resource, _) = table.set(table.set_of(task)).iter().find(is_limit)?;
        let state = self.coordinator.pool_states(now).into_iter().find(|state| state.resource == *resource)?;
        Some((state.capacity?, state.used))
    }

    /// The pools that have too few units left for a task, with their holders.
    pub(super) fn missing_units(&self, now: Time, task: TaskId) -> Vec<String> {
        let table = self.coordinator.pools().table();
        let states = self.coordinator.pool_states(now);
        let missing = |&(resource, amount): &(ResourceId, u32)| {
            let state = states.iter().find(|state| state.resource == resource)?;
            let of = &table.resources()[resource as usize];
            if of.is_array_limit {
                return None;
            }
            if let ResourceKind::Rate { .. } = of.kind {
                return (state.waiting > 0).then(|| format!("pool {}: its rate allows the next start soon", of.name));
            }
            let capacity = state.capacity?;
            let holder = |&(holder, units): &(Holder, u32)| match holder {
                Holder::Rank(rank) => format!("rank {} ({units})", rank.0),
                Holder::Gang(task, _) => format!("{} ({units})", self.job.task_name(task)),
            };
            let holders: Vec<String> = state.holders.iter().take(MAX_NAMED_HOLDERS).map(holder).collect();
            let by = if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) };
            let left = capacity.saturating_sub(state.used);
            (left < amount).then(|| format!("pool {}: {} of {capacity} in use{by}", of.name, state.used))
        };
        table.set(table.set_of(task)).iter().filter_map(missing).collect()
    }

    /// The paused tasks in words; `None` if there are none.
    pub(super) fn paused_tasks(&self) -> Option<String> {
        let ranges = self.coordinator.paused();
        if ranges == [(0, self.job.task_count() as u32)] {
            return Some("the whole run".into());
        }
        let names: Vec<String> = self
            .job
            .groups
            .iter()
            .filter_map(|group| {
                let (first, end) = (group.first.0, group.first.0 + group.count);
                let inside = |&(from, to): &(u32, u32)| to.min(end).saturating_sub(from.max(first));
                match ranges.iter().map(inside).sum::<u32>() {
                    0 => None,
                    some if some == group.count => Some(group.name.to_string()),
                    some => Some(format!("{some} of {}", group.name)),
                }
            })
            .collect();
        let shown = names.iter().take(MAX_NAMED_HOLDERS).cloned().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(MAX_NAMED_HOLDERS);
        match (names.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(shown),
            (false, more) => Some(format!("{shown} and {more} more")),
        }
    }
}
