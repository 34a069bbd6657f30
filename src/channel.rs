//! A shard's state for one channel: its store, its version, its followers.

use std::sync::Arc;
use std::time::Duration;

use causeway_storage::store::{site_id_of, unix_time_s};
use causeway_storage::{
    Change, ChangeStore, ChannelStore, Clamp, Outcome, Quota, RemadeTable, StoreError, Update as StoreUpdate,
    merge_within,
};
use ring::digest;
use tokio::time::Instant;

use crate::fanout::{Fanout, Pending};
use crate::limits::Limit;
use crate::metrics::Metrics;
use crate::outbox::{ConnectionId, Outbox};
use crate::protocol::encode::Encoder;
use crate::protocol::{Code, Refusal};
use crate::unavailable::Use;

/// A channel that has followers, or had some a short while ago.
pub struct Channel {
    name: Arc<str>,
    encoder: Arc<Encoder>,
    version: u64,
    followers: Vec<Arc<Outbox>>,
    /// `None` while the channel is idle, or after an error: then it is opened anew for the next update.
    store: Option<Box<dyn ChannelStore>>,
    /// The site id of a channel that is not in the store. It is made with its first update: whoever only reads makes none,
    /// whatever names it thinks of.
    unmade: Option<String>,
    /// Whether a commit has failed that may have reached the disk all the same, above `version`.
    in_doubt: bool,
    used: Instant,
    /// When old peers are next looked for.
    peers_due: Instant,
}

/// What bounds a channel's commits.
#[derive(Clone, Copy, Debug)]
pub struct CommitRules {
    /// How far clocks may jump.
    pub clamp: Clamp,
    /// How long a peer is remembered that is not heard of again.
    pub peer_retention: Duration,
    /// How large the channel may become.
    pub quota: Quota,
}

/// How often old peers are looked for, at most.
const PEER_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// The most peers that one commit forgets.
const PEER_SWEEP_MAX: usize = 10_000;

impl Channel {
    /// Opens a channel; if there is none, it is made with its first update, with a site id that is the same for as long as
    /// the `seed` is, however often it is opened before.
    pub fn open(store: &dyn ChangeStore, name: &Arc<str>, seed: &str) -> Result<Self, StoreError> {
        let opened = store.open_existing(name)?;
        let unmade = opened.is_none().then(|| derived_site_id(seed, name));
        let site_id = opened.as_ref().map(|opened| opened.site_id()).or(unmade.as_deref());
        Ok(Channel {
            name: name.clone(),
            encoder: Arc::new(Encoder::new(name, site_id.unwrap_or_default())),
            version: opened.as_ref().map_or(0, |opened| opened.head().version),
            followers: Vec::new(),
            store: opened,
            unmade,
            in_doubt: false,
            used: Instant::now(),
            peers_due: Instant::now(),
        })
    }

    /// Adds a follower, greeted at the channel's version: the disk's, which others may have seen in a page.
    pub fn join(&mut self, store: &dyn ChangeStore, outbox: Arc<Outbox>) -> Result<Arc<Encoder>, StoreError> {
        if self.in_doubt {
            self.opened(store)?;
        }
        outbox.greet(self.encoder.connected(self.version), self.version);
        self.followers.push(outbox);
        Ok(self.encoder.clone())
    }

    /// Takes a follower away.
    pub fn leave(&mut self, connection: ConnectionId) {
        if let Some(at) = self.followers.iter().position(|f| f.id() == connection) {
            self.followers.swap_remove(at);
        }
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The channel's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Everyone who is connected to it.
    pub fn followers(&self) -> &[Arc<Outbox>] {
        &self.followers
    }

    /// Whether its store is open.
    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Whether it is in the store.
    pub fn is_made(&self) -> bool {
        self.unmade.is_none()
    }

    /// Tells the senders that their updates would make one channel too many.
    pub fn refuse(&self, pending: &[Pending], metrics: &Metrics) {
        for Pending { outbox, update, .. } in pending {
            let message = "there are as many channels as there may be (max_channels)";
            let refusal = Refusal::new(Code::QuotaExceeded, message).of_update(update.version);
            metrics.limited(Limit::Channels);
            metrics.refused(refusal.code);
            outbox.reply(self.encoder.error_frame(&refusal));
        }
    }

    /// When it was last written.
    pub fn used(&self) -> Instant {
        self.used
    }

    /// Closes its store; the next update opens it again.
    pub fn close(&mut self) {
        self.store = None;
    }

    /// Merges the updates in one durable commit, then acks them and passes the winners on. If the store fails, each
    /// sender is told so, nobody else hears of it, and the channel is read from disk again.
    pub fn commit(
        &mut self,
        store: &dyn ChangeStore,
        pending: &[Pending],
        rules: &CommitRules,
        metrics: &Metrics,
    ) {
        self.used = Instant::now();
        match self.merge(store, pending, rules) {
            Ok(outcomes) => {
                let committed = Instant::now();
                metrics.storage_works(&self.name, Use::Write);
                metrics.committed(
                    pending.iter().map(|p| p.update.len()).sum(),
                    committed - self.used,
                    &outcomes,
                );
                let fanout = Fanout::new(&self.encoder, metrics, pending, &outcomes, self.version);
                self.version = fanout.version();
                fanout.tell(&self.followers);
                metrics.told(committed, pending.iter().map(|p| p.received));
            }
            Err(e) => {
                metrics.storage_failed(&self.name, Use::Write, &e);
                (self.store, self.in_doubt) = (None, true);
                for Pending { outbox, update, .. } in pending {
                    let message = "the server could not store this update; send it again later";
                    let refusal = Refusal::new(Code::Storage, message).of_update(update.version);
                    metrics.refused(refusal.code);
                    outbox.reply(self.encoder.error_frame(&refusal));
                }
            }
        }
    }

    /// Makes the application's tables anew from the cells; `None` if the store keeps none. If that fails the channel is read
    /// from disk again.
    pub fn remake_tables(&mut self, store: &dyn ChangeStore) -> Result<Option<Vec<RemadeTable>>, StoreError> {
        self.used = Instant::now();
        let remade = self.opened(store)?.remake_tables();
        if remade.is_err() {
            self.store = None;
        }
        remade
    }

    fn merge(
        &mut self,
        store: &dyn ChangeStore,
        pending: &[Pending],
        rules: &CommitRules,
    ) -> Result<Vec<Outcome>, StoreError> {
        self.forget_peers(store, rules.peer_retention)?;
        let opened = self.opened(store)?;
        let changes: Vec<Change<'_>> = pending.iter().flat_map(|p| p.update.changes()).collect();
        let mut rest = &changes[..];
        let updates: Vec<StoreUpdate<'_>> = pending
            .iter()
            .map(|Pending { update, .. }| {
                let (changes, others) = rest.split_at(update.len());
                rest = others;
                StoreUpdate { site_id: update.site_id(), version: update.version, changes }
            })
            .collect();
        merge_within(opened, &updates, &rules.clamp, rules.quota)
    }

    /// Forgets, if it is time to, the peers that were not heard of for that long, in a commit of its own.
    fn forget_peers(&mut self, store: &dyn ChangeStore, retention: Duration) -> Result<(), StoreError> {
        if self.used < self.peers_due {
            return Ok(());
        }
        let seen_s = unix_time_s().saturating_sub(retention.as_secs());
        let opened = self.opened(store)?;
        opened.begin()?;
        let forgotten = opened.forget_peers(seen_s, PEER_SWEEP_MAX);
        match forgotten {
            Ok(1..) => opened.commit(opened.head())?,
            _ => opened.rollback(),
        }
        // What was more than one commit takes is next time's.
        let interval = PEER_SWEEP_INTERVAL.min(retention);
        self.peers_due = if forgotten? < PEER_SWEEP_MAX { self.used + interval } else { self.used };
        Ok(())
    }

    /// Its store, opened if it is not.
    fn opened(&mut self, store: &dyn ChangeStore) -> Result<&mut dyn ChannelStore, StoreError> {
        let opened = match &mut self.store {
            Some(opened) => opened,
            closed => {
                if let Some(site_id) = &self.unmade {
                    match store.create(&self.name, site_id) {
                        // It was made after all, and somebody was told of an error.
                        Ok(()) | Err(StoreError::Exists { .. }) => self.unmade = None,
                        Err(e) => return Err(e),
                    }
                }
                let opened = store.open(&self.name)?;
                let version = opened.head().version;
                if version > self.version {
                    // A commit whose senders were told of an error has reached the disk all the same.
                    self.followers.iter().for_each(|follower| follower.missed(version));
                }
                (self.version, self.in_doubt) = (version, false);
                closed.insert(opened)
            }
        };
        Ok(opened.as_mut())
    }
}

/// 16 bytes that nobody else has, as upper-case hex.
fn derived_site_id(seed: &str, channel: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(seed.as_bytes());
    hash.update(channel.as_bytes());
    site_id_of(&hash.finish().as_ref()[..16])
}

#[cfg(test)]
mod tests;
