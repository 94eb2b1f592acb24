//! The store beside hand-written `sqlx` loops, on the same databases, in one run.
//!
//! Every repeat runs each contestant of a case once, in an order that rotates; ratios are taken within a repeat, and
//! their median is told. The PostgreSQL is the one that `DATABASE_URL` names, the RabbitMQ that of `AMQP_URL`, or
//! private ones, started for the run by `scripts/postgres` and `scripts/rabbitmq`. SQLite is a file in WAL mode in the
//! directory for temporary files.

mod backlog;
mod base;
mod idle;
mod inbox;
mod insert;
mod queue;
mod relay;
mod report;

use std::time::{Duration, Instant};

use base::{Kind, Services};
use clap::Parser;

/// After this no further repeat begins.
const WHOLE_RUN: Duration = Duration::from_secs(9 * 60);

/// Measures the store beside hand-written loops.
#[derive(Parser)]
struct Args {
    /// How often each contestant runs in each case.
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// A tenth of the messages, once: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name begins so.
    #[arg(long)]
    case: Vec<String>,
}

/// What a case is measured by.
pub struct Run<'a> {
    pub services: &'a Services,
    pub kind: Kind,
    pub quick: bool,
    repeats: usize,
    begun: Instant,
}

impl Run<'_> {
    /// The repeats for which there is time.
    pub fn repeats(&self) -> impl Iterator<Item = usize> {
        (0..self.repeats).take_while(|_| self.begun.elapsed() < WHOLE_RUN)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let services = Services::find()?;
    let begun = Instant::now();
    let mut lines = Vec::new();
    let wanted = |case: &str| {
        args.case.is_empty()
            || args
                .case
                .iter()
                .any(|start| case.starts_with(start.as_str()))
    };
    for kind in Kind::ALL {
        let run = Run {
            services: &services,
            kind,
            quick: args.quick,
            repeats: if args.quick { 1 } else { args.repeats },
            begun,
        };
        let name = kind.name();
        for (how, rows) in [("insert", 1), ("insert", 100), ("batch", 100)] {
            let case = format!("outbox-{how}-{rows}-{name}");
            if wanted(&case) {
                lines.extend(insert::measure(&run, &case, rows, how == "batch").await?);
            }
        }
        let case = format!("relay-{name}");
        if wanted(&case) {
            lines.extend(relay::measure(&run, &case, true).await?);
        }
        let case = format!("relay-local-{name}");
        if wanted(&case) {
            lines.extend(relay::measure(&run, &case, false).await?);
        }
        let case = format!("inbox-{name}");
        if wanted(&case) {
            lines.extend(inbox::measure(&run, &case).await?);
        }
        let case = format!("latency-{name}");
        if wanted(&case) {
            lines.extend(idle::latency(&run, &case).await?);
        }
        let case = format!("idle-{name}");
        if wanted(&case) {
            lines.extend(idle::polling(&run, &case).await?);
        }
        for publishers in [1, 16, 256] {
            let case = format!("queue-{publishers}-{name}");
            if wanted(&case) {
                lines.extend(queue::measure(&run, &case, publishers).await?);
            }
        }
        let case = format!("backlog-{name}");
        if wanted(&case) {
            lines.extend(relay::backlog(&run, &case).await?);
        }
        let case = format!("queue-backlog-{name}");
        if wanted(&case) {
            lines.extend(queue::backlog(&run, &case).await?);
        }
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}
