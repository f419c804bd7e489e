//! A small harness that lets integration tests read like a shell session.
//!
//! A test makes a [`Dir`], writes job files into it, starts the program with [`phalanx`] or
//! [`mpirun`] and asks the [`Output`] what it expects. Every process that a test starts carries a
//! variable with a value of its own ([`Tag`]), which its children inherit; that is how a test ends
//! all that it started, orphans of a killed `mpirun` included, and nothing else.
//!
//! No test may rely on something being fast: time limits here only keep a hang from lasting for
//! ever.

// Each test program uses only a part of the harness.
#![allow(dead_code)]

pub mod browser;
pub mod checker;
pub mod hook;
pub mod slurm;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a test waits for one command to end before it ends it and fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_phalanx"))
}

/// The name that selects a test on the command line of its own program: the path of its module
/// (`module_path!()`) without the crate, and the test's own name.
pub fn test_name(module: &str, test: &str) -> String {
    let module = module.split_once("::").map_or("", |(_, module)| module);
    format!("{module}::{test}")
}

/// A temporary directory that is removed when the test ends.
pub struct Dir(tempfile::TempDir);

impl Dir {
    /// A new, empty directory; `name` only helps a person to tell directories apart.
    pub fn new(name: &str) -> Dir {
        let dir = tempfile::Builder::new().prefix(&format!("phalanx-{name}-")).tempdir();
        Dir(dir.expect("cannot make a temporary directory"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("cannot make a directory");
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Writes a job file.
    pub fn job(&self, name: &str, toml: &str) -> PathBuf {
        self.file(name, toml)
    }

    /// Copies a file or folder of the repository to the same place in here.
    pub fn copy(&self, name: &str) {
        copy_tree(&repository().join(name), &self.path().join(name));
    }

    /// The text of a file.
    pub fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
    }

    /// True if there is such a file or folder.
    pub fn has(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }

    /// The names in one of its folders, in order, without the lock of runs that begin.
    pub fn list(&self, name: &str) -> Vec<String> {
        let path = self.path().join(name);
        let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("cannot list {}: {e}", path.display()));
        let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != ".beginning");
        names.sort();
        names
    }
}

fn copy_tree(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("cannot make a directory");
        for entry in fs::read_dir(from).expect("cannot list a directory").flatten() {
            copy_tree(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
    }
}

/// `phalanx ...`: one process.
pub fn phalanx(dir: &Dir) -> TestCommand {
    TestCommand::new(program(), dir.path())
}

/// `mpirun -n RANKS phalanx ...`, with more ranks than cores allowed.
pub fn mpirun(dir: &Dir, ranks: u32) -> TestCommand {
    TestCommand { launches: true, ..launcher(dir, ranks).args([program()]) }
}

/// `mpirun -n RANKS`, with more ranks than cores allowed.
pub fn launcher(dir: &Dir, ranks: u32) -> TestCommand {
    // Only Open MPI refuses more ranks than cores.
    let more: &[&str] = if is_open_mpi() { &["--oversubscribe"] } else { &[] };
    TestCommand::new(mpirun_name(), dir.path()).args(more).args(["-n", &ranks.to_string()])
}

/// Where Open MPI 5 lies: `PHALANX_OPENMPI5`, or `target/openmpi5`. `None` where there is none, or
/// where the program was built with another MPI.
pub fn openmpi5_root() -> Option<PathBuf> {
    if !is_open_mpi() {
        return None;
    }
    let chosen = std::env::var_os("PHALANX_OPENMPI5").map(PathBuf::from);
    let root = chosen.unwrap_or_else(|| repository().join("target/openmpi5"));
    if !root.join("bin/mpirun").exists() {
        let required = std::env::var_os("PHALANX_REQUIRE_OPENMPI5").is_some();
        assert!(!required, "{} has no bin/mpirun, but PHALANX_REQUIRE_OPENMPI5 is set", root.display());
        skip_loudly("Open MPI 5 is not installed (.ci/deps openmpi5)");
        return None;
    }
    Some(root)
}

/// `mpirun -n RANKS phalanx ...` of Open MPI 5, under which a program that was built with Open MPI
/// 4.1 runs unchanged. `None` where there is none.
pub fn openmpi5(dir: &Dir, ranks: u32, options: &[&str]) -> Option<TestCommand> {
    let root = openmpi5_root()?;
    let bin = root.join("bin");
    // As a module of a cluster does.
    let before = |folder: PathBuf, name: &str| {
        let old = std::env::var_os(name).unwrap_or_default();
        let old = std::env::split_paths(&old).filter(|path| !path.as_os_str().is_empty());
        std::env::join_paths(std::iter::once(folder).chain(old)).expect("no colon in a path")
    };
    let command = TestCommand::new(bin.join("mpirun"), dir.path())
        .env("PATH", before(bin, "PATH"))
        .env("LD_LIBRARY_PATH", before(root.join("lib"), "LD_LIBRARY_PATH"))
        .args(["--oversubscribe"])
        .args(options)
        .args(["-n", &ranks.to_string()])
        .args([program()]);
    Some(TestCommand { launches: true, ..command })
}

/// The launcher of the MPI that the program was built with: `PHALANX_MPIRUN`, else `mpirun`.
pub fn mpirun_name() -> String {
    std::env::var("PHALANX_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned())
}

/// The compiler of that MPI: `MPICC`, else `mpicc`.
pub fn mpicc() -> Command {
    Command::new(std::env::var_os("MPICC").unwrap_or_else(|| "mpicc".into()))
}

/// True if the program was built with Open MPI, and not with an MPI of the MPICH family.
pub fn is_open_mpi() -> bool {
    mpi_library().contains("Open MPI")
}

/// The MPI library that the program names as its own.
pub fn mpi_library() -> String {
    let output = Command::new(program()).arg("--version").output().expect("the program can be started");
    String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap_or_default().to_owned()
}

/// `sh -c LINE`, with the program under test first on the `PATH`.
pub fn shell(dir: &Dir, line: &str) -> TestCommand {
    let folder = program().parent().expect("a program has a folder");
    let old = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&old));
    let path = std::env::join_paths(all).expect("a folder on the PATH has a colon in its name");
    TestCommand::new("sh", dir.path()).args(["-c", line]).env("PATH", path)
}

/// A command that has not been started.
pub struct TestCommand {
    command: Command,
    tag: Tag,
    patience: Duration,
    /// The command is an `mpirun` of the program under test.
    launches: bool,
}

impl TestCommand {
    /// Any program, run in `dir`, without what a launcher around the tests may have put into the
    /// environment.
    pub fn new(program: impl AsRef<OsStr>, dir: &Path) -> TestCommand {
        let tag = Tag::new();
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null()).env(Tag::NAME, &tag.0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_launchers(name)) {
            command.env_remove(name);
        }
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        if is_root() {
            for launcher in ["OMPI", "PRTE"] {
                command.env(format!("{launcher}_ALLOW_RUN_AS_ROOT"), "1");
                command.env(format!("{launcher}_ALLOW_RUN_AS_ROOT_CONFIRM"), "1");
            }
        }
        TestCommand { command, tag, patience: PATIENCE, launches: false }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> TestCommand {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> TestCommand {
        self.command.env(name, value);
        self
    }

    /// Allows it `seconds` instead of five minutes.
    pub fn patience(mut self, seconds: u64) -> TestCommand {
        self.patience = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Starts it and returns at once, for a test that signals or kills it.
    pub fn start(mut self) -> Running {
        let files = tempfile::tempdir().expect("cannot make a temporary directory");
        let open = |name: &str| File::create(files.path().join(name)).expect("cannot make a file for output");
        self.command.stdout(open("stdout")).stderr(open("stderr")).process_group(0);
        if self.launches {
            self.command.env("PHALANX_EXIT_FILE", files.path().join("exit"));
        }
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let child = self.command.spawn().unwrap_or_else(|e| panic!("cannot start {line}: {e}"));
        Running { child, line, files, tag: self.tag, patience: self.patience, begun: Instant::now() }
    }
}

/// True for variables by which a launcher tells a process that it belongs to an MPI world or a
/// Slurm step.
fn is_launchers(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM", "SBATCH_"].iter().any(|prefix| name.starts_with(prefix))
}

/// A command that was started. Dropping it ends everything that it started.
pub struct Running {
    child: Child,
    line: String,
    files: tempfile::TempDir,
    tag: Tag,
    patience: Duration,
    begun: Instant,
}

impl Running {
    /// Sends a signal to the started process alone (`mpirun` itself, not its ranks).
    pub fn signal(&self, signal: i32) {
        send(self.child.id(), signal);
    }

    /// `kill -9` of all processes: launcher, ranks and tasks.
    pub fn kill_all(&mut self) {
        // One that has ended already is no concern.
        let _ = self.child.kill();
        self.tag.kill();
    }

    /// All processes that it started and that still live, itself included.
    pub fn processes(&self) -> Vec<u32> {
        self.tag.processes()
    }

    /// The processes of the program under test that it started: under `mpirun`, the ranks in order.
    pub fn ranks(&self) -> Vec<u32> {
        self.numbered_ranks().into_iter().map(|(_, pid)| pid).collect()
    }

    /// The same with their numbers.
    pub fn numbered_ranks(&self) -> Vec<(u32, u32)> {
        let mut ranks: Vec<(u32, u32)> = Vec::new();
        for pid in self.processes() {
            if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program()) {
                let rank = ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].iter().find_map(|name| environment(pid, name));
                let rank = rank.and_then(|rank| rank.parse().ok());
                ranks.push((rank.unwrap_or(0), pid));
            }
        }
        // A child that a rank is just starting is still the rank's own image for a moment; it has
        // the higher number.
        ranks.sort_unstable();
        ranks.dedup_by_key(|rank| rank.0);
        ranks
    }

    /// Waits for its end and then makes sure that nothing that it started lives on.
    #[track_caller]
    pub fn wait_clean(mut self) -> Output {
        let output = self.wait_here();
        // A process that was just killed may take a moment to go.
        wait_for("all that it started to be gone", 120, || self.processes().is_empty().then_some(()));
        output
    }

    /// True until it has ended; for one that does not end, twice its time is not exceeded.
    pub fn is_running(&mut self) -> bool {
        assert!(self.begun.elapsed() < 2 * self.patience, "it does not end: {}\n{}", self.line, self.stderr_so_far());
        self.child.try_wait().expect("cannot wait for a child").is_none()
    }

    /// What it has written to standard output so far.
    pub fn stdout_so_far(&self) -> String {
        self.text("stdout")
    }

    /// What it has written to standard error so far.
    pub fn stderr_so_far(&self) -> String {
        self.text("stderr")
    }

    /// Waits for its end; a command that outlasts its time, which begins now, is ended and fails
    /// the test.
    pub fn wait(mut self) -> Output {
        self.wait_here()
    }

    fn wait_here(&mut self) -> Output {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("cannot wait for a child") {
                return self.output(status);
            }
            sleep(Duration::from_millis(10));
        }
        self.kill_all();
        let status = self.child.wait().expect("cannot wait for a child");
        panic!("it did not end in time\n{}", self.output(status));
    }

    fn output(&self, ended: ExitStatus) -> Output {
        // OpenMPI's launcher now and then crashes while it ends. What the run itself said counts
        // then.
        let crashed = matches!(ended.signal(), Some(libc::SIGSEGV | libc::SIGABRT | libc::SIGBUS));
        let said = if crashed { fs::read_to_string(self.files.path().join("exit")).ok() } else { None };
        let status = said.and_then(|code| Some(ExitStatus::from_raw(code.trim().parse::<i32>().ok()? << 8)));
        Output {
            line: self.line.clone(),
            status: status.unwrap_or(ended),
            stdout: self.text("stdout"),
            stderr: self.text("stderr"),
        }
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.files.path().join(name)).expect("cannot read captured output");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_all();
        // The child has ended by now, by itself or by the signal; this only collects it.
        let _ = self.child.wait();
    }
}

/// How a command ended and what it wrote.
pub struct Output {
    line: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Output {
    /// Fails the test unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.code(0)
    }

    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Output {
        assert!(self.status.code() == Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Exit code; 128 + n if signal n ended it, as a shell says it.
    pub fn exit(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// What it wrote to standard output.
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// What it wrote to standard error.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Fails the test unless standard output or standard error contains `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "expected to read {text:?}\n{self}");
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("this is not JSON: {e}\n{self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { line, status, stdout, stderr } = self;
        write!(f, "command: {line}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

/// A value that only the processes started by one test carry in their environment.
pub struct Tag(pub OsString);

impl Tag {
    /// The variable that holds it.
    pub const NAME: &'static str = "PHALANX_TEST_TAG";

    /// A tag that no other process on this machine has.
    pub fn new() -> Tag {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos());
        Tag(format!("{}-{count}-{now}", std::process::id()).into())
    }

    /// Kills every process that carries it, again and again until none is left: a process may fork
    /// while it is being looked for.
    pub fn kill(&self) {
        for _ in 0..100 {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
            sleep(Duration::from_millis(5));
        }
    }

    /// The living processes that carry it. The environment of a zombie is empty, so it is not among
    /// them.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = [Tag::NAME.as_bytes(), b"=", self.0.as_encoded_bytes()].concat();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|variable| variable == wanted)
        })
        .collect()
    }
}

/// A variable in the environment of another process.
fn environment(pid: u32, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environ.split(|&b| b == 0).filter_map(|v| std::str::from_utf8(v).ok()?.split_once('='));
    variables.find(|v| v.0 == name).map(|v| v.1.to_owned())
}

/// Sends a signal; a process that has ended meanwhile is no error.
pub fn send(pid: u32, signal: i32) {
    let pid = libc::pid_t::try_from(pid).expect("process ids are small");
    // SAFETY: kill only passes two numbers to the system. The id is that of a process that this
    // test started.
    unsafe { libc::kill(pid, signal) };
}

/// True if the tests run as root, as in a container.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Asks `probe` until it answers; after `seconds` fails the test, saying what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain for {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Ports that are free now and that nobody gets by chance: they lie below those that the system
/// hands out by itself.
pub fn free_ports(count: usize) -> Vec<u16> {
    // All are held until the last is chosen, so that none is chosen twice.
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    while held.len() < count {
        let port = fastrand::u16(10_000..32_000);
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
    }
    held.iter().map(|(port, _)| *port).collect()
}

/// Says that a test is skipped, and why, where nobody can miss it: past the capture of test output,
/// and in a list that `make test` shows at its end.
pub fn skip_loudly(why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Unlike `eprint!`, writing to the handle itself is not captured by the test harness.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped.txt");
    let file = File::options().create(true).append(true).open(list);
    file.and_then(|mut f| f.write_all(line.as_bytes())).expect("cannot note that a test was skipped");
}

/// The `[capacity]` of the example of a batch system in docs/providers.md.
pub fn documented_capacity(title: &str) -> String {
    let text = std::fs::read_to_string(repository().join("docs/providers.md")).expect("the document");
    let section = text.split(&format!("\n## {title}\n")).nth(1).expect("the section");
    let block = section.split("```toml\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("an example");
    block.split("[scaling]").next().expect("its capacity").to_owned()
}
