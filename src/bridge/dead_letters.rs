//! The dead letters of a group, in a queue of their own beside its queue.

mod look;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use self::look::Look;
use super::publisher::{Confirmed, Publication};
use super::topology::{self, GroupNames, TopologyMode};
use super::{Shared, wire};
use crate::message::SharedParcel;
use crate::ports::{
    BoxFuture, Claim, Claims, DeadLetter, DeadLetterId, DeadLetterLedger, DeadLetterSink,
    DeadLetterStore, Filter, Refusal, StoreError, Wanted,
};

/// How long one try to store a dead letter may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a look at a queue may take.
const LOOKING: Duration = Duration::from_secs(30);
/// The most that are listed where the filter has no limit.
const LISTED: usize = 1_000;

/// The dead letters of one group, on RabbitMQ.
#[derive(Clone)]
pub(super) struct AmqpDeadLetters(Arc<Letters>);

pub(super) struct Letters {
    group: Arc<str>,
    names: GroupNames,
    shared: Weak<Shared>,
    /// One look at a time in this process: what one holds another does not see.
    looking: Arc<tokio::sync::Mutex<()>>,
    made: AtomicU64,
    replayed: AtomicU64,
    discarded: AtomicU64,
}

const CLOSED: &str = "the bridge is closed";

fn closed() -> StoreError {
    StoreError(CLOSED.to_owned())
}

impl AmqpDeadLetters {
    pub(super) fn new(group: Arc<str>, names: GroupNames, shared: Weak<Shared>) -> Self {
        Self(Arc::new(Letters {
            group,
            names,
            shared,
            looking: Arc::default(),
            made: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
        }))
    }

    /// Does something with dead letters on the bridge's thread, in a bounded time.
    fn looking<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Shared>, Arc<Letters>) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let letters = Arc::clone(&self.0);
        Box::pin(async move {
            let shared = letters.shared.upgrade().ok_or_else(closed)?;
            let here = Arc::clone(&shared);
            let bounded = async move {
                let dead = letters.names.dead().to_owned();
                let work = tokio::time::timeout(LOOKING, work(here, letters));
                work.await.unwrap_or_else(|_| {
                    Err(StoreError(format!("no answer in time about `{dead}`")))
                })
            };
            shared.on_thread(bounded).await.map_err(StoreError)?
        })
    }

    /// The first that is wanted, and the look that holds it.
    fn first(&self, wanted: Wanted) -> BoxFuture<'static, Result<Found, StoreError>> {
        self.looking(async move |shared, letters| {
            let look = Look::open(shared, letters).await?;
            let found = look.next(&wanted).await?;
            Ok((look, found))
        })
    }
}

/// A look, and the letter that it found, by its delivery tag.
type Found = (Arc<Look>, Option<(u64, DeadLetter)>);

async fn store(shared: &Shared, letters: &Letters, letter: &DeadLetter) -> Result<(), String> {
    let body = wire::copy_body(&letter.parcel).map_err(|error| error.to_string())?;
    let properties =
        wire::dead_letter(letter, shared.frame_max()).map_err(|refusal| refusal.to_string())?;
    let dead = letters.names.dead();
    let publish = || {
        let publication = Publication {
            exchange: "".into(),
            routing_key: dead.into(),
            properties: properties.clone(),
            body: Arc::new(body.into()),
        };
        shared.publisher.publish(publication, PATIENCE)
    };
    let mut answer = publish().await;
    if answer == Ok(Confirmed::Returned) && shared.amqp.topology == TopologyMode::Declare {
        tracing::warn!(
            queue = dead,
            "the queue of dead letters is gone: declared again"
        );
        declare(shared, letters).await?;
        answer = publish().await;
    }
    match answer {
        Ok(Confirmed::Routed) => Ok(()),
        Ok(Confirmed::Returned) => Err(format!("the queue `{dead}` is not there")),
        Ok(Confirmed::Nacked) => Err(format!("the queue `{dead}` rejects")),
        Err(refusal) => Err(refusal.to_string()),
    }
}

/// Somebody has deleted the queue of dead letters.
async fn declare(shared: &Shared, letters: &Letters) -> Result<(), String> {
    let Some(this) = shared.this.upgrade() else {
        return Err(CLOSED.to_owned());
    };
    let plan = topology::dead_letter_plan(&letters.names, shared.amqp.queue_type);
    let declared = shared.on_thread(async move {
        let connection = this.publish_link.connected_now()?;
        let declared = topology::apply(&connection, &plan, TopologyMode::Declare);
        this.opened(declared).await
    });
    declared.await?
}

impl DeadLetterSink for AmqpDeadLetters {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let letters = Arc::clone(&self.0);
        Box::pin(async move {
            let shared = letters.shared.upgrade().ok_or_else(closed)?;
            let stored = store(&shared, &letters, &letter).await;
            stored.map_err(StoreError)?;
            letters.made.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

impl DeadLetterStore for AmqpDeadLetters {
    fn list(&self, filter: &Filter) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        let most = match filter.most() {
            usize::MAX => LISTED,
            most => most,
        };
        let wanted = Wanted::All(filter.clone());
        self.looking(async move |shared, letters| {
            let mut found = Vec::new();
            if most == 0 {
                return Ok(found);
            }
            let look = Look::open(shared, letters).await?;
            while found.len() < most
                && let Some((_, letter)) = look.next(&wanted).await?
            {
                found.push(letter);
            }
            look.end().await;
            Ok(found)
        })
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        let found = self.first(Wanted::One(id));
        Box::pin(async move {
            let (look, found) = found.await?;
            drop(look);
            Ok(found.map(|(_, letter)| letter))
        })
    }

    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.looking(async move |shared, letters| {
            let look = Look::open(shared, letters).await?;
            let count = look.count().await?;
            look.end().await;
            Ok(count)
        })
    }

    fn claim(&self, wanted: Wanted) -> Box<dyn Claims> {
        Box::new(Looking {
            store: self.clone(),
            left: wanted.most(),
            wanted,
            look: None,
        })
    }

    fn discard(&self, id: DeadLetterId) -> BoxFuture<'static, Result<bool, StoreError>> {
        self.looking(async move |shared, letters| {
            let look = Look::open(shared, Arc::clone(&letters)).await?;
            let found = look.next(&Wanted::One(id)).await?;
            if let Some((tag, _)) = &found {
                look.settle(*tag).await?;
                letters.discarded.fetch_add(1, Ordering::Relaxed);
            }
            look.end().await;
            Ok(found.is_some())
        })
    }

    fn ledger(&self) -> DeadLetterLedger {
        let [made, replayed, discarded] = [&self.0.made, &self.0.replayed, &self.0.discarded]
            .map(|count| count.load(Ordering::Relaxed));
        DeadLetterLedger {
            made,
            replayed,
            discarded,
            evicted: 0,
            kept: made.saturating_sub(replayed + discarded),
        }
    }
}

/// Claims dead letters on one channel, as they are asked for.
struct Looking {
    store: AmqpDeadLetters,
    wanted: Wanted,
    left: usize,
    look: Option<Arc<Look>>,
}

impl Claims for Looking {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Box<dyn Claim>>, StoreError>> {
        Box::pin(async move {
            if self.left == 0 {
                return Ok(None);
            }
            let wanted = self.wanted.clone();
            let (look, found) = match self.look.clone() {
                None => self.store.first(wanted).await?,
                Some(look) => {
                    let next = self.store.looking(async move |_, _| {
                        let found = look.next(&wanted).await?;
                        Ok((look, found))
                    });
                    next.await?
                }
            };
            self.look = Some(Arc::clone(&look));
            let Some((tag, letter)) = found else {
                return Ok(None);
            };
            self.left -= 1;
            Ok(Some(Box::new(Held {
                store: self.store.clone(),
                look,
                tag,
                letter,
            }) as Box<dyn Claim>))
        })
    }
}

/// One that is held unacknowledged.
struct Held {
    store: AmqpDeadLetters,
    look: Arc<Look>,
    tag: u64,
    letter: DeadLetter,
}

impl Claim for Held {
    fn letter(&self) -> &DeadLetter {
        &self.letter
    }

    fn replayed(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        let Self {
            store, look, tag, ..
        } = *self;
        // It is in its queue already.
        store.0.replayed.fetch_add(1, Ordering::Relaxed);
        store.looking(async move |_, _| look.settle(tag).await)
    }
}

impl Shared {
    /// The dead letters of a group, whether or not it is subscribed here.
    pub(super) fn letters_of(&self, group: &Arc<str>) -> Option<AmqpDeadLetters> {
        if let Some(known) = self.letters.lock().get(group) {
            return Some(known.clone());
        }
        let names = self.names.group(group).ok()?;
        Some(AmqpDeadLetters::new(
            Arc::clone(group),
            names,
            self.this.clone(),
        ))
    }

    /// Keeps in mind that a group's dead letters are there, to find them by their ids.
    pub(super) fn know(&self, letters: &AmqpDeadLetters) {
        let mut known = self.letters.lock();
        known
            .entry(Arc::clone(&letters.0.group))
            .or_insert_with(|| letters.clone());
    }

    pub(super) async fn publish_back(
        &self,
        queue: &str,
        parcel: &SharedParcel,
        patience: Duration,
    ) -> Result<(), Refusal> {
        let no_queue = || Refusal::NoQueue {
            queue: queue.to_owned(),
        };
        let names = self.names.group(queue).map_err(|_| no_queue())?;
        let body = wire::copy_body(parcel).map_err(|error| Refusal::Codec(error.to_string()))?;
        let publication = Publication {
            exchange: "".into(),
            routing_key: names.queue().into(),
            properties: wire::replayed(parcel, self.frame_max())?,
            body: Arc::new(body.into()),
        };
        match self.publisher.publish_told(publication, patience).await? {
            (Confirmed::Routed, _) => Ok(()),
            told => Err(self.publisher.refusal(told, no_queue)),
        }
    }

    /// Runs something on the bridge's thread, whose runtime it needs. It is dropped with the future.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let (mut done, wait) = tokio::sync::oneshot::channel();
        self.thread.spawn(async move {
            tokio::select! {
                answer = work => drop(done.send(answer)),
                () = done.closed() => {}
            }
        });
        wait.await.map_err(|_| CLOSED.to_owned())
    }
}
