//! Publishes that wait for a RabbitMQ which cannot be reached, and are given up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::{Rabbit, delete_group};
use postroom::{Amqp, Bridged, Bus, Context, Event, Problem, PublishError, Receipt, Refusal};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

#[derive(Debug, Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// A bus that publishes through a proxy, and one that handles and is not disturbed.
struct Line {
    proxy: Proxy,
    publishing: Bus,
    handling: Bus,
    handled: Arc<Mutex<Vec<u32>>>,
}

impl Line {
    async fn start() -> Self {
        Self::start_with(Duration::from_secs(30)).await
    }

    async fn start_with(publish_timeout: Duration) -> Self {
        let rabbit = Rabbit::shared();
        let proxy = Proxy::start(rabbit.authority());
        let prefix = Rabbit::unique("publishing");
        let handling = Amqp::new(rabbit.url()).prefix(&prefix).import("ordering.#");
        let handling = Bus::builder(Rabbit::unique("mailing")).bridge(handling);
        let handling = handling.start().await.unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let write = Arc::clone(&handled);
        handling
            .subscribe_fn::<Paid, _>("mailer", async move |paid: &Paid, _: &mut Context<'_>| {
                write.lock().unwrap().push(paid.order);
                Ok(())
            })
            .start()
            .await
            .unwrap();
        let publishing = Amqp::new(rabbit.url_through(proxy.address()))
            .prefix(&prefix)
            .export("ordering.#")
            // lapin may wait for a server that has hung up in the middle of its greeting.
            .connect_timeout(Duration::from_secs(1));
        let publishing = Bus::builder(Rabbit::unique("ordering")).bridge(publishing);
        let publishing = publishing.publish_timeout(publish_timeout);
        let publishing = publishing.start().await.unwrap();
        let line = Self {
            proxy,
            publishing,
            handling,
            handled,
        };
        line.crosses(1).await;
        line
    }

    async fn crosses(&self, order: u32) {
        let receipt = self.publishing.publish(Paid { order }).await.unwrap();
        assert_eq!(receipt.bridged, Bridged::Routed);
        crate::common::eventually("it is handled", || {
            self.handled.lock().unwrap().contains(&order)
        })
        .await;
    }

    /// Cuts what is connected, and lets nobody connect. The publishing bus knows it then, of both connections.
    async fn goes_down(&self) {
        self.proxy.refuse();
        self.proxy.cut();
        let is_known = || {
            let health = self.publishing.health();
            let found = health.conditions().iter();
            let lost = found.filter(|found| found.problem == Problem::Disconnected);
            lost.count() == 2
        };
        crate::common::eventually("it is known", is_known).await;
    }

    async fn tries_again(&self) {
        let opened = self.proxy.opened();
        let tries = || self.proxy.opened() > opened;
        crate::common::eventually("it tries again", tries).await;
    }

    /// A publish that is written, and whose confirm is held back.
    async fn is_not_answered(
        &self,
        order: u32,
        timeout: Duration,
    ) -> JoinHandle<Result<Receipt, PublishError<Paid>>> {
        self.proxy.stall(Direction::ToClient);
        let before = self.proxy.bytes(Direction::ToServer);
        let publishing = self.publishing.clone();
        let waiting = tokio::spawn(async move {
            let publish = publishing.publish(Paid { order });
            publish.timeout(timeout).await
        });
        let is_written = || self.proxy.bytes(Direction::ToServer) > before + 100;
        crate::common::eventually("it is written", is_written).await;
        waiting
    }

    async fn end(&self) {
        delete_group(&self.handling, "mailer").await;
        crate::common::end(&self.handling).await;
    }
}

#[tokio::test]
async fn a_publish_that_is_dropped_while_it_waits_publishes_nothing() {
    let line = Line::start().await;
    line.goes_down().await;
    tokio::select! {
        biased;
        answer = line.publishing.publish(Paid { order: 2 }) => panic!("{answer:?}"),
        () = line.tries_again() => {}
    }
    line.proxy.resume();
    line.crosses(3).await;
    assert_eq!(*line.handled.lock().unwrap(), [1, 3]);
    crate::common::end(&line.publishing).await;
    line.end().await;
}

/// Before it was written, and when no confirm came.
#[tokio::test]
async fn a_publish_that_is_given_up_gives_its_message_back() {
    let line = Line::start().await;
    line.goes_down().await;
    let late = line.publishing.publish(Paid { order: 2 });
    let refused = late.timeout(Duration::from_millis(200)).await.unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unreachable { .. }),
        "{refused}"
    );
    assert_eq!(refused.into_message().unwrap().order, 2);
    line.proxy.resume();
    line.crosses(3).await;

    let waiting = line.is_not_answered(4, Duration::from_secs(3)).await;
    let refused = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unconfirmed { .. }),
        "{refused}"
    );
    assert_eq!(refused.into_message().unwrap().order, 4);
    line.proxy.resume();
    line.crosses(5).await;
    let handled = line.handled.lock().unwrap().clone();
    assert_eq!(handled, [1, 3, 4, 5], "what was written has come");
    crate::common::end(&line.publishing).await;
    line.end().await;
}

#[tokio::test]
async fn many_end_at_the_first_that_is_not_confirmed() {
    let line = Line::start_with(Duration::from_secs(2)).await;
    let orders = (2..7).map(|order| {
        if order == 4 {
            line.proxy.stall(Direction::ToClient);
        }
        Paid { order }
    });
    let ended = line.publishing.publish_all(orders).await.unwrap_err();
    let crossed = ended.receipts.iter();
    assert!(
        crossed
            .clone()
            .all(|receipt| receipt.bridged == Bridged::Routed)
    );
    assert_eq!(crossed.count(), 2);
    assert!(matches!(ended.why, Refusal::Unconfirmed { .. }), "{ended}");
    let rest: Vec<u32> = ended.rest.iter().map(|paid| paid.order).collect();
    assert_eq!(rest, [4, 5, 6]);
    // The whole rest may be published again: what was written comes twice, and nothing is missing.
    line.proxy.resume();
    line.publishing.publish_all(ended.rest).await.unwrap();
    line.crosses(7).await;
    let handled = line.handled.lock().unwrap().clone();
    assert_eq!(handled, [1, 2, 3, 4, 4, 5, 6, 7]);
    crate::common::end(&line.publishing).await;
    line.end().await;
}

#[tokio::test]
async fn a_publish_that_waits_at_the_shutdown_gets_its_message_back() {
    let line = Line::start().await;
    line.goes_down().await;
    let publishing = line.publishing.clone();
    let waiting = tokio::spawn(async move { publishing.publish(Paid { order: 2 }).await });
    line.tries_again().await;
    let begun = Instant::now();
    let deadline = Duration::from_secs(1);
    line.publishing.shutdown(deadline).await;
    assert!(
        begun.elapsed() < deadline + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!(*refused.kind(), Refusal::Closed);
    assert_eq!(refused.into_message().unwrap().order, 2);
    assert_eq!(*line.handled.lock().unwrap(), [1]);
    line.end().await;
}

/// RabbitMQ answers nothing, and the publisher is cut off with what it had written.
#[tokio::test]
async fn a_publish_without_an_answer_ends_with_its_bus() {
    let line = Line::start().await;
    let waiting = line.is_not_answered(2, Duration::from_secs(600)).await;
    line.publishing.shutdown(Duration::from_secs(1)).await;
    let refused = crate::common::soon("the publish", waiting)
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unconfirmed { .. }),
        "{refused}"
    );
    assert_eq!(refused.into_message().unwrap().order, 2);
    line.proxy.resume();
    line.end().await;
}
