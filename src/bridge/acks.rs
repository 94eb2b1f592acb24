//! The coalescing of one channel's acknowledgements: which tags one `multiple` ack may cover, and when it is due.
//!
//! Pure: time is passed in, frames are sent by the caller.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a completed delivery of the contiguous prefix waits for company.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(5);

/// The age of a hole from which on what completed behind it no longer waits for it.
pub(super) const HOLE_IS_OLD: Duration = Duration::from_millis(50);

/// As many completed deliveries as are acked without waiting for more, where the prefetch allows.
const THRESHOLD: usize = 64;

/// What a settlement asks of the flusher. Said once: after `Now` nothing more is said until the next flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    /// Nothing new: no ack waits, or the flusher knows.
    No,
    /// An ack waits: flush [`FLUSH_AFTER`] from now.
    Timer,
    /// Enough acks wait: flush now.
    Now,
}

/// A tag that cannot be what was said of it. It changed nothing, and no frame must be sent for it: a second or
/// foreign ack would close the channel (406).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Stray {
    #[error("delivery tag {0} is settled already")]
    Settled(u64),
    #[error("delivery tag {0} was never delivered on this channel")]
    Unknown(u64),
    #[error("delivery tag {tag} came where {expected} was next")]
    OutOfSequence { tag: u64, expected: u64 },
}

/// The frames to send now, and when to flush again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flush {
    /// Ack this tag and all before it. It is itself unacknowledged: RabbitMQ passes over settled tags on the way, but
    /// closes the channel (406) where the last is one.
    pub(super) multiple: Option<u64>,
    /// Ack each of these by itself. None is at or below `multiple`.
    pub(super) single: Vec<u64>,
    /// Acks wait that are not due: flush again then. `None`: the next [`Wake`] says when.
    pub(super) look_again: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    InHand,
    /// Completed behind a hole, its ack not sent.
    Completed,
    /// Its ack, nack or reject is sent.
    Gone,
}

/// The deliveries of one channel, from the first that is not settled on.
///
/// The *prefix* is every tag before the first that is in hand, the *hole*. A prefix has only tags that are completed or
/// whose own frame was sent before, so one `multiple` ack may cover it. Every call is O(1) amortised.
#[derive(Debug)]
pub(super) struct Acks {
    threshold: usize,
    /// The tag of the first slot. Where there are slots, the first is the hole.
    first: u64,
    slots: VecDeque<Slot>,
    in_hand: usize,
    /// How many of the prefix are completed and not acked, the last of them, and since when there are any.
    prefix: usize,
    prefix_last: u64,
    prefix_since: Option<Instant>,
    /// How many behind the hole are completed and not acked.
    behind: usize,
    /// Their tags in the order of completion, with some that the prefix has taken since.
    behind_tags: Vec<u64>,
    /// Since when the hole has something completed behind it.
    hole_since: Option<Instant>,
    said: Wake,
}

impl Acks {
    /// For a channel opened just now, with this `basic.qos`. A prefetch below 4 acks each delivery at once.
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            threshold: THRESHOLD.min(usize::from(prefetch) / 2).max(1),
            first: 1,
            slots: VecDeque::new(),
            in_hand: 0,
            prefix: 0,
            prefix_last: 0,
            prefix_since: None,
            behind: 0,
            behind_tags: Vec::new(),
            hole_since: None,
            said: Wake::No,
        }
    }

    /// The broker delivered `tag`: in hand from now on.
    ///
    /// # Errors
    ///
    /// [`Stray::OutOfSequence`] where it is not the one after the last: a `multiple` ack might then cover a
    /// delivery that nobody completed.
    pub(super) fn delivered(&mut self, tag: u64) -> Result<(), Stray> {
        let expected = self.next_tag();
        if tag != expected {
            return Err(Stray::OutOfSequence { tag, expected });
        }
        self.slots.push_back(Slot::InHand);
        self.in_hand += 1;
        Ok(())
    }

    /// The handling of `tag` is over and wants an ack.
    ///
    /// # Errors
    ///
    /// [`Stray`] for a tag that is not in hand.
    pub(super) fn complete(&mut self, tag: u64, now: Instant) -> Result<Wake, Stray> {
        let place = self.in_hand_at(tag)?;
        self.in_hand -= 1;
        if place == 0 {
            self.slots.pop_front();
            self.first += 1;
            self.join_prefix(tag, now);
            self.advance(now);
        } else {
            self.slots[place] = Slot::Completed;
            self.behind += 1;
            self.remember_behind(tag);
            self.hole_since.get_or_insert(now);
        }
        Ok(self.wake(now))
    }

    /// The caller **has sent** the nack or reject of `tag`; a `multiple` ack may pass over it from now on.
    ///
    /// # Errors
    ///
    /// [`Stray`] for a tag that is not in hand: ask [`Acks::is_in_hand`] before the frame is sent.
    pub(super) fn settled_otherwise(&mut self, tag: u64, now: Instant) -> Result<Wake, Stray> {
        let place = self.in_hand_at(tag)?;
        self.in_hand -= 1;
        self.slots[place] = Slot::Gone;
        if place == 0 {
            self.advance(now);
        }
        Ok(self.wake(now))
    }

    /// Whether `tag` was delivered and neither completed nor settled otherwise.
    pub(super) fn is_in_hand(&self, tag: u64) -> bool {
        self.in_hand_at(tag).is_ok()
    }

    /// Takes what is to be sent now, once: the caller must send it, or close the channel.
    ///
    /// The prefix is due at the threshold, after [`FLUSH_AFTER`], or when nothing is in hand; what completed behind
    /// the hole, when that [is old](HOLE_IS_OLD). `force` makes everything completed due, as a stop needs it.
    pub(super) fn flush(&mut self, now: Instant, force: bool) -> Flush {
        let mut flush = Flush::default();
        if let Some(since) = self.prefix_since {
            let due = since + FLUSH_AFTER;
            if force || self.prefix >= self.threshold || self.in_hand == 0 || now >= due {
                flush.multiple = Some(self.prefix_last);
                self.prefix = 0;
                self.prefix_since = None;
            } else {
                flush.look_again = Some(due);
            }
        }
        if self.behind > 0
            && let Some(since) = self.hole_since
        {
            let due = since + HOLE_IS_OLD;
            if force || now >= due {
                flush.single = self.take_behind();
            } else {
                flush.look_again = Some(flush.look_again.map_or(due, |other| other.min(due)));
            }
        }
        self.said = match flush.look_again {
            Some(_) => Wake::Timer,
            None => Wake::No,
        };
        flush
    }

    /// Delivered, and neither completed nor settled otherwise.
    pub(super) fn outstanding(&self) -> usize {
        self.in_hand
    }

    /// Completed, and not yet handed out by a flush.
    pub(super) fn unsent(&self) -> usize {
        self.prefix + self.behind
    }

    fn next_tag(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn in_hand_at(&self, tag: u64) -> Result<usize, Stray> {
        // Tag 0 means "all" to AMQP: it is nobody's.
        if tag == 0 || tag >= self.next_tag() {
            return Err(Stray::Unknown(tag));
        }
        let place = tag
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok())
            .ok_or(Stray::Settled(tag))?;
        match self.slots[place] {
            Slot::InHand => Ok(place),
            Slot::Completed | Slot::Gone => Err(Stray::Settled(tag)),
        }
    }

    /// The hole is closed: the prefix grows to the next one, which is as old as it has been the first.
    fn advance(&mut self, now: Instant) {
        while let Some(&slot) = self.slots.front() {
            match slot {
                Slot::InHand => break,
                Slot::Completed => {
                    self.behind -= 1;
                    self.join_prefix(self.first, now);
                }
                Slot::Gone => {}
            }
            self.slots.pop_front();
            self.first += 1;
        }
        self.hole_since = (self.behind > 0).then_some(now);
        if self.behind == 0 {
            self.behind_tags.clear();
        }
    }

    fn join_prefix(&mut self, tag: u64, now: Instant) {
        self.prefix += 1;
        self.prefix_last = tag;
        self.prefix_since.get_or_insert(now);
    }

    fn remember_behind(&mut self, tag: u64) {
        // What the prefix took is dropped once it is the greater part: each tag is moved a bounded number of times.
        if self.behind_tags.len() >= 2 * self.behind.max(THRESHOLD) {
            let first = self.first;
            self.behind_tags.retain(|&tag| tag >= first);
        }
        self.behind_tags.push(tag);
    }

    fn take_behind(&mut self) -> Vec<u64> {
        let mut tags = std::mem::take(&mut self.behind_tags);
        tags.retain(|&tag| tag >= self.first);
        for &tag in &tags {
            // A tag at or after `first` has its slot, at less than `slots.len()`.
            self.slots[(tag - self.first) as usize] = Slot::Gone;
        }
        self.behind = 0;
        tags
    }

    fn wake(&mut self, now: Instant) -> Wake {
        let hole_is_old = self
            .hole_since
            .is_some_and(|since| now >= since + HOLE_IS_OLD);
        let wanted =
            if self.prefix >= self.threshold || (hole_is_old && self.behind >= self.threshold) {
                Wake::Now
            } else if self.unsent() > 0 {
                Wake::Timer
            } else {
                Wake::No
            };
        if wanted <= self.said {
            return Wake::No;
        }
        self.said = wanted;
        wanted
    }
}

#[cfg(test)]
mod tests;
