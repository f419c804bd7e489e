//! `phalanx --version`: the program, and the libraries that it runs with.

use mpi::environment::library_version;

use crate::topology;

/// A line for the program and one for each library that it was linked to when it started. The
/// first line is `phalanx VERSION`, with the commit where the build named one.
pub(super) fn text(commit: Option<&str>) -> String {
    let commit = commit.filter(|commit| !commit.is_empty()).map(|commit| format!(" ({commit})"));
    // MPI may be asked for its version before it is initialised (MPI 3.1, section 8.7).
    let mpi = library_version().unwrap_or_else(|_| "MPI of unknown version".to_owned());
    let mpi = mpi.lines().next().unwrap_or_default().trim_matches(|c: char| c.is_whitespace() || c == '\0');
    format!(
        "phalanx {}{}\n{mpi}\nhwloc {}\n",
        env!("CARGO_PKG_VERSION"),
        commit.unwrap_or_default(),
        topology::hwloc_version()
    )
}
