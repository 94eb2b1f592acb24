use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::message::MessageId;
use crate::store::{
    DatabaseError, HandlingLimits, LANES, LaneLease, NewRow, PublishedRow, StoreConnection,
    StoreSession, StoredRow, TakeRows, TxStore, lane_of,
};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

/// Longer than any scenario.
pub(super) const LONG: Duration = Duration::from_secs(3600);
/// Over before anything else is done.
pub(super) const SHORT: Duration = Duration::from_millis(1);
/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one is given that goes on though it should wait for another. A store that is right takes so long.
const HEAD_START: Duration = Duration::from_millis(500);

/// Where a scenario finds its store.
pub(super) struct Stand<S> {
    pub(super) store: S,
}

impl<S: TxStore> Stand<S> {
    pub(super) fn new(store: S) -> Self {
        Self { store }
    }

    pub(super) async fn open(&self) -> Result<Box<dyn StoreSession>, Unmet> {
        self.store.open().await.step("opening a session")
    }

    /// A session, and the tables are there.
    pub(super) async fn session(&self) -> Result<Box<dyn StoreSession>, Unmet> {
        let mut session = self.open().await?;
        session.migrate().await.step("making the tables")?;
        Ok(session)
    }

    /// A session with all lanes, for long, and what it holds.
    pub(super) async fn relay(
        &self,
        holder: &str,
    ) -> Result<(Box<dyn StoreSession>, LaneLease), Unmet> {
        let mut session = self.session().await?;
        let lease = session.renew(holder, LONG, &[]).await;
        let lease = lease.step("taking the lanes")?;
        same(
            "the lanes of the only relay",
            lease.held.len(),
            LANES as usize,
        )?;
        Ok((session, lease))
    }

    pub(super) async fn connect(&self) -> Result<S::Connection, Unmet> {
        let limits = HandlingLimits::new(None);
        let connecting = self.store.connect_for_handling(limits).await;
        connecting.step("opening a connection for handlers")
    }

    /// In a transaction in which a message is handled: whether it is handled for the first time.
    pub(super) async fn begin(
        &self,
        connection: &mut S::Connection,
        message: &str,
    ) -> Result<bool, Unmet> {
        let begun = self.store.begin_handling(connection, CONSUMER, message);
        begun.await.step("beginning to handle")
    }

    /// Begins, and compares whether the message is new.
    pub(super) async fn begins(
        &self,
        what: &str,
        connection: &mut S::Connection,
        message: &str,
        is_new: bool,
    ) -> Result<(), Unmet> {
        same(what, self.begin(connection, message).await?, is_new)
    }

    pub(super) async fn commit(
        &self,
        connection: &mut S::Connection,
        message: &str,
        rows: &[NewRow],
    ) -> Result<(), Unmet> {
        let committed = self
            .store
            .commit_handling(connection, CONSUMER, message, rows);
        committed.await.step("committing what was handled")
    }

    pub(super) async fn roll_back(&self, connection: &mut S::Connection) -> Result<(), Unmet> {
        let rolled_back = self.store.roll_back_handling(connection);
        rolled_back.await.step("rolling back")
    }

    /// Writes rows in the transaction that the connection is in.
    pub(super) async fn insert(
        &self,
        connection: &mut S::Connection,
        rows: &[NewRow],
    ) -> Result<(), Unmet> {
        let written = connection.insert(&self.store, rows);
        written.await.step("writing rows")
    }

    /// Writes rows in a transaction of their own.
    pub(super) async fn write(&self, rows: &[NewRow]) -> Result<(), Unmet> {
        let mut connection = self.connect().await?;
        let message = MessageId::new().to_string();
        self.begin(&mut connection, &message).await?;
        self.commit(&mut connection, &message, rows).await
    }
}

/// The consumer in whose name messages are handled.
pub(super) const CONSUMER: &str = "conformance";

/// An event of a topic, with a number as its body.
pub(super) fn event(topic: &str, number: u64) -> NewRow {
    let id = MessageId::new().to_string();
    NewRow {
        lane: lane_of(&id),
        id,
        kind: "event",
        address: topic.to_owned(),
        key: None,
        correlation: None,
        causation: None,
        headers: None,
        traceparent: None,
        expires_in: None,
        delay: None,
        body: number.to_string(),
    }
}

pub(super) fn row(number: u64) -> NewRow {
    event("conformance.row", number)
}

pub(super) fn rows(numbers: std::ops::Range<u64>) -> Vec<NewRow> {
    numbers.map(row).collect()
}

impl NewRow {
    pub(super) fn keyed(mut self, key: &str) -> Self {
        self.lane = lane_of(key);
        self.key = Some(key.to_owned());
        self
    }

    pub(super) fn delayed(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }
}

/// All that is there to be had of the lanes.
pub(super) fn all_of(lease: &LaneLease) -> TakeRows {
    TakeRows {
        lanes: lanes_of(lease),
        most: 100,
        most_of_lane: 100,
        due: true,
        ..TakeRows::default()
    }
}

pub(super) fn lanes_of(lease: &LaneLease) -> Vec<u32> {
    lease.held.iter().map(|held| held.lane).collect()
}

pub(super) async fn take(
    session: &mut dyn StoreSession,
    wanted: &TakeRows,
) -> Result<Vec<StoredRow>, Unmet> {
    session.take(wanted).await.step("taking rows")
}

/// The bodies of what is there, in order.
pub(super) async fn bodies(
    session: &mut dyn StoreSession,
    wanted: &TakeRows,
) -> Result<Vec<String>, Unmet> {
    let rows = take(session, wanted).await?;
    Ok(rows.into_iter().map(|row| row.body).collect())
}

/// The only row that is there.
pub(super) async fn the_row(
    session: &mut dyn StoreSession,
    wanted: &TakeRows,
) -> Result<StoredRow, Unmet> {
    let mut rows = take(session, wanted).await?;
    same("rows that are there", rows.len(), 1)?;
    rows.pop().step("finding it")
}

pub(super) fn fence_of(lease: &LaneLease, lane: u32) -> Result<i64, Unmet> {
    let held = lease.held.iter().find(|held| held.lane == lane);
    Ok(held.step("finding the lane")?.fence)
}

pub(super) fn published(lease: &LaneLease, row: &StoredRow) -> Result<PublishedRow, Unmet> {
    Ok(PublishedRow {
        position: row.position,
        lane: row.lane,
        fence: fence_of(lease, row.lane)?,
    })
}

/// What has something of an hour before it.
pub(super) fn in_an_hour(what: &str, left: Duration) -> Result<(), Unmet> {
    holds(what, left <= LONG && left > LONG / 2, left)
}

/// The same of milliseconds as the database says them.
pub(super) fn in_an_hour_ms(what: &str, left_ms: i64) -> Result<(), Unmet> {
    let left = u64::try_from(left_ms).step(what)?;
    in_an_hour(what, Duration::from_millis(left))
}

/// A clean-up of what is older than asked, of at most so many at once: it leaves what is new, and deletes all that is old,
/// in batches.
pub(super) async fn is_cleaned(
    all: u64,
    mut clean: impl AsyncFnMut(Duration, u32) -> Result<u64, DatabaseError>,
) -> Result<(), Unmet> {
    let new = clean(LONG, 10).await.step("cleaning up")?;
    same("what is older than an hour", new, 0)?;
    let mut batches = Vec::new();
    until("what is older than a moment", async || {
        let cleaned = clean(SHORT, 2).await.step("cleaning up")?;
        batches.extend((cleaned > 0).then_some(cleaned));
        Ok(batches.iter().sum::<u64>() == all)
    })
    .await?;
    let is_bounded = batches.iter().all(|batch| *batch <= 2);
    holds("at most two at once", is_bounded, &batches)
}

/// What one signals that does not wait for another, or did not have to.
#[derive(Default)]
pub(super) struct Overtaking(Notify);

impl Overtaking {
    pub(super) fn is_done(&self) {
        self.0.notify_one();
    }

    /// Waits until it is done, or may be taken to wait.
    pub(super) async fn is_given_time(&self) {
        // Over, the other one waits, and is let through now.
        let _ = tokio::time::timeout(HEAD_START, self.0.notified()).await;
    }
}

/// Looks again and again until it is so.
pub(super) async fn until(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<bool, Unmet>,
) -> Result<(), Unmet> {
    let end = Instant::now() + PATIENCE;
    while !look().await? {
        if Instant::now() >= end {
            return Err(Unmet::Differs {
                what: what.to_owned(),
                expected: "it to come".to_owned(),
                seen: format!("nothing in {PATIENCE:?}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
