//! Resolves `[capacity]` and `[[site]]`: defaults, and contradictions.

use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use super::names::{check_name, resolve_labels};
use super::scaling::{not_zero, time, whole};
use crate::job::capacity::{ID_PLACEHOLDERS, SUBMIT_PLACEHOLDERS, TIME_PLACEHOLDERS, placeholders, unusable_option};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Span};
use crate::job::spec::{CapacitySpec, CommandsSpec, CostSpec, FileSpec, NodesSpec, SiteSpec};
use crate::job::units::shorten;
use crate::job::{Capacity, CommandCapacity, Cost, NodeTerms, ProviderKind, Site, SiteTerms};
use crate::model::labels_of;

/// Default `patience`.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(300);

/// The table that is resolved.
#[derive(Clone, Copy)]
enum Place {
    Capacity,
    Site,
}

impl Place {
    fn table(self) -> &'static str {
        match self {
            Place::Capacity => "[capacity]",
            Place::Site => "the [[site]]",
        }
    }

    fn commands(self) -> &'static str {
        match self {
            Place::Capacity => "[capacity.commands]",
            Place::Site => "[site.commands]",
        }
    }
}

/// Resolves `[capacity]` and the `[[site]]` tables: where nodes come from, and where rank 0
/// listens.
pub(super) fn resolve_sites(spec: &FileSpec, cost: &Cost, findings: &mut Findings) -> (Vec<Site>, Option<String>) {
    let common = spec.capacity.as_ref().map(|at| &at.value);
    let listen = common.and_then(|it| it.own.listen.as_ref()).map(|at| at.value.clone());
    let sites = spec.sites();
    if sites.is_empty() {
        let capacity = common.map(|it| capacity(&it.nodes, Place::Capacity, findings)).unwrap_or_default();
        return (sites_of_types(capacity, spec.cost.as_ref().map(|at| &at.value), cost, findings), listen);
    }
    for (key, span) in common.map(fields_of_sites).unwrap_or_default() {
        let error = Diagnostic::error(format!("`{key}` is a field of each [[site]] in a job that has them"));
        findings.push(error.at(span).help("move it there: beside [[site]], [capacity] may only have `listen`"));
    }
    let limits = spec.cost.as_ref().map(|at| &at.value);
    for name in limits.into_iter().flat_map(CostSpec::node_types).filter_map(|node| node.value.name.as_ref()) {
        if !sites.iter().any(|site| site.value.own.node.as_ref().is_some_and(|node| node.value == name.value)) {
            let name_shown = shorten(&name.value);
            let error = Diagnostic::error(format!("no site has nodes of the type `{name_shown}`")).at(&name.span);
            findings.push(error.help(format!("write `node = \"{name_shown}\"` in a [[site]], or remove the type")));
        }
    }
    let mut found: Vec<Site> = Vec::new();
    for at in sites {
        let mut capacity = capacity(&at.value.nodes, Place::Site, findings);
        if capacity.provider == ProviderKind::None {
            let typed = at.value.nodes.provider.as_ref();
            let error = Diagnostic::error("the site has no provider").at(typed.map_or(&at.span, |typed| &typed.span));
            findings.push(error.help("write `provider = \"slurm\"`, \"commands\" or \"local\""));
        }
        check_price(at, cost, limits, findings);
        // A missing name is already reported.
        let Some(name) = &at.value.own.name else { continue };
        if let Err(why) = check_name(&name.value) {
            let error = Diagnostic::error(format!("this is no name of a site: {why}")).at(&name.span);
            findings.push(error.help("write a word such as \"cheap\""));
        }
        if found.iter().any(|site| site.name() == Some(&name.value)) {
            let error = Diagnostic::error(format!("two sites are called `{}`", shorten(&name.value)));
            findings.push(error.at(&name.span).help("give each a name of its own"));
        }
        let terms = terms(&at.value, name.value.clone(), cost, findings);
        if let Some(node_type) = &at.value.own.node {
            check_type(&terms.node, node_type, capacity.provider, findings);
            let is_same =
                |other: &&At<SiteSpec>| other.value.own.node.as_ref().is_some_and(|it| it.value == node_type.value);
            let is_first = sites.iter().find(is_same).is_some_and(|first| std::ptr::eq(first, at));
            let has_limit = cost.nodes.iter().any(|it| it.name == node_type.value && it.limit.is_some());
            if has_limit && !is_first {
                let of = shorten(&node_type.value);
                let error = Diagnostic::error(format!("two sites have nodes of the type `{of}`, which has a `limit`"));
                let help = "write a `limit` in each [[site]] instead of the [[cost.node]]: a site counts its own nodes";
                findings.push(error.at(&node_type.span).help(help));
            }
            add_type(&mut capacity, &terms.node);
        }
        found.push(Site { capacity, terms: Some(terms) });
    }
    (found, listen)
}

/// The sources of nodes of a job without `[[site]]`: `[capacity]`, for each node type if the job
/// has several.
fn sites_of_types(capacity: Capacity, spec: Option<&CostSpec>, cost: &Cost, findings: &mut Findings) -> Vec<Site> {
    if capacity.provider == ProviderKind::None {
        return Vec::new();
    }
    if capacity.provider == ProviderKind::Local {
        let partitions = spec.into_iter().flat_map(CostSpec::node_types).filter_map(|at| at.value.partition.as_ref());
        for partition in partitions {
            let error = Diagnostic::error("`partition` is for batch systems, and the provider is \"local\"");
            findings.push(error.at(&partition.span).help("write `provider = \"slurm\"` or remove it"));
        }
    }
    if cost.nodes.is_empty() {
        return vec![Site { capacity, terms: None }];
    }
    let site = |node: &NodeTerms| {
        let mut capacity = capacity.clone();
        capacity.partition = node.partition.clone().or(capacity.partition);
        add_type(&mut capacity, node);
        let (name, node) = (node.name.clone(), node.clone());
        // What is decided to be of one type waits for that.
        Site { capacity, terms: Some(SiteTerms { name, node, patience: Duration::MAX, bandwidth: None }) }
    };
    cost.nodes.iter().map(site).collect()
}

/// Refuses a type with a partition for a site that has none.
fn check_type(node: &NodeTerms, name: &At<String>, provider: ProviderKind, findings: &mut Findings) {
    if provider == ProviderKind::Local && node.partition.is_some() {
        let of = shorten(&name.value);
        let error =
            Diagnostic::error(format!("nodes of the type `{of}` have a partition, and the provider is \"local\""));
        findings.push(
            error.at(&name.span).help("write `provider = \"slurm\"`, or remove `partition` from the [[cost.node]]"),
        );
    }
}

/// What the type of the nodes adds to how they are requested.
fn add_type(capacity: &mut Capacity, node: &NodeTerms) {
    capacity.slots = node.slots;
    capacity.partition = capacity.partition.take().or_else(|| node.partition.clone());
    capacity.labels = labels_of(capacity.labels.iter().chain(node.labels.iter()).cloned()).to_vec();
}

fn terms(spec: &SiteSpec, name: String, cost: &Cost, findings: &mut Findings) -> SiteTerms {
    let own = &spec.own;
    not_zero("patience", own.patience.as_ref(), findings);
    SiteTerms {
        node: match &own.node {
            Some(node) => type_of_site(spec, node, cost, findings),
            None => NodeTerms {
                name: name.clone(),
                node_hour: own.node_hour.as_ref().map_or(cost.node_hour, |at| at.value.0),
                minimum: time(own.minimum.as_ref(), cost.minimum),
                granularity: time(own.granularity.as_ref(), cost.granularity),
                slots: whole(own.slots.as_ref().map(|at| at.value.0)),
                limit: whole(own.limit.as_ref().map(|at| at.value.0)),
                ..NodeTerms::default()
            },
        },
        name,
        patience: time(own.patience.as_ref(), DEFAULT_PATIENCE),
        bandwidth: own.bandwidth.as_ref().map(|at| at.value.0),
    }
}

/// The type that a site names. The site does not say again what the type says.
fn type_of_site(spec: &SiteSpec, name: &At<String>, cost: &Cost, findings: &mut Findings) -> NodeTerms {
    let own = &spec.own;
    let Some(node) = cost.nodes.iter().find(|node| node.name == name.value) else {
        let error = Diagnostic::error(format!("there is no node type `{}`", shorten(&name.value))).at(&name.span);
        let known: Vec<String> = cost.nodes.iter().map(|node| format!("`{}`", node.name)).collect();
        findings.push(error.help(match known.is_empty() {
            true => "describe it in a [[cost.node]]".to_owned(),
            false => format!("the [[cost.node]] tables describe {}", known.join(", ")),
        }));
        return NodeTerms::default();
    };
    let twice = [
        ("node_hour", own.node_hour.as_ref().map(|at| &at.span)),
        ("minimum", own.minimum.as_ref().map(|at| &at.span)),
        ("granularity", own.granularity.as_ref().map(|at| &at.span)),
        ("slots", own.slots.as_ref().map(|at| &at.span)),
        ("limit", own.limit.as_ref().filter(|_| node.limit.is_some()).map(|at| &at.span)),
        ("partition", spec.nodes.partition.as_ref().filter(|_| node.partition.is_some()).map(|at| &at.span)),
    ];
    for (key, span) in twice.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        let error = Diagnostic::error(format!("`{key}` is said by the node type `{}`", shorten(&name.value)));
        findings.push(error.at(span).help("write it in the [[cost.node]] alone"));
    }
    NodeTerms { limit: node.limit.or(whole(own.limit.as_ref().map(|at| at.value.0))), ..node.clone() }
}

/// A budget needs the price of each site, and must pay for one of its nodes.
fn check_price(at: &At<SiteSpec>, cost: &Cost, limits: Option<&CostSpec>, findings: &mut Findings) {
    let has_limit = cost.budget.is_some() || cost.budget_per_hour.is_some();
    match &at.value.own.node_hour {
        None if has_limit && at.value.own.node.is_none() => {
            let name =
                at.value.own.name.as_ref().map_or_else(String::new, |name| format!(" `{}`", shorten(&name.value)));
            let mut error = Diagnostic::error(format!("the site{name} has no price, and the job has a budget"));
            error = error.label(&at.span, "this site");
            let budgets = limits.into_iter().flat_map(|it| [&it.budget, &it.budget_per_hour]).flatten();
            for budget in budgets {
                error = error.label(&budget.span, "the budget");
            }
            findings.push(error.help("add `node_hour = ...`: what one of its nodes costs for one hour"));
        }
        Some(price) if cost.budget_per_hour.is_some_and(|hourly| hourly < price.value.0) => {
            let error = Diagnostic::error(format!(
                "`budget_per_hour` ({}) does not pay for a single node of this site ({} per hour)",
                cost.budget_per_hour.unwrap_or_default(),
                price.value.0
            ));
            findings.push(error.at(&price.span).help("raise the budget, or remove the site"));
        }
        _ => {}
    }
}

/// The fields of `[capacity]` that a job with sites gives to each of them.
fn fields_of_sites(spec: &CapacitySpec) -> Vec<(&'static str, &Span)> {
    let NodesSpec { provider, partition, account, cluster, nodes_per_block, hostfile, time, labels, extra, commands } =
        &spec.nodes;
    let typed = [
        ("provider", provider.as_ref().map(|at| &at.span)),
        ("partition", partition.as_ref().map(|at| &at.span)),
        ("account", account.as_ref().map(|at| &at.span)),
        ("cluster", cluster.as_ref().map(|at| &at.span)),
        ("nodes_per_block", nodes_per_block.as_ref().map(|at| &at.span)),
        ("hostfile", hostfile.as_ref().map(|at| &at.span)),
        ("time", time.as_ref().map(|at| &at.span)),
        ("labels", labels.as_ref().map(|at| &at.span)),
        ("extra", extra.as_ref().map(|at| &at.span)),
        ("commands", commands.as_ref().map(|at| &at.span)),
    ];
    typed.into_iter().filter_map(|(key, span)| Some((key, span?))).collect()
}

/// Resolves the fields that both tables share; `place` is the table.
fn capacity(spec: &NodesSpec, place: Place, findings: &mut Findings) -> Capacity {
    not_zero("time", spec.time.as_ref(), findings);
    let provider = spec.provider.as_ref().map(|at| at.value.0).unwrap_or_default();
    if let Some(file) = spec.hostfile.as_ref().filter(|_| provider != ProviderKind::Local) {
        let error = Diagnostic::error("`hostfile` is for the provider \"local\": a batch system knows its nodes")
            .at(&file.span);
        findings.push(error.help("write `provider = \"local\"` or remove it"));
    }
    check_cluster(spec, provider, findings);
    let sbatch_options = spec.extra.iter().filter(|_| provider != ProviderKind::Commands);
    for word in sbatch_options.flat_map(|lines| &lines.value.0) {
        if let Some(option) = unusable_option(&word.value) {
            let error = Diagnostic::error(format!("a block cannot be submitted with --{option}"));
            let help =
                "remove it from `extra`: Phalanx submits each block as one job of a size, name and log of its own";
            findings.push(error.at(&word.span).help(help));
        }
    }
    let text = |typed: &Option<At<String>>| typed.as_ref().map(|at| at.value.clone());
    Capacity {
        provider,
        partition: text(&spec.partition),
        account: text(&spec.account),
        cluster: text(&spec.cluster),
        nodes_per_block: whole(spec.nodes_per_block.as_ref().map(|at| at.value.0)).unwrap_or(1),
        hostfile: text(&spec.hostfile).map(PathBuf::from),
        time: spec.time.as_ref().map(|at| at.value.0),
        labels: spec.labels.iter().flat_map(|at| resolve_labels(&at.value, findings).to_vec()).collect(),
        slots: None,
        extra: spec.extra.iter().flat_map(|lines| &lines.value.0).map(|line| line.value.clone()).collect(),
        commands: commands(spec, provider, place, findings),
    }
}

/// Checks `account` and `cluster`, which only batch systems have.
fn check_cluster(spec: &NodesSpec, provider: ProviderKind, findings: &mut Findings) {
    let submit = spec.commands.as_ref().and_then(|at| at.value.submit.as_ref());
    for (key, at) in [("account", &spec.account), ("cluster", &spec.cluster)] {
        let Some(at) = at else { continue };
        let unused = match (provider, submit) {
            (ProviderKind::Slurm, _) | (ProviderKind::Commands, None) => None,
            (ProviderKind::Commands, Some(submit)) if placeholders(&submit.value).any(|name| name == key) => None,
            (ProviderKind::Commands, _) => Some((
                format!("the line `submit` has no {{{key}}}, so `{key}` has no effect"),
                format!("add {{{key}}} to the line, or remove `{key}`"),
            )),
            _ => {
                Some((format!("`{key}` is for batch systems"), "write `provider = \"slurm\"` or remove it".to_owned()))
            }
        };
        if let Some((error, help)) = unused {
            findings.push(Diagnostic::error(error).at(&at.span).help(help));
        }
    }
    let Some(at) = spec.cluster.as_ref().filter(|_| provider == ProviderKind::Slurm) else { return };
    let name = &at.value;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    let is_path = name.starts_with('/') && !name.contains(char::is_whitespace);
    if !(is_path || is_name && !name.starts_with('-')) {
        let error = Diagnostic::error("this is neither the name of a cluster nor the full path of a configuration");
        let help =
            "write one name as in `sbatch -M NAME`, or a path such as \"/etc/slurm-b/slurm.conf\" without spaces";
        findings.push(error.at(&at.span).help(help));
    }
}

/// Resolves the lines of the provider `commands`, which it needs and no other has.
fn commands(
    spec: &NodesSpec,
    provider: ProviderKind,
    place: Place,
    findings: &mut Findings,
) -> Option<CommandCapacity> {
    let (table, lines) = (place.table(), place.commands());
    let Some(at) = &spec.commands else {
        if let Some(provider) = spec.provider.as_ref().filter(|at| at.value.0 == ProviderKind::Commands) {
            let error = Diagnostic::error("the provider \"commands\" needs the lines that it calls").at(&provider.span);
            findings.push(error.help(format!("add `{lines}`; docs/providers.md has it for PBS, LSF and Flux")));
        }
        return None;
    };
    if provider != ProviderKind::Commands {
        let error = Diagnostic::error(format!("`{lines}` is for the provider \"commands\"")).at(&at.span);
        findings.push(error.help(format!("write `provider = \"commands\"` in {table}, or remove it")));
    }
    let CommandsSpec { submit, job_id, state, waiting, running, ended, node, cancel, release, .. } = &at.value;
    for regex in [job_id, waiting, running, ended, node].into_iter().flatten() {
        if let Err(error) = Regex::new(&regex.value) {
            let reason = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            findings.push(Diagnostic::error(format!("not a regular expression: {reason}")).at(&regex.span));
        }
    }
    let lines = [
        (submit, &SUBMIT_PLACEHOLDERS[..]),
        (state, &ID_PLACEHOLDERS),
        (cancel, &ID_PLACEHOLDERS),
        (release, &ID_PLACEHOLDERS),
    ];
    for (line, known) in lines {
        let Some(line) = line else { continue };
        for name in placeholders(&line.value).filter(|name| !known.contains(name)) {
            let error = Diagnostic::error(format!("this line has no placeholder {{{name}}}")).at(&line.span);
            findings.push(error.help(format!("it may have {{{}}}", known.join("}, {"))));
        }
        let needed = if known == SUBMIT_PLACEHOLDERS { "script" } else { "id" };
        if !placeholders(&line.value).any(|name| name == needed) {
            let error = Diagnostic::error(format!("this line lacks {{{needed}}}")).at(&line.span);
            findings.push(error.help(match needed {
                "script" => "it submits the script of a block, which starts a rank there",
                _ => "it must say which job it means",
            }));
        }
    }
    let has_time = |line: &At<String>| placeholders(&line.value).any(|name| TIME_PLACEHOLDERS.contains(&name));
    if let Some(line) = submit.as_ref().filter(|line| spec.time.is_none() && has_time(line)) {
        let error = Diagnostic::error(format!("this line has a time, and {table} has none")).at(&line.span);
        findings.push(error.help(format!("add `time = \"2h\"` to {table}: how long a block may last")));
    }
    let text = |typed: &Option<At<String>>| typed.as_ref().map(|at| at.value.clone());
    let given = |typed: &Option<At<String>>| text(typed).unwrap_or_default();
    Some(CommandCapacity {
        submit: given(submit),
        job_id: text(job_id).unwrap_or_else(|| r"\S+".to_owned()),
        state: given(state),
        waiting: given(waiting),
        running: given(running),
        ended: text(ended),
        node: text(node),
        cancel: given(cancel),
        release: text(release),
    })
}
