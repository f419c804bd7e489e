//! Options that users of other programs type: the error says what stands for them here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What an option means elsewhere, by its name, and what to do here.
const MEANINGS: &[(&[&str], &str)] = &[
    (
        &["--nodes", "-N", "--ntasks", "-np", "--np", "--ranks"],
        "ranks are started by `mpirun -n N phalanx run JOB` or `phalanx submit JOB --nodes=N`",
    ),
    (
        &["--walltime"],
        "`phalanx submit JOB --time=...` limits a run; a run in an allocation of Slurm stops before its end by itself",
    ),
    (&["--joblog"], "`phalanx report RUN --joblog` writes it, during the run and after it"),
    (&["--array", "-a"], "`--only 'TASK[1-3]'` runs some elements of an array"),
    (&["--time", "--timeout", "-t"], "give tasks a `time` in the job file, e.g. in `[defaults]`"),
    (&["--retries", "--retry", "--restart-times"], "give tasks `retries` in the job file, e.g. in `[defaults]`"),
    (&["--mem", "--memory"], "give tasks a `memory` in the job file"),
    (&["--env", "--export", "-e"], "give tasks an `env` in the job file: `env = { NAME = \"value\" }`"),
    (
        &["--chdir", "--cwd", "--directory", "-C", "-D"],
        "change to the directory, or give tasks a `dir` in the job file",
    ),
    (&["--partition", "--account", "--qos", "-p", "-A"], "`phalanx submit JOB` takes options of sbatch"),
    (&["--fail-fast", "--halt", "--stop-on-error", "--halt-on-error"], "use `--max-failures 1`"),
    (&["--continue", "--restart", "--rerun-incomplete", "--again"], "use `--resume`"),
    (&["--output", "-o", "--outdir", "--workdir"], "use `--run-dir DIR` for logs and outputs that are kept"),
    (&["--name", "--job-name", "-J"], "give the job a `name` in the job file, under `[job]`"),
    (&["--max-jobs", "--limit"], "use `--slots N`, or a limit in the job file: `array = \"0-99%5\"`"),
    (&["--log", "--logfile", "--log-file"], "log lines go to standard error: `2> FILE`"),
    (&["--version-info", "-version"], "use `--version`"),
    (&["--failures", "--failure", "--errors"], "`phalanx report RUN --failed` shows what failed"),
    (&["--watch", "--progress"], "progress is shown by itself; `phalanx top RUN` follows a run"),
];

/// Commands of other programs, and what stands for them here.
const VERBS: &[(&[&str], &str)] = &[
    (&["scancel", "qdel", "bkill", "kill", "stop"], "use `phalanx cancel RUN`, or `phalanx cancel RUN TASK`"),
    (&["squeue", "qstat", "bjobs", "ps"], "use `phalanx status RUN`, or `phalanx top RUN`"),
    (&["sacct", "seff"], "use `phalanx report RUN --tasks`"),
    (&["sbatch", "qsub", "bsub"], "use `phalanx submit JOB`"),
    (&["srun"], "use `phalanx run JOB`"),
];

/// Puts the meaning of an unknown option in place of the tip to escape it, which is of no use here.
pub(super) fn explain(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::InvalidSubcommand {
        return explain_verb(error);
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = option.split('=').next().unwrap_or_default();
    let meaning = MEANINGS.iter().find(|(names, _)| names.contains(&name)).map(|(_, meaning)| *meaning);
    let meaning = meaning.map(|meaning| vec![meaning.into()]).unwrap_or_default();
    error.remove(ContextKind::Suggested);
    if !meaning.is_empty() {
        // A name that only looks alike would contradict it.
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(meaning));
    }
    error
}

/// The same for an unknown verb.
fn explain_verb(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    if let Some((_, meaning)) = VERBS.iter().find(|(names, _)| names.contains(&&**verb)) {
        let meaning = *meaning;
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![meaning.into()]));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn options_of_other_programs_are_explained() {
        let said = |args: &[&str]| {
            let line = ["phalanx", "run", "job.toml"].iter().chain(args);
            explain(Cli::try_parse_from(line).unwrap_err()).to_string()
        };
        assert!(said(&["--nodes=4"]).contains("tip: ranks are started by `mpirun -n N"), "{}", said(&["--nodes=4"]));
        assert!(said(&["--nodes", "4"]).contains("phalanx submit"));
        assert!(said(&["--joblog", "x"]).contains("phalanx report RUN --joblog"));
        assert!(said(&["--array", "1-3"]).contains("--only 'TASK[1-3]'"));
        assert!(!said(&["--walltime", "10m"]).contains("job file"));
        assert!(said(&["--fail-fast"]).contains("--max-failures 1"));
        // Nothing is known of it, and nobody wants it as a value.
        assert!(!said(&["--xyzzy"]).contains("as a value"), "{}", said(&["--xyzzy"]));
        assert!(said(&["--resum"]).contains("--resume"));
    }

    #[test]
    fn verbs_of_other_programs_are_explained() {
        let said = |verb: &str| explain(Cli::try_parse_from(["phalanx", verb, "latest"]).unwrap_err()).to_string();
        assert!(said("scancel").contains("tip: use `phalanx cancel RUN`"), "{}", said("scancel"));
        assert!(said("squeue").contains("`phalanx status RUN`") && said("sacct").contains("report RUN --tasks"));
        assert!(said("reprot").contains("report"), "{}", said("reprot"));
        let all = VERBS.iter().flat_map(|(names, _)| *names);
        all.for_each(|name| assert!(Cli::try_parse_from(["phalanx", name, "x"]).is_err(), "{name} exists"));
    }

    #[test]
    fn no_explained_option_exists() {
        for name in MEANINGS.iter().flat_map(|(names, _)| *names) {
            let parsed = Cli::try_parse_from(["phalanx", "run", "job.toml", name, "1"]);
            assert!(parsed.is_err(), "{name} exists");
        }
    }
}
