//! The command that continues a run, ready to be pasted.

use std::path::Path;

use super::run_view::{RunState, RunView};
use super::style::quoted;
use crate::journal::{RUNS, RunDir};

/// The command, unless nothing is left to be done or the run still goes on.
pub(super) fn command(run: &RunView) -> Option<String> {
    if matches!(run.state(), RunState::Completed | RunState::Running) {
        return None;
    }
    let began = &run.session().began;
    let mut words = Vec::new();
    if began.ranks.len() > 1 {
        words.extend(["mpirun".to_owned(), "-n".to_owned(), began.ranks.len().to_string()]);
    }
    words.extend(began.command.iter().map(|word| quoted(word)));
    let named =
        |option: &str| began.command.iter().any(|word| word == option || word.starts_with(&format!("{option}=")));
    if !named("--resume") {
        words.push("--resume".to_owned());
    }
    if !named("--run-dir") && !would_be_found(run) {
        words.extend(["--run-dir".to_owned(), quoted(&run.dir.path().to_string_lossy())]);
    }
    let here = std::env::current_dir().is_ok_and(|dir| dir == began.dir);
    let cd = if here { String::new() } else { format!("cd {} && ", quoted(&began.dir.to_string_lossy())) };
    Some(cd + &words.join(" "))
}

/// True if `--resume` alone, in the directory that the run was started in, continues this very run.
fn would_be_found(run: &RunView) -> bool {
    let runs: &Path = &run.session().began.dir.join(RUNS);
    RunDir::for_resume(runs, run.subject().job.name(), None).is_ok_and(|found| found == run.dir)
}
