//! The fault matrix: retry copies and dead letters on their way when connections are cut.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::load::{Load, Numbered, Setup, delete_queue, drained, soaks};
use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::Rabbit;
use postroom::{Failure, Retry};

const DEADLINE: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
/// The most deliveries that one consumer holds: the default.
const PREFETCH: usize = 256;

/// What becomes of a message.
fn fails(id: u64, attempt: u32) -> bool {
    match id % 4 {
        0 => true,
        1 => attempt == 1,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_on_their_way_when_connections_are_cut() {
    let rabbit = Rabbit::shared();
    let proxy = Proxy::start(rabbit.authority());
    let starts: Arc<Mutex<BTreeMap<u64, Vec<u32>>>> = Arc::default();
    let started = Arc::clone(&starts);
    let setup = Setup {
        consume_url: rabbit.url_through(proxy.address()),
        retry: Retry::fixed(Duration::from_millis(200)).attempts(ATTEMPTS),
        handler: Arc::new(move |id, attempt| {
            started.lock().unwrap().entry(id).or_default().push(attempt);
            Box::pin(async move {
                if fails(id, attempt) {
                    return Err(Failure::retry("as asked"));
                }
                Ok(())
            })
        }),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("retry copies and dead letters during cuts", setup).await;
    let (queue, dead) = (load.queue(), format!("{}.dead", load.queue()));
    let flow = load.flow(10, DEADLINE);
    let cuts = if soaks() { 20 } else { 6 };
    for cut in 0..cuts {
        load.flows(100).await;
        let open = proxy.opened();
        match cut % 3 {
            0 => proxy.cut(),
            1 => proxy.cut_after(Direction::ToServer, 777),
            _ => proxy.cut_after(Direction::ToClient, 777),
        }
        load.until("it was cut", async || proxy.opened() > open)
            .await;
    }
    flow.end().await;
    // A new message that needs no retry flows.
    let id = load.next_id_where(|id| id % 4 == 2);
    let padding = String::new();
    load.publish_message(Numbered { id, padding }, DEADLINE)
        .await;
    let mut letters: BTreeMap<u64, u32> = BTreeMap::new();
    load.until("all are handled or dead letters", async || {
        for letter in drained::<Numbered>(rabbit.url(), &dead).await {
            load.oracle.handle(&queue, letter.id);
            *letters.entry(letter.id).or_default() += 1;
        }
        load.oracle.complete(&[&queue])
    })
    .await;
    let verdict = load.check().await;
    // A cut may lose the settlements of what was delivered by then, which the prefetch bounds.
    assert!(verdict.duplicated.len() <= cuts * PREFETCH, "{verdict}");
    for id in letters.keys() {
        assert_eq!(id % 4, 0, "{id} is a dead letter");
    }
    for (id, starts) in &*starts.lock().unwrap() {
        assert!(
            starts.iter().all(|attempt| *attempt <= ATTEMPTS),
            "{id}: {starts:?}"
        );
        if !fails(*id, 1) {
            assert!(
                starts.iter().all(|attempt| *attempt == 1),
                "{id}: {starts:?}"
            );
        }
        if id % 4 == 0 && letters.contains_key(id) {
            assert!(starts.contains(&ATTEMPTS), "{id}: {starts:?}");
        }
    }
    // A cut hits at most what a consumer holds. Of each of these RabbitMQ may have the copy without our knowing: then the
    // copy is published again, and the original, not settled, is handed out again. Each of the three goes on, and may be hit
    // by the next cut: of one message there is no bound but this one of all.
    let starts = starts.lock().unwrap().clone();
    let needed = |id: &u64| match (fails(*id, 1), fails(*id, 2)) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => ATTEMPTS as usize,
    };
    let all: usize = starts.values().map(Vec::len).sum();
    let repeated = all - starts.keys().map(needed).sum::<usize>();
    let most = cuts * 2 * PREFETCH * ATTEMPTS as usize;
    assert!(repeated <= most, "{repeated} starts are repeated");
    load.end().await;
    delete_queue(rabbit.url(), &queue).await;
    delete_queue(rabbit.url(), &dead).await;
}
