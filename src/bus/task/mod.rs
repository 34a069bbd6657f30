//! The bus's own task: hears messages, brings what they carry to the shards, compares, repairs, and says how channels stand.
//!
//! | file | what it does |
//! | --- | --- |
//! | this one | the loop: what is heard, what is due, what was done elsewhere |
//! | `merge` | changes, to their shard |
//! | `compare` | how channels stand there and here, and what follows |
//! | `repairing` | repairs, page by page |
//! | `serve` | pages for other nodes |
//! | `tell` | heartbeats, and the walk over all channels |
//! | `opening` | channels that somebody comes for |
//!
//! It is the only one that decides, and never waits for a disk or a shard: what takes time is done elsewhere, and comes back as
//! an `Event`. There are as many of those under way as repairs, pages and lists of states, each of which is bounded.

mod compare;
mod merge;
mod opening;
mod repairing;
mod serve;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_storage::{ChangeStore, StoreError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::facts::Facts;
use super::hub::{Hub, Missed, Opened};
use super::mailbox::Mailbox;
use super::message::{Body, Message, Pull, State, Topic, Unheard};
use super::peers::{PeerLimits, Peers, Sender};
use super::random::{Random, seed};
use super::repair::{Cause, Key, RepairLimits, Repairs, Want};
use crate::config::Config;
use crate::page::PageLimits;
use crate::relay::Relay;
use compare::Comparing;
use opening::Openings;
use serve::Serving;
use tell::Telling;

/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(20);

/// How long a sign that a repair is needed may resolve itself, in milliseconds: what is missing may be on its way.
const REPAIR_DELAY_MS: u64 = 40;

/// Messages that are heard before what is due is looked for again, in bytes.
const HEARD_AT_ONCE_BYTES: usize = 64 << 10;

/// What bounds the task.
#[derive(Clone, Copy, Debug)]
pub struct TaskLimits {
    repair: RepairLimits,
    peers: PeerLimits,
    page: PageLimits,
    heartbeat_ms: u64,
    walk_ms: u64,
    catch_up_ms: u64,
    max_message_bytes: usize,
    /// Channels of which something is remembered.
    max_remembered: usize,
    /// Lists of states, and questions, that wait, of each kind.
    max_waiting: usize,
    /// Pages that are read at once for other nodes.
    max_serving: usize,
}

impl From<&Config> for TaskLimits {
    fn from(config: &Config) -> Self {
        TaskLimits {
            repair: RepairLimits {
                max_wanted: config.cluster_remembered_channels,
                max_running: config.cluster_repairs,
                timeout_ms: config.cluster_page_timeout_ms,
                delay_ms: REPAIR_DELAY_MS,
            },
            peers: PeerLimits {
                heartbeat_ms: config.cluster_heartbeat_ms,
                forget_ms: config.cluster_forget_s * 1_000,
                max: config.cluster_max_nodes,
            },
            page: PageLimits { max_bytes: config.page_max_bytes, max_changes: config.page_max_changes },
            heartbeat_ms: config.cluster_heartbeat_ms,
            walk_ms: config.cluster_walk_s * 1_000,
            catch_up_ms: config.catch_up_timeout_ms,
            // One client's message is a message here, whatever its size, and escapes may make it longer.
            max_message_bytes: config.bus_inbox_bytes.max(2 * config.max_message_bytes),
            max_remembered: config.cluster_remembered_channels,
            max_waiting: config.cluster_waiting,
            max_serving: config.cluster_page_readers,
        }
    }
}

/// See the module.
pub struct Task {
    hub: Arc<Hub>,
    relay: Arc<Relay>,
    store: Arc<dyn ChangeStore>,
    inbox: Arc<Mailbox>,
    limits: TaskLimits,
    peers: Peers,
    repairs: Repairs,
    comparing: Comparing,
    serving: Serving,
    telling: Telling,
    openings: Openings,
    random: Random,
    started: Instant,
    events: mpsc::UnboundedSender<Event>,
    happened: mpsc::UnboundedReceiver<Event>,
}

/// What was done elsewhere.
enum Event {
    /// What a repair begins with.
    Looked { id: u64, key: Key, want: Want, facts: Result<Facts, StoreError> },
    /// What states are compared with.
    Compared { node: Arc<str>, ask: bool, list: Vec<(State, Result<Facts, StoreError>)> },
    /// A page is durable, or was not merged.
    Merged { id: u64, key: Key, site_id: Arc<str>, complete: u64, merged: bool },
    /// A page was read.
    Served { node: Arc<str>, pull: Pull, page: Result<Bytes, StoreError> },
    /// All names.
    Names(Result<Vec<String>, StoreError>),
    /// The states of the next channels of a walk.
    Walked(Vec<State>),
    /// States to be told to all.
    Tell(Vec<State>),
    /// A channel that was repaired, to be told to the node that it was repaired with.
    Stands { node: Arc<str>, states: Vec<State> },
    /// The states of channels that somebody has come for.
    Opened(Vec<State>),
    /// What such a channel has heard of other nodes after its repairs.
    CaughtUp { channel: Arc<str>, facts: Result<Facts, StoreError> },
}

impl Task {
    /// A task that hears what comes in `inbox`.
    pub fn new(
        hub: Arc<Hub>,
        relay: Arc<Relay>,
        store: Arc<dyn ChangeStore>,
        inbox: Arc<Mailbox>,
        limits: TaskLimits,
    ) -> Self {
        let (events, happened) = mpsc::unbounded_channel();
        let seed = seed();
        Task {
            hub,
            relay,
            store,
            inbox,
            limits,
            peers: Peers::new(limits.peers),
            repairs: Repairs::new(limits.repair, seed),
            comparing: Comparing::default(),
            serving: Serving::default(),
            telling: Telling::default(),
            openings: Openings::default(),
            random: Random::new(seed),
            started: Instant::now(),
            events,
            happened,
        }
    }

    /// Runs for ever; `connected` has a word each time Redis is there again, `opened` the channels that somebody comes for.
    pub async fn run(
        mut self,
        mut connected: mpsc::Receiver<()>,
        mut opened: mpsc::UnboundedReceiver<Opened>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                Some(()) = connected.recv() => self.connected(),
                Some(first) = opened.recv() => {
                    let rest = std::iter::from_fn(|| opened.try_recv().ok());
                    self.open(std::iter::once(first).chain(rest));
                }
                Some(event) = self.happened.recv() => self.happened(event),
                () = self.inbox.arrived(), if self.inbox.bytes() == 0 => {}
                // The rest of this thread has its turn between: the connections above all.
                () = tokio::task::yield_now(), if self.inbox.bytes() > 0 => {
                    for (_, bytes) in self.inbox.take(HEARD_AT_ONCE_BYTES) {
                        self.hear(bytes);
                    }
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Publishes; what has no room is dropped, and said again by the next digest.
    fn say(&self, topic: Topic, message: Bytes) {
        if !self.hub.is_up() || !self.hub.outgoing.push(topic, message) {
            self.hub.metrics.dropped_outgoing(1);
        }
    }

    /// Does what blocks on a thread of its own.
    fn elsewhere(&self, work: impl FnOnce() -> Event + Send + 'static) {
        let events = self.events.clone();
        drop(tokio::task::spawn_blocking(move || {
            // The task may have ended.
            let _ = events.send(work());
        }));
    }

    /// Redis is there again: whatever was said meanwhile is found out by comparing.
    fn connected(&mut self) {
        self.say(Topic::All, self.hub.identity.hello());
        self.telling.all();
        self.openings.greet(self.now_ms());
    }

    /// Does what is due.
    fn tick(&mut self) {
        let now_ms = self.now_ms();
        for Missed { channel, node, site_id, version } in self.hub.take_missed() {
            let want = Want { cause: Cause::Behind, site_id, version, digest: None };
            self.repairs.want(Key { channel, node }, want, false, now_ms);
        }
        self.repair(now_ms);
        self.tell(now_ms);
        self.late_openings(now_ms);
        let (wanted, running) = self.repairs.counts();
        self.hub.metrics.now(self.hub.is_up(), self.hub.outgoing.bytes(), wanted, running);
    }

    fn hear(&mut self, bytes: Bytes) {
        // Nobody else holds it, so nothing is copied.
        let mut bytes = Vec::from(bytes);
        match self.hub.identity.decode(&mut bytes, self.limits.max_message_bytes) {
            Ok(message) => self.heard(message),
            Err(Unheard::Own) => {}
            Err(unheard) => {
                self.hub.metrics.ignored(unheard.as_str());
                if matches!(unheard, Unheard::OtherProtocol { .. })
                    && self.peers.is_news(&unheard.to_string())
                {
                    tracing::error!("{unheard}: it is not believed, and the two will differ");
                } else {
                    tracing::debug!("{unheard}");
                }
            }
        }
    }

    fn heard(&mut self, Message { node, boot, body }: Message) {
        if node == self.hub.identity.node {
            self.hub.metrics.ignored("namesake");
            if self.peers.is_news(&boot) {
                tracing::error!(%node, "another server has this node's name (`node`): neither believes the other");
            }
            return;
        }
        match self.peers.heard(&node, &boot, self.now_ms()) {
            Sender::Known => {}
            Sender::New => {
                tracing::info!(%node, "heard of a node that has started");
                self.listen();
            }
            Sender::TooMany => {
                self.hub.metrics.ignored("too_many_nodes");
                if self.peers.is_news(&node) {
                    tracing::error!(%node, "a node too many (`cluster_max_nodes`): it is not heard");
                }
                return;
            }
        }
        self.hub.metrics.heard();
        match body {
            Body::Hello => {
                // So that it knows whom to hear.
                self.say(Topic::Node(node), self.hub.identity.states([], false));
                self.telling.all();
            }
            Body::Bye => self.peers.silent(&node),
            Body::States { states, ask } => self.compare(node, states, ask),
            Body::Update { channel, from, update } => self.update(Key { channel, node }, from, update),
            Body::Pull(pull) => self.asked(node, pull),
            Body::Page(page) => self.page(node, *page),
        }
    }

    /// Hears what the nodes publish that are there, and publishes for them.
    fn listen(&self) {
        let listening = self.peers.listening(self.now_ms());
        self.hub.others().send_if_modified(|others| {
            let has_changed = *others != listening;
            *others = listening;
            has_changed
        });
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Looked { id, key, want, facts } => self.looked(id, key, want, facts),
            Event::Compared { node, ask, list } => self.compared_list(node, ask, list),
            Event::Merged { id, key, site_id, complete, merged } => {
                self.merged(id, key, site_id, complete, merged);
            }
            Event::Served { node, pull, page } => self.served(node, pull, page),
            Event::Names(names) => self.named(names),
            Event::Walked(states) => self.walked(&states),
            Event::Tell(states) => self.tell_states(&states),
            Event::Stands { node, states } => {
                if !states.is_empty() {
                    self.say(Topic::Node(node), self.hub.identity.states(&states, false));
                }
            }
            Event::Opened(states) => self.opened(&states),
            Event::CaughtUp { channel, facts } => self.caught_up(channel, facts),
        }
    }
}
