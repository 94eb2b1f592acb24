use std::collections::VecDeque;

use super::Slot;
use super::take::BATCH;
use crate::message::Spent;

/// A line of messages, cut into pieces of a worker's batch: a worker takes a whole piece by exchanging it for
/// its empty one, so that no message is moved between the push and the handler.
#[derive(Default)]
pub(super) struct Chunks {
    /// What is handed out next.
    front: VecDeque<Slot>,
    /// What comes after it; none for a queue that never was longer than one piece.
    rest: Option<Box<Rest>>,
}

#[derive(Default)]
struct Rest {
    /// Full pieces.
    full: VecDeque<Vec<Slot>>,
    /// The last piece, which is being filled.
    last: Vec<Slot>,
    /// Emptied pieces, to be used again.
    spares: Vec<Vec<Slot>>,
    /// Emptied parcels, to be used again.
    spent: Vec<Spent>,
}

/// The most emptied pieces that a queue keeps.
const SPARES: usize = 16;
/// The most emptied parcels that a queue keeps.
const SPENT: usize = 4 * BATCH;

impl Chunks {
    /// `make` makes the message where it will stand.
    #[inline(always)]
    pub(super) fn push_back(&mut self, make: impl FnOnce() -> Slot) {
        match &mut self.rest {
            Some(rest) => rest.push_back(make),
            None => self.push_first(make()),
        }
    }

    #[inline(never)]
    fn push_first(&mut self, slot: Slot) {
        if self.front.len() < BATCH {
            self.front.push_back(slot);
        } else {
            self.rest.get_or_insert_default().push_back(|| slot);
        }
    }

    pub(super) fn push_front(&mut self, slot: Slot) {
        self.front.push_front(slot);
    }

    pub(super) fn pop_front(&mut self) -> Option<Slot> {
        self.refill();
        self.front.pop_front()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Hands out up to `max`, not more than the front piece has.
    #[inline]
    pub(super) fn take(&mut self, max: usize, batch: &mut VecDeque<Slot>) -> usize {
        self.refill();
        let taken = max.min(self.front.len());
        if taken == self.front.len() && batch.is_empty() {
            std::mem::swap(&mut self.front, batch);
        } else {
            batch.extend(self.front.drain(..taken));
        }
        taken
    }

    pub(super) fn drain(&mut self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.front.drain(..).collect();
        if let Some(rest) = self.rest.take() {
            slots.extend(rest.full.into_iter().flatten());
            slots.extend(rest.last);
        }
        slots
    }

    /// Keeps parcels for messages to come; what it has no use for is left. A queue that is never long keeps
    /// none.
    pub(super) fn keep_spent(&mut self, spent: &mut Vec<Spent>) {
        let Some(rest) = &mut self.rest else {
            return;
        };
        if rest.spent.is_empty() {
            std::mem::swap(&mut rest.spent, spent);
        } else {
            let room = SPENT.saturating_sub(rest.spent.len());
            rest.spent
                .extend(spent.drain(spent.len().saturating_sub(room)..));
        }
    }

    /// A parcel for the next message.
    #[inline]
    pub(super) fn spent(&mut self) -> Option<Spent> {
        self.rest.as_mut()?.spent.pop()
    }

    /// After it the front piece is empty only if everything is.
    #[inline]
    fn refill(&mut self) {
        if self.front.is_empty()
            && let Some(rest) = &mut self.rest
        {
            rest.exchange(&mut self.front);
        }
    }
}

impl Rest {
    #[inline]
    fn len(&self) -> usize {
        self.full.len() * BATCH + self.last.len()
    }

    /// The message is put together where it will stand: a copy of it would wait for what was just written
    /// (measured: a tenth of a delivery). The compiler does so only where nothing can go wrong while the message
    /// is in hand, so room is asked for first, and known to be there.
    #[inline(always)]
    fn push_back(&mut self, make: impl FnOnce() -> Slot) {
        if self.last.len() < self.last.capacity() {
            self.last.extend(std::iter::once_with(make));
        } else {
            self.push_growing(make());
        }
        if self.last.len() == BATCH {
            self.begin_another();
        }
    }

    #[cold]
    #[inline(never)]
    fn push_growing(&mut self, slot: Slot) {
        self.last.push(slot);
    }

    #[inline(never)]
    fn begin_another(&mut self) {
        let spare = self.spares.pop();
        let empty = spare.unwrap_or_else(|| Vec::with_capacity(BATCH));
        self.full
            .push_back(std::mem::replace(&mut self.last, empty));
    }

    /// Takes an empty piece, and gives the next one for it.
    fn exchange(&mut self, piece: &mut VecDeque<Slot>) {
        // Neither of these conversions moves a message or asks for memory.
        let next = match self.full.pop_front() {
            Some(next) => next,
            None => std::mem::take(&mut self.last),
        };
        let empty = std::mem::replace(piece, next.into());
        if self.last.capacity() == 0 {
            self.last = empty.into();
        } else if empty.capacity() >= BATCH && self.spares.len() < SPARES {
            self.spares.push(empty.into());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::message::{Address, AddressKind, Envelope, Held, MessageId, Name, parcel};

    pub(in crate::mailbox) fn slot(number: u32) -> Slot {
        let envelope = Envelope {
            id: MessageId::from_u128(u128::from(number)),
            address: Address {
                kind: AddressKind::Topic,
                name: Name::Static("a"),
            },
            metadata: None,
        };
        Slot::new(Held::Shared(parcel(envelope, number)))
    }

    fn number(slot: &Slot) -> u32 {
        slot.parcel().envelope().id.as_u128() as u32
    }

    proptest::proptest! {
        /// Whatever is done, it behaves as one line.
        #[test]
        fn is_one_line(steps in proptest::collection::vec((0u8..6, 0usize..100), 1..400)) {
            let mut line = Chunks::default();
            let mut model: VecDeque<u32> = VecDeque::new();
            let mut next = 0;
            for (step, size) in steps {
                match step {
                    0 | 1 => {
                        for _ in 0..size {
                            line.push_back(|| slot(next));
                            model.push_back(next);
                            next += 1;
                        }
                    }
                    2 => {
                        line.push_front(slot(next));
                        model.push_front(next);
                        next += 1;
                    }
                    3 => assert_eq!(line.pop_front().as_ref().map(number), model.pop_front()),
                    4 => {
                        let mut batch = VecDeque::new();
                        let taken = line.take(size, &mut batch);
                        assert_eq!(taken, batch.len());
                        assert!(taken > 0 || size == 0 || model.is_empty());
                        for slot in &batch {
                            assert_eq!(Some(number(slot)), model.pop_front());
                        }
                    }
                    _ => {
                        let mut batch: VecDeque<Slot> = VecDeque::with_capacity(4);
                        batch.push_back(slot(next));
                        next += 1;
                        let taken = line.take(size, &mut batch);
                        assert_eq!(taken + 1, batch.len());
                        for slot in batch.iter().skip(1) {
                            assert_eq!(Some(number(slot)), model.pop_front());
                        }
                    }
                }
                assert_eq!(line.len(), model.len());
            }
            let left: Vec<u32> = line.drain().iter().map(number).collect();
            assert_eq!(left, Vec::from(model));
        }
    }
}
