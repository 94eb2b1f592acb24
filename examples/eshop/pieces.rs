//! The shop in pieces: a process that is one service, and the storefront that plays the users of all of them.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postroom::{Amqp, Bus};
use tokio::task::JoinHandle;

use crate::accounts::Accounts;
use crate::books::{Books, Letter};
use crate::chaos::Chaos;
use crate::operator::{self, Done, Look, Task};
use crate::place::Premises;
use crate::processes::{PrivateBroker, Processes};
use crate::progress::Progress;
use crate::services::{Deployment, Service};
use crate::shop::Shop;
use crate::{Args, Input, driver, owner, report, settings};

/// How long the services may take to be there, or to answer while they or RabbitMQ come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing may move before everything is at rest. A retry may wait in RabbitMQ for longer than it was asked
/// to, where nobody sees it.
const CALM: Duration = Duration::from_secs(2);

/// How long something may lie in a service without any of them moving.
const STALL: Duration = Duration::from_secs(15);

/// New orders wait while so many are not finished.
const ENOUGH: u64 = 1024;

const POLL: Duration = Duration::from_millis(50);

fn bridge(url: Option<&str>) -> Result<Amqp, Box<dyn Error>> {
    let amqp = match url {
        Some(url) => Amqp::new(url),
        None => Amqp::from_env()?,
    };
    Ok(amqp.prefix("eshop"))
}

/// One service, until a signal, or until whoever started it is gone.
pub async fn serve(args: &Args, service: Service) -> Result<bool, Box<dyn Error>> {
    let products = Input::read(args)?.products;
    let amqp = bridge(args.pieces.amqp.as_deref())?;
    let premises = Premises::new(args.place());
    let deployment = Deployment::of(service, amqp, premises.place.clone());
    let shop = Arc::new(Shop::open(deployment, &settings(args), &products).await?);
    operator::start(&shop, service).await?;
    if args.pieces.owned {
        tokio::select! {
            () = shop.bus.until_signal() => {}
            () = owner::gone() => {}
        }
    } else {
        tokio::select! {
            () = shop.bus.until_signal() => {}
            () = tell(&shop.bus, service.name()) => {}
        }
    }
    Ok(shop.close().await)
}

/// Says what the service waits for, and when it is there: it starts, and lives on, while RabbitMQ is away. Without end.
async fn tell(bus: &Bus, service: &str) {
    let mut told = String::new();
    loop {
        let health = bus.health();
        let mut problems = health.conditions().iter();
        let news = match problems.find(|condition| condition.problem.makes_unready()) {
            None => format!("{service} is there, Ctrl-C ends it"),
            Some(condition) => {
                let detail = condition.detail.as_deref().unwrap_or_default();
                let (subject, problem) = (&condition.subject, condition.problem);
                format!("{service} waits: {subject} {problem:?} {detail}")
            }
        };
        if news != told {
            eprintln!("{news}");
            told = news;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Places the orders and reports. With `--services` it starts the services before, and ends them after.
pub async fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let given = args.pieces.amqp.clone().or_else(|| {
        let url = std::env::var("AMQP_URL").ok();
        url.filter(|url| !url.is_empty())
    });
    let own = match &given {
        None if args.pieces.services => {
            eprintln!("starting a private RabbitMQ");
            Some(PrivateBroker::start()?)
        }
        _ => None,
    };
    let url = own.as_ref().map(|own| own.url.clone()).or(given);
    let outcome = with_broker(args, url.as_deref(), own.as_ref()).await;
    let stopped = own.map_or(Ok(()), |own| own.stop());
    let is_clean = outcome?;
    stopped?;
    Ok(is_clean)
}

async fn with_broker(
    args: &Args,
    url: Option<&str>,
    own: Option<&PrivateBroker>,
) -> Result<bool, Box<dyn Error>> {
    let input = Input::read(args)?;
    let premises = Premises::new(args.place());
    let place = premises.place.clone();
    if args.pieces.services {
        place.clear().await?;
    }
    let deployment = Deployment::of(Service::Storefront, bridge(url)?, place.clone());
    let processes = match url {
        Some(url) if args.pieces.services => {
            let processes = Processes::start(args, url, place)?;
            Some(Arc::new(Mutex::new(processes)))
        }
        _ => None,
    };
    let shop = Shop::open(deployment, &settings(args), &input.products).await?;
    let mut run = Run {
        shop,
        processes,
        killed: Vec::new(),
        broker: own.cloned(),
        chaos: None,
    };
    let outcome = run.whole(args, &input).await;
    let is_clean = run.end().await;
    let accounts = outcome?;
    println!("{}", serde_json::to_string(&accounts.summary)?);
    Ok(is_clean && accounts.in_order())
}

/// A run of the shop in pieces, as the storefront sees it.
struct Run {
    shop: Shop,
    processes: Option<Arc<Mutex<Processes>>>,
    killed: Vec<&'static str>,
    broker: Option<PrivateBroker>,
    /// Ends when all that is to be killed is there again.
    chaos: Option<JoinHandle<Result<(), String>>>,
}

impl Run {
    async fn whole(&mut self, args: &Args, input: &Input) -> Result<Accounts, Box<dyn Error>> {
        self.all_ready().await?;
        let started = Instant::now();
        let progress = Progress::new(input.count as u64);
        self.place(args, input, &progress).await?;
        self.settle(&progress, Instant::now() + PATIENCE).await?;
        let finished = self.look(Service::Ordering).await?.finished;
        let stuck = self.shop.front.placed().saturating_sub(finished);
        let letters = self.end_faults().await?;
        let patience = Duration::from_secs(args.patience);
        self.replay(&progress, Instant::now() + patience).await?;
        let took = started.elapsed();
        let accounts = Accounts::of(self.books().await?);
        progress.clear();
        println!(
            "{} orders of {} products in {took:.2?}, {} processes; {stuck} of them waited for the replay of a dead letter",
            accounts.summary.orders,
            input.products.len(),
            Service::ALL.len(),
        );
        if !self.killed.is_empty() {
            println!(
                "killed and started again on the way: {}; counts are of the processes that were there at the end",
                self.killed.join(", ")
            );
        }
        report::print(&accounts, &letters);
        Ok(accounts)
    }

    /// An event that is published before its receivers are bound is nobody's.
    async fn all_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        while !self.shop.bus.health().is_ready() {
            if Instant::now() > deadline {
                let health = self.shop.bus.health();
                return Err(format!("not ready: {:?}", health.conditions()).into());
            }
            tokio::time::sleep(POLL).await;
        }
        for service in others() {
            while !self.look(service).await?.ready {
                if Instant::now() > deadline {
                    return Err(format!("{} is not ready", service.name()).into());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let (last, count) = match self.ask(Service::Ordering, Task::Orders).await? {
            Done::Counted(last, count) => (last, count),
            other => return Err(unexpected(Service::Ordering, &other)),
        };
        self.shop.front.follow(last, count);
        Ok(())
    }

    async fn place(
        &mut self,
        args: &Args,
        input: &Input,
        progress: &Progress,
    ) -> Result<(), Box<dyn Error>> {
        let mut pace = Duration::ZERO;
        if let Some(processes) = self.processes.as_ref().filter(|_| args.chaos) {
            let chaos = Chaos::plan(args.seed, self.broker.as_ref());
            self.killed = chaos.names();
            // Orders come in all the while.
            pace = chaos.takes() / u32::try_from(input.count.max(1)).unwrap_or(u32::MAX);
            self.chaos = Some(chaos.start(Arc::clone(processes)));
        }
        let mut looked = Instant::now();
        for (count, order) in input.orders(args).enumerate() {
            if looked.elapsed() > 5 * POLL {
                looked = Instant::now();
                self.wait_for_room(progress).await?;
            }
            let command = self.shop.front.check_out(&order);
            driver::place_next(&self.shop, &order, &command, count).await?;
            tokio::time::sleep(pace).await;
        }
        if let Some(chaos) = self.chaos.take() {
            chaos.await??;
        }
        Ok(())
    }

    async fn wait_for_room(&mut self, progress: &Progress) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let finished = self.look(Service::Ordering).await?.finished;
            let open = self.shop.front.placed().saturating_sub(finished);
            progress.at(finished, format!("{open} under way"));
            if open <= ENOUGH {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("nothing moves any more".into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look(&mut self, service: Service) -> Result<Look, Box<dyn Error>> {
        match self.ask(service, Task::Look).await? {
            Done::Looked(look) => Ok(look),
            other => Err(unexpected(service, &other)),
        }
    }

    async fn ask(&mut self, service: Service, task: Task) -> Result<Done, Box<dyn Error>> {
        if service == Service::Storefront {
            return operator::carry_out(&self.shop, task)
                .await
                .map_err(|error| error.to_string().into());
        }
        let processes = self.processes.as_ref();
        if let Some(ended) = processes.and_then(|processes| processes.lock().ended()) {
            return Err(format!("{} ended by itself", ended.name()).into());
        }
        let deadline = Instant::now() + PATIENCE;
        operator::ask(&self.shop.bus, service, task, deadline).await
    }

    /// Waits until nothing has moved for a while, or until the deadline. What is open then is in a dead letter.
    async fn settle(&mut self, progress: &Progress, end: Instant) -> Result<(), Box<dyn Error>> {
        let (mut moved, mut since) = (0, Instant::now());
        while Instant::now() < end {
            let mut all = Look::default();
            for service in Service::ALL {
                let look = self.look(service).await?;
                all.load += look.load;
                all.moved += look.moved;
                all.finished += look.finished;
            }
            progress.at(all.finished, format!("{} under way", all.load));
            if all.moved != moved {
                (moved, since) = (all.moved, Instant::now());
            }
            let patience = if all.load == 0 { CALM } else { STALL };
            if since.elapsed() > patience {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Answers with the dead letters that were made until then.
    async fn end_faults(&mut self) -> Result<Vec<Letter>, Box<dyn Error>> {
        let mut letters = Vec::new();
        for service in Service::ALL {
            match self.ask(service, Task::EndFaults).await? {
                Done::FaultsEnded(some) => letters.extend(some),
                other => return Err(unexpected(service, &other)),
            }
        }
        Ok(letters)
    }

    async fn replay(&mut self, progress: &Progress, end: Instant) -> Result<(), Box<dyn Error>> {
        while Instant::now() < end {
            let mut replayed = 0;
            for service in Service::ALL {
                match self.ask(service, Task::ReplayDeadLetters).await? {
                    Done::Replayed(some) => replayed += some,
                    other => return Err(unexpected(service, &other)),
                }
            }
            if replayed == 0 {
                break;
            }
            self.settle(progress, end).await?;
        }
        Ok(())
    }

    async fn books(&mut self) -> Result<Books, Box<dyn Error>> {
        let mut books = Books::default();
        for service in Service::ALL {
            match self.ask(service, Task::Report).await? {
                Done::Reported(some) => books.add(*some),
                other => return Err(unexpected(service, &other)),
            }
        }
        Ok(books)
    }

    async fn end(mut self) -> bool {
        // The run ended before it: perhaps because of what went wrong here.
        if let Some(chaos) = self.chaos.take()
            && let Ok(Err(error)) = chaos.await
        {
            eprintln!("error: {error}");
        }
        let processes = self.processes.take();
        let ended = tokio::task::spawn_blocking(move || {
            processes.is_none_or(|processes| processes.lock().end())
        });
        let ended = ended.await.unwrap_or(false);
        let closed = self.shop.close().await;
        if !closed {
            eprintln!("error: the storefront's bus did not shut down cleanly");
        }
        ended && closed
    }
}

fn others() -> impl Iterator<Item = Service> {
    let all = Service::ALL.into_iter();
    all.filter(|service| *service != Service::Storefront)
}

fn unexpected(service: Service, done: &Done) -> Box<dyn Error> {
    format!("{} answered something else: {done:?}", service.name()).into()
}
