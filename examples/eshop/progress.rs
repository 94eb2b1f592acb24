//! A line that moves while the orders do. On a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

use crate::ordering;
use crate::shop::{Shop, load};

pub struct Progress(ProgressBar);

impl Progress {
    /// Of this many orders.
    pub fn new(orders: u64) -> Self {
        // Draws to stderr, and not at all where that is no terminal.
        let bar = ProgressBar::new(orders);
        let style = ProgressStyle::with_template(
            "{bar:30.cyan/blue} {pos}/{len} orders finished in {elapsed} · {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    pub async fn show(&self, shop: &Shop) {
        if self.0.is_hidden() {
            return;
        }
        // What cannot be read now is shown the next time.
        let Ok(finished) = ordering::finished(&shop.database).await else {
            return;
        };
        let snapshot = shop.bus.snapshot();
        let sum = |of: fn(&postroom::QueueSnapshot) -> u64| -> u64 {
            snapshot.queues.iter().map(of).sum()
        };
        let message = format!(
            "{} under way, {} retries, {} restarts, {} dead letters",
            load(&snapshot),
            sum(|queue| queue.retried),
            sum(|queue| queue.restarts),
            snapshot.dead_letters.kept,
        );
        self.at(finished, message);
    }

    /// So many orders are finished.
    pub fn at(&self, finished: u64, message: String) {
        self.0.set_position(finished);
        self.0.set_message(message);
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
