//! Programs: where they are searched, how they are started, and why they could not be.

use std::ffi::{CStr, CString, OsStr};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Fault;
use super::aside::AttemptDeadline;
use super::env::TaskEnv;
use super::spawn::{Child, ChildPlan, Refusal, StartStep, spawn};

/// Pauses between attempts to start a program file that is still open for writing (ETXTBSY).
const BUSY_PROGRAM_RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100), Duration::from_millis(1000)];

/// Search path of tasks without `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// Starts the process, and retries while the program file is still open for writing.
pub(super) fn start_with_retries(plan: &ChildPlan, deadline: &AttemptDeadline) -> Result<Child, Fault> {
    let mut waits = BUSY_PROGRAM_RETRY_PAUSES.iter();
    loop {
        let started = deadline.control.start(deadline.instant(), |pid| spawn(plan, pid));
        let Some(started) = started else {
            deadline.check("starting the program, which its file system delays")?;
            continue;
        };
        match started {
            Err(e) if e.error.raw_os_error() == Some(libc::ETXTBSY) => match waits.next() {
                Some(&wait) => deadline.sleep(wait, "waiting to be started")?,
                None => return Err(explain(plan, &e)),
            },
            result => return result.map_err(|e| explain(plan, &e)),
        }
    }
}

/// Converts text that a process is given.
pub(super) fn c_string(bytes: &[u8], what: &str) -> Result<CString, Fault> {
    CString::new(bytes)
        .map_err(|_| Fault::new(format!("{what} contains a NUL byte, which cannot be passed to a process")))
}

/// The paths at which a program may be: in the directories of the task's own `PATH`. A name with a
/// slash is relative to the task's directory. The child does the search, because a mount that does
/// not respond would block this thread.
pub(super) fn places_of(name: &str, dir: &Path, env: &TaskEnv) -> Result<Vec<CString>, Fault> {
    let c_path = |path: &Path| c_string(path.as_os_str().as_bytes(), "the program's name");
    if name.is_empty() {
        return Err(Fault::with_exit(127, "the command is empty"));
    }
    if name.contains('/') {
        return Ok(vec![c_path(Path::new(name))?]);
    }
    let search = env.get("PATH").unwrap_or(DEFAULT_PATH);
    std::env::split_paths(OsStr::from_bytes(search)).map(|entry| c_path(&dir.join(entry).join(name))).collect()
}

/// Explains why a process could not be started, with the exit code that a shell would return.
fn explain(plan: &ChildPlan, refusal: &Refusal) -> Fault {
    let error = &refusal.error;
    let path = |text: &CStr| Path::new(OsStr::from_bytes(text.to_bytes())).to_owned();
    let dir = path(plan.dir);
    let place = match refusal.step {
        StartStep::Process => return Fault { exit: 126, ..Fault::refused("cannot start a process", error) },
        StartStep::Directory => {
            return Fault::refused(format!("cannot enter the task's directory {}", dir.display()), error);
        }
        StartStep::Program(place) => place,
    };
    let name = plan.argv.first().map_or_else(PathBuf::new, |name| path(name));
    let program = plan.programs.get(place).map_or_else(|| name.clone(), |program| dir.join(path(program)));
    let is_searched = !name.as_os_str().as_bytes().contains(&b'/');
    // A directory in PATH without search permission reports "permission denied" for every name.
    let is_found = error.kind() == ErrorKind::PermissionDenied && (!is_searched || program.is_file());
    if error.kind() == ErrorKind::PermissionDenied && program.is_dir() {
        return Fault::with_exit(126, format!("{} is a directory, not a program", program.display()));
    }
    // The system reports a missing interpreter as if the script were missing.
    if error.kind() == ErrorKind::NotFound
        && let Some(script) = plan.programs.iter().map(|program| dir.join(path(program))).find(|file| file.is_file())
    {
        return Fault::with_exit(127, missing_interpreter(&script));
    }
    let program = program.display();
    match (error.kind(), error.raw_os_error()) {
        _ if is_found => {
            let text = format!("not allowed to run {program} in {} (chmod +x?)", dir.display());
            Fault::with_exit(126, text)
        }
        (ErrorKind::NotFound | ErrorKind::PermissionDenied, _) if is_searched => {
            let paths = plan
                .programs
                .iter()
                .map(|program| path(program).parent().map_or_else(String::new, |dir| dir.display().to_string()));
            let text =
                format!("program `{}` not found in PATH ({})", name.display(), paths.collect::<Vec<_>>().join(":"));
            Fault::with_exit(127, text)
        }
        (ErrorKind::NotFound, _) => {
            let text = format!("program {program} not found");
            Fault::with_exit(127, text)
        }
        (_, Some(libc::ENOEXEC)) => {
            let text = format!("{program} is not executable on this machine (a script needs a `#!` line)");
            Fault::with_exit(126, text)
        }
        _ => Fault { exit: 126, ..Fault::refused(format!("cannot start {program}"), error) },
    }
}

/// Explains why a program that exists was not found: its interpreter or loader is missing.
fn missing_interpreter(script: &Path) -> String {
    let mut start = [0; 256];
    let length = std::fs::File::open(script).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let line = start[..length].split(|&byte| byte == b'\n').next().unwrap_or_default();
    let shown = script.display();
    let Some(interpreter) = line.strip_prefix(b"#!") else {
        return format!("{shown} needs a loader or libraries that are missing here (was it built for another system?)");
    };
    let interpreter = String::from_utf8_lossy(interpreter.trim_ascii_start());
    match interpreter.strip_suffix('\r') {
        Some(interpreter) => format!(
            "{shown} has Windows line ends, so its interpreter `{interpreter}` is not found: convert it (dos2unix)"
        ),
        None => {
            let program = interpreter.split_ascii_whitespace().next().unwrap_or_default();
            format!("the interpreter `{program}` in the first line of {shown} is missing")
        }
    }
}
