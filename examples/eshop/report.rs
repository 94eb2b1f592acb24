//! Prints what happened.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;

use crate::accounts::Accounts;
use crate::books::{Books, Letter};
use crate::stopwatch::{Times, histogram};

/// The most kinds of dead letters that are listed.
const KINDS: usize = 12;

/// Prints the whole report. `letters` are the dead letters as they were before the replay.
pub fn print(accounts: &Accounts, letters: &[Letter]) {
    let books = &accounts.books;
    section("orders by final state", orders(books));
    section("stock", stock(books));
    section("queues", queues(books));
    let injected = books.injected;
    println!(
        "failed attempts: {} errors, {} panics and {} hangs injected, {} errors of the services",
        injected.failed, injected.panicked, injected.hung, injected.own
    );
    println!("messages for the wrong state, ignored: {}", books.misplaced);
    println!(
        "money taken: {}, by {} payments; orders charged again: {}",
        money(books.income.money),
        books.income.payments,
        books.income.asked_again
    );
    println!(
        "deliveries of what had been handled, known as duplicates: {}",
        books.duplicates
    );
    if letters.is_empty() {
        println!("\ndead letters: none");
    } else {
        section(
            &format!("{} dead letters, before the replay", letters.len()),
            dead(letters),
        );
    }
    section("who was told", told(books));
    section("latency in ms", latency(books));
    section(
        "faults of the well-known original, shown solved",
        solved(accounts),
    );
}

fn section(title: &str, table: Table) {
    println!("\n{title}\n{table}");
}

/// A table whose columns from `numbers` on are numbers.
fn table<const N: usize>(header: [&str; N], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for index in numbers..N {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn orders(books: &Books) -> Table {
    let mut kinds = BTreeMap::<_, (u64, u64)>::new();
    for order in books.orders.values() {
        let kind = kinds.entry((order.state, order.because)).or_default();
        *kind = (kind.0 + 1, kind.1.saturating_add(order.total()));
    }
    let mut table = table(["state", "because of", "orders", "value"], 2);
    for ((state, because), (count, value)) in kinds {
        let because = because.map(|because| format!("{because:?}").to_lowercase());
        let because = because.unwrap_or_default();
        table.add_row([
            format!("{state:?}"),
            because,
            count.to_string(),
            money(value),
        ]);
    }
    table
}

fn stock(books: &Books) -> Table {
    let header = [
        "product",
        "price",
        "before",
        "sold",
        "reserved",
        "after",
        "least free",
    ];
    let mut table = table(header, 1);
    for stock in books.stock.values() {
        let counts = [
            stock.before,
            stock.sold,
            stock.reserved,
            stock.on_hand,
            stock.least_free,
        ];
        let mut row = vec![stock.name.clone(), money(stock.price)];
        row.extend(counts.map(|count| count.to_string()));
        table.add_row(row);
    }
    table
}

fn queues(books: &Books) -> Table {
    let header = [
        "queue",
        "deliveries",
        "accepted",
        "acked",
        "retries",
        "dead letters",
        "restarts",
    ];
    let mut table = table(header, 1);
    let mut sums = [0; 6];
    for queue in &books.queues {
        let deliveries = queue.acked + queue.retried + queue.dead_lettered;
        let counts = [
            deliveries,
            queue.accepted,
            queue.acked,
            queue.retried,
            queue.dead_lettered,
            queue.restarts,
        ];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        table.add_row(row(&queue.name, counts));
    }
    table.add_row(row("all", sums));
    table
}

fn row<const N: usize>(name: &str, counts: [u64; N]) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(counts.map(|count| count.to_string()));
    row
}

fn dead(letters: &[Letter]) -> Table {
    let mut kinds = BTreeMap::<_, u64>::new();
    for letter in letters {
        *kinds.entry(letter).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut table = table(
        ["message", "given up by", "reason", "last error", "letters"],
        4,
    );
    for (letter, count) in kinds.iter().take(KINDS) {
        let Letter {
            message,
            queue,
            reason,
            error,
        } = letter;
        table.add_row([message, queue, reason, error, &count.to_string()]);
    }
    if let Some(rest) = kinds.get(KINDS..).filter(|rest| !rest.is_empty()) {
        let letters: u64 = rest.iter().map(|(_, count)| count).sum();
        let more = format!("{} more kinds", rest.len());
        table.add_row([more.as_str(), "", "", "", &letters.to_string()]);
    }
    table
}

fn told(books: &Books) -> Table {
    let mut table = table(["service", "what", "times"], 2);
    let mut counts = BTreeMap::<_, u64>::new();
    for (_, news) in &books.told {
        *counts.entry(news).or_default() += 1;
    }
    for (news, count) in counts {
        let news = format!("order {news:?}").to_lowercase();
        table.add_row(["notifications", &news, &count.to_string()]);
    }
    for (topic, told) in &books.posts {
        let what = format!("{topic}, {} bytes", told.bytes);
        table.add_row(["webhooks", &what, &told.posts.to_string()]);
    }
    let left = books.lines_in_baskets.to_string();
    table.add_row(["basket", "lines left in baskets", &left]);
    table
}

fn latency(books: &Books) -> Table {
    let mut whole = histogram();
    for order in books.orders.values() {
        if let Some(finished) = order.finished_us {
            whole.saturating_record(finished.saturating_sub(order.placed_us));
        }
    }
    let mut table = table(
        ["from, to", "count", "p50", "p90", "p99", "p99.9", "most"],
        1,
    );
    table.add_row(times("order placed, finished", &whole));
    table.add_row(times(
        "message published, handled at once",
        &recorded(&books.first),
    ));
    let retried = recorded(&books.retried);
    table.add_row(times("message published, handled after retries", &retried));
    table
}

fn recorded(times: &Times) -> Histogram<u64> {
    let mut histogram = histogram();
    for (time, count) in times {
        histogram.saturating_record_n(*time, *count);
    }
    histogram
}

fn times(name: &str, times: &Histogram<u64>) -> Vec<String> {
    let ms = |us: u64| format!("{:.3}", us as f64 / 1000.0);
    let mut row = vec![name.to_owned(), times.len().to_string()];
    row.extend([0.5, 0.9, 0.99, 0.999].map(|share| ms(times.value_at_quantile(share))));
    row.push(ms(times.max()));
    row
}

fn solved(accounts: &Accounts) -> Table {
    let mut table = table(["the original …", "here", "solved"], 3);
    for fault in &accounts.solved {
        table.add_row([
            fault.fault,
            &fault.here,
            if fault.solved { "yes" } else { "NO" },
        ]);
    }
    table
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
