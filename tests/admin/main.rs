//! Looking inside a store, removing channels and making tables anew, by the command line and over HTTP, while the server runs and
//! while it does not.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod check_config;
mod delete;
mod http;
mod look;
mod operators;
mod rebuild;
mod unfit;

use common::{Place, Server};
use serde_json::Value;

/// The lines of one kind.
pub(crate) fn of_kind<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["line"] == kind).collect()
}

/// Runs a check while the server runs, and again when it does not.
pub(crate) fn twice(place: &Place, server: Server, check: impl Fn(&Place, bool)) {
    check(place, true);
    server.stop();
    check(place, false);
}
