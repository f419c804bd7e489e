//! The built-in kernels, one file each.
//!
//! | name | arguments | what it does |
//! |---|---|---|
//! | `noop` | | nothing |
//! | `sleep` | `seconds` | sleeps |
//! | `busy` | `seconds` or `flops` | uses CPU time, or does floating-point operations |
//! | `compute_bound` | `iterations` | the compute kernel of Task Bench |
//! | `memory` | `size`, `seconds` | allocates memory, touches it, holds it |
//! | `mandelbrot` | `width height band bands center span iterations samples output` | one strip |
//! | `graph_operation` | `graph operation args output top` | an operation on a data graph |
//! | `png` | `input output width height` | raw pixels to a PNG file |

mod busy;
pub mod compute;
mod files;
mod graph_operation;
mod mandelbrot;
mod memory;
mod png;
mod sleep;

use std::sync::Arc;

use super::args::{ArgError, Args};
use super::kernel::{Kernels, Prepared};

/// Registers all built-in kernels.
pub(super) fn register(kernels: &mut Kernels) {
    kernels.register("noop", noop);
    kernels.register("sleep", sleep::prepare);
    kernels.register("busy", busy::prepare);
    kernels.register("compute_bound", compute::prepare);
    kernels.register("memory", memory::prepare);
    kernels.register("mandelbrot", mandelbrot::prepare);
    kernels.register("png", png::prepare);
    kernels.register(crate::job::OPERATION_KERNEL, graph_operation::prepare);
}

fn noop(args: &toml::Table) -> Result<Prepared, ArgError> {
    Args::new(args, &[])?;
    Ok(Arc::new(|_| Ok(())))
}

/// An argument in seconds: zero or more, and within the range of a duration.
fn seconds(args: &Args, field: &str) -> Result<Option<std::time::Duration>, ArgError> {
    let convert = |s| {
        std::time::Duration::try_from_secs_f64(s).map_err(|_| ArgError::new(field, "expected seconds, zero or more"))
    };
    args.get::<f64>(field)?.map(convert).transpose()
}

fn missing(field: &str, what: &str) -> ArgError {
    ArgError::new(field, format!("missing; expected {what}"))
}
