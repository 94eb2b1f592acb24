//! The bridge beside plain lapin, on the same RabbitMQ, in one run.
//!
//! Every repeat runs every contestant of a case once, in an order that rotates; ratios are taken within a
//! repeat, and their median is told. Every run checks that each message arrived exactly once. The RabbitMQ is the
//! one that `AMQP_URL` names, or a private one, started for the run by `scripts/rabbitmq`.

mod broker;
mod case;
mod plain;
mod postroom;
mod report;
mod requests;
mod run;

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use broker::Broker;
use case::{Case, Measured, Outcome, Work};
use report::{Figure, Series};
use run::Run;

type Contestant = fn(Run) -> Pin<Box<dyn Future<Output = Outcome>>>;

const OURS: (&str, Contestant) = ("postroom", |run| Box::pin(postroom::run(run)));

const PEERS: [(&str, Contestant); 3] = [
    ("lapin", |run| Box::pin(plain::usual(run))),
    ("lapin-ack-each", |run| Box::pin(plain::ack_each(run))),
    ("lapin-ack-64", |run| Box::pin(plain::ack_64(run))),
];

/// After this no further repeat begins.
const WHOLE_RUN: Duration = Duration::from_secs(7 * 60);

/// Measures the bridge beside plain lapin.
#[derive(Parser)]
struct Args {
    /// How often each contestant runs in each case.
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// A tenth of the messages, once: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Only these cases.
    #[arg(long)]
    case: Vec<Case>,
    /// Only these peers.
    #[arg(long)]
    peer: Vec<String>,
    /// Ours alone, for a profile.
    #[arg(long)]
    alone: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let begun = Instant::now();
    let broker = Broker::find().await?;
    let mut lines = Vec::new();
    for case in Case::ALL {
        if args.case.is_empty() || args.case.contains(&case) {
            lines.extend(measure(&broker, case, &args, begun).await?);
        }
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

async fn measure(
    broker: &Broker,
    case: Case,
    args: &Args,
    begun: Instant,
) -> anyhow::Result<Vec<String>> {
    let messages = case.messages(args.quick);
    let repeats = if args.quick { 1 } else { args.repeats };
    let chosen = |(name, _): &&(&str, Contestant)| {
        !args.alone && (args.peer.is_empty() || args.peer.iter().any(|peer| peer == name))
    };
    let contestants: Vec<_> = std::iter::once(&OURS)
        .chain(PEERS.iter().filter(chosen))
        .collect();
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); contestants.len()];
    for repeat in 0..repeats {
        if begun.elapsed() > WHOLE_RUN {
            println!("{case}: no time for more than {repeat} of {repeats} repeats");
            break;
        }
        for turn in 0..contestants.len() {
            let place = (turn + repeat) % contestants.len();
            let (name, contestant) = contestants[place];
            let measured = run::one(broker, case, messages, contestant)
                .await
                .with_context(|| format!("{name} in {case}"))?;
            runs[place].extend(measured);
        }
    }
    let mut series: Vec<Series> = contestants
        .iter()
        .zip(runs)
        .map(|((peer, _), runs)| Series { peer, runs })
        // A peer that has nothing like it is left out.
        .filter(|series| !series.runs.is_empty())
        .collect();
    if series.is_empty() {
        return Ok(Vec::new());
    }
    let ours = series.remove(0);
    let told = |name: &str, figure| report::print(name, figure, &ours, &series);
    let name = case.name();
    Ok(match case.work() {
        Work::Request => {
            let median = told(&format!("{name}-p50"), Figure::Percentile(50.0));
            let late = told(&format!("{name}-p99"), Figure::Percentile(99.0));
            [median, late].concat()
        }
        _ => told(name, Figure::Rate { messages }),
    })
}
