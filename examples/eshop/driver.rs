//! Plays the users: places the orders, waits until all is done, and replays what was given up.

use std::error::Error;
use std::time::{Duration, Instant};

use postroom::{Command, Filter, PublishError, QueueSnapshot, Refusal, Snapshot};

use crate::books::{self, Letter};
use crate::database::DataError;
use crate::diary::{Diary, Entry};
use crate::input::NewOrder;
use crate::messages::{CancelOrder, Cents, ChangePrice, FillBasket, PlaceOrder};
use crate::progress::Progress;
use crate::shop::{Shop, load};

/// New orders wait while this many messages are under way. An order is never more than a few messages at a
/// time, so no mailbox of the circle of services can fill up and block the others.
const ENOUGH: u64 = 1024;

/// How many orders are placed between two looks at that.
const BATCH: usize = 32;

/// A price is changed once in so many orders.
const PER_PRICE: usize = 40;

const POLL: Duration = Duration::from_millis(10);

/// How long RabbitMQ may be away.
const BROKER_PATIENCE: Duration = Duration::from_secs(60);
const ONE_TRY: Duration = Duration::from_secs(5);

/// How long nothing may change before it is given up, beyond the waits that are meant to be.
const PATIENCE: Duration = Duration::from_secs(10);

/// Notices when nothing moves for longer than [`PATIENCE`].
struct Stall {
    moved: u64,
    since: Instant,
}

impl Stall {
    fn new() -> Self {
        Self {
            moved: 0,
            since: Instant::now(),
        }
    }

    fn is_over(&mut self, snapshot: &Snapshot) -> bool {
        let sum = |queue: &QueueSnapshot| queue.accepted + queue.acked + queue.retried;
        let moved = snapshot.queues.iter().map(sum).sum();
        // What is scheduled moves when it is due.
        if moved != self.moved || load(snapshot) == snapshot.scheduled {
            *self = Self {
                moved,
                since: Instant::now(),
            };
        }
        self.since.elapsed() > PATIENCE
    }
}

/// Places all orders, and changes a price now and then.
pub async fn place(
    shop: &Shop,
    orders: impl Iterator<Item = NewOrder>,
    diary: &Diary,
    pace: Duration,
    progress: &Progress,
) -> Result<(), Box<dyn Error>> {
    let last = diary.last().await?;
    let placed = last.as_ref().map_or(0, Entry::placed);
    // What a process that was killed has begun is sent again as it was.
    let mut begun = last.filter(|entry| !entry.is_placed);
    for (count, order) in orders.enumerate().skip(placed) {
        let mut stall = Stall::new();
        while count % BATCH == 0 && shop.load().await? > ENOUGH {
            if stall.is_over(&shop.bus.snapshot()) {
                return Err("nothing moves any more".into());
            }
            progress.show(shop).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let command = match begun.take() {
            Some(entry) => entry.command,
            None => {
                let command = shop.front.check_out(&order);
                diary.write(count, &command, false).await?;
                command
            }
        };
        place_next(shop, &order, &command, count).await?;
        diary.write(count, &command, true).await?;
        tokio::time::sleep(pace).await;
    }
    Ok(())
}

/// Places an order, and changes a price if it is time to.
pub async fn place_next(
    shop: &Shop,
    order: &NewOrder,
    command: &PlaceOrder,
    count: usize,
) -> Result<(), Box<dyn Error>> {
    place_one(shop, order, command.clone()).await?;
    if count.is_multiple_of(PER_PRICE) {
        change_a_price(shop, order, count).await?;
    }
    Ok(())
}

/// Sends a command, and again while RabbitMQ or the database is away. It may then come twice: a command that was carried out is told
/// by what it is about, so that the second changes nothing.
async fn send<C: Command + Clone>(
    shop: &Shop,
    command: C,
    conversation: &str,
) -> Result<(), PublishError<C>> {
    let deadline = Instant::now() + BROKER_PATIENCE;
    loop {
        let sending = shop.bus.send(command.clone());
        let sending = sending.correlation(conversation).timeout(ONE_TRY);
        match sending.await {
            Err(error) if is_passing(error.kind()) && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            sent => return sent.map(drop),
        }
    }
}

/// Of one bus alone, with its queues in memory, none of these comes.
fn is_passing(why: &Refusal) -> bool {
    matches!(
        why,
        Refusal::Unreachable { .. }
            | Refusal::Unconfirmed { .. }
            | Refusal::NotStored { .. }
            | Refusal::Rejected { .. }
    )
}

async fn place_one(
    shop: &Shop,
    order: &NewOrder,
    command: PlaceOrder,
) -> Result<(), Box<dyn Error>> {
    let id = command.order;
    // All that follows from these belongs to the same conversation, by which the traces tell orders apart.
    let conversation = format!("order-{id}");
    let basket = FillBasket {
        user: command.user.clone(),
        lines: command.lines.clone(),
        filled_us: command.placed_us,
    };
    send(shop, basket, &conversation).await?;
    send(shop, command, &conversation).await?;
    shop.front.count();
    if order.cancel {
        let cancel = CancelOrder { order: id };
        send(shop, cancel, &conversation).await?;
    }
    Ok(())
}

/// A tenth up or down, in turn.
async fn change_a_price(shop: &Shop, order: &NewOrder, count: usize) -> Result<(), Box<dyn Error>> {
    let Some(line) = order.lines.first() else {
        return Ok(());
    };
    let Some(old) = shop.front.price(&line.product) else {
        return Ok(());
    };
    let tenth: Cents = old / 10;
    let price = if (count / PER_PRICE).is_multiple_of(2) {
        old + tenth
    } else {
        old - tenth
    };
    let change = ChangePrice {
        product: line.product.clone(),
        price,
    };
    let conversation = format!("price-{count}");
    send(shop, change, &conversation).await?;
    Ok(())
}

/// Waits until nothing moves any more, or until the deadline. What stays open then is in a dead letter.
pub async fn settle(
    shop: &Shop,
    progress: &Progress,
    deadline: Option<Instant>,
) -> Result<(), DataError> {
    let (mut idle, mut acked) = (0, 0);
    let mut stall = Stall::new();
    while idle < 3 && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        progress.show(shop).await;
        tokio::time::sleep(POLL).await;
        let (outbox, _) = shop.database.outbox().await?;
        let snapshot = shop.bus.snapshot();
        let moved = snapshot.queues.iter().map(|queue| queue.acked).sum();
        // What was handled between the two looks may have written into the outbox behind the first.
        let is_idle = outbox + load(&snapshot) == 0 && moved == acked;
        (idle, acked) = (if is_idle { idle + 1 } else { 0 }, moved);
        if stall.is_over(&snapshot) {
            return Ok(());
        }
    }
    Ok(())
}

/// Ends the faults, and replays the dead letters until every order is finished. Returns those that had been
/// made until then.
pub async fn replay(
    shop: &Shop,
    progress: &Progress,
    patience: Duration,
) -> Result<Vec<Letter>, Box<dyn Error>> {
    shop.faults.stop();
    shop.stopwatch.stop();
    let letters = shop.bus.dead_letters();
    let made = books::letters(&letters).await?;
    let deadline = Instant::now() + patience;
    let enough = Filter::all().limit(ENOUGH as usize);
    while Instant::now() < deadline {
        let replayed = tokio::time::timeout(
            deadline.saturating_duration_since(Instant::now()),
            letters.replay_all(&enough),
        );
        // At the deadline, or where it failed, the report says what is unfinished.
        let replayed = match replayed.await {
            Ok(Ok(done)) => done.replayed,
            Ok(Err(ended)) => ended.done.replayed,
            Err(_) => 0,
        };
        settle(shop, progress, Some(deadline)).await?;
        if replayed == 0 {
            break;
        }
    }
    Ok(made)
}
