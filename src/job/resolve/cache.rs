//! Resolves `[cache]`, and whether a task uses the cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names::check_dir;
use super::task::TaskResolver;
use crate::job::body::{Extras, FileTemplate, WorkTemplate};
use crate::job::cache::{CacheRules, CacheSettings};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::spec::CacheSpec;
use crate::job::values::CacheUse;

/// Resolves the `[cache]` table.
pub(super) fn resolve_cache(spec: &CacheSpec, job_dir: &Path, findings: &mut Findings) -> CacheSettings {
    let default = CacheSettings::default();
    let mut dir = |key: &str, typed: &Option<At<String>>| -> Option<PathBuf> {
        let typed = typed.as_ref()?;
        check_dir(key, typed, findings);
        Some(job_dir.join(&typed.value))
    };
    let (shared, node_dir) = (dir("dir", &spec.dir), dir("node_dir", &spec.node_dir));
    if let (Some(shared), Some(node), Some(typed)) = (&shared, &node_dir, &spec.dir)
        && shared == node
    {
        findings.push(
            Diagnostic::error("`dir` and `node_dir` are the same directory")
                .at(&typed.span)
                .help("leave `dir` out: the directory of a node serves all runs on it"),
        );
    }
    if let Some(size) = spec.size.as_ref().filter(|size| size.value.0 == 0) {
        findings.push(
            Diagnostic::error("a cache of size 0 keeps nothing")
                .at(&size.span)
                .help("leave `size` out, or remove `cache` from the tasks"),
        );
    }
    CacheSettings {
        dir: shared,
        node_dir,
        size: spec.size.as_ref().map_or(default.size, |at| at.value.0),
        ttl: spec.ttl.as_ref().map(|at| at.value.0),
    }
}

impl TaskResolver<'_> {
    /// Whether the task uses the cache. What cannot use it is refused where the task itself asks
    /// for it, and left out where `[defaults]` does.
    pub(super) fn cache(
        &mut self,
        (own, default): (Option<&At<CacheUse>>, Option<&At<CacheUse>>),
        work: &WorkTemplate,
        extras: &Extras,
        outputs: &[FileTemplate],
    ) -> Option<Arc<CacheRules>> {
        let typed = own.or(default)?;
        let rules = typed.value.0.clone()?;
        let obstacle = match work {
            WorkTemplate::Kernel { .. } if self.spec.value.typed.contains(&"operation") => Some((
                "the result of an operation on a graph depends on changes to the graph, which its key cannot hold",
                "remove `cache` here",
            )),
            _ if extras.keeps_background => Some((
                "what processes in the background write cannot be cached",
                "remove `cache`, or `background = \"keep\"`",
            )),
            _ => None,
        };
        if let Some((why, help)) = obstacle {
            if own.is_some() {
                let message = format!("`{}` cannot use the cache: {why}", self.name);
                self.findings.push(Diagnostic::error(message).at(&typed.span).help(help));
            }
            return None;
        }
        let is_declared = !outputs.is_empty() || extras.stdout.is_some();
        if !is_declared && own.is_some() {
            let message = format!(
                "`{}` declares no `outputs`: the cache keeps only what it prints, and nothing if it prints nothing",
                self.name
            );
            let help = "list the files that it writes under `outputs`, or set `cache = false`";
            self.findings.push(Diagnostic::warning(message).at(&typed.span).help(help));
        }
        Some(Arc::new(rules))
    }
}
