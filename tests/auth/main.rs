//! Who is let in, to what, and for how long: the real binary, real sockets, real files of keys.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod command;
mod exposure;
mod house;
mod refusals;
mod rotation;
mod secrecy;
mod sessions;

use common::jwt;
