//! Which channels are repaired with which peer, and when. Pure: whoever drives it asks, brings answers, and says what time it is,
//! in milliseconds since any moment.
//!
//! A repair is a row of questions and answers, a page each: `start` → the question → `asked` → `answered` → the page is
//! merged, and the `next` question put → `merged` … until the page that is the last. A node is never more than a page ahead of what
//! it has merged, and has at most `max_running` repairs under way. A page that does not come in time ends the repair; it is tried
//! again, later each time, and after [`MAX_ATTEMPTS`] left to the next sign that it is needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use causeway_storage::{Digest, Position};

use super::random::{Random, backoff_ms};

/// How often a repair is tried before it is left to the next sign that it is needed.
pub const MAX_ATTEMPTS: u32 = 6;

/// How many of those that are wanted are looked at for one that is due.
const MAX_LOOKED_AT: usize = 1_024;

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

impl Cause {
    /// Its name in a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Behind => "behind",
            Cause::Differs => "differs",
        }
    }
}

/// What is wanted of a peer.
#[derive(Clone, Debug)]
pub struct Want {
    /// Why.
    pub cause: Cause,
    /// The channel's site id there.
    pub site_id: Arc<str>,
    /// The peer's version that is to be here.
    pub version: u64,
    /// The channel's digest there, at that version, if it is known. If it is the same here, meanwhile, nothing is to be done.
    pub digest: Option<Digest>,
}

impl Want {
    fn add(&mut self, other: Want) {
        self.cause = self.cause.max(other.cause);
        if other.version > self.version || other.site_id != self.site_id {
            (self.site_id, self.version, self.digest) = (other.site_id, other.version, other.digest);
        }
    }
}

/// From where a page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The channel's site id at the peer.
    pub site_id: Arc<str>,
    /// The rows behind this.
    pub after: Position,
    /// The version that is complete before it.
    pub complete: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    want: Want,
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
    wanted: HashMap<Key, Waiting>,
    /// The keys of `wanted`, about first come first served.
    order: VecDeque<Key>,
    running: HashMap<u64, Running>,
    last_id: u64,
}

#[derive(Debug)]
struct Running {
    key: Key,
    want: Want,
    attempt: u32,
    /// Until when a page is awaited, if one is, and from where it was asked for.
    asked: Option<(u64, Place)>,
    /// Pages that have come and are not durable yet.
    merging: usize,
    /// Where the last page that has come ends; `None` if it was the last of all, or none has come.
    next: Option<Place>,
}

impl Repairs {
    /// Nothing is wanted yet. `seed` is what jitter, and the names of questions, come from.
    pub fn new(limits: RepairLimits, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // An answer to a question of an earlier start is nobody's. Readable by all who count in doubles.
        let last_id = random.number() >> 16;
        let (wanted, running) = (HashMap::new(), HashMap::new());
        Repairs { limits, random, wanted, order: VecDeque::new(), running, last_id }
    }

    /// A sign that a repair is needed; `false` if too many are wanted already. An urgent one is not left to resolve itself, and
    /// goes before the others.
    pub fn want(&mut self, key: Key, want: Want, is_urgent: bool, now_ms: u64) -> bool {
        let not_before_ms =
            if is_urgent { now_ms } else { now_ms + self.random.around(self.limits.delay_ms) };
        if let Some(waiting) = self.wanted.get_mut(&key) {
            waiting.want.add(want);
            if is_urgent {
                waiting.not_before_ms = now_ms;
                self.order.retain(|other| *other != key);
                self.order.push_front(key);
            }
            return true;
        }
        if self.wanted.len() >= self.limits.max_wanted {
            return false;
        }
        self.wanted.insert(key.clone(), Waiting { want, not_before_ms, attempt: 0 });
        if is_urgent {
            self.order.push_front(key);
        } else {
            self.order.push_back(key);
        }
        true
    }

    /// Begins a repair that is due, if there is one and it may. There is one of a channel at once: what two peers have need not
    /// be got twice.
    pub fn start(&mut self, now_ms: u64) -> Option<(u64, Key, Want)> {
        if self.running.len() >= self.limits.max_running {
            return None;
        }
        for _ in 0..self.order.len().min(MAX_LOOKED_AT) {
            let key = self.order.pop_front()?;
            let is_due = self.wanted.get(&key).is_some_and(|waiting| waiting.not_before_ms <= now_ms)
                && !self.running.values().any(|running| running.key.channel == key.channel);
            if !is_due {
                self.order.push_back(key);
                continue;
            }
            let Waiting { want, attempt, .. } = self.wanted.remove(&key)?;
            self.last_id += 1;
            let running = Running {
                key: key.clone(),
                want: want.clone(),
                attempt,
                asked: None,
                merging: 0,
                next: None,
            };
            self.running.insert(self.last_id, running);
            return Some((self.last_id, key, want));
        }
        None
    }

    /// The question was put.
    pub fn asked(&mut self, id: u64, from: Place, now_ms: u64) {
        if let Some(running) = self.running.get_mut(&id) {
            running.asked = Some((now_ms + self.limits.timeout_ms, from));
            running.next = None;
        }
    }

    /// A page has come; whether it is one that was asked for, and is to be merged. `next` is where it ends, unless it is the
    /// last. One that does not get on, as no right peer's would, is none: else it would be asked for for ever.
    pub fn answered(&mut self, id: u64, key: &Key, next: Option<Place>) -> bool {
        let Some(running) = self.running.get_mut(&id).filter(|running| running.key == *key) else {
            return false;
        };
        let gets_on = |from: &Place| {
            next.as_ref().is_none_or(|next| next.site_id != from.site_id || next.after > from.after)
        };
        if !running.asked.as_ref().is_some_and(|(_, from)| gets_on(from)) {
            return false;
        }
        // The peer answers: whatever is slow from here on begins anew.
        (running.asked, running.attempt) = (None, 0);
        running.merging += 1;
        running.next = next;
        true
    }

    /// From where the next page is to be asked for, if it may be now: while one page is merged the next one is on its way,
    /// and no more.
    pub fn next(&self, id: u64) -> Option<Place> {
        let running = self.running.get(&id)?;
        running.next.clone().filter(|_| running.merging <= 1)
    }

    /// A page is durable. If it was the last of its repair, that is done; gives what it was for.
    pub fn merged(&mut self, id: u64) -> Option<Want> {
        let running = self.running.get_mut(&id)?;
        running.merging -= 1;
        let is_done = running.merging == 0 && running.asked.is_none() && running.next.is_none();
        if is_done { self.done(id) } else { None }
    }

    /// A repair has come to its end; gives what it was for.
    pub fn done(&mut self, id: u64) -> Option<Want> {
        self.running.remove(&id).map(|running| running.want)
    }

    /// The peer has no such channel: whatever was wanted of it there is done. Gives what that was.
    pub fn absent(&mut self, key: &Key) -> Vec<Want> {
        let waiting = self.wanted.remove(key).map(|waiting| waiting.want);
        self.order.retain(|other| other != key);
        let ids: Vec<u64> = self.running.iter().filter(|(_, r)| r.key == *key).map(|(id, _)| *id).collect();
        let running = ids.into_iter().filter_map(|id| self.done(id));
        running.chain(waiting).collect()
    }

    /// A repair has failed: it is tried again later, unless that was often enough. Gives what it was for, if it was under way.
    pub fn failed(&mut self, id: u64, now_ms: u64) -> Option<Want> {
        let Running { key, want, attempt, .. } = self.running.remove(&id)?;
        if let Some(again) = self.wanted.get_mut(&key) {
            again.want.add(want.clone());
        } else if attempt + 1 < MAX_ATTEMPTS && self.wanted.len() < self.limits.max_wanted {
            let pause_ms = backoff_ms(&mut self.random, RETRY_MS.0, RETRY_MS.1, attempt);
            let waiting =
                Waiting { want: want.clone(), not_before_ms: now_ms + pause_ms, attempt: attempt + 1 };
            self.wanted.insert(key.clone(), waiting);
            self.order.push_back(key);
        }
        Some(want)
    }

    /// Fails the repairs whose page has not come in time; gives what they were for.
    pub fn expire(&mut self, now_ms: u64) -> Vec<(Key, Want)> {
        let is_late =
            |running: &Running| running.asked.as_ref().is_some_and(|(until_ms, _)| *until_ms <= now_ms);
        let mut late: Vec<(u64, Key)> = self
            .running
            .iter()
            .filter(|(_, running)| is_late(running))
            .map(|(id, running)| (*id, running.key.clone()))
            .collect();
        // Not in the order of a hash map.
        late.sort_unstable_by_key(|(id, _)| *id);
        late.into_iter().filter_map(|(id, key)| Some((key, self.failed(id, now_ms)?))).collect()
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

    fn want(cause: Cause, version: u64) -> Want {
        Want { cause, site_id: "S".into(), version, digest: None }
    }

    const BEHIND: Cause = Cause::Behind;

    fn place(version: u64) -> Place {
        Place { site_id: "S".into(), after: Position { version, seq: 0 }, complete: 0 }
    }

    fn next() -> Option<Place> {
        Some(place(1))
    }

    #[test]
    fn signs_are_one_repair_and_too_many_are_dropped() {
        let mut repairs = Repairs::new(LIMITS, 1);
        assert!(repairs.want(key(1, 1), want(BEHIND, 5), false, 0));
        assert!(repairs.want(key(1, 1), want(Cause::Differs, 3), false, 0));
        let (id, k, wanted) = repairs.start(0).unwrap();
        assert_eq!((k, wanted.cause, wanted.version), (key(1, 1), Cause::Differs, 5));
        assert!(repairs.want(key(1, 1), want(BEHIND, 9), false, 0));
        assert!(repairs.want(key(1, 2), want(BEHIND, 4), false, 0));
        assert!(repairs.start(0).is_none(), "one repair of a channel at once, whoever the peer is");
        assert_eq!(repairs.done(id).unwrap().version, 5);
        assert_eq!(repairs.start(0).unwrap().2.version, 9);
        for n in 2..5 {
            assert!(repairs.want(key(n, 1), want(BEHIND, 1), false, 0));
        }
        assert!(!repairs.want(key(6, 1), want(BEHIND, 1), true, 0));
        assert!(repairs.start(0).is_some());
        assert!(repairs.start(0).is_none(), "two at once");
        assert_eq!(repairs.counts(), (3, 2));
    }

    #[test]
    fn what_is_urgent_goes_first_and_at_once() {
        let limits = RepairLimits { delay_ms: 100, ..LIMITS };
        let mut repairs = Repairs::new(limits, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
        repairs.want(key(2, 1), want(BEHIND, 1), false, 0);
        assert!(repairs.start(0).is_none());
        repairs.want(key(2, 1), want(BEHIND, 1), true, 0);
        assert_eq!(repairs.start(0).unwrap().1, key(2, 1));
        repairs.want(key(3, 1), want(BEHIND, 1), true, 200);
        assert_eq!(repairs.start(200).unwrap().1, key(3, 1), "the first one is due as well");
    }

    #[test]
    fn an_answer_is_taken_once_and_from_who_was_asked() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
        let (id, ..) = repairs.start(0).unwrap();
        assert!(!repairs.answered(id, &key(1, 1), None), "nobody was asked yet");
        repairs.asked(id, place(0), 0);
        assert!(!repairs.answered(id, &key(1, 2), None));
        assert!(!repairs.answered(id, &key(2, 1), None));
        assert!(!repairs.answered(id + 1, &key(1, 1), None));
        assert!(repairs.answered(id, &key(1, 1), None));
        assert!(!repairs.answered(id, &key(1, 1), None));
        assert!(repairs.expire(u64::MAX).is_empty(), "a page that is being merged has come");
        assert!(repairs.merged(id).is_some());
        assert!(!repairs.answered(id, &key(1, 1), None));
        assert_eq!(repairs.counts(), (0, 0));
    }

    #[test]
    fn a_page_is_on_its_way_while_one_is_merged_and_no_more() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
        let (id, ..) = repairs.start(0).unwrap();
        repairs.asked(id, place(0), 0);
        assert!(repairs.answered(id, &key(1, 1), next()));
        assert_eq!(repairs.next(id), next());
        repairs.asked(id, place(0), 0);
        assert_eq!(repairs.next(id), None, "one was asked for");
        assert!(repairs.answered(id, &key(1, 1), next()));
        assert_eq!(repairs.next(id), None, "two wait to be durable");
        assert!(repairs.merged(id).is_none());
        assert_eq!(repairs.next(id), next());
        repairs.asked(id, place(0), 0);
        assert!(repairs.merged(id).is_none(), "nothing is merged, but a page is awaited");
        assert!(repairs.answered(id, &key(1, 1), None));
        assert_eq!(repairs.next(id), None, "it was the last");
        assert!(repairs.merged(id).is_some());
    }

    #[test]
    fn a_page_that_does_not_get_on_is_none() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
        let (id, ..) = repairs.start(0).unwrap();
        repairs.asked(id, place(3), 0);
        assert!(!repairs.answered(id, &key(1, 1), Some(place(3))));
        // The peer was restored, and begins anew.
        let other = Place { site_id: "T".into(), ..place(1) };
        assert!(repairs.answered(id, &key(1, 1), Some(other.clone())));
        repairs.asked(id, other, 0);
        assert!(repairs.answered(id, &key(1, 1), None));
    }

    #[test]
    fn of_who_has_no_such_channel_nothing_is_wanted() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
        let (id, ..) = repairs.start(0).unwrap();
        repairs.asked(id, place(0), 0);
        repairs.want(key(1, 1), want(BEHIND, 2), false, 0);
        repairs.want(key(1, 2), want(BEHIND, 3), false, 0);
        assert_eq!(repairs.absent(&key(1, 1)).len(), 2);
        assert!(!repairs.has(&key(1, 1)));
        assert_eq!(repairs.start(0).unwrap().1, key(1, 2));
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_and_then_no_more() {
        let mut repairs = Repairs::new(LIMITS, 1);
        repairs.want(key(1, 1), want(BEHIND, 1), false, 0);
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
            repairs.asked(id, place(0), now);
            assert!(repairs.expire(now + 999).is_empty());
            now += 1_000;
            assert_eq!(repairs.expire(now).len(), 1);
            assert_eq!(repairs.counts(), (usize::from(attempt < MAX_ATTEMPTS), 0));
        }
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
        assert!(repairs.want(key(1, 1), want(BEHIND, 1), false, now), "the next sign tries again");
    }

    proptest! {
        /// Any signs, answers and failures: the bounds hold, and in the end everything that was wanted was repaired.
        #[test]
        fn whatever_happens_bounds_hold_and_all_ends(
            seed in any::<u64>(),
            acts in prop::collection::vec((0u8..6, 0u8..4, 0u8..3, 0u64..500, any::<bool>()), 0..200),
        ) {
            let mut repairs = Repairs::new(LIMITS, seed);
            let (mut now, mut under_way) = (0, HashMap::new());
            for (act, channel, node, pass, yes) in acts {
                now += pass;
                let some = under_way.keys().copied().min();
                match (act, some) {
                    (0, _) => drop(repairs.want(key(channel, node), want(BEHIND, 1), yes, now)),
                    (1, _) => if let Some((id, key, _)) = repairs.start(now) {
                        prop_assert!(!under_way.values().any(|k: &Key| k.channel == key.channel));
                        repairs.asked(id, place(0), now);
                        under_way.insert(id, key);
                    },
                    (2, Some(id)) => if repairs.answered(id, &under_way[&id], next().filter(|_| yes))
                        && repairs.next(id).is_some()
                    {
                        repairs.asked(id, place(0), now);
                    },
                    (3, Some(id)) if repairs.running[&id].merging > 0 => if repairs.merged(id).is_some() {
                        under_way.remove(&id);
                    } else if repairs.next(id).is_some() {
                        repairs.asked(id, place(0), now);
                    },
                    (4, Some(id)) => {
                        repairs.absent(&under_way[&id]);
                        under_way.remove(&id);
                    }
                    _ => {
                        repairs.expire(now);
                        under_way.retain(|id, _| repairs.running.contains_key(id));
                    }
                }
                let (wanted, running) = repairs.counts();
                prop_assert!(wanted <= LIMITS.max_wanted && running <= LIMITS.max_running);
                prop_assert!(repairs.running.values().all(|running| running.merging <= 2));
                prop_assert_eq!(running, under_way.len());
                prop_assert_eq!(repairs.order.len(), wanted);
            }
            under_way.into_keys().for_each(|id| drop(repairs.done(id)));
            while repairs.counts() != (0, 0) {
                now += 100;
                if let Some((id, ..)) = repairs.start(now) {
                    repairs.done(id);
                }
            }
        }
    }
}
