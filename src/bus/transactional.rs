//! Subscribers whose handlers have a transaction of the bus's store.

use std::marker::PhantomData;
use std::sync::Arc;

use super::{Bus, SubscribeError, SubscriberBuilder};
use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event, Name, Pattern, validate_topic};
use crate::store::TxStore;
use crate::subscriber::{
    Chain, Dispatch, Empty, Factory, Infallible, OnTxCommand, OnTxEvent, OnTxPattern, TxCommandFn,
    TxCommandHandler, TxContext, TxEventFn, TxRawSubscriber, TxSubscriber,
};

#[expect(
    clippy::type_complexity,
    reason = "the factory of a function has no name of its own"
)]
impl Bus {
    /// A function as a transactional subscriber: see [`TxSubscriber`](crate::TxSubscriber).
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: i64 }
    /// # impl postroom::Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # #[cfg(feature = "sqlite")]
    /// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
    /// # use postroom::Sqlite;
    /// bus.transactional_fn::<OrderPaid, Sqlite, _>("stock", async |paid, cx| {
    ///     let update = sqlx::query("UPDATE stock SET units = units - 1 WHERE ordered = $1");
    ///     update.bind(paid.order).execute(cx.tx()).await?;
    ///     Ok(())
    /// })
    /// .start()
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn transactional_fn<E: Event, S: TxStore, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        TxEventFn<F, E, S>,
        Infallible<impl Fn() -> TxEventFn<F, E, S> + Send + Sync + 'static + use<E, S, F>>,
        Chain<OnTxEvent<E, S>, Empty>,
    >
    where
        F: AsyncFn(&E, &mut TxContext<'_, S>) -> Outcome + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || TxEventFn(Arc::clone(&function), PhantomData))
            .transactional::<E, S>()
    }

    /// A function as a transactional command handler: see [`TxCommandHandler`](crate::TxCommandHandler). It returns
    /// the reply.
    pub fn transactional_command_fn<C: Command, S: TxStore, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        TxCommandFn<F, C, S>,
        Infallible<impl Fn() -> TxCommandFn<F, C, S> + Send + Sync + 'static + use<C, S, F>>,
        Chain<OnTxCommand<C, S>, Empty>,
    >
    where
        F: AsyncFn(&C, &mut TxContext<'_, S>) -> Result<C::Reply, Failure> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || {
            TxCommandFn(Arc::clone(&function), PhantomData)
        })
        .transactional_command::<C, S>()
    }
}

impl<H: 'static, F: Factory<H>, D: Dispatch<H>> SubscriberBuilder<H, F, D> {
    /// Also handles events of type `E`, each in a transaction of the bus's store: see
    /// [`TxSubscriber`](crate::TxSubscriber). `S` is the store, as `Sqlite` or `Postgres`.
    ///
    /// Each worker opens a connection of its own when it gets its first message, and keeps it.
    pub fn transactional<E: Event, S: TxStore>(
        mut self,
    ) -> SubscriberBuilder<H, F, Chain<OnTxEvent<E, S>, D>>
    where
        H: TxSubscriber<E, S>,
    {
        let topic = validate_topic(E::TOPIC).and_then(|()| Pattern::new(E::TOPIC));
        self.patterns.push(topic);
        self.with(OnTxEvent(PhantomData))
    }

    /// Also handles commands of type `C`, each in a transaction of the bus's store; the queue has this one home. See
    /// [`TxCommandHandler`](crate::TxCommandHandler).
    pub fn transactional_command<C: Command, S: TxStore>(
        mut self,
    ) -> SubscriberBuilder<H, F, Chain<OnTxCommand<C, S>, D>>
    where
        H: TxCommandHandler<C, S>,
    {
        self.commands.push(Name::Static(C::QUEUE));
        self.with(OnTxCommand(PhantomData))
    }

    /// Also sees every event whose topic matches, whatever its type, each in a transaction of the bus's store: see
    /// [`TxRawSubscriber`](crate::TxRawSubscriber). A message that another handler of this subscriber takes by its exact
    /// type goes only there.
    pub fn transactional_pattern<S: TxStore>(
        mut self,
        pattern: &str,
    ) -> SubscriberBuilder<H, F, Chain<OnTxPattern<S>, D>>
    where
        H: TxRawSubscriber<S>,
    {
        let matcher = self.add_pattern(pattern);
        self.with(OnTxPattern(matcher, PhantomData))
    }

    /// That the store of the bus is the one whose transactions the handlers want.
    pub(super) fn check_store(&self) -> Result<(), SubscribeError> {
        let link = self.bus.0.broker.services.store.as_ref();
        let handlers = self.patterns.len() + self.commands.len();
        for transactor in (0..handlers).filter_map(|place| self.dispatch.transactor_at(place)) {
            let Some(link) = link else {
                return Err(SubscribeError::NoStore(self.name.clone()));
            };
            if !transactor.is_of(link) {
                return Err(SubscribeError::OtherDatabase {
                    name: self.name.clone(),
                    store: link.store.database(),
                });
            }
        }
        Ok(())
    }
}
