//! What shards and the bus's own task share: shards tell what clients did, and how channels stand; nobody waits for anybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::heard::HeardOf;
use super::mailbox::Mailbox;
use super::message::{Identity, State, Topic};
use crate::metrics::BusMetrics;

/// Signs of gaps that wait for the bus's task. What is dropped beyond it, the next digest shows.
const MAX_MISSED: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Hub {
    /// This node.
    pub identity: Identity,
    /// What is to be published.
    pub outgoing: Mailbox,
    /// What is counted.
    pub metrics: BusMetrics,
    max_update_bytes: usize,
    max_active: usize,
    active: Mutex<HashMap<Arc<str>, Active>>,
    missed: Mutex<Vec<Missed>>,
    up: AtomicBool,
}

/// A channel that was written a while ago.
#[derive(Clone, Debug)]
pub struct Active {
    /// How it stands.
    pub state: State,
    /// What was heard of other nodes; `None` if that is not known here.
    pub heard: Option<HeardOf>,
    written: Instant,
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

impl Hub {
    /// The hub of a node. Messages of changes have about `max_update_bytes`; at most `max_active` channels are remembered.
    pub fn new(
        identity: Identity,
        outgoing: Mailbox,
        max_update_bytes: usize,
        max_active: usize,
        metrics: BusMetrics,
    ) -> Self {
        Hub {
            identity,
            outgoing,
            metrics,
            max_update_bytes,
            max_active,
            active: Mutex::default(),
            missed: Mutex::default(),
            up: AtomicBool::new(false),
        }
    }

    /// How large a message of changes may become that could be two, in bytes.
    pub fn max_update_bytes(&self) -> usize {
        self.max_update_bytes
    }

    /// Tells all nodes what clients did; `changes` are JSON with commas between them.
    pub fn update(&self, channel: &str, site_id: &str, from: u64, version: u64, changes: &[u8]) {
        // While nobody hears, it is a gap without the work.
        let told = self.is_up()
            && self.outgoing.push(Topic::All, self.identity.update(channel, site_id, from, version, changes));
        if !told {
            self.metrics.dropped_outgoing(1);
        }
    }

    /// A commit has left a channel so; `heard` if it has changed what was heard.
    pub fn stands(&self, state: State, heard: Option<&HeardOf>) {
        let mut active = lock(&self.active);
        let written = Instant::now();
        if let Some(known) = active.get_mut(&state.channel) {
            // Another database under the same name has heard other nodes anew.
            if known.state.site_id != state.site_id {
                known.heard = None;
            }
            (known.state, known.written) = (state, written);
            if let Some(heard) = heard {
                known.heard = Some(heard.clone());
            }
        } else if active.len() < self.max_active {
            active.insert(state.channel.clone(), Active { state, heard: heard.cloned(), written });
        }
    }

    /// How a channel stands is not known any more.
    pub fn forget(&self, channel: &str) {
        lock(&self.active).remove(channel);
    }

    /// Something that another node sent is not here.
    pub fn missed(&self, channel: &Arc<str>, node: &Arc<str>, site_id: &str, version: u64) {
        self.metrics.gap();
        let mut missed = lock(&self.missed);
        if missed.len() < MAX_MISSED {
            let (channel, node) = (channel.clone(), node.clone());
            missed.push(Missed { channel, node, site_id: site_id.into(), version });
        }
    }

    /// Takes what was missed since.
    pub fn take_missed(&self) -> Vec<Missed> {
        std::mem::take(&mut lock(&self.missed))
    }

    /// A channel, if it was written a while ago.
    pub fn active(&self, channel: &str) -> Option<Active> {
        lock(&self.active).get(channel).cloned()
    }

    /// How the channels stand that were written in that time; the others are forgotten.
    pub fn active_states(&self, for_the_last: Duration) -> Vec<State> {
        let mut active = lock(&self.active);
        active.retain(|_, active| active.written.elapsed() <= for_the_last);
        active.values().map(|active| active.state.clone()).collect()
    }

    /// Whether other nodes can be heard.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Other nodes can be heard, or not any more. What waited for them is dropped.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
        if !up {
            self.metrics.dropped_outgoing(self.outgoing.clear());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
