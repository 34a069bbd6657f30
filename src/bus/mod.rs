//! Several servers as one: nodes tell each other over Redis what their clients did, and repair what was not heard.
//!
//! | file | what it does |
//! | --- | --- |
//! | this one | the thread that all of it but the shards' part runs on |
//! | [`mod@hub`] | what shards and that thread share |
//! | [`message`] | what nodes tell each other, as JSON |
//! | [`mailbox`] | messages that wait, bounded in bytes |
//! | [`heard`] | what was heard of which node |
//! | [`repair`], [`random`] | which channels are repaired, and when |
//! | [`task`], [`facts`] | messages, repairs and heartbeats put together; what they read of the store |
//! | [`redis`], [`access`] | the connections to Redis; how it is reached |
//!
//! Redis may lose messages, and be away: it carries hints. What a node has to have is found out by comparing digests, and got
//! from the other node's store, a page at a time.

pub mod access;
pub mod facts;
pub mod heard;
pub mod hub;
pub mod mailbox;
pub mod message;
pub mod random;
pub mod redis;
pub mod repair;
pub mod task;

use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use causeway_storage::{ChangeStore, Schema};
use ring::digest::{SHA256, digest};
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::BusMetrics;
use crate::relay::Relay;
use access::Access;
use hub::Hub;
use mailbox::Mailbox;
use message::Identity;

/// Threads that read the store for other nodes, and for comparing.
const READING_THREADS: usize = 4;

/// The bus at work, until it is stopped.
#[derive(Debug)]
pub struct Bus {
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What shards tell, of a node that has a name; `None` if the server is alone.
pub fn hub(config: &Config, schema: Option<&Schema>, metrics: &BusMetrics) -> Option<Arc<Hub>> {
    let node = config.node.as_ref().filter(|_| config.redis.is_some())?;
    let schema = schema.map_or_else(String::new, schema_id);
    let boot = causeway_storage::store::new_site_id();
    let identity = Identity::new(node, &boot, &schema);
    // Pages have to get through beside what clients do.
    let outgoing = Mailbox::new(config.bus_queue_bytes.max(4 * config.page_max_bytes));
    let max_update_bytes = config.page_max_bytes;
    Some(Arc::new(Hub::new(identity, outgoing, max_update_bytes, config.max_open_channels, metrics.clone())))
}

impl Bus {
    /// Starts what hears and tells, on a thread of its own: decoding large messages delays no client.
    pub fn start(
        config: &Config,
        hub: Arc<Hub>,
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
            .max_blocking_threads(READING_THREADS)
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let inbox = Arc::new(Mailbox::new(config.bus_inbox_bytes));
        let limits = task::TaskLimits::from(config);
        let run = move || {
            runtime.block_on(async {
                let (connected, connections) = tokio::sync::mpsc::channel(1);
                let task = task::Task::new(hub.clone(), relay, store, inbox.clone(), limits);
                tokio::select! {
                    () = task.run(connections) => {}
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

/// What tells schemas apart: the same for the same tables, in every process.
fn schema_id(schema: &Schema) -> String {
    let text = format!("{} {}", schema.key_format(), schema.to_sql());
    hex(&digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_storage::KeyFormat;

    #[test]
    fn nodes_with_the_same_tables_know_it() {
        let columns = (0..50).map(|n| format!(", c{n}")).collect::<String>();
        let id = |columns: &str, key_format| {
            let text = format!("CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY{columns});");
            schema_id(&Schema::parse(&text, "schema.sql", key_format).unwrap())
        };
        let same = id(&columns, KeyFormat::Packed);
        assert_eq!(same, id(&columns, KeyFormat::Packed));
        assert_ne!(same, id("", KeyFormat::Packed));
        assert_ne!(same, id(&columns, KeyFormat::Plain));
    }
}
