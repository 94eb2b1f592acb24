//! What the report is made of: of one bus with all services, or put together from those of each service's process.

use std::collections::{BTreeMap, BTreeSet};

use postroom::{DeadLetter, DeadLetters, QueueSnapshot, Snapshot, StoreError};
use serde::{Deserialize, Serialize};

use crate::catalog::Stock;
use crate::database::DataError;
use crate::messages::OrderId;
use crate::notifications::News;
use crate::ordering::Order;
use crate::payment::Income;
use crate::sabotage::Injected;
use crate::shop::Shop;
use crate::stopwatch::Times;
use crate::webhooks::Topic;
use crate::{basket, catalog, notifications, ordering, payment, webhooks};

/// The group by which the storefront asks a service's process: none of the shop's.
pub const OPERATOR: &str = "operator";

/// Each part is filled by the service that knows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Books {
    pub placed: u64,
    pub queues: Vec<QueueBooks>,
    pub letters: LetterBooks,
    pub orders: BTreeMap<OrderId, Order>,
    /// Messages that came for the wrong state of their order.
    pub misplaced: u64,
    pub stock: BTreeMap<String, Stock>,
    /// Deliveries of `order-paid` for orders that had been taken out of the stock already.
    pub repeated: u64,
    pub income: Income,
    pub told: BTreeSet<(OrderId, News)>,
    pub posts: BTreeMap<String, Topic>,
    pub lines_in_baskets: u64,
    /// Rows of the outboxes that are not published, or were given up.
    pub left_in_outboxes: u64,
    /// Messages that came again although they had been handled, and were not handled again.
    pub duplicates: u64,
    /// Orders whose `order-paid` was published twice.
    pub copies: u64,
    pub injected: Injected,
    pub first: Times,
    pub retried: Times,
}

/// The counts of a queue, since its process started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueBooks {
    pub name: String,
    pub accepted: u64,
    pub acked: u64,
    pub retried: u64,
    pub dead_lettered: u64,
    pub restarts: u64,
    /// Handed back to RabbitMQ, to be handed out again.
    pub returned: u64,
    /// Queued, in flight, or waiting for a retry.
    pub held: u64,
    pub balances: bool,
}

/// The dead letters, all queues together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LetterBooks {
    pub made: u64,
    pub replayed: u64,
    pub kept: u64,
    pub evicted: u64,
}

/// Dead letters of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Letter {
    pub message: String,
    pub queue: String,
    pub reason: String,
    pub error: String,
}

impl Books {
    /// Of a shop in which nothing moves any more.
    pub async fn of(shop: &Shop) -> Result<Self, DataError> {
        let database = &shop.database;
        let (open, dead) = database.outbox().await?;
        let snapshot = shop.bus.snapshot();
        let (first, retried) = shop.stopwatch.times();
        Ok(Self {
            placed: shop.front.placed(),
            queues: queues(&snapshot),
            letters: LetterBooks {
                made: snapshot.dead_letters.made,
                replayed: snapshot.dead_letters.replayed,
                kept: shop.bus.dead_letters().len().await? as u64,
                evicted: snapshot.dead_letters.evicted,
            },
            orders: ordering::all(database).await?,
            misplaced: shop.misplaced.get(),
            stock: catalog::stock(database).await?,
            repeated: shop.repeated.get(),
            income: payment::income(database).await?,
            told: notifications::told(database).await?,
            posts: webhooks::topics(database).await?,
            lines_in_baskets: basket::lines(database).await?.len() as u64,
            left_in_outboxes: open + dead,
            duplicates: snapshot.outbox.map_or(0, |outbox| outbox.duplicates),
            copies: shop.copies.count() as u64,
            injected: shop.faults.counts(),
            first,
            retried,
        })
    }

    /// Adds those of another process.
    #[cfg(feature = "amqp")]
    pub fn add(&mut self, other: Self) {
        self.placed += other.placed;
        self.queues.extend(other.queues);
        self.letters.made += other.letters.made;
        self.letters.replayed += other.letters.replayed;
        self.letters.kept += other.letters.kept;
        self.letters.evicted += other.letters.evicted;
        self.orders.extend(other.orders);
        self.misplaced += other.misplaced;
        self.stock.extend(other.stock);
        self.repeated += other.repeated;
        self.income.money += other.income.money;
        self.income.payments += other.income.payments;
        self.income.asked_again += other.income.asked_again;
        self.left_in_outboxes += other.left_in_outboxes;
        self.duplicates += other.duplicates;
        self.told.extend(other.told);
        self.posts.extend(other.posts);
        self.lines_in_baskets += other.lines_in_baskets;
        self.copies += other.copies;
        self.injected.add(other.injected);
        self.first.extend(other.first);
        self.retried.extend(other.retried);
    }

    /// The sum of one count over all queues.
    pub fn sum(&self, of: impl Fn(&QueueBooks) -> u64) -> u64 {
        self.queues.iter().map(of).sum()
    }
}

fn queues(snapshot: &Snapshot) -> Vec<QueueBooks> {
    let shops = snapshot
        .queues
        .iter()
        .filter(|queue| queue.name != OPERATOR);
    shops.map(QueueBooks::of).collect()
}

impl QueueBooks {
    fn of(queue: &QueueSnapshot) -> Self {
        Self {
            name: queue.name.clone(),
            accepted: queue.accepted,
            acked: queue.acked,
            retried: queue.retried,
            dead_lettered: queue.dead_lettered,
            restarts: queue.restarts,
            returned: queue.returned,
            held: queue.queued + queue.in_flight + queue.waiting,
            balances: queue.balances(),
        }
    }
}

impl Letter {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            message: letter.envelope().address().to_owned(),
            queue: letter.queue.to_string(),
            reason: letter.reason.to_string(),
            error: letter.errors.first().cloned().unwrap_or_default(),
        }
    }
}

/// The dead letters that are kept now.
pub async fn letters(letters: &DeadLetters) -> Result<Vec<Letter>, StoreError> {
    let kept = letters.list(&postroom::Filter::all()).await?;
    Ok(kept.iter().map(Letter::of).collect())
}
