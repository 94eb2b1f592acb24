//! A message that may wait for room, and for the confirm of what leaves the process.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::accept::{Accepted, Stop, reserve};
use super::{Broker, Gate, Route};
use crate::mailbox::Acquire;
use crate::message::{AddressKind, SharedParcel};
use crate::ports::{Bridged, Deadline, Own, Refusal};
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
        // Those of the store that have room.
        let mut room = Vec::new();
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
            if let Some(place) = held
                && !route.stored.is_empty()
            {
                // While it stood in line for this credit the room may have gone to others.
                match self
                    .stored
                    .as_ref()
                    .and_then(|all| all.room_now(&route.stored))
                {
                    Some(now) => room = now,
                    None => {
                        route.targets[place].mailbox.release(1);
                        held = None;
                    }
                }
            }
            if route.must_wait && held.is_none() {
                // No credit is held for as long as that takes.
                room = match self.room(route, wait).await {
                    Ok(room) => room,
                    Err(refusal) => return Err((refusal, parcel)),
                };
            }
            let accepted = if route.must_wait {
                match reserve(route, key, wait.own, held.take()) {
                    Err(stop) => Err(stop),
                    Ok(reserved) => match self.hand_out(route, &room, &parcel, wait).await {
                        Ok(bridged) => {
                            let stored = room.len() as u32;
                            let here = reserved.deliver(key, make);
                            let dropped = route.stored.len() as u32 - stored;
                            Ok(Accepted {
                                bridged,
                                accepted: here.accepted + stored,
                                dropped: here.dropped + dropped,
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

    /// Waits for room in the queues of the store, before the message goes anywhere: while there is none, each try would be
    /// one more at RabbitMQ. Answers with those that take it; the others drop it by their policy.
    ///
    /// None for a refusal: a queue of the route is closed.
    async fn room(
        &self,
        route: &Route,
        wait: &Waiting,
    ) -> Result<Vec<Arc<QueueCore>>, Option<Refusal>> {
        let Some(stored) = self.stored.as_ref().filter(|_| !route.stored.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut room = stored.room(&route.stored, wait.left(self));
        let room = loop {
            let mut narrowed = pin!(self.narrowed.notified());
            // What is told from here on is heard.
            narrowed.as_mut().enable();
            if !self.admits(wait.from) {
                return Err(Some(Refusal::Closed));
            }
            let answer = std::future::poll_fn(|cx| {
                if let Poll::Ready(answer) = room.as_mut().poll(cx) {
                    return Poll::Ready(Some(answer));
                }
                narrowed.as_mut().poll(cx).map(|()| None)
            });
            if let Some(room) = answer.await {
                break room?;
            }
        };
        match route.stored.iter().any(|queue| queue.mailbox.is_closed()) {
            true => Err(None),
            false => Ok(room),
        }
    }

    /// Hands a message to what has to confirm it, while its credits in the queues of this process are held: first to
    /// RabbitMQ, then to those queues of the store that have [`room`](Self::room). No commit spans both: what RabbitMQ has
    /// and the store has not is unconfirmed.
    async fn hand_out(
        &self,
        route: &Route,
        queues: &[Arc<QueueCore>],
        parcel: &SharedParcel,
        wait: &Waiting,
    ) -> Result<Bridged, Refusal> {
        let bridged = match route.exported {
            true => self.export(parcel, wait.left(self)).await?,
            false => Bridged::NotExported,
        };
        if let Some(stored) = self.stored.as_ref().filter(|_| !queues.is_empty()) {
            let stored = stored.publish(parcel, queues, wait.left(self)).await;
            stored.map_err(|refusal| match bridged {
                Bridged::Routed => Refusal::Unconfirmed {
                    why: format!("RabbitMQ has it, and the store has not: {refusal}"),
                },
                _ => refusal,
            })?;
        }
        for queue in &route.stored {
            if !queues.iter().any(|taking| taking.id == queue.id) {
                queue.mailbox.count_dropped_newest();
            }
        }
        Ok(bridged)
    }

    /// Hands a message to the bridge, while its credits in the queues of this process are held.
    async fn export(&self, parcel: &SharedParcel, patience: Duration) -> Result<Bridged, Refusal> {
        match &self.bridge {
            Some(bridge) => bridge.publish(Arc::clone(parcel), patience).await,
            None => Ok(Bridged::NotExported),
        }
    }
}
