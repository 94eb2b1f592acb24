//! Postroom beside its peers, in one run.
//!
//! Every repeat runs every contestant of a case once, in an order that rotates; ratios are taken within a
//! repeat, and their median is told. Every run checks that each delivery happened exactly once.

mod actix_broker_peer;
mod actix_peer;
mod case;
mod kameo_peer;
mod postroom;
mod ractor_peer;
mod report;
mod ruststream_peer;
mod threads;
mod tokio_peer;

use clap::Parser;

use case::{Case, Outcome};
use report::Series;

type Run = fn(Case, u64) -> Outcome;

const OURS: (&str, Run) = ("postroom", postroom::run);

const PEERS: [(&str, Run); 8] = [
    ("actix", actix_peer::run),
    ("tokio-mpsc", tokio_peer::mpsc),
    ("tokio-broadcast", tokio_peer::broadcast),
    ("actix-broker", actix_broker_peer::run),
    ("kameo", kameo_peer::tell),
    ("kameo-pubsub", kameo_peer::pubsub),
    ("ractor", ractor_peer::run),
    ("ruststream", ruststream_peer::run),
];

/// Measures Postroom beside its peers.
#[derive(Parser)]
struct Args {
    /// How often each contestant runs in each case.
    #[arg(long, default_value_t = 11)]
    repeats: usize,
    /// A hundredth of the messages, once: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Only these cases.
    #[arg(long)]
    case: Vec<Case>,
    /// Only these peers.
    #[arg(long)]
    peer: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let repeats = if args.quick { 1 } else { args.repeats };
    let mut lines = Vec::new();
    for case in Case::ALL {
        if args.case.is_empty() || args.case.contains(&case) {
            lines.extend(measure(case, repeats, &args)?);
        }
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn measure(case: Case, repeats: usize, args: &Args) -> anyhow::Result<Vec<String>> {
    let messages = case.messages(args.quick);
    let chosen = |(name, _): &&(&str, Run)| {
        args.peer.is_empty() || args.peer.iter().any(|peer| peer == name)
    };
    let contestants: Vec<_> = std::iter::once(&OURS)
        .chain(PEERS.iter().filter(chosen))
        .collect();
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    for repeat in 0..repeats {
        for turn in 0..contestants.len() {
            let place = (turn + repeat) % contestants.len();
            let (name, run) = contestants[place];
            let elapsed =
                run(case, messages).map_err(|error| error.context(format!("{name} in {case}")))?;
            if let Some(elapsed) = elapsed {
                seconds[place].push(elapsed.as_secs_f64());
            }
        }
    }
    let mut series: Vec<Series> = contestants
        .iter()
        .zip(seconds)
        .map(|((peer, _), seconds)| Series { peer, seconds })
        // A peer that has nothing like it is left out.
        .filter(|series| !series.seconds.is_empty())
        .collect();
    let ours = series.remove(0);
    Ok(report::print(case, messages, &ours, &series))
}
