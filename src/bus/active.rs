//! The channels that were written a while ago: how they stand, and which of their versions other nodes have yet to confirm.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::facts::Facts;
use super::heard::HeardOf;
use super::message::{MAX_HEARD, State};

/// How closely the age of what is not confirmed is known.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// Marks of a channel. When there are so many, the last stands for all that is published, until one is confirmed: what is
/// not confirmed seems older then, not younger.
const MAX_MARKS: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct ActiveChannels {
    channels: HashMap<Arc<str>, Active, RandomState>,
    max: usize,
}

/// A channel that was written a while ago.
#[derive(Clone, Debug)]
pub struct Active {
    /// How it stands.
    pub state: State,
    /// What was heard of other nodes; `None` if that is not known here.
    pub heard: Option<HeardOf>,
    written: Instant,
    /// The version before which nothing was published since this node was started.
    base: u64,
    /// Versions that were published after it, and when, the oldest first.
    marks: VecDeque<(u64, Instant)>,
    /// Up to which published version each node has all.
    confirmed: HashMap<Arc<str>, u64, RandomState>,
}

/// How far another node is behind this one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// For how long it has not confirmed something that was published.
    pub time: Duration,
    /// How many versions of the channel of which it lacks the most.
    pub versions: u64,
}

impl ActiveChannels {
    /// At most `max` channels; more are not remembered.
    pub fn new(max: usize) -> Self {
        ActiveChannels { channels: HashMap::default(), max }
    }

    /// How a channel stands, if it was written a while ago.
    pub fn get(&self, channel: &str) -> Option<&Active> {
        self.channels.get(channel)
    }

    /// A commit has left a channel so; `heard` if it has changed what was heard, and whether it has published something.
    pub fn stands(&mut self, state: State, heard: Option<&HeardOf>, has_published: bool, now: Instant) {
        if let Some(active) = self.channels.get_mut(&state.channel) {
            // Another database under the same name has heard other nodes, and been heard of them, anew.
            if active.state.site_id != state.site_id {
                *active = Active::new(state.clone(), now);
            }
            if has_published {
                active.mark(state.published, now);
            }
            (active.state, active.written) = (state, now);
            if let Some(heard) = heard {
                active.heard = Some(heard.clone());
            }
        } else if self.channels.len() < self.max {
            let mut active = Active::new(state, now);
            active.heard = heard.cloned();
            if has_published {
                active.mark(active.state.published, now);
            }
            self.channels.insert(active.state.channel.clone(), active);
        }
    }

    /// How a channel stands is not known any more.
    pub fn forget(&mut self, channel: &str) {
        self.channels.remove(channel);
    }

    /// What the store has of a channel, which is remembered if it was not known. Gives what was published of it last, if it is
    /// known.
    pub fn learn(&mut self, channel: &str, facts: &Facts) -> Option<u64> {
        let active = self.channels.get_mut(channel)?;
        if facts.site_id.as_ref() != Some(&active.state.site_id) {
            return None;
        }
        // What a commit has told since is newer.
        active.heard.get_or_insert_with(|| facts.heard.clone());
        Some(active.state.published)
    }

    /// A node has all of a channel that was published up to a version.
    pub fn confirm(&mut self, channel: &str, node: &Arc<str>, version: u64) {
        let Some(active) = self.channels.get_mut(channel) else { return };
        match active.confirmed.get_mut(node) {
            Some(confirmed) => *confirmed = version.max(*confirmed),
            None => drop(active.confirmed.insert(node.clone(), version)),
        }
    }

    /// How the channels stand that were written in that time. Others are forgotten, unless one of `nodes` has yet to confirm
    /// something of them.
    pub fn states(&mut self, nodes: &[Arc<str>], for_the_last: Duration, now: Instant) -> Vec<State> {
        let mut states = Vec::new();
        self.channels.retain(|_, active| {
            active.confirmed.retain(|node, _| nodes.contains(node));
            let confirmed = nodes.iter().map(|node| active.confirmed_by(node)).min().unwrap_or(u64::MAX);
            while active.marks.front().is_some_and(|(version, _)| *version <= confirmed) {
                active.marks.pop_front();
            }
            let is_active = now - active.written <= for_the_last;
            if is_active {
                states.push(active.told());
            }
            is_active || !active.marks.is_empty()
        });
        states
    }

    /// How far each of the nodes is behind, in their order.
    pub fn lags(&self, nodes: &[Arc<str>], now: Instant) -> Vec<Lag> {
        let mut lags = vec![Lag::default(); nodes.len()];
        for active in self.channels.values() {
            for (node, lag) in nodes.iter().zip(&mut lags) {
                let confirmed = active.confirmed_by(node);
                let mut missing = active.marks.iter().filter(|(version, _)| *version > confirmed);
                if let Some((_, published)) = missing.next() {
                    lag.time = lag.time.max(now - *published);
                    lag.versions = lag.versions.max(active.state.published - confirmed.max(active.base));
                }
            }
        }
        lags
    }
}

impl Active {
    /// How it stands, with what was heard of other nodes, to be told.
    pub fn told(&self) -> State {
        let heard = self.heard.as_ref().map_or_else(Vec::new, |heard| heard.latest(MAX_HEARD));
        State { heard, ..self.state.clone() }
    }

    fn new(state: State, now: Instant) -> Self {
        Active {
            heard: None,
            written: now,
            base: state.published.saturating_sub(1),
            marks: VecDeque::new(),
            confirmed: HashMap::default(),
            state,
        }
    }

    fn mark(&mut self, version: u64, now: Instant) {
        let is_full = self.marks.len() == MAX_MARKS;
        match self.marks.back_mut() {
            // The older of the two stands for both.
            Some((marked, at)) if is_full || now - *at < MARK_EVERY => *marked = version,
            _ => self.marks.push_back((version, now)),
        }
    }

    fn confirmed_by(&self, node: &str) -> u64 {
        self.confirmed.get(node).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(channel: &str, published: u64) -> State {
        State { site_id: "S".into(), version: published, published, ..State::absent(channel.into()) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_a_node_has_not_confirmed_has_an_age() {
        let (b, c): (Arc<str>, Arc<str>) = ("b".into(), "c".into());
        let nodes = [b.clone(), c.clone()];
        let mut channels = ActiveChannels::new(10);
        let start = Instant::now();
        channels.stands(state("x", 5), None, true, start);
        channels.stands(state("x", 6), None, true, start + ms(10));
        channels.stands(state("x", 9), None, true, start + ms(500));
        let now = start + ms(800);
        assert_eq!(channels.lags(&nodes, now), [Lag { time: ms(800), versions: 5 }; 2]);
        channels.confirm("x", &b, 6);
        let lags = channels.lags(&nodes, now);
        assert_eq!(lags, [Lag { time: ms(300), versions: 3 }, Lag { time: ms(800), versions: 5 }]);
        channels.confirm("x", &b, 9);
        channels.confirm("x", &c, 9);
        channels.confirm("x", &c, 3);
        assert_eq!(channels.lags(&nodes, now), [Lag::default(); 2]);
        // Not used any more, and known to all.
        assert_eq!(channels.states(&nodes, ms(100), now), []);
        assert!(channels.get("x").is_none());
    }

    #[test]
    fn an_unused_channel_is_remembered_until_all_have_it_but_not_told() {
        let nodes = ["b".into()];
        let mut channels = ActiveChannels::new(2);
        let start = Instant::now();
        channels.stands(state("x", 1), None, true, start);
        // Heard of another node, so that there is nothing to confirm.
        channels.stands(state("y", 1), None, false, start);
        channels.stands(state("z", 1), None, true, start);
        assert!(channels.get("z").is_none(), "one too many");
        assert_eq!(channels.states(&nodes, ms(100), start + ms(10)).len(), 2);
        assert_eq!(channels.states(&nodes, ms(100), start + ms(200)), []);
        assert!(channels.get("x").is_some() && channels.get("y").is_none());
        assert_eq!(channels.lags(&nodes, start + ms(200))[0], Lag { time: ms(200), versions: 1 });
        // The node is not counted on any more.
        assert_eq!(channels.states(&[], ms(100), start + ms(300)), []);
        assert!(channels.get("x").is_none());
    }

    #[test]
    fn marks_are_bounded() {
        let (b, mut now) = (Arc::from("b"), Instant::now());
        let mut channels = ActiveChannels::new(1);
        let start = now;
        for n in 0..1_000 {
            channels.stands(state("x", n + 1), None, true, now);
            now += ms(60);
        }
        assert_eq!(channels.channels["x"].marks.len(), MAX_MARKS);
        channels.confirm("x", &b, 500);
        let lag = channels.lags(&[b], now)[0];
        assert_eq!(lag.versions, 500);
        assert!(lag.time >= ms(500 * 60), "not younger than it is");
        assert!(now - start > lag.time);
    }
}
