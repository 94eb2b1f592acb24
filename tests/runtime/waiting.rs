//! A handler that waits holds up its own message, and those behind it in order: not what another worker could handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Door, PATIENCE, bus, end, eventually, queue};
use postroom::{
    Bus, Context, Event, Interceptor, Order, Publish, Restart, Retry, Subscription,
    SubscriptionState,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Parcel(u64);

impl Event for Parcel {
    const TOPIC: &'static str = "waiting.parcel";
}

#[derive(Serialize, Deserialize)]
struct Label;

impl Event for Label {
    const TOPIC: &'static str = "waiting.label";
}

const PARCELS: u64 = 200;

/// Sees nothing; where there is one, a delivery takes the longer way.
struct Onlooker;

impl Interceptor for Onlooker {}

async fn buses() -> [Bus; 2] {
    let observed = Bus::builder("test").intercept(Onlooker).start();
    [bus().await, observed.await.unwrap()]
}

/// Publishes all while nobody takes any, so that each worker takes many.
async fn hand_out_together<'a, E: Event>(
    group: &Subscription,
    publish: impl Fn(u64) -> Publish<'a, E>,
) {
    group.pause();
    for number in 0..PARCELS {
        publish(number).await.unwrap();
    }
    group.resume().await;
}

async fn one_waits_and_all_others_are_handled(bus: &Bus, order: Order) {
    let (door, handled) = (Door::closed(), Arc::new(AtomicU64::new(0)));
    let handler = {
        let (door, handled) = (door.clone(), handled.clone());
        async move |parcel: &Parcel, _: &mut Context<'_>| {
            // The first of a worker's share.
            if parcel.0 == 0 {
                door.pass().await;
            }
            handled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let parcels = bus.subscribe_fn::<Parcel, _>("parcels", handler);
    let parcels = parcels.order(order).start().await.unwrap();
    hand_out_together(&parcels, |number| bus.publish(Parcel(number)).key(number)).await;
    let all_but = |left| handled.load(Ordering::SeqCst) == PARCELS - left;
    eventually("all but one are handled", || all_but(1)).await;
    door.open();
    eventually("all are handled", || all_but(0)).await;
    end(bus).await;
}

#[tokio::test]
async fn a_handler_that_waits_holds_up_nothing_that_another_worker_could_handle() {
    for bus in buses().await {
        one_waits_and_all_others_are_handled(&bus, Order::Unordered { workers: 4 }).await;
    }
}

#[tokio::test]
async fn a_key_that_waits_holds_up_no_other_one_of_its_workers_share() {
    for bus in buses().await {
        one_waits_and_all_others_are_handled(&bus, Order::Keyed { lanes: 4 }).await;
    }
}

#[tokio::test]
async fn a_member_that_has_ended_for_good_keeps_no_share() {
    let bus = bus().await;
    let leaves = async |_: &Parcel, cx: &mut Context<'_>| {
        cx.stop();
        Ok(())
    };
    let leaves = bus.subscribe_fn::<Parcel, _>("parcels", leaves);
    let leaves = leaves.restart(Restart::Temporary).start().await.unwrap();
    bus.publish(Parcel(0)).await.unwrap();
    let state = || leaves.state();
    eventually("it has ended", || state() == SubscriptionState::Ended).await;
    let door = Door::closed();
    let waits = door.clone();
    let stays = async move |_: &Parcel, _: &mut Context<'_>| {
        waits.pass().await;
        Ok(())
    };
    let stays = bus.subscribe_fn::<Parcel, _>("parcels", stays);
    let stays = stays.start().await.unwrap();
    stays.pause();
    for number in 1..=4 {
        bus.publish(Parcel(number)).await.unwrap();
    }
    stays.resume().await;
    // Nobody but the one whose handler waits could handle what is behind it.
    eventually("it has all", || queue(&bus, "parcels").in_flight == 4).await;
    door.open();
    eventually("all are handled", || queue(&bus, "parcels").acked == 5).await;
    end(&bus).await;
}

/// What becomes of the one that waits.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Panics,
    TakesTooLong,
}

async fn one_comes_to_grief(bus: &Bus, order: Order, end: End) {
    let door = Door::closed();
    let waits = door.clone();
    let handler = async move |parcel: &Parcel, cx: &mut Context<'_>| {
        if parcel.0 == 0 && cx.attempt() == 1 {
            waits.pass().await;
            assert!(end != End::Panics, "on purpose");
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let parcels = bus.subscribe_fn::<Parcel, _>("parcels", handler);
    let parcels = parcels
        .order(order)
        .timeout(match end {
            End::Panics => PATIENCE,
            End::TakesTooLong => Duration::from_millis(100),
        })
        .retry(Retry::fixed(Duration::from_millis(1)).attempts(2));
    let parcels = parcels.start().await.unwrap();
    hand_out_together(&parcels, |number| bus.publish(Parcel(number)).key(number)).await;
    let all_but = |left| queue(bus, "parcels").acked == PARCELS - left;
    if end == End::Panics {
        eventually("all but one are handled", || all_but(1)).await;
    }
    door.open();
    eventually("all are handled", || all_but(0)).await;
    assert_eq!(queue(bus, "parcels").retried, 1);
    self::end(bus).await;
}

#[tokio::test]
async fn what_was_left_to_others_is_theirs_whatever_becomes_of_the_one_that_waited() {
    for order in [Order::Unordered { workers: 4 }, Order::Keyed { lanes: 4 }] {
        for end in [End::Panics, End::TakesTooLong] {
            for bus in buses().await {
                one_comes_to_grief(&bus, order, end).await;
            }
        }
    }
}

/// Panics when it is dropped, if it is the first.
#[derive(Serialize, Deserialize)]
struct Sharp(u64);

impl Event for Sharp {
    const TOPIC: &'static str = "waiting.sharp";
}

impl Drop for Sharp {
    fn drop(&mut self) {
        assert!(self.0 > 0, "on purpose, in drop");
    }
}

#[tokio::test]
async fn one_that_waited_and_panics_in_its_drop_takes_nothing_with_it() {
    let bus = bus().await;
    let door = Door::closed();
    let waits = door.clone();
    let handler = async move |sharp: &Sharp, _: &mut Context<'_>| {
        if sharp.0 == 0 {
            waits.pass().await;
        }
        Ok(())
    };
    let sharps = bus.subscribe_fn::<Sharp, _>("sharps", handler);
    let sharps = sharps.workers(4).start().await.unwrap();
    hand_out_together(&sharps, |number| bus.publish(Sharp(number))).await;
    let all_but = |left| queue(&bus, "sharps").acked == PARCELS - left;
    eventually("all but one are handled", || all_but(1)).await;
    door.open();
    eventually("all are handled", || all_but(0)).await;
    // Its worker is there again.
    bus.publish(Sharp(1)).await.unwrap();
    end(&bus).await;
    assert_eq!(queue(&bus, "sharps").acked, PARCELS + 1);
}

#[tokio::test]
async fn what_a_handler_has_sent_and_waits_for_room_holds_up_its_own_message_alone() {
    let bus = bus().await;
    let full = bus.subscribe_fn::<Label, _>("full", async |_: &Label, _: &mut Context<'_>| Ok(()));
    let full = full.mailbox(1).start().await.unwrap();
    full.pause();
    bus.publish(Label).await.unwrap();
    let handler = async |parcel: &Parcel, cx: &mut Context<'_>| {
        if parcel.0 == 0 {
            cx.publish(Label);
        }
        Ok(())
    };
    let parcels = bus.subscribe_fn::<Parcel, _>("parcels", handler);
    let parcels = parcels.workers(4).start().await.unwrap();
    hand_out_together(&parcels, |number| bus.publish(Parcel(number))).await;
    let all_but = |left| queue(&bus, "parcels").acked == PARCELS - left;
    eventually("all but one are handled", || all_but(1)).await;
    full.resume().await;
    eventually("all are handled", || all_but(0)).await;
    eventually("and both labels", || queue(&bus, "full").acked == 2).await;
    end(&bus).await;
}

#[tokio::test]
async fn a_handler_that_yields_lets_the_others_of_its_thread_go_first() {
    for bus in buses().await {
        let others = Arc::new(AtomicU64::new(0));
        let before = Arc::new(AtomicU64::new(0));
        let handler = {
            let (others, before) = (others.clone(), before.clone());
            async move |parcel: &Parcel, _: &mut Context<'_>| {
                let other = others.clone();
                actix::spawn(async move { other.fetch_add(1, Ordering::SeqCst) });
                tokio::task::yield_now().await;
                if others.load(Ordering::SeqCst) == parcel.0 {
                    before.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }
        };
        let parcels = bus.subscribe_fn::<Parcel, _>("parcels", handler);
        parcels.start().await.unwrap();
        for number in 1..=3 {
            bus.publish(Parcel(number)).await.unwrap();
            eventually("handled", || queue(&bus, "parcels").acked == number).await;
        }
        end(&bus).await;
        assert_eq!(before.load(Ordering::SeqCst), 3);
    }
}
