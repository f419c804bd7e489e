//! The MPI launcher that started this process, if it runs on the same node.

use std::fs;
use std::path::{Path, PathBuf};

/// Beginnings of the names of programs that start a world and were started by its user.
const NAMES: [&str; 5] = ["mpirun", "mpiexec", "orterun", "prterun", "prun"];

/// Number of ancestors that are searched: shells and tools may stand in between.
const MAX_ANCESTORS: usize = 16;

/// What `/proc` says about the launcher.
fn find() -> Option<PathBuf> {
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..MAX_ANCESTORS {
        let about = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(about.join("comm")).ok()?;
        if NAMES.iter().any(|launcher| name.starts_with(launcher)) {
            return Some(about);
        }
        // `PID (NAME) STATE PPID ...`, where the name may hold anything.
        let stat = fs::read_to_string(about.join("stat")).ok()?;
        pid = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|&pid| pid > 1)?;
    }
    None
}

/// The variables that the launcher was started with; `None` if they cannot be read.
pub(crate) fn environment() -> Option<Vec<(String, String)>> {
    variables_of(&find()?)
}

/// The words by which the launcher was called, e.g. `mpirun --oversubscribe`, without the number of
/// processes.
pub(crate) fn words() -> Option<Vec<String>> {
    let line = fs::read(find()?.join("cmdline")).ok()?;
    let words = line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.take_while(|word| !word.is_empty()).collect();
    if let (Some(first), Ok(typed)) = (words.first_mut(), std::env::var("OMPI_TOOL_NAME")) {
        *first = as_typed(first, &typed);
    }
    let own = std::env::current_exe().ok();
    let name = own.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    options_before(&words, name)
}

/// True if the launcher was called with this option; `None` if it cannot be seen from here.
pub(crate) fn has_option(option: &str) -> Option<bool> {
    let line = fs::read(find()?.join("cmdline")).ok()?;
    Some(line.split(|&byte| byte == 0).any(|word| is_option(&String::from_utf8_lossy(word), option)))
}

/// True if a word is this option, also with its value or with a single dash.
fn is_option(word: &str, option: &str) -> bool {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    name.starts_with('-') && name.trim_start_matches('-') == option.trim_start_matches('-')
}

/// The launcher as its user called it: `mpirun` of Open MPI 5 becomes a `prterun` of the same
/// folder, which does not know all options of `mpirun`.
fn as_typed(launcher: &str, typed: &str) -> String {
    let path = Path::new(launcher);
    let is_replaced = path.file_name().is_some_and(|name| name == "prterun");
    if is_replaced { path.with_file_name(typed).to_string_lossy().into_owned() } else { launcher.to_owned() }
}

/// The words before the program, without the number of processes; the first alone if several
/// programs were started, or this one is not among the words.
fn options_before(words: &[String], program: &str) -> Option<Vec<String>> {
    const COUNTS: [&str; 5] = ["-n", "-np", "--n", "--np", "-c"];
    let first = words.first()?.clone();
    let is_program = |word: &String| Path::new(word).file_name().is_some_and(|name| name == program);
    let at = words.iter().skip(1).position(is_program).filter(|_| !words.iter().any(|word| word == ":"));
    let mut options = words[1..].iter().take(at.unwrap_or(0));
    let mut kept = vec![first];
    while let Some(option) = options.next() {
        match COUNTS.contains(&option.as_str()) {
            true => drop(options.next()),
            false => kept.push(option.clone()),
        }
    }
    Some(kept)
}

/// The variables that this process was started with; `None` if they cannot be read.
pub(crate) fn own_environment() -> Option<Vec<(String, String)>> {
    variables_of(Path::new("/proc/self"))
}

fn variables_of(about: &Path) -> Option<Vec<(String, String)>> {
    let bytes = fs::read(about.join("environ")).ok()?;
    let entries = bytes.split(|&byte| byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
    let pairs = entries.filter_map(|entry| entry.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// True if the launcher, which passes on what its ranks print, prints to a terminal.
pub(crate) fn prints_to_terminal() -> bool {
    let stream = find().and_then(|about| fs::read_link(about.join("fd/2")).ok());
    stream.is_some_and(|stream| ["/dev/pts/", "/dev/tty"].iter().any(|tty| stream.to_string_lossy().starts_with(tty)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_that_stands_for_another_has_its_name() {
        assert_eq!(as_typed("/opt/bin/prterun", "mpirun"), "/opt/bin/mpirun");
        assert_eq!(as_typed("prterun", "mpiexec"), "mpiexec");
        assert_eq!(as_typed("/usr/bin/mpirun", "mpiexec"), "/usr/bin/mpirun");
    }

    #[test]
    fn an_option_is_found_in_each_of_its_forms() {
        let is = |word| is_option(word, "--with-ft");
        assert!(is("--with-ft") && is("-with-ft") && is("--with-ft=ulfm"));
        assert!(!is("with-ft") && !is("--with-ftx") && !is("--x=--with-ft"));
    }

    #[test]
    fn a_launcher_is_called_again_with_its_options_and_another_number() {
        let options = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            options_before(&words, "phalanx").map(|words| words.join(" ")).unwrap_or_default()
        };
        assert_eq!(options("mpirun -n 3 --oversubscribe phalanx run a.toml"), "mpirun --oversubscribe");
        assert_eq!(options("/opt/mpiexec --bind-to none -np 3 ./bin/phalanx -n 4"), "/opt/mpiexec --bind-to none");
        assert_eq!(options("mpirun -n 1 -x A=b phalanx run : -n 2 phalanx run"), "mpirun");
        assert_eq!(options("mpirun -n 3 --oversubscribe ./script"), "mpirun");
        assert_eq!(options(""), "");
    }
}
