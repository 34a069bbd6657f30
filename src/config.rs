//! The configuration: every setting with its unit, its default and its bounds.
//!
//! A flag goes before the environment (`CAUSEWAY_…`), that before the file, that before the default. What is unknown
//! or out of bounds is an error that names the setting and where it came from.

mod kind;
mod redis_url;

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::{Durability, KeyFormat, Schema, StoreOptions};

use crate::bus::message::is_node_name;
use crate::limits::address::Network;
use crate::limits::origin::Origin;
use crate::logging::LogFormat;
use kind::Kind;
pub use kind::List;
pub use redis_url::RedisUrl;

/// What precedes a setting's name, in upper case, in the environment.
pub const ENV_PREFIX: &str = "CAUSEWAY_";

/// The environment's name for `--config`.
pub const ENV_CONFIG: &str = "CAUSEWAY_CONFIG";

/// A setting's name and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in a file; with dashes for a flag, in upper case for the environment.
    pub name: &'static str,
    /// What it means, with its unit.
    pub about: &'static str,
    /// Whether its flag alone says `true`.
    pub is_switch: bool,
}

/// A setting that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// The flag, the variable, or the file and key.
    pub origin: String,
    /// What is wrong with it.
    pub problem: String,
}

macro_rules! settings {
    ($( $(#[doc = $about:literal])+ $name:ident : $type:ty = $default:expr, $bounds:expr; )+) => {
        /// The effective configuration.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::struct_field_names)]
        pub struct Config { $( $(#[doc = $about])+ pub $name: $type, )+ }

        impl Default for Config {
            fn default() -> Self {
                Config { $( $name: $default, )+ }
            }
        }

        /// Every setting, in the order of `--print-config`.
        pub const SETTINGS: &[Setting] =
            &[$( Setting {
                name: stringify!($name), about: concat!($($about),+), is_switch: <$type as Kind>::IS_SWITCH,
            }, )+];

        impl Config {
            pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
                match name {
                    $( stringify!($name) => self.$name = <$type as Kind>::parse(value, $bounds)?, )+
                    _ => return Err("there is no such setting; --print-config shows all there are".into()),
                }
                Ok(())
            }

            /// A setting's value, as a file has it; empty if there is no such setting.
            pub fn toml(&self, name: &str) -> String {
                match name {
                    $( stringify!($name) => self.$name.toml(), )+
                    _ => String::new(),
                }
            }

            /// The settings whose values are others in `other`, in order.
            pub fn differing(&self, other: &Config) -> Vec<&'static str> {
                let differs = [$( (stringify!($name), self.$name != other.$name), )+];
                differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
            }

            /// Takes the value of one setting over.
            pub fn take(&mut self, name: &str, other: &Config) {
                match name {
                    $( stringify!($name) => self.$name = other.$name.clone(), )+
                    _ => {}
                }
            }
        }
    };
}

/// No bounds.
const ANY: std::ops::RangeInclusive<u64> = 0..=u64::MAX;
/// At least one.
const SOME: std::ops::RangeInclusive<u64> = 1..=u64::MAX;
/// A time: at least a millisecond, at most a year.
const TIME: std::ops::RangeInclusive<u64> = 1..=365 * 86_400_000;
/// A rate; 0 is no limit.
const RATE: std::ops::RangeInclusive<u64> = 0..=1 << 40;
/// A number of threads; 0 leaves it to the server.
const THREADS: std::ops::RangeInclusive<u64> = 0..=1024;

settings! {
    /// The address to listen on.
    listen: String = "127.0.0.1:8080".into(), ANY;
    /// Whether an address that is not loopback is listened on without any of the keys below: everybody may read and write everything.
    insecure_no_auth: bool = false, ANY;
    /// A file with HS256 secrets that tokens are signed with, one a line; read again when it changes, as all files of keys.
    auth_hs256_secret_file: Option<PathBuf> = None, ANY;
    /// A file with public keys in PEM that verify tokens: RSA (RS256), EC on P-256 (ES256), Ed25519 (EdDSA).
    auth_public_keys_file: Option<PathBuf> = None, ANY;
    /// A JWKS file with public keys that verify tokens.
    auth_jwks_file: Option<PathBuf> = None, ANY;
    /// A TOML file with the hashes of API keys and what each may do.
    auth_api_keys_file: Option<PathBuf> = None, ANY;
    /// The issuer (`iss`) that a token must have; empty: any.
    auth_issuer: Option<String> = None, ANY;
    /// The audience (`aud`) that a token must be for; empty: any.
    auth_audience: Option<String> = None, ANY;
    /// How far the clocks of those who make tokens may be from this one, in seconds.
    auth_leeway_s: u64 = 5, 0..=600;
    /// The address that operators ask over HTTP (`/admin/…`), apart from the relay's own; empty means nowhere.
    admin_listen: Option<String> = None, ANY;
    /// The file that holds the token operators show there; `admin_listen` needs it.
    admin_token_file: Option<PathBuf> = None, ANY;
    /// A PEM file with the server's certificate and its chain; with it the relay's port speaks TLS. Looked at once a second.
    tls_cert: Option<PathBuf> = None, ANY;
    /// A PEM file with the certificate's key, not encrypted.
    tls_key: Option<PathBuf> = None, ANY;
    /// Whether operators are asked over TLS, too, with the same certificate.
    admin_tls: bool = false, ANY;
    /// The data directory; it is made if it is not there.
    data: PathBuf = "./data".into(), ANY;
    /// The storage engine; a name that is none is answered with all there are.
    store: String = "sqlite".into(), ANY;
    /// What an acked change survives: full (a power cut), normal (a crash of the process), off (nothing).
    durability: Durability = Durability::Full, ANY;
    /// What is logged: error, warn, info, debug or trace, or a filter such as `causeway=debug`.
    log: String = "info".into(), ANY;
    /// How log lines look: human, json, or auto (human on a terminal, else json).
    log_format: LogFormat = LogFormat::Auto, ANY;
    /// A file with the CREATE TABLEs of the application's tables, which changes are checked against; empty: any table is taken.
    schema: Option<PathBuf> = None, ANY;
    /// How changes carry a row's key, if there is a schema: packed (as cr-sqlite does), plain (the key's one value as text).
    key_format: KeyFormat = KeyFormat::Packed, ANY;

    /// The largest message taken, in bytes; a larger one closes its connection with 1009.
    max_message_bytes: usize = 8 << 20, 1024..=1 << 30;
    /// What messages above 64 KiB may take of all connections together until they are whole, in bytes, and never less than twice max_message_bytes; who would take more is closed with 1013. 0: no limit.
    max_partial_bytes: usize = 512 << 20, ANY;
    /// The most changes in one update.
    max_changes_per_update: usize = 50_000, 1..=1_000_000;
    /// How far a change may push a cell's col_version above what is there.
    max_col_version_jump: u64 = 1_000_000, SOME;
    /// How far a change may push a row's cl above what is there.
    max_cl_jump: u64 = 1_000_000, SOME;
    /// Whether a message that names another channel than the URL is refused.
    strict_channel: bool = false, ANY;
    /// Bad messages in a row after which a connection is closed with 1008.
    max_bad_messages: u32 = 20, SOME;

    /// The largest page of a pull, in bytes; a single change is sent whatever its size.
    page_max_bytes: usize = 1 << 20, 256..=1 << 30;
    /// The most changes in a page.
    page_max_changes: usize = 5_000, SOME;
    /// How many pages are read at once.
    page_readers: usize = 2, 1..=1024;
    /// Live updates that may wait for one connection, in bytes; beyond it falls back to pages.
    outbox_max_bytes: usize = 4 << 20, 1024..=1 << 40;
    /// Answers that may wait for one connection, in bytes; beyond it nothing more is read from it.
    max_reply_bytes: usize = 256 << 10, 1024..=1 << 40;

    /// How long a client may take for its handshake, in milliseconds.
    handshake_timeout_ms: u64 = 10_000, TIME;
    /// How often a client is pinged, in milliseconds.
    ping_interval_ms: u64 = 20_000, TIME;
    /// How long a client may stay silent before it is closed, in milliseconds.
    pong_timeout_ms: u64 = 60_000, TIME;
    /// How long a client may take no byte of what waits for it before it is closed with 1013, in milliseconds.
    slow_client_timeout_ms: u64 = 30_000, TIME;
    /// How long a client may take to answer a close, in milliseconds.
    close_timeout_ms: u64 = 2_000, TIME;
    /// How long a stop waits for what was accepted to be committed and acked, in milliseconds.
    drain_timeout_ms: u64 = 10_000, TIME;
    /// The most connections; more are answered 503.
    max_connections: usize = 100_000, SOME;
    /// The most connections of one address; more are answered 429. 0: no limit.
    max_connections_per_ip: usize = 20_000, ANY;
    /// The most connections of one subject of tokens; more are answered 429. 0: no limit.
    max_connections_per_subject: usize = 10_000, ANY;
    /// The most connections of one channel; more are answered 503. 0: no limit.
    max_connections_per_channel: usize = 20_000, ANY;
    /// New connections a second; ten seconds' worth may come at once, as with all rates. More are answered 429. 0: no limit.
    max_new_connections_per_s: u64 = 10_000, RATE;
    /// New connections a second of one address. 0: no limit.
    max_new_connections_per_ip_per_s: u64 = 2_500, RATE;
    /// How many bits of an IPv6 address tell one client from another.
    ipv6_prefix: u8 = 64, 1..=128;
    /// Proxies that are believed which address they serve (`X-Forwarded-For`), as addresses or ranges such as 10.0.0.0/8.
    trusted_proxies: List<Network> = List(Vec::new()), ANY;
    /// Web pages that may connect, as `https://app.example.com` or `https://*.example.com`; none: any. Others are answered 403.
    allowed_origins: List<Origin> = List(Vec::new()), ANY;

    /// Messages (and control frames, and fragments) a second of one connection; more are answered `rate_limited`. 0: no limit.
    max_messages_per_s: u64 = 100_000, RATE;
    /// Bytes of messages a second of one connection. 0: no limit.
    max_bytes_per_s: u64 = 256 << 20, RATE;
    /// Changes a second of one connection. 0: no limit.
    max_changes_per_s: u64 = 1_000_000, RATE;
    /// Messages a second of all connections of one subject of tokens together. 0: no limit.
    max_subject_messages_per_s: u64 = 200_000, RATE;
    /// Bytes of messages a second of one subject. 0: no limit.
    max_subject_bytes_per_s: u64 = 512 << 20, RATE;
    /// Changes a second of one subject. 0: no limit.
    max_subject_changes_per_s: u64 = 2_000_000, RATE;
    /// Messages of a connection that may be answered `rate_limited` in a minute; one more closes it with 1008. 0: any number.
    max_rate_limited_per_min: u64 = 100, RATE;

    /// The most channels; an update that would make another is answered `quota_exceeded`. 0: no limit.
    max_channels: usize = 100_000, ANY;
    /// The most bytes of a channel's names and values, and 64 for each cell; what would make it larger is answered `quota_exceeded`. 0: no limit.
    max_channel_bytes: u64 = 1 << 30, ANY;
    /// The most rows of a channel's crdt_changes, which are cells: a deleted row keeps one. 0: no limit.
    max_channel_rows: u64 = 10_000_000, ANY;

    /// Writer threads; 0 means twice the number of cores, and at least 4. Commits of different shards wait for the disk together.
    shards: usize = 0, THREADS;
    /// Network threads; 0 means half the number of cores, and at least one: the shards want cores too.
    io_threads: usize = 0, THREADS;
    /// Updates that may wait to be merged, in bytes over all shards; beyond it nothing more is read.
    max_queue_bytes: usize = 256 << 20, 1 << 16..=1 << 32;
    /// The most changes of a channel that go into one commit; a single update is taken whatever its size.
    max_commit_changes: usize = 10_000, SOME;
    /// The most bytes of updates of a channel that go into one commit; a single update is taken whatever its size.
    max_commit_bytes: usize = 8 << 20, SOME;
    /// The most channels whose store is open at once; the longest unused is closed first.
    max_open_channels: usize = 1_024, SOME;
    /// How long a channel's store stays open unused, in milliseconds.
    channel_idle_ms: u64 = 60_000, TIME;
    /// How long a channel remembers a peer that it has not heard of again, in seconds.
    peer_retention_s: u64 = 90 * 86_400, 1..=100 * 365 * 86_400;
    /// The store's cache, in bytes for each open channel, and as much again for its tables; a store that has one database for all channels has eight of these for all.
    cache_bytes: usize = 4 << 20, 1 << 16..=1 << 40;

    /// Where the nodes of a cluster hear each other: `redis://[[user]:password@]host[:port]`, or `rediss://` over TLS; empty: this server is alone.
    redis: Option<RedisUrl> = None, ANY;
    /// A file with the password for Redis, and not the URL, which whoever lists processes sees; read whenever Redis is connected to.
    redis_password_file: Option<PathBuf> = None, ANY;
    /// A PEM file with the certificates that Redis' own may come from, with `rediss://`; empty: those that the system trusts.
    redis_ca: Option<PathBuf> = None, ANY;
    /// This node's name, which no other node of the cluster has: 1 to 64 of letters, digits, `.`, `-` and `_`; `redis` needs it.
    node: Option<String> = None, ANY;
    /// What precedes the names of this cluster's topics in Redis.
    redis_prefix: String = "causeway".into(), ANY;
    /// What may wait to be published, in bytes; what does not fit is dropped, and repaired by those who miss it.
    bus_queue_bytes: usize = 32 << 20, 1 << 16..=1 << 32;
    /// What other nodes have sent and waits to be decoded, in bytes; what does not fit is dropped, and repaired.
    bus_inbox_bytes: usize = 64 << 20, 1 << 16..=1 << 32;
    /// How long Redis may take for an answer, in milliseconds; then it is connected to anew.
    redis_timeout_ms: u64 = 5_000, TIME;
    /// The longest pause before Redis is connected to again, in milliseconds.
    redis_retry_max_ms: u64 = 5_000, TIME;
    /// How often nodes tell each other the digests of channels in use, in milliseconds, give or take a quarter.
    cluster_heartbeat_ms: u64 = 2_000, TIME;
    /// How often nodes tell each other the digests of all channels, in seconds, give or take a quarter.
    cluster_walk_s: u64 = 3_600, 1..=31_536_000;
    /// How long who comes for a channel waits for what other nodes have of it, in milliseconds; it is served what is there then, and the rest follows.
    catch_up_timeout_ms: u64 = 2_000, 0..=600_000;
    /// How many channels are repaired at once; 0 leaves nodes as different as they are, to show what repairs do.
    cluster_repairs: usize = 4, 0..=256;
    /// How long another node may take for a page, in milliseconds.
    cluster_page_timeout_ms: u64 = 5_000, TIME;
    /// How many pages are read at once for other nodes.
    cluster_page_readers: usize = 2, 1..=256;
    /// How many messages of digests, and how many questions for pages, of other nodes wait at once.
    cluster_waiting: usize = 256, 1..=65_536;
    /// How many other nodes are heard.
    cluster_max_nodes: usize = 64, 1..=1_024;
    /// How long a node counts in the replicated lag that is not heard any more, in seconds.
    cluster_forget_s: u64 = 86_400, 1..=31_536_000;
    /// Of how many channels it is remembered that they differ, agree, were compared or have to be repaired, in each case.
    cluster_remembered_channels: usize = 100_000, SOME;
    /// Whether /readyz answers 503 while other nodes cannot be heard.
    ready_needs_bus: bool = false, ANY;

    /// The busiest channels that /metrics shows one by one.
    metrics_channels: usize = 20, 0..=1_000;
}

impl Config {
    /// Puts the layers together: the file, then the environment, then the flags.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Config::default();
        if let Some(path) = file {
            config.read_file(path)?;
        }
        for (variable, value) in env {
            let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
            if variable != ENV_CONFIG {
                let set = config.set(&name.to_lowercase(), &value);
                set.map_err(|problem| ConfigError { origin: variable, problem })?;
            }
        }
        for (name, value) in flags {
            config.set(&name, &value).map_err(|problem| ConfigError { origin: flag(&name), problem })?;
        }
        config.check()?;
        Ok(config)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let failed = |problem: String| ConfigError {
            origin: format!("configuration file {}", path.display()),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        // Where the problem is, it shows the line.
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| failed(redis_url::masked(&e.to_string())))?;
        // The name of a table goes before those of its settings.
        let mut values = Vec::new();
        for (name, value) in table {
            match value {
                toml::Value::Table(table) => {
                    values.extend(table.into_iter().map(|(key, value)| (format!("{name}_{key}"), value)));
                }
                value => values.push((name, value)),
            }
        }
        let mut seen = HashSet::new();
        for (name, value) in values {
            if !seen.insert(name.clone()) {
                return Err(failed(format!("{name}: it is set twice")));
            }
            let value = match value {
                toml::Value::String(s) => s,
                toml::Value::Integer(i) => i.to_string(),
                toml::Value::Boolean(b) => b.to_string(),
                toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                    items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
                }
                other => {
                    return Err(failed(format!("{name}: {} is not a value for a setting", other.type_str())));
                }
            };
            self.set(&name, &value).map_err(|problem| failed(format!("{name}: {problem}")))?;
        }
        Ok(())
    }

    /// What no setting can tell of itself alone.
    fn check(&self) -> Result<(), ConfigError> {
        if let Err(e) = causeway_storage::backend(&self.store) {
            return Err(ConfigError { origin: "store".into(), problem: e.to_string() });
        }
        if self.admin_listen.is_some() && self.admin_token_file.is_none() {
            let problem = "it needs admin_token_file, a file that holds the token operators show".into();
            return Err(ConfigError { origin: "admin_listen".into(), problem });
        }
        let one_without = |one: &str, other: &str| {
            Err(ConfigError { origin: one.into(), problem: format!("it needs {other}; set both or neither") })
        };
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return one_without("tls_cert", "tls_key"),
            (None, Some(_)) => return one_without("tls_key", "tls_cert"),
            (None, None) if self.admin_tls => {
                let problem = "it needs tls_cert and tls_key".into();
                return Err(ConfigError { origin: "admin_tls".into(), problem });
            }
            _ => {}
        }
        match (&self.redis, &self.node) {
            (Some(_), None) => return one_without("redis", "node"),
            (None, Some(_)) => return one_without("node", "redis"),
            (Some(url), Some(node)) => {
                let wrong = |origin: &str, problem: &str| {
                    Err(ConfigError { origin: origin.into(), problem: problem.into() })
                };
                if self.redis_password_file.is_some() && url.info().redis_settings().password().is_some() {
                    return wrong(
                        "redis_password_file",
                        "`redis` has a password, too; leave one of them out",
                    );
                }
                if self.redis_ca.is_some() && !url.is_tls() {
                    return wrong("redis_ca", "it is for a `redis` that begins with rediss://");
                }
                if !is_node_name(node) {
                    return wrong("node", "a name is 1 to 64 of letters, digits, `.`, `-` and `_`");
                }
            }
            (None, None) if self.redis_password_file.is_some() => {
                return one_without("redis_password_file", "redis");
            }
            (None, None) if self.redis_ca.is_some() => return one_without("redis_ca", "redis"),
            (None, None) => {}
        }
        let rule = [("auth_issuer", &self.auth_issuer), ("auth_audience", &self.auth_audience)];
        if let Some((name, _)) = rule.into_iter().find(|(_, value)| value.is_some() && !self.has_auth()) {
            let problem = "tokens are not looked at without any of auth_hs256_secret_file, auth_public_keys_file, \
                auth_jwks_file, auth_api_keys_file";
            return Err(ConfigError { origin: name.into(), problem: problem.into() });
        }
        Ok(())
    }

    /// Whether clients have to show a token.
    pub fn has_auth(&self) -> bool {
        let files = [
            &self.auth_hs256_secret_file,
            &self.auth_public_keys_file,
            &self.auth_jwks_file,
            &self.auth_api_keys_file,
        ];
        files.iter().any(|file| file.is_some())
    }

    /// What the store is opened with.
    pub fn store_options(&self, schema: Option<Arc<Schema>>) -> StoreOptions {
        StoreOptions {
            dir: self.data.clone(),
            durability: self.durability,
            cache_bytes: self.cache_bytes,
            schema,
        }
    }

    /// The whole configuration as a file, with a comment a key.
    pub fn to_toml(&self) -> String {
        let mut out = String::from("# Causeway's configuration: every setting, as it is in effect.\n");
        for setting in SETTINGS {
            let (name, about) = (setting.name, setting.about.trim());
            write!(out, "\n# {about}\n{name} = {}\n", self.toml(name))
                .expect("a String takes what is written");
        }
        out
    }

    /// The number of shards in effect.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => (2 * cores()).max(4),
            n => n,
        }
    }

    /// The number of network threads in effect.
    pub fn io_thread_count(&self) -> usize {
        match self.io_threads {
            0 => (cores() / 2).max(1),
            n => n,
        }
    }
}

/// The flag of a setting.
pub fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests;
