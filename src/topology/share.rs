//! How the ranks of one node divide what they were granted together.

use super::grant::Env;

/// One rank's part of the CPUs of a shared mask.
pub(super) struct Part {
    pub cpus: Vec<u32>,
    /// More ranks than CPUs: each has the whole mask, and none pins.
    pub crowded: bool,
}

/// Part `rank` of `ranks` of the given CPUs, which are in machine order: parts are contiguous, so a part crosses from one domain
/// to the next only where the numbers do not divide.
pub(super) fn cpus(ordered: &[u32], rank: u32, ranks: u32) -> Part {
    let crowded = ranks as usize > ordered.len();
    let cpus = if crowded { ordered } else { slice(ordered, rank, ranks) };
    Part { cpus: cpus.to_vec(), crowded }
}

/// The GPUs of one rank: those that the launcher shows, divided. With fewer GPUs than ranks, the first ranks get one each.
pub(super) fn gpus(env: Env<'_>, local_rank: u32, local_size: u32) -> Vec<String> {
    let shown = shown_gpus(env);
    if given_per_task(env) {
        return shown;
    }
    match shown.len() < local_size as usize {
        true => shown.into_iter().skip(local_rank as usize).take(1).collect(),
        false => slice(&shown, local_rank, local_size).to_vec(),
    }
}

fn slice<T>(all: &[T], rank: u32, ranks: u32) -> &[T] {
    let at = |r: u32| all.len() * r as usize / ranks.max(1) as usize;
    &all[at(rank).min(all.len())..at(rank.saturating_add(1)).min(all.len())]
}

fn shown_gpus(env: Env<'_>) -> Vec<String> {
    let list = ["CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"].iter().find_map(|name| env(name));
    let list = list.unwrap_or_default();
    // As CUDA does: what follows a device that is none is not seen. `-1`, `NoDevFiles` and the like hide all.
    let is_device = |name: &&str| name.parse::<u32>().is_ok() || name.starts_with("GPU-") || name.starts_with("MIG-");
    list.split(',').map(str::trim).take_while(is_device).map(String::from).collect()
}

/// Slurm was asked for GPUs per task, and has hidden the other tasks' from this one.
fn given_per_task(env: Env<'_>) -> bool {
    let per_task =
        env("SLURM_GPUS_PER_TASK").is_some() || env("SLURM_TRES_PER_TASK").is_some_and(|v| v.contains("gpu"));
    per_task && env("SLURM_STEP_ID").is_some() && env("OMPI_COMM_WORLD_LOCAL_RANK").is_none()
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

    #[test]
    fn gpus_are_divided_and_never_shared() {
        let with = |list: &'static str| move |name: &str| (name == "CUDA_VISIBLE_DEVICES").then(|| list.to_string());
        let four = with("0,1,GPU-ab,3");
        assert_eq!(gpus(&four, 1, 2), vec!["GPU-ab", "3"]);
        assert_eq!(gpus(&with("5"), 0, 2), vec!["5"]);
        assert!(gpus(&with("5"), 1, 2).is_empty());
        for none in ["", "-1", "NoDevFiles"] {
            assert!(gpus(&with(none), 0, 1).is_empty(), "{none}");
        }
    }
}
