use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Bus;
use crate::mailbox::Books;

/// How often in a row a bus must look the same, beyond the first look, to be at rest.
const SAME: u32 = 3;
/// The same for a bus with handlers in hand: they may wait for something outside, which takes its time.
#[cfg(feature = "testing")]
const SAME_IN_HAND: u32 = 10;
/// The pause between looks at a bus that is busy.
const LOOK: Duration = Duration::from_millis(1);

/// What a bus looks like. Counts only rise, so two equal looks mean that nothing happened between them.
#[derive(PartialEq)]
struct Look {
    queues: Vec<QueueLook>,
    published: u64,
    /// Messages are in the hands of workers.
    in_hand: bool,
    /// Something is about to happen without anyone's doing.
    moving: bool,
}

#[derive(PartialEq)]
struct QueueLook {
    id: u64,
    books: Books,
    restarts: u64,
    workers: u32,
}

impl Bus {
    /// Waits until nothing is left to do at the present time: no message is in hand, none is queued that a
    /// worker could take, and nothing is due. Waiting retries, schedules, and the queues of paused, suspended
    /// or restarting subscribers do not count. For tests.
    ///
    /// It waits for a handler in hand for as long as that takes. With a [`ManualClock`](crate::ManualClock) a
    /// handler that waits for a time (or for its timeout) is ended only by moving the clock: from another task,
    /// or by `testing::advance` in place of this.
    ///
    /// It does not wait for a database, its relay or RabbitMQ, and a manual clock does not move what waits there: in a test with
    /// those wait for the effect, with a deadline, or leave the queue in memory.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn settle(&self) {
        self.rest(None).await;
    }

    /// Like [`settle`](Self::settle), but done also when handlers are in hand and nothing has moved for some
    /// 10 ms: they wait for a time, or for something outside of the bus.
    #[cfg(feature = "testing")]
    pub(crate) async fn settle_or_stand_still(&self) {
        self.rest(Some(SAME_IN_HAND)).await;
    }

    /// `in_hand`: how many same looks in a row are enough while messages are in hand; none for no number.
    async fn rest(&self, in_hand: Option<u32>) {
        let bus = self.clone();
        self.on_control(async move {
            let mut last = bus.look();
            let mut same = 0;
            loop {
                bus.let_threads_finish().await;
                let look = bus.look();
                same = if look == last && !look.moving {
                    same + 1
                } else {
                    0
                };
                let enough = if look.in_hand { in_hand } else { Some(SAME) };
                if enough.is_some_and(|enough| same >= enough) {
                    return;
                }
                if look.in_hand || look.moving {
                    tokio::time::sleep(LOOK).await;
                }
                last = look;
            }
        })
        .await;
    }

    /// Lets every thread of the bus come to the end of what it has begun and of what it was told to do: a
    /// worker that has settled a message may not have told its supervisor yet.
    async fn let_threads_finish(&self) {
        let workers = self.0.workers.iter();
        let mut threads: Vec<_> = workers.map(|thread| thread.arbiter.clone()).collect();
        threads.extend(self.0.subscriber_threads.lock().iter().cloned());
        threads.push(self.0.broker.services.control.clone());
        let mut answers = Vec::new();
        for thread in threads {
            let (done, wait) = tokio::sync::oneshot::channel();
            thread.spawn(async move {
                tokio::task::yield_now().await;
                // Who asked may have gone.
                let _ = done.send(());
            });
            answers.push(wait);
        }
        for answer in answers {
            // A thread that has ended has nothing left to do.
            let _ = answer.await;
        }
    }

    fn look(&self) -> Look {
        let broker = &self.0.broker;
        let (published, is_moving) = broker.schedules.movement();
        let mut look = Look {
            queues: Vec::new(),
            published,
            in_hand: false,
            moving: is_moving || self.0.timers.has_due(),
        };
        for queue in broker.table.queues() {
            let books = queue.mailbox.books();
            let workers = queue.workers.load(Ordering::Relaxed);
            look.in_hand |= books.in_flight > 0;
            // Without a worker nothing moves until its supervisor's backoff is over. Behind a waiting retry
            // a lane may be parked, which is seen by its standing still.
            let can_be_taken = books.queued > 0 && books.in_flight == 0 && books.waiting == 0;
            look.moving |= can_be_taken && workers > 0 && queue.mailbox.halted() == 0;
            look.queues.push(QueueLook {
                id: queue.id,
                books,
                restarts: queue.restarts.load(Ordering::Relaxed),
                workers,
            });
        }
        look
    }
}
