//! A TCP proxy that breaks connections on command: it stands between a client and a broker.
//!
//! It runs on a thread of its own, so that a test's runtime neither delays it nor is delayed by it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Chunks on their way in one direction of one connection; then its sender is slowed down by TCP.
const CHUNKS: usize = 64;

/// A way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What the proxy does to the bytes.
#[derive(Clone, Copy, Default)]
struct Rules {
    /// Connections opened under an older number are cut.
    cuts: u64,
    /// Connections opened under an older number are half closed, by direction.
    half_closes: [u64; 2],
    stalled: [bool; 2],
    latency: Duration,
    refusing: bool,
}

struct Shared {
    rules: watch::Sender<Rules>,
    /// Bytes until the cut of `cut_after`, by direction.
    allowance: [AtomicU64; 2],
    opened: AtomicU64,
    open: AtomicU64,
    bytes: [AtomicU64; 2],
}

/// Without a limit: more than passes through any proxy.
const UNLIMITED: u64 = u64::MAX / 2;

/// A running proxy; its connections are reset when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes what comes to `server`, as `127.0.0.1:5672`.
    pub(crate) fn start(server: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            rules: watch::Sender::new(Rules::default()),
            allowance: [UNLIMITED, UNLIMITED].map(AtomicU64::new),
            opened: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes: Default::default(),
        });
        let (end, ended) = oneshot::channel();
        let accepting = accept(listener, server.to_owned(), Arc::clone(&shared), ended);
        let thread = thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(accepting);
        });
        Self {
            address,
            shared,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections now; new ones are served.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Lets `bytes` more pass in this direction, over all connections, and then resets all of them: in the middle
    /// of a frame. Once.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.allowance[direction as usize].store(bytes, Ordering::SeqCst);
    }

    /// Keeps connections open, accepts new ones, and passes nothing in this direction until [`Proxy::resume`];
    /// then what was held passes.
    pub(crate) fn stall(&self, direction: Direction) {
        self.shared
            .rules
            .send_modify(|rules| rules.stalled[direction as usize] = true);
    }

    /// Ends this direction of the connections that are open, as a sender does that has no more to say, and
    /// swallows what still comes. The other direction stays.
    pub(crate) fn half_close(&self, direction: Direction) {
        self.shared
            .rules
            .send_modify(|rules| rules.half_closes[direction as usize] += 1);
    }

    /// Delays what comes from now on by so much in each direction; the rate stays.
    pub(crate) fn latency(&self, latency: Duration) {
        self.shared
            .rules
            .send_modify(|rules| rules.latency = latency);
    }

    /// Accepts new connections and hangs up at once. Open ones stay.
    pub(crate) fn refuse(&self) {
        self.shared.rules.send_modify(|rules| rules.refusing = true);
    }

    /// Passes everything again. What was cut or closed stays so.
    pub(crate) fn resume(&self) {
        for allowance in &self.shared.allowance {
            allowance.store(UNLIMITED, Ordering::SeqCst);
        }
        self.shared.rules.send_modify(|rules| {
            rules.stalled = [false; 2];
            rules.latency = Duration::ZERO;
            rules.refusing = false;
        });
    }

    /// The connections accepted so far, those refused included.
    pub(crate) fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// The connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The bytes passed on in this direction.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.shared.bytes[direction as usize].load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn cut(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// Takes up to `wanted` of what may still pass in this direction, and says whether that was the last.
    fn allow(&self, direction: Direction, wanted: usize) -> (usize, bool) {
        let allowance = &self.allowance[direction as usize];
        let take = |left: u64| left.min(wanted as u64);
        let spend = |left: u64| Some(left - take(left));
        match allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend) {
            Ok(left) | Err(left) => (usize::try_from(take(left)).unwrap(), left <= wanted as u64),
        }
    }
}

/// Serves until the proxy is dropped; the runtime then drops the connections.
async fn accept(
    listener: std::net::TcpListener,
    server: String,
    shared: Arc<Shared>,
    mut ended: oneshot::Receiver<()>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut ended => break,
        };
        let Ok((client, _)) = accepted else { continue };
        shared.opened.fetch_add(1, Ordering::SeqCst);
        let rules = *shared.rules.borrow();
        if !rules.refusing {
            shared.open.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(client, server.clone(), Arc::clone(&shared), rules));
        }
    }
    shared.cut();
    while shared.open.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

/// Serves one connection, under the rules at its opening and their changes.
async fn serve(mut client: TcpStream, server: String, shared: Arc<Shared>, opened_under: Rules) {
    let mut rules = shared.rules.subscribe();
    let mut cut = pin!(rules.wait_for(|rules| rules.cuts > opened_under.cuts));
    let connected = tokio::select! {
        connected = TcpStream::connect(server) => connected.ok(),
        _ = &mut cut => None,
    };
    let ended = match connected {
        Some(mut server) => {
            // The cut first: what was stalled until then does not pass when the stall ends with it.
            let passed = tokio::select! {
                biased;
                _ = &mut cut => false,
                passed = pass(&mut client, &mut server, &shared, opened_under) => passed.is_ok(),
            };
            if !passed {
                // Closes with RST.
                let _ = server.set_zero_linger();
            }
            passed
        }
        None => false,
    };
    if !ended {
        let _ = client.set_zero_linger();
    }
    drop(client);
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

async fn pass(
    client: &mut TcpStream,
    server: &mut TcpStream,
    shared: &Shared,
    opened_under: Rules,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(
            from_client,
            to_server,
            Direction::ToServer,
            shared,
            opened_under
        ),
        pump(
            from_server,
            to_client,
            Direction::ToClient,
            shared,
            opened_under
        ),
    )?;
    Ok(())
}

/// Passes one direction of one connection, until its sender ends it or either side fails.
async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    shared: &Shared,
    opened_under: Rules,
) -> io::Result<()> {
    let (chunks, taken) = mpsc::channel(CHUNKS);
    tokio::try_join!(
        read(from, chunks, shared),
        write(to, taken, direction, shared, opened_under)
    )?;
    Ok(())
}

/// A chunk and when it is to leave.
type Chunk = (Instant, Vec<u8>);

async fn read(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    shared: &Shared,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let due = Instant::now() + shared.rules.borrow().latency;
        // The writer takes chunks, or swallows them, as long as this connection lives.
        let _ = chunks.send((due, buffer[..length].to_vec())).await;
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    direction: Direction,
    shared: &Shared,
    opened_under: Rules,
) -> io::Result<()> {
    let way = direction as usize;
    let mut rules = shared.rules.subscribe();
    let closing = |rules: &Rules| rules.half_closes[way] > opened_under.half_closes[way];
    loop {
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            _ = rules.wait_for(closing) => break,
        };
        if let Some((due, _)) = &chunk {
            tokio::time::sleep_until(*due).await;
        }
        // The end of a stalled stream is held like its bytes.
        let passes = |rules: &Rules| closing(rules) || !rules.stalled[way];
        if rules
            .wait_for(passes)
            .await
            .is_ok_and(|rules| closing(&rules))
        {
            break;
        }
        let Some((_, bytes)) = chunk else { break };
        let (allowed, last) = shared.allow(direction, bytes.len());
        // Counted first, so that who has received bytes finds them counted.
        shared.bytes[way].fetch_add(allowed as u64, Ordering::SeqCst);
        to.write_all(&bytes[..allowed]).await?;
        if last {
            shared.allowance[way].store(UNLIMITED, Ordering::SeqCst);
            shared.cut();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
    to.shutdown().await?;
    while chunks.recv().await.is_some() {}
    Ok(())
}
