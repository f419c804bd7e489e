//! Resolves `[pools]` and what tasks need of them.

use super::names::check_name;
use super::task::TaskResolver;
use crate::job::Pool;
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::read::At;
use crate::job::units::shorten;
use crate::job::values::{NamedPool, PoolAmounts, PoolsSpec};

/// Resolves the `[pools.NAME]` tables.
pub(super) fn resolve_pools(spec: Option<&At<PoolsSpec>>, findings: &mut Findings) -> Vec<Pool> {
    spec.iter().flat_map(|at| &at.value.0).map(|pool| resolve_pool(pool, findings)).collect()
}

fn resolve_pool(pool: &NamedPool, findings: &mut Findings) -> Pool {
    let (name, spec) = (&pool.name, &pool.spec.value);
    if let Err(reason) = check_name(&name.value) {
        let error = Diagnostic::error(format!("{:?} cannot be the name of a pool: {reason}", shorten(&name.value)));
        findings.push(error.at(&name.span));
    }
    if let Some(capacity) = spec.capacity.as_ref().filter(|capacity| capacity.value.0 == 0) {
        let error = Diagnostic::error("a capacity of 0 would start none of its tasks").at(&capacity.span);
        findings.push(error.help("give it at least 1; `phalanx limit RUN POOL=0` pauses a pool of a run"));
    }
    if pool.is_bare {
        let error = Diagnostic::error(format!("the pool `{}` has neither a capacity nor a rate", shorten(&name.value)));
        findings.push(error.at(&name.span).help("add `capacity = 4`, `rate = \"10/s\"` or both"));
    }
    Pool {
        name: name.value.clone(),
        capacity: spec.capacity.as_ref().map(|at| u32::try_from(at.value.0).unwrap_or(0).max(1)),
        rate: spec.rate.as_ref().map(|at| crate::job::StartRate { starts: at.value.starts, per: at.value.per }),
    }
}

impl TaskResolver<'_> {
    /// What the task needs of pools: number of each pool, and amount.
    pub(super) fn pools(&mut self, typed: Option<&At<PoolAmounts>>) -> Box<[(u32, u32)]> {
        let mut needs = Vec::new();
        for (name, amount) in typed.iter().flat_map(|at| &at.value.0) {
            let Some(at) = self.job.pools.iter().position(|pool| pool.name == name.value) else {
                let names: Vec<&str> = self.job.pools.iter().map(|pool| pool.name.as_str()).collect();
                let shown = shorten(&name.value);
                let help = match names.is_empty() {
                    true => format!("declare it: `[pools.{shown}]` with `capacity = 4`"),
                    false => suggest(&shown, &names, "pools of this job"),
                };
                let error = Diagnostic::error(format!("there is no pool `{shown}`"));
                self.findings.push(error.at(&name.span).help(help));
                continue;
            };
            if let Some(capacity) = self.job.pools[at].capacity.filter(|&capacity| amount.value > capacity) {
                let message = format!("{} units of the pool `{}` are more than it has", amount.value, name.value);
                let help = format!("its capacity is {capacity}: lower the amount, or raise the capacity");
                self.findings.push(Diagnostic::error(message).at(&amount.span).help(help));
            }
            needs.push((at as u32, amount.value));
        }
        needs.into()
    }
}
