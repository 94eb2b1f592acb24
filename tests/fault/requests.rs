//! The fault matrix: a requester whose way back is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::load::{HEALING, end_in_time, record};
use crate::common::proxy::Proxy;
use crate::common::rabbit::Rabbit;
use crate::common::{Door, Oracle, eventually};
use postroom::{Amqp, Bus, Command, Refusal, RequestError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

#[derive(Serialize, Deserialize)]
struct Charge {
    id: u64,
}

impl Command for Charge {
    const QUEUE: &'static str = "payment.charge";
    type Reply = u64;
}

/// Far shorter than a request's timeout.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requester_whose_reply_connection_goes_is_told_promptly() {
    let begun = Instant::now();
    let rabbit = Rabbit::shared();
    let prefix = Rabbit::unique("load");
    let proxy = Proxy::start(rabbit.authority());
    let bridge = |url: &str| {
        Amqp::new(url)
            .prefix(&prefix)
            .heartbeat(Duration::from_secs(1))
    };
    let (oracle, door) = (Oracle::default(), Door::closed());
    let service = Rabbit::unique("sink");
    let payment = Bus::builder(&service)
        .bridge(bridge(rabbit.url()).import_commands("payment.#"))
        .start()
        .await
        .unwrap();
    let (known, behind) = (oracle.clone(), door.clone());
    let charge = payment
        .handle_fn::<Charge, _>("charge", async move |charge: &Charge, _| {
            behind.pass().await;
            known.handle("charge", charge.id);
            Ok(charge.id + 1)
        })
        .workers(20)
        .start()
        .await
        .unwrap();
    let shop = Bus::builder(Rabbit::unique("source"))
        .bridge(bridge(&rabbit.url_through(proxy.address())).export_commands("payment.#"))
        .start()
        .await
        .unwrap();
    let shop = Arc::new(shop);
    let request = async |id: u64| -> Result<u64, RequestError> {
        shop.request(Charge { id }).timeout(HEALING).await
    };
    // Until the queue is there, and after a cut until replies can come, a request is refused at once.
    let asked = async |ids: &mut dyn Iterator<Item = u64>| {
        let end = Instant::now() + HEALING;
        for id in ids {
            oracle.attempt(id);
            match request(id).await {
                Ok(reply) => {
                    assert_eq!(reply, id + 1);
                    oracle.accept(id);
                    return;
                }
                Err(RequestError::Refused(Refusal::Unconfirmed { .. })) => oracle.unknown(id),
                Err(RequestError::NoQueue { .. } | RequestError::Refused(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(Instant::now() < end, "no request is answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    door.let_through(1);
    asked(&mut (0..100_000)).await;

    let mut waiting = JoinSet::new();
    for id in 100_000..100_020 {
        oracle.attempt(id);
        oracle.unknown(id);
        let shop = Arc::clone(&shop);
        waiting.spawn(async move { shop.request(Charge { id }).timeout(HEALING).await });
    }
    eventually("all are being handled", || {
        charge.snapshot().in_flight == 20
    })
    .await;
    let cut = Instant::now();
    proxy.cut();
    for answer in waiting.join_all().await {
        assert!(
            matches!(answer, Err(RequestError::ReplyPathLost { .. })),
            "{answer:?}"
        );
    }
    assert!(cut.elapsed() < PROMPT, "{:?}", cut.elapsed());
    door.open();
    eventually("they are handled all the same", || {
        charge.snapshot().acked >= 21
    })
    .await;
    asked(&mut (200_000..300_000)).await;
    let cell = "reply connection cut under 20 requests";
    let verdict = oracle.check_at_least_once(cell, &["charge"]);
    record(cell, &verdict, begun.elapsed());
    end_in_time(cell, &shop, Duration::from_secs(5)).await;
    end_in_time(cell, &payment, Duration::from_secs(5)).await;
    let queue = format!("{service}.charge");
    crate::common::load::delete_queue(rabbit.url(), &queue).await;
    crate::common::load::delete_queue(rabbit.url(), &format!("{queue}.dead")).await;
}
