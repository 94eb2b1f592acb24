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
    address: *const u8,
    length: usize,
    kind: AddressKind,
    route: Arc<Route>,
}

thread_local! {
    static ROUTES: RefCell<[Option<Remembered>; REMEMBERED]> =
        const { RefCell::new([const { None }; REMEMBERED]) };
}

impl Broker {
    /// The route of a constant address. A thread asks the shared table only once per address and change.
    pub(crate) fn with_static_route<T>(
        &self,
        kind: AddressKind,
        address: &'static str,
        run: impl FnOnce(&Arc<Route>) -> T,
    ) -> T {
        let place = (address.as_ptr() as usize >> 3) % REMEMBERED;
        // Taken out while in use: what runs may publish again.
        let known = ROUTES.with_borrow_mut(|routes| routes[place].take());
        let known = known.filter(|known| {
            known.broker == self.id
                && std::ptr::eq(known.address, address.as_ptr())
                && known.length == address.len()
                && known.kind == kind
                && known.route.generation == self.table.generation()
        });
        let known = known.unwrap_or_else(|| Remembered {
            broker: self.id,
            address: address.as_ptr(),
            length: address.len(),
            kind,
            route: self.table.route(kind, address),
        });
        let result = run(&known.route);
        if known.route.targets.len() <= MOST_TARGETS {
            let displaced = ROUTES.with_borrow_mut(|routes| routes[place].replace(known));
            drop(displaced);
        }
        result
    }
}
