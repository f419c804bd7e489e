//! Divides the resources granted to a node among its ranks.

/// One rank's share of the CPUs of a shared mask.
pub(super) struct CpuShare {
    pub cpus: Vec<u32>,
    /// True if there are more ranks than CPUs: each has the whole mask, and none pins.
    pub crowded: bool,
}

/// Share `rank` of `ranks` of the given CPUs, which are in machine order. Shares are contiguous, so
/// a share crosses domains only where the numbers do not divide evenly.
pub(super) fn cpus(ordered: &[u32], rank: u32, ranks: u32) -> CpuShare {
    let crowded = ranks as usize > ordered.len();
    let cpus = if crowded { ordered } else { slice(ordered, rank, ranks) };
    CpuShare { cpus: cpus.to_vec(), crowded }
}

/// One rank's share of the GPUs that all local ranks see. With fewer GPUs than ranks, the first
/// ranks get one each.
pub(super) fn gpus<T: Clone>(shown: Vec<T>, local_rank: u32, local_size: u32) -> Vec<T> {
    match shown.len() < local_size as usize {
        true => shown.into_iter().skip(local_rank as usize).take(1).collect(),
        false => slice(&shown, local_rank, local_size).to_vec(),
    }
}

fn slice<T>(all: &[T], rank: u32, ranks: u32) -> &[T] {
    let at = |r: u32| all.len() * r as usize / ranks.max(1) as usize;
    &all[at(rank).min(all.len())..at(rank.saturating_add(1)).min(all.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_contiguous_complete_and_even() {
        let all: Vec<u32> = (10..23).collect();
        for ranks in 1..=13 {
            let parts: Vec<_> = (0..ranks).map(|r| cpus(&all, r, ranks)).collect();
            assert_eq!(parts.iter().flat_map(|p| p.cpus.clone()).collect::<Vec<_>>(), all);
            let sizes = parts.iter().map(|p| p.cpus.len());
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }

    #[test]
    fn more_ranks_than_cpus_share_them_all_unpinned() {
        let part = cpus(&[0, 1], 2, 3);
        assert!(part.crowded);
        assert_eq!(part.cpus, vec![0, 1]);
    }
}
