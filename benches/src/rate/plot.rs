//! Plots as SVG text, to stand in a page.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

/// Pixels of a plot.
const SIZE: (u32, u32) = (760, 360);
const FONT: &str = "sans-serif";

/// A line with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, by rising x.
    pub points: Vec<(f64, f64)>,
}

/// How lines run, and so where there is room for the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// From the left to the right they fall.
    Falls,
    /// They rise.
    Rises,
    /// They rise to 1 at the top.
    Share,
}

/// What is on the axes.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    /// Below.
    pub x: &'static str,
    /// At the left. It begins at 0.
    pub y: &'static str,
    /// How y runs.
    pub curve: Curve,
}

/// Lines over a logarithmic axis, as SVG; `None` if there is nothing to be seen.
///
/// # Errors
/// A plot cannot be drawn.
pub fn lines(axes: Axes, series: &[Series]) -> Result<Option<String>> {
    let points = || series.iter().flat_map(|s| &s.points).filter(|p| p.0 > 0.0);
    let least = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let most = points().map(|p| p.0).fold(0.0, f64::max);
    let top = points().map(|p| p.1).fold(0.0, f64::max);
    if most <= 0.0 || top <= 0.0 {
        return Ok(None);
    }
    let x = least / 1.1..most * 1.1;
    let y = 0.0..match axes.curve {
        Curve::Share => 1.02,
        Curve::Falls => 1.1 * top,
        // A line of the legend for each is above them all.
        Curve::Rises => (1.1 + 0.08 * series.len() as f64) * top,
    };
    let mut svg = String::new();
    draw(&mut svg, axes, series, x, y).map_err(|error| anyhow!("cannot draw a plot: {error}"))?;
    Ok(Some(svg))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, axes: Axes, series: &[Series], x: Range<f64>, y: Range<f64>) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x.log_scale(), y)?;
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_labels(8)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .light_line_style(WHITE)
        .x_label_formatter(&|x| number(*x))
        .y_label_formatter(&|y| number(*y))
        .draw()?;
    for (n, series) in series.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let points = series.points.iter().copied().filter(|p| p.0 > 0.0);
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(&series.name)
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
            });
        if series.points.len() < 30 {
            chart.draw_series(points.map(|p| Circle::new(p, 3, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .position(match axes.curve {
            Curve::Rises => SeriesLabelPosition::UpperLeft,
            Curve::Falls => SeriesLabelPosition::UpperRight,
            Curve::Share => SeriesLabelPosition::LowerRight,
        })
        .draw()?;
    root.present()?;
    Ok(())
}

/// A number as short as it can be said.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", short(value / 1e6)),
        v if v >= 1e4 => format!("{}k", short(value / 1e3)),
        _ => short(value),
    }
}

fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 { 0 } else { 2 };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes = Axes { x: "bytes", y: "Mpps", curve: Curve::Falls };

    #[test]
    fn a_plot_has_its_axes_and_names() -> Result<()> {
        let points = vec![(64.0, 14.0), (1518.0, 0.8)];
        let series = [Series { name: "a <b>".into(), points }];
        let svg = lines(AXES, &series)?.unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("bytes") && svg.contains("Mpps"));
        assert!(svg.contains("a &lt;b&gt;"), "names are escaped");
        Ok(())
    }

    #[test]
    fn nothing_makes_no_plot() -> Result<()> {
        assert_eq!(lines(AXES, &[])?, None);
        let series = [Series { name: "a".into(), points: vec![(64.0, 0.0)] }];
        assert_eq!(lines(AXES, &series)?, None);
        Ok(())
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (1518.0, "1518"), (64_000.0, "64k"), (2e6, "2M")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
