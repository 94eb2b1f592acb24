//! Commits of transactional handlers without an answer: done or not, each message has its effect once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::inbox::{Db, duplicates, effect, effects_of, quick, trouble};
use crate::common::proxy::{Direction, Proxy};
use crate::common::store::{Placed, PrivatePostgres, World};
use crate::common::{Log, end, eventually, queue};
use postroom::{Bus, Filter, Finished, Interceptor, Postgres, Retry, Subscription};

/// Counts the attempts that have failed.
#[derive(Clone, Default)]
struct Failed(Arc<AtomicU64>);

impl Interceptor for Failed {
    fn finished(&self, attempt: Finished<'_>) {
        if attempt.error().is_some() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A handler of one or more attempts whose commits go through a proxy.
struct Distant {
    server: Arc<PrivatePostgres>,
    world: World,
    proxy: Arc<Proxy>,
    bus: Bus,
    stock: Subscription,
    attempts: Log<u32>,
    failed: Failed,
}

impl Distant {
    /// The first commit is held up in this direction.
    async fn start(direction: Direction, retry: Retry) -> Self {
        let server = PrivatePostgres::begin().await;
        let world = server.world().await;
        world.make_effects().await;
        let port = server.url.rsplit(':').next().unwrap();
        let port: u16 = port.split('/').next().unwrap().parse().unwrap();
        let proxy = Arc::new(Proxy::start(&format!("127.0.0.1:{port}")));
        let url = server
            .url
            .replace(&port.to_string(), &proxy.address().port().to_string());
        let store = Postgres::with_options(url.parse().unwrap());
        let failed = Failed::default();
        let bus = Bus::builder("shop").store(store).intercept(failed.clone());
        let bus = bus.start().await.unwrap();
        let attempts = Log::new();
        let (noted, cut) = (attempts.clone(), Arc::clone(&proxy));
        let stock = bus
            .transactional_fn::<Placed, Postgres, _>("stock", async move |placed, cx| {
                Postgres::run(cx.tx(), &effect(placed.order)).await?;
                if cx.attempt() == 1 {
                    cut.stall(direction);
                }
                noted.push(cx.attempt());
                Ok(())
            })
            .retry(retry)
            .start()
            .await
            .unwrap();
        bus.publish(Placed { order: 7 }).await.unwrap();
        Self {
            server,
            world,
            proxy,
            bus,
            stock,
            attempts,
            failed,
        }
    }

    /// The connection is lost; the next one is made, and gets no answer either.
    async fn asks_in_vain(&self) {
        let opened = self.proxy.opened();
        self.proxy.cut();
        eventually("it asks", || self.proxy.opened() > opened).await;
    }

    async fn is_handled(&self) {
        let acked = || queue(&self.bus, "stock").acked == 1;
        eventually("it is handled", acked).await;
        assert_eq!(queue(&self.bus, "stock").dead_lettered, 0);
        assert_eq!(effects_of(&self.server).await, [7]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_out_and_is_no_failure() {
    let shop = Distant::start(Direction::ToClient, quick().attempts(1)).await;
    shop.world.until_effects(1).await;
    // The answer is held back, and now lost. It was the only attempt.
    shop.proxy.cut();
    shop.proxy.resume();
    shop.is_handled().await;
    let counts = queue(&shop.bus, "stock");
    assert_eq!((counts.retried, duplicates(&shop.bus)), (0, 0));
    assert_eq!(shop.attempts.all(), [1]);
    end(&shop.bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_lost_on_its_way_is_a_failed_attempt() {
    let shop = Distant::start(Direction::ToServer, quick()).await;
    eventually("it was tried", || shop.attempts.len() == 1).await;
    shop.proxy.cut();
    shop.proxy.resume();
    shop.is_handled().await;
    let counts = queue(&shop.bus, "stock");
    assert_eq!((counts.retried, duplicates(&shop.bus)), (1, 0));
    assert_eq!(shop.attempts.all(), [1, 2]);
    end(&shop.bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_cannot_be_asked_after_is_found_out_by_the_next_attempt() {
    let shop = Distant::start(Direction::ToClient, quick()).await;
    shop.world.until_effects(1).await;
    shop.proxy.refuse();
    shop.proxy.cut();
    eventually("its health says so", || {
        trouble(&shop.bus, "stock").is_some()
    })
    .await;
    shop.proxy.resume();
    shop.is_handled().await;
    let counts = queue(&shop.bus, "stock");
    assert_eq!((counts.retried, duplicates(&shop.bus)), (1, 1));
    assert_eq!(shop.attempts.all(), [1]);
    end(&shop.bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_commit_that_cannot_be_asked_after_is_a_dead_letter_and_its_replay_a_duplicate() {
    let shop = Distant::start(Direction::ToClient, quick().attempts(1)).await;
    shop.world.until_effects(1).await;
    shop.proxy.refuse();
    shop.proxy.cut();
    let failed = || shop.failed.0.load(Ordering::SeqCst) == 1;
    eventually("its only attempt has failed", failed).await;
    // Its dead letter has its place in the same database.
    shop.proxy.resume();
    eventually("it is given up", || {
        queue(&shop.bus, "stock").dead_lettered == 1
    })
    .await;
    let replayed = shop.bus.dead_letters().replay_all(&Filter::all()).await;
    assert_eq!(replayed.unwrap().replayed, 1);
    eventually("it is known", || duplicates(&shop.bus) == 1).await;
    assert_eq!(shop.attempts.all(), [1]);
    assert_eq!(effects_of(&shop.server).await, [7]);
    end(&shop.bus).await;
}

/// What it cannot find out by then, it leaves: a message in memory ends with its process, and its effects stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_what_became_of_a_commit() {
    let shop = Distant::start(Direction::ToClient, quick()).await;
    shop.world.until_effects(1).await;
    shop.asks_in_vain().await;
    let begun = Instant::now();
    let report = shop.bus.shutdown(Duration::from_secs(1)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{report:?}");
    assert_eq!(report.abandoned.len(), 1, "{report:?}");
    shop.proxy.resume();
    assert_eq!(effects_of(&shop.server).await, [7]);
    assert_eq!(shop.attempts.all(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_found_out_though_its_subscription_is_paused() {
    let shop = Distant::start(Direction::ToClient, quick().attempts(1)).await;
    shop.world.until_effects(1).await;
    shop.asks_in_vain().await;
    shop.stock.pause();
    shop.proxy.resume();
    shop.is_handled().await;
    assert_eq!(shop.attempts.all(), [1]);
    end(&shop.bus).await;
}
