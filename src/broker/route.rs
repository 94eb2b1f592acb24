use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Broker;
use crate::message::AddressKind;
use crate::queue::QueueCore;

/// The queues that a topic's messages go to, as of one generation of the table.
pub(crate) struct Route {
    pub(crate) targets: Box<[Arc<QueueCore>]>,
    /// Those that are kept in the store, and get their messages from there.
    pub(crate) stored: Box<[Arc<QueueCore>]>,
    /// The messages leave the process too, by the bridge.
    pub(crate) exported: bool,
    /// Something outside of this process's memory has to confirm them.
    pub(crate) must_wait: bool,
    pub(crate) generation: u64,
}

impl Route {
    /// To queues that are not bridged.
    pub(crate) fn new(queues: Vec<Arc<QueueCore>>, exported: bool, generation: u64) -> Self {
        let (stored, targets): (Vec<_>, Vec<_>) = queues
            .into_iter()
            .partition(|queue| queue.backing().is_stored());
        Self {
            must_wait: exported || !stored.is_empty(),
            targets: targets.into(),
            stored: stored.into(),
            exported,
            generation,
        }
    }
}

/// How many addresses a thread remembers, and the most targets of a route it remembers: what a forgotten
/// bus can hold on to is bounded by them.
const REMEMBERED: usize = 64;
const MOST_TARGETS: usize = 64;

struct Remembered {
    broker: u64,
    address: &'static str,
    kind: AddressKind,
    route: Arc<Route>,
}

struct Memory([Option<Remembered>; REMEMBERED]);

thread_local! {
    static ROUTES: RefCell<Memory> = const { RefCell::new(Memory([const { None }; REMEMBERED])) };
}

/// What threads that ended had remembered.
///
/// A route may be the last to hold a queue, and with it the address of an actor. To drop an address wakes the
/// actor's runtime, which needs thread-locals of its own: in a thread that is being torn down it panics, and
/// a panic there aborts the process. So the end of a thread only leaves its routes here.
static LEFT_BEHIND: Mutex<Vec<Arc<Route>>> = Mutex::new(Vec::new());
static IS_LEFT_BEHIND: AtomicBool = AtomicBool::new(false);

impl Drop for Memory {
    fn drop(&mut self) {
        let mut left = LEFT_BEHIND.lock();
        for known in self.0.iter_mut().filter_map(Option::take) {
            left.push(known.route);
            IS_LEFT_BEHIND.store(true, Ordering::Relaxed);
        }
    }
}

/// Drops what ended threads left behind. Cheap when there is nothing.
pub(crate) fn clear_left_behind() {
    if IS_LEFT_BEHIND.swap(false, Ordering::Relaxed) {
        let left = std::mem::take(&mut *LEFT_BEHIND.lock());
        drop(left);
    }
}

/// A thread of ours that is about to end forgets its routes while it still can drop them.
pub(crate) fn forget_routes() {
    let known = ROUTES
        .with_borrow_mut(|routes| std::mem::replace(routes, Memory([const { None }; REMEMBERED])));
    drop(known);
    clear_left_behind();
}

impl Broker {
    /// The route of a constant address, compared by its place in memory. A thread asks the shared table only once per address and change.
    #[inline]
    pub(crate) fn with_static_route<T>(
        &self,
        kind: AddressKind,
        address: &'static str,
        run: impl FnOnce(&Arc<Route>) -> T,
    ) -> T {
        let place = (address.as_ptr() as usize >> 3) % REMEMBERED;
        let generation = self.table.generation();
        ROUTES.with(|routes| {
            // Shared while in use: what runs may publish again, on the same thread.
            if let Ok(routes) = routes.try_borrow()
                && let Some(known) = &routes.0[place]
                && known.broker == self.id
                && std::ptr::eq(known.address, address)
                && known.kind == kind
                && known.route.generation == generation
            {
                return run(&known.route);
            }
            let route = self.remember(routes, place, kind, address);
            run(&route)
        })
    }

    /// Asks the shared table, and remembers what it says.
    #[cold]
    fn remember(
        &self,
        routes: &RefCell<Memory>,
        place: usize,
        kind: AddressKind,
        address: &'static str,
    ) -> Arc<Route> {
        let route = self.table.route(kind, address);
        if route.targets.len() <= MOST_TARGETS
            && let Ok(mut routes) = routes.try_borrow_mut()
        {
            let displaced = routes.0[place].replace(Remembered {
                broker: self.id,
                address,
                kind,
                route: Arc::clone(&route),
            });
            // A forgotten route may be the last to hold a queue.
            drop(routes);
            drop(displaced);
        }
        route
    }
}
