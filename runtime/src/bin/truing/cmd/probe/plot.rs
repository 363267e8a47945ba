//! Plots, as SVG and as text.

use std::fmt::Write;

/// A line of a plot.
pub struct Series {
    pub name: String,
    pub colour: &'static str,
    /// Ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// A plot of lines.
pub struct Plot {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
    /// Levels drawn across.
    pub levels: Vec<(f64, String)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 56.0;
const COLUMNS: usize = 64;
const LINES: usize = 16;
const MARKS: [char; 4] = ['#', 'o', '+', 'x'];

impl Plot {
    /// Ranges of x and y, never empty.
    fn ranges(&self) -> ((f64, f64), (f64, f64)) {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied());
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let (lo, hi) = values
                .filter(|v| v.is_finite())
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
            if lo < hi { (lo, hi) } else { (lo.clamp(-1e9, 0.0), hi.clamp(0.0, 1e9) + 1.0) }
        };
        let xs = range(&mut points().map(|p| p.0));
        let ys = range(&mut points().map(|p| p.1).chain(self.levels.iter().map(|l| l.0)));
        (xs, ys)
    }

    /// The plot as an SVG document.
    pub fn svg(&self) -> String {
        let ((x0, x1), (y0, y1)) = self.ranges();
        let at = |(x, y): (f64, f64)| {
            let u = MARGIN + (x - x0) / (x1 - x0) * (WIDTH - 2.0 * MARGIN);
            let v = HEIGHT - MARGIN - (y - y0) / (y1 - y0) * (HEIGHT - 2.0 * MARGIN);
            (u, v)
        };
        let mut out = String::new();
        let (left, bottom) = at((x0, y0));
        let (right, top) = at((x1, y1));
        // writing to a string does not fail
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{}</text>\n\
             <path d=\"M{left:.1},{top:.1} V{bottom:.1} H{right:.1}\" fill=\"none\" stroke=\"#444\"/>\n",
            escape(&self.title)
        );
        for i in 0..=4 {
            let share = f64::from(i) / 4.0;
            let (x, y) = (x0 + share * (x1 - x0), y0 + share * (y1 - y0));
            let ((u, _), (_, v)) = (at((x, y0)), at((x0, y)));
            let _ = write!(
                out,
                "<text x=\"{u:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                bottom + 16.0,
                number(x),
                left - 6.0,
                v + 4.0,
                number(y)
            );
        }
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"14\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1})\">{}</text>\n",
            (left + right) / 2.0,
            HEIGHT - 12.0,
            escape(self.x),
            (top + bottom) / 2.0,
            (top + bottom) / 2.0,
            escape(self.y)
        );
        for (level, name) in &self.levels {
            let (_, v) = at((x0, *level));
            let _ = write!(
                out,
                "<path d=\"M{left:.1},{v:.1} H{right:.1}\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>\n\
                 <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{}</text>\n",
                v - 4.0,
                escape(name)
            );
        }
        for (i, series) in self.series.iter().enumerate() {
            let path: Vec<String> = series
                .points
                .iter()
                .filter(|p| p.0.is_finite() && p.1.is_finite())
                .map(|p| at(*p))
                .map(|(u, v)| format!("{u:.1},{v:.1}"))
                .collect();
            let _ = write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>\n",
                path.join(" "),
                series.colour,
                left + 10.0,
                top + 14.0 + 16.0 * i as f64,
                series.colour,
                escape(&series.name)
            );
        }
        out.push_str("</svg>\n");
        out
    }

    /// The plot in characters.
    pub fn text(&self) -> String {
        let ((x0, x1), (y0, y1)) = self.ranges();
        let mut cells = vec![[' '; COLUMNS]; LINES];
        let line = |y: f64| ((1.0 - (y - y0) / (y1 - y0)) * (LINES - 1) as f64).round() as usize;
        for (level, _) in &self.levels {
            cells[line(*level).min(LINES - 1)].fill('-');
        }
        for (series, mark) in self.series.iter().zip(MARKS) {
            let x_of = |column: usize| x0 + (x1 - x0) * column as f64 / (COLUMNS - 1) as f64;
            for (column, y) in (0..COLUMNS).filter_map(|c| Some((c, value_at(&series.points, x_of(c))?))) {
                cells[line(y).min(LINES - 1)][column] = mark;
            }
        }
        let mut out = format!("{}\n", self.title);
        for (i, row) in cells.iter().enumerate() {
            let y = y1 - (y1 - y0) * i as f64 / (LINES - 1) as f64;
            let label = if i % 5 == 0 { number(y) } else { String::new() };
            let _ = writeln!(out, "{label:>8} |{}", row.iter().collect::<String>().trim_end());
        }
        let _ = writeln!(out, "{:>8} +{}", "", "-".repeat(COLUMNS));
        let _ = writeln!(out, "{:>8}  {:<w$}{}", "", number(x0), number(x1), w = COLUMNS - number(x1).len());
        let names: Vec<String> =
            self.series.iter().zip(MARKS).map(|(s, m)| format!("{m} {}", s.name)).collect();
        let levels: Vec<String> = self.levels.iter().map(|(_, n)| format!("- {n}")).collect();
        let _ = writeln!(
            out,
            "{:>8}  {} against {}: {}",
            "",
            self.y,
            self.x,
            [names, levels].concat().join(", ")
        );
        out
    }
}

/// The line's value at `x`, between its points.
fn value_at(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = points.partition_point(|p| p.0 < x);
    let (b, a) = (points.get(after), after.checked_sub(1).and_then(|i| points.get(i)));
    let y = match (a, b) {
        (Some(a), Some(b)) if b.0 > a.0 => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
        (_, Some(b)) if b.0 <= x + 1e-12 => b.1,
        (Some(a), None) if a.0 >= x - 1e-12 => a.1,
        _ => return None,
    };
    y.is_finite().then_some(y)
}

fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        Plot {
            title: "a < b".into(),
            x: "x",
            y: "y",
            series: vec![Series { name: "up".into(), colour: "red", points: vec![(0.0, 0.0), (1.0, 2.0)] }],
            levels: vec![(1.0, "half".into())],
        }
    }

    #[test]
    fn text_and_svg_show_the_line_and_the_level() {
        let text = plot().text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with('#') && lines[LINES].contains("|#"), "{text}");
        assert!(text.contains("- half") && text.matches("----").count() > 1);
        let svg = plot().svg();
        assert!(
            svg.contains("a &lt; b") && svg.contains("<polyline points=\"56.0,364.0 584.0,56.0\""),
            "{svg}"
        );
    }

    #[test]
    fn nothing_to_plot_is_no_panic() {
        let empty = Plot { series: vec![], levels: vec![], ..plot() };
        assert!(!empty.text().is_empty() && empty.svg().ends_with("</svg>\n"));
        let odd = Plot {
            series: vec![Series {
                name: "n".into(),
                colour: "red",
                points: vec![(f64::NAN, 1.0), (2.0, 2.0)],
            }],
            ..plot()
        };
        assert!(!odd.text().is_empty() && !odd.svg().contains("NaN"));
    }
}
