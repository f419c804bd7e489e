//! Lexer for Makeflow: quotes, backslashes, comments, and substitution of variables.
//!
//! The rules differ from those of make and of the shell. In a command, one level of backslashes is
//! removed, also inside single quotes, and the shell processes the rest. `#` starts a comment
//! wherever it is not quoted. The value of a variable is split at blanks outside double quotes, and
//! is one word inside them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Maximum number of bytes that variables may add to one line.
const MAX_EXPANSION: usize = 1 << 20;

/// Maximum nesting depth of variables in values.
const MAX_DEPTH: usize = 32;

/// Characters that end an unquoted word.
const WORD_END: &str = "\"'$#\n\t ";

/// Characters at which a file name may end.
const NAME_OF_FILE_END: &[char] = &['\\', '"', '\'', '$', '#', '\n', '\t', ' ', ':', '-'];

/// Characters that end the name of a variable or keyword.
const NAME_END: &str = "\\\"'$#\n\t ,.-(){},[]<>=+!?/:";

/// A position in a text.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'t> {
    pub rest: &'t str,
    /// Line number, from 1.
    pub line: usize,
}

impl Cursor<'_> {
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    pub(super) fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Skips to the end of the line, without consuming it.
    pub(super) fn skip_comment(&mut self) {
        self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
    }

    /// Reads a keyword or variable name; a keyword may begin with a dot.
    pub(super) fn name(&mut self) -> String {
        let end_of = |text: &str, stops: &str| text.find(|c| stops.contains(c)).unwrap_or(text.len());
        let end = match self.rest.starts_with('.') {
            true => end_of(self.rest, WORD_END),
            false => end_of(self.rest, NAME_END),
        };
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_string()
    }

    /// True if this line starts a rule: an unquoted colon comes before any unquoted `=`.
    pub(super) fn is_rule(&self) -> bool {
        let mut quote = None;
        let mut chars = self.rest.chars();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (_, '\n') => return false,
                (Some(open), c) => quote = Some(open).filter(|open| *open != c),
                (None, ':') => return true,
                (None, '=') => return false,
                (None, '"' | '\'') => quote = Some(c),
                (None, '\\') => drop(chars.next()),
                (None, _) => {}
            }
        }
        false
    }
}

/// State that the lines of a file share.
pub(super) struct LexerContext<'v> {
    /// Returns the value of a variable that the file defines.
    pub value: &'v dyn Fn(&str) -> Option<String>,
    /// Variables that the file uses and does not define.
    pub undefined: RefCell<BTreeSet<String>>,
    expansion: Cell<usize>,
}

impl<'v> LexerContext<'v> {
    pub(super) fn new(value: &'v dyn Fn(&str) -> Option<String>) -> LexerContext<'v> {
        LexerContext { value, undefined: RefCell::default(), expansion: Cell::new(0) }
    }
}

/// A token of a file list or command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LexerToken {
    Text(String),
    Blank,
    Colon,
    /// `->`, which renames a file.
    Arrow,
}

/// Reads one construct of a file, or the value of a variable in it.
pub(super) struct Lexer<'t, 'v, 'c> {
    pub cursor: Cursor<'t>,
    context: &'c LexerContext<'v>,
    depth: usize,
    /// The text is a list of files, in which no shell substitutes variables.
    of_files: bool,
}

impl<'t, 'v, 'c> Lexer<'t, 'v, 'c> {
    pub(super) fn new(cursor: Cursor<'t>, context: &'c LexerContext<'v>) -> Lexer<'t, 'v, 'c> {
        Lexer { cursor, context, depth: 0, of_files: false }
    }

    /// Reads the files of a rule up to the end of the line.
    pub(super) fn files(&mut self) -> Result<Vec<LexerToken>, String> {
        let mut tokens = Vec::new();
        self.of_files = true;
        while let Some(c) = self.cursor.peek() {
            match c {
                '\n' if self.depth == 0 => {
                    self.cursor.next();
                    break;
                }
                '#' if self.depth == 0 => self.cursor.skip_comment(),
                ' ' | '\t' | '\n' => {
                    self.cursor.next();
                    push(&mut tokens, LexerToken::Blank);
                }
                ':' => {
                    self.cursor.next();
                    tokens.push(LexerToken::Colon);
                }
                '$' => self.substitute(&mut tokens, |lexer| lexer.files())?,
                '\'' => push(&mut tokens, LexerToken::Text(self.single_quoted(false)?)),
                '"' => push(&mut tokens, LexerToken::Text(self.double_quoted(false)?)),
                '-' if self.cursor.rest.starts_with("->") => {
                    self.cursor.rest = &self.cursor.rest[2..];
                    tokens.push(LexerToken::Arrow);
                }
                // Makeflow inserts a blank into a continued file name; such files do not occur.
                '\\' if self.cursor.rest.starts_with("\\\n") => {
                    self.cursor.next();
                    self.cursor.next();
                    push(&mut tokens, LexerToken::Blank);
                }
                '\\' => {
                    self.cursor.next();
                    push(&mut tokens, LexerToken::Text(self.cursor.next().map(String::from).unwrap_or_default()));
                }
                c => {
                    let first = c.len_utf8();
                    let rest = self.cursor.rest;
                    let end = rest[first..].find(NAME_OF_FILE_END).map_or(rest.len(), |end| first + end);
                    push(&mut tokens, LexerToken::Text(rest[..end].to_string()));
                    self.cursor.rest = &rest[end..];
                }
            }
        }
        Ok(tokens)
    }

    /// Reads a command up to the end of the line, without its comment.
    pub(super) fn command(&mut self) -> Result<Vec<LexerToken>, String> {
        let mut tokens = Vec::new();
        while let Some(c) = self.cursor.peek() {
            match c {
                '\n' if self.depth == 0 => {
                    self.cursor.next();
                    break;
                }
                '#' if self.depth == 0 => self.cursor.skip_comment(),
                ' ' | '\t' | '\n' => {
                    self.cursor.next();
                    push(&mut tokens, LexerToken::Blank);
                }
                '$' => self.substitute(&mut tokens, |lexer| lexer.command())?,
                '\'' => push(&mut tokens, LexerToken::Text(self.single_quoted(true)?)),
                '"' => push(&mut tokens, LexerToken::Text(self.double_quoted(true)?)),
                '#' => {
                    self.cursor.next();
                    push(&mut tokens, LexerToken::Text("#".into()));
                }
                _ => {
                    let mut text = String::new();
                    self.escaped_until(WORD_END, &mut text);
                    push(&mut tokens, LexerToken::Text(text));
                }
            }
        }
        Ok(tokens)
    }

    /// Reads the value of a variable up to the end of the line, without its comment.
    pub(super) fn value(&mut self) -> Result<String, String> {
        let mut value = String::new();
        self.cursor.skip_blanks();
        while let Some(c) = self.cursor.peek() {
            match c {
                '\n' => break,
                // In this case Makeflow 7 takes the next line as part of the value, which only
                // shows in its error messages.
                '#' => self.cursor.skip_comment(),
                '$' => value.push_str(&self.variable()?),
                '\'' => value.push_str(&self.single_quoted(true)?),
                '"' => value.push_str(&self.double_quoted(true)?),
                _ => self.expandable("\n$\"'#", &mut value),
            }
        }
        Ok(value)
    }

    /// Reads up to a character of `stops`. Backslashes are removed and the characters after them
    /// kept; an escaped line end becomes a blank.
    fn escaped_until(&mut self, stops: &str, text: &mut String) {
        while let Some(c) = self.cursor.peek().filter(|c| !stops.contains(*c)) {
            self.cursor.next();
            match c {
                '\\' => match self.cursor.next() {
                    Some('\n') => text.push(' '),
                    next => text.extend(next),
                },
                c => text.push(c),
            }
        }
    }

    /// The same with C escapes, as in values and double quotes.
    fn expandable(&mut self, stops: &str, text: &mut String) {
        while let Some(c) = self.cursor.peek().filter(|c| !stops.contains(*c)) {
            self.cursor.next();
            if c != '\\' {
                text.push(c);
                continue;
            }
            text.extend(self.cursor.next().map(|escaped| match escaped {
                '\n' => ' ',
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                other => other,
            }));
        }
    }

    fn single_quoted(&mut self, keep: bool) -> Result<String, String> {
        self.cursor.next();
        let mut text = String::from(if keep { "'" } else { "" });
        self.escaped_until("'", &mut text);
        self.cursor.next().ok_or("the quote ' is not closed; for the character itself write \\'")?;
        text.push_str(if keep { "'" } else { "" });
        Ok(text)
    }

    fn double_quoted(&mut self, keep: bool) -> Result<String, String> {
        self.cursor.next();
        self.cursor.skip_blanks();
        let mut text = String::from(if keep { "\"" } else { "" });
        loop {
            match self.cursor.peek() {
                None => return Err("the quote \" is not closed; for the character itself write \\\"".into()),
                Some('"') => break,
                Some('$') => text.push_str(&self.variable()?),
                Some('\'') => text.push_str(&self.single_quoted(keep)?),
                Some(_) => self.expandable("\"$'", &mut text),
            }
        }
        self.cursor.next();
        text.push_str(if keep { "\"" } else { "" });
        Ok(text)
    }

    /// Reads the name after a `$`.
    fn variable_name(&mut self) -> Result<String, String> {
        self.cursor.next();
        let closer = match self.cursor.peek() {
            Some('(') => Some(')'),
            Some('{') => Some('}'),
            _ => None,
        };
        if closer.is_some() {
            self.cursor.next();
        }
        let name = self.cursor.name();
        if name.is_empty() {
            return Err("no name of a variable follows `$`; for the shell's `$` write `\\$`".into());
        }
        if closer.is_some() && self.cursor.next() != closer {
            return Err(format!(
                "only the name of a variable can stand in the brackets after `$`, as in $({name}); for the shell's `$(...)` write `\\$(...)`"
            ));
        }
        Ok(name)
    }

    /// Determines the replacement of the variable at this place.
    fn replacement(&mut self) -> Result<Replacement, String> {
        let name = self.variable_name()?;
        let Some(value) = (self.context.value)(&name) else {
            if self.of_files {
                return Err(format!(
                    "the name of a file has ${name}, which this file does not define; give it a value above"
                ));
            }
            let shell = format!("${{{name}}}");
            self.context.undefined.borrow_mut().insert(name);
            return Ok(Replacement::Shell(shell));
        };
        let total = self.context.expansion.get().saturating_add(value.len());
        self.context.expansion.set(total);
        match total <= MAX_EXPANSION {
            true => Ok(Replacement::Value(value)),
            false => Err("this line becomes too long when its variables are replaced".into()),
        }
    }

    /// The value of a variable as one word.
    fn variable(&mut self) -> Result<String, String> {
        self.replacement().map(|(Replacement::Value(text) | Replacement::Shell(text))| text)
    }

    /// The value of a variable, tokenized by the rules of the place where it is used.
    fn substitute(
        &mut self,
        tokens: &mut Vec<LexerToken>,
        read: for<'x> fn(&mut Lexer<'x, 'v, 'c>) -> Result<Vec<LexerToken>, String>,
    ) -> Result<(), String> {
        let value = match self.replacement()? {
            Replacement::Shell(text) => {
                push(tokens, LexerToken::Text(text));
                return Ok(());
            }
            Replacement::Value(value) => value,
        };
        if self.depth == MAX_DEPTH {
            return Err(format!("values refer to other variables more than {MAX_DEPTH} times over"));
        }
        let cursor = Cursor { rest: &value, line: self.cursor.line };
        let inner = read(&mut Lexer { cursor, context: self.context, depth: self.depth + 1, of_files: self.of_files })?;
        inner.into_iter().for_each(|token| push(tokens, token));
        Ok(())
    }
}

/// The replacement of a variable.
enum Replacement {
    /// The value that the file defines.
    Value(String),
    /// A shell variable reference, because the file does not define the variable.
    Shell(String),
}

/// Adds a token; adjacent texts are merged, and so are blanks.
fn push(tokens: &mut Vec<LexerToken>, token: LexerToken) {
    match (tokens.last_mut(), token) {
        (Some(LexerToken::Text(text)), LexerToken::Text(more)) => text.push_str(&more),
        (Some(LexerToken::Blank), LexerToken::Blank) => {}
        (_, token) => tokens.push(token),
    }
}
