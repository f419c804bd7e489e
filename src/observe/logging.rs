//! Logging through `tracing`: text or JSON lines on standard error. With JSON, what is said to the
//! user there is a line of the log, too.
//!
//! Each line names its rank, because the launcher merges the standard errors of all ranks.

use std::fmt;

use thiserror::Error;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::style::Paint;
use super::terminal::{AboveBar, NOTICE, log_notices};
use crate::model::Rank;

/// Environment variable with the log filter, e.g. `debug` or `phalanx::fabric=trace,info`.
pub const FILTER_VARIABLE: &str = "PHALANX_LOG";

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Error: logging cannot be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// The filter in the environment is invalid.
    #[error(
        "{FILTER_VARIABLE}={text:?} is not a log filter ({reason}): use a level (error, warn, info, debug, trace) or e.g. \"info,phalanx::fabric=debug\""
    )]
    Filter {
        /// The variable's value.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A logger is already installed.
    #[error("logging is set up already: {0}")]
    Twice(String),
}

/// Installs the logger of this process: warnings and errors, plus one level per `-v`, unless
/// `PHALANX_LOG` is set. `rank` is `None` without a launcher.
pub fn init(format: LogFormat, verbosity: u8, rank: Option<Rank>) -> Result<(), LoggingError> {
    let filter = filter(std::env::var(FILTER_VARIABLE).ok(), verbosity)?;
    // The layer would report its own failed writes with `eprintln!`, which panics if standard error
    // cannot be written.
    let lines = tracing_subscriber::fmt::layer().with_writer(|| AboveBar).log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Human => {
            let colours = Paint::for_stream(&std::io::stderr()) != Paint::OFF;
            let lines = lines.with_ansi(colours).event_format(Human { rank, inner: Format::default() });
            registry.with(lines).with(filter).try_init()
        }
        LogFormat::Json => {
            let inner = Format::default().json().flatten_event(true);
            log_notices();
            let filter = filter.with_target(NOTICE, LevelFilter::INFO);
            registry.with(lines.json().event_format(JsonLine { rank, inner })).with(filter).try_init()
        }
    }
    .map_err(|error| LoggingError::Twice(error.to_string()))
}

fn filter(variable: Option<String>, verbosity: u8) -> Result<Targets, LoggingError> {
    const LEVELS: [LevelFilter; 4] = [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];
    match variable.filter(|text| !text.trim().is_empty()) {
        Some(text) => text.parse::<Targets>().map_err(|error| LoggingError::Filter { text, reason: error.to_string() }),
        None => Ok(Targets::new().with_default(LEVELS[usize::from(verbosity.min(3))])),
    }
}

/// Text format: prefixes each line with `rank 3: `.
struct Human {
    rank: Option<Rank>,
    inner: Format,
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if let Some(rank) = self.rank {
            write!(to, "{rank}: ")?;
        }
        self.inner.format_event(context, to, event)
    }
}

/// JSON format: adds the field `rank`.
struct JsonLine {
    rank: Option<Rank>,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(rank) = self.rank else { return self.inner.format_event(context, to, event) };
        let mut object = String::new();
        self.inner.format_event(context, Writer::new(&mut object), event)?;
        match object.strip_prefix('{') {
            Some(rest) => write!(to, "{{\"rank\":{},{rest}", rank.0),
            None => to.write_str(&object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn json_lines_are_json_with_the_rank() {
        let memory = Memory::default();
        let writer = memory.clone();
        let inner = Format::default().json().flatten_event(true);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .json()
            .event_format(JsonLine { rank: Some(Rank(3)), inner })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(task = 7, "a {}", "message"));
        let line: serde_json::Value = serde_json::from_str(&memory.text()).unwrap();
        assert_eq!((&line["rank"], &line["task"], &line["message"]), (&3.into(), &7.into(), &"a message".into()));
    }

    #[test]
    fn lines_for_people_begin_with_the_rank() {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Human { rank: Some(Rank(3)), inner: Format::default() })
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!("a message"));
        assert!(memory.text().starts_with("rank 3: 20"), "{}", memory.text());
    }

    #[test]
    fn each_v_is_one_level_and_the_variable_wins() {
        assert_eq!(filter(None, 0).unwrap().to_string(), "warn");
        assert_eq!(filter(Some(" ".into()), 9).unwrap().to_string(), "trace");
        assert_eq!(filter(Some("phalanx::pool=debug".into()), 0).unwrap().to_string(), "phalanx::pool=debug");
        let error = filter(Some("phalanx=loud".into()), 0).unwrap_err().to_string();
        assert!(error.contains("PHALANX_LOG=\"phalanx=loud\""), "{error}");
    }
}
