//! What handlers publish.

use std::sync::Arc;
use std::time::Duration;

use super::accept::{Accepted, Stop};
use super::{Broker, Gate};
use crate::message::{AddressKind, SharedParcel};
use crate::ports::{BoxFuture, Draft, Offered, Outgoing, Own, Refusal};

impl Broker {
    fn offer_from(&self, draft: &mut Draft, own: Option<Own>) -> Result<Accepted, Refusal> {
        self.check_draft(draft)?;
        self.offer_shared(&draft.parcel, own)
    }

    /// Checks what a handler chose and shows it to the interceptors, at the first try only.
    fn check_draft(&self, draft: &mut Draft) -> Result<(), Refusal> {
        if !draft.checked
            && let Some(parcel) = Arc::get_mut(&mut draft.parcel)
        {
            let envelope = parcel.envelope_mut();
            self.check(envelope)?;
            self.intercept(envelope)?;
            draft.checked = true;
        }
        Ok(())
    }

    fn offer_shared(&self, parcel: &SharedParcel, own: Option<Own>) -> Result<Accepted, Refusal> {
        self.check_size(parcel)?;
        let envelope = parcel.envelope();
        loop {
            // Asked at each round: a shutdown closes queues and leaves them in their routes.
            if !self.admits(Gate::Draining) {
                return Err(Refusal::Closed);
            }
            let route = self.table.route(envelope.kind(), envelope.address());
            if route.must_wait {
                return Err(Refusal::MustWait {
                    address: envelope.address().to_owned(),
                });
            }
            if envelope.kind() == AddressKind::Queue && route.targets.is_empty() {
                return Err(Refusal::NoQueue {
                    queue: envelope.address().to_owned(),
                });
            }
            match self.accept(&route, envelope.key(), own, None, || {
                self.seal(Arc::clone(parcel))
            }) {
                Ok(accepted) => return Ok(accepted),
                Err(Stop::Stale) => std::thread::yield_now(),
                Err(Stop::Wait(place)) => {
                    return Err(Refusal::Full {
                        queue: route.targets[place].name.to_string(),
                    });
                }
                Err(Stop::Refused(_, refusal)) => return Err(refusal),
            }
        }
    }

    fn schedule_draft(
        self: &Arc<Self>,
        draft: &Draft,
        delay: Duration,
    ) -> Result<Offered, Refusal> {
        self.schedule(Arc::clone(&draft.parcel), delay)
            .map(|_| Offered::default())
            .map_err(|(refusal, _)| refusal)
    }
}

impl Outgoing for Broker {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn check(&self, draft: &mut Draft) -> Result<(), Refusal> {
        if !self.admits(Gate::Draining) {
            return Err(Refusal::Closed);
        }
        self.check_draft(draft)?;
        self.check_size(&draft.parcel)
    }

    fn offer(&self, draft: &mut Draft, own: Option<Own>) -> Result<Offered, Refusal> {
        if let Some(delay) = draft.delay {
            let Some(broker) = self.shared() else {
                return Err(Refusal::Closed);
            };
            self.check_draft(draft)?;
            self.check_size(&draft.parcel)?;
            if self.stores_delayed(draft.parcel.envelope()) {
                return Err(Refusal::MustWait {
                    address: draft.parcel.envelope().address().to_owned(),
                });
            }
            return broker.schedule_draft(draft, delay);
        }
        let accepted = self.offer_from(draft, own)?;
        Ok(Offered {
            reused_own: accepted.reused_own,
        })
    }

    fn offer_waiting<'a>(
        &'a self,
        draft: &'a mut Draft,
        own: Option<Own>,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Offered, Refusal>> {
        Box::pin(async move {
            match self.offer(draft, own) {
                Err(Refusal::Full { .. } | Refusal::MustWait { .. }) => {}
                done => return done,
            }
            let parcel = Arc::clone(&draft.parcel);
            if let Some(delay) = draft.delay {
                let delayed = self.delay_stored(&parcel, delay, patience).await;
                return delayed.map(|_| Offered::default());
            }
            self.accept_waiting(parcel, own, patience, Gate::Draining)
                .await
                .map(|accepted| Offered {
                    reused_own: accepted.reused_own,
                })
                .map_err(|(refusal, _)| refusal)
        })
    }

    fn send_request(
        &self,
        parcel: SharedParcel,
        patience: Duration,
        _from: Own,
    ) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let mut draft = Draft {
                parcel,
                delay: None,
                checked: false,
            };
            self.offer_waiting(&mut draft, None, patience)
                .await
                .map(|_| ())
        })
    }

    fn serves_alone(&self, queue: &str, from: Own) -> bool {
        let route = self.table.route(AddressKind::Queue, queue);
        route.targets.iter().any(|target| {
            target.id == from.queue
                && target.spec.order.workers() == 1
                && self.table.members(target.id) <= 1
        })
    }
}
