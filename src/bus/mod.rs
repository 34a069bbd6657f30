//! Several servers as one: nodes tell each other over Redis what their clients did, and repair what was not heard.
//!
//! | file | what it does |
//! | --- | --- |
//! | this one | the thread that all of it but the shards' part runs on |
//! | [`mod@hub`], [`active`] | what shards and that thread share; of it, how channels stand |
//! | [`message`] | what nodes tell each other, as JSON |
//! | [`mailbox`] | messages that wait, bounded in bytes |
//! | [`heard`], [`peers`] | what a channel has heard of its peers; which nodes there are |
//! | [`repair`], [`random`] | which channels are repaired, and when |
//! | [`task`], [`facts`] | messages, repairs and heartbeats put together; what they read of the store |
//! | [`redis`], [`access`] | the connections to Redis; how it is reached |
//!
//! Redis may lose messages, and be away: it carries hints. What a node has to have is found out by comparing digests, and got
//! from the other node's store, a page at a time.

pub mod access;
pub mod active;
pub mod facts;
pub mod heard;
pub mod hub;
pub mod mailbox;
pub mod message;
pub mod peers;
pub mod random;
pub mod redis;
pub mod repair;
pub mod task;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_storage::ChangeStore;
use causeway_storage::store::new_site_id;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::metrics::BusMetrics;
use crate::relay::Relay;
use access::Access;
use hub::{Hub, HubLimits, Opened};
use mailbox::Mailbox;
use message::Identity;

/// Threads that read the store for comparing, beside those that read pages for other nodes.
const COMPARING_THREADS: usize = 3;

/// The bus at work, until it is stopped.
#[derive(Debug)]
pub struct Bus {
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What shards tell, of a node that has a name, and which channels are opened; `None` if the server is alone.
pub fn hub(config: &Config, metrics: &BusMetrics) -> Option<(Arc<Hub>, mpsc::UnboundedReceiver<Opened>)> {
    let node = config.node.as_ref().filter(|_| config.redis.is_some())?;
    let identity = Identity::new(node, &new_site_id());
    // Pages have to get through beside what clients do.
    let outgoing = Mailbox::new(config.bus_queue_bytes.max(4 * config.page_max_bytes));
    let limits = HubLimits {
        max_update_bytes: config.page_max_bytes,
        max_active: config.max_open_channels,
        max_remembered: config.cluster_remembered_channels,
        catch_up_timeout: Duration::from_millis(config.catch_up_timeout_ms),
    };
    let (hub, opened) = Hub::new(identity, outgoing, limits, metrics.clone());
    Some((Arc::new(hub), opened))
}

impl Bus {
    /// Starts what hears and tells, on a thread of its own: decoding large messages delays no client.
    pub fn start(
        config: &Config,
        (hub, opened): (Arc<Hub>, mpsc::UnboundedReceiver<Opened>),
        relay: Arc<Relay>,
        store: Arc<dyn ChangeStore>,
    ) -> io::Result<Self> {
        let access = Access::new(config).ok_or_else(|| io::Error::other("there is no `redis`"))?;
        // Files that cannot be used now are told now.
        access.client().map_err(io::Error::other)?;
        access.warn();
        let session = redis::Settings::new(config, access, &hub);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(config.cluster_page_readers + COMPARING_THREADS)
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let inbox = Arc::new(Mailbox::new(config.bus_inbox_bytes));
        let limits = task::TaskLimits::from(config);
        let run = move || {
            runtime.block_on(async {
                let (connected, connections) = mpsc::channel(1);
                let task = task::Task::new(hub.clone(), relay, store, inbox.clone(), limits);
                tokio::select! {
                    () = task.run(connections, opened) => {}
                    () = redis::run(session, hub.clone(), inbox, connected, stopped) => {}
                }
                hub.set_up(false);
            });
        };
        let thread = std::thread::Builder::new().name("bus".into()).spawn(run)?;
        Ok(Bus { stop, thread: Mutex::new(Some(thread)) })
    }

    /// Publishes what waits, if Redis takes it at once, and ends. Blocks.
    pub fn stop(&self) {
        // It may have ended by itself.
        let _ = self.stop.send(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the bus has panicked");
        }
    }
}
