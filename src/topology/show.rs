//! The output of `phalanx topo`: the machine, the grant, and the place of each slot.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{SlotPlace, Topology, format_cpus};
use crate::text::counted;

/// As text for people.
pub fn text(topology: &Topology, places: &[SlotPlace]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_machine(&mut out, topology).and_then(|()| write_grant(&mut out, topology));
    let _ = write_slots(&mut out, topology, places);
    out
}

/// As JSON for programs: one object with `machine`, `grant` and `slots`.
pub fn json(topology: &Topology, places: &[SlotPlace]) -> Value {
    json!({ "machine": topology.machine, "grant": topology.grant, "slots": places })
}

fn write_machine(out: &mut String, topology: &Topology) -> std::fmt::Result {
    let machine = &topology.machine;
    let (cpus, packages, domains) = (machine.cpus.len(), machine.packages as usize, machine.domains.len());
    let counts = [counted(cpus as u64, "CPU"), counted(packages as u64, "package"), counted(domains as u64, "domain")];
    writeln!(out, "machine    {}: {}", machine.node, counts.join(", "))?;
    if !machine.real {
        writeln!(out, "           as described to hwloc (HWLOC_SYNTHETIC or HWLOC_XMLFILE), not the machine itself")?;
    }
    for domain in &machine.domains {
        let memory = domain.memory.map_or(String::new(), |bytes| format!(", {}", bytes_text(bytes)));
        writeln!(out, "domain {:<3} {}{memory}", domain.id, cpus_text(&domain.cpus))?;
    }
    Ok(())
}

fn write_grant(out: &mut String, topology: &Topology) -> std::fmt::Result {
    let grant = &topology.grant;
    let by = grant.launcher.map_or(String::new(), |name| format!(" by {name}"));
    writeln!(out, "granted{by}")?;
    writeln!(out, "  mask     {}", cpus_text(&grant.mask))?;
    writeln!(out, "  rank     {} of {} on this node", grant.local_rank, grant.local_size)?;
    let how = match (grant.crowded, grant.sharers) {
        (true, n) => format!(", shared by {n} ranks and so not pinned"),
        (false, 1) => String::new(),
        (false, n) => format!(", this rank's share among {n}"),
    };
    writeln!(out, "  CPUs     {}{how}", cpus_text(&grant.cpus))?;
    writeln!(out, "  memory   {}", bytes_text(grant.memory))?;
    if grant.gpus.list.is_empty() {
        writeln!(out, "  GPUs     none")?;
    }
    for (at, gpu) in grant.gpus.list.iter().enumerate() {
        let what = gpu.device.as_ref().map_or(String::new(), |device| {
            let domain = device.domain.map_or(String::new(), |id| format!(", near domain {id}"));
            format!(" {}, {}{domain}", device.model, bytes_text(device.memory))
        });
        writeln!(out, "  {:<8} {}{what}", if at == 0 { "GPUs" } else { "" }, gpu.name)?;
    }
    Ok(())
}

fn write_slots(out: &mut String, topology: &Topology, places: &[SlotPlace]) -> std::fmt::Result {
    writeln!(out, "slots      {}", places.len())?;
    for (index, place) in places.iter().enumerate() {
        let granted = place.cpus.iter().all(|cpu| topology.grant.mask.contains(cpu));
        let how = match (place.pinned, granted) {
            (true, _) => "pinned to",
            (false, true) => "floats over",
            (false, false) => "not pinned, would be on",
        };
        writeln!(out, "  slot {index:<4} {how} {}, domain {}", cpus_text(&place.cpus), place.domain)?;
    }
    Ok(())
}

fn cpus_text(cpus: &[u32]) -> String {
    format!("CPU{} {}", if cpus.len() == 1 { "" } else { "s" }, format_cpus(cpus))
}

fn bytes_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = units.len() - 1;
    let power = (0..unit).find(|&p| bytes >> (10 * (p + 1)) == 0).unwrap_or(unit);
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    if power == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[power]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_the_unit_that_fits() {
        let texts: Vec<_> = [0, 1023, 1024, 3 << 29, u64::MAX].map(bytes_text).into();
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "16777216.0 TiB"]);
    }

    #[test]
    fn text_and_json_tell_the_same_of_this_machine() {
        let topology = Topology::discover();
        let places = topology.places(Some(1));
        let text = text(&topology, &places);
        assert!(text.contains(&topology.machine.node) && text.contains("slots      1"), "{text}");
        let json = json(&topology, &places);
        assert_eq!(json["slots"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["grant"]["local_size"], 1);
        assert_eq!(json["machine"]["node"].as_str(), Some(topology.machine.node.as_str()));
    }
}
