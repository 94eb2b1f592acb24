use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Acks, FLUSH_AFTER, Flush, HOLE_IS_OLD, Stray, Wake};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn delivered(prefetch: u16, tags: u64) -> Acks {
    let mut acks = Acks::new(prefetch);
    for tag in 1..=tags {
        acks.delivered(tag).unwrap();
    }
    acks
}

#[test]
fn the_threshold_wakes_once_and_one_ack_covers_all() {
    let (mut acks, now) = (delivered(256, 200), Instant::now());
    assert_eq!(acks.complete(1, now), Ok(Wake::Timer));
    for tag in 2..64 {
        assert_eq!(acks.complete(tag, now), Ok(Wake::No));
    }
    assert_eq!(acks.complete(64, now), Ok(Wake::Now));
    assert_eq!(acks.complete(65, now), Ok(Wake::No));
    let flush = acks.flush(now, false);
    assert_eq!((flush.multiple, flush.look_again), (Some(65), None));
    assert_eq!(acks.complete(66, now), Ok(Wake::Timer));
}

#[test]
fn a_small_prefetch_lowers_the_threshold() {
    let (mut acks, now) = (delivered(10, 10), Instant::now());
    for tag in 1..5 {
        assert_ne!(acks.complete(tag, now), Ok(Wake::Now));
    }
    assert_eq!(acks.complete(5, now), Ok(Wake::Now));
    assert_eq!(delivered(1, 1).complete(1, now), Ok(Wake::Now));
}

#[test]
fn the_prefix_waits_five_milliseconds() {
    let (mut acks, now) = (delivered(256, 3), Instant::now());
    acks.complete(1, now).unwrap();
    let early = acks.flush(now + ms(4), false);
    assert_eq!(
        (early.multiple, early.look_again),
        (None, Some(now + FLUSH_AFTER))
    );
    assert_eq!(acks.flush(now + ms(5), false).multiple, Some(1));
}

#[test]
fn with_nothing_in_hand_nothing_waits() {
    let (mut acks, now) = (delivered(256, 2), Instant::now());
    acks.complete(2, now).unwrap();
    acks.complete(1, now).unwrap();
    assert_eq!(acks.flush(now, false).multiple, Some(2));
    assert_eq!((acks.outstanding(), acks.unsent()), (0, 0));
}

#[test]
fn what_completed_behind_an_old_hole_is_acked_singly() {
    let (mut acks, now) = (delivered(256, 5), Instant::now());
    acks.complete(3, now).unwrap();
    acks.complete(5, now + ms(20)).unwrap();
    let young = acks.flush(now + ms(49), false);
    assert_eq!(
        (young.multiple, young.look_again),
        (None, Some(now + HOLE_IS_OLD))
    );
    assert_eq!(acks.flush(now + ms(50), false).single, vec![3, 5]);
    // The hole is old already: what completes behind it now waits no longer than the prefix would.
    assert_eq!(acks.complete(4, now + ms(60)), Ok(Wake::Timer));
    assert_eq!(acks.flush(now + ms(65), false).single, vec![4]);
    acks.complete(1, now + ms(70)).unwrap();
    assert_eq!(acks.flush(now + ms(75), false).multiple, Some(1));
    acks.complete(2, now + ms(80)).unwrap();
    assert_eq!(acks.flush(now + ms(80), false).multiple, Some(2));
}

#[test]
fn a_multiple_ack_ends_on_a_tag_that_is_unacknowledged() {
    let (mut acks, now) = (delivered(256, 4), Instant::now());
    acks.complete(1, now).unwrap();
    acks.settled_otherwise(2, now).unwrap();
    acks.settled_otherwise(3, now).unwrap();
    assert_eq!(acks.flush(now + ms(5), false).multiple, Some(1));
    acks.settled_otherwise(4, now).unwrap();
    assert_eq!(acks.flush(now + ms(9), true), Flush::default());
}

#[test]
fn a_nack_that_closes_the_hole_wakes_for_what_waited_behind_it() {
    let (mut acks, now) = (delivered(8, 8), Instant::now());
    for tag in 2..=5 {
        acks.complete(tag, now).unwrap();
    }
    assert_eq!(acks.settled_otherwise(1, now), Ok(Wake::Now));
    assert_eq!(acks.flush(now, false).multiple, Some(5));
}

#[test]
fn a_stop_sends_all_that_was_done() {
    let (mut acks, now) = (delivered(256, 5), Instant::now());
    for tag in [1, 3, 5] {
        acks.complete(tag, now).unwrap();
    }
    let flush = acks.flush(now, true);
    assert_eq!((flush.multiple, flush.single), (Some(1), vec![3, 5]));
    assert_eq!((acks.outstanding(), acks.unsent()), (2, 0));
}

#[test]
fn stray_tags_are_reported_and_change_nothing() {
    let (mut acks, now) = (delivered(256, 3), Instant::now());
    acks.complete(2, now).unwrap();
    assert_eq!(acks.complete(2, now), Err(Stray::Settled(2)));
    assert_eq!(acks.settled_otherwise(2, now), Err(Stray::Settled(2)));
    assert_eq!(acks.complete(0, now), Err(Stray::Unknown(0)));
    assert_eq!(acks.complete(4, now), Err(Stray::Unknown(4)));
    assert_eq!(acks.complete(u64::MAX, now), Err(Stray::Unknown(u64::MAX)));
    for tag in [0, 3, 5, u64::MAX] {
        let stray = Stray::OutOfSequence { tag, expected: 4 };
        assert_eq!(acks.delivered(tag), Err(stray));
    }
    acks.complete(1, now).unwrap();
    assert_eq!(acks.complete(1, now), Err(Stray::Settled(1)));
    assert_eq!((acks.outstanding(), acks.unsent()), (1, 2));
    assert!(acks.is_in_hand(3) && !acks.is_in_hand(1) && !acks.is_in_hand(4));
}

#[test]
fn overlapping_holes_leave_nothing_behind_in_memory() {
    let (mut acks, now) = (delivered(256, 1), Instant::now());
    for even in (2..200_000).step_by(2) {
        acks.delivered(even).unwrap();
        acks.delivered(even + 1).unwrap();
        // The next hole has something behind it before this one is closed.
        acks.complete(even, now).unwrap();
        if even > 2 {
            acks.complete(even - 3, now).unwrap();
        }
        if even % 64 == 0 {
            acks.flush(now, false);
        }
        assert_eq!(acks.behind, 1);
        assert!(acks.slots.len() < 8 && acks.behind_tags.capacity() <= 256);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    InHand,
    Completed,
    Acked,
    Otherwise,
}

/// The broker's side and the contract, by going through every tag each time.
struct Model {
    threshold: usize,
    states: Vec<State>,
    joined: Vec<Option<Instant>>,
    hole: Option<(usize, Option<Instant>)>,
    known: Wake,
}

impl Model {
    fn hole(&self) -> usize {
        let hole = self.states.iter().position(|&state| state == State::InHand);
        hole.unwrap_or(self.states.len())
    }

    fn completed(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        range
            .filter(|&at| self.states[at] == State::Completed)
            .collect()
    }

    fn settle(&mut self, tag: u64, state: State, now: Instant) -> Result<(), Stray> {
        if tag == 0 || tag > self.states.len() as u64 {
            return Err(Stray::Unknown(tag));
        }
        let at = (tag - 1) as usize;
        if self.states[at] != State::InHand {
            return Err(Stray::Settled(tag));
        }
        self.states[at] = state;
        let hole = self.hole();
        for at in self.completed(0..hole) {
            self.joined[at].get_or_insert(now);
        }
        let since = match self.hole {
            Some((same, since)) if same == hole => since,
            _ => None,
        };
        let behind = self.completed(hole..self.states.len());
        self.hole = Some((hole, since.or((!behind.is_empty()).then_some(now))));
        Ok(())
    }

    fn woken(&mut self, wake: Wake) {
        assert!(wake == Wake::No || wake > self.known, "said twice");
        self.known = self.known.max(wake);
        let hole = self.hole();
        if !self.completed(0..self.states.len()).is_empty() {
            assert!(self.known >= Wake::Timer, "an ack waits, and nobody knows");
        }
        if self.completed(0..hole).len() >= self.threshold {
            assert_eq!(self.known, Wake::Now);
        }
    }

    fn flush(&mut self, now: Instant, force: bool) -> Flush {
        let hole = self.hole();
        let (prefix, behind) = (
            self.completed(0..hole),
            self.completed(hole..self.states.len()),
        );
        let mut expected = Flush::default();
        let mut look_again = Vec::new();
        if let Some(&last) = prefix.last() {
            let due = prefix
                .iter()
                .filter_map(|&at| self.joined[at])
                .min()
                .unwrap()
                + FLUSH_AFTER;
            let idle = !self.states.contains(&State::InHand);
            if force || idle || prefix.len() >= self.threshold || now >= due {
                expected.multiple = Some(last as u64 + 1);
            } else {
                look_again.push(due);
            }
        }
        if !behind.is_empty() {
            let due = self.hole.unwrap().1.unwrap() + HOLE_IS_OLD;
            if force || now >= due {
                expected.single = behind.iter().map(|&at| at as u64 + 1).collect();
            } else {
                look_again.push(due);
            }
        }
        expected.look_again = look_again.into_iter().min();
        expected
    }

    /// What RabbitMQ does with the frames; it closes the channel where this panics.
    fn send(&mut self, flush: &Flush) {
        if let Some(last) = flush.multiple {
            let last = last as usize - 1;
            assert_eq!(
                self.states[last],
                State::Completed,
                "not itself unacknowledged"
            );
            for state in &mut self.states[..=last] {
                assert_ne!(*state, State::InHand, "acked what nobody completed");
                if *state == State::Completed {
                    *state = State::Acked;
                }
            }
        }
        for &tag in &flush.single {
            let state = &mut self.states[tag as usize - 1];
            assert_eq!(*state, State::Completed, "acked twice or too early");
            *state = State::Acked;
        }
        self.known = if flush.look_again.is_some() {
            Wake::Timer
        } else {
            Wake::No
        };
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(u8),
    DeliverWrong(u64),
    Complete(u16),
    Otherwise(u16),
    Wait(u64),
    Flush(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..20_u8).prop_map(Step::Deliver),
        1 => (0..100_u64).prop_map(Step::DeliverWrong),
        20 => any::<u16>().prop_map(Step::Complete),
        3 => any::<u16>().prop_map(Step::Otherwise),
        4 => (0..30_u64).prop_map(Step::Wait),
        4 => prop::bool::weighted(0.1).prop_map(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_the_plain_model(
        prefetch in prop_oneof![0..12_u16, Just(256)],
        window in prop_oneof![Just(4_u16), Just(40)],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut now = Instant::now();
        let mut acks = Acks::new(prefetch);
        let mut model = Model {
            threshold: 64.min(usize::from(prefetch) / 2).max(1),
            states: Vec::new(),
            joined: Vec::new(),
            hole: None,
            known: Wake::No,
        };
        for step in steps {
            // Mostly a tag near the hole, so that prefixes grow; sometimes a settled or an unknown one.
            let near = |model: &Model, pick: u16| {
                (model.hole() as u64 + u64::from(pick % window)).saturating_sub(1)
            };
            match step {
                Step::Deliver(count) => for _ in 0..count {
                    model.states.push(State::InHand);
                    model.joined.push(None);
                    prop_assert_eq!(acks.delivered(model.states.len() as u64), Ok(()));
                },
                Step::DeliverWrong(tag) => {
                    let expected = model.states.len() as u64 + 1;
                    if tag != expected {
                        prop_assert_eq!(acks.delivered(tag), Err(Stray::OutOfSequence { tag, expected }));
                    }
                }
                Step::Complete(pick) => {
                    let tag = near(&model, pick);
                    let expected = model.settle(tag, State::Completed, now);
                    let wake = acks.complete(tag, now);
                    prop_assert_eq!(wake.map(drop), expected);
                    if let Ok(wake) = wake { model.woken(wake); }
                }
                Step::Otherwise(pick) => {
                    let tag = near(&model, pick);
                    let expected = model.settle(tag, State::Otherwise, now);
                    let wake = acks.settled_otherwise(tag, now);
                    prop_assert_eq!(wake.map(drop), expected);
                    if let Ok(wake) = wake { model.woken(wake); }
                }
                Step::Wait(millis) => now += ms(millis),
                Step::Flush(force) => {
                    let mut flush = acks.flush(now, force);
                    flush.single.sort_unstable();
                    prop_assert_eq!(&flush, &model.flush(now, force));
                    model.send(&flush);
                }
            }
            let in_hand = model.states.iter().filter(|&&state| state == State::InHand).count();
            prop_assert_eq!(acks.outstanding(), in_hand);
            prop_assert_eq!(acks.unsent(), model.completed(0..model.states.len()).len());
        }
        let mut rest = acks.flush(now, true);
        rest.single.sort_unstable();
        model.send(&rest);
        prop_assert!(!model.states.contains(&State::Completed), "a stop left an ack unsent");
    }
}
