use super::{Broker, Route};
use crate::delivery::Overflow;
use crate::mailbox::{Acquire, Ending, Slot, accept_in_all, halt};
use crate::message::{Held, Payload, SharedParcel};
use crate::ports::{Bridged, Own, Refusal, drop_caught};

/// What became of a message over the queues of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) accepted: u32,
    pub(crate) dropped: u32,
    pub(crate) reused_own: bool,
    pub(crate) bridged: Bridged,
}

/// Why a message was not accepted; nothing was taken and nothing delivered.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A queue of the route was closed: look the route up again.
    Stale,
    /// The target at this place is full and its policy is to wait.
    Wait(usize),
    /// The target at this place refuses, or the bridge does.
    Refused(Option<usize>, Refusal),
}

/// The most queues whose locks one publish holds at once.
const LOCKED_AT_ONCE: usize = 32;

/// Accepts in every queue of the route if all have room. False: some have not, or there is none; nothing was
/// taken then, and `make` not called.
#[inline]
pub(crate) fn accept_everywhere<P: Payload>(
    route: &Route,
    key: Option<&str>,
    make: impl FnOnce() -> P,
) -> bool {
    let targets = &route.targets;
    if targets.is_empty() || targets.len() > LOCKED_AT_ONCE || route.must_wait {
        return false;
    }
    accept_in_all(
        targets,
        &|queue| queue.lane(key),
        |queue| queue.spec.shares,
        make,
    )
}

impl Broker {
    /// Takes a credit from every queue of the route, or none, and then delivers (contract, rule 1).
    ///
    /// `held` is a place whose credit the caller holds already; on failure it is given back too. `make` may run
    /// interceptors, which see a message before its handlers do: not under the locks of the happy path.
    pub(crate) fn accept<P: Payload>(
        &self,
        route: &Route,
        key: Option<&str>,
        own: Option<Own>,
        held: Option<usize>,
        make: impl FnOnce() -> P,
    ) -> Result<Accepted, Stop> {
        let mut make = Some(make);
        let make_once = |make: &mut Option<_>| match make.take() {
            Some(make) => make,
            None => unreachable!("made at most once"),
        };
        if own.is_none()
            && held.is_none()
            && self.is_plain()
            && accept_everywhere(route, key, || make_once(&mut make)())
        {
            return Ok(Accepted {
                accepted: route.targets.len() as u32,
                ..Accepted::default()
            });
        }
        let make = make_once(&mut make);
        let reserved = reserve(route, key, own, held)?;
        Ok(reserved.deliver(key, || make().shared()))
    }
}

/// A credit in every queue of a route, or what its policy has in place of one. Dropped, all are given back.
pub(super) struct Reserved<'a> {
    route: &'a Route,
    /// Places whose credit is held.
    credits: Vec<usize>,
    /// The place that takes over the credit of the message in hand.
    own_place: Option<usize>,
    /// Places without a credit: their new message is dropped, or their oldest one is.
    dropping: Vec<usize>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        for place in self.credits.drain(..) {
            self.route.targets[place].mailbox.release(1);
        }
    }
}

/// Queue by queue: a full one applies its policy.
pub(super) fn reserve<'a>(
    route: &'a Route,
    key: Option<&str>,
    own: Option<Own>,
    held: Option<usize>,
) -> Result<Reserved<'a>, Stop> {
    let mut reserved = Reserved {
        route,
        credits: held.into_iter().collect(),
        own_place: None,
        dropping: Vec::new(),
    };
    for (place, queue) in route.targets.iter().enumerate() {
        // A place that was granted and not fetched yet does not keep a queue from closing.
        let is_held = held == Some(place);
        if is_held && !queue.mailbox.is_closed() {
            continue;
        }
        if own.is_some_and(|own| own.queue == queue.id) {
            reserved.own_place = Some(place);
            continue;
        }
        let acquired = if is_held {
            Acquire::Closed
        } else {
            queue.mailbox.acquire(queue.lane(key))
        };
        let name = || queue.name.to_string();
        return Err(match acquired {
            Acquire::Taken => {
                reserved.credits.push(place);
                continue;
            }
            Acquire::Closed => Stop::Stale,
            Acquire::Full => match queue.mailbox.overflow() {
                Overflow::DropNewest | Overflow::DropOldest => {
                    reserved.dropping.push(place);
                    continue;
                }
                _ if queue.mailbox.halted() & halt::ENDED != 0 => {
                    Stop::Refused(Some(place), Refusal::Ended { queue: name() })
                }
                _ if queue.mailbox.halted() & halt::SUSPENDED != 0 => {
                    Stop::Refused(Some(place), Refusal::Suspended { queue: name() })
                }
                Overflow::Fail => Stop::Refused(Some(place), Refusal::Full { queue: name() }),
                Overflow::Wait => Stop::Wait(place),
            },
        });
    }
    Ok(reserved)
}

impl Reserved<'_> {
    /// Delivers to every queue of the route. Only now, when nothing can fail any more, is anything dropped.
    pub(super) fn deliver(
        mut self,
        key: Option<&str>,
        make: impl FnOnce() -> SharedParcel,
    ) -> Accepted {
        let targets = &self.route.targets;
        let mut result = Accepted {
            reused_own: self.own_place.is_some(),
            ..Accepted::default()
        };
        let mut credits = std::mem::take(&mut self.credits);
        credits.extend(self.own_place);
        let mut is_dropped = false;
        for place in &self.dropping {
            let queue = &targets[*place];
            result.dropped += 1;
            if queue.mailbox.overflow() == Overflow::DropOldest
                && let Some(oldest) = queue.mailbox.drop_oldest()
            {
                queue.refuse_reply(&oldest, Ending::Discarded);
                drop_caught("a message", oldest);
                credits.push(*place);
            } else {
                queue.mailbox.count_dropped_newest();
                is_dropped = true;
            }
        }
        credits.sort_unstable();
        let parcel = make();
        if is_dropped
            && let Some(metadata) = &parcel.envelope().metadata
            && let Some(reply) = &metadata.reply
        {
            reply.refuse(crate::message::ReplyRefusal::Discarded);
        }
        for place in credits {
            let queue = &targets[place];
            let slot = Slot::new(Held::Shared(parcel.clone()));
            result.accepted += u32::from(queue.mailbox.push(slot, queue.lane(key)));
        }
        result
    }
}
