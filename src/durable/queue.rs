mod settling;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::agenda::Agenda;
use super::hand::{Hand, Renewal};
use super::replies::Replies;
use super::writes::Writes;
use crate::delivery::{NEVER, Order};
use crate::mailbox::{Ending, Slot};
use crate::message::MessageId;
use crate::queue::QueueCore;
use crate::store::TakeQueued;

pub(super) use settling::{failures_of, millis};

/// How often rows are counted.
const COUNT: Duration = Duration::from_secs(30);
/// How soon it is looked again whether few rows that are free for can be read together with others.
const SOON: Duration = Duration::from_millis(5);
/// The most rows that are read at once.
const MOST_AT_ONCE: usize = 512;

/// A durable queue, as workers settle and as the parts see it. Outlives every connection.
pub(super) struct StoreQueue {
    pub(super) name: Arc<str>,
    pub(super) writes: Arc<Writes>,
    /// Rung when the consumer has something to look at.
    pub(super) look: Arc<Notify>,
    /// The one that is subscribed now: a group may be subscribed again while its former one still ends.
    core: Mutex<Weak<QueueCore>>,
    state: Mutex<State>,
    pub(super) replies: Arc<Replies>,
    /// It hands out nothing more; what is in hand can still be settled.
    detached: AtomicBool,
    /// Rows of the queue: what was counted last, and what this process has written and deleted since.
    pub(super) rows: AtomicI64,
    /// Rung when there are fewer rows.
    pub(super) room: Notify,
}

#[derive(Default)]
struct State {
    hand: Hand,
    agenda: Agenda,
    /// When it was asked last how many rows there are, and whether that was answered.
    count_asked_at: Option<Instant>,
    is_counted: bool,
}

impl StoreQueue {
    pub(super) fn new(
        name: Arc<str>,
        writes: Arc<Writes>,
        look: Arc<Notify>,
        replies: Arc<Replies>,
    ) -> Self {
        Self {
            name,
            writes,
            look,
            core: Mutex::default(),
            state: Mutex::default(),
            replies,
            detached: AtomicBool::new(false),
            rows: AtomicI64::new(0),
            room: Notify::new(),
        }
    }

    /// False: it was attached already.
    pub(super) fn attach(&self, core: &Arc<QueueCore>) -> bool {
        if self.is_of(core) {
            return false;
        }
        let mut state = self.state.lock();
        // What a former subscription has not started is handed out by this one; it settles what it has begun.
        state.hand.drop_unstarted();
        state.agenda.may_have_come();
        *self.core.lock() = Arc::downgrade(core);
        self.detached.store(false, Ordering::Release);
        true
    }

    pub(super) fn core(&self) -> Option<Arc<QueueCore>> {
        self.core.lock().upgrade()
    }

    /// What a subscription that has ended left in hand goes back.
    pub(super) fn drop_left(&self, core: &QueueCore) {
        let mut state = self.state.lock();
        state.hand.drop_of(core.id);
        state.agenda.has_come();
        self.look.notify_one();
    }

    /// A subscription has ended, and the queue is to be given up, as `leave` says. False: another one has begun.
    ///
    /// One that begins from here on gets nothing under the fence that is being given up.
    pub(super) fn release(&self, core: &QueueCore, leave: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        let mut known = self.core.lock();
        let is_mine = std::ptr::eq(known.as_ptr(), core);
        if is_mine {
            *known = Weak::new();
            leave();
            state.hand.lost();
        }
        is_mine
    }

    /// Whether this is the subscription that it is attached for.
    pub(super) fn is_of(&self, core: &QueueCore) -> bool {
        std::ptr::eq(self.core.lock().as_ptr(), core)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.core().is_some()
    }

    /// Stops to hand out. What was not started goes back.
    pub(super) fn detach(&self, core: &QueueCore) {
        if !self.is_of(core) {
            return;
        }
        {
            // Under the lock, under which the consumer hands out.
            let _state = self.state.lock();
            self.detached.store(true, Ordering::Release);
        }
        for slot in core.mailbox.take_queued(Ending::Returned) {
            self.give_back(slot.record().token);
        }
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// The database says that this process has the queue. It has not, if it was [released](Self::release) since that was
    /// asked.
    pub(super) fn renewed(
        &self,
        fence: i64,
        valid_until: Instant,
        is_leaving: impl FnOnce() -> bool,
    ) {
        // What goes back may be the last of a user's message, whose drop is not to run under the lock.
        let (renewal, _returned) = {
            let mut state = self.state.lock();
            if is_leaving() {
                return;
            }
            let renewal = state.hand.renewed(fence, valid_until, Instant::now());
            let mut returned = Vec::new();
            match renewal {
                Renewal::InTime => {}
                Renewal::Late => returned = self.return_queued(&mut state),
                Renewal::Another => state.agenda.may_have_come(),
            }
            (renewal, returned)
        };
        if renewal == Renewal::Another {
            self.drop_queued();
        }
        if renewal != Renewal::InTime {
            self.look.notify_one();
        }
    }

    /// What was handed out and not started goes back. Workers would do that, but to what is behind a key that waits for its
    /// retry they do not come before that.
    fn return_queued(&self, state: &mut State) -> Vec<Slot> {
        let Some(core) = self.core().filter(|_| !self.is_detached()) else {
            return Vec::new();
        };
        let queued = core.mailbox.take_queued(Ending::Returned);
        let (mut started, mut returned): (Vec<_>, Vec<_>) = queued
            .into_iter()
            .partition(|slot| state.hand.is_started(slot.record().token));
        if !returned.is_empty() {
            state.agenda.has_come();
        }
        // A retry that is due is tried here, and its key waits for it; where nothing is taken any more it goes back too.
        core.mailbox.take_in(&mut started);
        returned.append(&mut started);
        for slot in &returned {
            state.hand.give_back(slot.record().token);
        }
        returned
    }

    /// Another process has it.
    pub(super) fn lost(&self) {
        let was_held = self.state.lock().hand.lost();
        if was_held {
            self.drop_queued();
        }
    }

    /// What was handed out and not started is not to be started any more.
    fn drop_queued(&self) {
        if let Some(core) = self.core() {
            drop(core.mailbox.take_queued(Ending::Returned));
        }
    }

    /// Whether no settlement of it is still to be written.
    pub(super) fn is_settled(&self) -> bool {
        self.state.lock().hand.count_settling() == 0
    }

    pub(super) fn is_held(&self) -> bool {
        self.state.lock().hand.is_held()
    }

    /// Rows may have come.
    pub(super) fn has_come(&self) {
        self.state.lock().agenda.has_come();
        self.look.notify_one();
    }

    /// What nobody tells of may have come.
    pub(super) fn may_have_come(&self) {
        self.state.lock().agenda.may_have_come();
    }

    /// What the consumer is to read now, and under which fence.
    pub(super) fn wants(&self, core: &QueueCore, now: Instant) -> Option<(TakeQueued, i64)> {
        let mut state = self.state.lock();
        let has_something = state.agenda.wants(now);
        let fence = state.hand.fence(now)?;
        if self.is_detached() || !has_something {
            return None;
        }
        let capacity = core.mailbox.capacity();
        let free = capacity.saturating_sub(state.hand.count_taken());
        let is_enough = free >= (capacity / 4).max(1);
        let is_ordered = !matches!(core.spec.order, Order::Unordered { .. });
        let waits = || state.hand.awaits_returns() || state.hand.has_of_others(core.id);
        if free == 0 || is_ordered && waits() {
            return None;
        }
        if !is_enough && core.mailbox.books().queued > 0 {
            // Nobody rings when a worker takes the last of them.
            state.agenda.look_at(now + SOON);
            return None;
        }
        state.agenda.reads();
        let wanted = TakeQueued {
            queue: self.name.to_string(),
            most: u32::try_from(free.min(MOST_AT_ONCE)).unwrap_or(u32::MAX),
            except: state.hand.taken().collect(),
        };
        Some((wanted, fence))
    }

    /// What could not be read is to be read again.
    pub(super) fn not_read(&self) {
        self.may_have_come();
    }

    /// Whether it is to be asked when the next row is due.
    pub(super) fn asks_due(&self) -> bool {
        self.state.lock().agenda.asks_due()
    }

    /// A row is due after so long.
    pub(super) fn due_in(&self, left: Duration) {
        let at = Instant::now() + left.min(NEVER);
        if self.state.lock().agenda.is_due_at(at) {
            self.look.notify_one();
        }
    }

    /// When it is to be looked at though nobody rings.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.agenda.next_look().filter(|_| state.hand.is_held())
    }

    /// The rows in hand.
    pub(super) fn taken(&self) -> Vec<i64> {
        self.state.lock().hand.taken().collect()
    }

    /// Hands rows out, as of the fence that they were read under. False: that is gone by now, and nothing was.
    pub(super) fn hand_out(
        &self,
        core: &QueueCore,
        fence: i64,
        has_more: bool,
        rows: Vec<(i64, MessageId, Slot)>,
    ) -> bool {
        let mut state = self.state.lock();
        let is_mine = state.hand.fence(Instant::now()) == Some(fence) && self.is_of(core);
        if !is_mine || self.is_detached() {
            state.agenda.has_come();
            return false;
        }
        if has_more {
            state.agenda.has_come();
        }
        let mut slots = Vec::with_capacity(rows.len());
        for (position, id, slot) in rows {
            if let Some(token) = state.hand.take(position, id, core.id) {
                slots.push(slot.noted(|record| record.token = token));
            }
        }
        // Under the lock, so that who detaches finds all of them there.
        let is_taken = core.mailbox.take_in(&mut slots);
        if !is_taken {
            for slot in slots {
                state.hand.give_back(slot.record().token);
            }
        }
        is_taken
    }

    /// A settlement is written, or refused by its fence.
    pub(super) fn written(&self, position: i64, fence: i64) {
        let wants_more = {
            let mut state = self.state.lock();
            state.hand.written(position, fence);
            state.agenda.has_more()
        };
        if wants_more {
            self.look.notify_one();
        }
    }

    /// Those who wait for room look whether they still may.
    pub(super) fn look_for_room(&self) {
        self.room.notify_waiters();
    }

    /// So many rows more, or fewer.
    pub(super) fn count_rows(&self, change: i64) {
        self.rows.fetch_add(change, Ordering::Relaxed);
        if change < 0 {
            self.room.notify_waiters();
        }
    }

    /// Whether its rows are to be counted now: other processes write and delete too. A count that is not answered is asked
    /// for again only after its time: one that takes too long ends the connection, and the next one has to come to write.
    pub(super) fn begins_count(&self, most: u64, now: Instant) -> bool {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let is_full = self.rows.load(Ordering::Relaxed) >= most;
        let mut state = self.state.lock();
        let is_due = state.count_asked_at.is_none_or(|at| now >= at + COUNT);
        let begins = is_due || is_full && state.is_counted;
        if begins {
            state.count_asked_at = Some(now);
            state.is_counted = false;
        }
        begins
    }

    /// The connection is as good as before: it is asked again at the next look.
    pub(super) fn not_counted(&self) {
        self.state.lock().count_asked_at = None;
    }

    pub(super) fn counted(&self, rows: u64) {
        self.state.lock().is_counted = true;
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let before = self.rows.swap(rows, Ordering::Relaxed);
        if rows < before {
            self.room.notify_waiters();
        }
    }
}
