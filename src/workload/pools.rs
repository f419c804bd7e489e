//! The pools of a job as the schedule knows them: those that the job declares, and one for each
//! array with a limit.

use crate::job::Job;
use crate::schedule::pools::table::{PoolResource, PoolTable, ResourceKind};

/// The pools of a job.
pub(crate) fn table(job: &Job) -> PoolTable {
    let mut table = PoolTable::default();
    for pool in &job.pools {
        table.add(PoolResource::capacity(&pool.name, pool.capacity, false));
        if let Some(rate) = pool.rate {
            let kind = ResourceKind::Rate { starts: rate.starts, per_ns: rate.per.as_nanos() as u64 };
            table.add(PoolResource { name: pool.name.clone(), kind, is_array_limit: false });
        }
    }
    grown(table, job)
}

/// The table with the groups of a job, which may be tasks that are added to another.
pub(crate) fn grown(mut table: PoolTable, job: &Job) -> PoolTable {
    // The resources of declared pools come first, in their order.
    let mut of_pool = Vec::new();
    let mut next = 0;
    for pool in &job.pools {
        of_pool.push((next, pool.rate.map(|_| next + 1)));
        next += 1 + u32::from(pool.rate.is_some());
    }
    let mut groups = Vec::new();
    for group in &job.groups {
        let mut needs = Vec::new();
        for &(pool, amount) in &group.pools {
            let (capacity, rate) = of_pool[pool as usize];
            needs.push((capacity, amount));
            needs.extend(rate.map(|rate| (rate, 1)));
        }
        if group.limit.is_some() {
            needs.push((table.add(PoolResource::capacity(&group.name, group.limit, true)), 1));
        }
        groups.push((group.first.0, group.count, needs));
    }
    table.with_groups(groups.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::model::TaskId;
    use crate::schedule::pools::UNLIMITED;

    #[test]
    fn declared_pools_and_limits_of_arrays_become_resources() {
        let text = "[pools.db]\ncapacity = 4\nrate = \"10/s\"\n[pools.net]\nrate = \"5/2m\"\n\
            [[task]]\nname = \"a\"\nkernel = \"noop\"\n\
            [[task]]\nname = \"b\"\narray = \"0-9%3\"\nkernel = \"noop\"\npools = { db = 2, net = 1 }\n\
            [[task]]\nname = \"c\"\nkernel = \"noop\"\npools = { db = 2 }\n";
        let job = crate::job::parse(text, "t.toml", std::path::Path::new("/"), &Kernels::builtin()).unwrap().job;
        let table = table(&job);
        let kinds: Vec<_> = table.resources().iter().map(|r| (r.name.as_str(), r.kind)).collect();
        let rate = |starts, secs: u64| ResourceKind::Rate { starts, per_ns: secs * 1_000_000_000 };
        let db = [("db", ResourceKind::Capacity(4)), ("db", rate(10, 1))];
        let net = [("net", ResourceKind::Capacity(UNLIMITED)), ("net", rate(5, 120))];
        assert_eq!(kinds, [&db[..], &net, &[("b", ResourceKind::Capacity(3))]].concat());
        assert_eq!(table.set_of(TaskId(0)), 0);
        assert_eq!(table.set(table.set_of(TaskId(10))), [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(table.set(table.set_of(TaskId(11))), [(0, 2), (1, 1)]);
        assert_eq!((table.capacity_of("b"), table.capacity_of("db"), table.capacity_of("a")), (Some(4), Some(0), None));
    }
}
