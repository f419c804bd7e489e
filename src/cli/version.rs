//! `phalanx --version`: the program, and the libraries that it runs with.

use crate::system::launch;
use crate::topology;

/// A line for the program and one for each library that it was linked to when it started. The
/// first line is `phalanx VERSION`, with the commit where the build named one.
pub(super) fn text(commit: Option<&str>) -> String {
    let commit = commit.filter(|commit| !commit.is_empty()).map(|commit| format!(" ({commit})"));
    let (version, commit) = (env!("CARGO_PKG_VERSION"), commit.unwrap_or_default());
    format!("phalanx {version}{commit}\n{}\nhwloc {}\n", launch::library(), topology::hwloc_version())
}
