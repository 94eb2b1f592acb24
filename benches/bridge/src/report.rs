//! Medians, spreads and ratios.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::case::Measured;

/// The figures of each repeat of one contestant. None: it did not come to it.
pub struct Series {
    pub peer: &'static str,
    pub runs: Vec<Measured>,
}

/// One figure that is told of a case.
#[derive(Clone, Copy)]
pub enum Figure {
    /// Messages a second.
    Rate { messages: u64 },
    /// Of the requests, in milliseconds.
    Percentile(f64),
}

impl Figure {
    fn unit(self) -> &'static str {
        match self {
            Self::Rate { .. } => "messages/s",
            Self::Percentile(_) => "ms",
        }
    }

    fn of(self, run: &Measured) -> f64 {
        match (self, run) {
            (Self::Rate { messages }, Measured::Whole(elapsed)) => {
                messages as f64 / elapsed.as_secs_f64()
            }
            (Self::Percentile(percent), Measured::Each(times)) => {
                percentile(times, percent).as_secs_f64() * 1e3
            }
            _ => f64::NAN,
        }
    }

    /// Above 1 where ours is better.
    fn ratio(self, ours: &Measured, theirs: &Measured) -> f64 {
        match self {
            Self::Rate { .. } => self.of(ours) / self.of(theirs),
            Self::Percentile(_) => self.of(theirs) / self.of(ours),
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Self::Rate { .. } => format!("{value:.0}"),
            Self::Percentile(_) => format!("{value:.2}"),
        }
    }
}

fn percentile(times: &[Duration], percent: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    let place = place.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// Prints the table of one figure, and returns its lines for the end. Ratios are taken within each repeat, since
/// machines change between repeats.
pub fn print(case: &str, figure: Figure, ours: &Series, others: &[Series]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        case.to_owned(),
        format!("median, {}", figure.unit()),
        "spread".to_owned(),
        "ratio".to_owned(),
        "spread".to_owned(),
    ]);
    let mut lines = Vec::new();
    for series in std::iter::once(ours).chain(others) {
        let figures: Vec<f64> = series.runs.iter().map(|run| figure.of(run)).collect();
        let (least, most) = spread(&figures);
        let range = format!("{}–{}", figure.shown(least), figure.shown(most));
        let mut row = vec![
            Cell::new(series.peer),
            number(figure.shown(median(&figures))),
            number(range),
        ];
        if series.peer != ours.peer {
            let pairs = ours.runs.iter().zip(&series.runs);
            let ratios: Vec<f64> = pairs
                .map(|(ours, theirs)| figure.ratio(ours, theirs))
                .collect();
            let ratio = median(&ratios);
            let (least, most) = spread(&ratios);
            row.push(number(format!("{ratio:.2}")));
            row.push(number(format!("{least:.2}–{most:.2}")));
            lines.push(format!("ratio {case} {} {ratio:.2}", series.peer));
        }
        table.add_row(row);
    }
    println!("{table}\n");
    lines
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
