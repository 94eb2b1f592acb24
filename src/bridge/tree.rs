use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ArbiterHandle};

use super::admin::AmqpAdmin;
use super::config::{Amqp, BridgeError};
use super::shared::{Parts, STOP_TIMEOUT, Shared};
use super::topology::Names;
use super::{link, publisher, replies};
use crate::broker::Bridge as _;
use crate::delivery::{Restart, Strategy};
use crate::ports::{ChildId, Deadline, LocalBoxFuture, WhenDown};
use crate::queue::Services;
use crate::supervisor::{
    AddChild, ChildSpec, Life, OnExceeded, PartChild, SupervisorActor, SupervisorSpec,
};

/// The wait before a failed part lives again, and the longest; a quiet while begins anew.
const BACKOFF: (Duration, Duration, Duration) = (
    Duration::from_millis(100),
    Duration::from_secs(5),
    Duration::from_secs(30),
);

/// Starts the tree of a bridge: connections, publisher, replies. Consumers follow with their subscriptions.
pub(crate) async fn start(
    amqp: Amqp,
    service: &str,
    services: &Arc<Services>,
    thread: ArbiterHandle,
) -> Result<AmqpAdmin, BridgeError> {
    let config = amqp.checked()?;
    let names = Names::new(&amqp.prefix, service)?;
    let root = SupervisorActor::new(
        SupervisorSpec {
            name: format!("{service}.amqp").into(),
            strategy: Strategy::OneForOne,
            on_exceeded: OnExceeded::Suspend,
        },
        Arc::clone(&services.timers),
        Arc::clone(&services.lifecycle),
    );
    let supervisor = SupervisorActor::start_in_arbiter(&services.control, move |_| root);
    let when_down = amqp.when_down;
    let patience = amqp.connect_timeout * u32::try_from(config.urls.len()).unwrap_or(u32::MAX);
    let shared = Shared::new(Parts {
        service: service.to_owned(),
        amqp,
        config,
        names,
        services: Arc::clone(services),
        thread,
        supervisor,
    });
    for link in [&shared.publish_link, &shared.consume_link] {
        let name = Arc::clone(&link.name);
        let (link, shared_here) = (Arc::clone(link), Arc::clone(&shared));
        let life = move |stop| -> LocalBoxFuture<'static, Result<(), String>> {
            Box::pin(link::live(
                Arc::clone(&shared_here),
                Arc::clone(&link),
                stop,
            ))
        };
        shared.add(name, Arc::new(life)).await;
    }
    let here = Arc::clone(&shared);
    let life: Arc<Life> = Arc::new(move |stop| {
        let here = Arc::clone(&here);
        Box::pin(async move {
            let live = || publisher::live(Arc::clone(&here), stop.clone());
            here.publish_link.on_each(live).await
        })
    });
    shared.add(shared.part("publisher"), life).await;
    let here = Arc::clone(&shared);
    let life: Arc<Life> = Arc::new(move |stop| {
        let here = Arc::clone(&here);
        Box::pin(async move {
            let live = || replies::live(Arc::clone(&here), stop.clone());
            here.consume_link.on_each(live).await
        })
    });
    shared.add(shared.part("replies"), life).await;
    if when_down == WhenDown::Fail {
        let deadline = Deadline::new(Arc::clone(&services.timers), patience);
        if let Err(why) = connected(&shared, deadline).await {
            shared.close(Duration::from_millis(200)).await;
            return Err(BridgeError::Unreachable(why));
        }
    }
    Ok(AmqpAdmin::new(shared))
}

/// Waits for both connections.
async fn connected(shared: &Shared, mut deadline: Deadline) -> Result<(), String> {
    let both = async {
        shared.publish_link.connected().await;
        shared.consume_link.connected().await;
    };
    if deadline.bound(both).await.is_some() {
        return Ok(());
    }
    let trouble = shared
        .publish_link
        .trouble()
        .or_else(|| shared.consume_link.trouble());
    Err(trouble.map_or_else(String::new, |why| why.to_string()))
}

impl Shared {
    pub(super) fn part(&self, what: &str) -> Arc<str> {
        format!("{}.amqp.{what}", self.service).into()
    }

    /// Adds a part behind the others, and starts it. A part is never given up: it heals when RabbitMQ does.
    pub(super) async fn add(&self, name: Arc<str>, life: Arc<Life>) -> Option<ChildId> {
        let (backoff_initial, backoff_cap, period) = BACKOFF;
        let spec = ChildSpec {
            restart: Restart::Permanent,
            intensity: u32::MAX,
            period,
            backoff_initial,
            backoff_cap,
            stop_timeout: STOP_TIMEOUT,
        };
        let child = Box::new(PartChild::new(
            name,
            &self.thread,
            Arc::clone(&self.services.timers),
            life,
        ));
        let spec = Arc::new(spec);
        // A supervisor that is gone was stopped.
        self.supervisor.send(AddChild { child, spec }).await.ok()?
    }
}
