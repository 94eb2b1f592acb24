use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::accept::{Accepted, Stop, reserve};
use super::{Broker, Gate, Route, StoredReceipt};
use crate::mailbox::Acquire;
use crate::message::{
    AddressKind, Envelope, RawMessage, SharedParcel, encoded, validate_header, validate_key,
    validate_queue, validate_topic,
};
use crate::ports::{
    BoxFuture, Bridged, Deadline, Draft, Offered, Outbound, Outgoing, Own, Refusal,
};
use crate::queue::QueueCore;

/// One message that waits to be accepted.
struct Waiting {
    own: Option<Own>,
    patience: Duration,
    begun: Instant,
    deadline: Deadline,
    from: Gate,
    /// It was accepted once before, and is not shown to interceptors again.
    is_replay: bool,
}

impl Waiting {
    fn left(&self, broker: &Broker) -> Duration {
        let used = broker
            .services
            .timers
            .now()
            .saturating_duration_since(self.begun);
        self.patience.saturating_sub(used)
    }
}

impl Broker {
    /// Whether what a publisher chose can be sent at all. Run only for what is not a known constant.
    pub(crate) fn check(&self, envelope: &Envelope) -> Result<(), Refusal> {
        match envelope.kind() {
            AddressKind::Topic => validate_topic(envelope.address())?,
            AddressKind::Queue => validate_queue(envelope.address())?,
        }
        if let Some(key) = envelope.key() {
            validate_key(key)?;
        }
        for (name, _) in envelope.headers() {
            validate_header(name)?;
        }
        Ok(())
    }

    /// Lets the interceptors see a message. A panic in one refuses the message.
    pub(crate) fn intercept(&self, envelope: &mut Envelope) -> Result<(), Refusal> {
        for interceptor in self.services.interceptors.iter() {
            let seen = catch_unwind(AssertUnwindSafe(|| {
                interceptor.publish(&mut Outbound {
                    envelope: &mut *envelope,
                })
            }));
            match seen {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => return Err(Refusal::Intercepted(refused.0)),
                Err(_) => return Err(Refusal::Intercepted("an interceptor panicked".to_owned())),
            }
        }
        if !self.services.interceptors.is_empty() {
            // They may have added some.
            for (name, _) in envelope.headers() {
                validate_header(name)?;
            }
        }
        Ok(())
    }

    /// The last step before a message is shared: nothing can refuse it any more.
    pub(crate) fn seal(&self, parcel: SharedParcel) -> SharedParcel {
        let parcel = self.encoded(parcel);
        for interceptor in self.services.interceptors.iter() {
            let told = catch_unwind(AssertUnwindSafe(|| {
                interceptor.accepted(RawMessage::of(&parcel));
            }));
            if told.is_err() {
                tracing::error!(id = %parcel.envelope().id, "an interceptor panicked in `accepted`");
            }
        }
        parcel
    }

    /// With `encode_always`, only the bytes of a message go on.
    pub(super) fn encoded(&self, parcel: SharedParcel) -> SharedParcel {
        if self.limits.encode_always {
            encoded(parcel)
        } else {
            parcel
        }
    }

    /// Waits for room in all queues of an address, and for the confirm of what leaves the process, up to
    /// `patience` together, and accepts.
    pub(crate) async fn accept_waiting(
        &self,
        parcel: SharedParcel,
        own: Option<Own>,
        patience: Duration,
        from: Gate,
    ) -> Result<Accepted, (Refusal, SharedParcel)> {
        let mut wait = self.waiting(own, patience, from, false);
        let mut parcel = parcel;
        loop {
            let envelope = parcel.envelope();
            let route = self.table.route(envelope.kind(), envelope.address());
            let is_queue = envelope.kind() == AddressKind::Queue;
            if is_queue && route.targets.is_empty() && !route.must_wait {
                let queue = envelope.address().to_owned();
                return Err((Refusal::NoQueue { queue }, parcel));
            }
            match self.accept_on(&route, &mut wait, parcel).await {
                Ok(accepted) => return Ok(accepted),
                Err((Some(refusal), parcel)) => return Err((refusal, parcel)),
                // A queue of the route was closed: the messages of the address may go elsewhere by now.
                Err((None, given_back)) => parcel = given_back,
            }
        }
    }

    /// Waits for room in one queue, whatever it is bound to.
    pub(crate) async fn accept_at(
        &self,
        queue: &Arc<QueueCore>,
        parcel: SharedParcel,
        patience: Duration,
        from: Gate,
    ) -> Result<Accepted, Refusal> {
        let route = Route::new(vec![Arc::clone(queue)], false, 0);
        let mut wait = self.waiting(None, patience, from, true);
        self.accept_on(&route, &mut wait, parcel)
            .await
            .map_err(|(refusal, _)| {
                refusal.unwrap_or(Refusal::NoQueue {
                    queue: queue.name.to_string(),
                })
            })
    }

    fn waiting(
        &self,
        own: Option<Own>,
        patience: Duration,
        from: Gate,
        is_replay: bool,
    ) -> Waiting {
        let timers = &self.services.timers;
        Waiting {
            own,
            patience,
            begun: timers.now(),
            deadline: Deadline::new(Arc::clone(timers), patience),
            from,
            is_replay,
        }
    }

    /// None for a refusal: a queue of the route is closed.
    async fn accept_on(
        &self,
        route: &Route,
        wait: &mut Waiting,
        parcel: SharedParcel,
    ) -> Result<Accepted, (Option<Refusal>, SharedParcel)> {
        let shared = Arc::clone(&parcel);
        let key = shared.envelope().key();
        // What a handler or a schedule offers is offered again, and a replay is none.
        let is_outside = wait.from == Gate::Open && !wait.is_replay;
        let mut held: Option<usize> = None;
        loop {
            if !self.admits(wait.from) {
                if let Some(place) = held {
                    route.targets[place].mailbox.release(1);
                }
                return Err((Some(Refusal::Closed), parcel));
            }
            let is_replay = wait.is_replay;
            let make = || {
                let parcel = Arc::clone(&parcel);
                if is_replay { parcel } else { self.seal(parcel) }
            };
            let accepted = if route.must_wait {
                match reserve(route, key, wait.own, held.take()) {
                    Err(stop) => Err(stop),
                    Ok(reserved) => match self.hand_out(route, &parcel, wait).await {
                        Ok((bridged, stored)) => {
                            let here = reserved.deliver(key, make);
                            Ok(Accepted {
                                bridged,
                                accepted: here.accepted + stored.accepted,
                                dropped: here.dropped + stored.dropped,
                                ..here
                            })
                        }
                        Err(refusal) => Err(Stop::Refused(None, refusal)),
                    },
                }
            } else {
                self.accept(route, key, wait.own, held.take(), make)
            };
            let place = match accepted {
                Ok(accepted) => return Ok(accepted),
                Err(Stop::Refused(place, refusal)) => {
                    if let Some(place) = place.filter(|_| is_outside) {
                        route.targets[place].count_refused();
                    }
                    return Err((Some(refusal), parcel));
                }
                Err(Stop::Stale) => return Err((None, parcel)),
                Err(Stop::Wait(place)) => place,
            };
            let queue = &route.targets[place];
            let mut credit = queue.mailbox.wait_for_credit(queue.lane(key));
            let answer = std::future::poll_fn(|cx| {
                if let Poll::Ready(answer) = Pin::new(&mut credit).poll(cx) {
                    return Poll::Ready(Some(answer));
                }
                Pin::new(&mut wait.deadline).poll(cx).map(|()| None)
            })
            .await;
            match answer {
                Some(Acquire::Taken) => held = Some(place),
                Some(Acquire::Full) => {}
                Some(Acquire::Closed) => return Err((None, parcel)),
                None => {
                    if is_outside {
                        queue.count_refused();
                    }
                    let queue = queue.name.to_string();
                    return Err((Some(Refusal::Timeout { queue }), parcel));
                }
            }
        }
    }

    /// Hands a message to what has to confirm it, while its credits in the queues of this process are held: first to
    /// RabbitMQ, then to the store. No commit spans both: what RabbitMQ has and the store has not is unconfirmed.
    async fn hand_out(
        &self,
        route: &Route,
        parcel: &SharedParcel,
        wait: &Waiting,
    ) -> Result<(Bridged, StoredReceipt), Refusal> {
        let bridged = match route.exported {
            true => self.export(parcel, wait.left(self)).await?,
            false => Bridged::NotExported,
        };
        let Some(stored) = self.stored.as_ref().filter(|_| !route.stored.is_empty()) else {
            return Ok((bridged, StoredReceipt::default()));
        };
        let stored = stored.publish(parcel, &route.stored, wait.left(self)).await;
        match stored {
            Ok(receipt) => Ok((bridged, receipt)),
            Err(refusal) if bridged == Bridged::Routed => Err(Refusal::Unconfirmed {
                why: format!("RabbitMQ has it, and the store has not: {refusal}"),
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// Hands a message to the bridge, while its credits in the queues of this process are held.
    async fn export(&self, parcel: &SharedParcel, patience: Duration) -> Result<Bridged, Refusal> {
        match &self.bridge {
            Some(bridge) => bridge.publish(Arc::clone(parcel), patience).await,
            None => Ok(Bridged::NotExported),
        }
    }

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

    /// A limit on bodies makes every body be encoded; without one nothing is.
    pub(crate) fn check_size(&self, parcel: &SharedParcel) -> Result<(), Refusal> {
        let Some(limit) = self.limits.body_limit else {
            return Ok(());
        };
        let size = parcel
            .json()
            .map_err(|error| Refusal::Codec(error.to_string()))?
            .len();
        if size > limit {
            Err(Refusal::TooLarge { size, limit })
        } else {
            Ok(())
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
