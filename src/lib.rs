//! Causeway, a relay for local-first apps. The map of the house, in the order in which a change passes through it:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`reload`] | what SIGHUP does: what of the configuration can change while the server runs |
//! | [`server`] | listens, drains, and ties everything below together |
//! | [`tls`] | the handshake on the same port, and a certificate that can change |
//! | [`routes`] | HTTP on the same port: the upgrade, health, metrics |
//! | [`admin`] | what an operator asks of a store, served or not; how it comes to a server |
//! | [`relay`], [`draining`] | what all connections share; the beginning of its end |
//! | [`connection`] | one socket: reads, decodes, hands over; writes what its outbox holds |
//! | [`auth`] | tokens, the keys they are checked with, and what a connection may do |
//! | [`protocol`] | frames and messages, decoded and encoded; knows nothing of the rest |
//! | [`queue`], [`shard`] | the threads that own the channels and commit for them |
//! | [`channel`] | one channel: merge, commit |
//! | [`fanout`] | what a commit tells whom |
//! | [`outbox`] | a connection's bounded out-queue and its cursor |
//! | [`page`] | what a client missed, a bounded piece at a time |
//! | [`work`] | where work runs that may block |
//! | [`bus`] | other nodes: what is told and heard, and how what was missed is repaired |
//! | [`backup`] | backup and restore |
//! | [`limits`] | what one client may take of what all share |
//! | [`schema_file`] | the application's schema, as a file, and the last one of a data directory |
//! | [`file_stamp`], [`secret_file`] | whether a file has changed; files of keys and secrets |
//! | [`config`], [`metrics`], [`unavailable`] | every setting; every count; channels whose store fails |
//! | [`logging`], [`ending`], [`request_id`] | the log; why connections end; what ties lines together |
//!
//! Imports point down this list. Storage is a crate of its own, `causeway-storage`.

pub mod admin;
pub mod auth;
pub mod backup;
pub mod bus;
pub mod channel;
pub mod config;
pub mod connection;
pub mod draining;
pub mod ending;
pub mod fanout;
pub mod file_stamp;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod outbox;
pub mod page;
pub mod protocol;
pub mod queue;
pub mod relay;
pub mod reload;
pub mod request_id;
pub mod routes;
pub mod schema_file;
pub mod secret_file;
pub mod server;
pub mod shard;
pub mod tls;
pub mod unavailable;
pub mod work;
