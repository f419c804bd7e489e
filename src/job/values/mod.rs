//! Types of field values: the notations that a field may have, each with its reader and its schema.

mod axes;
mod cache;
mod container;
mod graphs;
mod pools;
mod quantities;
mod relations;
mod slots;
mod words;
mod work;

use toml::de::DeValue;

use super::diagnostic::Findings;
use super::read::{At, TomlNode, float, integer};
use super::scalar::Scalar;

pub(crate) use axes::{ArraySpec, AxisSource, AxisSpec, MatrixSpec};
pub(crate) use cache::CacheUse;
pub(crate) use container::ContainerUse;
pub(crate) use graphs::{GraphWeights, OperationName};
pub(crate) use pools::{NamedPool, PoolAmounts, PoolsSpec, RateSpec};
pub(crate) use quantities::{
    Amount, Budget, DurationSpec, EstimateSpec, Factor, Fraction, MemoryRequest, MemorySpec, RetriesSpec, Signed,
    SizeSpec,
};
pub(crate) use relations::{FilesSpec, NeedSpec, NeedsSpec};
pub(crate) use slots::{SlotCountSpec, SlotsSpec};
pub(crate) use words::{Background, FlushSpec, OneOf, StageUse, TriggerSpec, When, WordValue};
pub(crate) use work::{ArgsSpec, CommandSpec, EnvSpec, RawArg, ShellSpec, Strings};

/// Reads each entry of a list, or a single value as a list of one.
fn entries<T>(
    node: &TomlNode<'_>,
    findings: &mut Findings,
    mut read: impl FnMut(&TomlNode<'_>, &mut Findings) -> Option<T>,
) -> Vec<At<T>> {
    match node.get_ref().as_array() {
        Some(list) => list.iter().filter_map(|n| read(n, findings).map(|value| At::new(value, n.span()))).collect(),
        None => read(node, findings).map(|value| At::new(value, node.span())).into_iter().collect(),
    }
}

/// A scalar of the tree; `None` for lists, tables, dates and numbers out of range.
fn scalar(value: &DeValue<'_>) -> Option<Scalar> {
    match value {
        DeValue::String(text) => Some(Scalar::Text(text.to_string())),
        DeValue::Boolean(value) => Some(Scalar::Bool(*value)),
        DeValue::Integer(_) => integer(value).map(Scalar::Int),
        DeValue::Float(_) => float(value).map(Scalar::Float),
        _ => None,
    }
}
