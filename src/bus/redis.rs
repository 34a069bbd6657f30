//! The connections to Redis: one hears, one tells. When either breaks, both are made anew: whatever was lost in between is found
//! out by comparing.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value,
};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::hub::Hub;
use super::mailbox::Mailbox;
use super::message::Topic;
use super::random::{Random, backoff_ms};
use crate::config::Config;

/// How much is published at once, in bytes: what is behind it waits for Redis' answer.
const BATCH_BYTES: usize = 1 << 20;

/// The first pause before Redis is connected to again, in milliseconds.
const RETRY_FIRST_MS: u64 = 100;

/// How long the last messages may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a session needs to know.
pub struct Settings {
    server: ConnectionInfo,
    all: String,
    node_prefix: String,
    others_prefix: String,
    node: Arc<str>,
    timeout: Duration,
    retry_max_ms: u64,
}

impl Settings {
    /// As the configuration has them; no error of it names the password.
    pub fn new(config: &Config, hub: &Hub) -> Result<Self, RedisError> {
        let server = config.redis.as_deref().unwrap_or_default().into_connection_info()?;
        // Messages come by themselves in RESP3 only; Redis speaks it since version 6.
        let redis = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let prefix = format!("{}:{}", config.redis_prefix, super::message::PROTOCOL);
        let node_prefix = format!("{prefix}:node:");
        Ok(Settings {
            server: server.set_redis_settings(redis),
            all: format!("{prefix}:all"),
            others_prefix: format!("{prefix}:by:"),
            node: hub.identity.node.clone(),
            node_prefix,
            timeout: Duration::from_millis(config.redis_timeout_ms),
            retry_max_ms: config.redis_retry_max_ms,
        })
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
        if was_up || attempt == 0 {
            tracing::warn!(%error, "Redis is away: other nodes are not heard; clients are served as before");
        } else {
            tracing::debug!(%error, pause_ms, "Redis is still away");
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
) -> Result<(), RedisError> {
    let client = Client::open(settings.server.clone())?;
    let lost = Arc::new(Notify::new());
    let base = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.timeout))
        .set_response_timeout(Some(settings.timeout));
    let hears = base.clone().set_push_sender(hear(hub.clone(), inbox.clone(), lost.clone()));
    let own = Topic::Node(settings.node.clone());
    let connect = async {
        let mut listener = client.get_multiplexed_async_connection_with_config(&hears).await?;
        listener.subscribe(&[settings.topic(&Topic::All), settings.topic(&own)]).await?;
        let publisher = client.get_multiplexed_async_connection_with_config(&base).await?;
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
    let mut ping = tokio::time::interval(settings.timeout);
    loop {
        tokio::select! {
            biased;
            () = lost.notified() => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
            _ = stopped.wait_for(|stop| *stop) => {
                hub.outgoing.push(Topic::All, hub.identity.bye());
                // What does not leave in time is repaired when this node is back.
                let _ = timeout(LAST_WORDS, publish(settings, hub, &mut publisher)).await;
                return Ok(());
            }
            Ok(()) = others.changed() => {
                let nodes = others.borrow_and_update().clone();
                for node in nodes.iter().filter(|node| !heard.contains(*node)) {
                    listener.subscribe(settings.of(node)).await?;
                }
                for node in heard.iter().filter(|node| !nodes.contains(*node)) {
                    listener.unsubscribe(settings.of(node)).await?;
                }
                heard = nodes;
            }
            () = hub.outgoing.arrived() => publish(settings, hub, &mut publisher).await?,
            // A connection whose other end is gone, or hangs, says nothing.
            _ = ping.tick() => ::redis::cmd("PING").query_async::<()>(&mut listener).await?,
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
        if let Err(e) = pipeline.query_async::<()>(publisher).await {
            hub.metrics.dropped_outgoing(batch.len());
            return Err(e);
        }
        hub.metrics.published(batch.len());
    }
}

/// What jitter comes from.
pub(super) fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness nodes that start together would try again together, which they survive.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_le_bytes(bytes)
}
