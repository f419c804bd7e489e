//! Resolves `[[alert]]`: defaults, and contradictions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::job::Alert;
use crate::job::alert::{METRICS, PREFIXES, is_metric};
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::read::At;
use crate::job::spec::AlertSpec;
use crate::job::units::shorten;
use crate::job::values::CommandSpec;

/// Default interval between two notifications of an alert.
const DEFAULT_REPEAT: Duration = Duration::from_secs(600);

/// Resolves the `[[alert]]` tables.
pub(super) fn resolve_alerts(specs: &[At<AlertSpec>], dir: &Path, findings: &mut Findings) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for at in specs {
        let Some(alert) = resolve_alert(at, dir, findings) else { continue };
        if alerts.iter().any(|known| known.name == alert.name)
            && let Some(name) = &at.value.name
        {
            let error = Diagnostic::error(format!("two alerts are called `{}`", shorten(&alert.name)));
            findings.push(error.at(&name.span).help("give each a name of its own"));
        }
        alerts.push(alert);
    }
    alerts
}

fn resolve_alert(at: &At<AlertSpec>, dir: &Path, findings: &mut Findings) -> Option<Alert> {
    let spec = &at.value;
    check_thresholds(at, findings);
    if let Some(metric) = spec.metric.as_ref().filter(|metric| !is_metric(&metric.value)) {
        let families: Vec<String> = PREFIXES.iter().map(|(prefix, _)| format!("{prefix}NAME")).collect();
        let names: Vec<&str> = METRICS.iter().map(|(name, _)| *name).chain(families.iter().map(|f| &**f)).collect();
        let name = shorten(&metric.value);
        let error = Diagnostic::error(format!("there is no metric `{name}`")).at(&metric.span);
        findings.push(error.help(suggest(&name, &names, "metrics")));
    }
    if let Some(webhook) = &spec.webhook {
        check_webhook(webhook, findings);
    }
    Some(Alert {
        // Missing fields are already reported.
        name: spec.name.as_ref()?.value.clone(),
        metric: spec.metric.as_ref()?.value.clone(),
        above: spec.above.as_ref().map(|at| at.value.0),
        below: spec.below.as_ref().map(|at| at.value.0),
        lasting: spec.lasting.as_ref().map_or(Duration::ZERO, |at| at.value.0),
        repeat: spec.repeat.as_ref().map_or(DEFAULT_REPEAT, |at| at.value.0),
        file: spec.file.as_ref().map(|at| dir.join(PathBuf::from(&at.value))),
        webhook: spec.webhook.as_ref().map(|at| at.value.clone()),
        command: spec.command.as_ref().map(|at| words(&at.value)),
    })
}

fn check_thresholds(at: &At<AlertSpec>, findings: &mut Findings) {
    match (&at.value.above, &at.value.below) {
        (None, None) => {
            let error = Diagnostic::error("the alert has no threshold").at(&at.span);
            findings.push(error.help("add `above = ...`, `below = ...` or both"));
        }
        (Some(above), Some(below)) if below.value.0 > above.value.0 => {
            let (high, low) = (above.value.0, below.value.0);
            let error = Diagnostic::error(format!("`below` ({low}) must be at most `above` ({high})")).at(&below.span);
            findings.push(error.help("else one of them would always hold"));
        }
        _ => {}
    }
}

/// True for an address that a request can be sent to.
pub(super) fn is_http_address(text: &str) -> bool {
    let uri = text.parse::<hyper::Uri>().ok();
    uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn check_webhook(webhook: &At<String>, findings: &mut Findings) {
    if !is_http_address(&webhook.value) {
        let error = Diagnostic::error("`webhook` must be an address such as \"https://host/path\"");
        let help =
            "http and https are spoken here; what speaks something else is reached through `command = [\"curl\", ...]`";
        findings.push(error.at(&webhook.span).help(help));
    }
}

/// A command as words; a line is one for the shell.
pub(super) fn words(command: &CommandSpec) -> Vec<String> {
    match command {
        CommandSpec::List(words) => words.iter().map(|word| word.value.clone()).collect(),
        CommandSpec::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
    }
}
