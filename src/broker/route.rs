use std::cell::RefCell;
use std::sync::Arc;

use super::Broker;
use crate::message::AddressKind;
use crate::queue::QueueCore;

/// The queues that a topic's messages go to, as of one generation of the table.
pub(crate) struct Route {
    pub(crate) targets: Box<[Arc<QueueCore>]>,
    pub(crate) generation: u64,
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

thread_local! {
    static ROUTES: RefCell<[Option<Remembered>; REMEMBERED]> =
        const { RefCell::new([const { None }; REMEMBERED]) };
}

impl Broker {
    /// The route of a constant address, compared by its place in memory. A thread asks the shared table only once per address and change.
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
                && let Some(known) = &routes[place]
                && known.broker == self.id
                && std::ptr::eq(known.address, address)
                && known.kind == kind
                && known.route.generation == generation
            {
                return run(&known.route);
            }
            let route = self.table.route(kind, address);
            if route.targets.len() <= MOST_TARGETS
                && let Ok(mut routes) = routes.try_borrow_mut()
            {
                let displaced = routes[place].replace(Remembered {
                    broker: self.id,
                    address,
                    kind,
                    route: Arc::clone(&route),
                });
                // A forgotten route may be the last to hold a queue.
                drop(routes);
                drop(displaced);
            }
            run(&route)
        })
    }
}
