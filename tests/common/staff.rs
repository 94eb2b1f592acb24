//! Subscribers that do what a message says, for the tests of supervision; all on one thread, on a manual clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroom::{
    Builder, Bus, Context, Failure, Lifecycle, LifecycleKind, ManualClock, Outcome, RawMessage,
    RawSubscriber,
};
use serde_json::json;

use super::{Door, Log, end};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Longer than a period of the supervisors here.
pub(crate) const LONG: Duration = Duration::from_secs(1000);

/// A bus with an operator who reads what happens, and a log of what the subscribers do.
#[derive(Clone)]
pub(crate) struct Staff {
    pub(crate) bus: Bus,
    pub(crate) clock: ManualClock,
    pub(crate) log: Log<String>,
    pub(crate) door: Door,
    events: Log<(String, LifecycleKind)>,
    made: Arc<Mutex<BTreeMap<&'static str, u32>>>,
}

/// One handler value. Its number tells it from the one before it.
pub(crate) struct Clerk {
    name: &'static str,
    number: u32,
    staff: Staff,
    /// Panics when it is dropped.
    sharp: bool,
}

/// A subscriber of the topic of its name.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! clerk {
    ($staff:expr, $name:literal) => {
        $staff
            .bus
            .subscriber($name, $staff.factory($name))
            .pattern($name)
            .retry(postroom::Retry::none())
            .timeout(10 * $crate::common::staff::SECOND)
    };
}
#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use clerk;

impl Staff {
    pub(crate) async fn new() -> Self {
        Self::of(|builder| builder).await
    }

    pub(crate) async fn of(build: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::new();
        let builder = build(Bus::builder("staff").clock(clock.clock()));
        let bus = builder.start().await.unwrap();
        let events = Log::new();
        let reads = events.clone();
        bus.subscribe_fn::<Lifecycle, _>(
            "operator",
            async move |event: &Lifecycle, _: &mut Context<'_>| {
                if event.subject != "operator" {
                    reads.push((event.subject.clone(), event.kind));
                }
                Ok(())
            },
        )
        .start()
        .await
        .unwrap();
        Self {
            bus,
            clock,
            log: Log::new(),
            door: Door::closed(),
            events,
            made: Arc::default(),
        }
    }

    pub(crate) fn factory(&self, name: &'static str) -> impl Fn() -> Clerk + use<> {
        let staff = self.clone();
        move || staff.make(name)
    }

    pub(crate) fn make(&self, name: &'static str) -> Clerk {
        let number = {
            let mut made = self.made.lock().unwrap();
            let number = made.entry(name).or_default();
            *number += 1;
            *number
        };
        self.log.push(format!("{name}{number} made"));
        Clerk {
            name,
            number,
            staff: self.clone(),
            sharp: false,
        }
    }

    pub(crate) fn sharp(&self, name: &'static str) -> Clerk {
        let mut clerk = self.make(name);
        clerk.sharp = true;
        clerk
    }

    /// How many handler values the factory has made.
    pub(crate) fn made(&self, name: &'static str) -> u32 {
        *self.made.lock().unwrap().get(name).unwrap_or(&0)
    }

    /// Tells a subscriber to do something.
    pub(crate) async fn ask(&self, name: &str, task: &str) {
        self.bus.publish_raw(name, json!(task)).await.unwrap();
    }

    /// Asks, and lets it be done.
    pub(crate) async fn order(&self, name: &str, task: &str) {
        self.ask(name, task).await;
        self.pass(Duration::ZERO).await;
    }

    pub(crate) async fn pass(&self, time: Duration) {
        postroom::testing::advance(&self.bus, &self.clock, time).await;
    }

    /// What happened to a subscriber or supervisor.
    pub(crate) fn events_of(&self, subject: &str) -> Vec<LifecycleKind> {
        let events = self.events.all().into_iter();
        let own = events.filter(|(of, _)| of == subject);
        own.map(|(_, kind)| kind).collect()
    }

    /// What happened to all of them, since the last look.
    pub(crate) fn take_events(&self) -> Vec<(String, LifecycleKind)> {
        let events = self.events.all();
        self.events.clear();
        events
    }

    /// What the subscribers did, since the last look.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let log = self.log.all();
        self.log.clear();
        log
    }

    pub(crate) async fn end(&self) {
        end(&self.bus).await;
    }
}

impl Clerk {
    fn note(&self, what: &str) {
        let Self { name, number, .. } = self;
        self.staff.log.push(format!("{name}{number} {what}"));
    }
}

impl RawSubscriber for Clerk {
    async fn handle(&mut self, message: RawMessage<'_>, cx: &mut Context<'_>) -> Outcome {
        let task: String = message.decode()?;
        // A task may be for the first attempt only.
        let task = match task.split_once(" once") {
            Some((task, _)) if cx.attempt() == 1 => task.to_owned(),
            Some((_, then)) => format!("attempt {}{then}", cx.attempt()),
            None => task,
        };
        let task = match task.strip_prefix("wait and ") {
            Some(then) => {
                self.note("waits");
                self.staff.door.pass().await;
                then.to_owned()
            }
            None => task,
        };
        match &*task {
            "panic" => panic!("on purpose"),
            "hang" => {
                self.note(&format!("hangs at attempt {}", cx.attempt()));
                std::future::pending().await
            }
            "wait" => {
                self.note("waits");
                self.staff.door.pass().await;
                self.note("waited");
                Ok(())
            }
            "stop" => {
                cx.stop();
                Ok(())
            }
            "fail" => Err(Failure::retry("on purpose")),
            other => {
                self.note(other);
                Ok(())
            }
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.note("gone");
        let unwinds = std::thread::panicking();
        assert!(!self.sharp || unwinds, "on purpose, in drop");
    }
}

/// An event for a function.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Task(pub(crate) u32);
impl postroom::Event for Task {
    const TOPIC: &'static str = "staff.task";
}
