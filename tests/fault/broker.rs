//! The fault matrix: a broker that closes connections, is stopped and started, or killed.

use std::time::Duration;

use crate::common::load::{Load, Setup, soaks, taking};
use crate::common::rabbit::Rabbit;
use postroom::LifecycleKind;

/// Longer than the broker is away: every publish is to be accepted in the end.
const DEADLINE: Duration = Duration::from_secs(60);

async fn private() -> Rabbit {
    tokio::task::spawn_blocking(Rabbit::start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_are_closed_again_and_again() {
    let rabbit = private().await;
    let load = Load::start("all connections closed, 20 times", Setup::at(&rabbit)).await;
    let flow = load.flow(20, DEADLINE);
    for _ in 0..20 {
        load.flows(50).await;
        rabbit.run(Rabbit::close_all_connections).await;
    }
    load.told(LifecycleKind::Disconnected).await;
    load.healed().await;
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || rabbit.run(Rabbit::close_all_connections).await,
        async || {},
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_is_stopped_and_started_twice() {
    let rabbit = private().await;
    let setup = Setup {
        handler: taking(Duration::from_millis(1)),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("stop_app and start_app, twice", setup).await;
    let mut bursts = Vec::new();
    for _ in 0..2 {
        // Of its own, so that there is something to stop however long the first restart took.
        bursts.push(load.burst(5_000, 100, DEADLINE));
        load.flows(500).await;
        rabbit.run(Rabbit::stop_app).await;
        rabbit.run(Rabbit::start_app).await;
    }
    load.healed().await;
    for burst in bursts {
        let outcomes = burst.end().await;
        assert_eq!(outcomes.accepted, 5_000, "{outcomes:?}");
    }
    load.check().await;
    load.shutdown_during(
        async || rabbit.run(Rabbit::stop_app).await,
        async || rabbit.run(Rabbit::start_app).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_killed_and_started_again() {
    let rabbit = private().await;
    let load = Load::start("broker killed (kill -9) and restarted", Setup::at(&rabbit)).await;
    let flow = load.flow(20, DEADLINE);
    for _ in 0..if soaks() { 5 } else { 1 } {
        load.flows(500).await;
        rabbit.run(Rabbit::kill).await;
        rabbit.run(Rabbit::restart).await;
        load.healed().await;
    }
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || rabbit.run(Rabbit::kill).await,
        async || rabbit.run(Rabbit::restart).await,
    )
    .await;
}
