//! What an operator sees: the log, the metrics, and the files that are made of them.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod deploy;
mod docs;
mod endings;
mod exposition;
mod health;
mod logs;
mod promql;

use common::cell;
use common::redis::{Cluster, Redis};
use exposition::Scrape;
use std::fs;
use std::path::PathBuf;

/// A file of the repository.
fn repository(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a server says that has had every kind of traffic that brings a metric: a channel in use, one that is corrupt, another
/// node.
fn used_scrape() -> Scrape {
    let redis = Redis::start();
    let cluster = Cluster::new("sqlite", &redis);
    let (server, _other) = (cluster.start("a"), cluster.start("b"));
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    client.update(1, &[cell("k", "c", "v", 1)]);
    other.recv_type("update");
    assert_eq!(other.pull_rows(0).len(), 1);
    fs::write(server.data.join("bad.db"), [b'x'; 8192]).unwrap();
    server.expect_unavailable("bad");
    server.wait_for_metric("bus_nodes", 1);
    // A channel is shown while somebody is connected to it.
    Scrape::of(&server)
}
