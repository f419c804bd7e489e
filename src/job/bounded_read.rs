//! Reads a file that a person names, up to a bound.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Maximum size of a job file in bytes. A larger one is not a job file, or should use arrays.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// True for `-`, which denotes standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes of a file; `-` reads standard input.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let file: Box<dyn std::io::Read> = match is_stdin(path) {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(|error| error.to_string())?),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {} MiB; describe many tasks as an `array`", MAX_FILE_BYTES >> 20));
    }
    Ok(bytes)
}
