//! What every connection of a server shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use causeway_storage::{ChangeStore, RemadeTable, Schema, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::auth::Session;
use crate::bus::hub::Hub;
use crate::config::Config;
use crate::draining::Draining;
use crate::ending::Ending;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, OutboxLimits};
use crate::page::Readers;
use crate::protocol::encode::Encoder;
use crate::shard::{Job, Shard, Shards};
use crate::work::Work;

/// More connections than any machine has.
const MEMBERS_MAX: u32 = u32::MAX >> 4;

/// The relay behind the sockets: the store, the shards that write it, the readers of its pages.
pub struct Relay {
    /// The effective configuration.
    pub config: Config,
    /// What changes are checked against, if anything.
    pub schema: Option<Arc<Schema>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What clients may take.
    pub limits: Arc<Limits>,
    /// The threads that commit.
    pub shards: Shards,
    /// Whether the server drains.
    pub draining: Draining,
    /// The handles that pages are read with.
    pub readers: Arc<Readers>,
    /// A permit for each page that may be read at once.
    pub page_permits: Arc<Semaphore>,
    /// Where other nodes are told, if there are any.
    pub bus: Option<Arc<Hub>>,
    /// Where they are read.
    pub work: Work,
    /// A permit for each member: when all are back, nobody is connected.
    members: Arc<Semaphore>,
    last_connection: AtomicU64,
}

/// Why a connection cannot follow a channel.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has as many connections as it may.
    #[error("the channel has max_connections_per_channel")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A connection's membership of its channel. It leaves when it is told to, or when this is dropped.
pub struct Member {
    /// The channel's name.
    pub channel: Arc<str>,
    /// The channel's shard.
    pub shard: Shard,
    /// The connection's out-queue.
    pub outbox: Arc<Outbox>,
    /// Encodes messages of the channel.
    pub encoder: Arc<Encoder>,
    /// What the connection may do.
    pub session: Session,
    left: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

impl Relay {
    /// Starts the shards over the store.
    pub fn start(
        config: Config,
        schema: Option<Arc<Schema>>,
        store: Arc<dyn ChangeStore>,
        metrics: Arc<Metrics>,
        limits: Arc<Limits>,
        bus: Option<Arc<Hub>>,
        work: Work,
    ) -> std::io::Result<Self> {
        Ok(Relay {
            shards: Shards::start(&config, &store, &metrics, &limits, bus.as_ref(), &work)?,
            readers: Arc::new(Readers::new(store, config.page_readers)),
            page_permits: Arc::new(Semaphore::new(config.page_readers)),
            bus,
            work,
            metrics,
            limits,
            config,
            schema,
            draining: Draining::default(),
            members: Arc::new(Semaphore::new(MEMBERS_MAX as usize)),
            last_connection: AtomicU64::new(0),
        })
    }

    /// Whether other nodes cannot be heard, where that makes the server unready.
    pub fn lacks_bus(&self) -> bool {
        self.config.ready_needs_bus && self.bus.as_ref().is_some_and(|bus| !bus.is_up())
    }

    /// Drains: nobody new joins, connections take nothing new and end when what they have sent is answered. Ready when
    /// all have ended.
    pub async fn drain(&self) {
        self.draining.begin();
        // Nobody closes the semaphore, so the permits are all that it waits for.
        let _ = self.members.acquire_many(MEMBERS_MAX).await;
    }

    /// Makes a connection a follower of the channel, which is opened, or made, if need be. From here on the outbox
    /// fills, its greeting first.
    pub async fn join(&self, channel: &str, session: Session) -> Result<Member, JoinError> {
        let limits = OutboxLimits {
            max_bytes: self.config.outbox_max_bytes,
            max_reply_bytes: self.config.max_reply_bytes,
            max_bad_messages: self.config.max_bad_messages,
        };
        let name: Arc<str> = channel.into();
        if let Some(bus) = &self.bus {
            bus.opened(&name).await;
        }
        let stopping = || stopping(channel, "opening it");
        // Whoever drains has asked for all permits.
        let permit = self.members.clone().try_acquire_owned().map_err(|_| stopping())?;
        let outbox = Arc::new(Outbox::new(self.last_connection.fetch_add(1, Relaxed), limits));
        let shard = self.shards.of(channel).clone();
        let (joined, answer) = oneshot::channel();
        shard.send(Job::Join { channel: name.clone(), outbox: outbox.clone(), joined });
        let encoder = answer.await.map_err(|_| stopping())??;
        Ok(Member {
            channel: name,
            shard,
            outbox,
            encoder,
            session,
            left: AtomicBool::new(false),
            _permit: permit,
        })
    }

    /// Closes all clients of the channel, in a way that makes them connect again, and removes it, corrupt or not; `false` if
    /// there was none. Who connects next finds a new, empty channel.
    pub async fn remove(&self, channel: &str) -> Result<bool, StoreError> {
        let (removed, answer) = oneshot::channel();
        let readers = self.readers.clone();
        self.shards.of(channel).send(Job::Remove { channel: channel.into(), readers, removed });
        answer.await.map_err(|_| stopping(channel, "removing it"))?
    }

    /// Makes the application's tables of a channel anew from its cells, without disturbing its clients; `None` if the store
    /// keeps none. Waits for the channel's shard, which does nothing else meanwhile.
    pub async fn rebuild(&self, channel: &str) -> Result<Option<Vec<RemadeTable>>, StoreError> {
        let (rebuilt, answer) = oneshot::channel();
        self.shards.of(channel).send(Job::Rebuild { channel: channel.into(), rebuilt });
        answer.await.map_err(|_| stopping(channel, "making its tables"))?
    }
}

fn stopping(channel: &str, doing: &'static str) -> StoreError {
    let detail = "the server is stopping".into();
    StoreError::Engine { channel: channel.into(), engine: "the server", doing, detail }
}

impl Member {
    /// Leaves the channel; the outbox closes so behind the answers to all that was sent. With
    /// `after_pages` it also finishes a pull.
    pub fn leave(&self, ending: Ending, after_pages: bool) {
        if self.left.swap(true, Relaxed) {
            return;
        }
        self.shard.send(Job::Leave {
            channel: self.channel.clone(),
            outbox: self.outbox.clone(),
            ending,
            after_pages,
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave(Ending::BROKEN, false);
    }
}
