//! What is known of a connection while it lives, and told when it ends: a count, and a line in the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::Member;
use crate::ending::Reason;
use crate::limits::{Admission, ClientPlace};
use crate::logging::{self, Lines};
use crate::metrics::Metrics;
use crate::request_id::RequestId;

/// Lines about ends of connections, a second. What is beyond is counted only: a flood is not to fill the disk.
const LINES_PER_S: u32 = 100;

static LINES: Lines = Lines::new(LINES_PER_S);

/// Where a connection came from.
#[derive(Debug)]
pub struct Origin {
    /// The address at its other end.
    pub peer: SocketAddr,
    /// The id of its handshake.
    pub request: RequestId,
    /// Its share of the connections of all.
    pub admission: Arc<Admission>,
    /// The client, and its place among others.
    pub client: ClientPlace,
}

impl Origin {
    /// The client's address, with its port if that is known, and that of the proxy in between if there is one.
    fn peer_and_proxy(&self) -> (String, Option<SocketAddr>) {
        let address = self.client.address;
        if address == self.peer.ip().to_canonical() {
            return (self.peer.to_string(), None);
        }
        (address.to_string(), Some(self.peer))
    }
}

/// When the client last gave a sign of life: sent something, or took what it had been slow to take.
pub(super) struct LastHeard {
    start: Instant,
    after_ms: AtomicU64,
}

impl LastHeard {
    pub(super) fn new() -> Self {
        LastHeard { start: Instant::now(), after_ms: AtomicU64::new(0) }
    }

    /// Notes a sign of life, and gives the time.
    pub(super) fn now(&self) -> Instant {
        let now = Instant::now();
        self.after_ms.store((now - self.start).as_millis() as u64, Relaxed);
        now
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.after_ms.load(Relaxed)))
    }
}

/// A number that only one half of a connection adds to.
#[derive(Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// No other thread adds meanwhile, so this needs no locked instruction.
    pub(super) fn add(&self, n: usize) {
        self.0.store(self.0.load(Relaxed) + n as u64, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What went over a connection.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) messages_in: Tally,
    pub(super) changes_in: Tally,
    /// Payload bytes of messages.
    pub(super) bytes_in: Tally,
    pub(super) bytes_out: Tally,
}

/// Tells of a connection's end when it is dropped, however that comes.
pub(super) struct Life<'c> {
    metrics: &'c Metrics,
    member: &'c Member,
    pub(super) origin: &'c Origin,
    start: Instant,
    pub(super) traffic: Traffic,
    /// The reason, and the code of the close frame that was sent, if any was.
    pub(super) end: (Reason, Option<u16>),
}

impl<'c> Life<'c> {
    pub(super) fn new(metrics: &'c Metrics, member: &'c Member, origin: &'c Origin) -> Self {
        metrics.connected();
        let (traffic, end) = (Traffic::default(), (Reason::Abandoned, None));
        Life { metrics, member, origin, start: Instant::now(), traffic, end }
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        let (reason, code) = self.end;
        self.metrics.disconnected(reason);
        if !LINES.take(|missing| tracing::info!(missing, "{}", logging::MISSING)) {
            return;
        }
        let (peer, proxy) = self.origin.peer_and_proxy();
        let Traffic { messages_in, changes_in, bytes_in, bytes_out } = &self.traffic;
        tracing::info!(
            reason = reason.as_str(),
            code,
            connection = self.member.outbox.id(),
            request = %self.origin.request,
            channel = &*self.member.channel,
            peer,
            proxy = proxy.map(tracing::field::display),
            duration_s = self.start.elapsed().as_millis() as f64 / 1000.0,
            messages_in = messages_in.get(),
            changes_in = changes_in.get(),
            bytes_in = bytes_in.get(),
            bytes_out = bytes_out.get(),
            "connection ended",
        );
    }
}
