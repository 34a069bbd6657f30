//! How channels stand at another node and here, and what follows from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use causeway_storage::StoreError;

use super::{Cause, Event, Key, Task, Want};
use crate::bus::facts::{self, Facts};
use crate::bus::message::{State, Topic};
use crate::protocol::IncomingUpdate;

/// What is compared, and remembered of it.
#[derive(Debug, Default)]
pub(super) struct Comparing {
    /// The peer's version up to which all that it had is here.
    agreed: HashMap<Pair, u64>,
    /// How a channel that differs stood at the last digest: there, and its version here.
    differed: HashMap<Key, (State, u64)>,
    /// States that wait to be compared with the store, and whether they are for ours; whether some are being.
    lists: VecDeque<(Arc<str>, bool, Vec<State>)>,
    under_way: bool,
}

/// A channel, its site id here, and its site id at a peer.
type Pair = (Arc<str>, Arc<str>, Arc<str>);

impl Comparing {
    /// The channels that differed at the last digest.
    pub(super) fn differing(&self) -> impl Iterator<Item = &Arc<str>> {
        self.differed.keys().map(|key| &key.channel)
    }

    /// The peer's version up to which all that it had is here, 0 if that is not known.
    pub(super) fn agreed(&self, channel: &Arc<str>, own: Arc<str>, theirs: Arc<str>) -> u64 {
        self.agreed.get(&(channel.clone(), own, theirs)).copied().unwrap_or(0)
    }

    pub(super) fn forget_difference(&mut self, key: &Key) {
        self.differed.remove(key);
    }
}

impl Task {
    /// Compares states with what is here: with what shards have told lately, else with the store. If it is asked, the node is told
    /// how the same channels stand here.
    pub(super) fn compare(&mut self, node: Arc<str>, states: Vec<State>, ask: bool) {
        let mut rest = Vec::new();
        for state in states {
            match self.known(&state).filter(|_| !ask) {
                Some(facts) => self.compared(node.clone(), state, &facts),
                None => rest.push(state),
            }
        }
        if rest.is_empty() {
            return;
        }
        if self.comparing.lists.len() >= self.limits.max_waiting {
            self.hub.metrics.ignored("no_room");
        } else if ask {
            // Somebody waits for the answer.
            self.comparing.lists.push_front((node, ask, rest));
        } else {
            self.comparing.lists.push_back((node, ask, rest));
        }
        self.compare_next();
    }

    /// What is known of a channel without reading the store.
    fn known(&self, state: &State) -> Option<Facts> {
        let active = self.hub.active();
        let active = active.get(&state.channel)?;
        let heard = active.heard.clone()?;
        let own = &active.state;
        Some(Facts { site_id: Some(own.site_id.clone()), version: own.version, digest: own.digest, heard })
    }

    fn compare_next(&mut self) {
        if self.comparing.under_way {
            return;
        }
        let Some((node, ask, states)) = self.comparing.lists.pop_front() else { return };
        self.comparing.under_way = true;
        let readers = self.relay.readers.clone();
        self.elsewhere(move || {
            let look = |state: State| {
                let facts = facts::read(&readers, &state.channel);
                (state, facts)
            };
            Event::Compared { node, ask, list: states.into_iter().map(look).collect() }
        });
    }

    pub(super) fn compared_list(
        &mut self,
        node: Arc<str>,
        ask: bool,
        list: Vec<(State, Result<Facts, StoreError>)>,
    ) {
        self.comparing.under_way = false;
        let mut own = Vec::new();
        for (state, facts) in list {
            match facts {
                Ok(facts) => {
                    let published = self.hub.active().learn(&state.channel, &facts);
                    if ask {
                        own.push(facts.state(&state.channel, published));
                    }
                    self.compared(node.clone(), state, &facts);
                }
                Err(error) => {
                    tracing::warn!(channel = %state.channel, %error, "a channel cannot be compared");
                }
            }
        }
        if ask {
            self.say(Topic::Node(node), self.hub.identity.states(&own, false));
        }
        self.compare_next();
    }

    fn compared(&mut self, node: Arc<str>, state: State, facts: &Facts) {
        let key = Key { channel: state.channel.clone(), node };
        if state.is_absent() {
            for want in self.repairs.absent(&key) {
                self.hub.metrics.repair(want.cause.as_str(), "needless");
            }
        } else if facts.digest == state.digest {
            self.agrees(&key, facts, &state);
        } else {
            self.differs(&key, facts, &state);
        }
        self.answered(&key, state);
    }

    /// The same is there and here.
    fn agrees(&mut self, key: &Key, facts: &Facts, state: &State) {
        self.comparing.forget_difference(key);
        if facts.site_id.is_some() {
            self.hub.active().confirm(&key.channel, &key.node, facts.version);
            self.has_all(key, facts, &state.site_id, state.version);
        }
    }

    /// All that the peer had at that version of its is here, as the digests say.
    pub(super) fn has_all(&mut self, key: &Key, facts: &Facts, theirs: &Arc<str>, version: u64) {
        let Some(own) = &facts.site_id else { return };
        self.agree(&key.channel, own.clone(), theirs.clone(), version);
        if version > facts.heard.of(theirs) {
            // Noted with the channel, so that the next gap is seen for what it is.
            self.merge(key, 0, IncomingUpdate::empty(theirs, version), None);
        }
    }

    fn differs(&mut self, key: &Key, facts: &Facts, state: &State) {
        let has_ours = |site: &Arc<str>| facts.site_id.as_ref() == Some(site);
        if let Some((_, version)) = state.heard.iter().find(|(site, _)| has_ours(site)) {
            self.hub.active().confirm(&key.channel, &key.node, *version);
        }
        let want = |cause, version| Want {
            cause,
            site_id: state.site_id.clone(),
            version,
            digest: Some(state.digest),
        };
        let (now_ms, is_urgent) = (self.now_ms(), self.openings.has(&key.channel));
        if state.published > facts.heard.of(&state.site_id) {
            self.repairs.want(key.clone(), want(Cause::Behind, state.version), is_urgent, now_ms);
            return;
        }
        // All that its clients did is here, and yet it has something else: another node's, or less than this one. While either
        // changes it may be on its way.
        let differed = &mut self.comparing.differed;
        let was = differed.get(key);
        if was.is_some_and(|(there, here)| there == state && *here == facts.version) {
            self.repairs.want(key.clone(), want(Cause::Differs, state.version), false, now_ms);
        } else if differed.len() < self.limits.max_remembered || was.is_some() {
            differed.insert(key.clone(), (state.clone(), facts.version));
        }
    }

    /// Remembers that all that the peer had at that version of its is here.
    pub(super) fn agree(&mut self, channel: &Arc<str>, own: Arc<str>, theirs: Arc<str>, version: u64) {
        let agreed = &mut self.comparing.agreed;
        if agreed.len() >= self.limits.max_remembered {
            // What is forgotten is read again from its beginning, should it ever differ.
            agreed.clear();
        }
        let agreed = agreed.entry((channel.clone(), own, theirs)).or_default();
        *agreed = version.max(*agreed);
    }
}
