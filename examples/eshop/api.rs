//! The shop over HTTP, as an actix-web service would embed the bus: built before the server, shared as data.
//!
//! `POST /orders`, `GET /orders/{id}`, `PUT /products/{id}/price`, `GET /snapshot`.

use std::io;
use std::sync::Arc;

use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, ResponseError, get, post, put, rt, web,
};
use postroom::{Bus, RequestError};
use serde::Deserialize;
use serde_json::json;

use crate::input::{self, NewOrder};
use crate::messages::{CancelOrder, Cents, ChangePrice, GetOrder, Placed, PriceChange};
use crate::shop::Shop;
use crate::storefront::Storefront;

/// Serves on 127.0.0.1 until Ctrl-C or SIGTERM. Requests under way are answered; the bus stays open.
pub async fn serve(shop: &Arc<Shop>, port: u16) -> io::Result<()> {
    let bus = web::Data::new(shop.bus.clone());
    let front = web::Data::new(shop.front.clone());
    let app = move || {
        App::new()
            .app_data(bus.clone())
            .app_data(front.clone())
            .app_data(web::JsonConfig::default().error_handler(malformed))
            .app_data(web::PathConfig::default().error_handler(malformed))
            .service(place_order)
            .service(get_order)
            .service(change_price)
            .service(snapshot)
    };
    // The signals are ours: first the server stops, then the bus.
    let server = HttpServer::new(app)
        .workers(2)
        .disable_signals()
        .shutdown_timeout(5)
        .bind(("127.0.0.1", port))?;
    for address in server.addrs() {
        eprintln!("the shop is open on http://{address}, Ctrl-C closes it");
    }
    let server = server.run();
    let handle = server.handle();
    let mut serving = rt::spawn(server);
    tokio::select! {
        ended = &mut serving => return ended.map_err(io::Error::other)?,
        () = shop.bus.until_signal() => {}
    }
    handle.stop(true).await;
    serving.await.map_err(io::Error::other)?
}

#[post("/orders")]
async fn place_order(
    bus: web::Data<Bus>,
    front: web::Data<Storefront>,
    order: web::Json<NewOrder>,
) -> HttpResponse {
    if let Err(why) = input::check(&order) {
        return refusal(StatusCode::BAD_REQUEST, &why);
    }
    let command = front.check_out(&order);
    let id = command.order;
    let conversation = format!("order-{id}");
    let reply = bus.request(command).correlation(&conversation).await;
    // Without an answer in time the order may still be taken, and must not be lost.
    let maybe = matches!(
        &reply,
        Err(RequestError::Timeout { .. } | RequestError::DeadLettered { .. })
    );
    if maybe || reply == Ok(Placed::Accepted) {
        front.count();
    }
    match reply {
        Ok(Placed::Accepted) => {
            let mut answer = json!({ "order": id });
            if order.cancel {
                let cancel = CancelOrder { order: id };
                // The order is taken whatever becomes of this: its number is not kept back.
                if let Err(error) = bus.request(cancel).correlation(&conversation).await {
                    answer["not_cancelled"] = json!(error.to_string());
                }
            }
            HttpResponse::Accepted()
                .insert_header(("location", format!("/orders/{id}")))
                .json(answer)
        }
        Ok(Placed::Refused(why)) => refusal(StatusCode::CONFLICT, &why),
        Err(error) => failure(&error),
    }
}

#[get("/orders/{id}")]
async fn get_order(bus: web::Data<Bus>, id: web::Path<u64>) -> HttpResponse {
    match bus.request(GetOrder { order: *id }).await {
        Ok(Some(view)) => HttpResponse::Ok().json(view),
        Ok(None) => refusal(StatusCode::NOT_FOUND, "no such order"),
        Err(error) => failure(&error),
    }
}

#[derive(Deserialize)]
struct NewPrice {
    price: Cents,
}

#[put("/products/{id}/price")]
async fn change_price(
    bus: web::Data<Bus>,
    id: web::Path<String>,
    body: web::Json<NewPrice>,
) -> HttpResponse {
    let product = id.into_inner();
    if let Err(why) = input::check_name("a product's name", &product) {
        return refusal(StatusCode::BAD_REQUEST, &why);
    }
    let command = ChangePrice {
        product: product.clone(),
        price: body.price,
    };
    match bus.request(command).await {
        Ok(PriceChange::Changed { old, new }) => {
            HttpResponse::Ok().json(json!({ "product": product, "old": old, "new": new }))
        }
        Ok(PriceChange::Outdated) => refusal(StatusCode::CONFLICT, "a later change was made"),
        Ok(PriceChange::UnknownProduct) => refusal(StatusCode::NOT_FOUND, "no such product"),
        Err(error) => failure(&error),
    }
}

#[get("/snapshot")]
async fn snapshot(bus: web::Data<Bus>) -> HttpResponse {
    HttpResponse::Ok().json(bus.snapshot())
}

/// What actix-web itself refuses, in the same form as what the shop refuses.
fn malformed<E: ResponseError + 'static>(error: E, _request: &HttpRequest) -> actix_web::Error {
    let response = refusal(error.status_code(), &error.to_string());
    InternalError::from_response(error, response).into()
}

fn refusal(status: StatusCode, why: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({ "error": why }))
}

fn failure(error: &RequestError) -> HttpResponse {
    let status = match error {
        RequestError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        RequestError::DeadLettered { .. } => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    refusal(status, &error.to_string())
}
