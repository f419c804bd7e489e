//! What is asked of Slurm, one function a command. Times are in seconds since 1970.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::provider::alone;
use crate::job::units::{compress_hosts, expand_hosts};

/// A job as the queue shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) number: String,
    /// `PENDING`, `RUNNING`, `COMPLETED`, ...
    pub(super) state: String,
    pub(super) start: Option<u64>,
    pub(super) end: Option<u64>,
    pub(super) nodes: Vec<String>,
    /// Why it is in this state.
    pub(super) reason: String,
}

impl Queued {
    /// True while it has its nodes. Until Slurm has cleaned up after it that is so.
    pub(super) fn has_nodes(&self) -> bool {
        matches!(self.state.as_str(), "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "RESIZING")
    }

    /// True once it is over.
    pub(super) fn is_over(&self) -> bool {
        !self.has_nodes() && !matches!(self.state.as_str(), "PENDING" | "CONFIGURING" | "REQUEUED" | "SIGNALING")
    }
}

/// The queue's columns, in the order in which [`Queued::parse`] reads them.
const COLUMNS: &str = "--format=%i|%T|%S|%e|%N|%r";

impl Queued {
    fn parse(line: &str) -> Option<Queued> {
        let mut columns = line.split('|').map(str::trim);
        let mut next = || columns.next();
        let (number, state) = (next()?.to_owned(), next()?.to_owned());
        let (start, end) = (next()?.parse().ok(), next()?.parse().ok());
        let nodes = next()?;
        let nodes = if nodes.is_empty() { Vec::new() } else { expand_hosts(nodes).ok()? };
        Some(Queued { number, state, start, end, nodes, reason: next().unwrap_or_default().to_owned() })
    }
}

/// The jobs of a name, those that ended of late included.
pub(super) fn jobs_named(name: &str) -> Result<Vec<Queued>, String> {
    let said = output(Command::new("squeue").args(["--noheader", "--states=all", "--name", name, COLUMNS]))?;
    Ok(said.lines().filter_map(Queued::parse).collect())
}

/// One job.
pub(super) fn job(number: &str) -> Result<Option<Queued>, String> {
    let said = output(Command::new("squeue").args(["--noheader", "--states=all", "--jobs", number, COLUMNS]))?;
    Ok(said.lines().find_map(Queued::parse))
}

/// The nodes on which steps of a job run, its batch script left out.
pub(super) fn nodes_with_steps(number: &str) -> Result<Vec<String>, String> {
    let said = output(Command::new("squeue").args(["--noheader", "--steps", "--jobs", number, "--format=%i|%N"]))?;
    let steps = said.lines().filter_map(|line| line.trim().split_once('|'));
    let ours = steps.filter(|(step, _)| step.rsplit('.').next().is_some_and(|n| n.parse::<u32>().is_ok()));
    Ok(ours.flat_map(|(_, nodes)| expand_hosts(nodes.trim()).unwrap_or_default()).collect())
}

/// A job to be submitted.
pub(super) struct Submission<'a> {
    pub(super) name: &'a str,
    pub(super) nodes: usize,
    pub(super) partition: Option<&'a str>,
    /// How long it may last.
    pub(super) limit: Option<Duration>,
    /// If it has not started by then it shall never start, counted from now.
    pub(super) lease: Duration,
    pub(super) log: &'a Path,
    pub(super) extra: &'a [String],
    /// What it runs, for a shell.
    pub(super) script: &'a str,
}

impl Submission<'_> {
    /// Submits it; its number.
    pub(super) fn submit(&self) -> Result<String, String> {
        let mut command = Command::new("sbatch");
        let log = self.log.display().to_string().replace('%', "%%");
        command.args(["--parsable", "--ntasks-per-node=1", "--exclusive", "--no-requeue", "--open-mode=append"]);
        command.args(["--nodes", &self.nodes.to_string(), "--job-name", self.name, "--output", &log]);
        if let Some(partition) = self.partition {
            command.args(["--partition", partition]);
        }
        if let Some(limit) = self.limit {
            command.args(["--time", &minutes(limit).to_string(), "--deadline", &deadline(limit, self.lease)]);
        }
        let said = output(command.args(self.extra).args(["--wrap", self.script]))?;
        // `NUMBER` or `NUMBER;CLUSTER`.
        Ok(said.trim().split(';').next().unwrap_or_default().to_owned())
    }
}

/// Lets a job wait in the queue for so long from now on.
pub(super) fn renew(number: &str, limit: Duration, lease: Duration) -> Result<(), String> {
    let job = format!("JobId={number}");
    update(&[&job, &format!("Deadline={}", deadline(limit, lease))], None)
}

/// Slurm removes a job that could not end before its deadline any more.
fn deadline(limit: Duration, lease: Duration) -> String {
    format!("now+{}", 60 * minutes(limit) + lease.as_secs())
}

fn minutes(limit: Duration) -> u64 {
    limit.as_secs().div_ceil(60).max(1)
}

/// Lets a job keep these of its nodes only. What scontrol leaves behind it leaves in `dir`.
pub(super) fn keep_nodes(number: &str, nodes: &[String], dir: &Path) -> Result<(), String> {
    let result = update(&[&format!("JobId={number}"), &format!("NodeList={}", compress_hosts(nodes))], Some(dir));
    for shell in ["sh", "csh"] {
        // A script with which a shell of the job would learn its new size; nobody needs it, and mostly there is none.
        let _ = std::fs::remove_file(dir.join(format!("slurm_job_{number}_resize.{shell}")));
    }
    result
}

/// Lets a job that waits ask for fewer nodes.
pub(super) fn ask_for_fewer(number: &str, nodes: usize) -> Result<(), String> {
    update(&[&format!("JobId={number}"), &format!("NumNodes={nodes}")], None)
}

fn update(words: &[&str], dir: Option<&Path>) -> Result<(), String> {
    let mut command = Command::new("scontrol");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    output(command.arg("update").args(words)).map(drop)
}

/// Ends a job, or takes it from the queue.
pub(super) fn cancel(number: &str) -> Result<(), String> {
    output(Command::new("scancel").arg(number)).map(drop)
}

/// Ends all jobs of a name; only those that wait, if so wished.
pub(super) fn cancel_named(name: &str, only_waiting: bool) -> Result<(), String> {
    let state: &[&str] = if only_waiting { &["--state=PENDING"] } else { &[] };
    output(Command::new("scancel").args(state).args(["--name", name])).map(drop)
}

/// What a command printed, or why it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    alone(command).env("SLURM_TIME_FORMAT", "%s");
    let output = command.output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(if said.is_empty() { format!("{name} failed ({})", output.status) } else { said })
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_the_queue_are_understood() {
        let job = Queued::parse("17|RUNNING|1795289398|NONE|n[1,3]|None").unwrap();
        assert_eq!((job.number.as_str(), job.start, job.end), ("17", Some(1_795_289_398), None));
        assert_eq!(job.nodes, ["n1", "n3"]);
        assert!(job.has_nodes() && !job.is_over());
        let job = Queued::parse("18|PENDING|N/A|N/A||Resources").unwrap();
        assert!(job.nodes.is_empty() && !job.has_nodes() && !job.is_over());
        assert!(Queued::parse("19|DEADLINE|1|1||DeadLine").unwrap().is_over());
        assert_eq!(Queued::parse(""), None);
    }

    #[test]
    fn words_survive_the_shell() {
        let said =
            Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted("it's $HOME; `x`"))).output().unwrap();
        assert_eq!(said.stdout, b"it's $HOME; `x`");
    }

    #[test]
    fn a_deadline_leaves_the_time_that_a_job_may_last() {
        assert_eq!(deadline(Duration::from_secs(90), Duration::from_secs(600)), "now+720");
    }

    proptest! {
        #[test]
        fn no_line_of_a_queue_panics(line in "\\PC{0,60}|[0-9|n\\[\\],-]{0,40}") {
            let _ = Queued::parse(&line);
        }
    }
}
