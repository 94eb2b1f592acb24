//! Adds up what happened, from the bus's own books and from the services' data.

use std::collections::HashMap;

use postroom::Event;
use serde::Serialize;

use crate::books::{Books, QueueBooks};
use crate::messages::{Because, Cents, OrderCancelled, OrderPaid, OrderShipped, State};
use crate::notifications::News;
use crate::ordering::Order;

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
    /// Messages that are neither handled nor kept, or left in an outbox, orders that never finished, news that never
    /// came, and what was ordered and is still in a basket.
    pub lost: u64,
    pub books_balance: bool,
    pub stock_conserved: bool,
    /// What was charged is what the paid orders cost, each once.
    pub money_conserved: bool,
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
    pub books: Books,
}

impl Accounts {
    pub fn of(books: Books) -> Self {
        let mut accounts = Self {
            summary: summary(&books),
            solved: Vec::new(),
            books,
        };
        accounts.solved = vec![
            accounts.acknowledged_on_failure(),
            accounts.given_up_for_good(),
            accounts.oversold(),
            accounts.taken_twice(),
            accounts.unknown_in_stock(),
            accounts.untold(),
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
            && summary.money_conserved
            && self.solved.iter().all(|fault| fault.solved)
    }

    fn acknowledged_on_failure(&self) -> Solved {
        let failed = self.books.injected.all();
        let (retried, dead) = (self.summary.retries, self.summary.dead_letters);
        // What went back to RabbitMQ in the middle comes again with the attempts that it had before.
        let returned = self.books.sum(|queue| queue.returned);
        let acknowledged = failed.saturating_sub(retried + dead + returned);
        let again = match returned {
            0 => String::new(),
            _ => format!(" + up to {returned} handed out again"),
        };
        Solved {
            fault: "acknowledges on an exception",
            here: format!(
                "{failed} attempts failed: {retried} retried + {dead} dead letters{again}, {acknowledged} acknowledged"
            ),
            solved: acknowledged == 0,
        }
    }

    fn given_up_for_good(&self) -> Solved {
        let letters = &self.books.letters;
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
        let stock = || self.books.stock.values();
        let oversold = stock().filter(|stock| stock.least_free < 0 || stock.on_hand < 0);
        let scarce = stock().filter(|stock| stock.least_free == 0).count();
        let oversold = oversold.count();
        Solved {
            fault: "oversells for lack of a reservation",
            here: format!("{scarce} products promised to the last one, {oversold} oversold"),
            solved: oversold == 0,
        }
    }

    fn taken_twice(&self) -> Solved {
        let due = due(&self.books);
        let taken: i64 = self
            .books
            .stock
            .iter()
            .map(|(id, stock)| (stock.sold - due.get(id).copied().unwrap_or_default()).max(0))
            .sum();
        Solved {
            fault: "takes stock twice on a duplicate order-paid",
            here: format!(
                "{} published twice, {} repeated deliveries, {taken} units taken twice",
                self.books.copies, self.books.repeated,
            ),
            solved: taken == 0,
        }
    }

    fn unknown_in_stock(&self) -> Solved {
        let unknown = |order: &&Order| {
            order
                .lines
                .iter()
                .any(|line| !self.books.stock.contains_key(&line.product))
        };
        let orders: Vec<_> = self.books.orders.values().filter(unknown).collect();
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

    fn untold(&self) -> Solved {
        let cancelled = self
            .books
            .orders
            .iter()
            .filter(|(_, order)| order.state == State::Cancelled);
        let stock = cancelled
            .clone()
            .filter(|(_, order)| order.because == Some(Because::Stock));
        let told = cancelled
            .clone()
            .filter(|(id, _)| self.books.told.contains(&(**id, News::Cancelled)))
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
fn due(books: &Books) -> HashMap<String, i64> {
    let mut due = HashMap::new();
    for order in books.orders.values() {
        if matches!(order.state, State::Paid | State::Shipped) {
            for line in &order.lines {
                *due.entry(line.product.clone()).or_default() += i64::from(line.units);
            }
        }
    }
    due
}

/// Which steps of orders Notifications did not hear of.
fn unheard(books: &Books) -> u64 {
    let unheard = books.orders.iter().map(|(id, order)| {
        let due: &[News] = match order.state {
            State::Shipped => &[News::Submitted, News::Paid, News::Shipped],
            State::Paid => &[News::Submitted, News::Paid],
            State::Cancelled => &[News::Submitted, News::Cancelled],
            _ => &[News::Submitted],
        };
        let unheard = due
            .iter()
            .filter(|news| !books.told.contains(&(*id, **news)));
        unheard.count() as u64
    });
    unheard.sum()
}

/// Posts that Webhooks did not make, of those that it must have: after a crash it may make one twice.
fn unposted(books: &Books) -> u64 {
    let in_state = |state| {
        let orders = books.orders.values();
        orders.filter(|order| order.state == state).count() as u64
    };
    let due = [
        (OrderPaid::TOPIC, in_state(State::Shipped) + books.copies),
        (OrderShipped::TOPIC, in_state(State::Shipped)),
        (OrderCancelled::TOPIC, in_state(State::Cancelled)),
    ];
    let unposted = due.iter().map(|(topic, due)| {
        let posts = books.posts.get(*topic).map_or(0, |told| told.posts);
        due.saturating_sub(posts)
    });
    unposted.sum()
}

fn summary(books: &Books) -> Summary {
    let in_state = |state| {
        let orders = books.orders.values();
        orders.filter(|order| order.state == state).count() as u64
    };
    let (shipped, cancelled) = (in_state(State::Shipped), in_state(State::Cancelled));
    let unfinished = books.placed.saturating_sub(shipped + cancelled);
    let accepted = books.sum(|queue| queue.accepted);
    let safe = books.sum(|queue| queue.acked + queue.dead_lettered + queue.held + queue.returned);
    let due = due(books);
    let conserved = books.stock.iter().all(|(id, stock)| {
        stock.before == stock.on_hand + stock.sold
            && stock.on_hand >= 0
            && stock.reserved == 0
            && stock.sold == due.get(id).copied().unwrap_or_default()
    });
    let paid = books.orders.values();
    let paid = paid.filter(|order| matches!(order.state, State::Paid | State::Shipped));
    let paid_orders = paid.clone().count() as u64;
    let cost = paid.fold(0, |cost: Cents, order| cost.saturating_add(order.total()));
    Summary {
        orders: books.placed,
        shipped,
        cancelled,
        unfinished,
        accepted,
        acked: books.sum(|queue| queue.acked),
        dead_letters: books.sum(|queue| queue.dead_lettered),
        retries: books.sum(|queue| queue.retried),
        restarts: books.sum(|queue| queue.restarts),
        // Nothing here is meant to be discarded, to expire, to be dropped, purged or abandoned.
        lost: accepted.abs_diff(safe)
            + books.letters.evicted
            + unfinished
            + unheard(books)
            + unposted(books)
            + books.lines_in_baskets
            + books.left_in_outboxes,
        books_balance: books.queues.iter().all(|queue: &QueueBooks| queue.balances),
        stock_conserved: conserved,
        money_conserved: books.income.money == cost
            && books.income.payments == paid_orders
            && books.income.asked_again == 0,
    }
}
