use std::collections::VecDeque;

use super::Slot;
use super::chunks::Chunks;
use crate::delivery::{Lanes, Order};
use crate::message::Spent;

/// Where queued messages stand: one line, or one lane per key.
pub(super) enum Store {
    Line(Chunks),
    Lanes(Box<Lanes<Slot>>),
}

impl Store {
    pub(super) fn new(order: Order) -> Self {
        match order {
            Order::Keyed { .. } => Self::Lanes(Box::new(Lanes::new())),
            Order::Fifo | Order::Unordered { .. } => Self::Line(Chunks::default()),
        }
    }

    /// `make` makes the message where it will stand.
    #[inline(always)]
    pub(super) fn push_back(&mut self, key: Option<u64>, make: impl FnOnce() -> Slot) {
        match self {
            Self::Line(line) => line.push_back(make),
            Self::Lanes(lanes) => lanes.push(key, make()),
        }
    }

    /// The lane of a message that is accepted; none where there are no lanes.
    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    pub(super) fn lane_of(&self, slot: &Slot) -> Option<u64> {
        match self {
            Self::Line(_) => None,
            Self::Lanes(_) => slot.lane(),
        }
    }

    pub(super) fn push_front(&mut self, slot: Slot) {
        match self {
            Self::Line(line) => line.push_front(slot),
            Self::Lanes(lanes) => lanes.put_back(slot.lane(), slot),
        }
    }

    /// A retry whose wait is over: behind the line, or at the head of its lane.
    pub(super) fn retry(&mut self, slot: Slot) {
        match self {
            Self::Line(line) => line.push_back(|| slot),
            Self::Lanes(lanes) => lanes.retry(slot.lane(), slot),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, max: usize, batch: &mut VecDeque<Slot>) -> usize {
        match self {
            Self::Line(line) => line.take(max, batch),
            Self::Lanes(lanes) => {
                let before = batch.len();
                lanes.take(max, &mut |_, slot| batch.push_back(slot));
                batch.len() - before
            }
        }
    }

    /// Keeps emptied parcels for messages to come; what it has no use for is left.
    pub(super) fn keep_spent(&mut self, spent: &mut Vec<Spent>) {
        if let Self::Line(line) = self {
            line.keep_spent(spent);
        }
    }

    #[inline]
    pub(super) fn spent(&mut self) -> Option<Spent> {
        match self {
            Self::Line(line) => line.spent(),
            Self::Lanes(_) => None,
        }
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Slot> {
        match self {
            Self::Line(line) => line.pop_front(),
            Self::Lanes(lanes) => lanes.drop_oldest(),
        }
    }

    /// Messages that could be handed out now.
    #[inline]
    pub(super) fn ready(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Lanes(lanes) => lanes.ready(),
        }
    }

    /// Messages that have not been handed out, parked ones included.
    pub(super) fn queued(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Lanes(lanes) => lanes.queued(),
        }
    }

    pub(super) fn settled(&mut self, key: u64) {
        if let Self::Lanes(lanes) = self {
            lanes.settled(key);
        }
    }

    pub(super) fn hold(&mut self, key: u64) {
        if let Self::Lanes(lanes) = self {
            lanes.hold(key);
        }
    }

    /// Whether a lane that waits for a retry has `limit` messages parked behind it.
    pub(super) fn is_congested(&self, key: u64, limit: usize) -> bool {
        match self {
            Self::Line(_) => false,
            Self::Lanes(lanes) => lanes.is_held(key) && lanes.parked_behind(key) >= limit.max(1),
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Slot> {
        match self {
            Self::Line(line) => line.drain(),
            Self::Lanes(lanes) => lanes.drain(),
        }
    }
}
