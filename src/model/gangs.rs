//! What ranks set aside for a task that runs on several of them.

use serde::{Deserialize, Serialize};

use super::Rank;

/// What a rank has for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankRoom {
    /// Slots.
    pub slots: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs.
    pub gpus: u32,
}

impl RankRoom {
    /// A rank of which only the slots count.
    pub fn of_slots(slots: u32) -> RankRoom {
        RankRoom { slots, memory: u64::MAX, gpus: u32::MAX }
    }
}

/// A rank of a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangHost {
    /// The rank.
    pub rank: Rank,
    /// Number of MPI ranks that it hosts; 1 for an operation.
    pub ranks: u32,
    /// Number of its slots that are set aside.
    pub slots: u32,
}

/// What a rank has set aside for a gang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The CPUs of its slots.
    pub cpus: Vec<u32>,
    /// Bytes of memory; 0 if the task does not ask for memory.
    pub memory: u64,
    /// The names of GPUs, as the variable that shows them writes them.
    pub gpus: Vec<String>,
    /// The Slurm job that the rank is in.
    pub allocation: Option<String>,
}

/// A node that hosts MPI ranks of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangNode {
    /// Its name.
    pub node: String,
    /// Number of the task's MPI ranks there.
    pub mpi_ranks: u32,
    /// Bytes of memory that are set aside there; 0 if the task does not ask for memory.
    pub memory: u64,
    /// The names of the GPUs that are set aside there.
    pub gpus: Vec<String>,
    /// The Slurm job that it is in.
    pub allocation: Option<String>,
}

/// What `here` of a task's `all` MPI ranks get of an amount that the task asks for, rounded up.
pub fn share_of(amount: u64, here: u32, all: u32) -> u64 {
    let share = (u128::from(amount) * u128::from(here)).div_ceil(u128::from(all.max(1)));
    u64::try_from(share).unwrap_or(u64::MAX).min(amount)
}

/// For how many of a task's `all` MPI ranks `room` is enough, if the task asks for this amount.
pub fn ranks_within(amount: u64, room: u64, all: u32) -> u32 {
    let ranks = (u128::from(room) * u128::from(all)).checked_div(u128::from(amount));
    ranks.map_or(u32::MAX, |ranks| u32::try_from(ranks).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_some_ranks_is_what_they_get_and_not_for_one_more() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let bits = [(); 2].map(|()| rng.u32(1..60));
            let (amount, all, room) = (rng.u64(1..1 << bits[0]), rng.u32(1..100), rng.u64(0..1 << bits[1]));
            let ranks = ranks_within(amount, room, all).min(all);
            assert!(share_of(amount, ranks, all) <= room, "{amount} {all} {room}");
            assert!(ranks == all || share_of(amount, ranks + 1, all) > room, "{amount} {all} {room}");
        }
        assert_eq!((share_of(u64::MAX, 1, 1), ranks_within(0, 0, 3), share_of(1, 1, 4)), (u64::MAX, u32::MAX, 1));
    }
}
