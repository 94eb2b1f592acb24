use std::sync::Arc;
use std::time::Duration;

use super::{Broker, Gate};
use crate::ports::{BoxFuture, Claim, DeadLetterLedger, DeadLetterStore, Refusal};

/// One place where dead letters are kept.
pub(crate) struct DeadLetterSource {
    pub(crate) store: Arc<dyn DeadLetterStore>,
    way_back: WayBack,
}

/// How what is kept there goes back to its queue.
#[derive(Clone, Copy)]
enum WayBack {
    /// Into the mailbox.
    Mailbox,
    Bridge,
    Store,
}

impl Broker {
    /// Where the dead letters of one queue may be, or those of all.
    pub(crate) fn dead_letter_sources(&self, queue: Option<&str>) -> Vec<DeadLetterSource> {
        let known = queue.and_then(|name| self.table.queue_named(name));
        let may_be = |way_back| {
            known.as_ref().is_none_or(|queue| {
                let backing = queue.backing();
                match way_back {
                    WayBack::Mailbox => true,
                    WayBack::Bridge => backing.is_bridged(),
                    // Those of queues in memory too.
                    WayBack::Store => !backing.is_bridged(),
                }
            })
        };
        let mut sources = vec![DeadLetterSource {
            store: Arc::clone(&self.dead_letters),
            way_back: WayBack::Mailbox,
        }];
        if let Some(stored) = &self.stored
            && may_be(WayBack::Store)
        {
            sources.push(DeadLetterSource {
                store: stored.dead_letters(),
                way_back: WayBack::Store,
            });
        }
        if let Some(bridge) = &self.bridge
            && may_be(WayBack::Bridge)
        {
            let stores = bridge.dead_letters(queue).into_iter();
            sources.extend(stores.map(|store| DeadLetterSource {
                store,
                way_back: WayBack::Bridge,
            }));
        }
        sources
    }

    pub(crate) fn dead_letter_ledger(&self) -> DeadLetterLedger {
        let mut ledger = DeadLetterLedger::default();
        for source in self.dead_letter_sources(None) {
            ledger += source.store.ledger();
        }
        ledger
    }

    /// Hands a dead letter's message back to its queue; it is still claimed.
    ///
    /// # Errors
    /// [`Refusal::NoQueue`] when the queue is gone.
    pub(crate) fn hand_back(
        &self,
        source: &DeadLetterSource,
        claim: &dyn Claim,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let letter = claim.letter();
        let queue = self
            .table
            .queue(letter.queue_id)
            .or_else(|| self.table.queue_named(&letter.queue));
        match (source.way_back, &self.bridge, &self.stored) {
            (WayBack::Bridge, Some(bridge), _) => return bridge.hand_back(letter, patience),
            (WayBack::Store, _, Some(stored))
                if queue
                    .as_ref()
                    .is_none_or(|queue| queue.backing().is_kept_elsewhere()) =>
            {
                return stored.hand_back(letter, patience);
            }
            _ => {}
        }
        let (Some(queue), Some(broker)) = (queue, self.shared()) else {
            let queue = letter.queue.to_string();
            return Box::pin(std::future::ready(Err(Refusal::NoQueue { queue })));
        };
        let parcel = Arc::clone(&letter.parcel);
        Box::pin(async move {
            let accepted = broker.accept_at(&queue, parcel, patience, Gate::Open);
            accepted.await.map(drop)
        })
    }
}
