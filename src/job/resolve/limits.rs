//! Detects commands that Linux cannot start because their arguments or variables are too long,
//! before the job runs.

use std::sync::Arc;

use super::task::TaskResolver;
use crate::exec::script::{DEFAULT, LONGEST_WORD, takes_scripts};
use crate::job::Work;
use crate::job::body::WorkTemplate;
use crate::job::diagnostic::Diagnostic;
use crate::job::template::Template;

/// Tables with less text than this cannot exceed a limit.
const WORTH_A_LOOK: usize = LONGEST_WORD / 4;

/// Maximum total size of arguments and variables, with a pointer for each, that Linux accepts. (It
/// accepts 2 MiB if the stack limit is the usual 8 MiB.)
const LONGEST_START: usize = 6 << 20;

impl TaskResolver<'_> {
    /// Checks elements that together cover every value.
    pub(super) fn check_lengths(
        &mut self,
        work: &WorkTemplate,
        env: &[(Arc<str>, Template)],
        shell: Option<&Arc<[String]>>,
    ) {
        let texts: usize = match work {
            WorkTemplate::Command(words) => words.iter().map(Template::typed_len).sum(),
            WorkTemplate::Shell(line) => line.typed_len(),
            WorkTemplate::Kernel { .. } => return,
        };
        let of_job = self.job.env.iter().map(|(name, value)| name.len() + value.len() + 1);
        let (longest_of_job, all_of_job) = of_job.fold((0, 0), |(most, all), len| (most.max(len), all + len + 9));
        let variables = all_of_job + env.iter().map(|(_, value)| value.typed_len()).sum::<usize>();
        if texts + variables + self.space.longest_value() < WORTH_A_LOOK {
            return;
        }
        let takes_scripts = takes_scripts(shell.map_or(&DEFAULT.map(str::to_owned)[..], |shell| shell));
        for number in self.space.samples() {
            let element = self.element(number);
            let env = env.iter().map(|(name, value)| name.len() + 1 + value.fill(element).len());
            let (longest_variable, all_variables) =
                env.fold((longest_of_job, all_of_job), |(most, all), len| (most.max(len), all + len + 9));
            let short_variables = if longest_variable < LONGEST_WORD { all_variables } else { 0 };
            let reason = match work.fill(element) {
                // A shell line that is too long is passed to the shell as a script.
                Work::Shell(_) if takes_scripts => too_long(std::iter::empty(), 0, short_variables),
                Work::Shell(line) => too_long([line.len()].into_iter(), longest_variable, all_variables),
                Work::Command(words) => too_long(words.iter().map(String::len), longest_variable, all_variables),
                Work::Kernel { .. } => None,
            };
            let Some((what, found, most)) = reason else { continue };
            let name = self.space.element_name(&self.name, number);
            let span = self.spec.value.own.command.as_ref().map_or(&self.spec.span, |command| &command.span);
            let error =
                Diagnostic::error(format!("`{name}` can never start: {what} {found} bytes, and Linux takes {most}"));
            self.findings
                .push(error.at(span).help("write it to a file, or make the command a line for `sh` or `bash`"));
            return;
        }
    }
}

/// The argument or variable that is too long for a direct start: its description, length, and
/// limit.
fn too_long(
    words: impl Iterator<Item = usize>,
    longest_variable: usize,
    all_variables: usize,
) -> Option<(&'static str, usize, usize)> {
    let (longest, all) = words.fold((0, all_variables), |(most, all), len| (most.max(len), all + len + 9));
    // Each has a terminating byte.
    let word = (longest + 1 > LONGEST_WORD).then_some(("an argument has", longest, LONGEST_WORD - 1));
    let variable =
        (longest_variable + 1 > LONGEST_WORD).then_some(("a variable has", longest_variable, LONGEST_WORD - 1));
    word.or(variable).or((all > LONGEST_START).then_some(("all arguments and variables have", all, LONGEST_START)))
}
