//! Shards: threads that own a share of the channels each.
//!
//! A shard takes all that waits in its queue, merges it channel by channel with one durable commit a channel, and only
//! then acks and passes on, in commit order. While a commit is on its way to the disk the next one fills. A channel
//! has one shard, so the merge needs no lock, and a channel's versions are dense.

mod worker;

use std::hash::BuildHasher;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_storage::{ChangeStore, RemadeTable, StoreError};
use foldhash::fast::FixedState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::bus::hub::Hub;
use crate::config::Config;
use crate::ending::Ending;
use crate::fanout::Pending;
use crate::limits::Limits;
use crate::metrics::{Metrics, ShardStats};
use crate::outbox::Outbox;
use crate::page::Readers;
use crate::protocol::encode::Encoder;
use crate::queue::Queue;
use crate::relay::JoinError;
use crate::work::Work;

use worker::{Shared, Worker};

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
    /// Merges an update, of a client or of another node.
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
        /// How it closes.
        ending: Ending,
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
    /// Makes the application's tables of a channel that exists anew from its cells, behind all updates that have come before.
    Rebuild {
        /// The channel.
        channel: Arc<str>,
        /// Where the answer goes: the tables, `None` if the store keeps none.
        rebuilt: oneshot::Sender<Result<Option<Vec<RemadeTable>>, StoreError>>,
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
        bus: Option<&Arc<Hub>>,
        work: &Work,
    ) -> std::io::Result<Self> {
        let count = config.shard_count();
        let made = Arc::new(AtomicUsize::new(store.count().map_err(std::io::Error::other)?));
        let (store, metrics, limits) = (store.clone(), metrics.clone(), limits.clone());
        let shared = Shared { store, metrics, limits, bus: bus.cloned(), made };
        let mut shards = Shards { shards: Vec::new(), threads: Mutex::default() };
        for n in 0..count {
            // A semaphore counts in u32; nobody has more than 4 GiB to queue.
            let budget_bytes = u32::try_from(config.max_queue_bytes / count).unwrap_or(u32::MAX);
            let shard = Shard {
                queue: Arc::default(),
                budget: Arc::new(Semaphore::new(budget_bytes as usize)),
                budget_bytes,
            };
            let worker = Worker::new(config, count, shard.queue.clone(), shared.clone());
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

    /// Bytes of updates that wait to be merged, or are being merged.
    pub fn queue_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.budget_bytes as usize - shard.budget.available_permits()).sum()
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
