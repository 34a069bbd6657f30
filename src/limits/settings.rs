//! The limits that a reload may change, as they are in effect.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, PoisonError, RwLock};

use super::address::Network;
use super::bucket::Rate;
use super::origin::Origin;
use crate::config::Config;

/// The rates that messages are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRates {
    /// Frames: messages, control frames and fragments.
    pub messages: Rate,
    /// Payload bytes.
    pub bytes: Rate,
    /// Changes in updates.
    pub changes: Rate,
}

/// How large a channel may become; 0 means that there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelQuota {
    /// Bytes, as [`causeway_storage::Cell::bytes`] counts them.
    pub max_bytes: u64,
    /// Rows of `crdt_changes`: cells.
    pub max_rows: u64,
    /// How many channels there may be.
    pub max_channels: usize,
    /// Connections of one channel.
    pub max_connections: usize,
}

/// All of it. Of every number 0 means that there is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of one connection.
    pub connection: MessageRates,
    /// Of all connections of a subject together.
    pub subject: MessageRates,
    /// Messages of a connection that may be refused for their rate.
    pub refusals: Rate,
    /// Bytes of messages that are not whole yet, of all connections; never too few for one message.
    pub max_partial_bytes: usize,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of an address.
    pub max_connections_per_ip: usize,
    /// Connections of a subject.
    pub max_connections_per_subject: usize,
    /// New connections in all.
    pub new_connections: Rate,
    /// New connections of an address.
    pub new_connections_per_ip: Rate,
    /// How many bits of an IPv6 address count.
    pub ipv6_prefix: u8,
    /// The proxies that are believed whom they serve.
    pub trusted_proxies: Vec<Network>,
    /// The web pages that may connect; none means any.
    pub allowed_origins: Vec<Origin>,
    /// What a channel may have.
    pub channel: ChannelQuota,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Settings {
            connection: MessageRates {
                messages: Rate::per_second(config.max_messages_per_s),
                bytes: Rate::per_second(config.max_bytes_per_s),
                changes: Rate::per_second(config.max_changes_per_s),
            },
            subject: MessageRates {
                messages: Rate::per_second(config.max_subject_messages_per_s),
                bytes: Rate::per_second(config.max_subject_bytes_per_s),
                changes: Rate::per_second(config.max_subject_changes_per_s),
            },
            refusals: Rate::per_minute(config.max_rate_limited_per_min),
            max_partial_bytes: match config.max_partial_bytes {
                0 => 0,
                // Its buffer doubles as it arrives.
                max => max.max(2 * config.max_message_bytes),
            },
            max_connections: config.max_connections,
            max_connections_per_ip: config.max_connections_per_ip,
            max_connections_per_subject: config.max_connections_per_subject,
            new_connections: Rate::per_second(config.max_new_connections_per_s),
            new_connections_per_ip: Rate::per_second(config.max_new_connections_per_ip_per_s),
            ipv6_prefix: config.ipv6_prefix,
            trusted_proxies: config.trusted_proxies.0.clone(),
            allowed_origins: config.allowed_origins.0.clone(),
            channel: ChannelQuota {
                max_bytes: config.max_channel_bytes,
                max_rows: config.max_channel_rows,
                max_channels: config.max_channels,
                max_connections: config.max_connections_per_channel,
            },
        }
    }
}

/// The settings in effect, to be replaced while they are used.
#[derive(Debug)]
pub struct Current {
    settings: RwLock<Arc<Settings>>,
    /// How often they were replaced: who has a copy need not lock to know that it is still good.
    generation: AtomicU64,
}

impl Current {
    pub(super) fn new(settings: Settings) -> Self {
        Current { settings: RwLock::new(Arc::new(settings)), generation: AtomicU64::new(0) }
    }

    /// Puts others into effect: for what comes from now on.
    pub fn replace(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.generation.fetch_add(1, Release);
    }

    /// Those in effect.
    pub fn get(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A copy of the settings, for who looks at them often: it costs one load to see that it is still good.
#[derive(Debug)]
pub struct Copy {
    settings: Arc<Settings>,
    generation: u64,
}

impl Copy {
    /// A copy of those in effect.
    pub fn new(current: &Current) -> Self {
        let generation = current.generation.load(Acquire);
        Copy { settings: current.get(), generation }
    }

    /// Those in effect.
    pub fn get(&mut self, current: &Current) -> &Arc<Settings> {
        if self.generation != current.generation.load(Acquire) {
            *self = Copy::new(current);
        }
        &self.settings
    }

    /// Those in effect when it was last asked.
    pub fn last(&self) -> &Arc<Settings> {
        &self.settings
    }
}
