//! What is counted of the bus. Without one, all of it stays 0.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{NodeLabel, OutcomeLabel, ReasonLabel, RepairLabel};
use super::register::{byte_gauge, counter, gauge};

/// Why messages of others were not heard: the names of `bus::message::Unheard`, and what has no room.
const IGNORED: [&str; 7] =
    ["malformed", "too_large", "other_protocol", "namesake", "too_many_nodes", "no_room", "unknown_change"];

/// Why repairs are wanted: the names of `bus::repair::Cause`.
const CAUSES: [&str; 2] = ["behind", "differs"];

/// How repairs end.
const OUTCOMES: [&str; 4] = ["done", "needless", "failed", "timeout"];

/// How it ends that a channel is compared as a client comes.
const OPENINGS: [&str; 3] = ["caught_up", "timeout", "unheard"];

/// See the module.
#[derive(Clone, Debug)]
pub struct BusMetrics {
    enabled: Gauge,
    up: Gauge,
    queue: Gauge,
    repairs_running: Gauge,
    repairs_wanted: Gauge,
    published: Counter,
    heard: Counter,
    dropped: Counter,
    gaps: Counter,
    pages: Counter,
    ignored: Family<ReasonLabel, Counter>,
    repairs: Family<RepairLabel, Counter>,
    openings: Family<OutcomeLabel, Counter>,
    nodes: Gauge,
    lag_seconds: Family<NodeLabel, Gauge<f64, AtomicU64>>,
    lag_versions: Family<NodeLabel, Gauge>,
}

impl BusMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let ignored = Family::<ReasonLabel, Counter>::default();
        r.register("bus_ignored", "Messages on the bus that were not heard, by reason", ignored.clone());
        let repairs = Family::<RepairLabel, Counter>::default();
        r.register(
            "bus_repairs",
            "Repairs of a channel with another node, by cause and outcome",
            repairs.clone(),
        );
        let openings = Family::<OutcomeLabel, Counter>::default();
        r.register(
            "bus_openings",
            "Channels that were compared as a client came, by outcome",
            openings.clone(),
        );
        let (lag_seconds, lag_versions) = (Family::default(), Family::default());
        let help = "For how long a node has not confirmed something that was published";
        r.register_with_unit("bus_replicated_lag", help, Unit::Seconds, lag_seconds.clone());
        let help = "Versions that a node has not confirmed, of the channel with the most";
        r.register("bus_replicated_lag_versions", help, lag_versions.clone());
        IGNORED.iter().for_each(|reason| drop(ignored.get_or_create(&ReasonLabel { reason })));
        for cause in CAUSES {
            OUTCOMES.iter().for_each(|outcome| drop(repairs.get_or_create(&RepairLabel { cause, outcome })));
        }
        OPENINGS.iter().for_each(|outcome| drop(openings.get_or_create(&OutcomeLabel { outcome })));
        BusMetrics {
            enabled: gauge(r, "bus_enabled", "1 if this server is a node of a cluster"),
            up: gauge(r, "bus_up", "1 if other nodes can be told and heard"),
            queue: byte_gauge(r, "bus_queue", "What waits to be published"),
            repairs_running: gauge(r, "bus_repairs_running", "Repairs that are under way"),
            repairs_wanted: gauge(
                r,
                "bus_repairs_wanted",
                "Repairs that wait for others, or to be tried again",
            ),
            published: counter(r, "bus_published", "Messages published to other nodes"),
            heard: counter(r, "bus_heard", "Messages heard of other nodes"),
            dropped: counter(r, "bus_dropped", "Messages that were not published, as Redis was slow or down"),
            gaps: counter(r, "bus_gaps", "Signs that something of another node is missing"),
            pages: counter(r, "bus_pages", "Pages that were read for other nodes"),
            ignored,
            repairs,
            openings,
            nodes: gauge(r, "bus_nodes", "Other nodes that are heard"),
            lag_seconds,
            lag_versions,
        }
    }

    /// This server is a node of a cluster.
    pub fn enabled(&self) {
        self.enabled.set(1);
    }

    /// Whether other nodes can be heard, how much waits, and how many repairs there are.
    pub fn now(&self, up: bool, queue_bytes: usize, wanted: usize, running: usize) {
        self.up.set(up.into());
        self.queue.set(queue_bytes as i64);
        self.repairs_wanted.set(wanted as i64);
        self.repairs_running.set(running as i64);
    }

    /// How many other nodes are heard, and how far each of those that are counted on is behind.
    pub fn nodes<'n>(&self, live: usize, lags: impl Iterator<Item = (&'n str, (Duration, u64))>) {
        self.nodes.set(live as i64);
        // Of nodes that are forgotten nothing is to stay.
        self.lag_seconds.clear();
        self.lag_versions.clear();
        for (node, (time, versions)) in lags {
            let label = NodeLabel { node: node.to_owned() };
            self.lag_seconds.get_or_create(&label).set(time.as_secs_f64());
            self.lag_versions.get_or_create(&label).set(versions as i64);
        }
    }

    /// Messages were published.
    pub fn published(&self, messages: usize) {
        self.published.inc_by(messages as u64);
    }

    /// Messages were dropped that should have been published.
    pub fn dropped_outgoing(&self, messages: usize) {
        self.dropped.inc_by(messages as u64);
    }

    /// A message was heard.
    pub fn heard(&self) {
        self.heard.inc();
    }

    /// A message was not.
    pub fn ignored(&self, reason: &'static str) {
        self.ignored.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Something is missing.
    pub fn gap(&self) {
        self.gaps.inc();
    }

    /// A page was read for another node.
    pub fn page(&self) {
        self.pages.inc();
    }

    /// A repair has come to its end, or to nothing.
    pub fn repair(&self, cause: &'static str, outcome: &'static str) {
        self.repairs.get_or_create(&RepairLabel { cause, outcome }).inc();
    }

    /// A channel that a client came for was compared with other nodes.
    pub fn opening(&self, outcome: &'static str) {
        self.openings.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
