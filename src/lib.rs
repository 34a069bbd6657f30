//! Causeway, a relay for local-first apps. The map of the house, in the order in which a change passes through it:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`server`] | listens, drains, and ties everything below together |
//! | [`routes`] | HTTP on the same port: the upgrade, health, metrics |
//! | [`admin`] | what an operator asks of a store, served or not; how it comes to a server |
//! | [`relay`], [`draining`] | what all connections share; the beginning of its end |
//! | [`connection`] | one socket: reads, decodes, hands over; writes what its outbox holds |
//! | [`protocol`] | frames and messages, decoded and encoded; knows nothing of the rest |
//! | [`queue`], [`shard`] | the threads that own the channels and commit for them |
//! | [`channel`] | one channel: merge, commit |
//! | [`fanout`] | what a commit tells whom |
//! | [`outbox`] | a connection's bounded out-queue and its cursor |
//! | [`page`] | what a client missed, a bounded piece at a time |
//! | [`work`] | where work runs that may block |
//! | [`backup`] | backup and restore |
//! | [`limits`] | what one client may take of what all share |
//! | [`config`], [`metrics`], [`unavailable`] | every setting; every count; channels whose store fails |
//!
//! Imports point down this list. Storage is a crate of its own, `causeway-storage`.

pub mod admin;
pub mod backup;
pub mod channel;
pub mod config;
pub mod connection;
pub mod draining;
pub mod fanout;
pub mod limits;
pub mod metrics;
pub mod outbox;
pub mod page;
pub mod protocol;
pub mod queue;
pub mod relay;
pub mod routes;
pub mod server;
pub mod shard;
pub mod unavailable;
pub mod work;
