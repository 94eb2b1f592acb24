use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Puts the writers of one process in a line, for a database that has one writer at a time: each begins when the one
/// before it has ended, in order of coming. By SQLite's own lock they would sleep and try again, and who comes first
/// then is chance.
///
/// It is no lock: writers of other processes, and of the application's own, are not in it, and who has waited for long
/// goes on without a turn.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

/// The turn to write. The next one comes when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// For a database that has many writers.
    #[must_use]
    pub fn free() -> Self {
        Self { _permit: None }
    }
}

impl Turns {
    #[cfg_attr(
        not(feature = "sqlite"),
        expect(dead_code, reason = "PostgreSQL has many writers")
    )]
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Waits for a turn, no longer than `patience`. Cancel safe.
    pub(crate) async fn next(&self, patience: Duration) -> Turn {
        let next = Arc::clone(&self.0).acquire_owned();
        let permit = tokio::time::timeout(patience, next).await;
        Turn {
            _permit: permit.ok().and_then(Result::ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_after_another_in_order_of_coming() {
        let turns = Turns::new();
        let patience = Duration::from_secs(60);
        let first = turns.next(patience).await;
        let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..10 {
            let (turns, told) = (turns.clone(), told.clone());
            tokio::spawn(async move {
                let _turn = turns.next(patience).await;
                told.send(number).unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert!(tell.try_recv().is_err(), "the first has not ended");
        drop(first);
        for number in 0..10 {
            assert_eq!(tell.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn who_goes_away_while_waiting_leaves_its_place_to_the_next() {
        let turns = Turns::new();
        let patience = Duration::from_secs(60);
        let first = turns.next(patience).await;
        let mut second = Box::pin(turns.next(patience));
        let mut third = Box::pin(turns.next(patience));
        let is_pending = |wait: &mut std::pin::Pin<_>| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            Future::poll(std::pin::Pin::as_mut(wait), &mut cx).is_pending()
        };
        assert!(is_pending(&mut second) && is_pending(&mut third));
        drop(second);
        drop(first);
        assert!(third.await._permit.is_some());
    }

    #[tokio::test]
    async fn who_has_waited_for_long_goes_on_without_a_turn() {
        let turns = Turns::new();
        let _first = turns.next(Duration::ZERO).await;
        let begun = std::time::Instant::now();
        let second = turns.next(Duration::from_millis(20)).await;
        assert!(second._permit.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
}
