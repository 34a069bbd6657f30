//! Channels that somebody comes for, and that were not compared since other nodes can be heard: they are asked, and what is
//! missing is got before the client is let in. It waits no longer than `catch_up_timeout_ms`; what is not there then follows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_storage::StoreError;
use tokio::sync::oneshot;

use super::{Cause, Event, Key, Task, Want};
use crate::bus::facts::{self, Facts};
use crate::bus::hub::Opened;
use crate::bus::message::{MAX_CHANNELS, State, Topic};

/// How long who has just connected to Redis waits for nodes that it has not heard of, in milliseconds.
const GREETING_MS: u64 = 250;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// Until when nodes may be there that were not heard.
    greeting_ms: u64,
    channels: HashMap<Arc<str>, Opening>,
}

#[derive(Debug)]
struct Opening {
    waiting: Vec<oneshot::Sender<()>>,
    until_ms: u64,
    stage: Stage,
    /// The nodes that have not answered.
    unanswered: HashSet<Arc<str>>,
    /// How the channel stands at those that have it.
    answers: HashMap<Arc<str>, State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// How the channel stands here is being read.
    Looking,
    /// The others are asked; what their clients did is got.
    Asked,
    /// It is looked at whether they have something of a node that did not answer.
    Checking,
    /// That is got.
    Third,
}

impl Openings {
    /// Other nodes have just been greeted.
    pub(super) fn greet(&mut self, now_ms: u64) {
        self.greeting_ms = now_ms + GREETING_MS;
    }

    /// Whether somebody waits for the channel.
    pub(super) fn has(&self, channel: &str) -> bool {
        self.channels.contains_key(channel)
    }
}

impl Task {
    /// Somebody has come for channels.
    pub(super) fn open(&mut self, opened: impl Iterator<Item = Opened>) {
        let until_ms = self.now_ms() + self.limits.catch_up_ms;
        let mut new = Vec::new();
        for (channel, caught_up) in opened {
            if let Some(opening) = self.openings.channels.get_mut(&channel) {
                opening.waiting.push(caught_up);
            } else if self.openings.channels.len() < self.limits.max_remembered {
                let (unanswered, answers) = (HashSet::new(), HashMap::new());
                let waiting = vec![caught_up];
                let opening = Opening { waiting, until_ms, stage: Stage::Looking, unanswered, answers };
                self.openings.channels.insert(channel.clone(), opening);
                new.push(channel);
            }
        }
        for channels in new.chunks(MAX_CHANNELS) {
            self.read_states(channels.to_vec(), Event::Opened);
        }
    }

    /// How channels stand here is known: the others are asked how they stand there.
    pub(super) fn opened(&mut self, states: &[State]) {
        let live: HashSet<_> = self.peers.live(self.now_ms()).into_iter().collect();
        if !live.is_empty() || self.now_ms() < self.openings.greeting_ms {
            self.say(Topic::All, self.hub.identity.states(states, true));
        }
        for State { channel, .. } in states {
            if let Some(opening) = self.openings.channels.get_mut(channel) {
                opening.unanswered = live.clone();
                opening.stage = Stage::Asked;
            }
            self.settle(channel);
        }
    }

    /// A node has said how a channel stands there, and that was compared.
    pub(super) fn answered(&mut self, key: &Key, state: State) {
        let Some(opening) = self.openings.channels.get_mut(&key.channel) else { return };
        opening.unanswered.remove(&key.node);
        if !state.is_absent() {
            opening.answers.insert(key.node.clone(), state);
        }
        self.settle(&key.channel);
    }

    /// Goes on with the opening of a channel, if there is one.
    pub(super) fn settle(&mut self, channel: &Arc<str>) {
        let now_ms = self.now_ms();
        let Some(opening) = self.openings.channels.get_mut(channel) else { return };
        let is_wanted =
            |node: &Arc<str>| self.repairs.has(&Key { channel: channel.clone(), node: node.clone() });
        let waits = matches!(opening.stage, Stage::Looking | Stage::Checking)
            || now_ms < self.openings.greeting_ms
            || !opening.unanswered.is_empty()
            || opening.answers.keys().any(is_wanted);
        if waits {
            return;
        }
        let answered = |site: &Arc<str>| opening.answers.values().any(|state| state.site_id == *site);
        let has_third =
            opening.answers.values().flat_map(|state| &state.heard).any(|(site, _)| !answered(site));
        if opening.stage == Stage::Asked && has_third {
            opening.stage = Stage::Checking;
            let (readers, channel) = (self.relay.readers.clone(), channel.clone());
            self.elsewhere(move || {
                let facts = facts::read(&readers, &channel);
                Event::CaughtUp { channel, facts }
            });
            return;
        }
        self.hub.compared(channel.clone());
        self.end(&channel.clone(), "caught_up");
    }

    /// What is here after the repairs: what a node that did not answer has told to those that did may still be missing.
    pub(super) fn caught_up(&mut self, channel: Arc<str>, facts: Result<Facts, StoreError>) {
        let now_ms = self.now_ms();
        // What cannot be read is not served either.
        let facts = facts.unwrap_or_default();
        let Some(opening) = self.openings.channels.get_mut(&channel) else { return };
        opening.stage = Stage::Third;
        let sites: HashSet<_> = opening.answers.values().map(|state| state.site_id.clone()).collect();
        let is_missing = |(site, version): &(Arc<str>, u64)| {
            !sites.contains(site) && facts.site_id.as_ref() != Some(site) && facts.heard.of(site) < *version
        };
        for (node, state) in &opening.answers {
            if state.digest != facts.digest && state.heard.iter().any(is_missing) {
                let (site_id, version) = (state.site_id.clone(), state.version);
                let want = Want { cause: Cause::Differs, site_id, version, digest: Some(state.digest) };
                self.repairs.want(Key { channel: channel.clone(), node: node.clone() }, want, true, now_ms);
            }
        }
        self.settle(&channel);
    }

    /// Lets in who has waited long enough; all if nobody can be heard any more, or Redis hangs.
    pub(super) fn late_openings(&mut self, now_ms: u64) {
        let is_up = self.hub.is_up() && !self.hub.is_stalled();
        let channels: Vec<_> = self.openings.channels.keys().cloned().collect();
        for channel in channels {
            let opening = &self.openings.channels[&channel];
            if is_up && opening.until_ms > now_ms {
                self.settle(&channel);
                continue;
            }
            if is_up {
                opening.unanswered.iter().for_each(|node| self.peers.silent(node));
                self.hub.compared(channel.clone());
            }
            let (unanswered, stage) = (&opening.unanswered, opening.stage);
            tracing::debug!(%channel, ?unanswered, ?stage, "served as it is: what other nodes have follows");
            self.end(&channel, if is_up { "timeout" } else { "unheard" });
        }
    }

    fn end(&mut self, channel: &Arc<str>, outcome: &'static str) {
        if let Some(opening) = self.openings.channels.remove(channel) {
            self.hub.metrics.opening(outcome);
            for waiting in opening.waiting {
                // It may have given up.
                let _ = waiting.send(());
            }
        }
    }
}
