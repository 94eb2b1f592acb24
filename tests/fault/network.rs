//! The fault matrix: a network that cuts, stalls, closes by halves, and is slow.

use std::sync::Arc;
use std::time::Duration;

use crate::common::load::{Load, Setup, soaks, taking};
use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::Rabbit;
use postroom::LifecycleKind;

const DEADLINE: Duration = Duration::from_secs(60);
const BOTH: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

/// A load whose two buses have a proxy each between them and the broker.
struct Line {
    load: Arc<Load>,
    publishing: Proxy,
    consuming: Proxy,
}

impl Line {
    async fn start(cell: &str) -> Self {
        let rabbit = Rabbit::shared();
        let publishing = Proxy::start(rabbit.authority());
        let consuming = Proxy::start(rabbit.authority());
        let setup = Setup {
            publish_url: rabbit.url_through(publishing.address()),
            consume_url: rabbit.url_through(consuming.address()),
            handler: taking(Duration::from_millis(1)),
            ..Setup::at(&rabbit)
        };
        Self {
            load: Load::start(cell, setup).await,
            publishing,
            consuming,
        }
    }

    fn proxies(&self) -> [&Proxy; 2] {
        [&self.publishing, &self.consuming]
    }

    fn resume(&self) {
        for proxy in self.proxies() {
            proxy.resume();
        }
    }

    async fn end(&self) {
        self.load.end().await;
        delete(&self.load).await;
    }
}

/// The shared broker is left as it was found.
async fn delete(load: &Load) {
    let queue = load.queue();
    for name in [format!("{queue}.dead"), queue] {
        crate::common::load::delete_queue(&load.setup.look_url, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut_in_mid_frame() {
    let line = Line::start("TCP cut in mid-frame").await;
    let load = &line.load;
    let flow = load.flow(20, DEADLINE);
    for round in 0..if soaks() { 10 } else { 2 } {
        for proxy in line.proxies() {
            for direction in BOTH {
                load.flows(50).await;
                let open = proxy.opened();
                proxy.cut_after(direction, 1_001 + 13 * round);
                load.until("it was cut", async || proxy.opened() > open)
                    .await;
            }
        }
    }
    load.told(LifecycleKind::Disconnected).await;
    load.healed().await;
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || {
            line.publishing.cut_after(Direction::ToServer, 501);
            line.consuming.cut_after(Direction::ToClient, 501);
        },
        async || line.resume(),
    )
    .await;
    delete(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_stall() {
    let line = Line::start("TCP stalled").await;
    let load = &line.load;
    let flow = load.flow(20, DEADLINE);
    for proxy in line.proxies() {
        for direction in BOTH {
            load.flows(50).await;
            let open = proxy.opened();
            proxy.stall(direction);
            // Noticed by the missing heartbeat, while nothing passes.
            load.until("it is tried anew", async || proxy.opened() > open)
                .await;
            proxy.resume();
            load.healed().await;
        }
    }
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || {
            for proxy in line.proxies() {
                for direction in BOTH {
                    proxy.stall(direction);
                }
            }
        },
        async || line.resume(),
    )
    .await;
    delete(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_half_closed() {
    let line = Line::start("TCP half-closed").await;
    let load = &line.load;
    let flow = load.flow(20, DEADLINE);
    for proxy in line.proxies() {
        for direction in BOTH {
            load.flows(50).await;
            let open = proxy.opened();
            proxy.half_close(direction);
            load.until("it is connected anew", async || proxy.opened() > open)
                .await;
            load.healed().await;
        }
    }
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || {
            for proxy in line.proxies() {
                proxy.half_close(Direction::ToClient);
            }
        },
        async || line.resume(),
    )
    .await;
    delete(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_slow() {
    let line = Line::start("300 ms latency").await;
    let load = &line.load;
    for proxy in line.proxies() {
        proxy.latency(Duration::from_millis(300));
    }
    let opened = line.proxies().map(Proxy::opened);
    let outcomes = load.burst(2_000, 200, DEADLINE).end().await;
    assert_eq!(outcomes.accepted, 2_000, "{outcomes:?}");
    load.healed().await;
    load.check().await;
    assert_eq!(line.proxies().map(Proxy::opened), opened, "it held");
    line.end().await;
}

/// The broker has the message, and its confirm never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirms_are_lost() {
    let line = Line::start("confirms lost").await;
    let load = &line.load;
    load.healed().await;
    line.publishing.stall(Direction::ToClient);
    // Not longer than until the missing heartbeat is noticed: then they are repeated.
    let impatient = load.burst(50, 50, Duration::from_millis(300));
    let patient = load.burst(50, 50, DEADLINE);
    let impatient = impatient.end().await;
    assert_eq!(impatient.unconfirmed, 50, "{impatient:?}");
    let queue = load.queue();
    load.until("the broker has them all", async || {
        load.oracle.verdict(&[&queue]).handled >= 100
    })
    .await;
    line.publishing.cut();
    line.resume();
    let patient = patient.end().await;
    assert_eq!(patient.accepted, 50, "{patient:?}");
    load.healed().await;
    let verdict = load.check().await;
    assert_eq!(verdict.unknown, 50);
    assert_eq!(verdict.duplicated.len(), 50, "the patient ones came twice");
    line.end().await;
}
