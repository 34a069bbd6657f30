//! What all integration tests share: a spawned server, a small synchronous WebSocket client that can also
//! misbehave, plain HTTP, and a few makers of messages.
//!
//! The tests are black boxes: the real binary, real sockets, real files. They say what must hold, never how fast.

#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, missing_docs, clippy::unwrap_used)]

mod certificate;
mod client;
mod frame;
pub mod guarantees;
mod http;
pub mod jwt;
pub mod loadgen;
mod place;
pub mod redis;
mod replica;
mod server;
mod stream;

use causeway_storage::BACKENDS;
use serde_json::{Value, json};
use std::time::Duration;

pub use certificate::{Certificate, cert_file, key_file, write_certificate, write_key};
pub use client::{Client, Event, connect_from};
pub use frame::{
    BINARY, CLOSE, CONTINUATION, Frame, Length, PING, PONG, TEXT, close_frame, fragment, frame, wire,
};
pub use http::{HANDSHAKE_HEADERS, Response, encode, exchange, upgrade_request, upgrade_request_with};
pub use place::{Place, lines};
pub use replica::{Numbers, Replica, Row};
pub use server::{Finished, Server, freeze, run, signal};
pub use stream::Stream;

/// How long a test waits for what must come. Nothing is asserted about being quicker.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The site id of the tests' first writer.
pub const SITE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes of each function, which takes a store's name, one test per store.
macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        causeway_storage::with_backends! { tests_of_every_store { $($test)+ } }
    };
}

/// The same for the stores whose data outlives the process.
macro_rules! on_durable_stores {
    ($($test:ident),+ $(,)?) => {
        mod durable {
            use super::{$($test),+};
            causeway_storage::with_backends! { tests_of_durable_stores { $($test)+ } }
        }
    };
}

macro_rules! tests_of_every_store {
    ($tests:tt [$($durable:ident)*] [$($other:ident)*]) => {
        $(tests_of_store! { $durable $tests })*
        $(tests_of_store! { $other $tests })*
    };
}

macro_rules! tests_of_durable_stores {
    ($tests:tt [$($durable:ident)*] $others:tt) => { $(tests_of_store! { $durable $tests })* };
}

macro_rules! tests_of_store {
    ($store:ident { $($test:ident)+ }) => {
        mod $store { $(#[test] fn $test() { super::$test(stringify!($store)) })+ }
    };
}

/// The names of the stores whose data outlives the process.
pub fn durable_stores() -> impl Iterator<Item = &'static str> {
    BACKENDS.iter().filter(|backend| backend.persistent).map(|backend| backend.name)
}

/// A change to one cell of any table.
pub fn change(table: &str, pk: &str, cid: &str, val: impl Into<Value>) -> Value {
    json!([table, pk, cid, val.into(), 1, 1, SITE, 1, 0])
}

/// A change to one cell of a row in its first life.
pub fn cell(pk: &str, cid: &str, val: impl Into<Value>, col_version: u64) -> Value {
    json!(["todos", pk, cid, val.into(), col_version, 1, SITE, 1, 0])
}

/// The sentinel of a row: even `cl` deletes it, odd revives it.
pub fn sentinel(pk: &str, cl: u64) -> Value {
    json!(["todos", pk, "-1", null, cl, 1, SITE, cl, 0])
}

/// An update as the guide's clients send it, `version` being the client's own.
pub fn update(version: u64, changes: &[Value]) -> Value {
    json!({"type": "update", "siteId": SITE, "version": version, "channel": "client-db", "changes": changes})
}

/// A pull of everything above `version`.
pub fn pull(version: u64) -> Value {
    json!({"type": "pull", "siteId": SITE, "version": version, "channel": "client-db"})
}

/// The changes of an update message.
pub fn changes(message: &Value) -> &[Value] {
    message["changes"].as_array().unwrap_or_else(|| panic!("no changes in {message}"))
}

/// The `version` of a message.
pub fn version(message: &Value) -> u64 {
    message["version"].as_u64().unwrap_or_else(|| panic!("no version in {message}"))
}

/// A number field of a change: 4 `col_version`, 5 `db_version`, 7 `cl`, 8 `seq`.
pub fn number(change: &Value, field: usize) -> u64 {
    change[field].as_u64().unwrap_or_else(|| panic!("field {field} is no number in {change}"))
}

/// The primary keys of the changes, in their order.
pub fn keys(changes: &[Value]) -> Vec<String> {
    changes.iter().map(|change| change[1].as_str().unwrap().to_owned()).collect()
}
