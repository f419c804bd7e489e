//! What a job file of very many separate tables may take: bytes of the heap and requests for
//! memory, per table and however many there are.
//!
//! Seconds are for `cargo bench --bench tables`. Alone in its process, because every byte of the
//! process counts.

mod tables_support;

use std::path::Path;
use std::sync::Arc;

use phalanx::job::{KernelCheck, parse};
use phalanx::workload::graph_of;
use tables_support::{Counting, Shape, calls, forget_peak, heap, job_text, peak};

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes of the heap that a further table may take while the file is read and its graph is made,
/// beyond the text.
const MOST_BYTES: f64 = 1024.0;

struct AnyKernel;

impl KernelCheck for AnyKernel {
    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn knows(&self, _: &str) -> bool {
        true
    }

    fn check(&self, _: &str, _: &toml::Table) -> Result<(), String> {
        Ok(())
    }
}

/// Peak of the heap beyond the text, and requests for memory.
fn figures(shape: Shape, tables: u32) -> [f64; 2] {
    let text: Arc<str> = job_text(shape, tables).into();
    let before = heap();
    forget_peak();
    let loaded = parse(Arc::clone(&text), "t.toml", Path::new("/"), &AnyKernel).expect("a good job");
    let graph = graph_of(&loaded).expect("a graph");
    assert_eq!((graph.task_count(), loaded.job.groups.len()), (tables as usize, tables as usize));
    [(peak() - before) as f64, calls() as f64]
}

/// Binds this thread to one of its CPUs, so that the file is read by one thread: how far several
/// are ahead of each other depends on the moment.
fn bind_to_one_cpu() {
    // SAFETY: a zeroed set is an empty one, both calls get its size, and 0 is the calling thread.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut allowed), 0);
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &allowed));
        libc::CPU_SET(first.expect("a CPU"), &mut one);
        assert_eq!(libc::sched_setaffinity(0, size, &raw const one), 0);
    }
}

#[test]
fn a_table_takes_a_kibibyte_and_a_few_requests_however_many_there_are() {
    bind_to_one_cpu();
    for shape in Shape::ALL {
        // The trees of the pieces that are read at a time are the same for all of them.
        let [few, some, many] = [4_000, 16_000, 64_000].map(|tables| figures(shape, tables));
        let [bytes, requests] = [0, 1].map(|of| (many[of] - some[of]) / 48_000.0);
        assert!(bytes <= MOST_BYTES, "{shape:?}: {bytes:.0} bytes for a further table");
        let before = (some[1] - few[1]) / 12_000.0;
        assert!(requests <= 1.05 * before, "{shape:?}: {before:.1} requests for a further table, then {requests:.1}");
        eprintln!("{shape:?}: {bytes:.0} bytes and {requests:.1} requests for a further table");
    }
}
