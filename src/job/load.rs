//! Entry point: turns a file or its text into a [`Loaded`] job, or into all of its mistakes.
//!
//! [`parse`] is a pure function of its arguments and does not read the disk, so that every rank
//! builds the same job. Checks that read the disk (missing input files) are separate, in
//! [`Loaded::missing_inputs`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::declared_files::DeclaredFiles;
use super::diagnostic::Findings;
use super::dialect::Sh;
use super::document::{Document, TABLES};
use super::foreign;
use super::pieces::read_pieces;
use super::read::Span;
use super::resolve::{External, Resolution, ResolveContext};
use super::spec::{Common, homes_of, read_file};
use super::value_files::ValueFiles;
use super::written_files::WrittenFiles;
use super::{Diagnostic, Diagnostics, Job, JobPart};
use crate::graph::link::GroupId;
use crate::model::TaskId;
use crate::system::file_probe::{ANSWER_TIMEOUT, FileProbe};

/// Information about kernels that job files need; the kernel registry implements it.
pub trait KernelCheck {
    /// Names of all kernels.
    fn names(&self) -> Vec<&str>;

    /// True if there is a kernel of this name.
    fn knows(&self, name: &str) -> bool {
        self.names().contains(&name)
    }

    /// Checks the arguments of a kernel.
    ///
    /// # Errors
    /// What is wrong with them, in one sentence without a full stop.
    fn check(&self, name: &str, args: &toml::Table) -> Result<(), String>;
}

/// A job without errors, and its warnings.
#[derive(Debug)]
pub struct Loaded {
    /// The job.
    pub job: Job,
    /// Warnings: probably not as intended.
    pub warnings: Diagnostics,
    /// The text of the job file, followed by the files that its values come from, as comments;
    /// other ranks parse it again.
    pub text: Arc<str>,
    /// The file had Windows line ends, which are read as LF.
    pub has_crlf: bool,
    file: String,
    external: External,
    /// The files of several jobs; empty for one.
    parts: Vec<LoadedPart>,
}

/// One of several files.
#[derive(Clone, Debug)]
struct LoadedPart {
    file: String,
    text: Arc<str>,
    external: External,
    /// Where it begins, if the texts follow each other.
    offset: usize,
}

impl Loaded {
    /// Name of the source: the path of the file, or `stdin`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The path of a single file; `None` if it is read from standard input.
    pub fn path(&self) -> Option<&Path> {
        Some(Path::new(&self.file)).filter(|path| self.parts.is_empty() && path.is_file())
    }

    /// The same file with another job and text.
    pub fn with_job(&self, job: Job, text: Arc<str>) -> Loaded {
        let (file, external) = (self.file.clone(), self.external.clone());
        let warnings = Diagnostics::new(file.clone(), Arc::clone(&text), Vec::new());
        let parts = self.parts.clone();
        Loaded { job, warnings, text, has_crlf: self.has_crlf, file, external, parts }
    }

    /// Combines jobs that were loaded one by one: `job` is made of theirs.
    pub(super) fn of_several(job: Job, text: Arc<str>, all: Vec<Loaded>) -> Loaded {
        let file = all.iter().map(|loaded| loaded.file.as_str()).collect::<Vec<_>>().join(", ");
        let has_crlf = all.iter().any(|loaded| loaded.has_crlf);
        let (mut parts, mut warnings, mut offset) = (Vec::new(), Vec::new(), 0);
        for loaded in all {
            let Loaded { warnings: own, text, file, external, .. } = loaded;
            warnings.push(own);
            let length = text.len();
            parts.push(LoadedPart { file, text, external, offset });
            offset += length;
        }
        Loaded {
            job,
            warnings: Diagnostics::joined(warnings),
            text,
            has_crlf,
            file,
            external: External::default(),
            parts,
        }
    }

    /// Warnings about input files that no task writes and that do not exist now.
    pub fn missing_inputs(&self) -> Diagnostics {
        if self.parts.is_empty() {
            let missing = missing_inputs(self.external.files.iter());
            return Diagnostics::new(self.file.clone(), self.text.clone(), missing);
        }
        let is_any = self.parts.iter().any(|part| !part.external.files.is_empty());
        let written = if is_any { WrittenFiles::of(&self.job) } else { WrittenFiles::default() };
        let of_part = |part: &LoadedPart| {
            let unwritten = part.external.files.iter().filter(|(path, _)| written.writer_of(path).is_none());
            Diagnostics::new(part.file.clone(), part.text.clone(), missing_inputs(unwritten))
        };
        Diagnostics::joined(self.parts.iter().map(of_part).collect())
    }

    /// The groups that read files which no task of this job writes, ascending, with places.
    pub(super) fn readers_of_external(&self) -> impl Iterator<Item = &(GroupId, Span)> {
        self.external.readers.iter()
    }

    /// Diagnostics about this file that were found later (cycles, tasks that fit nowhere).
    pub fn report(&self, items: Vec<Diagnostic>) -> Diagnostics {
        // Places of several files are those of their texts one after the other.
        let place = items.iter().flat_map(|item| &item.spans).map(|(span, _)| span.start).next();
        let part = place.and_then(|at| self.parts.iter().rfind(|part| part.offset <= at));
        let Some(part) = part else { return Diagnostics::new(self.file.clone(), self.text.clone(), items) };
        let own = part.offset..part.offset + part.text.len();
        let moved = |mut item: Diagnostic| {
            let back = |at: usize| at.saturating_sub(part.offset);
            item.spans.retain(|(span, _)| own.contains(&span.start));
            item.spans.iter_mut().for_each(|(span, _)| *span = back(span.start)..back(span.end));
            item
        };
        Diagnostics::new(part.file.clone(), part.text.clone(), items.into_iter().map(moved).collect())
    }
}

/// Warnings about files that do not exist now.
fn missing_inputs<'a>(external: impl Iterator<Item = &'a (PathBuf, Span)> + Clone) -> Vec<Diagnostic> {
    let mut missing: BTreeMap<(usize, usize), (usize, &Path)> = BTreeMap::new();
    let probe = FileProbe::default();
    for (path, span) in external.clone().filter(|(path, _)| probe.exists(path) == Some(false)) {
        missing.entry((span.start, span.end)).or_insert((0, path)).0 += 1;
    }
    let warnings = missing.into_iter().map(|((start, end), (count, path))| {
        let more = if count > 1 { format!(" (nor do {} others named here)", count - 1) } else { String::new() };
        Diagnostic::warning(format!("the file {} does not exist{more}, and no task writes it", path.display()))
            .at(&(start..end))
            .help(
                "correct the name, or list the file under `outputs` of the task that writes it; in `inputs`, one that \
                 may be missing is written `{ file = \"NAME\", optional = true }`",
            )
    });
    let hung = external.clone().find(|(path, _)| Some(path.as_path()) == probe.unanswered());
    let hung = hung.map(|(path, span)| {
        let text = format!(
            "the file system of {} gives no answer within {ANSWER_TIMEOUT:?}; whether input files exist was not \
                 checked further",
            path.display()
        );
        Diagnostic::warning(text).at(span).help("see whether its server is up (`stat -f` on the directory)")
    });
    warnings.chain(hung).collect()
}

pub(crate) fn not_utf8(file: &str, error: &std::string::FromUtf8Error) -> Diagnostics {
    let at = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    let byte = error.as_bytes().get(at).copied().unwrap_or_default();
    let item = Diagnostic::error("the file is not valid UTF-8")
        .label(&(at..at + char::REPLACEMENT_CHARACTER.len_utf8()), format!("byte 0x{byte:02x}"))
        .help("save the file as UTF-8");
    Diagnostics::new(file, text, vec![item])
}

/// Reads the bytes of one job file of a user, with the files of values that it names.
///
/// # Errors
/// All mistakes in it.
pub(super) fn parse_new(text: &str, file: &str, base: &Path, kernels: &dyn KernelCheck) -> Result<Loaded, Diagnostics> {
    let values = ValueFiles::on_disk();
    let loaded = parse_for(ValueFiles::own_part(text).into(), file, base, kernels, (&values, Some(&Sh::here())))?;
    Ok(Loaded { text: values.append_to(loaded.text), ..loaded })
}

/// Parses the text of one job file called `file_name`, without additions.
pub(super) fn parse_one(
    text: impl Into<Arc<str>>,
    file_name: &str,
    base_dir: &Path,
    kernels: &dyn KernelCheck,
) -> Result<Loaded, Diagnostics> {
    let text = text.into();
    let values = ValueFiles::carried_by(&text);
    parse_for(text, file_name, base_dir, kernels, (&values, None))
}

/// The job to which tasks are added.
pub(crate) struct AdditionTo<'a> {
    pub job: &'a Job,
    /// Which of several jobs; `None` for a run of one.
    pub part: Option<&'a JobPart>,
    /// Number of the first added task.
    pub first_task: TaskId,
    /// Number of the first added table.
    pub first_group: GroupId,
    /// The tables of the job by name; `None`: what the added tasks need is not looked at.
    pub names: Option<&'a FxHashMap<Arc<str>, GroupId>>,
    /// The files of the job; `None`: no order follows from files.
    pub files: Option<&'a DeclaredFiles>,
    /// Which tasks of the job have ended; `None` for an addition that has been accepted.
    pub has_ended: Option<&'a dyn Fn(TaskId) -> bool>,
}

impl AdditionTo<'_> {
    /// The job without tasks.
    pub fn without_tasks(&self) -> Job {
        let job = self.job.without_tasks();
        match self.part {
            Some(part) => part.alone(job),
            None => job,
        }
    }

    fn defaults(&self) -> &Common {
        self.part.map_or(&self.job.defaults, |part| &part.defaults)
    }

    /// The name that a task has in the run.
    pub fn full_name<'b>(&self, name: &'b str) -> Cow<'b, str> {
        self.part.map_or(Cow::Borrowed(name), |part| Cow::Owned(part.full_name(name)))
    }
}

/// Parses the text of tasks that are added to a job.
pub(super) fn parse_addition(
    text: Arc<str>,
    file_name: &str,
    to: &AdditionTo<'_>,
    kernels: &dyn KernelCheck,
    values: &ValueFiles,
) -> Result<Loaded, Diagnostics> {
    let text = if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text };
    let base_dir = to.part.map_or(&to.job.dir, |part| &part.dir);
    let context = ResolveContext { text: &text, stem: "", base_dir, kernels, values, sh: None, to: Some(to) };
    let mut loaded = outcome_of(&context, &text, file_name, false)?;
    loaded.job.set_auto_memory(Arc::clone(&to.job.auto_memory));
    loaded.job.divide_graphs(&to.job.divided_graphs());
    Ok(loaded)
}

/// Like [`parse`], with these files of values, and with warnings of lines that this `sh` does not
/// understand.
fn parse_for(
    text: Arc<str>,
    file_name: &str,
    base_dir: &Path,
    kernels: &dyn KernelCheck,
    (values, sh): (&ValueFiles, Option<&Sh>),
) -> Result<Loaded, Diagnostics> {
    // Line ends are part of multi-line strings, and those of Windows would reach the shell.
    let has_crlf = text.contains("\r\n");
    let text = if has_crlf { text.replace("\r\n", "\n").into() } else { text };
    let stem = Path::new(file_name).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let context = ResolveContext { text: &text, stem: &stem, base_dir, kernels, values, sh, to: None };
    outcome_of(&context, &text, file_name, has_crlf)
}

/// Reads a text; all of its mistakes are reported together.
fn outcome_of(
    context: &ResolveContext<'_>,
    text: &Arc<str>,
    file_name: &str,
    has_crlf: bool,
) -> Result<Loaded, Diagnostics> {
    let text = Arc::clone(text);
    let read = read(&Document::cut(&text), context).unwrap_or_else(|| read_whole(context));
    let failed = !read.syntax.is_empty() || read.findings.has_errors();
    let foreign =
        if read.syntax.is_empty() || context.to.is_some() { None } else { foreign::recognise(&text, file_name) };
    let diagnostics = match foreign {
        // Where it breaks the rules of TOML says nothing then.
        Some((what, help)) => {
            vec![Diagnostic::error(format!("this is no job file but looks like {what}")).help(help)]
        }
        None if read.syntax.is_empty() => read.findings.finish(),
        None => with_syntax_errors(&text, read.syntax, read.findings),
    };
    let diagnostics = Diagnostics::new(file_name, text.clone(), diagnostics);
    match failed {
        true => Err(diagnostics),
        false => Ok(Loaded {
            job: read.job,
            warnings: diagnostics,
            text,
            has_crlf,
            file: file_name.to_string(),
            external: read.external,
            parts: Vec::new(),
        }),
    }
}

/// The result of reading a text; the job is valid only without errors.
#[derive(Default)]
struct ReadOutcome {
    syntax: Vec<Diagnostic>,
    findings: Findings,
    job: Job,
    external: External,
}

/// Reads a text as one piece.
fn read_whole(context: &ResolveContext<'_>) -> ReadOutcome {
    // Reading fails only for texts that were cut into several pieces.
    read(&Document::whole(context.text), context).unwrap_or_default()
}

/// Reads a text piece by piece. `None` if the pieces do not fit together, so that the parser must
/// read the text as a whole.
fn read(document: &Document<'_>, context: &ResolveContext<'_>) -> Option<ReadOutcome> {
    let mut findings = Findings::in_file_with(homes_of);
    // Separate from syntax errors: findings that follow from one are dropped below.
    let mut meaning = Findings::default();
    let remainder = document.remainder();
    let parsed = document.parse_remainder(&remainder);
    if document.tables() > 0 && parsed.root.contains_key(TABLES) {
        return None;
    }
    let mut syntax = parsed.mistakes;
    let spec = read_file(&parsed.root, &mut findings);
    drop(parsed.root);
    let no_defaults = Common::default();
    let given = context.to.map_or(&no_defaults, AdditionTo::defaults);
    let defaults = spec.defaults.as_ref().map_or(given, |at| &at.value);
    let mut resolution = Resolution::new((&spec, defaults), context, document.tables(), &mut meaning);
    spec.tasks().iter().for_each(|task| resolution.add(task, &mut meaning));
    let read = read_pieces(document, |piece| {
        syntax.extend(piece.syntax);
        piece.findings.into_iter().for_each(|finding| findings.push(finding));
        let Some(tasks) = piece.tasks else { return ControlFlow::Break(()) };
        tasks.iter().filter(|_| syntax.is_empty()).for_each(|task| resolution.add(task, &mut meaning));
        ControlFlow::Continue(())
    });
    if read.is_break() {
        return None;
    }
    if !syntax.is_empty() {
        return Some(ReadOutcome { syntax, findings, ..ReadOutcome::default() });
    }
    if resolution.is_empty() && !findings.has_errors() && !meaning.has_errors() {
        let place = spec.task.as_ref().map_or(0..0, |tasks| tasks.span.clone());
        let help = "add one: `[[task]]`, then `name = \"hello\"` and `command = \"echo hello\"`";
        meaning.push(Diagnostic::error("the job has no task").at(&place).help(help));
    }
    let (job, external) = resolution.finish(&mut meaning);
    meaning.finish().into_iter().for_each(|finding| findings.push(finding));
    Some(ReadOutcome { syntax, findings, job, external })
}

/// Combines syntax errors and other findings. Findings on the line of a syntax error, or in a
/// section whose header has one, are dropped: they are most likely consequences.
pub(crate) fn with_syntax_errors(text: &str, errors: Vec<Diagnostic>, findings: Findings) -> Vec<Diagnostic> {
    let mut syntax = Findings::default();
    errors.into_iter().for_each(|error| syntax.push(error));
    let mut items = syntax.finish();
    let place = |d: &Diagnostic| d.spans.first().map_or(0, |(span, _)| span.start);
    let broken: Vec<Range<usize>> = items.iter().map(|d| reach(text, place(d))).collect();
    let unrelated = |d: &Diagnostic| !broken.iter().any(|range| range.contains(&place(d)));
    items.extend(findings.finish().into_iter().filter(unrelated));
    items.sort_by_key(place);
    items
}

/// The text that a syntax error at a byte may affect: its line, or for a header the whole section.
fn reach(text: &str, at: usize) -> Range<usize> {
    let (before, after) = text.as_bytes().split_at(at.min(text.len()));
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let rest = &text.as_bytes()[start..];
    let end = match rest.first() {
        Some(b'[') => rest.windows(2).position(|pair| pair == b"\n[").map_or(text.len(), |length| start + length + 1),
        _ => after.iter().position(|b| *b == b'\n').map_or(text.len(), |length| at + length),
    };
    start..end + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::job::document::tests::in_small_pieces;

    /// Every example and every bad job gives the same result read piece by piece and as a whole.
    #[test]
    fn pieces_say_what_the_whole_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kernels = Kernels::builtin();
        let mut compared = 0;
        for folder in ["jobs", "tests/bad_jobs", "examples"] {
            for entry in std::fs::read_dir(root.join(folder)).expect("a folder").flatten() {
                let path = entry.path();
                let Ok(text) = std::fs::read_to_string(&path) else { continue };
                if path.extension().is_none_or(|ending| ending != "toml") {
                    continue;
                }
                let values = ValueFiles::default();
                let base_dir = Path::new("/");
                let (kernels, values) = (&kernels, &values);
                let context = ResolveContext { text: &text, stem: "j", base_dir, kernels, values, sh: None, to: None };
                let whole = read_whole(&context);
                let Some(cut) = read(&in_small_pieces(&text), &context) else { continue };
                let told = |outcome: ReadOutcome| {
                    let job = format!("{:?} {:?} {:?}", outcome.job, outcome.external, outcome.syntax.len());
                    (job, with_syntax_errors(&text, outcome.syntax, outcome.findings))
                };
                assert_eq!(told(cut), told(whole), "{}", path.display());
                compared += 1;
            }
        }
        assert!(compared > 50, "{compared} files");
    }
}
