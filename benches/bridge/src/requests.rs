//! Requests at a steady rate, each timed by itself.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::case::{Measured, REQUESTS_PER_SECOND, RUN_AT_MOST};

/// Sends each request at its time, whether those before have been answered or not. A request is timed from
/// when it was due: one that could not be sent in time is not hidden.
pub async fn at_their_times(
    requests: u64,
    ask: impl AsyncFn(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let all = async {
        // Connections, routes and memory are warm before the first that counts.
        for number in 0..requests.min(50) {
            ask(number).await?;
        }
        let interval = Duration::from_secs(1) / REQUESTS_PER_SECOND;
        let start = Instant::now();
        let mut flights = FuturesUnordered::new();
        let mut taken = Vec::new();
        let mut sent = 0;
        while taken.len() < requests as usize {
            let due = start + interval * sent as u32;
            let next_flight = async {
                match flights.is_empty() {
                    false => flights.next().await,
                    true => std::future::pending().await,
                }
            };
            tokio::select! {
                done = next_flight => {
                    let done: anyhow::Result<Duration> = done.context("no request on its way")?;
                    taken.push(done?);
                }
                () = tokio::time::sleep_until(due.into()), if sent < requests => {
                    let request = ask(sent);
                    flights.push(async move {
                        request.await?;
                        Ok(due.elapsed())
                    });
                    sent += 1;
                }
            }
        }
        Ok(taken)
    };
    let taken: anyhow::Result<Vec<Duration>> =
        tokio::time::timeout(RUN_AT_MOST, all).await.context("requests without a reply")?;
    let taken = taken?;
    ensure!(taken.len() as u64 == requests, "a request was not answered");
    Ok(Measured::Each(taken))
}
