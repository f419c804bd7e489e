//! `memory { size, seconds }`: allocates memory, touches every page of it and holds it.
//!
//! Most systems overcommit memory and kill a process when it runs out, which could be this one. The
//! kernel therefore checks the available memory before every piece, and fails instead.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crate::exec::args::{ArgError, Args, Bytes};
use crate::exec::kernel::{Context, Prepared};

const PIECE_BYTES: u64 = 64 << 20;
/// Bytes left to the rest of the machine.
const RESERVE_BYTES: u64 = 128 << 20;

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let args = Args::new(args, &["size", "seconds"])?;
    let Bytes(size) = args.need("size")?;
    let hold = super::seconds(&args, "seconds")?.unwrap_or_default();
    Ok(Arc::new(move |context| take(context, size, hold)))
}

fn take(context: &Context, size: u64, hold: Duration) -> Result<(), String> {
    let refusal = |had: u64| format!("only {} of {} MiB of memory were available", had >> 20, size >> 20);
    if let Some(available) = available().filter(|&available| !leaves_reserve(available, size)) {
        return Err(refusal(available.saturating_sub(RESERVE_BYTES)));
    }
    let mut pieces = Vec::new();
    let mut left = size;
    while left > 0 && !context.cancelled() {
        let bytes = left.min(PIECE_BYTES);
        pieces.push(piece(bytes).ok_or_else(|| refusal(size - left))?);
        left -= bytes;
    }
    context.sleep(hold);
    std::hint::black_box(&pieces);
    Ok(())
}

/// Allocates memory and touches every page, if enough is available. Other processes allocate too,
/// so this is checked for each piece.
fn piece(bytes: u64) -> Option<Vec<u8>> {
    if available().is_some_and(|available| !leaves_reserve(available, bytes)) {
        return None;
    }
    let length = usize::try_from(bytes).ok()?;
    let mut piece = Vec::new();
    piece.try_reserve_exact(length).ok()?;
    piece.resize(length, 1);
    Some(piece)
}

fn leaves_reserve(available: u64, bytes: u64) -> bool {
    available.saturating_sub(RESERVE_BYTES) >= bytes
}

/// Available bytes according to the system; `None` if it does not say.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
