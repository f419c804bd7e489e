//! Resolves `[advisor]`: an endpoint or a command, not both.

use super::alerts::{is_http_address, words};
use crate::job::AdvisorAddress;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::spec::AdvisorSpec;

/// Resolves `[advisor]` of a job that scales or not.
pub(super) fn resolve_advisor(at: &At<AdvisorSpec>, scales: bool, findings: &mut Findings) -> Option<AdvisorAddress> {
    if !scales {
        let error = Diagnostic::error("the job has no `[scaling]`, so there is no decision to give advice on");
        findings.push(error.at(&at.span).help("add `[scaling]` with a `policy`, or remove `[advisor]`"));
    }
    let AdvisorSpec { url, model, command, .. } = &at.value;
    match (url, command) {
        (Some(url), None) => {
            if !is_http_address(&url.value) {
                let error = Diagnostic::error("`url` must be an address such as \"https://host/v1/chat/completions\"");
                findings
                    .push(error.at(&url.span).help("http and https are spoken here; `command` reaches anything else"));
            }
            let Some(model) = model else {
                let error = Diagnostic::error("an endpoint needs the name of a model").at(&url.span);
                findings.push(error.help("add `model = \"...\"`"));
                return None;
            };
            Some(AdvisorAddress::Endpoint { url: url.value.clone(), model: model.value.clone() })
        }
        (None, Some(command)) => {
            if let Some(model) = model {
                let error = Diagnostic::error("`model` belongs to `url`: a command knows whom it asks");
                findings.push(error.at(&model.span).help("remove it, or make it an argument of the command"));
            }
            Some(AdvisorAddress::Command(words(&command.value)))
        }
        (Some(_), Some(command)) => {
            let error = Diagnostic::error("`[advisor]` has a `url` and a `command`").at(&command.span);
            findings.push(error.help("keep one of them"));
            None
        }
        (None, None) => {
            let error = Diagnostic::error("`[advisor]` does not say who is asked").at(&at.span);
            findings.push(error.help("add `url` and `model`, or `command`"));
            None
        }
    }
}
