use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::topology::{QueueType, TopologyMode};
use super::url::BrokerUrl;
use super::wire::{PlainJson, WireFormat};
use crate::message::{NameError, Pattern, validate_queue};
use crate::ports::WhenDown;

/// Why a bridge could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// A URL that cannot be used. It is not shown: it may hold a password.
    #[error("the RabbitMQ URL number {number} cannot be used: {why}")]
    Url {
        /// Which of the URLs; the first is 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// No URL at all.
    #[error("no RabbitMQ URL: set `{0}`")]
    NoUrl(&'static str),
    /// An `amqps` URL, and no TLS in this build.
    #[error("`amqps` needs the feature `amqp-rustls` or `amqp-native-tls`")]
    NoTls,
    /// Certificates were given, and the URL is not `amqps`: they would not be used, and nothing would be encrypted.
    #[error(
        "the RabbitMQ URL number {number} is not `amqps`, so the certificates would not be used"
    )]
    Cleartext {
        /// Which of the URLs; the first is 1.
        number: usize,
    },
    /// A pattern, a prefix or a name made of it is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A limit of zero.
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
    /// RabbitMQ was not there, and the bridge was told to fail then.
    #[error("RabbitMQ could not be reached: {0}")]
    Unreachable(String),
}

/// What crosses between this process and RabbitMQ, and how.
///
/// Handlers do not change by it. A subscription whose topics are all *imported* stands on a RabbitMQ queue
/// named `{service}.{group}`, which all replicas of the service share; it gets what any service publishes, its
/// own included, and only by that queue. One that is not imported stands in memory and gets only what this
/// process publishes. What is *exported*, or wanted by an imported subscription of this process, is published
/// to RabbitMQ, and its publish waits for the confirm.
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `prefetch` | 256 | 100 to 300; what a crash may redeliver, and what one replica may hoard |
/// | `window` | 1024 | unconfirmed publishes at a time; more hides a slow broker for longer |
/// | `queue_type` | quorum | classic where losing messages with a node is cheaper than replicating them |
/// | `delivery_limit` | 100 | quorum queues only: how often a message may take the process with it; RabbitMQ counts every return, also those of a lost connection and of a long pause. A policy of the broker with a lower one holds too, also for the queue of dead letters, where each listing counts: let none match it |
/// | `heartbeat` | 10 s | a half-open connection is noticed in twice this |
/// | `connect_timeout` | 10 s | for one URL: connecting, the handshake and opening |
/// | `body_limit` | 16 MiB | what the broker takes; RabbitMQ 4 has 16 MiB |
/// | `unknown_type_delay` | 10 min | longer than a rolling deploy takes |
/// | `wire_format` | [`PlainJson`] | another where the others on the broker speak it |
///
/// ```
/// use postroom::Amqp;
///
/// let amqp = Amqp::new("amqp://guest:guest@localhost:5672/%2f")
///     .failover("amqp://guest:guest@standby:5672/%2f")
///     .import("ordering.#")
///     .export("catalog.#")
///     .import_commands("catalog.reserve");
/// assert!(!format!("{amqp:?}").contains("guest:"), "secrets are never shown");
/// ```
#[derive(Clone)]
pub struct Amqp {
    pub(super) urls: Vec<String>,
    pub(super) prefix: String,
    pub(super) exports: Vec<String>,
    pub(super) imports: Vec<String>,
    pub(super) command_exports: Vec<String>,
    pub(super) command_imports: Vec<String>,
    pub(super) vhost: Option<String>,
    pub(super) queue_type: QueueType,
    pub(super) topology: TopologyMode,
    pub(super) delivery_limit: u32,
    pub(super) prefetch: u16,
    pub(super) window: u32,
    pub(super) heartbeat: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) body_limit: usize,
    pub(super) when_down: WhenDown,
    pub(super) authority: Option<String>,
    pub(super) identity: Option<(Vec<u8>, String)>,
    /// Told which groups there are, to take them away after a test.
    #[cfg(feature = "testing")]
    pub(super) sweep: Option<Arc<super::Sweep>>,
    pub(super) unknown_type_delay: Duration,
    pub(super) format: Arc<dyn WireFormat>,
}

impl Amqp {
    /// A bridge to the broker at `url`: `amqp://user:password@host:port/vhost`, or `amqps://` (port 5671) with one of the
    /// TLS features. User, password and vhost are percent-encoded: `@` as `%40`, `/` as `%2F`, `%` as `%25`. Checked when the
    /// bus starts.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            prefix: "postroom".to_owned(),
            exports: Vec::new(),
            imports: Vec::new(),
            command_exports: Vec::new(),
            command_imports: Vec::new(),
            vhost: None,
            queue_type: QueueType::default(),
            topology: TopologyMode::default(),
            delivery_limit: 100,
            prefetch: 256,
            window: 1024,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            body_limit: 16 * 1024 * 1024,
            when_down: WhenDown::default(),
            authority: None,
            identity: None,
            #[cfg(feature = "testing")]
            sweep: None,
            unknown_type_delay: Duration::from_secs(600),
            format: Arc::new(PlainJson),
        }
    }

    /// A bridge to the brokers that the environment variable `AMQP_URL` names, separated by commas: one in a password is
    /// `%2C`.
    ///
    /// # Errors
    /// When it is not set, or empty.
    pub fn from_env() -> Result<Self, BridgeError> {
        let value = std::env::var("AMQP_URL").unwrap_or_default();
        let mut urls = value
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty());
        let first = urls.next().ok_or(BridgeError::NoUrl("AMQP_URL"))?;
        Ok(urls.fold(Self::new(first), Self::failover))
    }

    /// Another broker of the same cluster, tried when those before it cannot be reached.
    #[must_use]
    pub fn failover(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// The virtual host, instead of the URLs'.
    #[must_use]
    pub fn vhost(mut self, vhost: impl Into<String>) -> Self {
        self.vhost = Some(vhost.into());
        self
    }

    /// What the names of exchanges begin with: services of one prefix hear each other. Default: `postroom`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Publishes events whose topic matches to RabbitMQ too.
    #[must_use]
    pub fn export(mut self, pattern: impl Into<String>) -> Self {
        self.exports.push(pattern.into());
        self
    }

    /// Subscriptions to topics that match stand on RabbitMQ queues.
    #[must_use]
    pub fn import(mut self, pattern: impl Into<String>) -> Self {
        self.imports.push(pattern.into());
        self
    }

    /// Commands to queues that match, words and wildcards as in topics, are handled by another service.
    #[must_use]
    pub fn export_commands(mut self, pattern: impl Into<String>) -> Self {
        self.command_exports.push(pattern.into());
        self
    }

    /// Commands to queues that match are handled here, whoever sends them: their handlers stand on RabbitMQ
    /// queues.
    #[must_use]
    pub fn import_commands(mut self, pattern: impl Into<String>) -> Self {
        self.command_imports.push(pattern.into());
        self
    }

    /// The type of the queues that are declared.
    #[must_use]
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = queue_type;
        self
    }

    /// Whether exchanges, queues and bindings are declared, only checked, or taken for granted.
    #[must_use]
    pub fn topology(mut self, mode: TopologyMode) -> Self {
        self.topology = mode;
        self
    }

    /// How often RabbitMQ hands one message of a quorum queue out again, before it is a dead letter: the last resort, apart
    /// from the retry policy, for a message that takes its consumer with it. RabbitMQ 3.10 counts every return: also
    /// those of a lost connection, a stop, and a pause of more than 30 s. At least 1; use 100 or more.
    #[must_use]
    pub fn delivery_limit(mut self, deliveries: u32) -> Self {
        self.delivery_limit = deliveries;
        self
    }

    /// The most unsettled deliveries of one queue, where its mailbox is not smaller. At least 1.
    #[must_use]
    pub fn prefetch(mut self, deliveries: u16) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// The most messages that are published and not confirmed. At least 1.
    #[must_use]
    pub fn window(mut self, messages: u32) -> Self {
        self.window = messages;
        self
    }

    /// How often each side says that it is there. Rounded to seconds, at least 1 s.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// The longest that connecting to one URL may take, to the end of the handshake.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The largest body, in bytes of JSON; larger ones are refused before they are sent.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// What happens when RabbitMQ is not there at the start.
    #[must_use]
    pub fn when_down(mut self, when_down: WhenDown) -> Self {
        self.when_down = when_down;
        self
    }

    /// How long a message waits, once, that no handler of its queue takes; then it is a dead letter, `unknown-type`.
    /// During a rolling deploy another replica may have the handler already. Not in keyed order, where its key would wait
    /// for it: there it is a failed attempt like any other.
    #[must_use]
    pub fn unknown_type_delay(mut self, delay: Duration) -> Self {
        self.unknown_type_delay = delay;
        self
    }

    /// How messages look on RabbitMQ, both those sent and those received.
    #[must_use]
    pub fn wire_format(mut self, format: impl WireFormat) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// For `amqps`: a certificate authority of your own, as PEM, besides the system's. With it no URL may be `amqp`:
    /// [`BridgeError::Cleartext`].
    #[must_use]
    pub fn certificate_authority(mut self, pem: impl Into<String>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// For `amqps`: the client's certificate and key, as PKCS #12 with its password. With it no URL may be `amqp`:
    /// [`BridgeError::Cleartext`].
    #[must_use]
    pub fn client_certificate(mut self, pkcs12: Vec<u8>, password: impl Into<String>) -> Self {
        self.identity = Some((pkcs12, password.into()));
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn swept_by(mut self, sweep: &Arc<super::Sweep>) -> Self {
        self.sweep = Some(Arc::clone(sweep));
        self
    }

    /// Everything checked, in the form that the bridge works with.
    pub(super) fn checked(&self) -> Result<Checked, BridgeError> {
        let zeros = [
            (self.prefetch == 0, "prefetch"),
            (self.window == 0, "window"),
            (self.delivery_limit == 0, "delivery_limit"),
        ];
        if let Some((_, what)) = zeros.iter().find(|(zero, _)| *zero) {
            return Err(BridgeError::Zero(what));
        }
        validate_queue(&self.prefix)?;
        let patterns = |texts: &[String]| -> Result<Vec<Pattern>, NameError> {
            texts.iter().map(|text| Pattern::new(text)).collect()
        };
        let has_certificates = self.authority.is_some() || self.identity.is_some();
        let urls = self.urls.iter().enumerate().map(|(index, url)| {
            let number = index + 1;
            let url = BrokerUrl::parse(url, self).map_err(|why| match why {
                Some(why) => BridgeError::Url { number, why },
                None => BridgeError::NoTls,
            })?;
            match has_certificates && !url.is_encrypted() {
                true => Err(BridgeError::Cleartext { number }),
                false => Ok(url),
            }
        });
        Ok(Checked {
            urls: urls.collect::<Result<_, _>>()?,
            exports: patterns(&self.exports)?,
            imports: patterns(&self.imports)?,
            command_exports: patterns(&self.command_exports)?,
            command_imports: patterns(&self.command_imports)?,
        })
    }
}

/// What had to be parsed.
pub(super) struct Checked {
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) exports: Vec<Pattern>,
    pub(super) imports: Vec<Pattern>,
    pub(super) command_exports: Vec<Pattern>,
    pub(super) command_imports: Vec<Pattern>,
}

/// Without the URLs and the certificate's password.
impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp")
            .field("brokers", &self.urls.len())
            .field("prefix", &self.prefix)
            .field("exports", &self.exports)
            .field("imports", &self.imports)
            .field("command_exports", &self.command_exports)
            .field("command_imports", &self.command_imports)
            .field("queue_type", &self.queue_type)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_refused_beside_a_url_that_would_not_use_them() {
        let plain = || Amqp::new("amqp://localhost");
        assert!(plain().checked().is_ok());
        for amqp in [
            plain().certificate_authority("a PEM"),
            plain().client_certificate(vec![1], "password"),
        ] {
            let refused = amqp.checked().err();
            assert_eq!(refused, Some(BridgeError::Cleartext { number: 1 }));
        }
        #[cfg(any(feature = "amqp-rustls", feature = "amqp-native-tls"))]
        {
            let encrypted = || Amqp::new("amqps://localhost").certificate_authority("a PEM");
            assert!(encrypted().checked().is_ok());
            let refused = encrypted().failover("amqp://standby").checked().err();
            assert_eq!(refused, Some(BridgeError::Cleartext { number: 2 }));
        }
    }
}
