use std::sync::atomic::Ordering;

use super::{Bells, Ending, Mailbox, Slot, State, halt};

/// The unhappy path: retries, and ends other than an acknowledgement.
impl Mailbox {
    /// A failed message starts to wait for its retry; it keeps its credit, and its lane if it has one.
    pub(crate) fn start_waiting(&self, key: Option<u64>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        state.waiting += 1;
        state.books.retried += 1;
        if let Some(key) = key {
            state.store.hold(key);
        }
        self.judge_stall(&mut state);
    }

    /// A wait is over: behind what is queued by now, or at the head of its lane (rule 7).
    pub(crate) fn end_waiting(&self, slot: Slot) {
        let bells = {
            let mut state = self.lock();
            state.waiting -= 1;
            state.store.retry(slot);
            self.judge_stall(&mut state);
            self.all_bells(&mut state)
        };
        bells.ring();
    }

    /// A failed message is tried again at once, by whichever worker comes first.
    pub(crate) fn retry_now(&self, slot: Slot) {
        let wakers = {
            let mut state = self.lock();
            state.in_flight -= 1;
            state.books.retried += 1;
            state.store.push_front(slot);
            state.seats.wake_all()
        };
        Bells(wakers).ring();
    }

    pub(crate) fn count_retry_in_hand(&self) {
        self.lock().books.retried += 1;
    }

    /// A message in flight reaches an end other than its acknowledgement.
    pub(crate) fn end_in_flight(&self, ending: Ending, key: Option<u64>) {
        let bells = {
            let mut state = self.lock();
            state.in_flight -= 1;
            self.end(&mut state, ending, key)
        };
        bells.ring();
    }

    /// A waiting message reaches an end without another attempt.
    pub(crate) fn end_waiting_as(&self, ending: Ending, key: Option<u64>) {
        let bells = {
            let mut state = self.lock();
            state.waiting -= 1;
            self.judge_stall(&mut state);
            self.end(&mut state, ending, key)
        };
        bells.ring();
    }

    fn end(&self, state: &mut State, ending: Ending, key: Option<u64>) -> Bells {
        state.books.count(ending);
        state.used -= 1;
        if let Some(key) = key {
            state.store.settled(key);
        }
        self.all_bells(state)
    }

    /// Takes out everything that is still queued, counted as `ending`.
    pub(crate) fn take_queued(&self, ending: Ending) -> Vec<Slot> {
        let (slots, bells) = {
            let mut state = self.lock();
            let slots = state.store.drain();
            for _ in &slots {
                state.books.count(ending);
            }
            state.used -= slots.len();
            (slots, state.serve_line(self.capacity))
        };
        bells.ring();
        slots
    }

    /// Idle workers, and publishers for whom there is room now.
    fn all_bells(&self, state: &mut State) -> Bells {
        let mut bells = state.serve_line(self.capacity);
        bells.0.append(&mut state.seats.wake_all());
        bells
    }

    fn judge_stall(&self, state: &mut State) {
        let half = (self.capacity / 2).max(1);
        // Other workers may each have one more failure in hand.
        let others = state.seats.running().saturating_sub(1);
        let waiting = state.waiting as usize;
        let stalled = waiting > 0 && waiting + others >= half.max(others + 1);
        let before = if stalled {
            self.halt.fetch_or(halt::STALLED, Ordering::Relaxed)
        } else {
            self.halt.fetch_and(!halt::STALLED, Ordering::Relaxed)
        };
        if stalled && before & halt::STALLED == 0 {
            state.stalls = state.stalls.saturating_add(1);
        }
    }
}
