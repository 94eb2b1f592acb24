//! What goes wrong with whole processes: services and RabbitMQ are killed one after another, and started again.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::processes::{PrivateBroker, Processes};
use crate::services::Service;

/// From one kill to the next: about what a service takes to be back. RabbitMQ takes longer, so that services are also
/// started while it is away.
const PAUSE: Duration = Duration::from_secs(1);

enum Victim {
    Service(Service),
    Broker(PrivateBroker),
}

/// All services but the storefront, and RabbitMQ if it is ours, each once, in an order of the seed's.
pub struct Chaos(Vec<Victim>);

impl Chaos {
    pub fn plan(seed: u64, broker: Option<&PrivateBroker>) -> Self {
        let services = Service::ALL.into_iter();
        let services = services.filter(|service| *service != Service::Storefront);
        let mut victims: Vec<_> = services.map(Victim::Service).collect();
        victims.extend(broker.cloned().map(Victim::Broker));
        Rng::with_seed(seed).shuffle(&mut victims);
        Self(victims)
    }

    pub fn names(&self) -> Vec<&'static str> {
        let names = self.0.iter().map(|victim| match victim {
            Victim::Service(service) => service.name(),
            Victim::Broker(_) => "RabbitMQ",
        });
        names.collect()
    }

    /// From the start to the last kill.
    pub fn takes(&self) -> Duration {
        PAUSE * u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Ends when all have been killed and started again.
    pub fn start(self, processes: Arc<Mutex<Processes>>) -> JoinHandle<Result<(), String>> {
        tokio::task::spawn_blocking(move || {
            let mut broker = None;
            let mut killed = Ok(());
            for victim in self.0 {
                std::thread::sleep(PAUSE);
                match victim {
                    Victim::Service(service) => {
                        killed = processes.lock().kill_and_restart(service);
                    }
                    Victim::Broker(ours) => {
                        broker = Some(std::thread::spawn(move || ours.kill_and_restart()));
                    }
                }
                if killed.is_err() {
                    break;
                }
            }
            let back = broker.map_or(Ok(Ok(())), std::thread::JoinHandle::join);
            back.unwrap_or_else(|_| Err("the restart of RabbitMQ panicked".to_owned()))?;
            killed.map_err(|error| format!("a service could not be killed and started: {error}"))
        })
    }
}
