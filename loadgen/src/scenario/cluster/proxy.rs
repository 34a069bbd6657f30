//! What stands between a node and Redis: it hands on whole messages, or swallows them, or cuts the connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::resp;

/// One read takes at least this much.
const READ_BYTES: usize = 64 * 1024;

/// A proxy in front of one address; it ends with the program.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    link: Arc<Link>,
}

/// What all connections through a proxy share.
#[derive(Debug)]
struct Link {
    to: SocketAddr,
    /// Whether what is sent there, and what comes from there, is swallowed.
    swallows: [AtomicBool; 2],
    swallowed: AtomicU64,
    /// Changes to cut the connections.
    resets: watch::Sender<()>,
}

impl Proxy {
    /// A proxy to that address, on a free port.
    pub(super) async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (swallows, swallowed) = (Default::default(), AtomicU64::new(0));
        let link = Arc::new(Link { to, swallows, swallowed, resets: watch::Sender::new(()) });
        let shared = Arc::clone(&link);
        tokio::spawn(async move {
            // An error is a client's that has gone.
            loop {
                if let Ok((node, _)) = listener.accept().await {
                    let link = Arc::clone(&shared);
                    // However it ends: both sides see that their connection has.
                    tokio::spawn(async move { drop(link.carry(node).await) });
                }
            }
        });
        Ok(Self { address, link })
    }

    /// Swallows what is sent to the address, or what comes from it, from now on, or no more.
    pub(super) fn swallow(&self, sent: bool, answered: bool) {
        self.link.swallows[0].store(sent, Relaxed);
        self.link.swallows[1].store(answered, Relaxed);
    }

    /// Cuts all connections.
    pub(super) fn reset(&self) {
        self.link.resets.send_replace(());
    }

    /// How many messages were swallowed.
    pub(super) fn swallowed(&self) -> u64 {
        self.link.swallowed.load(Relaxed)
    }
}

impl Link {
    /// Carries what a node and Redis say to each other until one of them ends the connection, or it is cut.
    async fn carry(&self, mut node: TcpStream) -> io::Result<()> {
        let mut resets = self.resets.subscribe();
        let mut redis = TcpStream::connect(self.to).await?;
        node.set_nodelay(true)?;
        redis.set_nodelay(true)?;
        let (from_node, to_node) = node.split();
        let (from_redis, to_redis) = redis.split();
        tokio::select! {
            ended = self.pump(from_node, to_redis, &self.swallows[0]) => ended,
            ended = self.pump(from_redis, to_node, &self.swallows[1]) => ended,
            _ = resets.changed() => Ok(()),
        }
    }

    /// Hands on message by message, whole, or swallows it.
    async fn pump(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        swallows: &AtomicBool,
    ) -> io::Result<()> {
        let (mut read, mut passed) = (Vec::new(), Vec::new());
        loop {
            read.reserve(READ_BYTES);
            if from.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            let mut at = 0;
            let not_redis = |_| io::Error::other("this is not Redis' protocol");
            while let Some(length) = resp::message(&read[at..]).map_err(not_redis)? {
                if swallows.load(Relaxed) {
                    self.swallowed.fetch_add(1, Relaxed);
                } else {
                    passed.extend_from_slice(&read[at..at + length]);
                }
                at += length;
            }
            read.drain(..at);
            to.write_all(&passed).await?;
            passed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
    const PONG: &[u8] = b"+PONG\r\n";

    /// Answers each ping.
    async fn pongs() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut ping = [0; PING.len()];
                    while stream.read_exact(&mut ping).await.is_ok() {
                        stream.write_all(PONG).await.expect("written");
                    }
                });
            }
        });
        address
    }

    /// Sends a ping, byte by byte; whether it is answered, or the connection ended.
    async fn answered(stream: &mut TcpStream, limit: Duration) -> Option<bool> {
        for byte in PING {
            stream.write_all(&[*byte]).await.ok()?;
        }
        let mut pong = [0; PONG.len()];
        match tokio::time::timeout(limit, stream.read_exact(&mut pong)).await {
            Ok(Ok(_)) => Some(pong == PONG),
            Ok(Err(_)) => None,
            Err(_) => Some(false),
        }
    }

    /// Waits until it has swallowed so many, and no more.
    async fn has_swallowed(proxy: &Proxy, count: u64) {
        let began = tokio::time::Instant::now();
        while proxy.swallowed() < count && began.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(proxy.swallowed(), count);
    }

    #[tokio::test]
    async fn what_is_swallowed_does_not_come_and_what_follows_does() {
        const SOON: Duration = Duration::from_millis(100);
        const LONG: Duration = Duration::from_secs(20);
        let proxy = Proxy::start(pongs().await).await.expect("started");
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(answered(&mut stream, LONG).await, Some(true));
        for (swallowed, (sent, came)) in [(1, (true, false)), (2, (false, true)), (3, (true, true))] {
            proxy.swallow(sent, came);
            assert_eq!(answered(&mut stream, SOON).await, Some(false), "{sent} {came}");
            has_swallowed(&proxy, swallowed).await;
            let mut other = TcpStream::connect(proxy.address).await.expect("connected");
            assert_eq!(answered(&mut other, SOON).await, Some(false), "{sent} {came}");
            has_swallowed(&proxy, swallowed + 1).await;
            proxy.swallow(false, false);
            assert_eq!(answered(&mut stream, LONG).await, Some(true), "{sent} {came}");
            proxy.link.swallowed.fetch_sub(1, Relaxed);
        }
        proxy.reset();
        assert_eq!(answered(&mut stream, LONG).await, None);
        let mut other = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(answered(&mut other, LONG).await, Some(true));
    }
}
