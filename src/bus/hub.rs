//! What shards and the bus's own task share: shards tell what clients did, and how channels stand; nobody waits for anybody.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::active::ActiveChannels;
use super::heard::HeardOf;
use super::mailbox::Mailbox;
use super::message::{Identity, State, Topic};
use crate::metrics::BusMetrics;

/// After how long nobody waits any more for what Redis is to bring.
const STALLED: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub struct Hub {
    /// This node.
    pub identity: Identity,
    /// What is to be published.
    pub outgoing: Mailbox,
    /// What is counted.
    pub metrics: BusMetrics,
    limits: HubLimits,
    active: Mutex<ActiveChannels>,
    missed: Mutex<Vec<Missed>>,
    /// Channels that were compared with all nodes since they can be heard.
    compared: Mutex<HashSet<Arc<str>, RandomState>>,
    opened: mpsc::UnboundedSender<Opened>,
    others: watch::Sender<Vec<Arc<str>>>,
    link: watch::Sender<Link>,
    /// Since when Redis is to take something, if it is.
    publishing: Mutex<Option<Instant>>,
}

/// Something that another node sent is not here.
#[derive(Clone, Debug)]
pub struct Missed {
    /// The channel.
    pub channel: Arc<str>,
    /// The node that has it.
    pub node: Arc<str>,
    /// The channel's site id there.
    pub site_id: Arc<str>,
    /// The version there that has it.
    pub version: u64,
}

/// How it is with Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// It was not tried yet.
    Starting,
    /// Other nodes can be heard.
    Up,
    /// They cannot.
    Down,
}

/// The bounds of what a hub remembers.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// How large a message of changes may become that could be two, in bytes.
    pub max_update_bytes: usize,
    /// Channels that were written a while ago.
    pub max_active: usize,
    /// Signs of gaps that wait, and channels that were compared. What is dropped beyond it, the next digest shows.
    pub max_remembered: usize,
    /// How long a channel's first client waits for what other nodes have.
    pub catch_up_timeout: Duration,
}

/// A channel that somebody has come for, and where it is said that it has what other nodes have.
pub type Opened = (Arc<str>, oneshot::Sender<()>);

impl Hub {
    /// The hub of a node, and where it says which channels are opened.
    pub fn new(
        identity: Identity,
        outgoing: Mailbox,
        limits: HubLimits,
        metrics: BusMetrics,
    ) -> (Self, mpsc::UnboundedReceiver<Opened>) {
        metrics.enabled();
        let (opened, openings) = mpsc::unbounded_channel();
        let hub = Hub {
            identity,
            outgoing,
            metrics,
            limits,
            active: Mutex::new(ActiveChannels::new(limits.max_active)),
            missed: Mutex::default(),
            compared: Mutex::default(),
            opened,
            others: watch::Sender::new(Vec::new()),
            link: watch::Sender::new(Link::Starting),
            publishing: Mutex::default(),
        };
        (hub, openings)
    }

    /// What bounds it.
    pub fn limits(&self) -> &HubLimits {
        &self.limits
    }

    /// Tells the other nodes what clients did; `changes` are JSON with commas between them.
    pub fn update(&self, channel: &str, site_id: &str, from: u64, version: u64, changes: &[u8]) {
        let message = self.identity.update(channel, site_id, from, version, changes);
        if !self.outgoing.push(Topic::Others, message) {
            self.metrics.dropped_outgoing(1);
        }
    }

    /// Whether there is a node that hears what is published.
    pub fn is_heard(&self) -> bool {
        self.is_up() && !self.others.borrow().is_empty()
    }

    /// A commit has left a channel so; `heard` if it has changed what was heard, and whether it has published something.
    pub fn stands(&self, state: State, heard: Option<&HeardOf>, has_published: bool) {
        lock(&self.active).stands(state, heard, has_published, Instant::now());
    }

    /// The channels that were written a while ago.
    pub fn active(&self) -> MutexGuard<'_, ActiveChannels> {
        lock(&self.active)
    }

    /// How a channel stands is not known any more.
    pub fn forget(&self, channel: &str) {
        lock(&self.active).forget(channel);
        lock(&self.compared).remove(channel);
    }

    /// Something that another node sent is not here.
    pub fn missed(&self, channel: &Arc<str>, node: &Arc<str>, site_id: &str, version: u64) {
        self.metrics.gap();
        let mut missed = lock(&self.missed);
        if missed.len() < self.limits.max_remembered {
            let (channel, node) = (channel.clone(), node.clone());
            missed.push(Missed { channel, node, site_id: site_id.into(), version });
        }
    }

    /// Takes what was missed since.
    pub fn take_missed(&self) -> Vec<Missed> {
        std::mem::take(&mut lock(&self.missed))
    }

    /// Waits until a channel that somebody comes for has what other nodes have that can be heard, if it was not compared
    /// since they can be. Not for ever: what is not there in time follows.
    pub async fn opened(&self, channel: &Arc<str>) {
        let catch_up = async {
            let mut link = self.link.subscribe();
            let Ok(link) = link.wait_for(|link| *link != Link::Starting).await.map(|link| *link) else {
                return;
            };
            if link == Link::Down || self.is_stalled() || lock(&self.compared).contains(channel) {
                return;
            }
            let (done, caught_up) = oneshot::channel();
            // With the bus gone nobody waits: the sender is dropped.
            let _ = self.opened.send((channel.clone(), done));
            let _ = caught_up.await;
        };
        // Too late is said where it is known what was waited for.
        let _ = timeout(self.limits.catch_up_timeout, catch_up).await;
    }

    /// A channel has been compared with the nodes that can be heard.
    pub fn compared(&self, channel: Arc<str>) {
        let mut compared = lock(&self.compared);
        if compared.len() >= self.limits.max_remembered {
            // Each costs its next client a comparison.
            compared.clear();
        }
        compared.insert(channel);
    }

    /// The other nodes that are heard; whom to hear besides.
    pub fn others(&self) -> &watch::Sender<Vec<Arc<str>>> {
        &self.others
    }

    /// Whether other nodes can be heard.
    pub fn is_up(&self) -> bool {
        *self.link.borrow() == Link::Up
    }

    /// Redis is to take something, or has done so.
    pub fn publishing(&self, is_under_way: bool) {
        *lock(&self.publishing) = is_under_way.then(Instant::now);
    }

    /// Whether Redis has not answered for a while, though it does not count as gone yet.
    pub fn is_stalled(&self) -> bool {
        lock(&self.publishing).is_some_and(|since| since.elapsed() > STALLED)
    }

    /// Other nodes can be heard, or not any more. What waited for them is dropped.
    pub fn set_up(&self, up: bool) {
        if !up {
            self.metrics.dropped_outgoing(self.outgoing.clear());
            self.publishing(false);
            lock(&self.compared).clear();
        }
        self.link.send_replace(if up { Link::Up } else { Link::Down });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
