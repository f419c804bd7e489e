//! What the system does not give: a start that is refused for want of descriptors or processes
//! waits for others to end.

use crate::support::checker::Trace;
use crate::support::{Dir, Output, is_root, shell, skip_loudly};

/// Forty tasks of which as many run at a time as the system lets. Each says which limit it has.
const MANY: &str = "[[task]]\nname = 'many'\narray = '0-39'\noutputs = 'made-{index}'\nstdout = 'out-{index}'\n\
    command = 'ulimit -Sn >>limits; echo {index}; sleep 0.2; touch made-{index}'\n\
    [[task]]\nname = 'piped'\narray = '0-39'\ncommand = 'sleep 0.2; echo {index}'\n";

fn all_complete(dir: &Dir, output: Output) -> Output {
    let output = output.ok();
    let trace = Trace::of(dir, "latest");
    assert_eq!((trace.0.len(), trace.completed().len()), (80, 80), "{output}");
    output
}

#[test]
fn the_limit_on_open_files_is_raised_and_commands_get_the_old_one() {
    let dir = Dir::new("soft");
    dir.job("job.toml", MANY);
    let output = all_complete(&dir, shell(&dir, "ulimit -Sn 128; exec phalanx run job.toml --slots 40").run());
    assert!(!output.stderr().contains("ulimit"), "{output}");
    assert!(dir.read("limits").lines().all(|limit| limit == "128"), "{}", dir.read("limits"));
}

#[test]
fn a_start_without_descriptors_waits_for_others_to_end() {
    let dir = Dir::new("hard");
    dir.job("job.toml", MANY);
    let output = all_complete(&dir, shell(&dir, "ulimit -n 128; exec phalanx run job.toml --slots 40").run());
    assert_eq!(output.stderr().matches("tasks wait for others to end").count(), 1, "{output}");
    assert!(output.stderr().contains("ulimit -n"), "{output}");
}

#[test]
fn a_start_without_processes_waits_for_others_to_end() {
    let dir = Dir::new("processes");
    if !is_root() {
        return skip_loudly("only root can start a run as a user who runs nothing else");
    }
    // A shell could not start the processes that it needs.
    dir.job("job.toml", "[[task]]\nname = 'many'\narray = '0-79'\ncommand = ['sleep', '0.2']\n");
    // The limit concerns all processes and threads of a user, and never root: another user runs it.
    let line =
        "chmod 777 .; exec prlimit --nproc=60 setpriv --reuid 54321 --clear-groups phalanx run job.toml --slots 30";
    let output = all_complete(&dir, shell(&dir, line).run());
    assert_eq!(output.stderr().matches("tasks wait for others to end").count(), 1, "{output}");
}

#[test]
fn a_limit_that_leaves_nothing_to_wait_for_is_refused_at_the_start() {
    let dir = Dir::new("nothing");
    dir.job("job.toml", "[[task]]\nname = 'one'\ncommand = 'true'\n");
    let output = shell(&dir, "ulimit -n 32; exec phalanx run job.toml --slots 1").run().code(2);
    output.says("only 32 files may be open").says("ulimit -n 1024");
}
