//! The node sections of the page: usage over time, and use of the time of each node.

use super::charts;
use super::page::{Escaped, Html};
use crate::model::Vitals;
use crate::observe::node_types;
use crate::observe::nodes::{NodeUse, uses};
use crate::observe::run_view::RunView;
use crate::observe::timeline::Timeline;
use crate::observe::vitals;
use crate::scale::sites::{SiteView, WAITS};
use crate::text::{counted, seconds};

/// Maximum number of nodes in the table.
const ROWS: usize = 40;

/// Draws the usage of all nodes of the last session over time, as far as ranks reported it.
pub(super) fn used(html: &mut Html, run: &RunView, timeline: &Timeline) {
    let (looks, Some(span)) = (vitals::all(&run.dir.vitals()), timeline.sessions.last()) else { return };
    if looks.is_empty() {
        return;
    }
    let end = span.to - span.from;
    let course_of = |value: &dyn Fn(&Vitals) -> Option<f64>| {
        let (mut sums, mut counts) = (vec![0.0; charts::COLUMNS], vec![0u32; charts::COLUMNS]);
        for look in &looks {
            let column = (look.t * 1e9 / end.max(1) as f64 * charts::COLUMNS as f64) as usize;
            let column = column.min(charts::COLUMNS - 1);
            let Some(value) = value(&look.vitals) else { continue };
            sums[column] += value;
            counts[column] += 1;
        }
        sums.iter().zip(&counts).map(|(sum, &n)| (n > 0).then(|| sum / f64::from(n))).collect()
    };
    let course = |value: &dyn Fn(&Vitals) -> f64| course_of(&|vitals| Some(value(vitals)));
    let mut lines = vec![
        ("CPUs busy", "a", course(&|vitals| vitals.node_cpu)),
        ("memory in use", "b", course(&|vitals| vitals.node_memory_used as f64 / vitals.node_memory.max(1) as f64)),
        ("tasks wait for I/O", "c", course(&|vitals| vitals.io_stall)),
    ];
    if looks.iter().any(|look| look.vitals.gpu_memory > 0) {
        lines.push(("GPUs busy", "d", course_of(&|vitals| (vitals.gpu_memory > 0).then_some(vitals.gpu_busy))));
    }
    html.add("<h2>What the nodes used</h2>\n<p class=\"note\">Means over the nodes, including the usage of other programs.</p>\n");
    charts::shares(html, "CPU, memory and I/O of the nodes over time", &lines, end);
}

/// Writes the bill by type of node, for runs that may have several types.
fn types(html: &mut Html, run: &RunView) {
    if run.session().terms.as_ref().is_none_or(|terms| terms.prices.nodes.len() < 2) {
        return;
    }
    html.add(
        "<h2>What the types of nodes cost</h2>\n<div class=\"wide\"><table><thead><tr><th>type</th><th class=\"n\">nodes</th>\
         <th class=\"n\">per hour</th><th class=\"n\">node-hours</th><th class=\"n\">cost</th></tr></thead><tbody>",
    );
    for it in node_types::uses(run) {
        html.add(format_args!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3}</td><td class=\"n\">{:.4}</td></tr>",
            Escaped(&it.node_type),
            it.nodes,
            it.node_hour,
            it.billed_node_s / 3600.0,
            it.cost
        ));
    }
    html.add("</tbody></table></div>\n");
}

/// Writes the sites as they were for the last request, with the choice.
pub(super) fn sites(html: &mut Html, run: &RunView) {
    let Some(request) = run.session().site_requests.last() else { return };
    html.add(format_args!(
        "<h2>Sites that nodes are requested from</h2>\n<p class=\"note\">As of the last of {}, after {}: {}. {}.</p>\n\
         <div class=\"wide\"><table><thead><tr><th>site</th><th class=\"n\">per hour</th><th class=\"n\">slots</th>\
         <th class=\"n\">wait</th><th>from</th><th class=\"n\">patience</th><th class=\"n\">room</th><th>choice</th>\
         </tr></thead><tbody>",
        counted(run.session().site_requests.len() as u64, "request"),
        seconds(request.time.seconds()),
        Escaped(&request.reason),
        WAITS,
    ));
    let asked = request.asked();
    let dash = || "&ndash;".to_owned();
    for site in &request.candidates {
        let SiteView { name, node_hour, slots, .. } = site;
        html.add(format_args!(
            "<tr><td>{}</td><td class=\"n\">{node_hour}</td><td class=\"n\">{slots}</td><td class=\"n\">{}</td><td>{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            Escaped(name),
            seconds(site.wait_s),
            site.wait_from.name(),
            site.patience().map_or_else(dash, |patience| seconds(patience.as_secs_f64())),
            site.room.map_or_else(dash, |room| room.to_string()),
            Escaped(&site.verdict(asked)),
        ));
    }
    html.add("</tbody></table></div>\n");
}

/// Writes the use of the time of each node, longest held first, for runs that have a price or whose
/// nodes changed.
pub(super) fn held(html: &mut Html, run: &RunView) {
    let mut nodes: Vec<NodeUse> = uses(run);
    if run.session().terms.is_none() && nodes.iter().all(|node| node.block.is_none()) {
        return;
    }
    html.add(
        "<h2>Where the time of nodes went</h2>\n<div class=\"wide\"><table><thead><tr><th>node</th><th>came as</th><th class=\"n\">from</th>\
         <th class=\"n\">held</th><th class=\"n\">starting</th><th class=\"n\">working</th><th class=\"n\">starving</th>\
         <th class=\"n\">leaving, parked</th><th class=\"n\">minimum charge</th></tr></thead><tbody>",
    );
    nodes.sort_by(|a, b| b.held_s.total_cmp(&a.held_s));
    for node in nodes.iter().take(ROWS) {
        let came = node.block.map_or_else(|| "&ndash;".to_owned(), |block| format!("block {block}"));
        html.add(format_args!(
            "<tr><td>{}</td><td>{came}</td><td class=\"n\">{}</td>",
            Escaped(&node.node),
            seconds(node.from_s)
        ));
        for part in [node.held_s, node.starting_s, node.working_s, node.starving_s, node.leaving_s, node.minimum_s] {
            let text = if part > 0.0 { seconds(part) } else { "&ndash;".to_owned() };
            html.add(format_args!("<td class=\"n\">{text}</td>"));
        }
        html.add("</tr>");
    }
    html.add("</tbody></table></div>\n");
    if let Some(more) = nodes.len().checked_sub(ROWS).filter(|more| *more > 0) {
        html.add(format_args!("<p class=\"note\">And {more} more, held for shorter times.</p>\n"));
    }
    types(html, run);
}
