//! Slurm's commands, one function per command. Times are in seconds since 1970.
//!
//! The output must not depend on the user's environment: variables that change what these commands
//! print or do are removed. Variables that choose account and nodes are kept for submissions. A
//! command that exceeds its time limit is killed and counts as failed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::super::provider::{LABELS, alone, alone_but};
use super::NodeFeatures;
use super::estimate::parse_start;
use crate::job::units::{compress_hosts, expand_hosts};
use crate::job::{Capacity, ProviderKind};
use crate::model::{Labels, labels_of};
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

/// A job, with its cluster if that is not the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobId {
    number: String,
    pub(super) cluster: Option<String>,
}

impl JobId {
    /// A job of the usual cluster.
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
    /// The cluster that is meant where none is named: its name, or the path of its configuration;
    /// `None`: that of this machine.
    cluster: Option<String>,
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
    /// Commands for a cluster.
    pub(super) fn of(cluster: Option<&str>) -> SlurmCommands {
        SlurmCommands { cluster: cluster.map(str::to_owned), ..SlurmCommands::default() }
    }

    /// One of Slurm's commands, for another cluster than the usual one if named.
    fn command(&self, program: &str, cluster: Option<&str>) -> Command {
        let mut command = Command::new(program);
        alone(&mut command).env("SLURM_TIME_FORMAT", "%s");
        name_cluster(&mut command, cluster.or(self.cluster.as_deref()));
        command
    }

    /// Limits all commands to `end`, including one that runs already.
    pub(super) fn close_by(&self, end: Instant) {
        // The first end counts.
        let _ = self.closes.set(end);
    }

    /// The jobs of a name on one cluster, including those that ended recently.
    pub(super) fn jobs_named(&self, name: &str, cluster: Option<&str>) -> Result<Vec<Queued>, String> {
        let said = self.output(self.command("squeue", cluster).args(LIST).args(["--name", name, COLUMNS]))?;
        Ok(said.lines().filter_map(Queued::parse).collect())
    }

    /// One job; `None` if Slurm has no such job (any more).
    pub(super) fn job(&self, job: &JobId) -> Result<Option<Queued>, String> {
        let list = ["--jobs", &job.number, COLUMNS];
        match self.output(self.command("squeue", job.cluster.as_deref()).args(LIST).args(list)) {
            Ok(said) => Ok(said.lines().filter_map(Queued::parse).find(|queued| queued.is(job))),
            Err(why) if why.contains(UNKNOWN) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// The nodes on which steps of a job run, without the batch step.
    pub(super) fn nodes_with_steps(&self, job: &JobId) -> Result<Vec<String>, String> {
        let list = ["--noheader", "--all", "--steps", "--jobs", &job.number, "--format=%i|%N"];
        let said = self.output(self.command("squeue", job.cluster.as_deref()).args(list))?;
        let steps = said.lines().filter_map(|line| line.trim().split_once('|'));
        let ours = steps.filter(|(step, _)| step.rsplit('.').next().is_some_and(|n| n.parse::<u32>().is_ok()));
        Ok(ours.flat_map(|(_, nodes)| expand_hosts(nodes.trim()).unwrap_or_default()).collect())
    }

    /// The nodes of the partition that requests go to; `None` if they are not known.
    pub(super) fn partition(&self, capacity: &Capacity) -> Option<PartitionNodes> {
        let elsewhere = ["-p", "--partition", "-M", "--clusters"];
        let goes_elsewhere = |word: &String| elsewhere.iter().any(|option| word.starts_with(option));
        if capacity.provider != ProviderKind::Slurm || capacity.extra.iter().any(goes_elsewhere) {
            return None;
        }
        let said = self.output(self.command("sinfo", None).args(["--noheader", "--all", "--format=%P|%D|%f"])).ok()?;
        PartitionNodes::parse(&said, capacity.partition.as_deref())
    }

    /// The active features of all nodes, by their names.
    pub(super) fn features(&self) -> Result<NodeFeatures, String> {
        let said =
            self.output(self.command("sinfo", None).args(["--noheader", "--all", "--Node", "--format=%N|%b"]))?;
        let lines = said.lines().filter_map(|line| line.trim().split_once('|'));
        Ok(NodeFeatures(lines.map(|(node, features)| (node.to_owned(), parse_features(features))).collect()))
    }

    /// Submits a job.
    pub(super) fn submit(&self, job: &SbatchArgs<'_>) -> Result<JobId, String> {
        let said = self.output(&mut self.submission(job))?;
        let mut job = JobId::parse(&said)
            .ok_or_else(|| format!("sbatch took it but named no job (it printed {:?})", said.trim()))?;
        job.cluster = job.cluster.filter(|cluster| Some(cluster) != self.cluster.as_ref());
        Ok(job)
    }

    /// When a job of these settings would start if it was submitted now. Nothing is submitted.
    pub(super) fn estimated_start(&self, capacity: &Capacity, limit: Duration) -> Result<u64, String> {
        let job = SbatchArgs {
            name: "phalanx-estimate",
            nodes: capacity.nodes_per_block.max(1) as usize,
            partition: capacity.partition.as_deref(),
            account: capacity.account.as_deref(),
            features: &[],
            limit: capacity.time,
            lease: None,
            log: Path::new("/dev/null"),
            extra: &capacity.extra,
            script: "exit",
        };
        let mut command = self.submission(&job);
        command.env("SLURM_TIME_FORMAT", "%s").arg("--test-only");
        let said = self.answer(&mut command, limit)?.stderr;
        let said = String::from_utf8_lossy(&said);
        parse_start(&said).ok_or_else(|| format!("sbatch --test-only says {:?}", said.trim()))
    }

    /// `sbatch` for a job.
    fn submission(&self, job: &SbatchArgs<'_>) -> Command {
        let mut command = Command::new("sbatch");
        alone_but(job.add_to(&mut command), &SUBMISSION);
        name_cluster(&mut command, self.cluster.as_deref());
        command.args(["--wrap", job.script]);
        command
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
        let mut command = self.command("scontrol", job.cluster.as_deref());
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
        let cancel = |(cluster, numbers)| self.output(self.command("scancel", cluster).args::<Vec<_>, _>(numbers));
        let failed: Vec<String> = by_cluster.into_iter().filter_map(|jobs| cancel(jobs).err()).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Cancels all jobs of a name on one cluster, or only those that wait.
    pub(super) fn cancel_named(&self, name: &str, cluster: Option<&str>, only_waiting: bool) -> Result<(), String> {
        let state: &[&str] = if only_waiting { &["--state=PENDING"] } else { &[] };
        self.output(self.command("scancel", cluster).args(state).args(["--name", name])).map(drop)
    }

    /// The output of a command, or why it failed.
    fn output(&self, command: &mut Command) -> Result<String, String> {
        let output = self.answer(command, COMMAND_TIMEOUT)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a command that succeeded within a limit has printed, or why it failed.
    fn answer(&self, command: &mut Command, limit: Duration) -> Result<Output, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let limit = Instant::now() + limit;
        let deadline = || self.closes.get().map_or(limit, |&end| end.min(limit));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = bounded_command::run(command, &deadline).map_err(|error| format!("{name}: {error}"))?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(if said.is_empty() { format!("{name} failed ({})", output.status) } else { said })
    }
}

/// The nodes of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartitionNodes {
    /// Their number.
    pub(super) count: u32,
    /// The sets of features that they have.
    pub(super) features: Vec<Labels>,
}

impl PartitionNodes {
    /// Sums up the lines `PARTITION|NODES|FEATURES` of a partition; `None` if it has no nodes. That
    /// of requests that name none has a star.
    fn parse(said: &str, partition: Option<&str>) -> Option<PartitionNodes> {
        let is_wanted = |name: &str| match partition {
            Some(partition) => name.trim_end_matches('*') == partition,
            None => name.ends_with('*'),
        };
        let mut nodes = PartitionNodes { count: 0, features: Vec::new() };
        for line in said.lines() {
            let mut columns = line.split('|').map(str::trim);
            let (Some(name), Some(count)) = (columns.next(), columns.next()) else { continue };
            let Some(count) = count.parse::<u32>().ok().filter(|count| *count > 0 && is_wanted(name)) else { continue };
            nodes.count += count;
            nodes.features.push(parse_features(columns.next().unwrap_or_default()));
        }
        (nodes.count > 0).then_some(nodes)
    }
}

/// Features as Slurm's commands print them.
fn parse_features(text: &str) -> Labels {
    labels_of(text.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "(null)"))
}

/// The `--constraint` of a job whose nodes have these labels as features, in addition to the one
/// that the user's options or environment name.
fn constraint(labels: &[String], extra: &[String], of_environment: Option<String>) -> Option<String> {
    if labels.is_empty() {
        return None;
    }
    let mut words = extra.iter();
    let mut named = None;
    while let Some(word) = words.next() {
        if matches!(word.as_str(), "-C" | "--constraint") {
            named = words.next().map(String::as_str);
        } else if let Some(value) = word.strip_prefix("--constraint=").or_else(|| word.strip_prefix("-C")) {
            named = Some(value);
        }
    }
    let named = named.map(str::to_owned).or(of_environment).filter(|named| !named.trim().is_empty());
    let named = named.map(|named| if named.contains('|') { format!("({named})") } else { named });
    Some(named.into_iter().chain(labels.iter().cloned()).collect::<Vec<_>>().join("&"))
}

/// Selects all jobs, including ended ones and those of hidden partitions.
const LIST: [&str; 3] = ["--noheader", "--all", "--states=all"];

/// Slurm's error for an unknown job.
const UNKNOWN: &str = "Invalid job id";

/// Names the cluster of a command.
fn name_cluster(command: &mut Command, cluster: Option<&str>) {
    match cluster {
        Some(path) if path.starts_with('/') => {
            command.env("SLURM_CONF", path).env_remove("SLURM_CLUSTERS").env_remove("SBATCH_CLUSTERS");
        }
        Some(name) => _ = command.arg(format!("--clusters={name}")),
        None => {}
    }
}

/// A job to be submitted.
pub(super) struct SbatchArgs<'a> {
    pub(super) name: &'a str,
    pub(super) nodes: usize,
    pub(super) partition: Option<&'a str>,
    pub(super) account: Option<&'a str>,
    /// Features that its nodes must have.
    pub(super) features: &'a [String],
    /// Its time limit.
    pub(super) limit: Option<Duration>,
    /// Time from now until which it must start, else Slurm removes it.
    pub(super) lease: Option<Duration>,
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
        if let Some(account) = self.account {
            command.args(["--account", account]);
        }
        if let Some(limit) = self.limit {
            command.args(["--time", &minutes(limit).to_string()]);
            self.lease.into_iter().for_each(|lease| _ = command.args(["--deadline", &deadline(limit, lease)]));
        }
        command.args(self.extra);
        if let Some(constraint) = constraint(self.features, self.extra, std::env::var("SBATCH_CONSTRAINT").ok()) {
            // The last one counts.
            command.args(["--constraint", &constraint]);
        }
        command.env_remove(LABELS)
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
        let said = "all*|3|(null)\nall*|1|highmem,ssd\nbig|64|\n";
        let count = |partition| PartitionNodes::parse(said, partition).map(|nodes| nodes.count);
        assert_eq!(count(None), Some(4));
        assert_eq!(count(Some("big")), Some(64));
        assert_eq!(count(Some("all")), Some(4));
        assert_eq!(count(Some("none")), None, "which is not known to be small");
        let features = PartitionNodes::parse(said, None).map(|nodes| nodes.features);
        assert_eq!(features, Some(vec![labels_of([""; 0]), labels_of(["highmem", "ssd"])]));
    }

    #[test]
    fn labels_join_the_constraint_of_the_user() {
        let of = |labels: &[&str], extra: &[&str], environment: Option<&str>| {
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
            constraint(&owned(labels), &owned(extra), environment.map(str::to_owned))
        };
        assert_eq!(of(&[], &["--constraint=ib"], Some("x")), None, "what the user says counts without us");
        assert_eq!(of(&["a", "b"], &[], None).as_deref(), Some("a&b"));
        for extra in [&["--constraint=ib"][..], &["-C", "ib"], &["-Cib"], &["--mem=1G", "--constraint", "ib"]] {
            assert_eq!(of(&["a"], extra, Some("not used")).as_deref(), Some("ib&a"));
        }
        assert_eq!(of(&["a"], &[], Some("ib|opa")).as_deref(), Some("(ib|opa)&a"));
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
