//! Assigns a rank's GPUs to items. The admission queue counts how many are free.

use rustc_hash::FxHashMap;

/// The free GPUs.
pub(super) struct FreeGpus {
    free: Vec<u32>,
    /// The domain near each GPU, where known.
    near: FxHashMap<u32, usize>,
}

impl FreeGpus {
    /// All GPUs by number, each with the domain near it.
    pub(super) fn new(gpus: Vec<(u32, Option<usize>)>) -> FreeGpus {
        let near = gpus.iter().filter_map(|&(gpu, domain)| Some((gpu, domain?))).collect();
        FreeGpus { free: gpus.into_iter().map(|(gpu, _)| gpu).collect(), near }
    }

    /// Takes this many, those near to the domain first.
    pub(super) fn take(&mut self, count: u32, domain: usize) -> Vec<u32> {
        if count == 0 {
            return Vec::new();
        }
        let FreeGpus { free, near } = self;
        free.sort_by_key(|gpu| (near.get(gpu).is_some_and(|&of| of != domain), *gpu));
        free.drain(..(count as usize).min(free.len())).collect()
    }

    pub(super) fn give_back(&mut self, gpus: &[u32]) {
        self.free.extend_from_slice(gpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_near_is_taken_first() {
        let mut gpus = FreeGpus::new(vec![(0, Some(0)), (1, Some(1)), (2, Some(1)), (3, None)]);
        assert_eq!(gpus.take(1, 1), [1]);
        assert_eq!(gpus.take(2, 1), [2, 3]);
        assert_eq!(gpus.take(1, 1), [0], "far is better than none");
        gpus.give_back(&[2, 3]);
        assert_eq!(gpus.take(1, 0), [3], "one that is near to none is as good as any");
    }
}
