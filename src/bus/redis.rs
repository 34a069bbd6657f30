//! The connections to Redis: one hears, one tells. When either breaks, both are made anew: whatever was lost in between is found
//! out by comparing.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, Value};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::access::{Access, AccessError};
use super::hub::Hub;
use super::mailbox::Mailbox;
use super::message::Topic;
use super::random::{Random, backoff_ms, seed};
use crate::config::Config;

/// How much is published at once, in bytes: what is behind it waits for Redis' answer.
const BATCH_BYTES: usize = 1 << 20;

/// The first pause before Redis is connected to again, in milliseconds.
const RETRY_FIRST_MS: u64 = 100;

/// How long the last messages may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a session needs to know.
pub struct Settings {
    access: Access,
    all: String,
    node_prefix: String,
    others_prefix: String,
    node: Arc<str>,
    timeout: Duration,
    retry_max_ms: u64,
}

impl Settings {
    /// As the configuration has them, which is to be one of a node.
    pub fn new(config: &Config, access: Access, hub: &Hub) -> Self {
        let prefix = format!("{}:{}", config.redis_prefix, super::message::PROTOCOL);
        let node_prefix = format!("{prefix}:node:");
        Settings {
            access,
            all: format!("{prefix}:all"),
            others_prefix: format!("{prefix}:by:"),
            node: hub.identity.node.clone(),
            node_prefix,
            timeout: Duration::from_millis(config.redis_timeout_ms),
            retry_max_ms: config.redis_retry_max_ms,
        }
    }

    /// What a node publishes for all others.
    fn of(&self, node: &str) -> String {
        format!("{}{node}", self.others_prefix)
    }

    fn topic(&self, topic: &Topic) -> String {
        match topic {
            Topic::All => self.all.clone(),
            Topic::Others => self.of(&self.node),
            Topic::Node(node) => format!("{}{node}", self.node_prefix),
        }
    }
}

/// Why a session ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl SessionError {
    /// What the log says of it: what an operator should look at.
    fn what(&self) -> &'static str {
        let Self::Redis(error) = self else { return "Redis cannot be connected to" };
        match error.code() {
            Some("WRONGPASS" | "NOAUTH") => {
                "Redis does not take the user and password (redis, redis_password_file)"
            }
            Some("NOPERM") => "Redis' ACL does not let this node hear and tell others (docs/cluster.md)",
            // As rustls says it; redis does not let its type through.
            _ if error.to_string().contains("invalid peer certificate") => {
                "Redis' certificate is not believed (redis, redis_ca)"
            }
            _ => "Redis is away",
        }
    }
}

/// Keeps connected until it is told to stop. Each time messages can be heard, `connected` gets a word; what is heard goes to
/// `inbox`.
pub async fn run(
    settings: Settings,
    hub: Arc<Hub>,
    inbox: Arc<Mailbox>,
    connected: mpsc::Sender<()>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut random = Random::new(seed());
    let mut attempt = 0;
    let mut told = "";
    loop {
        let began = Instant::now();
        let ended = session(&settings, &hub, &inbox, &connected, &mut stopped).await;
        let was_up = hub.is_up();
        hub.set_up(false);
        let Err(error) = ended else { return };
        if was_up && began.elapsed() > Duration::from_millis(settings.retry_max_ms) {
            attempt = 0;
        }
        let pause_ms = backoff_ms(&mut random, RETRY_FIRST_MS, settings.retry_max_ms, attempt);
        let (redis, what) = (&settings.access, error.what());
        if was_up || told != what {
            told = what;
            tracing::warn!(%redis, %error, "{what}: other nodes are not heard; clients are served as before");
        } else {
            tracing::debug!(%redis, %error, pause_ms, "{what}, still");
        }
        attempt = attempt.saturating_add(1);
        tokio::select! {
            () = sleep(Duration::from_millis(pause_ms)) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

/// Connects, and hears and tells until a connection breaks, or until it is told to stop.
async fn session(
    settings: &Settings,
    hub: &Arc<Hub>,
    inbox: &Arc<Mailbox>,
    connected: &mpsc::Sender<()>,
    stopped: &mut watch::Receiver<bool>,
) -> Result<(), SessionError> {
    let access = settings.access.clone();
    let client = tokio::task::spawn_blocking(move || access.client()).await;
    let client = client.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
    let lost = Arc::new(Notify::new());
    let base = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.timeout))
        .set_response_timeout(Some(settings.timeout));
    let hears = base.clone().set_push_sender(hear(hub.clone(), inbox.clone(), lost.clone()));
    let own = Topic::Node(settings.node.clone());
    let connect = async {
        let mut listener = client.get_multiplexed_async_connection_with_config(&hears).await?;
        listener.subscribe(&[settings.topic(&Topic::All), settings.topic(&own)]).await?;
        let mut publisher = client.get_multiplexed_async_connection_with_config(&base).await?;
        // Whether all of it is allowed is seen before anybody relies on it; nobody else hears this.
        ping(&mut listener).await?;
        let hello = hub.identity.hello();
        let probe = ::redis::cmd("PUBLISH").arg(settings.topic(&own)).arg(&hello[..]).to_owned();
        probe.query_async::<()>(&mut publisher).await?;
        Ok::<_, RedisError>((listener, publisher))
    };
    let (mut listener, mut publisher) = tokio::select! {
        connections = connect => connections?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    hub.set_up(true);
    tracing::info!("Redis is there: other nodes can be heard");
    // One word that nobody has taken yet is as good as two.
    let _ = connected.try_send(());
    // Those that are known from before, at once.
    let (mut others, mut heard) = (hub.others().subscribe(), Vec::new());
    others.mark_changed();
    let mut pings = tokio::time::interval(settings.timeout);
    loop {
        tokio::select! {
            biased;
            () = lost.notified() => return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset)).into()),
            _ = stopped.wait_for(|stop| *stop) => {
                hub.outgoing.push(Topic::All, hub.identity.bye());
                // What does not leave in time is repaired when this node is back.
                let _ = timeout(LAST_WORDS, publish(settings, hub, &mut publisher)).await;
                return Ok(());
            }
            Ok(()) = others.changed() => {
                // Who has gone is heard on: it may come back, and there are never many.
                let nodes = others.borrow_and_update().clone();
                for node in nodes.into_iter().filter(|node| !heard.contains(node)).collect::<Vec<_>>() {
                    listener.subscribe(settings.of(&node)).await?;
                    heard.push(node);
                }
            }
            () = hub.outgoing.arrived() => publish(settings, hub, &mut publisher).await?,
            // A connection whose other end is gone, or hangs, says nothing.
            _ = pings.tick() => ping(&mut listener).await?,
        }
    }
}

/// What takes the messages that come, without ever waiting.
fn hear(
    hub: Arc<Hub>,
    inbox: Arc<Mailbox>,
    lost: Arc<Notify>,
) -> impl Fn(PushInfo) -> Result<(), RedisError> + Send + Sync + 'static {
    move |PushInfo { kind, mut data }| {
        if kind == PushKind::Disconnection {
            lost.notify_one();
        } else if let (PushKind::Message, Some(Value::BulkString(message))) = (kind, data.pop()) {
            let taken = inbox.push(Topic::All, Bytes::from(message));
            if !taken {
                hub.metrics.ignored("no_room");
            }
        }
        Ok(())
    }
}

async fn ping(listener: &mut MultiplexedConnection) -> Result<(), RedisError> {
    ::redis::cmd("PING").query_async(listener).await
}

/// Publishes all that waits.
async fn publish(
    settings: &Settings,
    hub: &Hub,
    publisher: &mut MultiplexedConnection,
) -> Result<(), RedisError> {
    loop {
        let batch = hub.outgoing.take(BATCH_BYTES);
        if batch.is_empty() {
            return Ok(());
        }
        let mut pipeline = ::redis::pipe();
        for (topic, message) in &batch {
            pipeline.cmd("PUBLISH").arg(settings.topic(topic)).arg(&message[..]).ignore();
        }
        hub.publishing(true);
        let taken = pipeline.query_async::<()>(publisher).await;
        hub.publishing(false);
        if let Err(e) = taken {
            hub.metrics.dropped_outgoing(batch.len());
            return Err(e);
        }
        hub.metrics.published(batch.len());
    }
}
