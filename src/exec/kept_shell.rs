//! A shell that runs one command after the other, for tasks with `batch`.
//!
//! For a short line of shell, starting the shell costs more than the line itself: the system loads
//! a program and its libraries each time. A kept shell is started once and runs each line in a
//! subshell, a copy of itself. Each slot keeps one.
//!
//! Protocol, over a socket that the shell has as descriptor 3: Phalanx writes a line's script into a
//! file that the shell has as descriptor 4, and sends an empty line. The shell appends a byte to
//! another file, descriptor 5, when it begins (which wakes nobody), and answers with the exit code
//! when the subshell has ended. Lines are sent one at a time, so a command that kills its shell
//! costs only itself: the next one starts another shell. A shell that dies before it has begun a
//! line has run nothing of it, so that line goes to another shell.
//!
//! All that a task sees of its own is in its script: variables, directory, prologue. The subshell
//! closes the descriptors first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;

use super::script::sets_errexit;

/// What the shell does. Its own words may set options, which must not end the loop.
const LOOP: &str = "set +e; while read -r x <&3; do echo >&5; ( . /proc/self/fd/4 ); echo \"$?\" >&3; done";

/// The first line of each script.
const CLOSE: &str = "exec 3<&- 4<&- 5<&- </dev/null\n";

/// Descriptors of the shell's end are above all that a child gets, so that no copy overwrites one.
const LEAST_DESCRIPTOR: i32 = 16;

/// Phalanx's end of a kept shell.
pub(super) struct KeptShell {
    /// The words that it was started with.
    words: Vec<String>,
    socket: UnixStream,
    script: File,
    /// Has a byte for each line that it has begun.
    begun: File,
    /// Number of lines sent.
    sent: u64,
    /// What it has answered about the latest of them.
    answer: Vec<u8>,
}

impl KeptShell {
    /// Makes the descriptors of a shell that these words start: of Phalanx, and of the shell.
    pub(super) fn new(words: &[String]) -> io::Result<(KeptShell, [OwnedFd; 3])> {
        let (ours, its) = UnixStream::pair()?;
        let file = || memfd_create(c"phalanx-script", MemfdFlags::CLOEXEC);
        let (script, begun) = (file()?, file()?);
        let high = |file: BorrowedFd<'_>| fcntl_dupfd_cloexec(file, LEAST_DESCRIPTOR);
        let of_shell = [high(its.as_fd())?, high(script.as_fd())?, high(begun.as_fd())?];
        let (script, begun) = (File::from(script), File::from(begun));
        Ok((KeptShell { words: words.to_vec(), socket: ours, script, begun, sent: 0, answer: Vec::new() }, of_shell))
    }

    /// The words that start a shell with these words as a kept shell.
    pub(super) fn start_words(words: &[String]) -> Vec<String> {
        words.iter().cloned().chain([LOOP.to_owned()]).collect()
    }

    /// True if it was started with these words.
    pub(super) fn has_words(&self, words: &[String]) -> bool {
        self.words == words
    }

    /// Number of lines sent to it.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// True if it has died before it began the latest line, but has begun others.
    pub(super) fn missed_line(&self) -> bool {
        let begun = self.begun.metadata().map_or(self.sent, |file| file.len());
        self.answer.is_empty() && 0 < begun && begun < self.sent
    }

    /// Sends a line with what precedes it. An error may mean that the shell has died.
    pub(super) fn send(&mut self, script: &[u8]) -> io::Result<()> {
        self.answer.clear();
        self.script.set_len(0)?;
        self.script.write_all_at(script, 0)?;
        self.sent += 1;
        self.socket.write_all(b"\n")
    }

    /// Readable when the shell answers, or has died.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads an answer that has arrived. True if the line has ended or the shell has died.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 64];
        let read = match (&self.socket).read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            other => other?,
        };
        self.answer.extend_from_slice(&bytes[..read]);
        Ok(read == 0 || self.exit().is_some())
    }

    /// The exit code of the line, once it has ended.
    pub(super) fn exit(&self) -> Option<i32> {
        std::str::from_utf8(&self.answer).ok()?.strip_suffix('\n')?.parse().ok()
    }
}

/// The script of a line: its variables, its directory, and the text that a shell with these words
/// runs.
pub(super) fn script<'a>(
    words: &[String],
    variables: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    dir: &[u8],
    text: &str,
) -> Vec<u8> {
    let mut script = CLOSE.as_bytes().to_vec();
    script.extend_from_slice(b"cd ");
    quote(dir, &mut script);
    script.extend_from_slice(b" || exit 126\n");
    for (name, value) in variables {
        script.extend_from_slice(b"export ");
        script.extend_from_slice(name);
        script.push(b'=');
        quote(value, &mut script);
        script.push(b'\n');
    }
    if sets_errexit(words) {
        script.extend_from_slice(b"set -e\n");
    }
    script.extend_from_slice(text.as_bytes());
    script.push(b'\n');
    script
}

fn quote(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for &byte in value {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            byte => out.push(byte),
        }
    }
    out.push(b'\'');
}

/// True for the name of a variable that a shell can set.
pub(super) fn is_identifier(name: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(is_letter) && name.iter().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_all_that_a_task_sees_of_its_own() {
        let words = ["bash", "-ec"].map(str::to_owned);
        let variables = [(&b"A"[..], &b"it's"[..])];
        let text = script(&words, variables.into_iter(), b"/tmp/a b", "echo $A");
        let expected = format!("{CLOSE}cd '/tmp/a b' || exit 126\nexport A='it'\\''s'\nset -e\necho $A\n");
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert!(is_identifier(b"_a1") && !is_identifier(b"1a") && !is_identifier(b"a.b") && !is_identifier(b""));
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let (mut shell, [its, _script, begun]) = KeptShell::new(&["sh".to_owned()]).unwrap();
        let (mut its, mut begun) = (UnixStream::from(its), File::from(begun));
        shell.send(b"true").unwrap();
        assert!(!shell.missed_line(), "a shell that has begun nothing runs no other line either");
        begun.write_all(b"\n").unwrap();
        let mut answers = |shell: &mut KeptShell, bytes: &[u8]| {
            its.write_all(bytes).unwrap();
            (shell.receive().unwrap(), shell.exit())
        };
        assert_eq!(answers(&mut shell, b"12"), (false, None));
        assert_eq!(answers(&mut shell, b"7\n"), (true, Some(127)));
        shell.send(b"true").unwrap();
        drop(its);
        assert!(shell.receive().unwrap() && shell.exit().is_none() && shell.missed_line());
    }
}
