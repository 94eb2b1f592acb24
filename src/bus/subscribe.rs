use std::marker::PhantomData;
use std::sync::Arc;

use actix::{Actor, Addr, Handler};

use super::Bus;
use super::subscriber_builder::SubscriberBuilder;
use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event};
use crate::subscriber::{
    ActorSubscriber, Chain, CommandFn, Context, Delivery, Empty, EventFn, Fallible, Infallible,
    OnCommand, OnEvent,
};

#[expect(
    clippy::type_complexity,
    reason = "the factory of a function has no name of its own"
)]
impl Bus {
    /// A subscriber whose handler values are made by `factory`: one for each worker, and a fresh one after
    /// every panic and timeout. What must outlive those (a connection pool, a map of orders) is made outside
    /// and cloned in.
    ///
    /// The name is the group's and the queue's. Another subscriber of the same name, here or in another task,
    /// competes for the same messages; every other name gets a copy of its own.
    pub fn subscriber<H: 'static, F>(
        &self,
        name: impl Into<String>,
        factory: F,
    ) -> SubscriberBuilder<H, Infallible<F>, Empty>
    where
        F: Fn() -> H + Send + Sync + 'static,
    {
        SubscriberBuilder::new(self, name.into(), Infallible(factory))
    }

    /// Like [`subscriber`](Self::subscriber), with a factory that may wait and may fail: to connect, to read
    /// what the handler works on. A failure counts as a restart: it is tried again with backoff, and more
    /// than the intensity allows suspend the subscription. No timeout of ours ends a factory that waits.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use postroom::{Context, Event, Outcome, Subscriber};
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
    /// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # struct Connection;
    /// # async fn connect() -> Result<Connection, std::io::Error> { Ok(Connection) }
    /// struct Mailer { connection: Connection }
    /// # impl Subscriber<OrderPaid> for Mailer {
    /// #     async fn handle(&mut self, _: &OrderPaid, _: &mut Context<'_>) -> Outcome { Ok(()) }
    /// # }
    /// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
    /// bus.try_subscriber("mailer", async || connect().await.map(|connection| Mailer { connection }))
    ///     .on::<OrderPaid>()
    ///     .start()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn try_subscriber<H: 'static, E, F>(
        &self,
        name: impl Into<String>,
        factory: F,
    ) -> SubscriberBuilder<H, Fallible<F>, Empty>
    where
        E: std::fmt::Display,
        F: AsyncFn() -> Result<H, E> + Send + Sync + 'static,
    {
        SubscriberBuilder::new(self, name.into(), Fallible(factory))
    }

    /// A function as a subscriber. One value serves all workers, so its captures are shared, not `&mut`.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
    /// # impl postroom::Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
    /// bus.subscribe_fn::<OrderPaid, _>("audit", async |paid, cx| {
    ///     println!("order {} is paid, attempt {}", paid.order, cx.attempt());
    ///     Ok(())
    /// })
    /// .start()
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn subscribe_fn<E: Event, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        EventFn<F, E>,
        Infallible<impl Fn() -> EventFn<F, E> + Send + Sync + 'static + use<E, F>>,
        Chain<OnEvent<E>, Empty>,
    >
    where
        F: AsyncFn(&E, &mut Context<'_>) -> Outcome + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || EventFn(Arc::clone(&function), PhantomData))
            .on::<E>()
    }

    /// A function as a command handler: `bus.handle_fn::<C, _>("name", async |command, cx| { … })`. It returns
    /// the reply.
    pub fn handle_fn<C: Command, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        CommandFn<F, C>,
        Infallible<impl Fn() -> CommandFn<F, C> + Send + Sync + 'static + use<C, F>>,
        Chain<OnCommand<C>, Empty>,
    >
    where
        F: AsyncFn(&C, &mut Context<'_>) -> Result<C::Reply, Failure> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || CommandFn(Arc::clone(&function), PhantomData))
            .command::<C>()
    }

    /// An actix actor as a subscriber, by a factory of its address; what it answers acknowledges. The factory
    /// runs on a thread of the bus that has an actix system, so it may start the actor there. It is asked
    /// again when the actor was found closed: a factory that answers with the same address again lets every message fail from
    /// then on, so let it start the actor, unless something else restarts it.
    ///
    /// It is for one type of event and for actors with an `actix::Context`; the event comes by reference, and an actor that
    /// waits answers with a `ResponseFuture<Outcome>`. Two types are two subscriptions, without an order between them.
    ///
    /// A timeout fails the attempt, but cannot stop the actor: it may still be at work on the message when the
    /// next attempt arrives.
    pub fn subscribe_actor<E, A, M>(
        &self,
        name: &str,
        make: M,
    ) -> SubscriberBuilder<
        ActorSubscriber<A, E, M>,
        Infallible<impl Fn() -> ActorSubscriber<A, E, M> + Send + Sync + 'static + use<E, A, M>>,
        Chain<OnEvent<E>, Empty>,
    >
    where
        E: Event,
        A: Actor<Context = actix::Context<A>> + Handler<Delivery<E>>,
        M: Fn() -> Addr<A> + Clone + Send + Sync + 'static,
    {
        let make = move || ActorSubscriber {
            make: make.clone(),
            address: make(),
            event: PhantomData,
        };
        let mut builder = self.subscriber(name, make).on::<E>();
        builder.shares = true;
        builder
    }
}
