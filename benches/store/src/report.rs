//! Medians, spreads and ratios.

use comfy_table::{Table, presets};

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{}–{}", shown(least), shown(most))
}

fn shown(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

/// One figure of each contestant, ours first; the ratios are of ours by theirs, within a repeat.
pub fn print(case: &str, unit: &str, series: &[(&str, Vec<f64>)]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        case,
        &format!("median, {unit}"),
        "spread",
        "ratio",
        "spread",
    ]);
    let mut lines = Vec::new();
    for (place, (peer, values)) in series.iter().enumerate() {
        let mut row = vec![(*peer).to_owned(), shown(median(values)), spread(values)];
        if place > 0 {
            let ratios: Vec<f64> = series[0]
                .1
                .iter()
                .zip(values)
                .map(|(ours, theirs)| ours / theirs)
                .collect();
            row.extend([format!("{:.2}", median(&ratios)), spread(&ratios)]);
            lines.push(format!("ratio {case} {peer} {:.2}", median(&ratios)));
        }
        table.add_row(row);
    }
    println!("{table}\n");
    lines
}
