//! Connections to the broker that survive what lapin does not.
//!
//! lapin parses tables by recursion on its own thread, and so a header of one frame, nested some thousand times, would
//! overflow that thread's stack and abort the process. And it ends a connection for a frame of a channel that the broker
//! has closed, which RabbitMQ may send. A stream of ours lies between lapin and the socket: it makes opaque what is
//! nested too deeply (`depth`), and lets nothing through of a closed channel (`closed`).

mod closed;
mod depth;
mod frame;
mod stream;

use std::io;

use async_rs::TokioRuntime;
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use thiserror::Error;

use stream::{Guarded, GuardedTokio};

/// `amqps` was asked of a build without TLS. Without this check lapin would speak AMQP in the clear, password
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "an `amqps` URL needs TLS: build postroom with the feature `amqp-rustls` or `amqp-native-tls`"
)]
pub(super) struct NoTls;

/// Whether this build can speak what the URI asks for.
///
/// # Errors
///
/// [`NoTls`] for `amqps` without one of the TLS features of this crate, whatever features of lapin others enable.
pub(super) fn check_scheme(uri: &AMQPUri) -> Result<(), NoTls> {
    check_scheme_with(
        uri,
        cfg!(any(feature = "amqp-rustls", feature = "amqp-native-tls")),
    )
}

fn check_scheme_with(uri: &AMQPUri, has_tls: bool) -> Result<(), NoTls> {
    match uri.scheme {
        AMQPScheme::AMQPS if !has_tls => Err(NoTls),
        AMQPScheme::AMQPS | AMQPScheme::AMQP => Ok(()),
    }
}

/// Opens a connection with `TCP_NODELAY`, on the tokio runtime of the caller, guarded as this module says.
///
/// Under TLS the broker's certificate is verified by the system's roots, and those of `tls` besides. It has no deadline:
/// the caller sets one. It tries once, unless `options` have a backoff.
///
/// # Cancel safety
///
/// Dropping it gives the connection up; lapin's thread ends by itself.
///
/// # Errors
///
/// What lapin returns; an I/O error with [`NoTls`] inside, before any byte is sent, where
/// [`check_scheme`] refuses the URI.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub(super) async fn connect(
    uri: AMQPUri,
    options: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    check_scheme(&uri).map_err(|refused| io::Error::new(io::ErrorKind::Unsupported, refused))?;
    let unguarded = TokioRuntime::tokio_current();
    let connect = async move |uri: AMQPUri, _| {
        let transport = uri
            .connect_with_config_async(tls.as_ref(), &unguarded)
            .await?;
        Ok(AsyncTcpStream::Plain(Guarded::new(transport)))
    };
    Connection::connector(uri, GuardedTokio::current(), connect, options).await
}

#[cfg(test)]
mod fake_broker;
#[cfg(test)]
mod tests;
