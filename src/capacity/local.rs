//! Blocks without a scheduler: processes on this machine, or over `ssh` on the hosts of a hostfile.
//!
//! A hostfile gives as many blocks at a time as it has slots; further requests wait for a free
//! slot. What needs no labels goes to the hosts with the fewest. On this machine alone there are as
//! many as the run asks for, for development and for tests; more than it can hold are refused if
//! they are asked for by hand.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::blocks::{BlockEvent, BlockId, NodeGrant};
use super::provider::{LABELS, Launch, Provider, alone};
use crate::job::check_name;
use crate::model::{Labels, Offers, has_labels, labels_of};
use crate::system::open_files;

/// Time that a block has to exit after SIGTERM before it is killed.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// Poll interval while blocks exit.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Without a hostfile this machine holds at most this number of blocks per CPU.
const MAX_BLOCKS_PER_CPU: u32 = 8;

/// Upper bound on the slots of a host.
const MAX_HOST_SLOTS: u32 = 4096;

/// A host that blocks are started on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Number of blocks at a time.
    pub slots: u32,
    /// Labels of its ranks, ascending.
    pub labels: Labels,
}

impl Host {
    /// True for this machine.
    fn is_here(&self) -> bool {
        ["localhost", "127.0.0.1", "::1"].contains(&self.name.as_str())
            || sysinfo::System::host_name().is_ok_and(|here| here == self.name)
    }
}

/// Reads a hostfile in the format of `mpirun`: one host per line, `slots=N` for the number of
/// blocks at a time (default 1), `#` before a comment. A comment `labels=A,B` gives the ranks of
/// the host labels: launchers would refuse a line with a word that they do not know.
///
/// # Errors
/// If it cannot be read, names no host, or has a malformed line.
pub fn hosts(path: &Path) -> Result<Vec<Host>, String> {
    let told = |why: String| format!("the hostfile {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
    let lines = text.lines().map(|line| line.split_once('#').unwrap_or((line, "")));
    let hosts: Result<Vec<Host>, String> =
        lines.filter(|(line, _)| !line.trim().is_empty()).map(|(line, comment)| host(line.trim(), comment)).collect();
    match hosts {
        Ok(hosts) if hosts.is_empty() => Err(told("it names no host".into())),
        other => other.map_err(told),
    }
}

fn host(line: &str, comment: &str) -> Result<Host, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    // ssh would take a name with a leading dash for an option.
    if name.starts_with('-') || name.contains('=') {
        return Err(format!("`{line}` does not begin with the name of a host"));
    }
    let mut slots = 1;
    for word in words {
        // Other words concern mpirun only.
        if let Some(number) = word.strip_prefix("slots=") {
            let counted = number.parse().ok().filter(|count| (1..=MAX_HOST_SLOTS).contains(count));
            slots = counted.ok_or_else(|| format!("`{word}` is not a number of slots from 1 to {MAX_HOST_SLOTS}"))?;
        }
    }
    let labels = comment.split_whitespace().find_map(|word| word.strip_prefix("labels="));
    let labels = labels_of(labels.iter().flat_map(|words| words.split(',')).filter(|word| !word.is_empty()));
    for label in labels.iter() {
        check_name(label).map_err(|reason| format!("`{label}` of {name} is no label: {reason}"))?;
    }
    Ok(Host { name, slots, labels })
}

/// What blocks with these labels on these hosts (`None`: on this machine) can have.
pub fn offers(hosts: Option<&[Host]>, labels: &[String]) -> Offers {
    match hosts {
        Some(hosts) => Offers::of(hosts.iter().map(|host| labels_of(labels.iter().chain(host.labels.iter()).cloned()))),
        None => Offers::of([labels_of(labels.iter().cloned())]),
    }
}

/// Starts blocks as processes.
pub struct Local {
    launch: Launch,
    /// Hosts for blocks; `None`: this machine without a limit.
    hosts: Option<Vec<Host>>,
    /// Labels of all blocks.
    labels: Labels,
    /// Requests with the labels that their hosts must have.
    waiting: VecDeque<(BlockId, Labels)>,
    running: HashMap<BlockId, LocalProcess>,
    happened: Vec<(BlockId, BlockEvent)>,
}

struct LocalProcess {
    child: Child,
    /// Index of its host.
    host: usize,
}

impl Local {
    /// A provider of blocks with these labels on these hosts; `None`: on this machine.
    pub fn new(launch: Launch, hosts: Option<Vec<Host>>, labels: Labels) -> Local {
        let (waiting, running, happened) = (VecDeque::new(), HashMap::new(), Vec::new());
        Local { launch, hosts, labels, waiting, running, happened }
    }

    /// The labels of the blocks on a host.
    fn labels(&self, host: usize) -> Labels {
        let of_host = self.hosts.iter().flat_map(|hosts| hosts[host].labels.iter());
        labels_of(self.labels.iter().chain(of_host).cloned())
    }

    /// A host with a free slot and these labels: the first of those with the fewest labels.
    fn free(&self, wanted: &[String]) -> Option<usize> {
        let Some(hosts) = &self.hosts else { return has_labels(&self.labels, wanted).then_some(0) };
        let taken = |at| self.running.values().filter(|running| running.host == at).count();
        let is_free = |&at: &usize| taken(at) < hosts[at].slots as usize && has_labels(&self.labels(at), wanted);
        (0..hosts.len()).filter(is_free).min_by_key(|&at| hosts[at].labels.len())
    }

    /// Starts waiting blocks on free slots.
    fn start(&mut self) {
        for (id, labels) in std::mem::take(&mut self.waiting) {
            let Some(host) = self.free(&labels) else {
                self.waiting.push_back((id, labels));
                continue;
            };
            let event = match self.spawn(id, host) {
                Ok(child) => {
                    let name = format!("process {}", child.id());
                    self.running.insert(id, LocalProcess { child, host });
                    self.happened.push((id, BlockEvent::Accepted(name)));
                    BlockEvent::Granted(NodeGrant { node: self.name(host), ..NodeGrant::default() })
                }
                Err(error) => BlockEvent::Refused(format!("cannot start {}: {error}", self.launch.program.display())),
            };
            self.happened.push((id, event));
        }
    }

    fn name(&self, host: usize) -> String {
        let listed = self.hosts.as_ref().and_then(|hosts| hosts.get(host)).filter(|host| !host.is_here());
        let here = || sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into());
        listed.map_or_else(here, |host| host.name.clone())
    }

    fn spawn(&self, id: BlockId, host: usize) -> std::io::Result<Child> {
        let log = File::create(self.launch.log(id))?;
        let words = self.launch.words(id, &self.labels(host));
        let remote = self.hosts.as_ref().and_then(|hosts| hosts.get(host)).filter(|host| !host.is_here());
        let mut command = match remote {
            Some(host) => ssh(host, &words),
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        alone(&mut command).env_remove(LABELS).spawn().inspect(|child| open_files::restore_limit(child.id()))
    }
}

/// The same on another host. With a terminal (`-tt`) the process there gets SIGHUP when the
/// connection ends.
fn ssh(host: &Host, words: &[String]) -> Command {
    let line: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let mut command = Command::new("ssh");
    command.args(["-tt", "-o", "BatchMode=yes", &host.name]).arg(format!("exec {}", line.join(" ")));
    command
}

impl Provider for Local {
    fn request(&mut self, ids: &[BlockId], labels: &Labels, _limit: Option<Duration>) {
        self.waiting.extend(ids.iter().map(|&id| (id, Labels::clone(labels))));
        self.start();
    }

    fn offers(&self) -> Offers {
        offers(self.hosts.as_deref(), &self.labels)
    }

    fn most_blocks(&self) -> Option<u32> {
        let cpus = || thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        Some(match &self.hosts {
            Some(hosts) => hosts.iter().map(|host| host.slots).sum(),
            None => cpus() * MAX_BLOCKS_PER_CPU,
        })
    }

    /// It ends by itself.
    fn release(&mut self, _id: BlockId) {}

    fn withdraw(&mut self, id: BlockId) {
        if let Some(running) = self.running.get_mut(&id) {
            // It may have ended already.
            let _ = running.child.kill();
        }
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.0 == id) {
            self.waiting.remove(at);
            self.happened.push((id, BlockEvent::Ended { why: "it was withdrawn".into(), at: None }));
        }
    }

    fn poll(&mut self) -> Vec<(BlockId, BlockEvent)> {
        let mut happened = std::mem::take(&mut self.happened);
        let mut ended = |id, why: String| {
            happened.push((id, BlockEvent::Ended { why, at: None }));
            false
        };
        self.running.retain(|&id, running| match running.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => ended(id, status.to_string()),
            Err(error) => ended(id, error.to_string()),
        });
        self.start();
        happened.append(&mut self.happened);
        happened
    }

    fn close(&mut self) {
        let end = Instant::now() + EXIT_GRACE;
        self.waiting.clear();
        while !self.running.is_empty() && Instant::now() < end {
            let happened = self.poll();
            self.happened.extend(happened);
            thread::sleep(EXIT_POLL_INTERVAL);
        }
        for running in self.running.values_mut() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Host>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, text).unwrap();
        hosts(&path)
    }

    #[test]
    fn hostfiles_are_read_as_mpirun_reads_them() {
        let found = read("# two machines\nnode1 slots=2 max_slots=4\n\nnode2  # the small one\n").unwrap();
        let host = |name: &str, slots| Host { name: name.into(), slots, labels: Labels::default() };
        assert_eq!(found, [host("node1", 2), host("node2", 1)]);
        let found = read("node1 slots=2 # labels=ssd,highmem the large one\nnode2 # no labels\n").unwrap();
        assert_eq!(found[0].labels, labels_of(["highmem", "ssd"]));
        assert_eq!(
            offers(Some(&found), &["x".into()]),
            Offers::of([labels_of(["highmem", "ssd", "x"]), labels_of(["x"])])
        );
        let label = "node1 # labels=a/b\n";
        for text in ["", "# nothing\n", "slots=2\n", "node1 slots=0\n", "node1 slots=x\n", "-oProxyCommand=x\n", label]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_waits_for_a_slot_of_the_hostfile() {
        let dir = tempfile::tempdir().unwrap();
        let (contact, logs) = (dir.path().join("contact"), dir.path().to_owned());
        // Stands for a world: it ends when it cannot read the contact file.
        let program = "/bin/sleep".into();
        let launch = Launch { program, contact, logs, run: "r".into(), began_unix_ns: 0, slots: None };
        let host = |name: &str, labels: &[&str]| Host {
            name: name.into(),
            slots: 1,
            labels: labels_of(labels.iter().copied()),
        };
        let hosts = vec![host("127.0.0.1", &["special"]), host("localhost", &[])];
        let mut local = Local::new(launch, Some(hosts), Labels::default());
        assert_eq!(local.most_blocks(), Some(2));
        let special = labels_of(["special"]);
        local.request(&[BlockId(1)], &Labels::default(), None);
        local.request(&[BlockId(2)], &special, None);
        let at = |local: &Local, id| local.running.get(&BlockId(id)).map(|running| running.host);
        assert_eq!([at(&local, 1), at(&local, 2)], [Some(1), Some(0)], "the special one was kept free");
        local.request(&[BlockId(3)], &special, None);
        assert_eq!((local.running.len(), local.waiting.len()), (2, 1));
        local.withdraw(BlockId(3));
        let until = Instant::now() + Duration::from_secs(60);
        let mut ended = Vec::new();
        while ended.len() < 3 && Instant::now() < until {
            let over = |(id, event)| matches!(event, BlockEvent::Ended { .. }).then_some(id);
            ended.extend(local.poll().into_iter().filter_map(over));
            thread::sleep(EXIT_POLL_INTERVAL);
        }
        ended.sort_unstable();
        assert_eq!(ended, [BlockId(1), BlockId(2), BlockId(3)]);
    }
}
