//! Medians, spreads and ratios.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::case::Case;

/// Seconds of each repeat of one contestant in one case.
pub struct Series {
    pub peer: &'static str,
    pub seconds: Vec<f64>,
}

pub fn median(values: &[f64]) -> f64 {
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

/// Ours ÷ theirs in deliveries a second, theirs ÷ ours in time: both are theirs ÷ ours in seconds, within each
/// repeat, since machines change between repeats.
fn ratios(ours: &Series, theirs: &Series) -> Vec<f64> {
    let pairs = ours.seconds.iter().zip(&theirs.seconds);
    pairs.map(|(ours, theirs)| theirs / ours).collect()
}

/// Prints the table of one case, and returns its lines for the end.
pub fn print(case: Case, messages: u64, ours: &Series, others: &[Series]) -> Vec<String> {
    let is_latency = case == Case::RequestCross;
    let deliveries = messages as f64 * case.receivers() as f64;
    let figure = |seconds: f64| {
        if is_latency {
            seconds / deliveries * 1e6
        } else {
            deliveries / seconds / 1e6
        }
    };
    let unit = if is_latency { "µs" } else { "M/s" };
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        case.name().to_owned(),
        format!("median, {unit}"),
        "spread".to_owned(),
        "ours ÷ theirs".to_owned(),
        "spread".to_owned(),
    ]);
    let mut lines = Vec::new();
    for series in std::iter::once(ours).chain(others) {
        let figures: Vec<f64> = series
            .seconds
            .iter()
            .map(|seconds| figure(*seconds))
            .collect();
        let (least, most) = spread(&figures);
        let mut row = vec![
            Cell::new(series.peer),
            number(format!("{:.2}", median(&figures))),
            number(format!("{least:.2}–{most:.2}")),
        ];
        if series.peer != ours.peer {
            let ratios = ratios(ours, series);
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
