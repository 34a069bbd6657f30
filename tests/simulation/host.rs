//! The server's host: what `main` does, over the simulated network and in simulated time.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::{IoSlice, Result};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use causeway::config::Config;
use causeway::server::{Listener, Server};
use causeway::work::Work;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use turmoil::net::{TcpListener, TcpStream};

use crate::disk::Disk;

pub(crate) const SERVER: &str = "server";
pub(crate) const PORT: u16 = 8080;

/// What the world and the server's host have in common.
#[derive(Default)]
pub(crate) struct Host {
    /// Tells the server to stop.
    stop: Mutex<Option<oneshot::Sender<()>>>,
    drained: AtomicBool,
    dying: AtomicBool,
    accepted: AtomicU64,
    /// The streams of a dying server. A runtime drops its tasks in no particular order, but what a stream sends when it
    /// is dropped has to be the same in every run of a seed: so they are dropped in the order in which they were accepted.
    last: Mutex<BTreeMap<u64, TcpStream>>,
}

impl Host {
    /// Tells the server to stop, if it runs and has not been told.
    pub(crate) fn stop(&self) -> bool {
        self.stop.lock().unwrap().take().is_some_and(|stop| stop.send(()).is_ok())
    }

    /// Whether a server that was told to stop has come to its end.
    pub(crate) fn has_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// The server ends with what is called, whatever it is doing.
    pub(crate) fn dies(&self, kill: impl FnOnce()) {
        self.dying.store(true, Relaxed);
        kill();
        self.dying.store(false, Relaxed);
        self.drained.store(false, Relaxed);
        self.stop.lock().unwrap().take();
    }
}

/// Drops the last streams; a host drops its own task last.
struct Undertaker(Arc<Host>);

impl Drop for Undertaker {
    fn drop(&mut self) {
        let last = std::mem::take(&mut *self.0.last.lock().unwrap());
        last.into_values().for_each(drop);
    }
}

/// Runs the server until it is crashed.
pub(crate) async fn serve(host: Arc<Host>, config: Config, work: Work, disk: Disk) -> turmoil::Result {
    let _undertaker = Undertaker(host.clone());
    let (stop, stopped) = oneshot::channel();
    *host.stop.lock().unwrap() = Some(stop);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let server = Server::new(&config, work);
    server.open(Arc::new(disk), None)?;
    let stopped = async {
        if stopped.await.is_err() {
            pending::<()>().await;
        }
    };
    server.clone().run(Accepting { listener, host: host.clone() }, stopped).await;
    if let Some(relay) = server.relay() {
        relay.readers.close();
        relay.shards.stop();
    }
    host.drained.store(true, Relaxed);
    pending().await
}

struct Accepting {
    listener: TcpListener,
    host: Arc<Host>,
}

impl Listener for Accepting {
    type Stream = Stream;

    async fn accept(&self) -> Result<(Stream, IpAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        let number = self.host.accepted.fetch_add(1, Relaxed);
        Ok((Stream { stream: Some(stream), number, host: self.host.clone() }, peer.ip()))
    }
}

/// A connection of the server's.
struct Stream {
    /// `None` when it is dropped.
    stream: Option<TcpStream>,
    number: u64,
    host: Arc<Host>,
}

impl Stream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(self.get_mut().stream.as_mut().unwrap())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.host.dying.load(Relaxed)
            && let Some(stream) = self.stream.take()
        {
            self.host.last.lock().unwrap().insert(self.number, stream);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
