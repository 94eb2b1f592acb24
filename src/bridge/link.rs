use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_core::Stream;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::watch;

use super::{FRAME_MAX, Shared, explained};
use crate::ports::LifecycleKind;
use crate::supervisor::Stop;

/// How often a connection is looked at that says nothing.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection has to last for the next one to be made without a wait.
const LASTED: Duration = Duration::from_secs(1);
/// The longest that a connection may take to close; then it is dropped.
const CLOSE: Duration = Duration::from_millis(500);

/// One of the bridge's two connections, as those who use it see it.
pub(super) struct Link {
    pub(super) name: Arc<str>,
    state: watch::Sender<LinkState>,
    pub(super) connects: AtomicU64,
    /// It was connected once, or could not be.
    is_tried: AtomicBool,
    /// The most bytes of a frame, as agreed on with the last broker.
    frame_max: AtomicUsize,
}

#[derive(Clone)]
pub(super) enum LinkState {
    Down {
        why: Arc<str>,
    },
    Up {
        connection: Arc<Connection>,
        /// Why RabbitMQ lets nothing be published.
        blocked: Option<Arc<str>>,
    },
}

impl LinkState {
    fn is_up(&self) -> bool {
        match self {
            // It is told a moment later that a connection was lost.
            Self::Up { connection, .. } => connection.status().connected(),
            Self::Down { .. } => false,
        }
    }
}

impl Link {
    pub(super) fn new(name: String) -> Self {
        let why = "it was not connected yet".into();
        Self {
            name: name.into(),
            state: watch::Sender::new(LinkState::Down { why }),
            connects: AtomicU64::new(0),
            is_tried: AtomicBool::new(false),
            frame_max: AtomicUsize::new(FRAME_MAX),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// What is wrong with it; none when it can be published on.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        match &*self.state.borrow() {
            LinkState::Down { why } => Some(Arc::clone(why)),
            LinkState::Up { blocked, .. } => blocked.clone(),
        }
    }

    /// Waits until it is connected. Cancel safe.
    pub(super) async fn connected(&self) -> Option<Arc<Connection>> {
        let mut watch = self.state.subscribe();
        let state = watch.wait_for(|state| state.is_up()).await.ok()?;
        match &*state {
            LinkState::Up { connection, .. } => Some(Arc::clone(connection)),
            LinkState::Down { .. } => None,
        }
    }

    /// Runs a life on one connection after another. One that ended because its connection did goes on with the
    /// next, without a wait: whoever stands on a connection has not failed by itself.
    pub(super) async fn on_each<L>(&self, life: impl Fn() -> L) -> Result<(), String>
    where
        L: Future<Output = Result<(), String>>,
    {
        loop {
            let stands_on = match self.look() {
                (true, connects) => connects,
                // It waits for the next one.
                (false, connects) => connects + 1,
            };
            let ended = life().await;
            if ended.is_ok() || self.look() == (true, stands_on) {
                return ended;
            }
        }
    }

    /// Whether it is connected, and how often it has been, as of one instant.
    fn look(&self) -> (bool, u64) {
        let state = self.state.borrow();
        (state.is_up(), self.connects.load(Ordering::Relaxed))
    }

    /// Waits until it is known not to be connected: not while the first try is under way. Cancel safe.
    pub(super) async fn is_down(&self) {
        let mut watch = self.state.subscribe();
        let is_down = |state: &LinkState| {
            matches!(state, LinkState::Down { .. }) && self.is_tried.load(Ordering::Acquire)
        };
        // An error means that the bridge is gone.
        let _ = watch.wait_for(is_down).await;
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), LinkState::Up { .. })
    }

    /// The connection, if it can be used now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn connected_now(&self) -> Result<Arc<Connection>, String> {
        match &*self.state.borrow() {
            LinkState::Down { why }
            | LinkState::Up {
                blocked: Some(why), ..
            } => Err(why.to_string()),
            LinkState::Up { connection, .. } => Ok(Arc::clone(connection)),
        }
    }

    /// The most bytes of a frame of it, and so of the headers of a message.
    pub(super) fn frame_max(&self) -> usize {
        self.frame_max.load(Ordering::Relaxed)
    }

    fn set_blocked(&self, why: Option<Arc<str>>) {
        self.state.send_modify(|state| {
            if let LinkState::Up { blocked, .. } = state {
                *blocked = why;
            }
        });
    }

    fn set_down(&self, why: &str) {
        self.is_tried.store(true, Ordering::Release);
        self.state.send_replace(LinkState::Down { why: why.into() });
    }
}

/// One life of a connection: made, kept while it lasts, closed when it is asked to. One that had lasted is made anew at
/// once.
pub(super) async fn live(
    shared: Arc<Shared>,
    link: Arc<Link>,
    mut stop: Stop,
) -> Result<(), String> {
    loop {
        let connecting = connect(&shared, &link);
        let connection = tokio::select! {
            connection = connecting => connection,
            () = stop.asked() => return Ok(()),
        };
        let (connection, broker) = match connection {
            Ok(connected) => connected,
            Err(why) => {
                link.set_down(&why);
                tracing::warn!(link = %link.name, %why, "RabbitMQ cannot be reached");
                return Err(why);
            }
        };
        let since = Instant::now();
        let ended = keep(&shared, &link, Arc::new(connection), broker, &mut stop).await;
        if ended.is_ok() || since.elapsed() < LASTED {
            return ended;
        }
    }
}

/// Keeps a connection until it is lost, or to be closed.
async fn keep(
    shared: &Shared,
    link: &Link,
    connection: Arc<Connection>,
    broker: String,
    stop: &mut Stop,
) -> Result<(), String> {
    let mut events = pin!(connection.events_listener());
    link.state.send_modify(|state| {
        link.connects.fetch_add(1, Ordering::Relaxed);
        *state = LinkState::Up {
            connection: Arc::clone(&connection),
            blocked: None,
        };
    });
    let tell = |kind, why| shared.services.tell(&link.name, kind, why);
    tell(LifecycleKind::Connected, Some(broker));
    let ended = loop {
        let event = tokio::select! {
            event = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)) => event,
            () = tokio::time::sleep(LOOK) => {
                if connection.status().connected() {
                    continue;
                }
                None
            }
            () = stop.asked() => break Ok(()),
        };
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                link.set_blocked(Some(format!("RabbitMQ blocks publishers: {why}").into()));
                tell(LifecycleKind::Blocked, Some(why));
            }
            Some(Event::ConnectionUnblocked) => {
                link.set_blocked(None);
                tell(LifecycleKind::Unblocked, None);
            }
            // It tells of every channel that was closed, too.
            Some(Event::Error(error)) if !connection.status().connected() => {
                break Err(explained(error));
            }
            Some(_) => {}
            None => break Err("the connection was lost".to_owned()),
        }
    };
    link.set_down(match &ended {
        Ok(()) => "the bridge is closed",
        Err(why) => why,
    });
    if let Err(why) = &ended {
        tell(LifecycleKind::Disconnected, Some(why.clone()));
    }
    // Not waited for longer: RabbitMQ may be frozen, or block what we write.
    let close = connection.close(200, "OK".into());
    let _ = tokio::time::timeout(CLOSE, close).await;
    ended
}

/// Tries the brokers one after another, each for as long as the connect timeout.
async fn connect(shared: &Shared, link: &Link) -> Result<(Connection, String), String> {
    let mut failures = Vec::new();
    for url in &shared.config.urls {
        let name = format!("{} {}", shared.service, link.name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let attempt = super::guard::connect(url.uri(), properties, shared.tls());
        let why = match tokio::time::timeout(shared.amqp.connect_timeout, attempt).await {
            Ok(Ok(connection)) => {
                // 0 is no limit of theirs.
                let agreed = match connection.configuration().frame_max() {
                    0 => FRAME_MAX,
                    agreed => FRAME_MAX.min(agreed as usize),
                };
                link.frame_max.store(agreed, Ordering::Relaxed);
                return Ok((connection, url.to_string()));
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => "no answer within the connect timeout".to_owned(),
        };
        failures.push(format!("{url}: {why}"));
    }
    Err(failures.join("; "))
}

/// The usual reasons in words that say what to do.
fn explain(error: &lapin::Error) -> String {
    let text = explained(error);
    if text.contains("ACCESS_REFUSED") || text.contains("ACCESS-REFUSED") {
        format!("the user or its password is refused, or it may not use this virtual host ({text})")
    } else if text.contains("NOT_ALLOWED") || text.contains("NOT-ALLOWED") {
        format!("the virtual host does not exist, or the user may not use it ({text})")
    } else {
        text
    }
}
