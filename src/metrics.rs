//! What the server counts, and `/metrics`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use causeway_storage::{Outcome, StoreError};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::limits::Limit;
use crate::protocol::Code;
use crate::unavailable::{Unavailable, Use};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UseLabel {
    channel: String,
    to: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ChannelLabel {
    channel: String,
}

/// A channel as `/metrics` shows it.
#[derive(Clone, Debug)]
pub struct ChannelStats {
    /// Its name.
    pub name: String,
    /// Its connections.
    pub connections: usize,
    /// Its version.
    pub version: u64,
    /// How many versions its slowest client has yet to be sent.
    pub lag: u64,
}

impl ChannelStats {
    /// Keeps the `max` with the most connections.
    pub fn keep_busiest(stats: &mut Vec<ChannelStats>, max: usize) {
        stats.sort_unstable_by(|a, b| b.connections.cmp(&a.connections).then_with(|| a.name.cmp(&b.name)));
        stats.truncate(max);
    }
}

/// What a shard says of itself.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Channels with a follower.
    pub channels: usize,
    /// Channels whose store is open.
    pub open_stores: usize,
    /// Bytes in all outboxes.
    pub outbox_bytes: usize,
    /// Connections whose updates are left to pages.
    pub lagging: usize,
    /// The channels with the most followers.
    pub busiest: Vec<ChannelStats>,
}

/// Everything that is counted as it happens. What can be asked for when it is wanted (outboxes, lag) is not kept here.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Gauge,
    connections_total: Counter,
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

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("causeway");
        let r = &mut registry;
        let messages = Family::<TypeLabel, Counter>::default();
        r.register("messages_received", "Messages from clients, by type", messages.clone());
        let messages_out = Family::<TypeLabel, Counter>::default();
        r.register("messages_sent", "Messages handed to connections, by type", messages_out.clone());
        let errors = Family::<CodeLabel, Counter>::default();
        r.register("errors", "Errors answered, by code", errors.clone());
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
        let outcome = |outcome| merged.get_or_create(&OutcomeLabel { outcome }).clone();
        let message = |r#type| messages.get_or_create(&TypeLabel { r#type }).clone();
        let sent = |r#type| messages_out.get_or_create(&TypeLabel { r#type }).clone();
        Metrics {
            connections: gauge(r, "connections", "Open WebSocket connections"),
            connections_total: counter(r, "connections_opened", "WebSocket connections opened"),
            messages_in: [message("update"), message("pull"), message("auth")],
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
            registry,
        }
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn byte_counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
    counter
}

fn family<M>(registry: &mut Registry, name: &str, help: &str) -> Family<ChannelLabel, M>
where
    M: Default
        + std::fmt::Debug
        + prometheus_client::encoding::EncodeMetric
        + prometheus_client::metrics::TypedMetric
        + Send
        + Sync
        + 'static,
{
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: impl Iterator<Item = f64>,
    unit: Option<Unit>,
) -> Histogram {
    let histogram = Histogram::new(buckets);
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, histogram.clone()),
        None => registry.register(name, help, histogram.clone()),
    }
    histogram
}

impl Metrics {
    /// A connection is open.
    pub fn connected(&self) {
        self.connections.inc();
        self.connections_total.inc();
    }

    /// A connection is closed.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or(0)
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

    /// The whole of it as Prometheus text, with the `max` busiest channels of all shards one by one, and at
    /// most `max` that are unavailable. `silent` shards are not among them.
    pub fn encode(
        &self,
        shards: Vec<ShardStats>,
        silent: usize,
        max: usize,
    ) -> Result<String, std::fmt::Error> {
        let sum = |of: fn(&ShardStats) -> usize| shards.iter().map(of).sum::<usize>() as i64;
        self.channels.set(sum(|s| s.channels));
        self.open_stores.set(sum(|s| s.open_stores));
        self.outbox_bytes.set(sum(|s| s.outbox_bytes));
        self.lagging.set(sum(|s| s.lagging));
        self.silent_shards.set(silent as i64);
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
