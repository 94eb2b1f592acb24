//! Passwords never appear in logs, errors, `Debug` or health (contract, rule 14).

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::rabbit::Rabbit;
use postroom::{Amqp, Bus, Event, WhenDown};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid(u32);

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

const SECRET: &str = "hunter2hunter2";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_of_without_showing_it() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("debug")
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .init();
    let rabbit = Rabbit::shared();
    let url = rabbit.url_of("guest", SECRET, "/");
    let amqp = Amqp::new(&url)
        .failover(format!("amqp://me:{SECRET}@127.0.0.1:1/%2f"))
        .prefix(Rabbit::unique("secrets"))
        .export("#")
        .connect_timeout(Duration::from_secs(5));
    let mut shown = vec![format!("{amqp:?}")];

    let failing = amqp.clone().when_down(WhenDown::Fail);
    let error = Bus::builder("shop")
        .bridge(failing)
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    shown.push(format!("{error} {error:?}"));

    let bus = Bus::builder("shop").bridge(amqp).start().await.unwrap();
    let patience = Duration::from_millis(500);
    let error = bus.publish(Paid(1)).timeout(patience).await.unwrap_err();
    shown.push(format!(
        "{error} {error:?} {:?} {:?}",
        bus.health(),
        bus.snapshot()
    ));
    bus.shutdown(Duration::from_secs(5)).await;

    let unusable = Amqp::new(format!("amqp://me:{SECRET}@host:not-a-port"));
    let error = Bus::builder("shop")
        .bridge(unusable)
        .start()
        .await
        .unwrap_err();
    shown.push(format!("{error} {error:?}"));

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        logged.contains("cannot be reached"),
        "the failure is logged"
    );
    shown.push(logged);
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}
