//! The ordering key that a message has of itself.

use std::borrow::Cow;

use crate::common::{Log, bus, end, eventually};
use postroom::{Bus, Command, Context, Event, Refusal};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Moved {
    order: String,
}
impl Event for Moved {
    const TOPIC: &'static str = "keys.moved";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.as_str().into())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Charge {
    account: u64,
}
impl Command for Charge {
    const QUEUE: &'static str = "keys.charge";
    type Reply = Option<String>;

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.account.to_string().into())
    }
}

/// What a handler publishes, sends and asks in turn.
#[derive(Debug, Serialize, Deserialize)]
struct Begin;
impl Event for Begin {
    const TOPIC: &'static str = "keys.begin";
}

fn moved(order: &str) -> Moved {
    Moved {
        order: order.to_owned(),
    }
}

/// A bus whose subscribers log the keys of what they get.
async fn shop() -> (Bus, Log<String>) {
    let (bus, log) = (bus().await, Log::new());
    let seen = log.clone();
    bus.subscribe_fn::<Moved, _>("history", async move |_: &Moved, cx: &mut Context<'_>| {
        seen.push(cx.envelope().key().unwrap_or("none").to_owned());
        Ok(())
    })
    .keyed(2)
    .start()
    .await
    .unwrap();
    let seen = log.clone();
    bus.handle_fn::<Charge, _>("bank", async move |_: &Charge, cx: &mut Context<'_>| {
        let key = cx.envelope().key().map(ToOwned::to_owned);
        seen.push(key.clone().unwrap_or("none".to_owned()));
        Ok(key)
    })
    .start()
    .await
    .unwrap();
    (bus, log)
}

#[tokio::test]
async fn a_message_is_published_under_its_own_key_by_every_way() {
    let (bus, log) = shop().await;
    bus.publish(moved("a")).await.unwrap();
    bus.try_publish(moved("b")).unwrap();
    bus.publish_all([moved("c"), moved("d")]).await.unwrap();
    let delayed = std::time::Duration::from_millis(1);
    bus.publish(moved("e")).delay(delayed).await.unwrap();
    bus.send(Charge { account: 1 }).await.unwrap();
    bus.try_send(Charge { account: 2 }).unwrap();
    let asked = bus.request(Charge { account: 3 }).await;
    assert_eq!(asked, Ok(Some("3".to_owned())));
    eventually("all are handled", || log.len() == 8).await;
    let mut keys = log.all();
    keys.sort();
    assert_eq!(keys, ["1", "2", "3", "a", "b", "c", "d", "e"]);
    end(&bus).await;
}

#[tokio::test]
async fn a_handler_releases_and_asks_under_the_key_of_the_message_itself() {
    let (bus, log) = shop().await;
    bus.subscribe_fn::<Begin, _>("begins", async |_: &Begin, cx: &mut Context<'_>| {
        let asked = cx.request(Charge { account: 7 }).await?;
        assert_eq!(asked.as_deref(), Some("7"));
        let asked = cx.request(Charge { account: 7 }).key("chosen").await?;
        assert_eq!(asked.as_deref(), Some("chosen"));
        cx.publish(moved("a"));
        cx.publish(moved("a")).key("b");
        cx.send(Charge { account: 8 });
        Ok(())
    })
    .start()
    .await
    .unwrap();
    // The key of what is handled is not that of what follows from it.
    bus.publish(Begin).key("begin").await.unwrap();
    eventually("all are handled", || log.len() == 5).await;
    let mut keys = log.all();
    keys.sort();
    assert_eq!(keys, ["7", "8", "a", "b", "chosen"]);
    end(&bus).await;
}

#[tokio::test]
async fn a_key_chosen_at_the_publish_goes_before_it() {
    let (bus, log) = shop().await;
    bus.publish(moved("own")).key("chosen").await.unwrap();
    let asked = bus.request(Charge { account: 3 }).key("chosen").await;
    assert_eq!(asked, Ok(Some("chosen".to_owned())));
    eventually("both are handled", || log.len() == 2).await;
    assert_eq!(log.all(), ["chosen", "chosen"]);
    end(&bus).await;
}

#[tokio::test]
async fn a_key_of_its_own_that_is_no_name_is_refused_with_the_message() {
    let (bus, log) = shop().await;
    for bad in ["", "a\nb", &"k".repeat(256)] {
        let refused = bus.publish(moved(bad)).await.unwrap_err();
        let (why, event) = refused.into_parts();
        assert!(matches!(why, Refusal::Name(_)), "{why:?}");
        assert_eq!(event, Some(moved(bad)));
    }
    end(&bus).await;
    assert_eq!(log.len(), 0);
}
