use std::task::Waker;

/// The workers of a queue, and which of them wait for a message.
#[derive(Default)]
pub(super) struct Seats {
    seats: Box<[Seat]>,
    idle: usize,
}

#[derive(Default)]
struct Seat {
    waker: Option<Waker>,
    idle: bool,
    stopped: bool,
    taken: bool,
    /// Its worker has ended, and nothing but a start of it is to come.
    ended: bool,
}

impl Seats {
    pub(super) fn add(&mut self) -> u32 {
        let free = self.seats.iter().position(|seat| !seat.taken);
        let index = free.unwrap_or_else(|| {
            let mut seats = std::mem::take(&mut self.seats).into_vec();
            seats.reserve_exact(1);
            seats.push(Seat::default());
            self.seats = seats.into_boxed_slice();
            self.seats.len() - 1
        });
        self.seats[index] = Seat {
            taken: true,
            ..Seat::default()
        };
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, seat: u32) {
        self.leave_idle(seat);
        self.seats[seat as usize] = Seat::default();
    }

    /// How many workers share the messages; at least 1, so that it can be divided by.
    #[inline]
    pub(super) fn running(&self) -> usize {
        if self.seats.len() <= 1 {
            return 1;
        }
        self.seats
            .iter()
            .filter(|seat| seat.taken && !seat.stopped && !seat.ended)
            .count()
            .max(1)
    }

    pub(super) fn idle(&mut self, seat: u32, waker: &Waker) {
        let seat = &mut self.seats[seat as usize];
        match &mut seat.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if !seat.idle {
            seat.idle = true;
            self.idle += 1;
        }
    }

    #[inline]
    pub(super) fn wake_one(&mut self) -> Option<Waker> {
        if self.idle == 0 {
            return None;
        }
        // The last of the idle: its caches are the warmest.
        let seat = self.seats.iter_mut().rev().find(|seat| seat.idle)?;
        seat.idle = false;
        self.idle -= 1;
        seat.waker.clone()
    }

    pub(super) fn wake_all(&mut self) -> Vec<Waker> {
        if self.idle == 0 {
            return Vec::new();
        }
        std::iter::from_fn(|| self.wake_one()).collect()
    }

    /// The waker is the stopped worker's own, so that it sees the request.
    pub(super) fn stop(&mut self, seat: u32) -> Option<Waker> {
        self.leave_idle(seat);
        let seat = &mut self.seats[seat as usize];
        seat.stopped = true;
        seat.waker.clone()
    }

    /// Its worker takes no share until it is started again.
    pub(super) fn end(&mut self, seat: u32) {
        self.leave_idle(seat);
        self.seats[seat as usize].ended = true;
    }

    /// Its worker starts. Returns whether any other one is asked to stop.
    pub(super) fn start(&mut self, seat: u32) -> bool {
        let starting = &mut self.seats[seat as usize];
        starting.stopped = false;
        starting.ended = false;
        self.seats.iter().any(|seat| seat.stopped)
    }

    pub(super) fn is_stopped(&self, seat: u32) -> bool {
        self.seats[seat as usize].stopped
    }

    /// A worker that goes while it is idle must not swallow a wake meant for the others.
    fn leave_idle(&mut self, seat: u32) {
        let seat = &mut self.seats[seat as usize];
        if seat.idle {
            seat.idle = false;
            self.idle -= 1;
        }
    }
}
