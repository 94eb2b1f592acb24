//! The services on a bus: all of them, or the one that is a process of its own.

use std::error::Error;
use std::time::Duration;

use postroom::{Bus, Snapshot, Threads};

use crate::basket::{self, Baskets};
use crate::catalog::{self, Catalog};
use crate::input::Product;
use crate::messages::Cents;
use crate::notifications::{self, Told};
use crate::ordering::{self, Orders, Pace};
use crate::payment::{self, Charges};
use crate::policy::{self, MAILBOX, TIMEOUT};
use crate::sabotage::{self, Copies, Faults};
use crate::services::{Deployment, Service};
use crate::stopwatch::Stopwatch;
use crate::storefront::{self, Storefront};
use crate::webhooks::{self, Posts};

/// How the shop is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub faults: f64,
    pub seed: u64,
    pub pace: Pace,
    pub limit: Cents,
}

/// The bus, and each service's data as the report reads it when all is over.
pub struct Shop {
    pub bus: Bus,
    pub front: Storefront,
    pub orders: Orders,
    pub catalog: Catalog,
    pub charges: Charges,
    pub baskets: Baskets,
    pub told: Told,
    pub posts: Posts,
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
        // What another process knows is not known here.
        let journals = |service| deployment.journals_of(service);
        let stock = match deployment.runs(Service::Catalog) {
            true => products,
            false => &[],
        };
        let shop = Self {
            orders: Orders::open(&journals(Service::Ordering))?,
            catalog: Catalog::open(&journals(Service::Catalog), stock)?,
            charges: Charges::open(&journals(Service::Payment))?,
            baskets: Baskets::open(&journals(Service::Basket))?,
            told: Told::open(&journals(Service::Notifications))?,
            posts: Posts::open(&journals(Service::Webhooks))?,
            front: Storefront::new(products),
            copies: Copies::default(),
            bus: builder.start().await?,
            faults,
            stopwatch,
        };
        for service in &deployment.services {
            shop.start(*service, settings).await?;
        }
        Ok(shop)
    }

    async fn start(&self, service: Service, settings: &Settings) -> Result<(), Box<dyn Error>> {
        let bus = &self.bus;
        match service {
            Service::Ordering => {
                ordering::start(bus, &self.orders, settings.pace).await?;
                ordering::resume(bus, &self.orders, settings.pace).await?;
            }
            Service::Catalog => drop(catalog::start(bus, &self.catalog).await?),
            Service::Payment => drop(payment::start(bus, &self.charges, settings.limit).await?),
            Service::Basket => drop(basket::start(bus, &self.baskets).await?),
            Service::Notifications => drop(notifications::start(bus, &self.told).await?),
            Service::Webhooks => drop(webhooks::start(bus, &self.posts).await?),
            Service::Storefront => {
                storefront::start(bus, &self.front).await?;
                sabotage::start_copier(bus, &self.copies).await?;
            }
        }
        Ok(())
    }

    /// Messages that still have somewhere to go: queued, in flight, waiting for a retry, or scheduled.
    pub fn load(&self) -> u64 {
        load(&self.bus.snapshot())
    }

    pub async fn close(&self) -> bool {
        let report = self.bus.shutdown(Duration::from_secs(5)).await;
        report.clean
    }
}

/// See [`Shop::load`].
pub fn load(snapshot: &Snapshot) -> u64 {
    let queues = snapshot.queues.iter();
    let moving = queues.map(|queue| queue.queued + queue.in_flight + queue.waiting);
    moving.sum::<u64>() + snapshot.scheduled
}
