use super::{Broker, Route};
use crate::delivery::Overflow;
use crate::mailbox::{Acquire, Ending, accept_in_all, halt};
use crate::message::{Held, Payload, SharedParcel};
use crate::ports::{Own, Refusal};

/// What became of a message over the queues of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) accepted: u32,
    pub(crate) dropped: u32,
    pub(crate) reused_own: bool,
}

/// Why a message was not accepted; nothing was taken and nothing delivered.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A queue of the route was closed: look the route up again.
    Stale,
    /// The target at this place is full and its policy is to wait.
    Wait(usize),
    /// The target at this place refuses.
    Refused(usize, Refusal),
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
    if targets.is_empty() || targets.len() > LOCKED_AT_ONCE {
        return false;
    }
    accept_in_all(
        targets,
        &|queue| queue.lane(key),
        &|queue, parcel| queue.slot(parcel),
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
        accept_by_policy(route, key, own, held, || make().shared())
    }
}

/// Queue by queue: a full one applies its policy.
fn accept_by_policy(
    route: &Route,
    key: Option<&str>,
    own: Option<Own>,
    held: Option<usize>,
    make: impl FnOnce() -> SharedParcel,
) -> Result<Accepted, Stop> {
    let targets = &route.targets;
    let mut result = Accepted::default();
    let mut own_place = None;
    // Places without a credit: their new message is dropped, or their oldest one is.
    let mut dropping: Vec<usize> = Vec::new();
    for (place, queue) in targets.iter().enumerate() {
        // A place that was granted and not fetched yet does not keep a queue from closing.
        let is_held = held == Some(place);
        if is_held && !queue.mailbox.is_closed() {
            continue;
        }
        if own.is_some_and(|own| own.queue == queue.id) {
            own_place = Some(place);
            continue;
        }
        let acquired = if is_held {
            Acquire::Closed
        } else {
            queue.mailbox.acquire(queue.lane(key))
        };
        let stop = match acquired {
            Acquire::Taken => continue,
            Acquire::Closed => Stop::Stale,
            Acquire::Full => match queue.mailbox.overflow() {
                Overflow::DropNewest | Overflow::DropOldest => {
                    dropping.push(place);
                    continue;
                }
                _ if queue.mailbox.halted() & halt::SUSPENDED != 0 => {
                    let queue = queue.name.to_string();
                    Stop::Refused(place, Refusal::Suspended { queue })
                }
                Overflow::Fail => {
                    let queue = queue.name.to_string();
                    Stop::Refused(place, Refusal::Full { queue })
                }
                Overflow::Wait => Stop::Wait(place),
            },
        };
        for (taken, queue) in targets.iter().enumerate() {
            let credited = taken < place && !dropping.contains(&taken) && own_place != Some(taken);
            if credited || held == Some(taken) {
                queue.mailbox.release(1);
            }
        }
        return Err(stop);
    }
    // Only now, when nothing can fail any more, is anything dropped.
    dropping.retain(|place| {
        let queue = &targets[*place];
        result.dropped += 1;
        if queue.mailbox.overflow() == Overflow::DropOldest
            && let Some(oldest) = queue.mailbox.drop_oldest()
        {
            queue.refuse_reply(&oldest, Ending::Discarded);
            return false;
        }
        queue.mailbox.count_dropped_newest();
        true
    });
    let parcel = make();
    if !dropping.is_empty()
        && let Some(metadata) = &parcel.envelope().metadata
        && let Some(reply) = &metadata.reply
    {
        reply.refuse(crate::message::ReplyRefusal::Discarded);
    }
    let Some((last, others)) = targets.split_last() else {
        return Ok(result);
    };
    for (place, queue) in others.iter().enumerate() {
        if !dropping.contains(&place) {
            queue
                .mailbox
                .push(queue.slot(Held::Shared(parcel.clone())), queue.lane(key));
            result.accepted += 1;
        }
    }
    if !dropping.contains(&others.len()) {
        last.mailbox
            .push(last.slot(Held::Shared(parcel)), last.lane(key));
        result.accepted += 1;
    }
    result.reused_own = own_place.is_some();
    Ok(result)
}
