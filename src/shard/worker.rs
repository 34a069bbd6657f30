//! A shard at work: the channels that it owns, and a turn after the other of what waits in its queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use causeway_storage::store::new_site_id;
use causeway_storage::{ChangeStore, Clamp, Quota, RemadeTable, StoreError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Job;
use crate::bus::hub::Hub;
use crate::channel::{Channel, CommitRules};
use crate::config::Config;
use crate::fanout::{Pending, Sender};
use crate::limits::{Limits, is_full, settings};
use crate::metrics::{ChannelStats, Metrics, ShardStats};
use crate::outbox::{ConnectionId, Outbox};
use crate::page::Readers;
use crate::protocol::encode::Encoder;
use crate::queue::Queue;
use crate::relay::JoinError;
use crate::unavailable::Use;

/// How often a shard looks for channels to close, at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What all shards share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn ChangeStore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Arc<Limits>,
    /// Where other nodes are told what clients do, if there are any.
    pub(super) bus: Option<Arc<Hub>>,
    /// How many channels the store has.
    pub(super) made: Arc<AtomicUsize>,
}

/// A shard at work.
pub(super) struct Worker {
    queue: Arc<Queue<Job>>,
    store: Arc<dyn ChangeStore>,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    bus: Option<Arc<Hub>>,
    settings: settings::Copy,
    /// How many channels the store has.
    made: Arc<AtomicUsize>,
    /// What the site ids of new channels come from.
    seed: String,
    channels: HashMap<Arc<str>, Channel>,
    open_stores: usize,
    rules: CommitRules,
    max_open: usize,
    channel_idle: Duration,
    max_commit_changes: usize,
    max_commit_bytes: usize,
    swept: Instant,
}

/// Ends the process if a shard panics. Its channels would be dead for all their clients, who would wait for acks for
/// ever; a restart loses nothing that was acked.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a shard has panicked; ending the process, which loses nothing that was acked");
            std::process::abort();
        }
    }
}

/// The updates of one channel that wait, in order, and their shares of the queue.
#[derive(Default)]
struct Waiting {
    pending: Vec<Pending>,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Worker {
    /// One of `count` shards.
    pub(super) fn new(
        config: &Config,
        count: usize,
        queue: Arc<Queue<Job>>,
        Shared { store, metrics, limits, bus, made }: Shared,
    ) -> Self {
        Worker {
            queue,
            store,
            metrics,
            bus,
            settings: settings::Copy::new(&limits.settings),
            limits,
            made,
            seed: new_site_id(),
            channels: HashMap::new(),
            open_stores: 0,
            rules: CommitRules {
                clamp: Clamp {
                    max_col_version_jump: config.max_col_version_jump,
                    max_cl_jump: config.max_cl_jump,
                },
                peer_retention: Duration::from_secs(config.peer_retention_s),
                quota: Quota::default(),
            },
            max_open: (config.max_open_channels / count).max(1),
            channel_idle: Duration::from_millis(config.channel_idle_ms),
            max_commit_changes: config.max_commit_changes,
            max_commit_bytes: config.max_commit_bytes,
            swept: Instant::now(),
        }
    }

    /// On a thread: a turn as soon as there is something to do.
    pub(super) fn run(mut self) {
        let _guard = AbortOnPanic;
        let mut jobs = Vec::new();
        let mut stop = false;
        while !stop {
            self.queue.drain(&mut jobs, SWEEP_INTERVAL);
            stop = self.turn(&mut jobs);
        }
    }

    /// As a task: a turn whenever the one before it has taken its time.
    pub(super) async fn run_simulated(mut self, takes: Arc<dyn Fn() -> Duration + Send + Sync>) {
        let mut jobs = Vec::new();
        let mut stop = false;
        while !stop {
            tokio::time::sleep(takes()).await;
            self.queue.drain(&mut jobs, Duration::ZERO);
            stop = self.turn(&mut jobs);
        }
    }

    /// Does all the jobs; gives whether to stop.
    fn turn(&mut self, jobs: &mut Vec<Job>) -> bool {
        let mut stop = false;
        let mut updates: Vec<(Arc<str>, Waiting)> = Vec::new();
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        let mut last = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Join { channel, outbox, joined } => {
                    // Whoever asked may have gone.
                    let _ = joined.send(self.join(&channel, outbox));
                }
                // Of a channel that is gone: it must not come into the one that is made anew.
                Job::Update { pending, .. } if pending.client().is_some_and(|outbox| outbox.is_evicted()) => {
                }
                Job::Update { channel, pending, permit } => {
                    let place = *places.entry(channel).or_insert_with_key(|channel| {
                        updates.push((channel.clone(), Waiting::default()));
                        updates.len() - 1
                    });
                    updates[place].1.pending.push(pending);
                    updates[place].1.permits.push(permit);
                }
                // What a connection sent before it left is answered before it is closed.
                Job::Leave { .. }
                | Job::Remove { .. }
                | Job::Rebuild { .. }
                | Job::Stats { .. }
                | Job::Stop => last.push(job),
            }
        }
        for (channel, waiting) in updates {
            self.commit(&channel, waiting);
        }
        for job in last {
            match job {
                Job::Leave { channel, outbox, ending, after_pages } => {
                    self.leave(&channel, outbox.id());
                    outbox.close(ending, after_pages);
                }
                Job::Remove { channel, readers, removed } => {
                    let _ = removed.send(self.remove(&channel, &readers));
                }
                Job::Rebuild { channel, rebuilt } => drop(rebuilt.send(self.rebuild(&channel))),
                Job::Stats { max, stats } => drop(stats.send(self.stats(max))),
                Job::Stop => stop = true,
                Job::Join { .. } | Job::Update { .. } => {}
            }
        }
        if self.open_stores > self.max_open || self.swept.elapsed() >= SWEEP_INTERVAL {
            self.sweep();
        }
        stop
    }

    fn join(&mut self, name: &Arc<str>, outbox: Arc<Outbox>) -> Result<Arc<Encoder>, JoinError> {
        let max = self.settings.get(&self.limits.settings).channel.max_connections;
        if self.channels.get(name).is_some_and(|channel| is_full(channel.followers().len(), max)) {
            return Err(JoinError::Full);
        }
        let (channel, store) = self.channel(name)?;
        let was_open = channel.is_open();
        let joined = channel.join(store, outbox);
        let opened = channel.is_open() && !was_open;
        self.open_stores += usize::from(opened);
        Ok(joined?)
    }

    fn leave(&mut self, name: &str, connection: ConnectionId) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.leave(connection);
        }
    }

    fn remove(&mut self, name: &str, readers: &Readers) -> Result<bool, StoreError> {
        if let Some(channel) = self.channels.remove(name) {
            self.open_stores -= usize::from(channel.is_open());
            for follower in channel.followers() {
                follower.evict();
            }
        }
        if let Some(bus) = &self.bus {
            bus.forget(name);
        }
        // One that is made anew is another.
        self.seed = new_site_id();
        let removed = self.store.remove(name);
        readers.forget(name);
        if removed.is_ok() {
            self.made.fetch_sub(usize::from(matches!(removed, Ok(true))), Relaxed);
            self.metrics.storage_works(name, Use::Write);
            self.metrics.storage_works(name, Use::Read);
        }
        removed
    }

    fn rebuild(&mut self, name: &Arc<str>) -> Result<Option<Vec<RemadeTable>>, StoreError> {
        if !self.channels.contains_key(name) {
            // It is not to be made by this.
            self.store.reader(name)?;
        }
        let (channel, store) = self.channel(name)?;
        let was_open = channel.is_open();
        let rebuilt = channel.remake_tables(store);
        let is_open = channel.is_open();
        self.open_stores = self.open_stores + usize::from(is_open) - usize::from(was_open);
        rebuilt
    }

    /// The channel, opened if it is not known, and the store that it is in.
    fn channel(&mut self, name: &Arc<str>) -> Result<(&mut Channel, &dyn ChangeStore), StoreError> {
        if !self.channels.contains_key(name) {
            let opened = Channel::open(self.store.as_ref(), name, &self.seed, self.bus.clone())
                .inspect_err(|e| self.metrics.storage_failed(name, Use::Write, e))?;
            self.metrics.storage_works(name, Use::Write);
            self.open_stores += usize::from(opened.is_open());
            self.channels.insert(name.clone(), opened);
        }
        let channel = self.channels.get_mut(name).expect("it is there, or was put there");
        Ok((channel, self.store.as_ref()))
    }

    /// Commits the updates of one channel, in as few commits as the limits allow.
    fn commit(&mut self, name: &Arc<str>, waiting: Waiting) {
        let Waiting { pending, permits } = waiting;
        // A sender is a follower, so the channel is there: it is swept only when it has none. If the last sender has
        // left with updates under way it may be gone, and is opened again.
        if let Err(e) = self.channel(name) {
            tracing::error!(channel = %name, error = %e, "updates are lost with their connections");
            for Pending { sender, update, .. } in &pending {
                if let (Sender::Node { node, .. }, Some(bus)) = (sender, &self.bus) {
                    bus.missed(name, node, update.site_id(), update.version);
                }
            }
            return;
        }
        let quota = self.settings.get(&self.limits.settings).channel;
        self.rules.quota = Quota { max_cells: quota.max_rows, max_bytes: quota.max_bytes };
        let Some(channel) = self.channels.get_mut(name) else { return };
        let was_made = channel.is_made();
        // What other nodes have is here, too, whatever the limit.
        let max_channels = if pending.iter().any(|p| p.client().is_none()) { 0 } else { quota.max_channels };
        if !was_made && !take_one(&self.made, max_channels) {
            channel.refuse(&pending, &self.metrics);
            return;
        }
        let was_open = channel.is_open();
        let mut pending = pending.into_iter().peekable();
        while let Some(first) = pending.next() {
            let (mut changes, mut bytes) = (first.update.len(), first.update.memory_bytes());
            let mut group = vec![first];
            while let Some(next) = pending.next_if(|next| {
                changes += next.update.len();
                bytes += next.update.memory_bytes();
                changes <= self.max_commit_changes && bytes <= self.max_commit_bytes
            }) {
                group.push(next);
            }
            channel.commit(self.store.as_ref(), group, &self.rules, &self.metrics);
        }
        if !was_made && !channel.is_made() {
            self.made.fetch_sub(1, Relaxed);
        }
        self.open_stores = self.open_stores + usize::from(channel.is_open()) - usize::from(was_open);
        drop(permits);
    }

    /// Closes stores that were idle for long, and the longest unused ones above `max_open_channels`; forgets channels
    /// that nobody follows.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let mut open: Vec<&mut Channel> = self.channels.values_mut().filter(|c| c.is_open()).collect();
        if open.len() > self.max_open {
            open.sort_unstable_by(|a, b| a.used().cmp(&b.used()).then_with(|| a.name().cmp(b.name())));
            // A quarter more than needed, so that the next open does not sort them all again.
            let surplus = open.len() - (self.max_open - self.max_open / 4);
            open.drain(..surplus).for_each(Channel::close);
        }
        open.into_iter().filter(|c| c.used().elapsed() >= self.channel_idle).for_each(Channel::close);
        self.channels.retain(|_, c| c.is_open() || !c.followers().is_empty());
        self.open_stores = self.channels.values().filter(|c| c.is_open()).count();
    }

    fn stats(&self, max: usize) -> ShardStats {
        let mut stats = ShardStats { open_stores: self.open_stores, ..ShardStats::default() };
        for channel in self.channels.values().filter(|c| !c.followers().is_empty()) {
            stats.channels += 1;
            let mut lag = 0;
            for follower in channel.followers() {
                let backlog = follower.backlog();
                stats.outbox_bytes += backlog.bytes;
                stats.lagging += usize::from(backlog.lags);
                stats.pulls += backlog.pulls;
                lag = lag.max(channel.version().saturating_sub(follower.sent_version()));
            }
            stats.busiest.push(ChannelStats {
                name: channel.name().into(),
                connections: channel.followers().len(),
                version: channel.version(),
                lag,
            });
        }
        ChannelStats::keep_busiest(&mut stats.busiest, max);
        stats
    }
}

/// Counts one more, unless that is too many.
fn take_one(count: &AtomicUsize, max: usize) -> bool {
    count.fetch_update(Relaxed, Relaxed, |count| (!is_full(count, max)).then_some(count + 1)).is_ok()
}
