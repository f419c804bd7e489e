//! `png { input, output, width, height }`: converts a file of raw RGB pixels, three bytes each, to
//! PNG.
//!
//! Works row by row, so a picture of any size needs memory for one row only.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{NewFile, failed};
use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::{Context, Prepared};

struct PngImage {
    input: PathBuf,
    output: PathBuf,
    width: u32,
    height: u32,
}

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let args = Args::new(args, &["input", "output", "width", "height"])?;
    let side = |field| match args.need::<u32>(field)? {
        side @ 1..=0x7fff_ffff => Ok(side),
        _ => Err(ArgError::new(field, "expected 1 to 2147483647 pixels")),
    };
    let (width, height) = (side("width")?, side("height")?);
    let picture = PngImage { input: args.need("input")?, output: args.need("output")?, width, height };
    Ok(Arc::new(move |context| convert(context, &picture)))
}

fn convert(context: &Context, picture: &PngImage) -> Result<(), String> {
    let input = context.path(&picture.input);
    let file = File::open(&input).map_err(|e| failed("read", &input, &e))?;
    let found = file.metadata().map_err(|e| failed("read", &input, &e))?.len();
    let expected = 3 * u64::from(picture.width) * u64::from(picture.height);
    if found != expected {
        let (w, h) = (picture.width, picture.height);
        let reason = format!("it has {found} bytes, and {w} x {h} pixels of 3 bytes are {expected}");
        return Err(failed("use", &input, &reason));
    }
    let mut output = NewFile::create(context, context.path(&picture.output))?;
    if let Err(error) = encode(context, picture, &input, BufReader::with_capacity(256 << 10, file), &mut output) {
        return Err(output.failed(&error));
    }
    if context.cancelled() { Ok(()) } else { output.complete() }
}

fn encode(
    context: &Context,
    picture: &PngImage,
    name: &Path,
    mut pixels: impl Read,
    output: &mut NewFile,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = png::Encoder::new(output, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut header = encoder.write_header()?;
    let mut writer = header.stream_writer()?;
    let mut row = Vec::new();
    row.try_reserve_exact(3 * picture.width as usize)?;
    row.resize(3 * picture.width as usize, 0);
    for _ in 0..picture.height {
        if context.cancelled() {
            // The incomplete file is removed.
            return Ok(());
        }
        pixels.read_exact(&mut row).map_err(|e| failed("read", name, &e))?;
        writer.write_all(&row)?;
    }
    writer.finish()?;
    header.finish()?;
    Ok(())
}
