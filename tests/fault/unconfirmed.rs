//! A queue that never confirms.

use std::time::{Duration, Instant};

use crate::common::rabbit::Rabbit;
use crate::common::{Log, end, eventually};
use postroom::{Amqp, Bridged, Bus, Event, Refusal};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Paid(u32);
impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed(u32);
impl Event for Listed {
    const TOPIC: &'static str = "catalog.book-listed";
}

/// As one without a leader: here its process stands still.
#[tokio::test]
async fn a_queue_that_never_confirms_does_not_take_all_places_for_ever() {
    // Of its own: a queue that stood still does the node no good.
    let rabbit = tokio::task::spawn_blocking(Rabbit::start).await.unwrap();
    let name = Rabbit::unique("confirms");
    let amqp = Amqp::new(rabbit.url()).prefix(&name).window(4);
    let amqp = amqp.import("ordering.#").import("catalog.#");
    let bus = Bus::builder(&name).bridge(amqp).start().await.unwrap();
    let handled = Log::new();
    let (paid, listed) = (handled.clone(), handled.clone());
    let mailer = bus.subscribe_fn::<Paid, _>("mailer", async move |order, _| {
        paid.push(order.0);
        Ok(())
    });
    mailer.start().await.unwrap();
    let search = bus.subscribe_fn::<Listed, _>("search", async move |book, _| {
        listed.push(book.0);
        Ok(())
    });
    search.start().await.unwrap();
    let process = |what: &str| {
        let call = format!("sys:{what}(whereis('%2F_{name}.mailer')).");
        rabbit.run(move |rabbit| rabbit.ctl(&["eval", &call]))
    };
    process("suspend").await;
    for order in 0..4 {
        let publishing = bus.publish(Paid(order)).timeout(Duration::from_millis(200));
        let refused = publishing.await.unwrap_err();
        assert!(
            matches!(refused.kind(), Refusal::Unconfirmed { .. }),
            "{refused}"
        );
    }
    let begun = Instant::now();
    let publishing = bus.publish(Listed(10)).timeout(Duration::from_secs(60));
    assert_eq!(publishing.await.unwrap().bridged, Bridged::Routed);
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "{:?}",
        begun.elapsed()
    );
    eventually("it is handled", || handled.all().contains(&10)).await;
    process("resume").await;
    let publishing = bus.publish(Paid(5)).timeout(Duration::from_secs(60));
    assert_eq!(publishing.await.unwrap().bridged, Bridged::Routed);
    eventually("it is handled", || handled.all().contains(&5)).await;
    end(&bus).await;
}
