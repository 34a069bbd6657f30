//! Passes connections on, byte for byte, and notes what their clients say.
//!
//! A connection holds two buffers of [`READ_BYTES`] and its two taps. Bytes are read only when those before them were
//! written and noted, so whoever is slow, also the disk, slows the sender down and fills no memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::heard::{self, Heard};
use super::scribe::Noted;
use super::tap::Tap;
use super::upgrade;

/// One read takes at most this much.
const READ_BYTES: usize = 16 * 1024;

/// Most requests to upgrade are shorter, and so are their answers.
const HEAD_BYTES: usize = 2 * 1024;

/// What waits for the disk, of all connections, in KiB.
const WAITING_KIB: u32 = 64 * 1024;

/// When, on which connection, what, and its share of [`WAITING_KIB`].
pub(super) type Entry = (u64, u32, Noted, OwnedSemaphorePermit);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Proxy {
    to: SocketAddr,
    started: Instant,
    /// Made for this run, from the system's random numbers, and nowhere kept.
    key: RandomState,
    /// False once the recording is over: bytes are passed on unread.
    records: Arc<AtomicBool>,
    entries: mpsc::Sender<Entry>,
    room: Arc<Semaphore>,
    next_conn: AtomicU32,
    /// The highest version that any client of a channel was shown, by the hash of its name; one entry for each channel
    /// while it records, as the scribe has.
    shown: Mutex<HashMap<u64, Arc<AtomicU64>>>,
}

/// A connection that is recorded.
#[derive(Debug)]
struct Watched {
    conn: u32,
    shown: Arc<AtomicU64>,
}

impl Proxy {
    pub(super) fn new(
        to: SocketAddr,
        started: Instant,
        records: Arc<AtomicBool>,
        entries: mpsc::Sender<Entry>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(WAITING_KIB as usize));
        let (key, next_conn, shown) = (RandomState::new(), AtomicU32::new(0), Mutex::default());
        Self { to, started, key, records, entries, room, next_conn, shown }
    }

    /// Carries one connection to its end.
    pub(super) async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(self.to).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut asked, mut answered) = (Vec::with_capacity(HEAD_BYTES), Vec::with_capacity(HEAD_BYTES));
        let asked_end = upgrade::read_head(&mut client, &mut asked).await?;
        server.write_all(&asked).await?;
        let channel = asked_end.and_then(|end| upgrade::channel_of(&asked[..end]));
        let (Some(asked_end), Some(channel)) = (asked_end, channel) else {
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        };
        let answered_end = upgrade::read_head(&mut server, &mut answered).await?;
        let upgraded = answered_end.filter(|_| upgrade::is_upgraded(&answered));
        let Some(answered_end) = upgraded.filter(|_| self.records.load(Relaxed)) else {
            client.write_all(&answered).await?;
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        };

        // Before the client knows of it, so that nothing that it says can be noted earlier.
        let watched = self.open(&channel).await;
        let (mut up, mut down) = (Tap::default(), Tap::default());
        self.hear(&mut up, &asked[asked_end..], self.now_us(), &watched).await;
        self.see(&mut down, &answered[answered_end..], &watched);
        client.write_all(&answered).await?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let ended = tokio::try_join!(
            self.pump_up(from_client, to_server, up, &watched),
            self.pump_down(from_server, to_client, down, &watched),
        );
        self.note(self.now_us(), watched.conn, Noted::Close).await;
        ended.map(drop)
    }

    async fn open(&self, channel: &[u8]) -> Watched {
        let channel = self.key.hash_one(channel);
        let shown = {
            let mut all = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(channel).or_default())
        };
        let conn = self.next_conn.fetch_add(1, Relaxed);
        self.note(self.now_us(), conn, Noted::Open(channel)).await;
        Watched { conn, shown }
    }

    /// What the client sends: passed on first, then looked at.
    async fn pump_up(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut tap: Tap,
        watched: &Watched,
    ) -> io::Result<()> {
        let mut read = Vec::with_capacity(READ_BYTES);
        while from.read_buf(&mut read).await? > 0 {
            let at_us = self.now_us();
            let written = to.write_all(&read).await;
            self.hear(&mut tap, &read, at_us, watched).await;
            // Who cannot be written to may have said something before it went: the other pump reads to its end.
            if written.is_err() {
                return Ok(());
            }
            read.clear();
        }
        drop(to.shutdown().await);
        Ok(())
    }

    /// What the server sends: looked at first, so that its version is known before the client can pull by it.
    async fn pump_down(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut tap: Tap,
        watched: &Watched,
    ) -> io::Result<()> {
        let mut read = Vec::with_capacity(READ_BYTES);
        while from.read_buf(&mut read).await? > 0 {
            self.see(&mut tap, &read, watched);
            if to.write_all(&read).await.is_err() {
                return Ok(());
            }
            read.clear();
        }
        drop(to.shutdown().await);
        Ok(())
    }

    async fn hear(&self, tap: &mut Tap, bytes: &[u8], at_us: u64, watched: &Watched) {
        if !self.records.load(Relaxed) {
            return;
        }
        let mut messages = Vec::new();
        tap.take(bytes, |bytes, payload| {
            let heard = payload.map_or(Heard::Other, |payload| heard::client(payload, &self.key));
            let behind = match heard {
                Heard::Pull { version, .. } => watched.shown.load(Relaxed).saturating_sub(version),
                _ => 0,
            };
            messages.push(Noted::Message { heard, bytes, behind });
        });
        for message in messages {
            self.note(at_us, watched.conn, message).await;
        }
    }

    fn see(&self, tap: &mut Tap, bytes: &[u8], watched: &Watched) {
        if self.records.load(Relaxed) {
            tap.take(bytes, |_, payload| {
                if let Some(version) = payload.and_then(heard::server_version) {
                    watched.shown.fetch_max(version, Relaxed);
                }
            });
        }
    }

    async fn note(&self, at_us: u64, conn: u32, noted: Noted) {
        let kib = (noted.memory_bytes() as u64).div_ceil(1024).min(u64::from(WAITING_KIB)) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.expect("nobody closes it");
        // An error says that the recording is over, as `records` does.
        let _ = self.entries.send((at_us, conn, noted, room)).await;
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}
