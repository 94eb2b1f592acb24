use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::transactor::{Begun, Connection, Handling, Transactor, taken_away};
use crate::delivery::{Failure, Reason};
use crate::mailbox::{Ending, Lease, Slot};
use crate::ports::{Refusal, crash_point};
use crate::queue::QueueCore;
use crate::store::{
    DatabaseError, DatabaseProblem, HandlingLimits, InTrouble, NewRow, Ring, StoreLink, Turn,
    row_of,
};
use crate::subscriber::context::Scratch;

/// The waits of a worker whose database is away: doubled from the first to the last.
const AWAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How soon it sees meanwhile that it is asked to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What a worker keeps for its transactions.
#[derive(Default)]
pub(in crate::subscriber) struct Inbox {
    /// In no transaction, for the next message.
    kept: Option<Connection>,
    /// Of the attempt in hand.
    open: Option<Open>,
    /// The database was away the last time, and what the next wait is.
    away: Option<(InTrouble, Duration)>,
}

struct Open {
    transactor: Transactor,
    #[expect(dead_code, reason = "held until the transaction has ended")]
    turn: Turn,
    /// None while the handler has it, and when that was dropped with it.
    connection: Option<Connection>,
}

impl Inbox {
    /// The transaction, for the handler.
    pub(super) fn lend(&mut self) -> Option<Connection> {
        self.open.as_mut()?.connection.take()
    }

    pub(super) fn give_back(&mut self, connection: Connection) {
        if let Some(open) = &mut self.open {
            open.connection = Some(connection);
        }
    }

    /// Whether an attempt is in a transaction, or was.
    pub(in crate::subscriber) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Gives up the transaction of the attempt: with its connection it is rolled back.
    pub(in crate::subscriber) fn give_up(&mut self) {
        self.open = None;
    }

    /// The wait before the next try.
    fn failed(
        &mut self,
        link: &Arc<StoreLink>,
        queue: &QueueCore,
        error: DatabaseError,
    ) -> Duration {
        link.counts.database_errors.fetch_add(1, Ordering::Relaxed);
        match &mut self.away {
            Some((trouble, wait)) => {
                trouble.because(error);
                let now = *wait;
                *wait = (now * 2).min(AWAY.1);
                now
            }
            none => {
                tracing::warn!(
                    queue = %queue.name, %error,
                    "messages wait for the database of their transactions"
                );
                let trouble = InTrouble::new(link, &queue.name, error);
                *none = Some((trouble, AWAY.0 * 2));
                AWAY.0
            }
        }
    }
}

/// What came of the first message before its handler.
pub(in crate::subscriber) enum Delivered {
    /// Its handler is to be run, in the transaction.
    Begun,
    /// It was handled before, and is to be acknowledged.
    Duplicate,
    /// The database is away. Everything was put down, and it was waited for a moment.
    PutDown,
}

async fn begin(
    queue: &QueueCore,
    transactor: Transactor,
    handling: Handling<'_>,
    kept: Option<Connection>,
) -> Result<Begun, DatabaseError> {
    let limits = HandlingLimits::new(queue.spec.timeout);
    let beginning = transactor.0.begin(handling, kept, limits);
    // By real time, as the database's is.
    match tokio::time::timeout(limits.patience, beginning).await {
        Ok(begun) => begun,
        Err(_) => Err(DatabaseError::new(
            DatabaseProblem::Timeout,
            "begin to handle a message",
            format!("no answer within {:?}", limits.patience),
        )),
    }
}

/// Begins the transaction of the first message and records it. Spends no attempt.
pub(in crate::subscriber) async fn deliver(
    queue: &QueueCore,
    lease: &mut Lease<QueueCore>,
    inbox: &mut Inbox,
    transactor: Transactor,
    seat: u32,
) -> Delivered {
    // The wait may be long.
    lease.leave_rest();
    let (Some(link), Some(slot)) = (&queue.services.store, lease.batch.front()) else {
        return Delivered::PutDown;
    };
    lease.started = true;
    crash_point("before-deliver");
    let message_id = slot.parcel().envelope().id().to_string();
    let handling = Handling {
        link,
        consumer: &queue.name,
        message_id: &message_id,
    };
    let begun = begin(queue, transactor, handling, inbox.kept.take()).await;
    match begun {
        Ok(Begun {
            connection,
            turn,
            is_new: true,
        }) => {
            inbox.away = None;
            inbox.open = Some(Open {
                transactor,
                turn,
                connection: Some(connection),
            });
            crash_point("after-deliver");
            Delivered::Begun
        }
        Ok(Begun { connection, .. }) => {
            inbox.away = None;
            inbox.kept = Some(connection);
            link.counts.duplicates.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(queue = %queue.name, id = message_id, "a duplicate was not handled again");
            // What its handler answered went out then, or was lost.
            queue.refuse_reply(slot, Ending::Abandoned);
            Delivered::Duplicate
        }
        Err(error) => {
            let wait = inbox.failed(link, queue, error);
            lease.started = false;
            queue.abandon_probe();
            lease.put_down();
            let until = Instant::now() + wait;
            // Who is asked to stop, or paused, does not wait.
            while !queue.mailbox.must_put_down(seat) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(LOOK)).await;
            }
            Delivered::PutDown
        }
    }
}

/// Writes what the handler sends into its transaction, and commits that. After an error the transaction is still to be
/// rolled back, if there is one.
pub(in crate::subscriber) async fn commit(
    queue: &QueueCore,
    scratch: &mut Scratch,
    slot: &Slot,
) -> Result<(), (Failure, Reason)> {
    let rows = rows(queue, scratch).map_err(|refusal| {
        let why = format!("its messages were not written: {refusal}");
        (Failure::retry(why), Reason::ReleaseFailed)
    })?;
    let written = rows.len();
    let failed = |error: DatabaseError| (Failure::from(error), Reason::Exhausted);
    let (Some(link), Some(inbox)) = (&queue.services.store, scratch.inbox()) else {
        return Err(failed(taken_away()));
    };
    let Some(open) = &mut inbox.open else {
        return Err(failed(taken_away()));
    };
    let Some(connection) = open.connection.take() else {
        return Err(failed(taken_away()));
    };
    let message_id = slot.parcel().envelope().id().to_string();
    let handling = Handling {
        link,
        consumer: &queue.name,
        message_id: &message_id,
    };
    crash_point("before-inbox-commit");
    let (connection, committed) = open.transactor.0.commit(handling, connection, rows).await;
    match committed {
        Ok(()) => {
            crash_point("after-inbox-commit");
            inbox.open = None;
            inbox.kept = connection;
        }
        Err(error) if error.may_be_done() => {
            // Its turn to write ends with it.
            let transactor = open.transactor;
            inbox.open = None;
            if !is_committed(queue, inbox, transactor, handling).await {
                return Err(failed(error));
            }
            tracing::info!(
                queue = %queue.name, id = message_id, %error,
                "a commit was not answered, and was done"
            );
        }
        Err(error) => {
            open.connection = connection;
            return Err(failed(error));
        }
    }
    scratch.drafts.clear();
    if written > 0 {
        link.counts
            .written
            .fetch_add(written as u64, Ordering::Relaxed);
        link.bell.ring(Ring::Committed);
    }
    Ok(())
}

/// Asks whether a commit that was not answered is done: its record is there then. Waits for one that is still under way.
/// Where the database cannot be asked, the next attempt finds it out.
async fn is_committed(
    queue: &QueueCore,
    inbox: &mut Inbox,
    transactor: Transactor,
    handling: Handling<'_>,
) -> bool {
    let link = handling.link;
    match begin(queue, transactor, handling, None).await {
        Ok(Begun {
            connection,
            is_new: false,
            ..
        }) => {
            inbox.kept = Some(connection);
            true
        }
        // The turn is held until it is rolled back.
        Ok(Begun {
            connection,
            turn: _turn,
            ..
        }) => {
            inbox.kept = transactor.0.roll_back(link, connection).await;
            false
        }
        Err(_) => false,
    }
}

/// Rolls back what a failed attempt has done.
pub(in crate::subscriber) async fn roll_back(queue: &QueueCore, inbox: &mut Inbox) {
    let (Some(link), Some(open)) = (&queue.services.store, inbox.open.take()) else {
        return;
    };
    if let Some(connection) = open.connection {
        inbox.kept = open.transactor.0.roll_back(link, connection).await;
    }
}

/// What the handler sends, as rows of the outbox, checked as what is released is.
fn rows(queue: &QueueCore, scratch: &mut Scratch) -> Result<Vec<NewRow>, Refusal> {
    if scratch.drafts.is_empty() {
        return Ok(Vec::new());
    }
    let outgoing = queue.services.outgoing().ok_or(Refusal::Closed)?;
    let now_ms = queue.services.clock.wall_ms();
    let drafts = scratch.drafts.iter_mut().map(|draft| {
        outgoing.check(draft)?;
        let codec = |error: &dyn std::fmt::Display| Refusal::Codec(error.to_string());
        let json = draft.parcel.json().map_err(|error| codec(&error))?;
        let body = std::str::from_utf8(json).map_err(|error| codec(&error))?;
        let envelope = draft.parcel.envelope();
        Ok(row_of(envelope, body.to_owned(), draft.delay, now_ms))
    });
    drafts.collect()
}
