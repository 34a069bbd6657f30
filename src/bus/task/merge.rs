//! Changes of other nodes, to their shard.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Cause, Key, Task, Want};
use crate::fanout::{Pending, Sender};
use crate::protocol::{self, Incoming, IncomingUpdate};
use crate::shard::Job;

impl Task {
    /// What clients of another node did.
    pub(super) fn update(&mut self, key: Key, from: u64, update: Box<IncomingUpdate>) {
        let (site_id, version): (Arc<str>, _) = (update.site_id().into(), update.version);
        if !self.merge(&key, from, update, None) {
            let want = Want { cause: Cause::Behind, site_id, version, digest: None };
            self.repairs.want(key, want, false, self.now_ms());
        }
    }

    /// Brings changes to their shard; `false` if they are not taken. It never waits for room: the bus is to go on, and what is
    /// not taken is repaired.
    pub(super) fn merge(
        &mut self,
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
                    if self.peers.is_news(&format!("{node} {}", refusal.code.as_str())) {
                        let problem = "a node's changes do not fit this node's schema: what they are in stays different";
                        tracing::error!(%channel, %node, %refusal, "{problem}");
                    }
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
}
