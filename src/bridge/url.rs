use std::fmt;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::Amqp;

/// Where a broker is, with the credentials in it: shown without them.
#[derive(Clone)]
pub(super) struct BrokerUrl(AMQPUri);

impl BrokerUrl {
    /// None for a reason: it needs TLS, which this build has not.
    pub(super) fn parse(url: &str, amqp: &Amqp) -> Result<Self, Option<String>> {
        // The parser's own text may repeat the URL.
        let mut uri: AMQPUri = url.parse().map_err(|_| {
            Some("it is not of the form amqp://user:password@host:port/vhost".to_owned())
        })?;
        let has_tls = cfg!(any(feature = "amqp-rustls", feature = "amqp-native-tls"));
        if uri.scheme == AMQPScheme::AMQPS && !has_tls {
            return Err(None);
        }
        if let Some(vhost) = &amqp.vhost {
            uri.vhost.clone_from(vhost);
        } else if uri.vhost.is_empty() {
            // `amqp://host` and `amqp://host/` both mean the default one to a user.
            uri.vhost = "/".to_owned();
        }
        let seconds = amqp.heartbeat.as_secs().clamp(1, 3600);
        uri.query.heartbeat = u16::try_from(seconds).ok();
        let millis = amqp.connect_timeout.as_millis();
        uri.query.connection_timeout = u64::try_from(millis).ok();
        Ok(Self(uri))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.0.authority;
        write!(f, "{}:{}", authority.host, authority.port)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
