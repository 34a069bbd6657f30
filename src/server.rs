//! The server: one port, accepted connections, an orderly end.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causeway_storage::{ChangeStore, Schema};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::Config;
use crate::connection::Stream;
use crate::limits::{Admission, Limit, Limits, Refused};
use crate::relay::Relay;
use crate::routes::{self, Routes};
use crate::work::Work;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: u32 = 4096;

/// What hyper may buffer of a request's head, in bytes. It is given back at the upgrade.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the system may keep for a client beside what is on the network, in bytes. It takes more when half has left.
const MAX_UNSENT_BYTES: u32 = 32 * 1024;

/// How long to wait after the system has refused a connection for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client beyond `max_connections` is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What a client is told whose address has too many connections, or makes them too fast.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Where connections come from: a socket, or a simulated network's.
pub trait Listener: Sync {
    /// A connection.
    type Stream: Stream;

    /// Waits for the next connection; gives also whom it comes from.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Frames are put together here, not in the system.
        let _ = stream.set_nodelay(true);
        bound_unsent(&stream);
        Ok((stream, peer.ip()))
    }
}

/// A server: it answers `/healthz` at once, and clients once it has a store.
pub struct Server {
    config: Config,
    work: Work,
    routes: Arc<Routes>,
}

impl Server {
    /// Binds the address; gives the server, its socket, and the address with the port that it has.
    pub fn bind(config: &Config) -> io::Result<(Arc<Self>, TcpListener, SocketAddr)> {
        let address = resolve(&config.listen)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((Self::new(config, Work::Threads), listener, address))
    }

    /// A server whose connections come from any [`Listener`].
    pub fn new(config: &Config, work: Work) -> Arc<Self> {
        let metrics = Arc::default();
        let limits = Limits::new(config.into(), Arc::clone(&metrics));
        let routes = Arc::new(Routes { metrics, limits, relay: OnceLock::new() });
        Arc::new(Server { config: config.clone(), work, routes })
    }

    /// Begins to serve clients over the store, and gives the relay; with a schema, they may change its tables only.
    pub fn open(&self, store: Arc<dyn ChangeStore>, schema: Option<Arc<Schema>>) -> io::Result<Arc<Relay>> {
        let (metrics, limits) = (self.routes.metrics.clone(), self.routes.limits.clone());
        let relay = Relay::start(self.config.clone(), schema, store, metrics, limits, self.work.clone());
        let relay = Arc::new(relay?);
        // Nobody else sets it.
        let _ = self.routes.relay.set(relay.clone());
        Ok(relay)
    }

    /// The relay, once there is a store.
    pub fn relay(&self) -> Option<Arc<Relay>> {
        self.routes.relay.get().cloned()
    }

    /// The limits, whose settings may be replaced while the server runs.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.routes.limits
    }

    /// Serves until `stop` is ready, then drains: no new clients, what was accepted is committed and acked, every
    /// connection closed with 1001, all within `drain_timeout`; `/readyz` and `/metrics` go on meanwhile. Gives `false`
    /// if that was too short.
    pub async fn run(self: Arc<Self>, listener: impl Listener, stop: impl Future<Output = ()>) -> bool {
        self.accept_until(&listener, stop).await;
        let Some(relay) = self.relay() else { return true };
        let drain_timeout = Duration::from_millis(self.config.drain_timeout_ms);
        let drained = tokio::time::timeout(drain_timeout, relay.drain());
        self.accept_until(&listener, drained).await.is_ok()
    }

    async fn accept_until<T>(self: &Arc<Self>, listener: &impl Listener, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                end = &mut end => return end,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.clone().accepted(stream, peer),
                    Err(e) => {
                        // Out of file descriptors, mostly. The listener itself is fine.
                        tracing::warn!("cannot accept a connection: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn accepted<S: Stream>(self: Arc<Self>, mut stream: S, peer: IpAddr) {
        match self.routes.limits.admit(peer) {
            Ok(admission) => drop(tokio::spawn(self.serve(stream, Arc::new(admission)))),
            Err(refused) => {
                tracing::debug!(%peer, limit = %refused.limit(), "refused a connection");
                let answer = if refused == Refused::Full(Limit::Connections) { FULL } else { TOO_MANY };
                // It is writable at once, so this task is gone at once.
                tokio::spawn(async move { drop(stream.write_all(answer).await) });
            }
        }
    }

    /// Serves HTTP on a connection, until it becomes a WebSocket or ends.
    async fn serve<S: Stream>(self: Arc<Self>, stream: S, admission: Arc<Admission>) {
        let routes = self.routes.clone();
        let service =
            service_fn(move |request| routes::answer::<S>(routes.clone(), request, admission.clone()));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(self.config.handshake_timeout_ms))
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(e) = served {
            if e.is_timeout() {
                self.routes.metrics.limited(Limit::Handshake);
            }
            tracing::debug!("a connection ended before its handshake: {e}");
        }
    }
}

/// Keeps what waits for a client here, where it is bounded and its slowness is seen. The system else takes megabytes, and
/// says that a client has taken something only when a third of them have left: `slow_client_timeout` would end the
/// connection of one who reads slowly.
fn bound_unsent(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(e) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES) {
        tracing::debug!("the system does not bound what is unsent: {e}");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, MAX_UNSENT_BYTES);
}

/// The address of a `listen` setting.
pub fn resolve(listen: &str) -> io::Result<SocketAddr> {
    let mut addresses = std::net::ToSocketAddrs::to_socket_addrs(listen)?;
    addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address has no host"))
}
