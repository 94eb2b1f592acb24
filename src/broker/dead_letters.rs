use std::sync::Arc;
use std::time::Duration;

use super::{Broker, Gate};
use crate::ports::{BoxFuture, Claim, DeadLetterLedger, DeadLetterStore, Refusal};

/// One place where dead letters are kept.
pub(crate) struct DeadLetterSource {
    pub(crate) store: Arc<dyn DeadLetterStore>,
    /// What is kept there goes back to its queue by the bridge.
    is_bridged: bool,
}

impl Broker {
    /// Where the dead letters of one queue may be, or those of all.
    pub(crate) fn dead_letter_sources(&self, queue: Option<&str>) -> Vec<DeadLetterSource> {
        let is_local = queue
            .and_then(|name| self.table.queue_named(name))
            .is_some_and(|queue| !queue.backing().is_bridged());
        let away = match &self.bridge {
            Some(bridge) if !is_local => bridge.dead_letters(queue),
            _ => Vec::new(),
        };
        let here = std::iter::once((Arc::clone(&self.services.dead_letters), false));
        let sources = here.chain(away.into_iter().map(|store| (store, true)));
        sources
            .map(|(store, is_bridged)| DeadLetterSource { store, is_bridged })
            .collect()
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
        if source.is_bridged
            && let Some(bridge) = &self.bridge
        {
            return bridge.hand_back(letter, patience);
        }
        let queue = self
            .table
            .queue(letter.queue_id)
            .or_else(|| self.table.queue_named(&letter.queue));
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
