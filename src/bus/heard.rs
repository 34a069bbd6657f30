//! What a channel has heard of its peers: of each, up to which version it has all that the peer's own clients did.

use std::collections::HashMap;

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

/// The peers of one channel, by the site id of the channel in theirs. Only other nodes' word puts one in, so there are as many as
/// there were nodes; beyond [`MAX_PEERS`] the map starts anew, which costs a repair each.
#[derive(Clone, Debug, Default)]
pub struct HeardOf(HashMap<Box<str>, u64>);

/// More nodes than a channel ever meets, its restored and wiped databases counted each.
pub const MAX_PEERS: usize = 4_096;

impl HeardOf {
    /// What a channel's store has. Reads all its tracked peers.
    pub fn read(reader: &mut dyn ChannelReader) -> Result<Self, StoreError> {
        let mut heard = HeardOf::default();
        for peer in reader.peers()? {
            if (peer.tag, peer.event) == (NODE_TAG, RECEIVED) {
                heard.advance(&peer.site_id, peer.version);
            }
        }
        Ok(heard)
    }

    /// Up to which version the peer was heard, 0 if never.
    pub fn of(&self, site_id: &str) -> u64 {
        self.0.get(site_id).copied().unwrap_or(0)
    }

    /// All up to the version is there now; never goes down.
    pub fn advance(&mut self, site_id: &str, version: u64) {
        if let Some(heard) = self.0.get_mut(site_id) {
            *heard = version.max(*heard);
            return;
        }
        if self.0.len() >= MAX_PEERS {
            self.0.clear();
        }
        self.0.insert(site_id.into(), version);
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
