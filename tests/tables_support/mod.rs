//! Job files of very many separate tables, and a heap that counts its bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How the tasks of a file need each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Not at all.
    Bag,
    /// As a thousand chains side by side.
    Chains,
    /// Each needs one to four of the five thousand before it.
    Random,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 3] = [Shape::Bag, Shape::Chains, Shape::Random];
}

/// A file of this many `[[task]]` tables. The first task is a kernel called `first`.
pub fn job_text(shape: Shape, tables: u32) -> String {
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = String::from("[job]\noutput = \"failed\"\nenv = { MODE = \"batch\" }\n\n");
    text.push_str("[defaults]\ntime = \"10m\"\nestimate = \"2ms\"\n\n");
    for table in 0..tables {
        let needs: Vec<u32> = match shape {
            Shape::Bag => Vec::new(),
            Shape::Chains => table.checked_sub(1000).into_iter().collect(),
            Shape::Random if table == 0 => Vec::new(),
            Shape::Random => (0..random.u32(1..5)).map(|_| random.u32(table.saturating_sub(5000)..table)).collect(),
        };
        add_table(&mut text, table, &needs);
    }
    text
}

fn add_table(text: &mut String, table: u32, needs: &[u32]) {
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").unwrap();
    line(format_args!("[[task]]\nname = \"t{table:07}\""));
    match table % 4 {
        0 => line(format_args!("kernel = \"{}\"", if table == 0 { "first" } else { "noop" })),
        _ => line(format_args!("command = [\"/bin/true\", \"--in\", \"part-{table:07}.bin\", \"{}\"]", table % 7)),
    }
    if !needs.is_empty() {
        let list: Vec<String> = needs.iter().map(|need| format!("\"t{need:07}\"")).collect();
        line(format_args!("needs = [{}]", list.join(", ")));
    }
    if table.is_multiple_of(3) {
        line(format_args!("env = {{ OMP_NUM_THREADS = \"1\", CASE = \"{table}\" }}"));
    }
    if table.is_multiple_of(2) {
        line(format_args!("outputs = [\"out/part-{table:07}.dat\"]"));
    }
    if table % 10 == 1 {
        line(format_args!("inputs = [\"out/part-{:07}.dat\"]", table - 1));
    }
    if table.is_multiple_of(5) {
        line(format_args!("memory = \"64M\"\nretries = 2"));
    }
    if table.is_multiple_of(8) {
        line(format_args!("class = \"c{}\"", table % 64));
    }
    line(format_args!(""));
}

/// The system's heap, with its bytes counted.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn grew(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
    CALLS.fetch_add(1, Relaxed);
}

// SAFETY: every call is passed on to the system's heap as it is; beside that only counters are
// kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Relaxed);
        grew(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Bytes on the heap.
pub fn heap() -> usize {
    NOW.load(Relaxed)
}

/// The most bytes on the heap since [`forget_peak`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Resets the peak and the count of calls.
pub fn forget_peak() {
    PEAK.store(heap(), Relaxed);
    CALLS.store(0, Relaxed);
}

/// Number of allocations since then.
#[allow(dead_code, reason = "only the test asks for it")]
pub fn calls() -> usize {
    CALLS.load(Relaxed)
}
