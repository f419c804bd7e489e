//! Values that are one of several words.

use serde_json::{Value, json};

use super::quantities::DurationSpec;
use crate::graph::deal::LoadRule;
use crate::graph::pattern::Dependence;
use crate::job::alert::CUSTOM;
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::read::{Read, TomlNode, mismatch};
use crate::job::units::{parse_duration, shorten};
use crate::job::{Above, Flush, Intent, KeepOutput, Placement, PolicyKind, ProviderKind, Trigger};
use crate::model::Measure;

/// A type whose values are words.
pub(crate) trait WordValue: Clone + 'static {
    /// Each word with its value and its description.
    const WORDS: &'static [(&'static str, Self, &'static str)];
    /// Former words, which are read but not shown.
    const FORMER: &'static [(&'static str, Self)] = &[];
}

/// One of several words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OneOf<T>(pub T);

impl<T: WordValue> Read for OneOf<T> {
    fn expected() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, ..)| format!("\"{word}\"")).collect();
        words.join(" or ")
    }

    fn schema() -> Value {
        let words: Vec<Value> =
            T::WORDS.iter().map(|(word, _, doc)| json!({ "const": word, "description": doc })).collect();
        json!({ "oneOf": words })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let words = T::WORDS.iter().map(|(word, value, _)| (word, value));
        let mut known = words.chain(T::FORMER.iter().map(|(word, value)| (word, value)));
        let found = known.find(|(word, _)| **word == text).map(|(_, value)| OneOf(value.clone()));
        if found.is_none() {
            let words: Vec<&str> = T::WORDS.iter().map(|(word, ..)| *word).collect();
            let text = shorten(text);
            findings.push(
                Diagnostic::error(format!("`{key}` must be {}, not \"{text}\"", Self::expected()))
                    .at(&node.span())
                    .help(suggest(&text, &words, "possible words")),
            );
        }
        found
    }
}

impl WordValue for KeepOutput {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("all", KeepOutput::All, "the output of every task is kept"),
        ("failed", KeepOutput::Failed, "only the output of tasks that failed is kept"),
    ];
}

impl WordValue for Placement {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("bands", Placement::Bands, "little data moved, all ranks busy throughout (METIS over bands of levels)"),
        ("earliest_finish", Placement::EarliestFinish, "greedy earliest finish time, longest remaining path first"),
        ("round_robin", Placement::Load(LoadRule::RoundRobin), "in turn, in proportion to slots"),
        ("least_loaded", Placement::Load(LoadRule::LeastLoaded), "to the rank with the fewest tasks per slot"),
        (
            "weighted_round_robin",
            Placement::Load(LoadRule::WeightedRoundRobin),
            "in turn, in proportion to slots and measured speed",
        ),
        (
            "dynamic_threshold",
            Placement::Load(LoadRule::DynamicThreshold),
            "to one rank until its load is a fifth above the mean, then to the least loaded one",
        ),
        ("predictive", Placement::Load(LoadRule::Predictive), "to the rank with the earliest expected completion"),
    ];
    const FORMER: &'static [(&'static str, Self)] = &[("eft", Placement::EarliestFinish)];
}

impl Placement {
    /// All placements with their words in the job file.
    pub fn all() -> impl Iterator<Item = (&'static str, Placement)> {
        Placement::WORDS.iter().map(|(word, placement, _)| (*word, *placement))
    }
}

impl WordValue for PolicyKind {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("fixed", PolicyKind::Fixed, "keeps the initial ranks"),
        ("reactive", PolicyKind::Reactive, "rules with thresholds, cooldowns and steps"),
        ("predictive", PolicyKind::Predictive, "simulates the rest of the graph for every number of ranks"),
        (
            "hybrid",
            PolicyKind::Hybrid,
            "as predictive, but follows the rules where the forecast is not confident enough",
        ),
        ("cost", PolicyKind::Cost, "minimum cost that meets the deadline"),
        ("performance", PolicyKind::Performance, "earliest finish within the budget"),
    ];
}

impl WordValue for ProviderKind {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("none", ProviderKind::None, "no provider: ranks that are not needed are parked"),
        ("local", ProviderKind::Local, "this machine: further processes, for development and tests"),
        ("slurm", ProviderKind::Slurm, "Slurm: further jobs"),
        ("commands", ProviderKind::Commands, "another batch system: further jobs, by the lines of [capacity.commands]"),
    ];
}

impl WordValue for Intent {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("latency", Intent::Latency, "results soon: one percent of time is worth nine percent of money"),
        ("throughput", Intent::Throughput, "many tasks a second: time counts a little more than money"),
        ("cost", Intent::Cost, "a small bill: money counts six times as much as time"),
        ("balanced", Intent::Balanced, "one percent of time is worth one percent of money"),
        ("scalability", Intent::Scalability, "as throughput"),
    ];
}

impl WordValue for Above {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("grow", Above::Grow, "adds ranks"),
        ("shrink", Above::Shrink, "releases ranks"),
        ("hold", Above::Hold, "adds no ranks while the condition holds"),
    ];
}

impl WordValue for Trigger {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("cpu", Trigger::Cpu, "share of the slots that are busy, percent"),
        ("memory", Trigger::Memory, "share of the memory in use on the node where that is highest, percent"),
        ("gpu", Trigger::Gpu, "mean share of the time in which GPUs are busy, percent"),
        ("queue_depth", Trigger::QueueDepth, "ready tasks per active rank"),
        (
            "response_time",
            Trigger::ResponseTime,
            "how long ready tasks wait for a slot (95th percentile), milliseconds",
        ),
        (
            "throughput_drop",
            Trigger::ThroughputDrop,
            "drop of the completion rate relative to its recent average, percent",
        ),
        ("error_rate", Trigger::ErrorRate, "recent share of attempts that failed, percent"),
        ("cost", Trigger::Cost, "share of the budget that is spent, percent"),
        ("predictive", Trigger::Predictive, "ranks that the forecast recommends beyond the current number"),
        ("imbalance", Trigger::Imbalance, "how uneven the load of the ranks is, percent"),
        ("coordination", Trigger::Coordination, "ranks lost since the last decision"),
    ];
}

/// The quantity that a rule measures: one of the words, or `custom.NAME`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TriggerSpec(pub Trigger);

impl Read for TriggerSpec {
    fn expected() -> String {
        format!("{} or \"{CUSTOM}NAME\"", OneOf::<Trigger>::expected())
    }

    fn schema() -> Value {
        let mut schema = OneOf::<Trigger>::schema();
        let custom = json!({
            "type": "string",
            "pattern": "^custom\\.[A-Za-z_][A-Za-z0-9_.:-]{0,63}$",
            "description": "latest value that a task wrote to $PHALANX_METRICS under this name",
        });
        if let Some(words) = schema["oneOf"].as_array_mut() {
            words.push(custom);
        }
        schema
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(name) = node.get_ref().as_str().and_then(|text| text.strip_prefix(CUSTOM)) else {
            return OneOf::<Trigger>::read(key, node, findings).map(|word| TriggerSpec(word.0));
        };
        if Measure::is_name(name) {
            return Some(TriggerSpec(Trigger::Custom(name.to_owned())));
        }
        let error = Diagnostic::error(format!("no task can write a value called `{}`", shorten(name)));
        let help = "a name is at most 64 letters, digits and `_.:-`, and begins with a letter or `_`";
        findings.push(error.at(&node.span()).help(help));
        None
    }
}

impl WordValue for Dependence {
    const WORDS: &'static [(&'static str, Self, &'static str)] = Dependence::NAMED;
}

/// The condition on the end of a task, in Slurm's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Ok,
    NotOk,
    Any,
    /// Element by element, after success.
    Corresponding,
}

impl WordValue for When {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("afterok", When::Ok, "it must succeed"),
        ("afternotok", When::NotOk, "it must end without success"),
        ("afterany", When::Any, "it must end, in any state"),
        ("aftercorr", When::Corresponding, "its element with the same index must succeed"),
    ];
}

/// What happens to processes that a command leaves running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Background {
    End,
    Keep,
}

impl WordValue for Background {
    const WORDS: &'static [(&'static str, Self, &'static str)] = &[
        ("end", Background::End, "they are killed, and the slot is free after they have ended"),
        ("keep", Background::Keep, "they continue to run"),
    ];
}

/// Where a task runs other than in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageUse {
    Node,
}

impl WordValue for StageUse {
    const WORDS: &'static [(&'static str, Self, &'static str)] =
        &[("node", StageUse::Node, "in an empty directory on the disk of its node")];
}

/// `always`, `never` or a duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FlushSpec(pub Flush);

impl Read for FlushSpec {
    fn expected() -> String {
        "\"always\", \"never\" or a duration such as \"1s\"".into()
    }

    fn schema() -> Value {
        json!({ "type": ["string", "integer"], "examples": ["always", "1s", "never"] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().as_str() {
            Some("always") => Some(FlushSpec(Flush::Always)),
            Some("never") => Some(FlushSpec(Flush::Never)),
            Some(word) if parse_duration(word).is_err() => {
                let word = shorten(word);
                let message = format!("`{key}` must be {}, not \"{word}\"", Self::expected());
                findings.push(Diagnostic::error(message).at(&node.span()));
                None
            }
            _ => DurationSpec::read(key, node, findings).map(|d| FlushSpec(Flush::Every(d.0))),
        }
    }
}
