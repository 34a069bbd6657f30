//! What a store that fails, or takes long, does to its senders, to everybody else, and to what was acked: real sockets,
//! real stores, and faults on command. Each test writes its row of `docs/guarantees.md`.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod commits;
mod house;
mod reads;
mod slow;
