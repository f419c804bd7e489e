//! Blocks from Slurm: one batch job for each node.
//!
//! A job of its own for each node needs neither an allocation that may shrink nor a step per node, starts as soon as any node is free, and
//! ends when its process does. It asks for the whole node; `extra` may say otherwise. All jobs of a run share one name, by which a single
//! `squeue` tells how they fare.
//!
//! Slurm's commands may take seconds, so a thread of this file's own calls them; the run only exchanges words with it.

use std::collections::HashMap;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::blocks::{BlockId, Event};
use super::provider::{Order, Provider, alone};
use crate::job::Capacity;

/// How often Slurm is asked how the jobs fare.
const LOOK: Duration = Duration::from_secs(1);

/// A job is not in the queue for a moment after it was taken.
const SETTLING: Duration = Duration::from_secs(5);

/// Jobs whose ranks have left end by themselves in this time, or are cancelled.
const GRACE: Duration = Duration::from_secs(5);

/// At the end so long is waited for Slurm to confirm.
const FAREWELL: Duration = Duration::from_secs(60);

enum Word {
    Request(BlockId),
    Withdraw(BlockId),
    Close,
}

/// See the module's text.
pub struct Slurm {
    words: Sender<Word>,
    happened: Receiver<(BlockId, Event)>,
    clerk: Option<JoinHandle<()>>,
}

impl Slurm {
    /// Asks for blocks so.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(order: Order, capacity: Capacity) -> std::io::Result<Slurm> {
        let ((words, heard), (told, happened)) = (channel(), channel());
        let name = format!("phalanx-{}-{}", order.run, std::process::id());
        let clerk = Clerk { order, capacity, name, jobs: HashMap::new(), told };
        let clerk = thread::Builder::new().name("slurm".into()).spawn(move || clerk.work(&heard))?;
        Ok(Slurm { words, happened, clerk: Some(clerk) })
    }

    fn say(&self, word: Word) {
        // The clerk only leaves when it is told to.
        let _ = self.words.send(word);
    }
}

impl Provider for Slurm {
    fn request(&mut self, id: BlockId) {
        self.say(Word::Request(id));
    }

    fn withdraw(&mut self, id: BlockId) {
        self.say(Word::Withdraw(id));
    }

    fn poll(&mut self) -> Vec<(BlockId, Event)> {
        self.happened.try_iter().collect()
    }

    fn close(&mut self) {
        self.say(Word::Close);
        if self.clerk.take().is_some_and(|clerk| clerk.join().is_err()) {
            tracing::error!("the thread that speaks to Slurm failed; `squeue` shows whether jobs of this run are left");
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if self.clerk.is_some() {
            self.close();
        }
    }
}

/// One block's job.
struct Job {
    number: String,
    taken: Instant,
    running: bool,
}

struct Clerk {
    order: Order,
    capacity: Capacity,
    /// Of all jobs of this run.
    name: String,
    jobs: HashMap<BlockId, Job>,
    told: Sender<(BlockId, Event)>,
}

impl Clerk {
    fn work(mut self, words: &Receiver<Word>) {
        let mut next = Instant::now() + LOOK;
        loop {
            match words.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Word::Request(id)) => self.submit(id),
                Ok(Word::Withdraw(id)) => self.cancel(id),
                Ok(Word::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next {
                self.look();
                next = Instant::now() + LOOK;
            }
        }
    }

    fn tell(&self, id: BlockId, event: Event) {
        // Once the run is over nobody listens.
        let _ = self.told.send((id, event));
    }

    fn submit(&mut self, id: BlockId) {
        let mut command = Command::new("sbatch");
        let log = self.order.log(id).display().to_string();
        command.args(["--parsable", "--nodes=1", "--ntasks=1", "--exclusive", "--no-requeue"]);
        command.args(["--job-name", &self.name, "--output", &log.replace('%', "%%"), "--open-mode=append"]);
        if let Some(partition) = &self.capacity.partition {
            command.args(["--partition", partition]);
        }
        if let Some(time) = self.capacity.time {
            command.args(["--time", &time.as_secs().div_ceil(60).to_string()]);
        }
        let words: Vec<String> = self.order.words(id).iter().map(|word| quoted(word)).collect();
        command.args(&self.capacity.extra).args(["--wrap", &format!("exec {}", words.join(" "))]);
        match output(&mut command) {
            Ok(said) => {
                // `NUMBER` or `NUMBER;CLUSTER`.
                let number = said.trim().split(';').next().unwrap_or_default().to_owned();
                self.tell(id, Event::Accepted(format!("job {number}")));
                self.jobs.insert(id, Job { number, taken: Instant::now(), running: false });
            }
            Err(why) => self.tell(id, Event::Refused(why)),
        }
    }

    fn cancel(&self, id: BlockId) {
        if let Some(job) = self.jobs.get(&id)
            && let Err(why) = output(Command::new("scancel").arg(&job.number))
        {
            tracing::warn!("cannot cancel job {}: {why}", job.number);
        }
    }

    /// Asks how the jobs fare.
    fn look(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let said = match output(Command::new("squeue").args(["--noheader", "--name", &self.name, "--format=%i %T %N"]))
        {
            Ok(said) => said,
            // A controller that is restarted is asked again.
            Err(why) => return tracing::debug!("squeue: {why}"),
        };
        let queue: HashMap<&str, (&str, &str)> = said.lines().filter_map(parse).collect();
        let mut news = Vec::new();
        self.jobs.retain(|&id, job| match queue.get(job.number.as_str()) {
            Some(("RUNNING" | "COMPLETING", node)) if !job.running => {
                job.running = true;
                news.push((id, Event::Granted((*node).to_owned())));
                true
            }
            Some(("PENDING" | "CONFIGURING" | "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED", _)) => true,
            None if job.taken.elapsed() < SETTLING && !job.running => true,
            gone => {
                let state = gone.map_or("it is no longer in the queue", |gone| gone.0);
                news.push((id, Event::Ended(state.to_owned())));
                false
            }
        });
        news.into_iter().for_each(|(id, event)| self.tell(id, event));
    }

    /// Leaves nothing in the queue.
    fn close(mut self) {
        let begun = Instant::now();
        let waits = |clerk: &Clerk| clerk.jobs.values().any(|job| job.running);
        // What waits in the queue is cancelled at once, what runs has been told to leave.
        let waiting: Vec<BlockId> = self.jobs.iter().filter(|(_, job)| !job.running).map(|(&id, _)| id).collect();
        waiting.into_iter().for_each(|id| self.cancel(id));
        while waits(&self) && begun.elapsed() < GRACE {
            thread::sleep(LOOK / 4);
            self.look();
        }
        let left: Vec<BlockId> = self.jobs.keys().copied().collect();
        left.into_iter().for_each(|id| self.cancel(id));
        while !self.jobs.is_empty() && begun.elapsed() < FAREWELL {
            thread::sleep(LOOK / 4);
            self.look();
        }
        for job in self.jobs.values() {
            tracing::error!("job {} may still be in the queue: scancel {}", job.number, job.number);
        }
    }
}

/// For a block whose run is gone: those of the same run that still wait in the queue shall not come. Does nothing outside of Slurm.
pub fn withdraw_siblings() {
    let (Ok(name), Ok(_)) = (std::env::var("SLURM_JOB_NAME"), std::env::var("SLURM_JOB_ID")) else { return };
    if let Err(why) = output(Command::new("scancel").args(["--state=PENDING", "--name", &name])) {
        tracing::warn!("cannot cancel what {name} still has in the queue: {why}");
    }
}

/// What a command printed, or why it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = alone(command).output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(if said.is_empty() { format!("{name} failed ({})", output.status) } else { said })
}

/// A line of the queue: `NUMBER STATE NODE`.
fn parse(line: &str) -> Option<(&str, (&str, &str))> {
    let mut words = line.split_whitespace();
    Some((words.next()?, (words.next()?, words.next().unwrap_or_default())))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_queue_are_understood() {
        assert_eq!(parse("17 RUNNING n3"), Some(("17", ("RUNNING", "n3"))));
        assert_eq!(parse("18 PENDING "), Some(("18", ("PENDING", ""))));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn words_survive_the_shell() {
        let said =
            Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted("it's $HOME; `x`"))).output().unwrap();
        assert_eq!(said.stdout, b"it's $HOME; `x`");
    }
}
