//! An order is placed over HTTP: one handler, one transaction, one event. The row and the event are there both, or
//! neither.
//!
//! ```sh
//! cargo run --features sqlite --example order_placement                    # asks itself some, and stops
//! cargo run --features sqlite --example order_placement -- --serve 8080    # stays until Ctrl-C
//! curl -i -d '{"number":1,"product":"ferris-mug"}' -H 'content-type: application/json' localhost:8080/orders
//! ```
//!
//! The file `orders.db` is made in a directory of its own; nothing is to be installed.

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use actix_web::error::ErrorInternalServerError;
use actix_web::{App, HttpResponse, HttpServer, post, rt, web};
use postroom::{Bus, Context, Event, Sqlite};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    number: i64,
    product: String,
}

impl Event for OrderPlaced {
    const TOPIC: &'static str = "ordering.order-placed";
}

#[derive(Deserialize)]
struct NewOrder {
    number: i64,
    product: String,
}

#[post("/orders")]
async fn place_order(
    bus: web::Data<Bus>,
    pool: web::Data<SqlitePool>,
    order: web::Json<NewOrder>,
) -> actix_web::Result<HttpResponse> {
    let NewOrder { number, product } = order.into_inner();
    // Whatever returns early from here on drops the transaction, and with it both the row and the event.
    let tx = pool.begin_with("BEGIN IMMEDIATE").await;
    let mut tx = tx.map_err(ErrorInternalServerError)?;
    let insert = sqlx::query("INSERT INTO orders (number, product) VALUES ($1, $2)");
    match insert.bind(number).bind(&product).execute(&mut *tx).await {
        Ok(_) => {}
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Ok(HttpResponse::Conflict().body(format!("order {number} is there already")));
        }
        Err(error) => return Err(ErrorInternalServerError(error)),
    }
    let placed = bus.publish(OrderPlaced { number, product }).key(number);
    placed
        .in_transaction(&mut tx)
        .await
        .map_err(|error| ErrorInternalServerError(error.to_string()))?;
    let outbox = bus
        .outbox()
        .ok_or_else(|| ErrorInternalServerError("no store"))?;
    // Or `tx.commit()`: the relay finds the row some milliseconds later.
    outbox.commit(tx).await.map_err(ErrorInternalServerError)?;
    Ok(HttpResponse::Created().body(format!("order {number} is placed")))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = match arguments.next().as_deref() {
        None => None,
        Some("--serve") => Some(
            arguments
                .next()
                .ok_or("--serve needs a port")?
                .parse::<u16>()?,
        ),
        Some(other) => return Err(format!("unknown argument `{other}`; try --serve PORT").into()),
    };

    let directory = Directory::make()?;
    let options = SqliteConnectOptions::new()
        .filename(directory.0.join("orders.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(5));
    let pool = SqlitePool::connect_with(options).await?;
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, product TEXT NOT NULL)")
        .execute(&pool)
        .await?;

    let bus = Bus::builder("ordering")
        .store(Sqlite::new(&pool))
        .start()
        .await?;
    let (packed, mut packing) = mpsc::unbounded_channel();
    bus.subscribe_fn::<OrderPlaced, _>(
        "warehouse",
        async move |placed: &OrderPlaced, _: &mut Context<'_>| {
            println!("order {}: {} is packed", placed.number, placed.product);
            // Who listens may have stopped.
            let _ = packed.send(placed.number);
            Ok(())
        },
    )
    .start()
    .await?;
    // Now that all subscribers are there.
    bus.outbox().ok_or("no store")?.start_relay();

    let (data, shared_pool) = (web::Data::new(bus.clone()), web::Data::new(pool.clone()));
    let app = move || {
        let app = App::new().app_data(data.clone());
        app.app_data(shared_pool.clone()).service(place_order)
    };
    let server = HttpServer::new(app)
        .workers(2)
        .disable_signals() // first the server stops, then the bus
        .bind(("127.0.0.1", port.unwrap_or(0)))?;
    let address = *server.addrs().first().ok_or("the server has no address")?;
    let server = server.run();
    let handle = server.handle();
    let mut serving = rt::spawn(server);
    println!("listening on http://{address}");

    if port.is_some() {
        tokio::select! {
            ended = &mut serving => return Ok(ended??), // by itself: a program without it is of no use
            () = bus.until_signal() => {}
        }
    } else {
        for (number, status) in [(1, 201), (2, 201), (1, 409), (3, 201)] {
            let body = format!(r#"{{"number":{number},"product":"ferris-mug"}}"#);
            let answer = web::block(move || ask(address, &body)).await??;
            println!("{}", answer.lines().next().unwrap_or_default());
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
        let mut numbers = Vec::new();
        while numbers.len() < 3 {
            let next = tokio::time::timeout(Duration::from_secs(10), packing.recv());
            numbers.push(next.await?.ok_or("the warehouse is gone")?);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3], "each that was placed, and once");
    }

    handle.stop(true).await; // answers the requests under way
    serving.await??;
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    pool.close().await;
    Ok(())
}

/// Removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let name = format!("postroom-order-placement-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What curl would do.
fn ask(address: SocketAddr, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
