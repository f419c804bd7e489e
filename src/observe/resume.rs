//! The command that continues a run, or runs what it has left out, ready to paste into a shell.

use std::path::Path;

use super::run_view::{RunState, RunView};
use crate::journal::{RUNS, RunDir, SIMULATED};
use crate::system::launch;
use crate::text::shell_word;

/// The command; `None` if nothing is left to do or the run is live. A run that has completed a part
/// of its job goes on with the rest.
pub(super) fn command(run: &RunView) -> Option<String> {
    let is_rest = match run.state() {
        RunState::Running => return None,
        RunState::Completed if run.session().left_out_count() == 0 => return None,
        state => state == RunState::Completed,
    };
    let began = &run.session().began;
    let here = std::env::current_dir().is_ok_and(|dir| dir == began.dir);
    let cd = if here { String::new() } else { format!("cd {} && ", shell_word(&began.dir.to_string_lossy())) };
    if let Some(line) = run.dir.continuation() {
        // A script's own line may choose the part again.
        return (!is_rest).then(|| cd + line.trim());
    }
    let mut words = Vec::new();
    let simulated = run.session().terms.as_ref().is_some_and(|terms| terms.simulated.is_some());
    if began.ranks.len() > 1 && !simulated {
        let launcher = run.dir.launcher().unwrap_or_else(launch::command);
        words.extend(launcher.iter().map(|word| shell_word(word)));
        words.extend(["-n".to_owned(), began.ranks.len().to_string()]);
    }
    let command = if is_rest { without_selection(&began.command) } else { began.command.clone() };
    words.extend(command.iter().map(|word| shell_word(word)));
    let named =
        |option: &str| began.command.iter().any(|word| word == option || word.starts_with(&format!("{option}=")));
    if !named("--resume") {
        words.push("--resume".to_owned());
    }
    if !named("--run-dir") && !would_be_found(run) {
        words.extend(["--run-dir".to_owned(), shell_word(&run.dir.path().to_string_lossy())]);
    }
    // A job that was read from standard input is kept in the run directory.
    let is_piped = began.command.iter().any(|word| word == "-");
    let input = is_piped.then(|| format!(" < {}", shell_word(&run.dir.job_file().to_string_lossy())));
    Some(cd + &words.join(" ") + &input.unwrap_or_default())
}

/// The words of a command without the options that choose a part of the job.
fn without_selection(command: &[String]) -> Vec<String> {
    const OPTIONS: [&str; 3] = ["--until", "--only", "--omit"];
    let mut words = command.iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if OPTIONS.contains(&word.as_str()) {
            words.next();
        } else if !OPTIONS.iter().any(|option| word.starts_with(&format!("{option}="))) {
            kept.push(word.clone());
        }
    }
    kept
}

/// True if `--resume` without `--run-dir`, in the original directory, finds this run.
fn would_be_found(run: &RunView) -> bool {
    let runs: &Path = &run.session().began.dir.join(RUNS);
    // A simulated run has a name of its own; see `sim::session`.
    let name = run.dir.name();
    let job = name.rsplit_once('-').map_or(run.subject().job.name(), |(job, _)| job);
    let job = if job.ends_with(SIMULATED) { job } else { run.subject().job.name() };
    let began = &run.session().began;
    let file = began.dir.join(&began.job_path);
    RunDir::for_resume(runs, (job, Some(&file)), None).is_ok_and(|found| found == run.dir)
}
