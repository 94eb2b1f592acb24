//! What a bus does can be done in a spawned task: its futures are `Send`. That this compiles is most of the test.

use std::time::Duration;

use postroom::{Bus, Command, Context, Event, Filter};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Noted(u64);
impl Event for Noted {
    const TOPIC: &'static str = "spawned.noted";
}

#[derive(Debug, Serialize, Deserialize)]
struct Double(u64);
impl Command for Double {
    const QUEUE: &'static str = "spawned.double";
    type Reply = u64;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_life_of_a_bus_in_a_spawned_task() {
    let life = tokio::spawn(async {
        let bus = Bus::builder("spawned").start().await.unwrap();
        let double = async |double: &Double, _: &mut Context<'_>| Ok(double.0 * 2);
        let doubles = bus.handle_fn::<Double, _>("doubles", double);
        let doubles = doubles.start().await.unwrap();
        bus.publish(Noted(1)).await.unwrap();
        bus.publish(Noted(2))
            .delay(Duration::from_secs(60))
            .await
            .unwrap();
        let patience = Duration::from_secs(20);
        let reply = bus.request(Double(21)).timeout(patience).await.unwrap();
        let letters = bus.dead_letters();
        let none = letters.replay_all(&Filter::all()).await.unwrap();
        assert_eq!((none.replayed, none.refused.len()), (0, 0));
        doubles.stop(Duration::from_secs(5)).await;
        bus.shutdown(Duration::from_secs(5)).await;
        reply
    });
    assert_eq!(life.await.unwrap(), 42);
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_with_a_store_in_a_spawned_task() {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

    let file = std::env::temp_dir().join(format!("postroom-spawned-{:x}.db", fastrand::u64(..)));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let life = tokio::spawn(async move {
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let bus = Bus::builder("spawned").store(postroom::Sqlite::new(&pool));
        let bus = bus.start().await.unwrap();
        let outbox = bus.outbox().unwrap();
        let mut tx = pool.begin().await.unwrap();
        bus.publish(Noted(1)).in_transaction(&mut tx).await.unwrap();
        outbox.commit(tx).await.unwrap();
        outbox.start_relay();
        let dead = outbox.dead(10).await.unwrap().len();
        assert!(!outbox.replay("none").await.unwrap());
        assert!(!outbox.discard("none").await.unwrap());
        bus.shutdown(Duration::from_secs(5)).await;
        pool.close().await;
        dead
    });
    assert_eq!(life.await.unwrap(), 0);
    std::fs::remove_file(&file).unwrap();
}
