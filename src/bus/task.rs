//! The bus's own task: hears messages, brings what they carry to the shards, compares, repairs, and says how channels stand.
//!
//! It is the only one that decides, and never waits for a disk or a shard: what takes time is done elsewhere, and comes back as
//! an [`Event`]. There are as many of those under way as repairs, pages and lists of states, each of which is bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_storage::{ChangeStore, Position, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::facts::{self, Facts};
use super::hub::{Active, Hub, Missed};
use super::mailbox::Mailbox;
use super::message::{Body, MAX_CHANNELS, Message, Page, PageFacts, Pull, State, Topic, Unheard};
use super::random::Random;
use super::repair::{Cause, Key, RepairLimits, Repairs, Want};
use crate::config::Config;
use crate::fanout::{Pending, Sender};
use crate::page::PageLimits;
use crate::protocol::decode::MAX_INTEGER;
use crate::protocol::{self, Incoming, IncomingUpdate};
use crate::relay::Relay;
use crate::shard::Job;

/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(20);

/// How long a sign that a repair is needed may resolve itself, in milliseconds: what is missing may be on its way.
const REPAIR_DELAY_MS: u64 = 40;

/// The most repairs that are wanted at once. What is dropped beyond it, the next digest shows.
const MAX_WANTED: usize = 100_000;

/// Pages that are asked for and wait to be read.
const MAX_PULLS: usize = 1_024;

/// Pages that are read at once for other nodes.
const MAX_SERVING: usize = 2;

/// Messages of states that wait to be compared with the store.
const MAX_LISTS: usize = 1_024;

/// Channels of which something is remembered from one digest to the next.
const MAX_REMEMBERED: usize = 200_000;

/// Nodes of which something is remembered.
const MAX_NODES: usize = 1_024;

/// Messages that are heard before what is due is looked for again.
const MAX_RUN: usize = 64;

/// What bounds the task.
#[derive(Clone, Copy, Debug)]
pub struct TaskLimits {
    repair: RepairLimits,
    page: PageLimits,
    heartbeat_ms: u64,
    max_message_bytes: usize,
}

impl From<&Config> for TaskLimits {
    fn from(config: &Config) -> Self {
        TaskLimits {
            repair: RepairLimits {
                max_wanted: MAX_WANTED,
                max_running: config.cluster_repairs,
                timeout_ms: config.cluster_page_timeout_ms,
                delay_ms: REPAIR_DELAY_MS,
            },
            page: PageLimits { max_bytes: config.page_max_bytes, max_changes: config.page_max_changes },
            heartbeat_ms: config.cluster_heartbeat_ms,
            // One client's message is a message here, whatever its size, and escapes may make it longer.
            max_message_bytes: config.bus_inbox_bytes.max(2 * config.max_message_bytes),
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
    repairs: Repairs,
    random: Random,
    started: Instant,
    events: mpsc::UnboundedSender<Event>,
    happened: mpsc::UnboundedReceiver<Event>,
    /// The last start of each node, and those of its name's doubles.
    nodes: HashMap<Arc<str>, Box<str>>,
    /// Whom the log has named.
    told_of: HashSet<Box<str>>,
    /// The channel's site id at the peer that a repair is wanted of.
    site_ids: HashMap<Key, Arc<str>>,
    /// The peer's version at which a channel was the same here and there.
    agreed: HashMap<Pair, u64>,
    /// How a channel that differs stood at the last digest: there, and here.
    differed: HashMap<Key, (State, u64)>,
    /// Lists of states that wait to be compared, and whether one is being read for.
    lists: VecDeque<(Arc<str>, Vec<State>)>,
    comparing: bool,
    pulls: VecDeque<(Arc<str>, Pull)>,
    serving: usize,
    walk: Walk,
    heartbeat_ms: u64,
}

/// A channel, its site id here, and its site id at a peer.
type Pair = (Arc<str>, Arc<str>, Arc<str>);

/// The walk over all channels of the store, to tell other nodes of them.
#[derive(Debug, Default)]
struct Walk {
    wanted: bool,
    under_way: bool,
    names: Vec<String>,
}

/// What was done elsewhere.
enum Event {
    /// What a repair begins with.
    Looked { id: u64, key: Key, want: Want, facts: Result<Facts, StoreError> },
    /// What states are compared with.
    Compared { node: Arc<str>, list: Vec<(State, Result<Facts, StoreError>)> },
    /// A page is durable, or was not merged.
    Merged {
        id: u64,
        key: Key,
        site_id: Arc<str>,
        next: Position,
        complete: u64,
        is_last: bool,
        merged: bool,
    },
    /// A page was read.
    Served { node: Arc<str>, page: Result<Bytes, StoreError> },
    /// All names.
    Names(Result<Vec<String>, StoreError>),
    /// The states of the next channels of a walk.
    Walked(Vec<State>),
    /// Those of channels that differ.
    Differing(Vec<State>),
    /// A channel that was repaired, to be told to the node that it was repaired with.
    Stands { node: Arc<str>, state: Option<State> },
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
        let seed = super::redis::seed();
        Task {
            hub,
            relay,
            store,
            inbox,
            limits,
            repairs: Repairs::new(limits.repair, seed),
            random: Random::new(seed),
            started: Instant::now(),
            events,
            happened,
            nodes: HashMap::new(),
            told_of: HashSet::new(),
            site_ids: HashMap::new(),
            agreed: HashMap::new(),
            differed: HashMap::new(),
            lists: VecDeque::new(),
            comparing: false,
            pulls: VecDeque::new(),
            serving: 0,
            walk: Walk::default(),
            heartbeat_ms: 0,
        }
    }

    /// Runs for ever; `connected` has a word each time Redis is there again.
    pub async fn run(mut self, mut connected: mpsc::Receiver<()>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                Some(()) = connected.recv() => {
                    self.say(Topic::All, self.hub.identity.hello());
                    self.walk.wanted = true;
                }
                Some(event) = self.happened.recv() => self.happened(event),
                () = self.inbox.arrived() => {}
            }
            loop {
                let batch = self.inbox.take(1);
                let Some((_, bytes)) = batch.into_iter().next() else { break };
                self.hear(bytes);
                let mut run = 0;
                while let Ok(event) = self.happened.try_recv() {
                    self.happened(event);
                    run += 1;
                    if run == MAX_RUN {
                        break;
                    }
                }
                // Others of this thread have their turn: the connections above all.
                tokio::task::yield_now().await;
                if self.now_ms() > self.heartbeat_ms {
                    self.tick();
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

    /// Does what is due.
    fn tick(&mut self) {
        let now_ms = self.now_ms();
        let up = self.hub.is_up();
        self.hub.metrics.up(up);
        for Missed { channel, node, site_id, version } in self.hub.take_missed() {
            self.want(Key { channel, node }, site_id, Cause::Behind, version);
        }
        for _ in 0..self.repairs.expire(now_ms) {
            self.hub.metrics.repair("timeout");
        }
        if up {
            while let Some((id, key, want)) = self.repairs.start(now_ms) {
                let site_id = self.site_ids.get(&key).cloned().unwrap_or_else(|| "".into());
                let store = self.store.clone();
                self.elsewhere(move || {
                    let facts = facts::read(store.as_ref(), &key.channel, &site_id);
                    Event::Looked { id, key, want, facts }
                });
            }
        }
        self.walk();
        if now_ms >= self.heartbeat_ms {
            self.heartbeat_ms = now_ms + self.random.around(self.limits.heartbeat_ms);
            let states = self.hub.active_states(Duration::from_millis(4 * self.limits.heartbeat_ms));
            for states in states.chunks(MAX_CHANNELS) {
                self.say(Topic::All, self.hub.identity.states(states));
            }
            self.tell_of_differing(&states);
        }
        let (wanted, running) = self.repairs.counts();
        if self.site_ids.len() > 2 * (wanted + running) + MAX_RUN {
            self.site_ids.retain(|key, _| self.repairs.has(key));
        }
        self.hub.metrics.now(self.hub.outgoing.bytes(), wanted, running);
    }

    /// Tells of channels that differ and are not in use: the second digest is what tells a difference from a delay.
    fn tell_of_differing(&self, told: &[State]) {
        let told: HashSet<&Arc<str>> = told.iter().map(|state| &state.channel).collect();
        let differing: HashSet<_> =
            self.differed.keys().map(|key| &key.channel).filter(|channel| !told.contains(channel)).collect();
        if differing.is_empty() {
            return;
        }
        let channels: Vec<Arc<str>> = differing.into_iter().take(MAX_CHANNELS).cloned().collect();
        let (store, hub) = (self.store.clone(), self.hub.clone());
        self.elsewhere(move || {
            let state = |channel: Arc<str>| facts::state(store.as_ref(), &hub, &channel).unwrap_or_default();
            Event::Differing(channels.into_iter().filter_map(state).collect())
        });
    }

    /// Does what blocks on a thread of its own.
    fn elsewhere(&self, work: impl FnOnce() -> Event + Send + 'static) {
        let events = self.events.clone();
        drop(tokio::task::spawn_blocking(move || {
            // The task may have ended.
            let _ = events.send(work());
        }));
    }

    fn want(&mut self, key: Key, site_id: Arc<str>, cause: Cause, version: u64) {
        let now_ms = self.now_ms();
        if self.repairs.want(key.clone(), cause, version, now_ms) {
            self.site_ids.insert(key, site_id);
        }
    }

    fn hear(&mut self, bytes: Bytes) {
        // Nobody else holds it, so nothing is copied.
        let mut bytes = Vec::from(bytes);
        match self.hub.identity.decode(&mut bytes, self.limits.max_message_bytes) {
            Ok(message) => self.heard(message),
            Err(Unheard::Own) => {}
            Err(unheard) => {
                self.hub.metrics.ignored(unheard.as_str());
                match &unheard {
                    Unheard::OtherProtocol { node, .. } | Unheard::OtherSchema { node } => {
                        if self.told_of.len() < MAX_NODES && self.told_of.insert(format!("{unheard}").into())
                        {
                            tracing::error!(
                                "{unheard}: it is not believed, and the two do not agree: {node}"
                            );
                        }
                    }
                    _ => tracing::debug!("{unheard}"),
                }
            }
        }
    }

    fn heard(&mut self, Message { node, boot, body }: Message) {
        if node == self.hub.identity.node {
            self.hub.metrics.ignored("namesake");
            if self.told_of.len() < MAX_NODES && self.told_of.insert(boot) {
                tracing::error!(%node, "another server has this node's name (`node`): neither believes the other");
            }
            return;
        }
        if self.nodes.get(&node) != Some(&boot)
            && (self.nodes.len() < MAX_NODES || self.nodes.contains_key(&node))
        {
            tracing::info!(%node, "heard of a node that has started");
            self.nodes.insert(node.clone(), boot);
        }
        self.hub.metrics.heard();
        match body {
            Body::Hello => self.walk.wanted = true,
            Body::States(states) => self.compare(node, states),
            Body::Update { channel, from, update } => {
                let (site_id, version): (Arc<str>, _) = (update.site_id().into(), update.version);
                let key = Key { channel, node };
                if !self.merge(&key, from, update, None) {
                    self.want(key, site_id, Cause::Behind, version);
                }
            }
            Body::Pull(pull) => {
                if self.pulls.len() < MAX_PULLS {
                    self.pulls.push_back((node, pull));
                    self.serve();
                } else {
                    self.hub.metrics.ignored("no_room");
                }
            }
            Body::Page(page) => self.page(node, *page),
        }
    }

    /// Brings changes to their shard; `false` if they are not taken.
    fn merge(
        &self,
        key: &Key,
        from: u64,
        update: Box<IncomingUpdate>,
        merged: Option<oneshot::Sender<()>>,
    ) -> bool {
        let update = match &self.relay.schema {
            None => update,
            Some(schema) => match protocol::check(Incoming::Update(update), schema) {
                Ok(Incoming::Update(update)) => update,
                Ok(_) => return false,
                Err(refusal) => {
                    self.hub.metrics.ignored("unknown_change");
                    let (channel, node) = (&key.channel, &key.node);
                    tracing::debug!(%channel, %node, %refusal, "a node's changes do not fit the schema");
                    return false;
                }
            },
        };
        let shard = self.relay.shards.of(&key.channel);
        let Some(permit) = shard.try_reserve(update.memory_bytes()) else {
            self.hub.metrics.ignored("no_room");
            return false;
        };
        let sender = Sender::Node { node: key.node.clone(), from, merged };
        let pending = Pending { sender, update, received: Instant::now() };
        shard.send(Job::Update { channel: key.channel.clone(), pending, permit });
        true
    }

    /// Compares states with what is here: with what shards have told lately, else with the store.
    fn compare(&mut self, node: Arc<str>, states: Vec<State>) {
        let mut rest = Vec::new();
        for state in states {
            let Some(Active { state: own, heard, .. }) = self.hub.active(&state.channel) else {
                rest.push(state);
                continue;
            };
            let agreed = (state.channel.clone(), own.site_id.clone(), state.site_id.clone());
            let heard = match heard {
                Some(heard) => heard.of(&state.site_id),
                None if self.agreed.get(&agreed).is_some_and(|version| *version >= state.version) => {
                    state.version
                }
                None => {
                    rest.push(state);
                    continue;
                }
            };
            let facts = Facts { site_id: Some(own.site_id), version: own.version, digest: own.digest, heard };
            self.compared(node.clone(), state, facts);
        }
        if rest.is_empty() {
            return;
        }
        if self.lists.len() >= MAX_LISTS {
            self.hub.metrics.ignored("no_room");
            return;
        }
        self.lists.push_back((node, rest));
        self.compare_next();
    }

    fn compare_next(&mut self) {
        if self.comparing {
            return;
        }
        let Some((node, states)) = self.lists.pop_front() else { return };
        self.comparing = true;
        let store = self.store.clone();
        self.elsewhere(move || {
            let look = |state: State| {
                let facts = facts::read(store.as_ref(), &state.channel, &state.site_id);
                (state, facts)
            };
            Event::Compared { node, list: states.into_iter().map(look).collect() }
        });
    }

    fn compared(&mut self, node: Arc<str>, state: State, facts: Facts) {
        let key = Key { channel: state.channel.clone(), node };
        if facts.digest == state.digest {
            self.differed.remove(&key);
            let Some(own) = facts.site_id else { return };
            self.agree(&key, own, state.site_id.clone(), state.version);
            if state.version > facts.heard && state.version > 0 {
                // Noted with the channel, so that the next gap is seen for what it is.
                self.merge(&key, 0, IncomingUpdate::empty(&state.site_id, state.version), None);
            }
            return;
        }
        if state.published > facts.heard {
            let (site_id, published) = (state.site_id.clone(), state.published);
            self.want(key, site_id, Cause::Behind, published);
            return;
        }
        // All that its clients did is here, and yet it has something else: another node's, or less than this one. While either
        // changes it may be on its way.
        let was = self.differed.get(&key);
        if was.is_some_and(|(there, here)| *there == state && *here == facts.version) {
            self.want(key, state.site_id.clone(), Cause::Differs, state.version);
        } else if self.differed.len() < MAX_REMEMBERED || was.is_some() {
            self.differed.insert(key, (state, facts.version));
        }
    }

    fn agree(&mut self, key: &Key, own: Arc<str>, theirs: Arc<str>, version: u64) {
        if self.agreed.len() >= MAX_REMEMBERED {
            // What is forgotten is read again from its beginning, should it ever differ.
            self.agreed.clear();
        }
        let agreed = self.agreed.entry((key.channel.clone(), own, theirs)).or_default();
        *agreed = version.max(*agreed);
    }

    fn page(&mut self, node: Arc<str>, page: Page) {
        let Page { id, channel, from, next, is_last, update } = page;
        let key = Key { channel, node };
        if !self.repairs.answered(id, &key) {
            // Of a question that was given up.
            return;
        }
        let (site_id, complete): (Arc<str>, _) = (update.site_id().into(), update.version);
        let (merged, answer) = oneshot::channel();
        let taken = self.merge(&key, from, update, Some(merged));
        let events = self.events.clone();
        tokio::spawn(async move {
            let merged = taken && answer.await.is_ok();
            // The task may have ended.
            let _ = events.send(Event::Merged { id, key, site_id, next, complete, is_last, merged });
        });
    }

    fn ask(&mut self, id: u64, key: Key, site_id: Arc<str>, after: Position, complete: u64) {
        let pull = Pull { id, channel: key.channel, site_id, after, complete };
        self.say(Topic::Node(key.node), self.hub.identity.pull(&pull));
        self.repairs.asked(id, self.now_ms());
    }

    fn serve(&mut self) {
        while self.serving < MAX_SERVING
            && let Some((node, pull)) = self.pulls.pop_front()
        {
            self.serving += 1;
            let (store, hub, limits) = (self.store.clone(), self.hub.clone(), self.limits.page);
            self.elsewhere(move || {
                let encode = |(site_id, end, changes): (String, PageFacts, Bytes)| {
                    hub.identity.page(&pull, &site_id, end, &changes)
                };
                Event::Served { node, page: facts::page(store.as_ref(), &pull, limits).map(encode) }
            });
        }
    }

    /// Goes on with the walk, a list of channels at a time, and only as fast as they leave.
    fn walk(&mut self) {
        if self.walk.under_way || !self.hub.is_up() {
            return;
        }
        if self.walk.names.is_empty() {
            if std::mem::take(&mut self.walk.wanted) {
                self.walk.under_way = true;
                let store = self.store.clone();
                self.elsewhere(move || Event::Names(store.channels().map(|listing| listing.names)));
            }
            return;
        }
        let rest = self.walk.names.len().saturating_sub(MAX_CHANNELS);
        let names = self.walk.names.split_off(rest);
        self.walk.under_way = true;
        let (store, hub) = (self.store.clone(), self.hub.clone());
        self.elsewhere(move || {
            let state = |name: String| {
                facts::state(store.as_ref(), &hub, &name).unwrap_or_else(|error| {
                    tracing::warn!(channel = name, %error, "other nodes cannot be told of a channel");
                    None
                })
            };
            Event::Walked(names.into_iter().filter_map(state).collect())
        });
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Looked { id, key, want, facts: Ok(facts) } => {
                if want.cause == Cause::Behind && facts.heard >= want.version {
                    self.hub.metrics.repair("needless");
                    self.repairs.done(id);
                    return;
                }
                let site_id = self.site_ids.get(&key).cloned().unwrap_or_else(|| "".into());
                let complete = match (want.cause, facts.site_id) {
                    (Cause::Behind, _) => facts.heard,
                    (Cause::Differs, Some(own)) => {
                        let agreed = self.agreed.get(&(key.channel.clone(), own, site_id.clone()));
                        agreed.copied().unwrap_or(0)
                    }
                    (Cause::Differs, None) => 0,
                };
                // No change has a higher seq.
                let after = Position { version: complete, seq: MAX_INTEGER };
                tracing::debug!(channel = %key.channel, node = %key.node, cause = ?want.cause, complete, "a repair");
                self.ask(id, key, site_id, after, complete);
            }
            Event::Looked { id, key, facts: Err(error), .. } => {
                tracing::warn!(channel = %key.channel, node = %key.node, %error, "a repair cannot begin");
                self.failed(id);
            }
            Event::Compared { node, list } => {
                self.comparing = false;
                for (state, facts) in list {
                    match facts {
                        Ok(facts) => self.compared(node.clone(), state, facts),
                        Err(error) => {
                            tracing::warn!(channel = %state.channel, %error, "a channel cannot be compared");
                        }
                    }
                }
                self.compare_next();
            }
            Event::Merged { id, merged: false, .. } => self.failed(id),
            Event::Merged { id, key, site_id, next, complete, is_last: false, .. } => {
                self.ask(id, key, site_id, next, complete);
            }
            Event::Merged { id, key, site_id, complete, .. } => {
                self.hub.metrics.repair("done");
                self.repairs.done(id);
                self.repaired(key, site_id, complete);
            }
            Event::Served { node, page } => {
                self.serving -= 1;
                match page {
                    Ok(page) => {
                        self.hub.metrics.page();
                        self.say(Topic::Node(node), page);
                    }
                    Err(error) => tracing::warn!(%node, %error, "a page for another node cannot be read"),
                }
                self.serve();
            }
            Event::Names(names) => {
                self.walk.under_way = false;
                match names {
                    Ok(names) => self.walk.names = names,
                    Err(error) => tracing::warn!(%error, "other nodes cannot be told of all channels"),
                }
            }
            Event::Walked(states) => {
                self.walk.under_way = false;
                self.tell(&states);
            }
            Event::Differing(states) => self.tell(&states),
            Event::Stands { node, state } => {
                if let Some(state) = state {
                    self.say(Topic::Node(node), self.hub.identity.states([&state]));
                }
            }
        }
    }

    fn tell(&self, states: &[State]) {
        if !states.is_empty() {
            self.say(Topic::All, self.hub.identity.states(states));
        }
    }

    fn failed(&mut self, id: u64) {
        self.hub.metrics.repair("failed");
        let now_ms = self.now_ms();
        self.repairs.failed(id, now_ms);
    }

    /// All that the peer had at that version is here. It is told how the channel stands, so that it can see whether it lacks
    /// something in turn.
    fn repaired(&mut self, key: Key, site_id: Arc<str>, version: u64) {
        self.differed.remove(&key);
        let own = self.hub.active(&key.channel).map(|active| active.state.site_id);
        if let Some(own) = own {
            self.agree(&key, own, site_id, version);
        }
        let (store, hub) = (self.store.clone(), self.hub.clone());
        self.elsewhere(move || {
            let state = facts::state(store.as_ref(), &hub, &key.channel);
            Event::Stands { node: key.node, state: state.unwrap_or_default() }
        });
    }
}
