//! Pages for other nodes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use causeway_storage::StoreError;

use super::{Event, Task};
use crate::bus::facts;
use crate::bus::message::{PageFacts, Pull, State, Topic};

/// Questions that wait, and how many are being answered.
#[derive(Debug, Default)]
pub(super) struct Serving {
    pulls: VecDeque<(Arc<str>, Pull)>,
    under_way: usize,
}

impl Task {
    /// A page is asked for. Who asks and gets none asks again.
    pub(super) fn asked(&mut self, node: Arc<str>, pull: Pull) {
        if self.serving.pulls.len() >= self.limits.max_waiting {
            self.hub.metrics.ignored("no_room");
            return;
        }
        self.serving.pulls.push_back((node, pull));
        self.serve();
    }

    fn serve(&mut self) {
        while self.serving.under_way < self.limits.max_serving
            && let Some((node, pull)) = self.serving.pulls.pop_front()
        {
            self.serving.under_way += 1;
            let (readers, hub, limits) = (self.relay.readers.clone(), self.hub.clone(), self.limits.page);
            self.elsewhere(move || {
                let encode = |(site_id, end, changes): (String, PageFacts, Bytes)| {
                    hub.identity.page(&pull, &site_id, end, &changes)
                };
                let page = facts::page(&readers, &pull, limits).map(encode);
                Event::Served { node, pull, page }
            });
        }
    }

    pub(super) fn served(&mut self, node: Arc<str>, pull: Pull, page: Result<Bytes, StoreError>) {
        self.serving.under_way -= 1;
        match page {
            Ok(page) => {
                self.hub.metrics.page();
                self.say(Topic::Node(node), page);
            }
            Err(StoreError::Missing { .. }) => {
                let absent = State::absent(pull.channel);
                self.say(Topic::Node(node), self.hub.identity.states([&absent], false));
            }
            Err(error) => {
                tracing::warn!(%node, channel = %pull.channel, %error, "a page for another node cannot be read");
            }
        }
        self.serve();
    }
}
