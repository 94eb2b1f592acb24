use std::collections::{BTreeMap, HashMap, VecDeque};

/// Keyed order: messages of one key are handed out one after another, over retries too (contract, rule 7).
///
/// Every message gets a number at its acceptance. What may be handed out stands in `ready` by that number,
/// so lanes are served in the order of acceptance. A lane exists while its key has a message in hand,
/// waiting for a retry, or ready; later messages of the key are parked in it. All operations are O(log n).
pub(crate) struct Lanes<T> {
    ready: BTreeMap<u64, (Option<u64>, T)>,
    lanes: HashMap<u64, Lane<T>>,
    /// The numbers of messages handed out, so that one that is put back finds its place again.
    out: HashMap<u64, u64>,
    next: u64,
    parked: usize,
    /// Numbers below every accepted one, for unkeyed messages that come back to the front.
    front: u64,
}

struct Lane<T> {
    parked: VecDeque<(u64, T)>,
    held: bool,
}

/// Numbers of accepted messages start in the middle: there is room in front of them.
const MIDDLE: u64 = 1 << 63;

impl<T> Lanes<T> {
    pub(crate) fn new() -> Self {
        Self {
            ready: BTreeMap::new(),
            lanes: HashMap::new(),
            out: HashMap::new(),
            next: MIDDLE,
            parked: 0,
            front: MIDDLE,
        }
    }

    /// Accepts a message behind all others.
    pub(crate) fn push(&mut self, key: Option<u64>, item: T) {
        let number = self.next;
        self.next += 1;
        let Some(key) = key else {
            self.ready.insert(number, (None, item));
            return;
        };
        match self.lanes.get_mut(&key) {
            Some(lane) => {
                lane.parked.push_back((number, item));
                self.parked += 1;
            }
            None => {
                self.lanes.insert(
                    key,
                    Lane {
                        parked: VecDeque::new(),
                        held: false,
                    },
                );
                self.ready.insert(number, (Some(key), item));
            }
        }
    }

    /// Hands out up to `max` messages, at most one of each key.
    pub(crate) fn take(&mut self, max: usize, out: &mut impl FnMut(Option<u64>, T)) {
        for _ in 0..max {
            let Some((number, (key, item))) = self.ready.pop_first() else {
                return;
            };
            if let Some(key) = key {
                self.out.insert(key, number);
            }
            out(key, item);
        }
    }

    /// The message in hand of this key is settled for good: its lane goes on.
    pub(crate) fn settled(&mut self, key: u64) {
        self.out.remove(&key);
        let Some(lane) = self.lanes.get_mut(&key) else {
            return;
        };
        lane.held = false;
        match lane.parked.pop_front() {
            Some((number, item)) => {
                self.parked -= 1;
                self.ready.insert(number, (Some(key), item));
            }
            None => {
                self.lanes.remove(&key);
            }
        }
    }

    /// The message of this key waits for a delayed retry: its lane waits with it.
    pub(crate) fn hold(&mut self, key: u64) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.held = true;
        }
    }

    /// A retry is due: at the head of its lane; behind all others if it has no key.
    pub(crate) fn retry(&mut self, key: Option<u64>, item: T) {
        match key {
            Some(key) => self.return_to_lane(key, item),
            None => self.push(None, item),
        }
    }

    /// A message that was handed out and not started goes back to where it stood.
    pub(crate) fn put_back(&mut self, key: Option<u64>, item: T) {
        match key {
            Some(key) => self.return_to_lane(key, item),
            None => {
                self.front -= 1;
                self.ready.insert(self.front, (None, item));
            }
        }
    }

    fn return_to_lane(&mut self, key: u64, item: T) {
        let number = self.out.remove(&key).unwrap_or_else(|| {
            self.front -= 1;
            self.front
        });
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.held = false;
        }
        self.ready.insert(number, (Some(key), item));
    }

    /// Takes out the oldest message that was not handed out.
    pub(crate) fn drop_oldest(&mut self) -> Option<T> {
        let parked = self
            .lanes
            .iter()
            .filter_map(|(key, lane)| lane.parked.front().map(|(number, _)| (*number, *key)))
            .min();
        let ready = self.ready.first_key_value().map(|(number, _)| *number);
        match (ready, parked) {
            (Some(number), Some((other, _))) if number < other => self.drop_ready(),
            (Some(_), None) => self.drop_ready(),
            (_, Some((_, key))) => {
                let lane = self.lanes.get_mut(&key)?;
                self.parked -= 1;
                lane.parked.pop_front().map(|(_, item)| item)
            }
            (None, None) => None,
        }
    }

    fn drop_ready(&mut self) -> Option<T> {
        let (_, (key, item)) = self.ready.pop_first()?;
        if let Some(key) = key {
            self.settled(key);
        }
        Some(item)
    }

    /// Messages that could be handed out now.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Messages that were not handed out, parked ones included.
    pub(crate) fn queued(&self) -> usize {
        self.ready.len() + self.parked
    }

    pub(crate) fn is_held(&self, key: u64) -> bool {
        self.lanes.get(&key).is_some_and(|lane| lane.held)
    }

    pub(crate) fn parked_behind(&self, key: u64) -> usize {
        self.lanes.get(&key).map_or(0, |lane| lane.parked.len())
    }

    /// Takes out everything that was not handed out, in the order of acceptance.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut all: Vec<(u64, T)> = std::mem::take(&mut self.ready)
            .into_iter()
            .map(|(number, (_, item))| (number, item))
            .collect();
        for lane in self.lanes.values_mut() {
            all.extend(lane.parked.drain(..));
        }
        self.parked = 0;
        let out = &self.out;
        self.lanes.retain(|key, _| out.contains_key(key));
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Option<u64>),
        Take(usize),
        Settle(usize),
        Hold(usize),
        Due(usize),
        PutBack(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::option::weighted(0.8, 0u64..4).prop_map(Step::Push),
            3 => (1usize..5).prop_map(Step::Take),
            3 => (0usize..8).prop_map(Step::Settle),
            1 => (0usize..8).prop_map(Step::Hold),
            1 => (0usize..8).prop_map(Step::Due),
            1 => (0usize..8).prop_map(Step::PutBack),
        ]
    }

    proptest! {
        /// Over any mix of retries and returns: one in hand per key, every key in order, nothing lost or
        /// doubled, and what has another key or none is never stopped by a lane that waits.
        #[test]
        fn keys_keep_their_order(steps in proptest::collection::vec(step(), 0..200)) {
            let mut lanes = Lanes::new();
            let mut pushed = 0u64;
            let mut hand: Vec<(Option<u64>, u64)> = Vec::new();
            let mut waiting: Vec<(Option<u64>, u64)> = Vec::new();
            let mut done: Vec<(Option<u64>, u64)> = Vec::new();
            let pick = |from: &mut Vec<(Option<u64>, u64)>, at: usize| {
                if from.is_empty() { None } else { let at = at % from.len(); Some(from.remove(at)) }
            };
            for step in steps {
                match step {
                    Step::Push(key) => { lanes.push(key, pushed); pushed += 1; }
                    Step::Take(max) => lanes.take(max, &mut |key, item| hand.push((key, item))),
                    Step::Settle(at) => if let Some((key, item)) = pick(&mut hand, at) {
                        done.push((key, item));
                        if let Some(key) = key { lanes.settled(key); }
                    },
                    Step::Hold(at) => if let Some((key, item)) = pick(&mut hand, at) {
                        waiting.push((key, item));
                        if let Some(key) = key { lanes.hold(key); }
                    },
                    Step::Due(at) => if let Some((key, item)) = pick(&mut waiting, at) {
                        lanes.retry(key, item);
                    },
                    Step::PutBack(at) => if let Some((key, item)) = pick(&mut hand, at) {
                        lanes.put_back(key, item);
                    },
                }
                for key in 0..4 {
                    let busy = hand.iter().chain(&waiting).filter(|(known, _)| *known == Some(key)).count();
                    prop_assert!(busy <= 1, "one of a key at a time");
                }
                prop_assert_eq!(lanes.queued() + hand.len() + waiting.len() + done.len(), pushed as usize);
            }
            // Let everything run out: nothing may be stuck.
            loop {
                for (key, item) in std::mem::take(&mut waiting) { lanes.retry(key, item); }
                lanes.take(2, &mut |key, item| hand.push((key, item)));
                if hand.is_empty() { break; }
                for (key, item) in std::mem::take(&mut hand) {
                    done.push((key, item));
                    if let Some(key) = key { lanes.settled(key); }
                }
            }
            prop_assert_eq!(lanes.queued(), 0);
            prop_assert!(lanes.lanes.is_empty() && lanes.out.is_empty(), "an empty lane costs nothing");
            for key in 0..4 {
                let order: Vec<u64> = done.iter().filter(|(known, _)| *known == Some(key)).map(|(_, item)| *item).collect();
                prop_assert!(order.is_sorted(), "{order:?}");
            }
            let mut all: Vec<u64> = done.iter().map(|(_, item)| *item).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
        }

        #[test]
        fn the_oldest_is_dropped_first(keys in proptest::collection::vec(proptest::option::of(0u64..3), 1..50)) {
            let mut lanes = Lanes::new();
            for (item, key) in keys.iter().enumerate() { lanes.push(*key, item); }
            let dropped: Vec<usize> = std::iter::from_fn(|| lanes.drop_oldest()).collect();
            prop_assert_eq!(dropped, (0..keys.len()).collect::<Vec<_>>());
        }
    }
}
