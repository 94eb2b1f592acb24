//! The services on a bus: all of them, or the one that is a process of its own.

use std::error::Error;
use std::time::Duration;

use postroom::{Bus, Durable, Relay, Snapshot, Sqlite, Threads};

use crate::catalog::Repeated;
use crate::database::{DataError, Database, Shelf};
use crate::input::Product;
use crate::messages::Cents;
use crate::ordering::{Misplaced, Pace};
use crate::policy::{self, MAILBOX, TIMEOUT};
use crate::sabotage::{self, Copies, Faults};
use crate::services::{Deployment, Service};
use crate::stopwatch::Stopwatch;
use crate::storefront::{self, Storefront};
use crate::{basket, catalog, notifications, ordering, payment, webhooks};

/// How the shop is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub faults: f64,
    pub seed: u64,
    pub pace: Pace,
    pub limit: Cents,
    /// The queues are in the database too.
    pub durable: bool,
}

/// The bus and its database, and what is only counted.
pub struct Shop {
    pub bus: Bus,
    pub database: Database,
    pub front: Storefront,
    pub misplaced: Misplaced,
    pub repeated: Repeated,
    pub copies: Copies,
    pub faults: Faults,
    pub stopwatch: Stopwatch,
}

/// Enough for every message of a run: nothing given up may be evicted before it is replayed.
const KEPT: usize = 10_000_000;

impl Shop {
    pub async fn open(
        deployment: Deployment,
        settings: &Settings,
        products: &[Product],
    ) -> Result<Self, Box<dyn Error>> {
        let faults = Faults::new(settings.faults, settings.seed);
        let stopwatch = Stopwatch::new();
        let builder = Bus::builder(deployment.name)
            .threads(Threads::Own(2))
            .mailbox(MAILBOX)
            .retry(policy::retry())
            .handler_timeout(TIMEOUT)
            .dead_letter_capacity(KEPT)
            .schedule_capacity(KEPT)
            .intercept(stopwatch.clone())
            .intercept(faults.clone());
        #[cfg(feature = "amqp")]
        let builder = match &deployment.bridge {
            Some(amqp) => builder.bridge(amqp.clone()),
            None => builder,
        };
        let database = Database::open(&deployment.place, deployment.name).await?;
        if deployment.services.contains(&Service::Catalog) {
            catalog::stock_up(&database, products).await?;
        }
        let builder = database.store_of(builder).relay(relay());
        let builder = match settings.durable {
            true => builder
                .durable_queues()
                .durable_settings(Durable::new().lease(LEASE)),
            false => builder,
        };
        let shop = Self {
            front: Storefront::new(products),
            misplaced: Misplaced::default(),
            repeated: Repeated::default(),
            copies: Copies::default(),
            bus: builder.start().await?,
            database,
            faults,
            stopwatch,
        };
        match shop.database {
            Database::Sqlite(_) => shop.start_all::<Sqlite>(&deployment, settings).await?,
            #[cfg(feature = "postgres")]
            Database::Postgres(..) => {
                let services = &deployment;
                shop.start_all::<postroom::Postgres>(services, settings)
                    .await?;
            }
        }
        // All who receive are there: what was written before a crash is sent.
        shop.bus.outbox().ok_or("no store")?.start_relay();
        Ok(shop)
    }

    async fn start_all<S: Shelf>(
        &self,
        deployment: &Deployment,
        settings: &Settings,
    ) -> Result<(), Box<dyn Error>> {
        for service in &deployment.services {
            self.start::<S>(*service, settings).await?;
        }
        Ok(())
    }

    async fn start<S: Shelf>(
        &self,
        service: Service,
        settings: &Settings,
    ) -> Result<(), Box<dyn Error>> {
        let (bus, database) = (&self.bus, &self.database);
        match service {
            Service::Ordering => {
                let pace = settings.pace;
                ordering::start::<S>(bus, database, &self.misplaced, pace).await?;
            }
            Service::Catalog => drop(catalog::start::<S>(bus, &self.repeated).await?),
            Service::Payment => drop(payment::start::<S>(bus, settings.limit).await?),
            Service::Basket => drop(basket::start::<S>(bus).await?),
            Service::Notifications => drop(notifications::start::<S>(bus).await?),
            Service::Webhooks => drop(webhooks::start(bus, database).await?),
            Service::Storefront => {
                storefront::start(bus, &self.front).await?;
                sabotage::start_copier(bus, &self.copies).await?;
            }
        }
        Ok(())
    }

    /// Messages that still have somewhere to go: in the outbox, queued, in flight, waiting for a retry, or scheduled.
    pub async fn load(&self) -> Result<u64, DataError> {
        let (outbox, _) = self.database.outbox().await?;
        Ok(outbox + load(&self.bus.snapshot()))
    }

    pub async fn close(&self) -> bool {
        let report = self.bus.shutdown(Duration::from_secs(5)).await;
        self.database.close().await;
        report.clean
    }
}

/// How long what a killed process had in hand is waited for.
const LEASE: Duration = Duration::from_secs(1);

fn relay() -> Relay {
    Relay::new().lease(LEASE)
}

/// See [`Shop::load`]; without the outbox.
pub fn load(snapshot: &Snapshot) -> u64 {
    let queues = snapshot.queues.iter();
    let moving = queues.map(|queue| queue.queued + queue.in_flight + queue.waiting);
    let rows = snapshot.durable.as_ref().map_or(0, |durable| durable.rows);
    moving.sum::<u64>() + rows + snapshot.scheduled
}
