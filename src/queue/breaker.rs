use std::sync::Weak;
use std::time::Instant;

use parking_lot::Mutex;

use super::QueueCore;
use crate::delivery::{Breaker, BreakerChange, BreakerState, Permit};
use crate::mailbox::halt;
use crate::ports::LifecycleKind;

/// A breaker's state, and the hand-over that it stops.
pub(crate) struct BreakerGate {
    state: Mutex<BreakerState>,
}

impl BreakerGate {
    pub(super) fn new(breaker: &Breaker) -> Self {
        Self {
            state: Mutex::new(BreakerState::new(breaker.clone())),
        }
    }
}

impl QueueCore {
    /// Whether the next message may be started. Otherwise hand-over is halted until a probe is due.
    #[inline]
    pub(crate) fn breaker_allows(&self) -> bool {
        match &self.breaker {
            None => true,
            Some(gate) => self.gate_allows(gate),
        }
    }

    /// Not while it is open, nor while it tries one message.
    #[cfg(feature = "amqp")]
    pub(crate) fn breaker_is_closed(&self) -> bool {
        let gate = self.breaker.as_ref();
        gate.is_none_or(|gate| gate.state.lock().is_closed())
    }

    fn gate_allows(&self, gate: &BreakerGate) -> bool {
        let now = self.services.timers.now();
        let mut state = gate.state.lock();
        match state.allows(now) {
            Permit::Yes | Permit::Probe => true,
            // The halt changes only under the gate's lock, so that no change of state is overtaken.
            Permit::No { until } => {
                self.mailbox.set_halt(halt::BREAKER);
                if let Some(until) = until {
                    self.look_again_at(until);
                }
                false
            }
        }
    }

    pub(super) fn record_with_breaker(&self, success: bool) {
        let Some(gate) = &self.breaker else { return };
        let now = self.services.timers.now();
        let change = {
            let mut state = gate.state.lock();
            let change = state.record(now, success);
            match change {
                Some(BreakerChange::Opened { until }) => {
                    self.mailbox.set_halt(halt::BREAKER);
                    self.look_again_at(until);
                }
                Some(BreakerChange::Closed) => self.mailbox.clear_halt(halt::BREAKER),
                None => {}
            }
            change
        };
        match change {
            Some(BreakerChange::Opened { .. }) => {
                self.services
                    .tell(&self.name, LifecycleKind::BreakerOpened, None);
            }
            Some(BreakerChange::Closed) => {
                self.services
                    .tell(&self.name, LifecycleKind::BreakerClosed, None);
            }
            None => {}
        }
    }

    /// An attempt was cut off: if it was the probe, another one may be made.
    pub(crate) fn abandon_probe(&self) {
        if let Some(gate) = &self.breaker {
            let mut state = gate.state.lock();
            if state.abandon_probe(self.services.timers.now()) {
                self.mailbox.clear_halt(halt::BREAKER);
            }
        }
    }

    fn look_again_at(&self, until: Instant) {
        let timers = &self.services.timers;
        let queue: Weak<Self> = self
            .shared()
            .map_or_else(Weak::new, |queue| std::sync::Arc::downgrade(&queue));
        timers.after(
            until.saturating_duration_since(timers.now()),
            Box::new(move || {
                if let Some(queue) = queue.upgrade() {
                    queue.mailbox.clear_halt(halt::BREAKER);
                }
            }),
        );
    }
}
