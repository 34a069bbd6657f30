//! A shard's state for one channel: its store, its version, its followers.

use std::sync::Arc;
use std::time::Duration;

use causeway_storage::store::{site_id_of, unix_time_s};
use causeway_storage::{
    Change, ChangeStore, ChannelStore, Clamp, Origin, Outcome, Quota, RemadeTable, StoreError,
    Update as StoreUpdate, merge_from,
};
use ring::digest;
use tokio::time::Instant;

use crate::bus::heard::{Heard, HeardOf, classify};
use crate::bus::hub::Hub;
use crate::bus::message::State;
use crate::fanout::{Fanout, Pending, Sender};
use crate::limits::Limit;
use crate::metrics::Metrics;
use crate::outbox::{ConnectionId, Outbox};
use crate::protocol::encode::Encoder;
use crate::protocol::{Code, IncomingUpdate, Refusal};
use crate::unavailable::Use;

/// A channel that has followers, or had some a short while ago.
pub struct Channel {
    name: Arc<str>,
    site_id: Arc<str>,
    encoder: Arc<Encoder>,
    version: u64,
    /// Where other nodes are told, if there are any.
    bus: Option<Arc<Hub>>,
    /// The version that other nodes were told of last, or can find out that they were not.
    published: u64,
    /// What was heard of other nodes; `None` until one is heard.
    heard: Option<HeardOf>,
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
    /// the `seed` is, however often it is opened before. What its clients do is told on the `bus`.
    pub fn open(
        store: &dyn ChangeStore,
        name: &Arc<str>,
        seed: &str,
        bus: Option<Arc<Hub>>,
    ) -> Result<Self, StoreError> {
        let opened = store.open_existing(name)?;
        let unmade = opened.is_none().then(|| derived_site_id(seed, name));
        let site_id = opened.as_ref().map(|opened| opened.site_id()).or(unmade.as_deref());
        let site_id: Arc<str> = site_id.unwrap_or_default().into();
        let version = opened.as_ref().map_or(0, |opened| opened.head().version);
        Ok(Channel {
            name: name.clone(),
            encoder: Arc::new(Encoder::new(name, &site_id)),
            site_id,
            version,
            bus,
            published: version,
            heard: None,
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
        for (outbox, update) in clients(pending) {
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
        pending: Vec<Pending>,
        rules: &CommitRules,
        metrics: &Metrics,
    ) {
        self.used = Instant::now();
        match self.merge(store, &pending, rules) {
            Ok(outcomes) => {
                let committed = Instant::now();
                metrics.storage_works(&self.name, Use::Write);
                metrics.committed(
                    pending.iter().map(|p| p.update.len()).sum(),
                    committed - self.used,
                    &outcomes,
                );
                let fanout = Fanout::new(&self.encoder, metrics, &pending, &outcomes, self.version);
                self.version = fanout.version();
                fanout.tell(&self.followers);
                let clients = pending.iter().filter(|p| p.client().is_some());
                metrics.told(committed, clients.map(|p| p.received));
                if let Some(bus) = self.bus.clone() {
                    self.publish(&bus, &pending, &outcomes);
                }
                for Pending { sender, .. } in pending {
                    if let Sender::Node { merged: Some(merged), .. } = sender {
                        // Who asked may have given up.
                        let _ = merged.send(());
                    }
                }
            }
            Err(e) => {
                metrics.storage_failed(&self.name, Use::Write, &e);
                (self.store, self.in_doubt) = (None, true);
                if let Some(bus) = &self.bus {
                    bus.forget(&self.name);
                    // What nodes have sent is lost here.
                    for Pending { sender, update, .. } in &pending {
                        if let Sender::Node { node, .. } = sender {
                            bus.missed(&self.name, node, update.site_id(), update.version);
                        }
                    }
                }
                for (outbox, update) in clients(&pending) {
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
        self.opened(store)?;
        let (origins, heard) = self.origins(store, pending)?;
        let opened = self.opened(store)?;
        let changes: Vec<Change<'_>> = pending.iter().flat_map(|p| p.update.changes()).collect();
        let mut rest = &changes[..];
        let updates: Vec<(StoreUpdate<'_>, Origin)> = pending
            .iter()
            .zip(origins)
            .map(|(Pending { update, .. }, origin)| {
                let (changes, others) = rest.split_at(update.len());
                rest = others;
                (StoreUpdate { site_id: update.site_id(), version: update.version, changes }, origin)
            })
            .collect();
        let outcomes = merge_from(opened, &updates, &rules.clamp, rules.quota)?;
        if heard.is_some() {
            self.heard = heard;
        }
        Ok(outcomes)
    }

    /// Whose the updates are, and what will have been heard of other nodes with them, if any is a node's. Whatever a node sends
    /// is merged; that a gap lies before it is noted.
    fn origins(
        &mut self,
        store: &dyn ChangeStore,
        pending: &[Pending],
    ) -> Result<(Vec<Origin>, Option<HeardOf>), StoreError> {
        let mut heard = None;
        let mut origins = Vec::with_capacity(pending.len());
        for Pending { sender, update, .. } in pending {
            let Sender::Node { node, from, .. } = sender else {
                origins.push(Origin::Client);
                continue;
            };
            let heard = match &mut heard {
                Some(heard) => heard,
                none => none.insert(self.heard(store)?.clone()),
            };
            let (site_id, version) = (update.site_id(), update.version);
            let class = classify(heard.of(site_id), *from, version);
            match class {
                Heard::Next => heard.advance(site_id, version),
                Heard::Old => {}
                Heard::Gap => {
                    if let Some(bus) = &self.bus {
                        bus.missed(&self.name, node, site_id, version);
                    }
                }
            }
            origins.push(Origin::Node { is_tracked: class == Heard::Next });
        }
        Ok((origins, heard))
    }

    /// What was heard of other nodes, as the store has it.
    fn heard(&mut self, store: &dyn ChangeStore) -> Result<&HeardOf, StoreError> {
        let heard = match self.heard.take() {
            Some(heard) => heard,
            None => HeardOf::read(store.reader(&self.name)?.as_mut())?,
        };
        Ok(self.heard.insert(heard))
    }

    /// Tells other nodes what won of clients' updates, in messages of whole updates, and notes how the channel stands.
    fn publish(&mut self, bus: &Hub, pending: &[Pending], outcomes: &[Outcome]) {
        let (is_heard, published) = (bus.is_heard(), self.published);
        let (mut changes, mut last) = (Vec::new(), 0);
        for (Pending { sender, update, .. }, outcome) in pending.iter().zip(outcomes) {
            let (Sender::Client(_), Outcome::Merged { version, winners }) = (sender, outcome) else {
                continue;
            };
            if winners.is_empty() {
                continue;
            }
            if is_heard {
                let before = changes.len();
                if before > 0 {
                    changes.push(b',');
                }
                update.write_json(winners, &mut changes);
                if before > 0 && changes.len() > bus.limits().max_update_bytes {
                    let rest = changes.split_off(before);
                    bus.update(&self.name, &self.site_id, self.published, last, &changes);
                    self.published = last;
                    changes = rest[1..].to_vec();
                }
            }
            last = *version;
        }
        if last > self.published {
            // While nobody hears, it is a gap without the work.
            if is_heard {
                bus.update(&self.name, &self.site_id, self.published, last, &changes);
            }
            self.published = last;
        }
        let Some(store) = &self.store else { return };
        let has_heard = pending.iter().any(|p| p.client().is_none());
        let state = State {
            channel: self.name.clone(),
            site_id: self.site_id.clone(),
            version: self.version,
            digest: store.head().digest,
            published: self.published,
            heard: Vec::new(),
        };
        bus.stands(state, self.heard.as_ref().filter(|_| has_heard), self.published > published);
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
                    // Nor was any node told: they are to see a gap.
                    self.published = version;
                    self.heard = None;
                }
                (self.version, self.in_doubt) = (version, false);
                closed.insert(opened)
            }
        };
        Ok(opened.as_mut())
    }
}

/// The clients among the senders, with their updates.
fn clients(pending: &[Pending]) -> impl Iterator<Item = (&Arc<Outbox>, &IncomingUpdate)> {
    pending.iter().filter_map(|pending| Some((pending.client()?, &*pending.update)))
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
