//! Labels of ranks and nodes, and which of them a run can still get.

use std::sync::Arc;

/// The labels of a rank or of a node, or those that a task asks for; ascending, each once.
pub type Labels = Arc<[String]>;

/// True if all `wanted` labels are among these.
pub fn has_labels(labels: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|label| labels.contains(label))
}

/// Labels in their order, each once.
pub fn labels_of(words: impl IntoIterator<Item = impl Into<String>>) -> Labels {
    let mut labels: Vec<String> = words.into_iter().map(Into::into).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.into()
}

/// What tasks need of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeNeed {
    /// Labels, all of them.
    pub labels: Labels,
    /// Slots of a rank.
    pub slots: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs.
    pub gpus: u32,
}

impl NodeNeed {
    /// True if a node for these tasks can also run those with another need.
    pub fn covers(&self, other: &NodeNeed) -> bool {
        has_labels(&self.labels, &other.labels)
            && other.slots <= self.slots
            && other.memory <= self.memory
            && other.gpus <= self.gpus
    }

    fn is_more_than_labels(&self) -> bool {
        self.slots > 1 || self.memory > 0 || self.gpus > 0
    }

    /// What the need asks for, for messages; empty for any node.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if !self.labels.is_empty() {
            words.push(format!("the label {}", self.labels.join(", ")));
        }
        if self.gpus > 0 {
            words.push(format!("{} GPU{}", self.gpus, if self.gpus == 1 { "" } else { "s" }));
        }
        if self.memory > 0 {
            words.push(format!("{} MiB of memory", self.memory >> 20));
        }
        words.join(" and ")
    }
}

/// What a node has, as far as that is known before it is there; `None` for what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeOffer {
    /// Labels.
    pub labels: Option<Labels>,
    /// Slots of a rank there.
    pub slots: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// GPUs.
    pub gpus: Option<u32>,
}

impl NodeOffer {
    /// A node of which only the labels are known.
    pub fn with_labels(labels: Labels) -> NodeOffer {
        NodeOffer { labels: Some(labels), ..NodeOffer::default() }
    }

    /// True unless it is known to lack something.
    pub fn may_serve(&self, need: &NodeNeed) -> bool {
        self.labels.as_ref().is_none_or(|labels| has_labels(labels, &need.labels))
            && self.slots.is_none_or(|slots| need.slots <= slots)
            && self.memory.is_none_or(|memory| need.memory <= memory)
            && self.gpus.is_none_or(|gpus| need.gpus <= gpus)
    }

    /// True if it is known to have what is asked for beside labels.
    fn is_known_for(&self, need: &NodeNeed) -> bool {
        self.may_serve(need)
            && (need.slots <= 1 || self.slots.is_some())
            && (need.memory == 0 || self.memory.is_some())
            && (need.gpus == 0 || self.gpus.is_some())
    }

    /// What is known once such a node has turned out to have this. What nothing was known of is
    /// learnt only if all these nodes are `alike`.
    #[must_use]
    pub fn learnt(&self, (slots, memory, gpus): (u32, u64, u32), alike: bool) -> NodeOffer {
        fn least<T: Ord + Copy>(known: Option<T>, is: T, alike: bool) -> Option<T> {
            known.map(|known| known.min(is)).or(alike.then_some(is))
        }
        NodeOffer {
            labels: self.labels.clone(),
            slots: least(self.slots, slots, alike),
            memory: least(self.memory, memory, alike),
            gpus: least(self.gpus, gpus, alike),
        }
    }
}

/// The nodes that a run can request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offers {
    /// None.
    #[default]
    Nothing,
    /// There are some, and what they have is not known.
    Unknown,
    /// Nodes of these kinds.
    Nodes(Arc<[NodeOffer]>),
}

impl Offers {
    /// Nodes with these labels.
    pub fn of(sets: impl IntoIterator<Item = Labels>) -> Offers {
        Offers::of_nodes(sets.into_iter().map(NodeOffer::with_labels))
    }

    /// Nodes of these kinds, each once.
    pub fn of_nodes(nodes: impl IntoIterator<Item = NodeOffer>) -> Offers {
        let mut nodes: Vec<NodeOffer> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        Offers::Nodes(nodes.into())
    }

    /// The same nodes, of which this is known besides their labels.
    #[must_use]
    pub fn with(self, known: &NodeOffer) -> Offers {
        let node = |labels: &Option<Labels>| NodeOffer { labels: labels.clone(), ..known.clone() };
        match self {
            Offers::Nothing => Offers::Nothing,
            Offers::Unknown if *known == NodeOffer::default() => Offers::Unknown,
            Offers::Unknown => Offers::of_nodes([node(&None)]),
            Offers::Nodes(nodes) => Offers::of_nodes(nodes.iter().map(|offer| node(&offer.labels))),
        }
    }

    /// These nodes and others.
    #[must_use]
    pub fn or(self, other: Offers) -> Offers {
        match (self, other) {
            (Offers::Nothing, offers) | (offers, Offers::Nothing) => offers,
            (Offers::Nodes(some), Offers::Nodes(more)) => Offers::of_nodes(some.iter().chain(more.iter()).cloned()),
            _ => Offers::Unknown,
        }
    }

    /// True if a node with all of these labels can be requested, or that is not known.
    pub fn may_have(&self, wanted: &[String]) -> bool {
        self.may_serve(&NodeNeed { labels: wanted.into(), ..NodeNeed::default() })
    }

    /// True if a node that can run tasks with this need can be requested, or that is not known.
    pub fn may_serve(&self, need: &NodeNeed) -> bool {
        match self {
            Offers::Nothing => false,
            Offers::Unknown => true,
            Offers::Nodes(nodes) => nodes.iter().any(|node| node.may_serve(need)),
        }
    }

    /// True if the need asks for more than labels, and a node can be requested that is known to
    /// have that.
    pub fn surely_serve(&self, need: &NodeNeed) -> bool {
        need.is_more_than_labels() && self.are_known_for(need)
    }

    /// True if a node can be requested that is known to have what the need asks for beside labels.
    pub fn are_known_for(&self, need: &NodeNeed) -> bool {
        match self {
            Offers::Nothing => false,
            Offers::Unknown => !need.is_more_than_labels(),
            Offers::Nodes(nodes) => nodes.iter().any(|node| node.is_known_for(need)),
        }
    }

    /// The most that `of` says of nodes that can run tasks with this need; `None` if it does not
    /// know that of all of them.
    pub fn most_for(&self, need: &NodeNeed, of: impl Fn(&NodeOffer) -> Option<u32>) -> Option<u32> {
        match self {
            Offers::Nothing | Offers::Unknown => None,
            Offers::Nodes(nodes) => {
                let serving = nodes.iter().filter(|node| node.may_serve(need));
                serving.map(of).collect::<Option<Vec<u32>>>()?.into_iter().max()
            }
        }
    }

    /// True if a node can be requested.
    pub fn has_any(&self) -> bool {
        self.may_have(&[])
    }

    /// The known labels, ascending.
    pub fn labels(&self) -> Labels {
        match self {
            Offers::Nodes(nodes) => {
                labels_of(nodes.iter().filter_map(|node| node.labels.as_ref()).flat_map(|it| it.iter().cloned()))
            }
            Offers::Nothing | Offers::Unknown => Labels::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_offered_with_all_labels_at_once_or_not() {
        let offers = Offers::of([labels_of(["ssd", "gpu", "gpu"]), labels_of(["highmem"]), labels_of(["highmem"])]);
        let may = |wanted: &[&str]| offers.may_have(&labels_of(wanted.iter().copied()));
        assert!(may(&[]) && may(&["gpu"]) && may(&["gpu", "ssd"]) && may(&["highmem"]));
        assert!(!may(&["gpu", "highmem"]) && !may(&["other"]));
        assert_eq!(offers.labels(), labels_of(["gpu", "highmem", "ssd"]));
        assert!(Offers::Unknown.may_have(&["other".to_owned()]) && !Offers::Nothing.has_any());
        assert!(!Offers::of([]).has_any() && Offers::of([Labels::default()]).has_any());
    }

    #[test]
    fn what_a_type_of_nodes_lacks_is_known() {
        let big = NodeOffer { memory: Some(64), gpus: Some(0), ..NodeOffer::default() };
        let offers = Offers::of([labels_of(["ssd"])]).with(&big);
        let need = NodeNeed { memory: 64, ..NodeNeed::default() };
        assert!(offers.may_serve(&need) && offers.surely_serve(&need));
        assert!(!offers.may_serve(&NodeNeed { memory: 65, ..need.clone() }));
        assert!(!offers.may_serve(&NodeNeed { gpus: 1, ..NodeNeed::default() }));
        let wide = NodeNeed { slots: 8, ..NodeNeed::default() };
        assert!(offers.may_serve(&wide) && !offers.surely_serve(&wide), "its slots are not known");
        assert!(!Offers::Unknown.with(&big).may_serve(&NodeNeed { gpus: 1, ..NodeNeed::default() }));
        assert!(Offers::Unknown.with(&big).may_have(&["any".to_owned()]));
        assert!(NodeNeed { slots: 2, ..need.clone() }.covers(&need) && !need.covers(&wide));
    }

    #[test]
    fn what_a_node_turns_out_to_lack_is_known_of_the_others() {
        let unsaid = NodeOffer { memory: Some(64), ..NodeOffer::default() };
        let gpu = NodeNeed { gpus: 1, ..NodeNeed::default() };
        let of = |offer: &NodeOffer| Offers::of([Labels::default()]).with(offer);
        assert!(of(&unsaid).may_serve(&gpu) && !of(&unsaid).are_known_for(&gpu));
        assert!(of(&unsaid).are_known_for(&NodeNeed::default()) && !of(&unsaid).surely_serve(&NodeNeed::default()));
        let learnt = unsaid.learnt((4, 60, 0), true);
        assert_eq!(learnt, NodeOffer { labels: None, slots: Some(4), memory: Some(60), gpus: Some(0) });
        assert!(!of(&learnt).may_serve(&gpu));
        let mixed = unsaid.learnt((4, 60, 0), false);
        assert!(of(&mixed).may_serve(&gpu) && mixed.memory == Some(60), "others may have GPUs");
    }
}
