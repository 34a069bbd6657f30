//! What is counted of the bus. Without one, all of it stays 0.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{OutcomeLabel, ReasonLabel};
use super::register::{byte_gauge, counter, gauge};

/// Why messages of others were not heard: the names of `bus::message::Unheard`, and what has no room.
const IGNORED: [&str; 7] =
    ["malformed", "too_large", "other_protocol", "other_schema", "namesake", "no_room", "unknown_change"];

/// How repairs end.
const OUTCOMES: [&str; 4] = ["done", "needless", "failed", "timeout"];

/// See the module.
#[derive(Clone, Debug)]
pub struct BusMetrics {
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
    repairs: Family<OutcomeLabel, Counter>,
}

impl BusMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let ignored = Family::<ReasonLabel, Counter>::default();
        r.register("bus_ignored", "Messages on the bus that were not heard, by reason", ignored.clone());
        let repairs = Family::<OutcomeLabel, Counter>::default();
        r.register("bus_repairs", "Repairs of a channel with another node, by outcome", repairs.clone());
        IGNORED.iter().for_each(|reason| drop(ignored.get_or_create(&ReasonLabel { reason })));
        OUTCOMES.iter().for_each(|outcome| drop(repairs.get_or_create(&OutcomeLabel { outcome })));
        BusMetrics {
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
        }
    }

    /// Whether other nodes can be heard.
    pub fn up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// How much waits, and how many repairs there are.
    pub fn now(&self, queue_bytes: usize, wanted: usize, running: usize) {
        self.queue.set(queue_bytes as i64);
        self.repairs_wanted.set(wanted as i64);
        self.repairs_running.set(running as i64);
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
    pub fn repair(&self, outcome: &'static str) {
        self.repairs.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
