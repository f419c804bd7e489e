//! `mandelbrot`: renders one horizontal strip of a picture of the Mandelbrot set.
//!
//! Renders strip `band` of `bands` of a picture of `width` x `height` pixels that shows `span` (the
//! width) around `center` of the complex plane, as rows of raw RGB. The concatenated strips of all
//! bands are the picture. With several CPUs the task's thread pool renders the rows.
//!
//! A point's colour comes from its *smooth* iteration count, so there are no steps between colours,
//! and is shaded by the slope of that count (through the derivative of the orbit), as if lit from
//! the upper left.

use std::f64::consts::FRAC_1_SQRT_2;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::files::NewFile;
use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::{Context, Prepared};

const FIELDS: [&str; 9] = ["width", "height", "band", "bands", "center", "span", "iterations", "samples", "output"];
/// Escape radius; large enough for the smooth count to be smooth.
const ESCAPE: f64 = 1e4;
/// Height of the light above the plane.
const LIGHT_HEIGHT: f64 = 1.4;
/// The palette: position on the cycle, and colour.
const PALETTE: [(f64, [f64; 3]); 6] = [
    (0.0, [0.0, 7.0, 100.0]),
    (0.16, [32.0, 107.0, 203.0]),
    (0.42, [237.0, 255.0, 255.0]),
    (0.6425, [255.0, 170.0, 0.0]),
    (0.8575, [90.0, 20.0, 10.0]),
    (1.0, [0.0, 7.0, 100.0]),
];

struct Strip {
    width: u32,
    height: u32,
    /// The rows of this strip.
    rows: std::ops::Range<u32>,
    center: [f64; 2],
    span: f64,
    iterations: u32,
    /// Sample points per pixel and direction.
    samples: u32,
    output: PathBuf,
}

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let strip = Strip::from_args(&Args::new(args, &FIELDS)?)?;
    Ok(Arc::new(move |context| strip.render(context)))
}

impl Strip {
    fn from_args(args: &Args) -> Result<Strip, ArgError> {
        let within = |field: &str, value: u32, range: std::ops::RangeInclusive<u32>| match range.contains(&value) {
            true => Ok(value),
            false => {
                let (from, to) = range.into_inner();
                Err(ArgError::new(field, format!("expected {from} to {to}, found {value}")))
            }
        };
        let width = within("width", args.need("width")?, 1..=1 << 20)?;
        let height = within("height", args.need("height")?, 1..=1 << 20)?;
        let bands = within("bands", args.get("bands")?.unwrap_or(1), 1..=height)?;
        let band = within("band", args.get("band")?.unwrap_or(0), 0..=bands - 1)?;
        let edge = |band: u32| (u64::from(height) * u64::from(band) / u64::from(bands)) as u32;
        let span: f64 = args.get("span")?.unwrap_or(3.2);
        if span <= 0.0 {
            return Err(ArgError::new("span", "expected a width above zero"));
        }
        Ok(Strip {
            width,
            height,
            rows: edge(band)..edge(band + 1),
            center: args.get("center")?.unwrap_or([-0.65, 0.0]),
            span,
            iterations: within("iterations", args.get("iterations")?.unwrap_or(1000), 1..=1 << 30)?,
            samples: within("samples", args.get("samples")?.unwrap_or(2), 1..=16)?,
            output: args.need("output")?,
        })
    }

    fn render(&self, context: &Context) -> Result<(), String> {
        let mut file = NewFile::create(context, context.path(&self.output))?;
        let pool = (context.cpus().len() > 1).then(|| context.rayon());
        let rows: Vec<u32> = self.rows.clone().collect();
        // Renders a few rows at a time, so that memory does not grow with the strip.
        for rows in rows.chunks(pool.as_ref().map_or(1, |pool| 8 * pool.current_num_threads())) {
            if context.cancelled() {
                return Ok(());
            }
            let pixels: Vec<Vec<u8>> = match &pool {
                Some(pool) => pool.install(|| rows.par_iter().map(|&y| self.row(context, y)).collect()),
                None => rows.iter().map(|&y| self.row(context, y)).collect(),
            };
            for row in pixels {
                file.write_all(&row).map_err(|e| file.failed(&e))?;
            }
        }
        if context.cancelled() { Ok(()) } else { file.complete() }
    }

    /// The pixels of one row; black after a cancellation, when the result is discarded.
    fn row(&self, context: &Context, y: u32) -> Vec<u8> {
        let mut row = vec![0; 3 * self.width as usize];
        for (x, pixel) in (0..self.width).zip(row.chunks_exact_mut(3)) {
            if x % 64 == 0 && context.cancelled() {
                break;
            }
            pixel.copy_from_slice(&self.pixel(x, y));
        }
        row
    }

    /// The mean colour of the pixel's points.
    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let scale = self.span / f64::from(self.width);
        let mut sum = [0.0; 3];
        for sample in 0..self.samples * self.samples {
            let (i, j) = (sample % self.samples, sample / self.samples);
            let offset = |k: u32| (f64::from(k) + 0.5) / f64::from(self.samples);
            let re = self.center[0] + (f64::from(x) + offset(i) - f64::from(self.width) / 2.0) * scale;
            let im = self.center[1] - (f64::from(y) + offset(j) - f64::from(self.height) / 2.0) * scale;
            let colour = escape(re, im, self.iterations).map_or([0.0; 3], |(count, light)| colour(count, light));
            sum.iter_mut().zip(colour).for_each(|(sum, c)| *sum += c);
        }
        let points = f64::from(self.samples * self.samples);
        // The mean is taken of light, that is of squared values: screens show about the square
        // root.
        sum.map(|s| (s / points).sqrt().mul_add(255.0, 0.5).clamp(0.0, 255.0) as u8)
    }
}

/// The smooth iteration count of a point outside the set, and how much light falls on it (0 to 1).
fn escape(re: f64, im: f64, iterations: u32) -> Option<(f64, f64)> {
    if in_main_bulbs(re, im) {
        return None;
    }
    let (mut x, mut y, mut dx, mut dy) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    let (mut old_x, mut old_y, mut renewal) = (0.0, 0.0, 16);
    for n in 0..iterations {
        (dx, dy) = (2.0 * (x * dx - y * dy) + 1.0, 2.0 * (x * dy + y * dx));
        (x, y) = (x * x - y * y + re, 2.0 * x * y + im);
        let square = x * x + y * y;
        if square > ESCAPE {
            let count = f64::from(n) + 1.0 - (square.ln() / ESCAPE.ln()).log2();
            return Some((count, light(x, y, dx, dy)));
        }
        // A periodic orbit never escapes.
        if x == old_x && y == old_y {
            return None;
        }
        if n == renewal {
            (old_x, old_y, renewal) = (x, y, renewal.saturating_mul(2));
        }
    }
    None
}

/// True in the two largest parts of the set, which need no iteration.
fn in_main_bulbs(re: f64, im: f64) -> bool {
    let q = (re - 0.25).powi(2) + im * im;
    q * (q + re - 0.25) <= 0.25 * im * im || (re + 1.0).powi(2) + im * im <= 0.0625
}

/// Light from the upper left on the surface whose height is the iteration count: its normal is the
/// direction of `z / z'`.
fn light(x: f64, y: f64, dx: f64, dy: f64) -> f64 {
    let (ux, uy) = (x * dx + y * dy, y * dx - x * dy);
    let length = ux.hypot(uy);
    if !length.is_finite() || length == 0.0 {
        return 0.5;
    }
    let towards = (uy - ux) / length * FRAC_1_SQRT_2;
    ((towards + LIGHT_HEIGHT) / (1.0 + LIGHT_HEIGHT)).max(0.0)
}

/// Colour as light (the square of the screen's value), each component 0 to 1.
fn colour(count: f64, light: f64) -> [f64; 3] {
    // Bands that grow with the logarithm of the count are even at every depth; the far outside is
    // the sky.
    let position = (count.max(0.0).ln_1p() * 0.42 - 0.4).rem_euclid(1.0);
    let after = PALETTE.iter().position(|stop| stop.0 > position).unwrap_or(PALETTE.len() - 1).max(1);
    let ((from, a), (to, b)) = (PALETTE[after - 1], PALETTE[after]);
    let t = (position - from) / (to - from);
    let t = t * t * (3.0 - 2.0 * t);
    std::array::from_fn(|i| {
        let value = (a[i] + (b[i] - a[i]) * t) / 255.0 * (0.35 + 0.65 * light);
        value * value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_apart() {
        for (re, im) in [(0.0, 0.0), (-1.0, 0.0), (-0.1, 0.7), (0.25, 0.0), (-1.3107, 0.0)] {
            assert!(escape(re, im, 2000).is_none(), "{re} {im} is inside");
        }
        for (re, im) in [(1.0, 1.0), (-2.1, 0.0), (0.26, 0.0), (-0.75, 0.1)] {
            let (count, light) = escape(re, im, 2000).unwrap();
            assert!(count.is_finite() && (0.0..=1.0).contains(&light), "{re} {im}: {count} {light}");
        }
    }

    #[test]
    fn the_count_is_smooth() {
        let count = |k: u32| escape(-0.8 + f64::from(k) * 1e-5, 0.3, 2000).unwrap().0;
        let largest = (0..1000).map(|k| (count(k + 1) - count(k)).abs()).fold(0.0, f64::max);
        assert!(largest < 0.1, "a step of {largest}");
    }

    #[test]
    fn strips_cover_the_picture_once() {
        let rows = |band: u32| {
            let text = format!("width = 7\nheight = 10\nbands = 3\nband = '{band}'\noutput = 'x'");
            let table: toml::Table = text.parse().unwrap();
            Strip::from_args(&Args::new(&table, &FIELDS).unwrap()).unwrap().rows
        };
        assert_eq!([rows(0), rows(1), rows(2)], [0..3, 3..6, 6..10]);
    }
}
