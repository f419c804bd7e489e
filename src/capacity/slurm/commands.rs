//! Slurm's commands, one function per command. Times are in seconds since 1970.
//!
//! The output must not depend on the user's environment: variables that change what these commands
//! print or do are removed. Variables that choose account and nodes are kept for submissions. A
//! command that exceeds its time limit is killed and counts as failed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::super::provider::{alone, alone_but};
use crate::job::units::{compress_hosts, expand_hosts};
use crate::job::{Capacity, ProviderKind};
use crate::system::bounded_command;

/// Upper bound of one command. Slurm's own time limits end most of them sooner.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Variables of the user that choose nodes and account; the others could make a submission wait,
/// print something else, or be an array.
const SUBMISSION: [&str; 11] = [
    "SLURM_CLUSTERS",
    "SBATCH_CLUSTERS",
    "SBATCH_ACCOUNT",
    "SBATCH_CONSTRAINT",
    "SBATCH_GRES",
    "SBATCH_NETWORK",
    "SBATCH_PARTITION",
    "SBATCH_QOS",
    "SBATCH_RESERVATION",
    "SBATCH_TIMELIMIT",
    "SBATCH_WCKEY",
];

/// A job, with its cluster if that is not this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobId {
    number: String,
    pub(super) cluster: Option<String>,
}

impl JobId {
    /// A job of this cluster.
    pub(super) fn here(number: String) -> JobId {
        JobId { number, cluster: None }
    }

    /// Parses the output of `sbatch --parsable`: `NUMBER` or `NUMBER;CLUSTER`.
    fn parse(said: &str) -> Option<JobId> {
        let (number, cluster) = said.trim().split_once(';').map_or((said.trim(), None), |(n, c)| (n, Some(c)));
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| JobId { number: number.to_owned(), cluster: cluster.map(str::to_owned) })
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            None => f.write_str(&self.number),
            Some(cluster) => write!(f, "{} of cluster {cluster}", self.number),
        }
    }
}

/// A job as the queue shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    number: String,
    /// `PENDING`, `RUNNING`, `COMPLETED`, ...
    pub(super) state: String,
    pub(super) start: Option<u64>,
    pub(super) end: Option<u64>,
    pub(super) nodes: Vec<String>,
    /// Why it is in this state.
    pub(super) reason: String,
}

impl Queued {
    /// True while it has its nodes, which includes Slurm's cleanup.
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
        // A job is there, whatever its nodes are called.
        let nodes = if nodes.is_empty() { Vec::new() } else { expand_hosts(nodes).unwrap_or_default() };
        Some(Queued { number, state, start, end, nodes, reason: next().unwrap_or_default().to_owned() })
    }
}

/// Calls Slurm's commands.
#[derive(Clone, Default)]
pub(super) struct SlurmCommands {
    /// The deadline of all commands at the end of the run.
    closes: Arc<OnceLock<Instant>>,
}

impl Queued {
    /// The job that it is the entry of, on this cluster.
    pub(super) fn id(&self, cluster: Option<&str>) -> JobId {
        JobId { number: self.number.clone(), cluster: cluster.map(str::to_owned) }
    }

    /// True for the entry of this job.
    pub(super) fn is(&self, job: &JobId) -> bool {
        self.number == job.number
    }
}

impl SlurmCommands {
    /// Limits all commands to `end`, including one that runs already.
    pub(super) fn close_by(&self, end: Instant) {
        // The first end counts.
        let _ = self.closes.set(end);
    }

    /// The jobs of a name on one cluster, including those that ended recently.
    pub(super) fn jobs_named(&self, name: &str, cluster: Option<&str>) -> Result<Vec<Queued>, String> {
        let said = self.output(command("squeue", cluster).args(LIST).args(["--name", name, COLUMNS]))?;
        Ok(said.lines().filter_map(Queued::parse).collect())
    }

    /// One job; `None` if Slurm has no such job (any more).
    pub(super) fn job(&self, job: &JobId) -> Result<Option<Queued>, String> {
        let list = ["--jobs", &job.number, COLUMNS];
        match self.output(command("squeue", job.cluster.as_deref()).args(LIST).args(list)) {
            Ok(said) => Ok(said.lines().filter_map(Queued::parse).find(|queued| queued.is(job))),
            Err(why) if why.contains(UNKNOWN) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// The nodes on which steps of a job run, without the batch step.
    pub(super) fn nodes_with_steps(&self, job: &JobId) -> Result<Vec<String>, String> {
        let list = ["--noheader", "--all", "--steps", "--jobs", &job.number, "--format=%i|%N"];
        let said = self.output(command("squeue", job.cluster.as_deref()).args(list))?;
        let steps = said.lines().filter_map(|line| line.trim().split_once('|'));
        let ours = steps.filter(|(step, _)| step.rsplit('.').next().is_some_and(|n| n.parse::<u32>().is_ok()));
        Ok(ours.flat_map(|(_, nodes)| expand_hosts(nodes.trim()).unwrap_or_default()).collect())
    }

    /// Number of nodes of the partition that requests go to; `None` if it is not known.
    pub(super) fn nodes_for(&self, capacity: &Capacity) -> Option<u32> {
        let elsewhere = ["-p", "--partition", "-M", "--clusters"];
        let goes_elsewhere = |word: &String| elsewhere.iter().any(|option| word.starts_with(option));
        if capacity.provider != ProviderKind::Slurm || capacity.extra.iter().any(goes_elsewhere) {
            return None;
        }
        let said = self.output(command("sinfo", None).args(["--noheader", "--all", "--format=%P|%D"])).ok()?;
        nodes_of_partition(&said, capacity.partition.as_deref())
    }

    /// Submits a job.
    pub(super) fn submit(&self, job: &SbatchArgs<'_>) -> Result<JobId, String> {
        let mut command = Command::new("sbatch");
        let said = self.output(alone_but(job.add_to(&mut command), &SUBMISSION))?;
        JobId::parse(&said).ok_or_else(|| format!("sbatch took it but named no job (it printed {:?})", said.trim()))
    }

    /// Lets a job wait in the queue for this time from now.
    pub(super) fn renew(&self, job: &JobId, limit: Duration, lease: Duration) -> Result<(), String> {
        self.update(job, &format!("Deadline={}", deadline(limit, lease)), None)
    }

    /// Shrinks a job to these nodes. scontrol writes its resize scripts into `dir`.
    pub(super) fn keep_nodes(&self, job: &JobId, nodes: &[String], dir: &Path) -> Result<(), String> {
        let result = self.update(job, &format!("NodeList={}", compress_hosts(nodes)), Some(dir));
        for shell in ["sh", "csh"] {
            // A script that tells a shell of the job its new size; it is not needed, and
            // mostly there is none.
            let _ = std::fs::remove_file(dir.join(format!("slurm_job_{}_resize.{shell}", job.number)));
        }
        result
    }

    /// Reduces the number of nodes that a waiting job requests.
    pub(super) fn ask_for_fewer(&self, job: &JobId, nodes: usize) -> Result<(), String> {
        self.update(job, &format!("NumNodes={nodes}"), None)
    }

    fn update(&self, job: &JobId, what: &str, dir: Option<&Path>) -> Result<(), String> {
        let mut command = command("scontrol", job.cluster.as_deref());
        if let Some(dir) = dir {
            command.current_dir(dir);
        }
        self.output(command.args(["update", &format!("JobId={}", job.number), what])).map(drop)
    }

    /// Cancels jobs. The error names the reason for each cluster.
    pub(super) fn cancel<'a>(&self, jobs: impl IntoIterator<Item = &'a JobId>) -> Result<(), String> {
        let mut by_cluster: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for job in jobs {
            by_cluster.entry(job.cluster.as_deref()).or_default().push(&job.number);
        }
        let cancel = |(cluster, numbers)| self.output(command("scancel", cluster).args::<Vec<_>, _>(numbers));
        let failed: Vec<String> = by_cluster.into_iter().filter_map(|jobs| cancel(jobs).err()).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Cancels all jobs of a name on one cluster, or only those that wait.
    pub(super) fn cancel_named(&self, name: &str, cluster: Option<&str>, only_waiting: bool) -> Result<(), String> {
        let state: &[&str] = if only_waiting { &["--state=PENDING"] } else { &[] };
        self.output(command("scancel", cluster).args(state).args(["--name", name])).map(drop)
    }

    /// The output of a command, or why it failed.
    fn output(&self, command: &mut Command) -> Result<String, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let limit = Instant::now() + COMMAND_TIMEOUT;
        let deadline = || self.closes.get().map_or(limit, |&end| end.min(limit));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = bounded_command::run(command, &deadline).map_err(|error| format!("{name}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(if said.is_empty() { format!("{name} failed ({})", output.status) } else { said })
    }
}

/// Sums up the lines `PARTITION|NODES` of a partition. That of requests that name none has a star.
fn nodes_of_partition(said: &str, partition: Option<&str>) -> Option<u32> {
    let lines = said.lines().filter_map(|line| line.trim().split_once('|'));
    let wanted = lines.filter(|(name, _)| match partition {
        Some(partition) => name.trim_end_matches('*') == partition,
        None => name.ends_with('*'),
    });
    let nodes: u32 = wanted.filter_map(|(_, nodes)| nodes.trim().parse::<u32>().ok()).sum();
    (nodes > 0).then_some(nodes)
}

/// Selects all jobs, including ended ones and those of hidden partitions.
const LIST: [&str; 3] = ["--noheader", "--all", "--states=all"];

/// Slurm's error for an unknown job.
const UNKNOWN: &str = "Invalid job id";

/// One of Slurm's commands, for another cluster than this one if named.
fn command(program: &str, cluster: Option<&str>) -> Command {
    let mut command = Command::new(program);
    alone(&mut command).env("SLURM_TIME_FORMAT", "%s");
    command.args(cluster.map(|cluster| format!("--clusters={cluster}")));
    command
}

/// A job to be submitted.
pub(super) struct SbatchArgs<'a> {
    pub(super) name: &'a str,
    pub(super) nodes: usize,
    pub(super) partition: Option<&'a str>,
    /// Its time limit.
    pub(super) limit: Option<Duration>,
    /// Time from now until which it must start, else Slurm removes it.
    pub(super) lease: Duration,
    pub(super) log: &'a Path,
    pub(super) extra: &'a [String],
    /// Its shell script.
    pub(super) script: &'a str,
}

impl SbatchArgs<'_> {
    fn add_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let log = self.log.display().to_string().replace('%', "%%");
        command.args(["--parsable", "--ntasks-per-node=1", "--exclusive", "--no-requeue", "--open-mode=append"]);
        command.args(["--nodes", &self.nodes.to_string(), "--job-name", self.name, "--output", &log]);
        if let Some(partition) = self.partition {
            command.args(["--partition", partition]);
        }
        if let Some(limit) = self.limit {
            command.args(["--time", &minutes(limit).to_string(), "--deadline", &deadline(limit, self.lease)]);
        }
        command.args(self.extra).args(["--wrap", self.script])
    }
}

/// Slurm removes a job that could not end before its deadline any more.
fn deadline(limit: Duration, lease: Duration) -> String {
    format!("now+{}", 60 * minutes(limit) + lease.as_secs())
}

fn minutes(limit: Duration) -> u64 {
    limit.as_secs().div_ceil(60).max(1)
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
    fn the_nodes_of_a_partition_are_those_of_all_its_states() {
        let said = "all*|3\nall*|1\nbig|64\n";
        assert_eq!(nodes_of_partition(said, None), Some(4));
        assert_eq!(nodes_of_partition(said, Some("big")), Some(64));
        assert_eq!(nodes_of_partition(said, Some("all")), Some(4));
        assert_eq!(nodes_of_partition(said, Some("none")), None, "which is not known to be small");
    }

    #[test]
    fn a_job_is_known_with_its_cluster() {
        assert_eq!(JobId::parse("17\n"), Some(JobId::here("17".into())));
        let other = JobId::parse("17;big\n").unwrap();
        assert_eq!((other.to_string().as_str(), other.cluster.as_deref()), ("17 of cluster big", Some("big")));
        // `--quiet`, `--test-only` and what a plugin may print.
        assert!(["", ";big", "Submitted batch job 17"].into_iter().all(|said| JobId::parse(said).is_none()));
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
