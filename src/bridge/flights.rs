use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Futures that are polled together, in the order of their waking.
///
/// What makes it different from other sets of futures: [`pass`](Self::pass) ends only when nothing is woken any
/// more, so that whatever had happened before it began has been seen when it ends. By that a returned message
/// is told from a confirmed one, though lapin hands a return to whichever confirm comes first.
pub(super) struct Flights<F: Future> {
    seats: Vec<Seat<F>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    taken: Vec<usize>,
    len: usize,
}

struct Seat<F> {
    /// Its room is kept for the next one.
    flight: Pin<Box<Option<F>>>,
    waker: Waker,
}

#[derive(Default)]
struct Ready {
    state: Mutex<ReadyState>,
}

#[derive(Default)]
struct ReadyState {
    woken: Vec<usize>,
    task: Option<Waker>,
}

struct Bell {
    seat: usize,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = {
            let mut state = self.ready.state.lock();
            state.woken.push(self.seat);
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future> Flights<F> {
    pub(super) fn new() -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            ready: Arc::default(),
            taken: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a future, to be polled first by the next pass, behind those added before.
    pub(super) fn add(&mut self, flight: F) {
        let seat = self.free.pop().unwrap_or_else(|| {
            let seat = self.seats.len();
            let bell = Bell {
                seat,
                ready: Arc::clone(&self.ready),
            };
            self.seats.push(Seat {
                flight: Box::pin(None),
                waker: Arc::new(bell).into(),
            });
            seat
        });
        self.seats[seat].flight.set(Some(flight));
        self.len += 1;
        self.ready.state.lock().woken.push(seat);
    }

    /// Polls what is woken until nothing is, and tells of what has ended.
    pub(super) fn pass(&mut self, mut ended: impl FnMut(F::Output)) {
        loop {
            let mut taken = std::mem::take(&mut self.taken);
            std::mem::swap(&mut taken, &mut self.ready.state.lock().woken);
            let is_quiet = taken.is_empty();
            for seat in taken.drain(..) {
                let Seat { flight, waker } = &mut self.seats[seat];
                // A seat may be woken late, by a future that has left it.
                let Some(running) = flight.as_mut().as_pin_mut() else {
                    continue;
                };
                if let Poll::Ready(output) = running.poll(&mut Context::from_waker(waker)) {
                    flight.set(None);
                    self.free.push(seat);
                    self.len -= 1;
                    ended(output);
                }
            }
            self.taken = taken;
            if is_quiet {
                return;
            }
        }
    }

    /// Resolves when something is woken. Cancel safe.
    pub(super) async fn woken(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.ready.state.lock();
            if state.woken.is_empty() {
                state.task = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_pass_sees_everything_that_had_happened() {
        let mut flights = Flights::new();
        let mut landings: Vec<oneshot::Sender<usize>> = Vec::new();
        for _ in 0..100 {
            let (land, landed) = oneshot::channel();
            flights.add(async move { landed.await.unwrap_or(usize::MAX) });
            landings.push(land);
        }
        let mut seen = Vec::new();
        flights.pass(|number| seen.push(number));
        assert!(seen.is_empty());
        for (number, land) in landings.drain(..).enumerate().rev() {
            land.send(number).unwrap();
        }
        flights.pass(|number| seen.push(number));
        assert_eq!(seen, (0..100).rev().collect::<Vec<_>>());
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn they_are_first_polled_in_the_order_of_their_adding() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |order: &Arc<Mutex<Vec<u32>>>, number| {
            let order = Arc::clone(order);
            async move { order.lock().push(number) }
        };
        let mut flights = Flights::new();
        for number in 0..10 {
            flights.add(note(&order, number));
        }
        flights.pass(|()| {});
        assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
        // Seats are used again.
        flights.add(note(&order, 10));
        flights.pass(|()| {});
        assert_eq!(flights.seats.len(), 10);
    }
}
