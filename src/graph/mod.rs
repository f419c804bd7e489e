//! The task graph: compact storage, order, critical path and partition.

pub mod link;
