//! What the nodes of each type have cost a run.

use schemars::JsonSchema;
use serde::Serialize;

use super::run_view::RunView;
use crate::model::Time;

/// The nodes of one type, over all sessions.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct TypeUse {
    /// The type: the name of a site or of a `[[cost.node]]`; `node` for those of `[cost]`.
    pub node_type: String,
    /// Number of nodes that were held.
    pub nodes: u32,
    /// Price of one for one hour, in the last session.
    pub node_hour: f64,
    /// Node-seconds charged.
    pub billed_node_s: f64,
    /// Their bill.
    pub cost: f64,
}

/// The types of which nodes were held, in the order of the price list; empty without prices.
pub(super) fn uses(run: &RunView) -> Vec<TypeUse> {
    let mut uses: Vec<TypeUse> = Vec::new();
    for (session, _) in run.sessions() {
        let Some(terms) = &session.terms else { continue };
        let nodes = session.billed_nodes(Time(run.wall_ns(session)));
        for (number, node_type) in (0..).zip(&terms.prices.nodes) {
            let mut of_type = nodes.iter().filter(|node| node.node_type.0 == number).peekable();
            if of_type.peek().is_none() {
                continue;
            }
            let at = uses.iter().position(|known| known.node_type == node_type.name).unwrap_or(uses.len());
            if at == uses.len() {
                let name = node_type.name.clone();
                uses.push(TypeUse { node_type: name, nodes: 0, node_hour: 0.0, billed_node_s: 0.0, cost: 0.0 });
            }
            let known = &mut uses[at];
            known.node_hour = node_type.node_hour;
            for node in of_type {
                let held = node.to.since(node.from);
                known.nodes += 1;
                known.billed_node_s += node_type.charged(held).as_secs_f64();
                known.cost += node_type.bill(held);
            }
        }
    }
    uses
}
