//! `phalanx topo`: the CPUs of the machine, those that the launcher granted, and where slots are
//! pinned.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::print;
use crate::system::launch;
use crate::system::ulfm::RankLoss;
use crate::topology::{Topology, labels, show};

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
        let mut all = show::json(&topology, &places);
        all["mpi"] = mpi_json();
        all["labels"] = json!(labels(&[]));
        print(&format!("{all:#}\n"))
    } else {
        let labels = match labels(&[]) {
            labels if labels.is_empty() => "none".to_owned(),
            labels => labels.join(", "),
        };
        print(&format!("{}\nlabels     {labels}\n{}", mpi_text(), show::text(&topology, &places)))
    }
}

/// The MPI library, and how this process was started. An MPI that does not know the launcher shows
/// here, because MPI itself is not started.
fn mpi_text() -> String {
    let how = match launch::place() {
        Some(place) if launch::is_launched() => {
            format!("started by {} as rank {} of {}", place.launcher, place.rank, place.size)
        }
        Some(place) if place.size > 1 => {
            format!("{} started {} processes, but none of them for MPI", place.launcher, place.size)
        }
        _ => "not started by an MPI launcher".to_owned(),
    };
    format!("MPI        {}, {how}\nlost rank  {}", launch::library(), RankLoss::here().text())
}

fn mpi_json() -> Value {
    let place = launch::place();
    json!({
        "library": launch::library(),
        "launcher": place.map(|place| place.launcher),
        "rank": place.map(|place| place.rank),
        "size": place.map(|place| place.size),
        "launched_for_mpi": launch::is_launched(),
        "survives_lost_ranks": RankLoss::here() == RankLoss::Survived,
    })
}
