//! Adds up what happened, from the bus's own books and from the services' data.

use std::collections::{BTreeMap, HashMap};

use postroom::Snapshot;
use serde::Serialize;

use crate::catalog::Stock;
use crate::messages::{Because, OrderId, State};
use crate::notifications::News;
use crate::ordering::Order;
use crate::shop::Shop;

/// The last line of the output.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub orders: u64,
    pub shipped: u64,
    pub cancelled: u64,
    pub unfinished: u64,
    pub accepted: u64,
    pub acked: u64,
    pub dead_letters: u64,
    pub retries: u64,
    pub restarts: u64,
    /// Messages that are neither handled nor kept, and orders that never finished.
    pub lost: u64,
    pub books_balance: bool,
    pub stock_conserved: bool,
}

/// A fault of the well-known original, and what shows that this shop does not have it.
pub struct Solved {
    pub fault: &'static str,
    pub here: String,
    pub solved: bool,
}

/// Everything that the report shows.
pub struct Accounts {
    pub summary: Summary,
    pub solved: Vec<Solved>,
    pub snapshot: Snapshot,
    pub orders: HashMap<OrderId, Order>,
    pub stock: BTreeMap<String, Stock>,
}

impl Accounts {
    /// Of a shop in which nothing moves any more.
    pub fn of(shop: &Shop) -> Self {
        let snapshot = shop.bus.snapshot();
        let orders = shop.orders.all();
        let stock = shop.catalog.stock();
        let summary = summary(shop.front.placed(), &snapshot, &orders, &stock);
        let mut accounts = Self {
            summary,
            solved: Vec::new(),
            snapshot,
            orders,
            stock,
        };
        accounts.solved = vec![
            accounts.acknowledged_on_failure(shop),
            accounts.given_up_for_good(),
            accounts.oversold(),
            accounts.taken_twice(shop),
            accounts.unknown_in_stock(),
            accounts.untold(shop),
        ];
        accounts
    }

    /// Whether the program has kept what the bus promises.
    pub fn in_order(&self) -> bool {
        let summary = &self.summary;
        summary.unfinished == 0
            && summary.lost == 0
            && summary.books_balance
            && summary.stock_conserved
            && self.solved.iter().all(|fault| fault.solved)
    }

    fn acknowledged_on_failure(&self, shop: &Shop) -> Solved {
        let failed = shop.faults.counts().all();
        let (retried, dead) = (self.summary.retries, self.summary.dead_letters);
        let acknowledged = failed.saturating_sub(retried + dead);
        Solved {
            fault: "acknowledges on an exception",
            here: format!(
                "{failed} attempts failed: {retried} retried + {dead} dead letters, {acknowledged} acknowledged"
            ),
            solved: acknowledged == 0,
        }
    }

    fn given_up_for_good(&self) -> Solved {
        let letters = &self.snapshot.dead_letters;
        Solved {
            fault: "never republishes what failed to be published",
            here: format!(
                "{} messages given up: {} replayed, {} left, {} evicted",
                letters.made, letters.replayed, letters.kept, letters.evicted
            ),
            solved: letters.kept + letters.evicted == 0,
        }
    }

    fn oversold(&self) -> Solved {
        let oversold = self
            .stock
            .values()
            .filter(|stock| stock.least_free < 0 || stock.on_hand < 0);
        let (oversold, scarce) = (
            oversold.count(),
            self.stock
                .values()
                .filter(|stock| stock.least_free == 0)
                .count(),
        );
        Solved {
            fault: "oversells for lack of a reservation",
            here: format!("{scarce} products promised to the last one, {oversold} oversold"),
            solved: oversold == 0,
        }
    }

    fn taken_twice(&self, shop: &Shop) -> Solved {
        let due = due(&self.orders);
        let taken: i64 = self
            .stock
            .iter()
            .map(|(id, stock)| (stock.sold - due.get(id).copied().unwrap_or_default()).max(0))
            .sum();
        Solved {
            fault: "takes stock twice on a duplicate order-paid",
            here: format!(
                "{} published twice, {} repeated deliveries, {taken} units taken twice",
                shop.copies.count(),
                shop.catalog.repeated(),
            ),
            solved: taken == 0,
        }
    }

    fn unknown_in_stock(&self) -> Solved {
        let unknown = |order: &&Order| {
            order
                .lines
                .iter()
                .any(|line| !self.stock.contains_key(&line.product))
        };
        let orders: Vec<_> = self.orders.values().filter(unknown).collect();
        let passed = orders
            .iter()
            .filter(|order| order.state != State::Cancelled)
            .count();
        Solved {
            fault: "counts an unknown product as in stock",
            here: format!(
                "{} orders with an unknown product, {passed} not refused",
                orders.len()
            ),
            solved: passed == 0,
        }
    }

    fn untold(&self, shop: &Shop) -> Solved {
        let cancelled = self
            .orders
            .iter()
            .filter(|(_, order)| order.state == State::Cancelled);
        let stock = cancelled
            .clone()
            .filter(|(_, order)| order.because == Some(Because::Stock));
        let told = cancelled
            .clone()
            .filter(|(id, _)| shop.told.has(**id, News::Cancelled))
            .count();
        let (cancelled, stock) = (cancelled.count(), stock.count());
        Solved {
            fault: "tells nobody of a stock cancellation",
            here: format!(
                "{cancelled} orders cancelled, {stock} of them for stock: {told} users told"
            ),
            solved: told == cancelled,
        }
    }
}

/// What the paid orders took, by product.
fn due(orders: &HashMap<OrderId, Order>) -> HashMap<String, i64> {
    let mut due = HashMap::new();
    for order in orders.values() {
        if matches!(order.state, State::Paid | State::Shipped) {
            for line in &order.lines {
                *due.entry(line.product.clone()).or_default() += i64::from(line.units);
            }
        }
    }
    due
}

fn summary(
    placed: u64,
    snapshot: &Snapshot,
    orders: &HashMap<OrderId, Order>,
    stock: &BTreeMap<String, Stock>,
) -> Summary {
    let in_state = |state| orders.values().filter(|order| order.state == state).count() as u64;
    let (shipped, cancelled) = (in_state(State::Shipped), in_state(State::Cancelled));
    let unfinished = placed.saturating_sub(shipped + cancelled);
    let queues = &snapshot.queues;
    let sum = |of: fn(&postroom::QueueSnapshot) -> u64| -> u64 { queues.iter().map(of).sum() };
    let accepted = sum(|queue| queue.accepted);
    let safe = sum(|queue| {
        queue.acked + queue.dead_lettered + queue.in_flight + queue.queued + queue.waiting
    });
    let due = due(orders);
    let conserved = stock.iter().all(|(id, stock)| {
        stock.before == stock.on_hand + stock.sold
            && stock.on_hand >= 0
            && stock.reserved == 0
            && stock.sold == due.get(id).copied().unwrap_or_default()
    });
    Summary {
        orders: placed,
        shipped,
        cancelled,
        unfinished,
        accepted,
        acked: sum(|queue| queue.acked),
        dead_letters: sum(|queue| queue.dead_lettered),
        retries: sum(|queue| queue.retried),
        restarts: sum(|queue| queue.restarts),
        // Nothing here is meant to be discarded, to expire, to be dropped, purged or abandoned.
        lost: accepted.abs_diff(safe) + snapshot.dead_letters.evicted + unfinished,
        books_balance: snapshot.books_balance(),
        stock_conserved: conserved,
    }
}
