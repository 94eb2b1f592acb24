//! Whether a backlog slows what works on it, or fills memory.

use crate::Run;

/// Runs `work` with a small and with a large backlog: it works off so many messages (the first number) of so many rows
/// (the second), and returns messages a second and kB more in memory.
pub async fn measure(
    run: &Run<'_>,
    case: &str,
    work: impl AsyncFn(u64, u64) -> anyhow::Result<(f64, u64)>,
) -> anyhow::Result<Vec<String>> {
    let (few, many) = if run.quick {
        (5_000, 50_000)
    } else {
        (50_000, 1_000_000)
    };
    let mut rates = Vec::new();
    let mut lines = Vec::new();
    for rows in [few, many] {
        let (rate, grown) = work(few, rows).await?;
        lines.push(format!(
            "{case}: {rows} rows: {rate:.0} messages/s, {grown} kB more in memory"
        ));
        rates.push(rate);
    }
    let ratio = rates[1] / rates[0];
    lines.push(format!("ratio {case} small-backlog {ratio:.2}"));
    Ok(lines)
}

/// The resident memory of this process, in kB.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
