//! The other nodes: who was heard, and when. Pure; whoever asks says what time it is, in milliseconds since any moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How many heartbeats a node may keep silent before it is not waited for any more.
const LIVE_HEARTBEATS: u64 = 3;

/// How many before nothing is published for it.
const LISTENING_HEARTBEATS: u64 = 10;

/// See the module.
#[derive(Debug)]
pub struct Peers {
    limits: PeerLimits,
    peers: HashMap<Arc<str>, Peer>,
    /// What the log has been told.
    told: HashSet<Box<str>>,
}

/// The bounds of what is known of other nodes.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// How often nodes are heard at least, in milliseconds.
    pub heartbeat_ms: u64,
    /// After how much silence a node is not counted on any more, in milliseconds.
    pub forget_ms: u64,
    /// How many nodes are known at most.
    pub max: usize,
}

#[derive(Debug)]
struct Peer {
    boot: Box<str>,
    heard_ms: u64,
    /// It did not answer, or said that it would end.
    is_silent: bool,
}

/// What a message says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// It was heard before.
    Known,
    /// It was not, or has been started anew.
    New,
    /// There are too many nodes.
    TooMany,
}

impl Peers {
    /// Nobody was heard yet.
    pub fn new(limits: PeerLimits) -> Self {
        Peers { limits, peers: HashMap::new(), told: HashSet::new() }
    }

    /// A node was heard.
    pub fn heard(&mut self, node: &Arc<str>, boot: &str, now_ms: u64) -> Sender {
        if let Some(peer) = self.peers.get_mut(node) {
            (peer.heard_ms, peer.is_silent) = (now_ms, false);
            if *peer.boot == *boot {
                return Sender::Known;
            }
            peer.boot = boot.into();
            return Sender::New;
        }
        if self.peers.len() >= self.limits.max {
            return Sender::TooMany;
        }
        self.peers.insert(node.clone(), Peer { boot: boot.into(), heard_ms: now_ms, is_silent: false });
        Sender::New
    }

    /// A node did not answer, or ends: nobody waits for it until it is heard again.
    pub fn silent(&mut self, node: &str) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_silent = true;
        }
    }

    /// The nodes whose answer is waited for.
    pub fn live(&self, now_ms: u64) -> Vec<Arc<str>> {
        self.within(LIVE_HEARTBEATS * self.limits.heartbeat_ms, now_ms, |peer| !peer.is_silent)
    }

    /// The nodes that are published for.
    pub fn listening(&self, now_ms: u64) -> Vec<Arc<str>> {
        self.within(LISTENING_HEARTBEATS * self.limits.heartbeat_ms, now_ms, |_| true)
    }

    /// All that are counted on to have everything, now or later; the others are forgotten.
    pub fn all(&mut self, now_ms: u64) -> Vec<Arc<str>> {
        self.peers.retain(|_, peer| now_ms - peer.heard_ms <= self.limits.forget_ms);
        self.within(u64::MAX, now_ms, |_| true)
    }

    fn within(&self, ms: u64, now_ms: u64, is_wanted: impl Fn(&Peer) -> bool) -> Vec<Arc<str>> {
        let mut nodes: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| now_ms - peer.heard_ms <= ms && is_wanted(peer))
            .map(|(node, _)| node.clone())
            .collect();
        nodes.sort_unstable();
        nodes
    }

    /// Whether something is worth telling the log: the first time, and not after too many others.
    pub fn is_news(&mut self, what: &str) -> bool {
        self.told.len() < self.limits.max && self.told.insert(what.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PeerLimits = PeerLimits { heartbeat_ms: 100, forget_ms: 10_000, max: 2 };

    fn only(node: &Arc<str>) -> Vec<Arc<str>> {
        vec![node.clone()]
    }

    #[test]
    fn who_keeps_silent_is_waited_for_published_for_and_counted_on_for_so_long() {
        let mut peers = Peers::new(LIMITS);
        let (b, c): (Arc<str>, Arc<str>) = ("b".into(), "c".into());
        assert_eq!(peers.heard(&b, "1", 0), Sender::New);
        assert_eq!(peers.heard(&c, "1", 250), Sender::New);
        assert_eq!(peers.heard(&"d".into(), "1", 250), Sender::TooMany);
        assert_eq!(peers.live(300), [b.clone(), c.clone()]);
        assert_eq!(peers.live(301), only(&c));
        assert_eq!(peers.listening(1_001), only(&c));
        assert_eq!(peers.all(10_000), [b.clone(), c.clone()]);
        assert_eq!(peers.all(10_001), only(&c));
        assert_eq!(peers.heard(&"d".into(), "1", 10_001), Sender::New, "there is room again");
    }

    #[test]
    fn who_does_not_answer_is_waited_for_when_it_is_heard_again() {
        let mut peers = Peers::new(LIMITS);
        let b: Arc<str> = "b".into();
        peers.heard(&b, "1", 0);
        peers.silent("b");
        assert_eq!((peers.live(0), peers.listening(0)), (vec![], only(&b)));
        assert_eq!(peers.heard(&b, "1", 5), Sender::Known);
        assert_eq!(peers.live(5), only(&b));
        peers.silent("b");
        assert_eq!(peers.heard(&b, "2", 6), Sender::New, "started anew");
        assert_eq!(peers.live(6), [b]);
    }

    #[test]
    fn news_are_told_once_and_not_without_end() {
        let mut peers = Peers::new(LIMITS);
        assert!(peers.is_news("x") && !peers.is_news("x") && peers.is_news("y") && !peers.is_news("z"));
    }
}
