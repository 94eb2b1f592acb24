use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::Connection;

use super::topology::{self, DeleteOnly, GroupNames, Plan, TopologyError};
use super::{Shared, delay};
use crate::broker::Bridge;
use crate::message::Pattern;

/// How long an operation may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an operator does with a bridge, beside looking at
/// [`Bus::health`](crate::Bus::health) and [`Bus::snapshot`](crate::Bus::snapshot). Had from [`Bus::amqp`](crate::Bus::amqp).
///
/// Nothing is ever removed from RabbitMQ but by [`prune`](Self::prune) and [`delete`](Self::delete): a rolling
/// deploy must not unbind its successor.
///
/// ```no_run
/// # async fn operate(bus: &postroom::Bus) -> Result<(), postroom::TopologyError> {
/// if let Some(amqp) = bus.amqp() {
///     print!("{}", amqp.plan());
///     // The mailer does not want these any more; messages published before stay in its queue.
///     amqp.prune("mailer", &["ordering.order-lost".parse().unwrap()], &[]).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AmqpAdmin(Arc<Shared>);

impl AmqpAdmin {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(crate) fn bridge(&self) -> Arc<dyn Bridge> {
        Arc::clone(&self.0) as Arc<dyn Bridge>
    }

    /// What the bridge declares: the exchanges, and the queues and bindings of each subscription that stands on
    /// RabbitMQ. It prints as one line an object. Not in it: the rungs of the delay ladder
    /// ([`delay_plan`](Self::delay_plan)), and the queues of replies.
    pub fn plan(&self) -> Plan {
        let mut groups: Vec<_> = {
            let queues = self.0.queues.lock();
            let attached = queues.values();
            let groups = attached
                .filter(|attached| !attached.amqp.is_detached())
                .map(|attached| (attached.amqp.names.clone(), Arc::clone(&attached.spec)));
            groups.collect()
        };
        groups.sort_by(|(a, _), (b, _)| a.queue().cmp(b.queue()));
        let plans = groups
            .iter()
            .map(|(names, spec)| self.0.subscription_plan(names, spec));
        plans.fold(self.0.base_plan(), Plan::and)
    }

    /// The rungs of the delay ladder that a retry of up to this long waits in. They come after [`plan`](Self::plan), and
    /// all services of a prefix share them. The bridge declares them as waits need them; this is for who declares in its
    /// place ([`TopologyMode`](crate::TopologyMode)).
    pub fn delay_plan(&self, longest: Duration) -> Plan {
        delay::entry(longest).map_or_else(Plan::default, |entry| {
            delay::ladder_plan(&self.0.names, entry.level())
        })
    }

    /// Takes bindings of a group's queue away: to these patterns of topics, and to these commands. One that is
    /// not there is no error. The messages that came by them stay in the queue.
    ///
    /// # Errors
    /// When RabbitMQ refuses, or cannot be asked within 30 seconds. Those before the failing one are gone.
    ///
    /// # Cancel safety
    /// Dropped, some of them are gone.
    pub async fn prune(
        &self,
        group: &str,
        patterns: &[Pattern],
        commands: &[&str],
    ) -> Result<(), TopologyError> {
        let names = self.group(group)?;
        let patterns = patterns.to_vec();
        let commands: Vec<String> = commands.iter().map(|&name| name.to_owned()).collect();
        self.on_connection(async move |shared, connection| {
            let commands: Vec<_> = commands.iter().map(String::as_str).collect();
            topology::prune(&connection, &shared.names, &names, &patterns, &commands).await
        })
        .await
    }

    /// Deletes the queue of a group, with its messages, and answers how many went with it; none: the condition
    /// was not met. Its dead letters stay, see [`delete_dead_letters`](Self::delete_dead_letters). While the group is subscribed anywhere its
    /// queue is declared again.
    ///
    /// What comes between the look at the condition and the deletion is lost: stop the publishers, or
    /// [`prune`](Self::prune), first.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub async fn delete(
        &self,
        group: &str,
        only: DeleteOnly,
    ) -> Result<Option<u32>, TopologyError> {
        let queue = self.group(group)?.queue().to_owned();
        self.delete_queue(queue, only).await
    }

    /// Deletes the queue of a group's dead letters, as [`delete`](Self::delete) does that of the group.
    ///
    /// # Errors
    /// As [`prune`](Self::prune).
    pub async fn delete_dead_letters(
        &self,
        group: &str,
        only: DeleteOnly,
    ) -> Result<Option<u32>, TopologyError> {
        let queue = self.group(group)?.dead().to_owned();
        self.delete_queue(queue, only).await
    }

    async fn delete_queue(
        &self,
        queue: String,
        only: DeleteOnly,
    ) -> Result<Option<u32>, TopologyError> {
        self.on_connection(async move |_, connection| {
            topology::delete(&connection, &queue, only).await
        })
        .await
    }

    fn group(&self, group: &str) -> Result<GroupNames, TopologyError> {
        let names = self.0.names.group(group);
        names.map_err(|error| TopologyError::Name(error.to_string()))
    }

    async fn on_connection<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Shared>, Arc<Connection>) -> F + Send + 'static,
    ) -> Result<T, TopologyError>
    where
        F: Future<Output = Result<T, TopologyError>> + Send,
    {
        let shared = Arc::clone(&self.0);
        let bounded = async move {
            let connection = shared.publish_link.connected_now();
            let connection = connection.map_err(TopologyError::Connection)?;
            let worked =
                tokio::time::timeout(PATIENCE, work(Arc::clone(&shared), connection)).await;
            worked
                .unwrap_or_else(|_| Err(TopologyError::Connection("no answer in time".to_owned())))
        };
        let done = self.0.on_thread(bounded).await;
        done.map_err(TopologyError::Connection)?
    }
}

impl fmt::Debug for AmqpAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpAdmin")
            .field("plan", &self.plan())
            .finish()
    }
}
