mod life;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::types::ShortString;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::link::Link;
use crate::message::SharedBytes;
use crate::ports::{Deadline, Refusal, Timers};

pub(super) use life::live;

/// A message as it is written.
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: SharedBytes,
}

/// What RabbitMQ answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// Stored by every queue that it was routed to: at least one.
    Routed,
    /// No queue is bound for it.
    Returned,
    /// A queue refused it, or failed.
    Nacked,
}

/// How far a publication has come.
mod stage {
    pub(super) const WAITS: u8 = 0;
    pub(super) const WRITTEN: u8 = 1;
    pub(super) const GIVEN_UP: u8 = 2;
}

/// What RabbitMQ answered, and whether to a publication that was written before.
type Told = (Confirmed, bool);

struct Job {
    publication: Arc<Publication>,
    stage: Arc<AtomicU8>,
    /// Or that RabbitMQ closed the channel for it.
    done: oneshot::Sender<Result<Told, Refusal>>,
    /// Its place in the window.
    _place: OwnedSemaphorePermit,
    number: u64,
    /// How often a channel was closed while it was on its way: it may be what closes them.
    closed: u32,
    /// It was on its way on another channel, and may have arrived.
    is_repeated: bool,
    /// That channel was lost, and not closed for what was on its way.
    was_lost: bool,
    /// Since when it is on its way on its channel.
    written: Option<Instant>,
}

impl Job {
    fn new(
        publication: Arc<Publication>,
        done: oneshot::Sender<Result<Told, Refusal>>,
        place: OwnedSemaphorePermit,
        number: u64,
    ) -> Self {
        Self {
            publication,
            stage: Arc::new(AtomicU8::new(stage::WAITS)),
            done,
            _place: place,
            number,
            closed: 0,
            is_repeated: false,
            was_lost: false,
            written: None,
        }
    }

    fn is_given_up(&self) -> bool {
        self.stage.load(Ordering::Acquire) == stage::GIVEN_UP
    }
}

/// How long publications that nobody waits for any more may take the place of others.
const GIVEN_UP_FOR: Duration = Duration::from_secs(30);

/// By how much fewer fly together, each time that their channel was closed.
const FEWER: u32 = 16;

/// Whoever stops to wait gives the publication up, and learns whether it was written.
struct Claim(Arc<AtomicU8>);

impl Claim {
    fn give_up(&self) -> bool {
        self.0.swap(stage::GIVEN_UP, Ordering::AcqRel) == stage::WRITTEN
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// What is counted of publishing.
#[derive(Default)]
pub(super) struct PublishCounts {
    pub(super) confirmed: AtomicU64,
    pub(super) returned: AtomicU64,
    pub(super) nacked: AtomicU64,
    pub(super) unconfirmed: AtomicU64,
    /// Written again after their channel was lost, with the same id.
    pub(super) repeated: AtomicU64,
}

/// What it is that RabbitMQ closed a channel for one publication. Where one was lost under it before, it may have been
/// another matter then, and a copy of it there.
fn rejection(was_lost: bool, why: &str) -> Refusal {
    match was_lost {
        false => Refusal::Rejected {
            why: why.to_owned(),
        },
        true => Refusal::Unconfirmed {
            why: format!(
                "it was written again after its channel was lost, and refused then: {why}"
            ),
        },
    }
}

/// Publishes with confirms, many at a time, in a bounded window.
///
/// What is unconfirmed when a channel is lost is written again on the next one, with the same id, for as long
/// as its publisher waits: it may then arrive twice, and is not lost.
pub(super) struct Publisher {
    window: Arc<Semaphore>,
    waiting: Mutex<VecDeque<Job>>,
    wake: Notify,
    next: AtomicU64,
    timers: Arc<dyn Timers>,
    link: Arc<Link>,
    places: u32,
    pub(super) counts: PublishCounts,
}

impl Publisher {
    pub(super) fn new(window: u32, timers: Arc<dyn Timers>, link: Arc<Link>) -> Self {
        Self {
            window: Arc::new(Semaphore::new(window as usize)),
            waiting: Mutex::default(),
            wake: Notify::new(),
            next: AtomicU64::new(0),
            timers,
            link,
            places: window,
            counts: PublishCounts::default(),
        }
    }

    /// Publishes, and resolves with RabbitMQ's answer.
    ///
    /// Dropped before the message was written, nothing is published.
    pub(super) fn publish(
        &self,
        publication: Publication,
        patience: Duration,
    ) -> impl Future<Output = Result<Confirmed, Refusal>> {
        let told = self.publish_told(publication, patience);
        async { Ok(told.await?.0) }
    }

    /// The same. True: it was written more than once, and an earlier copy may have arrived whatever the last answer is.
    pub(super) fn publish_told(
        &self,
        publication: Publication,
        patience: Duration,
    ) -> impl Future<Output = Result<Told, Refusal>> {
        // At once: it is large, and would be moved with every future that awaits this one.
        self.publish_shared(Arc::new(publication), patience)
    }

    async fn publish_shared(
        &self,
        publication: Arc<Publication>,
        patience: Duration,
    ) -> Result<Told, Refusal> {
        let mut deadline = Deadline::new(Arc::clone(&self.timers), patience);
        let place = Arc::clone(&self.window).acquire_owned();
        let place = match deadline.bound(place).await {
            Some(Ok(place)) => place,
            Some(Err(_)) => return Err(Refusal::Closed),
            None => return Err(self.unreachable("too many messages wait for their confirm")),
        };
        let (done, answer) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let job = Job::new(publication, done, place, number);
        let claim = Claim(Arc::clone(&job.stage));
        {
            let mut waiting = self.waiting.lock();
            if self.window.is_closed() {
                return Err(Refusal::Closed);
            }
            waiting.push_back(job);
        }
        self.wake.notify_one();
        match deadline.bound(answer).await {
            Some(Ok(told)) => told,
            Some(Err(_)) if claim.give_up() => Err(self.unconfirmed("the bridge was closed")),
            Some(Err(_)) => Err(Refusal::Closed),
            None if claim.give_up() => Err(self.unconfirmed("no answer from RabbitMQ")),
            None => Err(self.unreachable("it could not be written in time")),
        }
    }

    /// What an answer means to whoever needs a queue to have the message. Of one that was repeated an earlier copy may be there.
    pub(super) fn refusal(&self, told: Told, no_queue: impl FnOnce() -> Refusal) -> Refusal {
        match told {
            (_, true) => {
                self.counts.unconfirmed.fetch_add(1, Ordering::Relaxed);
                Refusal::Unconfirmed {
                    why: "it was written again after its channel was lost, and refused then"
                        .to_owned(),
                }
            }
            (Confirmed::Returned, false) => no_queue(),
            (_, false) => Refusal::Nacked {
                why: "a queue is full and rejects, or failed".to_owned(),
            },
        }
    }

    fn unconfirmed(&self, otherwise: &str) -> Refusal {
        self.counts.unconfirmed.fetch_add(1, Ordering::Relaxed);
        let trouble = self.link.trouble();
        Refusal::Unconfirmed {
            why: trouble.map_or_else(|| otherwise.to_owned(), |why| why.to_string()),
        }
    }

    fn unreachable(&self, otherwise: &str) -> Refusal {
        let trouble = self.link.trouble();
        Refusal::Unreachable {
            why: trouble.map_or_else(|| otherwise.to_owned(), |why| why.to_string()),
        }
    }

    /// How many may fly together that were on their way on so many closed channels. Fewer each time, and in the
    /// end one alone: so the one that closes them is found, and takes no other with it.
    fn together(&self, closed: u32) -> usize {
        let fewer = FEWER.saturating_pow(closed);
        (self.places / fewer).max(1) as usize
    }

    /// The next one that somebody still waits for, if it may join those that fly. `most` is how many of these may.
    fn take(&self, flying: usize, most: &mut usize) -> Option<Job> {
        if flying == 0 {
            *most = self.places as usize;
        }
        let mut waiting = self.waiting.lock();
        while let Some(first) = waiting.front() {
            let together = self.together(first.closed).min(*most);
            if flying >= together {
                return None;
            }
            let job = waiting.pop_front()?;
            let written = job.stage.compare_exchange(
                stage::WAITS,
                stage::WRITTEN,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            // One that is repeated is written already.
            if written.is_ok() || written == Err(stage::WRITTEN) {
                *most = together;
                return Some(job);
            }
        }
        None
    }

    /// What was not answered is written again, in its order, before anything new. But one that was alone on a
    /// channel which RabbitMQ closed is what it closed it for.
    fn put_back(&self, mut jobs: Vec<Job>, closed: Option<&str>) {
        if let Some(why) = closed {
            if jobs.len() == 1 {
                for poisonous in jobs.drain(..) {
                    let refusal = rejection(poisonous.was_lost, why);
                    let is_unconfirmed = matches!(refusal, Refusal::Unconfirmed { .. });
                    // Who waited may have given up, and counted it.
                    if poisonous.done.send(Err(refusal)).is_ok() && is_unconfirmed {
                        self.counts.unconfirmed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            jobs.iter_mut().for_each(|job| job.closed += 1);
        }
        jobs.sort_unstable_by_key(|job| job.number);
        jobs.retain(|job| !job.is_given_up());
        for job in &mut jobs {
            job.is_repeated = true;
            job.was_lost |= closed.is_none();
        }
        let repeated = jobs.len() as u64;
        self.counts.repeated.fetch_add(repeated, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        // Nobody would write it any more: who waits is told by the drop.
        if self.window.is_closed() {
            return;
        }
        for job in jobs.into_iter().rev() {
            waiting.push_front(job);
        }
    }

    fn is_full(&self) -> bool {
        self.window.available_permits() == 0
    }

    /// Whether what is never answered, as by a queue without a leader, leaves no place for anything else.
    fn is_clogged(&self, jobs: &[Option<Job>], now: Instant) -> bool {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= GIVEN_UP_FOR;
        let clogs = |job: &Job| job.is_given_up() && job.written.is_some_and(is_old);
        self.is_full() && jobs.iter().flatten().any(clogs)
    }

    fn is_idle(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Refuses everything from now on, and gives up what waits.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock();
        self.window.close();
        waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::time::{ManualClock, TimerService};

    #[tokio::test]
    async fn what_is_refused_after_its_connection_was_lost_may_be_there() {
        for was_lost in [false, true] {
            let clock = ManualClock::new();
            let timers = TimerService::new(clock.clock());
            let link = Arc::new(Link::new("link".to_owned()));
            let publisher = Publisher::new(4, timers, link);
            let publication = Publication {
                exchange: "events".into(),
                routing_key: "placed".into(),
                properties: BasicProperties::default(),
                body: Arc::default(),
            };
            let mut told = Box::pin(publisher.publish(publication, Duration::from_secs(1)));
            let polled = told.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending));
            let mut most = 0;
            // Closed for others too, it may be what closes channels, and is written again.
            let mut ends = vec![Some("404"), None, Some("404")];
            if !was_lost {
                ends.remove(1);
            }
            for (turn, closed) in ends.into_iter().enumerate() {
                let mut flying = vec![publisher.take(0, &mut most).unwrap()];
                if turn == 0 {
                    let place = Arc::clone(&publisher.window).try_acquire_owned().unwrap();
                    let (done, _) = oneshot::channel();
                    let publication = Arc::clone(&flying[0].publication);
                    let other = Job::new(publication, done, place, 7);
                    other.stage.store(stage::GIVEN_UP, Ordering::Release);
                    flying.push(other);
                }
                publisher.put_back(flying, closed);
            }
            let refusal = told.await.unwrap_err();
            assert_eq!(
                matches!(refusal, Refusal::Unconfirmed { .. }),
                was_lost,
                "{refusal}"
            );
            assert_eq!(matches!(refusal, Refusal::Rejected { .. }), !was_lost);
        }
    }
}
