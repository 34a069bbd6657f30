//! What is asked for when `/metrics` is, rather than counted as it happens.

/// A channel as `/metrics` shows it.
#[derive(Clone, Debug)]
pub struct ChannelStats {
    /// Its name.
    pub name: String,
    /// Its connections.
    pub connections: usize,
    /// Its version.
    pub version: u64,
    /// How many versions its slowest client has yet to be sent.
    pub lag: u64,
}

impl ChannelStats {
    /// Keeps the `max` with the most connections.
    pub fn keep_busiest(stats: &mut Vec<ChannelStats>, max: usize) {
        stats.sort_unstable_by(|a, b| b.connections.cmp(&a.connections).then_with(|| a.name.cmp(&b.name)));
        stats.truncate(max);
    }
}

/// What a shard says of itself.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Channels with a follower.
    pub channels: usize,
    /// Channels whose store is open.
    pub open_stores: usize,
    /// Bytes in all outboxes.
    pub outbox_bytes: usize,
    /// Connections whose updates are left to pages.
    pub lagging: usize,
    /// Pulls that are being answered, or wait for that.
    pub pulls: usize,
    /// The channels with the most followers.
    pub busiest: Vec<ChannelStats>,
}

/// What is asked for when `/metrics` is.
#[derive(Debug, Default)]
pub struct Now {
    /// What the shards say.
    pub shards: Vec<ShardStats>,
    /// How many shards said nothing.
    pub silent: usize,
    /// The most channels that are shown one by one.
    pub max_channels: usize,
    /// Whether clients are taken in.
    pub ready: bool,
    /// Bytes of updates that wait for the shards.
    pub queue_bytes: usize,
    /// Pages that are being read.
    pub pages_reading: usize,
}
