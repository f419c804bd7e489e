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

/// The nodes that a run can request, by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offers {
    /// None.
    #[default]
    Nothing,
    /// There are some, and which labels they have is not known.
    Unknown,
    /// Nodes with one of these sets of labels.
    Nodes(Arc<[Labels]>),
}

impl Offers {
    /// Nodes with these labels, each set once.
    pub fn of(sets: impl IntoIterator<Item = Labels>) -> Offers {
        let mut sets: Vec<Labels> = sets.into_iter().collect();
        sets.sort_unstable();
        sets.dedup();
        Offers::Nodes(sets.into())
    }

    /// These nodes and others.
    #[must_use]
    pub fn or(self, other: Offers) -> Offers {
        match (self, other) {
            (Offers::Nothing, offers) | (offers, Offers::Nothing) => offers,
            (Offers::Nodes(some), Offers::Nodes(more)) => Offers::of(some.iter().chain(more.iter()).cloned()),
            _ => Offers::Unknown,
        }
    }

    /// True if a node with all of these labels can be requested, or that is not known.
    pub fn may_have(&self, wanted: &[String]) -> bool {
        match self {
            Offers::Nothing => false,
            Offers::Unknown => true,
            Offers::Nodes(sets) => sets.iter().any(|labels| has_labels(labels, wanted)),
        }
    }

    /// True if a node can be requested.
    pub fn has_any(&self) -> bool {
        self.may_have(&[])
    }

    /// The known labels, ascending.
    pub fn labels(&self) -> Labels {
        match self {
            Offers::Nodes(sets) => labels_of(sets.iter().flat_map(|labels| labels.iter().cloned())),
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
}
