//! A real Slurm of several nodes on this machine, for one test.
//!
//! The nodes are `slurmd` processes with names of their own (`n1`, `n2`, ...) beside one
//! `slurmctld` and one `munged`, all on loopback, on free ports and in a temporary directory. A
//! Slurm that the machine may already run is not touched: configuration, key, socket and state are
//! all our own.
//!
//! Everything that is started carries the [`Tag`] of this Slurm and is killed by process id when it
//! is dropped, jobs included; should the test itself be killed, the system ends the daemons with it
//! (`setpriv --pdeathsig`).
//!
//! What differs from a cluster: all nodes share one host name, so files and shared-memory segments
//! that OpenMPI names after its node would overwrite one another. What runs on a node therefore has
//! a directory for temporary files of its own, and jobs use the TCP transport, over loopback.

mod accounting;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Dir, Output, Running, Tag, TestCommand, free_ports, program, send, skip_loudly, wait_for};

/// The programs without which there is no Slurm.
const NEEDED: [&str; 8] = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "setpriv"];

/// CPUs that each node claims to have, whatever the machine has.
pub const CPUS_PER_NODE: u32 = 2;

/// A running Slurm.
pub struct Slurm {
    root: tempfile::TempDir,
    tag: Tag,
    daemons: Vec<(String, Child)>,
    setup: Setup,
}

/// In what a test's Slurm differs from the plainest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// Further `SchedulerParameters`.
    pub scheduler: &'static str,
    /// Features of the last node.
    pub features: &'static str,
    /// Further partitions, as `NAME NODES` each.
    pub partitions: &'static [(&'static str, &'static str)],
    /// Whether it keeps records in a database, as production clusters do. A job can shrink more
    /// than once only then.
    pub accounting: bool,
}

/// A job as `squeue` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Job id.
    pub id: u32,
    /// `PENDING`, `RUNNING`, ...
    pub state: String,
    /// Nodes, as a hostlist such as `n[1-2]`; empty while pending.
    pub nodes: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// `COMPLETED`, `FAILED`, `TIMEOUT`, ...
    pub state: String,
    /// Exit code of the batch script.
    pub code: i32,
    /// What the job wrote, for messages.
    pub log: String,
}

impl Slurm {
    /// Starts a Slurm with nodes `n1` to `n{nodes}`, all idle. `None`, said loudly, where Slurm is
    /// not installed; with `PHALANX_REQUIRE_SLURM=1` in the environment that fails the test
    /// instead.
    pub fn start(nodes: usize) -> Option<Slurm> {
        Slurm::start_with(nodes, Setup::default())
    }

    /// The same with one more node, which the returned job of somebody else holds: a request for it
    /// waits.
    pub fn start_with_holder(nodes: usize, dir: &Dir) -> Option<(Slurm, u32)> {
        let slurm = Slurm::start(nodes + 1)?;
        let node = format!("--nodelist=n{}", nodes + 1);
        let holder = slurm.sbatch(dir, [node.as_str(), "--exclusive", "--wrap=sleep 600"]);
        slurm.wait_running(holder);
        Some((slurm, holder))
    }

    /// The same with another setup.
    pub fn start_with(nodes: usize, setup: Setup) -> Option<Slurm> {
        let further = if setup.accounting { &accounting::NEEDED[..] } else { &[] };
        let needed = NEEDED.iter().chain(further).copied();
        let missing: Vec<&str> = needed.filter(|name| find(name).is_none()).collect();
        if missing.is_empty() {
            // Another process may take a port between our choice and the daemon's start; fresh
            // ports mend that.
            let second = || Slurm::try_start(nodes, setup);
            return Some(Slurm::try_start(nodes, setup).or_else(|_| second()).unwrap_or_else(|e| panic!("{e}")));
        }
        let packages = "slurm-wlm, slurmdbd, mariadb-server, munge, util-linux";
        let why = format!("a local Slurm needs {} (packages {packages})", missing.join(", "));
        let required = std::env::var("PHALANX_REQUIRE_SLURM").is_ok_and(|v| v == "1");
        assert!(!required, "PHALANX_REQUIRE_SLURM=1, but {why}");
        skip_loudly(&why);
        None
    }

    /// The error holds the tails of all logs.
    fn try_start(nodes: usize, setup: Setup) -> Result<Slurm, String> {
        let root = tempfile::Builder::new().prefix("pslurm-").tempdir().map_err(|e| e.to_string())?;
        let mut slurm = Slurm { root, tag: Tag::new(), daemons: Vec::new(), setup };
        let accounting = setup.accounting.then(accounting::Ports::choose);
        slurm.lay_out(nodes, accounting).map_err(|e| format!("cannot lay out a Slurm: {e}"))?;
        slurm.start_daemons(nodes, accounting).map_err(|e| format!("cannot start a daemon: {e}\n{}", slurm.logs()))?;
        slurm.wait_until_idle(nodes).map_err(|why| format!("Slurm did not start: {why}\n{}", slurm.logs()))?;
        Ok(slurm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes the key, the configuration and the directories that the daemons expect.
    fn lay_out(&self, nodes: usize, accounting: Option<accounting::Ports>) -> std::io::Result<()> {
        // munged insists on a key that only its user reads, in folders that others can enter but
        // not write.
        fs::set_permissions(self.root.path(), Permissions::from_mode(0o755))?;
        let mut key = [0; 1024];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        fs::write(self.path("munge.key"), key)?;
        fs::set_permissions(self.path("munge.key"), Permissions::from_mode(0o400))?;
        fs::create_dir(self.path("state"))?;
        for n in 1..=nodes {
            fs::create_dir_all(self.path(&format!("spool/n{n}")))?;
            fs::create_dir_all(self.path(&format!("tmp/n{n}")))?;
        }
        let prolog = self.path("task-prolog");
        fs::write(&prolog, format!("#!/bin/sh\necho export TMPDIR={}/$SLURMD_NODENAME\n", self.path("tmp").display()))?;
        fs::set_permissions(&prolog, Permissions::from_mode(0o755))?;
        fs::write(self.path("slurm.conf"), self.configuration(&free_ports(nodes + 1), accounting)?)
    }

    fn configuration(&self, ports: &[u16], accounting: Option<accounting::Ports>) -> std::io::Result<String> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let host = host.trim().split('.').next().unwrap_or_default();
        let user = user_name()?;
        let root = self.root.path().display();
        let mut text = format!(
            "ClusterName=phalanx
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.sock
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={root}/task-prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1{scheduler}
SlurmdTimeout=60
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
MinJobAge=3600
JobAcctGatherType=jobacct_gather/none
{accounting}JobCompType=jobcomp/none
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
",
            port = ports[0],
            accounting = accounting::lines(accounting, self.root.path()),
            scheduler = match self.setup.scheduler {
                "" => String::new(),
                more => format!(",{more}"),
            },
        );
        for (name, nodes) in self.setup.partitions {
            text += &format!("PartitionName={name} Nodes={nodes} MaxTime=INFINITE State=UP\n");
        }
        for (i, port) in ports[1..].iter().enumerate() {
            let node = format!("NodeName=n{} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}", i + 1);
            let features = match self.setup.features {
                features if !features.is_empty() && i + 2 == ports.len() => format!("Feature={features} "),
                _ => String::new(),
            };
            text += &format!("{node} CPUs={CPUS_PER_NODE} {features}State=UNKNOWN\n");
        }
        Ok(text)
    }

    fn start_daemons(&mut self, nodes: usize, accounting: Option<accounting::Ports>) -> std::io::Result<()> {
        let root = self.root.path().display().to_string();
        let munge = [
            "--foreground".to_string(),
            format!("--socket={root}/munge.sock"),
            format!("--key-file={root}/munge.key"),
            format!("--pid-file={root}/munge.pid"),
            format!("--log-file={root}/munge.log"),
            format!("--seed-file={root}/munge.seed"),
        ];
        self.start_daemon("munged", "munged", &munge)?;
        let socket = self.path("munge.sock");
        let deadline = Instant::now() + Duration::from_secs(120);
        while !socket.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(ports) = accounting {
            self.start_accounting(ports)?;
        }
        let conf = format!("{root}/slurm.conf");
        self.start_daemon("slurmctld", "slurmctld", &["-D".into(), "-f".into(), conf.clone()])?;
        for n in 1..=nodes {
            let args = ["-D".into(), "-N".into(), format!("n{n}"), "-f".into(), conf.clone()];
            self.start_daemon("slurmd", &format!("slurmd-n{n}"), &args)?;
        }
        Ok(())
    }

    /// Starts one daemon in the foreground, so that its process id is known and it cannot outlive
    /// us.
    fn start_daemon(&mut self, program: &str, name: &str, args: &[String]) -> std::io::Result<()> {
        let out = File::create(self.path(&format!("{name}.out")))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(find(program).unwrap_or_else(|| program.into())).args(args);
        command.env(Tag::NAME, &self.tag.0).env("SLURM_CONF", self.path("slurm.conf")).current_dir(self.root.path());
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        self.daemons.push((name.to_string(), command.spawn()?));
        Ok(())
    }

    fn wait_until_idle(&mut self, nodes: usize) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            for (name, child) in &mut self.daemons {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("{name} ended at once: {status}"));
                }
            }
            let answer = self.command("sinfo").args(["--noheader", "--Node", "--format=%N %T"]).run();
            if answer.exit() == 0 {
                let mut known = parse_nodes(answer.stdout());
                known.retain(|(_, state)| state == "idle");
                if known.len() == nodes {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("the nodes are not idle after two minutes".into())
    }

    /// One of Slurm's commands, speaking to this Slurm, with the environment that its jobs shall
    /// have.
    pub fn command(&self, name: &str) -> TestCommand {
        self.command_in(name, self.root.path())
    }

    fn command_in(&self, name: &str, dir: &Path) -> TestCommand {
        TestCommand::new(find(name).unwrap_or_else(|| name.into()), dir)
            .env(Tag::NAME, &self.tag.0)
            .env("SLURM_CONF", self.path("slurm.conf"))
            .env("PHALANX_BIN", program())
            .env("OMPI_MCA_btl", "tcp,self")
            .env("OMPI_MCA_btl_tcp_if_include", "lo")
            .env("OMPI_MCA_oob_tcp_if_include", "lo")
    }

    /// Starts the program under test beside this Slurm, in no job of it.
    pub fn run_here(&self, dir: &Dir, args: &[&str]) -> Running {
        self.program_here(dir, args).patience(600).start()
    }

    /// The program under test, beside this Slurm and in no job of it.
    pub fn program_here(&self, dir: &Dir, args: &[&str]) -> TestCommand {
        self.command_in(&program().to_string_lossy(), dir.path()).args(args)
    }

    /// `sbatch --parsable ARGS` in `dir`; returns the job's id.
    pub fn sbatch<'a>(&self, dir: &Dir, args: impl IntoIterator<Item = &'a str>) -> u32 {
        let answer = self.command_in("sbatch", dir.path()).args(["--parsable"]).args(args).run().ok();
        let id = answer.stdout().trim().split(';').next().and_then(|id| id.parse().ok());
        id.unwrap_or_else(|| panic!("sbatch gave no job id\n{answer}"))
    }

    /// Waits until a job has ended.
    #[track_caller]
    pub fn wait_job(&self, id: u32, seconds: u64) -> JobEnd {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let record = self.job_record(id);
            if let Some(end) = parse_end(&record) {
                return end;
            }
            let log = parse_field(&record, "StdOut").and_then(|path| fs::read_to_string(path).ok());
            let late = || {
                format!("job {id} did not end in {seconds} s\n{record}\n{}\n{}", log.unwrap_or_default(), self.logs())
            };
            assert!(Instant::now() < deadline, "{}", late());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a job runs.
    #[track_caller]
    pub fn wait_running(&self, id: u32) {
        let runs = || self.squeue().iter().any(|job| job.id == id && job.state == "RUNNING").then_some(());
        wait_for(&format!("job {id} to run"), 120, runs);
    }

    /// When a job began and ended by Slurm's own record, in seconds since 1970.
    pub fn times(&self, id: u32) -> Option<(u64, u64)> {
        let answer = self.command("scontrol").env("SLURM_TIME_FORMAT", "%s");
        let record = answer.args(["show", "job", "--oneliner", &id.to_string()]).run().stdout().to_string();
        let time = |name: &str| parse_field(&record, name)?.parse().ok();
        Some((time("StartTime")?, time("EndTime")?))
    }

    /// All processes of this Slurm, those of its jobs included. `slurmstepd` overwrites its
    /// environment with its title, so it is known by its files.
    pub fn processes(&self) -> Vec<u32> {
        let known_twice = self.tag.processes().into_iter().chain(users_of(self.root.path()));
        known_twice.collect::<BTreeSet<u32>>().into_iter().collect()
    }

    /// Ends a node's `slurmd` and all that runs on the node, as when the machine loses power.
    pub fn lose_node(&mut self, node: &str) {
        let name = format!("slurmd-{node}");
        let daemon = self.daemons.iter_mut().find(|(daemon, _)| *daemon == name).unwrap_or_else(|| panic!("no {name}"));
        // The daemon first, so that it does not report the end of the others.
        let below = descendants(daemon.1.id());
        send(daemon.1.id(), libc::SIGKILL);
        below.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
        let _ = daemon.1.wait();
    }

    /// Ends the controller, as when its machine loses power.
    pub fn lose_controller(&mut self) {
        let daemon = self.daemons.iter_mut().find(|(daemon, _)| daemon == "slurmctld").expect("a controller");
        send(daemon.1.id(), libc::SIGKILL);
        let _ = daemon.1.wait();
    }

    /// Its configuration, as `SLURM_CONF` names it.
    pub fn configuration_file(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    fn job_record(&self, id: u32) -> String {
        self.command("scontrol").args(["show", "job", "--oneliner", &id.to_string()]).run().stdout().to_string()
    }

    /// The jobs that wait or run.
    pub fn squeue(&self) -> Vec<Queued> {
        parse_queue(self.command("squeue").args(["--noheader", "--format=%i %T %N"]).run().ok().stdout())
    }

    /// The nodes and their states (`idle`, `allocated`, ...).
    pub fn sinfo(&self) -> Vec<(String, String)> {
        parse_nodes(self.command("sinfo").args(["--noheader", "--Node", "--format=%N %T"]).run().ok().stdout())
    }

    /// Waits until no job is left, neither one that waits or runs nor one that is being cleaned up.
    #[track_caller]
    pub fn wait_empty(&self) {
        let empty = || self.squeue().is_empty().then_some(());
        wait_for("the queue to be empty", 120, empty);
    }

    /// `scancel ARGS`.
    pub fn scancel<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        self.command("scancel").args(args).run().ok()
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.root.path()).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_some_and(|ext| ext == "log" || ext == "out"));
        files.sort();
        let tail = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        files.iter().map(tail).collect()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for (_, child) in &mut self.daemons {
            // One that has ended already is no concern.
            let _ = child.kill();
            let _ = child.wait();
        }
        // Again and again: one may start another while it is being looked for.
        for _ in 0..1000 {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The other processes that work in a folder or have files of it open.
fn users_of(folder: &Path) -> Vec<u32> {
    let is_in = |link: PathBuf| fs::read_link(link).is_ok_and(|path| path.starts_with(folder));
    let uses = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        is_in(process.join("cwd")) || files.map(|file| file.path()).any(is_in)
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let pid = |process: &PathBuf| process.file_name()?.to_str()?.parse().ok();
    let found = all.filter_map(|process| Some((pid(&process)?, process)));
    found.filter(|(pid, process)| *pid != std::process::id() && uses(process)).map(|(pid, _)| pid).collect()
}

/// The processes that a process started, and those that they started.
fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

/// Where a program is; daemons are often outside a user's `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn user_name() -> std::io::Result<String> {
    let answer = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_string())
}

/// Lines of `NODE STATE`, of which there is one for each partition of a node.
fn parse_nodes(text: &str) -> Vec<(String, String)> {
    // A trailing mark such as the `*` of a node that does not answer belongs to the state.
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let nodes: BTreeSet<(String, String)> = lines.map(|(node, state)| (node.into(), state.trim().into())).collect();
    nodes.into_iter().collect()
}

/// Lines of `ID STATE NODES`.
fn parse_queue(text: &str) -> Vec<Queued> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (id, state) = (words.next()?.parse().ok()?, words.next()?.to_string());
        Some(Queued { id, state, nodes: words.next().unwrap_or_default().to_string() })
    };
    text.lines().filter_map(line).collect()
}

/// The end of a job from its one-line record; `None` while it waits, runs or is being cleaned up.
fn parse_end(record: &str) -> Option<JobEnd> {
    let state = parse_field(record, "JobState")?;
    if ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "RESIZING"].contains(&state) {
        return None;
    }
    let code = parse_field(record, "ExitCode")?.split(':').next()?.parse().ok()?;
    let log = parse_field(record, "StdOut").and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    Some(JobEnd { state: state.to_string(), code, log })
}

/// `NAME=VALUE` in a one-line record.
fn parse_field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
