//! eShop: a shop of several services that talk by messages only, with things going wrong: all on one bus, or each a
//! process of its own.
//!
//! ```sh
//! cargo run --release --example eshop                          # 500 orders, 5% of the deliveries fail
//! cargo run --release --example eshop -- --orders 5000 --faults 0.2
//! cargo run --release --example eshop -- --chaos               # the process is killed, again and again
//! cargo run --release --example eshop -- --serve 8080          # over HTTP, until Ctrl-C
//! curl -d '{"user":"ann","lines":[{"product":"ferris-mug","units":2}]}' \
//!   -H 'content-type: application/json' localhost:8080/orders
//!
//! # As processes over RabbitMQ: by configuration only. Needs RabbitMQ; scripts/rabbitmq installs it where it is missing.
//! cargo run --release --features amqp --example eshop -- --services            # starts a private RabbitMQ and all services
//! cargo run --release --features amqp --example eshop -- --services --chaos    # and kills them on the way
//! cargo run --release --features amqp --example eshop -- --service ordering --amqp amqp://guest:guest@localhost:5672/%2f
//! ```
//!
//! The services do not know each other, only the [`messages`]: `ordering` leads the orders, `catalog` has the
//! stock, `payment` charges, `basket`, `notifications` and `webhooks` react. `sabotage` injects the faults,
//! `driver` plays the users, `accounts` and `report` say what came of it. The exit status is 0 only if every
//! order finished, the books balance and the stock adds up.
//!
//! What a service knows is in its [`database`], a SQLite file or a schema in PostgreSQL, and a handler's changes, the
//! record that it has handled the message, and what it sends are one transaction there.
//!
//! With `--durable`, or `--chaos`, its queues are there too, and the single process is a whole reliable system: [`lives`]
//! kills it, and [`diary`] knows which orders it has placed.
//!
//! What makes services of a monolith is in [`services`]; `pieces`, `operator`, `processes` and `chaos` run them. By
//! hand, start the six services first, and then `--service storefront`, which places the orders and reports.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod accounts;
mod api;
mod basket;
mod books;
mod catalog;
#[cfg(feature = "amqp")]
mod chaos;
mod database;
mod diary;
mod driver;
mod input;
mod lives;
mod messages;
mod notifications;
#[cfg(feature = "amqp")]
mod operator;
mod ordering;
mod owner;
mod payment;
#[cfg(feature = "amqp")]
mod pieces;
mod place;
mod policy;
#[cfg(feature = "amqp")]
mod processes;
mod progress;
mod report;
mod sabotage;
mod services;
mod shop;
mod stopwatch;
mod storefront;
mod webhooks;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, value_parser};

use crate::accounts::Accounts;
use crate::books::Books;
use crate::diary::Diary;
use crate::input::{InputError, MadeUp, NewOrder, Product};
use crate::ordering::Pace;
use crate::place::{Place, Premises};
use crate::progress::Progress;
use crate::services::{Deployment, Service};
use crate::shop::{Settings, Shop};

/// A shop of several services on one message bus, with faults injected.
#[derive(Debug, Parser)]
#[command(name = "eshop")]
struct Args {
    /// How many orders to place [default: 500, or those of FILE]
    #[arg(long, allow_negative_numbers = true)]
    orders: Option<usize>,
    /// The first orders, as JSON lines [default: the sample]; the rest is made up
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Decides what is made up and what fails
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// How likely a delivery meets a fault: its handler fails, panics or hangs
    #[arg(
        long,
        value_name = "RATE",
        default_value_t = 0.05,
        value_parser = probability,
        allow_negative_numbers = true
    )]
    faults: f64,
    /// How long an order can still be cancelled, in milliseconds; at most a minute
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = value_parser!(u64).range(..=60_000))]
    grace_ms: u64,
    /// Orders above this are not paid, in cents
    #[arg(long, value_name = "CENTS", default_value_t = 50_000)]
    limit: u64,
    /// How long dead letters are replayed before an order counts as unfinished, in seconds; at most a day
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(..=86_400))]
    patience: u64,
    /// Serve HTTP on this port of 127.0.0.1 until Ctrl-C, instead of placing orders
    #[arg(long, value_name = "PORT")]
    serve: Option<u16>,
    /// Keep the queues in the database too: what is in them outlives the process
    #[arg(long)]
    durable: bool,
    /// Where the databases are, SQLite files; a run goes on with what is there [default: a directory that is removed]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// A PostgreSQL instead, with a schema for each service, made anew [feature postgres]
    #[cfg(feature = "postgres")]
    #[arg(
        long,
        value_name = "URL",
        env = "ESHOP_DATABASE",
        hide_env_values = true,
        conflicts_with = "data"
    )]
    database: Option<String>,
    /// Kill on the way, and start again: the one process, whose queues are durable then, or, with --services, each of
    /// them and the private RabbitMQ
    #[arg(long, conflicts_with_all = ["serve", "service"])]
    chaos: bool,
    /// One of the lives of a process that is killed: an order is placed each so many microseconds
    #[arg(long, hide = true)]
    life: Option<u64>,
    #[command(flatten)]
    pieces: Pieces,
}

impl Args {
    /// As the arguments of another process of the same run, but for what it is.
    fn handed_on(&self, place: &Place) -> Vec<String> {
        let orders = self.orders.map(|orders| format!("--orders={orders}"));
        let input = self.input.as_ref();
        let input = input.map(|file| format!("--input={}", file.display()));
        let mut arguments = vec![
            format!("--seed={}", self.seed),
            format!("--faults={}", self.faults),
            format!("--grace-ms={}", self.grace_ms),
            format!("--limit={}", self.limit),
            format!("--patience={}", self.patience),
        ];
        arguments.extend(place.arguments());
        arguments.extend(orders.into_iter().chain(input));
        arguments
    }

    fn is_durable(&self) -> bool {
        self.durable || self.life.is_some()
    }

    fn place(&self) -> Option<Place> {
        #[cfg(feature = "postgres")]
        if let Some(url) = &self.database {
            return Some(Place::Postgres(url.clone()));
        }
        self.data.clone().map(Place::Files)
    }
}

/// The services as processes over RabbitMQ. Needs the feature `amqp`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "As processes (with the feature amqp)")]
struct Pieces {
    /// Be this service only, until a signal
    #[arg(long, value_enum, conflicts_with_all = ["services", "serve"])]
    service: Option<Service>,
    /// Start all services as processes, place the orders and report
    #[arg(long, conflicts_with = "serve")]
    services: bool,
    /// RabbitMQ [default: that of AMQP_URL; with --services, a private one, started by scripts/rabbitmq]
    #[arg(long, value_name = "URL")]
    amqp: Option<String>,
    /// End when the standard input does: when whoever started this is gone
    #[arg(long, hide = true, requires = "service")]
    owned: bool,
}

impl Pieces {
    /// The first of them that is given.
    fn asked(&self) -> Option<&'static str> {
        let asked = [
            (self.service.is_some(), "--service"),
            (self.services, "--services"),
            (self.amqp.is_some(), "--amqp"),
        ];
        let first = asked.into_iter().find(|(is_given, _)| *is_given);
        first.map(|(_, option)| option)
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0 to 1".to_owned()),
    }
}

const DEFAULT_ORDERS: usize = 500;

#[actix_web::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    // Says what goes on, if asked: RUST_LOG=postroom=debug
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
    sabotage::silence_injected_panics();

    if let Some(option) = args.pieces.asked() {
        return in_pieces(args, option).await;
    }

    let input = Input::read(args)?;
    if args.chaos {
        return lives::run(args, input.count).await;
    }
    let products = &input.products;
    let premises = Premises::new(args.place());
    match args.life {
        Some(_) => drop(tokio::spawn(async {
            owner::gone().await;
            std::process::exit(3);
        })),
        None => premises.place.clear().await?,
    }
    let deployment = Deployment::monolith(premises.place.clone());
    let shop = Shop::open(deployment, &settings(args), products).await?;
    let diary = Diary::of(&shop.database, args.life.is_some());
    match diary.last().await? {
        Some(entry) => shop
            .front
            .follow(entry.command.order, entry.placed() as u64),
        None => {
            let (last, count) = ordering::taken(&shop.database).await?;
            shop.front.follow(last, count);
        }
    }
    let shop = Arc::new(shop);

    let started = Instant::now();
    let progress = match args.serve {
        Some(port) => {
            api::serve(&shop, port).await?;
            Progress::hidden()
        }
        None => {
            let progress = Progress::new(input.count as u64);
            let pace = Duration::from_micros(args.life.unwrap_or_default());
            driver::place(&shop, input.orders(args), &diary, pace, &progress).await?;
            progress
        }
    };
    finish(args, &shop, products, &progress, started).await
}

#[cfg(feature = "amqp")]
async fn in_pieces(args: &Args, option: &str) -> Result<bool, Box<dyn Error>> {
    match args.pieces.service {
        Some(Service::Storefront) => pieces::run(args).await,
        Some(service) => pieces::serve(args, service).await,
        None if args.pieces.services => pieces::run(args).await,
        None => Err(format!("{option} goes with --service or --services").into()),
    }
}

#[cfg(not(feature = "amqp"))]
async fn in_pieces(_: &Args, option: &str) -> Result<bool, Box<dyn Error>> {
    let command = "cargo run --release --features amqp --example eshop";
    Err(format!("{option} needs the feature `amqp`: {command} -- {option} …").into())
}

/// What is to be sold, and the orders.
struct Input {
    products: Vec<Product>,
    given: Vec<NewOrder>,
    count: usize,
}

impl Input {
    fn read(args: &Args) -> Result<Self, InputError> {
        let given = input::orders(args.input.as_deref())?;
        let from_file = args.input.is_some().then_some(given.len());
        let count = args.orders.or(from_file).unwrap_or(DEFAULT_ORDERS);
        let products = input::products(count)?;
        Ok(Self {
            products,
            given,
            count,
        })
    }

    /// Those that are given, and then made up ones.
    fn orders(&self, args: &Args) -> impl Iterator<Item = NewOrder> + use<> {
        let made_up = MadeUp::new(args.seed, &self.products, args.limit);
        self.given
            .clone()
            .into_iter()
            .chain(made_up)
            .take(self.count)
    }
}

fn settings(args: &Args) -> Settings {
    let pace = Pace {
        grace: Duration::from_millis(args.grace_ms),
        packing: Duration::from_millis(20),
    };
    Settings {
        faults: args.faults,
        seed: args.seed,
        pace,
        limit: args.limit,
        durable: args.is_durable(),
    }
}

/// Lets everything come to rest, ends the faults, replays, and reports.
async fn finish(
    args: &Args,
    shop: &Shop,
    products: &[Product],
    progress: &Progress,
    started: Instant,
) -> Result<bool, Box<dyn Error>> {
    driver::settle(shop, progress, None).await?;
    let finished = ordering::finished(&shop.database).await?;
    let stuck = shop.front.placed().saturating_sub(finished);
    let letters = driver::replay(shop, progress, Duration::from_secs(args.patience)).await?;
    let took = started.elapsed();
    progress.clear();

    let accounts = Accounts::of(Books::of(shop).await?);
    println!(
        "{} orders of {} products in {took:.2?}; {stuck} of them waited for the replay of a dead letter",
        accounts.summary.orders,
        products.len(),
    );
    report::print(&accounts, &letters);
    let clean = shop.close().await;
    println!("{}", serde_json::to_string(&accounts.summary)?);
    if !clean {
        eprintln!("error: the bus did not shut down cleanly");
    }
    Ok(clean && accounts.in_order())
}
