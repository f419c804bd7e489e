//! The command lines of `[capacity.commands]`: what stands for their placeholders, and how their
//! output is read.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::super::provider::alone;
use crate::job::capacity::{LABELS_PLACEHOLDER, LinePart, parts};
use crate::job::units::shorten;
use crate::job::{Capacity, CommandCapacity};
use crate::model::{Labels, labels_of};
use crate::system::bounded_command;
use crate::text::shell_word;

/// Upper bound of one line.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a state line says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// It waits in the queue.
    Waiting,
    /// It runs, on this node if the line says which.
    Running(Option<String>),
    /// It is over; what the line printed.
    Ended(String),
    /// The line failed, or nothing in its output was recognised; why.
    Unknown(String),
}

/// The line that asks for the state of one job, and how its output is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateLine {
    pub(super) line: String,
    pub(super) waiting: String,
    pub(super) running: String,
    pub(super) ended: Option<String>,
}

impl StateLine {
    /// True if the batch system answers, and says or shows by not knowing the job that it is over.
    pub(super) fn says_over(&self) -> bool {
        let Ok(said) = call(&self.line) else { return false };
        let matches = |text: &str| Regex::new(text).is_ok_and(|regex| regex.is_match(&said));
        match &self.ended {
            Some(ended) if !said.trim().is_empty() => matches(ended),
            _ => !matches(&self.running) && !matches(&self.waiting),
        }
    }
}

/// The lines, ready to be called.
#[derive(Clone)]
pub(super) struct CommandLines {
    lines: CommandCapacity,
    partition: Option<String>,
    account: Option<String>,
    cluster: Option<String>,
    /// Labels of all blocks.
    labels: Labels,
    extra: Vec<String>,
    time: Option<Duration>,
    job_id: Regex,
    waiting: Regex,
    running: Regex,
    ended: Option<Regex>,
    node: Option<Regex>,
    /// The deadline of all lines at the end of the run.
    closes: Arc<OnceLock<Instant>>,
}

/// A block to be submitted.
pub(super) struct Submission<'a> {
    /// Its script.
    pub(super) script: &'a Path,
    /// Name for its job.
    pub(super) name: &'a str,
    /// File for its output.
    pub(super) log: &'a Path,
    /// Labels that its node must have, beside those of all blocks.
    pub(super) labels: &'a Labels,
    /// How long it is needed at most.
    pub(super) limit: Option<Duration>,
}

impl CommandLines {
    /// The lines of a job.
    ///
    /// # Errors
    /// If there are none, or a regular expression is invalid.
    pub(super) fn new(capacity: &Capacity, closes: Arc<OnceLock<Instant>>) -> Result<CommandLines, String> {
        let lines = capacity.commands.clone().ok_or("[capacity.commands] is missing")?;
        let regex = |text: &str| Regex::new(text).map_err(|error| error.to_string());
        Ok(CommandLines {
            job_id: regex(&lines.job_id)?,
            waiting: regex(&lines.waiting)?,
            running: regex(&lines.running)?,
            ended: lines.ended.as_deref().map(regex).transpose()?,
            node: lines.node.as_deref().map(regex).transpose()?,
            partition: capacity.partition.clone(),
            account: capacity.account.clone(),
            cluster: capacity.cluster.clone(),
            labels: labels_of(capacity.labels.iter().cloned()),
            extra: capacity.extra.clone(),
            time: capacity.time,
            closes,
            lines,
        })
    }

    /// Labels of all blocks.
    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Submits a block; returns the id of its job.
    pub(super) fn submit(&self, block: &Submission<'_>) -> Result<String, String> {
        // The run refuses a line with a time without a limit before it begins.
        let seconds = super::requested_time(self.time.or(block.limit).unwrap_or_default(), block.limit).as_secs();
        let value = |name: &str| match name {
            "script" => shell_word(&block.script.display().to_string()),
            "name" => shell_word(block.name),
            "log" => shell_word(&block.log.display().to_string()),
            "partition" => shell_word(self.partition.as_deref().unwrap_or_default()),
            "account" => shell_word(self.account.as_deref().unwrap_or_default()),
            "cluster" => shell_word(self.cluster.as_deref().unwrap_or_default()),
            "time" => format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            "minutes" => seconds.div_ceil(60).to_string(),
            "seconds" => seconds.to_string(),
            LABELS_PLACEHOLDER => {
                let of_all = |label: &&String| self.labels.contains(*label);
                let wanted = block.labels.iter().filter(|label| !of_all(label)).cloned().collect::<Vec<_>>();
                shell_word(&wanted.join(","))
            }
            _ => self.extra.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "),
        };
        let said = self.output(&fill(&self.lines.submit, value))?;
        first_group(&self.job_id, &said).filter(|id| !id.is_empty()).ok_or_else(|| {
            format!("`job_id` matches nothing in what the submit line printed: {:?}", shorten(said.trim()))
        })
    }

    /// The state of a job.
    pub(super) fn state(&self, id: &str) -> JobState {
        match self.output(&with_id(&self.lines.state, id)) {
            Ok(said) => self.read_state(&said),
            Err(why) => JobState::Unknown(why),
        }
    }

    fn read_state(&self, said: &str) -> JobState {
        let short = || shorten(said.trim().lines().next().unwrap_or_default());
        if let Some(found) = self.ended.as_ref().and_then(|ended| ended.find(said)) {
            JobState::Ended(shorten(found.as_str()))
        } else if self.running.is_match(said) {
            JobState::Running(self.node.as_ref().and_then(|node| first_group(node, said)))
        } else if self.waiting.is_match(said) {
            JobState::Waiting
        } else if self.ended.is_some() {
            JobState::Unknown(format!("no state in {:?}", short()))
        } else {
            JobState::Ended(if said.trim().is_empty() { "it is no longer known".to_owned() } else { short() })
        }
    }

    /// The line that cancels a job.
    pub(super) fn cancel_line(&self, id: &str) -> String {
        with_id(&self.lines.cancel, id)
    }

    /// The line that asks for the state of a job.
    pub(super) fn state_line(&self, id: &str) -> StateLine {
        let CommandCapacity { state, waiting, running, ended, .. } = self.lines.clone();
        StateLine { line: with_id(&state, id), waiting, running, ended }
    }

    /// Cancels a job.
    pub(super) fn cancel(&self, id: &str) -> Result<(), String> {
        self.output(&self.cancel_line(id)).map(drop)
    }

    /// Releases the node of a job whose ranks have left, if there is a line for it.
    pub(super) fn release(&self, id: &str) -> Result<(), String> {
        self.lines.release.as_ref().map_or(Ok(()), |line| self.output(&with_id(line, id)).map(drop))
    }

    fn output(&self, line: &str) -> Result<String, String> {
        let limit = Instant::now() + LINE_TIMEOUT;
        output(line, &|| self.closes.get().map_or(limit, |&end| end.min(limit)))
    }
}

/// Runs a line that is not part of a job any more.
pub(super) fn call(line: &str) -> Result<String, String> {
    let limit = Instant::now() + LINE_TIMEOUT;
    output(line, &|| limit)
}

/// The output of a line, or why it failed.
fn output(line: &str, deadline: &dyn Fn() -> Instant) -> Result<String, String> {
    let mut command = Command::new("sh");
    alone(&mut command).args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = bounded_command::run(&mut command, deadline).map_err(|error| format!("`{line}`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("`{line}` failed ({}): {said}", output.status))
}

fn with_id(line: &str, id: &str) -> String {
    fill(line, |_| shell_word(id))
}

/// The first group that took part in the first match, else the whole match.
fn first_group(regex: &Regex, text: &str) -> Option<String> {
    let found = regex.captures(text)?;
    let group = found.iter().skip(1).flatten().next().or(found.get(0))?;
    Some(group.as_str().to_owned())
}

/// The line with the values of its placeholders. The job file has been refused if it has others.
fn fill(line: &str, value: impl Fn(&str) -> String) -> String {
    let filled = |part| match part {
        LinePart::Text(text) => text.to_owned(),
        LinePart::Placeholder(name) => value(name),
        LinePart::Braces(word) => format!("{{{word}}}"),
    };
    parts(line).into_iter().map(filled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ended: Option<&str>) -> CommandLines {
        let commands = CommandCapacity {
            submit: "echo 'Job <17> is submitted to queue <normal>.' # {script} {time} {partition} {extra}".into(),
            job_id: r"Job <(\d+)>".into(),
            state: "echo {id}".into(),
            waiting: "PEND".into(),
            running: "RUN".into(),
            ended: ended.map(str::to_owned),
            node: Some(r"RUN (\S+)".into()),
            cancel: "exit 3".into(),
            release: None,
        };
        let capacity = Capacity { commands: Some(commands), ..Capacity::default() };
        CommandLines::new(&capacity, Arc::default()).unwrap()
    }

    #[test]
    fn placeholders_are_told_from_the_shells_own_braces() {
        let line = "a {id} ${id} { b; } {{id}} {}{id}";
        assert_eq!(crate::job::capacity::placeholders(line).collect::<Vec<_>>(), ["id", "id"]);
        assert_eq!(with_id(line, "4 5"), "a '4 5' ${id} { b; } {id} {}'4 5'");
    }

    #[test]
    fn ids_and_states_are_read() {
        let labels = labels_of(["ssd", "highmem"]);
        let (script, log) = (Path::new("/a b"), Path::new("l"));
        let block = Submission { script, name: "n", log, labels: &labels, limit: None };
        assert_eq!(lines(None).submit(&block), Ok("17".into()));
        let states = |ended| ["PEND x", "RUN n1", "DONE", ""].map(|said| lines(ended).read_state(said));
        let [waiting, running, ended, empty] = states(None);
        assert_eq!((waiting, running), (JobState::Waiting, JobState::Running(Some("n1".into()))));
        assert_eq!((ended, empty), (JobState::Ended("DONE".into()), JobState::Ended("it is no longer known".into())));
        let [.., ended, empty] = states(Some("DONE|EXIT"));
        assert!(matches!((ended, empty), (JobState::Ended(_), JobState::Unknown(_))));
        let refused = lines(None).cancel("17").unwrap_err();
        assert!(refused.starts_with("`exit 3` failed (exit status: 3)"), "{refused}");
        assert_eq!(lines(None).release("17"), Ok(()));
    }
}
