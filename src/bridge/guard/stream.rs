//! The stream between lapin and the socket (or its TLS), and the runtime by which lapin gets to know its type.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use lapin::AsyncTcpStream;

use super::closed::ClosedChannels;
use super::depth::DepthLimit;

/// What async-rs's tokio connects, plain or under TLS.
type Transport = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A stream whose reader sees no table nested too deeply and no frame of a channel that is closed; what is written passes
/// untouched.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    inner: S,
    closed: ClosedChannels,
    limit: DepthLimit,
    /// Read and let through, and found no room in the reader's buffer.
    spill: Vec<u8>,
}

impl<S> Guarded<S> {
    /// Around a stream of which nothing was read yet.
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            closed: ClosedChannels::default(),
            limit: DepthLimit::new(),
            spill: Vec::new(),
        }
    }
}

/// The default of vectored reads is kept: they fill one buffer after another, so that frames can move up in it.
impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.spill.is_empty() && !buf.is_empty() {
            let fits = buf.len().min(this.spill.len());
            buf[..fits].copy_from_slice(&this.spill[..fits]);
            this.spill.drain(..fits);
            return Poll::Ready(Ok(fits));
        }
        loop {
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let kept = this.closed.pass(&mut buf[..read], &mut this.spill);
            this.limit.pass(&mut buf[..kept]);
            this.limit.pass(&mut this.spill);
            // Nothing would be taken for the end of the stream.
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// async-rs's tokio, with guarded streams. lapin takes the type of its stream from its runtime.
#[derive(Clone, Debug)]
pub(super) struct GuardedTokio(Tokio);

impl GuardedTokio {
    /// Bound to the tokio runtime of the caller.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(super) fn current() -> Runtime<Self> {
        Runtime::new(Self(Tokio::current()))
    }
}

impl RuntimeKit for GuardedTokio {}

impl Executor for GuardedTokio {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for GuardedTokio {
    type TcpStream = Guarded<Transport>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Refused: lapin registers no handles of its own, and async-rs does not export the bound that passing them on
    /// needs.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(addr);
        async move { Ok(Guarded::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
