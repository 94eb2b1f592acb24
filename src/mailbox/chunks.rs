use std::collections::VecDeque;

use super::Slot;
use super::take::BATCH;

/// A line of messages, cut into pieces of a worker's batch: a worker takes a whole piece by exchanging it for
/// its empty one, so that no message is moved between the push and the handler.
#[derive(Default)]
pub(super) struct Chunks {
    /// What is handed out next. Empty only if everything is.
    front: VecDeque<Slot>,
    /// What does not fit into the front piece; none for a queue that was never that long.
    rest: Option<Box<Rest>>,
}

#[derive(Default)]
struct Rest {
    chunks: VecDeque<VecDeque<Slot>>,
    len: usize,
    /// Emptied pieces, to be used again.
    spares: Vec<VecDeque<Slot>>,
}

/// The most emptied pieces that a queue keeps.
const SPARES: usize = 16;

impl Chunks {
    #[inline]
    pub(super) fn push_back(&mut self, slot: Slot) {
        if self.front.len() < BATCH && self.rest.as_ref().is_none_or(|rest| rest.len == 0) {
            self.front.push_back(slot);
        } else {
            self.rest.get_or_insert_default().push_back(slot);
        }
    }

    pub(super) fn push_front(&mut self, slot: Slot) {
        self.front.push_front(slot);
    }

    pub(super) fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.front.pop_front();
        self.refill();
        slot
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    /// Hands out up to `max`, not more than the front piece has.
    #[inline]
    pub(super) fn take(&mut self, max: usize, batch: &mut VecDeque<Slot>) -> usize {
        let taken = max.min(self.front.len());
        if taken == self.front.len() && batch.is_empty() {
            std::mem::swap(&mut self.front, batch);
        } else {
            batch.extend(self.front.drain(..taken));
        }
        self.refill();
        taken
    }

    pub(super) fn drain(&mut self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.front.drain(..).collect();
        if let Some(rest) = self.rest.take() {
            slots.extend(rest.chunks.into_iter().flatten());
        }
        slots
    }

    #[inline]
    fn refill(&mut self) {
        if self.front.is_empty()
            && let Some(rest) = &mut self.rest
            && let Some(next) = rest.chunks.pop_front()
        {
            rest.len -= next.len();
            let empty = std::mem::replace(&mut self.front, next);
            if empty.capacity() >= BATCH && rest.spares.len() < SPARES {
                rest.spares.push(empty);
            }
        }
    }
}

impl Rest {
    fn push_back(&mut self, slot: Slot) {
        self.len += 1;
        match self.chunks.back_mut() {
            Some(last) if last.len() < BATCH => last.push_back(slot),
            _ => {
                let spare = self.spares.pop();
                let mut chunk = spare.unwrap_or_else(|| VecDeque::with_capacity(BATCH));
                chunk.push_back(slot);
                self.chunks.push_back(chunk);
            }
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
        Slot::new(Held::Shared(parcel(envelope, number)), false)
    }

    fn number(slot: &Slot) -> u32 {
        slot.parcel.envelope().id.as_u128() as u32
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
                            line.push_back(slot(next));
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
