//! The fault matrix: a process that handles is killed with its hands full.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::load::{self, HEALING, Numbered, soaks};
use crate::common::process::{Process, task};
use crate::common::rabbit::Rabbit;
use crate::common::{Ledger, Log, check_books, eventually, soon};
use postroom::{Amqp, Bridged, Bus, Filter, Reason, Subscription};

const MESSAGES: u64 = 1_000;
/// What the process handles before it only holds.
const HANDLED: u64 = 100;
/// What it holds then.
const HELD: u16 = 200;

fn bridge(prefix: &str) -> Amqp {
    Amqp::new(Rabbit::shared().url())
        .prefix(prefix)
        .prefetch(HELD)
}

/// A bus that writes what it handles into the ledger; from `holds_from` on it only holds.
async fn consumer(
    prefix: &str,
    service: &str,
    ledger: Arc<Ledger>,
    holds_from: u64,
) -> (Bus, Subscription) {
    let bus = Bus::builder(service).bridge(bridge(prefix).import("load.#"));
    let bus = bus.start().await.unwrap();
    let queue = format!("{service}.work");
    let subscription = bus
        .subscribe_fn::<Numbered, _>("work", async move |message: &Numbered, _| {
            if message.id >= holds_from {
                std::future::pending::<()>().await;
            }
            ledger.handle(&queue, message.id);
            Ok(())
        })
        .mailbox(usize::from(HELD))
        .workers(4)
        .start()
        .await
        .unwrap();
    (bus, subscription)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_holds_200_is_killed() {
    if let Some(task) = task() {
        let words: Vec<&str> = task.split(' ').collect();
        let ledger = Arc::new(Ledger::open(words[0]));
        let _running = consumer(words[1], words[2], ledger, HANDLED).await;
        std::future::pending::<()>().await;
    }
    for _ in 0..if soaks() { 5 } else { 1 } {
        kill_one().await;
    }
}

async fn kill_one() {
    let begun = Instant::now();
    let url = Rabbit::shared().url().to_owned();
    let (prefix, service) = (Rabbit::unique("load"), Rabbit::unique("sink"));
    let queue = format!("{service}.work");
    let path: PathBuf = std::env::temp_dir().join(Rabbit::unique("ledger"));
    let ledger = Arc::new(Ledger::open(&path));
    let until = async |what: &str, condition: &dyn Fn(Option<(u32, u32)>) -> bool| {
        let end = Instant::now() + HEALING;
        while !condition(load::look(&url, &queue).await) {
            assert!(Instant::now() < end, "it never came true: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    let task = format!("{} {prefix} {service}", path.display());
    let process = Process::start("process::a_process_that_holds_200_is_killed", &task);
    until("it consumes", &|seen| {
        seen.is_some_and(|(_, consumers)| consumers == 1)
    })
    .await;
    let source = Bus::builder(Rabbit::unique("source")).bridge(bridge(&prefix).export("load.#"));
    let source = source.start().await.unwrap();
    let messages = (0..MESSAGES).map(|id| {
        let padding = String::new();
        ledger.attempt(id);
        Numbered { id, padding }
    });
    for message in messages {
        let id = message.id;
        let receipt = source.publish(message).await.unwrap();
        assert_eq!(receipt.bridged, Bridged::Routed);
        ledger.accept(id);
    }
    let ready = MESSAGES - HANDLED - u64::from(HELD);
    until("it holds 200", &|seen| {
        seen.is_some_and(|(left, _)| u64::from(left) == ready)
    })
    .await;
    drop(process);

    let (bus, subscription) = consumer(&prefix, &service, Arc::clone(&ledger), u64::MAX).await;
    until("another consumes", &|seen| {
        seen.is_some_and(|(_, consumers)| consumers == 1)
    })
    .await;
    let end = Instant::now() + HEALING;
    while !ledger.read().complete(&[&queue]) || subscription.snapshot().in_flight > 0 {
        assert!(Instant::now() < end, "{:?}", subscription.snapshot());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cell = "process that holds 200 killed (kill -9)";
    let verdict = ledger.read().check_at_least_once(cell, &[&queue]);
    load::record(cell, &verdict, begun.elapsed());
    assert!(verdict.duplicated.len() <= usize::from(HELD), "{verdict}");
    for bus in [&source, &bus] {
        load::end_in_time(cell, bus, Duration::from_secs(5)).await;
        check_books(bus);
    }
    load::delete_queue(&url, &queue).await;
    load::delete_queue(&url, &format!("{queue}.dead")).await;
    std::fs::remove_file(path).unwrap();
}

/// How often RabbitMQ hands a message out again.
const DELIVERIES: u32 = 2;

/// A bus on whose handler each message is written down, or kills the process.
async fn mortal(prefix: &str, service: &str, handled: Option<Log<u64>>) -> Bus {
    let amqp = bridge(prefix).delivery_limit(DELIVERIES).import("load.#");
    let bus = Bus::builder(service).bridge(amqp).start().await.unwrap();
    bus.subscribe_fn::<Numbered, _>("work", async move |message: &Numbered, _| match &handled {
        Some(handled) => {
            handled.push(message.id);
            Ok(())
        }
        None => std::process::abort(),
    })
    .start()
    .await
    .unwrap();
    bus
}

/// The process cannot count what kills it: RabbitMQ does, and has the last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_its_process_ends_as_a_dead_letter() {
    const NAME: &str = "process::a_message_that_kills_its_process_ends_as_a_dead_letter";
    if let Some(task) = task() {
        let (prefix, service) = task.split_once(' ').unwrap();
        let _running = mortal(prefix, service, None).await;
        std::future::pending::<()>().await;
    }
    let rabbit = Rabbit::shared();
    let url = rabbit.url();
    let (prefix, service) = (Rabbit::unique("load"), Rabbit::unique("sink"));
    let (queue, task) = (format!("{service}.work"), format!("{prefix} {service}"));
    let mut process = Process::start(NAME, &task);
    soon("it consumes", async {
        while load::look(url, &queue).await.is_none_or(|seen| seen.1 == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let source = Bus::builder(Rabbit::unique("source")).bridge(bridge(&prefix).export("load.#"));
    let source = source.start().await.unwrap();
    let message = |id| Numbered {
        id,
        padding: String::new(),
    };
    let deadly = source.publish(message(0)).await.unwrap();
    assert_eq!(deadly.bridged, Bridged::Routed);
    let mut deaths = 1;
    loop {
        process.ends().await;
        let dead = format!("{queue}.dead");
        let is_given_up = async {
            loop {
                let [left, dead] = [load::look(url, &queue).await, load::look(url, &dead).await];
                match (left, dead) {
                    (_, Some((1, _))) => return true,
                    (Some((1, _)), _) => return false,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        if soon("it is somewhere", is_given_up).await {
            break;
        }
        process = Process::start(NAME, &task);
        deaths += 1;
    }
    assert_eq!(deaths, DELIVERIES + 1);

    let handled = Log::new();
    let heir = mortal(&prefix, &service, Some(handled.clone())).await;
    source.publish(message(1)).await.unwrap();
    eventually("others are handled", || handled.all() == [1]).await;
    let letters = heir.dead_letters();
    let found = letters.list(&Filter::all().queue("work")).await.unwrap();
    let [letter] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(letter.envelope().id(), deadly.id);
    assert_eq!(letter.reason, Reason::Exhausted);
    assert!(
        letter.errors[0].contains("delivery_limit"),
        "{:?}",
        letter.errors
    );
    letters.replay(letter.id).await.unwrap();
    eventually("it is handled", || handled.all() == [1, 0]).await;
    for bus in [&source, &heir] {
        let report = bus.shutdown(Duration::from_secs(5)).await;
        // The letter is RabbitMQ's, and in no book of ours.
        assert!(report.clean && bus.snapshot().books_balance(), "{report:?}");
    }
    load::delete_queue(url, &queue).await;
    load::delete_queue(url, &format!("{queue}.dead")).await;
}
