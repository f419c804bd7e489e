//! Resolved task tables whose dependencies are not resolved yet, stored compactly: there may be a
//! million of them.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::graph::link::GroupId;
use crate::job::Group;
use crate::job::body::{Arg, Body, Extras, WorkTemplate};
use crate::job::read::{At, Span};
use crate::job::template::{Element, Template};
use crate::job::values::{NeedSpec, OneOf, When};

/// Maximum number of texts remembered for sharing. The few texts that many tables have in common
/// come early in a file.
const MAX_SHARED_TEXTS: usize = 4096;

/// Maximum number of shell lines checked.
const MAX_LINES_CHECKED: u32 = 10_000;

/// A byte range in a text of less than 4 GiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourcePlace {
    start: u32,
    end: u32,
}

impl SourcePlace {
    pub(super) fn of(span: &Span) -> SourcePlace {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        SourcePlace { start: narrow(span.start), end: narrow(span.end) }
    }

    pub(super) fn span(self) -> Span {
        self.start as usize..self.end as usize
    }
}

/// A need as typed.
pub(super) enum TypedNeed {
    /// A string without escapes: its text is between the quotes.
    Quoted(SourcePlace),
    Other(Box<At<NeedSpec>>),
}

/// The content of a need, independent of its storage.
pub(super) struct NeedView<'a> {
    pub text: &'a str,
    pub text_span: Span,
    pub when: Option<&'a At<OneOf<When>>>,
    /// The whole entry.
    pub span: Span,
}

impl Notes {
    /// Those of a table that another text has.
    pub(super) fn elsewhere() -> Notes {
        let nowhere = SourcePlace::of(&(0..0));
        Notes { needs: Box::default(), name: nowhere, space: nowhere, files: Box::default(), inputs: 0, broken: false }
    }

    /// Where its inputs are named.
    pub(super) fn inputs(&self) -> &[SourcePlace] {
        &self.files[..self.inputs as usize]
    }

    /// Where its outputs are named.
    pub(super) fn outputs(&self) -> &[SourcePlace] {
        &self.files[self.inputs as usize..]
    }
}

impl TypedNeed {
    pub(super) fn new(need: &At<NeedSpec>, text: &str) -> TypedNeed {
        let typed = &need.value.text;
        let quoted = need.value.when.is_none() && inside(text, &need.span) == Some(&typed.value);
        match quoted {
            true => TypedNeed::Quoted(SourcePlace::of(&need.span)),
            false => TypedNeed::Other(Box::new(need.clone())),
        }
    }

    /// The content of the need; `text` is the text of the file.
    pub(super) fn view<'a>(&'a self, text: &'a str) -> NeedView<'a> {
        match self {
            TypedNeed::Quoted(place) => {
                let span = place.span();
                NeedView { text: inside(text, &span).unwrap_or_default(), text_span: span.clone(), when: None, span }
            }
            TypedNeed::Other(need) => NeedView {
                text: &need.value.text.value,
                text_span: need.value.text.span.clone(),
                when: need.value.when.as_ref(),
                span: need.span.clone(),
            },
        }
    }
}

/// The text between the first and the last byte of a place.
fn inside<'t>(text: &'t str, span: &Span) -> Option<&'t str> {
    text.get(span.start + 1..span.end.checked_sub(1)?)
}

/// Facts about a table that are needed only until the job is built.
pub(super) struct Notes {
    pub needs: Box<[TypedNeed]>,
    pub name: SourcePlace,
    pub space: SourcePlace,
    /// Its inputs, and behind them its outputs.
    pub files: Box<[SourcePlace]>,
    /// The number of inputs.
    pub inputs: u32,
    /// True if the table had a mistake, so that references to it cannot be checked.
    pub broken: bool,
}

/// One table.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a> {
    pub group: &'a Group,
    pub body: &'a Body,
    pub notes: &'a Notes,
}

impl Draft<'_> {
    /// The name of one of its tasks.
    pub(super) fn task_name(self, element: u32) -> String {
        self.body.space().element_name(&self.group.name, element)
    }

    /// What the command of one of its tasks may name as files besides programs.
    pub(super) fn words(self, number: u32) -> Vec<String> {
        let element = Element { name: &self.group.name, space: self.body.space(), number };
        let text = match &self.body.work {
            WorkTemplate::Shell(line) => line.fill(element),
            WorkTemplate::Command(words) => words.iter().map(|word| word.fill(element) + "\n").collect(),
            WorkTemplate::Kernel { .. } => String::new(),
        };
        let is_between = |c: char| c.is_whitespace() || "'\"`;|&<>(){}$=,".contains(c);
        let words = text.split(is_between).filter(|word| !word.is_empty()).skip(1);
        words.filter(|word| !word.starts_with(['/', '-']) && !word.starts_with("./")).map(str::to_owned).collect()
    }
}

/// All tables, in the order of the file.
pub(super) struct Drafts {
    groups: Vec<Group>,
    bodies: Vec<Body>,
    notes: Vec<Notes>,
}

impl Drafts {
    pub(super) fn with_capacity(tables: usize) -> Drafts {
        Drafts {
            groups: Vec::with_capacity(tables),
            bodies: Vec::with_capacity(tables),
            notes: Vec::with_capacity(tables),
        }
    }

    pub(super) fn push(&mut self, (group, body, notes): (Group, Body, Notes)) {
        self.groups.push(group);
        self.bodies.push(body);
        self.notes.push(notes);
    }

    /// Drops the tables from `own` on.
    pub(super) fn truncate(&mut self, own: usize) {
        self.groups.truncate(own);
        self.bodies.truncate(own);
        self.notes.truncate(own);
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn get(&self, group: GroupId) -> Draft<'_> {
        let at = group as usize;
        Draft { group: &self.groups[at], body: &self.bodies[at], notes: &self.notes[at] }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Draft<'_>> {
        (0..self.len() as GroupId).map(|group| self.get(group))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&mut Group, &Body, &mut Notes)> {
        let others = self.bodies.iter().zip(&mut self.notes);
        self.groups.iter_mut().zip(others).map(|(group, (body, notes))| (group, body, notes))
    }

    /// The groups and the work of their tasks.
    pub(super) fn finish(self) -> (Vec<Group>, Vec<Body>) {
        (self.groups, self.bodies)
    }
}

/// Values that tables share, so that each is in memory once.
#[derive(Default)]
pub(super) struct SharedTables {
    texts: FxHashSet<Arc<str>>,
    env: Latest<[(Arc<str>, Template)]>,
    args: Latest<[(String, Arg)]>,
    extras: Latest<Extras>,
    /// Number of shell lines checked.
    judged: u32,
    /// By name of a graph, where its file is named.
    pub(super) graph_places: HashMap<String, SourcePlace>,
}

impl SharedTables {
    /// True for the first lines of a job: checking a million lines would take a minute, and the
    /// first ones are representative.
    pub(super) fn judge_one(&mut self) -> bool {
        self.judged += 1;
        self.judged <= MAX_LINES_CHECKED
    }

    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        if self.texts.len() < MAX_SHARED_TEXTS {
            self.texts.insert(Arc::clone(&text));
        }
        text
    }

    pub(super) fn template(&mut self, template: Template) -> Template {
        match template {
            Template::Text(text) => Template::Text(self.text(&text)),
            pieces => pieces,
        }
    }

    pub(super) fn env(&mut self, env: Vec<(Arc<str>, Template)>) -> Arc<[(Arc<str>, Template)]> {
        self.env.known(&env).unwrap_or_else(|| self.env.keep(env.into()))
    }

    pub(super) fn args(&mut self, args: Vec<(String, Arg)>) -> Arc<[(String, Arg)]> {
        self.args.known(&args).unwrap_or_else(|| self.args.keep(args.into()))
    }

    pub(super) fn extras(&mut self, extras: Extras) -> Arc<Extras> {
        self.extras.known(&extras).unwrap_or_else(|| self.extras.keep(extras.into()))
    }
}

/// Shares values of the last table that had one, because adjacent tables are usually similar.
struct Latest<T: ?Sized> {
    none: Arc<T>,
    last: Arc<T>,
}

impl<T: ?Sized> Default for Latest<T>
where
    Arc<T>: Default,
{
    fn default() -> Self {
        let none: Arc<T> = Arc::default();
        Latest { last: Arc::clone(&none), none }
    }
}

impl<T: ?Sized + PartialEq> Latest<T> {
    fn known(&self, value: &T) -> Option<Arc<T>> {
        [&self.last, &self.none].into_iter().find(|known| ***known == *value).cloned()
    }

    fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        self.last = Arc::clone(&value);
        value
    }
}
