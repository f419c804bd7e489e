//! The curve as an SVG picture: efficiency against granularity, on a logarithmic scale.

use super::curve::{HALF, Point};
use super::metg::MetgMeasured;
use crate::svg::Picture;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Margins for the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 48.0, 24.0, 56.0];

/// Maps values to positions in the picture.
struct AxisScale {
    /// Decimal exponents at both ends of the granularity axis.
    decades: (i32, i32),
}

impl AxisScale {
    fn of(points: &[Point]) -> AxisScale {
        let log = |pick: fn(f64, f64) -> f64| points.iter().map(|p| p.granularity_us.log10()).reduce(pick);
        let (low, high) = (log(f64::min).unwrap_or(0.0).floor() as i32, log(f64::max).unwrap_or(1.0).ceil() as i32);
        AxisScale { decades: (low, high.max(low + 1)) }
    }

    fn x(&self, granularity_us: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        MARGIN[0] + (granularity_us.log10() - low) / (high - low) * (WIDTH - MARGIN[0] - MARGIN[2])
    }

    fn y(&self, efficiency: f64) -> f64 {
        HEIGHT - MARGIN[3] - efficiency * (HEIGHT - MARGIN[1] - MARGIN[3])
    }
}

/// The picture as SVG.
pub fn svg(measured: &MetgMeasured) -> String {
    let scale = AxisScale::of(&measured.points);
    let mut picture = Picture::new(WIDTH, HEIGHT);
    axes(&mut picture, &scale);
    let mut corners: Vec<String> = Vec::new();
    for point in &measured.points {
        let (x, y) = (scale.x(point.granularity_us), scale.y(point.efficiency));
        corners.push(format!("{x:.1},{y:.1}"));
        picture.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#2257a8\"/>"));
    }
    let line = corners.join(" ");
    picture.add(format_args!("<polyline points=\"{line}\" fill=\"none\" stroke=\"#2257a8\" stroke-width=\"1.5\"/>"));
    if let Some(metg) = measured.metg_us {
        let (x, y, foot) = (scale.x(metg), scale.y(HALF), scale.y(0.0));
        picture.line((x, y), (x, foot), "#b03030", "4 3");
        picture.text((x + 6.0, y + 16.0), "start", &format!("METG(50 %) = {metg:.2} µs"));
    }
    let MetgMeasured { pattern, width, ranks, slots, peak_gflops, .. } = measured;
    let title = format!("{pattern}, width {width}, {ranks} x {slots} cores, peak {peak_gflops:.1} GFLOP/s");
    picture.text((WIDTH / 2.0, 28.0), "middle", &title);
    picture.finish()
}

fn axes(picture: &mut Picture, scale: &AxisScale) {
    let (left, right, foot) = (MARGIN[0], WIDTH - MARGIN[2], scale.y(0.0));
    for percent in (0..=100).step_by(25) {
        let y = scale.y(f64::from(percent) / 100.0);
        picture.line((left, y), (right, y), if percent == 50 { "#b03030" } else { "#d0d0d0" }, "none");
        picture.text((left - 8.0, y + 4.0), "end", &format!("{percent} %"));
    }
    for decade in scale.decades.0..=scale.decades.1 {
        let value = 10f64.powi(decade);
        let x = scale.x(value);
        picture.line((x, MARGIN[1]), (x, foot), "#d0d0d0", "none");
        picture.text((x, foot + 18.0), "middle", &format!("{value} µs"));
    }
    picture.text(((left + right) / 2.0, HEIGHT - 14.0), "middle", "granularity of a task (wall x cores / tasks)");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::curve::CurveShape;

    #[test]
    fn every_point_lies_inside_the_axes() {
        let shape = CurveShape { tasks: 1000, cores: 2, peak_gflops: 40.0 };
        let points: Vec<Point> =
            [(4096, 0.03), (64, 0.002), (0, 0.0015)].map(|(n, wall)| Point::new(n, wall, &shape)).to_vec();
        let scale = AxisScale::of(&points);
        for point in &points {
            let (x, y) = (scale.x(point.granularity_us), scale.y(point.efficiency));
            assert!((MARGIN[0]..=WIDTH - MARGIN[2]).contains(&x) && (MARGIN[1]..=HEIGHT - MARGIN[3]).contains(&y));
        }
        let measured = MetgMeasured {
            pattern: "fft".into(),
            width: 8,
            ranks: 1,
            slots: 2,
            peak_gflops: 40.0,
            metg_us: Some(12.345),
            zero_work_tasks_per_s: 1e6,
            points,
            whole_s: vec![],
        };
        let picture = svg(&measured);
        assert!(picture.contains("METG(50 %) = 12.3") && picture.matches("<circle").count() == 3, "{picture}");
        // Without a METG and without points there is still a picture.
        let nothing = svg(&MetgMeasured { metg_us: None, points: vec![], ..measured });
        assert!(!nothing.contains("METG") && nothing.ends_with("</svg>\n"), "{nothing}");
    }
}
