use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::message::MessageId;
use crate::store::TakenRow;

/// What a process has in hand of one queue, and by what right. Pure: the time is passed in.
#[derive(Default)]
pub(super) struct Hand {
    /// The number of the taking over, and until when it may be acted on by this process's own monotonic clock.
    held: Option<(i64, Instant)>,
    /// Deliveries that can be settled, by their tokens.
    deliveries: HashMap<u64, Delivery>,
    /// Rows that are not to be taken again: those of the deliveries, and those whose settlement is not written yet.
    taken: HashSet<i64>,
    /// Deliveries that are not to be started, since the lease had run out meanwhile and others may have gone back: they
    /// follow those, and all are read again in their order.
    returning: HashSet<u64>,
    last_token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) position: i64,
    pub(super) message: MessageId,
    /// The subscription that it was handed to.
    owner: u64,
    /// Its dead letter is stored, and its row is gone.
    pub(super) is_buried: bool,
    is_started: bool,
}

/// What a renewal of the lease is for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    InTime,
    /// The lease had run out here, so that what could not be read since then is to be read now.
    Late,
    /// It is another taking over than before: all that was in hand had to go.
    Another,
}

impl Hand {
    /// The database says that the queue is held.
    pub(super) fn renewed(&mut self, fence: i64, valid_until: Instant, now: Instant) -> Renewal {
        match self.held.replace((fence, valid_until)) {
            Some((known, until)) if known == fence => match now < until {
                true => Renewal::InTime,
                false => {
                    let unstarted = self
                        .deliveries
                        .iter()
                        .filter(|(_, known)| !known.is_started);
                    self.returning.extend(unstarted.map(|(token, _)| *token));
                    Renewal::Late
                }
            },
            _ => {
                self.clear();
                Renewal::Another
            }
        }
    }

    /// It is held by another process. True: it was held here.
    pub(super) fn lost(&mut self) -> bool {
        self.clear();
        self.held.take().is_some()
    }

    fn clear(&mut self) {
        self.deliveries.clear();
        self.taken.clear();
        self.returning.clear();
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The fence, while the lease has not run out.
    pub(super) fn fence(&self, now: Instant) -> Option<i64> {
        self.held
            .filter(|(_, valid_until)| now < *valid_until)
            .map(|(fence, _)| fence)
    }

    pub(super) fn taken(&self) -> impl Iterator<Item = i64> + '_ {
        self.taken.iter().copied()
    }

    pub(super) fn count_taken(&self) -> usize {
        self.taken.len()
    }

    /// Rows whose settlement is not written yet.
    pub(super) fn count_settling(&self) -> usize {
        self.taken.len().saturating_sub(self.deliveries.len())
    }

    /// Takes a row in for a subscription. None: it is in hand already.
    pub(super) fn take(&mut self, position: i64, message: MessageId, owner: u64) -> Option<u64> {
        if !self.taken.insert(position) {
            return None;
        }
        self.last_token += 1;
        let delivery = Delivery {
            position,
            message,
            owner,
            is_buried: false,
            is_started: false,
        };
        self.deliveries.insert(self.last_token, delivery);
        Some(self.last_token)
    }

    /// Whether a delivery can still be settled: also when the lease has run out here, for as long as nobody else is known to
    /// have taken the queue over. The database refuses what is settled too late.
    pub(super) fn is_live(&self, token: u64) -> bool {
        self.held.is_some() && self.deliveries.contains_key(&token)
    }

    /// Whether a delivery may be handed to a handler. From then on it is started.
    pub(super) fn may_start(&mut self, token: u64, now: Instant) -> bool {
        let may = self.fence(now).is_some() && !self.returning.contains(&token);
        match self.deliveries.get_mut(&token) {
            Some(delivery) if may => {
                delivery.is_started = true;
                true
            }
            _ => false,
        }
    }

    /// A delivery that was started and goes back when what became of it is written; until then nothing overtakes it.
    /// Answers with its row.
    pub(super) fn goes_back(&mut self, token: u64) -> Option<TakenRow> {
        let row = self.row(token)?;
        let is_started = self.is_started(token);
        is_started.then(|| {
            self.returning.insert(token);
            row
        })
    }

    pub(super) fn is_started(&self, token: u64) -> bool {
        let delivery = self.deliveries.get(&token);
        delivery.is_some_and(|delivery| delivery.is_started)
    }

    /// Whether deliveries are on their way back that others must not overtake.
    pub(super) fn awaits_returns(&self) -> bool {
        !self.returning.is_empty()
    }

    /// A delivery and its row, to be settled; it stays in hand.
    pub(super) fn row(&self, token: u64) -> Option<TakenRow> {
        let (fence, _) = self.held?;
        let delivery = self.deliveries.get(&token)?;
        Some(TakenRow {
            position: delivery.position,
            fence,
        })
    }

    /// A delivery that is settled; its row stays taken until that is written.
    pub(super) fn settle(&mut self, token: u64) -> Option<(Delivery, i64)> {
        let (fence, _) = self.held?;
        let delivery = self.deliveries.remove(&token)?;
        self.returning.remove(&token);
        Some((delivery, fence))
    }

    pub(super) fn buried(&mut self, token: u64) {
        if let Some(delivery) = self.deliveries.get_mut(&token) {
            delivery.is_buried = true;
        }
    }

    /// A delivery that goes back, untouched. Whether it was in hand.
    pub(super) fn give_back(&mut self, token: u64) -> bool {
        let delivery = self.deliveries.remove(&token);
        self.returning.remove(&token);
        delivery.is_some_and(|delivery| self.taken.remove(&delivery.position))
    }

    /// What is not started goes back, untouched. What is started can still be settled.
    pub(super) fn drop_unstarted(&mut self) {
        self.returning.clear();
        self.drop_where(|delivery| !delivery.is_started);
    }

    /// All deliveries of a subscription go back.
    pub(super) fn drop_of(&mut self, owner: u64) {
        self.drop_where(|delivery| delivery.owner == owner);
    }

    fn drop_where(&mut self, mut goes: impl FnMut(&Delivery) -> bool) {
        let gone = self.deliveries.extract_if(|_, delivery| goes(delivery));
        for (token, delivery) in gone {
            self.returning.remove(&token);
            self.taken.remove(&delivery.position);
        }
    }

    /// Whether a former subscription still has something in hand.
    pub(super) fn has_of_others(&self, owner: u64) -> bool {
        let mut deliveries = self.deliveries.values();
        deliveries.any(|delivery| delivery.owner != owner)
    }

    /// The settlement of a row is written.
    pub(super) fn written(&mut self, position: i64, fence: i64) {
        if self.held.is_some_and(|(held, _)| held == fence) {
            self.taken.remove(&position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn held(now: Instant) -> Hand {
        let mut hand = Hand::default();
        let renewal = hand.renewed(1, now + Duration::from_secs(1), now);
        assert_eq!(renewal, Renewal::Another);
        hand
    }

    #[test]
    fn nothing_overtakes_what_goes_back_when_its_failures_are_written() {
        let now = Instant::now();
        let mut hand = held(now);
        let (tried, untouched) = (
            hand.take(7, MessageId::new(), 1).unwrap(),
            hand.take(8, MessageId::new(), 1).unwrap(),
        );
        assert!(hand.may_start(tried, now));
        assert!(hand.goes_back(untouched).is_none(), "it has no failures");
        assert_eq!(hand.goes_back(tried).unwrap().position, 7);
        assert!(hand.awaits_returns() && !hand.may_start(tried, now));
        assert!(hand.take(7, MessageId::new(), 1).is_none());
        assert!(hand.give_back(tried) && !hand.awaits_returns());
        assert!(hand.take(7, MessageId::new(), 1).is_some());
    }

    #[test]
    fn a_row_is_not_taken_again_before_its_settlement_is_written() {
        let now = Instant::now();
        let mut hand = held(now);
        let token = hand.take(7, MessageId::new(), 1).unwrap();
        assert!(hand.take(7, MessageId::new(), 1).is_none());
        assert!(hand.settle(token).is_some());
        assert!(!hand.is_live(token), "a delivery is not settled twice");
        assert_eq!((hand.count_taken(), hand.count_settling()), (1, 1));
        hand.written(7, 1);
        assert!(hand.take(7, MessageId::new(), 1).is_some());
    }

    #[test]
    fn nothing_is_started_under_a_lease_that_has_run_out_and_all_goes_on_when_it_is_renewed() {
        let now = Instant::now();
        let late = now + Duration::from_secs(1);
        let mut hand = held(now);
        let token = hand.take(7, MessageId::new(), 1).unwrap();
        assert!(hand.is_live(token));
        assert!(!hand.may_start(token, late));
        // What was given up is settled all the same: it would be handed over once more.
        assert!(hand.is_live(token));
        let renewal = hand.renewed(1, late + Duration::from_secs(1), late);
        assert_eq!(renewal, Renewal::Late);
        assert!(hand.is_live(token));
        let renewal = hand.renewed(1, late + Duration::from_secs(2), late);
        assert_eq!(renewal, Renewal::InTime);
    }

    #[test]
    fn what_was_not_started_before_a_late_renewal_goes_back_so_that_nothing_overtakes_it() {
        let now = Instant::now();
        let late = now + Duration::from_secs(1);
        let mut hand = held(now);
        let [running, gone, next] = [1, 2, 3].map(|at| hand.take(at, MessageId::new(), 1).unwrap());
        assert!(hand.may_start(running, now));
        assert!(!hand.may_start(gone, late));
        assert!(hand.give_back(gone));
        hand.renewed(1, late + Duration::from_secs(1), late);
        // The third would overtake the second.
        assert!(!hand.may_start(next, late) && hand.awaits_returns());
        assert!(hand.give_back(next));
        assert!(!hand.awaits_returns());
        // What runs is settled as ever, and may be handed over again at once.
        assert!(hand.may_start(running, late) && hand.settle(running).is_some());
        let again = hand.take(2, MessageId::new(), 1).unwrap();
        assert!(hand.may_start(again, late));
    }

    #[test]
    fn another_taking_over_leaves_nothing_in_hand() {
        let now = Instant::now();
        let mut hand = held(now);
        let token = hand.take(7, MessageId::new(), 1).unwrap();
        let renewal = hand.renewed(3, now + Duration::from_secs(1), now);
        assert_eq!(renewal, Renewal::Another);
        assert!(!hand.is_live(token) && hand.settle(token).is_none());
        assert!(hand.take(7, MessageId::new(), 1).is_some());
        // What was written under the former fence does not free what was taken under this one.
        hand.written(7, 1);
        assert_eq!(hand.count_taken(), 1);
        assert!(hand.lost());
        assert_eq!((hand.count_taken(), hand.fence(now)), (0, None));
    }

    #[test]
    fn what_a_former_subscription_has_not_started_can_be_taken_and_the_rest_be_settled() {
        let now = Instant::now();
        let mut hand = held(now);
        let [settled, running, left] = [1, 2, 3].map(|at| {
            let token = hand.take(at, MessageId::new(), 1);
            token.unwrap()
        });
        assert!(hand.settle(settled).is_some());
        assert!(hand.may_start(running, now));
        hand.drop_unstarted();
        assert!(!hand.is_live(left) && hand.is_live(running));
        let taken = [1, 2, 3].map(|at| hand.take(at, MessageId::new(), 2).is_some());
        assert_eq!(taken, [false, false, true]);
        assert!(hand.has_of_others(2));
        assert!(hand.settle(running).is_some());
        assert!(!hand.has_of_others(2));
    }

    #[test]
    fn what_a_subscription_that_is_gone_has_left_can_be_taken() {
        let now = Instant::now();
        let mut hand = held(now);
        let left = hand.take(1, MessageId::new(), 1).unwrap();
        assert!(hand.may_start(left, now));
        hand.drop_of(2);
        assert!(hand.is_live(left));
        hand.drop_of(1);
        assert!(!hand.is_live(left));
        assert!(hand.take(1, MessageId::new(), 2).is_some());
    }

    #[test]
    fn what_goes_back_can_be_taken_at_once() {
        let mut hand = held(Instant::now());
        let token = hand.take(7, MessageId::new(), 1).unwrap();
        assert!(hand.give_back(token));
        assert!(!hand.give_back(token));
        assert!(hand.take(7, MessageId::new(), 1).is_some());
    }
}
