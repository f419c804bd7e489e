//! Parses the cluster file: from TOML text to a [`Cluster`], reporting all mistakes at once, with
//! line and column.
//!
//! Fields are declared once, with the same macro as those of the job file; the reader and the check
//! for unknown keys follow from the declarations. docs/cluster-file.md documents them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use super::cluster::{ClassSpread, Cluster, Faults, Network, NodeKind, TaskSpread};
use super::random::Distribution;
use crate::graph::long_tasks::BYTES_PER_NS;
use crate::job::bounded_read::read_bounded;
use crate::job::diagnostic::Findings;
use crate::job::document::syntax_error;
use crate::job::load::{not_utf8, with_syntax_errors};
use crate::job::read::{
    At, Field, Read, Section, Tables, TomlNode, Whole, check_keys, float, integer, mismatch, section,
};
use crate::job::values::{DurationSpec, MemorySpec, SizeSpec, Strings};
use crate::job::{Diagnostic, Diagnostics};

section! {
    /// The cluster of `phalanx simulate` and `phalanx plan`
    ClusterSpec {
        /// Name of the cluster
        name: String = "the name of the file without its ending",
        /// Node types, one table each; a run may request nodes of each
        node: Tables<NodeSpec> = required,
        /// Delays of messages between ranks
        network: NetworkSpec,
        /// Failures of nodes, ranks and tasks, and slow nodes
        faults: FaultsSpec,
        /// Deviation of durations from the estimates
        tasks: TasksSpec,
    }
}

section! {
    /// A node type
    NodeSpec {
        /// Name of the node type; the name of a node is this name and a number
        name: String = "node",
        /// CPUs for tasks
        slots: Whole<1, 4096> = required,
        /// Memory for tasks, as 64G; a bare number is megabytes
        memory: MemorySpec = "more than any task asks for",
        /// GPUs for tasks
        gpus: Whole<0, 1024> = "0",
        /// Labels that tasks may ask for
        labels: Strings,
        /// Speed; the duration of a task is divided by it
        speed: Positive = "1.0",
        /// Price per hour, in any currency
        price: NonNegative = "1.0",
        /// Billing unit, such as "1m" or "1h"; each started unit is charged in full
        billing: DurationSpec = "\"1s\"",
        /// Minimum time that is charged for a node
        minimum: DurationSpec = "\"0s\"",
        /// Maximum number of nodes at once
        limit: Whole<1, 1_000_000> = "1000000",
        /// Number of ranks on nodes of this type at the start of a run
        first: Whole<0, 100_000> = "0",
        /// Time from a request to its grant: a duration, { uniform = ["30s", "90s"] },
        /// { median = "60s", sigma = 0.5 } or a list of measured durations
        delay: Distribution = "\"0s\"",
        /// Time from the grant to the first task; same format as `delay`
        startup: Distribution = "\"0s\"",
        /// Share of requests that fail, 0 to 1
        failure: Share = "0.0",
    }
}

section! {
    /// Delays of messages between ranks, and how fast files of staged tasks travel
    NetworkSpec {
        /// Minimum delay of a message
        latency: DurationSpec = "\"20us\"",
        /// Maximum further delay, uniformly distributed
        jitter: DurationSpec = "\"0s\"",
        /// Bytes per second that a node sends, and that it receives, as 10G
        bandwidth: SizeSpec = "1 GB/s",
        /// Bytes per second of the shared file system, for all nodes together
        file_system: SizeSpec = "no limit beside that of the nodes",
    }
}

section! {
    /// Failures of nodes, ranks and tasks, and slow nodes
    FaultsSpec {
        /// Failures per node and hour
        node_loss: NonNegative = "0.0",
        /// Failures of a rank without its node, per rank and hour
        rank_loss: NonNegative = "0.0",
        /// Time until a loss is detected
        notice: DurationSpec = "\"10s\"",
        /// Share of nodes that are slow, 0 to 1
        slow: Share = "0.0",
        /// Factor by which tasks take longer on a slow node
        slow_factor: Positive = "2.0",
        /// Share of attempts at tasks that fail, 0 to 1
        task: Share = "0.0",
    }
}

section! {
    /// Deviation of durations from the estimates
    TasksSpec {
        /// Spread of durations around the estimate: standard deviation of the logarithm, so 0.1 is
        /// about 10 %
        spread: NonNegative = "0.1",
        /// Time to start a command, in addition to its duration
        spawn: DurationSpec = "\"1ms\"",
        /// Classes of tasks that differ
        class: Tables<ClassSpec>,
    }
}

section! {
    /// A class of tasks
    ClassSpec {
        /// The class: a task's `class`, or its name
        name: String = required,
        /// Standard deviation of the logarithm of durations
        spread: NonNegative = "that of [tasks]",
        /// Peak memory of its tasks: an amount, or a list of which each task has one; a task whose
        /// `memory` is less ends OUT_OF_MEMORY
        memory: Amounts = "within what tasks ask for",
    }
}

/// The sections in which a key would be valid.
fn homes_of(key: &str) -> Vec<&'static str> {
    let has = |fields: &[Field]| fields.iter().any(|f| f.name == key);
    let homes = [
        ("the top of the file", has(ClusterSpec::FIELDS)),
        ("[[node]]", has(NodeSpec::FIELDS)),
        ("[network]", has(NetworkSpec::FIELDS)),
        ("[faults]", has(FaultsSpec::FIELDS)),
        ("[tasks]", has(TasksSpec::FIELDS)),
    ];
    homes.into_iter().filter(|(_, right)| *right).map(|(home, _)| home).collect()
}

/// A number that is not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NonNegative(f64);

/// A number above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Positive(f64);

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(f64);

/// The largest number accepted; larger ones would make sums meaningless.
const MAX_NUMBER: f64 = 1e9;

/// Reads a number that must satisfy `right`.
fn number<T: Read>(key: &str, node: &TomlNode<'_>, right: fn(f64) -> bool, findings: &mut Findings) -> Option<f64> {
    let number = float(node.get_ref()).or_else(|| integer(node.get_ref()).map(|n| n as f64));
    match number {
        None => mismatch::<T>(key, node, findings),
        Some(number) if right(number) => return Some(number),
        Some(number) => {
            let message = format!("`{key}` must be {}, not {number}", T::expected());
            findings.push(Diagnostic::error(message).at(&node.span()));
        }
    }
    None
}

impl Read for NonNegative {
    fn expected() -> String {
        "a number from 0 to a thousand million".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 0, "maximum": MAX_NUMBER })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        number::<Self>(key, node, |n| (0.0..=MAX_NUMBER).contains(&n), findings).map(NonNegative)
    }
}

impl Read for Positive {
    fn expected() -> String {
        "a number above 0, at most a thousand million".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "exclusiveMinimum": 0, "maximum": MAX_NUMBER })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        number::<Self>(key, node, |n| (1e-9..=MAX_NUMBER).contains(&n), findings).map(Positive)
    }
}

impl Read for Share {
    fn expected() -> String {
        "a number from 0 to 1".into()
    }

    fn schema() -> Value {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        number::<Self>(key, node, |n| (0.0..=1.0).contains(&n), findings).map(Share)
    }
}

section! {
    /// A distribution of times
    DrawSpec {
        /// Minimum and maximum of a uniform distribution
        uniform: Times,
        /// Median of a lognormal distribution
        median: DurationSpec,
        /// Standard deviation of the logarithm
        sigma: NonNegative,
    }
}

/// One or several amounts of memory.
#[derive(Clone, Debug)]
pub(crate) struct Amounts(Vec<u64>);

impl Read for Amounts {
    fn expected() -> String {
        "an amount of memory such as \"4G\", or a list of amounts".into()
    }

    fn schema() -> Value {
        let list = json!({ "type": "array", "minItems": 1, "items": MemorySpec::schema() });
        json!({ "oneOf": [MemorySpec::schema(), list] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(list) = node.get_ref().as_array() else {
            return MemorySpec::read(key, node, findings).map(|amount| Amounts(vec![amount.0]));
        };
        if list.is_empty() {
            mismatch::<Self>(key, node, findings);
            return None;
        }
        let amounts: Vec<u64> = list.iter().filter_map(|one| Some(MemorySpec::read(key, one, findings)?.0)).collect();
        (amounts.len() == list.len()).then_some(Amounts(amounts))
    }
}

/// A list of times.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Read for Times {
    fn expected() -> String {
        "a list of durations".into()
    }

    fn schema() -> Value {
        json!({ "type": "array", "minItems": 1, "items": DurationSpec::schema() })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(list) = node.get_ref().as_array().filter(|list| !list.is_empty()) else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let times: Vec<Duration> =
            list.iter().filter_map(|time| Some(DurationSpec::read(key, time, findings)?.0)).collect();
        (times.len() == list.len()).then_some(Times(times))
    }
}

impl Read for Distribution {
    fn expected() -> String {
        "a duration, { uniform = [least, most] }, { median = ..., sigma = ... } or a list of durations".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [DurationSpec::schema(), Times::schema(), DrawSpec::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref() {
            DeValue::Array(_) => Times::read(key, node, findings).map(|times| Distribution::Measured(times.0)),
            DeValue::Table(_) => DrawSpec::read(key, node, findings).and_then(|spec| spec.resolve(key, node, findings)),
            DeValue::String(_) | DeValue::Integer(_) => {
                DurationSpec::read(key, node, findings).map(|time| Distribution::Constant(time.0))
            }
            _ => {
                mismatch::<Self>(key, node, findings);
                None
            }
        }
    }
}

impl DrawSpec {
    fn resolve(self, key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Distribution> {
        match (self.uniform.map(|u| u.value.0), self.median, self.sigma) {
            (Some(times), None, None) if times.len() == 2 && times[0] <= times[1] => {
                return Some(Distribution::Uniform(times[0], times[1]));
            }
            (None, Some(median), Some(sigma)) if sigma.value.0 <= MAX_SIGMA => {
                return Some(Distribution::LogNormal { median: median.value.0, sigma: sigma.value.0 });
            }
            _ => {}
        }
        let help = format!("write {}, the least first; sigma is at most {MAX_SIGMA}", Distribution::expected());
        findings.push(Diagnostic::error(format!("`{key}` is no distribution")).at(&node.span()).help(help));
        None
    }
}

/// Upper limit on sigma; beyond it the median is meaningless.
const MAX_SIGMA: f64 = 5.0;

/// Reads a cluster file; returns its text too.
pub(super) fn load(path: &Path) -> Result<(Cluster, Arc<str>), Diagnostics> {
    let file = path.display().to_string();
    let bytes = read_bounded(path).map_err(|reason| {
        Diagnostics::new(file.clone(), "", vec![Diagnostic::error(format!("cannot read {file}: {reason}"))])
    })?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&file, &error))?;
    Ok((parse(&text, &file)?, text.into()))
}

pub(super) fn parse(text: &str, file: &str) -> Result<Cluster, Diagnostics> {
    let mut findings = Findings::in_file_with(homes_of);
    let (root, errors) = DeTable::parse_recoverable(text);
    check_keys("the cluster file", root.get_ref(), &[ClusterSpec::FIELDS], &mut findings);
    let spec = ClusterSpec::read_fields(root.get_ref(), &mut findings);
    if !errors.is_empty() {
        let errors = errors.iter().map(|error| syntax_error(error, |span| span)).collect();
        return Err(Diagnostics::new(file, text, with_syntax_errors(text, errors, findings)));
    }
    if !root.get_ref().contains_key("node") {
        let help = "add a `[[node]]` table with at least `slots = ...`";
        findings.push(Diagnostic::error("the cluster has no nodes").at(&(0..text.len().min(1))).help(help));
    }
    let stem = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let cluster = spec.resolve(&stem, &mut findings);
    match findings.has_errors() {
        true => Err(Diagnostics::new(file, text, findings.finish())),
        false => Ok(cluster),
    }
}

/// The defaults for everything that a file omits.
pub(super) fn defaults() -> Cluster {
    let mut findings = Findings::default();
    let node = NodeSpec::default().resolve(0);
    Cluster { nodes: vec![node], ..ClusterSpec::default().resolve("cluster", &mut findings) }
}

impl ClusterSpec {
    fn resolve(self, stem: &str, findings: &mut Findings) -> Cluster {
        let nodes = self.node.map(|nodes| nodes.value.0).unwrap_or_default();
        check_names(&nodes, findings);
        Cluster {
            name: self.name.map_or_else(|| stem.to_owned(), |name| name.value),
            nodes: nodes.into_iter().enumerate().map(|(i, node)| node.value.resolve(i)).collect(),
            network: self.network.map(|n| n.value).unwrap_or_default().resolve(),
            faults: self.faults.map(|f| f.value).unwrap_or_default().resolve(),
            tasks: self.tasks.map(|t| t.value).unwrap_or_default().resolve(),
        }
    }
}

/// Reports two node types with the same name: reports could not distinguish them.
fn check_names(nodes: &[At<NodeSpec>], findings: &mut Findings) {
    for (i, node) in nodes.iter().enumerate() {
        let name = |node: &At<NodeSpec>| node.value.name.as_ref().map(|n| n.value.clone());
        let (mine, span) = (name(node), node.value.name.as_ref().map_or(&node.span, |n| &n.span));
        if let Some(first) = nodes[..i].iter().find(|other| name(other) == mine) {
            let called = mine.unwrap_or_else(|| "node".to_owned());
            let other = first.value.name.as_ref().map_or(&first.span, |n| &n.span);
            findings.push(
                Diagnostic::error(format!("two kinds of nodes are called `{called}`"))
                    .at(span)
                    .label(other, "the first")
                    .help("give each `[[node]]` a `name` of its own"),
            );
        }
    }
}

impl NodeSpec {
    fn resolve(self, number: usize) -> NodeKind {
        let nothing = || Distribution::Constant(Duration::ZERO);
        NodeKind {
            name: or(self.name, if number == 0 { "node".to_owned() } else { format!("node{number}") }),
            slots: self.slots.map_or(1, |n| n.value.0 as u32),
            memory: self.memory.map_or(u64::MAX, |m| m.value.0),
            gpus: self.gpus.map_or(0, |n| n.value.0 as u32),
            labels: self.labels.iter().flat_map(|labels| &labels.value.0).map(|label| label.value.clone()).collect(),
            speed: self.speed.map_or(1.0, |n| n.value.0),
            price: self.price.map_or(1.0, |n| n.value.0),
            granularity: self.billing.map_or(Duration::from_secs(1), |d| d.value.0),
            minimum: self.minimum.map_or(Duration::ZERO, |d| d.value.0),
            limit: self.limit.map_or(1_000_000, |n| n.value.0 as u32),
            first: self.first.map_or(0, |n| n.value.0 as u32),
            ahead: 0,
            delay: self.delay.map_or_else(nothing, |d| d.value),
            startup: self.startup.map_or_else(nothing, |d| d.value),
            failure: self.failure.map_or(0.0, |n| n.value.0),
        }
    }
}

impl NetworkSpec {
    fn resolve(self) -> Network {
        Network {
            latency: self.latency.map_or(Duration::from_micros(20), |d| d.value.0),
            jitter: self.jitter.map_or(Duration::ZERO, |d| d.value.0),
            bandwidth: self.bandwidth.map_or(BYTES_PER_NS * 1_000_000_000, |size| size.value.0),
            file_system: self.file_system.map(|size| size.value.0),
        }
    }
}

impl FaultsSpec {
    fn resolve(self) -> Faults {
        Faults {
            node_loss: self.node_loss.map_or(0.0, |n| n.value.0),
            rank_loss: self.rank_loss.map_or(0.0, |n| n.value.0),
            notice: self.notice.map_or(Duration::from_secs(10), |d| d.value.0),
            slow: self.slow.map_or(0.0, |n| n.value.0),
            slow_factor: self.slow_factor.map_or(2.0, |n| n.value.0),
            task: self.task.map_or(0.0, |n| n.value.0),
        }
    }
}

impl TasksSpec {
    fn resolve(self) -> TaskSpread {
        let classes = self.class.map(|c| c.value.0).unwrap_or_default();
        let one = |class: At<ClassSpec>| {
            let ClassSpec { name, spread, memory, .. } = class.value;
            Some(ClassSpread {
                name: name?.value,
                spread: spread.map(|spread| spread.value.0.min(MAX_SIGMA)),
                memory: memory.map_or_else(Arc::default, |memory| memory.value.0.into()),
            })
        };
        TaskSpread {
            spread: self.spread.map_or(0.1, |n| n.value.0.min(MAX_SIGMA)),
            classes: classes.into_iter().filter_map(one).collect(),
            spawn: self.spawn.map_or(Duration::from_millis(1), |d| d.value.0),
        }
    }
}

fn or<T>(typed: Option<At<T>>, default: T) -> T {
    typed.map_or(default, |at| at.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        parse(text, "c.toml").expect_err("has mistakes").render(false)
    }

    #[test]
    fn a_short_file_is_filled_up_with_defaults() {
        let cluster = parse("[[node]]\nslots = 4\n", "small.toml").unwrap();
        assert_eq!((cluster.name.as_str(), cluster.nodes[0].slots, cluster.nodes[0].price), ("small", 4, 1.0));
        assert_eq!(cluster, Cluster { name: "small".into(), ..Cluster::default() }.with_slots(4));
    }

    #[test]
    fn every_form_of_a_distribution_is_read() {
        let with = |delay: &str| parse(&format!("[[node]]\nslots = 1\ndelay = {delay}\n"), "c.toml").unwrap();
        let s = Duration::from_secs;
        let forms = [
            ("\"60s\"", Distribution::Constant(s(60))),
            ("2", Distribution::Constant(s(120))),
            ("{ uniform = [\"30s\", \"90s\"] }", Distribution::Uniform(s(30), s(90))),
            ("{ median = \"60s\", sigma = 0.5 }", Distribution::LogNormal { median: s(60), sigma: 0.5 }),
            ("[\"40s\", \"2m\"]", Distribution::Measured(vec![s(40), s(120)])),
        ];
        for (text, expected) in forms {
            assert_eq!(with(text).nodes[0].delay, expected, "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let text = "[[node]]\nslots = 0\nfailure = 2\nspeed = -1.0\ndelay = { uniform = [\"9s\", \"1s\"] }\nlatency = \"1s\"\n\n[network]\nlatncy = \"1us\"\n\n[[node]]\nslots = 1\n";
        let told = mistakes(text);
        let wanted = [
            "c.toml:2:9",
            "`failure` must be a number from 0 to 1, not 2",
            "c.toml:4:9",
            "no distribution",
            "`latency` belongs in [network]",
            "did you mean `latency`",
            "two kinds of nodes are called `node`",
        ];
        for wanted in wanted {
            assert!(told.contains(wanted), "{wanted}\n{told}");
        }
    }

    #[test]
    fn a_file_without_nodes_or_with_broken_syntax_is_refused() {
        assert!(mistakes("name = \"x\"\n").contains("no nodes"));
        assert!(mistakes("").contains("no nodes"));
        assert!(mistakes("[[node]]\nslots = \n").contains("c.toml:2"));
        assert!(mistakes("[[node]]\nprice = 1.0\n").contains("has no `slots`"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            let _ = parse(&text, "c.toml");
        }
    }
}
