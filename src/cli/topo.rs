//! `phalanx topo`: the CPUs of the machine, those that the launcher granted, and where slots are
//! pinned.

use std::process::ExitCode;

use super::print;
use crate::topology::{Topology, show};

/// Shows the machine, the CPUs that the launcher granted, and where each slot is pinned.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of slots to place [default: one per granted CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let topology = Topology::discover();
    let places = topology.places(args.slots.map(|s| s as usize));
    if args.json {
        print(&format!("{:#}\n", show::json(&topology, &places)))
    } else {
        print(&show::text(&topology, &places))
    }
}
