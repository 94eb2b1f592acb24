//! Two services that hear each other over RabbitMQ. What makes them so is the configuration of their bridges.
//!
//! ```sh
//! eval "$(scripts/rabbitmq start)"     # a private one, or: export AMQP_URL=amqp://guest:guest@localhost:5672/%2f
//! cargo run --features amqp --example bridge                # both services in one process
//! cargo run --features amqp --example bridge -- mailing     # each as a process of its own: this one until Ctrl-C,
//! cargo run --features amqp --example bridge -- shop        # and this one beside it
//! ```

#![allow(missing_docs, clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use postroom::{Amqp, BridgeError, Bridged, Bus, Context, Event, WhenDown};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct OrderPaid {
    order: u32,
}

impl Event for OrderPaid {
    const TOPIC: &'static str = "shop.order-paid";
}

#[derive(Serialize, Deserialize)]
struct ReceiptSent {
    order: u32,
}

impl Event for ReceiptSent {
    const TOPIC: &'static str = "mailing.receipt-sent";
}

/// Services of one prefix hear each other. By default a bus starts while RabbitMQ is down, and keeps trying.
fn rabbitmq() -> Result<Amqp, BridgeError> {
    let amqp = Amqp::from_env()?.prefix("bridge-example");
    Ok(amqp.when_down(WhenDown::Fail))
}

async fn mailing() -> Result<Bus, Box<dyn Error>> {
    let amqp = rabbitmq()?.import("shop.#").export("mailing.#");
    let bus = Bus::builder("mailing").bridge(amqp).start().await?;
    // As in one process. Its queue is `mailing.mailer`: what it holds survives this process and RabbitMQ's.
    bus.subscribe_fn::<OrderPaid, _>("mailer", async |paid, cx| {
        println!(
            "mailing: order {} is paid, attempt {}",
            paid.order,
            cx.attempt()
        );
        // Confirmed by RabbitMQ before the order is acknowledged. After a crash in between both come again.
        cx.publish(ReceiptSent { order: paid.order });
        Ok(())
    })
    .start()
    .await?;
    Ok(bus)
}

async fn shop() -> Result<(), Box<dyn Error>> {
    let amqp = rabbitmq()?.export("shop.#").import("mailing.#");
    let bus = Bus::builder("shop").bridge(amqp).start().await?;
    let (archive, mut archived) = tokio::sync::mpsc::channel(8);
    let keep = async move |sent: &ReceiptSent, _: &mut Context<'_>| {
        archive.send(sent.order).await?;
        Ok(())
    };
    bus.subscribe_fn::<ReceiptSent, _>("archive", keep)
        .start()
        .await?;

    // An order of this run: what one before left in the queue comes too.
    let order = std::process::id();
    let receipt = bus.publish(OrderPaid { order }).await?;
    if receipt.bridged == Bridged::Unrouted {
        return Err(
            "nobody is bound to `shop.order-paid`: `mailing` has never been started".into(),
        );
    }
    let answered = async { while archived.recv().await.is_some_and(|sent| sent != order) {} };
    tokio::time::timeout(Duration::from_secs(30), answered)
        .await
        .map_err(|_| "no receipt: `mailing` does not run; its queue keeps the order")?;
    println!("shop: the receipt for order {order} is sent");
    close(&bus).await
}

async fn close(bus: &Bus) -> Result<(), Box<dyn Error>> {
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "nothing was left behind: {report:?}");
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        None => {
            let mailing = mailing().await?;
            shop().await?;
            close(&mailing).await
        }
        Some("shop") => shop().await,
        Some("mailing") => {
            let mailing = mailing().await?;
            println!("mailing: Ctrl-C ends it");
            mailing.until_signal().await;
            close(&mailing).await
        }
        Some(other) => Err(format!("`{other}` is neither `shop` nor `mailing`").into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
