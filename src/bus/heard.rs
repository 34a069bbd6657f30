//! What a channel has heard of its peers: of each, up to which version it has all that the peer's own clients did.

use std::sync::Arc;

use causeway_storage::store::{NODE_TAG, RECEIVED};
use causeway_storage::{ChannelReader, StoreError};

/// What a message is to who hears it. `from` is the version that its sender published before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// All up to its version was there before.
    Old,
    /// It follows what was there.
    Next,
    /// Something between is missing.
    Gap,
}

/// Classifies a message of `from` to `version`, where all up to `heard` is there.
pub fn classify(heard: u64, from: u64, version: u64) -> Heard {
    if version <= heard {
        Heard::Old
    } else if from <= heard {
        Heard::Next
    } else {
        Heard::Gap
    }
}

/// More nodes than a channel ever meets, its restored and wiped databases counted each.
pub const MAX_PEERS: usize = 4_096;

/// The peers of one channel: the site id of the channel at each, and up to which version it was heard. Those that were heard
/// last come first. Only other nodes' word puts one in, so there are as many as there were nodes; of more than [`MAX_PEERS`]
/// the one that was not heard for longest is forgotten, which costs a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeardOf(Vec<(Arc<str>, u64)>);

impl HeardOf {
    /// What a channel's store has. Reads all its tracked peers.
    pub fn read(reader: &mut dyn ChannelReader) -> Result<Self, StoreError> {
        let mut peers = reader.peers()?;
        peers.retain(|peer| (peer.tag, peer.event) == (NODE_TAG, RECEIVED));
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.seen_s));
        peers.truncate(MAX_PEERS);
        Ok(HeardOf(peers.into_iter().map(|peer| (peer.site_id.into(), peer.version)).collect()))
    }

    /// Up to which version the peer was heard, 0 if never.
    pub fn of(&self, site_id: &str) -> u64 {
        self.0.iter().find(|(site, _)| **site == *site_id).map_or(0, |(_, version)| *version)
    }

    /// All up to the version is there now; never goes down.
    pub fn advance(&mut self, site_id: &str, version: u64) {
        match self.0.iter().position(|(site, _)| **site == *site_id) {
            Some(at) => {
                self.0[..=at].rotate_right(1);
                self.0[0].1 = version.max(self.0[0].1);
            }
            None => {
                self.0.truncate(MAX_PEERS - 1);
                self.0.insert(0, (site_id.into(), version));
            }
        }
    }

    /// The `max` that were heard last.
    pub fn latest(&self, max: usize) -> Vec<(Arc<str>, u64)> {
        self.0.iter().take(max).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_old_or_next_or_shows_a_gap() {
        assert_eq!(classify(5, 5, 6), Heard::Next);
        assert_eq!(classify(5, 3, 6), Heard::Next);
        assert_eq!(classify(5, 3, 5), Heard::Old);
        assert_eq!(classify(5, 6, 7), Heard::Gap);
        // A sender that lost its newest versions in a power cut, at less than full durability.
        assert_eq!(classify(9, 6, 7), Heard::Old);
    }

    #[test]
    fn whom_nobody_has_heard_for_longest_is_forgotten() {
        let mut heard = HeardOf::default();
        for n in 0..=MAX_PEERS as u64 {
            heard.advance("first", 7);
            heard.advance(&n.to_string(), n + 1);
        }
        assert_eq!((heard.of("first"), heard.of("0"), heard.of("3")), (7, 0, 4));
        heard.advance("first", 3);
        assert_eq!(heard.of("first"), 7, "never down");
        let (first, last) = (("first".into(), 7), (MAX_PEERS.to_string().into(), MAX_PEERS as u64 + 1));
        assert_eq!(heard.latest(2), [first, last]);
    }

    proptest! {
        /// Messages of a sender that are lost, repeated and mixed up, then heard: what is said to be there, is.
        #[test]
        fn nothing_is_said_to_be_heard_that_was_lost(
            steps in prop::collection::vec(1u64..4, 1..40),
            picks in prop::collection::vec(0usize..40, 0..200),
        ) {
            let mut versions = vec![0];
            for step in steps {
                versions.push(versions[versions.len() - 1] + step);
            }
            let messages: Vec<_> = versions.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let (mut heard, mut had) = (HeardOf::default(), vec![false; messages.len()]);
            for pick in picks {
                let pick = pick % messages.len();
                let (from, version) = messages[pick];
                had[pick] = true;
                if classify(heard.of("s"), from, version) == Heard::Next {
                    heard.advance("s", version);
                }
                for (n, (_, version)) in messages.iter().enumerate() {
                    prop_assert!(*version > heard.of("s") || had[n], "{version} was lost");
                }
            }
        }
    }
}
