//! The server: one port, accepted connections, an orderly end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causeway_storage::{ChangeStore, Schema};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::auth::{Auth, AuthError};
use crate::bus::{self, Bus};
use crate::config::Config;
use crate::connection::Stream;
use crate::ending::Refused;
use crate::limits::{self, Admission, Limit, Limits};
use crate::logging::{self, Lines};
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::routes::{self, Routes};
use crate::tls::Tls;
use crate::work::Work;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: u32 = 4096;

/// What hyper may buffer of a request's head, in bytes. It is given back at the upgrade.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the system may keep for a client beside what is on the network, in bytes. It takes more when half has left.
const MAX_UNSENT_BYTES: u32 = 32 * 1024;

/// How long to wait after the system has refused a connection for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Lines about connections that are not taken, a second.
static ACCEPT_LINES: Lines = Lines::new(1);

/// What a client beyond `max_connections` is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What a client is told whose address has too many connections, or makes them too fast.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Where connections come from: a socket, or a simulated network's.
pub trait Listener: Sync {
    /// A connection.
    type Stream: Stream;

    /// Waits for the next connection; gives it with the address at its other end.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        // Frames are put together here, not in the system.
        let _ = stream.set_nodelay(true);
        bound_unsent(&stream);
        Ok((stream, peer))
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The setting.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
    /// Others could read and write everything.
    #[error(
        "cannot listen on {listen}: {address} is not loopback, and there is no authentication. Set up [auth] (README, \
         Authentication), or say --insecure-no-auth if everybody who reaches it may read and write everything"
    )]
    Exposed {
        /// The setting.
        listen: String,
        /// What it stands for.
        address: SocketAddr,
    },
    /// The keys cannot be read.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// A server: it answers `/healthz` at once, and clients once it has a store.
pub struct Server {
    config: Config,
    work: Work,
    tls: Option<Arc<Tls>>,
    routes: Arc<Routes>,
    bus: OnceLock<Bus>,
}

impl Server {
    /// Reads the keys and binds the address; gives the server, its socket, and the address with the port that it has. With
    /// `tls`, it is the only thing spoken there.
    pub fn bind(
        config: &Config,
        tls: Option<Arc<Tls>>,
    ) -> Result<(Arc<Self>, TcpListener, SocketAddr), BindError> {
        let auth = Auth::open(config)?;
        let address = listen_address(config)?;
        let failed = |source| BindError::Listen { listen: config.listen.clone(), source };
        let (listener, address) = listen_on(address).map_err(failed)?;
        if let Some(auth) = &auth {
            auth.watch().map_err(failed)?;
        }
        Ok((Self::new(config, auth, tls, Work::Threads), listener, address))
    }

    /// A server whose connections come from any [`Listener`]; without `auth`, whoever comes may do everything.
    pub fn new(config: &Config, auth: Option<Arc<Auth>>, tls: Option<Arc<Tls>>, work: Work) -> Arc<Self> {
        let metrics = Arc::<Metrics>::default();
        metrics.describe(config);
        let limits = Limits::new(config.into(), metrics.clone());
        let routes = Arc::new(Routes { metrics, auth, limits, relay: OnceLock::new() });
        Arc::new(Server { config: config.clone(), work, tls, routes, bus: OnceLock::new() })
    }

    /// The keys, where clients have to show tokens.
    pub fn auth(&self) -> Option<&Arc<Auth>> {
        self.routes.auth.as_ref()
    }

    /// Begins to serve clients over the store, and gives the relay; with a schema, they may change its tables only.
    pub fn open(&self, store: Arc<dyn ChangeStore>, schema: Option<Arc<Schema>>) -> io::Result<Arc<Relay>> {
        let (metrics, limits) = (self.metrics(), self.routes.limits.clone());
        let bus = bus::hub(&self.config, &metrics.bus);
        let hub = bus.as_ref().map(|(hub, _)| hub.clone());
        let (config, work) = (self.config.clone(), self.work.clone());
        let relay = Relay::start(config, schema, store.clone(), metrics, limits, hub, work);
        let relay = Arc::new(relay?);
        if let Some(bus) = bus {
            let bus = Bus::start(&self.config, bus, relay.clone(), store)?;
            // Nobody else sets it.
            let _ = self.bus.set(bus);
        }
        // Nobody else sets it.
        let _ = self.routes.relay.set(relay.clone());
        Ok(relay)
    }

    /// Ends the bus, if there is one, behind what was to be told. Blocks.
    pub fn stop_bus(&self) {
        if let Some(bus) = self.bus.get() {
            bus.stop();
        }
    }

    /// The relay, once there is a store.
    pub fn relay(&self) -> Option<Arc<Relay>> {
        self.routes.relay.get().cloned()
    }

    /// What is counted.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.routes.metrics.clone()
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
                        if ACCEPT_LINES.take(|missing| tracing::warn!(missing, "{}", logging::MISSING)) {
                            tracing::warn!("cannot accept a connection: {e}; raise the limit of open files");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn accepted<S: Stream>(self: Arc<Self>, mut stream: S, peer: SocketAddr) {
        let refused = match self.routes.limits.admit(peer.ip()) {
            Ok(admission) => {
                tokio::spawn(self.serve(stream, peer, Arc::new(admission)));
                return;
            }
            Err(refused) => refused,
        };
        self.routes.metrics.refused_connection(Refused::OverLimit);
        let limit = refused.limit();
        if ACCEPT_LINES.take(|missing| tracing::warn!(missing, "{}", logging::MISSING)) {
            tracing::warn!(%peer, %limit, "refused a connection over the limit: raise it, or find who opens them");
        }
        if self.tls.is_some() {
            // It would take a handshake to say so, which is what there is too much of.
            return;
        }
        let answer = if refused == limits::Refused::Full(Limit::Connections) { FULL } else { TOO_MANY };
        // It is writable at once, so this task is gone at once.
        tokio::spawn(async move { drop(stream.write_all(answer).await) });
    }

    /// Serves a connection until it becomes a WebSocket or ends. TLS and the request's head have one deadline, and the answer
    /// has to be taken in `slow_client_timeout`.
    async fn serve<S: Stream>(self: Arc<Self>, stream: S, peer: SocketAddr, admission: Arc<Admission>) {
        let deadline = Instant::now() + Duration::from_millis(self.config.handshake_timeout_ms);
        let Some(tls) = &self.tls else { return self.serve_http(stream, peer, deadline, admission).await };
        let accepted = tls.accept(stream, deadline).await;
        self.routes.metrics.tls_handshake(&accepted);
        if let Ok(stream) = accepted {
            // A task without TLS is not to be larger for it.
            Box::pin(self.serve_http(stream, peer, deadline, admission)).await;
        }
    }

    async fn serve_http<S: Stream>(
        &self,
        stream: S,
        peer: SocketAddr,
        deadline: Instant,
        admission: Arc<Admission>,
    ) {
        let answered = Arc::new(Notify::new());
        let (routes, told) = (self.routes.clone(), answered.clone());
        let service = service_fn(move |request| {
            let (answer, told) =
                (routes::answer::<S>(routes.clone(), request, peer, admission.clone()), told.clone());
            async move {
                let answer = answer.await;
                told.notify_one();
                answer
            }
        });
        let serve = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(deadline.saturating_duration_since(Instant::now()))
            .half_close(true)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let too_slow = async {
            answered.notified().await;
            tokio::time::sleep(Duration::from_millis(self.config.slow_client_timeout_ms)).await;
        };
        let served = tokio::select! {
            served = serve => served,
            () = too_slow => {
                self.routes.metrics.refused_connection(Refused::AnswerNotTaken);
                tracing::debug!(%peer, reason = Refused::AnswerNotTaken.as_str(), "a connection was given up");
                return;
            }
        };
        if let Err(e) = served {
            let timeout = e.is_timeout();
            if timeout {
                self.routes.metrics.limited(Limit::Handshake);
            }
            let refused = if timeout { Refused::HandshakeTimeout } else { Refused::BadHandshake };
            self.routes.metrics.refused_connection(refused);
            tracing::debug!(%peer, reason = refused.as_str(), "a connection ended before its handshake: {e}");
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

/// The address that the relay is to listen on, if it may.
pub fn listen_address(config: &Config) -> Result<SocketAddr, BindError> {
    let listen = config.listen.clone();
    let address = match resolve(&listen) {
        Ok(address) => address,
        Err(source) => return Err(BindError::Listen { listen, source }),
    };
    if address.ip().to_canonical().is_loopback() || config.has_auth() || config.insecure_no_auth {
        return Ok(address);
    }
    Err(BindError::Exposed { listen, address })
}

fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The address of a `listen` setting.
pub fn resolve(listen: &str) -> io::Result<SocketAddr> {
    let mut addresses = std::net::ToSocketAddrs::to_socket_addrs(listen)?;
    addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address has no host"))
}
