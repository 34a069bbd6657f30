//! Which channels are repaired with which peer, and when. Pure: whoever drives it asks, brings answers, and says what time it is,
//! in milliseconds since any moment.
//!
//! A repair is a row of questions and answers, a page each: `start` → the question → `answered` → merged → `merged` → the
//! next question … until the page that is the last. So a node has at most one page of a repair outstanding, and at most
//! `max_running` repairs under way. A page that does not come in time ends the repair; it is tried again, later each time, and
//! after [`MAX_ATTEMPTS`] left to the next sign that it is needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::random::{Random, backoff_ms};

/// How often a repair is tried before it is left to the next sign that it is needed.
pub const MAX_ATTEMPTS: u32 = 6;

/// The first pause before a repair is tried again, and the longest, in milliseconds.
const RETRY_MS: (u64, u64) = (250, 10_000);

/// A channel, and the peer that has what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The channel.
    pub channel: Arc<str>,
    /// The peer.
    pub node: Arc<str>,
}

/// Why a repair is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Something that the peer's clients did was not heard: what is above the last that was heard is enough.
    Behind,
    /// The digests differ though all was heard: what another node did, and only the peer has heard. What is above the last
    /// version at which both had the same is enough.
    Differs,
}

/// What is wanted of a peer.
#[derive(Clone, Debug)]
pub struct Want {
    /// Why.
    pub cause: Cause,
    /// The peer's version that is to be heard. If it was, meanwhile, nothing is to be done.
    pub version: u64,
    not_before_ms: u64,
    attempt: u32,
}

/// The limits of a node's repairs.
#[derive(Clone, Copy, Debug)]
pub struct RepairLimits {
    /// The most that are wanted at once; a sign that another is needed is dropped, and comes again.
    pub max_wanted: usize,
    /// The most that are under way at once.
    pub max_running: usize,
    /// How long a page may take, in milliseconds.
    pub timeout_ms: u64,
    /// How long a sign is left to resolve itself, in milliseconds.
    pub delay_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Repairs {
    limits: RepairLimits,
    random: Random,
    wanted: HashMap<Key, Want>,
    /// The keys of `wanted`, first come first served.
    order: VecDeque<Key>,
    running: HashMap<u64, Running>,
    last_id: u64,
}

#[derive(Debug)]
struct Running {
    key: Key,
    want: Want,
    step: Step,
}

/// Where a repair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What is there is being looked at, or a page is being merged.
    Here,
    /// A page is awaited until then.
    Asked { until_ms: u64 },
}

impl Repairs {
    /// Nothing is wanted yet. `seed` is what jitter, and the names of questions, come from.
    pub fn new(limits: RepairLimits, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // An answer to a question of an earlier start is nobody's. Readable by all who count in doubles.
        let last_id = random.number() >> 16;
        Repairs {
            limits,
            random,
            wanted: HashMap::new(),
            order: VecDeque::new(),
            running: HashMap::new(),
            last_id,
        }
    }

    /// A sign that a repair is needed; `false` if too many are wanted already.
    pub fn want(&mut self, key: Key, cause: Cause, version: u64, now_ms: u64) -> bool {
        if let Some(want) = self.wanted.get_mut(&key) {
            want.cause = want.cause.max(cause);
            want.version = want.version.max(version);
            return true;
        }
        if self.wanted.len() >= self.limits.max_wanted {
            return false;
        }
        let not_before_ms = now_ms + self.random.around(self.limits.delay_ms);
        self.wanted.insert(key.clone(), Want { cause, version, not_before_ms, attempt: 0 });
        self.order.push_back(key);
        true
    }

    /// Begins a repair that is due, if there is one and it may.
    pub fn start(&mut self, now_ms: u64) -> Option<(u64, Key, Want)> {
        if self.running.len() >= self.limits.max_running {
            return None;
        }
        let is_due = |key: &Key| {
            self.wanted.get(key).is_some_and(|want| want.not_before_ms <= now_ms)
                && !self.running.values().any(|running| running.key == *key)
        };
        let at = self.order.iter().position(is_due)?;
        let key = self.order.remove(at)?;
        let want = self.wanted.remove(&key)?;
        self.last_id += 1;
        let running = Running { key: key.clone(), want: want.clone(), step: Step::Here };
        self.running.insert(self.last_id, running);
        Some((self.last_id, key, want))
    }

    /// The question was put.
    pub fn asked(&mut self, id: u64, now_ms: u64) {
        if let Some(running) = self.running.get_mut(&id) {
            running.step = Step::Asked { until_ms: now_ms + self.limits.timeout_ms };
        }
    }

    /// A page has come; whether it is one that was asked for, and is to be merged.
    pub fn answered(&mut self, id: u64, key: &Key) -> bool {
        match self.running.get_mut(&id) {
            Some(running) if running.key == *key && matches!(running.step, Step::Asked { .. }) => {
                running.step = Step::Here;
                // The peer answers: whatever is slow from here on begins anew.
                running.want.attempt = 0;
                true
            }
            _ => false,
        }
    }

    /// A repair has come to its end.
    pub fn done(&mut self, id: u64) {
        self.running.remove(&id);
    }

    /// A repair has failed: it is tried again later, unless that was often enough; gives whether it is.
    pub fn failed(&mut self, id: u64, now_ms: u64) -> bool {
        let Some(Running { key, mut want, .. }) = self.running.remove(&id) else { return false };
        if let Some(again) = self.wanted.get_mut(&key) {
            again.cause = again.cause.max(want.cause);
            again.version = again.version.max(want.version);
            return true;
        }
        if want.attempt + 1 >= MAX_ATTEMPTS || self.wanted.len() >= self.limits.max_wanted {
            return false;
        }
        want.not_before_ms = now_ms + backoff_ms(&mut self.random, RETRY_MS.0, RETRY_MS.1, want.attempt);
        want.attempt += 1;
        self.wanted.insert(key.clone(), want);
        self.order.push_back(key);
        true
    }

    /// Fails the repairs whose page has not come in time; gives how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let is_late = |step: Step| matches!(step, Step::Asked { until_ms } if until_ms <= now_ms);
        let mut late: Vec<u64> =
            self.running.iter().filter(|(_, running)| is_late(running.step)).map(|(id, _)| *id).collect();
        // Not in the order of a hash map.
        late.sort_unstable();
        for id in &late {
            self.failed(*id, now_ms);
        }
        late.len()
    }

    /// Whether a repair of the channel is wanted or under way.
    pub fn has(&self, key: &Key) -> bool {
        self.wanted.contains_key(key) || self.running.values().any(|running| running.key == *key)
    }

    /// How many are wanted, and how many under way.
    pub fn counts(&self) -> (usize, usize) {
        (self.wanted.len(), self.running.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: RepairLimits =
        RepairLimits { max_wanted: 4, max_running: 2, timeout_ms: 1_000, delay_ms: 0 };

    fn key(channel: u8, node: u8) -> Key {
        Key { channel: channel.to_string().into(), node: node.to_string().into() }
    }

    #[test]
    fn signs_are_one_repair_and_too_many_are_dropped() {
        let mut repairs = Repairs::new(LIMITS, 1);
        assert!(repairs.want(key(1, 1), Cause::Behind, 5, 0));
        assert!(repairs.want(key(1, 1), Cause::Differs, 3, 0));
        let (id, k, want) = repairs.start(0).unwrap();
        assert_eq!((k, want.cause, want.version), (key(1, 1), Cause::Differs, 5));
        assert!(repairs.want(key(1, 1), Cause::Behind, 9, 0));
        assert!(repairs.start(0).is_none(), "one repair of a channel with a peer at once");
        repairs.done(id);
        assert_eq!(repairs.start(0).unwrap().2.version, 9);
        for n in 2..6 {
            assert!(repairs.want(key(n, 1), Cause::Behind, 1, 0));
        }
        assert!(!repairs.want(key(6, 1), Cause::Behind, 1, 0));
        assert!(repairs.start(0).is_some());
        assert!(repairs.start(0).is_none(), "two at once");
        assert_eq!(repairs.counts(), (3, 2));
    }

    #[test]
    fn an_answer_is_taken_once_and_from_who_was_asked() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), Cause::Behind, 1, 0);
        let (id, ..) = repairs.start(0).unwrap();
        assert!(!repairs.answered(id, &key(1, 1)), "nobody was asked yet");
        repairs.asked(id, 0);
        assert!(!repairs.answered(id, &key(1, 2)));
        assert!(!repairs.answered(id, &key(2, 1)));
        assert!(!repairs.answered(id + 1, &key(1, 1)));
        assert!(repairs.answered(id, &key(1, 1)));
        assert!(!repairs.answered(id, &key(1, 1)));
        assert_eq!(repairs.expire(u64::MAX), 0, "a page that is being merged has come");
        repairs.done(id);
        assert!(!repairs.answered(id, &key(1, 1)));
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_and_then_no_more() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), Cause::Behind, 1, 0);
        let (mut now, mut pauses) = (0, Vec::new());
        for attempt in 1..=MAX_ATTEMPTS {
            let began = now;
            let id = loop {
                match repairs.start(now) {
                    Some((id, ..)) => break id,
                    None => now += 1,
                }
            };
            pauses.push(now - began);
            repairs.asked(id, now);
            assert_eq!(repairs.expire(now + 999), 0);
            now += 1_000;
            assert_eq!(repairs.expire(now), 1);
            assert_eq!(repairs.counts(), (usize::from(attempt < MAX_ATTEMPTS), 0));
        }
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
        assert!(repairs.want(key(1, 1), Cause::Behind, 1, now), "the next sign tries again");
    }

    proptest! {
        /// Any signs, answers and failures: the bounds hold, and in the end everything that was wanted was repaired.
        #[test]
        fn whatever_happens_bounds_hold_and_all_ends(
            seed in any::<u64>(),
            acts in prop::collection::vec((0u8..5, 0u8..4, 0u8..3, 0u64..500), 0..200),
        ) {
            let mut repairs = Repairs::new(LIMITS, seed);
            let (mut now, mut under_way) = (0, HashMap::new());
            for (act, channel, node, pass) in acts {
                now += pass;
                let some = under_way.keys().copied().min();
                match (act, some) {
                    (0, _) => drop(repairs.want(key(channel, node), Cause::Behind, 1, now)),
                    (1, _) => if let Some((id, key, _)) = repairs.start(now) {
                        prop_assert!(!under_way.values().any(|k| *k == key));
                        repairs.asked(id, now);
                        under_way.insert(id, key);
                    },
                    (2, Some(id)) => if repairs.answered(id, &under_way[&id]) {
                        repairs.asked(id, now);
                    },
                    (3, Some(id)) => {
                        repairs.done(id);
                        under_way.remove(&id);
                    }
                    _ => {
                        repairs.expire(now);
                        under_way.retain(|id, _| repairs.running.contains_key(id));
                    }
                }
                let (wanted, running) = repairs.counts();
                prop_assert!(wanted <= LIMITS.max_wanted && running <= LIMITS.max_running);
                prop_assert_eq!(running, under_way.len());
                prop_assert_eq!(repairs.order.len(), wanted);
            }
            under_way.into_keys().for_each(|id| repairs.done(id));
            while repairs.counts() != (0, 0) {
                now += 100;
                if let Some((id, ..)) = repairs.start(now) {
                    repairs.done(id);
                }
            }
        }
    }
}
