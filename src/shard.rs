//! Shards: threads that own a share of the channels each.
//!
//! A shard takes all that waits in its queue, merges it channel by channel with one durable commit a channel, and only
//! then acks and passes on, in commit order. While a commit is on its way to the disk the next one fills. A channel
//! has one shard, so the merge needs no lock, and a channel's versions are dense.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_storage::{ChangeStore, Clamp, Quota, StoreError};
use foldhash::fast::FixedState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::channel::{Channel, CommitRules};
use crate::config::Config;
use crate::fanout::Pending;
use crate::limits::{Limits, is_full, settings};
use crate::metrics::{ChannelStats, Metrics, ShardStats};
use crate::outbox::{ConnectionId, Outbox};
use crate::page::Readers;
use crate::protocol::encode::Encoder;
use crate::protocol::frame::close;
use crate::queue::Queue;
use crate::relay::JoinError;
use crate::unavailable::Use;
use crate::work::Work;

/// How often a shard looks for channels to close, at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a shard may take to tell its facts: when the disk is slow, those of the others are wanted most.
const STATS_WAIT: Duration = Duration::from_secs(1);

/// All shards.
pub struct Shards {
    shards: Vec<Shard>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A shard, for those who bring it work.
#[derive(Clone)]
pub struct Shard {
    queue: Arc<Queue<Job>>,
    /// `max_queue_bytes`, as permits.
    budget: Arc<Semaphore>,
    budget_bytes: u32,
}

/// What a shard is asked to do.
pub enum Job {
    /// Adds a follower.
    Join {
        /// The channel.
        channel: Arc<str>,
        /// The follower.
        outbox: Arc<Outbox>,
        /// Where the answer goes.
        joined: oneshot::Sender<Result<Arc<Encoder>, JoinError>>,
    },
    /// Merges an update.
    Update {
        /// The channel.
        channel: Arc<str>,
        /// Who sent it, and what.
        pending: Pending,
        /// The update's share of `max_queue_bytes`, held until it is answered.
        permit: OwnedSemaphorePermit,
    },
    /// Takes a follower away, and closes its outbox behind the answers to all that it has sent.
    Leave {
        /// The channel.
        channel: Arc<str>,
        /// The follower.
        outbox: Arc<Outbox>,
        /// The close code and reason.
        close: (u16, &'static str),
        /// Whether a pull is answered to its end first.
        after_pages: bool,
    },
    /// Closes all followers and removes the channel, corrupt or not, behind all updates that have come before. What its
    /// followers send later is dropped.
    Remove {
        /// The channel.
        channel: Arc<str>,
        /// What forgets the channel's handles before anybody can make it anew.
        readers: Arc<Readers>,
        /// Where the answer goes: whether there was one.
        removed: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// Gives the facts of the channels with the most followers.
    Stats {
        /// How many.
        max: usize,
        /// Where the answer goes.
        stats: oneshot::Sender<ShardStats>,
    },
    /// Closes all channels and ends the thread.
    Stop,
}

impl Shards {
    /// Starts them, each on a thread of its own unless `work` says otherwise.
    pub fn start(
        config: &Config,
        store: &Arc<dyn ChangeStore>,
        metrics: &Arc<Metrics>,
        limits: &Arc<Limits>,
        work: &Work,
    ) -> std::io::Result<Self> {
        let count = config.shard_count();
        let made = Arc::new(AtomicUsize::new(store.count().map_err(std::io::Error::other)?));
        let mut shards = Shards { shards: Vec::new(), threads: Mutex::default() };
        for n in 0..count {
            // A semaphore counts in u32; nobody has more than 4 GiB to queue.
            let budget_bytes = u32::try_from(config.max_queue_bytes / count).unwrap_or(u32::MAX);
            let shard = Shard {
                queue: Arc::default(),
                budget: Arc::new(Semaphore::new(budget_bytes as usize)),
                budget_bytes,
            };
            let worker = Worker {
                queue: shard.queue.clone(),
                store: store.clone(),
                metrics: metrics.clone(),
                limits: limits.clone(),
                settings: settings::Copy::new(&limits.settings),
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
                made: made.clone(),
                max_open: (config.max_open_channels / count).max(1),
                channel_idle: Duration::from_millis(config.channel_idle_ms),
                max_commit_changes: config.max_commit_changes,
                max_commit_bytes: config.max_commit_bytes,
                swept: Instant::now(),
            };
            shards.shards.push(shard);
            match work {
                Work::Threads => {
                    let thread = std::thread::Builder::new().name(format!("shard-{n}"));
                    shards.threads().push(thread.spawn(move || worker.run())?);
                }
                Work::Simulated(takes) => drop(tokio::spawn(worker.run_simulated(takes.clone()))),
            }
        }
        Ok(shards)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard that owns the channel.
    pub fn of(&self, channel: &str) -> &Shard {
        let hash = FixedState::default().hash_one(channel);
        &self.shards[(hash % self.shards.len() as u64) as usize]
    }

    /// The facts of all shards, each with its `max` busiest channels. A shard that has stopped, or whose commit takes
    /// longer than a second, is missing.
    pub async fn stats(&self, max: usize) -> Vec<ShardStats> {
        let ask = |shard: &Shard| {
            let (stats, answer) = oneshot::channel();
            shard.queue.push(Job::Stats { max, stats });
            answer
        };
        let answers: Vec<_> = self.shards.iter().map(ask).collect();
        let deadline = tokio::time::Instant::now() + STATS_WAIT;
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.extend(tokio::time::timeout_at(deadline, answer).await.ok().and_then(Result::ok));
        }
        all
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// Waits until the shards have done all that was brought to them, and closed their channels. Blocks.
    pub fn stop(&self) {
        for shard in &self.shards {
            shard.queue.push(Job::Stop);
        }
        for thread in self.threads().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard has panicked");
            }
        }
    }
}

impl Shard {
    /// Brings jobs, in order.
    pub fn send_all(&self, jobs: &mut Vec<Job>) {
        self.queue.push_all(jobs);
    }

    /// Brings a job.
    pub fn send(&self, job: Job) {
        self.queue.push(job);
    }

    /// Takes an update's share of the queue's bytes if there is room for it at once.
    pub fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.budget.clone().try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// Takes an update's share of the queue's bytes, and waits until there is room for it.
    pub async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permit = self.budget.clone().acquire_many_owned(self.share(bytes)).await;
        permit.expect("nobody closes the semaphore")
    }

    /// What is larger than the whole queue takes it for itself.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.budget_bytes)
    }
}

/// A shard at work.
struct Worker {
    queue: Arc<Queue<Job>>,
    store: Arc<dyn ChangeStore>,
    metrics: Arc<Metrics>,
    limits: Arc<Limits>,
    settings: settings::Copy,
    channels: HashMap<Arc<str>, Channel>,
    open_stores: usize,
    /// How many channels the store has, for all shards.
    made: Arc<AtomicUsize>,
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
    /// On a thread: a turn as soon as there is something to do.
    fn run(mut self) {
        let _guard = AbortOnPanic;
        let mut jobs = Vec::new();
        let mut stop = false;
        while !stop {
            self.queue.drain(&mut jobs, SWEEP_INTERVAL);
            stop = self.turn(&mut jobs);
        }
    }

    /// As a task: a turn whenever the one before it has taken its time.
    async fn run_simulated(mut self, takes: Arc<dyn Fn() -> Duration + Send + Sync>) {
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
                Job::Update { pending, .. } if pending.outbox.is_evicted() => {}
                Job::Update { channel, pending, permit } => {
                    let place = *places.entry(channel).or_insert_with_key(|channel| {
                        updates.push((channel.clone(), Waiting::default()));
                        updates.len() - 1
                    });
                    updates[place].1.pending.push(pending);
                    updates[place].1.permits.push(permit);
                }
                // What a connection sent before it left is answered before it is closed.
                Job::Leave { .. } | Job::Remove { .. } | Job::Stats { .. } | Job::Stop => last.push(job),
            }
        }
        for (channel, waiting) in updates {
            self.commit(&channel, waiting);
        }
        for job in last {
            match job {
                Job::Leave { channel, outbox, close: (code, reason), after_pages } => {
                    self.leave(&channel, outbox.id());
                    outbox.close(code, reason, after_pages);
                }
                Job::Remove { channel, readers, removed } => {
                    let _ = removed.send(self.remove(&channel, &readers));
                }
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
                follower.evict(close::TRY_AGAIN_LATER, "the channel was removed; connect again");
            }
        }
        let removed = self.store.remove(name);
        readers.forget(name);
        if removed.is_ok() {
            self.made.fetch_sub(usize::from(matches!(removed, Ok(true))), Relaxed);
            self.metrics.storage_works(name, Use::Write);
            self.metrics.storage_works(name, Use::Read);
        }
        removed
    }

    /// The channel, opened if it is not known, and the store that it is in.
    fn channel(&mut self, name: &Arc<str>) -> Result<(&mut Channel, &dyn ChangeStore), StoreError> {
        if !self.channels.contains_key(name) {
            let opened = Channel::open(self.store.as_ref(), name)
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
            return;
        }
        let quota = self.settings.get(&self.limits.settings).channel;
        self.rules.quota = Quota { max_cells: quota.max_rows, max_bytes: quota.max_bytes };
        let Some(channel) = self.channels.get_mut(name) else { return };
        let was_made = channel.is_made();
        if !was_made && !take_one(&self.made, quota.max_channels) {
            channel.refuse(&pending, &self.metrics);
            return;
        }
        let was_open = channel.is_open();
        let mut start = 0;
        while start < pending.len() {
            let (mut end, mut changes, mut bytes) = (start, 0, 0);
            while end < pending.len()
                && (end == start
                    || (changes + pending[end].update.len() <= self.max_commit_changes
                        && bytes + pending[end].update.memory_bytes() <= self.max_commit_bytes))
            {
                changes += pending[end].update.len();
                bytes += pending[end].update.memory_bytes();
                end += 1;
            }
            channel.commit(self.store.as_ref(), &pending[start..end], &self.rules, &self.metrics);
            start = end;
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
                let (bytes, lagging) = follower.backlog();
                stats.outbox_bytes += bytes;
                stats.lagging += usize::from(lagging);
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
