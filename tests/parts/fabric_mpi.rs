//! The MPI fabric itself, on real ranks: frames of every size arrive whole and in order, on both
//! sides of the size above which they take another way; and a rank that dozes is woken by one.
//!
//! Each test starts this very program under `mpirun`, told by a variable that it is now one of the
//! ranks.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Dir, launcher, test_name};
use phalanx::fabric::Fabric;
use phalanx::fabric::mpi::Mpi;
use phalanx::model::Rank;

/// Set for ranks.
const AS_RANK: &str = "PHALANX_TEST_AS_RANK";

/// Around Open MPI's eager limit for shared memory (4,096 bytes with its header), and far from it.
const SIZES: [usize; 14] = [1, 2, 100, 3998, 3999, 4000, 4001, 4002, 4064, 4095, 4096, 4097, 65_537, 3_000_001];

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Runs this program's test `name` on two ranks.
fn on_two_ranks(name: &str) {
    let dir = Dir::new("fabric");
    let program = std::env::current_exe().expect("this program");
    let command = launcher(&dir, 2);
    let (program, name): (&Path, _) = (&program, test_name(module_path!(), name));
    let output = command.args([program]).args(["--exact", &name, "--nocapture"]).env(AS_RANK, "1").run().ok();
    assert_eq!(output.stdout().matches("1 passed").count(), 2, "each rank runs the test\n{output}");
}

fn is_rank() -> bool {
    std::env::var_os(AS_RANK).is_some()
}

fn content(number: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + number * 7 + size) as u8).collect()
}

fn receive(fabric: &mut Mpi) -> Vec<u8> {
    let (mut frame, end) = (Vec::new(), Instant::now() + PATIENCE);
    while fabric.receive(&mut frame).expect("a whole world").is_none() {
        assert!(Instant::now() < end, "no frame came");
        std::thread::yield_now();
    }
    frame
}

fn leave(mut fabric: Mpi) {
    while !fabric.drained() {
        std::thread::yield_now();
    }
}

#[test]
fn frames_of_every_size_arrive_whole_and_in_order() {
    if !is_rank() {
        return on_two_ranks("frames_of_every_size_arrive_whole_and_in_order");
    }
    let mut fabric = Mpi::join().expect("MPI");
    let other = Rank(1 - fabric.me().0);
    // Large and small ones take turns, many more of them than receives are posted.
    let sizes = || (0..40).flat_map(|round| SIZES.map(|size| if round % 5 == 0 { size } else { size.min(4100) }));
    for (number, size) in sizes().enumerate() {
        let mut frame = content(number, size);
        fabric.send(other, &mut frame).expect("it can arrive");
        assert!(frame.is_empty());
    }
    for (number, size) in sizes().enumerate() {
        assert!(receive(&mut fabric) == content(number, size), "frame {number} of {size} bytes");
    }
    leave(fabric);
}

#[test]
fn a_frame_wakes_a_rank_that_dozes() {
    if !is_rank() {
        return on_two_ranks("a_frame_wakes_a_rank_that_dozes");
    }
    let mut fabric = Mpi::join().expect("MPI");
    let other = Rank(1 - fabric.me().0);
    assert!(fabric.bell_is_enough(), "both ranks are on this machine");
    let bell = fabric.bell().expect("a bell");
    for round in 0..100u8 {
        if fabric.me() == Rank::ZERO {
            fabric.send(other, &mut vec![round]).expect("it can arrive");
            assert_eq!(receive(&mut fabric), [round]);
            continue;
        }
        let mut frame = Vec::new();
        fabric.doze();
        while fabric.receive(&mut frame).expect("a whole world").is_none() {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let woken = poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&limit)).expect("a descriptor");
            assert_eq!(woken, 1, "slept through frame {round}");
            let _ = rustix::io::read(&bell, &mut [0; 8]);
            fabric.doze();
        }
        assert_eq!(frame, [round]);
        fabric.send(other, &mut frame).expect("it can arrive");
    }
    leave(fabric);
}
