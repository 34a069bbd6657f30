//! How channels stand, told to other nodes: of those in use at every heartbeat, of all when somebody has come back and once in a
//! while.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_storage::StoreError;
use tokio::time::Instant;

use super::{Event, Task};
use crate::bus::facts;
use crate::bus::message::{MAX_CHANNELS, State, Topic};

/// For how many heartbeats a channel is told of after it was written last.
const ACTIVE_HEARTBEATS: u64 = 4;

/// The least time from one list of a walk to the next, in milliseconds: who hears it reads its store for each channel.
const WALK_PAUSE_MS: u64 = 50;

/// What is told when.
#[derive(Debug, Default)]
pub(super) struct Telling {
    heartbeat_ms: u64,
    walk: Walk,
}

/// The walk over all channels of the store, to tell other nodes of them.
#[derive(Debug, Default)]
struct Walk {
    wanted: bool,
    under_way: bool,
    names: Vec<String>,
    /// When the next list, and when the next walk is due.
    list_ms: u64,
    walk_ms: Option<u64>,
}

impl Telling {
    /// All channels are to be told, behind those that are just being.
    pub(super) fn all(&mut self) {
        self.walk.wanted = true;
    }
}

impl Task {
    pub(super) fn tell(&mut self, now_ms: u64) {
        self.walk(now_ms);
        if now_ms >= self.telling.heartbeat_ms {
            self.telling.heartbeat_ms = now_ms + self.random.around(self.limits.heartbeat_ms);
            self.heartbeat(now_ms);
        }
    }

    fn heartbeat(&mut self, now_ms: u64) {
        self.listen();
        let nodes = self.peers.all(now_ms);
        let (lags, states) = {
            let (mut active, now) = (self.hub.active(), Instant::now());
            let lags = active.lags(&nodes, now);
            let for_the_last = Duration::from_millis(ACTIVE_HEARTBEATS * self.limits.heartbeat_ms);
            (lags, active.states(&nodes, for_the_last, now))
        };
        let lags = nodes.iter().map(|node| &**node).zip(lags.iter().map(|lag| (lag.time, lag.versions)));
        self.hub.metrics.nodes(self.peers.live(now_ms).len(), lags);
        if self.hub.is_up() {
            // That the node is there is said even if there is nothing to say.
            self.say(Topic::All, self.hub.identity.states(states.iter().take(MAX_CHANNELS), false));
            self.tell_states(states.get(MAX_CHANNELS..).unwrap_or_default());
            self.tell_of_differing(&states);
        }
    }

    pub(super) fn tell_states(&self, states: &[State]) {
        for states in states.chunks(MAX_CHANNELS) {
            self.say(Topic::All, self.hub.identity.states(states, false));
        }
    }

    /// Tells of channels that differ and are not in use: the second digest is what tells a difference from a delay.
    fn tell_of_differing(&self, told: &[State]) {
        let told: HashSet<&str> = told.iter().map(|state| &*state.channel).collect();
        let differing: HashSet<&Arc<str>> =
            self.comparing.differing().filter(|channel| !told.contains(&***channel)).collect();
        if differing.is_empty() {
            return;
        }
        let channels: Vec<Arc<str>> = differing.into_iter().take(MAX_CHANNELS).cloned().collect();
        self.read_states(channels, Event::Tell);
    }

    /// Reads how channels stand, those that cannot be read left out.
    pub(super) fn read_states(
        &self,
        channels: Vec<Arc<str>>,
        event: impl FnOnce(Vec<State>) -> Event + Send + 'static,
    ) {
        let (readers, hub) = (self.relay.readers.clone(), self.hub.clone());
        self.elsewhere(move || {
            let state = |channel: Arc<str>| {
                facts::state(&readers, &hub, &channel)
                    .inspect_err(|error| {
                        tracing::warn!(%channel, %error, "other nodes cannot be told how a channel stands");
                    })
                    .ok()
            };
            event(channels.into_iter().filter_map(state).collect())
        });
    }

    /// Goes on with the walk, a list of channels at a time, and only as fast as they leave.
    fn walk(&mut self, now_ms: u64) {
        let is_crowded = self.hub.outgoing.bytes() > self.hub.outgoing.max_bytes() / 4;
        let walk = &mut self.telling.walk;
        if walk.walk_ms.is_none_or(|due_ms| now_ms >= due_ms) {
            // Nodes that are started together are not to walk together.
            walk.walk_ms = Some(now_ms + self.random.around(self.limits.walk_ms));
            walk.wanted = true;
        }
        if walk.under_way || is_crowded || now_ms < walk.list_ms || !self.hub.is_heard() {
            return;
        }
        if walk.names.is_empty() {
            if std::mem::take(&mut walk.wanted) {
                walk.under_way = true;
                let store = self.store.clone();
                self.elsewhere(move || Event::Names(store.channels().map(|listing| listing.names)));
            }
            return;
        }
        walk.list_ms = now_ms + WALK_PAUSE_MS;
        walk.under_way = true;
        let rest = walk.names.len().saturating_sub(MAX_CHANNELS);
        let names = walk.names.split_off(rest).into_iter().map(Arc::from).collect();
        self.read_states(names, Event::Walked);
    }

    pub(super) fn named(&mut self, names: Result<Vec<String>, StoreError>) {
        self.telling.walk.under_way = false;
        match names {
            Ok(names) => self.telling.walk.names = names,
            Err(error) => tracing::warn!(%error, "other nodes cannot be told of all channels"),
        }
    }

    pub(super) fn walked(&mut self, states: &[State]) {
        self.telling.walk.under_way = false;
        self.tell_states(states);
    }
}
