//! What one client may take of what all share: rates, connections, the size of its channels. `docs/security.md` says what
//! each limit is for, and shows what happens at it.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`settings`] | the limits in effect, to be replaced while the server runs |
//! | [`bucket`] | a rate, and what is used of it |
//! | [`meter`] | what a connection may send |
//! | [`partial`] | what messages take until they are whole |
//! | [`holders`] | who has how many connections |
//! | [`address`], [`origin`] | whom a connection counts for; which web pages may connect |

pub mod address;
pub mod bucket;
pub mod holders;
pub mod meter;
pub mod origin;
pub mod partial;
pub mod settings;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::metrics::Metrics;
use address::{counted, is_trusted};
use bucket::{Bucket, Rate};
use holders::{Holders, Place, Used};
use meter::{Limited, SubjectPlace, SubjectUse};
use settings::{Current, Settings};

macro_rules! limits {
    ($( $(#[doc = $about:literal])+ $name:ident = $setting:literal, )+) => {
        /// A limit that a client has come to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $( $(#[doc = $about])+ $name, )+ }

        impl Limit {
            /// All of them, in order.
            pub const ALL: &[Limit] = &[$(Limit::$name,)+];

            /// The setting that it is.
            pub fn setting(self) -> &'static str {
                match self { $(Limit::$name => $setting,)+ }
            }
        }
    };
}

limits! {
    /// Frames of a connection.
    Messages = "max_messages_per_s",
    /// Bytes of a connection.
    Bytes = "max_bytes_per_s",
    /// Changes of a connection.
    Changes = "max_changes_per_s",
    /// Frames of a subject.
    SubjectMessages = "max_subject_messages_per_s",
    /// Bytes of a subject.
    SubjectBytes = "max_subject_bytes_per_s",
    /// Changes of a subject.
    SubjectChanges = "max_subject_changes_per_s",
    /// Messages of a connection that were refused for their rate.
    Refusals = "max_rate_limited_per_min",
    /// Connections.
    Connections = "max_connections",
    /// Connections of an address.
    ConnectionsPerIp = "max_connections_per_ip",
    /// Connections of a subject.
    ConnectionsPerSubject = "max_connections_per_subject",
    /// Connections of a channel.
    ConnectionsPerChannel = "max_connections_per_channel",
    /// New connections.
    NewConnections = "max_new_connections_per_s",
    /// New connections of an address.
    NewConnectionsPerIp = "max_new_connections_per_ip_per_s",
    /// Web pages that may not connect.
    Origins = "allowed_origins",
    /// Channels.
    Channels = "max_channels",
    /// Bytes of a channel.
    ChannelBytes = "max_channel_bytes",
    /// Rows of a channel.
    ChannelRows = "max_channel_rows",
    /// Bytes of a message.
    MessageBytes = "max_message_bytes",
    /// Bytes of messages that are not whole yet.
    PartialBytes = "max_partial_bytes",
    /// Changes of an update.
    UpdateChanges = "max_changes_per_update",
    /// Time for a handshake.
    Handshake = "handshake_timeout_ms",
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting())
    }
}

/// The limits, and what is used of them.
#[derive(Debug)]
pub struct Limits {
    /// Those in effect.
    pub settings: Current,
    metrics: Arc<Metrics>,
    connections: AtomicUsize,
    /// What messages take that are not whole yet.
    partial_bytes: AtomicUsize,
    new_connections: Mutex<Bucket>,
    addresses: Arc<Holders<IpAddr, NewConnections>>,
    subjects: Arc<Holders<Arc<str>, SubjectUse>>,
}

/// What is used of an address' rate.
#[derive(Debug)]
struct NewConnections {
    bucket: Bucket,
    rate: Option<Rate>,
}

impl Used for NewConnections {
    fn new(now: Instant) -> Self {
        NewConnections { bucket: Bucket::new(now), rate: None }
    }

    fn is_unused(&mut self, now: Instant) -> bool {
        if let Some(rate) = self.rate {
            self.bucket.refill(now, rate);
        }
        self.bucket.is_full()
    }
}

impl NewConnections {
    /// Takes one, if there is one left.
    fn take(&mut self, now: Instant, rate: Rate, limit: Limit) -> Result<(), Limited> {
        self.rate = Some(rate);
        take_one(&mut self.bucket, now, rate, limit)
    }
}

fn take_one(bucket: &mut Bucket, now: Instant, rate: Rate, limit: Limit) -> Result<(), Limited> {
    bucket.take_one(now, rate).map_err(|retry_after| Limited { limit, retry_after })
}

/// Whether another one is too many; a `max` of 0 is no limit.
pub fn is_full(count: usize, max: usize) -> bool {
    max > 0 && count >= max
}

/// Why somebody may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So many are there that one has to go first.
    Full(Limit),
    /// Too many came lately.
    TooFast(Limited),
}

impl Refused {
    /// The limit.
    pub fn limit(&self) -> Limit {
        match self {
            Refused::Full(limit) => *limit,
            Refused::TooFast(limited) => limited.limit,
        }
    }
}

/// A connection's share of the number of all.
#[derive(Debug)]
pub struct Admission {
    limits: Arc<Limits>,
    /// Whom it comes from.
    peer: IpAddr,
    address: Option<Place<IpAddr, NewConnections>>,
}

/// Who asks for something over a connection.
#[derive(Debug)]
pub struct ClientPlace {
    /// The client's own address: behind a trusted proxy not the connection's.
    pub address: IpAddr,
    /// Among the connections of its address, where the admission has none.
    _address: Option<Place<IpAddr, NewConnections>>,
    /// Among those of its subject.
    pub subject: Option<SubjectPlace>,
}

impl Limits {
    /// Limits of which nothing is used.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Limits {
            settings: Current::new(settings),
            metrics,
            connections: AtomicUsize::new(0),
            partial_bytes: AtomicUsize::new(0),
            new_connections: Mutex::new(Bucket::new(Instant::now())),
            addresses: Arc::default(),
            subjects: Arc::default(),
        })
    }

    /// Lets a connection in that comes from `peer`, or says why not. What comes from a trusted proxy is counted for its client
    /// when that is known.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admission, Refused> {
        let admitted = self.try_admit(peer);
        if let Err(refused) = &admitted {
            self.metrics.limited(refused.limit());
        }
        admitted
    }

    fn try_admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admission, Refused> {
        let settings = self.settings.get();
        let counted = self.connections.fetch_update(Relaxed, Relaxed, |count| {
            (!is_full(count, settings.max_connections)).then_some(count + 1)
        });
        counted.map_err(|_| Refused::Full(Limit::Connections))?;
        // From here on it is counted, and dropped if it is refused.
        let mut admission = Admission { limits: self.clone(), peer, address: None };
        if !is_trusted(peer, &settings.trusted_proxies) {
            admission.address = Some(self.enter_address(peer, &settings)?);
        }
        Ok(admission)
    }

    /// The address first: who is refused for its own haste is not to use up what is for all.
    fn enter_address(
        &self,
        address: IpAddr,
        settings: &Settings,
    ) -> Result<Place<IpAddr, NewConnections>, Refused> {
        let now = Instant::now();
        self.addresses.enter(counted(address, settings.ipv6_prefix), now, |connections, used| {
            if is_full(connections, settings.max_connections_per_ip) {
                return Err(Refused::Full(Limit::ConnectionsPerIp));
            }
            used.take(now, settings.new_connections_per_ip, Limit::NewConnectionsPerIp)
                .map_err(Refused::TooFast)?;
            let mut all = self.new_connections.lock().unwrap_or_else(PoisonError::into_inner);
            take_one(&mut all, now, settings.new_connections, Limit::NewConnections).map_err(Refused::TooFast)
        })
    }

    /// Lets the request in that an admitted connection is for, whatever it asks for, or says why not. Behind a trusted proxy it
    /// is what a connection is elsewhere: counted for its client while it lasts, and charged to the client's rate.
    pub fn admit_request(
        &self,
        admission: &Admission,
        headers: &hyper::HeaderMap,
    ) -> Result<ClientPlace, Refused> {
        if admission.address.is_some() {
            let address = admission.peer.to_canonical();
            return Ok(ClientPlace { address, _address: None, subject: None });
        }
        let settings = self.settings.get();
        let address = address::client(admission.peer, headers, &settings.trusted_proxies);
        match self.enter_address(address, &settings) {
            Ok(place) => Ok(ClientPlace { address, _address: Some(place), subject: None }),
            Err(refused) => {
                self.metrics.limited(refused.limit());
                Err(refused)
            }
        }
    }

    /// Gives the client that wants to become a WebSocket its place among its subject's connections, or says why not.
    pub fn admit_subject(&self, client: &mut ClientPlace, subject: &Arc<str>) -> Result<(), Refused> {
        let max = self.settings.get().max_connections_per_subject;
        let place = self.subjects.enter(subject.clone(), Instant::now(), |connections, _| {
            match is_full(connections, max) {
                true => Err(Refused::Full(Limit::ConnectionsPerSubject)),
                false => Ok(()),
            }
        });
        let refused = |refused: &Refused| self.metrics.limited(refused.limit());
        client.subject = Some(place.inspect_err(refused)?);
        Ok(())
    }

    /// Whether a web page may connect.
    pub fn allows_origin(&self, headers: &hyper::HeaderMap) -> bool {
        let allowed = origin::is_allowed(headers, &self.settings.get().allowed_origins);
        if !allowed {
            self.metrics.limited(Limit::Origins);
        }
        allowed
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.limits.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
