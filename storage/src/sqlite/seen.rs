//! Which peers need not be noted as seen again: a commit then writes one page less.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::store::{SEEN_STEP_S, TrackedPeer};

/// The most peers that are known here; then all are forgotten, and noted once more.
const MAX_PEERS: usize = 4_096;

/// When the file was last told of a peer, by the hash of its key.
#[derive(Default)]
pub(super) struct LatelySeen {
    noted: HashMap<u64, u64, RandomState>,
}

impl LatelySeen {
    /// Whether the file should be told that the peer was seen, which then counts as done.
    pub(super) fn is_news(&mut self, peer: &TrackedPeer) -> bool {
        let key = self.noted.hasher().hash_one((&peer.site_id, peer.tag, peer.event));
        if self.noted.get(&key).is_some_and(|noted| peer.seen_s < noted.saturating_add(SEEN_STEP_S)) {
            return false;
        }
        if self.noted.len() >= MAX_PEERS {
            self.noted.clear();
        }
        self.noted.insert(key, peer.seen_s);
        true
    }

    /// What was noted may be gone.
    pub(super) fn clear(&mut self) {
        self.noted.clear();
    }
}
