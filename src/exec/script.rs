//! Builds the words that run a line of shell with its shell and the prologue.
//!
//! The prologue runs with `set -e`: its first failing line ends the attempt. The option ends with
//! the prologue, unless the prologue or the shell's own words set it; options that the prologue
//! sets hold for the command. When all lines have succeeded a file is made, so that a failed
//! prologue is told from a failed command. Linux accepts no single argument of 128 KiB, so a longer
//! script is passed to the shell as a file.

use std::io::Write;
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use super::Fault;
use crate::job::dialect::PrologueOptions;

/// Size in bytes from which on Linux starts no program with such an argument or environment
/// variable (including its name).
pub(crate) const LONGEST_WORD: usize = 128 << 10;

/// The default shell.
pub(crate) const DEFAULT: [&str; 2] = ["sh", "-c"];

/// The prologue of a job.
pub(super) struct Prologue {
    /// Its lines as one text; empty if there are none.
    text: String,
    options: PrologueOptions,
}

/// The words of a process, and the script files that they name, which are removed on drop.
pub(super) struct ScriptWords {
    pub(super) words: Vec<String>,
    scripts: Vec<TempPath>,
}

impl ScriptWords {
    pub(super) fn plain(words: Vec<String>) -> ScriptWords {
        ScriptWords { words, scripts: Vec::new() }
    }

    /// True if the words name scripts.
    pub(super) fn has_scripts(&self) -> bool {
        !self.scripts.is_empty()
    }

    /// The same words, which need another file that is removed on drop.
    pub(super) fn with_file(mut self, file: Option<TempPath>) -> ScriptWords {
        self.scripts.extend(file);
        self
    }

    /// Appends these words to others that start them.
    pub(super) fn behind(self, first: ScriptWords) -> ScriptWords {
        ScriptWords { words: first.words, scripts: first.scripts.into_iter().chain(self.scripts).collect() }
    }
}

impl Prologue {
    pub(super) fn new(lines: &[String]) -> Prologue {
        let text = lines.join("\n");
        Prologue { options: PrologueOptions::of(&text), text }
    }

    /// Returns the words that run a line after the prologue in one shell, so that the line sees
    /// functions that the prologue defines. `variables` are too long for an environment: they
    /// become shell variables, which programs do not inherit. `place` is the directory for script
    /// files; `ready` is the file that is made when the prologue has succeeded.
    pub(super) fn run_line(
        &self,
        shell: &[String],
        line: &str,
        variables: &[(String, String)],
        place: &Path,
        ready: Option<&Path>,
    ) -> Result<ScriptWords, Fault> {
        if !self.text.is_empty() && !is_standard(shell) {
            // A shell of another language: `sh` runs the prologue, and the line sees only exported
            // variables.
            let inner = words(shell, line.to_owned(), &[], place)?;
            let outer = self.run_words(inner.words.clone(), place, ready)?;
            return Ok(inner.behind(outer));
        }
        words(shell, self.text_of_line(shell, line, variables, ready), &[], place)
    }

    /// The text that runs a line after the prologue in one shell.
    pub(super) fn text_of_line(
        &self,
        shell: &[String],
        line: &str,
        variables: &[(String, String)],
        ready: Option<&Path>,
    ) -> String {
        let assignments = assignments(shell, variables);
        if self.text.is_empty() {
            return format!("{assignments}{line}");
        }
        let is_strict = self.options.errexit.unwrap_or_else(|| sets_errexit(shell));
        let relax = if is_strict { "" } else { "set +e\n" };
        format!("{assignments}{}\n{relax}{line}", self.strict(ready))
    }

    /// Returns the words that run a line in its own shell, after another shell has run the
    /// prologue, as for each rank of an MPI task and in a container. `variables` are as of
    /// [`run_line`](Prologue::run_line).
    pub(super) fn line_of_rank(
        &self,
        shell: &[String],
        line: &str,
        variables: &[(String, String)],
        place: &Path,
    ) -> Result<ScriptWords, Fault> {
        let options = if is_standard(shell) { &self.options.commands[..] } else { &[] };
        let line = assignments(shell, variables) + line;
        let script = options.iter().map(String::as_str).chain([&*line]).collect::<Vec<_>>().join("\n");
        words(shell, script, &[], place)
    }

    /// Returns the words that run a command after the prologue, in the resulting environment;
    /// without a prologue, the command itself.
    pub(super) fn run_words(
        &self,
        command: Vec<String>,
        place: &Path,
        ready: Option<&Path>,
    ) -> Result<ScriptWords, Fault> {
        if self.text.is_empty() {
            return Ok(ScriptWords::plain(command));
        }
        let script = format!("{}\nexec \"$@\"", self.strict(ready));
        words(&DEFAULT.map(str::to_owned), script, &command, place)
    }

    /// The prologue's lines with `set -e`, so that the first failing line ends the shell.
    fn strict(&self, ready: Option<&Path>) -> String {
        let quoted = |file: &Path| file.to_string_lossy().replace('\'', "'\\''");
        let note = ready.map(|file| format!("\ntrue 2>/dev/null >'{}' || :", quoted(file)));
        format!("set -e\n{}{}", self.text, note.unwrap_or_default())
    }

    /// True if there are no lines.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// The lines that set variables in a shell; none in a shell of another language.
fn assignments(shell: &[String], variables: &[(String, String)]) -> String {
    let set = |(name, value): &(String, String)| format!("{name}='{}'\n", value.replace('\'', "'\\''"));
    if is_standard(shell) { variables.iter().map(set).collect() } else { String::new() }
}

/// Returns the words that run a script with arguments.
fn words(shell: &[String], script: String, arguments: &[String], place: &Path) -> Result<ScriptWords, Fault> {
    let name = || shell.first().cloned().unwrap_or_else(|| "sh".to_owned());
    // The argument ends with one more byte, NUL.
    if script.len() + 1 < LONGEST_WORD {
        let zero = if arguments.is_empty() { None } else { Some(name()) };
        let words = shell.iter().cloned().chain([script]).chain(zero).chain(arguments.iter().cloned());
        return Ok(ScriptWords::plain(words.collect()));
    }
    let doing = || format!("cannot write the long command to a script in {}", place.display());
    let fault = |error| Fault::refused(doing(), &error);
    let mut file = NamedTempFile::with_prefix_in("phalanx-script-", place).map_err(fault)?;
    file.write_all(script.as_bytes()).and_then(|()| file.flush()).map_err(fault)?;
    let file = file.into_temp_path();
    let path = file.to_string_lossy().into_owned();
    let shell = without_c(shell).ok_or_else(|| {
        Fault::with_exit(
            126,
            format!("`{}` takes a line only as an argument, and this one is too long for that", shell.join(" ")),
        )
    })?;
    let words = shell.into_iter().chain([path]).chain(arguments.iter().cloned());
    Ok(ScriptWords { words: words.collect(), scripts: vec![file] })
}

/// The words of a shell for running a script file: those for running a line, without the `c`.
/// `None` if that is not possible.
fn without_c(shell: &[String]) -> Option<Vec<String>> {
    let (last, before) = shell.split_last()?;
    let flags: String = last.chars().filter(|&c| c != 'c').collect();
    let reads_line = last.starts_with('-') && !last.starts_with("--") && flags.len() < last.len();
    reads_line.then(|| before.iter().cloned().chain(Some(flags).filter(|flags| flags.len() > 1)).collect())
}

/// True for a shell that can run a long line as a script file.
pub(crate) fn takes_scripts(shell: &[String]) -> bool {
    without_c(shell).is_some()
}

/// True for a shell with the syntax of `sh`.
pub(crate) fn is_standard(shell: &[String]) -> bool {
    const KNOWN_SHELLS: [&str; 9] = ["sh", "bash", "dash", "ash", "ksh", "ksh93", "mksh", "zsh", "busybox"];
    let mut names = shell.iter().filter_map(|word| Path::new(word).file_name()?.to_str());
    // After `env` and similar commands the shell's name comes later.
    names.any(|name| KNOWN_SHELLS.contains(&name))
}

/// True if a shell's own words set `-e`.
pub(super) fn sets_errexit(shell: &[String]) -> bool {
    let pairs = shell.iter().zip(shell.iter().skip(1));
    let named = pairs.into_iter().any(|(flag, name)| flag.ends_with('o') && name == "errexit");
    named || shell.iter().any(|word| word.starts_with('-') && !word.starts_with("--") && word.contains('e'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn line(prologue: &[&str], shell: &[&str]) -> Vec<String> {
        let prologue = Prologue::new(&strings(prologue));
        prologue.run_line(&strings(shell), "work", &[], Path::new("/tmp"), None).unwrap().words
    }

    #[test]
    fn a_prologue_is_strict_and_its_options_hold() {
        assert_eq!(line(&[], &DEFAULT), ["sh", "-c", "work"]);
        assert_eq!(line(&["x", "y"], &DEFAULT), ["sh", "-c", "set -e\nx\ny\nset +e\nwork"]);
        assert_eq!(line(&["set -eu"], &DEFAULT), ["sh", "-c", "set -e\nset -eu\nwork"]);
        assert_eq!(line(&["set +e"], &["bash", "-ec"]), ["bash", "-ec", "set -e\nset +e\nset +e\nwork"]);
        assert_eq!(line(&["x"], &["bash", "-euo", "pipefail", "-c"])[4], "set -e\nx\nwork");
        assert_eq!(line(&["x"], &["bash", "-o", "errexit", "-c"])[4], "set -e\nx\nwork");
        let python = line(&["x"], &["python3", "-c"]);
        assert_eq!(python, ["sh", "-c", "set -e\nx\nexec \"$@\"", "sh", "python3", "-c", "work"]);
        let prologue = Prologue::new(&strings(&["module load x", "set -o pipefail"]));
        let rank = prologue.line_of_rank(&strings(&["bash", "-c"]), "work", &[], Path::new("/tmp")).unwrap();
        assert_eq!(rank.words, ["bash", "-c", "set -o pipefail\nwork"]);
        let long = [("A".to_owned(), "it's".to_owned())];
        let rank = prologue.line_of_rank(&strings(&DEFAULT), "work", &long, Path::new("/tmp")).unwrap();
        assert_eq!(rank.words, ["sh", "-c", "set -o pipefail\nA='it'\\''s'\nwork"]);
        let words = prologue.run_words(strings(&["prog", "arg"]), Path::new("/tmp"), None).unwrap().words;
        let ready = prologue.text_of_line(&strings(&DEFAULT), "work", &[], Some(Path::new("/a'b")));
        assert!(ready.ends_with("pipefail\ntrue 2>/dev/null >'/a'\\''b' || :\nset +e\nwork"), "{ready}");
        assert_eq!(words, ["sh", "-c", "set -e\nmodule load x\nset -o pipefail\nexec \"$@\"", "sh", "prog", "arg"]);
    }

    #[test]
    fn a_long_line_is_a_script_that_goes_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("echo {}", "x".repeat(LONGEST_WORD));
        for (shell, words) in
            [(&DEFAULT[..], vec!["sh"]), (&["bash", "-euo", "pipefail", "-c"][..], vec!["bash", "-euo", "pipefail"])]
        {
            let found = Prologue::new(&[]).run_line(&strings(shell), &long, &[], dir.path(), None).unwrap();
            let (path, first) = found.words.split_last().unwrap();
            assert_eq!((first, &*std::fs::read_to_string(path).unwrap()), (&strings(&words)[..], &*long));
            drop(found);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        assert_eq!(without_c(&strings(&["bash", "-euc"])), Some(strings(&["bash", "-eu"])));
        assert_eq!(without_c(&strings(&["perl", "-e"])), None);
        let refused =
            Prologue::new(&[]).run_line(&strings(&DEFAULT), &long, &[], Path::new("/absent"), None).err().unwrap();
        assert!(refused.text.contains("/absent"), "{}", refused.text);
    }
}
