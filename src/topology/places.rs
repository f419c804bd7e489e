//! Places the slots of this rank on CPUs.

use serde::Serialize;

use super::{Grant, Machine};

/// The place of one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotPlace {
    /// The CPUs that the slot's thread may use: one if it is pinned, else those over which it
    /// floats.
    pub cpus: Vec<u32>,
    /// Id of their domain.
    pub domain: u32,
    /// True if the slot has a CPU of its own that exists and was granted.
    pub pinned: bool,
}

/// Places `slots` slots (default: one per CPU of the grant; a single one if ranks already crowd the
/// CPUs).
///
/// Slots are distributed over domains in proportion to their CPUs, and slots of one domain have
/// consecutive numbers. While there are enough CPUs each slot gets its own; with more slots than
/// CPUs each floats over its domain's part of the grant.
pub(super) fn places(machine: &Machine, grant: &Grant, slots: Option<usize>) -> Vec<SlotPlace> {
    let slots = slots.unwrap_or(default_slots(grant)).max(1);
    spread(machine, grant, slots, slots <= grant.cpus.len())
}

/// Places of slots beyond those with a CPU of their own: each floats over its domain's part of the
/// grant.
pub(super) fn floating_places(machine: &Machine, grant: &Grant, slots: usize) -> Vec<SlotPlace> {
    spread(machine, grant, slots, false)
}

/// Number of slots if nothing else is asked for.
pub(super) fn default_slots(grant: &Grant) -> usize {
    if grant.crowded { 1 } else { grant.cpus.len() }
}

/// Spreads slots over the domains; `own`: each gets a CPU of its own.
fn spread(machine: &Machine, grant: &Grant, slots: usize, own: bool) -> Vec<SlotPlace> {
    if grant.crowded {
        return vec![floating(machine, grant.cpus.clone()); slots];
    }
    let parts = by_domain(machine, &grant.cpus);
    let mut places = Vec::with_capacity(slots);
    let mut seen = 0;
    for (domain, cpus) in parts {
        let before = seen * slots / grant.cpus.len();
        seen += cpus.len();
        let here = seen * slots / grant.cpus.len() - before;
        // The stride selects different cores before a core's second hardware thread.
        places.extend((0..here).map(|i| match own {
            true => pinned(machine, grant, cpus[i * cpus.len() / here], domain),
            false => SlotPlace { cpus: cpus.clone(), domain, pinned: false },
        }));
    }
    places
}

fn pinned(machine: &Machine, grant: &Grant, cpu: u32, domain: u32) -> SlotPlace {
    SlotPlace { cpus: vec![cpu], domain, pinned: machine.real || grant.mask.contains(&cpu) }
}

fn floating(machine: &Machine, cpus: Vec<u32>) -> SlotPlace {
    let domain = cpus.first().map_or(0, |&cpu| machine.domain_of(cpu));
    SlotPlace { cpus, domain, pinned: false }
}

/// Splits the CPUs, which are in machine order, by domain.
fn by_domain(machine: &Machine, cpus: &[u32]) -> Vec<(u32, Vec<u32>)> {
    let mut parts: Vec<(u32, Vec<u32>)> = Vec::new();
    for &cpu in cpus {
        let domain = machine.domain_of(cpu);
        match parts.iter_mut().find(|(id, _)| *id == domain) {
            Some((_, part)) => part.push(cpu),
            None => parts.push((domain, vec![cpu])),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::Domain;
    use super::*;

    fn machine(domains: u32, each: u32) -> Machine {
        let domain = |id: u32| Domain { id, cpus: (each * id..each * (id + 1)).collect(), memory: None };
        let domains: Vec<_> = (0..domains).map(domain).collect();
        let cpus = domains.iter().flat_map(|d| d.cpus.clone()).collect();
        Machine { node: "n1".into(), packages: 1, domains, cpus, real: true, gpus: vec![] }
    }

    fn grant(cpus: Vec<u32>, crowded: bool) -> Grant {
        let mask = cpus.clone();
        Grant {
            mask,
            cpus,
            crowded,
            sharers: 1,
            local_rank: 0,
            local_size: 1,
            launcher: None,
            memory: 1,
            gpus: Default::default(),
        }
    }

    fn where_(places: &[SlotPlace]) -> Vec<(u32, u32)> {
        places.iter().map(|p| (p.domain, p.cpus[0])).collect()
    }

    #[test]
    fn by_default_each_granted_cpu_has_one_pinned_slot() {
        let places = places(&machine(2, 4), &grant(vec![2, 3, 4, 5], false), None);
        assert_eq!(where_(&places), [(0, 2), (0, 3), (1, 4), (1, 5)]);
        assert!(places.iter().all(|p| p.pinned && p.cpus.len() == 1));
    }

    #[test]
    fn fewer_slots_are_spread_over_domains_and_cores() {
        let places = places(&machine(2, 4), &grant((0..8).collect(), false), Some(4));
        assert_eq!(where_(&places), [(0, 0), (0, 2), (1, 4), (1, 6)]);
    }

    #[test]
    fn any_number_of_slots_up_to_the_cpus_gets_distinct_cpus() {
        for slots in 1..=15 {
            let places = places(&machine(3, 5), &grant((0..15).collect(), false), Some(slots));
            let mut cpus: Vec<_> = places.iter().map(|p| p.cpus[0]).collect();
            cpus.dedup();
            assert_eq!(cpus.len(), slots);
        }
    }

    #[test]
    fn more_slots_than_cpus_float_within_their_domain() {
        let places = places(&machine(2, 2), &grant((0..4).collect(), false), Some(6));
        assert_eq!(places.len(), 6);
        assert!(places.iter().all(|p| !p.pinned && p.cpus.len() == 2));
        assert_eq!(places.iter().filter(|p| p.domain == 1).count(), 3);
    }

    #[test]
    fn extra_slots_float_within_their_domains_also_if_they_are_few() {
        let places = floating_places(&machine(2, 2), &grant(vec![1, 2, 3], false), 2);
        assert!(places.iter().all(|place| !place.pinned && place.cpus.iter().all(|cpu| (1..4).contains(cpu))));
        assert_eq!(places.len(), 2);
        assert!(floating_places(&machine(2, 2), &grant(vec![1, 2, 3], false), 0).is_empty());
    }

    #[test]
    fn crowded_ranks_have_one_slot_that_is_not_pinned() {
        let places = places(&machine(1, 2), &grant(vec![0, 1], true), None);
        assert_eq!(places, vec![SlotPlace { cpus: vec![0, 1], domain: 0, pinned: false }]);
    }

    #[test]
    fn cpus_of_a_described_machine_that_do_not_exist_here_are_not_pinned_to() {
        let described = Machine { real: false, ..machine(2, 2) };
        let mut grant = grant((0..4).collect(), false);
        grant.mask = vec![0, 1];
        let pinned: Vec<_> = places(&described, &grant, None).iter().map(|p| p.pinned).collect();
        assert_eq!(pinned, [true, true, false, false]);
    }
}
