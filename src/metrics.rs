//! What the server counts, and `/metrics`. `docs/operations.md` says what each metric means.

mod bus;
mod labels;
mod latency;
mod now;
mod process;
mod register;
pub mod runtime;

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use causeway_storage::{Outcome, StoreError};
use hyper::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::auth::Denied;
use crate::config::Config;
use crate::ending::{Reason, Refused};
use crate::limits::Limit;
use crate::protocol::Code;
use crate::tls::HandshakeFailure;
use crate::unavailable::{Unavailable, Use};

pub use bus::BusMetrics;
use labels::{
    BuildLabel, ChannelLabel, CodeLabel, DeniedLabel, KindLabel, LimitLabel, OutcomeLabel, ReasonLabel,
    SettingLabel, StatusLabel, ToLabel, TypeLabel, UseLabel,
};
use latency::Latency;
pub use now::{ChannelStats, Now, ShardStats};
use process::Process;
use register::{byte_counter, byte_gauge, counter, family, gauge, histogram, latency};
use runtime::Runtime;

/// The statuses that answers have.
const STATUSES: [u16; 12] = [101, 200, 400, 401, 403, 404, 405, 426, 429, 500, 503, 0];

/// Everything that is counted as it happens. What can be asked for when it is wanted (outboxes, lag) is not kept here.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// One who asks is not to see the channels that are meant for another.
    encoding: Mutex<()>,
    connections: Gauge,
    connections_total: Counter,
    closed: [Counter; Reason::ALL.len()],
    refused: [Counter; Refused::ALL.len()],
    answers: [Counter; STATUSES.len()],
    build: Family<BuildLabel, Gauge>,
    limits: Family<SettingLabel, Gauge>,
    ready: Gauge,
    queue_bytes: Gauge,
    pulls: Gauge,
    pages_reading: Gauge,
    pages_waiting: Gauge,
    page_seconds: Latency,
    ack_seconds: Latency,
    fanout_seconds: Latency,
    wake_seconds: Latency,
    unavailable_now: [Gauge; 2],
    allocator: Gauge,
    allocated: OnceLock<fn() -> usize>,
    messages_in: [Counter; 3],
    bytes_in: Counter,
    changes_in: Counter,
    updates_out: Counter,
    pages_out: Counter,
    acks_out: Counter,
    changes_out: Counter,
    bytes_out: Counter,
    won: Counter,
    lost: Counter,
    errors: [Counter; Code::ALL.len()],
    auth_denied: Family<DeniedLabel, Counter>,
    sessions_ended: Family<ReasonLabel, Counter>,
    auth_keys: Gauge,
    auth_keys_stale: Gauge,
    limited: Vec<Counter>,
    merge_errors: Counter,
    storage_errors: [Counter; StoreError::KINDS.len()],
    unavailable: Unavailable,
    channel_unavailable: Family<UseLabel, Gauge>,
    commit_changes: Histogram,
    commit_seconds: Histogram,
    channel_connections: Family<ChannelLabel, Gauge>,
    channel_version: Family<ChannelLabel, Gauge<u64, AtomicU64>>,
    channel_lag: Family<ChannelLabel, Gauge<u64, AtomicU64>>,
    channels: Gauge,
    open_stores: Gauge,
    outbox_bytes: Gauge,
    lagging: Gauge,
    silent_shards: Gauge,
    /// What is counted of the bus.
    pub bus: BusMetrics,
    tls_handshakes: Counter,
    tls_failures: [Counter; HandshakeFailure::ALL.len()],
    tls_certificate_end: Gauge,
    tls_files_unusable: Gauge,
}

/// The messages that clients send.
#[derive(Clone, Copy, Debug)]
pub enum MessageType {
    /// An update.
    Update,
    /// A pull.
    Pull,
    /// A fresh token.
    Auth,
}

/// Where a token is shown.
#[derive(Clone, Copy, Debug)]
pub enum AuthAt {
    /// In a request: a handshake, or `/metrics`.
    Request,
    /// In an `auth` message.
    Message,
}

impl AuthAt {
    fn as_str(self) -> &'static str {
        match self {
            AuthAt::Request => "request",
            AuthAt::Message => "message",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        // Their names are everybody's.
        registry.register_collector(Box::new(Process::default()));
        let r = registry.sub_registry_with_prefix("causeway");
        r.register_collector(Box::new(Runtime));
        let closed = Family::<ReasonLabel, Counter>::default();
        r.register("connections_closed", "WebSocket connections that ended, by reason", closed.clone());
        let refused = Family::<ReasonLabel, Counter>::default();
        r.register(
            "connections_refused",
            "Connections given up that had become no WebSocket, by reason",
            refused.clone(),
        );
        let answers = Family::<StatusLabel, Counter>::default();
        r.register("http_responses", "HTTP requests answered, by status; 0 is any other", answers.clone());
        let unavailable = Family::<ToLabel, Gauge>::default();
        r.register(
            "channels_unavailable",
            "How many channels' store failed when it was last asked to write or to read",
            unavailable.clone(),
        );
        let build = Family::<BuildLabel, Gauge>::default();
        r.register("build_info", "1; what runs, in the labels", build.clone());
        let limits = Family::<SettingLabel, Gauge>::default();
        r.register("limit", "Limits that are in effect, by their setting", limits.clone());
        let messages = Family::<TypeLabel, Counter>::default();
        r.register("messages_received", "Messages from clients, by type", messages.clone());
        let messages_out = Family::<TypeLabel, Counter>::default();
        r.register("messages_sent", "Messages handed to connections, by type", messages_out.clone());
        let errors = Family::<CodeLabel, Counter>::default();
        r.register("errors", "Errors answered, by code", errors.clone());
        let auth_denied = Family::<DeniedLabel, Counter>::default();
        r.register(
            "auth_denied",
            "Requests and auth messages refused for their token, by reason",
            auth_denied.clone(),
        );
        let sessions_ended = Family::<ReasonLabel, Counter>::default();
        r.register(
            "sessions_ended",
            "Connections closed because their token expired or its key was removed",
            sessions_ended.clone(),
        );
        for reason in Denied::ALL.map(Denied::as_str) {
            for at in [AuthAt::Request, AuthAt::Message].map(AuthAt::as_str) {
                drop(auth_denied.get_or_create(&DeniedLabel { at, reason }));
            }
        }
        for reason in [Denied::Expired, Denied::Revoked].map(Denied::as_str) {
            drop(sessions_ended.get_or_create(&ReasonLabel { reason }));
        }
        let limited = Family::<LimitLabel, Counter>::default();
        r.register("limited", "Refusals of what is over a limit, by the limit's setting", limited.clone());
        let merged = Family::<OutcomeLabel, Counter>::default();
        r.register("changes_merged", "Changes merged, by outcome", merged.clone());
        let storage_errors = Family::<KindLabel, Counter>::default();
        r.register("storage_errors", "Failures of the store, by kind", storage_errors.clone());
        let channel_unavailable = Family::<UseLabel, Gauge>::default();
        r.register(
            "channel_unavailable",
            "Channels whose store failed when it was last asked to write or to read",
            channel_unavailable.clone(),
        );
        let tls_failures = Family::<KindLabel, Counter>::default();
        r.register("tls_handshakes_failed", "TLS handshakes that failed, by kind", tls_failures.clone());
        let outcome = |outcome| merged.get_or_create(&OutcomeLabel { outcome }).clone();
        let message = |r#type| messages.get_or_create(&TypeLabel { r#type }).clone();
        let sent = |r#type| messages_out.get_or_create(&TypeLabel { r#type }).clone();
        Metrics {
            connections: gauge(r, "connections", "Open WebSocket connections"),
            connections_total: counter(r, "connections_opened", "WebSocket connections opened"),
            messages_in: [message("update"), message("pull"), message("auth")],
            closed: std::array::from_fn(|n| {
                closed.get_or_create(&ReasonLabel { reason: Reason::ALL[n].as_str() }).clone()
            }),
            refused: std::array::from_fn(|n| {
                refused.get_or_create(&ReasonLabel { reason: Refused::ALL[n].as_str() }).clone()
            }),
            answers: STATUSES.map(|status| answers.get_or_create(&StatusLabel { status }).clone()),
            build,
            limits,
            ready: gauge(r, "ready", "1 if clients are taken in, as /readyz says"),
            queue_bytes: byte_gauge(r, "queue", "Updates that wait to be merged, or are being merged"),
            pulls: gauge(r, "pulls", "Pulls that are being answered, or wait for that"),
            pages_reading: gauge(r, "pages_reading", "Pages that are being read"),
            pages_waiting: gauge(r, "pages_waiting", "Pages that wait for others to be read"),
            page_seconds: latency(r, "page_read", "Time of reading a page from the store"),
            ack_seconds: latency(r, "ack", "Time from reading an update to its answer in the outbox"),
            fanout_seconds: latency(
                r,
                "fanout",
                "Time of telling a durable commit to all outboxes of its channel",
            ),
            wake_seconds: latency(r, "wake_delay", "How late a network thread woke a task that slept"),
            unavailable_now: [Use::Write, Use::Read]
                .map(|using| unavailable.get_or_create(&ToLabel { to: using.as_str() }).clone()),
            allocator: byte_gauge(
                r,
                "allocator_committed",
                "What the allocator holds of the system's memory",
            ),
            allocated: OnceLock::new(),
            bytes_in: byte_counter(r, "received", "Payload bytes of messages from clients"),
            changes_in: counter(r, "changes_received", "Changes received in updates that could be read"),
            updates_out: sent("update"),
            pages_out: sent("page"),
            acks_out: sent("ack"),
            changes_out: counter(
                r,
                "changes_sent",
                "Changes in live updates and pages handed to connections",
            ),
            bytes_out: byte_counter(r, "sent", "Bytes written to clients"),
            won: outcome("won"),
            lost: outcome("lost"),
            errors: Code::ALL.map(|code| errors.get_or_create(&CodeLabel { code: code.as_str() }).clone()),
            auth_denied,
            sessions_ended,
            auth_keys: gauge(r, "auth_keys", "Keys that tokens are checked with; 0 without authentication"),
            auth_keys_stale: gauge(
                r,
                "auth_keys_stale",
                "1 if a file of keys has changed and cannot be taken: the keys of before are in use",
            ),
            limited: Limit::ALL
                .iter()
                .map(|limit| limited.get_or_create(&LimitLabel { limit: limit.setting() }).clone())
                .collect(),
            merge_errors: counter(r, "merge_errors", "Updates that the store could not keep"),
            storage_errors: StoreError::KINDS
                .map(|kind| storage_errors.get_or_create(&KindLabel { kind }).clone()),
            unavailable: Unavailable::default(),
            channel_unavailable,
            commit_changes: histogram(
                r,
                "commit_changes",
                "Changes in a commit",
                exponential_buckets(1.0, 4.0, 9),
                None,
            ),
            commit_seconds: histogram(
                r,
                "commit",
                "Time of a commit, durable at its end",
                exponential_buckets(0.0001, 2.0, 16),
                Some(Unit::Seconds),
            ),
            channel_connections: family(r, "channel_connections", "Connections of the busiest channels"),
            channel_version: family(r, "channel_version", "Version of the busiest channels"),
            channel_lag: family(
                r,
                "channel_lag",
                "Versions that the slowest client of a busy channel has yet to be sent",
            ),
            channels: gauge(r, "channels", "Channels with a connection"),
            open_stores: gauge(r, "open_stores", "Channels whose store is open"),
            outbox_bytes: gauge(r, "outbox_bytes", "Bytes that wait in the outboxes of all connections"),
            lagging: gauge(r, "lagging_connections", "Connections that fell back to pages"),
            silent_shards: gauge(
                r,
                "silent_shards",
                "Shards in the middle of a commit that takes long; what is theirs is missing here",
            ),
            bus: BusMetrics::new(r),
            tls_handshakes: counter(r, "tls_handshakes", "TLS handshakes done"),
            tls_failures: HandshakeFailure::ALL
                .map(|kind| tls_failures.get_or_create(&KindLabel { kind: kind.as_str() }).clone()),
            tls_certificate_end: gauge(
                r,
                "tls_certificate_end_timestamp_seconds",
                "Until when the TLS certificate is valid, in seconds since 1970; 0 without TLS",
            ),
            tls_files_unusable: gauge(
                r,
                "tls_files_unusable",
                "1 while tls_cert and tls_key cannot be used, and the certificate before them is served",
            ),
            registry,
            encoding: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A connection is open.
    pub fn connected(&self) {
        self.connections.inc();
        self.connections_total.inc();
    }

    /// A connection is closed.
    pub fn disconnected(&self, reason: Reason) {
        self.connections.dec();
        self.closed[reason as usize].inc();
    }

    /// A connection was given up that had become no WebSocket.
    pub fn refused_connection(&self, refused: Refused) {
        self.refused[refused as usize].inc();
    }

    /// A request was answered.
    pub fn answered(&self, status: StatusCode) {
        let known = STATUSES.iter().position(|known| *known == status.as_u16());
        self.answers[known.unwrap_or(STATUSES.len() - 1)].inc();
    }

    /// Says what runs, and within which bounds.
    pub fn describe(&self, config: &Config) {
        for (setting, limit) in [
            ("max_connections", config.max_connections),
            ("max_queue_bytes", config.max_queue_bytes),
            ("max_open_channels", config.max_open_channels),
            ("page_readers", config.page_readers),
        ] {
            self.limits.get_or_create(&SettingLabel { setting }).set(limit as i64);
        }
        self.build.clear();
        let label = BuildLabel {
            version: env!("CARGO_PKG_VERSION"),
            store: config.store.clone(),
            durability: config.durability.to_string(),
        };
        self.build.get_or_create(&label).set(1);
    }

    /// Has the allocator asked for the bytes that it holds.
    pub fn watch_allocator(&self, committed_bytes: fn() -> usize) {
        // Nobody else sets it.
        let _ = self.allocated.set(committed_bytes);
    }

    /// A network thread was late by so much.
    pub fn woken_late(&self, by: Duration) {
        self.wake_seconds.observe(by);
    }

    /// A page was read.
    pub fn read_page(&self, took: Duration) {
        self.page_seconds.observe(took);
    }

    /// A page waits until what is given is dropped.
    pub fn page_waits(&self) -> impl Drop + use<> {
        struct Waits(Gauge);
        impl Drop for Waits {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        self.pages_waiting.inc();
        Waits(self.pages_waiting.clone())
    }

    /// A commit that was durable at `committed`, of updates read at `received`, has been told.
    pub fn told(&self, committed: Instant, received: impl Iterator<Item = Instant>) {
        let now = Instant::now();
        self.fanout_seconds.observe(now - committed);
        self.ack_seconds.observe_all(received.map(|received| now - received));
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or(0)
    }

    /// A TLS handshake is done, or has failed.
    pub fn tls_handshake<T>(&self, done: &Result<T, HandshakeFailure>) {
        match done {
            Ok(_) => self.tls_handshakes.inc(),
            Err(failure) => self.tls_failures[*failure as usize].inc(),
        };
    }

    /// The TLS certificate ends then, in seconds since 1970; whether what is in its files cannot be used.
    pub fn tls_certificate(&self, until_unix_s: u64, unusable: bool) {
        self.tls_certificate_end.set(until_unix_s as i64);
        self.tls_files_unusable.set(unusable.into());
    }

    /// A message has come and could be read.
    pub fn received(&self, message: MessageType, changes: usize) {
        self.messages_in[message as usize].inc();
        self.changes_in.inc_by(changes as u64);
    }

    /// A message's bytes have come.
    pub fn received_bytes(&self, bytes: usize) {
        self.bytes_in.inc_by(bytes as u64);
    }

    /// Bytes were written to a client.
    pub fn sent_bytes(&self, bytes: usize) {
        self.bytes_out.inc_by(bytes as u64);
    }

    /// A page was handed to a connection.
    pub fn sent_page(&self, changes: usize) {
        self.pages_out.inc();
        self.changes_out.inc_by(changes as u64);
    }

    /// Live updates were handed to connections.
    pub fn sent_updates(&self, messages: usize, changes: usize) {
        self.updates_out.inc_by(messages as u64);
        self.changes_out.inc_by(changes as u64);
    }

    /// Acks were handed to connections.
    pub fn sent_acks(&self, acks: usize) {
        self.acks_out.inc_by(acks as u64);
    }

    /// A message was answered with an error.
    pub fn refused(&self, code: Code) {
        self.errors[Code::ALL.iter().position(|c| *c == code).unwrap_or(0)].inc();
        if code == Code::Storage {
            self.merge_errors.inc();
        }
    }

    /// A token was refused, or is missing.
    pub fn denied(&self, at: AuthAt, denied: Denied) {
        self.auth_denied.get_or_create(&DeniedLabel { at: at.as_str(), reason: denied.as_str() }).inc();
    }

    /// A connection's token is no longer good.
    pub fn session_ended(&self, denied: Denied) {
        self.sessions_ended.get_or_create(&ReasonLabel { reason: denied.as_str() }).inc();
    }

    /// The keys that there are, and whether their files have changed to what cannot be taken.
    pub fn auth_keys(&self, keys: usize, stale: bool) {
        self.auth_keys.set(keys as i64);
        self.auth_keys_stale.set(stale.into());
    }

    /// Something was refused that is over a limit.
    pub fn limited(&self, limit: Limit) {
        self.limited[limit as usize].inc();
    }

    /// The store has failed a channel. The first failure is logged, those after it are counted: on a full disk the log is
    /// not to grow with every update.
    pub fn storage_failed(&self, channel: &str, using: Use, error: &StoreError) {
        let kind = StoreError::KINDS.iter().position(|kind| *kind == error.kind());
        self.storage_errors[kind.unwrap_or(0)].inc();
        let to = using.as_str();
        match self.unavailable.failed(channel, using) {
            true => tracing::error!(channel, to, %error, "the store fails; told again when it works"),
            false => tracing::debug!(channel, to, %error, "the store still fails"),
        }
    }

    /// The store has done what it was asked for the channel.
    pub fn storage_works(&self, channel: &str, using: Use) {
        if self.unavailable.works(channel, using) {
            tracing::info!(channel, to = using.as_str(), "the store works again");
        }
    }

    /// A commit is durable.
    pub fn committed(&self, changes: usize, took: Duration, outcomes: &[Outcome]) {
        let merged = outcomes.iter().map(|outcome| match outcome {
            Outcome::Merged { winners, .. } => winners.len(),
            Outcome::Refused { .. } | Outcome::OverQuota(_) => 0,
        });
        let won: usize = merged.sum();
        self.won.inc_by(won as u64);
        self.lost.inc_by(changes.saturating_sub(won) as u64);
        self.commit_changes.observe(changes as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// The whole of it as Prometheus text, with the `max_channels` busiest channels of all shards one by one, and at
    /// most as many that are unavailable. `silent` shards are not among them.
    pub fn encode(&self, now: Now) -> Result<String, std::fmt::Error> {
        let Now { shards, silent, max_channels: max, ready, queue_bytes, pages_reading } = now;
        let _alone = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&ShardStats) -> usize| shards.iter().map(of).sum::<usize>() as i64;
        self.channels.set(sum(|s| s.channels));
        self.open_stores.set(sum(|s| s.open_stores));
        self.outbox_bytes.set(sum(|s| s.outbox_bytes));
        self.lagging.set(sum(|s| s.lagging));
        self.pulls.set(sum(|s| s.pulls));
        self.silent_shards.set(silent as i64);
        self.ready.set(i64::from(ready));
        self.queue_bytes.set(queue_bytes as i64);
        self.pages_reading.set(pages_reading as i64);
        self.allocator.set(self.allocated.get().map_or(0, |committed_bytes| committed_bytes() as i64));
        for (using, gauge) in [Use::Write, Use::Read].into_iter().zip(&self.unavailable_now) {
            gauge.set(self.unavailable.count(using) as i64);
        }
        let mut busiest: Vec<_> = shards.into_iter().flat_map(|s| s.busiest).collect();
        ChannelStats::keep_busiest(&mut busiest, max);
        self.channel_connections.clear();
        self.channel_version.clear();
        self.channel_lag.clear();
        for ChannelStats { name, connections, version, lag } in busiest {
            let label = ChannelLabel { channel: name };
            self.channel_connections.get_or_create(&label).set(connections as i64);
            self.channel_version.get_or_create(&label).set(version);
            self.channel_lag.get_or_create(&label).set(lag);
        }
        self.channel_unavailable.clear();
        for (channel, using) in self.unavailable.list(max) {
            let label = UseLabel { channel: channel.into(), to: using.as_str() };
            self.channel_unavailable.get_or_create(&label).set(1);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
