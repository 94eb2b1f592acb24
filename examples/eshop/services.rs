//! Which services there are, and which of them one process runs.

use clap::ValueEnum;

use crate::place::Place;

/// A service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    Ordering,
    Catalog,
    Payment,
    Basket,
    Notifications,
    Webhooks,
    /// Places the orders, when the others are there, and reports
    Storefront,
}

impl Service {
    pub const ALL: [Self; 7] = [
        Self::Ordering,
        Self::Catalog,
        Self::Payment,
        Self::Basket,
        Self::Notifications,
        Self::Webhooks,
        Self::Storefront,
    ];

    #[cfg(any(feature = "amqp", feature = "postgres"))]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordering => "ordering",
            Self::Catalog => "catalog",
            Self::Payment => "payment",
            Self::Basket => "basket",
            Self::Notifications => "notifications",
            Self::Webhooks => "webhooks",
            Self::Storefront => "storefront",
        }
    }
}

/// What one process is: the configuration that makes services of a monolith. No handler knows of it.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The name of its bus, and the first half of its queues' names on RabbitMQ.
    pub name: &'static str,
    pub services: Vec<Service>,
    /// Where its database is.
    pub place: Place,
    #[cfg(feature = "amqp")]
    pub bridge: Option<postroom::Amqp>,
}

impl Deployment {
    /// All services on one bus, nothing crosses.
    pub fn monolith(place: Place) -> Self {
        Self {
            name: "eshop",
            services: Service::ALL.to_vec(),
            place,
            #[cfg(feature = "amqp")]
            bridge: None,
        }
    }

    /// One service; what it says and hears crosses.
    #[cfg(feature = "amqp")]
    pub fn of(service: Service, amqp: postroom::Amqp, place: Place) -> Self {
        Self {
            name: service.name(),
            services: vec![service],
            place,
            bridge: Some(crossing(service, amqp)),
        }
    }
}

/// What crosses between a service and the others.
#[cfg(feature = "amqp")]
fn crossing(service: Service, amqp: postroom::Amqp) -> postroom::Amqp {
    let amqp = match service {
        Service::Ordering => amqp
            .export("ordering.#")
            .import("catalog.stock-confirmed")
            .import("catalog.stock-rejected")
            .import("payment.#")
            .import_commands("ordering.#"),
        Service::Catalog => amqp
            .export("catalog.#")
            .import("ordering.#")
            .import_commands("catalog.#"),
        Service::Payment => amqp.export("payment.#").import("ordering.#"),
        Service::Basket => amqp
            .import("ordering.#")
            .import("catalog.#")
            .import_commands("basket.#"),
        Service::Notifications => amqp.import("ordering.#"),
        Service::Webhooks => amqp.import("ordering.#").import("catalog.#"),
        // The saboteur's copies of `order-paid` are exported too.
        Service::Storefront => amqp
            .export("ordering.#")
            .import("ordering.#")
            .import("catalog.#")
            .export_commands("ordering.#")
            .export_commands("catalog.#")
            .export_commands("basket.#")
            .export_commands("operator.#"),
    };
    amqp.import_commands(format!("operator.{}", service.name()))
}
