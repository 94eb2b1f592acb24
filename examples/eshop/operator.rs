//! What the storefront asks of the services' processes: how they do, and at the end for their books. A command with a
//! reply, over RabbitMQ like everything else.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroom::{Bus, Command, Context, Failure, Filter, RequestError, SubscribeError};
use serde::{Deserialize, Serialize};

use crate::books::{self, Books, Letter, OPERATOR};
use crate::database::DataError;
use crate::messages::OrderId;
use crate::ordering;
use crate::services::Service;
use crate::shop::{Shop, load};

/// One command for each service, by its number: a command has one home.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Operate<const SERVICE: usize> {
    task: Task,
}

const QUEUES: [&str; 7] = [
    "operator.ordering",
    "operator.catalog",
    "operator.payment",
    "operator.basket",
    "operator.notifications",
    "operator.webhooks",
    "operator.storefront",
];

impl<const SERVICE: usize> Command for Operate<SERVICE> {
    const QUEUE: &'static str = QUEUES[SERVICE];
    type Reply = Done;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    Look,
    /// The highest number of an order, and how many there are.
    Orders,
    /// From now on nothing goes wrong on purpose any more.
    EndFaults,
    ReplayDeadLetters,
    Report,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Done {
    Looked(Look),
    Counted(OrderId, u64),
    FaultsEnded(Vec<Letter>),
    Replayed(u64),
    Reported(Box<Books>),
}

/// How a process does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    /// Everything that it subscribes to is bound.
    pub ready: bool,
    /// Messages that it has and that still have somewhere to go.
    pub load: u64,
    /// Rises with everything that happens.
    pub moved: u64,
    pub finished: u64,
}

/// How many dead letters are replayed at once.
const REPLAYED_AT_ONCE: usize = 1024;

/// Carries out what is asked of this process.
pub async fn carry_out(shop: &Shop, task: Task) -> Result<Done, Box<dyn Error + Send + Sync>> {
    Ok(match task {
        Task::Look => Done::Looked(look(shop).await?),
        Task::Orders => {
            let (last, count) = ordering::taken(&shop.database).await?;
            Done::Counted(last, count)
        }
        Task::EndFaults => {
            shop.faults.stop();
            shop.stopwatch.stop();
            Done::FaultsEnded(books::letters(&shop.bus.dead_letters()).await?)
        }
        Task::ReplayDeadLetters => {
            let some = Filter::all().limit(REPLAYED_AT_ONCE);
            let done = shop.bus.dead_letters().replay_all(&some).await?;
            Done::Replayed(done.replayed as u64)
        }
        Task::Report => Done::Reported(Box::new(Books::of(shop).await?)),
    })
}

async fn look(shop: &Shop) -> Result<Look, DataError> {
    let (outbox, _) = shop.database.outbox().await?;
    let mut snapshot = shop.bus.snapshot();
    snapshot.queues.retain(|queue| queue.name != OPERATOR);
    let queues = snapshot.queues.iter();
    let moved = queues.map(|queue| queue.accepted + queue.acked + queue.retried);
    Ok(Look {
        ready: shop.bus.health().is_ready(),
        load: outbox + load(&snapshot),
        moved: moved.sum(),
        finished: ordering::finished(&shop.database).await?,
    })
}

/// Listens to the storefront.
pub async fn start(shop: &Arc<Shop>, service: Service) -> Result<(), SubscribeError> {
    match service {
        Service::Ordering => listen::<{ Service::Ordering as usize }>(shop).await,
        Service::Catalog => listen::<{ Service::Catalog as usize }>(shop).await,
        Service::Payment => listen::<{ Service::Payment as usize }>(shop).await,
        Service::Basket => listen::<{ Service::Basket as usize }>(shop).await,
        Service::Notifications => listen::<{ Service::Notifications as usize }>(shop).await,
        Service::Webhooks => listen::<{ Service::Webhooks as usize }>(shop).await,
        // It does not ask itself.
        Service::Storefront => Ok(()),
    }
}

async fn listen<const SERVICE: usize>(shop: &Arc<Shop>) -> Result<(), SubscribeError> {
    let of_handler = Arc::clone(shop);
    let operate = async move |asked: &Operate<SERVICE>, _: &mut Context<'_>| {
        let done = carry_out(&of_handler, asked.task).await;
        done.map_err(Failure::retry)
    };
    let operator = shop.bus.handle_fn::<Operate<SERVICE>, _>(OPERATOR, operate);
    operator.timeout(Duration::from_secs(60)).start().await?;
    Ok(())
}

async fn ask_once<const SERVICE: usize>(bus: &Bus, task: Task) -> Result<Done, RequestError> {
    // Who does not answer was killed; whoever is started in its place finds the command, and nobody waits for that.
    let patience = match task {
        Task::Look => Duration::from_secs(2),
        _ => Duration::from_secs(20),
    };
    let request = bus.request(Operate::<SERVICE> { task });
    request.expires_in(patience).timeout(patience).await
}

/// Asks until there is an answer, or until the deadline.
pub async fn ask(
    bus: &Bus,
    service: Service,
    task: Task,
    deadline: Instant,
) -> Result<Done, Box<dyn Error>> {
    loop {
        let answer = match service {
            Service::Ordering => ask_once::<{ Service::Ordering as usize }>(bus, task).await,
            Service::Catalog => ask_once::<{ Service::Catalog as usize }>(bus, task).await,
            Service::Payment => ask_once::<{ Service::Payment as usize }>(bus, task).await,
            Service::Basket => ask_once::<{ Service::Basket as usize }>(bus, task).await,
            Service::Notifications => {
                ask_once::<{ Service::Notifications as usize }>(bus, task).await
            }
            Service::Webhooks => ask_once::<{ Service::Webhooks as usize }>(bus, task).await,
            Service::Storefront => ask_once::<{ Service::Storefront as usize }>(bus, task).await,
        };
        match answer {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => {
                return Err(format!("{} does not answer: {error}", service.name()).into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
