//! A bus inside an actix-web service: one bus for all of the server's workers.
//!
//! ```sh
//! cargo run --example actix_web                    # asks itself once, and stops
//! cargo run --example actix_web -- --serve 8080    # stays until Ctrl-C
//! curl localhost:8080/health/ready
//! curl -d '{"name":"Ann"}' -H 'content-type: application/json' localhost:8080/greetings
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, get, post, rt, web};
use postroom::{Bus, Command, Refusal, RequestError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Command for Greet {
    const QUEUE: &'static str = "hall.greet";
    type Reply = String;
}

#[post("/greetings")]
async fn greetings(bus: web::Data<Bus>, greet: web::Json<Greet>) -> HttpResponse {
    match bus
        .request(greet.into_inner())
        .timeout(Duration::from_secs(2))
        .await
    {
        Ok(greeting) => HttpResponse::Ok().body(greeting),
        Err(RequestError::Timeout { .. }) => HttpResponse::GatewayTimeout().finish(),
        // Shutting down, or more work than there is room for: come again later.
        Err(RequestError::Full { .. } | RequestError::Refused(Refusal::Closed)) => {
            HttpResponse::ServiceUnavailable().finish()
        }
        Err(error) => HttpResponse::BadGateway().body(error.to_string()),
    }
}

/// Whether to send requests here: not while it shuts down, or a subscription is suspended.
#[get("/health/ready")]
async fn ready(bus: web::Data<Bus>) -> HttpResponse {
    let health = bus.health();
    match health.is_ready() {
        true => HttpResponse::Ok().json(health),
        false => HttpResponse::ServiceUnavailable().json(health),
    }
}

/// Whether to let this process live.
#[get("/health/live")]
async fn live(bus: web::Data<Bus>) -> HttpResponse {
    let health = bus.health();
    match health.is_live() {
        true => HttpResponse::Ok().json(health),
        false => HttpResponse::InternalServerError().json(health),
    }
}

/// What there is to watch, as Prometheus reads it.
#[get("/metrics")]
async fn metrics(bus: web::Data<Bus>) -> HttpResponse {
    let mut text = String::new();
    for queue in bus.snapshot().queues {
        let counts = [
            ("queued", queue.queued),
            ("in_flight", queue.in_flight),
            ("waiting", queue.waiting),
            ("accepted_total", queue.accepted),
            ("acked_total", queue.acked),
            ("retried_total", queue.retried),
            ("dead_lettered_total", queue.dead_lettered),
            ("discarded_total", queue.discarded),
            ("expired_total", queue.expired),
            ("dropped_total", queue.dropped),
            ("abandoned_total", queue.abandoned),
            ("returned_total", queue.returned),
            ("refused_total", queue.refused),
            ("restarts_total", queue.restarts),
            ("stuck_total", queue.stuck),
        ];
        // A name has no control characters.
        let name = queue.name.replace('\\', "\\\\").replace('"', "\\\"");
        for (count, value) in counts {
            let _ = writeln!(text, "postroom_{count}{{queue=\"{name}\"}} {value}");
        }
    }
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body(text)
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

    // Made before the server, outside the closure that every worker of the server runs.
    let bus = Bus::builder("hall").start().await?;
    bus.handle_fn::<Greet, _>("porter", async |greet, _cx| {
        Ok(format!("Good evening, {}.", greet.name))
    })
    .start()
    .await?;

    let data = web::Data::new(bus.clone());
    let app = move || {
        let app = App::new().app_data(data.clone());
        app.service((greetings, ready, live, metrics))
    };
    let server = HttpServer::new(app)
        .workers(2)
        .disable_signals() // first the server stops, then the bus
        .shutdown_timeout(10) // the two together within what the platform grants
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
        let body = r#"{"name":"Ann"}"#;
        let answer = web::block(move || ask(address, "POST /greetings", body)).await??;
        println!("{answer}");
        assert!(answer.starts_with("HTTP/1.1 200 OK"));
        assert!(answer.ends_with("Good evening, Ann."));
        for probe in ["GET /health/ready", "GET /health/live"] {
            let answer = web::block(move || ask(address, probe, "")).await??;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
        let answer = web::block(move || ask(address, "GET /metrics", "")).await??;
        assert!(
            answer.contains("postroom_acked_total{queue=\"porter\"} 1\n"),
            "{answer}"
        );
    }

    handle.stop(true).await; // answers the requests under way
    serving.await??;
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    Ok(())
}

/// What curl would do.
fn ask(address: SocketAddr, what: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
