//! Repairs, page by page: a question, the page, its merge, the next question.

use std::sync::Arc;

use causeway_storage::{Position, StoreError};
use tokio::sync::oneshot;

use super::{Cause, Event, Key, Task, Want};
use crate::bus::facts::{self, Facts};
use crate::bus::message::{Page, Pull, Topic};
use crate::bus::repair::Place;
use crate::protocol::decode::MAX_INTEGER;

impl Task {
    /// Begins what is due, and gives up what is late.
    pub(super) fn repair(&mut self, now_ms: u64) {
        for (_, want) in self.repairs.expire(now_ms) {
            self.hub.metrics.repair(want.cause.as_str(), "timeout");
        }
        if !self.hub.is_up() {
            return;
        }
        while let Some((id, key, want)) = self.repairs.start(now_ms) {
            let readers = self.relay.readers.clone();
            self.elsewhere(move || {
                let facts = facts::read(&readers, &key.channel);
                Event::Looked { id, key, want, facts }
            });
        }
    }

    /// What is here before a repair: from where it begins, if it is needed at all.
    pub(super) fn looked(&mut self, id: u64, key: Key, want: Want, facts: Result<Facts, StoreError>) {
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(channel = %key.channel, node = %key.node, %error, "a repair cannot begin");
                return self.failed(id);
            }
        };
        let heard = facts.heard.of(&want.site_id);
        let is_the_same = want.digest == Some(facts.digest);
        if is_the_same || (want.cause == Cause::Behind && heard >= want.version) {
            if is_the_same {
                self.has_all(&key, &facts, &want.site_id, want.version);
            }
            self.hub.metrics.repair(want.cause.as_str(), "needless");
            self.repairs.done(id);
            return self.settle(&key.channel);
        }
        let complete = match (want.cause, facts.site_id) {
            (Cause::Behind, _) => heard,
            (Cause::Differs, Some(own)) => self.comparing.agreed(&key.channel, own, want.site_id.clone()),
            (Cause::Differs, None) => 0,
        };
        tracing::debug!(channel = %key.channel, node = %key.node, cause = want.cause.as_str(), complete, "a repair");
        // No change has a higher seq.
        let after = Position { version: complete, seq: MAX_INTEGER };
        self.ask(id, key, Place { site_id: want.site_id, after, complete });
    }

    fn ask(&mut self, id: u64, key: Key, from: Place) {
        let Place { site_id, after, complete } = from.clone();
        let pull = Pull { id, channel: key.channel, site_id, after, complete };
        self.say(Topic::Node(key.node), self.hub.identity.pull(&pull));
        self.repairs.asked(id, from, self.now_ms());
    }

    /// A page has come: it is merged, and the next one asked for meanwhile.
    pub(super) fn page(&mut self, node: Arc<str>, page: Page) {
        let Page { id, channel, from, next, is_last, update } = page;
        let key = Key { channel, node };
        let (site_id, complete): (Arc<str>, _) = (update.site_id().into(), update.version);
        let next = (!is_last).then(|| Place { site_id: site_id.clone(), after: next, complete });
        if !self.repairs.answered(id, &key, next) {
            // Of a question that was given up.
            return;
        }
        let (merged, answer) = oneshot::channel();
        if !self.merge(&key, from, update, Some(merged)) {
            return self.failed(id);
        }
        if let Some(place) = self.repairs.next(id) {
            self.ask(id, key.clone(), place);
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            let merged = answer.await.is_ok();
            // The task may have ended.
            let _ = events.send(Event::Merged { id, key, site_id, complete, merged });
        });
    }

    /// A page is durable, or was not merged.
    pub(super) fn merged(&mut self, id: u64, key: Key, site_id: Arc<str>, complete: u64, merged: bool) {
        if !merged {
            return self.failed(id);
        }
        if let Some(want) = self.repairs.merged(id) {
            self.hub.metrics.repair(want.cause.as_str(), "done");
            self.repaired(key, site_id, complete);
        } else if let Some(place) = self.repairs.next(id) {
            self.ask(id, key, place);
        }
    }

    fn failed(&mut self, id: u64) {
        if let Some(want) = self.repairs.failed(id, self.now_ms()) {
            self.hub.metrics.repair(want.cause.as_str(), "failed");
        }
    }

    /// All that the peer had at that version is here. It is told how the channel stands, so that it can see whether it lacks
    /// something in turn.
    fn repaired(&mut self, key: Key, site_id: Arc<str>, version: u64) {
        self.comparing.forget_difference(&key);
        let own = self.hub.active().get(&key.channel).map(|active| active.state.site_id.clone());
        if let Some(own) = own {
            self.agree(&key.channel, own, site_id, version);
        }
        self.settle(&key.channel);
        let Key { channel, node } = key;
        self.read_states(vec![channel], |states| Event::Stands { node, states });
    }
}
